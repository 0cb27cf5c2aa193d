//! `streams-chaos`: producers and consumers come and go, stall, wait for places and choose among each other, while
//! everything else goes wrong too.

mod apps;
mod board;
mod edges;

use std::time::Duration;

use rand::Rng;
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::{Control, Simulation};

use self::apps::Application;
use self::board::Board;
use super::{Findings, HOSTS, draw_config, draw_faults, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `streams-chaos`.
pub struct StreamsChaos;

/// How long things go wrong, and applications come and go.
const TROUBLE: Duration = Duration::from_secs(40);
/// How long a connection that is dead may be thought alive.
const CALMS_DOWN: Duration = Duration::from_secs(15);
/// How long consumers may take afterwards to be subscribed as they are to be.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// Readings that each producer sends then, which all must arrive.
const LAST_READINGS: u64 = 200;
/// How long that may take.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// How often the board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who subscribes to whom in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Everybody to all.
    All,
    /// As many to each producer as have a place there.
    FewPlaces(usize),
    /// Each to so many, those that it prefers.
    FewProducers(usize),
}

/// What is drawn for the streams of a run.
#[derive(Clone, Debug)]
struct Setup {
    producers: usize,
    consumers: usize,
    mode: Mode,
    /// The mean time between two readings.
    pace: Duration,
    /// The bytes of a reading, and little more.
    len: usize,
    /// Of the queues at both ends.
    buffer: usize,
    disconnect_lagging: bool,
    /// Bytes per second.
    max_egress: Option<u64>,
    /// Whether every other consumer wants only some of the readings.
    criteria: bool,
    /// Whether consumers take nothing for a while now and then.
    stalls: bool,
}

impl Setup {
    fn draw(rng: &mut impl Rng, hosts: usize) -> Self {
        let producers = 2 + below(rng, 2) as usize;
        let consumers = hosts - producers;
        let mode = match below(rng, 3) {
            0 => Mode::All,
            1 => Mode::FewPlaces(1 + below(rng, consumers as u64) as usize),
            _ => Mode::FewProducers(1 + below(rng, producers as u64 - 1) as usize),
        };
        let pace = between(rng, Duration::from_millis(2), Duration::from_millis(40));
        let len = 100 + below(rng, 3_000) as usize;
        // Enough for all that is sent, though not at once.
        let needed = 2 * len as u64 * 1_000_000 / pace.as_micros() as u64;
        Self {
            producers,
            consumers,
            mode,
            pace,
            len,
            buffer: 1 + below(rng, 100) as usize,
            disconnect_lagging: chance(rng, 700_000),
            max_egress: chance(rng, 300_000).then(|| needed.max(10_000)),
            criteria: chance(rng, 500_000),
            stalls: chance(rng, 600_000),
        }
    }
}

impl Scenario for StreamsChaos {
    fn name(&self) -> &'static str {
        "streams-chaos"
    }

    fn description(&self) -> &'static str {
        "producers and consumers come and go, and every gap is told with its size"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        board::RARE_STATES
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let hosts = options.nodes(HOSTS) as usize;
        let (plan, config) = (draw_faults(&streams), draw_config(&streams));
        let setup = Setup::draw(&mut streams.stream("setup"), hosts);
        let drawn = vec![
            format!("{plan:?}"),
            format!("{config:?}"),
            format!("{setup:?}"),
        ];
        let findings = Findings::default();
        let board = Board::new(setup.clone(), findings.clone());
        let mut simulation = Simulation::new(seed)
            .faults(plan)
            .faults_until(TROUBLE)
            .duration(TROUBLE + CALMS_DOWN + SETTLES_WITHIN + ARRIVES_WITHIN * 2);
        for host in 0..hosts {
            let config = config.clone();
            let configure =
                move |builder: smalti_core::NetworkBuilder| builder.with_discovery(config.clone());
            let name = name(host);
            let app = Application::new(&board, &streams, host);
            simulation = simulation.service_with(&name, configure, move |network| {
                let app = app.clone();
                async move {
                    if host < app.producers() {
                        app.produce(network).await
                    } else {
                        app.consume(network).await
                    }
                }
            });
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (board, findings) = (board.clone(), noted.clone());
            async move { findings.conclude(script(&control, &board, &findings).await) }
        });
        observe(simulation, drawn, &findings, options)
    }
}

async fn script(control: &Control, board: &Board, findings: &Findings) -> Result<(), String> {
    control.sleep(TROUBLE).await;
    control.repair_all();
    board.stay();
    control.sleep(CALMS_DOWN).await;
    let calm = control.elapsed();
    while let Err(cause) = board.is_settled() {
        if control.elapsed() > calm + SETTLES_WITHIN {
            return Err(format!("{SETTLES_WITHIN:?} after the last fault {cause}"));
        }
        control.sleep(LOOK_EVERY).await;
    }
    board.finish(LAST_READINGS);
    let finished = control.elapsed();
    while let Err(cause) = board.all_received() {
        if control.elapsed() > finished + ARRIVES_WITHIN {
            return Err(format!("{ARRIVES_WITHIN:?} after all was settled {cause}"));
        }
        control.sleep(LOOK_EVERY).await;
    }
    findings.measure(board.totals());
    Ok(())
}
