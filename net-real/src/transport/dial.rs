//! Dialling a peer at several addresses: one after the other, a little apart, and the first that answers
//! rightly wins (after RFC 8305, "happy eyeballs").

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smalti_core::id::PeerId;
use smalti_core::runtime::{Alpn, BoxFuture, Connection, ConnectionError, DialError};

use super::connection::{QuicConnection, canonical};
use super::endpoint::QuicEndpoint;
use super::error::{Alert, LocalClose};
use super::identity::pinned_name;
use super::interfaces::ADDRESSES_MAX;

type Attempt = BoxFuture<
    'static,
    (
        SocketAddr,
        Result<quinn::Connection, quinn::ConnectionError>,
    ),
>;

/// Connects to `peer`, see [`Endpoint::dial`](smalti_core::runtime::Endpoint::dial).
pub(super) async fn dial(
    endpoint: &QuicEndpoint,
    peer: PeerId,
    addresses: Vec<SocketAddr>,
    protocol: Alpn,
) -> Result<Arc<dyn Connection>, DialError> {
    let addresses = dialable(addresses);
    if addresses.is_empty() {
        return Err(DialError::NoAddress { peer });
    }
    let quinn = endpoint.quinn().ok_or(DialError::EndpointClosed)?;
    let client = endpoint
        .client(protocol)
        .map_err(|error| DialError::Handshake {
            peer,
            error: ConnectionError::Transport(error.to_string().into()),
        })?;
    let name = pinned_name(peer);
    let mut failure = DialError::Unreachable {
        peer,
        addresses: addresses.clone(),
    };
    let mut waiting = VecDeque::from(addresses);
    let mut attempts: FuturesUnordered<Attempt> = FuturesUnordered::new();
    let mut timeout = pin!(endpoint.sleep(endpoint.tuning.handshake_timeout));
    loop {
        // The first round begins an attempt, and so does each that follows a failure or a wait.
        while let Some(address) = waiting.pop_front() {
            match quinn.connect_with(client.clone(), address, &name) {
                Ok(connecting) => {
                    attempts.push(Box::pin(async move { (address, connecting.await) }));
                    break;
                }
                Err(quinn::ConnectError::EndpointStopping) => {
                    return Err(DialError::EndpointClosed);
                }
                // An IPv6 address where there is only IPv4, say: as unreachable as any.
                Err(error) => tracing::debug!(%peer, %address, %error, "address skipped"),
            }
        }
        smalti_core::select! {
            ended = attempts.next() => match ended {
                Some((_, Ok(connection))) => {
                    if let Some(connection) = QuicConnection::new(connection, protocol, endpoint) {
                        return Ok(Arc::new(connection));
                    }
                }
                Some((address, Err(error))) => {
                    tracing::debug!(%peer, %address, %error, "dial failed");
                    let error = dial_error(endpoint, peer, address, protocol, error);
                    match error {
                        Some(DialError::EndpointClosed) => return Err(DialError::EndpointClosed),
                        Some(error) if weight(&error) > weight(&failure) => failure = error,
                        _ => {}
                    }
                }
                // Nothing is under way and, since each round begins what there is, nothing left.
                None => return Err(failure),
            },
            () = timeout.as_mut() => return Err(failure),
            () = stagger(endpoint, !waiting.is_empty()) => {}
        }
    }
}

/// What can be dialled of `addresses`: each once, in their order, a bounded number.
fn dialable(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut dialable = Vec::new();
    for address in addresses.into_iter().map(canonical) {
        let nowhere = address.port() == 0 || address.ip().is_unspecified();
        if !nowhere && !dialable.contains(&address) {
            dialable.push(address);
        }
    }
    dialable.truncate(ADDRESSES_MAX);
    dialable
}

/// Waits until it is time for the next address, for ever where there is none.
async fn stagger(endpoint: &QuicEndpoint, more: bool) {
    if more {
        endpoint.sleep(endpoint.tuning.dial_stagger).await;
    } else {
        std::future::pending::<()>().await;
    }
}

/// What a failed attempt says about the dial; `None` where nobody has answered.
fn dial_error(
    endpoint: &QuicEndpoint,
    peer: PeerId,
    address: SocketAddr,
    protocol: Alpn,
    error: quinn::ConnectionError,
) -> Option<DialError> {
    match Alert::of(&error) {
        // Only the verifier of this node sends these two: the key is another, or is not held.
        Some(Alert::Sent(Alert::ACCESS_DENIED | Alert::DECRYPT_ERROR)) => {
            return Some(DialError::WrongPeer { peer, address });
        }
        Some(
            Alert::Sent(Alert::NO_APPLICATION_PROTOCOL)
            | Alert::Received(Alert::NO_APPLICATION_PROTOCOL),
        ) => {
            return Some(DialError::WrongAlpn { peer, protocol });
        }
        Some(Alert::Sent(_) | Alert::Received(_)) | None => {}
    }
    match LocalClose::new(endpoint.close_code.clone(), None).connection_error(error) {
        ConnectionError::TimedOut => None,
        ConnectionError::ClosedLocally { .. } => Some(DialError::EndpointClosed),
        error => Some(DialError::Handshake { peer, error }),
    }
}

/// Which of two failures, at two addresses, tells more.
fn weight(error: &DialError) -> u8 {
    match error {
        DialError::WrongAlpn { .. } => 3,
        DialError::WrongPeer { .. } => 2,
        DialError::Handshake { .. } => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_or_repeat_are_not_dialled() {
        let addresses = [
            "192.0.2.1:0",
            "0.0.0.0:1",
            "192.0.2.1:1",
            "[::ffff:192.0.2.1]:1",
        ];
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(dialable(addresses), ["192.0.2.1:1".parse().unwrap()]);
    }

    #[test]
    fn the_number_of_addresses_dialled_is_bounded() {
        let addresses = (1..100).map(|port| ([192, 0, 2, 1], port).into()).collect();
        assert_eq!(dialable(addresses).len(), ADDRESSES_MAX);
    }
}
