//! Synchronisation sessions: one stream each, for as long as the exchange takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::worker::Event;
use crate::id::PeerId;
use crate::node::connections::{Connections, LinkError};
use crate::node::link::{Link, LinkReceiver, LinkSender, Protocol};
use crate::node::tasks::Tasks;
use crate::protocol::discovery::{
    Catalog, MESSAGE_BYTES_MAX, SessionId, SignedPeerEntry, SyncMessage,
};
use crate::runtime::Alpn;
use crate::time::Duration;

/// The exchange of catalogs.
pub(crate) struct CatalogSync;

impl Protocol for CatalogSync {
    const ALPN: Alpn = Alpn::new("/smalti/catalog/1");
    const MESSAGE_LEN_MAX: usize = MESSAGE_BYTES_MAX;
    type Message = SyncMessage<SignedPeerEntry>;
}

/// Messages of a session that wait to be sent: more than a turn over a very large catalog has.
const QUEUED_MESSAGES_MAX: usize = 1_024;

/// How long the end of a session waits for the peer to have received all.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sessions of the node.
pub(super) struct Sessions {
    tasks: Tasks,
    connections: Connections,
    events: mpsc::Sender<Event>,
    catalog: watch::Receiver<Catalog>,
    /// Dropping a queue lets the session's task send what is queued and end.
    open: BTreeMap<SessionId, mpsc::Sender<Bytes>>,
    incoming: u64,
}

impl Sessions {
    pub(super) fn new(
        tasks: Tasks,
        connections: Connections,
        events: mpsc::Sender<Event>,
        catalog: watch::Receiver<Catalog>,
    ) -> Self {
        Self {
            tasks,
            connections,
            events,
            catalog,
            open: BTreeMap::new(),
            incoming: 0,
        }
    }

    /// Opens a session with `peer` in the background.
    pub(super) fn connect(&mut self, session: SessionId, peer: PeerId) {
        let (queue, queued) = mpsc::channel(QUEUED_MESSAGES_MAX);
        self.open.insert(session, queue);
        let (connections, events) = (self.connections.clone(), self.events.clone());
        let (tasks, catalog) = (self.tasks.clone(), self.catalog.clone());
        self.tasks.spawn("catalog session", async move {
            let result = match connections.open::<CatalogSync>(peer).await {
                Ok(link) => run(&tasks, session, link, queued, &events, &catalog).await,
                Err(error) => Err(error),
            };
            report_end(session, peer, result, &events).await;
        });
    }

    /// Takes in a session that a peer has opened.
    pub(super) fn adopt(&mut self, link: Link<CatalogSync>) -> SessionId {
        self.incoming += 1;
        let session = SessionId::Incoming(self.incoming);
        let (queue, queued) = mpsc::channel(QUEUED_MESSAGES_MAX);
        self.open.insert(session, queue);
        let (tasks, events) = (self.tasks.clone(), self.events.clone());
        let catalog = self.catalog.clone();
        self.tasks.spawn("catalog session", async move {
            let peer = link.peer();
            let result = run(&tasks, session, link, queued, &events, &catalog).await;
            report_end(session, peer, result, &events).await;
        });
        session
    }

    pub(super) fn is_open(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    /// Sends `message`. A session whose peer does not read ends.
    pub(super) fn send(&mut self, session: SessionId, message: &SyncMessage) {
        let Some(queue) = self.open.get(&session) else {
            return;
        };
        // Where the session has just ended, the machine is told by an event.
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(message.encode()) {
            tracing::debug!(?session, "the peer of a catalog session does not read");
            self.open.remove(&session);
            let events = self.events.clone();
            self.tasks.spawn("report stalled session", async move {
                let _ = events.send(Event::SessionEnded(session)).await;
            });
        }
    }

    /// Ends the session once what was sent before is on its way. True where it was open.
    pub(super) fn close(&mut self, session: SessionId) -> bool {
        self.open.remove(&session).is_some()
    }
}

async fn report_end(
    session: SessionId,
    peer: PeerId,
    result: Result<(), LinkError>,
    events: &mpsc::Sender<Event>,
) {
    if let Err(error) = result {
        tracing::debug!(peer = %peer.short(), %error, "catalog session ended early");
    }
    let _ = events.send(Event::SessionEnded(session)).await;
}

/// Runs a session until both ends have finished, or one fails.
async fn run(
    tasks: &Tasks,
    session: SessionId,
    link: Link<CatalogSync>,
    queued: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<Event>,
    catalog: &watch::Receiver<Catalog>,
) -> Result<(), LinkError> {
    let (sender, receiver) = link.split();
    crate::select! {
        result = send(tasks, sender, queued) => result,
        result = receive(session, receiver, events, catalog) => result,
    }
}

async fn send(
    tasks: &Tasks,
    mut sender: LinkSender<CatalogSync>,
    mut queued: mpsc::Receiver<Bytes>,
) -> Result<(), LinkError> {
    while let Some(message) = queued.recv().await {
        sender.queue_encoded(&message)?;
        sender.flush().await?;
    }
    sender.finish();
    let stopped = tasks
        .timeout(CLOSE_TIMEOUT, "end of catalog session", sender.stopped())
        .await;
    stopped.transpose().map(drop)
}

async fn receive(
    session: SessionId,
    mut receiver: LinkReceiver<CatalogSync>,
    events: &mpsc::Sender<Event>,
    catalog: &watch::Receiver<Catalog>,
) -> Result<(), LinkError> {
    while let Some(frame) = receiver.recv_frame().await? {
        let known = catalog.borrow().clone();
        match SyncMessage::decode(&frame, &known) {
            Ok(message) => {
                if events
                    .send(Event::SessionMessage { session, message })
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
            Err(error) => return Err(receiver.violation(LinkError::Violation(error.to_string()))),
        }
    }
    Ok(())
}
