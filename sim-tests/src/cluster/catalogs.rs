//! The catalogs of all hosts, seen from outside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::Network;
use smalti_core::discovery::{Catalog, CatalogWatch};
use smalti_core::id::{Instance, PeerId};
use smalti_core::time::WallTime;
use smalti_sim::time::EPOCH;
use smalti_sim::{AppResult, Control};
use tokio::sync::Notify;

use super::{Findings, name};

pub(super) const LEARNT_LATE: &str = "a departure was missed and learnt later";
pub(super) const GIVEN_UP: &str = "a live peer was given up";
pub(super) const BACK: &str = "a peer came back after it was given up";

/// How long a departure takes to reach everybody where nothing hinders it.
const DEPARTURE_SPREADS_WITHIN: Duration = Duration::from_secs(5);

/// How far the clocks of hosts are off, at most.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(4);

/// The catalogs of all hosts that are up. A clone is the same.
#[derive(Clone)]
pub(super) struct Catalogs(Rc<RefCell<State>>);

struct State {
    purge_after: Duration,
    hosts: Vec<Host>,
    /// The runs that have left, and when that was noticed.
    left: BTreeMap<Instance, Duration>,
    /// For each run of a node, what it has shown of each peer.
    shown: BTreeMap<(Instance, PeerId), Shown>,
}

/// A host in its present life.
#[derive(Default)]
struct Host {
    /// `None` where its node is not there: it is down, has left, or has not got so far.
    node: Option<Node>,
    /// Whether it was told to leave.
    leaving: bool,
    /// Its run that has left, until that is noticed.
    has_left: Option<Instance>,
}

struct Node {
    catalog: CatalogWatch,
    leave: Rc<Notify>,
}

/// Takes the node off the list when the application ends, be it by a crash.
struct Listed {
    catalogs: Catalogs,
    host: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.catalogs.0.borrow_mut().hosts[self.host].node = None;
    }
}

struct Shown {
    instance: Instance,
    /// When the entry was made, by the peer's clock.
    made: WallTime,
    gone: Gone,
}

/// Whether a peer is not shown any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    No,
    /// It was given up, or may have been: it was not heard of for long.
    GivenUp,
    /// It was heard of so lately that only its departure can have taken it away.
    Departed,
}

impl Catalogs {
    /// Of so many hosts, which give a peer up that they have not heard of for `purge_after`.
    pub(super) fn new(hosts: usize, purge_after: Duration) -> Self {
        Self(Rc::new(RefCell::new(State {
            purge_after,
            hosts: (0..hosts).map(|_| Host::default()).collect(),
            left: BTreeMap::new(),
            shown: BTreeMap::new(),
        })))
    }

    /// The application of `host`: it leaves when it is told to.
    pub(super) async fn stay(self, host: usize, network: Network) -> AppResult {
        let leave = Rc::new(Notify::new());
        let node = Node {
            catalog: network.discovery().catalog_watch(),
            leave: leave.clone(),
        };
        let present = Host {
            node: Some(node),
            ..Host::default()
        };
        self.0.borrow_mut().hosts[host] = present;
        let listed = Listed {
            catalogs: self.clone(),
            host,
        };
        leave.notified().await;
        let instance = *network.discovery().me().instance();
        network.shutdown().await;
        drop(listed);
        self.0.borrow_mut().hosts[host].has_left = Some(instance);
        Ok(())
    }

    /// Lets `host` leave, if it is there. Gives whether it was.
    pub(super) fn leave(&self, host: usize) -> bool {
        let host = &mut self.0.borrow_mut().hosts[host];
        let Some(node) = &host.node else {
            return false;
        };
        node.leave.notify_one();
        host.leaving = true;
        true
    }

    /// The catalogs of the hosts that take part.
    fn live(&self) -> Vec<(usize, Catalog)> {
        let state = self.0.borrow();
        let numbered = state.hosts.iter().enumerate();
        let live = numbered.filter(|(_, host)| !host.leaving);
        live.filter_map(|(number, host)| Some((number, host.node.as_ref()?.catalog.current())))
            .collect()
    }

    /// Why not all hosts are either down, or have left, or have a node that stays; `Ok` where it is
    /// so.
    fn all_settled(&self, control: &Control) -> Result<(), String> {
        let state = self.0.borrow();
        for (number, host) in state.hosts.iter().enumerate() {
            let name = name(number);
            if host.leaving && host.node.is_some() {
                return Err(format!("{name} has been told to leave and has not left"));
            }
            if control.is_up(&name) && !control.has_finished(&name) && host.node.is_none() {
                return Err(format!("{name} has just started"));
            }
        }
        Ok(())
    }

    /// How many hosts take part.
    pub(super) fn live_count(&self) -> usize {
        self.live().len()
    }

    /// Why not every catalog names the hosts that take part and no others, each by its present run;
    /// `Ok` where it is so.
    pub(super) fn agreement(&self, control: &Control) -> Result<(), String> {
        self.all_settled(control)?;
        let live = self.live();
        let mut expected: Vec<(PeerId, Instance)> = live
            .iter()
            .filter_map(|(_, catalog)| catalog.local())
            .map(|own| (*own.id(), *own.instance()))
            .collect();
        expected.sort_unstable();
        for (host, catalog) in &live {
            let known = catalog.iter().map(|entry| (*entry.id(), *entry.instance()));
            let known: Vec<_> = known.collect();
            if known != expected {
                let lacks = expected.iter().filter(|peer| !known.contains(peer)).count();
                let surplus = known.iter().filter(|peer| !expected.contains(peer)).count();
                let host = name(*host);
                return Err(format!(
                    "{host} lacks {lacks} of {} live hosts and has {surplus} that are gone",
                    expected.len()
                ));
            }
        }
        Ok(())
    }

    /// Looks at all catalogs: nobody who has left may be in one again after it was gone from there.
    pub(super) fn look(&self, control: &Control, findings: &Findings) -> Result<(), String> {
        let now = control.elapsed();
        let live = self.live();
        let running: Vec<Instance> = live
            .iter()
            .filter_map(|(_, catalog)| own_instance(catalog))
            .collect();
        let mut state = self.0.borrow_mut();
        let State {
            purge_after,
            hosts,
            left,
            shown,
        } = &mut *state;
        let leavers = hosts.iter_mut().filter_map(|host| host.has_left.take());
        left.extend(leavers.map(|instance| (instance, now)));
        for (host, catalog) in &live {
            let Some(observer) = own_instance(catalog) else {
                continue;
            };
            for entry in catalog.peers() {
                let instance = *entry.instance();
                let present = Shown {
                    instance,
                    made: entry.updated_at(),
                    gone: Gone::No,
                };
                let before = shown.insert((observer, *entry.id()), present);
                match before.filter(|before| before.instance == instance) {
                    Some(before) if before.gone == Gone::Departed => {
                        let (host, id) = (name(*host), entry.id());
                        return Err(format!("{host} has {id} again, which it knew had left"));
                    }
                    Some(before) if before.gone == Gone::GivenUp => findings.reach(BACK),
                    Some(_) | None => {}
                }
            }
            let of_observer = (observer, PeerId::from_bytes([0; 32]))
                ..=(observer, PeerId::from_bytes([0xff; 32]));
            for ((_, peer), shown) in shown.range_mut(of_observer) {
                if shown.gone != Gone::No || catalog.get(peer).is_some() {
                    continue;
                }
                let age = (EPOCH + now).since(shown.made);
                shown.gone = if age + CLOCKS_DIFFER_BY < *purge_after {
                    Gone::Departed
                } else {
                    Gone::GivenUp
                };
                match left.get(&shown.instance) {
                    Some(left) if now - *left > DEPARTURE_SPREADS_WITHIN => {
                        findings.reach(LEARNT_LATE);
                    }
                    None if running.contains(&shown.instance) => findings.reach(GIVEN_UP),
                    Some(_) | None => {}
                }
            }
        }
        Ok(())
    }
}

fn own_instance(catalog: &Catalog) -> Option<Instance> {
    catalog.local().map(|own| *own.instance())
}
