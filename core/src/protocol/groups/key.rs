//! The secret that the members of a group share.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use rand::Rng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::hex;

/// What the members of a group share and nobody else knows: 32 bytes. Erased from memory when dropped, never
/// shown by `Debug`, never sent.
///
/// Three ways to one:
///
/// - [`from_rng`](Self::from_rng), [`from_bytes`](Self::from_bytes): 32 random bytes. Nobody guesses them, so
///   nothing is stretched. Prefer these where a machine keeps the key.
/// - [`new`](Self::new) with 64 hexadecimal digits: the same, written down.
/// - [`new`](Self::new) with any other text: a secret that a person has chosen, stretched by Argon2id.
///
/// The id of a group follows from its key and is public, so whoever sees it can test guesses at the key without
/// asking anybody. Stretching makes each guess at a text cost what it costs a member, once:
/// [`STRETCH_KIB`](Self::STRETCH_KIB) of memory for [`STRETCH_PASSES`](Self::STRETCH_PASSES) passes, the second
/// recommendation of RFC 9106, section 4. All members must come to the same key and know nothing in common but
/// the text, so the salt is a constant: a table of guesses serves against every group whose secret is in it. A
/// text that is in anybody's list of passwords is no secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GroupKey([u8; 32]);

impl GroupKey {
    /// Memory that stretching a text takes, in KiB.
    pub const STRETCH_KIB: u32 = 64 * 1_024;
    /// Passes over that memory.
    pub const STRETCH_PASSES: u32 = 3;
    /// Lanes of that memory.
    pub const STRETCH_LANES: u32 = 4;

    /// The key of a text: the bytes that 64 hexadecimal digits stand for, or any other text, stretched.
    ///
    /// Stretching takes 0.1 to 0.2 s of CPU and 64 MiB of memory: do it once for each key, away from threads
    /// that must not wait.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut key = Self([0; 32]);
        of_text(text, b"smalti group key 1", &mut key.0);
        key
    }

    /// The key with these bytes, which must be random: they are not stretched.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key drawn from `rng`, which must be seeded by a secret.
    #[must_use]
    pub fn from_rng(rng: &mut impl Rng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The bytes of the key, to be handed to other members. Whoever has them is a member: keep them secret.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A value for `purpose` that tells nothing of the key, nor of the value for any other purpose.
    pub(in crate::protocol) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(purpose, &self.0))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey(..)")
    }
}

/// Fills `key` with the bytes that 64 hexadecimal digits stand for, or with any other text, stretched as
/// [`GroupKey::new`] says. What keys are for tells by the `salt`, so that one text gives keys that have nothing in common.
pub(super) fn of_text(text: &str, salt: &[u8], key: &mut [u8; 32]) {
    if let Some(bytes) = hex::decode(text.as_bytes()) {
        *key = bytes;
        return;
    }
    let params = Params::new(
        GroupKey::STRETCH_KIB,
        GroupKey::STRETCH_PASSES,
        GroupKey::STRETCH_LANES,
        Some(32),
    );
    let params = params.expect("the parameters are constants within Argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(text.as_bytes(), salt, key)
        .expect("text, salt and output lie within Argon2's limits");
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::id::Digest;

    #[test]
    fn every_member_comes_to_the_same_key() {
        let key = GroupKey::new("correct horse battery staple");
        // A change of the derivation parts members of one secret.
        assert_eq!(
            Digest::from_bytes(*key.as_bytes()).to_string(),
            "bdf6323f5dabd7a88720848df15e68844b8f3dddbc309b7a01492b1119f5eaf7"
        );
        assert_ne!(key.as_bytes(), GroupKey::new("correct horse").as_bytes());
    }

    #[test]
    fn the_digits_of_a_key_are_the_key() {
        let key = GroupKey::from_rng(&mut ChaCha8Rng::seed_from_u64(1));
        let text = Digest::from_bytes(*key.as_bytes()).to_string();
        assert_eq!(GroupKey::new(&text).as_bytes(), key.as_bytes());
        assert_eq!(
            GroupKey::from_bytes(*key.as_bytes()).as_bytes(),
            key.as_bytes()
        );
    }

    #[test]
    fn what_is_derived_tells_purposes_apart() {
        let key = GroupKey::from_bytes([7; 32]);
        assert_ne!(*key.derive("a"), *key.derive("b"));
        assert_ne!(*key.derive("a"), *key.as_bytes());
    }

    #[test]
    fn a_group_key_does_not_show_itself() {
        assert_eq!(
            format!("{:?}", GroupKey::from_bytes([7; 32])),
            "GroupKey(..)"
        );
    }
}
