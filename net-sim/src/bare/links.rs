//! Reliable links between two nodes, as a stream of QUIC is reliable.
//!
//! What is sent on a link arrives once and in order, or the link closes and all that has not arrived is
//! gone. So loss shows as delay, and a partition as silence: an end that has heard nothing for
//! [`LinkConfig::idle_timeout`] closes, each end by itself. With one direction cut, the end that hears
//! nothing closes first, and the other only once that one has fallen silent. A crashed node says nothing;
//! what it had put on the wire still arrives. Once it has started again, its peers' packets are answered by
//! a reset, so that they learn of it at once. Two links keep no order between them.
//!
//! An [`Environment`](super::Environment) that uses links gives their events back to them
//! ([`Links::handle`]), tells them of faults ([`Links::fault`]), and hands what they have for a machine to
//! that machine:
//!
//! ```text
//! fn event(&mut self, event: LinkEvent<Message>, context: &mut Context<Input, LinkEvent<Message>>) {
//!     if let Some((node, input)) = self.links.handle(event, context) {
//!         context.deliver(node, Input::Link(input));
//!     }
//! }
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::Context;
use crate::NodeIndex;
use crate::faults::Fault;
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
    slot: u32,
    unique: u32,
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
    Arrival { link: LinkId, end: u8, leaves: SimTime, batch: u32, item: Item<P> },
    /// One end learns that the link is closed.
    #[doc(hidden)]
    Gone { link: LinkId, end: u8, leaves: SimTime, reason: LinkClosed },
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

const DIALER: u8 = 0;
const ACCEPTOR: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has not heard of the link yet (the acceptor), or not whether it is accepted (the dialer).
    Waiting,
    Open,
    Closed,
}

/// One end, and the direction towards it.
struct End<P> {
    node: NodeIndex,
    life: u32,
    state: State,
    /// Arrivals keep their order: none is before this.
    last_arrival: SimTime,
    /// What a cut holds up on its way here.
    held_up: VecDeque<(Item<P>, usize)>,
    /// What is on its way here, held up or not.
    under_way: usize,
    /// Raised when what was on its way is held up or lost, so that its arrivals are void.
    batch: u32,
    /// Whether nothing is heard here, and how often that has changed.
    silent: bool,
    silence: u32,
    /// When the sender went silent for good: what would have left after that does not arrive.
    sender_gone: SimTime,
}

impl<P> End<P> {
    const fn new(node: NodeIndex, life: u32) -> Self {
        Self {
            node,
            life,
            state: State::Waiting,
            last_arrival: SimTime::ZERO,
            held_up: VecDeque::new(),
            under_way: 0,
            batch: 0,
            silent: false,
            silence: 0,
            sender_gone: SimTime::NEVER,
        }
    }
}

struct Link<P> {
    ends: [End<P>; 2],
}

struct Slot<P> {
    unique: u32,
    link: Option<Link<P>>,
}

/// All links of a network. See the [module](self).
pub struct Links<P> {
    config: LinkConfig,
    slots: Vec<Slot<P>>,
    free: Vec<u32>,
}

impl<P> Default for Links<P> {
    fn default() -> Self {
        Self::new(LinkConfig::default())
    }
}

impl<P> Links<P> {
    /// No links yet.
    #[must_use]
    pub const fn new(config: LinkConfig) -> Self {
        Self { config, slots: Vec::new(), free: Vec::new() }
    }

    /// How many links at least one end of which is open.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no link is open.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets `from` dial `to`. `from` hears of it by [`LinkInput::Opened`] or [`LinkInput::Failed`]; what it
    /// sends before waits.
    pub fn connect<I, T: From<LinkEvent<P>>>(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        context: &mut Context<I, T>,
    ) -> LinkId {
        let link = Link {
            ends: [End::new(from, context.life(from)), End::new(to, u32::MAX)],
        };
        let id = match self.free.pop() {
            Some(slot) => {
                let place = &mut self.slots[slot as usize];
                place.unique += 1;
                place.link = Some(link);
                LinkId { slot, unique: place.unique }
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("there are four billion links");
                self.slots.push(Slot { unique: 0, link: Some(link) });
                LinkId { slot, unique: 0 }
            }
        };
        self.transmit(id, ACCEPTOR, Item::Dial, 0, context);
        let timeout = context.now() + self.config.connect_timeout;
        context.schedule(timeout, LinkEvent::ConnectTimeout { link: id }.into());
        id
    }

    /// Sends `message`, which takes `len` bytes, from `node` to the other end. Nothing happens where the
    /// link is closed at this end.
    pub fn send<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        node: NodeIndex,
        message: P,
        len: usize,
        context: &mut Context<I, T>,
    ) {
        let Some(end) = self.end_of(id, node) else {
            return;
        };
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if link.ends[end as usize].state == State::Closed {
            return;
        }
        if link.ends[other(end) as usize].under_way >= self.config.queue_max {
            self.close_end(id, end, LinkClosed::Overflow, context);
            let now = context.now();
            // The end that overflowed hears of it, too.
            if let Some(link) = self.link_mut(id) {
                link.ends[end as usize].state = State::Open;
                let gone =
                    LinkEvent::Gone { link: id, end, leaves: now, reason: LinkClosed::Overflow };
                context.schedule(now, gone.into());
            }
            return;
        }
        self.transmit(id, other(end), Item::Message(message), len, context);
    }

    /// Closes the link at `node`, once all that it has sent has arrived. It hears nothing more of it.
    pub fn finish<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        node: NodeIndex,
        context: &mut Context<I, T>,
    ) {
        let Some(end) = self.end_of(id, node) else {
            return;
        };
        if self.link_mut(id).is_some_and(|link| link.ends[end as usize].state != State::Closed) {
            self.transmit(id, other(end), Item::Finish, 0, context);
            self.leave(id, end);
        }
    }

    /// Closes the link at `node`, which hears nothing more of it. What it has sent arrives unless the news
    /// of the closing overtakes it.
    pub fn close<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        node: NodeIndex,
        context: &mut Context<I, T>,
    ) {
        if let Some(end) = self.end_of(id, node) {
            self.close_end(id, end, LinkClosed::ByPeer, context);
        }
    }

    /// Lets an event of the links happen: gives what it brings to which node.
    pub fn handle<I, T: From<LinkEvent<P>>>(
        &mut self,
        event: LinkEvent<P>,
        context: &mut Context<I, T>,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        match event {
            LinkEvent::Arrival { link, end, leaves, batch, item } => {
                self.arrive(link, end, leaves, batch, item, context)
            }
            LinkEvent::Gone { link, end, leaves, reason } => {
                let there = &self.link_mut(link)?.ends[end as usize];
                (leaves < there.sender_gone).then(|| self.end_closed(link, end, reason)).flatten()
            }
            LinkEvent::Silence { link, end, silence } => {
                let here = &self.link_mut(link)?.ends[end as usize];
                if !here.silent || here.silence != silence || here.state == State::Closed {
                    return None;
                }
                let input = self.end_closed(link, end, LinkClosed::TimedOut);
                // It closes without a word, which the other end does not know.
                self.look_for_silence(link, context);
                input
            }
            LinkEvent::ConnectTimeout { link } => {
                let dialer = &self.link_mut(link)?.ends[DIALER as usize];
                if dialer.state != State::Waiting {
                    return None;
                }
                let input = self.end_closed(link, DIALER, LinkClosed::Unreachable);
                self.look_for_silence(link, context);
                input
            }
        }
    }

    /// Tells the links of a fault that has struck.
    pub fn fault<I, T: From<LinkEvent<P>>>(&mut self, fault: &Fault, context: &mut Context<I, T>) {
        match fault {
            Fault::Crash(node) => self.crashed(*node, context),
            Fault::Restart(node) => self.restarted(*node, context),
            Fault::Pause(_) | Fault::Resume(_) => self.look_at_all(context),
            Fault::Cut(..)
            | Fault::Partition(..)
            | Fault::Mend(..)
            | Fault::Repair(..)
            | Fault::RepairAll => {
                self.look_at_all(context);
                self.release_held_up(context);
            }
            Fault::Links(_)
            | Fault::Path(..)
            | Fault::CrashAfter(..)
            | Fault::Drift(..)
            | Fault::Jump(..) => {}
        }
    }

    fn arrive<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        leaves: SimTime,
        batch: u32,
        item: Item<P>,
        context: &mut Context<I, T>,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        let link = self.link_mut(id)?;
        let from = link.ends[other(end) as usize].node;
        let there = &mut link.ends[end as usize];
        if batch != there.batch {
            return None;
        }
        // Sent again after its sender had gone: neither it nor what follows it arrives.
        if leaves >= there.sender_gone {
            there.batch += 1;
            return None;
        }
        there.under_way = there.under_way.saturating_sub(1);
        let (node, state) = (there.node, there.state);
        if state == State::Closed || !context.is_up(node) {
            return None;
        }
        match item {
            Item::Dial => {
                there.state = State::Open;
                there.life = context.life(node);
                self.transmit(id, DIALER, Item::Accept, 0, context);
                self.look_for_silence(id, context);
                Some((node, LinkInput::Incoming(id, from)))
            }
            Item::Accept => {
                there.state = State::Open;
                self.look_for_silence(id, context);
                Some((node, LinkInput::Opened(id, from)))
            }
            Item::Message(message) => {
                (state == State::Open).then_some((node, LinkInput::Message(id, from, message)))
            }
            Item::Finish => {
                self.leave(id, end);
                Some((node, LinkInput::Finished(id, from)))
            }
        }
    }

    /// Sends `item` towards `end`.
    fn transmit<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        item: Item<P>,
        len: usize,
        context: &mut Context<I, T>,
    ) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        let from = link.ends[other(end) as usize].node;
        let there = &mut link.ends[end as usize];
        there.under_way += 1;
        // Behind what is held up there is no way past.
        if !there.held_up.is_empty() || context.faults.is_cut(from, there.node) {
            there.held_up.push_back((item, len));
            return;
        }
        let now = context.now();
        let sent = context.faults.reliable(now, from, there.node, len);
        there.last_arrival = there.last_arrival.max(sent.arrives);
        let (at, batch) = (there.last_arrival, there.batch);
        let arrival = LinkEvent::Arrival { link: id, end, leaves: sent.leaves, batch, item };
        context.schedule(at, arrival.into());
    }

    /// Sends again what a cut held up, where it no longer does.
    fn release_held_up<I, T: From<LinkEvent<P>>>(&mut self, context: &mut Context<I, T>) {
        for (id, end) in self.all_ends() {
            let Some(link) = self.link_mut(id) else {
                continue;
            };
            let from = link.ends[other(end) as usize].node;
            let there = &mut link.ends[end as usize];
            if there.held_up.is_empty() || context.faults.is_cut(from, there.node) {
                continue;
            }
            for (item, len) in std::mem::take(&mut there.held_up) {
                // It was counted when it was first sent.
                if let Some(link) = self.link_mut(id) {
                    link.ends[end as usize].under_way -= 1;
                }
                self.transmit(id, end, item, len, context);
            }
        }
    }

    /// Closes `end` because its node wants so, and sends word of it to the other.
    fn close_end<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        reason: LinkClosed,
        context: &mut Context<I, T>,
    ) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if link.ends[end as usize].state == State::Closed {
            return;
        }
        let (from, to) = (link.ends[end as usize].node, link.ends[other(end) as usize].node);
        if context.faults.is_cut(from, to) {
            // Nobody hears of it.
            link.ends[end as usize].state = State::Closed;
            self.look_for_silence(id, context);
            self.remove_if_closed(id);
            return;
        }
        let dialer_waits = end == ACCEPTOR && link.ends[DIALER as usize].state == State::Waiting;
        let reason = if dialer_waits { LinkClosed::Refused } else { reason };
        let now = context.now();
        let sent = context.faults.reliable(now, from, to, 0);
        let gone = LinkEvent::Gone { link: id, end: other(end), leaves: sent.leaves, reason };
        context.schedule(sent.arrives, gone.into());
        self.leave(id, end);
        // A dialer that is refused must not be told before that it was accepted.
        if dialer_waits && let Some(link) = self.link_mut(id) {
            link.ends[DIALER as usize].batch += 1;
        }
    }

    /// `end` learns that the link is closed.
    fn end_closed(
        &mut self,
        id: LinkId,
        end: u8,
        reason: LinkClosed,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        let link = self.link_mut(id)?;
        let from = link.ends[other(end) as usize].node;
        let there = &link.ends[end as usize];
        let (node, state) = (there.node, there.state);
        self.leave(id, end);
        match state {
            State::Closed => None,
            State::Waiting if end == DIALER => Some((node, LinkInput::Failed(id, from, reason))),
            State::Waiting => None,
            State::Open => Some((node, LinkInput::Closed(id, from, reason))),
        }
    }

    fn crashed<I, T: From<LinkEvent<P>>>(&mut self, node: NodeIndex, context: &mut Context<I, T>) {
        let now = context.now();
        for (id, end) in self.all_ends() {
            let Some(link) = self.link_mut(id) else {
                continue;
            };
            let here = &mut link.ends[end as usize];
            if here.node != node || here.state == State::Closed {
                continue;
            }
            // An acceptor that has not heard of the link may still, in its next life.
            if here.state == State::Waiting && end == ACCEPTOR {
                continue;
            }
            here.state = State::Closed;
            let peer = &mut link.ends[other(end) as usize];
            peer.sender_gone = now;
            peer.held_up.clear();
            self.look_for_silence(id, context);
            self.remove_if_closed(id);
        }
    }

    /// A node that has started again answers for its former life that it is gone.
    fn restarted<I, T: From<LinkEvent<P>>>(
        &mut self,
        node: NodeIndex,
        context: &mut Context<I, T>,
    ) {
        for (id, end) in self.all_ends() {
            let Some(link) = self.link_mut(id) else {
                continue;
            };
            let here = &link.ends[end as usize];
            if here.node == node && here.state == State::Closed && here.life < context.life(node) {
                self.reset(id, other(end), context);
            }
        }
    }

    /// `end` goes on sending to one that knows nothing of the link, and is told so.
    fn reset<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        context: &mut Context<I, T>,
    ) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        let from = link.ends[other(end) as usize].node;
        let there = &mut link.ends[end as usize];
        let to = there.node;
        if there.state == State::Closed
            || context.faults.is_cut(from, to)
            || context.faults.is_cut(to, from)
        {
            return;
        }
        // The reset comes from the node's present life, or from one that is well.
        there.sender_gone = SimTime::NEVER;
        there.batch += 1;
        let round_trip = context.faults.latency(to, from) + context.faults.latency(from, to);
        let (at, leaves) = (context.now() + round_trip, context.now());
        let gone = LinkEvent::Gone { link: id, end, leaves, reason: LinkClosed::Reset };
        context.schedule(at, gone.into());
    }

    fn look_at_all<I, T: From<LinkEvent<P>>>(&mut self, context: &mut Context<I, T>) {
        for (id, end) in self.all_ends() {
            if end == DIALER {
                self.look_for_silence(id, context);
            }
            // An end whose peer has timed out while the path was cut is told so now.
            if self.link_mut(id).is_some_and(|link| {
                let peer = &link.ends[other(end) as usize];
                peer.state == State::Closed && context.is_up(peer.node)
            }) {
                self.reset(id, end, context);
            }
        }
    }

    /// Notes for both ends whether they hear anything, and when that lasts too long.
    fn look_for_silence<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        context: &mut Context<I, T>,
    ) {
        let timeout = context.now() + self.config.idle_timeout;
        let Some(link) = self.link_mut(id) else {
            return;
        };
        for end in [DIALER, ACCEPTOR] {
            let (peer, peer_state) = {
                let peer = &link.ends[other(end) as usize];
                (peer.node, peer.state)
            };
            let here = &mut link.ends[end as usize];
            if here.state != State::Open {
                continue;
            }
            let silent = peer_state == State::Closed
                || context.is_paused(peer)
                || context.faults.is_cut(peer, here.node);
            if silent != here.silent {
                here.silent = silent;
                here.silence += 1;
                if silent {
                    let silence = here.silence;
                    context.schedule(timeout, LinkEvent::Silence { link: id, end, silence }.into());
                }
            }
        }
    }

    /// `end` has nothing more to do with the link.
    fn leave(&mut self, id: LinkId, end: u8) {
        if let Some(link) = self.link_mut(id) {
            link.ends[end as usize].state = State::Closed;
            link.ends[end as usize].held_up.clear();
        }
        self.remove_if_closed(id);
    }

    fn remove_if_closed(&mut self, id: LinkId) {
        let closed = |link: &mut Link<P>| {
            let [dialer, acceptor] = &link.ends;
            // An acceptor that has never heard of the link may still be told, unless nothing is on its
            // way to it.
            dialer.state == State::Closed
                && (acceptor.state == State::Closed
                    || acceptor.state == State::Waiting && acceptor.under_way == 0)
        };
        if self.link_mut(id).is_some_and(closed) {
            self.slots[id.slot as usize].link = None;
            self.free.push(id.slot);
        }
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link<P>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.unique == id.unique { slot.link.as_mut() } else { None }
    }

    /// Which end of the link is at `node`. A node linked with itself is the dialer as long as that end is
    /// open.
    fn end_of(&mut self, id: LinkId, node: NodeIndex) -> Option<u8> {
        let link = self.link_mut(id)?;
        let is_here = |end: u8| {
            let here = &link.ends[end as usize];
            here.node == node && here.state != State::Closed
        };
        [DIALER, ACCEPTOR].into_iter().find(|end| is_here(*end))
    }

    fn all_ends(&self) -> Vec<(LinkId, u8)> {
        let numbered = (0..).zip(&self.slots).filter(|(_, slot)| slot.link.is_some());
        numbered
            .flat_map(|(slot, place)| {
                let id = LinkId { slot, unique: place.unique };
                [(id, DIALER), (id, ACCEPTOR)]
            })
            .collect()
    }
}

const fn other(end: u8) -> u8 {
    1 - end
}
