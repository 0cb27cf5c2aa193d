//! What the nodes' applications ask of the group, and what came of it.

use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{
    CallId, CallOutcome, CommandsBuilder, Incarnation, Index, Input, ReadError, ReadId, Rejection,
    Version,
};
use smalti_sim::NodeIndex;
use smalti_sim::rng::{Streams, below, chance, exponential};
use smalti_sim::time::SimTime;

use super::cluster::{Ctx, Scheduled};
use super::ledger::Ledger;
use super::rare;
use super::registers::{Command, CommandId, Operation, value_of};
use crate::Coverage;

/// How busy the applications are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// The average time between two operations of one node.
    pub(super) every: Duration,
    /// Operations of one node that may be open at once.
    pub(super) open_max: usize,
    /// Registers.
    pub(super) keys: u8,
    /// Operations that are strong reads, in parts per million.
    pub(super) reads_ppm: u32,
    /// Commands that are handed over with others at once, in parts per million.
    pub(super) many_ppm: u32,
    /// Operations after which an open one is given up.
    pub(super) give_up_ppm: u32,
    /// Operations after which leadership is to be handed over, if the node leads.
    pub(super) transfer_ppm: u32,
    /// Operations of all nodes together, at most.
    pub(super) operations_max: u64,
}

/// Commands that are handed over at once, at most.
const MANY_MAX: u64 = 16;

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing yet.
    Open,
    /// It was applied, and gave the value before it.
    Applied {
        incarnation: Incarnation,
        index: Index,
        before: u64,
        at: SimTime,
    },
    /// It was applied at some time before this.
    OutputLost(SimTime),
    /// It was never applied.
    Never,
    /// Nobody knows, or it was done to an incarnation that was given up.
    Unknown,
}

/// A command of an application.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) node: NodeIndex,
    pub(super) command: Command,
    pub(super) called: SimTime,
    pub(super) given_up: bool,
    pub(super) end: End,
}

/// A strong read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) node: NodeIndex,
    pub(super) key: u8,
    pub(super) called: SimTime,
    /// Whether the node led when it was asked.
    led: bool,
    /// What each incarnation had acknowledged by then.
    floors: Vec<(Incarnation, Index)>,
    /// What it showed.
    pub(super) shown: Option<Shown>,
}

/// What a read showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) incarnation: Incarnation,
    /// How far the state had come.
    pub(super) index: Index,
    pub(super) value: u64,
    pub(super) at: SimTime,
}

/// The application of one node.
struct Client {
    /// Names its present run.
    id: u32,
    commands: u32,
    open: Vec<CallId>,
    open_reads: usize,
    /// The reads of its present run, by their ids: each run begins anew to number them.
    reads: Vec<usize>,
    rng: ChaCha8Rng,
}

/// All applications.
pub(super) struct Clients {
    workload: Workload,
    clients: Vec<Client>,
    pub(super) calls: Vec<Call>,
    pub(super) reads: Vec<Read>,
    pub(super) operations: u64,
    values: u64,
    until: SimTime,
}

impl Clients {
    pub(super) fn new(streams: &Streams, nodes: u32, workload: Workload, until: SimTime) -> Self {
        let clients = (0..nodes).map(|node| Client {
            id: 0,
            commands: 0,
            open: Vec::new(),
            open_reads: 0,
            reads: Vec::new(),
            rng: streams.stream(&format!("client {node}")),
        });
        Self {
            workload,
            clients: clients.collect(),
            calls: Vec::new(),
            reads: Vec::new(),
            operations: 0,
            values: 0,
            until,
        }
    }

    /// The node has started, for the `life`-th time.
    pub(super) fn started(&mut self, node: NodeIndex, life: u32) {
        let client = &mut self.clients[node.0 as usize];
        client.id = (life << 8) | node.0;
        client.commands = 0;
        client.open_reads = 0;
        client.reads.clear();
    }

    /// The node has crashed: nobody knows what came of what it had asked.
    pub(super) fn crashed(&mut self, node: NodeIndex) {
        let client = &mut self.clients[node.0 as usize];
        for call in client.open.drain(..) {
            self.calls[call.0 as usize].end = End::Unknown;
        }
    }

    /// It is time for an operation of `node`. Gives when the next one is.
    pub(super) fn act(
        &mut self,
        node: NodeIndex,
        leads: bool,
        ledger: &Ledger,
        ctx: &mut Ctx,
    ) -> Option<SimTime> {
        if self.operations >= self.workload.operations_max || ctx.now() >= self.until {
            return None;
        }
        let workload = self.workload;
        let client = &mut self.clients[node.0 as usize];
        // The mean of the draw is 1.5 half-lives.
        let half_life = workload.every.as_nanos() as u64 / 3 * 2;
        let next = Duration::from_nanos(exponential(&mut client.rng, half_life).max(1));
        if ctx.is_up(node) {
            let client = &mut self.clients[node.0 as usize];
            if chance(&mut client.rng, workload.give_up_ppm) && !client.open.is_empty() {
                let place = below(&mut client.rng, client.open.len() as u64) as usize;
                let call = client.open[place];
                self.calls[call.0 as usize].given_up = true;
                ctx.deliver(node, Input::GiveUp(call));
            }
            if chance(&mut client.rng, workload.transfer_ppm) && leads {
                ctx.deliver(node, Input::TransferLeadership);
            }
            let is_read = chance(&mut client.rng, workload.reads_ppm);
            let key = below(&mut client.rng, u64::from(workload.keys)) as u8;
            if client.open.len() + client.open_reads < workload.open_max {
                if is_read {
                    self.operations += 1;
                    self.read(node, key, leads, ledger, ctx);
                } else if chance(&mut client.rng, workload.many_ppm) {
                    self.write_many(node, ctx);
                } else {
                    self.operations += 1;
                    self.write(node, key, ctx);
                }
            }
        }
        Some(ctx.now() + next)
    }

    fn read(&mut self, node: NodeIndex, key: u8, led: bool, ledger: &Ledger, ctx: &mut Ctx) {
        let client = &mut self.clients[node.0 as usize];
        let id = ReadId(client.reads.len() as u64);
        client.reads.push(self.reads.len());
        client.open_reads += 1;
        let floors = ledger.lives().iter();
        self.reads.push(Read {
            node,
            key,
            called: ctx.now(),
            led,
            floors: floors.map(|life| (life.incarnation, life.acked)).collect(),
            shown: None,
        });
        ctx.deliver(node, Input::Read(id));
    }

    /// Sends a command of `node`, on a register drawn or given.
    pub(super) fn write(&mut self, node: NodeIndex, key: u8, ctx: &mut Ctx) -> CallId {
        let (call, command) = self.call(node, key, ctx.now());
        ctx.deliver(node, Input::Execute(call, command.encode()));
        call
    }

    /// Sends several commands of `node` at once, each on a register drawn, as many as it may still have.
    fn write_many(&mut self, node: NodeIndex, ctx: &mut Ctx) {
        let left = self.workload.operations_max - self.operations;
        let count = 1 + below(&mut self.clients[node.0 as usize].rng, left.min(MANY_MAX));
        self.operations += count;
        let first = CallId(self.calls.len() as u64);
        let mut commands = CommandsBuilder::default();
        for _ in 0..count {
            let client = &mut self.clients[node.0 as usize];
            let key = below(&mut client.rng, u64::from(self.workload.keys)) as u8;
            let (_, command) = self.call(node, key, ctx.now());
            commands.push(&command.encode());
        }
        ctx.deliver(node, Input::ExecuteMany(first, commands.take()));
    }

    /// Draws a command of `node` on a register.
    fn call(&mut self, node: NodeIndex, key: u8, now: SimTime) -> (CallId, Command) {
        let client = &mut self.clients[node.0 as usize];
        client.commands += 1;
        self.values += 1;
        let value = self.values;
        let operation = match below(&mut client.rng, 4) {
            0 => Operation::Put(value),
            1 => Operation::Append(value),
            2 => Operation::Add(value),
            _ => Operation::Swap(below(&mut client.rng, value), value),
        };
        let id = CommandId {
            client: client.id,
            number: client.commands,
        };
        let command = Command { id, key, operation };
        let call = CallId(self.calls.len() as u64);
        client.open.push(call);
        self.calls.push(Call {
            node,
            command,
            called: now,
            given_up: false,
            end: End::Open,
        });
        (call, command)
    }

    /// A call has ended.
    pub(super) fn completed(
        &mut self,
        node: NodeIndex,
        id: CallId,
        outcome: &CallOutcome,
        stopped: bool,
        now: SimTime,
        coverage: &mut Coverage,
    ) {
        let client = &mut self.clients[node.0 as usize];
        let place = client.open.iter().position(|open| *open == id);
        let Some(place) = place else {
            panic!("{node} completes {id:?}, which is not open there: {outcome:?}");
        };
        client.open.remove(place);
        let call = &mut self.calls[id.0 as usize];
        call.end = match outcome {
            CallOutcome::Applied { version, output } => {
                if call.given_up {
                    coverage.reach(rare::GAVE_UP_TOO_LATE);
                }
                End::Applied {
                    incarnation: version.incarnation,
                    index: version.index,
                    before: value_of(output).expect("outputs are eight bytes"),
                    at: now,
                }
            }
            CallOutcome::OutputLost { .. } => {
                coverage.reach(rare::OUTPUT_LOST);
                End::OutputLost(now)
            }
            CallOutcome::GivenUp => {
                assert!(call.given_up, "{id:?} ends as given up, and nobody did so");
                coverage.reach(rare::GAVE_UP);
                End::Never
            }
            CallOutcome::Rejected(Rejection::Frozen) => {
                coverage.reach(rare::REFUSED_WHILE_FROZEN);
                End::Never
            }
            CallOutcome::Rejected(_) => End::Never,
            CallOutcome::Superseded { .. } => {
                coverage.reach(rare::CALL_SUPERSEDED);
                End::Unknown
            }
            CallOutcome::Unknown => {
                if !stopped {
                    coverage.reach(rare::SESSION_LOST);
                }
                End::Unknown
            }
        };
    }

    /// A read shows `value`, as of a version of an incarnation that was sealed by then, or not yet.
    pub(super) fn read_ready(
        &mut self,
        (node, id): (NodeIndex, ReadId),
        (version, sealed_at): (Version, Option<SimTime>),
        value: impl Fn(u8) -> u64,
        leads: bool,
        now: SimTime,
        coverage: &mut Coverage,
    ) {
        let client = &mut self.clients[node.0 as usize];
        let read = &mut self.reads[client.reads[id.0 as usize]];
        assert!(read.shown.is_none(), "{id:?} is answered twice");
        let mut floors = read.floors.iter();
        let floor = floors.find(|(incarnation, _)| *incarnation == version.incarnation);
        let floor = floor.map_or(Index::ZERO, |(_, floor)| *floor);
        assert!(
            version.index >= floor,
            "a stale read: {id:?} of {} shows the state at {}, and {floor} was acknowledged before it was asked",
            read.node,
            version.index
        );
        assert!(
            sealed_at.is_none_or(|at| read.called <= at),
            "a stale read: {id:?} of {} was asked after {} had been given up",
            read.node,
            version.incarnation
        );
        if read.led && !leads {
            coverage.reach(rare::READ_AFTER_LEADING);
        }
        read.shown = Some(Shown {
            incarnation: version.incarnation,
            index: version.index,
            value: value(read.key),
            at: now,
        });
        client.open_reads -= 1;
    }

    /// A read was not answered.
    pub(super) fn read_failed(
        &mut self,
        node: NodeIndex,
        id: ReadId,
        error: ReadError,
        coverage: &mut Coverage,
    ) {
        let client = &mut self.clients[node.0 as usize];
        assert!(client.open_reads > 0, "{id:?} is answered twice");
        client.open_reads -= 1;
        if error == ReadError::TimedOut {
            coverage.reach(rare::READ_FAILED);
        }
    }

    /// Whether something that `node` has asked for has not ended.
    pub(super) fn has_open(&self, node: NodeIndex) -> bool {
        let client = &self.clients[node.0 as usize];
        !client.open.is_empty() || client.open_reads > 0
    }

    /// Schedules the first operation of every node.
    pub(super) fn begin(&self, at: SimTime, ctx: &mut Ctx) {
        for node in 0..self.clients.len() as u32 {
            ctx.schedule(at, Scheduled::Client(NodeIndex(node)));
        }
    }
}

/// The output of a call as acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    pub(super) call: CallId,
    pub(super) version: Version,
    pub(super) output: Bytes,
}
