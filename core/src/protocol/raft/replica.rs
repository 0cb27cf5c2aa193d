//! The replicated state of one member: what the committed entries have made of it.
//!
//! [`Replica::apply`] takes the log entry by entry. At indexes that all members derive alike it keeps a
//! frozen state, which becomes a snapshot only once somebody asks for one.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::{Config, mutant};
use super::configuration::Configuration;
use super::entry::{Batch, Entry, Owner, Payload, SessionId};
use super::sessions::{Outcome, Session, Sessions};
use super::state::{ApplyContext, FrozenState, RestoreError, StateMachine};
use super::store::{Manifest, Snapshot};
use super::types::{Incarnation, Index, Position, Sequence};
use crate::id::Digest;
use crate::wire;

/// About so many bytes are in one chunk of a snapshot.
pub(super) const CHUNK_LEN: usize = 64 << 10;

/// The digest by which a manifest names a chunk.
pub(super) fn chunk_digest(chunk: &[u8]) -> Digest {
    Digest::of("smalti snapshot chunk", &[chunk])
}

/// The state machine, the sessions, and how far both have come.
#[derive(Debug)]
pub(super) struct Replica<S: StateMachine> {
    config: Config,
    owner: Owner,
    state: S,
    sessions: Sessions,
    commands: u64,
    applied: Position,
    incarnation: Option<Incarnation>,
    configuration: Configuration,
    configured_at: Index,
    latest: Latest<S::Frozen>,
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
    state: F,
}

/// What stands before the sessions in the first chunk of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// How many client commands have been applied.
    commands: u64,
    /// How many chunks hold the sessions, the first included.
    session_chunks: u32,
}

/// What an entry means for the calls of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// This run of the node has a session.
    Opened(SessionId),
    /// A command of this run has ended, now or earlier.
    Ended {
        /// Its session.
        session: SessionId,
        /// Its place there.
        sequence: Sequence,
        /// How.
        outcome: Outcome,
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
            state,
            sessions: Sessions::default(),
            commands: 0,
            applied: Position::ZERO,
            incarnation: None,
            configuration: Configuration::default(),
            configured_at: Index::ZERO,
            latest: Latest::None,
        }
    }

    /// The node has left its founding, in which no command was applied; it goes on as `owner`.
    pub(super) fn incarnation_left(&mut self, owner: Owner) {
        debug_assert_eq!(self.commands, 0, "a founding with commands is not left");
        self.owner = owner;
        self.sessions = Sessions::default();
        self.applied = Position::ZERO;
        self.incarnation = None;
        self.configuration = Configuration::default();
        self.configured_at = Index::ZERO;
        self.latest = Latest::None;
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
            Payload::Open(owner) => self.open(SessionId(entry.index), *owner, report),
            Payload::Commands(batch) => {
                let context = ApplyContext {
                    index: entry.index,
                    term: entry.term,
                };
                self.apply_batch(context, batch, report);
            }
            Payload::Blank | Payload::SnapshotPoint => {}
        }
        self.applied = entry.position();
        // Every member freezes at the same indexes, so that one snapshot may be had from several of them.
        let is_due = entry.index.0.is_multiple_of(self.config.snapshot_interval);
        if is_due || matches!(entry.payload, Payload::SnapshotPoint) {
            self.freeze();
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
        let Some(session) = self.sessions.get_mut(id) else {
            report(Applied::UnknownSession(id));
            return;
        };
        let is_own = session.owner() == self.owner;
        session.touch(context.index, batch.acked_through);
        let expected = session.last().next();
        if batch.first > expected {
            // A command before these was lost on its way. Were they applied, its retry would be taken for a
            // duplicate: acknowledged, and never applied.
            if !mutant!(config, GapAccepted) {
                if is_own {
                    report(Applied::Gap {
                        session: id,
                        expected,
                    });
                }
                return;
            }
            session.skip_to(batch.first);
        }
        for (sequence, command) in (batch.first.0..).map(Sequence).zip(batch.commands.iter()) {
            let outcome = if sequence <= session.last() {
                // It was sent again while its first copy was on its way: once is enough.
                if mutant!(config, AppliedTwice)
                    && let Some(command) = &command
                {
                    self.state.apply(context, command);
                }
                if !is_own {
                    continue;
                }
                session.outcome(sequence)
            } else {
                let output = command.map(|command| self.state.apply(context, &command));
                self.commands += u64::from(output.is_some());
                session.push(context.index, output.clone(), config.session_bytes_max);
                match output {
                    Some(output) => Outcome::Applied {
                        index: context.index,
                        output,
                    },
                    None => Outcome::GivenUp,
                }
            };
            if is_own {
                report(Applied::Ended {
                    session: id,
                    sequence,
                    outcome,
                });
            }
        }
    }

    fn freeze(&mut self) {
        let Some(incarnation) = self.incarnation else {
            return;
        };
        self.latest = Latest::Frozen(Box::new(Frozen {
            incarnation,
            position: self.applied,
            configuration: self.configuration.clone(),
            configured_at: self.configured_at,
            sessions: self.sessions.clone(),
            commands: self.commands,
            state: self.state.freeze(),
        }));
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
        self.applied = manifest.position;
        self.incarnation = Some(manifest.incarnation);
        self.configure(manifest.configured_at, manifest.configuration.clone());
        self.latest = Latest::Made(Arc::clone(snapshot));
        Ok(())
    }
}

impl<F: FrozenState> Frozen<F> {
    fn to_snapshot(&self) -> Snapshot {
        let sessions = self.sessions.encode();
        let mut parts = sessions.chunks(CHUNK_LEN);
        let header = Header {
            commands: self.commands,
            session_chunks: parts.len() as u32,
        };
        let mut first = wire::encode(&header).expect("two numbers can always be encoded");
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
