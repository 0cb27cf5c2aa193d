//! The sessions of a group: which command of whom has been applied, and what came of it.
//!
//! A retried command is recognised by its place in its session (Ongaro 2014, section 6.3). The table is a
//! function of the log alone: every member holds the same one, and none forgets by its own clock.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{Owner, SessionId};
use super::types::{Index, Sequence};
use crate::wire;

/// Counted for each output beside its bytes, so that empty ones are bounded as well.
const OUTPUT_OVERHEAD: u64 = 32;

/// The sessions. A clone costs nothing, whatever their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions(im::OrdMap<SessionId, Arc<Session>>);

impl Sessions {
    /// Opens a session for `owner` under `id`, the index of the entry that asks for it, and gives its id;
    /// the one that this run of the owner has already, if there is one.
    ///
    /// Sessions of other runs of the peer end: nobody waits for them any more. `None` where the entry comes
    /// from a run that a later one has followed. Above `sessions_max` the session unused for longest ends.
    pub(super) fn open(
        &mut self,
        id: SessionId,
        owner: Owner,
        sessions_max: u32,
    ) -> Option<SessionId> {
        let of_peer = |owned: &Owner| owned.member.peer == owner.member.peer;
        let former: Vec<(SessionId, Owner)> = self
            .0
            .iter()
            .map(|(id, session)| (*id, session.owner))
            .filter(|(_, owned)| of_peer(owned))
            .collect();
        if let Some((id, _)) = former.iter().find(|(_, owned)| *owned == owner) {
            return Some(*id);
        }
        let follows = |owned: &Owner| owned.member == owner.member && owned.boot > owner.boot;
        if former.iter().any(|(_, owned)| follows(owned)) {
            return None;
        }
        for (id, _) in former {
            self.0.remove(&id);
        }
        self.insert(id, Session::new(owner, id));
        while self.0.len() > sessions_max as usize {
            let unused = self
                .0
                .iter()
                .min_by_key(|(id, session)| (session.used, **id));
            let Some(unused) = unused.map(|(id, _)| *id) else {
                break;
            };
            self.0.remove(&unused);
        }
        Some(id)
    }

    /// Puts a session in the table.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        self.0.insert(id, Arc::new(session));
    }

    /// The session, if it has not ended.
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.0.get(&id).map(|session| &**session)
    }

    /// The session, to be changed. The first change after a clone of the table copies the session.
    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.0.get_mut(&id).map(Arc::make_mut)
    }

    /// The session of this run of a member.
    pub(super) fn of(&self, owner: Owner) -> Option<(SessionId, &Session)> {
        self.0
            .iter()
            .find(|(_, session)| session.owner == owner)
            .map(|(id, session)| (*id, &**session))
    }

    /// The table as bytes: equal tables give equal bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let sessions: Vec<(SessionId, &Session)> = self
            .0
            .iter()
            .map(|(id, session)| (*id, &**session))
            .collect();
        wire::encode(&sessions).expect("numbers and byte strings can always be encoded")
    }

    /// The table that `bytes` hold, as it was after entry `through`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn decode(bytes: &[u8], through: Index) -> Result<Self, SessionsError> {
        let sessions: Vec<(SessionId, Session)> = wire::decode(bytes)?;
        let mut table = im::OrdMap::new();
        let mut previous = None;
        for (id, mut session) in sessions {
            if previous >= Some(id) {
                return Err(SessionsError::Unordered(id.0));
            }
            session.check(id, through)?;
            session.outputs_bytes = session.outputs.iter().map(Stored::size).sum();
            previous = Some(id);
            table.insert(id, Arc::new(session));
        }
        Ok(Self(table))
    }
}

/// Bytes that are no table of sessions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionsError {
    /// They are none at all.
    #[error(transparent)]
    Malformed(#[from] wire::DecodeError),
    /// A session does not lie above the one before it.
    #[error("session {0} is out of order")]
    Unordered(Index),
    /// A session cannot have come about.
    #[error("session {id} {how}")]
    Impossible {
        /// The session.
        id: Index,
        /// What is wrong with it.
        how: &'static str,
    },
}

/// What is known of one run of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    owner: Owner,
    /// The last command that was applied or given up.
    last: Sequence,
    /// The entry of its last batch, or the one that opened it.
    used: Index,
    /// What came of the latest commands, the last one at the end.
    outputs: VecDeque<Stored>,
    #[serde(skip)]
    outputs_bytes: u64,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// The entry it was in.
    index: Index,
    /// `None`: it was given up.
    output: Option<Bytes>,
}

impl Stored {
    fn size(&self) -> u64 {
        OUTPUT_OVERHEAD + self.output.as_ref().map_or(0, |output| output.len() as u64)
    }
}

/// How a command of a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was applied, once.
    Applied {
        /// In this entry.
        index: Index,
        /// What the state machine gave.
        output: Bytes,
    },
    /// It was given up before it was applied.
    GivenUp,
    /// It ended, and what came of it is no longer kept.
    Lost,
}

impl Session {
    /// A session that nothing has been applied in.
    pub(super) fn new(owner: Owner, id: SessionId) -> Self {
        Self {
            owner,
            last: Sequence::ZERO,
            used: id.0,
            outputs: VecDeque::new(),
            outputs_bytes: 0,
        }
    }

    /// Whose it is.
    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// The last command that was applied or given up.
    pub(super) const fn last(&self) -> Sequence {
        self.last
    }

    /// Takes note of a batch in entry `index`: the owner has all outputs up to `acked_through`.
    pub(super) fn touch(&mut self, index: Index, acked_through: Sequence) {
        self.used = index;
        while self.first_kept() <= acked_through && !self.outputs.is_empty() {
            self.drop_oldest();
        }
    }

    /// Takes note of how the command after [`last`](Self::last) ended in entry `index`: with an output, or
    /// given up. Drops the oldest outputs above `bytes_max`.
    pub(super) fn push(&mut self, index: Index, output: Option<Bytes>, bytes_max: u32) {
        let stored = Stored { index, output };
        self.last = self.last.next();
        self.outputs_bytes += stored.size();
        self.outputs.push_back(stored);
        while self.outputs_bytes > u64::from(bytes_max) {
            self.drop_oldest();
        }
    }

    /// Goes on as if all commands before `first` had ended.
    pub(super) fn skip_to(&mut self, first: Sequence) {
        self.last = first.previous();
        self.outputs.clear();
        self.outputs_bytes = 0;
    }

    /// How a command ended that is not above [`last`](Self::last).
    pub(super) fn outcome(&self, sequence: Sequence) -> Outcome {
        let stored = sequence
            .0
            .checked_sub(self.first_kept().0)
            .and_then(|at| self.outputs.get(usize::try_from(at).ok()?));
        match stored {
            None => Outcome::Lost,
            Some(Stored { output: None, .. }) => Outcome::GivenUp,
            Some(Stored {
                index,
                output: Some(output),
            }) => Outcome::Applied {
                index: *index,
                output: output.clone(),
            },
        }
    }

    /// The command whose output is at the front.
    fn first_kept(&self) -> Sequence {
        Sequence(self.last.0 - self.outputs.len() as u64).next()
    }

    fn drop_oldest(&mut self) {
        if let Some(stored) = self.outputs.pop_front() {
            self.outputs_bytes -= stored.size();
        }
    }

    /// Whether a session opened by entry `id` may look like this after entry `through`.
    fn check(&self, id: SessionId, through: Index) -> Result<(), SessionsError> {
        let impossible = |how| Err(SessionsError::Impossible { id: id.0, how });
        if self.outputs.len() as u64 > self.last.0 {
            return impossible("has more outputs than commands");
        }
        if self.used < id.0 || self.used > through {
            return impossible("was last used before it was opened, or after the snapshot");
        }
        let mut previous = id.0;
        for stored in &self.outputs {
            if stored.index < previous || stored.index > self.used {
                return impossible("has outputs out of order");
            }
            previous = stored.index;
        }
        Ok(())
    }
}
