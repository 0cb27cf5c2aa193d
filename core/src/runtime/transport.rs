//! Endpoints, connections and streams: QUIC's shape (RFC 9000), without its wire.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::BoxFuture;
use crate::id::{PeerId, SecretKey};
use crate::time::Duration;
use crate::wire::CloseCode;

/// Names a protocol in the TLS handshake (RFC 7301), for example `/smalti/gossip/1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alpn(&'static str);

impl Alpn {
    /// The protocol with this name.
    ///
    /// # Panics
    /// If the name is empty or longer than 255 bytes; in a constant this is a compile error.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(
            !name.is_empty() && name.len() <= 255,
            "an ALPN name has 1 to 255 bytes"
        );
        Self(name)
    }

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node has dialled.
    Dialer,
    /// The peer has dialled.
    Acceptor,
}

/// How an endpoint is bound.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The node's identity, proved in every handshake.
    pub secret_key: SecretKey,
    /// Where to listen; the first that can be bound is used. Empty: all interfaces, a free port.
    pub addresses: Vec<SocketAddr>,
    /// The protocols that may be dialled here. A dialer that offers none of them is refused in the
    /// handshake.
    pub protocols: Vec<Alpn>,
}

/// A node's one socket: it listens and dials, for all protocols.
pub trait Endpoint: Send + Sync + 'static {
    /// The addresses under which others may reach this endpoint. Unspecified addresses are expanded to
    /// those of the machine's interfaces.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// Completes when [`addresses`](Self::addresses) may have changed; never, where they cannot change.
    fn addresses_changed(&self) -> BoxFuture<'_, ()>;

    /// Connects to `peer` at one of `addresses` for `protocol`.
    ///
    /// When it succeeds, the peer has proved its key and speaks the protocol. It does not mean that the peer
    /// has admitted this node: in TLS 1.3 the dialer is done first.
    ///
    /// # Errors
    /// [`DialError`]. It always ends: within the handshake timeout where nobody answers.
    fn dial(
        &self,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        protocol: Alpn,
    ) -> BoxFuture<'_, Result<Arc<dyn Connection>, DialError>>;

    /// The next connection that a peer has made to this endpoint, its handshake done; `None` once the
    /// endpoint is closed.
    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>>;

    /// Closes all connections with `code`, tells the peers, and completes when the socket is released.
    fn close(&self, code: CloseCode) -> BoxFuture<'_, ()>;
}

/// A connection to one peer for one protocol. Dropping all handles of it closes it.
pub trait Connection: Send + Sync + 'static {
    /// The peer, which has proved its key.
    fn peer(&self) -> PeerId;

    /// The protocol of the connection.
    fn protocol(&self) -> Alpn;

    /// Who has dialled.
    fn side(&self) -> Side;

    /// Where the peer is now. It may change while the connection lives.
    fn remote_address(&self) -> SocketAddr;

    /// The smoothed round-trip time of the path (RFC 9002, section 5.3).
    fn rtt(&self) -> Duration;

    /// Opens a bidirectional stream. The peer learns of it with the first bytes. Waits while the peer's
    /// limit of open streams is reached.
    ///
    /// # Errors
    /// [`ConnectionError`] once the connection is closed.
    fn open(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>>;

    /// The next bidirectional stream that the peer has opened.
    ///
    /// # Errors
    /// [`ConnectionError`] once the connection is closed.
    fn accept(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>>;

    /// Sends `datagram` at most once, unordered; it may be lost.
    ///
    /// # Errors
    /// [`SendDatagramError`] where it cannot be sent at all; nothing is sent then.
    fn send_datagram(&self, datagram: Bytes) -> Result<(), SendDatagramError>;

    /// The next datagram of the peer.
    ///
    /// # Errors
    /// [`ConnectionError`] once the connection is closed.
    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>>;

    /// 32 bytes that both ends of this connection, and nobody else, derive alike from `label` and
    /// `context` (RFC 8446, section 7.5).
    ///
    /// # Errors
    /// [`ConnectionError`] where the session cannot give them.
    fn export_keying_material(
        &self,
        label: &[u8],
        context: &[u8],
    ) -> Result<[u8; 32], ConnectionError>;

    /// Closes the connection at once: unsent and unread data is lost. The peer is shown `code` and
    /// `reason`. Does nothing where it is closed already.
    fn close(&self, code: CloseCode, reason: &str);

    /// Why the connection was closed; `None` while it is open.
    fn close_reason(&self) -> Option<ConnectionError>;

    /// Completes when the connection is closed, however that comes.
    fn closed(&self) -> BoxFuture<'_, ConnectionError>;
}

/// Both halves of a bidirectional stream.
pub type BiStream = (Box<dyn SendStream>, Box<dyn RecvStream>);

/// The sending half of a stream. Dropping it without [`finish`](Self::finish) resets the stream.
pub trait SendStream: Send + 'static {
    /// Hands over whole chunks from the front of `chunks`, or the beginning of the first, without copying:
    /// what was taken is removed from the slice's chunks (a chunk taken whole becomes empty).
    ///
    /// Gives the number of bytes taken, at least one where any is given; pending while the peer's
    /// flow-control window or the send buffer is full.
    ///
    /// # Errors
    /// [`StreamError`]: the stream takes nothing any more.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>>;

    /// Says that no more follows. What was written is still delivered. Idempotent.
    fn finish(&mut self);

    /// Abandons the stream: what was not delivered yet may never be.
    fn reset(&mut self, code: CloseCode);

    /// Completes when the peer wants no more of the stream (`Ok(code)` given with its stop), or, once
    /// finished, when the peer has received all (`Ok(None)`).
    ///
    /// # Errors
    /// [`StreamError`] where the connection is lost first.
    fn poll_stopped(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<CloseCode>, StreamError>>;
}

/// The receiving half of a stream. Dropping it stops the stream: the peer's writes fail.
pub trait RecvStream: Send + 'static {
    /// Appends what has arrived, in order and without copying, to `chunks`: at least one chunk, and not
    /// more than about `limit` bytes. Gives the number of bytes appended, or `None` at the end of the stream.
    ///
    /// What is not read holds the peer back: there is no buffer beyond the flow-control window.
    ///
    /// # Errors
    /// [`StreamError`]: nothing more will arrive.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Poll<Result<Option<usize>, StreamError>>;

    /// Tells the peer to send no more.
    fn stop(&mut self, code: CloseCode);
}

/// An endpoint cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// None of the addresses can be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Address {
        /// The last address tried.
        address: SocketAddr,
        /// What the operating system said.
        reason: Arc<str>,
    },
    /// The configuration cannot be used, for example a key that the TLS provider refuses.
    #[error("the endpoint cannot be configured: {0}")]
    Configuration(Arc<str>),
}

/// A peer cannot be reached, or refuses the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No address of the peer is known.
    #[error("no address of peer {peer} is known")]
    NoAddress {
        /// Whom to dial.
        peer: PeerId,
    },
    /// Nobody answers at any of the peer's addresses.
    #[error("peer {peer} does not answer at {addresses:?}")]
    Unreachable {
        /// Whom to dial.
        peer: PeerId,
        /// Where it was tried.
        addresses: Vec<SocketAddr>,
    },
    /// Somebody answers there, but it is not this peer.
    #[error("whoever answers at {address} is not peer {peer}")]
    WrongPeer {
        /// Whom to dial.
        peer: PeerId,
        /// Where another answered.
        address: SocketAddr,
    },
    /// The peer does not speak the protocol (close code 100; in TLS the alert `no_application_protocol`).
    #[error("peer {peer} does not speak {protocol}")]
    WrongAlpn {
        /// Whom to dial.
        peer: PeerId,
        /// The protocol that was offered.
        protocol: Alpn,
    },
    /// The connection ended during the handshake.
    #[error("the handshake with peer {peer} failed: {error}")]
    Handshake {
        /// Whom to dial.
        peer: PeerId,
        /// How it ended.
        error: ConnectionError,
    },
    /// This node's own endpoint is closed.
    #[error("this node's endpoint is closed")]
    EndpointClosed,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer has closed it.
    #[error("closed by the peer: {code}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    ClosedByPeer {
        /// The peer's code.
        code: CloseCode,
        /// The peer's words, at most a few hundred bytes.
        reason: Arc<str>,
    },
    /// This node has closed it.
    #[error("closed by this node: {code}")]
    ClosedLocally {
        /// The code that was given to the peer, where it is known.
        code: CloseCode,
    },
    /// Nothing was heard of the peer for the idle timeout.
    #[error("nothing heard of the peer for the idle timeout")]
    TimedOut,
    /// The peer has restarted and does not know the connection.
    #[error("the peer has lost the connection's state, as after a restart")]
    Reset,
    /// The peer or the network breaks the transport protocol.
    #[error("transport error: {0}")]
    Transport(Arc<str>),
}

/// A stream takes or gives nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer wants no more of it.
    #[error("stopped by the peer: {0}")]
    Stopped(CloseCode),
    /// The peer has abandoned it.
    #[error("reset by the peer: {0}")]
    Reset(CloseCode),
    /// This node has finished, reset or stopped it.
    #[error("the stream is closed on this side")]
    Closed,
    /// Its connection is gone.
    #[error("connection lost: {0}")]
    Connection(#[from] ConnectionError),
}

/// A datagram cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendDatagramError {
    /// It is longer than the path takes at present.
    #[error("a datagram of {len} bytes is longer than the {max} bytes that the path takes")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The longest at present, in bytes.
        max: usize,
    },
    /// The peer takes no datagrams.
    #[error("the peer takes no datagrams")]
    Unsupported,
    /// The connection is closed.
    #[error("connection lost: {0}")]
    Connection(#[from] ConnectionError),
}
