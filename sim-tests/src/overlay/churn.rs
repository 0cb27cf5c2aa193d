//! `overlay-churn`: nodes come, go, crash, and lose each other; afterwards all is as if nothing had
//! been.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::discovery::{Command, Config, Input, RequestId};
use smalti_sim::NodeIndex;
use smalti_sim::bare::World;
use smalti_sim::faults::{Fault, FaultEvent, FaultPlan};
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::time::SimTime;

use super::checks::{agreement, connectedness, observe};
use super::network::{Network, Overlay};
use super::rare;
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `overlay-churn`.
pub struct Churn;

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(90);
/// How long the network must stay as it should be.
const STAYS: Duration = Duration::from_secs(10);
/// How long what went wrong before may still show.
const CALMS_DOWN: Duration = Duration::from_secs(20);
/// How long the overlay may be parted once it has been connected and nothing goes wrong any more.
const MENDS_WITHIN: Duration = Duration::from_secs(5);
/// How often the network is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a node that has left goes on until its process ends.
const LINGERS: Duration = Duration::from_secs(1);
/// The furthest that a clock is off from the start, so that nobody is taken to be from the future.
const OFFSET_MAX: Duration = Duration::from_secs(2);
/// Longer than a link may hold up a message: what is held up for longer than `purge_after` may be
/// forgotten twice on its way, and then come back for as long as it had left when it was sent.
const PURGE_AFTER_MIN: Duration = Duration::from_secs(15);
/// Nodes through which others join.
const BOOTSTRAP: u32 = 3;

impl Scenario for Churn {
    fn name(&self) -> &'static str {
        "overlay-churn"
    }

    fn description(&self) -> &'static str {
        "nodes join, leave, crash and are cut off; then all catalogs are the live nodes"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            default: 100,
            min: 4,
            max: 1_000,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        rare::ALL
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let nodes = options.nodes(self.nodes());
        let streams = Streams::new(seed);
        let plan = Plan::draw(&streams, nodes);
        let network = Network::new(&streams, nodes, BOOTSTRAP, plan.config.clone());
        let mut world = World::new(seed, network.watching_all(nodes));
        world.trace_mut().record_lines(options.lines.clone());
        let mut schedule = plan
            .faults
            .schedule(&streams, nodes, SimTime::from(TROUBLE));
        // Nodes come one by one, each with its clock.
        let is_clock = |event: &mut FaultEvent| {
            event.at == SimTime::ZERO && matches!(event.fault, Fault::Drift(..) | Fault::Jump(..))
        };
        let clocks: Vec<Fault> = schedule
            .events
            .extract_if(.., is_clock)
            .map(|event| event.fault)
            .collect();
        world.add_faults(&schedule);
        observe(world, plan.describe(), |world, measured| {
            plan.carry_out(world, &clocks);
            world.run_until(SimTime::from(TROUBLE));
            world.apply(Fault::RepairAll);
            settled(world, &plan.config, measured)
        })
    }
}

/// Waits until the network is as it should be, and then sees that it stays so.
fn settled(world: &mut Overlay, config: &Config, measured: &mut Vec<String>) -> Result<(), String> {
    // Who crashed for good is given up after `purge_after`, by clocks that run slow; after that the
    // overlay may have to find together again.
    let limit = config.purge_after + config.purge_after / 10 + config.announce_interval * 4;
    let limit = limit + Duration::from_secs(30);
    let calm = world.now();
    // Since when all catalogs agree, and since when the overlay is connected or not.
    let (mut agreed, mut connected, mut parted) = (None, None, None);
    loop {
        let now = world.now();
        let is_late = now > calm + limit;
        match (agreement(world), agreed) {
            (Ok(()), since) => agreed = since.or(Some(now)),
            (Err(cause), _) if is_late => {
                return Err(format!("{limit:?} after the last fault: {cause}"));
            }
            // Before that, who was cut off may still be given up before it is heard of again.
            (Err(cause), Some(since)) if since > calm + CALMS_DOWN => {
                return Err(format!("all agreed, but not for long: {cause}"));
            }
            (Err(_), _) => agreed = None,
        }
        match connectedness(world) {
            Ok(()) => (connected, parted) = (connected.or(Some(now)), None),
            Err(cause) => {
                let since = *parted.get_or_insert(now);
                // A node may lose its only neighbour to another at any time; it finds one at once.
                let is_calm = since > calm + CALMS_DOWN;
                if is_late || is_calm && now > since + MENDS_WITHIN {
                    let lasted = now.since(since);
                    return Err(format!(
                        "the overlay has been parted for {lasted:?}: {cause}"
                    ));
                }
            }
        }
        let stays = |since: SimTime| since + STAYS <= now;
        if agreed.is_some_and(stays) && connected.is_some_and(stays) && parted.is_none() {
            break;
        }
        world.run_until(now + LOOK_EVERY);
    }
    let live = world.environment().members.live().count();
    let taken = agreed.unwrap_or(calm).since(calm);
    measured.push(format!(
        "{live} live nodes agreed {taken:?} after the last fault"
    ));
    Ok(())
}

/// What is drawn from the seed.
struct Plan {
    faults: FaultPlan,
    config: Config,
    steps: Vec<(SimTime, Step)>,
}

/// What happens to a node besides faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A node that never was before joins.
    Join,
    /// The node leaves in order.
    Leave(NodeIndex),
    /// The process of a node that has left ends.
    End(NodeIndex),
    /// The node crashes, and nobody starts it again unless a fault does.
    Crash(NodeIndex),
    /// The node crashes and starts again under a clock that was set back by seconds.
    SetBack(NodeIndex, u32),
    /// Its clock is put right. Until then it takes the others to be from the future.
    PutRight(NodeIndex),
}

impl Plan {
    fn draw(streams: &Streams, nodes: u32) -> Self {
        let mut rng = streams.stream("plan");
        let mut faults = FaultPlan::swarm(&mut rng);
        faults.offset_max = faults.offset_max.min(OFFSET_MAX);
        // Jumps add up beyond what nodes tolerate of each other; steps set clocks back instead.
        faults.jumps = None;
        faults.spared = below(&mut rng, 2) as u32;
        let config = draw_config(&mut rng);
        let steps = draw_steps(&mut streams.stream("steps"), nodes);
        Self {
            faults,
            config,
            steps,
        }
    }

    fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("{:?}", self.faults), format!("{:?}", self.config)];
        lines.extend(self.steps.iter().map(|(at, step)| format!("{at} {step:?}")));
        lines
    }

    fn carry_out(&self, world: &mut Overlay, clocks: &[Fault]) {
        let mut off_by = BTreeMap::new();
        for (at, step) in &self.steps {
            world.run_until(*at);
            step.carry_out(world, clocks, &mut off_by);
        }
    }
}

/// The defaults, or intervals so short that peers are given up and come back within a run.
fn draw_config(rng: &mut ChaCha8Rng) -> Config {
    let mut config = Config::default();
    if !chance(rng, 250_000) {
        config.announce_interval = between(rng, Duration::from_secs(1), Duration::from_secs(5));
        // Twice the longest time between two announcements is the least that is valid.
        let least = (config.announce_interval * 4).max(PURGE_AFTER_MIN);
        config.purge_after = least + between(rng, Duration::ZERO, Duration::from_secs(40));
    }
    config
}

fn draw_steps(rng: &mut ChaCha8Rng, nodes: u32) -> Vec<(SimTime, Step)> {
    let late = if chance(rng, 500_000) { nodes / 3 } else { 0 };
    let first = (nodes - late).max(1);
    let join_over = match below(rng, 3) {
        0 => Duration::ZERO,
        1 => Duration::from_secs(1),
        _ => Duration::from_secs(20),
    };
    let any_time = |rng: &mut ChaCha8Rng| SimTime::from(between(rng, Duration::ZERO, TROUBLE));
    let mut steps = Vec::new();
    for _ in 0..first {
        let at = between(rng, Duration::ZERO, join_over);
        steps.push((SimTime::from(at), Step::Join));
    }
    for _ in 0..late {
        steps.push((any_time(rng), Step::Join));
    }
    let some = |rng: &mut ChaCha8Rng, draw: &mut dyn FnMut(&mut ChaCha8Rng, NodeIndex)| {
        if chance(rng, 500_000) {
            for _ in 0..below(rng, u64::from(nodes / 4) + 1) {
                // Nobody could join without the first.
                let node = NodeIndex(1 + below(rng, u64::from(nodes) - 1) as u32);
                draw(rng, node);
            }
        }
    };
    some(rng, &mut |rng, node| {
        let at = any_time(rng);
        steps.push((at, Step::Leave(node)));
        steps.push((at + LINGERS, Step::End(node)));
    });
    some(rng, &mut |rng, node| {
        steps.push((any_time(rng), Step::Crash(node)));
    });
    some(rng, &mut |rng, node| {
        let seconds = 1 + below(rng, 120) as u32;
        let at = any_time(rng);
        steps.push((at, Step::SetBack(node, seconds)));
        let later = between(rng, Duration::ZERO, Duration::from_secs(10));
        steps.push((at + later, Step::PutRight(node)));
    });
    // Stable, so that what was drawn first comes first.
    steps.sort_by_key(|(at, _)| *at);
    steps
}

impl Step {
    /// `clocks` tells how the clocks of nodes are off from the start, and `off_by` takes note of
    /// how far they were set back since.
    fn carry_out(
        self,
        world: &mut Overlay,
        clocks: &[Fault],
        off_by: &mut BTreeMap<NodeIndex, i64>,
    ) {
        match self {
            Self::Join => {
                let node = world.add_node();
                for fault in clocks {
                    if let Fault::Drift(of, _) | Fault::Jump(of, _) = fault
                        && *of == node
                    {
                        world.apply(fault.clone());
                    }
                }
            }
            Self::Leave(node) => {
                let command = Command::Leave;
                let request = RequestId(0);
                world.input(node, Input::Request { request, command });
            }
            Self::End(node) => {
                let has_left = node.0 < world.context().nodes_count()
                    && world.environment().members.has_left(node);
                if has_left {
                    world.apply(Fault::Crash(node));
                }
            }
            Self::Crash(node) => world.apply(Fault::Crash(node)),
            Self::SetBack(node, seconds) => {
                if world.machine(node).is_none() {
                    return;
                }
                let micros = i64::from(seconds) * 1_000_000;
                world.apply(Fault::Crash(node));
                world.apply(Fault::Jump(node, -micros));
                world.apply(Fault::Restart(node));
                *off_by.entry(node).or_default() += micros;
            }
            Self::PutRight(node) => {
                if let Some(micros) = off_by.remove(&node) {
                    world.apply(Fault::Jump(node, micros));
                }
            }
        }
    }
}
