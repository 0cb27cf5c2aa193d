//! Reliable links between two nodes, as a stream of QUIC is reliable.

mod silence;
mod types;

pub use types::{LinkClosed, LinkConfig, LinkEvent, LinkId, LinkInput};

use super::Context;
use crate::NodeIndex;
use crate::faults::Fault;
use crate::time::SimTime;
use types::{ACCEPTOR, DIAL_AGAIN, DIALER, End, Item, Link, State, other};

struct Slot<P> {
    unique: u32,
    link: Option<Link<P>>,
}

/// All links of a network: reliable, as a stream of QUIC is.
///
/// What is sent on a link arrives once and in order, or the link closes and all that has not arrived is
/// gone. So loss shows as delay, and a partition as silence: an end that has heard nothing for
/// [`LinkConfig::idle_timeout`] closes, each end by itself. With one direction cut, the end that hears
/// nothing closes first, and the other only once that one has fallen silent. A crashed node says nothing;
/// what it had put on the wire still arrives. Once it has started again, its peers' packets are answered by
/// a reset, so that they learn of it at once. Two links keep no order between them.
///
/// An [`Environment`](super::Environment) that uses links gives their events back to them
/// ([`Links::handle`]), tells them of faults ([`Links::fault`]), and hands what they have for a machine to
/// that machine:
///
/// ```text
/// fn event(&mut self, event: LinkEvent<Message>, context: &mut Context<Input, LinkEvent<Message>>) {
///     if let Some((node, input)) = self.links.handle(event, context) {
///         context.deliver(node, Input::Link(input));
///     }
/// }
/// ```
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
            | Fault::EndCut(..)
            | Fault::EndPartition(..)
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
            | Fault::Jump(..)
            | Fault::FailSync(_)
            | Fault::FailWrite(_)
            | Fault::SlowDisk(..)
            | Fault::FillDisk(_)
            | Fault::FreeDisk(_) => {}
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
