//! Gossip links between bare machines, treated as the discovery worker treats real ones.

use std::collections::BTreeMap;

use smalti_core::id::PeerId;
use smalti_core::protocol::discovery::{Input, Message};
use smalti_sim::NodeIndex;
use smalti_sim::bare::{LinkClosed, LinkId, LinkInput, Links};

use super::bytes::wire_len;
use super::membership::Members;
use super::network::Ctx;
use super::rare;
use crate::Coverage;

/// The gossip links of all nodes.
#[derive(Default)]
pub(super) struct Gossip {
    pub(super) links: Links<Message>,
    nodes: Vec<Ends>,
}

/// The links of one node in its present life.
#[derive(Clone, Default)]
struct Ends {
    /// The link in use with each peer.
    open: BTreeMap<NodeIndex, End>,
    /// Links that are not open yet.
    dialling: BTreeMap<LinkId, NodeIndex>,
}

#[derive(Clone, Copy)]
struct End {
    link: LinkId,
    opened_by: PeerId,
}

impl Gossip {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            links: Links::default(),
            nodes: vec![Ends::default(); nodes as usize],
        }
    }

    /// The node has lost all that it had in memory.
    pub(super) fn forget(&mut self, node: NodeIndex) {
        self.nodes[node.0 as usize] = Ends::default();
    }

    pub(super) fn connect(&mut self, node: NodeIndex, to: NodeIndex, ctx: &mut Ctx) {
        let link = self.links.connect(node, to, ctx);
        self.nodes[node.0 as usize].dialling.insert(link, to);
    }

    pub(super) fn disconnect(&mut self, node: NodeIndex, from: NodeIndex, ctx: &mut Ctx) {
        let ends = &mut self.nodes[node.0 as usize];
        if let Some(end) = ends.open.remove(&from) {
            self.links.finish(end.link, node, ctx);
        }
        let dialling = ends.dialling.iter();
        let given_up: Vec<_> = dialling
            .filter(|(_, to)| **to == from)
            .map(|(link, _)| *link)
            .collect();
        ends.dialling.retain(|_, to| *to != from);
        for link in given_up {
            self.links.close(link, node, ctx);
        }
    }

    /// Closes all links of a node that leaves, once what it has sent has arrived.
    pub(super) fn leave(&mut self, node: NodeIndex, ctx: &mut Ctx) {
        let ends = std::mem::take(&mut self.nodes[node.0 as usize]);
        for end in ends.open.values() {
            self.links.finish(end.link, node, ctx);
        }
        for link in ends.dialling.keys() {
            self.links.close(*link, node, ctx);
        }
    }

    pub(super) fn send(&mut self, node: NodeIndex, to: NodeIndex, message: Message, ctx: &mut Ctx) {
        let Some(end) = self.nodes[node.0 as usize].open.get(&to) else {
            return;
        };
        // Only a path with a bandwidth asks for the length.
        let bandwidth = ctx.faults().links(node, to).bandwidth;
        let len = bandwidth.map_or(0, |_| wire_len(&message));
        self.links.send(end.link, node, message, len, ctx);
    }

    /// What a link brings to `node`, as an input of its machine.
    pub(super) fn input(
        &mut self,
        node: NodeIndex,
        input: LinkInput<Message>,
        members: &Members,
        coverage: &mut Coverage,
        ctx: &mut Ctx,
    ) -> Option<Input> {
        let ends = &mut self.nodes[node.0 as usize];
        match input {
            LinkInput::Incoming(link, peer) => {
                if members.has_left(node) {
                    self.links.close(link, node, ctx);
                    return None;
                }
                let opened_by = members.id(peer);
                self.adopt(node, peer, End { link, opened_by }, members, coverage, ctx)
            }
            LinkInput::Opened(link, peer) => {
                ends.dialling.remove(&link)?;
                let opened_by = members.id(node);
                self.adopt(node, peer, End { link, opened_by }, members, coverage, ctx)
            }
            LinkInput::Failed(link, peer, _) => {
                ends.dialling.remove(&link)?;
                Some(Input::ConnectFailed(members.id(peer)))
            }
            LinkInput::Message(link, peer, message) => {
                let from = members.id(peer);
                (ends.open.get(&peer)?.link == link).then_some(Input::Message { from, message })
            }
            LinkInput::Finished(link, peer) => ends.lost(link, peer, members),
            LinkInput::Closed(link, peer, reason) => {
                match reason {
                    LinkClosed::TimedOut => coverage.reach(rare::LINK_TIMED_OUT),
                    LinkClosed::Reset => coverage.reach(rare::LINK_RESET),
                    LinkClosed::Overflow => coverage.reach(rare::LINK_OVERFLOW),
                    LinkClosed::ByPeer | LinkClosed::Refused | LinkClosed::Unreachable => {}
                }
                ends.lost(link, peer, members)
            }
        }
    }

    /// Takes a link into use. Where both ends opened one at the same time, that of the smaller peer
    /// id stays; a second one opened by the same end means that it has lost the first.
    fn adopt(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        end: End,
        members: &Members,
        coverage: &mut Coverage,
        ctx: &mut Ctx,
    ) -> Option<Input> {
        let open = &mut self.nodes[node.0 as usize].open;
        if let Some(present) = open.get(&peer) {
            if present.opened_by == end.opened_by {
                coverage.reach(rare::DIALLED_AGAIN);
            } else {
                coverage.reach(rare::BOTH_DIALLED);
            }
            if present.opened_by < end.opened_by {
                self.links.close(end.link, node, ctx);
                return None;
            }
        }
        if let Some(replaced) = open.insert(peer, end) {
            self.links.finish(replaced.link, node, ctx);
        }
        Some(Input::Connected(members.id(peer)))
    }
}

impl Ends {
    fn lost(&mut self, link: LinkId, peer: NodeIndex, members: &Members) -> Option<Input> {
        if self.open.get(&peer)?.link != link {
            return None;
        }
        self.open.remove(&peer);
        Some(Input::Disconnected(members.id(peer)))
    }
}
