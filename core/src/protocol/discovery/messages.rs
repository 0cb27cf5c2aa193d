//! What nodes say to each other.
//!
//! Inside the node entries are [`VerifiedEntry`], on the wire they are [`SignedPeerEntry`]: a message is
//! generic over the two. Encoding needs no conversion, since a verified entry encodes as the bytes that were
//! signed; decoding verifies, except what the catalog has already.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bounded;
use super::catalog::Catalog;
use super::entry::{ENTRY_BYTES_MAX, EntryError, EntryVersion, SignedPeerEntry, VerifiedEntry};
use super::peer_addr::PeerAddr;
use super::range::{Fingerprint, PARTS, Range};
use crate::id::PeerId;

/// The most bytes that an encoded message may have. Senders aim at [`MESSAGE_BYTES_AIM`].
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Where a sender begins another message.
pub const MESSAGE_BYTES_AIM: usize = 64 * 1024;
// One that has not quite come to the aim takes another entry, of whatever length.
const _: () = assert!(MESSAGE_BYTES_AIM + ENTRY_BYTES_MAX + 1_024 <= MESSAGE_BYTES_MAX);
/// The most records, ids or ranges in one message.
pub const LIST_MAX: usize = 2048;
/// The most peers in one shuffle.
pub const SHUFFLE_MAX: usize = 16;
/// The most nodes that a random walk visits.
pub const WALK_MAX: usize = 8;

/// An entry and how long ago its peer made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aged<E> {
    /// The entry.
    pub entry: E,
    /// Its age in milliseconds, added up from node to node without the help of a wall clock.
    pub age_ms: u32,
}

/// Names one entry of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// Whose it is.
    pub peer: PeerId,
    /// Which one it is.
    pub version: EntryVersion,
}

/// How much a node wants a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Priority {
    /// It is new in the network: never refused, and made known to others.
    Join,
    /// It must have one: never refused.
    High,
    /// It has room for one.
    Low,
}

/// A message between neighbours of the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<E = VerifiedEntry> {
    /// Asks to become neighbours. The first message on a link, by who opened it.
    Neighbor {
        /// How much the sender wants it.
        priority: Priority,
        /// Who and where the sender is.
        sender: PeerAddr,
    },
    /// Answers [`Message::Neighbor`].
    NeighborReply {
        /// Whether the two are neighbours now.
        accepted: bool,
        /// What the sender has: where the asker has the same, nothing needs to be synchronised.
        summary: Fingerprint,
    },
    /// Ends being neighbours, because another took the place.
    Disconnect,
    /// Makes a joining peer known, on a random walk.
    ForwardJoin {
        /// The peer that joined.
        peer: PeerAddr,
        /// Steps left.
        ttl: u8,
    },
    /// Offers peers, on a random walk.
    Shuffle {
        /// The nodes behind it, its origin first.
        #[serde(deserialize_with = "bounded::vec::<_, _, WALK_MAX>")]
        path: Vec<PeerId>,
        /// Steps left.
        ttl: u8,
        /// The peers offered.
        #[serde(deserialize_with = "bounded::vec::<_, _, SHUFFLE_MAX>")]
        peers: Vec<PeerAddr>,
    },
    /// Answers [`Message::Shuffle`], back along its path.
    ShuffleReply {
        /// The nodes still ahead, the last one first to be visited.
        #[serde(deserialize_with = "bounded::vec::<_, _, WALK_MAX>")]
        path: Vec<PeerId>,
        /// The peers offered in return.
        #[serde(deserialize_with = "bounded::vec::<_, _, SHUFFLE_MAX>")]
        peers: Vec<PeerAddr>,
    },
    /// Entries, pushed along the tree.
    Gossip {
        /// The entries.
        #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
        #[serde(bound(deserialize = "E: Deserialize<'de>"))]
        records: Vec<Aged<E>>,
    },
    /// Says what the sender has, beside the tree.
    IHave {
        /// The entries it has.
        #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
        entries: Vec<EntryId>,
    },
    /// Asks for entries that were announced and did not come, and takes the link into the tree.
    Graft {
        /// Whose entries.
        #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
        peers: Vec<PeerId>,
    },
    /// Takes the link out of the tree: what came over it had come already.
    Prune,
}

/// A message of a synchronisation session: one part of a turn.
///
/// The two sides take turns. A turn answers every question of the turn before, and the session ends with
/// a turn that asks nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncMessage<E = VerifiedEntry> {
    /// What the sender has; the receiver answers where it has something else. Ranges ascend and do not
    /// overlap within a turn, so that answering costs the receiver no more than its catalog is long.
    #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
    pub(super) questions: Vec<Question>,
    /// Entries that the sender asks for.
    #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
    pub(super) wants: Vec<PeerId>,
    /// Entries that the receiver lacks.
    #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
    #[serde(bound(deserialize = "E: Deserialize<'de>"))]
    pub(super) records: Vec<Aged<E>>,
    /// Whether the turn goes on in another message.
    pub(super) more: bool,
}

/// What the sender of a [`SyncMessage`] has in a range of peer ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// Its sum.
    Whole {
        /// Where.
        range: Range,
        /// The sum.
        fingerprint: Fingerprint,
    },
    /// The sums of its sixteen parts.
    Split {
        /// Where.
        range: Range,
        /// The sums, by the next half byte of the ids.
        #[serde(deserialize_with = "bounded::vec::<_, _, PARTS>")]
        parts: Vec<Fingerprint>,
    },
    /// All of it, in the order of ids.
    List {
        /// Where.
        range: Range,
        /// What is there.
        #[serde(deserialize_with = "bounded::vec::<_, _, LIST_MAX>")]
        items: Vec<ListItem>,
    },
}

impl Question {
    pub(super) const fn range(&self) -> &Range {
        match self {
            Self::Whole { range, .. } | Self::Split { range, .. } | Self::List { range, .. } => {
                range
            }
        }
    }

    /// The most bytes that it may take up in a message.
    pub(super) const fn len_max(&self) -> usize {
        let len = match self {
            Self::Whole { .. } => 1,
            Self::Split { parts, .. } => parts.len(),
            Self::List { items, .. } => items.len() * 3,
        };
        RANGE_LEN_MAX + len * FINGERPRINT_LEN_MAX
    }
}

/// Bytes of a range and of what tells the kinds of question apart.
const RANGE_LEN_MAX: usize = 40;
/// Bytes of a fingerprint; an item of a list has no more than three times as many.
const FINGERPRINT_LEN_MAX: usize = 24;

/// One entry in a [`Question::List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListItem {
    /// Which entry.
    pub(super) id: EntryId,
    /// The first bytes of its digest, which tell two entries of one version apart.
    pub(super) digest: [u8; 8],
}

impl ListItem {
    /// Orders entries of one peer like [`VerifiedEntry::precedence`].
    pub(super) const fn rank(&self) -> (EntryVersion, [u8; 8]) {
        (self.id.version, self.digest)
    }
}

impl<E> Default for SyncMessage<E> {
    fn default() -> Self {
        Self {
            questions: Vec::new(),
            wants: Vec::new(),
            records: Vec::new(),
            more: false,
        }
    }
}

impl Message {
    /// Its bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Decodes a message and verifies the entries in it that `catalog` does not hold already.
    ///
    /// # Errors
    /// What is wrong with it: the sender breaks the protocol.
    pub fn decode(bytes: &[u8], catalog: &Catalog) -> Result<Self, MessageError> {
        decode::<Message<SignedPeerEntry>>(bytes)?.verify(catalog)
    }
}

impl Message<SignedPeerEntry> {
    /// Verifies the entries in it that `catalog` does not hold already.
    ///
    /// # Errors
    /// The first entry that is wrong.
    pub fn verify(self, catalog: &Catalog) -> Result<Message, MessageError> {
        Ok(match self {
            Self::Gossip { records } => Message::Gossip {
                records: verify(&records, catalog)?,
            },
            Self::Neighbor { priority, sender } => Message::Neighbor { priority, sender },
            Self::NeighborReply { accepted, summary } => {
                Message::NeighborReply { accepted, summary }
            }
            Self::Disconnect => Message::Disconnect,
            Self::ForwardJoin { peer, ttl } => Message::ForwardJoin { peer, ttl },
            Self::Shuffle { path, ttl, peers } => Message::Shuffle { path, ttl, peers },
            Self::ShuffleReply { path, peers } => Message::ShuffleReply { path, peers },
            Self::IHave { entries } => Message::IHave { entries },
            Self::Graft { peers } => Message::Graft { peers },
            Self::Prune => Message::Prune,
        })
    }
}

impl SyncMessage {
    /// Its bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Decodes a message and verifies the entries in it that `catalog` does not hold already.
    ///
    /// # Errors
    /// What is wrong with it: the sender breaks the protocol.
    pub fn decode(bytes: &[u8], catalog: &Catalog) -> Result<Self, MessageError> {
        decode::<SyncMessage<SignedPeerEntry>>(bytes)?.verify(catalog)
    }
}

impl SyncMessage<SignedPeerEntry> {
    /// Verifies the entries in it that `catalog` does not hold already.
    ///
    /// # Errors
    /// The first entry that is wrong.
    pub fn verify(self, catalog: &Catalog) -> Result<SyncMessage, MessageError> {
        Ok(SyncMessage {
            questions: self.questions,
            wants: self.wants,
            records: verify(&self.records, catalog)?,
            more: self.more,
        })
    }
}

fn encode(message: &impl Serialize) -> Bytes {
    // Nothing in a message refuses to be serialized, and memory is the only sink.
    postcard::to_stdvec(message)
        .expect("messages have no unserializable part")
        .into()
}

fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, MessageError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLarge(bytes.len()));
    }
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => Err(MessageError::Trailing(rest.len())),
    }
}

fn verify(
    records: &[Aged<SignedPeerEntry>],
    catalog: &Catalog,
) -> Result<Vec<Aged<VerifiedEntry>>, MessageError> {
    records
        .iter()
        .map(|record| {
            let entry = record.entry.verify_with(catalog)?;
            Ok(Aged {
                entry,
                age_ms: record.age_ms,
            })
        })
        .collect()
}

/// A message that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message is too long.
    #[error("the message has {0} bytes; {MESSAGE_BYTES_MAX} are the most")]
    TooLarge(usize),
    /// The bytes are no message.
    #[error("the bytes are not a discovery message: {0}")]
    Malformed(#[from] postcard::Error),
    /// Something follows the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// An entry in it is wrong.
    #[error("the message carries a wrong entry: {0}")]
    Entry(#[from] EntryError),
}
