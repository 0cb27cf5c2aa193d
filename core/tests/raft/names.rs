//! Short names for what has long ones: members, lives, incarnations.

use std::collections::BTreeMap;

use smalti_core::id::PeerId;
use smalti_core::protocol::raft::{Incarnation, Member, Position};

/// The names that have been given so far.
#[derive(Default)]
pub(crate) struct Names {
    /// The lives of each node, in the order in which they began.
    lives: BTreeMap<u8, Vec<Member>>,
    incarnations: Vec<Incarnation>,
}

/// The peer called `n1`, `n2`, and so on.
pub(crate) fn peer(node: u8) -> PeerId {
    PeerId::from_bytes([node; 32])
}

/// The number of a peer.
pub(crate) fn node(peer: &PeerId) -> u8 {
    peer.as_bytes()[0]
}

impl Names {
    /// Takes note of a life.
    pub(crate) fn born(&mut self, member: Member) {
        let lives = self.lives.entry(node(&member.peer)).or_default();
        if !lives.contains(&member) {
            lives.push(member);
        }
    }

    /// `n1` in its first life, `n1'` in its second.
    pub(crate) fn member(&self, member: &Member) -> String {
        let node = node(&member.peer);
        let lives = self.lives.get(&node).map_or(&[][..], Vec::as_slice);
        let life = lives.iter().position(|life| life == member);
        life.map_or_else(
            || format!("n{node}?"),
            |life| format!("n{node}{}", "'".repeat(life)),
        )
    }

    /// Some members, in order.
    pub(crate) fn members<'a>(&self, members: impl IntoIterator<Item = &'a Member>) -> String {
        let names: Vec<_> = members.into_iter().map(|it| self.member(it)).collect();
        names.join(" ")
    }

    /// `X` for the first one seen, `Y` for the second.
    pub(crate) fn incarnation(&mut self, incarnation: Option<&Incarnation>) -> String {
        let Some(incarnation) = incarnation else {
            return "-".to_owned();
        };
        let at = self.incarnations.iter().position(|it| it == incarnation);
        let at = at.unwrap_or_else(|| {
            self.incarnations.push(*incarnation);
            self.incarnations.len() - 1
        });
        ["X", "Y", "Z", "W", "V", "U"]
            .get(at)
            .map_or_else(|| format!("X{at}"), |name| (*name).to_owned())
    }
}

/// Index and term, `4@2`.
pub(crate) fn position(position: Position) -> String {
    format!("{}@{}", position.index, position.term)
}
