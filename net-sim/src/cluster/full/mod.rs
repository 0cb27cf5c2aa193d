//! The real QUIC stack over the simulated network.
//!
//! The endpoint is that of production, put together from other parts: a socket through the fault layer,
//! the host's executor and clock, and cryptography whose randomness follows from the seed. Signatures are
//! Ed25519's and need none; the key exchange is our own, since ring's draws from the operating system.
//! These parts exist in this crate alone: production cannot reach them.

mod crypto;
mod quinn_runtime;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use smalti::transport::{EndpointParts, QuicEndpoint, Tuning};
use smalti_core::runtime::{BindError, Endpoint, EndpointConfig};
use tokio::runtime::Handle;

pub(super) use crypto::{CurrentRun, Secrets};

use super::socket::Socket;
use super::state::{Life, Run};

/// Opens a QUIC endpoint on a host.
pub(super) async fn bind(
    run: &Run,
    life: Life,
    executor: &Handle,
    config: EndpointConfig,
) -> Result<Arc<dyn Endpoint>, BindError> {
    let socket = Socket::bind_first(run, life, &config.addresses).await?;
    let runtime = quinn_runtime::HostRuntime::new(run, life, executor);
    let parts = EndpointParts {
        crypto: Arc::new(crypto::provider()),
        time: Arc::new(crypto::WallClock {
            run: run.clone(),
            life,
        }),
        socket: socket::QuicSocket::start(socket, &runtime),
        runtime,
        // The socket has the host's one address, so nobody asks.
        interfaces: Arc::new(Vec::new),
        tuning: Tuning::default(),
    };
    Ok(QuicEndpoint::new(
        parts,
        &config.secret_key,
        config.protocols,
    )?)
}
