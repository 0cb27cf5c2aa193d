//! What one run knows: its hosts, its faults, its trace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use smalti_core::time::Instant;

use super::stores::HostDisk;
use crate::NodeIndex;
use crate::disk::SimDisk;
use crate::faults::{Fault, FaultEvent, FaultLayer};
use crate::rng::Streams;
use crate::time::{NodeClock, SimTime};
use crate::trace::{EventKind, Trace, digest};

/// The state of a run, shared by its hosts; all of them run on one thread, one after the other.
#[derive(Clone)]
pub(super) struct Run(Arc<Mutex<RunState>>);

pub(super) struct RunState {
    /// The beginning of the present step.
    pub(super) now: SimTime,
    pub(super) streams: Streams,
    pub(super) faults: FaultLayer,
    pub(super) trace: Trace,
    pub(super) hosts: Vec<HostState>,
    /// Faults that the script has asked for and that have not struck yet.
    pub(super) asked: Vec<Fault>,
    pub(super) recorded: Vec<FaultEvent>,
    /// Whether nodes speak QUIC with each other, instead of the transport of [`link`](crate::link).
    #[cfg(feature = "full")]
    pub(super) over_quic: bool,
    /// Whether their stores are on files of the simulated disks.
    #[cfg(feature = "full")]
    pub(super) real_stores: bool,
    /// What cryptography draws from.
    #[cfg(feature = "full")]
    pub(super) secrets: super::full::Secrets,
}

pub(super) struct HostState {
    pub(super) name: Arc<str>,
    /// How often the host has been started again.
    pub(super) life: u32,
    /// Nothing that this life does from now on takes effect.
    pub(super) fenced: bool,
    pub(super) paused: bool,
    pub(super) waiting_for_resume: Vec<Waker>,
    pub(super) clock: NodeClock,
    pub(super) disk: HostDisk,
    pub(super) executor: Option<tokio::runtime::Id>,
    /// Whether the run waits for its application to end.
    pub(super) awaited: bool,
    pub(super) finished: bool,
    pub(super) error: Option<Box<dyn std::error::Error + Send + Sync>>,
    seeds: BTreeMap<String, u32>,
}

impl HostState {
    pub(super) fn new(name: Arc<str>, awaited: bool, streams: &Streams) -> Self {
        let of_host = streams.branch(&format!("host {name}"));
        Self {
            disk: HostDisk::new(SimDisk::with_pending_syncs(&of_host)),
            name,
            life: 0,
            fenced: false,
            paused: false,
            waiting_for_resume: Vec::new(),
            clock: NodeClock::new(),
            executor: None,
            awaited,
            finished: false,
            error: None,
            seeds: BTreeMap::new(),
        }
    }
}

impl Run {
    pub(super) fn new(state: RunState) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// A panic while the lock was held has failed the run; what it left is good enough for the report.
    pub(super) fn lock(&self) -> MutexGuard<'_, RunState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunState {
    pub(super) fn host(&self, node: NodeIndex) -> &HostState {
        &self.hosts[node.0 as usize]
    }

    pub(super) fn host_mut(&mut self, node: NodeIndex) -> &mut HostState {
        &mut self.hosts[node.0 as usize]
    }

    /// Whether what `life` of the host does takes effect.
    pub(super) fn is_live(&self, life: Life) -> bool {
        let host = self.host(life.node);
        host.life == life.life && !host.fenced
    }

    /// The present, as finely as the running host's timers go.
    pub(super) fn sim_time(&self, life: Life) -> SimTime {
        // A host that is being torn down has no clock any more.
        if !self.is_live(life) {
            return self.now;
        }
        turmoil::sim_elapsed().map_or(self.now, |elapsed| SimTime::from(elapsed).max(self.now))
    }

    pub(super) fn monotonic(&self, life: Life) -> Instant {
        self.host(life.node).clock.monotonic(self.sim_time(life))
    }

    /// A seed that follows from the run's, the host, its life, the label and how often it was asked for.
    pub(super) fn draw_seed(&mut self, life: Life, label: &str) -> [u8; 32] {
        let host = self.host_mut(life.node);
        let count = host.seeds.entry(label.to_owned()).or_default();
        let number = *count;
        *count += 1;
        let name = host.name.clone();
        let of_host = self.streams.branch(&format!("host {name}"));
        of_host
            .branch(&format!("life {}", life.life))
            .seed(&format!("{label} {number}"))
    }

    pub(super) fn begin_life(&mut self, node: NodeIndex) -> Life {
        let now = self.now;
        let host = self.host_mut(node);
        host.clock.restart(now);
        host.seeds.clear();
        let life = Life {
            node,
            life: host.life,
        };
        self.trace
            .record(now, node, EventKind::Start, u64::from(life.life), || {
                format!("life {}", life.life)
            });
        life
    }

    pub(super) fn record_fault(&mut self, fault: Fault) {
        let (now, text) = (self.now, fault.to_string());
        self.trace.record(
            now,
            NodeIndex(u32::MAX),
            EventKind::Fault,
            digest(&text),
            || text,
        );
        self.recorded.push(FaultEvent { at: now, fault });
    }
}

/// One life of one host: from its start to its crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: NodeIndex,
    pub(super) life: u32,
}

/// The address of a host: they are numbered in the order in which they were declared.
pub(super) fn address_of(node: NodeIndex) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(FIRST_ADDRESS + node.0))
}

/// The host that has the address.
pub(super) fn host_at(address: IpAddr, hosts: usize) -> Option<NodeIndex> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let node = address.to_bits().checked_sub(FIRST_ADDRESS)?;
    ((node as usize) < hosts).then_some(NodeIndex(node))
}

/// 192.168.0.1, where turmoil begins.
const FIRST_ADDRESS: u32 = 0xc0a8_0001;
