//! `groups-chaos`: a group of nodes under faults of network, clocks, processes and disks; what it acknowledges stays,
//! what it shows is linearizable, and it goes on once it can.

use std::time::Duration;

use smalti_core::NetworkBuilder;
use smalti_core::groups::{ConsensusConfig, FoundingRule, Storage};
use smalti_sim::faults::FaultPlan;
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::{Control, Simulation};

use super::clients::{Clients, Setting};
use crate::cluster::{Findings, draw_faults, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `groups-chaos`.
pub struct Chaos;

const HOSTS: Nodes = Nodes {
    default: 5,
    min: 1,
    max: 7,
};

const UNKNOWN: &str = "nobody knows what became of a command";
const DURABLE: &str = "the group was durable";
const VOLATILE: &str = "the group was in memory";
const SUPERSEDED: &str = "two foundings met, and one was given up";

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long links that are dead may be thought alive, and peers be waited for before they are dialled again.
const CALMS_DOWN: Duration = Duration::from_secs(20);
/// How long each host may take afterwards to get a change and a read through: ten election timeouts and the time
/// in which who was away is found again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

impl Scenario for Chaos {
    fn name(&self) -> &'static str {
        "groups-chaos"
    }

    fn description(&self) -> &'static str {
        "nodes in a group keep what they acknowledged, show one history, and go on when they can"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[UNKNOWN, DURABLE, VOLATILE, SUPERSEDED]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let mut rng = streams.stream("group");
        let most = options.nodes(HOSTS);
        let hosts = if options.nodes.is_some() {
            most
        } else {
            3 + below(&mut rng, 3) as u32
        };
        let storage = if chance(&mut rng, 650_000) {
            Storage::Durable
        } else {
            Storage::InMemory
        };
        let plan = plan_for(storage, hosts, &streams);
        let setting = Setting {
            config: ConsensusConfig {
                founding: if chance(&mut rng, 500_000) {
                    FoundingRule::Any
                } else {
                    FoundingRule::Expect(hosts / 2 + 1)
                },
                snapshot_interval: [8, 64, 16_384][below(&mut rng, 3) as usize],
                log_window: [4, 64, 16_384][below(&mut rng, 3) as usize],
                ..ConsensusConfig::default()
            },
            storage,
            pace: between(
                &mut rng,
                Duration::from_millis(10),
                Duration::from_millis(500),
            ),
            command_timeout: between(&mut rng, Duration::from_secs(1), Duration::from_secs(10)),
        };
        let drawn = vec![
            format!("{hosts} hosts"),
            format!("{plan:?}"),
            format!("{setting:?}"),
        ];
        let (clients, findings) = (Clients::new(seed, setting), Findings::default());
        findings.reach(match storage {
            Storage::Durable => DURABLE,
            Storage::InMemory => VOLATILE,
        });
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .faults_until(TROUBLE)
            .duration(TROUBLE + CALMS_DOWN + SETTLES_WITHIN * 2);
        for host in 0..hosts as usize {
            let clients = clients.clone();
            let configure = move |builder: NetworkBuilder| match storage {
                Storage::Durable => builder.with_data_dir("data"),
                Storage::InMemory => builder,
            };
            simulation = simulation.service_with(&name(host), configure, move |network| {
                clients.clone().live(host, network)
            });
        }
        let (noted, working) = (findings.clone(), clients.clone());
        let simulation = simulation.script(move |control| {
            let (clients, findings) = (working.clone(), noted.clone());
            async move {
                let result = script(hosts as usize, &control, &clients, &findings).await;
                findings.conclude(result);
            }
        });
        let mut outcome = observe(simulation, drawn, &findings, options);
        outcome.operations = clients.operations();
        outcome
    }
}

/// Faults that leave a majority of the group's instances alive: a host without a disk that crashes is another member
/// when it comes back, and when too many have gone nobody is left who could decide. So hosts without disks crash in
/// the scenario `raft-chaos` alone, which knows when that has happened.
fn plan_for(storage: Storage, hosts: u32, streams: &Streams) -> FaultPlan {
    let mut plan = draw_faults(streams);
    // Of whose clocks run fast and slow: both are within what discovery bears.
    if storage == Storage::InMemory || hosts < 3 {
        plan.crashes = None;
    }
    plan
}

async fn script(
    hosts: usize,
    control: &Control,
    clients: &Clients,
    findings: &Findings,
) -> Result<(), String> {
    wait(control, clients, TROUBLE, || false).await;
    control.repair_all();
    wait(control, clients, CALMS_DOWN, || false).await;
    clients.settle();
    let is_settled = wait(control, clients, SETTLES_WITHIN, || {
        clients.settled().len() == hosts
    });
    if !is_settled.await {
        return Err(format!(
            "{SETTLES_WITHIN:?} after all went well again only hosts {:?} of {hosts} got a change and a read through",
            clients.settled()
        ));
    }
    if clients.unknown() > 0 {
        findings.reach(UNKNOWN);
    }
    if clients.superseded() > 0 {
        findings.reach(SUPERSEDED);
    }
    findings.measure(clients.totals());
    clients.judge()
}

/// Tells the clients the time until `holds` or `limit` has passed, and whether it does.
async fn wait(
    control: &Control,
    clients: &Clients,
    limit: Duration,
    mut holds: impl FnMut() -> bool,
) -> bool {
    let until = control.elapsed() + limit;
    let mut held = false;
    control
        .wait_until(|| {
            let now = control.elapsed();
            clients.tick(now);
            held = holds();
            held || now >= until
        })
        .await;
    held
}
