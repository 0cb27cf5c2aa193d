//! Node identities: Ed25519 keys (RFC 8032).

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use super::{Digest, hex};

/// Names a node: its Ed25519 public key, which it proves to hold in every TLS handshake.
///
/// Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The peer with this public key. Whether the bytes are a key shows when something is verified.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks that this peer has signed `message`.
    ///
    /// # Errors
    /// [`InvalidSignature`] where it has not, and where the peer id is not a public key.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| InvalidSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.to_bytes());
        // Strict: a signature that only some implementations accept would split the network.
        key.verify_strict(message, &signature)
            .map_err(|_| InvalidSignature)
    }
}

hex::text_and_serde!(impl [] for PeerId, "peer id");

/// The signature is not that of the peer over the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not belong to this peer and message")]
pub struct InvalidSignature;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature([u8; 32], [u8; 32]);

impl Signature {
    fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&bytes[..32]);
        s.copy_from_slice(&bytes[32..]);
        Self(r, s)
    }

    fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.1);
        bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(&self.0[..5]))
    }
}

/// A node's secret key. Erased from memory when dropped, and never shown by `Debug`.
///
/// From a string: 64 hex digits are the key itself, anything else is hashed to one. Whoever can guess the
/// string can be the node.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey(
    // With the public half beside it: deriving that anew would double the cost of every signature.
    SigningKey,
);

impl SecretKey {
    /// The key with these bytes (an RFC 8032 seed).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// A key drawn from `rng`, which must be seeded by a secret.
    #[must_use]
    pub fn from_rng(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }

    /// The bytes of the key. They are the node's identity: keep them secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public half, which names the node.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(&self.0.sign(message).to_bytes())
    }
}

impl From<&str> for SecretKey {
    fn from(text: &str) -> Self {
        Self::from_bytes(match hex::decode(text.as_bytes()) {
            Some(bytes) => bytes,
            None => *Digest::of("secret key", &[text.as_bytes()]).as_bytes(),
        })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_verify_for_their_peer_and_message_only() {
        let (a, b) = (SecretKey::from("a"), SecretKey::from("b"));
        let signature = a.sign(b"hello");
        assert_eq!(a.peer_id().verify(b"hello", &signature), Ok(()));
        assert_eq!(
            a.peer_id().verify(b"hullo", &signature),
            Err(InvalidSignature)
        );
        assert_eq!(
            b.peer_id().verify(b"hello", &signature),
            Err(InvalidSignature)
        );
    }

    #[test]
    fn bytes_that_are_no_key_verify_nothing() {
        let signature = SecretKey::from("a").sign(b"hello");
        assert_eq!(
            PeerId::from_bytes([2; 32]).verify(b"hello", &signature),
            Err(InvalidSignature)
        );
    }

    #[test]
    fn a_secret_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", SecretKey::from("a")), "SecretKey(..)");
    }

    #[test]
    fn the_text_of_a_key_is_the_key() {
        let key = SecretKey::from("seed");
        assert_eq!(
            SecretKey::from(hex::encode(key.as_bytes()).as_str()).peer_id(),
            key.peer_id()
        );
    }
}
