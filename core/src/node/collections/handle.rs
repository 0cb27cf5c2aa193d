//! Readers and writers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::changes::Changes;
use super::config::CollectionConfig;
use super::error::{OpenError, WriteError};
use super::member::{Member, Shared};
use super::view::View;
use super::when::When;
use crate::id::StoreId;
use crate::node::Network;
use crate::node::events::Events;
use crate::node::groups::{
    CommandError, Consistency, Executed, Group, GroupEvent, GroupStatus, QueryError, Superseded,
};
use crate::node::watched::Edge;
use crate::protocol::collections::{
    Batch, Collection, Fingerprint, Frozen, Outcome, Results, SchemaConflict, Ticket,
};
use crate::protocol::raft::{LeadershipPreference, RestoreError, Version};

/// What a write gives: the version that it made, and what the operation gave.
pub type Written<C, R> = Result<Executed<R>, WriteError<C>>;

/// A collection on this node, to be read.
///
/// A reader has all of the collection and follows every write, but has no vote: readers cost writers nothing but their
/// bandwidth. Reads see what this node has applied, at once and without asking anybody; [`strong`](Self::strong) sees all
/// that was acknowledged anywhere.
///
/// A clone is the same reader. When the last clone is dropped the node leaves the collection.
pub struct Reader<C: Collection> {
    id: StoreId,
    group: Group<Member<C>>,
    shared: Arc<Shared<C>>,
}

/// A collection on this node, to be read and written. Reads are those of the [`Reader`] inside.
///
/// Writers vote: a majority of them, of five at most, must be up for anything to be written. Writes of one handle are made
/// in the order that [`Group::execute`] keeps, each exactly once, or fail by a [`WriteError`] that says whether
/// it can have been made. A write that has returned is committed, and seen by reads on this node.
///
/// Each write is one entry for the group to agree on, so one of many elements is far cheaper than many of one; several
/// operations go into one [`Batch`]. Writes that wait at the same time share what can be shared.
pub struct Writer<C: Collection> {
    reader: Reader<C>,
    /// What the element types are.
    schema: Fingerprint,
}

impl<C: Collection> Reader<C> {
    pub(super) async fn open(
        network: &Network,
        id: StoreId,
        config: CollectionConfig,
        preference: LeadershipPreference,
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new());
        let groups = network.groups();
        let mut group = groups.with_key(config.key(C::KIND, id));
        if let Some(secret) = config.write_secret {
            group = group.with_write_key(secret);
        }
        if let Some(verifier) = config.write_verifier {
            group = group.with_write_verifier(verifier);
        }
        let joined = group
            .with_state_machine(Member::new(shared.clone(), preference))
            .with_consensus_config(config.consensus)
            .with_storage(config.storage)
            .with_command_timeout(config.command_timeout)
            .join()
            .await;
        match joined {
            Ok(group) => Ok(Self { id, group, shared }),
            Err(error) => Err(match shared.conflict.get() {
                Some(conflict) => OpenError::Schema(*conflict),
                None => OpenError::Join(error),
            }),
        }
    }

    /// The collection's id.
    #[must_use]
    pub const fn id(&self) -> StoreId {
        self.id
    }

    /// The contents as this node has them now, which are never older than what [`strong`](Self::strong) has given here
    /// before. O(1), beside waiting until writes that are being applied on this node have
    /// been, where nobody has looked since those before them.
    #[must_use]
    pub fn view(&self) -> View<C> {
        self.shared.showcase.view()
    }

    /// The version of the contents that this node has now. O(1).
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.shared.showcase.version()
    }

    /// The contents with all that was acknowledged anywhere before this began (linearizable). O(1) beside one round
    /// trip at the leader, two elsewhere. Cancellation safe.
    ///
    /// # Errors
    /// [`QueryError`], where no majority of the writers can be reached in time.
    pub async fn strong(&self) -> Result<View<C>, QueryError> {
        let queried = self.group.query((), Consistency::Strong).await?;
        Ok(queried.result.at(queried.version))
    }

    /// Conditions to wait for.
    #[must_use]
    pub fn when(&self) -> When<C> {
        When::new(&self.group, self.shared.showcase.shown().clone())
    }

    /// Waits until this node has caught up with the collection: until reads see all that was acknowledged anywhere before
    /// this began. Takes a majority of the writers, and two round trips beside what there is to catch up with.
    /// Cancellation safe.
    ///
    /// # Errors
    /// Where that will never be: the collection holds other element types, or has stopped on this node.
    pub async fn online(&self) -> Result<(), OpenError> {
        let why = loop {
            let mut edge = Edge::new(self.group.watched().clone());
            std::future::poll_fn(|cx| {
                edge.poll(cx, |status| status.is_online || status.stopped.is_some())
            })
            .await;
            if let Some(why) = self.status().stopped {
                break why;
            }
            // The leader that is followed may have been deposed long ago, without knowing. A majority knows.
            if self.strong().await.is_ok() {
                return Ok(());
            }
        };
        // Whoever is told may open it again.
        self.group.ended().await;
        Err(match self.shared.conflict.get() {
            Some(conflict) => OpenError::Schema(*conflict),
            None => OpenError::Stopped(why),
        })
    }

    /// The changes above `since`, one after the other; above the beginning where it is `None`.
    ///
    /// Each node keeps the latest 16,384 changes that it has applied, and no more than 16 MiB of them. Where changes that
    /// are asked for are gone, or this node never had them because it was given a snapshot, or they lie in another
    /// [life](crate::groups::GroupEvent::Reformed) of the collection than what was told before, [`Lagged`](super::Lagged) brings
    /// the whole contents in their place. O(log n) to find the first change, and for each to be told.
    pub fn changes(&self, since: impl Into<Option<Version>>) -> Changes<C> {
        let status = self.group.watched().clone();
        Changes::new(self.shared.clone(), status, since.into())
    }

    /// Where this node stands in the collection's group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        self.group.status()
    }

    /// What happens to the collection's group on this node from now on.
    #[must_use]
    pub fn events(&self) -> Events<GroupEvent> {
        self.group.events()
    }

    /// The contents that were given up when two foundings of this collection met. See [`GroupEvent::Superseded`]. O(n log n).
    ///
    /// # Errors
    /// Where it is of another collection.
    pub fn given_up(&self, superseded: &Superseded) -> Result<C, RestoreError> {
        let frozen = superseded.state::<Frozen<C>>()?;
        Ok(frozen.into_contents())
    }

    /// Leaves the collection for good: what is stored of it on this node is removed. All handles are of no use from then
    /// on. Takes as long as [`Group::leave`]. Cancellation safe.
    pub async fn leave(&self) {
        self.group.leave().await;
    }
}

impl<C: Collection> Writer<C> {
    pub(super) async fn open(
        network: &Network,
        id: StoreId,
        config: CollectionConfig,
    ) -> Result<Self, OpenError> {
        if config.write_secret.is_none() && config.write_verifier.is_some() {
            return Err(OpenError::ReadOnly);
        }
        let reader = Reader::open(network, id, config, LeadershipPreference::Normal).await?;
        let schema = C::fingerprint();
        Ok(Self { reader, schema })
    }

    /// A reader of the same collection on this node.
    #[must_use]
    pub fn reader(&self) -> Reader<C> {
        self.reader.clone()
    }

    /// Waits until this node has caught up with the collection, as [`Reader::online`] says, and the collection is known to
    /// hold these element types. Cancellation safe.
    ///
    /// # Errors
    /// Where that will never be: the collection holds other element types, or has stopped on this node.
    pub async fn online(&self) -> Result<(), OpenError> {
        loop {
            self.reader.online().await?;
            if self.view().schema().is_some() {
                return Ok(());
            }
            // The first command settles the types. Whatever becomes of it, the next look tells.
            let settled = self.commit(Batch::new()).await;
            if let Err(WriteError::Schema(conflict)) = settled {
                return Err(OpenError::Schema(conflict));
            }
        }
    }

    /// A batch of operations, without any yet, for [`commit`](Self::commit).
    #[must_use]
    pub fn batch(&self) -> Batch<C> {
        Batch::new()
    }

    /// Makes all operations of a batch as one: all or none, with nothing of others between, seen by nobody in part. Costs on
    /// each member what its operations cost one by one, and one entry of the log.
    ///
    /// Where it is dropped before it ends, it may still be made. Waits as long as [`Group::execute`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn commit(&self, batch: Batch<C>) -> Written<C, Results> {
        if let Some(error) = batch.error() {
            let error = error.clone();
            let command = batch;
            return Err(CommandError::Unencodable { command, error }.into());
        }
        let command = batch.into_command(self.schema);
        let again = command.clone();
        let executed = self.reader.group.execute(command).await;
        let Executed { version, output } =
            executed.map_err(|error| error.map(Batch::of_command))?;
        match output {
            Outcome::Applied(replies) => Ok(Executed {
                version,
                output: Results::new(replies),
            }),
            Outcome::OutOfBounds(error) => Err(WriteError::OutOfBounds(error)),
            Outcome::Foreign(theirs) => {
                let ours = self.schema;
                Err(WriteError::Schema(SchemaConflict { ours, theirs }))
            }
            Outcome::ResultsTooLong => Err(WriteError::ResultsTooLong),
            Outcome::Malformed => {
                let batch = Batch::of_command(again);
                Err(CommandError::Refused(batch).into())
            }
        }
    }

    /// Commits a batch of one operation.
    pub(super) async fn commit_one<R: DeserializeOwned>(
        &self,
        batch: Batch<C>,
        ticket: Ticket<R>,
    ) -> Written<C, R> {
        let Executed { version, output } = self.commit(batch).await?;
        let result = output.get(&ticket);
        let output = result.map_err(CommandError::Undecodable)?;
        Ok(Executed { version, output })
    }
}

impl<C: Collection> Deref for Writer<C> {
    type Target = Reader<C>;

    fn deref(&self) -> &Reader<C> {
        &self.reader
    }
}

impl<C: Collection> Clone for Reader<C> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            group: self.group.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<C: Collection> Clone for Writer<C> {
    fn clone(&self) -> Self {
        Self {
            reader: self.reader.clone(),
            schema: self.schema,
        }
    }
}

impl<C: Collection> fmt::Debug for Reader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Reader", self, f)
    }
}

impl<C: Collection> fmt::Debug for Writer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Writer", self, f)
    }
}

fn show<C: Collection>(name: &str, reader: &Reader<C>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.debug_struct(name)
        .field("kind", &C::KIND)
        .field("id", &reader.id)
        .finish_non_exhaustive()
}
