//! `groups-chaos`: a group of nodes under faults of network, clocks, processes and disks; what it acknowledges stays,
//! what it shows is linearizable, and it goes on once it can.
//!
//! Hosts crash, majorities at once too: those of a durable group come back with what was durable, those of one in memory
//! as other members, so that what is left of it has to be reformed. Disks lose and tear what was not synced, fail, fill up
//! and are slow; the group stops on such a host, and goes on when the host is started again.

use std::time::Duration;

use smalti_core::NetworkBuilder;
use smalti_core::groups::{ConsensusConfig, FoundingRule, Storage};
use smalti_sim::faults::{Churn, FaultPlan};
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::{Control, Simulation};

use super::clients::{Clients, Setting};
use super::rare;
use super::supervisor::Supervisor;
use crate::cluster::{Findings, draw_faults, name, observe};
use crate::raft::hasten_catching_up;
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `groups-chaos`.
pub struct Chaos;

const HOSTS: Nodes = Nodes {
    default: 5,
    min: 1,
    max: 7,
};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long links that are dead may be thought alive, and peers be waited for before they are dialled again.
const CALMS_DOWN: Duration = Duration::from_secs(20);
/// How long each host may take afterwards to get a change and a read through, and all to show the same: ten election
/// timeouts and the time in which who was away is found again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How much longer where the group has had several lives, which have to meet: they wait twice as long each time that an
/// offer comes to nothing.
const MEETS_WITHIN: Duration = Duration::from_secs(150);

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
        rare::ALL
    }

    fn excuses(&self) -> &'static [(&'static str, u32)] {
        rare::EXCUSES
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let most = options.nodes(HOSTS);
        let hosts = if options.nodes.is_some() {
            most
        } else {
            3 + below(&mut streams.stream("hosts"), 3) as u32
        };
        let setting = draw_setting(&streams, hosts);
        #[cfg(smalti_mutants)]
        let setting = setting.with_mutant(options.mutant);
        let plan = draw_plan(&streams, setting.storage);
        let has_real_stores =
            setting.storage == Storage::Durable && chance(&mut streams.stream("stores"), 250_000);
        let drawn = vec![
            format!("{hosts} hosts, real stores {has_real_stores}"),
            format!("{plan:?}"),
            format!("{setting:?}"),
        ];
        let findings = Findings::default();
        findings.reach(match setting.storage {
            Storage::Durable if has_real_stores => rare::REAL_STORES,
            Storage::Durable => rare::DURABLE,
            Storage::InMemory => rare::VOLATILE,
        });
        if plan.slow_disks.is_some() {
            findings.reach(rare::SLOW_DISK);
        }
        let storage = setting.storage;
        let clients = Clients::new(seed, setting, findings.clone());
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .faults_until(TROUBLE)
            .duration(TROUBLE + CALMS_DOWN + SETTLES_WITHIN * 2 + MEETS_WITHIN + CALMS_DOWN);
        if has_real_stores {
            simulation = simulation.with_real_stores();
        }
        for host in 0..hosts as usize {
            let clients = clients.clone();
            let configure = move |builder: NetworkBuilder| match storage {
                Storage::Durable => builder.with_data_dir("data"),
                Storage::InMemory => builder,
            };
            simulation = simulation.service_that_starts(&name(host), configure, move |network| {
                clients.clone().live(host, network)
            });
        }
        let (noted, working) = (findings.clone(), clients.clone());
        let simulation = simulation.script(move |control| {
            let script = Script {
                hosts: hosts as usize,
                supervisor: Supervisor::new(hosts as usize, seed),
                control,
                clients: working.clone(),
                findings: noted.clone(),
            };
            let findings = noted.clone();
            async move {
                let result = script.run().await;
                findings.conclude(result);
            }
        });
        let mut outcome = observe(simulation, drawn, &findings, options);
        outcome.operations = clients.operations();
        outcome
    }
}

/// How members catch up.
pub(crate) fn draw_sync(config: &mut ConsensusConfig, streams: &Streams) {
    let rng = &mut streams.stream("catching up");
    config.fetch_batch_size = [3, 64, 512, 2_000][below(rng, 4) as usize];
    hasten_catching_up(config);
}

fn draw_setting(streams: &Streams, hosts: u32) -> Setting {
    let rng = &mut streams.stream("group");
    let mut config = ConsensusConfig {
        founding: if chance(rng, 500_000) {
            FoundingRule::Any
        } else {
            FoundingRule::Expect(hosts / 2 + 1)
        },
        snapshot_interval: [8, 64, 16_384][below(rng, 3) as usize],
        log_window: [4, 64, 16_384][below(rng, 3) as usize],
        ..ConsensusConfig::default()
    };
    if chance(rng, 500_000) {
        // The same proportions, twice as fast: more happens within a run.
        config.heartbeat_interval /= 2;
        config.heartbeat_jitter /= 2;
        config.election_timeout /= 2;
        config.election_timeout_jitter /= 2;
        config.bootstrap_delay /= 2;
        config.forward_timeout /= 2;
        config.query_timeout /= 2;
    }
    draw_sync(&mut config, streams);
    if chance(rng, 200_000) {
        let unit = config.election_timeout;
        config.reform_after = Some(between(rng, unit, unit * 10));
    }
    Setting {
        config,
        storage: if chance(rng, 550_000) {
            Storage::Durable
        } else {
            Storage::InMemory
        },
        pace: between(rng, Duration::from_millis(10), Duration::from_millis(500)),
        command_timeout: between(rng, Duration::from_secs(1), Duration::from_secs(10)),
        operators: chance(rng, 300_000)
            .then(|| between(rng, Duration::from_millis(1), Duration::from_secs(10))),
    }
}

fn draw_plan(streams: &Streams, storage: Storage) -> FaultPlan {
    let mut plan = draw_faults(streams);
    let rng = &mut streams.stream("blackouts");
    if chance(rng, 400_000) {
        plan.blackouts = Some(Churn {
            every: between(rng, Duration::from_secs(4), Duration::from_secs(20)),
            lasts: between(rng, Duration::from_millis(100), Duration::from_secs(12)),
        });
    }
    if storage == Storage::Durable {
        plan.add_disk_faults(&mut streams.stream("disks"));
    }
    plan
}

struct Script {
    hosts: usize,
    supervisor: Supervisor,
    control: Control,
    clients: Clients,
    findings: Findings,
}

impl Script {
    async fn run(mut self) -> Result<(), String> {
        self.wait(TROUBLE, |_| false).await?;
        self.control.repair_all();
        self.wait(CALMS_DOWN, |_| false).await?;
        self.clients.settle();
        let hosts = self.hosts;
        let agree = |clients: &Clients| clients.differs(hosts).is_none();
        let begun = self.control.elapsed();
        let is_clear = |clients: &Clients| agree(clients) || clients.has_nothing_left(hosts);
        self.wait(SETTLES_WITHIN, is_clear).await?;
        if self.clients.has_nothing_left(hosts) {
            self.findings.reach(rare::NOTHING_LEFT);
            self.clients.order();
            self.wait(SETTLES_WITHIN, agree).await?;
        }
        if self.clients.lives_of_group() > 1 {
            self.wait(MEETS_WITHIN, agree).await?;
        }
        let took = self.control.elapsed() - begun;
        if let Some(cause) = self.clients.differs(hosts) {
            let states = self.clients.describe();
            return Err(format!(
                "{took:?} after all went well again {cause}; {states}"
            ));
        }
        let counts = self.clients.judge()?;
        let reached = [
            (counts.unknown, rare::UNKNOWN),
            (counts.lost, rare::LOST),
            (counts.unjudged, rare::UNJUDGED),
            (self.lost_writes(), rare::WRITES_LOST),
        ];
        for (_, state) in reached.into_iter().filter(|(count, _)| *count > 0) {
            self.findings.reach(state);
        }
        self.findings.measure(format!(
            "{}; {} acknowledged and lost; settled within {took:?}",
            self.clients.totals(),
            counts.lost
        ));
        Ok(())
    }

    fn lost_writes(&self) -> u64 {
        let hosts = 0..self.hosts;
        hosts
            .map(|host| self.control.lost_writes(&name(host)))
            .sum()
    }

    /// Tells the clients the time, and looks after the hosts, until something holds or `limit` has passed.
    async fn wait(
        &mut self,
        limit: Duration,
        holds: impl Fn(&Clients) -> bool,
    ) -> Result<(), String> {
        let until = self.control.elapsed() + limit;
        let mut result = Ok(());
        let (supervisor, control) = (&mut self.supervisor, &self.control);
        let (clients, findings) = (&self.clients, &self.findings);
        control
            .wait_until(|| {
                let now = control.elapsed();
                clients.tick(now);
                result = supervisor.look(control, clients, findings);
                result.is_err() || clients.failure().is_some() || holds(clients) || now >= until
            })
            .await;
        match clients.failure() {
            Some(cause) => Err(cause),
            None => result,
        }
    }
}
