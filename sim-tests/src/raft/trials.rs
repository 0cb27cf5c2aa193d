//! Classes of trouble that only some schedules need, each drawn from a stream of its own: a run without one
//! is the same as if the class did not exist.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{Config, FoundingRule, StorageClass};
use smalti_sim::NodeIndex;
use smalti_sim::faults::{Churn, Fault, FaultEvent, Latency, LinkFaults};
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::time::SimTime;

/// How a group begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Beginning {
    /// All voters start together.
    #[default]
    Together,
    /// One founds alone; the others come later.
    Alone,
    /// Two parts that do not reach each other found one group each. Until when they do not.
    Apart(Vec<NodeIndex>, Vec<NodeIndex>, SimTime),
}

/// Paths between two parts that take so long at first, and until when.
#[derive(Clone, Copy, Debug)]
struct FarApart {
    latency: Latency,
    until: SimTime,
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Trials {
    pub(super) beginning: Beginning,
    /// Two parts that answer each other only when the patience of either has ended.
    far_apart: Option<FarApart>,
    /// Paths that take about as long as elections: what was said in one term arrives in the next.
    pub(super) slow_paths: Option<Churn>,
    /// One node is cut off while the others are started again one by one.
    pub(super) rolling: Option<Churn>,
    /// A majority of the nodes crashes at about one moment, and comes back.
    pub(super) majorities: Option<Churn>,
    /// The disk of one that founded alone falls behind what the others have, and the node crashes.
    pub(super) slow_founder: Option<Churn>,
    /// Operators who have a group go on from what is left, whether or not that is wise.
    pub(super) orders: Vec<(SimTime, NodeIndex)>,
}

impl Trials {
    /// Draws for so many `members`; changes `config` where a class needs it.
    pub(super) fn draw(streams: &Streams, members: u32, config: &mut Config) -> Self {
        let unit = config.election_timeout;
        let churn = |label: &str, ppm| {
            let mut rng = streams.stream(label);
            chance(&mut rng, ppm).then(|| Churn {
                every: between(&mut rng, unit, unit * 12),
                lasts: between(&mut rng, unit, unit * 8),
            })
        };
        let slow_paths = churn("plan/slow paths", 250_000);
        let rolling = churn("plan/rolling", 100_000);
        let majorities = churn("plan/majorities", 250_000);
        let rng = &mut streams.stream("plan/orders");
        let mut orders = Vec::new();
        if chance(rng, 150_000) {
            for _ in 0..=below(rng, 4) {
                let at = between(rng, Duration::from_secs(5), Duration::from_secs(40));
                let node = NodeIndex(below(rng, u64::from(members)) as u32);
                orders.push((SimTime::from(at), node));
            }
        }
        if chance(rng, 50_000) {
            config.reform_after = Some(between(rng, unit * 2, unit * 30));
        }
        let rng = &mut streams.stream("plan/snapshots");
        if chance(rng, 150_000) {
            config.snapshot_interval = 1 + below(rng, 15);
            config.log_window = below(rng, config.snapshot_interval * 2);
        }
        let rng = &mut streams.stream("plan/beginning");
        let drawn = below(rng, 100);
        let beginning = match drawn {
            0..12 if members > 2 => Beginning::Alone,
            12..22 if members > 1 => apart(rng, members, config),
            _ => Beginning::Together,
        };
        let rng = &mut streams.stream("plan/far apart");
        let far_apart = match &beginning {
            Beginning::Apart(.., from) if chance(rng, 400_000) => {
                Some(FarApart::draw(rng, unit, *from))
            }
            _ => None,
        };
        let rng = &mut streams.stream("plan/slow founder");
        let may_forget = beginning == Beginning::Alone && config.storage == StorageClass::Durable;
        let slow_founder = (may_forget && chance(rng, 500_000)).then(|| Churn {
            every: between(rng, unit * 2, unit * 8),
            lasts: between(rng, unit / 2, unit * 2),
        });
        if beginning != Beginning::Together {
            config.founding = draw_early_founding(rng);
        }
        Self {
            beginning,
            far_apart,
            slow_paths,
            rolling,
            majorities,
            slow_founder,
            orders,
        }
    }

    /// The same, for two parts that begin apart and then meet, most often far from each other.
    pub(super) fn draw_meeting(streams: &Streams, members: u32, config: &mut Config) -> Self {
        let mut trials = Self::draw(streams, members, config);
        let unit = config.election_timeout;
        let rng = &mut streams.stream("plan/meeting");
        let beginning = apart(rng, members, config);
        let is_far = chance(rng, 800_000);
        trials.far_apart = match &beginning {
            Beginning::Apart(.., from) if is_far => Some(FarApart::draw(rng, unit, *from)),
            _ => None,
        };
        trials.beginning = beginning;
        // Of those that have a seal not all may live to see it committed.
        trials.majorities = chance(rng, 600_000).then(|| Churn {
            every: between(rng, unit, unit * 6),
            lasts: between(rng, unit, unit * 4),
        });
        trials.slow_founder = None;
        config.founding = draw_early_founding(rng);
        trials
    }

    /// When a node starts that would start at `at`.
    pub(super) fn start(
        &self,
        node: u32,
        at: SimTime,
        config: &Config,
        rng: &mut ChaCha8Rng,
    ) -> SimTime {
        if self.beginning != Beginning::Alone || node == 0 {
            return at;
        }
        let after = config.bootstrap_delay * 2;
        at.max(SimTime::from(
            after + between(rng, Duration::ZERO, Duration::from_secs(8)),
        ))
    }

    /// What goes wrong at the beginning, in a run in which everything is to be well from `end` on.
    pub(super) fn first_faults(&self, links: LinkFaults, end: SimTime) -> Vec<FaultEvent> {
        let Beginning::Apart(left, right, until) = &self.beginning else {
            return Vec::new();
        };
        let event = |at, fault: fn(_, _) -> Fault| FaultEvent {
            at,
            fault: fault(left.clone(), right.clone()),
        };
        let mut faults = vec![
            event(SimTime::ZERO, Fault::Partition),
            event(*until, Fault::EndPartition),
        ];
        if let Some(far_apart) = self.far_apart {
            let slow = LinkFaults {
                latency: far_apart.latency,
                loss_ppm: 0,
                ..links
            };
            for (one, other) in pairs(left, right) {
                for (from, to) in [(one, other), (other, one)] {
                    let at = |at, links| FaultEvent {
                        at,
                        fault: Fault::Path(from, to, links),
                    };
                    faults.extend([at(*until, slow), at(far_apart.until.min(end), links)]);
                }
            }
        }
        faults
    }
}

impl FarApart {
    /// Draws for parts that reach each other from `from` on.
    fn draw(rng: &mut ChaCha8Rng, unit: Duration, from: SimTime) -> Self {
        Self {
            latency: Latency::constant(between(rng, unit / 2, unit * 3 / 2)),
            until: from + unit * 10 + between(rng, Duration::ZERO, unit * 20),
        }
    }
}

/// Two parts of the members, for long enough that each founds a group.
fn apart(rng: &mut ChaCha8Rng, members: u32, config: &Config) -> Beginning {
    let size = 1 + below(rng, u64::from(members) - 1) as usize;
    let mut right: Vec<NodeIndex> = (0..members).map(NodeIndex).collect();
    let mut left = Vec::new();
    for _ in 0..size {
        let place = below(rng, right.len() as u64) as usize;
        left.push(right.remove(place));
    }
    let until = config.bootstrap_delay * 5;
    let until = until + between(rng, Duration::ZERO, Duration::from_secs(5));
    Beginning::Apart(left, right, SimTime::from(until))
}

/// When a group may be founded by those that are there first.
fn draw_early_founding(rng: &mut ChaCha8Rng) -> FoundingRule {
    if chance(rng, 500_000) {
        FoundingRule::Any
    } else {
        FoundingRule::Expect(1)
    }
}

/// Each of `left` with each of `right`.
fn pairs(left: &[NodeIndex], right: &[NodeIndex]) -> impl Iterator<Item = (NodeIndex, NodeIndex)> {
    left.iter()
        .flat_map(|one| right.iter().map(|other| (*one, *other)))
}

/// How long a node does nothing when it is started again.
const DOWN_MAX: Duration = Duration::from_millis(300);

/// Slows down paths from `node` or to it. Nothing is lost there: a stream would send it again only after some
/// of these latencies, and hold back for longer than anybody waits what comes after it.
pub(super) fn slow_paths(
    rng: &mut ChaCha8Rng,
    node: NodeIndex,
    lasts: Duration,
    nodes: u32,
    unit: Duration,
    links: LinkFaults,
) -> Vec<(Duration, Fault)> {
    let latency = Latency::constant(between(rng, unit / 4, unit * 2));
    let is_from = chance(rng, 500_000);
    let mut faults = Vec::new();
    for other in (0..nodes).map(NodeIndex).filter(|other| *other != node) {
        if chance(rng, 700_000) {
            let (from, to) = if is_from {
                (node, other)
            } else {
                (other, node)
            };
            let slow = LinkFaults {
                latency,
                loss_ppm: 0,
                ..links
            };
            faults.push((Duration::ZERO, Fault::Path(from, to, slow)));
            faults.push((lasts, Fault::Path(from, to, links)));
        }
    }
    faults
}

/// Cuts `node` off, and starts the others again, one by one.
pub(super) fn rolling(
    rng: &mut ChaCha8Rng,
    node: NodeIndex,
    lasts: Duration,
    nodes: u32,
) -> Vec<(Duration, Fault)> {
    let others = (0..nodes).map(NodeIndex).filter(|other| *other != node);
    let others: Vec<NodeIndex> = others.collect();
    let mut faults = vec![
        (Duration::ZERO, Fault::Partition(vec![node], others.clone())),
        (lasts, Fault::EndPartition(vec![node], others.clone())),
    ];
    for (number, other) in (0..).zip(&others) {
        let at = lasts * number / nodes + between(rng, Duration::ZERO, lasts / nodes);
        faults.push((at, Fault::Crash(*other)));
        let down = between(rng, Duration::ZERO, DOWN_MAX);
        faults.push((at + down, Fault::Restart(*other)));
    }
    faults
}

/// Crashes `node` and so many others, within a short while, that those that are left are no majority.
pub(super) fn majorities(
    rng: &mut ChaCha8Rng,
    node: NodeIndex,
    lasts: Duration,
    nodes: u32,
) -> Vec<(Duration, Fault)> {
    let mut others: Vec<NodeIndex> = (0..nodes).map(NodeIndex).filter(|it| *it != node).collect();
    let mut crashed = vec![node];
    while crashed.len() < nodes as usize / 2 + 1 && !others.is_empty() {
        let place = below(rng, others.len() as u64) as usize;
        crashed.push(others.remove(place));
    }
    let mut faults = Vec::new();
    for node in crashed {
        let at = between(rng, Duration::ZERO, DOWN_MAX);
        let down = between(rng, Duration::ZERO, lasts);
        faults.push((at, Fault::Crash(node)));
        faults.push((at + down, Fault::Restart(node)));
    }
    faults
}

/// Has the disk of the first node fall behind for so long, and then the node crash.
pub(super) fn slow_founder(rng: &mut ChaCha8Rng, lasts: Duration) -> Vec<(Duration, Fault)> {
    let founder = NodeIndex(0);
    let down = between(rng, Duration::ZERO, DOWN_MAX);
    vec![
        (Duration::ZERO, Fault::SlowDisk(founder, 10_000)),
        (lasts, Fault::Crash(founder)),
        (lasts, Fault::SlowDisk(founder, 1)),
        (lasts + down, Fault::Restart(founder)),
    ]
}

/// How long drivers collect inputs before they take outputs.
pub(super) fn draw_collects(streams: &Streams) -> Duration {
    let rng = &mut streams.stream("plan/driver");
    if chance(rng, 200_000) {
        between(rng, Duration::from_micros(10), Duration::from_millis(10))
    } else {
        Duration::ZERO
    }
}
