//! The numbers and names that everything else is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, GroupId, Instance, PeerId};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The one before this; none comes before [`ZERO`](Self::ZERO).
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A term: at most one leader is elected in each. The founder leads term 1.
    Term
}
/// No group comes so far. Higher terms are not believed.
pub(super) const TERM_MAX: Term = Term(u64::MAX / 2);

number! {
    /// The place of an entry in the log. The founding is entry 1.
    Index
}
number! {
    /// The place of a command in its session, from 1.
    Sequence
}

/// Where a log ends, or an entry lies. Ordered as elections compare logs: by term, then by index (Ongaro
/// and Ousterhout 2014, section 5.4.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The term of the entry.
    pub term: Term,
    /// Its index.
    pub index: Index,
}

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self {
        term: Term::ZERO,
        index: Index::ZERO,
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// One life of a group: the digest of its founding. Two foundings never have the same, since each has 32
/// fresh random bytes; so logs of two lives are never taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub Digest);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

/// Who votes and acknowledges: a peer in one of its lives. A peer that has forgotten what it promised is
/// another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The peer.
    pub peer: PeerId,
    /// Which of its lives: fresh with each start in memory, stored with the vote where that is durable.
    pub instance: Instance,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.peer.short(), self.instance)
    }
}

/// One run of a member, from a start to the next. A durable member is the same member in all of its runs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Run {
    /// How often the member's store has been opened; always 0 in memory.
    pub boot: u64,
    /// Drawn at the start, and kept in the store. Two runs of a member under one boot number show that its store was set back
    /// between them: a copy that was made before the first of them has the number before it.
    pub id: u64,
}

impl Run {
    /// Whether this run cannot come after `other` unless the member's store was set back.
    #[must_use]
    pub const fn is_set_back_from(self, other: Self) -> bool {
        self.boot < other.boot || (self.boot == other.boot && self.id != other.id)
    }
}

/// How many runs a member knows its own by, the present one among them.
const RUNS: usize = 8;

/// The ids of the last runs of a member's store, the present one first; 0 where there was none.
///
/// By boot numbers alone nobody sees that a store was set back once it has been opened so often since that it has come past
/// the number it had before. The ids tell: a run that others have heard of is among those before the present one, unless
/// the store forgot it or that was too long ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs([u64; RUNS]);

impl Runs {
    /// None yet.
    pub const NONE: Self = Self([0; RUNS]);

    /// These, and then the run `id`.
    #[must_use]
    pub fn then(mut self, id: u64) -> Self {
        self.0.rotate_right(1);
        self.0[0] = id;
        self
    }

    /// Whether the store that has had these runs, the last of which was its number `boot`, never had the run `other`: it was
    /// set back to before that. Where the run was too long ago it is not known, and taken for had.
    #[must_use]
    pub fn lack(&self, boot: u64, other: Run) -> bool {
        let Some(since) = boot.checked_sub(other.boot) else {
            return true;
        };
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        self.0.get(since).is_some_and(|id| *id != other.id)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.boot, self.id >> 32)
    }
}

/// A place in the history of a group. Indexes of two incarnations cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The life of the group.
    pub incarnation: Incarnation,
    /// The entry.
    pub index: Index,
}

/// How a group began: the contents of entry 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// The group.
    pub group: GroupId,
    /// Fresh random bytes: without them a group founded again by the same members would take messages of
    /// its earlier life for its own.
    pub nonce: [u8; 32],
    /// Who founds, and leads term 1.
    pub founder: Member,
    /// The first voters, the founder among them.
    pub voters: Vec<Member>,
    /// So many of the voters must have accepted before anything is acknowledged; 0 and 1 say nothing.
    pub expected: u32,
    /// The incarnation that this one goes on from.
    pub parent: Option<Incarnation>,
}

impl Charter {
    /// The incarnation that this founds.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        let mut parts: Vec<&[u8]> = vec![
            self.group.as_bytes(),
            &self.nonce,
            self.founder.peer.as_bytes(),
            self.founder.instance.as_bytes(),
        ];
        let expected = self.expected.to_be_bytes();
        parts.push(&expected);
        for voter in &self.voters {
            parts.push(voter.peer.as_bytes());
            parts.push(voter.instance.as_bytes());
        }
        // Instances are fresh as well: the deliberate bug has neither.
        #[cfg(smalti_mutants)]
        if self.nonce == [0; 32] {
            let peers = self.voters.iter().map(|voter| &voter.peer.as_bytes()[..]);
            parts = peers.collect();
        }
        if let Some(parent) = &self.parent {
            parts.push(parent.0.as_bytes());
        }
        Incarnation(Digest::of("smalti incarnation", &parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_had_the_runs_before_the_present_one_and_no_others() {
        // Its runs have the ids 101 to 112.
        let runs = (101..=112).fold(Runs::NONE, Runs::then);
        let lacks = |boot, id| runs.lack(12, Run { boot, id });
        for boot in 5..=12 {
            assert!(!lacks(boot, 100 + boot), "{boot}");
            assert!(lacks(boot, 1), "{boot}");
        }
        assert!(lacks(13, 113), "one that is still to come");
        assert!(!lacks(4, 104) && !lacks(4, 1), "too long ago to be known");
    }
}
