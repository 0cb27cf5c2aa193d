//! A small network of discovery machines: reliable ordered links, latency, crashes, cuts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::*;
use crate::id::{Instance, NetworkId, PeerId, SecretKey};
use crate::protocol::Machine;
use crate::time::{Duration, Instant, WallTime};

/// Wall time at the start of every simulation, in microseconds.
pub(super) const EPOCH: u64 = 1_700_000_000_000_000;

pub(super) struct Node {
    pub(super) machine: Discovery,
    /// Tells runs of a node apart: what was under way to an earlier run is lost.
    run: u32,
    pub(super) events: Vec<Event>,
    pub(super) done: BTreeMap<u64, Result<(), RequestError>>,
    pub(super) has_left: bool,
    timer: Instant,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<PeerId, Node>,
    keys: Vec<SecretKey>,
    pub(super) ids: Vec<PeerId>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next: u64,
    rng: ChaCha8Rng,
    /// Links that are up, by their ends, with a number for each time they come up.
    links: BTreeMap<(PeerId, PeerId), u64>,
    sessions: BTreeMap<(PeerId, SessionId), (PeerId, SessionId)>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(PeerId, PeerId)>,
    runs: u32,
    latency: Duration,
    /// Encoded bytes of gossip messages, if they are counted, by sender.
    pub(super) gossip_bytes: Option<BTreeMap<PeerId, usize>>,
    /// Encoded bytes of session messages, if they are counted.
    pub(super) sync_bytes: Option<usize>,
    pub(super) steps: u64,
    pub(super) check: bool,
}

/// Ordered by time, then by when it was scheduled.
struct Scheduled(Instant, u64, Happening);

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

enum Happening {
    Timer(PeerId, u32),
    Input(PeerId, u32, Option<u64>, Box<Input>),
    Dial(PeerId, PeerId),
    Open(PeerId, SessionId, PeerId),
}

impl Net {
    pub(super) fn new(seed: u64, size: usize) -> Self {
        let keys: Vec<_> = (0..size)
            .map(|i| SecretKey::from(format!("node {i}").as_str()))
            .collect();
        Self {
            now: Instant::ZERO,
            nodes: BTreeMap::new(),
            ids: keys.iter().map(SecretKey::peer_id).collect(),
            keys,
            queue: BinaryHeap::new(),
            next: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            cut: BTreeSet::new(),
            runs: 0,
            latency: Duration::from_millis(20),
            gossip_bytes: None,
            sync_bytes: None,
            steps: 0,
            check: true,
        }
    }

    pub(super) fn address(&self, index: usize) -> PeerAddr {
        let port = 10_000 + index as u16;
        PeerAddr::new(self.ids[index], [([10, 0, 0, 1], port).into()])
    }

    pub(super) fn wall(&self) -> WallTime {
        WallTime::from_micros(EPOCH) + self.now.since(Instant::ZERO)
    }

    /// Starts node `index`, which knows node `bootstrap`.
    pub(super) fn start(&mut self, index: usize, bootstrap: Option<usize>) {
        let bootstrap = bootstrap.map(|bootstrap| self.address(bootstrap));
        let config = Config {
            bootstrap: bootstrap.into_iter().collect(),
            ..Config::default()
        };
        self.start_with(index, config, self.wall());
    }

    pub(super) fn start_with(&mut self, index: usize, config: Config, wall: WallTime) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.rng.random_range(0..=u64::MAX));
        let identity = Identity {
            network: NetworkId::from("test"),
            secret_key: self.keys[index].clone(),
            instance: Instance::from_rng(&mut rng),
            addresses: self.address(index).addresses,
            wall,
        };
        self.runs += 1;
        let id = self.ids[index];
        let node = Node {
            machine: Discovery::new(self.now, identity, config, rng),
            run: self.runs,
            events: Vec::new(),
            done: BTreeMap::new(),
            has_left: false,
            timer: Instant::FAR_FUTURE,
        };
        self.nodes.insert(id, node);
        self.drain(id);
    }

    /// Ends node `index` without a word.
    pub(super) fn crash(&mut self, index: usize) {
        let id = self.ids[index];
        self.nodes.remove(&id);
        for other in self.ids.clone() {
            self.unlink(id, other, true);
        }
        let dead = |(a, b): &(PeerId, PeerId)| *a == id || *b == id;
        let gone: Vec<_> = self
            .sessions
            .iter()
            .filter(|((a, _), (b, _))| dead(&(*a, *b)))
            .map(|(key, other)| (*key, *other))
            .collect();
        for (key, (peer, session)) in gone {
            self.sessions.remove(&key);
            self.input_later(
                peer,
                None,
                Input::SyncClosed {
                    session,
                    cause: None,
                },
            );
        }
    }

    /// Makes links between `a` and `b` impossible, or possible again.
    pub(super) fn set_cut(&mut self, a: usize, b: usize, is_cut: bool) {
        let (a, b) = (self.ids[a], self.ids[b]);
        if is_cut {
            self.cut.extend([(a, b), (b, a)]);
            self.unlink(a, b, true);
            let gone: Vec<_> = self
                .sessions
                .iter()
                .filter(|((x, _), (y, _))| (*x, *y) == (a, b) || (*x, *y) == (b, a))
                .map(|(key, _)| *key)
                .collect();
            for (peer, session) in gone {
                self.sessions.remove(&(peer, session));
                self.input_later(
                    peer,
                    None,
                    Input::SyncClosed {
                        session,
                        cause: None,
                    },
                );
            }
        } else {
            self.cut.remove(&(a, b));
            self.cut.remove(&(b, a));
        }
    }

    /// Cuts the nodes in two: those below `half` and the others; or heals the cut.
    pub(super) fn set_split(&mut self, half: usize, is_cut: bool) {
        for a in 0..half {
            for b in half..self.ids.len() {
                self.set_cut(a, b, is_cut);
            }
        }
    }

    pub(super) fn break_link(&mut self, a: PeerId, b: PeerId) {
        self.unlink(a, b, true);
    }

    fn unlink(&mut self, a: PeerId, b: PeerId, tell_both: bool) {
        if self.links.remove(&(a, b)).is_some() {
            self.links.remove(&(b, a));
            self.input_later(b, None, Input::Disconnected(a));
            if tell_both {
                self.input_later(a, None, Input::Disconnected(b));
            }
        }
    }

    pub(super) fn request(&mut self, index: usize, request: u64, command: Command) {
        let id = self.ids[index];
        self.input(
            id,
            Input::Request {
                request: RequestId(request),
                command,
            },
        );
    }

    pub(super) fn input(&mut self, id: PeerId, input: Input) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.machine.handle(now, input);
        self.drain(id);
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.next += 1;
        self.queue
            .push(Reverse(Scheduled(at, self.next, happening)));
    }

    fn input_later(&mut self, to: PeerId, link: Option<u64>, input: Input) {
        let Some(run) = self.nodes.get(&to).map(|node| node.run) else {
            return;
        };
        let at = self.now + self.latency;
        self.schedule(at, Happening::Input(to, run, link, Box::new(input)));
    }

    fn drain(&mut self, id: PeerId) {
        self.steps += 1;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let mut outputs = Vec::new();
        while let Some(output) = node.machine.poll_output() {
            outputs.push(output);
        }
        if self.check && !node.has_left {
            node.machine.check_invariants();
        }
        if let Some((at, _)) = node.machine.poll_timeout()
            && at < node.timer
        {
            node.timer = at;
            let run = node.run;
            self.schedule(at, Happening::Timer(id, run));
        }
        outputs
            .into_iter()
            .for_each(|output| self.carry_out(id, output));
    }

    fn carry_out(&mut self, id: PeerId, output: Output) {
        match output {
            Output::Connect(peer) => {
                let at = self.now + self.latency;
                self.schedule(at, Happening::Dial(id, peer.id));
            }
            Output::Disconnect(peer) => self.unlink(id, peer, false),
            Output::Send(peer, message) => {
                if let Some(bytes) = &mut self.gossip_bytes {
                    *bytes.entry(id).or_default() += message.encode().len();
                }
                if let Some(link) = self.links.get(&(id, peer)) {
                    let link = Some(*link);
                    self.input_later(peer, link, Input::Message { from: id, message });
                }
            }
            Output::SyncOpen { session, peer } => {
                let at = self.now + self.latency;
                self.schedule(at, Happening::Open(id, session, peer.id));
                // What follows at once is held back until the session is open.
                self.sessions
                    .insert((id, session), (peer.id, incoming(self.next)));
            }
            Output::SyncSend { session, message } => {
                if let Some(bytes) = &mut self.sync_bytes {
                    *bytes += message.encode().len();
                }
                if let Some((peer, session)) = self.sessions.get(&(id, session)).copied() {
                    self.input_later(peer, None, Input::SyncMessage { session, message });
                }
            }
            Output::SyncClose { session } => {
                if let Some((peer, other)) = self.sessions.remove(&(id, session)) {
                    self.sessions.remove(&(peer, other));
                    self.input_later(
                        peer,
                        None,
                        Input::SyncClosed {
                            session: other,
                            cause: None,
                        },
                    );
                }
            }
            Output::Probe(peer) => {
                let sample = Some(self.latency * 2);
                self.input_later(
                    id,
                    None,
                    Input::Rtt {
                        peer: peer.id,
                        sample,
                    },
                );
            }
            Output::Event(event) => self.nodes.get_mut(&id).unwrap().events.push(event),
            Output::CatalogChanged { .. } => {}
            Output::Done { request, result } => {
                let done = self
                    .nodes
                    .get_mut(&id)
                    .unwrap()
                    .done
                    .insert(request.0, result);
                assert_eq!(done, None, "a request was done twice");
            }
            Output::Left => self.nodes.get_mut(&id).unwrap().has_left = true,
        }
    }

    fn can_reach(&self, a: &PeerId, b: &PeerId) -> bool {
        let is_up = self.nodes.get(b).is_some_and(|node| !node.has_left);
        is_up && !self.cut.contains(&(*a, *b))
    }

    /// Runs for `time`.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Runs until `condition` holds; whether it came to hold before `end`.
    pub(super) fn run_until(&mut self, end: Instant, condition: impl Fn(&Self) -> bool) -> bool {
        let mut last_look = self.now;
        loop {
            if self.now.since(last_look) >= Duration::from_millis(100) {
                last_look = self.now;
                if condition(self) {
                    return true;
                }
            }
            let next = self.queue.peek().map_or(end, |Reverse(next)| next.0);
            if next >= end {
                self.now = end;
                return condition(self);
            }
            let Some(Reverse(Scheduled(at, _, happening))) = self.queue.pop() else {
                continue;
            };
            self.now = at;
            self.step(happening);
        }
    }

    fn step(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Timer(id, run) => {
                let Some(node) = self.nodes.get_mut(&id).filter(|node| node.run == run) else {
                    return;
                };
                if node.timer == now {
                    node.timer = Instant::FAR_FUTURE;
                }
                let due = node.machine.poll_timeout().is_some_and(|(at, _)| at <= now);
                if due {
                    node.machine.handle_timeout(now);
                }
                self.drain(id);
            }
            Happening::Input(id, run, link, input) => {
                if self
                    .nodes
                    .get(&id)
                    .is_none_or(|node| node.run != run || node.has_left)
                {
                    return;
                }
                if let Input::Message { from, .. } = &*input
                    && link.is_some()
                    && self.links.get(&(id, *from)).copied() != link
                    // What was sent before the link was closed in good order still arrives.
                    && self.cut.contains(&(id, *from))
                {
                    return;
                }
                self.input(id, *input);
            }
            Happening::Dial(id, peer) => {
                if self.links.contains_key(&(id, peer)) || !self.nodes.contains_key(&id) {
                    return;
                }
                if !self.can_reach(&id, &peer) {
                    self.input_later(id, None, Input::ConnectFailed(peer));
                    return;
                }
                self.next += 1;
                self.links.insert((id, peer), self.next);
                self.links.insert((peer, id), self.next);
                self.input(id, Input::Connected(peer));
                self.input(peer, Input::Connected(id));
            }
            Happening::Open(id, session, peer) => {
                let Some((_, other)) = self.sessions.get(&(id, session)).copied() else {
                    return;
                };
                if !self.can_reach(&id, &peer) {
                    self.sessions.remove(&(id, session));
                    self.input_later(
                        id,
                        None,
                        Input::SyncClosed {
                            session,
                            cause: None,
                        },
                    );
                    return;
                }
                self.sessions.insert((peer, other), (id, session));
                self.input(
                    peer,
                    Input::SyncOpened {
                        session: other,
                        peer: id,
                    },
                );
            }
        }
    }

    pub(super) fn machine(&self, index: usize) -> &Discovery {
        &self.nodes[&self.ids[index]].machine
    }

    pub(super) fn events(&self, index: usize) -> &[Event] {
        &self.nodes[&self.ids[index]].events
    }

    /// Whether every running node sees exactly the running nodes, in their present state.
    pub(super) fn has_converged(&self) -> bool {
        let running: BTreeMap<_, _> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.has_left)
            .collect();
        running.values().all(|node| {
            let catalog = node.machine.catalog();
            catalog.peers_count() == running.len() - 1
                && running.iter().all(|(id, other)| {
                    catalog
                        .get(id)
                        .is_some_and(|entry| entry.says_the_same_as(other.machine.local()))
                })
        })
    }

    /// Whether links lead from every running node to every other.
    pub(super) fn is_connected(&self) -> bool {
        let running = self.nodes.iter().filter(|(_, node)| !node.has_left);
        let running: BTreeMap<_, _> = running.collect();
        let Some((first, _)) = running.first_key_value() else {
            return true;
        };
        let mut reached = BTreeSet::from([**first]);
        let mut open = vec![**first];
        while let Some(id) = open.pop() {
            for neighbour in running[&id].machine.neighbours() {
                if running.contains_key(neighbour) && reached.insert(*neighbour) {
                    open.push(*neighbour);
                }
            }
        }
        reached.len() == running.len()
    }
}

const fn incoming(number: u64) -> SessionId {
    SessionId::Incoming(number)
}
