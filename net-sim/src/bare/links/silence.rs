//! What happens to links when an end falls silent: crashes, pauses, cuts, and what comes after them.

use super::super::Context;
use super::Links;
use super::types::{ACCEPTOR, DIALER, LinkClosed, LinkEvent, LinkId, State, other};
use crate::NodeIndex;
use crate::time::SimTime;

impl<P> Links<P> {
    pub(super) fn crashed<I, T: From<LinkEvent<P>>>(
        &mut self,
        node: NodeIndex,
        context: &mut Context<I, T>,
    ) {
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
    pub(super) fn restarted<I, T: From<LinkEvent<P>>>(
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
    pub(super) fn reset<I, T: From<LinkEvent<P>>>(
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

    pub(super) fn look_at_all<I, T: From<LinkEvent<P>>>(&mut self, context: &mut Context<I, T>) {
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
    pub(super) fn look_for_silence<I, T: From<LinkEvent<P>>>(
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
}
