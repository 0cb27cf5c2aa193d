//! Runs the discovery machine on a node.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::handle::Discovery;
use super::links::{Gossip, LinkId, Links};
use super::sessions::{CatalogSync, Sessions};
use crate::id::PeerId;
use crate::node::connections::{Connections, Listener};
use crate::node::driver::{Host, drive};
use crate::node::link::{Link, Protocol};
use crate::node::tasks::Tasks;
use crate::protocol::discovery::{
    self as machine, Catalog, Command, Config, Identity, Input, Message, Output, PeerAddr,
    RequestError, RequestId, SessionId, SyncMessage,
};
use crate::time::{Duration, Instant, WallTime};

/// What waits for the worker. Links and handles wait while it is full.
const EVENTS_MAX: usize = 1_024;

/// The machine extrapolates the wall clock; it is told where it would be off by more than this.
const WALL_DEVIATION_MAX: Duration = Duration::from_millis(100);

/// All that can happen around the machine.
pub(super) enum Event {
    LinkUp {
        link: Link<Gossip>,
        opened_by_us: bool,
    },
    LinkFailed(PeerId),
    LinkLost(LinkId),
    Message {
        link: LinkId,
        message: Message,
    },
    SessionUp(Link<CatalogSync>),
    SessionMessage {
        session: SessionId,
        message: SyncMessage,
    },
    SessionEnded {
        session: SessionId,
        cause: Option<Arc<str>>,
    },
    Rtt {
        peer: PeerId,
        sample: Option<Duration>,
    },
    Request {
        command: Command,
        reply: oneshot::Sender<Result<(), RequestError>>,
    },
}

/// The listeners of discovery's protocols.
pub(crate) struct Listeners {
    pub(crate) gossip: Listener<Gossip>,
    pub(crate) catalog: Listener<CatalogSync>,
}

/// Starts discovery. The node announces itself and joins through its bootstrap peers at once.
pub(crate) fn start(
    tasks: &Tasks,
    connections: &Connections,
    listeners: Listeners,
    identity: Identity,
    config: Config,
) -> Discovery {
    let tasks = tasks.child();
    let (events, queue) = mpsc::channel(EVENTS_MAX);
    let (notices, _) = broadcast::channel(config.events_backlog.max(1));
    let local = identity.secret_key.peer_id();
    let wall = identity.wall;
    let runtime = tasks.runtime().clone();
    let rng = ChaCha8Rng::from_seed(runtime.seed("discovery"));
    let now = runtime.now();
    let machine = machine::Discovery::new(now, identity, config, rng);
    let catalog = watch::Sender::new(machine.catalog().clone());

    // Ended as soon as the node has left; links are not, since they carry the departure.
    let receiving = tasks.child();
    accept(&receiving, listeners, &events);
    let worker = Worker {
        links: Links::new(
            tasks.child(),
            receiving.clone(),
            connections.clone(),
            events.clone(),
            catalog.subscribe(),
            local,
        ),
        sessions: Sessions::new(
            receiving.clone(),
            connections.clone(),
            events.clone(),
            catalog.subscribe(),
        ),
        connections: connections.clone(),
        events: events.clone(),
        receiving,
        replies: BTreeMap::new(),
        requests: 0,
        wall: (now, wall),
        catalog: catalog.clone(),
        catalog_changed: None,
        notices: notices.clone(),
        left: false,
    };
    let handle = Discovery::new(local, tasks.clone(), events, catalog.subscribe(), notices);
    let driver_tasks = tasks.clone();
    tasks.spawn("discovery", async move {
        drive(&driver_tasks, machine, worker, queue).await;
    });
    handle
}

/// Passes what peers open on to the worker.
fn accept(tasks: &Tasks, mut listeners: Listeners, events: &mpsc::Sender<Event>) {
    let gossip = events.clone();
    tasks.spawn("accept gossip links", async move {
        while let Some(link) = listeners.gossip.accept().await {
            if gossip
                .send(Event::LinkUp {
                    link,
                    opened_by_us: false,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    });
    let sessions = events.clone();
    tasks.spawn("accept catalog sessions", async move {
        while let Some(link) = listeners.catalog.accept().await {
            if sessions.send(Event::SessionUp(link)).await.is_err() {
                return;
            }
        }
    });
}

struct Worker {
    receiving: Tasks,
    connections: Connections,
    events: mpsc::Sender<Event>,
    links: Links,
    sessions: Sessions,
    /// Whom to tell how a request went.
    replies: BTreeMap<RequestId, oneshot::Sender<Result<(), RequestError>>>,
    requests: u64,
    /// The wall clock's last reading that the machine knows, and when it was taken.
    wall: (Instant, WallTime),
    catalog: watch::Sender<Catalog>,
    /// Whether the catalog is another one, and whether more than dates of entries is different.
    catalog_changed: Option<bool>,
    notices: broadcast::Sender<machine::Event>,
    left: bool,
}

impl Host for Worker {
    type Machine = machine::Discovery;
    type Event = Event;

    fn input(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::LinkUp { link, opened_by_us } => {
                let peer = link.peer();
                self.links
                    .adopt(link, opened_by_us)
                    .then_some(Input::Connected(peer))
            }
            Event::LinkFailed(peer) => Some(Input::ConnectFailed(peer)),
            Event::LinkLost(link) => {
                if !self.links.is_current(link) {
                    return None;
                }
                self.links.close(link.peer);
                Some(Input::Disconnected(link.peer))
            }
            Event::Message { link, message } => {
                self.links.is_current(link).then_some(Input::Message {
                    from: link.peer,
                    message,
                })
            }
            Event::SessionUp(link) => {
                let peer = link.peer();
                let session = self.sessions.adopt(link);
                Some(Input::SyncOpened { session, peer })
            }
            Event::SessionMessage { session, message } => self
                .sessions
                .is_open(session)
                .then_some(Input::SyncMessage { session, message }),
            Event::SessionEnded { session, cause } => self
                .sessions
                .close(session)
                .then_some(Input::SyncClosed { session, cause }),
            Event::Rtt { peer, sample } => Some(Input::Rtt { peer, sample }),
            Event::Request { command, reply } => {
                self.requests += 1;
                let request = RequestId(self.requests);
                self.replies.insert(request, reply);
                Some(Input::Request { request, command })
            }
        }
    }

    fn input_at(&mut self, now: Instant) -> Option<Input> {
        let wall = self.receiving.runtime().wall();
        let expected = self.wall.1 + now.since(self.wall.0);
        let deviation = wall.since(expected).max(expected.since(wall));
        (deviation > WALL_DEVIATION_MAX).then(|| {
            self.wall = (now, wall);
            Input::Wall(wall)
        })
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect(peer) => {
                self.name(&peer);
                self.links.connect(peer.id);
            }
            Output::Disconnect(peer) => self.links.close(peer),
            Output::Send(peer, message) => self.links.send(peer, &message),
            Output::SyncOpen { session, peer } => {
                self.name(&peer);
                self.sessions.connect(session, peer.id);
            }
            Output::SyncSend { session, message } => self.sessions.send(session, &message),
            Output::SyncClose { session } => {
                self.sessions.close(session);
            }
            Output::Probe(peer) => {
                self.name(&peer);
                self.probe(peer.id);
            }
            Output::Event(event) => self.notice(event),
            Output::CatalogChanged { content } => {
                self.catalog_changed = Some(content || self.catalog_changed == Some(true));
            }
            Output::Done { request, result } => {
                if let Some(reply) = self.replies.remove(&request) {
                    // Nobody listens where the caller has given up.
                    let _ = reply.send(result);
                }
            }
            Output::Left => {
                self.links.close_all();
                self.receiving.cancel();
                self.left = true;
            }
        }
    }

    fn end_turn(&mut self, machine: &machine::Discovery) -> ControlFlow<()> {
        if let Some(content) = self.catalog_changed.take() {
            // Dates alone wake nobody: in a network of thousands some entry is renewed all the time.
            self.catalog.send_if_modified(|catalog| {
                catalog.clone_from(machine.catalog());
                content
            });
        }
        if self.left {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Worker {
    fn name(&self, peer: &PeerAddr) {
        if !peer.addresses.is_empty() {
            self.connections.addresses().name(peer.id, &peer.addresses);
        }
    }

    /// Measures the round-trip time to `peer` over a connection that is there, or else over a new one.
    fn probe(&self, peer: PeerId) {
        let (connections, events) = (self.connections.clone(), self.events.clone());
        self.receiving.spawn("probe", async move {
            let sample = match connections.rtt(peer) {
                Some(rtt) => Some(rtt),
                None => match connections.lease(peer, CatalogSync::ALPN).await {
                    Ok(lease) => Some(lease.connection().rtt()),
                    Err(_) => None,
                },
            };
            let _ = events.send(Event::Rtt { peer, sample }).await;
        });
    }

    fn notice(&self, event: machine::Event) {
        let addresses = self.connections.addresses();
        match &event {
            machine::Event::PeerDiscovered(entry) | machine::Event::PeerUpdated(entry) => {
                addresses.name(*entry.id(), entry.addresses());
            }
            machine::Event::PeerDeparted(peer) => addresses.forget(*peer),
            machine::Event::ClockBehind { peers, at_least } => {
                tracing::warn!(
                    peers,
                    ?at_least,
                    "peers are refused because their entries are dated in the future: \
                     set this node's clock right, which seems to be behind"
                );
            }
            machine::Event::DuplicateIdentity { addresses, .. } => {
                tracing::warn!(
                    ?addresses,
                    "another running node has this node's key: stop one of them"
                );
            }
        }
        // Fails only where nobody listens.
        let _ = self.notices.send(event);
    }
}
