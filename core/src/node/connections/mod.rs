//! One connection for each peer and protocol: dialled when first needed, shared while used, closed when
//! idle. Nothing reaches a protocol from a peer that has not been admitted by its hello.

mod address_book;
mod error;
mod handshake;
mod lease;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, watch};

pub(crate) use address_book::AddressBook;
pub use error::LinkError;
pub(crate) use handshake::LocalIdentity;
use lease::Admitted;
pub(crate) use lease::Lease;

use super::link::{Link, Protocol};
use super::tasks::Tasks;
use crate::id::PeerId;
use crate::protocol::crossing::{self, Verdict};
use crate::runtime::{Alpn, BiStream, Connection, ConnectionError, DialError, Endpoint};
use crate::time::Duration;
use crate::wire::{CloseCode, HELLO_TIMEOUT};

/// Connections of peers that have not said hello yet. Beyond it new ones are closed at once.
const UNADMITTED_MAX: usize = 1_024;

/// How often a connection that closes right after its admission is dialled again for one caller.
const ATTEMPTS_MAX: usize = 3;

/// Streams that peers have opened and a protocol has not taken yet. Beyond it peers wait.
const INCOMING_STREAMS_MAX: usize = 64;

/// The node's connections. Clones share them.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Shared>);

struct Shared {
    tasks: Tasks,
    endpoint: Arc<dyn Endpoint>,
    local: LocalIdentity,
    addresses: AddressBook,
    table: Mutex<Table>,
    listeners: BTreeMap<Alpn, mpsc::Sender<Incoming>>,
    violations: Arc<AtomicU64>,
}

#[derive(Default)]
struct Table {
    /// The connection in use for each peer and protocol.
    open: BTreeMap<(PeerId, Alpn), Arc<Admitted>>,
    /// Dials under way, so that whoever wants the same connection waits for the same dial.
    dialing: BTreeMap<(PeerId, Alpn), Dialing>,
}

/// The outcome of a dial, once there is one.
type Dialing = watch::Receiver<Option<Result<(), LinkError>>>;

/// A stream that a peer has opened.
pub(crate) struct Incoming {
    lease: Lease,
    stream: BiStream,
}

/// Gives the links that peers open for protocol `P`.
pub(crate) struct Listener<P> {
    incoming: mpsc::Receiver<Incoming>,
    protocol: std::marker::PhantomData<fn() -> P>,
}

impl<P: Protocol> Listener<P> {
    /// The next link, or `None` once the node shuts down. Cancellation safe.
    pub(crate) async fn accept(&mut self) -> Option<Link<P>> {
        let Incoming { lease, stream } = self.incoming.recv().await?;
        Some(Link::new(lease, stream))
    }
}

/// The protocols that a node speaks, collected before its endpoint is bound.
#[derive(Default)]
pub(crate) struct Protocols(BTreeMap<Alpn, mpsc::Sender<Incoming>>);

impl Protocols {
    /// Adds protocol `P`, once.
    pub(crate) fn listen<P: Protocol>(&mut self) -> Listener<P> {
        let (sender, incoming) = mpsc::channel(INCOMING_STREAMS_MAX);
        let former = self.0.insert(P::ALPN, sender);
        assert!(
            former.is_none(),
            "protocol {} is listened to twice",
            P::ALPN
        );
        Listener {
            incoming,
            protocol: std::marker::PhantomData,
        }
    }

    pub(crate) fn names(&self) -> Vec<Alpn> {
        self.0.keys().copied().collect()
    }
}

impl Connections {
    /// Starts to accept connections on `endpoint`.
    pub(crate) fn start(
        tasks: Tasks,
        endpoint: Arc<dyn Endpoint>,
        local: LocalIdentity,
        protocols: Protocols,
    ) -> Self {
        let connections = Self(Arc::new(Shared {
            tasks,
            endpoint,
            local,
            addresses: AddressBook::default(),
            table: Mutex::default(),
            listeners: protocols.0,
            violations: Arc::default(),
        }));
        connections
            .tasks()
            .spawn("accept connections", connections.clone().accept());
        connections
    }

    pub(crate) fn addresses(&self) -> &AddressBook {
        &self.0.addresses
    }

    /// How often peers have broken a protocol since the node's start.
    pub(crate) fn violations(&self) -> u64 {
        self.0.violations.load(Ordering::Relaxed)
    }

    /// Opens a link of protocol `P` to `peer`, over the connection in use or a new one.
    ///
    /// Cancellation safe: a dial under way goes on for others that wait for it.
    pub(crate) async fn open<P: Protocol>(&self, peer: PeerId) -> Result<Link<P>, LinkError> {
        let lease = self.lease(peer, P::ALPN).await?;
        let stream = lease.connection().open().await?;
        Ok(Link::new(lease, stream))
    }

    /// The smoothed round-trip time to `peer` over any connection in use.
    pub(crate) fn rtt(&self, peer: PeerId) -> Option<Duration> {
        let table = self.table();
        let of_peer = table.open.iter().filter(|((of, _), _)| *of == peer);
        of_peer
            .map(|(_, admitted)| admitted.connection().rtt())
            .min()
    }

    /// Keeps the connection to `peer` for `protocol` open, and dials it where there is none.
    pub(crate) async fn lease(&self, peer: PeerId, protocol: Alpn) -> Result<Lease, LinkError> {
        let key = (peer, protocol);
        if peer == self.0.local.peer {
            return Err(LinkError::Oneself);
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut dialing = {
                let mut table = self.table();
                if let Some(admitted) = table.usable(key) {
                    return Ok(admitted.lease());
                }
                match table.dialing.get(&key) {
                    Some(dialing) => dialing.clone(),
                    None => {
                        let (outcome, dialing) = watch::channel(None);
                        table.dialing.insert(key, dialing.clone());
                        let dial = self.clone().dial(peer, protocol, outcome);
                        self.tasks().spawn("dial", dial);
                        dialing
                    }
                }
            };
            // The sender is dropped without an outcome only where the node shuts down.
            let Ok(outcome) = dialing.wait_for(Option::is_some).await else {
                return Err(LinkError::ShuttingDown);
            };
            if let Some(Err(error)) = &*outcome {
                return Err(error.clone());
            }
        }
        Err(LinkError::Unstable { peer })
    }

    /// Closes everything with `code` and releases the socket.
    pub(crate) async fn close(&self, code: CloseCode) {
        self.0.endpoint.close(code).await;
    }

    fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is whole when the lock is released, also by a panic.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(
        self,
        peer: PeerId,
        protocol: Alpn,
        outcome: watch::Sender<Option<Result<(), LinkError>>>,
    ) {
        let result = self.dial_and_admit(peer, protocol).await;
        if let Err(error) = &result {
            tracing::debug!(peer = %peer.short(), %protocol, %error, "dial failed");
        }
        self.table().dialing.remove(&(peer, protocol));
        outcome.send_replace(Some(result));
    }

    async fn dial_and_admit(&self, peer: PeerId, protocol: Alpn) -> Result<(), LinkError> {
        let addresses = self.0.addresses.addresses(peer);
        if addresses.is_empty() {
            return Err(DialError::NoAddress { peer }.into());
        }
        let connection = self.0.endpoint.dial(peer, addresses, protocol).await?;
        self.admit(connection).await
    }

    async fn accept(self) {
        let unadmitted = Arc::new(Semaphore::new(UNADMITTED_MAX));
        while let Some(connection) = self.0.endpoint.accept().await {
            let Ok(permit) = unadmitted.clone().try_acquire_owned() else {
                connection.close(
                    CloseCode::TOO_MANY,
                    "too many connections are being admitted",
                );
                continue;
            };
            let connections = self.clone();
            self.tasks().spawn("admit", async move {
                if let Err(error) = connections.admit(connection).await {
                    tracing::debug!(%error, "a peer was not admitted");
                }
                drop(permit);
            });
        }
    }

    /// Exchanges hellos and puts the connection to use, or closes it and says why.
    async fn admit(&self, connection: Arc<dyn Connection>) -> Result<(), LinkError> {
        let peer = connection.peer();
        let hellos = handshake::exchange(&connection, &self.0.local);
        let result = match self.tasks().timeout(HELLO_TIMEOUT, "hello", hellos).await {
            Some(result) => result,
            None => Err(LinkError::HelloTimeout { peer }),
        };
        match result {
            Ok(instance) => {
                self.0.addresses.observe(peer, connection.remote_address());
                let violations = self.0.violations.clone();
                self.put_to_use(&Admitted::new(connection, instance, violations));
                Ok(())
            }
            Err(error) => {
                connection.close(error.close_code(), &error.to_string());
                Err(error)
            }
        }
    }

    fn put_to_use(&self, new: &Arc<Admitted>) {
        let key = (new.connection().peer(), new.connection().protocol());
        let mut table = self.table();
        let verdict = table.usable(key).map(|old| {
            (
                crossing::decide(self.0.local.peer, key.0, old.candidate(), new.candidate()),
                old,
            )
        });
        match verdict {
            None => drop(table.open.insert(key, new.clone())),
            Some((Verdict::RetireOld, old)) => {
                table.open.insert(key, new.clone());
                old.retire();
            }
            Some((Verdict::RetireNew, _)) => new.retire(),
            Some((Verdict::CloseOld, old)) => {
                table.open.insert(key, new.clone());
                old.connection()
                    .close(CloseCode::REPLACED, "the peer has restarted");
            }
        }
        drop(table);
        self.tasks()
            .spawn("connection", self.clone().look_after(new.clone()));
    }

    /// Passes the streams that the peer opens to their protocol, until the connection is closed or unused.
    async fn look_after(self, admitted: Arc<Admitted>) {
        let connection = admitted.connection().clone();
        let key = (connection.peer(), connection.protocol());
        let listener = self.0.listeners.get(&key.1).cloned();
        loop {
            crate::select! {
                incoming = pass_on(&admitted, listener.as_ref()) => if incoming.is_err() {
                    self.table().remove(key, &admitted);
                    return;
                },
                code = admitted.unused(self.tasks()) => {
                    let mut table = self.table();
                    // Under the lock: nobody can take a lease between the look and the removal.
                    if !admitted.is_used() {
                        table.remove(key, &admitted);
                        connection.close(code, "");
                        return;
                    }
                },
            }
        }
    }
}

/// Passes one stream that the peer opens to its protocol.
async fn pass_on(
    admitted: &Arc<Admitted>,
    listener: Option<&mpsc::Sender<Incoming>>,
) -> Result<(), ConnectionError> {
    let stream = admitted.connection().accept().await?;
    let incoming = Incoming {
        lease: admitted.lease(),
        stream,
    };
    if let Some(listener) = listener {
        // Fails only where the protocol has ended with the node; the stream is abandoned then.
        let _ = listener.send(incoming).await;
    }
    Ok(())
}

impl Table {
    /// The connection in use, unless it is closed.
    fn usable(&self, key: (PeerId, Alpn)) -> Option<Arc<Admitted>> {
        let admitted = self.open.get(&key)?;
        admitted
            .connection()
            .close_reason()
            .is_none()
            .then(|| admitted.clone())
    }

    /// Removes `admitted` where it is still the one in use.
    fn remove(&mut self, key: (PeerId, Alpn), admitted: &Arc<Admitted>) {
        if self
            .open
            .get(&key)
            .is_some_and(|open| Arc::ptr_eq(open, admitted))
        {
            self.open.remove(&key);
        }
    }
}
