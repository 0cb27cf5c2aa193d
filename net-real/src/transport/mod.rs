//! The transport over QUIC (RFC 9000): one UDP socket for listening, dialling and all protocols.
//!
//! Both ends of a connection prove their Ed25519 keys in the TLS 1.3 handshake, as raw public keys
//! (RFC 7250); there are no certificates, no authorities and no names. A connection carries one protocol,
//! chosen by ALPN (RFC 7301). What limits it is in [`Tuning`].
//!
//! An endpoint is put together from [`EndpointParts`]. In production they come from
//! [`QuicRuntime`](crate::QuicRuntime): ring's cryptography, the system's clock and a UDP socket. A simulator
//! gives others, and everything above them is the same.

mod accept;
mod congestion;
mod connection;
mod dial;
mod endpoint;
mod error;
mod identity;
pub(crate) mod interfaces;
pub(crate) mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tuning;

pub use endpoint::{EndpointParts, QuicEndpoint};
pub use tuning::Tuning;
