//! Accepting connections: many handshakes at once, none of which holds up the others.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::HandshakeData;
use smalti_core::runtime::{BoxFuture, Connection};

use super::connection::QuicConnection;
use super::endpoint::QuicEndpoint;
use super::error::LocalClose;

/// Dialers whose first packet waits to be looked at.
pub(super) const INCOMING_MAX: usize = 1_024;

/// Handshakes at a time. A dialer beyond them is refused at once.
const HANDSHAKES_MAX: usize = 512;

/// Handshakes at a time from which on a dialer must first show that it receives what is sent to its address
/// (RFC 9000, section 8.1), which costs it a round trip: forged addresses then cost no handshake.
const HANDSHAKES_UNVALIDATED_MAX: usize = 128;

/// What a handshake comes to; `None` where it has failed.
type Handshake = BoxFuture<'static, Option<Arc<dyn Connection>>>;

/// The handshakes under way. They go on by themselves; here their ends are waited for.
#[derive(Default)]
pub(super) struct Acceptor {
    handshakes: tokio::sync::Mutex<FuturesUnordered<Handshake>>,
}

impl Acceptor {
    /// The next connection whose handshake is done; `None` once the endpoint is closed. Cancellation safe.
    pub(super) async fn next(&self, endpoint: &QuicEndpoint) -> Option<Arc<dyn Connection>> {
        let mut handshakes = self.handshakes.lock().await;
        let quinn = endpoint.quinn()?;
        loop {
            smalti_core::select! {
                connection = next_of(&mut handshakes) => if connection.is_some() {
                    return connection;
                },
                incoming = quinn.accept() => match incoming {
                    Some(incoming) => admit(endpoint, incoming, &handshakes),
                    None => {
                        handshakes.clear();
                        return None;
                    }
                },
            }
        }
    }
}

/// The end of the next handshake; waits for ever where there is none.
async fn next_of(handshakes: &mut FuturesUnordered<Handshake>) -> Option<Arc<dyn Connection>> {
    if handshakes.is_empty() {
        std::future::pending::<()>().await;
    }
    handshakes.next().await.flatten()
}

/// Begins the handshake with a dialer, or sends it away.
fn admit(
    endpoint: &QuicEndpoint,
    incoming: quinn::Incoming,
    handshakes: &FuturesUnordered<Handshake>,
) {
    let address = incoming.remote_address();
    if handshakes.len() >= HANDSHAKES_MAX {
        tracing::debug!(%address, "dialer refused: too many handshakes");
        incoming.refuse();
        return;
    }
    if handshakes.len() >= HANDSHAKES_UNVALIDATED_MAX && !incoming.remote_address_validated() {
        if let Err(error) = incoming.retry() {
            tracing::debug!(%address, %error, "dialer refused");
        }
        return;
    }
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%address, %error, "dialer refused");
            return;
        }
    };
    let timeout = endpoint.sleep(endpoint.tuning.handshake_timeout);
    let protocols = endpoint.protocols.clone();
    let close = LocalClose::new(endpoint.close_code.clone());
    handshakes.push(Box::pin(async move {
        let connection = smalti_core::select! {
            result = connecting => match result {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%address, %error, "handshake failed");
                    return None;
                }
            },
            () = timeout => {
                tracing::debug!(%address, "handshake timed out");
                return None;
            }
        };
        let data = connection
            .handshake_data()?
            .downcast::<HandshakeData>()
            .ok()?;
        let name = data.protocol?;
        let protocol = protocols
            .into_iter()
            .find(|p| p.as_str().as_bytes() == name)?;
        let connection = QuicConnection::new(connection, protocol, close)?;
        Some(Arc::new(connection) as Arc<dyn Connection>)
    }));
}
