//! What the log holds.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::configuration::Configuration;
use super::standing::Offer;
use super::types::{Charter, Incarnation, Index, Member, Position, Run, Sequence, Term};

/// One entry of the log. Cheap to clone: commands are shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// Its place in the log.
    pub index: Index,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// Term and index.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            term: self.term,
            index: self.index,
        }
    }

    /// About as many bytes as it takes in memory and on the wire; for limits, not for accounts.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 64;
        FIXED
            + match &self.payload {
                Payload::Commands(batch) => batch.commands.len_bytes(),
                Payload::Configuration(configuration) => 64 * configuration.voters.len(),
                Payload::Founding(charter) => 64 * (charter.voters.len() + 4),
                Payload::Decided { .. } | Payload::Sealed { .. } => 128,
                Payload::Blank
                | Payload::Open(_)
                | Payload::SnapshotPoint
                | Payload::Frozen { .. }
                | Payload::Thawed { .. } => 0,
            }
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// How the group began. Entry 1, and no other.
    Founding(Box<Charter>),
    /// Nothing: the first entry of a leader, so that it may count entries of earlier terms as committed
    /// (Ongaro and Ousterhout 2014, section 5.4.2).
    Blank,
    /// The voters from here on.
    Configuration(Configuration),
    /// Opens a session for this run, unless it has one; the entry's index is the session's id. Earlier
    /// sessions of the same peer end.
    Open(Owner),
    /// Commands of one session.
    Commands(Batch),
    /// All members take a snapshot here.
    SnapshotPoint,
    /// The incarnation offers another one, of the greater digest, to be taken in by it: no commands are
    /// applied from here on until the entry's offer is settled. The position of the entry names the offer.
    Frozen {
        /// Who is to decide.
        to: Incarnation,
    },
    /// The incarnation decides on the offer of another: it takes it in if it is as heavy or heavier before
    /// this entry, else it is sealed into it here. Void for an offer that was decided on before.
    Decided {
        /// The offer.
        offer: Offer,
    },
    /// The other one has taken it in: the incarnation ends here. Void unless it is frozen, here, under that
    /// offer.
    Sealed {
        /// Where its members go on.
        into: Incarnation,
        /// The position of the `Frozen`.
        offer: Position,
    },
    /// The offer is taken back. Void unless it is frozen, here, under that offer.
    Thawed {
        /// The position of the `Frozen`.
        offer: Position,
    },
}

/// A session by the index of the entry that opened it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SessionId(pub Index);

/// Whose session it is: one run of a member. A durable member keeps its instance when it starts again, but
/// knows nothing of the commands that its earlier run still has on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The member.
    pub member: Member,
    /// Its run.
    pub run: Run,
}

/// Commands of one session that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The session.
    pub session: SessionId,
    /// The sequence number of the first command.
    pub first: Sequence,
    /// The client has the outputs of all commands up to this one: they need not be kept.
    pub acked_through: Sequence,
    /// The commands.
    pub commands: Commands,
}

impl Batch {
    /// Whether it holds commands, and could be of an honest session. To be asked of all that comes from
    /// elsewhere, before it is used.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let numbers = Sequence(1)..=SEQUENCE_MAX;
        numbers.contains(&self.first) && !self.commands.is_empty() && self.commands.is_well_formed()
    }

    /// The sequence number of the last command.
    #[must_use]
    pub const fn last(&self) -> Sequence {
        Sequence(
            self.first
                .0
                .saturating_add(self.commands.count as u64)
                .saturating_sub(1),
        )
    }
}

/// Encoded commands, one after the other in one shared buffer: each its length plus one as a `u32`, little
/// end first, and its bytes. A length of zero stands for a command that was given up before it was
/// applied: nothing is applied in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    count: u32,
    bytes: Bytes,
}

/// Bytes that precede each command.
const PREFIX: usize = 4;

impl Commands {
    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all of them, lengths included.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the bytes are what a [`CommandsBuilder`] writes. To be asked of all that comes from
    /// elsewhere, before it is used.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let mut rest = &self.bytes[..];
        for _ in 0..self.count {
            let Some((prefix, tail)) = rest.split_first_chunk::<PREFIX>() else {
                return false;
            };
            let len = (u32::from_le_bytes(*prefix) as usize).saturating_sub(1);
            let Some(tail) = tail.get(len..) else {
                return false;
            };
            rest = tail;
        }
        rest.is_empty()
    }

    /// The commands in order; `None` for one that was given up. Ends early where the bytes are not
    /// [well formed](Self::is_well_formed).
    #[must_use]
    pub fn iter(&self) -> CommandsIter<'_> {
        CommandsIter {
            count: self.count,
            rest: &self.bytes,
        }
    }

    /// The first commands, and the others: so many at most, none of which begins behind so many bytes.
    pub(super) fn split(self, count: u32, bytes: usize) -> (Self, Self) {
        if self.count <= count && self.bytes.len() <= bytes {
            return (self, Self::default());
        }
        let mut iter = self.iter();
        let taken = loop {
            let taken = self.count - iter.count;
            let len = self.bytes.len() - iter.rest.len();
            if taken >= count || len >= bytes || iter.next().is_none() {
                break len;
            }
        };
        let left = iter.count;
        let first = Self {
            count: self.count - left,
            bytes: self.bytes.slice(..taken),
        };
        let others = Self {
            count: left,
            bytes: self.bytes.slice(taken..),
        };
        (first, others)
    }

    /// All commands of `parts`, in order. Copied, unless there is one part.
    pub(super) fn concat(parts: &mut Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.pop().unwrap_or_default();
        }
        let len = parts.iter().map(Self::len_bytes).sum();
        let mut bytes = BytesMut::with_capacity(len);
        let mut count = 0;
        for part in parts.drain(..) {
            bytes.extend_from_slice(&part.bytes);
            count += part.count;
        }
        Self {
            count,
            bytes: bytes.freeze(),
        }
    }
}

/// The commands of [`Commands`], one by one.
#[derive(Clone, Debug, Default)]
pub struct CommandsIter<'a> {
    count: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for CommandsIter<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        if self.count == 0 {
            return None;
        }
        let (prefix, rest) = self.rest.split_first_chunk::<PREFIX>()?;
        let len = u32::from_le_bytes(*prefix) as usize;
        let (command, rest) = rest.split_at_checked(len.saturating_sub(1))?;
        self.count -= 1;
        self.rest = rest;
        Some((len > 0).then_some(command))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let fit = self.rest.len() / PREFIX;
        (0, Some(fit.min(self.count as usize)))
    }
}

/// Collects commands into one buffer.
#[derive(Debug, Default)]
pub struct CommandsBuilder {
    count: u32,
    bytes: BytesMut,
}

impl CommandsBuilder {
    /// Adds a command of at most [`COMMAND_LEN_MAX`] bytes; the caller has checked its length.
    pub fn push(&mut self, command: &[u8]) {
        debug_assert!(
            command.len() <= COMMAND_LEN_MAX,
            "the caller checks the length"
        );
        self.bytes.put_u32_le(command.len() as u32 + 1);
        self.bytes.put_slice(command);
        self.count += 1;
    }

    /// Adds the command that `write` appends to the buffer, and gives its length; where that is above
    /// [`COMMAND_LEN_MAX`] it is not added.
    ///
    /// # Errors
    /// As `write` does. Nothing is added.
    pub fn push_with<E>(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<usize, E> {
        let start = self.bytes.len();
        self.bytes.put_u32_le(0);
        let written = write(&mut self.bytes);
        let len = self.bytes.len() - start - PREFIX;
        if written.is_err() || len > COMMAND_LEN_MAX {
            self.bytes.truncate(start);
        } else {
            let prefix = len as u32 + 1;
            self.bytes[start..start + PREFIX].copy_from_slice(&prefix.to_le_bytes());
            self.count += 1;
        }
        written.map(|()| len)
    }

    /// Adds a place at which nothing is applied.
    pub fn push_given_up(&mut self) {
        self.bytes.put_u32_le(0);
        self.count += 1;
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of all of them, lengths included.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The commands collected so far; the builder is empty again.
    #[must_use]
    pub fn take(&mut self) -> Commands {
        Commands {
            count: std::mem::take(&mut self.count),
            bytes: self.bytes.split().freeze(),
        }
    }
}

/// No session comes so far: numbers that are counted up from one below never overflow.
pub(super) const SEQUENCE_MAX: Sequence = Sequence(u64::MAX / 2);

/// The longest command, in bytes.
pub const COMMAND_LEN_MAX: usize = 8 << 20;
