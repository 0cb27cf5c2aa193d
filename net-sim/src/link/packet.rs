//! What travels between two endpoints.

use std::hash::Hasher;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smalti_core::id::PeerId;
use smalti_core::wire::CloseCode;

use crate::trace::TraceHasher;

/// Bytes of a packet, at most.
pub const PACKET_LEN_MAX: usize = 1_400;
/// Bytes of a datagram, at most: what a packet holds besides its own numbers.
pub const DATAGRAM_LEN_MAX: usize = 1_200;
/// What a stream frame takes besides its data, at most.
pub(super) const STREAM_FRAME_OVERHEAD: usize = 32;
/// What any other frame takes, at most; acknowledgements are bounded by their ranges.
pub(super) const CONTROL_FRAME_LEN: usize = 32;
/// Ranges of an acknowledgement, at most: the most recent ones.
pub(super) const ACK_RANGES_MAX: usize = 32;
/// Bytes of the words that explain a closing, at most.
pub(super) const REASON_LEN_MAX: usize = 256;

/// Names a connection at one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packet {
    /// The connection as the receiver names it; zero where it has not named it yet.
    pub(super) to: ConnectionId,
    /// The connection as the sender names it.
    pub(super) from: ConnectionId,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    /// The dialer says who it is and what it wants to speak.
    Dial {
        peer: PeerId,
        protocol: String,
        nonce: [u8; 32],
    },
    /// The acceptor says who it is.
    Accept {
        peer: PeerId,
        nonce: [u8; 32],
    },
    /// The acceptor does not speak the protocol.
    Refuse {
        peer: PeerId,
        code: CloseCode,
    },
    /// The sender of this knows nothing of the connection.
    Reset,
    Data {
        number: u64,
        frames: Vec<Frame>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// Ranges of packet numbers, from the greatest down: first and last.
    Ack(Vec<(u64, u64)>),
    Ping,
    Stream {
        id: u64,
        offset: u64,
        fin: bool,
        data: Bytes,
    },
    /// So many bytes of all streams may be sent in all.
    MaxData(u64),
    /// So many bytes of the stream may be sent in all.
    MaxStreamData {
        id: u64,
        max: u64,
    },
    /// So many streams may be opened in all.
    MaxStreams(u64),
    Reset {
        id: u64,
        code: CloseCode,
        len: u64,
    },
    Stop {
        id: u64,
        code: CloseCode,
    },
    Datagram(Bytes),
    Close {
        code: CloseCode,
        reason: String,
    },
}

impl Packet {
    pub(super) fn encode(&self) -> Bytes {
        let packet = postcard::to_stdvec(self).expect("nothing in a packet fails to serialize");
        let mut bytes = Vec::with_capacity(8 + packet.len());
        bytes.extend_from_slice(&checksum(&packet).to_le_bytes());
        bytes.extend_from_slice(&packet);
        bytes.into()
    }

    /// The packet, or nothing where the bytes were changed on their way.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (sum, packet) = bytes.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*sum) != checksum(packet) {
            return None;
        }
        postcard::from_bytes(packet).ok()
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = TraceHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        let data = Bytes::from_static(b"some data");
        let frames = vec![
            Frame::Ack(vec![(7, 9), (1, 4)]),
            Frame::Stream {
                id: 4,
                offset: 1 << 40,
                fin: true,
                data,
            },
            Frame::Close {
                code: CloseCode::SUCCESS,
                reason: "done".to_owned(),
            },
        ];
        Packet {
            to: ConnectionId(1),
            from: ConnectionId(2),
            body: Body::Data { number: 3, frames },
        }
    }

    #[test]
    fn a_packet_survives_the_way_and_no_changed_byte_does() {
        let bytes = packet().encode();
        assert_eq!(Packet::decode(&bytes), Some(packet()));
        for place in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[place] ^= 0x10;
            assert_eq!(Packet::decode(&changed), None, "byte {place}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Packet::decode(&bytes), None);
        }
    }
}
