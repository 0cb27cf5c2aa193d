//! What two nodes say on their link, and how it is framed.
//!
//! A frame is a sequence of items, so that one carries what is said in many groups. An item that belongs to a group
//! names it; the payload of a message follows its header as it is.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::proof::Proof;
use crate::id::{GroupId, Signature};
use crate::runtime::Alpn;
use crate::wire::{CloseCode, FRAME_HEADER_LEN, encode_into};

/// The protocol of links between members of groups.
pub const GROUPS_ALPN: Alpn = Alpn::new("/smalti/groups/1");

/// The label under which the keying material of proofs is exported, with an empty context.
pub const GROUPS_EXPORTER_LABEL: &[u8] = b"EXPORTER-smalti-groups";

/// The longest payload of one message, in bytes.
pub const PAYLOAD_LEN_MAX: usize = (16 << 20) + (128 << 10);

/// A frame takes no further item once it is so long, in bytes.
pub(super) const FRAME_LEN_AIM: usize = 64 << 10;

/// An upper bound of an item's length without its payload, in bytes.
const HEADER_LEN_MAX: usize = 144;

/// The longest frame, in bytes, without the length in front.
pub const FRAME_LEN_MAX: usize = FRAME_LEN_AIM + HEADER_LEN_MAX + PAYLOAD_LEN_MAX;

/// The most items in one frame.
pub const ITEMS_MAX: usize = 1_024;

/// Longer payloads are handed on as they are; shorter ones are cheaper to copy.
const COPIED_LEN_MAX: usize = 2_048;

/// One thing that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Asks for a [`Pong`](Self::Pong) of the same number.
    Ping(u64),
    /// The answer. Of several pings only the last need be answered.
    Pong(u64),
    /// The sender offers a bond in the group, and proves that it may.
    Offer {
        /// The group.
        group: GroupId,
        /// The sender's proof of its key, for this link.
        proof: Proof,
        /// It answers an offer, and needs no answer.
        reply: bool,
        /// The sender's proof for this link that it may write, where the group asks for one and it may.
        write: Option<Signature>,
    },
    /// The sender refuses the bond that was offered.
    Refuse {
        /// The group.
        group: GroupId,
        /// Why.
        code: CloseCode,
    },
    /// The sender has left the group, and takes its offer back.
    Depart(GroupId),
    /// A message to a bonded member.
    Message {
        /// The group.
        group: GroupId,
        /// What the group's own protocol says.
        payload: Bytes,
    },
}

/// What an item looks like on the wire, but for a payload, which follows.
#[derive(Serialize, Deserialize)]
enum Header {
    Ping(u64),
    Pong(u64),
    Offer {
        group: GroupId,
        proof: Proof,
        reply: bool,
    },
    Refuse {
        group: GroupId,
        code: CloseCode,
    },
    Depart(GroupId),
    Message {
        group: GroupId,
        len: u32,
    },
    /// An offer of one that may write.
    OfferToWrite {
        group: GroupId,
        proof: Proof,
        reply: bool,
        write: Signature,
    },
}

/// A frame that is not a sequence of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// An item is not what it must be.
    #[error("a frame has something else than an item in it")]
    Malformed,
    /// A payload is longer than the frame that carries it.
    #[error("a payload of {len} bytes is announced, and {left} are left in the frame")]
    Truncated {
        /// The length announced.
        len: u32,
        /// How many bytes there are.
        left: usize,
    },
    /// There are too many.
    #[error("a frame has more than {ITEMS_MAX} items")]
    TooMany,
}

/// The items of a frame; payloads share its memory.
///
/// # Errors
/// [`ItemError`] where it is not a frame of this protocol.
pub fn decode(frame: &Bytes) -> Result<Vec<Item>, ItemError> {
    let mut items = Vec::new();
    let mut rest = &frame[..];
    while !rest.is_empty() {
        if items.len() == ITEMS_MAX {
            return Err(ItemError::TooMany);
        }
        let (header, after) = postcard::take_from_bytes(rest).map_err(|_| ItemError::Malformed)?;
        rest = after;
        items.push(match header {
            Header::Ping(number) => Item::Ping(number),
            Header::Pong(number) => Item::Pong(number),
            Header::Offer {
                group,
                proof,
                reply,
            } => Item::Offer {
                group,
                proof,
                reply,
                write: None,
            },
            Header::OfferToWrite {
                group,
                proof,
                reply,
                write,
            } => Item::Offer {
                group,
                proof,
                reply,
                write: Some(write),
            },
            Header::Refuse { group, code } => Item::Refuse { group, code },
            Header::Depart(group) => Item::Depart(group),
            Header::Message { group, len } => {
                let left = rest.len();
                let split = usize::try_from(len)
                    .ok()
                    .and_then(|len| rest.split_at_checked(len));
                let (payload, after) = split.ok_or(ItemError::Truncated { len, left })?;
                rest = after;
                let payload = frame.slice_ref(payload);
                Item::Message { group, payload }
            }
        });
    }
    Ok(items)
}

/// A frame that is ready for a stream: its length, then its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    chunks: Vec<Bytes>,
}

impl Frame {
    /// Its bytes in order, the length in front included.
    #[must_use]
    pub fn into_chunks(self) -> Vec<Bytes> {
        self.chunks
    }

    /// What the receiver takes for the frame: all its bytes but the length in front.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(self.len());
        for chunk in &self.chunks {
            body.extend_from_slice(chunk);
        }
        body.freeze().slice(FRAME_HEADER_LEN..)
    }

    /// Its length in bytes, the length in front included.
    fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// Puts items into a frame.
pub(super) struct FrameBuilder {
    /// All but the payloads that are not copied.
    buffer: BytesMut,
    /// Those, and where in the buffer they belong.
    apart: Vec<(usize, Bytes)>,
    apart_len: usize,
    items: usize,
}

impl FrameBuilder {
    pub(super) fn new() -> Self {
        let mut buffer = BytesMut::with_capacity(512);
        buffer.put_bytes(0, FRAME_HEADER_LEN);
        Self {
            buffer,
            apart: Vec::new(),
            apart_len: 0,
            items: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether it takes no further item.
    pub(super) fn is_full(&self) -> bool {
        self.items == ITEMS_MAX || self.len() >= FRAME_LEN_AIM
    }

    fn len(&self) -> usize {
        self.buffer.len() - FRAME_HEADER_LEN + self.apart_len
    }

    /// Adds an item; a payload has [`PAYLOAD_LEN_MAX`] bytes at most.
    pub(super) fn push(&mut self, item: Item) {
        let (header, payload) = match item {
            Item::Ping(number) => (Header::Ping(number), Bytes::new()),
            Item::Pong(number) => (Header::Pong(number), Bytes::new()),
            Item::Offer {
                group,
                proof,
                reply,
                write,
            } => {
                let header = match write {
                    None => Header::Offer {
                        group,
                        proof,
                        reply,
                    },
                    Some(write) => Header::OfferToWrite {
                        group,
                        proof,
                        reply,
                        write,
                    },
                };
                (header, Bytes::new())
            }
            Item::Refuse { group, code } => (Header::Refuse { group, code }, Bytes::new()),
            Item::Depart(group) => (Header::Depart(group), Bytes::new()),
            Item::Message { group, payload } => {
                let len = u32::try_from(payload.len()).expect("payloads are bounded");
                (Header::Message { group, len }, payload)
            }
        };
        encode_into(&header, &mut self.buffer).expect("numbers and arrays can be encoded");
        if payload.len() > COPIED_LEN_MAX {
            self.apart_len += payload.len();
            self.apart.push((self.buffer.len(), payload));
        } else {
            self.buffer.extend_from_slice(&payload);
        }
        self.items += 1;
    }

    pub(super) fn finish(mut self) -> Frame {
        let len = u32::try_from(self.len()).expect("frames are bounded");
        self.buffer[..FRAME_HEADER_LEN].copy_from_slice(&len.to_le_bytes());
        let mut chunks = Vec::with_capacity(2 * self.apart.len() + 1);
        let mut start = 0;
        for (at, payload) in self.apart {
            chunks.push(self.buffer.split_to(at - start).freeze());
            chunks.push(payload);
            start = at;
        }
        if !self.buffer.is_empty() {
            chunks.push(self.buffer.freeze());
        }
        Frame { chunks }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::SecretKey;

    fn items() -> impl Strategy<Value = Item> {
        let group = any::<[u8; 32]>().prop_map(GroupId::from_bytes);
        let payload = prop_oneof![0..100usize, 2_000..2_100usize, 60_000..70_000usize];
        prop_oneof![
            any::<u64>().prop_map(Item::Ping),
            any::<u64>().prop_map(Item::Pong),
            (
                group.clone(),
                any::<[u8; 32]>(),
                any::<bool>(),
                any::<bool>()
            )
                .prop_map(|(group, proof, reply, writes)| Item::Offer {
                    group,
                    proof,
                    reply,
                    write: writes.then(signature),
                }),
            (group.clone(), any::<u32>()).prop_map(|(group, code)| Item::Refuse {
                group,
                code: CloseCode::from_u32(code)
            }),
            group.clone().prop_map(Item::Depart),
            (group, payload, any::<u8>()).prop_map(|(group, len, byte)| Item::Message {
                group,
                payload: vec![byte; len].into()
            }),
        ]
    }

    fn signature() -> Signature {
        SecretKey::from("writer").sign(b"message")
    }

    fn build(items: &[Item]) -> Frame {
        let mut builder = FrameBuilder::new();
        for item in items {
            builder.push(item.clone());
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn items_survive_the_wire(items in prop::collection::vec(items(), 1..20)) {
            let frame = build(&items);
            prop_assert_eq!(decode(&frame.body()).unwrap(), items);
            let bytes = frame.clone().into_chunks().concat();
            prop_assert_eq!(bytes.len(), frame.len());
            let announced = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            prop_assert_eq!(announced as usize, bytes.len() - 4);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes.into());
        }

        #[test]
        fn a_frame_cut_short_or_prolonged_is_no_frame_of_the_same_items(
            items in prop::collection::vec(items(), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let body = build(&items).body();
            let cut = body.slice(..cut.index(body.len()));
            prop_assert_ne!(decode(&cut).ok(), Some(items));
        }
    }

    #[test]
    fn a_long_payload_is_not_copied_on_either_side() {
        let payload = Bytes::from(vec![7; 100_000]);
        let group = GroupId::from("group");
        let item = Item::Message {
            group,
            payload: payload.clone(),
        };
        let chunks = build(&[Item::Ping(1), item]).into_chunks();
        assert!(
            chunks
                .iter()
                .any(|chunk| chunk.as_ptr() == payload.as_ptr())
        );
        let body = Bytes::from(chunks.concat()).slice(4..);
        let items = decode(&body).unwrap();
        let Item::Message { payload, .. } = &items[1] else {
            panic!("{items:?}");
        };
        assert!(body.as_ptr_range().contains(&payload.as_ptr()));
    }

    #[test]
    fn no_item_is_longer_than_its_bound() {
        let group = GroupId::from_bytes([0xff; 32]);
        let code = CloseCode::from_u32(u32::MAX);
        let longest = [
            Item::Ping(u64::MAX),
            Item::Offer {
                group,
                proof: [0xff; 32],
                reply: true,
                write: Some(signature()),
            },
            Item::Refuse { group, code },
        ];
        for item in longest {
            assert!(build(&[item]).body().len() <= HEADER_LEN_MAX);
        }
    }

    #[test]
    fn too_many_items_are_refused() {
        let pings = vec![Item::Ping(1); ITEMS_MAX];
        let frame = build(&pings).body();
        assert_eq!(decode(&frame).map(|items| items.len()), Ok(ITEMS_MAX));
        let more = Bytes::from([&frame[..], &frame[..2]].concat());
        assert_eq!(decode(&more), Err(ItemError::TooMany));
    }

    #[test]
    fn a_payload_longer_than_its_frame_is_refused() {
        let mut bytes = BytesMut::new();
        let group = GroupId::from("group");
        encode_into(
            &Header::Message {
                group,
                len: u32::MAX,
            },
            &mut bytes,
        )
        .unwrap();
        bytes.put_u8(1);
        let refused = ItemError::Truncated {
            len: u32::MAX,
            left: 1,
        };
        assert_eq!(decode(&bytes.freeze()), Err(refused));
    }
}
