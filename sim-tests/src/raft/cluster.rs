//! What surrounds the machines of a group: bonds, disks, discovery, applications, and eyes.

use std::collections::BTreeSet;
use std::time::Duration;

use smalti_core::id::{GroupId, PeerId};
use smalti_core::protocol::raft::{
    AppendOutcome, CallOutcome, Config, Entry, Envelope, Event, FoundingRule, Identity,
    Incarnation, Input, LeadershipPreference, Member, Message, Output, Payload, Raft, ReadError,
    Rejection, StopReason, StorageClass, StorageError, Superseded, Surroundings, Verdict,
};
use smalti_core::unique_id;
use smalti_sim::NodeIndex;
use smalti_sim::bare::{Context, Environment, World};
use smalti_sim::faults::Fault;
use smalti_sim::rng::Streams;
use smalti_sim::time::SimTime;

use super::clients::{Ack, Clients, Workload};
use super::digests;
use super::disk::{Disk, Progress};
use super::driven::Driven;
use super::ledger::{Ledger, Life};
use super::network::{BondRules, Bonding, Network, Parcel};
use super::peers;
use super::rare;
use super::reforms::{self, Words};
use super::registers::Registers;
use super::set_backs::Stores;
use super::watch::{Watch, Watched, check_ack};
use crate::Coverage;

/// What the environment works with.
pub(super) type Ctx = Context<Input, Scheduled>;

/// Members in their environment.
pub(super) type Group = World<Driven, Cluster>;

/// What the environment schedules for itself.
#[derive(Debug)]
pub(super) enum Scheduled {
    /// A message arrives.
    Arrived(Parcel),
    /// A bond has been made at one end.
    Bonded(Bonding),
    /// A sync of a node's disk is over: in which of its lives it began, and its number.
    Synced(NodeIndex, u32, u64),
    /// The application of a node does something.
    Client(NodeIndex),
    /// The node leaves the group.
    Leave(NodeIndex),
    /// An operator has the group go on from what is left.
    Order(NodeIndex),
    /// A copy of the node's store is made.
    CopyStore(NodeIndex),
    /// The node's store is set back to the copy.
    SetBack(NodeIndex),
    /// Bonds and discovery are looked at.
    Look,
}

/// How often bonds and discovery are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What all of a run is made with.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) nodes: u32,
    pub(super) config: Config,
    pub(super) preferences: Vec<LeadershipPreference>,
    pub(super) bonds: BondRules,
    pub(super) workload: Workload,
    /// How long a disk takes: at least, at most.
    pub(super) disk: (Duration, Duration),
    pub(super) is_canonical: bool,
    pub(super) chunk_len: usize,
    /// How long a node's driver collects inputs before it takes outputs; zero: not at all.
    pub(super) collects: Duration,
    /// Whether nodes that are cut off know all the same that the group has been founded.
    pub(super) told_of_founding: bool,
    /// Until when the applications ask for something.
    pub(super) until: SimTime,
}

/// The environment.
pub(super) struct Cluster {
    pub(super) setup: Setup,
    network: Network,
    pub(super) disks: Vec<Disk>,
    pub(super) watches: Vec<Watch>,
    pub(super) clients: Clients,
    pub(super) ledger: Ledger,
    pub(super) coverage: Coverage,
    surroundings: Vec<Surroundings>,
    /// Peers that were told to leave.
    leaving: BTreeSet<PeerId>,
    /// Who has given which word on a reform.
    words: Words,
    pub(super) stores: Stores,
    /// Acknowledgements of a step in which the node crashed.
    unchecked: Vec<Ack>,
}

impl Cluster {
    pub(super) fn new(streams: &Streams, setup: Setup) -> Self {
        let nodes = setup.nodes;
        let disk = |node| {
            let rng = streams.stream(&format!("disk of node {node}"));
            Disk::new(setup.config.storage, setup.disk, rng)
        };
        Self {
            network: Network::new(nodes, setup.bonds, streams.stream("bonds")),
            disks: (0..nodes).map(disk).collect(),
            watches: (0..nodes).map(|_| Watch::new()).collect(),
            clients: Clients::new(streams, nodes, setup.workload, setup.until),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            surroundings: vec![Surroundings::default(); nodes as usize],
            leaving: BTreeSet::new(),
            words: Words::default(),
            stores: Stores::default(),
            unchecked: Vec::new(),
            setup,
        }
    }

    /// Schedules the first of what comes again and again.
    pub(super) fn begin(&self, clients_at: SimTime, ctx: &mut Ctx) {
        ctx.schedule(SimTime::ZERO, Scheduled::Look);
        self.clients.begin(clients_at, ctx);
    }

    pub(super) fn config(&self) -> &Config {
        &self.setup.config
    }

    /// Nodes that were told to leave.
    pub(super) fn is_leaving(&self, node: NodeIndex) -> bool {
        self.leaving.contains(&peers::peer(node))
    }

    /// Nodes that are up, and whose machines have not stopped.
    pub(super) fn live<T>(&self, ctx: &Context<Input, T>) -> Vec<NodeIndex> {
        let nodes = (0..self.setup.nodes).map(NodeIndex);
        let live = nodes.filter(|node| ctx.is_up(*node) && !self.watches[node.0 as usize].stopped);
        live.collect()
    }

    /// What can only be said once the run is over; the incarnations that `went_on` have had time to apply all
    /// that they had committed.
    pub(super) fn close(&mut self, went_on: &BTreeSet<Incarnation>) {
        for ack in std::mem::take(&mut self.unchecked) {
            // Who crashed may have been the only one that had applied it, in an incarnation that has ended.
            let command = self.clients.calls[ack.call.0 as usize].command;
            let life = self.ledger.find(&ack.version.incarnation);
            let is_seen = life.is_some_and(|life| life.effect_of(command.id).is_some());
            if is_seen || went_on.contains(&ack.version.incarnation) {
                check_ack(&ack, &self.clients, &mut self.ledger);
            }
        }
        let lives = self.ledger.lives();
        let all_went_on = lives.iter().all(|life| went_on.contains(&life.incarnation));
        for call in &self.clients.calls {
            let is_done = matches!(call.end, super::clients::End::OutputLost(_));
            let id = call.command.id;
            if is_done && all_went_on && !lives.iter().any(|life| life.effect_of(id).is_some()) {
                panic!("{call:?} was acknowledged, and nobody has applied it");
            }
        }
        self.ledger.heavier_ones_stay();
        for life in lives {
            self.coverage.reach_times(rare::RESENT, life.resent());
        }
        if lives.len() > 1 {
            self.coverage.reach(rare::FOUNDED_AGAIN);
        }
        for call in &self.clients.calls {
            if call.end != super::clients::End::Never {
                continue;
            }
            let mut effects = lives
                .iter()
                .filter_map(|life| life.effect_of(call.command.id));
            if let Some((index, _)) = effects.next() {
                panic!("{call:?} was given up or refused, and applied at {index}");
            }
        }
    }

    fn look(&mut self, ctx: &mut Ctx) {
        self.look_at_bonds(ctx);
        for node in (0..self.setup.nodes).map(NodeIndex) {
            if !ctx.is_up(node) {
                continue;
            }
            let around = self.around(node, ctx);
            if around != self.surroundings[node.0 as usize] {
                self.surroundings[node.0 as usize] = around;
                ctx.deliver(node, Input::Surroundings(around));
            }
        }
    }

    fn look_at_bonds(&mut self, ctx: &mut Ctx) {
        let watches = &self.watches;
        let has_stopped = |node: NodeIndex| watches[node.0 as usize].stopped;
        self.network.look(has_stopped, ctx);
    }

    /// What discovery tells `node`.
    fn around(&self, node: NodeIndex, ctx: &mut Ctx) -> Surroundings {
        let mut around = Surroundings::default();
        for other in (0..self.setup.nodes).map(NodeIndex) {
            if other == node || !ctx.is_up(other) {
                continue;
            }
            let is_cut = ctx.faults().is_cut(other, node);
            let watch = &self.watches[other.0 as usize];
            if watch.incarnation.is_some() && !watch.left {
                around.is_founded |= !is_cut || self.setup.told_of_founding;
            } else {
                around.incomplete |= !self.network.is_bonded(node, other);
            }
        }
        around
    }

    fn disk_progress(&mut self, node: NodeIndex, progress: Progress, ctx: &mut Ctx) {
        let sync = |delay, number, ctx: &mut Ctx| {
            let life = ctx.life(node);
            ctx.schedule(ctx.now() + delay, Scheduled::Synced(node, life, number));
        };
        let told = match progress {
            Progress::Waits => return,
            Progress::Syncs(delay, number) => return sync(delay, number, ctx),
            Progress::Tells(input) => input,
            Progress::TellsAndSyncs(input, delay, number) => {
                sync(delay, number, ctx);
                input
            }
        };
        match &told {
            Input::PersistFailed(StorageError::Full { .. }) => self.coverage.reach(rare::DISK_FULL),
            Input::PersistFailed(_) => self.coverage.reach(rare::SYNC_FAILED),
            _ => {}
        }
        ctx.deliver(node, told);
    }

    /// Looks at a message before it is sent.
    fn sends(&mut self, node: NodeIndex, to: NodeIndex, envelope: &Envelope, life: u32) {
        self.stores.says(node, envelope.run);
        let disk = &self.disks[node.0 as usize];
        let hard_state = disk.image.hard_state.as_ref().filter(|_| disk.is_durable());
        let voter = Member {
            peer: peers::peer(node),
            instance: envelope.from,
        };
        if let Some(instance) = envelope.to {
            let peer = peers::peer(to);
            let evidence = &mut self.watches[node.0 as usize].evidence;
            evidence.sends(envelope.from, Member { peer, instance }, &envelope.message);
        }
        self.words.says(voter, envelope, &self.ledger);
        match &envelope.message {
            Message::Append(append) if disk.is_durable() => {
                grows_in_secret(node, &append.entries, disk);
            }
            Message::Manifest(Some(manifest)) if self.setup.is_canonical => {
                let place = self.ledger.place(manifest.incarnation);
                self.ledger.life(place).snapshot(manifest);
            }
            Message::RequestVote(candidacy) => {
                // Who stands has voted for itself, and asks only once that is durable.
                if let Some(incarnation) = envelope.incarnation
                    && !self.stores.has_forgotten(&voter)
                {
                    let place = self.ledger.place(incarnation);
                    let group = self.ledger.life(place);
                    group.votes(candidacy.term, voter, voter, life);
                }
            }
            Message::VoteReply {
                term,
                pre: false,
                verdict,
                ..
            } => {
                let Some(instance) = envelope.to else {
                    return;
                };
                let candidate = Member {
                    peer: peers::peer(to),
                    instance,
                };
                let Some(incarnation) = envelope.incarnation else {
                    return;
                };
                let place = self.ledger.place(incarnation);
                let group = self.ledger.life(place);
                if *verdict != Verdict::Granted {
                    if group.has_voted_before(*term, voter, candidate, life) {
                        self.coverage.reach(rare::VOTE_REMEMBERED);
                    }
                    return;
                }
                if !self.stores.has_forgotten(&voter) {
                    group.votes(*term, voter, candidate, life);
                }
                if disk.is_durable() {
                    let is_durable = hard_state.is_some_and(|state| {
                        state.term > *term || state.term == *term && state.vote == Some(candidate)
                    });
                    assert!(
                        is_durable,
                        "{node} sends a vote for term {term} that is not durable"
                    );
                }
            }
            Message::VoteReply {
                pre: true,
                verdict: Verdict::Refused,
                ..
            } => self.coverage.reach(rare::PRE_VOTE_REFUSED),
            Message::AppendReply(reply) => {
                if let AppendOutcome::Matched(index) = reply.outcome
                    && disk.is_durable()
                {
                    let is_durable = disk.image.last() >= index
                        || hard_state.is_some_and(|state| state.term > reply.term);
                    assert!(
                        is_durable,
                        "{node} acknowledges {index}, and its disk has the log up to {}",
                        disk.image.last()
                    );
                }
            }
            Message::TimeoutNow { term } => {
                self.watches[to.0 as usize].handed_over = Some(*term);
            }
            Message::Fetched { entries, .. }
                if !entries.is_empty() && !self.watches[node.0 as usize].leads() =>
            {
                self.coverage.reach(rare::SERVED_BY_FOLLOWER);
            }
            Message::FetchChunk { .. } => {
                self.watches[node.0 as usize].fetches_from = Some(to);
            }
            _ => {}
        }
    }

    fn event_of(&mut self, node: NodeIndex, event: &Event) {
        match event {
            Event::Restored(_) => {
                self.watches[node.0 as usize].fetches_from = None;
                self.coverage.reach(rare::RESTORED);
            }
            Event::Voting(true) => {
                self.coverage.reach(rare::PROMOTED);
                let me = self.watches[node.0 as usize].me;
                if me.is_some_and(|me| self.stores.has_forgotten(&me)) {
                    self.coverage.reach(rare::SET_BACK_COUNTED);
                }
            }
            Event::Voting(false) => self.coverage.reach(rare::DEMOTED),
            Event::LeftFounding(_) => self.coverage.reach(rare::LEFT_FOUNDING),
            Event::Superseded(given_up) => self.superseded(node, given_up),
            Event::Stalled(_) => self.coverage.reach(rare::STALLED),
            Event::Reformed(reformed) => {
                let (watches, disks) = (&self.watches, &self.disks);
                let (ledger, coverage) = (&mut self.ledger, &mut self.coverage);
                reforms::reformed(
                    node,
                    reformed,
                    watches,
                    disks,
                    &self.words,
                    ledger,
                    coverage,
                );
            }
            _ => {}
        }
    }

    fn superseded(&mut self, node: NodeIndex, given_up: &Superseded) {
        let Superseded {
            version,
            commands,
            commands_in_all,
            ..
        } = given_up;
        self.coverage.reach(rare::SUPERSEDED);
        if *commands > 0 {
            self.coverage.reach(rare::SUPERSEDED_WITH_DATA);
        }
        if commands < commands_in_all {
            self.coverage.reach(rare::SUPERSEDED_EARLY);
        }
        // With more than half of all members that there will ever be, and none that forgets what it has
        // accepted, two foundings never both acknowledge.
        let of = given_up.version.incarnation;
        let is_fork =
            self.ledger.descends(&of, &given_up.into) || self.ledger.descends(&given_up.into, &of);
        if is_fork {
            self.coverage.reach(rare::FORK_MET);
        }
        // What goes on without the others' consent is one more.
        let is_reformed = |life: &Life| life.parentage.is_some();
        let was_reformed = self.ledger.lives().iter().any(is_reformed);
        let is_one = match self.setup.config.founding {
            FoundingRule::Any => false,
            FoundingRule::Expect(expected) => 2 * expected > self.setup.nodes,
        };
        assert!(
            was_reformed
                || !is_one
                || self.setup.config.storage == StorageClass::Volatile
                || *commands_in_all == 0,
            "{node} gives up {version:?} with {commands_in_all} commands, and {:?} were expected of {}",
            self.setup.config.founding,
            self.setup.nodes
        );
    }

    fn stopped(&mut self, node: NodeIndex, reason: &StopReason) {
        let watch = &mut self.watches[node.0 as usize];
        watch.stopped = true;
        match reason {
            StopReason::Left => {
                watch.left = true;
                self.disks[node.0 as usize].forget();
                self.coverage.reach(rare::LEFT_GROUP);
            }
            StopReason::Storage(_) => {
                assert!(
                    self.disks[node.0 as usize].has_failed(),
                    "{node} stops for its disk, which has not failed"
                );
            }
            StopReason::Snapshot(cause) => panic!("{node} cannot read a snapshot: {cause}"),
        }
    }

    fn crashed(&mut self, node: NodeIndex) {
        let number = node.0 as usize;
        if self.disks[number].is_durable() && self.disks[number].is_writing() {
            self.coverage.reach(rare::CRASHED_UNSYNCED);
        }
        if self.disks[number].crash() > 0 {
            self.coverage.reach(rare::WRITES_LOST);
        }
        self.unchecked.append(&mut self.watches[number].acks);
        self.watches[number] = self.watches[number].of_next_run();
        self.words.forgets(&peers::peer(node));
        let mut watches = self.watches.iter();
        if watches.any(|watch| watch.fetches_from == Some(node)) {
            self.coverage.reach(rare::SOURCE_LOST);
        }
        self.surroundings[number] = Surroundings::default();
        self.network.forget(node);
        self.clients.crashed(node);
    }
}

/// Who is told that it votes beside a sole voter is told once that is on the sole voter's disk: without it
/// that one would lead alone again, beside the others.
fn grows_in_secret(node: NodeIndex, entries: &[Entry], disk: &Disk) {
    let changes = entries.iter().filter(
        |entry| matches!(&entry.payload, Payload::Configuration(of) if of.voters.len() > 1),
    );
    for entry in changes {
        assert!(
            disk.image.has(entry.index, entry.term) || disk.image.voters() != 1,
            "{node} tells others of {entry:?}, and on its disk it votes alone"
        );
    }
}

/// Whether a machine that has stopped may still say this.
fn is_last_word(output: &Output) -> bool {
    match output {
        Output::Completed(_, outcome) => matches!(
            outcome,
            CallOutcome::Rejected(Rejection::Stopped) | CallOutcome::Unknown | CallOutcome::GivenUp
        ),
        Output::ReadFailed(_, error) => *error == ReadError::Stopped,
        _ => false,
    }
}

impl Environment<Driven> for Cluster {
    type Event = Scheduled;

    fn start(&mut self, node: NodeIndex, life: u32, ctx: &mut Ctx) -> Driven {
        let number = node.0 as usize;
        self.clients.started(node, life);
        let recovered = self.disks[number].recovered();
        self.watches[number] = self.watches[number].of_next_run();
        let identity = Identity {
            group: GROUP,
            peer: peers::peer(node),
            preference: self.setup.preferences[number],
        };
        let registers = Registers::new(self.setup.is_canonical, self.setup.chunk_len);
        let rng = ctx.streams_of(node).stream("raft");
        let now = ctx.monotonic(node);
        let config = self.setup.config.clone();
        let machine = Raft::new(now, identity, config, recovered, registers, rng);
        let machine = machine.expect("what a disk gives back is what was written");
        Driven::new(machine, self.setup.collects)
    }

    fn output(&mut self, node: NodeIndex, output: Output, ctx: &mut Ctx) {
        let number = node.0 as usize;
        assert!(
            !self.watches[number].stopped || is_last_word(&output),
            "{node} has stopped, and wants {output:?}"
        );
        match output {
            Output::Send(peer, envelope) => {
                let to = peers::node(&peer);
                self.sends(node, to, &envelope, ctx.life(node));
                self.network.send(node, to, envelope, ctx);
            }
            Output::Persist(id, write) => {
                if let Some(manifest) = write.snapshot.as_ref()
                    && self.setup.is_canonical
                {
                    let place = self.ledger.place(manifest.incarnation);
                    self.ledger.life(place).snapshot(manifest);
                }
                let progress = self.disks[number].write(id, *write);
                self.disk_progress(node, progress, ctx);
            }
            Output::Event(event) => self.event_of(node, &event),
            Output::Completed(..) | Output::Applied(..) => {
                for (call, outcome) in output.completions() {
                    let stopped = self.watches[number].stopped;
                    let (now, coverage) = (ctx.now(), &mut self.coverage);
                    let clients = &mut self.clients;
                    clients.completed(node, call, &outcome, stopped, now, coverage);
                    if let CallOutcome::Applied { version, output } = outcome {
                        assert!(
                            self.ledger.goes_on_with(&version),
                            "{node} acknowledges {call:?} in {}, which was proved to be over",
                            version.incarnation
                        );
                        self.watches[number].acks.push(Ack {
                            call,
                            version,
                            output,
                        });
                    }
                }
            }
            Output::ReadReady(read, version) => {
                let watch = &mut self.watches[number];
                watch.reads.push((read, version));
                if let Some(me) = watch.me {
                    watch.evidence.reads(me, read);
                }
            }
            Output::ReadFailed(read, error) => {
                self.clients
                    .read_failed(node, read, error, &mut self.coverage);
            }
            Output::Overstepped(_) => unreachable!("all prove that they may write"),
            Output::Stopped(reason) => self.stopped(node, &reason),
        }
    }

    fn event(&mut self, event: Scheduled, ctx: &mut Ctx) {
        match event {
            Scheduled::Arrived(parcel) => self.network.arrived(parcel, ctx),
            Scheduled::Bonded(bonding) => {
                self.network.bonded(bonding, ctx);
            }
            Scheduled::Synced(node, life, sync) => {
                if ctx.life(node) == life {
                    let progress = self.disks[node.0 as usize].synced(sync);
                    self.disk_progress(node, progress, ctx);
                }
            }
            Scheduled::Client(node) => {
                let watch = &self.watches[node.0 as usize];
                // A node whose machine has stopped asks nothing; its application goes on with the node.
                let leads = watch.leads();
                if let Some(next) = self.clients.act(node, leads, &self.ledger, ctx) {
                    ctx.schedule(next, Scheduled::Client(node));
                }
            }
            Scheduled::Leave(node) => {
                if ctx.is_up(node) {
                    self.leaving.insert(peers::peer(node));
                    ctx.deliver(node, Input::Leave);
                }
            }
            Scheduled::Order(node) => {
                if ctx.is_up(node) {
                    ctx.deliver(node, Input::Reform);
                }
            }
            Scheduled::CopyStore(node) => self.copy_store(node, ctx),
            Scheduled::SetBack(node) => self.set_back(node, ctx),
            Scheduled::Look => {
                self.look(ctx);
                ctx.schedule(ctx.now() + LOOK_EVERY, Scheduled::Look);
            }
        }
    }

    fn fault(&mut self, fault: &Fault, ctx: &mut Ctx) {
        let disk = |node: &NodeIndex| node.0 as usize;
        match fault {
            Fault::Crash(node) => self.crashed(*node),
            Fault::FailSync(node) => self.disks[disk(node)].fail_next_sync(),
            Fault::SlowDisk(node, times) => self.disks[disk(node)].slow_down(*times),
            Fault::FillDisk(node) => self.disks[disk(node)].fill(true),
            Fault::FreeDisk(node) => self.disks[disk(node)].fill(false),
            Fault::Links(_) => self.network.hurry(),
            Fault::Mend(..)
            | Fault::Repair(..)
            | Fault::EndCut(..)
            | Fault::EndPartition(..)
            | Fault::RepairAll
            | Fault::Restart(_) => self.look_at_bonds(ctx),
            _ => {}
        }
    }

    fn stepped(&mut self, node: NodeIndex, machine: &Driven, ctx: &mut Ctx) {
        if machine.is_collecting() {
            return;
        }
        Watched {
            node,
            now: ctx.now(),
            life: ctx.life(node),
            watches: &mut self.watches,
            disks: &self.disks,
            stores: &self.stores,
            ledger: &mut self.ledger,
            clients: &mut self.clients,
            leaving: &self.leaving,
            coverage: &mut self.coverage,
        }
        .step(machine);
    }

    fn digest(input: &Input) -> u64 {
        digests::of_input(input)
    }

    fn describe(input: &Input) -> String {
        format!("{input:?}")
    }
}

/// The group that all nodes are in.
const GROUP: GroupId = unique_id!("raft scenarios");
