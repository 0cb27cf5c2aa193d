//! From QUIC's errors to the transport's.

use std::sync::{Arc, OnceLock};

use quinn::VarInt;
use smalti_core::runtime::{ConnectionError, StreamError};
use smalti_core::wire::CloseCode;

use super::congestion::yield_to_close;

/// The longest reason of a peer that is kept, in bytes.
const REASON_LEN_MAX: usize = 256;

/// With which code this node has closed a connection; quinn itself does not keep it.
///
/// The handles of a connection and of its streams share one. When the last of them goes, so does the
/// connection.
#[derive(Debug)]
pub(super) struct LocalClose {
    code: OnceLock<CloseCode>,
    endpoint: Arc<OnceLock<CloseCode>>,
    connection: Option<quinn::Connection>,
}

impl LocalClose {
    /// `connection` is there once its handshake is done.
    pub(super) fn new(
        endpoint: Arc<OnceLock<CloseCode>>,
        connection: Option<quinn::Connection>,
    ) -> Arc<Self> {
        Arc::new(Self {
            code: OnceLock::new(),
            endpoint,
            connection,
        })
    }

    /// Remembers `code`; the first counts.
    pub(super) fn set(&self, code: CloseCode) {
        let _ = self.code.set(code);
    }

    fn code(&self) -> CloseCode {
        let code = self.code.get().or_else(|| self.endpoint.get());
        code.copied().unwrap_or(CloseCode::NONE)
    }

    pub(super) fn connection_error(&self, error: quinn::ConnectionError) -> ConnectionError {
        match error {
            quinn::ConnectionError::LocallyClosed => {
                ConnectionError::ClosedLocally { code: self.code() }
            }
            quinn::ConnectionError::ApplicationClosed(close) => ConnectionError::ClosedByPeer {
                code: close_code(close.error_code),
                reason: reason(&close.reason),
            },
            quinn::ConnectionError::TimedOut => ConnectionError::TimedOut,
            quinn::ConnectionError::Reset => ConnectionError::Reset,
            error @ (quinn::ConnectionError::VersionMismatch
            | quinn::ConnectionError::TransportError(_)
            | quinn::ConnectionError::ConnectionClosed(_)
            | quinn::ConnectionError::CidsExhausted) => {
                ConnectionError::Transport(error.to_string().into())
            }
        }
    }

    pub(super) fn write_error(&self, error: quinn::WriteError) -> StreamError {
        match error {
            quinn::WriteError::Stopped(code) => StreamError::Stopped(close_code(code)),
            quinn::WriteError::ConnectionLost(error) => self.connection_error(error).into(),
            // Without early data, the peer cannot refuse it.
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => {
                StreamError::Closed
            }
        }
    }

    pub(super) fn stopped_error(&self, error: quinn::StoppedError) -> StreamError {
        match error {
            quinn::StoppedError::ConnectionLost(error) => self.connection_error(error).into(),
            quinn::StoppedError::ZeroRttRejected => StreamError::Closed,
        }
    }

    pub(super) fn read_error(&self, error: quinn::ReadError) -> StreamError {
        match error {
            quinn::ReadError::Reset(code) => StreamError::Reset(close_code(code)),
            quinn::ReadError::ConnectionLost(error) => self.connection_error(error).into(),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => StreamError::Closed,
        }
    }
}

impl Drop for LocalClose {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            yield_to_close(connection);
        }
    }
}

/// A code on the wire. One above all that we can name becomes the greatest of them.
pub(super) fn close_code(code: VarInt) -> CloseCode {
    CloseCode::from_u32(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
}

pub(super) fn var_int(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.as_u32())
}

fn reason(bytes: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_LEN_MAX)]).into()
}

/// The TLS alert that a handshake ended with, where it ended with one (RFC 9001, section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alert {
    /// This node has refused the peer.
    Sent(u8),
    /// The peer has refused this node.
    Received(u8),
}

impl Alert {
    /// The peer's certificate, here its key, is not acceptable.
    pub(super) const ACCESS_DENIED: u8 = 49;
    /// The peer's signature does not belong to its key.
    pub(super) const DECRYPT_ERROR: u8 = 51;
    /// The two have no protocol in common.
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;

    pub(super) fn of(error: &quinn::ConnectionError) -> Option<Self> {
        match error {
            quinn::ConnectionError::TransportError(error) => alert(error.code).map(Self::Sent),
            quinn::ConnectionError::ConnectionClosed(close) => {
                alert(close.error_code).map(Self::Received)
            }
            quinn::ConnectionError::VersionMismatch
            | quinn::ConnectionError::ApplicationClosed(_)
            | quinn::ConnectionError::Reset
            | quinn::ConnectionError::TimedOut
            | quinn::ConnectionError::LocallyClosed
            | quinn::ConnectionError::CidsExhausted => None,
        }
    }
}

fn alert(code: quinn::TransportErrorCode) -> Option<u8> {
    let offset = u64::from(code).checked_sub(0x100)?;
    u8::try_from(offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_too_great_for_us_becomes_the_greatest() {
        assert_eq!(close_code(VarInt::MAX), CloseCode::from_u32(u32::MAX));
        assert_eq!(
            close_code(var_int(CloseCode::REPLACED)),
            CloseCode::REPLACED
        );
    }

    #[test]
    fn a_long_or_broken_reason_is_cut_and_mended() {
        assert_eq!(reason(&[b'x'; 1_000]).len(), REASON_LEN_MAX);
        assert_eq!(&*reason(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn the_code_of_the_connection_goes_before_that_of_the_endpoint() {
        let endpoint = Arc::new(OnceLock::new());
        let close = LocalClose::new(endpoint.clone(), None);
        assert_eq!(close.code(), CloseCode::NONE);
        endpoint.set(CloseCode::GRACEFUL_SHUTDOWN).unwrap();
        assert_eq!(close.code(), CloseCode::GRACEFUL_SHUTDOWN);
        close.set(CloseCode::REPLACED);
        close.set(CloseCode::IDLE);
        assert_eq!(close.code(), CloseCode::REPLACED);
    }
}
