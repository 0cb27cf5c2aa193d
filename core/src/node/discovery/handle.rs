//! The public handle of discovery.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::worker::Event as WorkerEvent;
use crate::id::{PeerId, Tag};
use crate::node::tasks::Tasks;
use crate::protocol::discovery::{
    Catalog, Command, EntryError, Event, LocalChange, OneOrMany, PeerAddr, PeerEntry, RequestError,
    SignedPeerEntry, VerifiedEntry,
};

/// Finds the peers of a node. A clone is the same discovery.
#[derive(Clone)]
pub struct Discovery {
    local: PeerId,
    tasks: Tasks,
    requests: mpsc::Sender<WorkerEvent>,
    catalog: watch::Receiver<Catalog>,
    notices: broadcast::Sender<Event>,
}

/// Discovery cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was refused. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// The entry is not signed by its peer, or is out of bounds. Nothing has changed.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl Discovery {
    pub(super) const fn new(
        local: PeerId,
        tasks: Tasks,
        requests: mpsc::Sender<WorkerEvent>,
        catalog: watch::Receiver<Catalog>,
        notices: broadcast::Sender<Event>,
    ) -> Self {
        Self {
            local,
            tasks,
            requests,
            catalog,
            notices,
        }
    }

    /// What is known now: a snapshot that costs the same however large it is.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.catalog.borrow().clone()
    }

    /// Watches the catalog.
    #[must_use]
    pub fn catalog_watch(&self) -> CatalogWatch {
        CatalogWatch(self.catalog.clone())
    }

    /// What becomes known of peers from now on. See
    /// [`events_backlog`](crate::discovery::ConfigBuilder::with_events_backlog).
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.notices.subscribe())
    }

    /// What this node says of itself.
    #[must_use]
    pub fn me(&self) -> Arc<PeerEntry> {
        let catalog = self.catalog.borrow();
        let entry = catalog
            .local()
            .expect("the machine's own entry is in its catalog from the start");
        entry.entry().clone()
    }

    /// Joins the network through these peers too. Completes at once; the dialling goes on by itself.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn dial<M>(&self, peers: impl OneOrMany<PeerAddr, M>) -> Result<(), Error> {
        let mut list = Vec::new();
        peers.append_to(&mut list);
        self.request(Command::Dial(list)).await
    }

    /// Exchanges catalogs with `peer`. When it completes, both have what the other had.
    ///
    /// # Errors
    /// [`Error`] where the peer cannot be reached or leaves off. What had come by then is kept.
    pub async fn sync_with(&self, peer: impl Into<PeerAddr>) -> Result<(), Error> {
        self.request(Command::SyncWith(peer.into())).await
    }

    /// Adds tags to what this node says of itself, and announces it at once.
    ///
    /// # Errors
    /// [`Error::Refused`] where there are too many.
    pub async fn add_tags<M>(&self, tags: impl OneOrMany<Tag, M>) -> Result<(), Error> {
        let mut list = Vec::new();
        tags.append_to(&mut list);
        self.change(LocalChange::AddTags(list)).await
    }

    /// Removes tags from what this node says of itself, and announces it at once.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn remove_tags<M>(&self, tags: impl OneOrMany<Tag, M>) -> Result<(), Error> {
        let mut list = Vec::new();
        tags.append_to(&mut list);
        self.change(LocalChange::RemoveTags(list)).await
    }

    /// Takes in an entry that came another way than by the network, and passes it on.
    ///
    /// # Errors
    /// [`Error`] where its signature is wrong, or where it would be refused from a peer.
    pub async fn feed(&self, entry: SignedPeerEntry) -> Result<(), Error> {
        let entry: VerifiedEntry = entry.verify()?;
        self.request(Command::Feed(entry)).await
    }

    /// Puts in an entry that nobody signed. It stays on this node, and yields to what the peer says itself.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is out of bounds or there are too many.
    pub async fn insert(&self, entry: PeerEntry) -> Result<(), Error> {
        self.request(Command::Insert(entry)).await
    }

    /// Forgets a peer, until it announces itself again.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn remove(&self, peer: PeerId) -> Result<(), Error> {
        self.request(Command::Remove(peer)).await
    }

    /// Forgets all entries that nobody signed.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`].
    pub async fn clear_unsigned(&self) -> Result<(), Error> {
        self.request(Command::ClearUnsigned).await
    }

    /// This node's id.
    #[must_use]
    pub const fn local_id(&self) -> PeerId {
        self.local
    }

    /// Changes what this node says of itself, for the other subsystems.
    pub(crate) async fn change(&self, change: LocalChange) -> Result<(), Error> {
        self.request(Command::Local(change)).await
    }

    /// Tells the network that this node leaves; completes when its neighbours have been told.
    pub(crate) async fn leave(&self) {
        // Where the worker has ended, it has left already.
        let _ = self.request(Command::Leave).await;
        self.tasks.ended().await;
    }

    /// Cancellation safe in that the request is made, or is not; it is carried out also where nobody waits.
    async fn request(&self, command: Command) -> Result<(), Error> {
        let (reply, result) = oneshot::channel();
        let request = WorkerEvent::Request { command, reply };
        self.requests
            .send(request)
            .await
            .map_err(|_| Error::ShuttingDown)?;
        Ok(result.await.map_err(|_| Error::ShuttingDown)??)
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// Watches the catalog: sees the newest state, not every state.
#[derive(Clone, Debug)]
pub struct CatalogWatch(watch::Receiver<Catalog>);

impl CatalogWatch {
    /// The catalog as it is now.
    #[must_use]
    pub fn current(&self) -> Catalog {
        self.0.borrow().clone()
    }

    /// Completes when the catalog has changed since this watch last saw it, and gives it. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] once it will not change any more.
    pub async fn changed(&mut self) -> Result<Catalog, Error> {
        self.0.changed().await.map_err(|_| Error::ShuttingDown)?;
        Ok(self.0.borrow_and_update().clone())
    }

    /// Completes when `condition` holds of the catalog, and gives it. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] once it will not change any more.
    pub async fn wait_for(
        &mut self,
        condition: impl FnMut(&Catalog) -> bool,
    ) -> Result<Catalog, Error> {
        let catalog = self
            .0
            .wait_for(condition)
            .await
            .map_err(|_| Error::ShuttingDown)?;
        Ok(catalog.clone())
    }
}

/// What becomes known of peers, in order.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

/// So many events came that the oldest were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were dropped because they were not taken in time")]
pub struct EventsLagged(pub u64);

impl Events {
    /// The next event, or `None` once the node has shut down. Cancellation safe.
    ///
    /// # Errors
    /// [`EventsLagged`] in the place of events that were dropped; the next call goes on with the oldest kept.
    pub async fn recv(&mut self) -> Result<Option<Event>, EventsLagged> {
        match self.0.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(count)) => Err(EventsLagged(count)),
        }
    }
}
