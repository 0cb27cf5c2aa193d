//! Synchronisation sessions between bare machines: a link each, as in the discovery worker.

use std::collections::BTreeMap;

use smalti_core::protocol::discovery::{Input, SessionId, SyncMessage};
use smalti_sim::NodeIndex;
use smalti_sim::bare::{LinkId, LinkInput, Links};

use super::bytes::wire_len;
use super::membership::Members;
use super::network::Ctx;
use super::rare;
use crate::Coverage;

/// The sessions of all nodes.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) links: Links<SyncMessage>,
    nodes: Vec<Ends>,
}

/// The sessions of one node in its present life.
#[derive(Clone, Default)]
struct Ends {
    links: BTreeMap<SessionId, (LinkId, NodeIndex)>,
    sessions: BTreeMap<LinkId, SessionId>,
    incoming: u64,
}

impl Sessions {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            links: Links::default(),
            nodes: vec![Ends::default(); nodes as usize],
        }
    }

    /// The node has lost all that it had in memory. Gives how many sessions were open.
    pub(super) fn forget(&mut self, node: NodeIndex) -> usize {
        std::mem::take(&mut self.nodes[node.0 as usize]).links.len()
    }

    pub(super) fn open(
        &mut self,
        node: NodeIndex,
        session: SessionId,
        with: NodeIndex,
        ctx: &mut Ctx,
    ) {
        let link = self.links.connect(node, with, ctx);
        self.nodes[node.0 as usize].insert(session, link, with);
    }

    /// Sends `message` where the session is open.
    pub(super) fn send(
        &mut self,
        node: NodeIndex,
        session: SessionId,
        message: SyncMessage,
        ctx: &mut Ctx,
    ) {
        let ends = &self.nodes[node.0 as usize];
        if let Some((link, with)) = ends.links.get(&session) {
            let bandwidth = ctx.faults().links(node, *with).bandwidth;
            let len = bandwidth.map_or(0, |_| wire_len(&message));
            self.links.send(*link, node, message, len, ctx);
        }
    }

    /// With whom `session` is.
    pub(super) fn other_end(&self, node: NodeIndex, session: SessionId) -> Option<NodeIndex> {
        let ends = &self.nodes[node.0 as usize];
        ends.links.get(&session).map(|(_, with)| *with)
    }

    pub(super) fn close(&mut self, node: NodeIndex, session: SessionId, ctx: &mut Ctx) {
        if let Some(link) = self.nodes[node.0 as usize].remove(session) {
            self.links.finish(link, node, ctx);
        }
    }

    /// Ends all sessions of a node that leaves.
    pub(super) fn leave(&mut self, node: NodeIndex, ctx: &mut Ctx) {
        let ends = std::mem::take(&mut self.nodes[node.0 as usize]);
        for (link, _) in ends.links.values() {
            self.links.close(*link, node, ctx);
        }
    }

    /// What a link brings to `node`, as an input of its machine.
    pub(super) fn input(
        &mut self,
        node: NodeIndex,
        input: LinkInput<SyncMessage>,
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
                ends.incoming += 1;
                let session = SessionId::Incoming(ends.incoming);
                ends.insert(session, link, peer);
                let peer = members.id(peer);
                Some(Input::SyncOpened { session, peer })
            }
            LinkInput::Opened(..) => None,
            LinkInput::Message(link, _, message) => {
                let session = *ends.sessions.get(&link)?;
                Some(Input::SyncMessage { session, message })
            }
            LinkInput::Finished(link, _) => {
                let session = *ends.sessions.get(&link)?;
                self.close(node, session, ctx);
                let cause = None;
                Some(Input::SyncClosed { session, cause })
            }
            LinkInput::Failed(link, _, reason) | LinkInput::Closed(link, _, reason) => {
                let session = *ends.sessions.get(&link)?;
                ends.remove(session);
                coverage.reach(rare::SESSION_LOST);
                let cause = Some(format!("{reason:?}").into());
                Some(Input::SyncClosed { session, cause })
            }
        }
    }
}

impl Ends {
    fn insert(&mut self, session: SessionId, link: LinkId, with: NodeIndex) {
        self.links.insert(session, (link, with));
        self.sessions.insert(link, session);
    }

    fn remove(&mut self, session: SessionId) -> Option<LinkId> {
        let (link, _) = self.links.remove(&session)?;
        self.sessions.remove(&link);
        Some(link)
    }
}
