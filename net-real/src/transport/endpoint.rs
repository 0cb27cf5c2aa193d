//! An endpoint: made of its parts, named by its addresses, closed with a code.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::{CryptoProvider, SecureRandom};
use rustls::time_provider::TimeProvider;
use smalti_core::id::{Digest, PeerId, SecretKey};
use smalti_core::runtime::{Alpn, BindError, BoxFuture, Connection, DialError, Endpoint};
use smalti_core::wire::CloseCode;

use super::accept::Acceptor;
use super::dial;
use super::error::var_int;
use super::identity::{certified_key, pinned_name};
use super::interfaces::reachable;
use super::socket::SharedSocket;
use super::tls::{ConfigurationError, Tls};
use super::tuning::{Tuning, UDP_PAYLOAD_LEN_MAX};

/// Connection ids have 8 bytes: enough that none is met twice, and short in every packet.
const CONNECTION_ID_LEN: usize = 8;

/// How long [`Endpoint::close`] waits for the connections to be wound up. The peers are told at once; what is
/// waited for is that packets still on their way meet somebody.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);

/// How often the machine's interfaces are looked at, where the socket is bound to all of them. It costs
/// about 50 microseconds.
const INTERFACE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// All that an endpoint needs of the world.
pub struct EndpointParts {
    /// Ciphers, key exchange, signatures, and through `secure_random` all randomness: connection ids, tokens
    /// and the order of transport parameters are drawn from it too.
    pub crypto: Arc<CryptoProvider>,
    /// The wall clock, by which address tokens expire.
    pub time: Arc<dyn TimeProvider>,
    /// Timers, tasks, and the monotonic clock of the protocol.
    pub runtime: Arc<dyn quinn::Runtime>,
    /// The bound socket.
    pub socket: Arc<dyn quinn::AsyncUdpSocket>,
    /// Lists the addresses of the machine's interfaces. Asked only where the socket is bound to all of them.
    pub interfaces: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
    /// Limits and timeouts.
    pub tuning: Tuning,
}

impl fmt::Debug for EndpointParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointParts")
            .field("socket", &self.socket)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}

/// A QUIC endpoint: one socket that listens and dials, for all protocols.
pub struct QuicEndpoint {
    /// Taken when the endpoint is closed: the socket is free once nothing holds it.
    quinn: Mutex<Option<quinn::Endpoint>>,
    pub(super) socket: Arc<SharedSocket>,
    pub(super) runtime: Arc<dyn quinn::Runtime>,
    pub(super) interfaces: Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
    pub(super) watch: Mutex<AddressWatch>,
    pub(super) tuning: Tuning,
    pub(super) tls: Tls,
    transport: Arc<quinn::TransportConfig>,
    /// One for each protocol that was dialled.
    clients: Mutex<BTreeMap<Alpn, quinn::ClientConfig>>,
    pub(super) protocols: Vec<Alpn>,
    acceptor: Acceptor,
    /// With which code the endpoint was closed.
    pub(super) close_code: Arc<OnceLock<CloseCode>>,
    /// Opens the congestion windows of all connections.
    closes: Arc<AtomicBool>,
    /// Held while closing, so that a second call waits for the first.
    closing: tokio::sync::Mutex<()>,
}

/// What [`Endpoint::addresses_changed`] compares with, kept so that an abandoned wait loses nothing.
#[derive(Debug)]
pub(super) struct AddressWatch {
    known: Vec<SocketAddr>,
    pub(super) next_poll: Instant,
}

impl QuicEndpoint {
    /// Puts an endpoint together, which proves `secret_key` and takes connections for `protocols`. Without
    /// protocols it only dials.
    ///
    /// # Errors
    /// [`BindError::Configuration`] where the parts do not fit together.
    pub fn new(
        parts: EndpointParts,
        secret_key: &SecretKey,
        protocols: Vec<Alpn>,
    ) -> Result<Arc<Self>, BindError> {
        Self::assemble(parts, secret_key, protocols)
            .map_err(|error| BindError::Configuration(error.to_string().into()))
    }

    fn assemble(
        parts: EndpointParts,
        secret_key: &SecretKey,
        protocols: Vec<Alpn>,
    ) -> Result<Arc<Self>, ConfigurationError> {
        let closes = Arc::new(AtomicBool::new(false));
        let transport = parts.tuning.transport(closes.clone())?;
        let tls = Tls {
            key: certified_key(&parts.crypto, secret_key)?,
            crypto: parts.crypto,
            time: parts.time,
        };
        let server = if protocols.is_empty() {
            None
        } else {
            let mut token_key = [0; 64];
            fill(tls.crypto.secure_random, &mut token_key);
            let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&token_key);
            let mut server = quinn::ServerConfig::new(tls.server(&protocols)?, Arc::new(token_key));
            server
                .transport_config(transport.clone())
                .time_source(Arc::new(Tokens(tls.time.clone())))
                .max_incoming(super::accept::INCOMING_MAX)
                // A client that moves to another address keeps its connections.
                .migration(true);
            Some(server)
        };
        let socket = SharedSocket::new(parts.socket)?;
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config(&tls, secret_key)?,
            server,
            socket.clone(),
            parts.runtime.clone(),
        )?;
        let bound = socket_address(&socket);
        Ok(Arc::new(Self {
            quinn: Mutex::new(Some(quinn)),
            watch: Mutex::new(AddressWatch {
                known: reachable(bound, &interfaces_of(bound, &parts.interfaces)),
                next_poll: parts.runtime.now() + INTERFACE_POLL_INTERVAL,
            }),
            socket,
            runtime: parts.runtime,
            interfaces: parts.interfaces,
            tuning: parts.tuning,
            tls,
            transport,
            clients: Mutex::default(),
            protocols,
            acceptor: Acceptor::default(),
            close_code: Arc::default(),
            closes,
            closing: tokio::sync::Mutex::default(),
        }))
    }

    /// Quinn's own endpoint, for measurements beside bare quinn; `None` once this one is closed. While it is
    /// held, the socket stays.
    #[must_use]
    pub fn quinn(&self) -> Option<quinn::Endpoint> {
        lock(&self.quinn).clone()
    }

    /// Dials with bare quinn under the same settings, for measurements beside it.
    ///
    /// # Errors
    /// [`quinn::ConnectError`] where quinn does not even try, or this endpoint is closed.
    pub fn connect_quinn(
        &self,
        peer: PeerId,
        address: SocketAddr,
        protocol: Alpn,
    ) -> Result<quinn::Connecting, quinn::ConnectError> {
        let quinn = self.quinn().ok_or(quinn::ConnectError::EndpointStopping)?;
        let client = self
            .client(protocol)
            .map_err(|_| quinn::ConnectError::NoDefaultClientConfig)?;
        quinn.connect_with(client, address, &pinned_name(peer))
    }

    /// How to dial for `protocol`.
    pub(super) fn client(&self, protocol: Alpn) -> Result<quinn::ClientConfig, ConfigurationError> {
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&protocol) {
            return Ok(client.clone());
        }
        let mut client = quinn::ClientConfig::new(self.tls.client(protocol)?);
        let random = self.tls.crypto.secure_random;
        client
            .transport_config(self.transport.clone())
            .initial_dst_cid_provider(Arc::new(move || connection_id(random)));
        clients.insert(protocol, client.clone());
        Ok(client)
    }

    /// Completes after `duration`, by the endpoint's own clock.
    pub(super) fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.sleep_until(self.runtime.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send + 'static {
        let mut timer: Pin<Box<dyn quinn::AsyncTimer>> = self.runtime.new_timer(deadline);
        std::future::poll_fn(move |cx| timer.as_mut().poll(cx))
    }

    /// The addresses, where they are not those that the watch knows.
    fn changed_addresses(&self) -> bool {
        let addresses = self.addresses();
        let mut watch = lock(&self.watch);
        watch.next_poll = self.runtime.now() + INTERFACE_POLL_INTERVAL;
        if watch.known == addresses {
            return false;
        }
        tracing::debug!(?addresses, "the addresses of this node have changed");
        watch.known = addresses;
        true
    }
}

impl fmt::Debug for QuicEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicEndpoint")
            .field("socket", &self.socket)
            .field("protocols", &self.protocols)
            .finish_non_exhaustive()
    }
}

impl Endpoint for QuicEndpoint {
    fn addresses(&self) -> Vec<SocketAddr> {
        let bound = socket_address(&self.socket);
        reachable(bound, &interfaces_of(bound, &self.interfaces))
    }

    fn addresses_changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if !socket_address(&self.socket).ip().is_unspecified() {
                return std::future::pending().await;
            }
            loop {
                let next_poll = lock(&self.watch).next_poll;
                self.sleep_until(next_poll).await;
                if self.changed_addresses() {
                    return;
                }
            }
        })
    }

    fn dial(
        &self,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        protocol: Alpn,
    ) -> BoxFuture<'_, Result<Arc<dyn Connection>, DialError>> {
        Box::pin(dial::dial(self, peer, addresses, protocol))
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>> {
        Box::pin(self.acceptor.next(self))
    }

    fn close(&self, code: CloseCode) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _closing = self.closing.lock().await;
            let Some(quinn) = lock(&self.quinn).take() else {
                return;
            };
            // Also where this future is dropped while it waits.
            let _release = Release(&self.socket);
            let _ = self.close_code.set(code);
            self.closes.store(true, Ordering::Relaxed);
            quinn.close(var_int(code), b"");
            smalti_core::select! {
                () = quinn.wait_idle() => (),
                () = self.sleep(CLOSE_WAIT_MAX) => (),
            }
        })
    }
}

/// Releases the socket when dropped.
struct Release<'a>(&'a SharedSocket);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn socket_address(socket: &SharedSocket) -> SocketAddr {
    use quinn::AsyncUdpSocket;
    socket
        .local_addr()
        .expect("a shared socket keeps its address")
}

fn interfaces_of(
    bound: SocketAddr,
    interfaces: &Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
) -> Vec<IpAddr> {
    if bound.ip().is_unspecified() {
        interfaces()
    } else {
        Vec::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn endpoint_config(
    tls: &Tls,
    secret_key: &SecretKey,
) -> Result<quinn::EndpointConfig, quinn::ConfigError> {
    // It follows from the identity, so that a node can reset the connections of its former life, and its
    // peers learn of the restart at once instead of at the idle timeout.
    let reset_key = Digest::of("quic stateless reset", &[secret_key.as_bytes()]);
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key.as_bytes());
    let random = tls.crypto.secure_random;
    let mut seed = [0; 32];
    fill(random, &mut seed);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config
        .rng_seed(Some(seed))
        .cid_generator(move || Box::new(ConnectionIds(random)))
        .max_udp_payload_size(UDP_PAYLOAD_LEN_MAX)?;
    Ok(config)
}

/// Fills `bytes` with randomness.
///
/// # Panics
/// Where the operating system gives none: nothing secure can go on then.
fn fill(random: &dyn SecureRandom, bytes: &mut [u8]) {
    random
        .fill(bytes)
        .expect("the operating system has randomness");
}

fn connection_id(random: &dyn SecureRandom) -> ConnectionId {
    let mut bytes = [0; CONNECTION_ID_LEN];
    fill(random, &mut bytes);
    ConnectionId::new(&bytes)
}

/// Draws connection ids from the crypto provider; quinn's own generators draw from the operating system.
struct ConnectionIds(&'static dyn SecureRandom);

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        connection_id(self.0)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The wall clock of address tokens.
struct Tokens(Arc<dyn TimeProvider>);

impl quinn::TimeSource for Tokens {
    fn now(&self) -> SystemTime {
        let seconds = self.0.current_time().map_or(0, |time| time.as_secs());
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }
}
