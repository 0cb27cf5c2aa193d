//! Gossip links: one to each neighbour of the overlay.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::worker::Event;
use crate::id::PeerId;
use crate::node::connections::{Connections, LinkError};
use crate::node::link::{Link, LinkReceiver, LinkSender, Protocol, closed_for_long};
use crate::node::tasks::Tasks;
use crate::protocol::discovery::{Catalog, MESSAGE_BYTES_MAX, Message, SignedPeerEntry};
use crate::runtime::Alpn;

/// Messages between neighbours of the overlay.
pub(crate) struct Gossip;

impl Protocol for Gossip {
    const ALPN: Alpn = Alpn::new("/smalti/gossip/1");
    const MESSAGE_LEN_MAX: usize = MESSAGE_BYTES_MAX;
    type Message = Message<SignedPeerEntry>;
}

/// Messages that wait for a neighbour. One that lets more gather is dropped as a neighbour.
const QUEUED_MESSAGES_MAX: usize = 256;

/// The links of the node, at most one to each peer.
pub(super) struct Links {
    /// The tasks of open links, which carry the node's departure too.
    tasks: Tasks,
    /// Everything else, which ends as soon as the node has left.
    receiving: Tasks,
    connections: Connections,
    events: mpsc::Sender<Event>,
    catalog: watch::Receiver<Catalog>,
    local: PeerId,
    open: BTreeMap<PeerId, OpenLink>,
    /// Numbers the links, so that what is heard of a former one is not taken for the present one's.
    links_opened: u64,
}

/// One link of a node over its life: its number tells it from others with the same peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) peer: PeerId,
    number: u64,
}

struct OpenLink {
    id: LinkId,
    opened_by: PeerId,
    /// Dropping it lets the link's task send what is queued and end. `None` where the neighbour did not
    /// keep up: the link stays here until the worker has taken note.
    queue: Option<mpsc::Sender<Bytes>>,
    /// Bounds the time that the link's task has for it.
    _closing: DropGuard,
}

impl OpenLink {
    fn is_ending(&self) -> bool {
        self.queue.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

impl Links {
    pub(super) fn new(
        tasks: Tasks,
        receiving: Tasks,
        connections: Connections,
        events: mpsc::Sender<Event>,
        catalog: watch::Receiver<Catalog>,
        local: PeerId,
    ) -> Self {
        Self {
            tasks,
            receiving,
            connections,
            events,
            catalog,
            local,
            open: BTreeMap::new(),
            links_opened: 0,
        }
    }

    /// Opens a link to `peer` in the background.
    pub(super) fn connect(&self, peer: PeerId) {
        let (connections, events) = (self.connections.clone(), self.events.clone());
        self.receiving.spawn("open gossip link", async move {
            let event = match connections.open::<Gossip>(peer).await {
                Ok(link) => Event::LinkUp {
                    link,
                    opened_by_us: true,
                },
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), %error, "no gossip link");
                    Event::LinkFailed(peer)
                }
            };
            // Fails only where the worker has ended.
            let _ = events.send(event).await;
        });
    }

    /// Takes a link into use. True where it is the one in use now.
    ///
    /// Where both ends opened one at the same time, that of the smaller peer id stays, so that both ends
    /// decide alike; a second one opened by the same end means that it has lost the first.
    pub(super) fn adopt(&mut self, link: Link<Gossip>, opened_by_us: bool) -> bool {
        let peer = link.peer();
        let opened_by = if opened_by_us { self.local } else { peer };
        if let Some(present) = self.open.get(&peer)
            && present.opened_by != opened_by
            && present.opened_by < opened_by
            && !present.is_ending()
        {
            return false;
        }
        self.links_opened += 1;
        let id = LinkId {
            peer,
            number: self.links_opened,
        };
        let (queue, queued) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let (events, catalog) = (self.events.clone(), self.catalog.clone());
        let closing = CancellationToken::new();
        let closed = closed_for_long(self.tasks.clone(), closing.clone());
        self.tasks.spawn(
            "gossip link",
            run(id, link, queued, closed, events, catalog),
        );
        self.open.insert(
            peer,
            OpenLink {
                id,
                opened_by,
                queue: Some(queue),
                _closing: closing.drop_guard(),
            },
        );
        true
    }

    /// True where `id` is the link in use with its peer.
    pub(super) fn is_current(&self, id: LinkId) -> bool {
        self.open.get(&id.peer).is_some_and(|open| open.id == id)
    }

    /// Sends `message` where the link is up. A neighbour that reads too slowly loses its link.
    pub(super) fn send(&mut self, peer: PeerId, message: &Message) {
        let Some(link) = self.open.get_mut(&peer) else {
            return;
        };
        let Some(queue) = &link.queue else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(message.encode()) {
            tracing::debug!(peer = %peer.short(), "a neighbour reads too slowly");
            link.queue = None;
            let (id, events) = (link.id, self.events.clone());
            self.receiving.spawn("report slow neighbour", async move {
                let _ = events.send(Event::LinkLost(id)).await;
            });
        }
    }

    /// Ends the link once what was sent before is on its way.
    pub(super) fn close(&mut self, peer: PeerId) {
        self.open.remove(&peer);
    }

    /// Ends all links once what was sent before is on its way.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }
}

/// Runs a link until either end closes it.
async fn run(
    id: LinkId,
    link: Link<Gossip>,
    queued: mpsc::Receiver<Bytes>,
    closed: impl Future<Output = ()>,
    events: mpsc::Sender<Event>,
    catalog: watch::Receiver<Catalog>,
) {
    let (sender, receiver) = link.split();
    let lost = crate::select! {
        result = send(sender, queued) => result.is_err(),
        () = closed => false,
        result = receive(id, receiver, &events, &catalog) => {
            if let Err(error) = result {
                tracing::debug!(peer = %id.peer.short(), %error, "gossip link lost");
            }
            true
        },
    };
    if lost {
        let _ = events.send(Event::LinkLost(id)).await;
    }
}

async fn send(
    mut sender: LinkSender<Gossip>,
    mut queued: mpsc::Receiver<Bytes>,
) -> Result<(), LinkError> {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, QUEUED_MESSAGES_MAX).await > 0 {
        for message in batch.drain(..) {
            sender.queue_encoded(&message)?;
        }
        sender.flush().await?;
    }
    sender.finish();
    sender.stopped().await?;
    Ok(())
}

async fn receive(
    id: LinkId,
    mut receiver: LinkReceiver<Gossip>,
    events: &mpsc::Sender<Event>,
    catalog: &watch::Receiver<Catalog>,
) -> Result<(), LinkError> {
    while let Some(frame) = receiver.recv_frame().await? {
        let known = catalog.borrow().clone();
        match Message::decode(&frame, &known) {
            Ok(message) => {
                if events
                    .send(Event::Message { link: id, message })
                    .await
                    .is_err()
                {
                    // The worker has ended; what it has left to be sent goes out undisturbed.
                    std::future::pending::<()>().await;
                }
            }
            Err(error) => return Err(receiver.violation(LinkError::Violation(error.to_string()))),
        }
    }
    Ok(())
}
