//! Faults: one vocabulary for every level of simulation.
//!
//! [`LinkFaults`] says how the network treats packets, [`Fault`] is one thing that goes wrong (or right
//! again) at one moment, and a [`FaultSchedule`] is both for a whole run: recorded, printed, replayed, and
//! shortened by hand or by machine, without a seed. A [`FaultPlan`] is what schedules are drawn from: which
//! classes of fault a run has, and how strong. [`FaultLayer`] applies them to packets.

mod layer;
mod plan;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layer::{Copies, FaultLayer, Transmission};
pub use plan::{Churn, FaultPlan};

use crate::NodeIndex;
use crate::time::SimTime;

/// How long packets take: at least `min`, `mean` on average, exponential in between, never above `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The shortest time a packet takes.
    pub min: Duration,
    /// The average, but for what `max` cuts off. Where it is not above `min`, all packets take `min`.
    pub mean: Duration,
    /// The longest time a packet takes, however unlucky.
    pub max: Duration,
}

impl Latency {
    /// Every packet takes exactly `duration`.
    #[must_use]
    pub const fn constant(duration: Duration) -> Self {
        Self {
            min: duration,
            mean: duration,
            max: duration,
        }
    }
}

impl Default for Latency {
    /// A quiet wide-area path: 5 ms at least, 10 ms on average, 100 ms at most.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(5),
            mean: Duration::from_millis(10),
            max: Duration::from_millis(100),
        }
    }
}

/// How the network treats the packets of one direction of a path. Probabilities are in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFaults {
    /// How long packets take.
    pub latency: Latency,
    /// Packets that vanish.
    pub loss_ppm: u32,
    /// Packets that arrive twice, each with a latency of its own.
    pub duplicate_ppm: u32,
    /// Packets held back by up to `reorder_delay`, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// The longest that a reordered packet is held back.
    pub reorder_delay: Duration,
    /// Packets of which some bytes change. Only what carries bytes knows this fault.
    pub corrupt_ppm: u32,
    /// Bytes per second that fit through; packets above wait. `None`: any number.
    pub bandwidth: Option<u64>,
}

impl LinkFaults {
    /// A path that only takes time: each packet exactly `latency`.
    #[must_use]
    pub fn constant(latency: Duration) -> Self {
        Self {
            latency: Latency::constant(latency),
            ..Self::default()
        }
    }
}

/// One thing that goes wrong, or right again, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fault {
    /// No packet from any of the first nodes to any of the second arrives, until repaired. The other
    /// direction is not touched. Packets sent before still arrive.
    Cut(Vec<NodeIndex>, Vec<NodeIndex>),
    /// The first nodes and the second do not reach each other, until repaired.
    Partition(Vec<NodeIndex>, Vec<NodeIndex>),
    /// Packets from the first nodes to the second arrive again, however often they were cut off.
    Mend(Vec<NodeIndex>, Vec<NodeIndex>),
    /// The first nodes and the second reach each other again, however often they were cut off.
    Repair(Vec<NodeIndex>, Vec<NodeIndex>),
    /// One [`Cut`](Self::Cut) of the same nodes is over: packets arrive again where no other fault
    /// has cut the path too.
    EndCut(Vec<NodeIndex>, Vec<NodeIndex>),
    /// One [`Partition`](Self::Partition) of the same nodes is over: they reach each other again
    /// where no other fault has cut the path too.
    EndPartition(Vec<NodeIndex>, Vec<NodeIndex>),
    /// Every node reaches every other again.
    RepairAll,
    /// The network treats all packets so from now on, those of paths set by `Path` excepted.
    Links(LinkFaults),
    /// The network treats packets from the first node to the second so from now on.
    Path(NodeIndex, NodeIndex, LinkFaults),
    /// The node loses all that is not on its disk, without a word to anyone.
    Crash(NodeIndex),
    /// The node crashes once it has done that many more of the things it wants done, in the midst of a
    /// step. Where whole nodes run, the crash comes at once.
    CrashAfter(NodeIndex, u32),
    /// The crashed node starts again, with what is on its disk.
    Restart(NodeIndex),
    /// The node stands still, as under a long garbage collection; its clocks run on and its packets wait.
    Pause(NodeIndex),
    /// The paused node goes on.
    Resume(NodeIndex),
    /// The node's clocks run fast by parts per million from now on (slow where negative).
    Drift(NodeIndex, i32),
    /// The node's wall clock is set forward by microseconds (back where negative).
    Jump(NodeIndex, i64),
    /// The next time the node's disk is to make something durable, it fails: part of it may be.
    FailSync(NodeIndex),
    /// The next time something is written to the node's disk, that fails: part of it may be there.
    FailWrite(NodeIndex),
    /// The node's disk takes so many times as long from now on; 1 is its own pace.
    SlowDisk(NodeIndex, u32),
    /// The node's disk is full.
    FillDisk(NodeIndex),
    /// There is space on the node's disk again.
    FreeDisk(NodeIndex),
}

impl Fault {
    /// The node that the fault strikes; `None` for faults of the network.
    #[must_use]
    pub const fn node(&self) -> Option<NodeIndex> {
        match self {
            Self::Crash(node)
            | Self::CrashAfter(node, _)
            | Self::Restart(node)
            | Self::Pause(node)
            | Self::Resume(node)
            | Self::Drift(node, _)
            | Self::Jump(node, _)
            | Self::FailSync(node)
            | Self::FailWrite(node)
            | Self::SlowDisk(node, _)
            | Self::FillDisk(node)
            | Self::FreeDisk(node) => Some(*node),
            Self::Cut(..)
            | Self::Partition(..)
            | Self::Mend(..)
            | Self::Repair(..)
            | Self::EndCut(..)
            | Self::EndPartition(..)
            | Self::RepairAll
            | Self::Links(_)
            | Self::Path(..) => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[NodeIndex]| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(",")
        };
        match self {
            Self::Cut(from, to) => write!(f, "cut {} -> {}", list(from), list(to)),
            Self::Partition(left, right) => write!(f, "partition {} | {}", list(left), list(right)),
            Self::Mend(from, to) => write!(f, "mend {} -> {}", list(from), list(to)),
            Self::Repair(left, right) => write!(f, "repair {} | {}", list(left), list(right)),
            Self::EndCut(from, to) => write!(f, "end cut {} -> {}", list(from), list(to)),
            Self::EndPartition(left, right) => {
                write!(f, "end partition {} | {}", list(left), list(right))
            }
            Self::RepairAll => f.write_str("repair all"),
            Self::Links(faults) => write!(f, "links {faults:?}"),
            Self::Path(from, to, faults) => write!(f, "path {from} -> {to} {faults:?}"),
            Self::Crash(node) => write!(f, "crash {node}"),
            Self::CrashAfter(node, outputs) => write!(f, "crash {node} after {outputs} outputs"),
            Self::Restart(node) => write!(f, "restart {node}"),
            Self::Pause(node) => write!(f, "pause {node}"),
            Self::Resume(node) => write!(f, "resume {node}"),
            Self::Drift(node, ppm) => write!(f, "drift {node} by {ppm} ppm"),
            Self::Jump(node, micros) => write!(f, "jump {node} by {micros} us"),
            Self::FailSync(node) => write!(f, "fail the next sync of {node}"),
            Self::FailWrite(node) => write!(f, "fail the next write of {node}"),
            Self::SlowDisk(node, times) => write!(f, "slow the disk of {node} down {times} times"),
            Self::FillDisk(node) => write!(f, "fill the disk of {node}"),
            Self::FreeDisk(node) => write!(f, "free the disk of {node}"),
        }
    }
}

/// A fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEvent {
    /// When.
    pub at: SimTime,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.fault)
    }
}

/// All faults of one run: how the network behaves from the beginning, and what happens when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSchedule {
    /// How the network treats packets at first.
    pub links: LinkFaults,
    /// What happens, in order of time.
    pub events: Vec<FaultEvent>,
}

impl FaultSchedule {
    /// The schedule that does again what a run has recorded.
    #[must_use]
    pub fn from_recorded(events: &[FaultEvent]) -> Self {
        // A run begins by setting how the network behaves.
        match events {
            [
                FaultEvent {
                    at: SimTime::ZERO,
                    fault: Fault::Links(links),
                },
                rest @ ..,
            ] => Self {
                links: *links,
                events: rest.to_vec(),
            },
            _ => Self {
                links: LinkFaults::default(),
                events: events.to_vec(),
            },
        }
    }
}

impl fmt::Display for FaultSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {:?}", SimTime::ZERO, self.links)?;
        self.events
            .iter()
            .try_for_each(|event| writeln!(f, "{event}"))
    }
}
