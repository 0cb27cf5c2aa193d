//! Whether this node has come as far as its leader had when it was first heard.

use crate::id::PeerId;
use crate::protocol::raft::{Envelope, Incarnation, Index, Message, Status, Term};

/// Somebody's leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reign {
    incarnation: Option<Incarnation>,
    term: Term,
    leader: PeerId,
}

/// What a leader says of how far the log is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    reign: Reign,
    commit: Index,
}

impl Heard {
    /// What `envelope` says of it, which is from `peer`.
    pub(super) fn of(peer: PeerId, envelope: &Envelope) -> Option<Self> {
        let Message::Append(append) = &envelope.message else {
            return None;
        };
        let reign = Reign {
            incarnation: envelope.incarnation,
            term: append.term,
            leader: peer,
        };
        let commit = append.commit;
        Some(Self { reign, commit })
    }
}

/// How far a leader had come when it was first heard: what this node has from then on is not older than that.
///
/// A follower's own commit index says nothing of this: it is never above what the follower has.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// The leader that was heard, and the goal; none once that is reached.
    first: Option<(Reign, Option<Index>)>,
}

impl Level {
    /// Takes what was heard of the leader that is followed; what others say does not count.
    pub(super) fn hear(&mut self, heard: Heard, status: &Status<'_>) {
        if reign(status) == Some(heard.reign) {
            self.begin(heard);
        }
    }

    fn begin(&mut self, heard: Heard) {
        if self.first.is_none_or(|(reign, _)| reign != heard.reign) {
            self.first = Some((heard.reign, Some(heard.commit)));
        }
    }

    /// Whether this node has all that was committed, as far as its leader knew, when it was first heard.
    pub(super) fn is_reached(&mut self, status: &Status<'_>) -> bool {
        let reign = reign(status);
        let leads = status.leader.is_some_and(|leader| leader == status.me);
        leads || reign.is_some_and(|reign| self.reaches(reign, status.applied))
    }

    fn reaches(&mut self, reign: Reign, applied: Index) -> bool {
        let Some((of, goal)) = &mut self.first else {
            return false;
        };
        if *of != reign {
            return false;
        }
        if goal.is_some_and(|goal| applied >= goal) {
            *goal = None;
        }
        goal.is_none()
    }
}

fn reign(status: &Status<'_>) -> Option<Reign> {
    let leader = status.leader?.peer;
    Some(Reign {
        incarnation: status.incarnation,
        term: status.term,
        leader,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reign(term: u64, leader: u8) -> Reign {
        Reign {
            incarnation: None,
            term: Term(term),
            leader: PeerId::from_bytes([leader; 32]),
        }
    }

    fn heard(reign: Reign, commit: u64) -> Heard {
        let commit = Index(commit);
        Heard { reign, commit }
    }

    #[test]
    fn who_has_what_its_leader_had_at_first_stays_level_while_more_comes() {
        let mut level = Level::default();
        let first = reign(1, 1);
        assert!(!level.reaches(first, Index(9)), "nobody was heard");
        level.begin(heard(first, 5));
        assert!(!level.reaches(first, Index(4)));
        level.begin(heard(first, 7));
        assert!(level.reaches(first, Index(5)));
        level.begin(heard(first, 90));
        assert!(level.reaches(first, Index(6)));
    }

    #[test]
    fn another_leader_is_another_goal() {
        let mut level = Level::default();
        level.begin(heard(reign(1, 1), 5));
        assert!(level.reaches(reign(1, 1), Index(5)));
        for other in [reign(2, 1), reign(1, 2)] {
            assert!(!level.reaches(other, Index(9)), "it was not heard");
            level.begin(heard(other, 12));
            assert!(!level.reaches(other, Index(9)));
            assert!(level.reaches(other, Index(12)));
        }
    }
}
