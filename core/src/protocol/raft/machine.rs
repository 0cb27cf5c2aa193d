//! The machine: it owns the parts, and carries to each what concerns it.

mod catching_up;
mod reform;
mod snapshots;

use std::cell::Cell;

use rand_chacha::ChaCha8Rng;

use self::reform::Following;
use super::asking::Asking;
use super::catch_up::{CatchUp, SnapshotShelf, fetch};
use super::client::{Client, Ended};
use super::config::{Config, LeadershipPreference};
use super::core::{Core, State};
use super::entry::{Batch, Commands, Entry, Owner, Payload};
use super::io::{
    CallId, CallOutcome, Event, Input, Output, ReadError, ReadId, Rejection, StopReason,
    Superseded, WriteId,
};
use super::messages::{Envelope, Message};
use super::readers;
use super::reads::Reader;
use super::replica::Replica;
use super::saving::Saving;
use super::standing::Seal;
use super::state::{RestoreError, StateMachine};
use super::status::{Role, Status};
use super::store::Recovered;
use super::types::{Index, Member, Run, TERM_MAX, Version};
use crate::id::{GroupId, PeerId};
use crate::protocol::Machine;
use crate::protocol::mutant;
use crate::time::Instant;

/// Entries that a leader has not committed yet, at most: what comes above is left to be sent again.
const UNCOMMITTED_MAX: u64 = 65_536;
/// Their bytes, at most, but for the last of them.
const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Full scans of the invariants run once in so many calls.
const FULL_CHECK_EVERY: u32 = 1_024;

/// Who a member is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The group.
    pub group: GroupId,
    /// The node.
    pub peer: PeerId,
    /// How eagerly it leads.
    pub preference: LeadershipPreference,
}

/// A member of a group.
///
/// Driven like every [`Machine`], with one freedom more: a driver may hand over several inputs before it
/// drains the outputs. What they have in common, one write and one append to each member, is then made
/// once.
pub struct Raft<S: StateMachine> {
    core: Core,
    replica: Replica<S>,
    client: Client,
    asking: Asking,
    catch_up: Option<CatchUp>,
    /// The snapshot of an incarnation that was reformed from ours, on its way.
    following: Option<Following>,
    shelf: SnapshotShelf,
    saving: Saving,
    /// What the log was cut for the last time by: the lowest index wanted, and the changes of the shelf.
    compacted: (Index, u64),
    now: Instant,
    /// Something was handled since the outputs were last drained.
    is_turn_open: bool,
    checks: Cell<u32>,
}

impl<S: StateMachine> Raft<S> {
    /// A member that starts at `now`, with what its store gave back; `rng` must not be one that an earlier
    /// life of it has had. `state` is the state before any command. `config` is expected to be
    /// [valid](Config::validate).
    ///
    /// # Errors
    /// Where the snapshot that was recovered is not one of this state machine, or the log does not go on
    /// from it.
    pub fn new(
        now: Instant,
        identity: Identity,
        config: Config,
        recovered: Option<Recovered>,
        state: S,
        rng: ChaCha8Rng,
    ) -> Result<Self, RestoreError> {
        if let Some(recovered) = &recovered {
            recovered.check().map_err(RestoreError)?;
        }
        let (storage, forward_timeout) = (config.storage, config.forward_timeout);
        let mut shelf = SnapshotShelf::new(&config);
        let core = Core::new(now, identity, config, recovered.as_ref(), rng);
        let owner = Owner {
            member: core.me,
            run: core.run,
        };
        let mut replica = Replica::new(core.config.clone(), owner, state);
        let mut saved = Index::ZERO;
        if let Some(snapshot) = recovered.and_then(|recovered| recovered.snapshot) {
            let snapshot = std::sync::Arc::new(snapshot);
            replica.install(&snapshot)?;
            saved = snapshot.manifest.position.index;
            shelf.put(now, snapshot);
        }
        Ok(Self {
            client: Client::new(owner, forward_timeout),
            asking: Asking::new(core.run.id),
            catch_up: None,
            following: None,
            saving: Saving::new(storage, saved),
            core,
            replica,
            shelf,
            compacted: (Index::ZERO, 0),
            now,
            is_turn_open: true,
            checks: Cell::new(0),
        })
    }

    /// The same as a member that may only read: it observes, and never votes, founds or writes, whatever its store says of it.
    /// For groups in which writers prove themselves, where the others would not listen to it.
    #[must_use]
    pub fn reading_only(mut self) -> Self {
        self.core.may_write = false;
        self.core.preference = LeadershipPreference::Observer;
        self
    }

    /// Where the member stands.
    #[must_use]
    pub fn status(&self) -> Status<'_> {
        let core = &self.core;
        Status {
            me: core.me,
            incarnation: core.incarnation,
            role: core.role(),
            term: core.term,
            leader: core.leader,
            last: core.last(),
            commit: core.commit,
            applied: self.replica.applied().index,
            commands: self.replica.commands(),
            is_catching_up: self.catch_up.is_some(),
            phase: *self.replica.standing().phase(),
            stalled: core.reforming.stalled(),
            kept_from: core.log.kept_from(),
            configuration: core.log.configuration(),
        }
    }

    /// The state, as far as it is [applied](Status::applied).
    #[must_use]
    pub const fn state(&self) -> &S {
        self.replica.state()
    }

    /// How the member runs.
    pub(crate) const fn config(&self) -> &Config {
        &self.core.config
    }

    /// The entry at `index`, if it is kept.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.core.log.entry(index)
    }

    // ---- Messages ----

    fn message(&mut self, now: Instant, id: PeerId, mut envelope: Envelope) {
        let core = &mut self.core;
        // Terms are counted up from one: no honest member comes so far, and there is none after the last.
        let is_absurd = envelope.message.term() > Some(TERM_MAX);
        let Some(peer) = core.peers.get(&id).filter(|_| !is_absurd) else {
            return;
        };
        if !peer.may_write && !mutant!(core.config, ReaderHeard) {
            let Some(message) = readers::heard(envelope.message) else {
                core.outputs.push_back(Output::Overstepped(id));
                return;
            };
            envelope.message = message;
        }
        let from = Member {
            peer: id,
            instance: envelope.from,
        };
        if let Message::Hello(hello) = &envelope.message {
            // It is true for ever, whoever says so when.
            if let Some(seal) = hello.sealed {
                core.on_seal_told(now, seal);
            }
            if core.on_hello(now, id, &envelope, hello) {
                core.on_acquaintance(now, id);
                self.sources_changed(now);
            }
            return;
        }
        if !core.is_current(now, id, &envelope) {
            return;
        }
        match envelope.message {
            Message::Invite { round, voters } => {
                core.on_invite(now, from, round, &voters);
                return;
            }
            Message::Promise { round } => {
                core.on_promise(now, from, round);
                return;
            }
            Message::Founding(charter) => {
                core.on_founding(now, &charter);
                return;
            }
            Message::Meeting(meeting) => {
                core.on_meeting(now, from, envelope.incarnation, meeting);
                return;
            }
            Message::Reform(reform) => {
                core.on_reform(now, from, envelope.incarnation, *reform);
                return;
            }
            _ => {}
        }
        if self.follows(&envelope, from) {
            self.successor_message(now, from, envelope.message);
            return;
        }
        // Each incarnation has a log of its own: what is said of one means nothing in another.
        let core = &self.core;
        let is_ours = core.incarnation.is_some() && envelope.incarnation == core.incarnation;
        // But whoever goes over to an incarnation that was reformed from its own has its snapshot first.
        let is_successors = matches!(
            envelope.message,
            Message::FetchManifest | Message::FetchChunk { .. }
        ) && (envelope.incarnation)
            .is_some_and(|of| core.standing.descends_from(&of));
        if is_ours
            || is_successors
            || (core.incarnation.is_some() && mutant!(core.config, IncarnationIgnored))
        {
            self.member_message(now, from, envelope.message);
        }
    }

    /// A message of a member of our incarnation, in its present life.
    fn member_message(&mut self, now: Instant, from: Member, message: Message) {
        let core = &mut self.core;
        match message {
            Message::PreVote(candidacy) => core.on_candidacy(now, from, candidacy, true),
            Message::RequestVote(candidacy) => core.on_candidacy(now, from, candidacy, false),
            Message::VoteReply {
                term,
                seen,
                pre,
                verdict,
            } => core.on_vote_reply(now, from, term, seen, pre, verdict),
            Message::Append(append) => {
                let (commit, kept_from) = (append.commit, append.kept_from);
                let is_gap = core.on_append(now, from, append);
                self.appended(now, from, is_gap, commit, kept_from);
            }
            Message::AppendReply(reply) => {
                core.on_append_reply(now, from, reply);
                core.go_on_with_transfer(now);
            }
            Message::TimeoutNow { term } => core.on_timeout_now(now, from.peer, term),
            Message::Forward { batches } => self.forwarded(from, batches),
            Message::OpenSession { run } => {
                if core.takes_commands() && !self.is_full() {
                    let owner = Owner { member: from, run };
                    self.core.append_own(Payload::Open(owner));
                } else {
                    self.refuse(from);
                }
            }
            Message::NotLeader { term, .. } => {
                if term <= core.term {
                    self.client.not_leader(now, from);
                }
            }
            Message::ReadIndex { id } => {
                let peer = core.peers.get(&from.peer);
                let reader = if peer.is_some_and(|peer| peer.may_write) {
                    Reader::Remote(from, id)
                } else {
                    Reader::Unproved(from, id)
                };
                core.read_index(reader);
            }
            Message::ReadIndexReply { id, index } => {
                let is_at_once = mutant!(core.config, ReadBeforeApplied);
                let index = if is_at_once { Index::ZERO } else { index };
                self.asking.answered(id, index);
            }
            Message::Leave => core.on_leave(from),
            Message::Released => core.on_released(from),
            Message::Fetch { first, last } => {
                self.shelf.fetches(now, from.peer, first);
                let answer = fetch(&core.config, core, first, last);
                core.send(from.peer, answer);
            }
            Message::FetchManifest => {
                self.make_snapshot(now);
                let answer = self.shelf.manifest(now, from.peer);
                self.core.send(from.peer, answer);
            }
            Message::FetchChunk { position, number } => {
                let answer = self.shelf.chunk(now, from.peer, position, number);
                core.send(from.peer, answer);
            }
            Message::Fetched {
                first,
                entries,
                commit,
            } => {
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.fetched(now, from.peer, first, entries, commit);
                }
            }
            Message::Gone {
                first,
                kept_from,
                commit,
            } => {
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.gone(now, from.peer, first, kept_from, commit);
                }
            }
            Message::Manifest(manifest) => {
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.manifest(now, from.peer, manifest.map(|manifest| *manifest));
                }
            }
            Message::Chunk {
                position,
                number,
                bytes,
            } => {
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.chunk(now, from.peer, position, number, bytes);
                }
            }
            Message::Hello(_)
            | Message::Invite { .. }
            | Message::Promise { .. }
            | Message::Founding(_)
            | Message::Meeting(_)
            | Message::Reform(_) => {}
        }
    }

    /// Commands for the leader have come.
    fn forwarded(&mut self, from: Member, batches: Vec<Batch>) {
        if !self.core.takes_commands() {
            self.refuse(from);
            return;
        }
        for batch in batches {
            if !self.is_full() && batch.is_sound() {
                self.core.append_own(Payload::Commands(batch));
            }
        }
    }

    fn refuse(&mut self, from: Member) {
        let refusal = Message::NotLeader {
            term: self.core.term,
            leader: self.core.leader,
        };
        self.core.send(from.peer, refusal);
    }

    fn is_full(&self) -> bool {
        let bytes = match &self.core.state {
            State::Leader(leading) => leading.backlog.bytes(),
            _ => 0,
        };
        let settled = self.core.commit.min(self.core.disk.durable_last());
        let entries = self.core.last().index.0 - settled.0;
        entries >= UNCOMMITTED_MAX || bytes >= UNCOMMITTED_BYTES_MAX
    }

    // ---- The turn ----

    /// Does what all that was handled since the last turn calls for.
    fn turn(&mut self) {
        let now = self.now;
        if self.core.is_stopped() {
            self.end_all();
            return;
        }
        self.note_left_incarnation();
        if self.core.is_stopped() {
            self.end_all();
            return;
        }
        self.core.go_on_founding(now);
        self.go_on_reforming(now);
        if self.core.role() == Role::Leader {
            // Whoever leads has all that was committed.
            self.catch_up = None;
        }
        self.go_on_catching_up(now);
        loop {
            self.core.advance_commit(now);
            self.apply(now);
            self.note_standing(now);
            self.hand_over_calls(now);
            // With a single voter in memory, what was just appended is committed.
            let before = self.core.commit;
            self.core.advance_commit(now);
            if self.core.commit == before {
                break;
            }
        }
        self.hand_over_reads(now);
        self.core.go_on_leaving(now);
        self.core.let_leavers_go(now);
        if self.core.is_stopped() {
            self.end_all();
            return;
        }
        self.core.introduce(now);
        self.core.replicate(now);
        self.core.confirm_reads();
        self.end_reads(now);
        self.go_on_compacting(now);
        self.core.disk.flush(&mut self.core.outputs);
        if self.core.is_stopped() {
            self.end_all();
        }
    }

    fn apply(&mut self, now: Instant) {
        let Some(incarnation) = self.core.incarnation else {
            return;
        };
        let before = self.replica.applied().index;
        let mut next = before.next();
        while next <= self.core.commit {
            let Some(entry) = self.core.log.entry(next) else {
                debug_assert!(false, "entry {next} is committed and not there");
                break;
            };
            let client = &mut self.client;
            self.replica.apply(entry, &mut |applied| {
                client.applied(now, incarnation, applied);
            });
            next = next.next();
        }
        let applied = self.replica.applied().index;
        if applied > before {
            self.core.event(Event::Committed(applied));
            self.core.note_voting();
        }
        self.complete_calls();
    }

    fn note_standing(&mut self, now: Instant) {
        // What was applied is of the incarnation before where it was left since.
        if self.replica.incarnation() == self.core.incarnation {
            let come = (self.replica.applied().index, self.replica.commands());
            self.core.note_standing(now, self.replica.standing(), come);
        }
    }

    /// Hands this node's commands to the leader, which it may be itself.
    fn hand_over_calls(&mut self, now: Instant) {
        // Nobody would open a session for it.
        if !self.core.may_write {
            return;
        }
        let reachable = self.core.reachable_leader();
        if reachable == Some(self.core.me) && (!self.core.takes_commands() || self.is_full()) {
            self.client.put_off(now);
            return;
        }
        let outgoing = self.client.outgoing(now, reachable, self.core.term);
        let Some(leader) = reachable else {
            return;
        };
        let owner = if outgoing.open {
            self.follow_former_runs()
        } else {
            self.client.owner()
        };
        if leader == self.core.me {
            if outgoing.open {
                self.core.append_own(Payload::Open(owner));
            }
            for batch in outgoing.batches {
                self.core.append_own(Payload::Commands(batch));
            }
        } else {
            if outgoing.open {
                let run = owner.run;
                self.core.send_to(leader, Message::OpenSession { run });
            }
            if !outgoing.batches.is_empty() {
                let batches = outgoing.batches;
                self.core.send_to(leader, Message::Forward { batches });
            }
        }
    }

    /// Who the session is to be opened for. Where our store was set back, the sessions know of a run of ours that is later
    /// than the present one by its number, and none is opened for one that comes before it: it is called the next after
    /// that one (schedule H26).
    ///
    /// In sessions alone: that our run has a lower number is how others know that we have forgotten what we promised.
    fn follow_former_runs(&mut self) -> Owner {
        let owner = self.client.owner();
        let Some(boot) = self.replica.sessions().boot_after(owner) else {
            return owner;
        };
        let run = Run { boot, ..owner.run };
        let owner = Owner { run, ..owner };
        self.client.be_called(owner);
        self.replica.be_called(owner);
        owner
    }

    fn hand_over_reads(&mut self, now: Instant) {
        let (leader, term) = (self.core.reachable_leader(), self.core.term);
        let retry = self.core.config.query_timeout / 4;
        for id in self.asking.outgoing(now, leader, term, retry) {
            match leader {
                Some(leader) if leader == self.core.me => {
                    self.core.read_index(Reader::Local(id));
                }
                Some(leader) => self.core.send_to(leader, Message::ReadIndex { id }),
                None => {}
            }
        }
    }

    fn end_reads(&mut self, now: Instant) {
        for (id, index) in std::mem::take(&mut self.core.read_indexes) {
            self.asking.answered(id, index);
        }
        let applied = self.replica.applied().index;
        // What was settled before the freeze may have been given up by the time that it is read.
        if self.core.is_open() || mutant!(self.core.config, ReadWhileFrozen) {
            self.asking
                .applied(applied, self.core.incarnation, &mut self.core.outputs);
        }
        self.asking.expire(now, &mut self.core.outputs);
    }

    /// A founding was left, or an incarnation given up for another: nothing of it goes on.
    fn note_left_incarnation(&mut self) {
        let owner = Owner {
            member: self.core.me,
            run: self.core.run,
        };
        // Its run may have another number there.
        if self.client.owner().member == owner.member {
            return;
        }
        match self.core.given_up.take() {
            Some(seal) => self.give_up(owner, seal),
            None => {
                self.client.begin_anew(owner);
                self.replica.leave_founding(owner);
                self.asking.incarnation_left();
            }
        }
        self.forget_transfers();
    }

    /// What was fetched, served and saved of an incarnation means nothing in the next.
    fn forget_transfers(&mut self) {
        self.catch_up = None;
        self.following = None;
        self.shelf = SnapshotShelf::new(&self.core.config);
        self.compacted = (Index::ZERO, 0);
        self.saving = Saving::new(self.core.config.storage, Index::ZERO);
    }

    fn give_up(&mut self, owner: Owner, seal: Seal) {
        let (index, commands) = (self.replica.applied().index, self.replica.commands());
        let state = match self.replica.give_up(owner) {
            Ok(state) => state,
            Err(error) => {
                self.core.stop(StopReason::Snapshot(error.0));
                return;
            }
        };
        let (incarnation, into) = (seal.incarnation, seal.into);
        self.client.supersede(owner, incarnation, into);
        self.complete_calls();
        let outputs = &mut self.core.outputs;
        self.asking.fail_all(ReadError::Superseded, outputs);
        self.core.event(Event::Superseded(Box::new(Superseded {
            version: Version { incarnation, index },
            into,
            commands,
            commands_in_all: seal.commands.max(commands),
            state,
        })));
        if let Some(incarnation) = self.core.incarnation {
            self.core.event(Event::Joined(incarnation));
        }
    }

    fn complete_calls(&mut self) {
        while let Some(ended) = self.client.poll_ended() {
            self.core.outputs.push_back(match ended {
                Ended::One(call, outcome) => Output::Completed(call, outcome),
                Ended::Applied(first, version, outputs) => Output::Applied(first, version, outputs),
            });
        }
    }

    /// All that waits ends with the machine.
    fn end_all(&mut self) {
        self.client.stop();
        self.complete_calls();
        let outputs = &mut self.core.outputs;
        self.asking.fail_all(ReadError::Stopped, outputs);
        self.catch_up = None;
    }

    fn execute(&mut self, call: CallId, command: &[u8]) {
        if !self.core.may_write {
            self.reject(call, 1, &Rejection::ReadOnly);
        } else if let Err(rejection) = self.client.execute(call, command) {
            self.reject(call, 1, &rejection);
        }
    }

    fn execute_many(&mut self, first: CallId, commands: Commands) {
        let count = commands.count();
        if !self.core.may_write {
            self.reject(first, count, &Rejection::ReadOnly);
        } else if let Err(rejection) = self.client.execute_many(first, commands) {
            self.reject(first, count, &rejection);
        }
    }

    fn reject(&mut self, first: CallId, count: u32, why: &Rejection) {
        for call in (first.0..).take(count as usize) {
            let outcome = CallOutcome::Rejected(why.clone());
            let outputs = &mut self.core.outputs;
            outputs.push_back(Output::Completed(CallId(call), outcome));
        }
    }

    fn read(&mut self, now: Instant, id: ReadId) {
        let patience = self.core.config.query_timeout;
        if let Some(error) = self.asking.ask(now, id, patience) {
            self.core.outputs.push_back(Output::ReadFailed(id, error));
        }
    }

    fn persisted(&mut self, now: Instant, write: WriteId) {
        let core = &mut self.core;
        core.disk.persisted(write, &mut core.outputs);
        self.saving.persisted(&core.disk);
        core.count_votes(now);
    }
}

impl<S: StateMachine> Machine for Raft<S> {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        self.now = now;
        self.is_turn_open = true;
        if self.core.is_stopped() {
            match input {
                Input::Execute(call, command) => self.execute(call, &command),
                Input::ExecuteMany(first, commands) => self.execute_many(first, commands),
                Input::Read(id) => {
                    let error = ReadError::Stopped;
                    self.core.outputs.push_back(Output::ReadFailed(id, error));
                }
                _ => {}
            }
            return;
        }
        match input {
            Input::Bonded(peer) => {
                self.core.bonded(now, peer, true);
                self.sources_changed(now);
            }
            Input::BondedReader(peer) => {
                self.core.bonded(now, peer, false);
                self.sources_changed(now);
            }
            Input::Unbonded(peer) => {
                self.core.unbonded(peer);
                self.shelf.forget(&peer);
                self.sources_changed(now);
            }
            Input::Message(peer, envelope) => self.message(now, peer, envelope),
            Input::Persisted(write) => self.persisted(now, write),
            Input::PersistFailed(error) => self.core.persist_failed(error),
            Input::Surroundings(surroundings) => self.core.surroundings = surroundings,
            Input::Execute(call, command) => self.execute(call, &command),
            Input::ExecuteMany(first, commands) => self.execute_many(first, commands),
            Input::GiveUp(call) => self.client.give_up(call),
            Input::Read(id) => self.read(now, id),
            Input::TransferLeadership => self.core.transfer(now),
            Input::Leave => self.core.leave(now),
            Input::Reform => self.core.order(now, true),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.is_turn_open = true;
        if self.core.is_stopped() {
            return;
        }
        self.core.election_due(now);
        if self.core.is_heartbeat_due(now) {
            self.core.look_at_members(now);
            self.core.go_on_meeting(now);
        }
        self.core.change_over_if_due(now);
        self.core.reforming_due(now);
        self.core.go_on_with_transfer(now);
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.handle_timeout(now);
        }
        if let Some(following) = &mut self.following {
            following.handle_timeout(now);
        }
        self.shelf.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.core.is_stopped() {
            return None;
        }
        let own = [
            (self.client.poll_timeout(), "calls"),
            (self.asking.poll_timeout(), "reads"),
            (self.shelf.poll_timeout(), "snapshot shelf"),
            (
                self.catch_up.as_ref().and_then(CatchUp::poll_timeout),
                "catch-up",
            ),
            (
                self.following.as_ref().and_then(Following::poll_timeout),
                "successor",
            ),
        ];
        let own = own.into_iter().filter_map(|(at, why)| Some((at?, why)));
        own.chain(self.core.timeouts()).min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.core.outputs.pop_front() {
            return Some(output);
        }
        if std::mem::take(&mut self.is_turn_open) {
            self.turn();
        }
        self.core.outputs.pop_front()
    }

    fn check_invariants(&self) {
        let checks = self.checks.get().wrapping_add(1);
        self.checks.set(checks);
        self.core.check(checks.is_multiple_of(FULL_CHECK_EVERY));
        // What was left since the last turn is forgotten in the next one.
        let is_left = self.core.incarnation.is_none() || self.core.given_up.is_some();
        assert!(
            self.replica.applied().index <= self.core.commit || is_left,
            "only what is committed is applied"
        );
    }
}
