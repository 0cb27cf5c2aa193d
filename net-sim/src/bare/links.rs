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

use std::collections::BTreeMap;
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

#[cfg(test)]
impl LinkId {
    pub(super) const fn for_test(slot: u32) -> Self {
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
const DIAL_AGAIN: Duration = Duration::from_millis(500);

const DIALER: u8 = 0;
const ACCEPTOR: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has not heard of the link yet (the acceptor), or not whether it is accepted (the dialer).
    Waiting,
    Open,
    /// Has left, and word of it is on its way.
    Left,
    /// Has left without a word.
    Gone,
}

impl State {
    const fn is_closed(self) -> bool {
        matches!(self, Self::Left | Self::Gone)
    }
}

/// One end, and the direction towards it.
struct End<P> {
    node: NodeIndex,
    life: u32,
    state: State,
    /// Arrivals keep their order: none is before this.
    last_arrival: SimTime,
    /// Since when the way here is cut.
    cut_since: Option<SimTime>,
    /// What a cut, or waiting for the link to open, holds up on its way here, by sequence.
    held_up: BTreeMap<u64, (Item<P>, usize)>,
    next_sequence: u64,
    /// What is on its way here, held up or not.
    under_way: usize,
    /// Raised when what was on its way is lost, so that its arrivals are void.
    batch: u32,
    /// Whether this end has sent more than may wait, and is about to be told so.
    overflowed: bool,
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
    fn lose_all_under_way(&mut self) {
        self.batch += 1;
        self.under_way = 0;
        self.held_up.clear();
    }
}

struct Link<P> {
    ends: [End<P>; 2],
}

struct Slot<P> {
    unique: u32,
    link: Option<Link<P>>,
}

/// All links of a network.
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
        Self {
            config,
            slots: Vec::new(),
            free: Vec::new(),
        }
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
    /// sends before waits. A node does not reach itself.
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
                LinkId {
                    slot,
                    unique: place.unique,
                }
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("there are four billion links");
                self.slots.push(Slot {
                    unique: 0,
                    link: Some(link),
                });
                LinkId { slot, unique: 0 }
            }
        };
        if from != to {
            self.transmit(id, ACCEPTOR, Item::Dial, 0, context);
        }
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
        let queue_max = self.config.queue_max;
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if link.ends[end as usize].overflowed {
            return;
        }
        if link.ends[other(end) as usize].under_way >= queue_max {
            link.ends[end as usize].overflowed = true;
            self.send_word(id, end, LinkClosed::Overflow, context);
            let now = context.now();
            let gone = LinkEvent::Gone {
                link: id,
                end,
                leaves: SimTime::ZERO,
                reason: LinkClosed::Overflow,
            };
            context.schedule(now, gone.into());
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
        self.transmit(id, other(end), Item::Finish, 0, context);
        self.leave(id, end, State::Left);
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
            let left = self.send_word(id, end, LinkClosed::ByPeer, context);
            self.leave(id, end, left);
            self.look_for_silence(id, context);
        }
    }

    /// Lets an event of the links happen: gives what it brings to which node.
    pub fn handle<I, T: From<LinkEvent<P>>>(
        &mut self,
        event: LinkEvent<P>,
        context: &mut Context<I, T>,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        match event {
            LinkEvent::Arrival {
                link,
                end,
                leaves,
                batch,
                sequence,
                item,
            } => {
                let there = &mut self.link_mut(link)?.ends[end as usize];
                if batch != there.batch {
                    return None;
                }
                if leaves > there.sender_gone {
                    // Its sender had gone by then: neither it nor what follows it arrives.
                    there.lose_all_under_way();
                    self.remove_if_closed(link);
                    return None;
                }
                let too_late = there.cut_since.is_some_and(|since| leaves > since);
                let first_held_up = there.held_up.first_key_value();
                if too_late || first_held_up.is_some_and(|(first, _)| *first < sequence) {
                    there.held_up.insert(sequence, (item, 0));
                    return None;
                }
                self.arrive(link, end, batch, sequence, item, context)
            }
            LinkEvent::Gone {
                link,
                end,
                leaves,
                reason,
            } => {
                let there = &self.link_mut(link)?.ends[end as usize];
                if leaves > there.sender_gone {
                    return None;
                }
                self.end_closed(link, end, reason, State::Left)
            }
            LinkEvent::Silence { link, end, silence } => {
                let here = &self.link_mut(link)?.ends[end as usize];
                if !here.silent || here.silence != silence || here.state.is_closed() {
                    return None;
                }
                let input = self.end_closed(link, end, LinkClosed::TimedOut, State::Gone);
                // It closes without a word, which the other end does not know.
                self.look_for_silence(link, context);
                input
            }
            LinkEvent::ConnectTimeout { link } => {
                let dialer = &self.link_mut(link)?.ends[DIALER as usize];
                if dialer.state != State::Waiting {
                    return None;
                }
                let input = self.end_closed(link, DIALER, LinkClosed::Unreachable, State::Gone);
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
                for (id, end) in self.all_ends() {
                    self.release_held_up(id, end, context);
                }
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
        batch: u32,
        sequence: u64,
        item: Item<P>,
        context: &mut Context<I, T>,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        let link = self.link_mut(id)?;
        let dialer = link.ends[DIALER as usize].state;
        let from = link.ends[other(end) as usize].node;
        let there = &mut link.ends[end as usize];
        let (node, state) = (there.node, there.state);
        if matches!(item, Item::Dial)
            && dialer == State::Waiting
            && (!context.is_up(node) || context.is_paused(node))
        {
            // Nobody answers, so it is sent again.
            let now = context.now();
            let again = LinkEvent::Arrival {
                link: id,
                end,
                leaves: now,
                batch,
                sequence,
                item,
            };
            context.schedule(now + DIAL_AGAIN, again.into());
            return None;
        }
        there.under_way = there.under_way.saturating_sub(1);
        if state.is_closed() || !context.is_up(node) {
            self.remove_if_closed(id);
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
                self.release_held_up(id, ACCEPTOR, context);
                Some((node, LinkInput::Opened(id, from)))
            }
            Item::Message(message) => Some((node, LinkInput::Message(id, from, message))),
            Item::Finish => {
                self.leave(id, end, State::Left);
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
        if let Some(link) = self.link_mut(id) {
            let there = &mut link.ends[end as usize];
            let sequence = there.next_sequence;
            there.next_sequence += 1;
            there.under_way += 1;
            self.send_on(id, end, sequence, item, len, context);
        }
    }

    fn send_on<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        sequence: u64,
        item: Item<P>,
        len: usize,
        context: &mut Context<I, T>,
    ) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        let not_open = end == ACCEPTOR
            && link.ends[DIALER as usize].state == State::Waiting
            && !matches!(item, Item::Dial);
        let from = link.ends[other(end) as usize].node;
        let there = &mut link.ends[end as usize];
        // Behind what is held up there is no way past.
        if not_open || !there.held_up.is_empty() || context.faults.is_cut(from, there.node) {
            there.held_up.insert(sequence, (item, len));
            return;
        }
        let now = context.now();
        let sent = context.faults.reliable(now, from, there.node, len);
        there.last_arrival = there.last_arrival.max(sent.arrives);
        let (at, batch, leaves) = (there.last_arrival, there.batch, sent.leaves);
        let arrival = LinkEvent::Arrival {
            link: id,
            end,
            leaves,
            batch,
            sequence,
            item,
        };
        context.schedule(at, arrival.into());
    }

    /// Sends what was held up on its way to `end`, as far as nothing holds it up any more.
    fn release_held_up<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        context: &mut Context<I, T>,
    ) {
        let Some(link) = self.link_mut(id) else {
            return;
        };
        for (sequence, (item, len)) in std::mem::take(&mut link.ends[end as usize].held_up) {
            self.send_on(id, end, sequence, item, len, context);
        }
    }

    /// Sends word to the other end that `end` closes; gives what `end` is then.
    fn send_word<I, T: From<LinkEvent<P>>>(
        &mut self,
        id: LinkId,
        end: u8,
        reason: LinkClosed,
        context: &mut Context<I, T>,
    ) -> State {
        let Some(link) = self.link_mut(id) else {
            return State::Gone;
        };
        let (from, to) = (
            link.ends[end as usize].node,
            link.ends[other(end) as usize].node,
        );
        let refuses = end == ACCEPTOR && link.ends[DIALER as usize].state == State::Waiting;
        if refuses {
            // The dialer must not be told before that it was accepted.
            link.ends[DIALER as usize].lose_all_under_way();
        }
        // Word of a closing is sent once: where the way is cut, nobody hears of it.
        if context.faults.is_cut(from, to) {
            return State::Gone;
        }
        let reason = if refuses { LinkClosed::Refused } else { reason };
        let now = context.now();
        let sent = context.faults.reliable(now, from, to, 0);
        let gone = LinkEvent::Gone {
            link: id,
            end: other(end),
            leaves: sent.leaves,
            reason,
        };
        context.schedule(sent.arrives, gone.into());
        State::Left
    }

    /// `end` learns that the link is closed.
    fn end_closed(
        &mut self,
        id: LinkId,
        end: u8,
        reason: LinkClosed,
        left: State,
    ) -> Option<(NodeIndex, LinkInput<P>)> {
        let link = self.link_mut(id)?;
        let from = link.ends[other(end) as usize].node;
        let there = &link.ends[end as usize];
        let (node, state) = (there.node, there.state);
        if !state.is_closed() {
            self.leave(id, end, left);
        }
        match state {
            State::Left | State::Gone => None,
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
            if here.node != node || here.state == State::Gone {
                continue;
            }
            // An acceptor that has not heard of the link may still, in its next life.
            if here.state == State::Waiting && end == ACCEPTOR {
                continue;
            }
            here.state = State::Gone;
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
            if here.node == node && here.state == State::Gone && here.life < context.life(node) {
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
        let there = &link.ends[end as usize];
        let to = there.node;
        if there.state.is_closed()
            || context.faults.is_cut(from, to)
            || context.faults.is_cut(to, from)
        {
            return;
        }
        let round_trip = context.faults.latency(to, from) + context.faults.latency(from, to);
        // It comes from the node's present life, or from one that is well: no crash before takes it away.
        let (at, leaves) = (context.now() + round_trip, SimTime::ZERO);
        let gone = LinkEvent::Gone {
            link: id,
            end,
            leaves,
            reason: LinkClosed::Reset,
        };
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
                peer.state == State::Gone && context.is_up(peer.node)
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
        let now = context.now();
        let timeout = now + self.config.idle_timeout;
        let Some(link) = self.link_mut(id) else {
            return;
        };
        for end in [DIALER, ACCEPTOR] {
            let (peer, peer_state) = {
                let peer = &link.ends[other(end) as usize];
                (peer.node, peer.state)
            };
            let here = &mut link.ends[end as usize];
            let cut = context.faults.is_cut(peer, here.node);
            here.cut_since = cut.then(|| here.cut_since.unwrap_or(now));
            if here.state != State::Open {
                continue;
            }
            let silent = peer_state == State::Gone || context.is_paused(peer) || cut;
            if silent != here.silent {
                here.silent = silent;
                here.silence += 1;
                if silent {
                    let silence = here.silence;
                    context.schedule(
                        timeout,
                        LinkEvent::Silence {
                            link: id,
                            end,
                            silence,
                        }
                        .into(),
                    );
                }
            }
        }
    }

    /// `end` has nothing more to do with the link.
    fn leave(&mut self, id: LinkId, end: u8, left: State) {
        if let Some(link) = self.link_mut(id) {
            link.ends[end as usize].state = left;
            link.ends[end as usize].lose_all_under_way();
        }
        self.remove_if_closed(id);
    }

    fn remove_if_closed(&mut self, id: LinkId) {
        let closed = |link: &mut Link<P>| {
            let [dialer, acceptor] = &link.ends;
            // An acceptor that has never heard of the link may still be told, unless nothing is on its
            // way to it.
            dialer.state.is_closed()
                && (acceptor.state.is_closed()
                    || acceptor.state == State::Waiting && acceptor.under_way == 0)
        };
        if self.link_mut(id).is_some_and(closed) {
            self.slots[id.slot as usize].link = None;
            self.free.push(id.slot);
        }
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link<P>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.unique == id.unique {
            slot.link.as_mut()
        } else {
            None
        }
    }

    /// Which end of the link is at `node`, where it has not left.
    fn end_of(&mut self, id: LinkId, node: NodeIndex) -> Option<u8> {
        let link = self.link_mut(id)?;
        let is_here = |end: u8| {
            let here = &link.ends[end as usize];
            here.node == node && !here.state.is_closed()
        };
        [DIALER, ACCEPTOR].into_iter().find(|end| is_here(*end))
    }

    fn all_ends(&self) -> Vec<(LinkId, u8)> {
        let numbered = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.link.is_some());
        numbered
            .flat_map(|(slot, place)| {
                let id = LinkId {
                    slot,
                    unique: place.unique,
                };
                [(id, DIALER), (id, ACCEPTOR)]
            })
            .collect()
    }
}

const fn other(end: u8) -> u8 {
    1 - end
}
