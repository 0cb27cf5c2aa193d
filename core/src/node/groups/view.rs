//! What can be seen of a group, and conditions on it.

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::Stopped;
use crate::id::PeerId;
use crate::node::watched::{Edge, Watched};
use crate::protocol::raft::{Incarnation, Index, Phase, Position, Role, Status, Term, Version};

/// Entries of a log that follow each other.
pub type IndexRange = RangeInclusive<Index>;

/// Where a node stands in a group at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The life of the group that the node belongs to; `None` while it looks for one.
    pub incarnation: Option<Incarnation>,
    /// What the node does.
    pub role: Role,
    /// The latest term that it has seen.
    pub term: Term,
    /// The leader that it follows, or itself.
    pub leader: Option<PeerId>,
    /// The voters, in ascending order, as far as its log goes.
    pub voters: Arc<[PeerId]>,
    /// Where its log ends.
    pub last: Position,
    /// The lowest index of which its log has the entry. What is below is part of its snapshot.
    pub kept_from: Index,
    /// How far it knows the log to be committed.
    pub committed: Index,
    /// How far its state machine has come.
    pub applied: Index,
    /// How many commands of clients have been applied in this life of the group, by all members alike.
    pub commands: u64,
    /// The node knows the leader, has all that the leader knew to be committed when it was first heard, and the group has not
    /// met another founding of itself: commands and queries are answered.
    pub is_online: bool,
    /// How often the node has come from one life of the group to another since it joined: the number of the latest of its
    /// [passages](super::Group::take_passages).
    pub passages: u64,
    /// Who is waited for, where the group [stands still](super::GroupEvent::Stalled).
    pub stalled: Option<Arc<[PeerId]>>,
    /// Why the group does nothing any more on this node.
    pub stopped: Option<Stopped>,
}

impl GroupStatus {
    pub(super) fn new() -> Self {
        Self {
            incarnation: None,
            role: Role::Candidate,
            term: Term::ZERO,
            leader: None,
            voters: Arc::new([]),
            last: Position::ZERO,
            kept_from: Index::ZERO.next(),
            committed: Index::ZERO,
            applied: Index::ZERO,
            commands: 0,
            is_online: false,
            passages: 0,
            stalled: None,
            stopped: None,
        }
    }

    /// What the machine shows now; `is_level` where the node has come as far as its leader had when it was first heard.
    pub(super) fn updated(&self, status: &Status<'_>, is_level: bool) -> Self {
        let leader = status.leader.map(|leader| leader.peer);
        let voters = || status.configuration.voters.iter().map(|voter| voter.peer);
        let voters = if voters().eq(self.voters.iter().copied()) {
            self.voters.clone()
        } else {
            voters().collect()
        };
        let is_level = is_level && status.applied > Index::ZERO && !status.is_catching_up;
        let is_open = status.phase == Phase::Open;
        Self {
            incarnation: status.incarnation,
            role: status.role,
            term: status.term,
            leader,
            voters,
            last: status.last,
            kept_from: status.kept_from,
            committed: status.commit,
            applied: status.applied,
            commands: status.commands,
            is_online: leader.is_some() && is_level && is_open,
            passages: self.passages,
            stalled: (status.stalled)
                .map(|stalled| stalled.missing.iter().map(|it| it.peer).collect()),
            stopped: None,
        }
    }

    /// What is left once the group has stopped.
    pub(super) fn after_stop(&self, why: Stopped) -> Self {
        Self {
            role: Role::Stopped,
            leader: None,
            is_online: false,
            stalled: None,
            stopped: Some(why),
            ..self.clone()
        }
    }

    /// The entries that its log has. Empty where there is none.
    #[must_use]
    pub const fn log(&self) -> IndexRange {
        self.kept_from..=self.last.index
    }

    /// Whether the node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// How far the state of this node has come; `None` before it belongs to the group.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.incarnation.map(|incarnation| Version {
            incarnation,
            index: self.applied,
        })
    }
}

/// Makes conditions on a group.
///
/// A condition is a future. It completes when what it says becomes true, or is true when it is first polled. It can
/// be polled again then: it completes once more when what it says has been false in between. It sees the newest
/// state, not every state: what is true for less than it takes to wake up may be missed. Dropping it costs
/// nothing. A condition that is not true when the group stops on this node stays so, but for
/// [`offline`](Self::offline).
#[derive(Clone)]
pub struct When(Arc<Watched<GroupStatus>>);

impl When {
    pub(super) const fn new(status: Arc<Watched<GroupStatus>>) -> Self {
        Self(status)
    }

    fn condition(&self, kind: Kind) -> Condition {
        Condition {
            edge: Edge::new(self.0.clone()),
            kind,
            negated: false,
        }
    }

    /// The group has a leader, as far as this node knows.
    pub fn leader_elected(&self) -> Condition {
        self.condition(Kind::Led)
    }

    /// The group has another leader than it has now, or one at all where it has none now.
    pub fn leader_changed(&self) -> Condition {
        let now = self.0.get().leader;
        self.condition(Kind::LedByAnotherThan(now))
    }

    /// This peer leads.
    pub fn leader_is(&self, peer: PeerId) -> Condition {
        self.condition(Kind::LedBy(peer))
    }

    /// This node leads.
    pub fn is_leader(&self) -> Condition {
        self.condition(Kind::Leads)
    }

    /// Another node leads.
    pub fn is_follower(&self) -> Condition {
        self.condition(Kind::Follows)
    }

    /// This node knows the leader and has all that the leader knew to be committed when it was first heard: commands and
    /// queries are answered.
    pub fn online(&self) -> Condition {
        self.condition(Kind::Online)
    }

    /// The contrary of [`online`](Self::online).
    pub fn offline(&self) -> Condition {
        self.online().unmet()
    }

    /// The node has come to another life of the group, once more than until now:
    /// [`take_passages`](super::Group::take_passages) says how.
    pub fn passed(&self) -> Condition {
        let now = self.0.get().passages;
        self.condition(Kind::Passed(now))
    }

    /// All up to `version` is applied on this node. Never true where the node belongs to another life of the group for good.
    pub fn reaches(&self, version: impl Into<Version>) -> Condition {
        self.condition(Kind::Reached(version.into()))
    }

    /// More is committed than now, and applied on this node. [`Committed::reaches`] says how much.
    pub fn committed(&self) -> Committed {
        let next = self.0.get().applied.next();
        Committed(self.condition(Kind::Applied(next)))
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("When")
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Led,
    LedBy(PeerId),
    LedByAnotherThan(Option<PeerId>),
    Leads,
    Follows,
    Online,
    Applied(Index),
    Reached(Version),
    /// Oftener than so.
    Passed(u64),
}

impl Kind {
    fn is_met(self, status: &GroupStatus) -> bool {
        match self {
            Self::Led => status.leader.is_some(),
            Self::LedBy(peer) => status.leader == Some(peer),
            Self::LedByAnotherThan(former) => status.leader.is_some() && status.leader != former,
            Self::Leads => status.is_leader(),
            Self::Follows => status.leader.is_some() && !status.is_leader(),
            Self::Online => status.is_online,
            Self::Applied(index) => status.applied >= index,
            Self::Passed(times) => status.passages > times,
            Self::Reached(version) => status.version().is_some_and(|now| {
                now.incarnation == version.incarnation && now.index >= version.index
            }),
        }
    }
}

/// Completes when something becomes true of a group. See [`When`].
#[derive(Debug)]
#[must_use = "a condition does nothing unless it is awaited"]
pub struct Condition {
    edge: Edge<GroupStatus>,
    kind: Kind,
    negated: bool,
}

impl Condition {
    /// The contrary.
    pub const fn unmet(mut self) -> Self {
        self.negated = !self.negated;
        self
    }

    /// Whether it is true now.
    #[must_use]
    pub fn is_condition_met(&self) -> bool {
        self.kind.is_met(&self.edge.get()) != self.negated
    }
}

impl Future for Condition {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            edge,
            kind,
            negated,
        } = self.get_mut();
        edge.poll(cx, |status| kind.is_met(status) != *negated)
    }
}

/// Completes when the state of this node has come further. See [`When::committed`].
#[derive(Debug)]
#[must_use = "a condition does nothing unless it is awaited"]
pub struct Committed(Condition);

impl Committed {
    /// All up to `index` is committed, and applied on this node.
    pub fn reaches(self, index: impl Into<Index>) -> Condition {
        Condition {
            kind: Kind::Applied(index.into()),
            ..self.0
        }
    }
}

impl Future for Committed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::id::Digest;

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn life(n: u8) -> Incarnation {
        Incarnation(Digest::from_bytes([n; 32]))
    }

    fn version(n: u8) -> Version {
        Version {
            incarnation: life(n),
            index: Index(4),
        }
    }

    fn status(role: Role, leader: Option<PeerId>, applied: u64) -> GroupStatus {
        GroupStatus {
            incarnation: Some(life(1)),
            role,
            leader,
            applied: Index(applied),
            is_online: leader.is_some(),
            ..GroupStatus::new()
        }
    }

    fn is_ready(condition: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(condition).poll(&mut cx).is_ready()
    }

    #[test]
    fn conditions_say_what_the_status_shows() {
        let none = status(Role::Follower, None, 3);
        let leads = status(Role::Leader, Some(peer(1)), 3);
        let follows = status(Role::Follower, Some(peer(2)), 4);
        let stopped = GroupStatus {
            passages: 1,
            ..leads.after_stop(Stopped::Left)
        };
        type Make = fn(&When) -> Condition;
        let reaches: [Make; 2] = [
            |when| when.reaches(version(1)),
            |when| when.reaches(version(2)),
        ];
        let table: [(&str, Make, [bool; 4]); 12] = [
            ("reaches version", reaches[0], [false, false, true, false]),
            ("another life", reaches[1], [false; 4]),
            ("elected", When::leader_elected, [false, true, true, false]),
            (
                "is 1",
                |when| when.leader_is(peer(1)),
                [false, true, false, false],
            ),
            ("leads", When::is_leader, [false, true, false, false]),
            ("follows", When::is_follower, [false, false, true, false]),
            ("online", When::online, [false, true, true, false]),
            ("offline", When::offline, [true, false, false, true]),
            (
                "reaches",
                |when| when.committed().reaches(Index(4)),
                [false, false, true, false],
            ),
            (
                "not elected",
                |when| when.leader_elected().unmet(),
                [true, false, false, true],
            ),
            ("changed", When::leader_changed, [false, true, true, false]),
            ("passed", When::passed, [false, false, false, true]),
        ];
        for (name, make, expected) in table {
            let watched = Arc::new(Watched::new(none.clone()));
            let condition = make(&When::new(watched.clone()));
            for (status, expected) in [&none, &leads, &follows, &stopped]
                .into_iter()
                .zip(expected)
            {
                watched.set(status.clone());
                assert_eq!(condition.is_condition_met(), expected, "{name}: {status:?}");
            }
        }
    }

    #[test]
    fn a_condition_completes_each_time_it_becomes_true() {
        let watched = Arc::new(Watched::new(status(Role::Leader, Some(peer(1)), 3)));
        let when = When::new(watched.clone());
        let (mut led, mut changed, mut more) = (
            when.leader_elected(),
            when.leader_changed(),
            when.committed(),
        );
        assert!(is_ready(&mut led) && !is_ready(&mut led));
        assert!(!is_ready(&mut changed) && !is_ready(&mut more));
        watched.set(status(Role::Follower, None, 3));
        assert!(!is_ready(&mut led) && !is_ready(&mut changed));
        watched.set(status(Role::Follower, Some(peer(2)), 4));
        assert!(is_ready(&mut led) && is_ready(&mut changed) && is_ready(&mut more));
    }
}
