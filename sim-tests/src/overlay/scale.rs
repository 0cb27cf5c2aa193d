//! `overlay-scale`: a large network joins through one node, and what it costs is counted.

use std::time::Duration;

use smalti_core::id::Tag;
use smalti_core::protocol::discovery::{
    Command, Config, Input, LocalChange, PeerAddr, RequestId, VerifiedEntry,
};
use smalti_sim::NodeIndex;
use smalti_sim::bare::World;
use smalti_sim::faults::{FaultSchedule, Latency, LinkFaults};
use smalti_sim::rng::{Streams, below, between};
use smalti_sim::time::SimTime;

use super::checks::{ACTIVE_MAX, agreement, connectedness, observe, settle};
use super::network::{Network, Overlay};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `overlay-scale`.
pub struct Scale;

/// How long the network may take to agree once the last node has joined.
const CONVERGES_WITHIN: Duration = Duration::from_secs(60);
/// How long an announcement may take to reach everybody, and all that it sets off.
const SPREADS_WITHIN: Duration = Duration::from_secs(5);
/// An announcement costs each node so many times its entry's size times the fan-out, at most.
const ANNOUNCEMENT_FACTOR: usize = 3;
/// Entries that the last node lacks when it joins.
const UNKNOWN: usize = 10;
/// What it and the others may send each other to make up for that, in bytes.
const SYNCHRONISED_MAX: usize = 40_000;

impl Scenario for Scale {
    fn name(&self) -> &'static str {
        "overlay-scale"
    }

    fn description(&self) -> &'static str {
        "a network joins through one node and agrees; announcements and joins cost what they may"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            default: 1_000,
            min: 20,
            max: 5_000,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let nodes = options.nodes(self.nodes());
        let streams = Streams::new(seed);
        let plan = Plan::draw(&streams);
        let loner = NodeIndex(nodes - 1);
        let network = Network::new(&streams, nodes, 1, plan.config.clone()).with_loner(loner);
        let mut world = World::new(seed, network);
        world.trace_mut().record_lines(options.lines.clone());
        world.add_faults(&FaultSchedule {
            links: plan.links,
            events: Vec::new(),
        });
        let drawn = vec![format!("{plan:?}")];
        observe(world, drawn, |world, measured| {
            join(world, &plan, nodes - 1, &streams, measured)?;
            announce(world, &streams, nodes - 1, measured)?;
            join_knowing_most(world, loner, &plan, &streams, measured)
        })
    }
}

/// What is drawn from the seed.
#[derive(Debug)]
struct Plan {
    links: LinkFaults,
    /// The time over which nodes join: from all at once to one after the other.
    join_over: Duration,
    /// Whether nodes say something only where they have something new to say.
    quiet: bool,
    config: Config,
}

impl Plan {
    fn draw(streams: &Streams) -> Self {
        let mut rng = streams.stream("plan");
        let latency = match below(&mut rng, 3) {
            0 => Latency::constant(between(
                &mut rng,
                Duration::from_micros(100),
                Duration::from_millis(5),
            )),
            _ => {
                let min = between(
                    &mut rng,
                    Duration::from_millis(1),
                    Duration::from_millis(50),
                );
                let mean = min + between(&mut rng, Duration::ZERO, Duration::from_millis(50));
                let max = mean * 5;
                Latency { min, mean, max }
            }
        };
        let links = LinkFaults {
            latency,
            loss_ppm: below(&mut rng, 2) as u32 * 10_000,
            ..LinkFaults::default()
        };
        let join_over = match below(&mut rng, 4) {
            0 => Duration::ZERO,
            1 => Duration::from_secs(1),
            _ => Duration::from_secs(20),
        };
        let mut config = Config::default();
        // In half of the runs nobody repeats itself, so that nothing but joining makes the network
        // agree.
        let quiet = below(&mut rng, 2) == 0;
        if quiet {
            config.announce_interval = Duration::from_secs(20 * 60);
            config.purge_after = Duration::from_secs(2 * 60 * 60);
        }
        Self {
            links,
            join_over,
            quiet,
            config,
        }
    }
}

/// Lets `nodes` nodes join, and waits until all agree.
fn join(
    world: &mut Overlay,
    plan: &Plan,
    nodes: u32,
    streams: &Streams,
    measured: &mut Vec<String>,
) -> Result<(), String> {
    let mut rng = streams.stream("joins");
    let mut times: Vec<Duration> = (1..nodes)
        .map(|_| between(&mut rng, Duration::ZERO, plan.join_over))
        .collect();
    times.sort_unstable();
    world.add_node();
    for time in times {
        world.run_until(SimTime::from(time));
        world.add_node();
    }
    let joined = world.now();
    settle(world, CONVERGES_WITHIN, |world| {
        agreement(world)?;
        connectedness(world)
    })
    .map_err(|cause| format!("the network does not agree after {CONVERGES_WITHIN:?}: {cause}"))?;
    let taken = world.now().since(joined);
    measured.push(format!(
        "agreement {taken:?} after the last of {nodes} nodes joined"
    ));
    Ok(())
}

/// Lets somebody say something new, and counts what each node sends because of it.
fn announce(
    world: &mut Overlay,
    streams: &Streams,
    nodes: u32,
    measured: &mut Vec<String>,
) -> Result<(), String> {
    let node = NodeIndex(below(&mut streams.stream("announcer"), u64::from(nodes)) as u32);
    let id = world.environment().members.id(node);
    let tag = Tag::from("announced");
    let change = LocalChange::AddTags(vec![tag]);
    // The next version is that of the change: only the node itself makes versions.
    let before = own_entry(world, node)?;
    world.environment_mut().0.meter.announcement = Some((id, before.version().next()));
    world.input(
        node,
        Input::Request {
            request: RequestId(1),
            command: Command::Local(change),
        },
    );
    let announced = world.now();
    settle(world, SPREADS_WITHIN, |world| {
        let mut machines = world.machines();
        let lacking = machines
            .find(|(_, machine)| !machine.catalog().get(&id).is_some_and(|e| e.has_tag(&tag)));
        lacking.map_or(Ok(()), |(node, _)| {
            Err(format!("{node} has not heard of it"))
        })
    })
    .map_err(|cause| format!("an announcement does not spread in {SPREADS_WITHIN:?}: {cause}"))?;
    let taken = world.now().since(announced);
    world.run_until(announced + SPREADS_WITHIN);
    let meter = &mut world.environment_mut().0.meter;
    meter.announcement = None;
    let most = meter.sent.iter().max().copied().unwrap_or_default();
    let mean = meter.sent.iter().sum::<usize>() / nodes as usize;
    let entry = own_entry(world, node)?.wire_len();
    let allowed = ANNOUNCEMENT_FACTOR * entry * ACTIVE_MAX;
    measured.push(format!(
        "an announcement of {entry} bytes reached all after {taken:?}; \
         a node sent {mean} bytes for it on average and {most} at most, of {allowed} allowed"
    ));
    if most > allowed {
        return Err(format!(
            "a node sent {most} bytes for an announcement of {entry}; {allowed} are allowed"
        ));
    }
    Ok(())
}

/// Lets the last node join, which knows all others but a few.
fn join_knowing_most(
    world: &mut Overlay,
    loner: NodeIndex,
    plan: &Plan,
    streams: &Streams,
    measured: &mut Vec<String>,
) -> Result<(), String> {
    let mut known: Vec<VerifiedEntry> = world
        .machine(NodeIndex(0))
        .into_iter()
        .flat_map(|machine| machine.catalog().signed_peers().cloned())
        .collect();
    let mut rng = streams.stream("unknown");
    for _ in 0..UNKNOWN.min(known.len()) {
        let index = below(&mut rng, known.len() as u64) as usize;
        known.swap_remove(index);
    }
    assert_eq!(world.add_node(), loner);
    let mut request = 0;
    let mut ask = |world: &mut Overlay, command| {
        request += 1;
        let request = RequestId(request);
        world.input(loner, Input::Request { request, command });
    };
    for entry in known {
        ask(world, Command::Feed(entry));
    }
    world.environment_mut().0.meter.joiner = Some(loner);
    let bootstrap: PeerAddr = world.environment().members.address(NodeIndex(0));
    ask(world, Command::Dial(vec![bootstrap]));
    let joined = world.now();
    settle(world, CONVERGES_WITHIN, agreement)
        .map_err(|cause| format!("a node that knew most does not join: {cause}"))?;
    let taken = world.now().since(joined);
    world.run_until(joined + SPREADS_WITHIN);
    let meter = &world.environment().meter;
    let (bytes, messages) = (meter.synchronised, meter.messages);
    measured.push(format!(
        "a node that knew all but {UNKNOWN} entries joined in {taken:?}, \
         with {bytes} bytes in {messages} messages of synchronisation"
    ));
    // Where a thousand nodes repeat themselves, what is under way at any moment differs too, and is
    // no cost of joining.
    if plan.quiet && bytes >= SYNCHRONISED_MAX {
        return Err(format!(
            "a node that knew all but {UNKNOWN} entries cost {bytes} bytes of synchronisation; \
             {SYNCHRONISED_MAX} are allowed"
        ));
    }
    Ok(())
}

/// The entry that `node` has made of itself.
fn own_entry(world: &Overlay, node: NodeIndex) -> Result<VerifiedEntry, String> {
    let machine = world.machine(node);
    let own = machine.and_then(|machine| machine.catalog().local().cloned());
    own.ok_or_else(|| format!("{node} has no entry of its own"))
}
