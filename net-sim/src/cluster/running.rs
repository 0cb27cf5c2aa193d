//! A simulation under way: steps, faults, the script, and how it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use smalti_core::runtime::Runtime;

use super::control::Control;
use super::error::{Cause, SimulationError};
use super::panics::{PanicReport, PanicWatch};
use super::report::Report;
use super::runtime::{HostTask, SimRuntime};
use super::simulation::{App, AppResult, LocalFuture, Simulation};
use super::state::{HostState, Life, Run, RunState, address_of};
use crate::NodeIndex;
use crate::disk::SimDisk;
use crate::faults::{Fault, FaultEvent, FaultLayer, LinkFaults};
use crate::rng::Streams;
use crate::time::{EPOCH, SimTime};
use crate::trace::{EventKind, Trace};

/// The step of the simulation: hosts run one after the other, each for so long. Idle hosts cost by the
/// step, so 2 ms are nearly twice as fast as 1 ms. Nothing is less exact for it: timers within a step keep
/// their millisecond, and a packet is handed to its host at the next step but arrives when it is due. Only
/// packets that take less than a step may come later than that.
const STEP: Duration = Duration::from_millis(2);
/// Packets that one socket may have waiting within turmoil.
const UDP_CAPACITY: usize = 65_536;

/// A run under way.
pub(super) struct Running<'a> {
    simulation: &'a Simulation,
    run: Run,
    turmoil: turmoil::Sim<'a>,
    script: Option<LocalFuture<()>>,
    schedule: std::vec::IntoIter<FaultEvent>,
    next_fault: Option<FaultEvent>,
    panics: PanicWatch,
    #[cfg(feature = "full")]
    _current: super::full::CurrentRun,
}

impl<'a> Running<'a> {
    pub(super) fn start(simulation: &'a Simulation) -> Result<Self, SimulationError> {
        let panics = PanicWatch::begin();
        let streams = Streams::new(simulation.seed);
        let hosts = u32::try_from(simulation.hosts.len()).unwrap_or(u32::MAX);
        let until = simulation.faults_until.unwrap_or(simulation.duration / 2);
        let schedule = simulation
            .schedule
            .clone()
            .unwrap_or_else(|| simulation.plan.schedule(&streams, hosts, until.into()));
        let mut trace = Trace::new();
        trace.record_lines(simulation.recorded.clone());
        let host_states = simulation
            .hosts
            .iter()
            .map(|host| HostState::new(host.name.clone(), host.awaited, &streams))
            .collect();
        let run = Run::new(RunState {
            now: SimTime::ZERO,
            faults: FaultLayer::new(&streams, LinkFaults::default()),
            #[cfg(feature = "full")]
            over_quic: simulation.over_quic,
            #[cfg(feature = "full")]
            real_stores: simulation.over_quic || simulation.real_stores,
            #[cfg(feature = "full")]
            secrets: super::full::Secrets::new(&streams),
            streams,
            trace,
            hosts: host_states,
            asked: Vec::new(),
            recorded: Vec::new(),
        });
        let mut turmoil = turmoil::Builder::new()
            .rng_seed(simulation.seed)
            .epoch(UNIX_EPOCH + Duration::from_micros(EPOCH.as_micros()))
            .simulation_duration(Duration::MAX)
            .tick_duration(STEP)
            // Nothing of turmoil's own network: latency, loss and partitions are ours.
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::ZERO)
            .fail_rate(0.0)
            .udp_capacity(UDP_CAPACITY)
            .enable_random_order()
            .build();
        for (place, host) in (0..).zip(&simulation.hosts) {
            let node = NodeIndex(place);
            let duplicate = simulation.hosts[..place as usize]
                .iter()
                .any(|other| other.name == host.name);
            if duplicate || turmoil.lookup(&*host.name) != address_of(node) {
                let name = &host.name;
                let why = format!("{name:?} is no name for a host: give each one of its own");
                return Err(simulation.failed_to_set_up(why));
            }
            let (run, app) = (run.clone(), host.app.clone());
            turmoil.host(&*host.name, move || {
                run_host(run.clone(), node, app.clone())
            });
        }
        let script = simulation
            .script
            .as_ref()
            .map(|script| script(Control(run.clone())));
        let mut running = Self {
            simulation,
            turmoil,
            script,
            schedule: schedule.events.into_iter(),
            next_fault: None,
            panics,
            #[cfg(feature = "full")]
            _current: super::full::CurrentRun::begin(&run),
            run,
        };
        running.strike(&Fault::Links(schedule.links));
        running.next_fault = running.schedule.next();
        Ok(running)
    }

    pub(super) fn run(mut self) -> Result<Report, SimulationError> {
        let result = loop {
            match self.step() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(cause) => break Err(cause),
            }
        };
        // Nothing that destructors do belongs to the run.
        let report = {
            let mut state = self.run.lock();
            state.hosts.iter_mut().for_each(|host| host.fenced = true);
            Report {
                seed: self.simulation.seed,
                trace_hash: state.trace.hash(),
                events: state.trace.events(),
                time: state.now,
                faults: std::mem::take(&mut state.recorded),
                trace: std::mem::take(&mut state.trace),
            }
        };
        match result {
            Ok(()) => Ok(report),
            Err(cause) => Err(SimulationError {
                cause,
                report: Box::new(report),
            }),
        }
    }

    /// Whether the run has come to its end.
    fn step(&mut self) -> Result<bool, Cause> {
        let now = SimTime::from(self.turmoil.elapsed());
        self.run.lock().now = now;
        while let Some(event) = self.next_fault.take_if(|event| event.at <= now) {
            self.strike(&event.fault);
            self.next_fault = self.schedule.next();
        }
        self.run_script()?;
        let asked = std::mem::take(&mut self.run.lock().asked);
        asked.iter().for_each(|fault| self.strike(fault));

        let running = self.still_running();
        if running.is_empty() && (self.anything_is_awaited() || self.time_is_over(now)) {
            return Ok(true);
        }
        if self.time_is_over(now) {
            return Err(Cause::Timeout {
                limit: self.simulation.duration,
                running,
            });
        }
        let stepped = std::panic::catch_unwind(AssertUnwindSafe(|| self.turmoil.step()));
        self.failure()?;
        match stepped {
            Ok(Ok(_)) => Ok(false),
            // Hosts' applications never end for turmoil, so this can only be a panic, seen above.
            Ok(Err(error)) => Err(Cause::Setup(error.to_string())),
            Err(_) => Err(Cause::Setup("turmoil has panicked".to_owned())),
        }
    }

    fn time_is_over(&self, now: SimTime) -> bool {
        now >= SimTime::from(self.simulation.duration)
    }

    fn anything_is_awaited(&self) -> bool {
        self.simulation.script.is_some() || self.simulation.hosts.iter().any(|host| host.awaited)
    }

    fn still_running(&self) -> Vec<String> {
        let state = self.run.lock();
        let hosts = state
            .hosts
            .iter()
            .filter(|host| host.awaited && !host.finished);
        let script = self.script.is_some().then(|| "script".to_owned());
        hosts
            .map(|host| host.name.to_string())
            .chain(script)
            .collect()
    }

    fn run_script(&mut self) -> Result<(), Cause> {
        if let Some(script) = &mut self.script {
            let mut context = Context::from_waker(Waker::noop());
            let poll = AssertUnwindSafe(|| script.as_mut().poll(&mut context));
            match std::panic::catch_unwind(poll) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => self.script = None,
                Err(_) => self.failure()?,
            }
        }
        Ok(())
    }

    /// What has failed by now: a panic, or an application.
    fn failure(&mut self) -> Result<(), Cause> {
        let mut state = self.run.lock();
        if let Some(PanicReport {
            message,
            location,
            executor,
        }) = self.panics.take()
        {
            let on_host = |host: &&HostState| executor.is_some() && host.executor == executor;
            let host = state
                .hosts
                .iter()
                .find(on_host)
                .map(|host| host.name.to_string());
            return Err(Cause::Panic {
                host,
                message,
                location,
            });
        }
        for host in &mut state.hosts {
            if let Some(error) = host.error.take() {
                return Err(Cause::App {
                    host: host.name.to_string(),
                    error,
                });
            }
        }
        Ok(())
    }

    fn strike(&mut self, fault: &Fault) {
        let now = {
            let mut state = self.run.lock();
            state.faults.apply(fault);
            state.record_fault(fault.clone());
            state.now
        };
        // A schedule may have been drawn for more hosts than there are.
        if fault
            .node()
            .is_some_and(|node| node.0 as usize >= self.simulation.hosts.len())
        {
            return;
        }
        match *fault {
            Fault::Crash(node) | Fault::CrashAfter(node, _) => self.crash(node),
            Fault::Restart(node) => self.restart(node),
            Fault::Pause(node) => {
                let mut state = self.run.lock();
                let host = state.host_mut(node);
                host.paused = !host.fenced;
            }
            Fault::Resume(node) => {
                let waiting = {
                    let mut state = self.run.lock();
                    let host = state.host_mut(node);
                    host.paused = false;
                    std::mem::take(&mut host.waiting_for_resume)
                };
                waiting.into_iter().for_each(Waker::wake);
            }
            Fault::Drift(node, ppm) => self.run.lock().host_mut(node).clock.set_drift(now, ppm),
            Fault::Jump(node, micros) => self.run.lock().host_mut(node).clock.jump(micros),
            // The fault layer has taken note.
            Fault::Cut(..)
            | Fault::Partition(..)
            | Fault::Mend(..)
            | Fault::Repair(..)
            | Fault::EndCut(..)
            | Fault::EndPartition(..)
            | Fault::RepairAll
            | Fault::Links(_)
            | Fault::Path(..) => {}
            Fault::FailSync(node) => self.disk(node).fail_next_sync(),
            Fault::FailWrite(node) => self.disk(node).fail_next_write(),
            Fault::SlowDisk(node, times) => self.disk(node).slow_down(times),
            Fault::FillDisk(node) => self.disk(node).set_full(true),
            Fault::FreeDisk(node) => self.disk(node).set_full(false),
        }
    }

    fn disk(&self, node: NodeIndex) -> SimDisk {
        self.run.lock().host(node).disk.disk().clone()
    }

    /// First the fence, then the end: destructors run, and nothing that they do takes effect.
    fn crash(&mut self, node: NodeIndex) {
        let (name, was_up) = {
            let mut state = self.run.lock();
            let host = state.host_mut(node);
            host.paused = false;
            host.finished = false;
            host.waiting_for_resume.clear();
            (
                host.name.clone(),
                !std::mem::replace(&mut host.fenced, true),
            )
        };
        if was_up {
            self.run.lock().host_mut(node).disk.crash();
            self.turmoil.crash(&*name);
        }
    }

    fn restart(&mut self, node: NodeIndex) {
        let name = {
            let mut state = self.run.lock();
            let host = state.host_mut(node);
            if !host.fenced {
                return;
            }
            host.life += 1;
            host.fenced = false;
            host.name.clone()
        };
        self.turmoil.bounce(&*name);
    }
}

/// One life of a host. It never ends by itself: turmoil runs nothing more on a host whose software has.
async fn run_host(run: Run, node: NodeIndex, app: App) -> turmoil::Result {
    let life = {
        let mut state = run.lock();
        state.host_mut(node).executor = Some(tokio::runtime::Handle::current().id());
        state.begin_life(node)
    };
    let runtime: Arc<dyn Runtime> = Arc::new(SimRuntime::new(run.clone(), life));
    let result = HostTask {
        run: run.clone(),
        life,
        task: app(runtime),
    }
    .await;
    finish(&run, life, result);
    std::future::pending().await
}

fn finish(run: &Run, life: Life, result: AppResult) {
    let mut state = run.lock();
    let now = state.sim_time(life);
    let digest = u64::from(result.is_ok());
    let describe = || format!("{result:?}");
    state
        .trace
        .record(now, life.node, EventKind::Finish, digest, describe);
    let host = state.host_mut(life.node);
    host.finished = true;
    host.error = result.err();
}
