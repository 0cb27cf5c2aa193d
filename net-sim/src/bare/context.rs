//! What an environment works with.

use std::collections::VecDeque;
use std::time::Duration;

use smalti_core::time::{Instant, WallTime};

use super::queue::Queue;
use crate::NodeIndex;
use crate::faults::FaultLayer;
use crate::rng::Streams;
use crate::time::{NodeClock, SimTime};
use crate::trace::{EventKind, Trace};

/// What is scheduled.
pub(super) enum Scheduled<I, T> {
    /// For the node, whichever its life.
    Input(NodeIndex, I),
    /// For this life of the node alone.
    Reply(NodeIndex, u32, I),
    /// The node's deadline may have come.
    Timer(NodeIndex, u32),
    /// For the environment.
    Event(T),
    /// A fault of the schedule, by its place there.
    Fault(usize),
}

pub(super) struct NodeStatus {
    pub(super) up: bool,
    pub(super) paused: bool,
    pub(super) life: u32,
    pub(super) clock: NodeClock,
}

/// What the [`Environment`](super::Environment) works with: time, the queue of what is to happen, the
/// faults of the network, randomness and the trace.
pub struct Context<I, T> {
    pub(super) now: SimTime,
    pub(super) queue: Queue<Scheduled<I, T>>,
    pub(super) due: VecDeque<(NodeIndex, I)>,
    pub(super) nodes: Vec<NodeStatus>,
    pub(super) faults: FaultLayer,
    pub(super) streams: Streams,
    pub(super) trace: Trace,
}

impl<I, T> Context<I, T> {
    /// The present.
    #[must_use]
    pub const fn now(&self) -> SimTime {
        self.now
    }

    /// What the monotonic clock of `node` shows.
    #[must_use]
    pub fn monotonic(&self, node: NodeIndex) -> Instant {
        self.nodes[node.0 as usize].clock.monotonic(self.now)
    }

    /// What the wall clock of `node` shows.
    #[must_use]
    pub fn wall(&self, node: NodeIndex) -> WallTime {
        self.nodes[node.0 as usize].clock.wall(self.now)
    }

    /// Which life `node` is in: how often it has been started again.
    #[must_use]
    pub fn life(&self, node: NodeIndex) -> u32 {
        self.nodes[node.0 as usize].life
    }

    /// Whether `node` has not crashed. A paused node is up.
    #[must_use]
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.nodes
            .get(node.0 as usize)
            .is_some_and(|status| status.up)
    }

    /// Whether `node` stands still.
    #[must_use]
    pub fn is_paused(&self, node: NodeIndex) -> bool {
        self.nodes
            .get(node.0 as usize)
            .is_some_and(|status| status.paused)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes_count(&self) -> u32 {
        // Nodes are numbered by `u32`.
        self.nodes.len() as u32
    }

    /// The faults of the network.
    pub const fn faults(&mut self) -> &mut FaultLayer {
        &mut self.faults
    }

    /// The random streams of the run.
    #[must_use]
    pub const fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The streams of one node in its present life, for its machine.
    #[must_use]
    pub fn streams_of(&self, node: NodeIndex) -> Streams {
        self.streams
            .branch(&format!("{node} life {}", self.life(node)))
    }

    /// Hands `input` to `node` now, once what is being carried out has been. Inputs of a crashed node
    /// vanish.
    pub fn deliver(&mut self, node: NodeIndex, input: I) {
        self.due.push_back((node, input));
    }

    /// Hands `input` to `node` after `delay`, whichever life it is in by then, as a network does.
    pub fn deliver_after(&mut self, delay: Duration, node: NodeIndex, input: I) {
        self.queue
            .push(self.now + delay, Scheduled::Input(node, input));
    }

    /// Hands `input` to `node` at `at`, whichever life it is in by then.
    pub fn deliver_at(&mut self, at: SimTime, node: NodeIndex, input: I) {
        self.queue
            .push(at.max(self.now), Scheduled::Input(node, input));
    }

    /// Hands `input` to `node` after `delay` unless it crashes before, as its own disk does.
    pub fn reply_after(&mut self, delay: Duration, node: NodeIndex, input: I) {
        let life = self.life(node);
        self.queue
            .push(self.now + delay, Scheduled::Reply(node, life, input));
    }

    /// Gives `event` back to the environment at `at`.
    pub fn schedule(&mut self, at: SimTime, event: T) {
        self.queue.push(at.max(self.now), Scheduled::Event(event));
    }

    /// Puts something into the trace that is neither input nor timer.
    pub fn trace(
        &mut self,
        node: NodeIndex,
        kind: EventKind,
        digest: u64,
        describe: impl FnOnce() -> String,
    ) {
        self.trace.record(self.now, node, kind, digest, describe);
    }
}

/// A network of datagrams: each is lost, duplicated and delayed by itself, as the fault layer says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Datagrams;

impl Datagrams {
    /// Sends `input`, of `len` bytes, from one node to another.
    pub fn send<I: Clone, T>(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        input: I,
        len: usize,
        context: &mut Context<I, T>,
    ) {
        let copies = context.faults.packet(context.now, from, to, len);
        // A corrupt datagram fails its checksum: it is lost.
        if copies.corrupt.is_some() {
            return;
        }
        if let Some(at) = copies.second {
            context.deliver_at(at, to, input.clone());
        }
        if let Some(at) = copies.first {
            context.deliver_at(at, to, input);
        }
    }
}
