//! Entries of a few peers, delivered to a few nodes in any order, by any way and at any time.
//!
//! The input is a script of deliveries, synchronisations, removals and passing time, acted out by
//! discovery machines beside a model of a few lines. After each act every catalog must be what the model
//! says, which is the laws of merging in one: whatever the order and however often, the entry of the
//! greatest precedence stays; nothing makes a catalog go back; and what departed, was removed or has
//! reached its purge age does not return, unless the peer says something newer.

mod nodes;
mod pool;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use nodes::Node;
use pool::{Born, GAP, POOL, PURGE_AFTER};
use smalti_core::id::PeerId;
use smalti_core::protocol::discovery::{
    Command, EntryVersion, Refusal, RequestError, Status, SyncMessage, VerifiedEntry,
};
use smalti_core::time::{Duration, Instant};

use crate::Seed;
use crate::script::Script;

/// Nodes whose catalogs are compared.
const NODES: usize = 3;
/// Acts of one script. What follows is not read.
const ACTS_MAX: usize = 64;
/// Entries of one gossip message.
const BATCH_MAX: usize = 4;
/// How far time may move in one act. All in whole seconds, so that ages are exact on the wire.
const STEPS: [Duration; 5] = [
    Duration::from_secs(1),
    GAP,
    Duration::from_secs(100),
    PURGE_AFTER.saturating_sub(Duration::from_secs(1)),
    PURGE_AFTER,
];

/// The body of the target.
///
/// # Panics
/// Where a law of merging is broken.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut stage = Stage::new();
    for _ in 0..ACTS_MAX {
        if script.is_empty() {
            break;
        }
        stage.act(&mut script);
        stage.check();
    }
    stage.deliver_all();
}

/// The nodes, and what the model says of them.
struct Stage {
    now: Instant,
    nodes: Vec<Node>,
    models: Vec<Model>,
}

/// What one node should hold.
#[derive(Clone, Default)]
struct Model {
    held: BTreeMap<PeerId, Born>,
    /// The version at and below which nothing may come back.
    floor: BTreeMap<PeerId, EntryVersion>,
}

impl Model {
    fn accept(&mut self, now: Instant, born: &Born) -> Result<(), Refusal> {
        let peer = *born.entry.id();
        if let Some(held) = self.held.get(&peer) {
            match born.entry.precedence(&held.entry) {
                Ordering::Less => return Err(Refusal::Outranked),
                Ordering::Equal => return Ok(()),
                Ordering::Greater => {}
            }
        }
        let floor = self.floor.get(&peer);
        if born.has_expired(now) || floor.is_some_and(|floor| born.entry.version() <= *floor) {
            return Err(Refusal::Stale);
        }
        self.held.insert(peer, born.clone());
        Ok(())
    }

    fn remove(&mut self, peer: &PeerId) {
        if let Some(born) = self.held.remove(peer) {
            self.floor.insert(*peer, born.entry.version());
        }
    }

    fn purge(&mut self, now: Instant) {
        let expired = |born: &&Born| born.has_expired(now);
        let expired = self.held.values().filter(expired);
        for peer in expired.map(|born| *born.entry.id()).collect::<Vec<_>>() {
            self.remove(&peer);
        }
    }

    fn visible(&self, peer: &PeerId) -> Option<&VerifiedEntry> {
        let entry = &self.held.get(peer)?.entry;
        (entry.status() == Status::Alive).then_some(entry)
    }
}

impl Stage {
    fn new() -> Self {
        Self {
            now: Instant::ZERO,
            nodes: (0..NODES).map(Node::new).collect(),
            models: vec![Model::default(); NODES],
        }
    }

    fn act(&mut self, script: &mut Script<'_>) {
        let act = script.byte() % 8;
        let node = script.below(NODES);
        match act {
            0..=2 => {
                let count = 1 + script.below(BATCH_MAX);
                let batch: Vec<_> = (0..count).map(|_| POOL.choose(script)).collect();
                self.gossip(node, &batch);
            }
            3 => self.feed(node, POOL.choose(script)),
            4 => self.advance(STEPS[script.below(STEPS.len())]),
            5 => self.synchronise(node, (node + 1 + script.below(NODES - 1)) % NODES),
            6 => {
                let peer = *POOL.choose(script).entry.id();
                let done = self.nodes[node].request(self.now, Command::Remove(peer));
                assert_eq!(done, Ok(()));
                self.models[node].remove(&peer);
            }
            _ => self.hear_what_is_wrong(node, script),
        }
    }

    /// Delivers those of `batch` that exist by now, with the age that they have.
    fn gossip(&mut self, node: usize, batch: &[&Born]) {
        let born: Vec<_> = batch.iter().filter(|born| born.at <= self.now).collect();
        let records = born.iter().map(|born| born.aged(self.now)).collect();
        self.nodes[node].gossip(self.now, records);
        for born in born {
            // What is refused changes nothing, which `check` sees.
            let _refused = self.models[node].accept(self.now, born);
        }
    }

    /// Feeds by hand, where the entry is new enough for its age to be none.
    fn feed(&mut self, node: usize, born: &Born) {
        if born.at != self.now {
            return self.gossip(node, &[born]);
        }
        let done = self.nodes[node].request(self.now, Command::Feed(born.entry.clone()));
        let expected = self.models[node].accept(self.now, born);
        assert_eq!(done, expected.map_err(RequestError::Refused));
    }

    /// Lets time pass on all nodes.
    fn advance(&mut self, step: Duration) {
        self.now += step;
        for (node, model) in self.nodes.iter_mut().zip(&mut self.models) {
            node.advance(self.now);
            model.purge(self.now);
        }
    }

    /// Exchanges the catalogs of two nodes.
    fn synchronise(&mut self, dialer: usize, acceptor: usize) {
        let [a, b] = self
            .nodes
            .get_disjoint_mut([dialer, acceptor])
            .expect("they are two");
        nodes::synchronise(self.now, a, b);
        assert!(a.catalog().get_signed(&b.id).is_some());
        assert!(b.catalog().get_signed(&a.id).is_some());
        let before = self.models.clone();
        for (to, from) in [(dialer, acceptor), (acceptor, dialer)] {
            for born in before[from].held.values() {
                let _refused = self.models[to].accept(self.now, born);
            }
        }
    }

    /// Delivers what no node may take, and what an earlier run of the node itself has said.
    fn hear_what_is_wrong(&mut self, node: usize, script: &mut Script<'_>) {
        for wrong in &POOL.refused {
            let done = self.nodes[node].request(self.now, Command::Feed(wrong.clone()));
            // One that is outranked besides may be refused for that.
            assert!(matches!(done, Err(RequestError::Refused(_))), "{done:?}");
        }
        let own = &POOL.own[node][script.below(POOL.own[node].len())];
        self.nodes[node].hear_of_oneself(self.now, own);
    }

    /// Delivers everything to everyone, each in an order of its own.
    fn deliver_all(&mut self) {
        for node in 0..NODES {
            let mut all: Vec<_> = POOL.entries.iter().collect();
            match node {
                0 => {}
                1 => all.reverse(),
                _ => all.sort_by_key(|born| *born.entry.digest()),
            }
            for born in all {
                self.gossip(node, &[born]);
            }
            self.check();
        }
        self.synchronise(0, 1);
        self.check();
        // Whoever was outbid under its own name is above that by now.
        self.advance(nodes::RAISE_TIME_MAX);
        self.check();
        self.nodes.iter().for_each(Node::check_own_is_above);
    }

    fn check(&self) {
        for (node, model) in self.nodes.iter().zip(&self.models) {
            node.check();
            for peer in &POOL.peers {
                let shown = node.catalog().get_signed(peer);
                assert_eq!(shown, model.visible(peer), "of {peer} at {}", self.now);
            }
        }
    }
}

/// The messages of a synchronisation between two nodes that differ in much.
pub(crate) fn session() -> Vec<SyncMessage> {
    let mut nodes = [Node::new(0), Node::new(1)];
    for (i, newcomer) in (NODES..NODES + 40).enumerate() {
        let entry = Node::new(newcomer).own().clone();
        for (_, node) in nodes.iter_mut().enumerate().filter(|(n, _)| i % 20 != *n) {
            let done = node.request(Instant::ZERO, Command::Feed(entry.clone()));
            assert_eq!(done, Ok(()));
        }
    }
    let [a, b] = &mut nodes;
    nodes::synchronise(Instant::ZERO, a, b)
}

/// Scripts that reach every kind of act.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    // One act to a row: the act, the node, and what the act reads besides. An entry is named by its peer
    // and by its place among the peer's: two of each version, and a departure at 6 and 7.
    let scripts: [(&str, &[&[u8]]); 6] = [
        (
            "deliver",
            &[
                &[0, 0, 3, 0, 0, 0, 1, 1, 0, 2, 1],
                &[4, 0, 1],
                &[0, 1, 1, 0, 2, 0, 0],
                &[0, 2, 0, 1, 3],
            ],
        ),
        (
            "feed-at-birth",
            &[
                &[3, 0, 0, 0],
                &[4, 0, 1],
                &[3, 1, 0, 2],
                &[3, 1, 0, 3],
                &[3, 2, 2, 0],
            ],
        ),
        (
            "departure-meets-stale-peer",
            &[
                &[0, 0, 0, 0, 0],
                &[0, 1, 0, 0, 0],
                &[4, 0, 1],
                &[4, 0, 1],
                &[4, 0, 1],
                &[0, 0, 0, 0, 6],
                &[5, 0, 0],
                &[0, 1, 0, 0, 4],
                &[5, 1, 0],
                &[0, 2, 0, 0, 0],
            ],
        ),
        (
            "purge-then-stale-gossip",
            &[
                &[0, 0, 0, 0, 0],
                &[4, 0, 3],
                &[0, 1, 0, 0, 0],
                &[4, 0, 0],
                &[0, 2, 0, 0, 0],
                &[5, 0, 1],
            ],
        ),
        (
            "remove-then-sync",
            &[
                &[0, 0, 0, 1, 0],
                &[5, 0, 0],
                &[6, 0, 1, 0],
                &[5, 0, 0],
                &[4, 0, 1],
                &[0, 1, 0, 1, 2],
                &[5, 1, 1],
            ],
        ),
        (
            "refused-and-outbid",
            &[&[7, 0, 0], &[7, 1, 1], &[7, 2, 4], &[4, 0, 0], &[5, 0, 0]],
        ),
    ];
    let seed = |(name, acts): &(&str, &[&[u8]])| ((*name).to_owned(), acts.concat());
    scripts.iter().map(seed).collect()
}
