//! Which faults a run has, and how strong: drawn for each seed, then made into a schedule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Fault, FaultEvent, FaultSchedule, Latency, LinkFaults};
use crate::NodeIndex;
use crate::rng::{Streams, below, between, chance};
use crate::time::SimTime;

/// Something that comes and goes: how long until it comes (on average, between a half and one and a half
/// of `every`), and how long it lasts (likewise `lasts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// The average time from the end of one to the beginning of the next.
    pub every: Duration,
    /// The average time that one lasts.
    pub lasts: Duration,
}

/// Which classes of fault a run has, and how strong; `None` and zero are "not at all".
///
/// The default has none. [`swarm`](Self::swarm) draws: a run in which everything goes wrong at once finds
/// less than many in which a few things do, each time others (Groce et al., Swarm Testing, ISSTA 2012).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultPlan {
    /// How the network treats packets.
    pub links: LinkFaults,
    /// Partitions of all nodes into two parts that do not reach each other.
    pub partitions: Option<Churn>,
    /// Cuts from some nodes to the others, while the others still reach them.
    pub one_way: Option<Churn>,
    /// Partitions of two nodes that come and go so fast that no timeout sees them through.
    pub flapping: Option<Churn>,
    /// Crashes of one node, with its restart after.
    pub crashes: Option<Churn>,
    /// Crashes of so many nodes, shortly one after the other, that the rest are no majority, with their restarts.
    pub blackouts: Option<Churn>,
    /// Pauses of one node.
    pub pauses: Option<Churn>,
    /// Syncs of one node's disk that fail. Whoever has asked for one is not to go on before the node was started again,
    /// which is not part of the plan. `lasts` is without meaning.
    pub failed_syncs: Option<Churn>,
    /// Writes to one node's disk that fail, likewise.
    pub failed_writes: Option<Churn>,
    /// Times in which one node's disk is slow.
    pub slow_disks: Option<Churn>,
    /// Times in which one node's disk is full. As after a failure, it takes a new start to go on.
    pub full_disks: Option<Churn>,
    /// The most that a node's clocks run fast or slow, in parts per million.
    pub drift_ppm_max: u32,
    /// The most that a wall clock is off from the start.
    pub offset_max: Duration,
    /// Jumps of one node's wall clock; `lasts` is how far they go, either way.
    pub jumps: Option<Churn>,
    /// The first so many nodes neither crash nor pause, and their disks are well, for example the one that others start from.
    pub spared: u32,
}

/// Events of one schedule, at most: a plan whose faults come every nanosecond is cut short.
const EVENTS_MAX: usize = 100_000;

impl FaultPlan {
    /// Draws which classes of fault are on, each with a probability of its own, and how strong. One plan
    /// in eight has none. No plan has faults of disks, which [`add_disk_faults`](Self::add_disk_faults) draws, nor
    /// blackouts.
    #[must_use]
    pub fn swarm(rng: &mut ChaCha8Rng) -> Self {
        let mut plan = Self::default();
        if chance(rng, 125_000) {
            return plan;
        }
        let on = |rng: &mut ChaCha8Rng| chance(rng, 400_000);
        let churn = |rng: &mut ChaCha8Rng, lasts_max_ms: u64| Churn {
            every: between(rng, Duration::from_secs(2), Duration::from_secs(20)),
            lasts: between(
                rng,
                Duration::from_millis(50),
                Duration::from_millis(lasts_max_ms),
            ),
        };
        // One in a thousand to one in ten, each order of magnitude as likely as the other.
        let rate = |rng: &mut ChaCha8Rng| {
            let base = if chance(rng, 500_000) { 1_000 } else { 10_000 };
            base * (1 + below(rng, 10) as u32)
        };
        plan.links.latency = match below(rng, 4) {
            0 => Latency::constant(between(rng, Duration::ZERO, Duration::from_millis(5))),
            1 => Latency::default(),
            _ => {
                let min = between(rng, Duration::from_micros(100), Duration::from_millis(50));
                let mean = min + between(rng, Duration::ZERO, Duration::from_millis(100));
                Latency {
                    min,
                    mean,
                    max: mean * 10,
                }
            }
        };
        if on(rng) {
            plan.links.loss_ppm = rate(rng);
        }
        if on(rng) {
            plan.links.duplicate_ppm = rate(rng);
        }
        if on(rng) {
            plan.links.reorder_ppm = rate(rng);
            plan.links.reorder_delay =
                between(rng, Duration::from_millis(1), Duration::from_millis(500));
        }
        if on(rng) {
            plan.links.corrupt_ppm = rate(rng);
        }
        if chance(rng, 100_000) {
            plan.links.bandwidth = Some(100_000 * (1 + below(rng, 100)));
        }
        plan.partitions = on(rng).then(|| churn(rng, 20_000));
        plan.one_way = on(rng).then(|| churn(rng, 20_000));
        plan.flapping = on(rng).then(|| churn(rng, 400));
        plan.crashes = on(rng).then(|| churn(rng, 20_000));
        plan.pauses = on(rng).then(|| churn(rng, 5_000));
        plan.jumps = on(rng).then(|| churn(rng, 60_000));
        if on(rng) {
            plan.drift_ppm_max = 10_000;
        }
        if on(rng) {
            plan.offset_max = between(rng, Duration::ZERO, Duration::from_secs(8));
        }
        plan
    }

    /// Draws which faults disks have, each class with a probability of its own, and how strong: for nodes that keep
    /// something on theirs.
    pub fn add_disk_faults(&mut self, rng: &mut ChaCha8Rng) {
        let mut churn = || {
            chance(rng, 300_000).then(|| Churn {
                every: between(rng, Duration::from_secs(2), Duration::from_secs(20)),
                lasts: between(rng, Duration::from_millis(50), Duration::from_secs(10)),
            })
        };
        self.failed_syncs = churn();
        self.failed_writes = churn();
        self.slow_disks = churn();
        self.full_disks = churn();
    }

    /// Draws what happens when, to `nodes` nodes, from the run's beginning to `until`. By then all that
    /// went wrong has been put right again, but for how the network treats packets.
    ///
    /// Each class draws from a stream of its own: taking one out of the plan does not move the others.
    #[must_use]
    pub fn schedule(&self, streams: &Streams, nodes: u32, until: SimTime) -> FaultSchedule {
        let mut events = Vec::new();
        let mut class = |label: &str, churn: &Option<Churn>, draw: &mut DrawFault<'_>| {
            if let Some(churn) = churn {
                let mut rng = streams.stream(label);
                come_and_go(&mut rng, churn, until, &mut events, draw);
            }
        };
        if nodes > 1 {
            class("fault/partition", &self.partitions, &mut |rng, _| {
                let (left, right) = split(rng, nodes);
                (
                    Fault::Partition(left.clone(), right.clone()),
                    Some(Fault::EndPartition(left, right)),
                )
            });
            class("fault/one way", &self.one_way, &mut |rng, _| {
                let (from, to) = split(rng, nodes);
                (
                    Fault::Cut(from.clone(), to.clone()),
                    Some(Fault::EndCut(from, to)),
                )
            });
            class("fault/flapping", &self.flapping, &mut |rng, _| {
                let first = below(rng, u64::from(nodes)) as u32;
                let second = (first + 1 + below(rng, u64::from(nodes) - 1) as u32) % nodes;
                let pair = || (vec![NodeIndex(first)], vec![NodeIndex(second)]);
                (
                    Fault::Partition(pair().0, pair().1),
                    Some(Fault::EndPartition(pair().0, pair().1)),
                )
            });
        }
        if nodes > self.spared {
            let victims = nodes - self.spared;
            let victim = |rng: &mut ChaCha8Rng| {
                NodeIndex(self.spared + below(rng, u64::from(victims)) as u32)
            };
            class("fault/crash", &self.crashes, &mut |rng, _| {
                let node = victim(rng);
                let crash = if chance(rng, 500_000) {
                    Fault::CrashAfter(node, below(rng, 20) as u32)
                } else {
                    Fault::Crash(node)
                };
                (crash, Some(Fault::Restart(node)))
            });
            class("fault/pause", &self.pauses, &mut |rng, _| {
                let node = victim(rng);
                (Fault::Pause(node), Some(Fault::Resume(node)))
            });
            class("fault/sync", &self.failed_syncs, &mut |rng, _| {
                (Fault::FailSync(victim(rng)), None)
            });
            class("fault/write", &self.failed_writes, &mut |rng, _| {
                (Fault::FailWrite(victim(rng)), None)
            });
            class("fault/slow disk", &self.slow_disks, &mut |rng, _| {
                let node = victim(rng);
                // Twice to 250 times, each order of magnitude about as likely as the other.
                let base = [1, 5, 25][below(rng, 3) as usize];
                let slow = Fault::SlowDisk(node, base * (2 + below(rng, 9) as u32));
                (slow, Some(Fault::SlowDisk(node, 1)))
            });
            class("fault/full disk", &self.full_disks, &mut |rng, _| {
                let node = victim(rng);
                (Fault::FillDisk(node), Some(Fault::FreeDisk(node)))
            });
        }
        class("fault/jump", &self.jumps, &mut |rng, churn| {
            let node = NodeIndex(below(rng, u64::from(nodes.max(1))) as u32);
            let micros = signed(rng, micros(churn.lasts));
            (Fault::Jump(node, micros), None)
        });
        if let Some(churn) = &self.blackouts {
            let mut rng = streams.stream("fault/blackout");
            let victims: Vec<_> = (self.spared..nodes).map(NodeIndex).collect();
            black_out(&mut rng, churn, &victims, nodes, until, &mut events);
        }
        let mut clocks = streams.stream("fault/clock");
        for node in (0..nodes).map(NodeIndex) {
            let drift = signed(&mut clocks, i64::from(self.drift_ppm_max.min(1 << 20)));
            let offset = signed(&mut clocks, micros(self.offset_max));
            let mut at_start = |fault| {
                events.push(FaultEvent {
                    at: SimTime::ZERO,
                    fault,
                });
            };
            if let (1.., Ok(drift)) = (self.drift_ppm_max, i32::try_from(drift)) {
                at_start(Fault::Drift(node, drift));
            }
            if !self.offset_max.is_zero() {
                at_start(Fault::Jump(node, offset));
            }
        }
        set_clocks_right(&mut events, until);
        // Stable: what falls on one nanosecond keeps the order of the classes.
        events.sort_by_key(|event| event.at);
        FaultSchedule {
            links: self.links,
            events,
        }
    }
}

/// Sets the clocks right at `until`, as far as the events have set them wrong. What a clock has gained or
/// lost by drift stays.
fn set_clocks_right(events: &mut Vec<FaultEvent>, until: SimTime) {
    let (mut jumps, mut drifts) = (BTreeMap::<NodeIndex, i64>::new(), BTreeSet::new());
    for event in &*events {
        match event.fault {
            Fault::Jump(node, micros) => {
                let sum = jumps.entry(node).or_default();
                *sum = sum.saturating_add(micros);
            }
            Fault::Drift(node, _) => {
                drifts.insert(node);
            }
            _ => {}
        }
    }
    let drifts = drifts.into_iter().map(|node| Fault::Drift(node, 0));
    let jumps = jumps
        .into_iter()
        .map(|(node, sum)| Fault::Jump(node, sum.saturating_neg()));
    events.extend(
        drifts
            .chain(jumps)
            .map(|fault| FaultEvent { at: until, fault }),
    );
}

/// Draws one fault of a class and what ends it.
type DrawFault<'a> = dyn FnMut(&mut ChaCha8Rng, &Churn) -> (Fault, Option<Fault>) + 'a;

fn come_and_go(
    rng: &mut ChaCha8Rng,
    churn: &Churn,
    until: SimTime,
    events: &mut Vec<FaultEvent>,
    draw: &mut DrawFault<'_>,
) {
    let around = |rng: &mut ChaCha8Rng, mean: Duration| between(rng, mean / 2, mean / 2 * 3);
    let mut now = SimTime::ZERO + around(rng, churn.every);
    while now < until && events.len() < EVENTS_MAX {
        let (begin, end) = draw(rng, churn);
        events.push(FaultEvent {
            at: now,
            fault: begin,
        });
        now = (now + around(rng, churn.lasts)).min(until);
        events.extend(end.map(|fault| FaultEvent { at: now, fault }));
        now = now + around(rng, churn.every).max(Duration::from_nanos(1));
    }
}

/// The nodes of a blackout crash within so long.
const BLACKOUT_WITHIN: Duration = Duration::from_millis(300);

/// Crashes of so many of the victims that the rest of the nodes are no majority; each is down for a time of its own.
fn black_out(
    rng: &mut ChaCha8Rng,
    churn: &Churn,
    victims: &[NodeIndex],
    nodes: u32,
    until: SimTime,
    events: &mut Vec<FaultEvent>,
) {
    let mut now = SimTime::ZERO + between(rng, churn.every / 2, churn.every / 2 * 3);
    while now < until && events.len() < EVENTS_MAX {
        let mut left = victims.to_vec();
        let most = below(rng, u64::from(nodes / 2 + 1)) as usize;
        let count = (nodes.div_ceil(2) as usize + most).min(left.len());
        let mut last = now;
        for _ in 0..count {
            let node = left.swap_remove(below(rng, left.len() as u64) as usize);
            let down = now + between(rng, Duration::ZERO, BLACKOUT_WITHIN);
            let up = down + between(rng, Duration::ZERO, churn.lasts * 2);
            last = last.max(up);
            for (at, fault) in [(down, Fault::Crash(node)), (up, Fault::Restart(node))] {
                let at = at.min(until);
                events.push(FaultEvent { at, fault });
            }
        }
        let pause = between(rng, churn.every / 2, churn.every / 2 * 3);
        now = last + pause.max(Duration::from_nanos(1));
    }
}

/// Two parts of the nodes, neither empty.
fn split(rng: &mut ChaCha8Rng, nodes: u32) -> (Vec<NodeIndex>, Vec<NodeIndex>) {
    let left_len = 1 + below(rng, u64::from(nodes) - 1) as usize;
    let mut order: Vec<NodeIndex> = (0..nodes).map(NodeIndex).collect();
    // Fisher and Yates, as far as needed.
    for index in 0..left_len {
        let other = index + below(rng, (order.len() - index) as u64) as usize;
        order.swap(index, other);
    }
    let mut right = order.split_off(left_len);
    order.sort_unstable();
    right.sort_unstable();
    (order, right)
}

/// A number from `-max` to `max`.
fn signed(rng: &mut ChaCha8Rng, max: i64) -> i64 {
    let span = max.unsigned_abs() * 2 + 1;
    below(rng, span).cast_signed() - max
}

fn micros(duration: Duration) -> i64 {
    // Bounded so that twice as much still fits: 73,000 years.
    i64::try_from(duration.as_micros())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SimTime = SimTime::from_nanos(60_000_000_000);

    fn swarm(seed: u64) -> FaultPlan {
        FaultPlan::swarm(&mut Streams::new(seed).stream("plan"))
    }

    #[test]
    fn plans_differ_and_some_have_no_faults() {
        let plans: Vec<FaultPlan> = (0..200).map(swarm).collect();
        let none = plans
            .iter()
            .filter(|plan| **plan == FaultPlan::default())
            .count();
        assert!((10..50).contains(&none), "{none}");
        assert!(
            plans
                .iter()
                .any(|plan| plan.crashes.is_some() && plan.partitions.is_none())
        );
        assert!(
            plans
                .iter()
                .any(|plan| plan.crashes.is_none() && plan.partitions.is_some())
        );
        assert_eq!(swarm(7), swarm(7));
    }

    #[test]
    fn all_is_well_again_when_the_schedule_ends() {
        for seed in 0..100 {
            let mut plan = FaultPlan {
                spared: 1,
                blackouts: (seed % 2 == 0).then_some(Churn {
                    every: Duration::from_secs(5),
                    lasts: Duration::from_secs(5),
                }),
                ..swarm(seed)
            };
            plan.add_disk_faults(&mut Streams::new(seed).stream("disks"));
            let schedule = plan.schedule(&Streams::new(seed), 7, MINUTE);
            assert!(schedule.events.is_sorted_by_key(|event| event.at));
            let (mut down, mut paused, mut offset, mut drift) = (0i32, 0i32, 0i64, 0i32);
            let (mut full, mut slow) = (0i32, BTreeSet::new());
            for event in &schedule.events {
                assert!(event.at <= MINUTE);
                match &event.fault {
                    Fault::Crash(node) | Fault::CrashAfter(node, _) => {
                        assert_ne!(*node, NodeIndex(0));
                        down += 1;
                    }
                    Fault::Restart(_) => down -= 1,
                    Fault::Pause(_) => paused += 1,
                    Fault::Resume(_) => paused -= 1,
                    Fault::Jump(_, micros) => offset += micros,
                    Fault::Drift(NodeIndex(3), ppm) => drift = *ppm,
                    Fault::FillDisk(_) => full += 1,
                    Fault::FreeDisk(_) => full -= 1,
                    Fault::SlowDisk(node, 1) => drop(slow.remove(node)),
                    Fault::SlowDisk(node, _) => drop(slow.insert(*node)),
                    _ => {}
                }
            }
            assert_eq!((down, paused, offset, drift), (0, 0, 0, 0));
            assert_eq!((full, slow.len()), (0, 0));
        }
    }

    #[test]
    fn a_blackout_leaves_no_majority() {
        let plan = FaultPlan {
            blackouts: Some(Churn {
                every: Duration::from_secs(5),
                lasts: Duration::from_secs(5),
            }),
            ..FaultPlan::default()
        };
        for nodes in 1..8 {
            let events = plan
                .schedule(&Streams::new(9), nodes, MINUTE)
                .events
                .into_iter();
            let (mut down, mut down_max) = (BTreeSet::new(), 0);
            for event in events {
                match event.fault {
                    Fault::Crash(node) => down.insert(node),
                    Fault::Restart(node) => down.remove(&node),
                    _ => false,
                };
                down_max = down_max.max(down.len());
            }
            assert!(down.is_empty());
            assert!(
                down_max * 2 >= nodes as usize,
                "{down_max} of {nodes} were down"
            );
        }
    }

    #[test]
    fn taking_one_class_away_does_not_move_the_others() {
        let churn = Some(Churn {
            every: Duration::from_secs(3),
            lasts: Duration::from_secs(1),
        });
        let both = FaultPlan {
            crashes: churn,
            partitions: churn,
            ..FaultPlan::default()
        };
        let crashes = FaultPlan {
            crashes: churn,
            ..FaultPlan::default()
        };
        let streams = Streams::new(5);
        let mut events = both.schedule(&streams, 5, MINUTE).events;
        events
            .retain(|event| !matches!(event.fault, Fault::Partition(..) | Fault::EndPartition(..)));
        assert!(!events.is_empty());
        assert_eq!(events, crashes.schedule(&streams, 5, MINUTE).events);
    }

    #[test]
    fn a_partition_has_two_parts_and_all_nodes() {
        let mut rng = Streams::new(1).stream("split");
        for _ in 0..100 {
            let (left, right) = split(&mut rng, 6);
            assert!(!left.is_empty() && !right.is_empty());
            let mut all: Vec<NodeIndex> = left.into_iter().chain(right).collect();
            all.sort_unstable();
            assert_eq!(all, (0..6).map(NodeIndex).collect::<Vec<_>>());
        }
    }
}
