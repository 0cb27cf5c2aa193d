//! A transport in QUIC's shape, as a machine: connections, streams and datagrams over packets that may be
//! lost, duplicated, reordered or corrupted.
//!
//! It stands in for QUIC where whole nodes are simulated without TLS. What an application can tell is the
//! same: a connection belongs to one peer and one protocol; streams are reliable and each in its own order,
//! with none between streams; credit holds a sender back whose reader does not read; loss shows as delay
//! and at last, after [`IDLE_TIMEOUT`] of silence, as a closed connection whose unread tail is gone; a peer
//! that has started again answers with a reset; closing carries a code. Nothing is encrypted and keys are
//! named, not proved: nobody in a simulation lies about them.
//!
//! [`Endpoint`] is driven as every machine is: hand it packets ([`Endpoint::handle_packet`]), requests, and
//! the passing of time ([`Endpoint::handle_timeout`]), then drain [`Endpoint::poll_event`] and
//! [`Endpoint::poll_transmit`], and wait until [`Endpoint::poll_timeout`].
//!
//! Loss is detected and round trips are measured after RFC 9002, sections 5 and 6. There is no congestion
//! control: what is under way is bounded by [`IN_FLIGHT_MAX`].

mod connection;
mod endpoint;
mod packet;
mod ranges;
mod stream;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use endpoint::{DialFailure, Endpoint, Event, Handle, Transmit};
pub use packet::{ConnectionId, DATAGRAM_LEN_MAX, PACKET_LEN_MAX};

/// Silence after which a connection is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an end that has nothing to say waits before it says so.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How long a dialer tries.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a stream's writer may be ahead of what the peer has acknowledged.
pub const SEND_BUFFER_MAX: usize = 256 * 1024;
/// Bytes of one stream that wait to be read, at most.
pub const STREAM_WINDOW: u64 = 256 * 1024;
/// Bytes of all streams of a connection that wait to be read, at most: as in the real transport, fifteen
/// readers that have stopped do not hold back a sixteenth.
pub const CONNECTION_WINDOW: u64 = 16 * STREAM_WINDOW;
/// Streams that one end may have open at a time.
pub const STREAMS_MAX: u64 = 256;
/// Datagrams that wait to be sent, or to be read, at most; the oldest goes.
pub const DATAGRAMS_MAX: usize = 256;
/// Bytes sent and neither acknowledged nor given up, at most.
pub const IN_FLIGHT_MAX: usize = 512 * 1024;
/// Connections of an endpoint, at most; dialers beyond hear nothing.
pub const CONNECTIONS_MAX: usize = 4_096;
