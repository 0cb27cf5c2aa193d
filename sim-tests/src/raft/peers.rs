//! Which node a peer id belongs to.

use smalti_core::id::{Digest, PeerId};
use smalti_sim::NodeIndex;

/// The id of a node. Not in the order of the numbers, which its last byte tells.
pub(super) fn peer(node: NodeIndex) -> PeerId {
    PEERS[node.0 as usize]
}

/// The node of an id.
pub(super) fn node(peer: &PeerId) -> NodeIndex {
    NodeIndex(u32::from(peer.as_bytes()[31]))
}

/// Nodes at most.
pub(super) const NODES_MAX: usize = 16;

static PEERS: std::sync::LazyLock<[PeerId; NODES_MAX]> = std::sync::LazyLock::new(|| {
    std::array::from_fn(|number| {
        let number = number as u8;
        let mut bytes = *Digest::of("raft scenarios: a peer", &[&[number]]).as_bytes();
        bytes[31] = number;
        PeerId::from_bytes(bytes)
    })
});
