//! All connections of one node, and which packet belongs to which.

mod handshake;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use smalti_core::id::PeerId;
use smalti_core::runtime::{ConnectionError, SendDatagramError, Side, StreamError};
use smalti_core::time::Instant;
use smalti_core::wire::CloseCode;

use super::HANDSHAKE_TIMEOUT;
use super::connection::{Connection, Notice};
use super::packet::{Body, ConnectionId, Frame, Packet};
use handshake::{DIAL_AGAIN, Dial, HalfOpen};

/// How a connection is named that has no name yet.
const UNNAMED: ConnectionId = ConnectionId(0);

/// Names a connection, or a dial, at this endpoint.
pub type Handle = ConnectionId;

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Bytes,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Nobody answered in time.
    Unreachable,
    /// Whoever answers there is another peer.
    WrongPeer(SocketAddr),
    /// The peer does not speak the protocol.
    WrongProtocol,
    /// The endpoint has been closed.
    EndpointClosed,
}

/// What an endpoint has to say to its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The dial has become a connection.
    Connected(Handle),
    /// The dial has failed.
    DialFailed(Handle, DialFailure),
    /// A peer has connected.
    Incoming(Handle),
    /// The peer has opened a stream.
    StreamOpened(Handle),
    /// The stream can be read, or has ended.
    Readable(Handle, u64),
    /// The stream may take more, or wants no more, or all of it has arrived.
    Writable(Handle, u64),
    /// More streams may be opened.
    StreamsAllowed(Handle),
    /// A datagram has arrived.
    Datagram(Handle),
    /// The connection is closed.
    Closed(Handle),
}

/// A connection that was closed here answers for a while that it is.
struct Draining {
    until: Instant,
    answer: Transmit,
}

/// The transport of one node. See the [module](super).
pub struct Endpoint {
    peer_id: PeerId,
    protocols: Vec<Arc<str>>,
    rng: ChaCha8Rng,
    dials: BTreeMap<Handle, Dial>,
    half_open: BTreeMap<Handle, HalfOpen>,
    connections: BTreeMap<Handle, Connection>,
    draining: BTreeMap<Handle, Draining>,
    closed: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Endpoint {
    /// The endpoint of `peer_id`, where `protocols` may be dialled.
    #[must_use]
    pub fn new(peer_id: PeerId, protocols: Vec<Arc<str>>, rng: ChaCha8Rng) -> Self {
        Self {
            peer_id,
            protocols,
            rng,
            dials: BTreeMap::new(),
            half_open: BTreeMap::new(),
            connections: BTreeMap::new(),
            draining: BTreeMap::new(),
            closed: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Dials `peer` at all of `addresses` at once, for `protocol`; [`Event::Connected`] or
    /// [`Event::DialFailed`] tells what became of it.
    pub fn dial(
        &mut self,
        now: Instant,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        protocol: Arc<str>,
    ) -> Handle {
        let handle = self.draw_id();
        if self.closed {
            self.events
                .push_back(Event::DialFailed(handle, DialFailure::EndpointClosed));
            return handle;
        }
        let nonce = self.draw_nonce();
        let dial = Dial {
            peer,
            protocol,
            addresses,
            nonce,
            begun: now,
            again: now + DIAL_AGAIN,
            wait: DIAL_AGAIN,
            failed: None,
        };
        self.send_dial(handle, &dial);
        self.dials.insert(handle, dial);
        handle
    }

    /// Gives the dial up. Does nothing where it is over.
    pub fn cancel_dial(&mut self, handle: Handle) {
        self.dials.remove(&handle);
    }

    /// Closes the connection at once.
    pub fn close(&mut self, now: Instant, handle: Handle, code: CloseCode, reason: &str) {
        let error = ConnectionError::ClosedLocally { code };
        self.close_with(now, handle, error, code, reason);
    }

    /// Closes all connections and refuses new ones; it is done once [`is_drained`](Self::is_drained).
    pub fn close_all(&mut self, now: Instant, code: CloseCode) {
        self.closed = true;
        for handle in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(now, handle, code, "");
        }
        for handle in std::mem::take(&mut self.dials).into_keys() {
            self.events
                .push_back(Event::DialFailed(handle, DialFailure::EndpointClosed));
        }
        self.half_open.clear();
    }

    /// Whether the endpoint is closed and has nothing more to tell anyone.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.closed && self.draining.is_empty()
    }

    /// Forgets a closed connection that nobody holds any more.
    pub fn forget(&mut self, handle: Handle) {
        if self
            .connections
            .get(&handle)
            .is_some_and(|connection| connection.closed.is_some())
        {
            self.connections.remove(&handle);
        }
    }

    // ------------------------------------------------------------------ one connection

    /// Who is at the other end, for which protocol, who has dialled, and where the peer is. `None` where
    /// the connection is not known.
    #[must_use]
    pub fn describe(&self, handle: Handle) -> Option<(PeerId, Arc<str>, Side, SocketAddr)> {
        let connection = self.connections.get(&handle)?;
        let protocol = connection.protocol.clone();
        Some((
            connection.peer,
            protocol,
            connection.side,
            connection.remote,
        ))
    }

    /// The smoothed round-trip time; zero for a connection that is not known.
    #[must_use]
    pub fn rtt(&self, handle: Handle) -> Duration {
        self.connections
            .get(&handle)
            .map_or(Duration::ZERO, Connection::rtt)
    }

    /// Why the connection is closed; `None` while it is open.
    #[must_use]
    pub fn close_reason(&self, handle: Handle) -> Option<ConnectionError> {
        match self.connections.get(&handle) {
            Some(connection) => connection.closed.clone(),
            None => Some(ConnectionError::ClosedLocally {
                code: CloseCode::NONE,
            }),
        }
    }

    /// 32 bytes for `label` and `context` that both ends derive alike.
    ///
    /// # Errors
    /// Where the connection is not known.
    pub fn export(
        &self,
        handle: Handle,
        label: &[u8],
        context: &[u8],
    ) -> Result<[u8; 32], ConnectionError> {
        match self.connections.get(&handle) {
            Some(connection) => Ok(connection.export(label, context)),
            None => Err(ConnectionError::ClosedLocally {
                code: CloseCode::NONE,
            }),
        }
    }

    /// Opens a stream; `None` while the peer allows no more.
    ///
    /// # Errors
    /// Once the connection is closed.
    pub fn open(&mut self, handle: Handle) -> Result<Option<u64>, ConnectionError> {
        Ok(self.alive(handle)?.open())
    }

    /// The next stream that the peer has opened.
    ///
    /// # Errors
    /// Once the connection is closed.
    pub fn accept(&mut self, handle: Handle) -> Result<Option<u64>, ConnectionError> {
        Ok(self.alive(handle)?.accept())
    }

    /// Writes to a stream as [`SendStream::poll_write`](smalti_core::runtime::SendStream::poll_write) does;
    /// zero where there is no room.
    ///
    /// # Errors
    /// Where the stream takes nothing any more.
    pub fn write(
        &mut self,
        handle: Handle,
        stream: u64,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamError> {
        self.alive(handle)?.write(stream, chunks)
    }

    /// Says that no more follows on the stream.
    pub fn finish(&mut self, handle: Handle, stream: u64) {
        if let Ok(connection) = self.alive(handle) {
            connection.finish(stream);
        }
    }

    /// Abandons what the stream still has to send.
    pub fn reset(&mut self, handle: Handle, stream: u64, code: CloseCode) {
        if let Ok(connection) = self.alive(handle) {
            connection.reset(stream, code);
        }
    }

    /// Whether the stream is stopped by the peer (`Some(Some(code))`) or delivered (`Some(None)`).
    ///
    /// # Errors
    /// Where the connection is closed, or the stream was reset here.
    pub fn stopped(
        &mut self,
        handle: Handle,
        stream: u64,
    ) -> Result<Option<Option<CloseCode>>, StreamError> {
        self.alive(handle)?.stopped(stream)
    }

    /// Reads from a stream as [`RecvStream::poll_read`](smalti_core::runtime::RecvStream::poll_read) does;
    /// `None` where nothing is there yet, `Some(None)` at the end.
    ///
    /// # Errors
    /// Where nothing more will arrive.
    pub fn read(
        &mut self,
        handle: Handle,
        stream: u64,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Result<Option<Option<usize>>, StreamError> {
        self.alive(handle)?.read(stream, chunks, limit)
    }

    /// Tells the peer to send no more on the stream.
    pub fn stop(&mut self, handle: Handle, stream: u64, code: CloseCode) {
        if let Ok(connection) = self.alive(handle) {
            connection.stop(stream, code);
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// Where it is too long or the connection is closed.
    pub fn send_datagram(
        &mut self,
        handle: Handle,
        datagram: Bytes,
    ) -> Result<(), SendDatagramError> {
        self.alive(handle)?.send_datagram(datagram)
    }

    /// The next datagram that has arrived.
    ///
    /// # Errors
    /// Once the connection is closed.
    pub fn read_datagram(&mut self, handle: Handle) -> Result<Option<Bytes>, ConnectionError> {
        Ok(self.alive(handle)?.read_datagram())
    }

    // ------------------------------------------------------------------ the driver's side

    /// A packet has arrived from `from`. What cannot be read is dropped.
    pub fn handle_packet(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Some(packet) = Packet::decode(bytes) else {
            return;
        };
        let remote = (from, packet.from);
        match packet.body {
            Body::Dial {
                peer,
                protocol,
                nonce,
            } => {
                self.receive_dial(now, remote, peer, &protocol, nonce);
            }
            Body::Accept { peer, nonce } => {
                self.receive_accept(now, packet.to, remote, peer, nonce);
            }
            Body::Refuse { peer, code: _ } => {
                let Some(dial) = self.dials.get(&packet.to) else {
                    return;
                };
                let failure = if dial.peer == peer {
                    DialFailure::WrongProtocol
                } else {
                    DialFailure::WrongPeer(from)
                };
                self.address_failed(packet.to, from, failure);
            }
            Body::Reset => {
                self.half_open.remove(&packet.to);
                if let Some(connection) = self.connections.get_mut(&packet.to)
                    && connection.remote_id == packet.from
                {
                    connection.close(ConnectionError::Reset);
                    self.collect_notices(packet.to);
                }
            }
            Body::Data { number, frames } => {
                self.receive_data(now, packet.to, remote, number, frames);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let dials = self.dials.values().map(|dial| (dial.again, "dial again"));
        let half_open = self
            .half_open
            .values()
            .map(|half_open| (half_open.begun + HANDSHAKE_TIMEOUT, "handshake"));
        let draining = self
            .draining
            .values()
            .map(|draining| (draining.until, "draining"));
        let connections = self
            .connections
            .values()
            .filter_map(Connection::poll_timeout);
        let all = dials.chain(half_open).chain(draining).chain(connections);
        all.min_by_key(|(at, _)| *at)
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.draining.retain(|_, draining| draining.until > now);
        self.half_open
            .retain(|_, half_open| half_open.begun + HANDSHAKE_TIMEOUT > now);
        let due: Vec<Handle> = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.again <= now)
            .map(|(id, _)| *id)
            .collect();
        for handle in due {
            let Some(mut dial) = self.dials.remove(&handle) else {
                continue;
            };
            if now >= dial.begun + HANDSHAKE_TIMEOUT {
                let failure = dial.failed.unwrap_or(DialFailure::Unreachable);
                self.events.push_back(Event::DialFailed(handle, failure));
                continue;
            }
            dial.wait *= 2;
            dial.again = (now + dial.wait).min(dial.begun + HANDSHAKE_TIMEOUT);
            self.send_dial(handle, &dial);
            self.dials.insert(handle, dial);
        }
        for handle in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get_mut(&handle) {
                connection.handle_timeout(now);
            }
            self.collect_notices(handle);
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(transmit) = self.transmits.pop_front() {
            return Some(transmit);
        }
        for (handle, connection) in &mut self.connections {
            if let Some((number, frames)) = connection.poll_frames(now) {
                let packet = Packet {
                    to: connection.remote_id,
                    from: *handle,
                    body: Body::Data { number, frames },
                };
                return Some(Transmit {
                    to: connection.remote,
                    bytes: packet.encode(),
                });
            }
        }
        None
    }

    /// The next thing to tell the user.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ------------------------------------------------------------------ within

    fn receive_data(
        &mut self,
        now: Instant,
        handle: Handle,
        remote: (SocketAddr, ConnectionId),
        number: u64,
        frames: Vec<Frame>,
    ) {
        if let Some(half_open) = self.half_open.get(&handle)
            && half_open.remote.1 == remote.1
            && let Some(half_open) = self.half_open.remove(&handle)
        {
            let HalfOpen {
                peer,
                protocol,
                secret,
                begun,
                ..
            } = half_open;
            let mut connection =
                Connection::new(Side::Acceptor, peer, protocol, remote, secret, now);
            connection.set_first_rtt(now.since(begun));
            self.connections.insert(handle, connection);
            self.events.push_back(Event::Incoming(handle));
        }
        if let Some(draining) = self.draining.get(&handle) {
            self.transmits.push_back(draining.answer.clone());
            return;
        }
        let known = self.connections.get_mut(&handle);
        let Some(connection) = known.filter(|known| known.remote_id == remote.1) else {
            // Whoever says farewell needs no answer.
            if !frames
                .iter()
                .any(|frame| matches!(frame, Frame::Close { .. }))
            {
                self.send(handle, remote, Body::Reset);
            }
            return;
        };
        if connection.closed.is_some() {
            return;
        }
        connection.remote = remote.0;
        if let Err(violation) = connection.receive(now, number, frames) {
            let error = ConnectionError::Transport(violation.into());
            self.close_with(now, handle, error, CloseCode::PROTOCOL_VIOLATION, violation);
        }
        self.collect_notices(handle);
    }

    fn close_with(
        &mut self,
        now: Instant,
        handle: Handle,
        error: ConnectionError,
        code: CloseCode,
        reason: &str,
    ) {
        let Some(connection) = self.connections.get_mut(&handle) else {
            return;
        };
        if connection.closed.is_some() {
            return;
        }
        let (number, frames) = connection.close_frames(code, reason);
        let packet = Packet {
            to: connection.remote_id,
            from: handle,
            body: Body::Data { number, frames },
        };
        let answer = Transmit {
            to: connection.remote,
            bytes: packet.encode(),
        };
        let until = now + connection.draining_time();
        connection.close(error);
        self.transmits.push_back(answer.clone());
        self.draining.insert(handle, Draining { until, answer });
        self.collect_notices(handle);
    }

    fn collect_notices(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(&handle) else {
            return;
        };
        let events = connection.notices.drain(..).map(|notice| match notice {
            Notice::Opened => Event::StreamOpened(handle),
            Notice::Readable(stream) => Event::Readable(handle, stream),
            Notice::Writable(stream) => Event::Writable(handle, stream),
            Notice::StreamsAllowed => Event::StreamsAllowed(handle),
            Notice::Datagram => Event::Datagram(handle),
            Notice::Closed => Event::Closed(handle),
        });
        self.events.extend(events);
    }

    fn send(&mut self, from: Handle, to: (SocketAddr, ConnectionId), body: Body) {
        let bytes = Packet {
            to: to.1,
            from,
            body,
        }
        .encode();
        self.transmits.push_back(Transmit { to: to.0, bytes });
    }

    fn alive(&mut self, handle: Handle) -> Result<&mut Connection, ConnectionError> {
        match self.connections.get_mut(&handle) {
            Some(connection) => match &connection.closed {
                None => Ok(connection),
                Some(error) => Err(error.clone()),
            },
            None => Err(ConnectionError::ClosedLocally {
                code: CloseCode::NONE,
            }),
        }
    }

    fn draw_id(&mut self) -> ConnectionId {
        ConnectionId(self.rng.next_u64() | 1)
    }

    fn draw_nonce(&mut self) -> [u8; 32] {
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }
}
