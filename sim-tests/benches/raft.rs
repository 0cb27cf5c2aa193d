//! How fast three consensus machines commit in one thread, without network and disk, and what a log costs.
//!
//! `cargo bench -p smalti-sim-tests --bench raft [-- SECONDS]` keeps so many commands of 64 bytes in flight
//! at the leader, and counts those that have been applied there and answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use smalti_core::id::{GroupId, PeerId};
use smalti_core::protocol::Machine;
use smalti_core::protocol::raft::{
    ApplyContext, CallId, Config, Envelope, FrozenState, Identity, Input, LeadershipPreference,
    Output, Raft, RestoreError, Role, StateMachine,
};
use smalti_core::time::Instant;

const COMMAND: [u8; 64] = [7; 64];
const MEMBERS: usize = 3;
/// Set for the processes that measure memory.
const CHILD: &str = "SMALTI_BENCH_CHILD";

/// Counts commands.
#[derive(Clone, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Frozen = Self;

    fn apply(&mut self, _: ApplyContext, _: &[u8]) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        let bytes: Option<[u8; 8]> = chunks.first().and_then(|it| it[..].try_into().ok());
        let bytes = bytes.ok_or_else(|| RestoreError("it has not eight bytes".to_owned()))?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl FrozenState for Counter {
    fn chunks(&self, _: usize) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.0.to_le_bytes())]
    }
}

fn peer(member: usize) -> PeerId {
    PeerId::from_bytes([member as u8 + 1; 32])
}

/// The members, with what is on its way to each.
struct Group {
    now: Instant,
    members: Vec<Raft<Counter>>,
    inboxes: Vec<VecDeque<(usize, Envelope)>>,
    completed: u64,
    messages: u64,
}

impl Group {
    fn new(config: &Config) -> Self {
        let now = Instant::ZERO;
        let member = |n| {
            let identity = Identity {
                group: GroupId::named("bench"),
                peer: peer(n),
                preference: LeadershipPreference::Normal,
            };
            let rng = ChaCha8Rng::seed_from_u64(n as u64);
            Raft::new(now, identity, config.clone(), None, Counter::default(), rng)
                .expect("nothing is restored")
        };
        let mut group = Self {
            now,
            members: (0..MEMBERS).map(member).collect(),
            inboxes: vec![VecDeque::new(); MEMBERS],
            completed: 0,
            messages: 0,
        };
        for n in 0..MEMBERS {
            for other in (0..MEMBERS).filter(|other| *other != n) {
                group.members[n].handle(now, Input::Bonded(peer(other)));
            }
        }
        while group.leader().is_none() {
            group.now += Duration::from_millis(100);
            group.tick();
            while group.turn() {}
        }
        group
    }

    fn leader(&self) -> Option<usize> {
        let mut members = self.members.iter();
        members.position(|member| member.status().role == Role::Leader)
    }

    fn tick(&mut self) {
        for member in &mut self.members {
            if member.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                member.handle_timeout(self.now);
            }
        }
    }

    /// Every member takes what has come for it, and then sends. `false` where nothing was sent.
    fn turn(&mut self) -> bool {
        let before = self.messages;
        for n in 0..MEMBERS {
            let member = &mut self.members[n];
            while let Some((from, envelope)) = self.inboxes[n].pop_front() {
                member.handle(self.now, Input::Message(peer(from), envelope));
            }
            while let Some(output) = self.members[n].poll_output() {
                match output {
                    Output::Send(to, envelope) => {
                        self.messages += 1;
                        let to = usize::from(to.as_bytes()[0]) - 1;
                        self.inboxes[to].push_back((n, envelope));
                    }
                    Output::Completed(..) => self.completed += 1,
                    _ => {}
                }
            }
        }
        self.messages > before
    }
}

fn commits(in_flight: u64, seconds: f64) {
    let mut group = Group::new(&Config::default());
    let leader = group.leader().expect("there is one");
    let command = Bytes::from_static(&COMMAND);
    let (mut called, mut elapsed) = (0, 0.0);
    let begun = Clock::now();
    while elapsed < seconds {
        for _ in 0..256 {
            while called < group.completed + in_flight {
                let call = Input::Execute(CallId(called), command.clone());
                group.members[leader].handle(group.now, call);
                called += 1;
            }
            group.turn();
        }
        // Time passes as it does, so that heartbeats are part of it.
        elapsed = begun.elapsed().as_secs_f64();
        group.now = Instant::ZERO + Duration::from_secs(60) + begun.elapsed();
        group.tick();
    }
    let rate = group.completed as f64 / elapsed;
    let batch = group.completed as f64 / group.members[leader].status().commit.0 as f64;
    println!("{in_flight:>9}  {rate:>12.0}  {batch:>17.1}");
}

fn memory(in_flight: u64, commands: u64) {
    let config = Config {
        snapshot_interval: u64::MAX,
        log_window: u64::MAX,
        snapshot_bytes: u64::MAX,
        ..Config::default()
    };
    let mut group = Group::new(&config);
    let leader = group.leader().expect("there is one");
    let before = resident();
    let mut called = 0;
    while group.completed < commands {
        while called < (group.completed + in_flight).min(commands) {
            // Each with bytes of its own, as from a network.
            let call = Input::Execute(CallId(called), Bytes::copy_from_slice(&COMMAND));
            group.members[leader].handle(group.now, call);
            called += 1;
        }
        group.turn();
    }
    let bytes = (resident() - before) * 1_000_000 / commands;
    println!("{in_flight:>9}  {:>10.1} MiB", bytes as f64 / 1_048_576.0);
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn main() {
    let first = std::env::args().find_map(|argument| argument.parse().ok());
    if std::env::var_os(CHILD).is_some() {
        memory(first.unwrap_or(1.0) as u64, 1_000_000);
        return;
    }
    let seconds = first.unwrap_or(2.0);
    println!("three members, one thread, in memory; commands of 64 bytes");
    println!("in flight     commits/s  commands/entry");
    for in_flight in [1, 64, 256, 1_024, 16_384] {
        commits(in_flight, seconds);
    }
    println!("\nthe logs of the three, which share the commands' bytes, for a million commands");
    println!("in flight      memory");
    for in_flight in ["1", "1024"] {
        // In a process of its own: memory that an allocator keeps would not be counted.
        let program = std::env::current_exe().expect("this program is a file");
        let child = std::process::Command::new(program)
            .arg(in_flight)
            .env(CHILD, "1")
            .status();
        assert!(child.is_ok_and(|status| status.success()), "it failed");
    }
}
