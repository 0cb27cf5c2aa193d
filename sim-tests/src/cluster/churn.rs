//! `discovery-churn`: hosts come, go, crash and lose each other; afterwards all is as if nothing
//! had been.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::discovery::Config;
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::{Control, Simulation};

use super::catalogs::{BACK, Catalogs, GIVEN_UP, LEARNT_LATE};
use super::{Findings, HOSTS, agrees_within, draw_config, draw_faults, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `discovery-churn`.
pub struct Churn;

const LEFT: &str = "a host left";
const CAME_LATE: &str = "a host joined late";
const CRASHED_FOR_GOOD: &str = "a host crashed for good";

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long the hosts must agree afterwards.
const STAYS: Duration = Duration::from_secs(5);
/// How long what went wrong before may still show.
const CALMS_DOWN: Duration = Duration::from_secs(20);
/// How often catalogs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a host that has left goes on until its process ends.
const LINGERS: Duration = Duration::from_secs(2);

impl Scenario for Churn {
    fn name(&self) -> &'static str {
        "discovery-churn"
    }

    fn description(&self) -> &'static str {
        "hosts join, leave, crash and are cut off; then all catalogs are the live hosts"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[
            LEFT,
            CAME_LATE,
            CRASHED_FOR_GOOD,
            LEARNT_LATE,
            GIVEN_UP,
            BACK,
        ]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let hosts = options.nodes(HOSTS) as usize;
        let (plan, config) = (draw_faults(&streams), draw_config(&streams));
        let steps = draw_steps(&mut streams.stream("steps"), hosts);
        let mut drawn = vec![format!("{plan:?}"), format!("{config:?}")];
        drawn.extend(steps.iter().map(|(at, step)| format!("{at:?} {step:?}")));

        let (catalogs, findings) = (
            Catalogs::new(hosts, config.purge_after),
            Findings::default(),
        );
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .faults_until(TROUBLE)
            .duration(TROUBLE + agrees_within(&config) + STAYS * 2);
        for host in 0..hosts {
            let (catalogs, config) = (catalogs.clone(), config.clone());
            simulation = simulation.service_with(
                &name(host),
                move |builder| builder.with_discovery(config.clone()),
                move |network| catalogs.clone().stay(host, network),
            );
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (catalogs, findings) = (catalogs.clone(), noted.clone());
            let (steps, config) = (steps.clone(), config.clone());
            async move {
                let result = script(&steps, &config, &control, &catalogs, &findings).await;
                findings.conclude(result);
            }
        });
        observe(simulation, drawn, &findings, options)
    }
}

/// What happens to a host besides faults. The first, through which the others join, is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The host starts, if it is down.
    Start(usize),
    /// The host is down, and nobody starts it again unless a step or a fault does.
    Down(usize),
    /// The host leaves in order.
    Leave(usize),
    /// The process of a host that has left ends.
    End(usize),
}

fn draw_steps(rng: &mut ChaCha8Rng, hosts: usize) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let some_time = |rng: &mut ChaCha8Rng| between(rng, Duration::from_secs(1), TROUBLE);
    let latecomers = chance(rng, 500_000);
    for host in 1..hosts {
        if latecomers && chance(rng, 400_000) {
            steps.push((Duration::ZERO, Step::Down(host)));
            steps.push((some_time(rng), Step::Start(host)));
        }
    }
    let mut left = Vec::new();
    if chance(rng, 600_000) {
        for _ in 0..=below(rng, 2) {
            let host = 1 + below(rng, hosts as u64 - 1) as usize;
            let at = some_time(rng);
            steps.push((at, Step::Leave(host)));
            steps.push((at + LINGERS, Step::End(host)));
            left.push((at, host));
        }
    }
    // Some start again after they have left.
    for (at, host) in left {
        if chance(rng, 300_000) {
            let again = at + LINGERS + between(rng, Duration::ZERO, Duration::from_secs(20));
            steps.push((again, Step::Start(host)));
        }
    }
    if chance(rng, 300_000) {
        let host = 1 + below(rng, hosts as u64 - 1) as usize;
        steps.push((some_time(rng), Step::Down(host)));
    }
    // Stable, so that what was drawn first comes first.
    steps.sort_by_key(|(at, _)| *at);
    steps
}

async fn script(
    steps: &[(Duration, Step)],
    config: &Config,
    control: &Control,
    catalogs: &Catalogs,
    findings: &Findings,
) -> Result<(), String> {
    let mut steps = steps.iter().peekable();
    while control.elapsed() < TROUBLE || steps.peek().is_some() {
        let now = control.elapsed();
        while let Some((_, step)) = steps.next_if(|(at, _)| *at <= now) {
            step.carry_out(control, catalogs, findings);
        }
        catalogs.look(control, findings)?;
        control.sleep(LOOK_EVERY).await;
    }
    control.repair_all();
    let calm = control.elapsed();
    let limit = calm + agrees_within(config);
    // Since when they agree: who was cut off may still be given up before it is heard of again.
    let mut agreed = None;
    loop {
        catalogs.look(control, findings)?;
        let now = control.elapsed();
        match (catalogs.agreement(control), agreed) {
            (Ok(()), Some(since)) if now >= since + STAYS => break,
            (Ok(()), since) => agreed = since.or(Some(now)),
            (Err(cause), _) if now > limit => {
                return Err(format!("{:?} after the last fault {cause}", limit - calm));
            }
            (Err(cause), Some(since)) if since > calm + CALMS_DOWN => {
                return Err(format!("they agreed, but not for long: {cause}"));
            }
            (Err(_), _) => agreed = None,
        }
        control.sleep(LOOK_EVERY).await;
    }
    let (live, taken) = (catalogs.live_count(), agreed.unwrap_or(calm) - calm);
    findings.measure(format!(
        "{live} hosts agreed {taken:?} after the last fault"
    ));
    Ok(())
}

impl Step {
    fn carry_out(self, control: &Control, catalogs: &Catalogs, findings: &Findings) {
        match self {
            Self::Start(host) => {
                if !control.is_up(&name(host)) {
                    findings.reach(CAME_LATE);
                    control.restart(name(host));
                }
            }
            Self::Down(host) => {
                if control.elapsed() > Duration::ZERO && control.is_up(&name(host)) {
                    findings.reach(CRASHED_FOR_GOOD);
                }
                control.crash(name(host));
            }
            Self::Leave(host) => {
                if catalogs.leave(host) {
                    findings.reach(LEFT);
                }
            }
            Self::End(host) => {
                if control.has_finished(&name(host)) {
                    control.crash(name(host));
                }
            }
        }
    }
}
