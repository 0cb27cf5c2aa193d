//! Synchronisation sessions: one stream each, for as long as the exchange takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::worker::Event;
use crate::id::PeerId;
use crate::node::connections::{Connections, LinkError};
use crate::node::link::{Link, LinkReceiver, LinkSender, Protocol, closed_for_long};
use crate::node::tasks::Tasks;
use crate::protocol::discovery::{
    Catalog, MESSAGE_BYTES_MAX, SessionId, SignedPeerEntry, SyncMessage,
};
use crate::runtime::Alpn;

/// The exchange of catalogs.
pub(crate) struct CatalogSync;

impl Protocol for CatalogSync {
    const ALPN: Alpn = Alpn::new("/smalti/catalog/1");
    const MESSAGE_LEN_MAX: usize = MESSAGE_BYTES_MAX;
    type Message = SyncMessage<SignedPeerEntry>;
}

/// Messages of a session that wait to be sent: more than a turn over a very large catalog has.
const QUEUED_MESSAGES_MAX: usize = 1_024;

/// The sessions of the node.
pub(super) struct Sessions {
    tasks: Tasks,
    connections: Connections,
    events: mpsc::Sender<Event>,
    catalog: watch::Receiver<Catalog>,
    open: BTreeMap<SessionId, OpenSession>,
    incoming: u64,
}

struct OpenSession {
    /// Dropping it lets the session's task send what is queued and end.
    queue: mpsc::Sender<Bytes>,
    /// Bounds the time that the session's task has for it.
    _closing: DropGuard,
}

/// What a session's task needs of the node.
struct Running {
    session: SessionId,
    queued: mpsc::Receiver<Bytes>,
    closing: CancellationToken,
    tasks: Tasks,
    events: mpsc::Sender<Event>,
    catalog: watch::Receiver<Catalog>,
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
        let running = self.begin(session);
        let connections = self.connections.clone();
        self.tasks.spawn("catalog session", async move {
            match connections.open::<CatalogSync>(peer).await {
                Ok(link) => running.run(link).await,
                Err(error) => running.end(peer, Err(error)).await,
            }
        });
    }

    /// Takes in a session that a peer has opened.
    pub(super) fn adopt(&mut self, link: Link<CatalogSync>) -> SessionId {
        self.incoming += 1;
        let session = SessionId::Incoming(self.incoming);
        let running = self.begin(session);
        self.tasks.spawn("catalog session", running.run(link));
        session
    }

    fn begin(&mut self, session: SessionId) -> Running {
        let (queue, queued) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let closing = CancellationToken::new();
        let running = Running {
            session,
            queued,
            closing: closing.clone(),
            tasks: self.tasks.clone(),
            events: self.events.clone(),
            catalog: self.catalog.clone(),
        };
        let _closing = closing.drop_guard();
        self.open.insert(session, OpenSession { queue, _closing });
        running
    }

    pub(super) fn is_open(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    /// Sends `message`. A session whose peer does not read ends.
    pub(super) fn send(&mut self, session: SessionId, message: &SyncMessage) {
        let Some(OpenSession { queue, .. }) = self.open.get(&session) else {
            return;
        };
        // Where the session has just ended, the machine is told by an event.
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(message.encode()) {
            tracing::debug!(?session, "the peer of a catalog session does not read");
            let events = self.events.clone();
            self.tasks.spawn("report stalled session", async move {
                let cause = Some("the peer does not read what it is sent".into());
                let _ = events.send(Event::SessionEnded { session, cause }).await;
            });
        }
    }

    /// Ends the session once what was sent before is on its way. True where it was open.
    pub(super) fn close(&mut self, session: SessionId) -> bool {
        self.open.remove(&session).is_some()
    }
}

impl Running {
    /// Runs the session until both ends have finished, or one fails.
    async fn run(mut self, link: Link<CatalogSync>) {
        let peer = link.peer();
        let (sender, receiver) = link.split();
        let closed = closed_for_long(self.tasks.clone(), self.closing.clone());
        let result = crate::select! {
            result = send(sender, &mut self.queued) => result,
            result = receive(self.session, receiver, &self.events, &self.catalog) => result,
            () = closed => Ok(()),
        };
        self.end(peer, result).await;
    }

    async fn end(self, peer: PeerId, result: Result<(), LinkError>) {
        let cause = result.err().map(|error| {
            tracing::debug!(peer = %peer.short(), %error, "catalog session ended early");
            error.to_string().into()
        });
        let session = self.session;
        let _ = self
            .events
            .send(Event::SessionEnded { session, cause })
            .await;
    }
}

async fn send(
    mut sender: LinkSender<CatalogSync>,
    queued: &mut mpsc::Receiver<Bytes>,
) -> Result<(), LinkError> {
    while let Some(message) = queued.recv().await {
        sender.queue_encoded(&message)?;
        sender.flush().await?;
    }
    sender.finish();
    sender.stopped().await.map(drop)
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
