//! `discovery-converges`: hosts that know one address find each other, whatever the network does to
//! packets.

use std::time::Duration;

use smalti_core::discovery::Config;
use smalti_sim::faults::FaultPlan;
use smalti_sim::rng::Streams;
use smalti_sim::{Control, Simulation};

use super::catalogs::Catalogs;
use super::{Findings, HOSTS, draw_faults, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `discovery-converges`.
pub struct Converges;

/// How long the hosts may take to find each other.
const CONVERGES_WITHIN: Duration = Duration::from_secs(60);
/// How long they must go on to agree.
const STAYS: Duration = Duration::from_secs(20);
/// How often catalogs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Scenario for Converges {
    fn name(&self) -> &'static str {
        "discovery-converges"
    }

    fn description(&self) -> &'static str {
        "hosts find each other while packets are lost, doubled, reordered, corrupted and delayed"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let plan = FaultPlan {
            links: draw_faults(&Streams::new(seed)).links,
            ..FaultPlan::default()
        };
        let drawn = vec![format!("{plan:?}")];
        let hosts = options.nodes(HOSTS) as usize;
        let (catalogs, findings) = (
            Catalogs::new(hosts, Config::default().purge_after),
            Findings::default(),
        );
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .duration(CONVERGES_WITHIN + STAYS * 2);
        for host in 0..hosts {
            let catalogs = catalogs.clone();
            simulation = simulation.service(&name(host), move |network| {
                catalogs.clone().stay(host, network)
            });
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (catalogs, findings) = (catalogs.clone(), noted.clone());
            async move {
                let result = script(hosts, &control, &catalogs, &findings).await;
                findings.conclude(result);
            }
        });
        observe(simulation, drawn, &findings, options)
    }
}

async fn script(
    hosts: usize,
    control: &Control,
    catalogs: &Catalogs,
    findings: &Findings,
) -> Result<(), String> {
    while let Err(cause) = all_agree(hosts, control, catalogs) {
        if control.elapsed() > CONVERGES_WITHIN {
            return Err(format!("after {CONVERGES_WITHIN:?} {cause}"));
        }
        control.sleep(LOOK_EVERY).await;
    }
    let taken = control.elapsed();
    findings.measure(format!("{hosts} hosts agreed after {taken:?}"));
    while control.elapsed() < taken + STAYS {
        control.sleep(LOOK_EVERY).await;
        all_agree(hosts, control, catalogs)
            .map_err(|cause| format!("they agreed, but not for long: {cause}"))?;
    }
    Ok(())
}

fn all_agree(hosts: usize, control: &Control, catalogs: &Catalogs) -> Result<(), String> {
    let live = catalogs.live_count();
    if live < hosts {
        return Err(format!("{live} of {hosts} hosts have started"));
    }
    catalogs.agreement(control)
}
