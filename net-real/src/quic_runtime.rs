//! The runtime of production: QUIC, the machine's clocks and randomness, and tokio's tasks.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use quinn::{AsyncTimer, AsyncUdpSocket};
use ring::rand::SecureRandom;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::time_provider::DefaultTimeProvider;
use smalti_core::id::{NetworkId, SecretKey};
use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::{
    BindError, BoxFuture, Clock, Disk, Endpoint, EndpointConfig, Entropy, OpenStore, Spawner,
    Stores, Transport,
};
use smalti_core::time::{Instant, WallTime};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::storage::{OsDisk, open_directory};
use crate::transport::interfaces::interface_addresses;
use crate::transport::{EndpointParts, QuicEndpoint, Tuning, socket};

/// Runs a node on this machine: over QUIC, on a tokio runtime of either kind, with its data directory in the
/// file system.
///
/// Each node has its own, because a node's clock starts with it.
#[derive(Clone, Debug)]
pub struct QuicRuntime {
    tokio: Handle,
    started: tokio::time::Instant,
    tuning: Tuning,
}

impl QuicRuntime {
    /// A runtime on the tokio runtime that the caller runs on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it can panic")]
    pub fn new() -> Self {
        Self::on(Handle::current())
    }

    /// A runtime on the tokio runtime of `tokio`, whose time and I/O drivers must be enabled.
    #[must_use]
    pub fn on(tokio: Handle) -> Self {
        Self {
            tokio,
            started: tokio::time::Instant::now(),
            tuning: Tuning::default(),
        }
    }

    /// The same with other limits and timeouts for the endpoints that it binds from now on.
    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// Binds an endpoint, as [`Transport::bind`] does, and gives it with its own type.
    ///
    /// # Errors
    /// [`BindError`] where no address can be bound.
    pub fn bind_quic(&self, config: EndpointConfig) -> Result<Arc<QuicEndpoint>, BindError> {
        let socket = self.bind_socket(config.addresses)?;
        let runtime = Arc::new(QuinnRuntime(self.tokio.clone()));
        let parts = EndpointParts {
            crypto: Arc::new(crypto_provider()),
            time: Arc::new(DefaultTimeProvider),
            socket: quinn::Runtime::wrap_udp_socket(&*runtime, socket)
                .map_err(|error| BindError::Configuration(error.to_string().into()))?,
            runtime,
            interfaces: Arc::new(interface_addresses),
            tuning: self.tuning.clone(),
        };
        QuicEndpoint::new(parts, &config.secret_key, config.protocols)
    }

    /// The first of `addresses` that can be bound; all interfaces where none is given.
    fn bind_socket(&self, addresses: Vec<SocketAddr>) -> Result<UdpSocket, BindError> {
        let addresses = if addresses.is_empty() {
            vec![
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                // Machines without IPv6 exist.
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            ]
        } else {
            addresses
        };
        let mut failure = BindError::Configuration("no address to listen on".into());
        for address in addresses {
            match socket::bind(address, self.tuning.socket_buffer_len) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    failure = BindError::Address {
                        address,
                        reason: error.to_string().into(),
                    };
                }
            }
        }
        Err(failure)
    }
}

impl Transport for QuicRuntime {
    fn bind(&self, config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>> {
        Box::pin(async {
            let endpoint = self.bind_quic(config)?;
            Ok(endpoint as Arc<dyn Endpoint>)
        })
    }
}

impl Clock for QuicRuntime {
    fn now(&self) -> Instant {
        let nanos = self.started.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallTime {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        WallTime::default() + since_epoch
    }

    fn sleep_until(&self, deadline: Instant, _reason: &'static str) -> BoxFuture<'static, ()> {
        match self.started.checked_add(deadline.since(Instant::ZERO)) {
            Some(deadline) => {
                let _context = self.tokio.enter();
                Box::pin(tokio::time::sleep_until(deadline))
            }
            None => Box::pin(std::future::pending()),
        }
    }
}

impl Entropy for QuicRuntime {
    /// # Panics
    /// Where the operating system gives no randomness: nothing secure can go on then.
    fn seed(&self, _label: &str) -> [u8; 32] {
        random_bytes()
    }
}

impl Spawner for QuicRuntime {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.tokio.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task has panicked");
            }
        });
    }

    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let running = self.tokio.spawn_blocking(move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!(task = name, "work that blocks has panicked");
            }
        });
        Box::pin(async move {
            // An error means that tokio was shut down before the work began: it never will.
            let _ = running.await;
        })
    }
}

impl Stores for QuicRuntime {
    fn open_store(
        &self,
        directory: PathBuf,
        network: NetworkId,
        given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>> {
        let (sender, mut opened) = oneshot::channel();
        let work = move || {
            // Where nobody waits any more, the store is closed again.
            let _ = sender.send(open_store(directory, &network, given.as_ref()));
        };
        Box::pin(async move {
            self.blocking("open the store", Box::new(work)).await;
            opened.try_recv().unwrap_or_else(|_| {
                Err(StorageError::Disk {
                    doing: "opening the store",
                    cause: "the code that opens it has panicked".to_owned(),
                })
            })
        })
    }
}

fn open_store(
    directory: PathBuf,
    network: &NetworkId,
    given: Option<&SecretKey>,
) -> Result<OpenStore, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(directory)?);
    let fresh = || SecretKey::from_bytes(random_bytes());
    open_directory(&disk, network, given, fresh)
}

/// 32 bytes from the operating system.
pub(crate) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system has randomness");
    bytes
}

/// ring's cryptography, reduced to what two nodes of ours use with each other. AES goes first, which
/// processors compute; where one does not, ChaCha20 is offered.
fn crypto_provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    }
}

/// Quinn's runtime on a given tokio runtime, so that a node may also be used from threads outside of it.
#[derive(Debug)]
struct QuinnRuntime(Handle);

impl quinn::Runtime for QuinnRuntime {
    fn new_timer(&self, deadline: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _context = self.0.enter();
        quinn::TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _context = self.0.enter();
        quinn::TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        quinn::TokioRuntime.now()
    }
}
