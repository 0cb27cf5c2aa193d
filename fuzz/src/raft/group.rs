//! The members of a group, their disks, their bonds and what is on its way between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smalti_core::id::{Digest, GroupId, Instance, PeerId};
use smalti_core::protocol::Machine as _;
use smalti_core::protocol::raft::{
    AppendOutcome, CallId, CommandsBuilder, Config, Configuration, Entry, Envelope, Event,
    FoundingRule, HardState, Identity, Incarnation, Index, Input, LeadershipPreference, Member,
    Message, Output, Raft, ReadId, Run, StopReason, StorageClass, StorageError, StoreImage,
    Verdict, Version, Write, WriteId,
};
use smalti_core::time::{Duration, Instant};

use super::ledger::{Ledger, Machine, Seen};
use super::registers::{Registers, Rules, command};

/// Messages on their way; above, the oldest are lost.
const MESSAGES_MAX: usize = 512;
/// Outputs that may follow from one input: appends to few members, what waited for the disk, and the calls
/// and reads that end with the machine.
const OUTPUTS_MAX: usize = 4_096;
/// Calls of `handle_timeout` without time moving on.
const TIMEOUTS_MAX: usize = 8;

/// How a group is run.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) preferences: Vec<LeadershipPreference>,
    pub(super) rules: Rules,
}

/// A message on its way.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) envelope: Envelope,
}

/// One node.
#[derive(Default)]
pub(super) struct Node {
    /// `None` while it is down.
    pub(super) machine: Option<Machine>,
    image: StoreImage,
    hard_state: Option<HardState>,
    /// Writes that are not durable yet.
    writes: VecDeque<(WriteId, Write)>,
    last_write: WriteId,
    bonds: BTreeSet<usize>,
    lives: u8,
    has_left: bool,
    seen: Seen,
    /// The voters in force when it was last looked at.
    configuration: Configuration,
    calls: BTreeSet<CallId>,
    /// Each with what had been acknowledged when it was asked for.
    reads: BTreeMap<ReadId, BTreeMap<Incarnation, Index>>,
    /// What it last said of itself.
    pub(super) header: Option<(Instance, Run, Option<Incarnation>)>,
}

/// The group.
pub(super) struct Group {
    pub(super) setup: Setup,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) wire: VecDeque<Parcel>,
    ledger: Ledger,
    last_call: u32,
    last_read: u64,
}

/// The id of a node.
pub(super) const fn peer(node: usize) -> PeerId {
    PeerId::from_bytes([node as u8 + 1; 32])
}

fn node_of(peer: &PeerId) -> usize {
    usize::from(peer.as_bytes()[0]) - 1
}

impl Node {
    fn is_bonded(&self, other: usize) -> bool {
        self.machine.is_some() && self.bonds.contains(&other)
    }

    /// Makes the first `count` writes durable. Gives the last of them.
    fn carry_out(&mut self, count: usize) -> Option<WriteId> {
        let count = count.min(self.writes.len());
        let mut last = None;
        for (id, write) in self.writes.drain(..count) {
            self.hard_state = write.hard_state.or(self.hard_state);
            let carried_out = self.image.carry_out(write);
            assert!(carried_out.is_ok(), "{id:?}: {carried_out:?}");
            last = Some(id);
        }
        last
    }

    /// Where the log ends on its disk.
    fn durable_last(&self) -> Index {
        let outline = self.image.outline();
        let logged = outline.log().map(|(_, last)| last);
        logged.max(outline.snapshot()).unwrap_or_default()
    }

    fn has_on_disk(&self, voter: &Member, entry: &Entry) -> bool {
        let is_same = self.hard_state.map(|state| state.instance) == Some(voter.instance);
        let covered = self.image.outline().snapshot().unwrap_or_default();
        is_same && (entry.index <= covered || self.image.entry(entry.index) == Some(entry))
    }
}

impl Group {
    /// Nodes that are up and have bonds with each other.
    pub(super) fn new(setup: Setup) -> Self {
        let count = setup.preferences.len();
        let mut group = Self {
            setup,
            now: Instant::ZERO,
            nodes: (0..count).map(|_| Node::default()).collect(),
            wire: VecDeque::new(),
            ledger: Ledger::default(),
            last_call: 0,
            last_read: 0,
        };
        for node in 0..count {
            group.start(node);
        }
        for node in 0..count {
            for other in (0..count).filter(|other| *other != node) {
                group.bond(node, other);
            }
        }
        group
    }

    fn is_durable(&self) -> bool {
        self.setup.config.storage == StorageClass::Durable
    }

    // ---- Nodes ----

    /// Starts a node that is down, unless it has left the group for good.
    pub(super) fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.machine.is_some() || node.has_left {
            return;
        }
        node.lives = node.lives.wrapping_add(1);
        let identity = Identity {
            group: GroupId::from("fuzz"),
            peer: peer(number),
            preference: self.setup.preferences[number],
        };
        let seed = Digest::of("raft", &[&[number as u8, node.lives]]);
        let recovered = node.image.recovered();
        let has_log = recovered
            .as_ref()
            .is_some_and(|found| found.hard_state.incarnation.is_some());
        let machine = Raft::new(
            self.now,
            identity,
            self.setup.config.clone(),
            recovered,
            Registers::new(self.setup.rules),
            ChaCha8Rng::from_seed(*seed.as_bytes()),
        );
        let machine = machine.expect("what a disk gives back is what was written");
        let last = machine.status().last.index;
        assert!(
            !has_log || last == node.durable_last(),
            "the log ends at {last}, on the disk at {}",
            node.durable_last()
        );
        node.machine = Some(machine);
        node.seen = Seen::default();
        node.configuration = Configuration::default();
        self.drain(number);
    }

    /// The node goes down; the first `kept` of the writes that are not durable survive.
    pub(super) fn crash(&mut self, number: usize, kept: usize) {
        let node = &mut self.nodes[number];
        if node.machine.take().is_none() {
            return;
        }
        node.carry_out(kept);
        node.writes.clear();
        node.image.forget_staged();
        node.last_write = WriteId(0);
        node.bonds.clear();
        node.calls.clear();
        node.reads.clear();
    }

    pub(super) fn bond(&mut self, number: usize, other: usize) {
        let is_up = self.nodes[number].machine.is_some() && self.nodes[other].machine.is_some();
        if number != other && is_up {
            self.nodes[number].bonds.insert(other);
            self.handle(number, Input::Bonded(peer(other)));
        }
    }

    pub(super) fn unbond(&mut self, number: usize, other: usize) {
        if self.nodes[number].bonds.remove(&other) {
            self.handle(number, Input::Unbonded(peer(other)));
        }
    }

    // ---- Disks ----

    /// The first `count` writes of a node become durable, and it is told.
    pub(super) fn complete(&mut self, number: usize, count: usize) {
        if let Some(last) = self.nodes[number].carry_out(count) {
            self.handle(number, Input::Persisted(last));
        }
    }

    /// A write of a node fails; the first `kept` of them are there all the same.
    pub(super) fn fail(&mut self, number: usize, kept: usize) {
        let node = &mut self.nodes[number];
        if !node.writes.is_empty() {
            node.carry_out(kept);
            node.writes.clear();
            let doing = "writing";
            let error = StorageError::Full { doing };
            self.handle(number, Input::PersistFailed(error));
        }
    }

    // ---- Time ----

    /// Does what is due at a node.
    pub(super) fn fire(&mut self, number: usize) {
        for _ in 0..TIMEOUTS_MAX {
            let Some(machine) = &mut self.nodes[number].machine else {
                return;
            };
            if machine.poll_timeout().is_none_or(|(at, _)| at > self.now) {
                return;
            }
            machine.handle_timeout(self.now);
            self.drain(number);
        }
        let due = self.nodes[number].machine.as_ref();
        let due = due.and_then(smalti_core::protocol::Machine::poll_timeout);
        assert!(
            due.is_none_or(|(at, _)| at > self.now),
            "at {:?} {due:?} is due again and again",
            self.now
        );
    }

    /// The node that is due first.
    pub(super) fn due(&self) -> Option<(Instant, usize)> {
        let due = self.nodes.iter().enumerate().filter_map(|(number, node)| {
            let (at, _) = node.machine.as_ref()?.poll_timeout()?;
            Some((at, number))
        });
        due.min()
    }

    /// Goes on without faults: a message, else what the disks have to do, else what is due next. Gives
    /// whether there was something.
    pub(super) fn go_on(&mut self) -> bool {
        if let Some(parcel) = self.wire.pop_front() {
            self.deliver(parcel);
        } else if let Some(number) = self.nodes.iter().position(|it| !it.writes.is_empty()) {
            self.complete(number, usize::MAX);
        } else if let Some((at, number)) = self.due() {
            self.now = self.now.max(at);
            self.fire(number);
        } else {
            return false;
        }
        true
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    // ---- Applications ----

    pub(super) fn execute(&mut self, number: usize) {
        if self.nodes[number].machine.is_some() {
            self.last_call += 1;
            let call = CallId(u64::from(self.last_call));
            self.nodes[number].calls.insert(call);
            self.handle(number, Input::Execute(call, command(self.last_call)));
        }
    }

    /// Hands over so many commands at once.
    pub(super) fn execute_many(&mut self, number: usize, count: usize) {
        if self.nodes[number].machine.is_some() {
            let first = CallId(u64::from(self.last_call) + 1);
            let mut commands = CommandsBuilder::default();
            for _ in 0..count {
                self.last_call += 1;
                let call = CallId(u64::from(self.last_call));
                self.nodes[number].calls.insert(call);
                commands.push(&command(self.last_call));
            }
            self.handle(number, Input::ExecuteMany(first, commands.take()));
        }
    }

    /// Gives up one of the calls of a node.
    pub(super) fn give_up(&mut self, number: usize, which: usize) {
        let calls = &self.nodes[number].calls;
        if let Some(call) = calls.iter().nth(which % calls.len().max(1)).copied() {
            self.handle(number, Input::GiveUp(call));
        }
    }

    pub(super) fn read(&mut self, number: usize) {
        if self.nodes[number].machine.is_some() {
            self.last_read += 1;
            let read = ReadId(self.last_read);
            let acked = self.ledger.acked();
            self.nodes[number].reads.insert(read, acked);
            self.handle(number, Input::Read(read));
        }
    }

    // ---- Steps ----

    /// Hands a message over, if there is a bond at both ends.
    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let Parcel { from, to, envelope } = parcel;
        if self.nodes[to].is_bonded(from) {
            self.handle(to, Input::Message(peer(from), envelope));
        }
    }

    pub(super) fn handle(&mut self, number: usize, input: Input) {
        if let Some(machine) = &mut self.nodes[number].machine {
            machine.handle(self.now, input);
            self.drain(number);
        }
    }

    fn drain(&mut self, number: usize) {
        let (mut ended, mut ready) = (Vec::new(), Vec::new());
        let mut count = 0;
        while let Some(output) = self.nodes[number]
            .machine
            .as_mut()
            .and_then(smalti_core::protocol::Machine::poll_output)
        {
            count += 1;
            assert!(count <= OUTPUTS_MAX, "one input brings too many outputs");
            let node = &mut self.nodes[number];
            match output {
                Output::Send(to, envelope) => self.send(number, node_of(&to), envelope),
                Output::Persist(id, write) => {
                    assert_eq!(
                        id.0,
                        node.last_write.0 + 1,
                        "writes are numbered without gaps"
                    );
                    node.last_write = id;
                    node.writes.push_back((id, *write));
                }
                Output::Event(Event::Superseded(given_up)) if self.setup.rules.is_honest => {
                    self.ledger.superseded(&given_up);
                }
                Output::Event(_) => {}
                Output::Completed(..) | Output::Applied(..) => {
                    for (call, outcome) in output.completions() {
                        assert!(node.calls.remove(&call), "{call:?} has ended before");
                        ended.push((call.0 as u32, outcome));
                    }
                }
                Output::ReadReady(read, version) => ready.push((read, version)),
                Output::ReadFailed(read, _) => {
                    assert!(
                        node.reads.remove(&read).is_some(),
                        "{read:?} has ended before"
                    );
                }
                Output::Overstepped(_) => unreachable!("all prove that they may write"),
                Output::Stopped(reason) => self.stopped(number, &reason),
            }
        }
        self.look(number);
        for (call, outcome) in ended {
            if self.setup.rules.is_honest {
                self.ledger.completed(call, outcome);
            }
        }
        for (read, version) in ready {
            self.read_ready(number, read, version);
        }
    }

    fn send(&mut self, from: usize, to: usize, envelope: Envelope) {
        if self.setup.rules.is_honest {
            self.check_promise(from, to, &envelope);
        }
        let node = &mut self.nodes[from];
        node.header = Some((envelope.from, envelope.run, envelope.incarnation));
        if node.is_bonded(to) {
            self.post(Parcel { from, to, envelope });
        }
    }

    /// Puts a message on its way.
    pub(super) fn post(&mut self, parcel: Parcel) {
        if self.wire.len() == MESSAGES_MAX {
            self.wire.pop_front();
        }
        self.wire.push_back(parcel);
    }

    /// What is promised is durable, and promised to one alone.
    fn check_promise(&mut self, from: usize, to: usize, envelope: &Envelope) {
        let node = &self.nodes[from];
        let hard_state = node.hard_state.unwrap_or(NOTHING);
        let is_durable = self.setup.config.storage == StorageClass::Durable;
        match &envelope.message {
            Message::VoteReply {
                term,
                pre: false,
                verdict: Verdict::Granted,
                ..
            } => {
                let (Some(to_instance), Some(incarnation)) = (envelope.to, envelope.incarnation)
                else {
                    panic!("{from} votes and knows not for whom: {envelope:?}");
                };
                let member = |node, instance| Member {
                    peer: peer(node),
                    instance,
                };
                let (voter, candidate) = (member(from, envelope.from), member(to, to_instance));
                let is_written = hard_state.term > *term
                    || (hard_state.term == *term && hard_state.vote == Some(candidate));
                assert!(!is_durable || is_written, "a vote is sent and not durable");
                self.ledger.votes(incarnation, *term, voter, candidate);
            }
            Message::AppendReply(reply) => {
                if let AppendOutcome::Matched(index) = reply.outcome {
                    let is_written = hard_state.term > reply.term || node.durable_last() >= index;
                    assert!(
                        !is_durable || is_written,
                        "{index} is acknowledged and not durable"
                    );
                }
            }
            _ => {}
        }
    }

    fn stopped(&mut self, number: usize, reason: &StopReason) {
        let node = &mut self.nodes[number];
        match reason {
            StopReason::Left => {
                node.has_left = true;
                node.writes.clear();
                node.image = StoreImage::default();
                node.hard_state = None;
            }
            StopReason::Storage(_) => {}
            StopReason::Snapshot(cause) => {
                assert!(
                    !self.setup.rules.is_honest,
                    "a snapshot cannot be read: {cause}"
                );
            }
        }
    }

    /// Looks at a member after a step.
    fn look(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(machine) = &node.machine else {
            return;
        };
        if !self.setup.rules.is_honest {
            let status = machine.status();
            let is_ordered = status.applied <= status.commit && status.commit <= status.last.index;
            assert!(is_ordered, "{status:?}");
            return;
        }
        let newest = self.ledger.step(machine, &mut node.seen);
        // A change of voters may follow in the step that commits, which was counted among those before.
        let after = machine.status().configuration.clone();
        let before = std::mem::replace(&mut node.configuration, after.clone());
        if let Some(newest) = newest
            && self.is_durable()
        {
            assert!(
                [before, after].iter().any(|it| self.is_held(it, &newest)),
                "{number} commits {newest:?}, which no majority of the voters has on disk"
            );
        }
    }

    /// Whether a majority of the voters has the entry on disk.
    fn is_held(&self, configuration: &Configuration, entry: &Entry) -> bool {
        let voters = configuration.voters.iter();
        let holders = voters
            .filter(|voter| self.nodes[node_of(&voter.peer)].has_on_disk(voter, entry))
            .count();
        !configuration.voters.is_empty() && holders >= configuration.majority()
    }

    fn read_ready(&mut self, number: usize, read: ReadId, version: Version) {
        let node = &mut self.nodes[number];
        let acked = node.reads.remove(&read);
        let Some(acked) = acked else {
            panic!("{read:?} has ended before");
        };
        if let Some(machine) = &node.machine
            && self.setup.rules.is_honest
        {
            Ledger::read(machine, version, &acked);
        }
    }

    /// What can only be said once the run is over.
    pub(super) fn close(&self) {
        let expects_majority = match self.setup.config.founding {
            FoundingRule::Any => false,
            FoundingRule::Expect(expected) => 2 * expected as usize > self.nodes.len(),
        };
        self.ledger.close(expects_majority && self.is_durable());
    }
}

/// The hard state of a disk without one.
const NOTHING: HardState = HardState {
    instance: Instance::from_bytes([0; 16]),
    boot: 0,
    runs: smalti_core::protocol::raft::Runs::NONE,
    incarnation: None,
    term: smalti_core::protocol::raft::Term::ZERO,
    vote: None,
    seals: [None; 4],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::setup;
    use crate::script::Script;

    const STEPS: usize = 300;

    /// Three durable members, after a command of each.
    fn group() -> Group {
        let mut group = Group::new(setup(&mut Script::new(&[0, 2, 1, 0, 4, 15, 7, 0])));
        go_on(&mut group);
        (0..3).for_each(|node| group.execute(node));
        go_on(&mut group);
        group
    }

    fn go_on(group: &mut Group) {
        for _ in 0..STEPS {
            assert!(group.go_on());
        }
    }

    /// All nodes start again, each with what `change` makes of its disk.
    fn restart(group: &mut Group, change: impl Fn(StoreImage) -> StoreImage) {
        for node in 0..3 {
            group.crash(node, usize::MAX);
            let image = std::mem::take(&mut group.nodes[node].image);
            group.nodes[node].image = change(image);
        }
        (0..3).for_each(|node| group.start(node));
        for (node, other) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            group.bond(node, other);
        }
        go_on(group);
    }

    #[test]
    fn a_group_without_faults_acknowledges_and_goes_on_after_a_restart() {
        let mut group = group();
        let acked = group.ledger.acked();
        assert!(acked.values().any(|index| *index > Index(1)), "{acked:?}");
        assert!(group.nodes.iter().all(|node| node.calls.is_empty()));
        restart(&mut group, |image| image);
        group.execute(1);
        go_on(&mut group);
        assert!(acked < group.ledger.acked());
        assert!(group.nodes.iter().all(|node| node.calls.is_empty()));
        group.close();
    }

    #[test]
    #[should_panic(expected = "leader completeness")]
    fn disks_that_forget_what_was_committed_are_found() {
        restart(&mut group(), |image| {
            let mut found = image.recovered().expect("it has a hard state");
            found.entries.truncate(1);
            found.into()
        });
    }
}
