//! What the catalog says of peers' groups, as far as it has changed.

use std::collections::BTreeSet;

use crate::id::{GroupId, PeerId};
use crate::protocol::discovery::{Catalog, PeerEntry};

/// Peers in groups whose entry says something else than in `earlier`, and the groups that it names now; none where
/// the peer has gone. Reads what differs, not all that is known.
pub(super) fn changes(earlier: &Catalog, now: &Catalog) -> Vec<(PeerId, BTreeSet<GroupId>)> {
    let mut changes = Vec::new();
    for peer in now.touched_since(earlier) {
        let (before, after) = (earlier.get(&peer), now.get(&peer));
        let in_groups = |entry: Option<&PeerEntry>| entry.is_some_and(|e| !e.groups().is_empty());
        let says_the_same = match (before, after) {
            (Some(before), Some(after)) => after.says_the_same_as(before),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !says_the_same && (in_groups(before) || in_groups(after)) {
            let groups = after.map(|entry| entry.groups().keys().copied().collect());
            changes.push((peer, groups.unwrap_or_default()));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::id::{Instance, NetworkId, SecretKey, Tag};
    use crate::protocol::Machine;
    use crate::protocol::discovery::{
        Command, Config, Discovery, GroupInfo, Identity, Input, LocalChange, RequestId,
    };
    use crate::time::{Duration, Instant, WallTime};

    /// The discovery of a node.
    struct Node {
        machine: Discovery,
        now: Instant,
    }

    impl Node {
        fn new(name: &str) -> Self {
            let identity = Identity {
                network: NetworkId::from("test"),
                secret_key: SecretKey::from(name),
                instance: Instance::from_bytes([9; 16]),
                addresses: vec![([10, 0, 0, 9], 9).into()],
                wall: WallTime::from_micros(1),
            };
            let now = Instant::from_nanos(1);
            let rng = ChaCha8Rng::seed_from_u64(1);
            let machine = Discovery::new(now, identity, Config::default(), rng);
            Self { machine, now }
        }

        fn asked(&mut self, command: Command) {
            let request = RequestId(1);
            let input = Input::Request { request, command };
            self.machine.handle(self.now, input);
            while self.machine.poll_output().is_some() {}
        }

        fn changes(&mut self, change: LocalChange) {
            self.asked(Command::Local(change));
        }

        /// Hears what `peer` says of itself.
        fn hears(&mut self, peer: &Self) {
            let entry = peer.machine.local().clone();
            self.asked(Command::Feed(entry));
        }

        fn id(&self) -> PeerId {
            *self.machine.local().id()
        }
    }

    fn set(name: &str) -> LocalChange {
        let info = GroupInfo { incarnation: None };
        LocalChange::SetGroup(GroupId::from(name), info)
    }

    /// Looks at `node` as the watch of its catalog does.
    struct Watch(Catalog);

    impl Watch {
        fn changes(&mut self, node: &Node) -> Vec<(PeerId, Vec<GroupId>)> {
            let now = node.machine.catalog().clone();
            let changes = changes(&self.0, &now).into_iter();
            let changes = changes.map(|(peer, groups)| (peer, groups.into_iter().collect()));
            self.0 = now;
            changes.collect()
        }
    }

    #[test]
    fn what_changes_of_peers_in_groups_is_given_once() {
        let (mut node, mut peer) = (Node::new("node"), Node::new("peer"));
        let mut watch = Watch(Catalog::default());
        let (id, group) = (peer.id(), GroupId::from("g"));
        peer.changes(set("g"));
        node.hears(&peer);
        assert_eq!(watch.changes(&node), [(id, vec![group])]);
        assert_eq!(watch.changes(&node), []);

        // Others of its words may make a bond possible that was refused.
        peer.changes(LocalChange::AddTags(vec![Tag::from("t")]));
        node.hears(&peer);
        assert_eq!(watch.changes(&node), [(id, vec![group])]);

        peer.changes(LocalChange::RemoveGroup(group));
        node.hears(&peer);
        assert_eq!(watch.changes(&node), [(id, vec![])]);
        peer.changes(LocalChange::RemoveTags(vec![Tag::from("t")]));
        node.hears(&peer);
        assert_eq!(watch.changes(&node), [], "it is in no group");
    }

    #[test]
    fn a_peer_that_repeats_itself_changes_nothing() {
        let (mut node, mut peer) = (Node::new("node"), Node::new("peer"));
        peer.changes(set("g"));
        node.hears(&peer);
        let mut watch = Watch(node.machine.catalog().clone());
        let before = peer.machine.local().version();
        peer.now += Duration::from_secs(60);
        peer.machine.handle_timeout(peer.now);
        assert_ne!(peer.machine.local().version(), before);
        node.now = peer.now;
        node.hears(&peer);
        assert_eq!(
            node.machine
                .catalog()
                .get(&peer.id())
                .map(PeerEntry::version),
            Some(peer.machine.local().version())
        );
        assert_eq!(watch.changes(&node), []);
    }

    #[test]
    fn a_peer_that_has_gone_is_in_no_group() {
        let (mut node, mut peer) = (Node::new("node"), Node::new("peer"));
        peer.changes(set("g"));
        node.hears(&peer);
        let mut watch = Watch(node.machine.catalog().clone());
        peer.asked(Command::Leave);
        node.hears(&peer);
        assert_eq!(watch.changes(&node), [(peer.id(), vec![])]);
        assert_eq!(watch.changes(&node), []);
    }

    #[test]
    fn among_many_only_what_differs_is_given() {
        let mut node = Node::new("node");
        let mut peers: Vec<_> = (0..300).map(|i| Node::new(&format!("peer {i}"))).collect();
        for peer in &mut peers {
            peer.changes(set("g"));
            node.hears(peer);
        }
        let mut watch = Watch(Catalog::default());
        assert_eq!(watch.changes(&node).len(), peers.len());
        for peer in [7, 150, 299] {
            peers[peer].changes(set("h"));
            node.hears(&peers[peer]);
        }
        let mut expected = [7, 150, 299].map(|peer| peers[peer].id());
        expected.sort();
        let changed: Vec<_> = watch.changes(&node).iter().map(|(peer, _)| *peer).collect();
        assert_eq!(changed, expected);
    }
}
