//! The secret that those share who may write to a group, and what everybody checks them by.

use std::fmt;

use rand::Rng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::key::of_text;
use crate::id::{InvalidSignature, PeerId, SecretKey, Signature, hex};

/// What those share who may write to a group, and its other members do not know: 32 bytes. Erased from memory when
/// dropped, never shown by `Debug`, never sent.
///
/// Whoever writes proves to know it by a signature. Members check that by the [`WriteVerifier`], with which nobody can
/// pose as a writer; all of them are given the same, so it is public within the group.
///
/// Made in the three ways of a [`GroupKey`](super::GroupKey), and a text that a person has chosen is stretched in the same way:
/// the verifier lets whoever has it test guesses. It must be another secret than the group's key, which readers know.
///
/// ```
/// use smalti_core::groups::{WriteKey, WriteVerifier};
///
/// let key = WriteKey::new("7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069");
/// // Readers are told this, in plain text if need be.
/// let text = key.verifier().to_string();
/// let verifier: WriteVerifier = text.parse()?;
/// assert_eq!(verifier, key.verifier());
/// # Ok::<(), smalti_core::id::ParseIdError>(())
/// ```
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct WriteKey([u8; 32]);

impl WriteKey {
    /// The key of a text: the bytes that 64 hexadecimal digits stand for, or any other text, stretched as by
    /// [`GroupKey::new`](super::GroupKey::new), at the same cost.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut key = Self([0; 32]);
        of_text(text, b"smalti write key 1", &mut key.0);
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

    /// The bytes of the key, to be handed to other writers. Whoever has them may write: keep them secret.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What its proofs are checked by. Tells nothing of the key, but lets guesses at it be tested.
    #[must_use]
    pub fn verifier(&self) -> WriteVerifier {
        WriteVerifier(*self.signer().peer_id().as_bytes())
    }

    /// What proofs are signed with: no key that anything else is signed with.
    pub(in crate::protocol) fn signer(&self) -> SecretKey {
        let seed = Zeroizing::new(blake3::derive_key("smalti 1 proof of a write key", &self.0));
        SecretKey::from_bytes(*seed)
    }
}

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey(..)")
    }
}

/// What the members of a group check by who may write: the public half of a [`WriteKey`].
///
/// Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteVerifier([u8; 32]);

impl WriteVerifier {
    /// The verifier with these bytes. Whether they are one shows when something is verified.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes: an Ed25519 public key (RFC 8032).
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks that somebody has signed `message` who knows the key.
    pub(in crate::protocol) fn verify(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), InvalidSignature> {
        PeerId::from_bytes(self.0).verify(message, signature)
    }
}

hex::text_and_serde!(impl [] for WriteVerifier, "write verifier");

/// Who may write to a group, and whether this node may.
#[derive(Clone, Debug, Default)]
pub enum WriteAccess {
    /// Whoever knows the group's key. Default.
    #[default]
    Open,
    /// Whoever proves to this verifier that it may; this node only reads.
    Reader(WriteVerifier),
    /// Whoever knows this key, as this node does.
    Writer(WriteKey),
}

/// A node was given a write key, and a verifier that is not the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the write key of this node has the verifier {of_key}, and it was given the verifier {given}: give one of the two, or the verifier of that key"
)]
pub struct WriteKeyMismatch {
    /// The verifier of the key.
    pub of_key: WriteVerifier,
    /// The one that was given.
    pub given: WriteVerifier,
}

impl WriteAccess {
    /// What a node may do that was given these. Of the two the key is enough.
    ///
    /// # Errors
    /// Where they do not belong together.
    pub fn new(
        key: Option<WriteKey>,
        verifier: Option<WriteVerifier>,
    ) -> Result<Self, WriteKeyMismatch> {
        let Some(key) = key else {
            return Ok(verifier.map_or(Self::Open, Self::Reader));
        };
        let of_key = key.verifier();
        match verifier.filter(|given| *given != of_key) {
            Some(given) => Err(WriteKeyMismatch { of_key, given }),
            None => Ok(Self::Writer(key)),
        }
    }

    /// Whether this node may write.
    #[must_use]
    pub const fn may_write(&self) -> bool {
        !matches!(self, Self::Reader(_))
    }

    /// What writers are checked by; `None` where whoever is in the group may write.
    #[must_use]
    pub fn verifier(&self) -> Option<WriteVerifier> {
        match self {
            Self::Open => None,
            Self::Reader(verifier) => Some(*verifier),
            Self::Writer(key) => Some(key.verifier()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_comes_to_the_same_verifier() {
        let key = WriteKey::new("correct horse battery staple");
        // A change of the derivation parts members of one secret.
        assert_eq!(
            key.verifier().to_string(),
            "ed58e09cf7afc88913b18da837cf052a916adc6ab60ed5ba7d393dea090d2bb9"
        );
        let digits = hex::encode(key.as_bytes());
        assert_eq!(WriteKey::new(&digits).verifier(), key.verifier());
        // What the key of a group is that was made of the same text: whoever knows that does not know this one.
        let of_group = "bdf6323f5dabd7a88720848df15e68844b8f3dddbc309b7a01492b1119f5eaf7";
        assert_ne!(digits, of_group);
    }

    #[test]
    fn only_who_knows_the_key_signs_for_its_verifier() {
        let key = WriteKey::from_bytes([1; 32]);
        let signature = key.signer().sign(b"message");
        assert_eq!(key.verifier().verify(b"message", &signature), Ok(()));
        let other = WriteKey::from_bytes([2; 32]).verifier();
        assert_eq!(other.verify(b"message", &signature), Err(InvalidSignature));
        // Not even with the same bytes as another kind of key.
        let posing = SecretKey::from_bytes([1; 32]).sign(b"message");
        let verified = key.verifier().verify(b"message", &posing);
        assert_eq!(verified, Err(InvalidSignature));
    }

    #[test]
    fn a_verifier_is_written_in_digits_and_encoded_in_bytes() {
        let verifier = WriteKey::from_bytes([1; 32]).verifier();
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
        let bytes = crate::wire::encode(&verifier).unwrap();
        assert_eq!(bytes[..], verifier.as_bytes()[..]);
        let error = "xyz".parse::<WriteVerifier>().unwrap_err().to_string();
        assert!(error.contains("write verifier"), "{error}");
    }

    #[test]
    fn a_key_and_the_verifier_of_another_are_refused_together() {
        let (key, other) = (WriteKey::from_bytes([1; 32]), WriteKey::from_bytes([2; 32]));
        let new = |key: Option<&WriteKey>, verifier| WriteAccess::new(key.cloned(), verifier);
        let open = new(None, None).unwrap();
        assert!(open.may_write() && open.verifier().is_none());
        let reader = new(None, Some(key.verifier())).unwrap();
        assert!(!reader.may_write() && reader.verifier() == Some(key.verifier()));
        for given in [None, Some(key.verifier())] {
            let writer = new(Some(&key), given).unwrap();
            assert!(writer.may_write() && writer.verifier() == Some(key.verifier()));
        }
        let refused = new(Some(&key), Some(other.verifier())).unwrap_err();
        let mismatch = WriteKeyMismatch {
            of_key: key.verifier(),
            given: other.verifier(),
        };
        assert_eq!(refused, mismatch);
    }

    #[test]
    fn a_write_key_does_not_show_itself() {
        let key = WriteKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "WriteKey(..)");
        let shown = format!("{:?}", WriteAccess::Writer(key));
        assert_eq!(shown, "Writer(WriteKey(..))");
    }
}
