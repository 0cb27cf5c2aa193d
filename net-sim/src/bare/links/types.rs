//! What links are made of, and what they have to say.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::NodeIndex;
use crate::time::SimTime;

/// How links behave. The defaults are those of the real transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Silence after which an end closes its link. Live links are never silent: ends without anything to
    /// say keep them alive. Default 10 s.
    pub idle_timeout: Duration,
    /// How long a node tries to reach another. Default 5 s.
    pub connect_timeout: Duration,
    /// Messages that wait in one direction of a link, at most; the sender of one more closes the link, as a
    /// worker does whose peer does not keep up. Default 1,024.
    pub queue_max: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            queue_max: 1_024,
        }
    }
}

/// Names a link, at both of its ends and in this run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub(super) slot: u32,
    pub(super) unique: u32,
}

#[cfg(test)]
impl LinkId {
    pub(in super::super) const fn for_test(slot: u32) -> Self {
        Self { slot, unique: 0 }
    }
}

/// Why a link closed, or never opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkClosed {
    /// The other end closed it.
    ByPeer,
    /// Nothing was heard from the other end for too long.
    TimedOut,
    /// The other end knows nothing of the link: it has started again, or has timed out.
    Reset,
    /// More messages waited than may.
    Overflow,
    /// The other end closed it instead of accepting it.
    Refused,
    /// The other end was not reached in time.
    Unreachable,
}

/// What a link has for the machine at one of its ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkInput<P> {
    /// The peer has opened a link to this node. It is open; closing it now refuses it.
    Incoming(LinkId, NodeIndex),
    /// The link that this node asked for is open.
    Opened(LinkId, NodeIndex),
    /// The link that this node asked for did not open.
    Failed(LinkId, NodeIndex, LinkClosed),
    /// The peer has sent something.
    Message(LinkId, NodeIndex, P),
    /// The peer has said all it had to say and closed the link in order; all of it has arrived.
    Finished(LinkId, NodeIndex),
    /// The link has closed; what was not received by now never will be.
    Closed(LinkId, NodeIndex, LinkClosed),
}

/// What links schedule for themselves.
#[derive(Clone, Debug)]
pub enum LinkEvent<P> {
    /// Something arrives at one end.
    #[doc(hidden)]
    Arrival {
        link: LinkId,
        end: u8,
        leaves: SimTime,
        batch: u32,
        sequence: u64,
        item: Item<P>,
    },
    /// One end learns that the link is closed.
    #[doc(hidden)]
    Gone {
        link: LinkId,
        end: u8,
        leaves: SimTime,
        reason: LinkClosed,
    },
    /// One end may have heard nothing for too long.
    #[doc(hidden)]
    Silence { link: LinkId, end: u8, silence: u32 },
    /// The dialer has waited long enough.
    #[doc(hidden)]
    ConnectTimeout { link: LinkId },
}

/// What travels on a link.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Item<P> {
    Dial,
    Accept,
    Message(P),
    Finish,
}

/// How long a dialer waits before it tries again to reach a node that does not answer.
pub(super) const DIAL_AGAIN: Duration = Duration::from_millis(500);

pub(super) const DIALER: u8 = 0;
pub(super) const ACCEPTOR: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Has not heard of the link yet (the acceptor), or not whether it is accepted (the dialer).
    Waiting,
    Open,
    /// Has left, and word of it is on its way.
    Left,
    /// Has left without a word.
    Gone,
}

impl State {
    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Left | Self::Gone)
    }
}

/// One end, and the direction towards it.
pub(super) struct End<P> {
    pub(super) node: NodeIndex,
    pub(super) life: u32,
    pub(super) state: State,
    /// Arrivals keep their order: none is before this.
    pub(super) last_arrival: SimTime,
    /// Since when the way here is cut.
    pub(super) cut_since: Option<SimTime>,
    /// What a cut, or waiting for the link to open, holds up on its way here, by sequence.
    pub(super) held_up: BTreeMap<u64, (Item<P>, usize)>,
    pub(super) next_sequence: u64,
    /// What is on its way here, held up or not.
    pub(super) under_way: usize,
    /// Raised when what was on its way is lost, so that its arrivals are void.
    pub(super) batch: u32,
    /// Whether this end has sent more than may wait, and is about to be told so.
    pub(super) overflowed: bool,
    /// Whether nothing is heard here, and how often that has changed.
    pub(super) silent: bool,
    pub(super) silence: u32,
    /// When the sender went silent for good: what would have left after that does not arrive.
    pub(super) sender_gone: SimTime,
}

impl<P> End<P> {
    pub(super) const fn new(node: NodeIndex, life: u32) -> Self {
        Self {
            node,
            life,
            state: State::Waiting,
            last_arrival: SimTime::ZERO,
            cut_since: None,
            held_up: BTreeMap::new(),
            next_sequence: 0,
            under_way: 0,
            batch: 0,
            overflowed: false,
            silent: false,
            silence: 0,
            sender_gone: SimTime::NEVER,
        }
    }

    /// Nothing that is on its way here arrives.
    pub(super) fn lose_all_under_way(&mut self) {
        self.batch += 1;
        self.under_way = 0;
        self.held_up.clear();
    }
}

pub(super) struct Link<P> {
    pub(super) ends: [End<P>; 2],
}

pub(super) const fn other(end: u8) -> u8 {
    1 - end
}
