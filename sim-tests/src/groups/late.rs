//! `groups-late-node`: a node with a slow disk joins a group that is far ahead, and catches up while the others go on
//! writing: none of them waits for it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti_core::groups::{
    ApplyContext, BondsConfig, ConsensusConfig, Group, GroupKey, Serialized, StateMachine, Storage,
};
use smalti_core::{Network, PeerId, UniqueId, unique_id};
use smalti_sim::faults::{FaultPlan, Latency, LinkFaults};
use smalti_sim::rng::{Streams, below};
use smalti_sim::{AppResult, Control, Simulation};
use tokio::time::{Instant, sleep};

use crate::cluster::{Findings, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `groups-late-node`.
pub struct Late;

const BY_ENTRIES: &str = "it caught up by the entries of the log";
const BY_SNAPSHOT: &str = "it caught up by a snapshot, and the entries after it";

/// Who is there from the beginning; one more comes late.
const FIRST: usize = 3;
/// Commands that each of them has under way at a time.
const WRITERS: usize = 2;
/// From this seed on, the seed is how many entries the node is behind.
const SEED_IS_ENTRIES: u64 = 1_000;
/// Entries that the node is behind elsewhere.
const ENTRIES: (u64, u64) = (4_000, 20_000);
/// The disk of the late node takes so many times as long as those of the others: a sync 20 to 400 ms.
const SLOW_TIMES: u32 = 200;
/// What the state weighs beside the count.
const PADDING: usize = 1 << 20;
/// How long commits are measured before the node comes.
const BEFORE: Duration = Duration::from_secs(3);
/// How long the node may take to be level, and how much longer for each entry.
const LEVEL_WITHIN: Duration = Duration::from_secs(60);
const LEVEL_WITHIN_EACH: Duration = Duration::from_micros(500);
/// The longest that a commit may take, whatever others do.
const COMMIT_MAX: Duration = Duration::from_millis(500);
/// The most that may wait in one node for the late one, in bytes, however far it is behind.
const WAITING_MAX: usize = 4 << 20;

impl Scenario for Late {
    fn name(&self) -> &'static str {
        "groups-late-node"
    }

    fn description(&self) -> &'static str {
        "a node with a slow disk, far behind, becomes level, and nobody's commits wait for it; seed 1000000: so many entries"
    }

    fn nodes(&self) -> Nodes {
        let count = FIRST as u32 + 1;
        Nodes {
            default: count,
            min: count,
            max: count,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[BY_ENTRIES, BY_SNAPSHOT]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let mut rng = Streams::new(seed).stream("late");
        let entries = if seed < SEED_IS_ENTRIES {
            ENTRIES.0 + below(&mut rng, ENTRIES.1 - ENTRIES.0)
        } else {
            seed
        };
        let has_all = seed.is_multiple_of(2);
        let findings = Findings::default();
        findings.reach(if has_all { BY_ENTRIES } else { BY_SNAPSHOT });
        let mut config = ConsensusConfig::default();
        if has_all {
            // Nothing of the log is dropped before the node has it.
            config.snapshot_interval = u64::MAX / 4;
            config.log_window = u64::MAX / 4;
        } else {
            config.snapshot_interval = 1_000;
            config.log_window = 500;
        }
        let drawn = vec![format!("{entries} entries behind, {config:?}")];
        let level_within =
            LEVEL_WITHIN + LEVEL_WITHIN_EACH * u32::try_from(entries).unwrap_or(u32::MAX);
        let links = LinkFaults {
            latency: Latency {
                min: Duration::from_micros(50),
                mean: Duration::from_micros(500),
                max: Duration::from_millis(3),
            },
            ..LinkFaults::default()
        };
        let mut simulation = Simulation::new(seed)
            .faults(FaultPlan {
                links,
                ..FaultPlan::default()
            })
            .duration(level_within * 40);
        let board = Board {
            late: simulation.peer_id(&name(FIRST)),
            measured: Rc::default(),
            config,
        };
        for host in 0..=FIRST {
            let board = board.clone();
            simulation = simulation.service_with(
                &name(host),
                |builder| {
                    builder
                        .with_data_dir("data")
                        .with_groups(BondsConfig::default())
                },
                move |network| live(host, network, board.clone()),
            );
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (board, findings) = (board.clone(), noted.clone());
            async move {
                let result = script(&control, &board, &findings, entries, level_within).await;
                findings.conclude(result);
            }
        });
        observe(simulation, drawn, &findings, options)
    }
}

/// What the hosts and the script tell each other.
#[derive(Clone)]
struct Board {
    late: PeerId,
    measured: Rc<RefCell<Measured>>,
    config: ConsensusConfig,
}

#[derive(Default)]
struct Measured {
    phase: Phase,
    /// How far the log of the first host is committed.
    committed: u64,
    /// How far the late node has come, once it belongs to the group.
    late: Option<u64>,
    /// How long commits took before the node came, and since.
    before: Vec<Duration>,
    since: Vec<Duration>,
    /// The most that has waited for the late node in any other.
    waiting: usize,
    failure: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The log grows.
    #[default]
    Growing,
    /// The same, and it is measured how fast.
    Measuring,
    /// The late node is there.
    Late,
}

async fn script(
    control: &Control,
    board: &Board,
    findings: &Findings,
    entries: u64,
    level_within: Duration,
) -> Result<(), String> {
    control.slow_disk(name(FIRST), SLOW_TIMES);
    let phase = |phase| board.measured.borrow_mut().phase = phase;
    control
        .wait_until(|| board.measured.borrow().committed >= entries)
        .await;
    phase(Phase::Measuring);
    control.sleep(BEFORE).await;
    phase(Phase::Late);
    let (begun, behind) = (control.elapsed(), board.measured.borrow().committed);
    let is_over = || {
        let measured = board.measured.borrow();
        // Level: no further behind than a command takes.
        let is_level = measured
            .late
            .is_some_and(|late| late + 50 >= measured.committed);
        is_level || measured.failure.is_some() || control.elapsed() > begun + level_within
    };
    control.wait_until(is_over).await;
    let took = control.elapsed() - begun;
    let mut measured = board.measured.borrow_mut();
    if let Some(failure) = measured.failure.take() {
        return Err(failure);
    }
    let (before, since) = (
        Latencies::of(&mut measured.before),
        Latencies::of(&mut measured.since),
    );
    let (late, committed, waiting) = (measured.late, measured.committed, measured.waiting);
    findings.measure(format!(
        "{behind} entries behind, level within {took:?}, {} entries later; commits before {before:?}, since {since:?}; {waiting} bytes waited at most",
        committed - behind
    ));
    if took > level_within {
        return Err(format!(
            "after {took:?} the late node has applied {late:?} of {committed}"
        ));
    }
    if since.p99 > before.p99 * 2 || since.max > COMMIT_MAX {
        return Err(format!(
            "commits took {before:?} before the late node came, and {since:?} since"
        ));
    }
    if waiting > WAITING_MAX {
        return Err(format!("{waiting} bytes waited for the late node"));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "what is not looked at is shown")]
struct Latencies {
    count: usize,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Latencies {
    fn of(all: &mut [Duration]) -> Self {
        all.sort_unstable();
        let at = |part: usize| {
            let place = (all.len() * part / 100).min(all.len().saturating_sub(1));
            all.get(place).copied().unwrap_or_default()
        };
        Self {
            count: all.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

async fn live(host: usize, network: Network, board: Board) -> AppResult {
    while host == FIRST && board.measured.borrow().phase != Phase::Late {
        sleep(Duration::from_millis(50)).await;
    }
    let builder = network.groups().with_key(GroupKey::from_bytes([6; 32]));
    let group = builder
        .with_state_machine(Counter::default())
        .with_storage(Storage::Durable)
        .with_consensus_config(board.config.clone())
        .join()
        .await?;
    if host == FIRST {
        loop {
            let status = group.status();
            let applied = status.incarnation.map(|_| status.applied.0);
            board.measured.borrow_mut().late = applied;
            sleep(Duration::from_millis(10)).await;
        }
    }
    group.when().online().await;
    let writers = (0..WRITERS).map(|_| write(&group, &board));
    let watch = watch(host, &group, &board);
    futures_util::future::join(watch, futures_util::future::join_all(writers)).await;
    Ok(())
}

/// Executes one command after the other.
async fn write(group: &Group<Counter>, board: &Board) {
    loop {
        let (phase, begun) = (board.measured.borrow().phase, Instant::now());
        let result = group.execute(()).await;
        let took = begun.elapsed();
        let mut measured = board.measured.borrow_mut();
        match (result, phase) {
            (Err(error), _) => {
                let failure = format!("a command failed: {error}");
                measured.failure.get_or_insert(failure);
                return;
            }
            (Ok(_), Phase::Growing) => {}
            (Ok(_), Phase::Measuring) => measured.before.push(took),
            (Ok(_), Phase::Late) => measured.since.push(took),
        }
    }
}

/// Notes how far the log is, and what waits for the late node.
async fn watch(host: usize, group: &Group<Counter>, board: &Board) {
    loop {
        {
            let bonds = group.bonds();
            let late = bonds.iter().find(|bond| bond.peer == board.late);
            let mut measured = board.measured.borrow_mut();
            measured.waiting = measured.waiting.max(late.map_or(0, |bond| bond.waiting));
            if host == 0 {
                measured.committed = group.committed().0;
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Counts.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Command = ();
    type Output = u64;
    type Query = ();
    type QueryResult = u64;
    type Snapshot = Serialized<Padded>;

    fn signature(&self) -> UniqueId {
        unique_id!("counter of groups-late-node")
    }

    fn apply(&mut self, (): (), _context: ApplyContext) -> u64 {
        self.0 += 1;
        self.0
    }

    fn query(&self, (): ()) -> u64 {
        self.0
    }

    fn snapshot(&self) -> Serialized<Padded> {
        Serialized(Padded {
            count: self.0,
            padding: "-".repeat(PADDING),
        })
    }

    fn restore(&mut self, Serialized(padded): Serialized<Padded>) {
        self.0 = padded.count;
    }
}

/// A state that is not small.
#[derive(Serialize, Deserialize)]
struct Padded {
    count: u64,
    padding: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn becomes_level(seed: u64) {
        let outcome = Late.run(seed, &Options::default());
        assert_eq!(outcome.failure, None, "{:?}", outcome.measured);
    }

    #[test]
    fn a_late_node_with_a_slow_disk_becomes_level_by_entries_and_no_commit_waits_for_it() {
        becomes_level(1_000);
    }

    #[test]
    fn a_late_node_with_a_slow_disk_becomes_level_by_a_snapshot_and_no_commit_waits_for_it() {
        becomes_level(1_001);
    }
}
