use std::collections::VecDeque;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::super::*;
use crate::id::{GroupId, PeerId};
use crate::protocol::Machine;
use crate::time::{Duration, Instant};

#[derive(Default)]
pub(super) struct List(Vec<Bytes>);
pub(super) struct FrozenList(Vec<Bytes>);

impl StateMachine for List {
    type Frozen = FrozenList;
    fn apply(&mut self, _: ApplyContext, command: &[u8]) -> Bytes {
        self.0.push(Bytes::copy_from_slice(command));
        Bytes::from(self.0.len().to_string())
    }
    fn freeze(&self) -> FrozenList {
        FrozenList(self.0.clone())
    }
    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        self.0 = chunks.to_vec();
        Ok(())
    }
    fn is_canonical(&self) -> bool {
        true
    }
}
impl FrozenState for FrozenList {
    fn chunks(&self, _: usize) -> Vec<Bytes> {
        self.0.clone()
    }
}

pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Option<Raft<List>>>,
    wire: VecDeque<(usize, usize, Envelope)>,
    pub(super) done: Vec<(usize, CallId, CallOutcome)>,
    reads: Vec<(usize, ReadId)>,
    pub(super) cut: Vec<(usize, usize)>,
    config: Config,
}

pub(super) fn peer(n: usize) -> PeerId {
    PeerId::from_bytes([n as u8 + 1; 32])
}

impl Cluster {
    pub(super) fn new(count: usize, config: Config) -> Self {
        let mut cluster = Self {
            now: Instant::ZERO,
            nodes: Vec::new(),
            wire: VecDeque::new(),
            done: Vec::new(),
            reads: Vec::new(),
            cut: Vec::new(),
            config,
        };
        for n in 0..count {
            cluster.nodes.push(None);
            cluster.start(n, n as u64);
        }
        cluster
    }
    pub(super) fn start(&mut self, n: usize, seed: u64) {
        self.start_with(n, seed, None);
    }
    pub(super) fn start_with(&mut self, n: usize, seed: u64, recovered: Option<Recovered>) {
        let identity = Identity {
            group: GroupId::named("test"),
            peer: peer(n),
            preference: LeadershipPreference::Normal,
        };
        let raft = Raft::new(
            self.now,
            identity,
            self.config.clone(),
            recovered,
            List::default(),
            ChaCha8Rng::seed_from_u64(seed),
        )
        .unwrap();
        self.nodes[n] = Some(raft);
        for other in 0..self.nodes.len() {
            if other != n && self.nodes[other].is_some() {
                self.input(n, Input::Bonded(peer(other)));
                self.input(other, Input::Bonded(peer(n)));
            }
        }
    }
    pub(super) fn input(&mut self, n: usize, input: Input) {
        let now = self.now;
        self.nodes[n].as_mut().unwrap().handle(now, input);
        self.drain(n);
    }
    pub(super) fn drain(&mut self, n: usize) {
        let mut persisted = Vec::new();
        let mut has_stopped = false;
        let node = self.nodes[n].as_mut().unwrap();
        while let Some(output) = node.poll_output() {
            match output {
                Output::Send(to, envelope) => {
                    assert!(!has_stopped, "a member that has stopped sends {envelope:?}");
                    let to = (0..9).find(|i| peer(*i) == to).unwrap();
                    self.wire.push_back((n, to, envelope));
                }
                Output::Persist(id, _) => persisted.push(id),
                Output::Completed(call, outcome) => self.done.push((n, call, outcome)),
                Output::ReadReady(id, _) => self.reads.push((n, id)),
                Output::Stopped(_) => has_stopped = true,
                _ => {}
            }
        }
        node.check_invariants();
        for id in persisted {
            self.input(n, Input::Persisted(id));
        }
    }
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            while let Some((from, to, envelope)) = self.wire.pop_front() {
                if self.nodes[to].is_some() && !self.cut.contains(&(from, to)) {
                    self.input(to, Input::Message(peer(from), envelope));
                }
            }
            let due = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(n, node)| Some((node.as_ref()?.poll_timeout()?, n)))
                .min();
            match due {
                Some(((at, _), n)) if at <= until => {
                    self.now = self.now.max(at);
                    let now = self.now;
                    self.nodes[n].as_mut().unwrap().handle_timeout(now);
                    self.drain(n);
                }
                _ => break,
            }
        }
        self.now = until;
    }
    pub(super) fn leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|n| {
            self.nodes[*n]
                .as_ref()
                .is_some_and(|node| node.status().role == Role::Leader)
        })
    }
    pub(super) fn list(&self, n: usize) -> Vec<Bytes> {
        self.nodes[n].as_ref().unwrap().state().0.clone()
    }
}

#[test]
fn three_found_a_group_and_agree() {
    for storage in [StorageClass::Volatile, StorageClass::Durable] {
        let config = Config {
            storage,
            ..Config::default()
        };
        let mut cluster = Cluster::new(3, config);
        cluster.run(Duration::from_secs(5));
        assert!(cluster.leader().is_some(), "{storage:?}");
        for n in 0..3 {
            cluster.input(
                n,
                Input::Execute(CallId(n as u64), Bytes::from(format!("c{n}"))),
            );
            cluster.input(n, Input::Read(ReadId(n as u64)));
        }
        cluster.run(Duration::from_secs(1));
        assert_eq!(cluster.done.len(), 3, "{:?}", cluster.done);
        assert_eq!(cluster.reads.len(), 3);
        assert_eq!(cluster.list(0).len(), 3);
        assert_eq!(cluster.list(0), cluster.list(1));
        assert_eq!(cluster.list(0), cluster.list(2));
    }
}

#[test]
fn a_dead_leader_is_replaced_and_a_late_node_catches_up() {
    let mut cluster = Cluster::new(
        3,
        Config {
            snapshot_interval: 100,
            log_window: 10,
            ..Config::default()
        },
    );
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    let other = (leader + 1) % 3;
    for i in 0..500 {
        cluster.input(other, Input::Execute(CallId(i), Bytes::from(i.to_string())));
        cluster.run(Duration::from_millis(1));
    }
    assert_eq!(cluster.done.len(), 500);
    cluster.nodes[leader] = None;
    cluster.run(Duration::from_secs(6));
    assert!(cluster.leader().is_some());
    cluster.input(
        other,
        Input::Execute(CallId(1000), Bytes::from_static(b"x")),
    );
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.done.len(), 501);
    cluster.start(leader, 99);
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.list(leader), cluster.list(other));
    let status = cluster.nodes[other].as_ref().unwrap().status();
    assert_eq!(status.configuration.voters.len(), 3, "{status:?}");
    let status = cluster.nodes[leader].as_ref().unwrap().status();
    assert!(
        status.configuration.voters.contains(&status.me),
        "{status:?}"
    );
}
