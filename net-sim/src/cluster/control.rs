//! What a script may do to the run.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use super::state::Run;
use crate::NodeIndex;
use crate::faults::{Fault, LinkFaults};
use crate::time::SimTime;
use crate::trace::{EventKind, digest};

/// In the hands of a script: time passes, and faults strike when it says so. What it does happens at the
/// beginning of a step of the simulation, before any host runs.
///
/// Hosts are given by name, one or several: `"a"`, `["a", "b"]`. A name that no host has is a panic, which
/// fails the run.
#[derive(Clone)]
pub struct Control(pub(super) Run);

/// The names of one or several hosts.
pub trait HostNames {
    /// The names, one by one.
    fn into_names(self) -> Vec<String>;
}

impl HostNames for &str {
    fn into_names(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl HostNames for String {
    fn into_names(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>, const N: usize> HostNames for [T; N] {
    fn into_names(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: AsRef<str>> HostNames for &[T] {
    fn into_names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

impl<T: Into<String>> HostNames for Vec<T> {
    fn into_names(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl Control {
    /// How much time has passed since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.lock().now.since(SimTime::ZERO)
    }

    /// Completes once `duration` has passed.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        let (run, until) = (self.0.clone(), self.0.lock().now + duration);
        // The script is asked at every step.
        poll_fn(move |_| {
            if run.lock().now >= until {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }

    /// Completes once `holds` does, which is asked at every step.
    pub fn wait_until(&self, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
        poll_fn(move |_| {
            if holds() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
    }

    /// The hosts on both sides do not reach each other any more.
    pub fn partition(&self, left: impl HostNames, right: impl HostNames) {
        self.ask(Fault::Partition(self.nodes(left), self.nodes(right)));
    }

    /// Packets from the first to the second do not arrive any more; the other way they do.
    pub fn partition_oneway(&self, from: impl HostNames, to: impl HostNames) {
        self.ask(Fault::Cut(self.nodes(from), self.nodes(to)));
    }

    /// The hosts on both sides reach each other again.
    pub fn repair(&self, left: impl HostNames, right: impl HostNames) {
        self.ask(Fault::Repair(self.nodes(left), self.nodes(right)));
    }

    /// Packets from the first to the second arrive again.
    pub fn repair_oneway(&self, from: impl HostNames, to: impl HostNames) {
        self.ask(Fault::Mend(self.nodes(from), self.nodes(to)));
    }

    /// All hosts reach each other again.
    pub fn repair_all(&self) {
        self.ask(Fault::RepairAll);
    }

    /// The hosts lose all that is not on their disks, and nobody is told.
    pub fn crash(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Crash(node)));
    }

    /// The crashed hosts start again, and their applications from the beginning.
    pub fn restart(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Restart(node)));
    }

    /// The hosts stand still; their clocks run on.
    ///
    /// What stands still is the node and its application's main task. A task that the application has
    /// spawned by itself goes on until it waits for the node.
    pub fn pause(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Pause(node)));
    }

    /// The paused hosts go on.
    pub fn resume(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Resume(node)));
    }

    /// The clocks of the hosts run fast by parts per million from now on, or slow where negative.
    pub fn drift(&self, hosts: impl HostNames, ppm: i32) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Drift(node, ppm)));
    }

    /// The wall clocks of the hosts are set forward by microseconds, or back where negative.
    pub fn jump(&self, hosts: impl HostNames, micros: i64) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::Jump(node, micros)));
    }

    /// The network treats all packets so from now on.
    pub fn links(&self, links: LinkFaults) {
        self.ask(Fault::Links(links));
    }

    /// The network treats packets from the first to the second so from now on.
    pub fn path(&self, from: impl HostNames, to: impl HostNames, links: LinkFaults) {
        let to = self.nodes(to);
        for from in self.nodes(from) {
            to.iter()
                .for_each(|to| self.ask(Fault::Path(from, *to, links)));
        }
    }

    /// The next time that the disks of the hosts are to make something durable, they fail.
    pub fn fail_sync(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::FailSync(node)));
    }

    /// The next time that something is written to the disks of the hosts, they fail.
    pub fn fail_write(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::FailWrite(node)));
    }

    /// The disks of the hosts take so many times as long from now on; 1 is their own pace.
    pub fn slow_disk(&self, hosts: impl HostNames, times: u32) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::SlowDisk(node, times)));
    }

    /// The disks of the hosts are full.
    pub fn fill_disk(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::FillDisk(node)));
    }

    /// There is space on the disks of the hosts again.
    pub fn free_disk(&self, hosts: impl HostNames) {
        self.nodes(hosts)
            .into_iter()
            .for_each(|node| self.ask(Fault::FreeDisk(node)));
    }

    /// Lets any fault strike.
    pub fn strike(&self, fault: Fault) {
        self.ask(fault);
    }

    /// Whether the host is up: it was started, and has not crashed since.
    #[must_use]
    pub fn is_up(&self, host: &str) -> bool {
        let node = self.node(host);
        !self.0.lock().host(node).fenced
    }

    /// Whether the application of the host has ended, in its present life.
    #[must_use]
    pub fn has_finished(&self, host: &str) -> bool {
        let node = self.node(host);
        self.0.lock().host(node).finished
    }

    /// How often the disk of the host has failed in the host's present life, or been too full.
    #[must_use]
    pub fn disk_failures(&self, host: &str) -> u64 {
        let node = self.node(host);
        self.0.lock().host(node).disk.disk().failures()
    }

    /// How many writes of the host were lost with its crashes, over all of its lives: none that it was told to be durable.
    #[must_use]
    pub fn lost_writes(&self, host: &str) -> u64 {
        let node = self.node(host);
        self.0.lock().host(node).disk.lost_writes()
    }

    /// Writes `text` into the trace.
    pub fn note(&self, text: &str) {
        let mut state = self.0.lock();
        let now = state.now;
        let everywhere = NodeIndex(u32::MAX);
        state
            .trace
            .record(now, everywhere, EventKind::Note, digest(text), || {
                text.to_owned()
            });
    }

    fn ask(&self, fault: Fault) {
        self.0.lock().asked.push(fault);
    }

    fn nodes(&self, names: impl HostNames) -> Vec<NodeIndex> {
        names
            .into_names()
            .iter()
            .map(|name| self.node(name))
            .collect()
    }

    fn node(&self, name: &str) -> NodeIndex {
        let place = self
            .0
            .lock()
            .hosts
            .iter()
            .position(|host| &*host.name == name);
        let place = place.and_then(|place| u32::try_from(place).ok());
        NodeIndex(place.unwrap_or_else(|| panic!("no host is named {name:?}")))
    }
}
