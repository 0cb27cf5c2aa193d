//! Why a link to a peer is not to be had, or ended.

use crate::id::PeerId;
use crate::runtime::{ConnectionError, DialError, StreamError};
use crate::wire::{CloseCode, DecodeError, FrameError, HelloError};

/// A link to a peer cannot be opened, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The peer answers, and refuses this node.
    #[error("peer {peer} refuses this node: {code}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Its code.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// This node refuses the peer.
    #[error("peer {peer} is refused: {error}")]
    Hello {
        /// The peer.
        peer: PeerId,
        /// Why.
        error: HelloError,
    },
    /// The peer is connected but does not say who it is in time.
    #[error("peer {peer} is connected but does not say hello")]
    HelloTimeout {
        /// The peer.
        peer: PeerId,
    },
    /// The peer is this node.
    #[error("the peer is this node itself")]
    Oneself,
    /// The peer admits this node and closes the connection again, time after time.
    #[error("peer {peer} closes every connection right after admitting this node")]
    Unstable {
        /// The peer.
        peer: PeerId,
    },
    /// The stream has ended.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The connection has ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A frame is too long or cannot be encoded.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame of the peer is not a message of the protocol.
    #[error("the peer breaks the protocol: {0}")]
    Decode(#[from] DecodeError),
    /// The peer has finished the stream within a frame.
    #[error("the peer breaks the protocol: the stream ends within a frame")]
    Truncated,
    /// The peer says what the protocol does not allow.
    #[error("the peer breaks the protocol: {0}")]
    Violation(String),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    ShuttingDown,
}

impl LinkError {
    /// The code with which a connection is closed because of this error.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Hello { error, .. } => error.close_code(),
            Self::HelloTimeout { .. } => CloseCode::TIMED_OUT,
            Self::Frame(_) => CloseCode::FRAME_TOO_LARGE,
            Self::Decode(_) | Self::Truncated | Self::Violation(_) => CloseCode::PROTOCOL_VIOLATION,
            Self::ShuttingDown => CloseCode::GRACEFUL_SHUTDOWN,
            Self::Dial(_)
            | Self::Oneself
            | Self::Unstable { .. }
            | Self::Stream(_)
            | Self::Connection(_) => CloseCode::CANCELLED,
        }
    }
}
