//! The loop itself.

use std::collections::VecDeque;

use smalti_core::protocol::Machine;
use smalti_core::time::Instant;

use super::context::{NodeStatus, Scheduled};
use super::effort::Effort;
use super::queue::Queue;
use super::{Context, Environment};
use crate::NodeIndex;
use crate::faults::{Fault, FaultEvent, FaultLayer, FaultSchedule};
use crate::rng::Streams;
use crate::time::{NodeClock, SimTime};
use crate::trace::{EventKind, Trace, digest};

/// Inputs that wait for a paused node, at most; more are dropped, as by a socket whose buffer is full.
const BACKLOG_MAX: usize = 65_536;

struct Node<M: Machine> {
    /// `None` while the node is down.
    machine: Option<M>,
    /// The earliest wake-up in the queue; later ones there are stale.
    wake_at: SimTime,
    crash_after: Option<u32>,
    /// What came while the node was paused.
    backlog: VecDeque<M::Input>,
}

/// Nodes, each with one machine, in an environment. See the [module](super).
pub struct World<M: Machine, E: Environment<M>> {
    nodes: Vec<Node<M>>,
    environment: E,
    context: Context<M::Input, E::Event>,
    scheduled_faults: Vec<FaultEvent>,
    recorded_faults: Vec<FaultEvent>,
    effort: Effort,
}

impl<M: Machine, E: Environment<M>> World<M, E> {
    /// A world without nodes and without faults.
    #[must_use]
    pub fn new(seed: u64, environment: E) -> Self {
        let streams = Streams::new(seed);
        let context = Context {
            now: SimTime::ZERO,
            queue: Queue::new(),
            due: VecDeque::new(),
            nodes: Vec::new(),
            faults: FaultLayer::new(&streams, crate::faults::LinkFaults::default()),
            streams,
            trace: Trace::new(),
        };
        Self {
            nodes: Vec::new(),
            environment,
            context,
            scheduled_faults: Vec::new(),
            recorded_faults: Vec::new(),
            effort: Effort::default(),
        }
    }

    /// Fails the run where its nodes together handle more than `steps` inputs and timeouts within one
    /// second of its time, the 10 million of the default otherwise. A run in which machines set each other
    /// off without end then ends, and with words, where it would go on for hours of the processor.
    ///
    /// Choose several times what the busiest second of a sound run takes, which [`World::busiest_second`]
    /// tells.
    pub const fn limit_effort(&mut self, steps: u64) {
        self.effort.limit(steps);
    }

    /// How many inputs and timeouts were handled in the busiest second so far.
    #[must_use]
    pub const fn busiest_second(&self) -> u64 {
        self.effort.most()
    }

    /// Adds a node and starts it now.
    pub fn add_node(&mut self) -> NodeIndex {
        let node = NodeIndex(self.context.nodes_count());
        self.nodes.push(Node {
            machine: None,
            wake_at: SimTime::NEVER,
            crash_after: None,
            backlog: VecDeque::new(),
        });
        let clock = NodeClock::new();
        self.context.nodes.push(NodeStatus {
            up: false,
            paused: false,
            life: 0,
            clock,
        });
        self.start(node);
        self.settle();
        node
    }

    /// Sets how the network behaves, and lets the faults of `schedule` strike when they are due.
    pub fn add_faults(&mut self, schedule: &FaultSchedule) {
        self.apply(Fault::Links(schedule.links));
        for event in &schedule.events {
            let index = self.scheduled_faults.len();
            self.scheduled_faults.push(event.clone());
            self.context
                .queue
                .push(event.at.max(self.context.now), Scheduled::Fault(index));
        }
    }

    /// Lets `fault` strike now.
    pub fn apply(&mut self, fault: Fault) {
        self.strike(fault);
        self.settle();
    }

    /// Hands `input` to `node` now.
    pub fn input(&mut self, node: NodeIndex, input: M::Input) {
        self.context.deliver(node, input);
        self.settle();
    }

    /// Hands `input` to `node` at `at`.
    pub fn input_at(&mut self, at: SimTime, node: NodeIndex, input: M::Input) {
        self.context.deliver_at(at, node, input);
    }

    /// Lets the next thing happen. `false` where nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some((at, scheduled)) = self.context.queue.pop() else {
            return false;
        };
        self.context.now = at;
        match scheduled {
            Scheduled::Input(node, input) => self.arrive(node, input),
            Scheduled::Reply(node, life, input) => {
                if self.context.life(node) == life {
                    self.arrive(node, input);
                }
            }
            Scheduled::Timer(node, life) => {
                if self.context.life(node) == life && self.nodes[node.0 as usize].wake_at == at {
                    self.nodes[node.0 as usize].wake_at = SimTime::NEVER;
                    self.wake(node);
                }
            }
            Scheduled::Event(event) => {
                self.effort
                    .count(at, None, || "an event of the environment".to_owned());
                self.environment.event(event, &mut self.context);
            }
            Scheduled::Fault(index) => {
                let fault = self.scheduled_faults[index].fault.clone();
                self.strike(fault);
            }
        }
        self.settle();
        true
    }

    /// Lets everything happen that is due up to `until`, which becomes the present.
    pub fn run_until(&mut self, until: SimTime) {
        while self
            .context
            .queue
            .next_time()
            .is_some_and(|next| next <= until)
        {
            self.step();
        }
        self.context.now = self.context.now.max(until);
    }

    /// Lets things happen until `done` holds, asked after each step. `false` where it did not hold by
    /// `limit`.
    pub fn run_until_holds(&mut self, limit: SimTime, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            if self
                .context
                .queue
                .next_time()
                .is_none_or(|next| next > limit)
            {
                self.context.now = self.context.now.max(limit);
                return false;
            }
            self.step();
        }
        true
    }

    /// The present.
    #[must_use]
    pub const fn now(&self) -> SimTime {
        self.context.now
    }

    /// The machine of `node`, or nothing while it is down.
    #[must_use]
    pub fn machine(&self, node: NodeIndex) -> Option<&M> {
        self.nodes.get(node.0 as usize)?.machine.as_ref()
    }

    /// The machines of all nodes that are up.
    pub fn machines(&self) -> impl Iterator<Item = (NodeIndex, &M)> {
        let numbered = (0..).map(NodeIndex).zip(&self.nodes);
        numbered.filter_map(|(index, node)| Some((index, node.machine.as_ref()?)))
    }

    /// The environment.
    #[must_use]
    pub const fn environment(&self) -> &E {
        &self.environment
    }

    /// The environment and what it works with, for example to schedule something from outside.
    pub const fn environment_mut(&mut self) -> (&mut E, &mut Context<M::Input, E::Event>) {
        (&mut self.environment, &mut self.context)
    }

    /// What the environment works with.
    #[must_use]
    pub const fn context(&self) -> &Context<M::Input, E::Event> {
        &self.context
    }

    /// The trace so far.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.context.trace
    }

    /// The trace, for example to ask it to record lines.
    pub const fn trace_mut(&mut self) -> &mut Trace {
        &mut self.context.trace
    }

    /// Every fault that has struck, and when: a schedule that does the same again.
    #[must_use]
    pub fn recorded_faults(&self) -> &[FaultEvent] {
        &self.recorded_faults
    }

    /// Handles what is due now, until nothing is.
    fn settle(&mut self) {
        while let Some((node, input)) = self.context.due.pop_front() {
            self.arrive(node, input);
        }
    }

    fn start(&mut self, node: NodeIndex) {
        let now = self.context.now;
        let status = &mut self.context.nodes[node.0 as usize];
        status.up = true;
        status.clock.restart(now);
        let life = status.life;
        self.context
            .trace(node, EventKind::Start, u64::from(life), || {
                format!("life {life}")
            });
        let machine = self.environment.start(node, life, &mut self.context);
        self.nodes[node.0 as usize].machine = Some(machine);
        self.drain(node);
    }

    fn arrive(&mut self, index: NodeIndex, input: M::Input) {
        let Some(node) = self.nodes.get_mut(index.0 as usize) else {
            return;
        };
        let status = &self.context.nodes[index.0 as usize];
        if status.paused {
            if status.up && node.backlog.len() < BACKLOG_MAX {
                node.backlog.push_back(input);
            }
            return;
        }
        let Some(machine) = &mut node.machine else {
            return;
        };
        let (now, context) = (status.clock.monotonic(self.context.now), &mut self.context);
        self.effort.count(context.now, Some(index), || {
            format!("an input of {index}: {}", E::describe(&input))
        });
        context.trace.record(
            context.now,
            index,
            EventKind::Input,
            E::digest(&input),
            || E::describe(&input),
        );
        machine.handle(now, input);
        self.drain(index);
    }

    /// The deadline of `index` may have come: it may also have been moved since.
    fn wake(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index.0 as usize];
        let status = &self.context.nodes[index.0 as usize];
        let Some(machine) = &mut node.machine else {
            return;
        };
        // A paused node looks at its deadlines when it goes on.
        if status.paused {
            return;
        }
        let now = status.clock.monotonic(self.context.now);
        match machine.poll_timeout() {
            Some((deadline, reason)) if deadline <= now => {
                let context = &mut self.context;
                let time = context.now;
                self.effort.count(time, Some(index), || {
                    format!("a timeout of {index}: {reason}")
                });
                context
                    .trace
                    .record(time, index, EventKind::Timer, digest(reason), || {
                        reason.to_owned()
                    });
                machine.handle_timeout(now);
                self.drain(index);
            }
            Some((deadline, _)) => self.wake_at(index, deadline),
            None => {}
        }
    }

    /// Carries out what the machine wants done, checks it, and notes when it is to be woken.
    fn drain(&mut self, index: NodeIndex) {
        let node = &mut self.nodes[index.0 as usize];
        let Some(machine) = &mut node.machine else {
            return;
        };
        while let Some(output) = machine.poll_output() {
            if let Some(left) = &mut node.crash_after {
                if *left == 0 {
                    self.crash(index);
                    return;
                }
                *left -= 1;
            }
            self.environment.output(index, output, &mut self.context);
        }
        machine.check_invariants();
        self.environment.stepped(index, machine, &mut self.context);
        if let Some((deadline, _)) = machine.poll_timeout() {
            self.wake_at(index, deadline);
        }
    }

    fn wake_at(&mut self, index: NodeIndex, deadline: Instant) {
        if deadline == Instant::FAR_FUTURE {
            return;
        }
        let status = &self.context.nodes[index.0 as usize];
        let (at, life) = (
            status.clock.when(deadline).max(self.context.now),
            status.life,
        );
        let node = &mut self.nodes[index.0 as usize];
        // A wake-up that comes earlier than needed looks again; so deadlines that only move away,
        // as most do, cost nothing.
        if at < node.wake_at {
            node.wake_at = at;
            self.context.queue.push(at, Scheduled::Timer(index, life));
        }
    }

    fn strike(&mut self, fault: Fault) {
        let (now, context) = (self.context.now, &mut self.context);
        context.faults.apply(&fault);
        let text = fault.to_string();
        context.trace.record(
            now,
            NodeIndex(u32::MAX),
            EventKind::Fault,
            digest(&text),
            || text,
        );
        match &fault {
            Fault::CrashAfter(index, outputs) => {
                if let Some(node) = self.nodes.get_mut(index.0 as usize) {
                    node.crash_after = Some(*outputs);
                }
            }
            Fault::Restart(index) => self.restart(*index),
            Fault::Pause(index) => {
                if let Some(status) = self.context.nodes.get_mut(index.0 as usize) {
                    status.paused = status.up;
                }
            }
            Fault::Resume(index) => self.resume(*index),
            Fault::Drift(index, ppm) => {
                if let Some(status) = self.context.nodes.get_mut(index.0 as usize) {
                    status.clock.set_drift(now, *ppm);
                    // The deadline is the same on the node's clock, and another on ours.
                    self.nodes[index.0 as usize].wake_at = SimTime::NEVER;
                    self.look_at_deadline(*index);
                }
            }
            Fault::Jump(index, micros) => {
                if let Some(status) = self.context.nodes.get_mut(index.0 as usize) {
                    status.clock.jump(*micros);
                }
            }
            Fault::Crash(index) => self.crash(*index),
            Fault::Cut(..)
            | Fault::Partition(..)
            | Fault::Mend(..)
            | Fault::Repair(..)
            | Fault::EndCut(..)
            | Fault::EndPartition(..)
            | Fault::RepairAll
            | Fault::Links(_)
            | Fault::Path(..)
            | Fault::FailSync(_)
            | Fault::FailWrite(_)
            | Fault::SlowDisk(..)
            | Fault::FillDisk(_)
            | Fault::FreeDisk(_) => {}
        }
        // A crash has told the environment itself, since it may also come in the midst of a step.
        if !matches!(fault, Fault::Crash(_)) {
            self.environment.fault(&fault, &mut self.context);
        }
        self.recorded_faults.push(FaultEvent { at: now, fault });
    }

    fn crash(&mut self, index: NodeIndex) {
        let Some(node) = self.nodes.get_mut(index.0 as usize) else {
            return;
        };
        node.crash_after = None;
        if node.machine.take().is_none() {
            return;
        }
        node.wake_at = SimTime::NEVER;
        node.backlog.clear();
        let status = &mut self.context.nodes[index.0 as usize];
        status.up = false;
        status.paused = false;
        // The life ends here, so that replies under way to it are dropped.
        status.life += 1;
        self.context
            .trace(index, EventKind::Fault, 0, || "is down".to_owned());
        self.environment
            .fault(&Fault::Crash(index), &mut self.context);
    }

    fn restart(&mut self, index: NodeIndex) {
        let Some(node) = self.nodes.get_mut(index.0 as usize) else {
            return;
        };
        node.crash_after = None;
        if node.machine.is_none() {
            self.start(index);
        }
    }

    fn resume(&mut self, index: NodeIndex) {
        let Some(status) = self.context.nodes.get_mut(index.0 as usize) else {
            return;
        };
        if std::mem::take(&mut status.paused) {
            for input in std::mem::take(&mut self.nodes[index.0 as usize].backlog) {
                self.context.deliver(index, input);
            }
            self.nodes[index.0 as usize].wake_at = SimTime::NEVER;
            self.look_at_deadline(index);
        }
    }

    fn look_at_deadline(&mut self, index: NodeIndex) {
        let machine = self.nodes[index.0 as usize].machine.as_ref();
        if let Some((deadline, _)) = machine.and_then(Machine::poll_timeout) {
            self.wake_at(index, deadline);
        }
    }
}
