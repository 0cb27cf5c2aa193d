//! The replicated state of one member: what the committed entries have made of it.
//!
//! [`Replica::apply`] takes the log entry by entry. At indexes that all members derive alike it keeps a
//! frozen state, which becomes a snapshot only once somebody asks for one.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::configuration::Configuration;
use super::entry::{Batch, CommandsIter, Entry, Owner, Payload, SessionId};
use super::outputs::{Ending, Outputs, OutputsBuilder};
use super::sessions::{Outcome, Session, Sessions};
use super::standing::{Ancestor, Phase, Standing};
use super::state::{ApplyContext, FrozenState, RestoreError, StateMachine};
use super::store::{Manifest, Snapshot};
use super::types::{Incarnation, Index, Position, Sequence};
use crate::id::Digest;
use crate::protocol::mutant;
use crate::wire;

/// About so many bytes are in one chunk of a snapshot.
pub(super) const CHUNK_LEN: usize = 64 << 10;

/// No command is applied with others whose outputs have so many bytes together already: a session that keeps less of
/// them lets them go before there are more.
const RUN_BYTES: usize = 256 << 10;

/// So many commands the state machine is handed at once, at most.
const RUN_COUNT: usize = 256;

/// The digest by which a manifest names a chunk.
pub(super) fn chunk_digest(chunk: &[u8]) -> Digest {
    Digest::of("smalti snapshot chunk", &[chunk])
}

/// The state machine, the sessions, and how far both have come.
pub(super) struct Replica<S: StateMachine> {
    config: Config,
    owner: Owner,
    state: S,
    /// The state before any command.
    blank: S::Frozen,
    sessions: Sessions,
    commands: u64,
    standing: Standing,
    applied: Position,
    incarnation: Option<Incarnation>,
    configuration: Configuration,
    configured_at: Index,
    latest: Latest<S::Frozen>,
    /// Bytes of the entries that were applied since the last snapshot point.
    bytes_since_point: u64,
}

/// The latest snapshot.
#[derive(Debug)]
enum Latest<F> {
    /// There was no snapshot point yet.
    None,
    /// Nobody has asked for it yet.
    Frozen(Box<Frozen<F>>),
    /// It was made, or installed.
    Made(Arc<Snapshot>),
}

/// All that a snapshot is made of.
#[derive(Debug)]
struct Frozen<F> {
    incarnation: Incarnation,
    position: Position,
    configuration: Configuration,
    configured_at: Index,
    sessions: Sessions,
    commands: u64,
    standing: Standing,
    state: F,
}

/// What stands before the sessions in the first chunk of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// How many client commands have been applied.
    commands: u64,
    standing: Standing,
    /// How many chunks hold the sessions, the first included.
    session_chunks: u32,
}

/// What an entry means for the calls of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// This run of the node has a session.
    Opened(SessionId),
    /// A command of this run has ended earlier.
    Ended {
        /// Its session.
        session: SessionId,
        /// Its place there.
        sequence: Sequence,
        /// How.
        outcome: Outcome,
    },
    /// Commands of this run have ended together, now.
    Run {
        /// Their session.
        session: SessionId,
        /// The first of them there.
        first: Sequence,
        /// How.
        outputs: Outputs,
    },
    /// Commands of this run were passed over: one before them was missing.
    Gap {
        /// Their session.
        session: SessionId,
        /// The command that is missing.
        expected: Sequence,
    },
    /// Commands of a session that has ended, whoever's it was, were refused.
    UnknownSession(SessionId),
}

impl<S: StateMachine> Replica<S> {
    /// The replica before the first entry; `state` is the state before any command, `owner` the present run
    /// of this node.
    pub(super) fn new(config: Config, owner: Owner, state: S) -> Self {
        Self {
            config,
            owner,
            blank: state.freeze(),
            state,
            sessions: Sessions::default(),
            commands: 0,
            standing: Standing::default(),
            applied: Position::ZERO,
            incarnation: None,
            configuration: Configuration::default(),
            configured_at: Index::ZERO,
            latest: Latest::None,
            bytes_since_point: 0,
        }
    }

    /// The node has left its founding, in which no command was applied; it goes on as `owner`.
    pub(super) fn leave_founding(&mut self, owner: Owner) {
        debug_assert_eq!(self.commands, 0, "a founding with commands is not left");
        self.begin_anew(owner);
    }

    /// The incarnation was given up for another, in which the node goes on as `owner`, with the state before any
    /// command. Gives the state that was given up.
    ///
    /// # Errors
    /// Where the state machine does not read what it has written itself.
    pub(super) fn give_up(&mut self, owner: Owner) -> Result<Vec<Bytes>, RestoreError> {
        let state = self.chunks();
        if self.commands > 0 {
            self.state.restore(&self.blank.chunks(CHUNK_LEN))?;
        }
        self.begin_anew(owner);
        Ok(state)
    }

    /// Goes on as `owner`, who leads alone the incarnation that goes on from this one after all that is applied. Gives
    /// the snapshot that it begins with, at `position`.
    pub(super) fn reform(
        &mut self,
        owner: Owner,
        incarnation: Incarnation,
        position: Position,
        ancestor: Ancestor,
    ) -> Arc<Snapshot> {
        self.owner = owner;
        // Whoever they were of is another member now.
        self.sessions = Sessions::default();
        let voters = self.configuration.voters.len();
        self.standing = self.standing.reformed(ancestor, voters);
        self.applied = position;
        self.incarnation = Some(incarnation);
        let configuration = Configuration {
            voters: [owner.member].into(),
            ..Configuration::default()
        };
        self.configure(position.index, configuration);
        let snapshot = Arc::new(self.frozen(incarnation).to_snapshot());
        self.latest = Latest::Made(Arc::clone(&snapshot));
        self.bytes_since_point = 0;
        snapshot
    }

    /// Goes on as `owner`, with a snapshot of an incarnation that was reformed from this one.
    ///
    /// # Errors
    /// As [`install`](Self::install). Nothing has changed then.
    pub(super) fn follow_reform(
        &mut self,
        owner: Owner,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(), RestoreError> {
        self.install(snapshot)?;
        self.owner = owner;
        Ok(())
    }

    /// The state as chunks.
    pub(super) fn chunks(&self) -> Vec<Bytes> {
        self.state.freeze().chunks(CHUNK_LEN)
    }

    /// Reports what becomes of the session of `owner`, which is another name for the present run of this node.
    pub(super) const fn be_called(&mut self, owner: Owner) {
        self.owner = owner;
    }

    fn begin_anew(&mut self, owner: Owner) {
        self.owner = owner;
        self.commands = 0;
        self.standing = Standing::default();
        self.sessions = Sessions::default();
        self.applied = Position::ZERO;
        self.incarnation = None;
        self.configuration = Configuration::default();
        self.configured_at = Index::ZERO;
        self.latest = Latest::None;
        self.bytes_since_point = 0;
    }

    /// The state machine.
    pub(super) const fn state(&self) -> &S {
        &self.state
    }

    /// The sessions.
    pub(super) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The last entry that was applied.
    pub(super) const fn applied(&self) -> Position {
        self.applied
    }

    /// How many client commands have been applied.
    pub(super) const fn commands(&self) -> u64 {
        self.commands
    }

    /// What the meetings of the incarnation have come to.
    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The incarnation, once its founding was applied.
    pub(super) const fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    /// Where the latest snapshot lies.
    pub(super) fn snapshot_position(&self) -> Option<Position> {
        match &self.latest {
            Latest::None => None,
            Latest::Frozen(frozen) => Some(frozen.position),
            Latest::Made(snapshot) => Some(snapshot.manifest.position),
        }
    }

    /// Applies the committed entry after the last one, and reports what concerns this node's calls.
    pub(super) fn apply(&mut self, entry: &Entry, report: &mut impl FnMut(Applied)) {
        debug_assert_eq!(
            entry.index,
            self.applied.index.next(),
            "entries are applied in order, none twice"
        );
        match &entry.payload {
            Payload::Founding(charter) => {
                self.incarnation = Some(charter.incarnation());
                self.configure(
                    entry.index,
                    Configuration {
                        voters: charter.voters.iter().copied().collect(),
                        ..Configuration::default()
                    },
                );
            }
            Payload::Configuration(configuration) => {
                self.configure(entry.index, configuration.clone());
            }
            // Nothing after a seal means anything: whoever has changed over has never seen it.
            Payload::Open(_) | Payload::Commands(_) if self.standing.phase().seal().is_some() => {}
            Payload::Open(owner) => self.open(SessionId(entry.index), *owner, report),
            Payload::Commands(batch) => {
                let context = ApplyContext {
                    index: entry.index,
                    term: entry.term,
                };
                self.apply_batch(context, batch, report);
            }
            Payload::Frozen { .. }
            | Payload::Decided { .. }
            | Payload::Sealed { .. }
            | Payload::Thawed { .. } => self.meet(entry),
            Payload::Blank | Payload::SnapshotPoint => {}
        }
        let voters = self.configuration.voters.len();
        self.standing.weigh(self.commands, voters);
        self.applied = entry.position();
        // Every member freezes at the same indexes, so that one snapshot may be had from several of them: all
        // have counted the same entries since the last one, which may also have come from another.
        self.bytes_since_point += entry.size() as u64;
        let is_due = entry.index.0.is_multiple_of(self.config.snapshot_interval)
            || self.bytes_since_point >= self.config.snapshot_bytes;
        if is_due || matches!(entry.payload, Payload::SnapshotPoint) {
            self.freeze();
        }
    }

    /// An entry of a meeting, judged by what lies before it.
    fn meet(&mut self, entry: &Entry) {
        if let Some(ours) = self.incarnation {
            self.standing.meet(&self.config, ours, self.commands, entry);
        }
    }

    fn configure(&mut self, at: Index, configuration: Configuration) {
        self.configuration = configuration;
        self.configured_at = at;
    }

    fn open(&mut self, id: SessionId, owner: Owner, report: &mut impl FnMut(Applied)) {
        let opened = self.sessions.open(id, owner, self.config.sessions_max);
        if let Some(session) = opened
            && owner == self.owner
        {
            report(Applied::Opened(session));
        }
    }

    fn apply_batch(
        &mut self,
        context: ApplyContext,
        batch: &Batch,
        report: &mut impl FnMut(Applied),
    ) {
        let config = &self.config;
        let id = batch.session;
        // Created here, a session that had ended would begin anew, and what it applied before with it.
        if mutant!(config, SessionImplicit) && self.sessions.get(id).is_none() {
            let mut session = Session::new(self.owner, id);
            session.skip_to(batch.first);
            self.sessions.insert(id, session);
        }
        let bytes_max = self.sessions.bytes_for_one(config.session_bytes_max);
        let Some(session) = self.sessions.get_mut(id) else {
            report(Applied::UnknownSession(id));
            return;
        };
        // What it would do is not in the weight that was offered, and would be lost with the seal.
        let refuses = matches!(self.standing.phase(), Phase::Frozen(_))
            && !mutant!(config, AppliedWhileFrozen);
        let bytes_before = session.outputs_bytes();
        let is_own = session.owner() == self.owner;
        session.touch(context.index, batch.acked_through);
        let expected = session.last().next();
        // A command before these was lost on its way. Were they applied, its retry would be taken for a
        // duplicate: acknowledged, and never applied.
        let mut is_gap = batch.first > expected;
        if is_gap && mutant!(config, GapAccepted) {
            session.skip_to(batch.first);
            is_gap = false;
        }
        if is_gap && is_own {
            report(Applied::Gap {
                session: id,
                expected,
            });
        }
        let mut commands = if is_gap {
            CommandsIter::default()
        } else {
            batch.commands.iter()
        };
        let mut sequence = batch.first;
        while sequence <= session.last()
            && let Some(command) = commands.next()
        {
            // It was sent again while its first copy was on its way: once is enough.
            if mutant!(config, AppliedTwice)
                && let Some(command) = command
            {
                self.state.apply(context, command);
            }
            if is_own {
                report(Applied::Ended {
                    session: id,
                    sequence,
                    outcome: session.outcome(sequence),
                });
            }
            sequence = sequence.next();
        }
        loop {
            let outputs = if refuses {
                refuse(context, &mut commands)
            } else {
                run(&mut self.state, context, &mut commands)
            };
            if outputs.is_empty() {
                break;
            }
            let applied = outputs.iter().filter_map(Ending::output).count();
            self.commands = self.commands.saturating_add(applied as u64);
            if is_own {
                report(Applied::Run {
                    session: id,
                    first: session.last().next(),
                    outputs: outputs.clone(),
                });
            }
            session.push(outputs, bytes_max);
        }
        let bytes_after = session.outputs_bytes();
        self.sessions.account(bytes_before, bytes_after);
    }

    fn freeze(&mut self) {
        self.bytes_since_point = 0;
        let Some(incarnation) = self.incarnation else {
            return;
        };
        self.latest = Latest::Frozen(Box::new(self.frozen(incarnation)));
    }

    fn frozen(&self, incarnation: Incarnation) -> Frozen<S::Frozen> {
        Frozen {
            incarnation,
            position: self.applied,
            configuration: self.configuration.clone(),
            configured_at: self.configured_at,
            sessions: self.sessions.clone(),
            commands: self.commands,
            standing: self.standing.clone(),
            state: self.state.freeze(),
        }
    }

    /// The snapshot of the latest snapshot point. Made at the first call after that point, in time
    /// proportional to the state; the same afterwards.
    pub(super) fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        if let Latest::Frozen(frozen) = &self.latest {
            self.latest = Latest::Made(Arc::new(frozen.to_snapshot()));
        }
        match &self.latest {
            Latest::Made(snapshot) => Some(Arc::clone(snapshot)),
            Latest::None | Latest::Frozen(_) => None,
        }
    }

    /// Puts a snapshot in place of the present state. The caller has seen that it lies above what is
    /// applied.
    ///
    /// # Errors
    /// Where a chunk is not the one that the manifest names, or the chunks are no sessions and no state of
    /// this state machine. Nothing has changed then.
    pub(super) fn install(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), RestoreError> {
        let manifest = &snapshot.manifest;
        let (header, sessions, state) = parse(snapshot)?;
        self.state.restore(state)?;
        // Without the sessions, a command that the state holds already would be applied again.
        self.sessions = if mutant!(self.config, SessionsLostInSnapshot) {
            Sessions::default()
        } else {
            sessions
        };
        self.commands = header.commands;
        self.standing = header.standing;
        self.applied = manifest.position;
        self.incarnation = Some(manifest.incarnation);
        self.configure(manifest.configured_at, manifest.configuration.clone());
        self.latest = Latest::Made(Arc::clone(snapshot));
        self.bytes_since_point = 0;
        Ok(())
    }
}

/// Has `state` apply the next commands, and gives what came of them: of all that are left, unless their outputs are
/// so large that the first should go before the last are made.
fn run<S: StateMachine>(
    state: &mut S,
    context: ApplyContext,
    commands: &mut CommandsIter<'_>,
) -> Outputs {
    let mut outputs = OutputsBuilder::with_capacity(commands.size_hint().1.unwrap_or_default());
    while outputs.len_bytes() < RUN_BYTES {
        let before = outputs.len();
        let mut taken = 0;
        let mut is_given_up = false;
        let next = commands.by_ref().take(RUN_COUNT).map_while(|command| {
            is_given_up = command.is_none();
            taken += usize::from(!is_given_up);
            command
        });
        state.apply_batch(context, &mut next.fuse(), &mut outputs);
        // One that cannot go on gives no outputs; whoever drives it lets nothing out that came of it.
        while outputs.len() < before + taken {
            outputs.push(&[]);
        }
        if is_given_up {
            outputs.push_given_up();
        } else if taken == 0 {
            break;
        }
    }
    outputs.finish(context.index)
}

/// What comes of the commands that are left where none is to be applied.
fn refuse(context: ApplyContext, commands: &mut CommandsIter<'_>) -> Outputs {
    let mut outputs = OutputsBuilder::default();
    for command in commands {
        match command {
            Some(_) => outputs.push_refused(),
            None => outputs.push_given_up(),
        }
    }
    outputs.finish(context.index)
}

impl<F: FrozenState> Frozen<F> {
    fn to_snapshot(&self) -> Snapshot {
        let sessions = self.sessions.encode();
        let mut parts = sessions.chunks(CHUNK_LEN);
        let header = Header {
            commands: self.commands,
            standing: self.standing.clone(),
            session_chunks: parts.len() as u32,
        };
        let mut first = wire::encode(&header).expect("numbers and names can always be encoded");
        first.extend_from_slice(parts.next().unwrap_or_default());
        let mut chunks = vec![Bytes::from(first)];
        chunks.extend(parts.map(Bytes::copy_from_slice));
        chunks.extend(self.state.chunks(CHUNK_LEN));
        Snapshot {
            manifest: Manifest {
                incarnation: self.incarnation,
                position: self.position,
                configuration: self.configuration.clone(),
                configured_at: self.configured_at,
                chunks: chunks.iter().map(|chunk| chunk_digest(chunk)).collect(),
            },
            chunks,
        }
    }
}

/// What is remembered in a snapshot of an incarnation that its own goes on from.
///
/// # Errors
/// Where it is no snapshot.
pub(super) fn ancestor_in(
    snapshot: &Snapshot,
    incarnation: &Incarnation,
) -> Result<Option<Ancestor>, RestoreError> {
    let (header, ..) = parse(snapshot)?;
    Ok(header.standing.ancestor(incarnation))
}

/// The parts of a snapshot, checked: its header, its sessions, and the chunks of its state.
fn parse(snapshot: &Snapshot) -> Result<(Header, Sessions, &[Bytes]), RestoreError> {
    let Snapshot { manifest, chunks } = snapshot;
    if manifest.chunks.len() != chunks.len() {
        return Err(RestoreError(format!(
            "it has {} chunks, and its manifest names {}",
            chunks.len(),
            manifest.chunks.len()
        )));
    }
    let mut digests = manifest.chunks.iter().zip(chunks);
    if let Some(at) = digests.position(|(digest, chunk)| *digest != chunk_digest(chunk)) {
        return Err(RestoreError(format!(
            "chunk {at} is not the one that its manifest names"
        )));
    }
    let unreadable = |cause: &dyn std::fmt::Display| RestoreError(format!("its sessions: {cause}"));
    let first = chunks.first().ok_or_else(|| unreadable(&"missing"))?;
    let (header, rest): (Header, _) =
        postcard::take_from_bytes(first).map_err(|error| unreadable(&error))?;
    if !header.standing.is_sound() {
        return Err(unreadable(&"too many meetings"));
    }
    let split = (header.session_chunks as usize).max(1);
    let (sessions, state) = chunks
        .split_at_checked(split)
        .ok_or_else(|| unreadable(&"not all there"))?;
    let mut bytes = rest.to_vec();
    for chunk in &sessions[1..] {
        bytes.extend_from_slice(chunk);
    }
    let sessions =
        Sessions::decode(&bytes, manifest.position.index).map_err(|error| unreadable(&error))?;
    Ok((header, sessions, state))
}

#[cfg(test)]
pub(super) mod testing {
    //! A small state machine, and entries for it.

    use bytes::Bytes;

    use super::*;
    use crate::id::{GroupId, Instance, PeerId};
    use crate::protocol::raft::{Charter, CommandsBuilder, Member, Run, Term};

    /// The commands it was given, in order. The output is the place that a command got.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(in super::super) struct List(pub(in super::super) im::Vector<(u64, Bytes)>);

    impl StateMachine for List {
        type Frozen = Self;

        fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes {
            let place = self.0.len() as u64;
            let command = Bytes::copy_from_slice(command);
            self.0.push_back((context.index.0, command));
            Bytes::copy_from_slice(&place.to_le_bytes())
        }

        fn freeze(&self) -> Self {
            self.clone()
        }

        fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
            let items: Vec<(u64, Bytes)> =
                wire::decode(&chunks.concat()).map_err(|error| RestoreError(error.to_string()))?;
            self.0 = items.into();
            Ok(())
        }
    }

    impl FrozenState for List {
        fn chunks(&self, len: usize) -> Vec<Bytes> {
            let items: Vec<_> = self.0.iter().collect();
            let bytes = wire::encode(&items).unwrap();
            bytes.chunks(len).map(Bytes::copy_from_slice).collect()
        }
    }

    pub(in super::super) fn owner(peer: u8) -> Owner {
        Owner {
            member: Member {
                peer: PeerId::from_bytes([peer; 32]),
                instance: Instance::from_bytes([peer; 16]),
            },
            run: Run::default(),
        }
    }

    pub(in super::super) fn entry(index: u64, payload: Payload) -> Entry {
        Entry {
            term: Term(1),
            index: Index(index),
            payload,
        }
    }

    pub(in super::super) fn founding() -> Entry {
        let charter = Charter {
            group: GroupId::from("group"),
            nonce: [7; 32],
            founder: owner(1).member,
            voters: vec![owner(1).member, owner(2).member],
            expected: 0,
            parent: None,
        };
        entry(1, Payload::Founding(Box::new(charter)))
    }

    pub(in super::super) fn batch(session: u64, first: u64, commands: &[Option<&[u8]>]) -> Batch {
        let mut builder = CommandsBuilder::default();
        for command in commands {
            match command {
                Some(command) => builder.push(command),
                None => builder.push_given_up(),
            }
        }
        Batch {
            session: SessionId(Index(session)),
            first: Sequence(first),
            acked_through: Sequence::ZERO,
            commands: builder.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{List, batch, entry, founding, owner};
    use super::*;
    use crate::protocol::raft::Run;

    fn replica(me: u8, snapshot_interval: u64) -> Replica<List> {
        let config = Config {
            snapshot_interval,
            ..Config::default()
        };
        Replica::new(config, owner(me), List::default())
    }

    fn apply(replica: &mut Replica<List>, entry: &Entry) -> Vec<Applied> {
        let mut reports = Vec::new();
        replica.apply(entry, &mut |applied| reports.extend(one_by_one(applied)));
        reports
    }

    /// What is reported of several commands together, as if it were of each by itself.
    fn one_by_one(applied: Applied) -> Vec<Applied> {
        let Applied::Run {
            session,
            first,
            outputs,
        } = applied
        else {
            return vec![applied];
        };
        let endings = (0..outputs.len()).filter_map(|place| outputs.get(place));
        let ended = endings.zip(first.0..).map(|(ending, n)| Applied::Ended {
            session,
            sequence: Sequence(n),
            outcome: Outcome::of(outputs.index(), ending),
        });
        ended.collect()
    }

    /// Applies `payloads` after what was applied already, and gives all reports.
    fn apply_all(replica: &mut Replica<List>, payloads: Vec<Payload>) -> Vec<Applied> {
        let entries = payloads.into_iter().zip(replica.applied.index.0 + 1..);
        entries
            .flat_map(|(payload, index)| apply(replica, &entry(index, payload)))
            .collect()
    }

    /// A replica of peer 1 with the founding and a session of its own, 2, and one of peer 2's, 3.
    fn with_sessions(snapshot_interval: u64) -> Replica<List> {
        let mut replica = replica(1, snapshot_interval);
        assert_eq!(apply(&mut replica, &founding()), []);
        let opened = apply_all(
            &mut replica,
            vec![Payload::Open(owner(1)), Payload::Open(owner(2))],
        );
        assert_eq!(opened, [Applied::Opened(SessionId(Index(2)))]);
        replica
    }

    fn commands(session: u64, first: u64, commands: &[&[u8]]) -> Payload {
        let commands: Vec<_> = commands.iter().map(|command| Some(*command)).collect();
        Payload::Commands(batch(session, first, &commands))
    }

    fn ended(sequence: u64, outcome: Outcome) -> Applied {
        Applied::Ended {
            session: SessionId(Index(2)),
            sequence: Sequence(sequence),
            outcome,
        }
    }

    fn output(index: u64, place: u64) -> Outcome {
        Outcome::Applied {
            index: Index(index),
            output: Bytes::copy_from_slice(&place.to_le_bytes()),
        }
    }

    fn items(replica: &Replica<List>) -> Vec<&[u8]> {
        replica.state.0.iter().map(|(_, item)| &item[..]).collect()
    }

    #[test]
    fn a_command_is_applied_only_after_the_one_before_it_and_only_once() {
        let mut replica = with_sessions(1_000);
        let gap = Applied::Gap {
            session: SessionId(Index(2)),
            expected: Sequence(1),
        };
        assert_eq!(
            apply_all(&mut replica, vec![commands(2, 2, &[b"b"])]),
            [gap]
        );
        let first = apply_all(&mut replica, vec![commands(2, 1, &[b"a", b"b"])]);
        assert_eq!(first, [ended(1, output(5, 0)), ended(2, output(5, 1))]);
        let overlapping = apply_all(&mut replica, vec![commands(2, 2, &[b"b", b"c"])]);
        assert_eq!(
            overlapping,
            [ended(2, output(5, 1)), ended(3, output(6, 2))]
        );
        assert_eq!(items(&replica), [b"a", b"b", b"c"]);
        assert_eq!(replica.commands(), 3);
    }

    #[test]
    fn what_the_log_has_first_decides_on_a_command_that_was_given_up() {
        let mut replica = with_sessions(1_000);
        let given_up = || Payload::Commands(batch(2, 1, &[None]));
        let reports = apply_all(
            &mut replica,
            vec![given_up(), commands(2, 1, &[b"a", b"b"])],
        );
        assert_eq!(
            reports,
            [
                ended(1, Outcome::GivenUp),
                ended(1, Outcome::GivenUp),
                ended(2, output(5, 0)),
            ]
        );
        let late = Payload::Commands(batch(2, 2, &[None]));
        assert_eq!(
            apply_all(&mut replica, vec![late]),
            [ended(2, output(5, 0))]
        );
        assert_eq!(items(&replica), [b"b"]);
        assert_eq!(replica.commands(), 1);
    }

    #[test]
    fn commands_of_unknown_sessions_are_refused() {
        let mut replica = with_sessions(1_000);
        let unknown = Applied::UnknownSession(SessionId(Index(9)));
        assert_eq!(
            apply_all(&mut replica, vec![commands(9, 1, &[b"a"])]),
            [unknown]
        );
        assert_eq!(items(&replica), [b""; 0]);
        assert_eq!(replica.sessions().len(), 2);
    }

    #[test]
    fn calls_of_others_are_applied_and_not_reported() {
        let mut replica = with_sessions(1_000);
        let another_boot = Owner {
            run: Run { boot: 1, id: 0 },
            ..owner(1)
        };
        let reports = apply_all(
            &mut replica,
            vec![
                commands(3, 1, &[b"a"]),
                commands(3, 3, &[b"c"]),
                Payload::Open(another_boot),
                commands(6, 1, &[b"d"]),
            ],
        );
        assert_eq!(reports, [], "another peer, and another run of this one");
        assert_eq!(items(&replica), [b"a", b"d"]);
    }

    #[test]
    fn outputs_are_kept_until_acknowledged() {
        let mut replica = with_sessions(1_000);
        let mut acked = batch(2, 3, &[Some(b"c")]);
        acked.acked_through = Sequence(1);
        apply_all(
            &mut replica,
            vec![commands(2, 1, &[b"a", b"b"]), Payload::Commands(acked)],
        );
        let again = apply_all(&mut replica, vec![commands(2, 1, &[b"a", b"b", b"c"])]);
        assert_eq!(
            again,
            [
                ended(1, Outcome::Lost),
                ended(2, output(4, 1)),
                ended(3, output(5, 2)),
            ]
        );
    }

    #[test]
    fn a_snapshot_point_comes_after_so_many_bytes_as_well() {
        let config = Config {
            snapshot_bytes: 1_000,
            ..Config::default()
        };
        let new = || Replica::new(config.clone(), owner(1), List::default());
        let mut replica = new();
        apply(&mut replica, &founding());
        let mut points = Vec::new();
        let entries: Vec<Entry> = (2..40).map(|index| entry(index, Payload::Blank)).collect();
        let mut late = None;
        for entry in &entries {
            apply(&mut replica, entry);
            let point = replica.snapshot_position().map(|at| at.index);
            if points.last() != Some(&point) {
                points.push(point);
            }
            if late.is_none() && point.is_some() {
                let mut other = new();
                other.install(&replica.snapshot().unwrap()).unwrap();
                late = Some(other);
            } else if let Some(late) = &mut late {
                apply(late, entry);
                let theirs = late.snapshot_position().map(|at| at.index);
                assert_eq!(
                    theirs, point,
                    "who began with a snapshot has the same points"
                );
            }
        }
        assert!(points.len() > 2, "{points:?}");
    }

    #[test]
    fn snapshots_are_of_the_snapshot_point_with_the_voters_there() {
        let mut replica = with_sessions(5);
        assert_eq!(replica.snapshot(), None);
        let voters = |peers: &[u8]| Configuration {
            voters: peers.iter().map(|peer| owner(*peer).member).collect(),
            ..Configuration::default()
        };
        apply_all(
            &mut replica,
            vec![
                commands(3, 1, &[b"4"]),
                commands(3, 2, &[b"5"]),
                Payload::Configuration(voters(&[1, 2, 3])),
            ],
        );
        assert_eq!(
            replica.snapshot_position().map(|at| at.index),
            Some(Index(5))
        );
        let at_5 = replica.snapshot().unwrap();
        assert_eq!(at_5.manifest.position.index, Index(5));
        assert_eq!(at_5.manifest.configuration, voters(&[1, 2]));
        assert_eq!(at_5.manifest.configured_at, Index(1));
        assert!(
            Arc::ptr_eq(&at_5, &replica.snapshot().unwrap()),
            "made once"
        );

        apply_all(
            &mut replica,
            vec![Payload::SnapshotPoint, commands(3, 3, &[b"8"])],
        );
        let at_7 = replica.snapshot().unwrap();
        assert_eq!(at_7.manifest.position.index, Index(7));
        assert_eq!(at_7.manifest.configuration, voters(&[1, 2, 3]));
        assert_eq!(at_7.manifest.configured_at, Index(6));

        let mut other = self::replica(2, 5);
        other.install(&at_5).unwrap();
        assert_eq!(items(&other), [b"4", b"5"]);
        assert_eq!(other.applied(), at_5.manifest.position);
        assert_eq!(other.incarnation, replica.incarnation);
        other.install(&at_7).unwrap();
        assert_eq!(items(&other), [b"4", b"5"]);
        assert_eq!(other.commands(), 2);
        assert!(
            Arc::ptr_eq(&at_7, &other.snapshot().unwrap()),
            "passed on as it is"
        );
    }

    #[test]
    fn sessions_of_many_chunks_are_restored() {
        let mut replica = with_sessions(1_000);
        let given_up = vec![None; 40_000];
        apply_all(
            &mut replica,
            vec![
                Payload::Commands(batch(2, 1, &given_up)),
                Payload::SnapshotPoint,
            ],
        );
        let snapshot = replica.snapshot().unwrap();
        assert!(
            snapshot.chunks.len() > 2,
            "one for sessions and one for the state at least"
        );
        assert!(
            snapshot
                .chunks
                .iter()
                .all(|chunk| chunk.len() < CHUNK_LEN + 32)
        );
        let mut other = self::replica(2, 1_000);
        other.install(&snapshot).unwrap();
        assert_eq!(other.sessions, replica.sessions);
    }

    #[test]
    fn a_snapshot_that_is_not_whole_changes_nothing() {
        let mut replica = with_sessions(4);
        apply_all(&mut replica, vec![commands(2, 1, &[b"a"])]);
        let good = replica.snapshot().unwrap();
        let parts = good.chunks.len();
        let other_sessions = Bytes::from_static(b"\x01\x01\xff\xff\xff\xff\x0f");
        let changed = |change: &dyn Fn(&mut Snapshot), name_chunks: bool| {
            let mut snapshot = (*good).clone();
            change(&mut snapshot);
            if name_chunks {
                let digests = snapshot.chunks.iter().map(|chunk| chunk_digest(chunk));
                snapshot.manifest.chunks = digests.collect();
            }
            Arc::new(snapshot)
        };
        let mut before = self::replica(2, 4);
        apply(&mut before, &founding());
        for (what, snapshot) in [
            (
                "a chunk is another",
                changed(&|it| it.chunks[parts - 1] = Bytes::new(), false),
            ),
            (
                "a chunk is missing",
                changed(&|it| it.chunks.truncate(1), false),
            ),
            (
                "a name is missing",
                changed(&|it| it.manifest.chunks.truncate(1), false),
            ),
            ("nothing is there", changed(&|it| it.chunks.clear(), true)),
            (
                "it has no sessions",
                changed(&|it| it.chunks[0] = Bytes::new(), true),
            ),
            (
                "its sessions are none",
                changed(&|it| it.chunks[0] = other_sessions.clone(), true),
            ),
            (
                "its state is none",
                changed(&|it| it.chunks[parts - 1] = Bytes::new(), true),
            ),
        ] {
            assert!(before.install(&snapshot).is_err(), "{what}");
            assert_eq!(before.state, List::default(), "{what}");
            assert_eq!(before.sessions, Sessions::default(), "{what}");
            assert_eq!(before.applied.index, Index(1), "{what}");
        }
        before.install(&good).unwrap();
        assert_eq!(items(&before), [b"a"]);
    }

    fn greater() -> Incarnation {
        Incarnation(Digest::from_bytes([0xff; 32]))
    }

    fn frozen_at(index: u64) -> Position {
        entry(index, Payload::Blank).position()
    }

    #[test]
    fn commands_behind_the_freeze_are_refused_once_and_for_all() {
        let mut replica = with_sessions(1_000);
        let frozen = Payload::Frozen { to: greater() };
        let thawed = Payload::Thawed {
            offer: frozen_at(5),
        };
        let reports = apply_all(
            &mut replica,
            vec![
                commands(2, 1, &[b"a"]),
                frozen,
                commands(2, 1, &[b"a", b"b"]),
                thawed,
                commands(2, 2, &[b"b", b"c"]),
            ],
        );
        assert_eq!(
            reports,
            [
                ended(1, output(4, 0)),
                ended(1, output(4, 0)),
                ended(2, Outcome::Refused),
                ended(2, Outcome::Refused),
                ended(3, output(8, 1)),
            ]
        );
        assert_eq!(items(&replica), [b"a", b"c"]);
        assert_eq!(replica.commands(), 2);
    }

    #[test]
    fn nothing_behind_a_seal_means_anything_also_to_who_began_with_a_snapshot() {
        let mut replica = with_sessions(1_000);
        let offer = frozen_at(5);
        let into = greater();
        apply_all(
            &mut replica,
            vec![
                commands(2, 1, &[b"a"]),
                Payload::Frozen { to: into },
                commands(3, 1, &[b"refused"]),
                Payload::SnapshotPoint,
            ],
        );
        let mut other = self::replica(1, 1_000);
        other.install(&replica.snapshot().unwrap()).unwrap();
        assert_eq!(other.standing(), replica.standing());
        for replica in [&mut replica, &mut other] {
            let void = apply_all(
                replica,
                vec![
                    Payload::Sealed { into, offer },
                    commands(2, 1, &[b"a", b"b"]),
                    Payload::Open(owner(7)),
                    Payload::Thawed { offer },
                    Payload::SnapshotPoint,
                ],
            );
            assert_eq!(void, []);
            let seal = replica.standing().phase().seal().unwrap();
            assert_eq!((seal.into, seal.commands), (into, 1));
            assert_eq!(seal.at, frozen_at(8));
            assert_eq!(items(replica), [b"a"]);
        }
        assert_eq!(other.snapshot(), replica.snapshot());
        let given_up = replica.give_up(owner(9)).unwrap();
        let mut read = List::default();
        read.restore(&given_up).unwrap();
        assert_eq!(read, other.state);
        assert_eq!((items(&replica), replica.commands()), (vec![], 0));
        assert_eq!(replica.standing(), &Standing::default());
    }

    #[test]
    fn a_founding_that_was_left_is_forgotten() {
        let mut replica = replica(1, 1);
        apply(&mut replica, &founding());
        assert!(replica.snapshot().is_some());
        replica.leave_founding(owner(9));
        assert_eq!(replica.applied(), Position::ZERO);
        assert_eq!(replica.incarnation, None);
        assert_eq!(replica.snapshot(), None);
        apply(&mut replica, &founding());
        let opened = apply_all(
            &mut replica,
            vec![Payload::Open(owner(1)), Payload::Open(owner(9))],
        );
        assert_eq!(opened, [Applied::Opened(SessionId(Index(3)))]);
    }

    /// An entry of a random log.
    #[derive(Clone, Debug)]
    enum Step {
        Open(u8),
        /// Which session, how far from the expected number the batch begins, and for each command whether
        /// it was given up.
        Batch(prop::sample::Index, i64, Vec<bool>),
        Blank,
        SnapshotPoint,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let commands = prop::collection::vec(prop::bool::weighted(0.2), 1..6);
        let step = prop_oneof![
            1 => (1..4u8).prop_map(Step::Open),
            8 => (any::<prop::sample::Index>(), -4..3i64, commands)
                .prop_map(|(session, shift, commands)| Step::Batch(session, shift, commands)),
            1 => Just(Step::Blank),
            1 => Just(Step::SnapshotPoint),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// A log of `steps`, and the commands that are to be applied, by session and number. With each session
    /// it is kept which number is next: a table of sessions in its simplest form.
    fn log(steps: &[Step]) -> (Vec<Entry>, Vec<(u64, u64)>) {
        let mut entries = vec![founding()];
        let mut opened: Vec<(u64, u8)> = Vec::new();
        let mut next = std::collections::BTreeMap::new();
        let mut applied = Vec::new();
        for (step, index) in steps.iter().zip(2..) {
            let payload = match step {
                Step::Open(peer) => {
                    if !opened.iter().any(|(_, owner)| owner == peer) {
                        opened.push((index, *peer));
                        next.insert(index, 1);
                    }
                    Payload::Open(owner(*peer))
                }
                Step::Blank => Payload::Blank,
                Step::SnapshotPoint => Payload::SnapshotPoint,
                Step::Batch(session, shift, given_up) => {
                    // One that was never opened among them.
                    let sessions = opened.iter().map(|(id, _)| *id).chain([1_000]);
                    let sessions: Vec<u64> = sessions.collect();
                    let session = sessions[session.index(sessions.len())];
                    let expected: u64 = next.get(&session).copied().unwrap_or(1);
                    let first = expected.saturating_add_signed(*shift).max(1);
                    let named: Vec<_> = (first..)
                        .map(|n| format!("{session}:{n}"))
                        .take(given_up.len())
                        .collect();
                    let commands: Vec<_> = named
                        .iter()
                        .zip(given_up)
                        .map(|(command, given_up)| (!given_up).then_some(command.as_bytes()))
                        .collect();
                    if let Some(next) = next.get_mut(&session) {
                        for (command, n) in commands.iter().zip(first..) {
                            if n == *next {
                                *next += 1;
                                applied.extend(command.map(|_| (session, n)));
                            }
                        }
                    }
                    Payload::Commands(batch(session, first, &commands))
                }
            };
            entries.push(entry(index, payload));
        }
        (entries, applied)
    }

    proptest! {
        #[test]
        fn every_log_applies_each_command_at_most_once_and_in_order(steps in steps()) {
            let (entries, expected) = log(&steps);
            let mut replica = replica(1, 8);
            let mut reports = Vec::new();
            for entry in &entries {
                reports.extend(apply(&mut replica, entry));
            }
            let name = |(session, n): &(u64, u64)| format!("{session}:{n}").into_bytes();
            let expected: Vec<_> = expected.iter().map(name).collect();
            let applied: Vec<_> = items(&replica).into_iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(&applied, &expected);
            prop_assert_eq!(replica.commands(), expected.len() as u64);
            // What is reported of one command never changes, and is what was applied.
            let mut known = std::collections::BTreeMap::new();
            for report in reports {
                let Applied::Ended { session, sequence, outcome } = report else {
                    continue;
                };
                let first = known.entry((session, sequence)).or_insert(outcome.clone());
                prop_assert_eq!(first, &outcome);
                if let Outcome::Applied { index, output } = outcome {
                    let place = u64::from_le_bytes(output[..].try_into().unwrap());
                    let (at, command) = &replica.state.0[place as usize];
                    prop_assert_eq!(*at, index.0);
                    let name = format!("{}:{}", session.0, sequence);
                    prop_assert_eq!(&command[..], name.as_bytes());
                }
            }
        }

        #[test]
        fn a_member_that_began_with_a_snapshot_is_like_the_others(steps in steps(), interval in 1..20u64) {
            let (entries, _) = log(&steps);
            let mut whole = replica(1, interval);
            let mut started: Option<Replica<List>> = None;
            for entry in &entries {
                let reports = apply(&mut whole, entry);
                if let Some(started) = &mut started {
                    prop_assert_eq!(apply(started, entry), reports);
                } else if whole.snapshot_position() == Some(whole.applied()) {
                    let mut restored = replica(1, interval);
                    restored.install(&whole.snapshot().unwrap()).unwrap();
                    started = Some(restored);
                }
            }
            let Some(mut started) = started else { return Ok(()) };
            prop_assert_eq!(&started.state, &whole.state);
            prop_assert_eq!(&started.sessions, &whole.sessions);
            prop_assert_eq!(started.commands(), whole.commands());
            prop_assert_eq!(started.applied(), whole.applied());
            prop_assert_eq!(started.snapshot(), whole.snapshot());
            apply(&mut started, &entry(entries.len() as u64 + 1, Payload::SnapshotPoint));
            apply(&mut whole, &entry(entries.len() as u64 + 1, Payload::SnapshotPoint));
            prop_assert_eq!(started.snapshot(), whole.snapshot());
        }

        #[test]
        fn hostile_snapshots_do_not_panic(
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
            random in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut source = with_sessions(4);
            apply_all(&mut source, vec![commands(2, 1, &[b"a", b"b"])]);
            let good = source.snapshot().unwrap();
            let mut flipped = good.chunks[0].to_vec();
            let at = at.index(flipped.len());
            flipped[at] = value;
            for first in [flipped, random] {
                let mut hostile = (*good).clone();
                hostile.manifest.chunks[0] = chunk_digest(&first);
                hostile.chunks[0] = Bytes::from(first);
                let mut target = replica(1, 4);
                if target.install(&Arc::new(hostile)).is_ok() {
                    apply_all(&mut target, vec![commands(2, 3, &[b"c"])]);
                }
            }
        }
    }
}
