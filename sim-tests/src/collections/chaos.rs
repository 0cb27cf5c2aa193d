//! `collections-chaos`: collections that hosts write, read and follow under faults of network, clocks and processes.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rand_chacha::ChaCha8Rng;
use smalti_core::NetworkBuilder;
use smalti_core::discovery::PeerAddr;
use smalti_core::groups::{ConsensusConfig, FoundingRule, Storage, WriteKey};
use smalti_sim::faults::FaultPlan;
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::{Control, Simulation};

use super::contents::{Decision, List, Members, Numbers, Queue, Value};
use super::part::{Part, part};
use super::world::{DURABLE, GUARDED, RARE_STATES, Setting, VOLATILE, World};
use crate::cluster::{Findings, draw_faults, name, observe};
use crate::groups::draw_sync;
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `collections-chaos`.
pub struct Chaos;

const HOSTS: Nodes = Nodes {
    default: 5,
    min: 2,
    max: 8,
};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long links that are dead may be thought alive, and peers be waited for before they are dialled again.
const CALMS_DOWN: Duration = Duration::from_secs(20);
/// How long each host may take afterwards to get a write and a read through and to have what all have: ten election
/// timeouts and the time in which who was away is found again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How long hosts that begin apart may stay so.
const APART: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(25));

/// The collections of a run.
type Parts = Rc<Vec<Rc<dyn Part>>>;

/// Makes one of them.
type MakePart = fn(&World) -> Rc<dyn Part>;

/// What a run is, as drawn from its seed.
struct Draw {
    hosts: usize,
    setting: Setting,
    plan: FaultPlan,
    /// So many hosts, the first, do not reach the others for so long from the start.
    apart: Option<(usize, Duration)>,
    kinds: Vec<MakePart>,
}

impl Draw {
    fn new(seed: u64, options: &Options) -> Self {
        let streams = Streams::new(seed);
        let mut rng = streams.stream("collections");
        let most = options.nodes(HOSTS) as usize;
        let hosts = if options.nodes.is_some() {
            most
        } else {
            4 + below(&mut rng, 2) as usize
        };
        // One or two only read.
        let readers = (1 + below(&mut rng, 2) as usize).min(hosts - 1);
        let writers = hosts - readers;
        let storage = if chance(&mut rng, 500_000) {
            Storage::Durable
        } else {
            Storage::InMemory
        };
        let is_apart = chance(&mut rng, 200_000);
        let founding = if is_apart || chance(&mut rng, 500_000) {
            FoundingRule::Any
        } else {
            FoundingRule::Expect(writers as u32 / 2 + 1)
        };
        let apart = is_apart.then(|| {
            let first = 1 + below(&mut rng, writers as u64) as usize;
            (first.min(hosts - 1), between(&mut rng, APART.0, APART.1))
        });
        let mut config = ConsensusConfig {
            founding,
            snapshot_interval: [8, 64, 16_384][below(&mut rng, 3) as usize],
            log_window: [4, 64, 16_384][below(&mut rng, 3) as usize],
            ..ConsensusConfig::default()
        };
        draw_sync(&mut config, &streams);
        let setting = Setting {
            config,
            storage,
            writers,
            // Of a stream of its own: the other draws are as they would be without it.
            write_secret: chance(&mut streams.stream("who may write"), 500_000)
                .then(|| WriteKey::from_bytes([1; 32])),
            pace: between(
                &mut rng,
                Duration::from_millis(50),
                Duration::from_millis(500),
            ),
            command_timeout: between(&mut rng, Duration::from_secs(1), Duration::from_secs(10)),
            swaps: chance(&mut rng, 300_000),
            capacities: chance(&mut rng, 500_000),
        };
        Self {
            hosts,
            plan: plan_for(&setting, &streams),
            setting,
            apart,
            kinds: draw_kinds(&mut rng),
        }
    }
}

/// One to three kinds of collections.
fn draw_kinds(rng: &mut ChaCha8Rng) -> Vec<MakePart> {
    let mut kinds: Vec<MakePart> = vec![
        part::<Numbers>,
        part::<Value>,
        part::<Decision>,
        part::<List>,
        part::<Queue>,
        part::<Members>,
    ];
    let count = 1 + below(rng, 3) as usize;
    while kinds.len() > count {
        kinds.remove(below(rng, kinds.len() as u64) as usize);
    }
    kinds
}

/// Faults that leave a majority of each collection's instances alive: a writer without a disk that crashes is another
/// member when it comes back, and when too many have gone nobody is left who could decide. So where nothing is on disk only
/// readers crash, and pause.
fn plan_for(setting: &Setting, streams: &Streams) -> FaultPlan {
    let mut plan = draw_faults(streams);
    if setting.storage == Storage::InMemory && plan.crashes.is_some() {
        plan.spared = setting.writers as u32;
    }
    plan
}

impl Scenario for Chaos {
    fn name(&self) -> &'static str {
        "collections-chaos"
    }

    fn description(&self) -> &'static str {
        "writers and readers of collections keep what was acknowledged, and see one history of it"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        RARE_STATES
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let draw = Draw::new(seed, options);
        let findings = Findings::default();
        let world = World::new(seed, draw.setting.clone(), findings.clone());
        let parts: Parts = Rc::new(draw.kinds.iter().map(|kind| kind(&world)).collect());
        let storage = draw.setting.storage;
        world.reach(match storage {
            Storage::Durable => DURABLE,
            Storage::InMemory => VOLATILE,
        });
        if draw.setting.write_secret.is_some() {
            world.reach(GUARDED);
        }
        let drawn = vec![
            format!("{} hosts, apart: {:?}", draw.hosts, draw.apart),
            format!("{:?}", draw.plan),
            format!("{:?}", draw.setting),
        ];
        let mut simulation = Simulation::new(seed)
            .faults(draw.plan.clone())
            .faults_until(TROUBLE)
            .duration(TROUBLE + CALMS_DOWN + SETTLES_WITHIN * 2);
        // Those at the other side find each other without the first host of all.
        let mut other_side: Option<PeerAddr> = None;
        for host in 0..draw.hosts {
            let (world, parts, bootstrap) = (world.clone(), parts.clone(), other_side.clone());
            let configure = move |builder: NetworkBuilder| {
                let builder = builder.with_bootstrap(bootstrap.clone());
                match storage {
                    Storage::Durable => builder.with_data_dir("data"),
                    Storage::InMemory => builder,
                }
            };
            let name = name(host);
            simulation = simulation.service_with(&name, configure, move |network| {
                let (life, parts) = (world.begin_life(), parts.clone());
                async move {
                    let all = parts
                        .iter()
                        .map(|part| part.live(host, life, network.clone()));
                    try_join_all(all).await?;
                    Ok(())
                }
            });
            if draw.apart.is_some_and(|(first, _)| first == host) {
                let address = simulation.address(&name);
                other_side = Some(PeerAddr::new(simulation.peer_id(&name), address));
            }
        }
        let (noted, hosts, apart, working) =
            (findings.clone(), draw.hosts, draw.apart, world.clone());
        let simulation = simulation.script(move |control| {
            let (world, parts, findings) = (working.clone(), parts.clone(), noted.clone());
            async move {
                let run = Run {
                    control,
                    world,
                    parts,
                };
                findings.conclude(run.script(hosts, apart).await);
                findings.measure(run.world.totals());
                for part in &*run.parts {
                    findings.measure(part.totals());
                }
            }
        });
        let mut outcome = observe(simulation, drawn, &findings, options);
        outcome.operations = world.operations();
        outcome
    }
}

/// A run, in the hands of its script.
struct Run {
    control: Control,
    world: World,
    parts: Parts,
}

impl Run {
    async fn script(&self, hosts: usize, apart: Option<(usize, Duration)>) -> Result<(), String> {
        if let Some((first, lasts)) = apart {
            let names: Vec<_> = (0..hosts).map(name).collect();
            let (one, other) = names.split_at(first);
            self.control.partition(one, other);
            self.wait(lasts, || false).await;
            self.control.repair(one, other);
        }
        let rest = TROUBLE.saturating_sub(self.control.elapsed());
        self.wait(rest, || false).await;
        self.control.repair_all();
        self.wait(CALMS_DOWN, || false).await;
        self.world.settle();
        let why_unsettled = || {
            self.parts
                .iter()
                .try_for_each(|part| part.is_settled(hosts))
                .err()
        };
        self.wait(SETTLES_WITHIN, || why_unsettled().is_none())
            .await;
        if let Some(failure) = self.world.failure() {
            return Err(failure);
        }
        if let Some(cause) = why_unsettled() {
            return Err(format!(
                "{SETTLES_WITHIN:?} after all went well again: {cause}"
            ));
        }
        self.parts.iter().try_for_each(|part| part.judge())
    }

    /// Tells the time until `holds`, `limit` has passed, or something is wrong.
    async fn wait(&self, limit: Duration, mut holds: impl FnMut() -> bool) {
        let until = self.control.elapsed() + limit;
        self.control
            .wait_until(|| {
                let now = self.control.elapsed();
                self.world.tick(now);
                self.parts.iter().for_each(|part| part.tick());
                holds() || now >= until || self.world.failure().is_some()
            })
            .await;
    }
}
