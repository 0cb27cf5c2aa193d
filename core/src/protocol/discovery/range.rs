//! Ranges of peer ids, and sums of what lies in them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};

use crate::id::{Digest, PeerId};

/// How many parts a range is split into: one for each value of the next half byte.
pub(super) const PARTS: usize = 16;
/// Half bytes of a peer id.
pub(super) const NIBBLES: u8 = 64;

/// All peer ids that begin with the same half bytes.
///
/// Peer ids are public keys, so they are spread evenly, and sixteenths of the id space hold about as many
/// ids each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Range {
    nibbles: u8,
    prefix: [u8; 32],
}

impl Range {
    /// Every peer id.
    pub(super) const ALL: Self = Self {
        nibbles: 0,
        prefix: [0; 32],
    };

    /// How many half bytes its ids share.
    pub(super) const fn nibbles(&self) -> u8 {
        self.nibbles
    }

    /// The first byte of its ids, zero where they do not share it.
    pub(super) const fn first_byte(&self) -> u8 {
        self.prefix[0]
    }

    /// Its smallest id.
    pub(super) const fn first(&self) -> PeerId {
        PeerId::from_bytes(self.prefix)
    }

    /// Its greatest id.
    pub(super) fn last(&self) -> PeerId {
        let mut bytes = self.prefix;
        let shared = usize::from(self.nibbles / 2);
        if self.nibbles % 2 == 1 {
            bytes[shared] |= 0x0f;
            bytes[shared + 1..].fill(0xff);
        } else {
            bytes[shared..].fill(0xff);
        }
        PeerId::from_bytes(bytes)
    }

    /// The part whose ids go on with `nibble`; `None` where the range is a single id.
    pub(super) fn part(&self, nibble: u8) -> Option<Self> {
        if self.nibbles == NIBBLES {
            return None;
        }
        let mut prefix = self.prefix;
        let shift = if self.nibbles.is_multiple_of(2) { 4 } else { 0 };
        prefix[usize::from(self.nibbles / 2)] |= (nibble & 0x0f) << shift;
        Some(Self {
            nibbles: self.nibbles + 1,
            prefix,
        })
    }

    /// Which part `id`, an id in the range, belongs to.
    pub(super) fn part_of(&self, id: &PeerId) -> usize {
        let byte = id.as_bytes()[usize::from(self.nibbles / 2).min(31)];
        usize::from(if self.nibbles.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 0x0f
        })
    }

    fn from_parts(nibbles: u8, given: &[u8]) -> Option<Self> {
        if nibbles > NIBBLES || given.len() != usize::from(nibbles.div_ceil(2)) {
            return None;
        }
        if nibbles % 2 == 1 && given.last().is_some_and(|byte| byte & 0x0f != 0) {
            return None;
        }
        let mut prefix = [0; 32];
        prefix[..given.len()].copy_from_slice(given);
        Some(Self { nibbles, prefix })
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.first().to_string();
        write!(f, "{}*", &text[..usize::from(self.nibbles)])
    }
}

/// As a byte string: the number of half bytes, then the bytes that hold them.
impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = [0; 33];
        bytes[0] = self.nibbles;
        bytes[1..].copy_from_slice(&self.prefix);
        serializer.serialize_bytes(&bytes[..1 + usize::from(self.nibbles.div_ceil(2))])
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Prefix;

        impl Visitor<'_> for Prefix {
            type Value = Range;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the prefix of a peer id")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Range, E> {
                bytes
                    .split_first()
                    .and_then(|(nibbles, prefix)| Range::from_parts(*nibbles, prefix))
                    .ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }

        deserializer.deserialize_bytes(Prefix)
    }
}

/// The sum of a set of entries: equal sets have equal sums, and different sets almost never do.
///
/// Adding digests modulo 2^128 lets an entry be put in and taken out without regard to the others. It does
/// not withstand somebody who chooses entries so that sums collide; peers that are let in are trusted not
/// to, and what they would win is that two nodes believe to be in step until the next change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Fingerprint {
    /// How many entries.
    pub(super) count: u32,
    /// Their digests' first halves, added up.
    sum: u128,
}

impl Fingerprint {
    pub(super) fn insert(&mut self, digest: &Digest) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(half(digest));
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(half(digest));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

fn half(digest: &Digest) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn within(id: PeerId, nibbles: u8) -> Range {
        let mut range = Range::ALL;
        for _ in 0..nibbles {
            range = range.part(range.part_of(&id) as u8).unwrap();
        }
        range
    }

    proptest! {
        #[test]
        fn a_range_holds_the_ids_with_its_prefix(bytes in any::<[u8; 32]>(), nibbles in 0..=64u8) {
            let id = PeerId::from_bytes(bytes);
            let range = within(id, nibbles);
            prop_assert!(range.first() <= id && id <= range.last());
            let text = id.to_string();
            prop_assert_eq!(format!("{range:?}"), format!("{}*", &text[..nibbles.into()]));
            let wire = postcard::to_stdvec(&range).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Range>(&wire).unwrap(), range);
        }

        #[test]
        fn arbitrary_bytes_are_a_range_with_one_encoding_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            if let Ok((range, rest)) = postcard::take_from_bytes::<Range>(&bytes) {
                let wire = postcard::to_stdvec(&range).unwrap();
                prop_assert_eq!(&wire[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }

    #[test]
    fn parts_follow_each_other_and_fill_the_range() {
        for nibbles in [0, 1, 2, 31, 63] {
            let range = within(PeerId::from_bytes([0x5a; 32]), nibbles);
            let parts: Vec<_> = (0..16).map(|i| range.part(i).unwrap()).collect();
            assert_eq!(parts[0].first(), range.first());
            assert_eq!(parts[15].last(), range.last());
            assert!(
                parts
                    .windows(2)
                    .all(|pair| pair[0].last() < pair[1].first())
            );
        }
        assert_eq!(within(PeerId::from_bytes([7; 32]), 64).part(0), None);
    }
}
