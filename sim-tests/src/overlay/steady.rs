//! `overlay-steady`: a small network lives for an hour with the default intervals, and now and then a
//! node goes and comes back.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::discovery::{Command, Config, Input, RequestId};
use smalti_sim::NodeIndex;
use smalti_sim::bare::World;
use smalti_sim::faults::{Fault, FaultSchedule, Latency, LinkFaults};
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::time::SimTime;

use super::checks::{agreement, connectedness, observe, settle};
use super::network::{Network, Overlay};
use super::rare;
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `overlay-steady`.
pub struct Steady;

/// How long the network lives.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// The time over which nodes join at its beginning.
const JOIN_OVER: Duration = Duration::from_secs(20);
/// How long the network may take to be as it should be once somebody has joined, left or come back. Where
/// it is the node through which all others join, it knows nobody, and they try it no more often than
/// every 45 s.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked at in between.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long a node that has left goes on until its process ends.
const LINGERS: Duration = Duration::from_secs(1);
/// The most nodes that go and come back, one after the other.
const ABSENCES_MAX: u64 = 4;
/// The longest that one is away: beyond the time after which the others give it up.
const AWAY_MAX: Duration = Duration::from_secs(8 * 60);

impl Scenario for Steady {
    fn name(&self) -> &'static str {
        "overlay-steady"
    }

    fn description(&self) -> &'static str {
        "a small network lives for an hour by the defaults, while a few nodes go and come back"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            default: 8,
            min: 3,
            max: 200,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[
            rare::CRASHED_PEER_PURGED,
            rare::GIVEN_UP_AND_BACK,
            rare::RESTARTED_AFTER_LEAVING,
        ]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let nodes = options.nodes(self.nodes());
        let streams = Streams::new(seed);
        let plan = Plan::draw(&mut streams.stream("plan"), nodes);
        let network = Network::new(&streams, nodes, 1, Config::default()).watching_all(nodes);
        let mut world = World::new(seed, network);
        world.trace_mut().record_lines(options.lines.clone());
        world.add_faults(&FaultSchedule {
            links: plan.links,
            events: Vec::new(),
        });
        observe(world, plan.describe(), |world, measured| {
            plan.carry_out(world, measured)
        })
    }
}

/// What is drawn from the seed.
struct Plan {
    links: LinkFaults,
    /// When each node joins.
    joins: Vec<SimTime>,
    absences: Vec<Absence>,
}

/// A node goes and comes back.
#[derive(Debug)]
struct Absence {
    node: NodeIndex,
    goes: SimTime,
    away: Duration,
    /// Whether it takes leave, or crashes.
    in_order: bool,
}

impl Plan {
    fn draw(rng: &mut ChaCha8Rng, nodes: u32) -> Self {
        let links = LinkFaults {
            latency: Latency::default(),
            // None in half of the runs.
            loss_ppm: below(rng, 2) as u32 * 10_000,
            ..LinkFaults::default()
        };
        let mut joins: Vec<_> = (0..nodes)
            .map(|_| SimTime::from(between(rng, Duration::ZERO, JOIN_OVER)))
            .collect();
        joins.sort_unstable();
        let count = below(rng, ABSENCES_MAX + 1) as u32;
        // Each has a part of the time to itself, long enough to be over before the next.
        let part = LIFE / (ABSENCES_MAX as u32 + 1);
        let absences = (1..=count).map(|number| Absence {
            node: NodeIndex(below(rng, u64::from(nodes)) as u32),
            goes: SimTime::from(part * number + between(rng, Duration::ZERO, LOOK_EVERY)),
            away: between(rng, LINGERS, AWAY_MAX),
            in_order: chance(rng, 500_000),
        });
        Self {
            absences: absences.collect(),
            links,
            joins,
        }
    }

    fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("{:?}", self.links)];
        lines.extend(self.absences.iter().map(|absence| format!("{absence:?}")));
        lines
    }

    fn carry_out(&self, world: &mut Overlay, measured: &mut Vec<String>) -> Result<(), String> {
        for at in &self.joins {
            world.run_until(*at);
            world.add_node();
        }
        let taken = settled(world)?;
        measured.push(format!(
            "agreement {taken:?} after the last of {} nodes joined",
            self.joins.len()
        ));
        for absence in &self.absences {
            stays_settled(world, absence.goes)?;
            absence
                .carry_out(world, measured)
                .map_err(|cause| format!("{absence:?}: {cause}"))?;
        }
        stays_settled(world, SimTime::from(LIFE))
    }
}

impl Absence {
    fn carry_out(&self, world: &mut Overlay, measured: &mut Vec<String>) -> Result<(), String> {
        let node = self.node;
        let back = world.now() + self.away;
        if self.in_order {
            let (request, command) = (RequestId(1), Command::Leave);
            world.input(node, Input::Request { request, command });
            world.run_until(world.now() + LINGERS);
            world.apply(Fault::Crash(node));
            settled(world)?;
            stays_settled(world, back)?;
        } else {
            world.apply(Fault::Crash(node));
            world.run_until(back);
        }
        world.apply(Fault::Restart(node));
        let taken = settled(world)?;
        measured.push(format!("agreement {taken:?} after {node} came back"));
        Ok(())
    }
}

/// Waits until the network is as it should be; gives how long that took.
fn settled(world: &mut Overlay) -> Result<Duration, String> {
    let begun = world.now();
    settle(world, SETTLES_WITHIN, is_as_it_should_be)
        .map_err(|cause| format!("still after {SETTLES_WITHIN:?}: {cause}"))?;
    Ok(world.now().since(begun))
}

/// Sees that the network is as it should be until `until`.
fn stays_settled(world: &mut Overlay, until: SimTime) -> Result<(), String> {
    while world.now() < until {
        let next = world.now() + LOOK_EVERY;
        world.run_until(next.min(until));
        is_as_it_should_be(world).map_err(|cause| format!("without a cause: {cause}"))?;
    }
    Ok(())
}

fn is_as_it_should_be(world: &Overlay) -> Result<(), String> {
    agreement(world)?;
    connectedness(world)
}
