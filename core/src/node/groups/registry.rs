//! The groups of a node: who is in which, what the catalog says of them, and how they end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::builder::GroupBuilder;
use super::inbox::Surroundings;
use super::links;
use super::machine::NoOp;
use super::switchboard::Switchboard;
use crate::id::{GroupId, PeerId};
use crate::node::connections::{Connections, Listener};
use crate::node::discovery::{self, Discovery};
use crate::node::store::Store;
use crate::node::tasks::Tasks;
use crate::protocol::bonds;
use crate::protocol::discovery::{Catalog, GroupInfo, LocalChange};
use crate::protocol::groups::GroupKey;
use crate::protocol::raft::Incarnation;
use crate::time::Duration;

/// The groups of a node. A clone is the same node's.
#[derive(Clone)]
pub struct Groups(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) tasks: Tasks,
    pub(super) local: PeerId,
    pub(super) discovery: Discovery,
    pub(super) switchboard: Switchboard,
    pub(super) store: Option<Store>,
    pub(super) departure_window: Duration,
    bootstrap: Vec<PeerId>,
    members: Mutex<BTreeMap<GroupId, Membership>>,
    /// Told when a group was added.
    added: Notify,
    shutdown: CancellationToken,
}

/// A group that the node is in.
struct Membership {
    /// Tells its worker what the catalog says, where that is something new.
    surround: Box<dyn Fn(Surroundings) + Send>,
    known: Option<Surroundings>,
    ended: watch::Receiver<bool>,
}

/// What the groups of a node rest on.
pub(crate) struct Foundation<'a> {
    pub(crate) tasks: &'a Tasks,
    pub(crate) local: PeerId,
    pub(crate) connections: &'a Connections,
    pub(crate) discovery: &'a Discovery,
    pub(crate) listener: Listener<links::Groups>,
    pub(crate) store: Option<Store>,
    pub(crate) bootstrap: Vec<PeerId>,
    pub(crate) departure_window: Duration,
    pub(crate) bonds: bonds::Config,
}

/// Starts to keep bonds. The node is in no group yet.
pub(crate) fn start(foundation: Foundation<'_>) -> Groups {
    let tasks = foundation.tasks.child();
    let switchboard = Switchboard::start(
        &tasks,
        foundation.connections,
        foundation.discovery,
        foundation.listener,
        foundation.bonds,
    );
    let groups = Groups(Arc::new(Shared {
        tasks: tasks.clone(),
        local: foundation.local,
        discovery: foundation.discovery.clone(),
        switchboard,
        store: foundation.store,
        departure_window: foundation.departure_window,
        bootstrap: foundation.bootstrap,
        members: Mutex::default(),
        added: Notify::new(),
        shutdown: CancellationToken::new(),
    }));
    tasks.spawn("surroundings of groups", groups.clone().look_around());
    groups
}

impl Groups {
    /// Prepares to join the group of those who know `key` and agree on all else: the configuration of consensus, the
    /// state machine, the kind of storage.
    pub fn with_key(&self, key: impl Into<GroupKey>) -> GroupBuilder<NoOp> {
        GroupBuilder::new(self.clone(), key.into())
    }

    /// The groups that this node is in, in ascending order.
    #[must_use]
    pub fn joined(&self) -> Vec<GroupId> {
        self.members().keys().copied().collect()
    }

    /// How often peers have broken the protocol of bonds since the node's start.
    pub(crate) fn violations(&self) -> u64 {
        self.0.switchboard.stats().violations
    }

    pub(super) fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.0.tasks.runtime().seed("group"))
    }

    /// What ends when the node shuts down.
    pub(super) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// Notes that the node is in a group, unless it is already.
    pub(super) fn enter(
        &self,
        group: GroupId,
        ended: watch::Receiver<bool>,
        surround: impl Fn(Surroundings) + Send + 'static,
    ) -> bool {
        let mut members = self.members();
        if members.contains_key(&group) {
            return false;
        }
        let membership = Membership {
            surround: Box::new(surround),
            known: None,
            ended,
        };
        members.insert(group, membership);
        drop(members);
        self.0.added.notify_one();
        true
    }

    pub(super) fn exit(&self, group: GroupId) {
        self.members().remove(&group);
    }

    /// Announces which life of the group the node belongs to, until there is nobody left who could change it; then that
    /// the node is in the group no longer. `first` is told how the first announcement went; nothing more is announced
    /// where that failed.
    pub(super) async fn announce(
        self,
        group: GroupId,
        mut incarnation: watch::Receiver<Option<Incarnation>>,
        first: oneshot::Sender<Result<(), discovery::Error>>,
    ) {
        let mut first = Some(first);
        loop {
            let known = incarnation.borrow_and_update().map(|it| it.0);
            let info = GroupInfo { incarnation: known };
            let change = LocalChange::SetGroup(group, info);
            let result = self.0.discovery.change(change).await;
            let failed = result.is_err();
            match first.take() {
                // Nobody listens where the join was given up; the sender of lives is gone then as well.
                Some(first) => {
                    let _ = first.send(result);
                    if failed {
                        return;
                    }
                }
                None => {
                    if let Err(error) = result {
                        tracing::warn!(group = %group.short(), %error, "a group cannot be announced");
                    }
                }
            }
            if incarnation.changed().await.is_err() {
                break;
            }
        }
        // Fails only where the node has left the network.
        let _ = self
            .0
            .discovery
            .change(LocalChange::RemoveGroup(group))
            .await;
    }

    /// Ends all groups, and then all bonds. Takes as long as the slowest departure does.
    pub(crate) async fn shut_down(&self) {
        self.0.shutdown.cancel();
        let ended: Vec<_> = self.members().values().map(|it| it.ended.clone()).collect();
        for mut ended in ended {
            // An error means that the worker is gone.
            let _ = ended.wait_for(|ended| *ended).await;
        }
        self.0.switchboard.close().await;
    }

    /// Tells groups what the catalog says of them, whenever that changes.
    async fn look_around(self) {
        let mut watch = self.0.discovery.catalog_watch();
        loop {
            self.tell(&watch.current());
            crate::select! {
                // Fails only where the node shuts down.
                changed = watch.changed() => if changed.is_err() { return },
                () = self.0.added.notified() => {},
            }
        }
    }

    fn tell(&self, catalog: &Catalog) {
        let bootstrap = self.0.bootstrap.iter();
        let awaits_bootstrap = bootstrap
            .filter(|peer| **peer != self.0.local)
            .any(|peer| catalog.get(peer).is_none());
        let mut members = self.members();
        let mut found: BTreeMap<GroupId, Surroundings> = BTreeMap::new();
        // Who is in the catalog is in few groups; this node may be in many.
        for entry in catalog.peers() {
            for (group, info) in entry.groups() {
                if members.contains_key(group) {
                    let surroundings = found.entry(*group).or_default();
                    let incarnation = info.incarnation.map(Incarnation);
                    surroundings.members.insert(*entry.id(), incarnation);
                }
            }
        }
        for (group, membership) in &mut *members {
            let mut surroundings = found.remove(group).unwrap_or_default();
            surroundings.awaits_bootstrap = awaits_bootstrap;
            if membership.known.as_ref() != Some(&surroundings) {
                (membership.surround)(surroundings.clone());
                membership.known = Some(surroundings);
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<GroupId, Membership>> {
        // Every change is whole when the lock is released, also by a panic.
        let members = self.0.members.lock();
        members.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups")
            .field("joined", &self.joined())
            .finish_non_exhaustive()
    }
}
