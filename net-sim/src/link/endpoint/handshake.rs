//! Handshakes: a dialer says who it is and what it wants to speak, and the acceptor answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smalti_core::id::{Digest, PeerId};
use smalti_core::runtime::Side;
use smalti_core::time::Instant;
use smalti_core::wire::CloseCode;

use super::super::CONNECTIONS_MAX;
use super::super::connection::Connection;
use super::super::packet::{Body, ConnectionId};
use super::{DialFailure, Endpoint, Event, Handle, UNNAMED};

/// How long a dialer waits before it sends its first packet again; each time twice as long.
pub(super) const DIAL_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Dial {
    pub(super) peer: PeerId,
    pub(super) protocol: Arc<str>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) nonce: [u8; 32],
    pub(super) begun: Instant,
    pub(super) again: Instant,
    pub(super) wait: Duration,
    pub(super) failed: Option<DialFailure>,
}

pub(super) struct HalfOpen {
    pub(super) peer: PeerId,
    pub(super) protocol: Arc<str>,
    pub(super) remote: (SocketAddr, ConnectionId),
    pub(super) secret: [u8; 32],
    pub(super) nonce: [u8; 32],
    pub(super) begun: Instant,
}

impl Endpoint {
    pub(super) fn receive_dial(
        &mut self,
        now: Instant,
        remote: (SocketAddr, ConnectionId),
        peer: PeerId,
        protocol: &str,
        nonce: [u8; 32],
    ) {
        if self.closed || self.connections.len() + self.half_open.len() >= CONNECTIONS_MAX {
            return;
        }
        let known = self
            .half_open
            .iter()
            .find(|(_, half_open)| half_open.remote == remote);
        if let Some((handle, half_open)) = known {
            let body = Body::Accept {
                peer: self.peer_id,
                nonce: half_open.nonce,
            };
            let (handle, to) = (*handle, remote);
            self.send(handle, to, body);
            return;
        }
        // A packet that was late: the connection has long been made.
        if self.connections.values().any(|connection| {
            (connection.remote, connection.remote_id) == remote && connection.peer == peer
        }) {
            return;
        }
        let Some(protocol) = self
            .protocols
            .iter()
            .find(|known| &***known == protocol)
            .cloned()
        else {
            let code = CloseCode::WRONG_ALPN;
            self.send(
                UNNAMED,
                remote,
                Body::Refuse {
                    peer: self.peer_id,
                    code,
                },
            );
            return;
        };
        let handle = self.draw_id();
        let own_nonce = self.draw_nonce();
        let secret = secret((peer, nonce), (self.peer_id, own_nonce), &protocol);
        let half_open = HalfOpen {
            peer,
            protocol,
            remote,
            secret,
            nonce: own_nonce,
            begun: now,
        };
        self.half_open.insert(handle, half_open);
        self.send(
            handle,
            remote,
            Body::Accept {
                peer: self.peer_id,
                nonce: own_nonce,
            },
        );
    }

    pub(super) fn receive_accept(
        &mut self,
        now: Instant,
        handle: Handle,
        remote: (SocketAddr, ConnectionId),
        peer: PeerId,
        nonce: [u8; 32],
    ) {
        let Some(dial) = self.dials.get(&handle) else {
            // Accepted at another address before, or given up.
            let known = self.connections.get(&handle);
            if known.is_none_or(|known| known.remote_id != remote.1) {
                self.send(handle, remote, Body::Reset);
            }
            return;
        };
        if dial.peer != peer {
            self.send(handle, remote, Body::Reset);
            self.address_failed(handle, remote.0, DialFailure::WrongPeer(remote.0));
            return;
        }
        let Some(dial) = self.dials.remove(&handle) else {
            return;
        };
        let secret = secret((self.peer_id, dial.nonce), (peer, nonce), &dial.protocol);
        let mut connection =
            Connection::new(Side::Dialer, peer, dial.protocol, remote, secret, now);
        // Of a packet that was sent again nobody knows which copy was answered.
        if dial.wait == DIAL_AGAIN {
            connection.set_first_rtt(now.since(dial.begun));
        }
        self.connections.insert(handle, connection);
        self.events.push_back(Event::Connected(handle));
    }

    pub(super) fn address_failed(
        &mut self,
        handle: Handle,
        address: SocketAddr,
        failure: DialFailure,
    ) {
        let Some(dial) = self.dials.get_mut(&handle) else {
            return;
        };
        dial.failed = Some(failure);
        dial.addresses.retain(|other| *other != address);
        if dial.addresses.is_empty() || failure == DialFailure::WrongProtocol {
            self.dials.remove(&handle);
            self.events.push_back(Event::DialFailed(handle, failure));
        }
    }

    pub(super) fn send_dial(&mut self, handle: Handle, dial: &Dial) {
        for address in &dial.addresses {
            let body = Body::Dial {
                peer: self.peer_id,
                protocol: dial.protocol.to_string(),
                nonce: dial.nonce,
            };
            self.send(handle, (*address, UNNAMED), body);
        }
    }
}

/// What both ends of a connection, and no other connection, have in common.
fn secret(dialer: (PeerId, [u8; 32]), acceptor: (PeerId, [u8; 32]), protocol: &str) -> [u8; 32] {
    let parts: [&[u8]; 5] = [
        dialer.0.as_bytes(),
        &dialer.1,
        acceptor.0.as_bytes(),
        &acceptor.1,
        protocol.as_bytes(),
    ];
    *Digest::of("simulated connection secret", &parts).as_bytes()
}
