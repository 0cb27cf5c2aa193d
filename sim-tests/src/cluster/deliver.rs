//! `streams-deliver`: several producers, many consumers, and faults; nothing comes twice, out of
//! order, or is missing without a word.

use std::time::Duration;

use smalti_sim::rng::{Streams, below, between};
use smalti_sim::{Control, Simulation};

use super::readings::{Board, MISSED, NEXT_LIFE, RESUBSCRIBED};
use super::{Findings, HOSTS, draw_config, draw_faults, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `streams-deliver`.
pub struct Deliver;

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long consumers may take afterwards to be subscribed to all producers.
const SUBSCRIBES_WITHIN: Duration = Duration::from_secs(90);
/// Readings that each producer sends then, which all must arrive.
const LAST_READINGS: u64 = 200;
/// How long that may take.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// How often the board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a connection that is dead may be thought alive.
const CALMS_DOWN: Duration = Duration::from_secs(15);

impl Scenario for Deliver {
    fn name(&self) -> &'static str {
        "streams-deliver"
    }

    fn description(&self) -> &'static str {
        "consumers get what is sent in order and once, and are told of what is missing"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[MISSED, RESUBSCRIBED, NEXT_LIFE]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let hosts = options.nodes(HOSTS) as usize;
        let (plan, config) = (draw_faults(&streams), draw_config(&streams));
        let mut rng = streams.stream("roles");
        let producers = 2 + below(&mut rng, 2) as usize;
        let pace = between(
            &mut rng,
            Duration::from_millis(1),
            Duration::from_millis(50),
        );
        let drawn = vec![
            format!("{plan:?}"),
            format!("{config:?}"),
            format!("{producers} producers, a reading each {pace:?} from each"),
        ];
        let (board, findings) = (Board::new(pace), Findings::default());
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .faults_until(TROUBLE)
            .duration(TROUBLE + CALMS_DOWN + SUBSCRIBES_WITHIN + ARRIVES_WITHIN * 2);
        for host in 0..hosts {
            let (board, config, findings) = (board.clone(), config.clone(), findings.clone());
            let configure =
                move |builder: smalti_core::NetworkBuilder| builder.with_discovery(config.clone());
            let name = name(host);
            simulation = if host < producers {
                simulation.service_with(&name, configure, move |network| {
                    board.clone().produce(network)
                })
            } else {
                simulation.service_with(&name, configure, move |network| {
                    board.clone().consume(network, findings.clone())
                })
            };
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (board, findings) = (board.clone(), noted.clone());
            async move {
                let result = script(producers, hosts - producers, &control, &board, &findings);
                findings.conclude(result.await);
            }
        });
        observe(simulation, drawn, &findings, options)
    }
}

async fn script(
    producers: usize,
    consumers: usize,
    control: &Control,
    board: &Board,
    findings: &Findings,
) -> Result<(), String> {
    control.sleep(TROUBLE).await;
    control.repair_all();
    control.sleep(CALMS_DOWN).await;
    let calm = control.elapsed();
    while let Err(cause) = board.all_subscribed(producers, consumers) {
        if control.elapsed() > calm + SUBSCRIBES_WITHIN {
            return Err(format!(
                "{SUBSCRIBES_WITHIN:?} after the last fault {cause}"
            ));
        }
        control.sleep(LOOK_EVERY).await;
    }
    board.finish(LAST_READINGS);
    let finished = control.elapsed();
    while let Err(cause) = board.all_received() {
        if control.elapsed() > finished + ARRIVES_WITHIN {
            return Err(format!(
                "{ARRIVES_WITHIN:?} after all were subscribed {cause}"
            ));
        }
        control.sleep(LOOK_EVERY).await;
    }
    let (readings, missing) = board.totals();
    findings.measure(format!(
        "{readings} readings received, {missing} missing and told of"
    ));
    Ok(())
}
