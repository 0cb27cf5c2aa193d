//! What a node says of itself, signed by it.
//!
//! Three types for three degrees of trust: [`PeerEntry`] is the content, [`SignedPeerEntry`] is bytes that
//! claim to come from a peer, and [`VerifiedEntry`] is a content whose signature was checked. Protocols
//! take verified entries only, so that a check is made once, where bytes enter the node.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::bounded;
use super::peer_addr::{ADDRESSES_MAX, PeerAddr};
use crate::id::{
    Digest, GroupId, Instance, NetworkId, PeerId, SecretKey, Signature, StreamId, Tag, UniqueId,
};
use crate::time::{Duration, WallTime};

/// Version of the entry's format.
pub const PROTOCOL_VERSION: u16 = 1;
/// The most bytes that an encoded entry may have.
pub const ENTRY_BYTES_MAX: usize = 48 * 1024;
/// The most tags that a node may have.
pub const TAGS_MAX: usize = 128;
/// The most streams that a node may produce.
pub const STREAMS_MAX: usize = 192;
/// The most groups that a node may be in.
pub const GROUPS_MAX: usize = 512;
/// The most tickets that a node may carry.
pub const TICKETS_MAX: usize = 32;
/// The most extensions that an entry may carry.
pub const EXTENSIONS_MAX: usize = 16;

/// Orders the entries of one peer: the greater replaces the smaller.
///
/// Only the peer itself makes versions, and it moves above any that it hears of, so the order does not
/// rest on clocks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EntryVersion {
    /// When the node started, by its own wall clock, or what an earlier run under a later clock claimed.
    pub started_at: WallTime,
    /// Counts the entries of the run.
    pub sequence: u64,
}

impl EntryVersion {
    /// The version right above this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self {
                started_at: self.started_at,
                sequence,
            },
            None => Self {
                started_at: WallTime::from_micros(self.started_at.as_micros().saturating_add(1)),
                sequence: 0,
            },
        }
    }
}

/// Whether the peer takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It does.
    Alive,
    /// It has left, and said so: the entry is a tombstone.
    Departed,
}

/// What is known of a stream that a peer produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Fingerprint of the datum's shape: consumers of another shape do not connect.
    pub schema: Digest,
}

/// What is known of a group that a peer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The founding that the peer belongs to; `None` while it is a candidate.
    pub incarnation: Option<Digest>,
}

/// Something opaque that a peer shows to be let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Who understands it.
    pub class: UniqueId,
    /// What it says.
    pub data: Bytes,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The data may be a credential.
        write!(f, "Ticket({:?}, {} bytes)", self.class, self.data.len())
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    pub(super) protocol: u16,
    pub(super) network: NetworkId,
    pub(super) id: PeerId,
    pub(super) instance: Instance,
    pub(super) version: EntryVersion,
    pub(super) updated_at: WallTime,
    pub(super) status: Status,
    pub(super) content: Content,
}

/// The part of an entry that changes only when the node does, not when it repeats itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    #[serde(deserialize_with = "bounded::vec::<_, _, ADDRESSES_MAX>")]
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tags: BTreeSet<Tag>,
    pub(super) streams: BTreeMap<StreamId, StreamInfo>,
    pub(super) groups: BTreeMap<GroupId, GroupInfo>,
    #[serde(deserialize_with = "bounded::vec::<_, _, TICKETS_MAX>")]
    pub(super) tickets: Vec<Ticket>,
    pub(super) extensions: BTreeMap<u16, Bytes>,
}

impl PeerEntry {
    /// An entry of `peer` that says nothing but where it is: for
    /// [`Command::Insert`](super::Command::Insert).
    #[must_use]
    pub fn new(network: NetworkId, peer: PeerAddr) -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            network,
            id: peer.id,
            instance: Instance::from_bytes([0; 16]),
            version: EntryVersion::default(),
            updated_at: WallTime::default(),
            status: Status::Alive,
            content: Content {
                addresses: peer.addresses,
                ..Content::default()
            },
        }
    }

    /// The same, with these tags besides its own.
    #[must_use]
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.content.tags.extend(tags);
        self
    }

    /// The same, producing `stream` too.
    #[must_use]
    pub fn with_stream(mut self, stream: StreamId, info: StreamInfo) -> Self {
        self.content.streams.insert(stream, info);
        self
    }

    /// The same, being in `group` too.
    #[must_use]
    pub fn with_group(mut self, group: GroupId, info: GroupInfo) -> Self {
        self.content.groups.insert(group, info);
        self
    }

    /// Version of the entry's format.
    #[must_use]
    pub const fn protocol_version(&self) -> u16 {
        self.protocol
    }

    /// The network that the peer is in.
    #[must_use]
    pub const fn network_id(&self) -> &NetworkId {
        &self.network
    }

    /// Who the peer is.
    #[must_use]
    pub const fn id(&self) -> &PeerId {
        &self.id
    }

    /// Which run of the peer speaks.
    #[must_use]
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Which of the peer's entries this is.
    #[must_use]
    pub const fn version(&self) -> EntryVersion {
        self.version
    }

    /// Whether the peer takes part.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether the peer has left.
    #[must_use]
    pub const fn is_departed(&self) -> bool {
        matches!(self.status, Status::Departed)
    }

    /// Who and where the peer is.
    #[must_use]
    pub fn address(&self) -> PeerAddr {
        PeerAddr {
            id: self.id,
            addresses: self.content.addresses.clone(),
        }
    }

    /// Where the peer is.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.content.addresses
    }

    /// The peer's tags.
    #[must_use]
    pub const fn tags(&self) -> &BTreeSet<Tag> {
        &self.content.tags
    }

    /// Whether the peer has `tag`.
    #[must_use]
    pub fn has_tag(&self, tag: &Tag) -> bool {
        self.content.tags.contains(tag)
    }

    /// The streams that the peer produces.
    #[must_use]
    pub const fn streams(&self) -> &BTreeMap<StreamId, StreamInfo> {
        &self.content.streams
    }

    /// The groups that the peer is in.
    #[must_use]
    pub const fn groups(&self) -> &BTreeMap<GroupId, GroupInfo> {
        &self.content.groups
    }

    /// All tickets of the peer.
    #[must_use]
    pub fn tickets(&self) -> &[Ticket] {
        &self.content.tickets
    }

    /// The peer's tickets of one class.
    pub fn tickets_of(&self, class: UniqueId) -> impl Iterator<Item = &Ticket> {
        self.content
            .tickets
            .iter()
            .filter(move |ticket| ticket.class == class)
    }

    /// What later versions of the protocol say, by number.
    #[must_use]
    pub const fn extensions(&self) -> &BTreeMap<u16, Bytes> {
        &self.content.extensions
    }

    /// When the peer started, by its own clock.
    #[must_use]
    pub const fn started_at(&self) -> WallTime {
        self.version.started_at
    }

    /// When the peer made this entry, by its own clock.
    #[must_use]
    pub const fn updated_at(&self) -> WallTime {
        self.updated_at
    }

    /// How long the peer has been running, as far as clocks agree.
    #[must_use]
    pub const fn uptime(&self, now: WallTime) -> Duration {
        now.since(self.version.started_at)
    }

    /// Whether `self` says of the peer what `other` says, at whatever time.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.instance == other.instance
            && self.status == other.status
            && self.content == other.content
    }

    pub(super) fn check(&self) -> Result<(), EntryError> {
        if self.protocol != PROTOCOL_VERSION {
            return Err(EntryError::Protocol(self.protocol));
        }
        let content = &self.content;
        for (what, count, max) in [
            ("addresses", content.addresses.len(), ADDRESSES_MAX),
            ("tags", content.tags.len(), TAGS_MAX),
            ("streams", content.streams.len(), STREAMS_MAX),
            ("groups", content.groups.len(), GROUPS_MAX),
            ("tickets", content.tickets.len(), TICKETS_MAX),
            ("extensions", content.extensions.len(), EXTENSIONS_MAX),
        ] {
            if count > max {
                return Err(EntryError::TooMany { what, count, max });
            }
        }
        Ok(())
    }
}

/// Bytes of an entry and a signature, not yet checked.
///
/// The form in which entries travel. [`verify`](Self::verify) makes a [`VerifiedEntry`] of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPeerEntry {
    bytes: Bytes,
    signature: Signature,
}

impl SignedPeerEntry {
    /// Decodes the entry and checks its bounds and its signature.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of a wrong entry may be used.
    pub fn verify(&self) -> Result<VerifiedEntry, EntryError> {
        let digest = self.digest();
        self.verify_unless(|_| None, digest)
    }

    /// Like [`verify`](Self::verify), but without the cost where `catalog` holds this very entry.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_with(&self, catalog: &super::Catalog) -> Result<VerifiedEntry, EntryError> {
        let digest = self.digest();
        self.verify_unless(|id| catalog.holding(id, &digest).cloned(), digest)
    }

    fn verify_unless(
        &self,
        known: impl Fn(&PeerId) -> Option<VerifiedEntry>,
        digest: Digest,
    ) -> Result<VerifiedEntry, EntryError> {
        if self.bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(self.bytes.len()));
        }
        let (entry, rest) = postcard::take_from_bytes::<PeerEntry>(&self.bytes)?;
        if !rest.is_empty() {
            return Err(EntryError::Malformed(
                postcard::Error::DeserializeBadEncoding,
            ));
        }
        if let Some(known) = known(&entry.id) {
            return Ok(known);
        }
        entry.check()?;
        entry
            .id
            .verify(digest.as_bytes(), &self.signature)
            .map_err(|_| EntryError::Signature(entry.id))?;
        let signed = self.clone();
        Ok(VerifiedEntry(Arc::new(Verified {
            entry: Arc::new(entry),
            digest,
            signed,
        })))
    }

    fn digest(&self) -> Digest {
        Digest::of("peer entry", &[&self.bytes])
    }
}

/// An entry that was signed by its peer. Cloning it is cheap.
#[derive(Clone)]
pub struct VerifiedEntry(Arc<Verified>);

struct Verified {
    entry: Arc<PeerEntry>,
    digest: Digest,
    signed: SignedPeerEntry,
}

impl VerifiedEntry {
    /// Signs `entry`.
    ///
    /// # Errors
    /// Where the entry is out of bounds, and [`EntryError::Signature`] where `key` is not its peer's.
    pub fn sign(entry: PeerEntry, key: &SecretKey) -> Result<Self, EntryError> {
        if key.peer_id() != entry.id {
            return Err(EntryError::Signature(entry.id));
        }
        Self::sign_own(entry, key)
    }

    /// Like [`sign`](Self::sign), for a key that is known to be the entry's peer's.
    pub(super) fn sign_own(entry: PeerEntry, key: &SecretKey) -> Result<Self, EntryError> {
        entry.check()?;
        let bytes = Bytes::from(postcard::to_stdvec(&entry)?);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(bytes.len()));
        }
        let digest = Digest::of("peer entry", &[&bytes]);
        let signature = key.sign(digest.as_bytes());
        let signed = SignedPeerEntry { bytes, signature };
        Ok(Self(Arc::new(Verified {
            entry: Arc::new(entry),
            digest,
            signed,
        })))
    }

    /// The content.
    #[must_use]
    pub fn entry(&self) -> &Arc<PeerEntry> {
        &self.0.entry
    }

    /// The entry as it travels.
    #[must_use]
    pub fn signed(&self) -> &SignedPeerEntry {
        &self.0.signed
    }

    /// Digest of the signed bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Bytes that the entry takes up in a message, signature and length included.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.0.signed.bytes.len() + SIGNATURE_AND_LENGTH
    }

    /// Which of two entries of one peer replaces the other: the greater version, and of equal versions
    /// (a peer whose key runs twice) the greater digest.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }

    pub(super) fn rank(&self) -> (EntryVersion, &Digest) {
        (self.0.entry.version, &self.0.digest)
    }
}

const SIGNATURE_AND_LENGTH: usize = 64 + 3;

impl Deref for VerifiedEntry {
    type Target = PeerEntry;

    fn deref(&self) -> &PeerEntry {
        &self.0.entry
    }
}

impl PartialEq for VerifiedEntry {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for VerifiedEntry {}

impl fmt::Debug for VerifiedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, version) = (self.id, self.version);
        write!(
            f,
            "{id:?} {:?} {}.{}",
            self.status,
            version.started_at.as_micros(),
            version.sequence
        )
    }
}

impl Serialize for VerifiedEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.signed.serialize(serializer)
    }
}

/// An entry that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The bytes are no entry.
    #[error("the bytes are not a peer entry: {0}")]
    Malformed(#[from] postcard::Error),
    /// The entry is written in another version of the format.
    #[error("the peer entry has format {0}; this node reads format {PROTOCOL_VERSION}")]
    Protocol(u16),
    /// The entry is too long.
    #[error("the peer entry has {0} bytes; {ENTRY_BYTES_MAX} are the most")]
    TooLarge(usize),
    /// The entry lists too much of something.
    #[error("the peer entry has {count} {what}; {max} are the most")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The entry is not signed by the peer that it speaks of.
    #[error("the peer entry is not signed by its peer {0}")]
    Signature(PeerId),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &SecretKey) -> PeerEntry {
        let address = PeerAddr::new(key.peer_id(), ["10.0.0.1:1".parse().unwrap()]);
        PeerEntry::new(NetworkId::from("net"), address)
            .with_tags(["a", "b"].map(Tag::from))
            .with_stream(
                StreamId::from("s"),
                StreamInfo {
                    schema: Digest::of("x", &[]),
                },
            )
    }

    #[test]
    fn a_signed_entry_survives_the_wire() {
        let key = SecretKey::from("k");
        let signed = VerifiedEntry::sign(entry(&key), &key).unwrap();
        let wire = postcard::to_stdvec(&signed).unwrap();
        assert!(wire.len() <= signed.wire_len());
        let received: SignedPeerEntry = postcard::from_bytes(&wire).unwrap();
        let verified = received.verify().unwrap();
        assert_eq!(verified, signed);
        assert_eq!(*verified, entry(&key));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let key = SecretKey::from("k");
        let wire = postcard::to_stdvec(&VerifiedEntry::sign(entry(&key), &key).unwrap()).unwrap();
        for position in 0..wire.len() {
            let mut wire = wire.clone();
            wire[position] ^= 1 << (position % 8);
            let verified = postcard::from_bytes::<SignedPeerEntry>(&wire)
                .ok()
                .and_then(|signed| signed.verify().ok());
            assert_eq!(verified, None, "at byte {position}");
        }
    }

    #[test]
    fn entries_out_of_bounds_are_neither_made_nor_taken() {
        let key = SecretKey::from("k");
        let error = |change: fn(&mut PeerEntry)| {
            let mut entry = entry(&key);
            change(&mut entry);
            let bytes = Bytes::from(postcard::to_stdvec(&entry).unwrap());
            let signature = key.sign(Digest::of("peer entry", &[&bytes]).as_bytes());
            let taken = SignedPeerEntry { bytes, signature }.verify().unwrap_err();
            let made = VerifiedEntry::sign(entry, &key).unwrap_err();
            (made.to_string(), taken.to_string())
        };
        type Change = fn(&mut PeerEntry);
        let cases: [(Change, &str); 4] = [
            (|e| e.protocol = 9, "format 9"),
            (
                |e| {
                    e.content
                        .tags
                        .extend((0..128).map(|i: u8| Tag::from_bytes([i; 32])));
                },
                "130 tags",
            ),
            (
                |e| {
                    let ticket = Ticket {
                        class: UniqueId::from("t"),
                        data: vec![0; 50_000].into(),
                    };
                    e.content.tickets.push(ticket);
                },
                "bytes; 49152 are the most",
            ),
            (
                |e| {
                    e.content
                        .extensions
                        .extend((0..17).map(|i| (i, Bytes::new())));
                },
                "17 extensions",
            ),
        ];
        for (change, message) in cases {
            let (made, taken) = error(change);
            assert!(made.contains(message), "{made} lacks {message}");
            assert!(taken.contains(message), "{taken} lacks {message}");
        }
    }

    #[test]
    fn a_node_may_be_in_all_its_groups_and_produce_all_its_streams() {
        let key = SecretKey::from("k");
        let mut full = entry(&key);
        let id = |i: usize| *Digest::of("id", &[&i.to_le_bytes()]).as_bytes();
        let digest = Digest::from_bytes(id(0));
        let incarnation = Some(digest);
        full.content.groups = (0..GROUPS_MAX)
            .map(|i| (GroupId::from_bytes(id(i)), GroupInfo { incarnation }))
            .collect();
        full.content.streams = (0..STREAMS_MAX)
            .map(|i| (StreamId::from_bytes(id(i)), StreamInfo { schema: digest }))
            .collect();
        assert!(VerifiedEntry::sign(full.clone(), &key).is_ok());
        let one_more = GroupId::from_bytes(id(GROUPS_MAX));
        full.content
            .groups
            .insert(one_more, GroupInfo { incarnation });
        assert!(matches!(
            VerifiedEntry::sign(full, &key),
            Err(EntryError::TooMany { what: "groups", .. })
        ));
    }

    #[test]
    fn nobody_signs_for_another() {
        let (key, other) = (SecretKey::from("k"), SecretKey::from("other"));
        let refused = Err(EntryError::Signature(key.peer_id()));
        assert_eq!(VerifiedEntry::sign(entry(&key), &other), refused);
        let forged = VerifiedEntry::sign_own(entry(&key), &other).unwrap();
        assert_eq!(forged.signed().verify(), refused);
    }

    #[test]
    fn versions_go_up_even_at_their_end() {
        let at = |micros, sequence| EntryVersion {
            started_at: WallTime::from_micros(micros),
            sequence,
        };
        assert_eq!(at(1, 2).next(), at(1, 3));
        assert!(at(1, u64::MAX).next() > at(1, u64::MAX));
        assert!(at(2, 0) > at(1, 9));
    }

    #[test]
    fn a_repetition_says_the_same_and_a_change_does_not() {
        let key = SecretKey::from("k");
        let mut repeated = entry(&key);
        repeated.version = repeated.version.next();
        repeated.updated_at = WallTime::from_micros(7);
        assert!(repeated.says_the_same_as(&entry(&key)));
        assert!(
            !repeated
                .with_tags([Tag::from("c")])
                .says_the_same_as(&entry(&key))
        );
    }
}
