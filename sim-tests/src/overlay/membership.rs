//! Who the nodes are, and which of them take part at this moment: what catalogs are compared with.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use smalti_core::id::{Instance, PeerId, SecretKey};
use smalti_core::protocol::discovery::PeerAddr;
use smalti_core::time::WallTime;
use smalti_sim::NodeIndex;
use smalti_sim::rng::Streams;
use smalti_sim::time::SimTime;

/// The port of every node.
const PORT: u16 = 4433;

/// All nodes that there are or may come to be.
pub(super) struct Members {
    nodes: Vec<Member>,
    by_id: BTreeMap<PeerId, NodeIndex>,
}

/// One node over all its lives.
pub(super) struct Member {
    pub(super) key: SecretKey,
    pub(super) address: PeerAddr,
    /// Which run of it takes part, if one does.
    pub(super) live: Option<Instance>,
    /// Whether its present run has left.
    pub(super) has_left: bool,
    /// Whether its present run has raised its entry above that of an earlier one.
    pub(super) has_raised: bool,
    /// Whether it has no neighbours.
    pub(super) is_alone: bool,
    /// The wall clock when it last started.
    pub(super) started: Option<WallTime>,
    /// Its runs that have left, and when.
    pub(super) left: BTreeMap<Instance, SimTime>,
}

impl Members {
    pub(super) fn new(streams: &Streams, nodes: u32) -> Self {
        let nodes: Vec<Member> = (0..nodes)
            .map(|number| Member::new(streams, number))
            .collect();
        let numbered = (0..).map(NodeIndex).zip(&nodes);
        let by_id = numbered.map(|(node, member)| (member.address.id, node));
        Self {
            by_id: by_id.collect(),
            nodes,
        }
    }

    pub(super) fn id(&self, node: NodeIndex) -> PeerId {
        self.nodes[node.0 as usize].address.id
    }

    pub(super) fn node(&self, id: &PeerId) -> Option<NodeIndex> {
        self.by_id.get(id).copied()
    }

    pub(super) fn address(&self, node: NodeIndex) -> PeerAddr {
        self.nodes[node.0 as usize].address.clone()
    }

    pub(super) fn member(&self, node: NodeIndex) -> &Member {
        &self.nodes[node.0 as usize]
    }

    pub(super) fn member_mut(&mut self, node: NodeIndex) -> &mut Member {
        &mut self.nodes[node.0 as usize]
    }

    pub(super) fn has_left(&self, node: NodeIndex) -> bool {
        self.nodes[node.0 as usize].has_left
    }

    /// The nodes that take part, by the order of their numbers.
    pub(super) fn live(&self) -> impl Iterator<Item = (NodeIndex, PeerId, Instance)> {
        let numbered = (0..).map(NodeIndex).zip(&self.nodes);
        numbered.filter_map(|(node, member)| Some((node, member.address.id, member.live?)))
    }
}

impl Member {
    fn new(streams: &Streams, number: u32) -> Self {
        let key = SecretKey::from_rng(&mut streams.stream(&format!("key of node {number}")));
        let [_, high, middle, low] = number.to_be_bytes();
        let ip = Ipv4Addr::new(10, high, middle, low);
        Self {
            address: PeerAddr::new(key.peer_id(), [SocketAddr::from((ip, PORT))]),
            key,
            live: None,
            has_left: false,
            has_raised: false,
            is_alone: true,
            started: None,
            left: BTreeMap::new(),
        }
    }
}
