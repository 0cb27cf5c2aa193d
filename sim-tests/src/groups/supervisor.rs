//! Whoever looks after the hosts: a group that has stopped, because its disk has failed, goes on when the host is started
//! again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_sim::Control;
use smalti_sim::rng::{Streams, between};

use super::clients::Clients;
use super::rare;
use crate::cluster::{Findings, name};

/// How long a host may do as if nothing had happened when its disk has failed: a disk may be slow besides.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How long it takes at most until somebody starts a host again, and how long that takes.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
const DOWN_MAX: Duration = Duration::from_secs(5);

pub(super) struct Supervisor {
    hosts: usize,
    rng: ChaCha8Rng,
    /// Hosts that are to be stopped, and started again.
    stops: BTreeMap<usize, Duration>,
    starts: BTreeMap<usize, Duration>,
    is_majority_down: bool,
    /// Since when disks have failed of which nobody has said anything.
    silent: BTreeMap<usize, Duration>,
}

impl Supervisor {
    pub(super) fn new(hosts: usize, seed: u64) -> Self {
        Self {
            hosts,
            rng: Streams::new(seed).stream("supervisor"),
            stops: BTreeMap::new(),
            starts: BTreeMap::new(),
            is_majority_down: false,
            silent: BTreeMap::new(),
        }
    }

    /// Looks at all hosts. Asked at each step.
    ///
    /// # Errors
    /// Where the disk of one has failed, and it does not say so.
    pub(super) fn look(
        &mut self,
        control: &Control,
        clients: &Clients,
        findings: &Findings,
    ) -> Result<(), String> {
        let now = control.elapsed();
        let down = (0..self.hosts).filter(|host| !control.is_up(&name(*host)));
        let is_majority_down = down.count() * 2 > self.hosts;
        if is_majority_down && !std::mem::replace(&mut self.is_majority_down, is_majority_down) {
            findings.reach(rare::MAJORITY_DOWN);
        }
        self.is_majority_down = is_majority_down;
        for host in 0..self.hosts {
            let called = name(host);
            if self.starts.get(&host).is_some_and(|at| *at <= now) {
                self.starts.remove(&host);
                control.restart(&*called);
                findings.reach(rare::STARTED_AGAIN);
            }
            let has_stopped = clients.stopped(host).is_some() && control.is_up(&called);
            if has_stopped && !self.starts.contains_key(&host) {
                let after = between(&mut self.rng, Duration::ZERO, NOTICED_WITHIN);
                let at = *self.stops.entry(host).or_insert(now + after);
                if at <= now {
                    self.stops.remove(&host);
                    control.crash(&*called);
                    let down = between(&mut self.rng, Duration::ZERO, DOWN_MAX);
                    self.starts.insert(host, now + down);
                }
            } else {
                // It may have crashed in the meantime, and come back by itself.
                self.stops.remove(&host);
            }
            self.listen(host, now, control, clients)?;
        }
        Ok(())
    }

    /// A group whose disk has failed must say so.
    fn listen(
        &mut self,
        host: usize,
        now: Duration,
        control: &Control,
        clients: &Clients,
    ) -> Result<(), String> {
        let failures = control.disk_failures(&name(host));
        if failures == 0 || clients.stopped(host).is_some() {
            self.silent.remove(&host);
            return Ok(());
        }
        let since = *self.silent.entry(host).or_insert(now);
        if now > since + SILENT_MAX {
            return Err(format!(
                "the disk of host {host} has failed at {since:?}, and at {now:?} its group has not stopped"
            ));
        }
        Ok(())
    }
}
