//! `raft-chaos`: a group under everything that goes wrong, and what must hold then and afterwards. `raft-set-back`: the
//! same with less of it, and one member that forgets. `raft-meetings`: the same for two groups that were founded apart.

use rand::Rng;
use smalti_sim::bare::World;
use smalti_sim::faults::{Fault, FaultEvent, FaultSchedule};
use smalti_sim::rng::Streams;
use smalti_sim::time::SimTime;

use super::cluster::{Cluster, Group, Scheduled};
use super::history;
use super::plan::{MEMBERS_MAX, Plan};
use super::rare;
use super::settle::{heal, settled};
use crate::panics::catch;
use crate::{Nodes, Options, Outcome, Scenario};

/// In one run of so many the history is judged in two ways.
const THOROUGHLY_EVERY: u64 = 32;

/// The scenario `raft-chaos`.
pub struct Chaos;

impl Scenario for Chaos {
    fn name(&self) -> &'static str {
        "raft-chaos"
    }

    fn description(&self) -> &'static str {
        "members crash, are cut off and lose writes; what they agreed on stays, and they agree again"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            default: 5,
            min: 1,
            max: MEMBERS_MAX - 2,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        rare::ALL
    }

    fn excuses(&self) -> &'static [(&'static str, u32)] {
        rare::EXCUSES
    }

    fn takes_faults(&self) -> bool {
        true
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        play(seed, &streams, &Plan::draw(&streams, options), options)
    }
}

/// The scenario `raft-set-back`.
pub struct SetBack;

impl Scenario for SetBack {
    fn name(&self) -> &'static str {
        "raft-set-back"
    }

    fn description(&self) -> &'static str {
        "a member starts with a copy of its store, and has forgotten what it promised; the others have not"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            min: 3,
            ..Chaos.nodes()
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        rare::OF_SET_BACK
    }

    fn excuses(&self) -> &'static [(&'static str, u32)] {
        rare::EXCUSES
    }

    fn takes_faults(&self) -> bool {
        true
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let plan = Plan::draw(&streams, options).with_set_backs(&streams);
        play(seed, &streams, &plan, options)
    }
}

/// The scenario `raft-meetings`.
pub struct Meetings;

impl Scenario for Meetings {
    fn name(&self) -> &'static str {
        "raft-meetings"
    }

    fn description(&self) -> &'static str {
        "two groups of one key that were founded apart meet, most often far from each other, and become one"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            min: 2,
            ..Chaos.nodes()
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        rare::OF_MEETINGS
    }

    fn excuses(&self) -> &'static [(&'static str, u32)] {
        rare::EXCUSES_OF_MEETINGS
    }

    fn takes_faults(&self) -> bool {
        true
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let streams = Streams::new(seed);
        let plan = Plan::draw_meeting(&streams, options);
        play(seed, &streams, &plan, options)
    }
}

fn play(seed: u64, streams: &Streams, plan: &Plan, options: &Options) -> Outcome {
    let mut world = World::new(seed, Cluster::new(streams, plan.setup.clone()));
    world.trace_mut().record_lines(options.lines.clone());
    let schedule = options.faults.clone();
    let schedule = schedule.unwrap_or_else(|| plan.schedule(streams));
    let mut faults = Vec::new();
    let mut measured = Vec::new();
    let result = catch(|| {
        run(
            &mut world,
            plan,
            &schedule,
            streams,
            &mut faults,
            &mut measured,
        )
    });
    if faults.is_empty() {
        faults = world.recorded_faults().to_vec();
    }
    let mut coverage = world.environment().coverage.clone();
    let in_step = |event: &&FaultEvent| matches!(event.fault, Fault::CrashAfter(..));
    let in_step = faults.iter().filter(in_step).count() as u64;
    coverage.reach_times(rare::CRASHED_IN_STEP, in_step);
    let operations = world.environment().clients.operations;
    Outcome {
        trace: world.trace().clone(),
        simulated: world.now().since(SimTime::ZERO),
        drawn: plan.describe(),
        measured,
        faults,
        operations,
        coverage,
        failure: match result {
            Ok(Ok(())) => None,
            Ok(Err(cause)) | Err(cause) => Some(cause),
        },
    }
}

fn run(
    world: &mut Group,
    plan: &Plan,
    schedule: &FaultSchedule,
    streams: &Streams,
    faults: &mut Vec<FaultEvent>,
    measured: &mut Vec<String>,
) -> Result<(), String> {
    world.add_faults(schedule);
    let (environment, ctx) = world.environment_mut();
    environment.begin(SimTime::ZERO, ctx);
    if let Some((at, node)) = plan.leaves {
        ctx.schedule(at, Scheduled::Leave(node));
    }
    if let Some(set_backs) = &plan.set_backs {
        set_backs.begin(ctx);
    }
    for (at, node) in plan.orders() {
        ctx.schedule(*at, Scheduled::Order(*node));
    }
    // Nodes are added by their numbers.
    let mut at = SimTime::ZERO;
    for start in &plan.starts {
        at = at.max(*start);
        world.run_until(at);
        world.add_node();
    }
    world.run_until(plan.setup.until);
    faults.extend_from_slice(world.recorded_faults());
    let mut rng = streams.stream("settle");
    let broken = heal(world, plan.breaks_minority, &mut rng);
    let went_on = settled(world, &broken, &plan.setup.preferences, &mut rng, measured)?;
    let (environment, _) = world.environment_mut();
    environment.close(&went_on);
    // Now and then the checker judges as well what the log explains: each may have mistakes that the
    // other finds.
    let thoroughly = streams
        .stream("history")
        .next_u64()
        .is_multiple_of(THOROUGHLY_EVERY);
    environment.ledger.note_losses(&mut environment.coverage);
    history::check(&environment.clients, &environment.ledger, thoroughly)
}
