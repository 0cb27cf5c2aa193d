//! Names: digests, the identifiers made of them, and node identities.
//!
//! An [`Id`] is 32 bytes, made from a string at compile time ([`unique_id!`](crate::unique_id)) or at run
//! time, or derived from another. Its kind (network, stream, group, store, tag) is part of its type and of
//! the hash, so ids of two kinds never mix. A node is named by its public key, [`PeerId`].

mod const_blake3;
pub(crate) mod hex;
mod instance;
mod keys;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use rand::Rng;

pub use hex::ParseIdError;
pub use instance::Instance;
pub use keys::{InvalidSignature, PeerId, SecretKey, Signature};

/// A BLAKE3 digest: what equal contents have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `parts` under `domain`.
    ///
    /// Domain and parts are hashed with their lengths, so that no two different calls hash the same
    /// bytes.
    #[must_use]
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(&domain.as_bytes()).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

hex::text_and_serde!(impl [] for Digest, "digest");

/// What an [`Id`] names. Sealed: the kinds are [`kind`]'s.
pub trait Kind: kind::Sealed + 'static {
    /// Goes into the hash, so that ids of two kinds differ even where their names are equal.
    const DOMAIN: &'static str;
}

/// The kinds of [`Id`].
pub mod kind {
    /// Keeps the set of kinds closed.
    pub trait Sealed {}

    macro_rules! kinds {
        ($($(#[$doc:meta])* $name:ident = $domain:literal;)*) => {$(
            $(#[$doc])*
            #[derive(Debug)]
            pub enum $name {}
            impl Sealed for $name {}
            impl super::Kind for $name {
                const DOMAIN: &'static str = $domain;
            }
        )*};
    }

    kinds! {
        /// Names a network.
        Network = "network";
        /// Names a stream.
        Stream = "stream";
        /// Names a group.
        Group = "group";
        /// Names a replicated collection.
        Store = "store";
        /// Names a property that a node declares of itself.
        Tag = "tag";
        /// Names anything else.
        Unique = "unique";
    }
}

/// An identifier of kind `K`: 32 bytes, usually the digest of a name.
///
/// In text formats it is 64 hex digits, in binary ones 32 raw bytes. From a string ([`From<&str>`]):
/// exactly 64 hex digits are decoded, anything else is hashed.
///
/// ```
/// use smalti_core::id::{NetworkId, StreamId};
/// use smalti_core::unique_id;
///
/// const ORDERS: StreamId = unique_id!("orders");
/// assert_eq!(ORDERS, StreamId::from("orders"));
/// assert_eq!(ORDERS, StreamId::from(ORDERS.to_string().as_str()));
/// assert_ne!(ORDERS.as_bytes(), NetworkId::from("orders").as_bytes());
/// ```
pub struct Id<K>([u8; 32], PhantomData<fn() -> K>);

/// Names a network: nodes of different networks refuse each other.
pub type NetworkId = Id<kind::Network>;
/// Names a stream: producers and consumers of one stream find each other.
pub type StreamId = Id<kind::Stream>;
/// Names a consensus group.
pub type GroupId = Id<kind::Group>;
/// Names a replicated collection.
pub type StoreId = Id<kind::Store>;
/// Names a property that a node declares of itself.
pub type Tag = Id<kind::Tag>;
/// Names anything else.
pub type UniqueId = Id<kind::Unique>;

impl<K: Kind> Id<K> {
    /// The id of `name`, at compile time or at run time.
    ///
    /// # Panics
    /// If `name` is longer than 960 bytes; in a constant this is a compile error. `From<&str>` takes names
    /// of any length and agrees with this function on those that it takes.
    #[must_use]
    pub const fn named(name: &str) -> Self {
        let name = name.as_bytes();
        if let Some(bytes) = hex::decode(name) {
            return Self::from_bytes(bytes);
        }
        let mut input = [0u8; const_blake3::INPUT_LEN_MAX];
        let mut len = 0;
        len = append(&mut input, len, K::DOMAIN.as_bytes());
        len = append(&mut input, len, name);
        Self::from_bytes(const_blake3::hash_chunk(&input, len))
    }

    /// The id that belongs to `part` within this one, for example a shard of a store.
    #[must_use]
    pub fn derive(&self, part: impl AsRef<[u8]>) -> Self {
        Self::from_bytes(
            Digest::of(
                "derived id",
                &[K::DOMAIN.as_bytes(), &self.0, part.as_ref()],
            )
            .0,
        )
    }

    /// An id that nothing else has, drawn from `rng`.
    #[must_use]
    pub fn from_rng(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }
}

/// Appends `part` with its length, as [`Digest::of`] hashes it.
const fn append(
    input: &mut [u8; const_blake3::INPUT_LEN_MAX],
    mut len: usize,
    part: &[u8],
) -> usize {
    assert!(
        len + 8 + part.len() <= const_blake3::INPUT_LEN_MAX,
        "the name is too long"
    );
    let part_len = (part.len() as u64).to_le_bytes();
    let mut i = 0;
    while i < part_len.len() {
        input[len] = part_len[i];
        len += 1;
        i += 1;
    }
    let mut i = 0;
    while i < part.len() {
        input[len] = part[i];
        len += 1;
        i += 1;
    }
    len
}

impl<K> Id<K> {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes, PhantomData)
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K: Kind> From<&str> for Id<K> {
    fn from(name: &str) -> Self {
        match hex::decode(name.as_bytes()) {
            Some(bytes) => Self::from_bytes(bytes),
            None => Self::from_bytes(Digest::of(K::DOMAIN, &[name.as_bytes()]).0),
        }
    }
}

impl<K: Kind> From<String> for Id<K> {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl<K: Kind> From<&String> for Id<K> {
    fn from(name: &String) -> Self {
        Self::from(name.as_str())
    }
}

impl<K> From<Digest> for Id<K> {
    fn from(digest: Digest) -> Self {
        Self::from_bytes(digest.0)
    }
}

hex::text_and_serde!(impl [K] for Id<K>, "id");

/// The [`Id`] of a name, computed at compile time; its kind follows from where it is used.
///
/// ```
/// use smalti_core::{id::StoreId, unique_id};
/// const PRICES: StoreId = unique_id!("prices");
/// ```
#[macro_export]
macro_rules! unique_id {
    ($name:expr) => {
        const { $crate::id::Id::named($name) }
    };
}

/// Short for [`unique_id!`](crate::unique_id).
#[macro_export]
macro_rules! id {
    ($name:expr) => {
        $crate::unique_id!($name)
    };
}

/// The [`Tag`](crate::id::Tag) of a name, computed at compile time.
#[macro_export]
macro_rules! tag {
    ($name:expr) => {
        const { $crate::id::Tag::named($name) }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

    #[test]
    fn compile_time_and_run_time_names_agree() {
        const STREAM: StreamId = unique_id!("orders");
        const TAG: Tag = tag!("matcher");
        const EMPTY: UniqueId = id!("");
        assert_eq!(STREAM, StreamId::from("orders"));
        assert_eq!(TAG, Tag::from("matcher"));
        assert_eq!(EMPTY, UniqueId::from(""));
    }

    #[test]
    fn exactly_64_hex_digits_are_decoded() {
        const DECODED: NetworkId = unique_id!(HEX);
        assert_eq!(DECODED.as_bytes()[31], 0xff);
        assert_eq!(NetworkId::from(HEX), DECODED);
        assert_eq!(NetworkId::from(HEX.to_uppercase()), DECODED);
        assert_ne!(NetworkId::from(&HEX[1..]).as_bytes()[..31], [0; 31]);
    }

    #[test]
    fn kinds_and_derivations_do_not_collide() {
        assert_ne!(
            StreamId::from("x").as_bytes(),
            StoreId::from("x").as_bytes()
        );
        let id = StoreId::from("x");
        assert_ne!(id.derive("1"), id.derive("2"));
        assert_ne!(id.derive("1"), StoreId::from("y").derive("1"));
        assert_ne!(Digest::of("a", &[b"bc"]), Digest::of("ab", &[b"c"]));
        assert_ne!(Digest::of("a", &[b"b", b"c"]), Digest::of("a", &[b"bc"]));
    }

    #[test]
    fn an_argument_that_takes_any_id_infers_the_kind() {
        fn takes(id: impl Into<StreamId>) -> StreamId {
            id.into()
        }
        assert_eq!(takes(unique_id!("x")), takes("x"));
    }

    #[test]
    fn serialized_as_hex_for_people_and_as_raw_bytes_on_the_wire() {
        let id = StreamId::from(HEX);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{HEX}\""));
        assert_eq!(serde_json::from_str::<StreamId>(&json).unwrap(), id);
        let wire = postcard::to_stdvec(&id).unwrap();
        assert_eq!(wire, id.as_bytes());
        assert_eq!(postcard::from_bytes::<StreamId>(&wire).unwrap(), id);
        assert!(serde_json::from_str::<StreamId>("\"abc\"").is_err());
    }

    proptest! {
        #[test]
        fn names_of_any_length_agree(name in "\\PC{0,300}") {
            prop_assume!(name.len() <= 960);
            prop_assert_eq!(StreamId::from(name.as_str()), StreamId::named(&name));
        }

        #[test]
        fn text_round_trips(bytes in any::<[u8; 32]>()) {
            let id = UniqueId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<UniqueId>().unwrap(), id);
        }
    }
}
