//! Why a connection or a stream was closed, as a number that both ends understand.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a connection or a stream was closed.
///
/// The number travels in QUIC's application error codes. Codes below 1,000 concern the connection; each
/// subsystem has a range of its own above (streams 10,000, groups 30,000).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloseCode(u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl CloseCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// What the code means, in words; `None` for a code that this version does not know.
            #[must_use]
            pub const fn meaning(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// No code was given, as when a handle was dropped.
    NONE = 0, "no reason given";
    /// The dialer offers a protocol that the acceptor does not speak.
    WRONG_ALPN = 100, "unknown protocol";
    /// The two ends belong to different networks.
    DIFFERENT_NETWORK = 101, "different network";
    /// The operation was given up.
    CANCELLED = 102, "cancelled";
    /// The dialer could not prove the network secret.
    NOT_ADMITTED = 103, "not admitted: the network secret differs";
    /// The two ends have no protocol version in common.
    WRONG_VERSION = 104, "no common protocol version";
    /// Another connection of the same peer and protocol takes the place of this one.
    REPLACED = 105, "replaced by another connection";
    /// Nothing used the connection for a while.
    IDLE = 106, "idle";
    /// All is done.
    SUCCESS = 200, "success";
    /// The node shuts down in good order.
    GRACEFUL_SHUTDOWN = 204, "graceful shutdown";
    /// The peer has broken the protocol.
    PROTOCOL_VIOLATION = 400, "protocol violation";
    /// The peer is not known here.
    UNKNOWN_PEER = 401, "unknown peer";
    /// The peer did not say what was due in time.
    TIMED_OUT = 408, "timed out";
    /// A frame is longer than the protocol allows.
    FRAME_TOO_LARGE = 413, "frame too large";
    /// The node has no room for more of it.
    TOO_MANY = 429, "too many";
    /// No producer of this stream is here.
    STREAM_NOT_FOUND = 10_404, "no such stream";
    /// The producer does not accept this consumer.
    STREAM_REJECTED = 10_403, "the producer does not accept this consumer";
    /// Producer and consumer disagree about the type of the stream's datums.
    STREAM_SCHEMA_DIFFERS = 10_409, "the types of the stream's datums differ";
    /// The producer serves as many consumers as it may.
    STREAM_NO_CAPACITY = 10_429, "the producer has no place for another consumer";
    /// The consumer reads too slowly.
    STREAM_TOO_SLOW = 10_413, "the consumer is too slow";
    /// The producer has ended.
    STREAM_ENDED = 10_410, "the producer has ended";
    /// The peer does not prove a group's key.
    GROUP_NOT_PROVED = 30_401, "the proof of the group's key is wrong";
    /// The peer does not prove that it may write to a group, though it says so.
    GROUP_WRITE_NOT_PROVED = 30_402, "the proof of the group's write key is wrong";
    /// The peer has said in a group what only those say who may write, and has not proved that it may.
    GROUP_NOT_WRITER = 30_403, "what only writers say, from a member that may only read";
    /// This node is not in the group.
    GROUP_NOT_MEMBER = 30_404, "not a member of this group";
    /// A message of a group came from a peer that was never offered a bond in it.
    GROUP_NOT_BONDED = 30_409, "a message of a group without a bond";
}

impl CloseCode {
    /// The code with this number.
    #[must_use]
    pub const fn from_u32(code: u32) -> Self {
        Self(code)
    }

    /// The number of the code.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(meaning) => write!(f, "{meaning} ({})", self.0),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
