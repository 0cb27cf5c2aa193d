//! How a group is joined.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::error::JoinError;
use super::handle::{BUDGET, Group, Inner};
use super::inbox::{Event, Mailbox, MessageBytes};
use super::machine::{Adapter, NoOp, Snapshot, StateMachine};
use super::passages::Passages;
use super::registry::Groups;
use super::view::GroupStatus;
use super::worker::{Parts, Worker};
use crate::id::{GroupId, UniqueId};
use crate::node::events::BACKLOG;
use crate::node::store::GroupStore;
use crate::node::watched::Watched;
use crate::protocol::groups::{GroupKey, Terms, WriteAccess, WriteKey, WriteVerifier};
use crate::protocol::raft::{Config, Identity, Raft, Recovered, StorageClass};
use crate::time::Duration;
use crate::unique_id;

/// Names the ways in which members catch up: entries from the log, snapshots in chunks.
const SYNC: UniqueId = unique_id!("smalti log and snapshots 1");

/// The same where snapshots may be put together from several members.
const SYNC_CANONICAL: UniqueId = unique_id!("smalti log and canonical snapshots 1");

/// Time that a command is tried for before it is given up, unless another is set.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a group keeps what it must not forget. All members use the same kind: it is part of the group's id.
///
/// There is no store to be written for it: what has to be on disk before what is part of consensus, so the node keeps the log
/// itself, in either kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In memory: a node that starts again is another member, and a group whose nodes all stop is gone. Default.
    #[default]
    InMemory,
    /// In the node's [data directory](crate::NetworkBuilder::with_data_dir): whatever was acknowledged survives a
    /// restart of all nodes.
    Durable,
}

/// Joins a group. What is not set keeps its default.
#[must_use = "nothing is joined before `join` is awaited"]
pub struct GroupBuilder<M: StateMachine> {
    groups: Groups,
    key: GroupKey,
    write_key: Option<WriteKey>,
    write_verifier: Option<WriteVerifier>,
    machine: M,
    config: Config,
    storage: Storage,
    command_timeout: Duration,
}

impl GroupBuilder<NoOp> {
    pub(super) fn new(groups: Groups, key: GroupKey) -> Self {
        Self {
            groups,
            key,
            write_key: None,
            write_verifier: None,
            machine: NoOp::default(),
            config: Config::default(),
            storage: Storage::InMemory,
            command_timeout: COMMAND_TIMEOUT,
        }
    }
}

impl<M: StateMachine> GroupBuilder<M> {
    /// What the group replicates, in the state before any command. Default: [`NoOp`].
    pub fn with_state_machine<N: StateMachine>(self, machine: N) -> GroupBuilder<N> {
        GroupBuilder {
            groups: self.groups,
            key: self.key,
            write_key: self.write_key,
            write_verifier: self.write_verifier,
            machine,
            config: self.config,
            storage: self.storage,
            command_timeout: self.command_timeout,
        }
    }

    /// Lets only those write to the group who know this key, as this node does. Nobody else executes commands, votes,
    /// leads, or founds the group, and members take its history from nobody else; whoever knows the group's key alone
    /// [reads](Self::with_write_verifier). All members must give the key or its verifier: those that differ are in different
    /// groups, and do not meet. Default: whoever knows the group's key may write.
    ///
    /// ```no_run
    /// # async fn example(network: smalti_core::Network) -> Result<(), smalti_core::groups::JoinError> {
    /// use smalti_core::groups::{GroupKey, WriteKey};
    ///
    /// let (key, write_key) = (GroupKey::new("all of us"), WriteKey::new("a few of us"));
    /// // Members that may only read are told this.
    /// let verifier = write_key.verifier();
    /// let group = network.groups().with_key(key).with_write_key(write_key).join().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_write_key(mut self, key: WriteKey) -> Self {
        self.write_key = Some(key);
        self
    }

    /// Joins a group to which only those [write](Self::with_write_key) who know the key of this verifier. Without that key
    /// this node observes: it follows all that is committed and can be queried, and a command fails by
    /// [`ReadOnly`](super::CommandError::ReadOnly). Default: whoever knows the group's key may write.
    pub fn with_write_verifier(mut self, verifier: WriteVerifier) -> Self {
        self.write_verifier = Some(verifier);
        self
    }

    /// Where the group keeps what it must not forget. Default: in memory.
    pub fn with_storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// How consensus is run; [`storage`](Config::storage) is set by [`with_storage`](Self::with_storage) alone. All
    /// members must give the same. Default: [`Config::default`].
    pub fn with_consensus_config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How long this node tries to have a command executed before it gives it up. After as long again a command whose
    /// fate is still not known is reported as [`Unknown`](super::CommandError::Unknown). Default: 30 s.
    pub fn with_command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Joins the group, as far as this node is concerned: it announces itself, bonds with the others, and founds the
    /// group or becomes a member of it in the background. [`When::online`](super::When::online) tells.
    ///
    /// Where it is dropped before it ends, nothing is joined.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(mut self) -> Result<Group<M>, JoinError> {
        self.config.storage = match self.storage {
            Storage::InMemory => StorageClass::Volatile,
            Storage::Durable => StorageClass::Durable,
        };
        self.config.validate()?;
        let access = WriteAccess::new(self.write_key.take(), self.write_verifier)?;
        let may_write = access.may_write();
        if self.groups.shutdown().is_cancelled() {
            return Err(JoinError::ShuttingDown);
        }
        let terms = Terms {
            consensus: self.config.clone(),
            machine: self.machine.signature(),
            sync: if M::Snapshot::CANONICAL {
                SYNC_CANONICAL
            } else {
                SYNC
            },
            ticket_validators: BTreeSet::new(),
            write_verifier: access.verifier(),
        };
        let group = terms.group_id(&self.key);

        let (events, queue) = mpsc::unbounded_channel();
        let queued = Arc::new(MessageBytes::default());
        let (ended_sender, ended) = watch::channel(false);
        let surround = events.clone();
        let is_new = self
            .groups
            .enter(group, ended.clone(), move |surroundings| {
                // Fails only where the worker has ended, whom nothing concerns any more.
                let _ = surround.send(Event::Surroundings(surroundings));
            });
        if !is_new {
            return Err(JoinError::AlreadyJoined(group));
        }
        let entered = Arc::new(Entered {
            groups: self.groups.clone(),
            group,
            ended: ended_sender,
        });
        let mailbox = Arc::new(Mailbox::new(events.clone(), queued.clone()));
        let (store, recovered) = self.open_store(group, mailbox.clone()).await?;
        let incarnation = recovered
            .as_ref()
            .and_then(|recovered| recovered.hard_state.incarnation);
        let identity = Identity {
            group,
            peer: self.groups.0.local,
            preference: self.machine.leadership_preference(),
        };
        let tasks = self.groups.0.tasks.clone();
        let machine = Raft::new(
            tasks.runtime().now(),
            identity,
            self.config.clone(),
            recovered,
            Adapter::new(self.machine),
            self.groups.rng(),
        )
        .map_err(|error| JoinError::Restore {
            group,
            why: error.0,
        })?;
        let machine = if may_write {
            machine
        } else {
            machine.reading_only()
        };

        let status = Arc::new(Watched::new(GroupStatus::new()));
        let (notices, _) = broadcast::channel(BACKLOG);
        let passages = Arc::new(Passages::default());
        let budget = Arc::new(Semaphore::new(BUDGET));
        let incarnation = incarnation.filter(|_| may_write);
        let (announced, to_announce) = watch::channel(incarnation);
        let (first, was_announced) = oneshot::channel();
        let announcing = self.groups.clone().announce(group, to_announce, first);
        // The node may join the group again once it has said that it is in it no longer: what it says next would be taken back
        // else.
        let until_announced = entered.clone();
        tasks.spawn("announce group", async move {
            announcing.await;
            drop(until_announced);
        });
        was_announced.await.map_err(|_| JoinError::ShuttingDown)??;
        let closing = self.groups.shutdown().child_token();
        let switchboard = self.groups.0.switchboard.clone();
        switchboard.join(group, self.key, access, mailbox);
        let worker = Worker::new(Parts {
            group,
            tasks: tasks.clone(),
            machine,
            events: queue,
            queued,
            switchboard: switchboard.clone(),
            store,
            status: status.clone(),
            notices: notices.clone(),
            passages: passages.clone(),
            budget: budget.clone(),
            may_write,
            announced,
            closing: closing.clone(),
            departure_window: self.groups.0.departure_window,
            command_timeout: self.command_timeout,
        });
        tasks.spawn("group", async move {
            if let Some(store) = worker.run().await
                && let Err(error) = store.forget().await
            {
                tracing::error!(group = %group.short(), %error, "what a group has stored cannot be removed");
            }
            drop(entered);
        });
        Ok(Group::new(Inner {
            id: group,
            config: self.config,
            events,
            status,
            budget,
            notices,
            passages,
            switchboard,
            closing,
            ended,
        }))
    }

    async fn open_store(
        &self,
        group: GroupId,
        mailbox: Arc<Mailbox<M>>,
    ) -> Result<(Option<GroupStore>, Option<Recovered>), JoinError> {
        if self.storage == Storage::InMemory {
            return Ok((None, None));
        }
        let store = self.groups.0.store.as_ref().ok_or(JoinError::NoDataDir)?;
        let done = Box::new(move |result| mailbox.stored(result));
        match store.open(group, done).await {
            Ok((store, recovered)) => Ok((Some(store), recovered)),
            Err(error) => Err(JoinError::Storage { group, error }),
        }
    }
}

/// Notes that the node is in the group for as long as a share of it exists.
struct Entered {
    groups: Groups,
    group: GroupId,
    ended: watch::Sender<bool>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.groups.exit(self.group);
        self.ended.send_replace(true);
    }
}
