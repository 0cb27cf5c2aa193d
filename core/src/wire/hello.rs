//! The first frame each way on every connection.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CloseCode;
use crate::id::{Instance, NetworkId, PeerId};
use crate::runtime::Side;
use crate::time::Duration;

/// The longest hello, in bytes.
pub const HELLO_LEN_MAX: usize = 4 * 1_024;

/// How long a hello is waited for, at either end.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The label under which the keying material of admission proofs is exported.
pub const HELLO_EXPORTER_LABEL: &[u8] = b"EXPORTER-smalti-hello";

/// The version of everything on the wire that has no version of its own. Two nodes understand each other
/// where their ranges overlap.
pub const WIRE_VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// A range of wire versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest version understood.
    pub min: u16,
    /// The newest version understood.
    pub max: u16,
}

impl VersionRange {
    /// The newest version that both understand.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// Says which network a node belongs to, and proves that it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The network of the sender.
    pub network: NetworkId,
    /// The versions that the sender understands.
    pub versions: VersionRange,
    /// The sender's run.
    pub instance: Instance,
    /// Proof of the network secret, where the sender has one.
    pub proof: Option<[u8; 32]>,
}

/// What both ends of one connection know, and a proof is bound to.
#[derive(Clone, Copy, Debug)]
pub struct HelloContext {
    /// The network of the judging node.
    pub network: NetworkId,
    /// Keying material of the connection, under [`HELLO_EXPORTER_LABEL`].
    pub exporter: [u8; 32],
    /// Who has dialled.
    pub dialer: PeerId,
    /// Who was dialled.
    pub acceptor: PeerId,
}

/// Why a peer's hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The peer belongs to another network.
    #[error("the peer belongs to network {theirs}, this node to {ours}")]
    DifferentNetwork {
        /// This node's network.
        ours: NetworkId,
        /// The peer's network.
        theirs: NetworkId,
    },
    /// The two ends have no wire version in common.
    #[error(
        "the peer speaks wire versions {} to {}, this node {} to {}",
        theirs.min, theirs.max, ours.min, ours.max
    )]
    WrongVersion {
        /// This node's versions.
        ours: VersionRange,
        /// The peer's versions.
        theirs: VersionRange,
    },
    /// The peer does not prove the network secret that this node has, or proves one that this node lacks.
    #[error(
        "the network secrets of the two nodes differ: give both nodes the same secret, or none"
    )]
    NotAdmitted,
}

impl HelloError {
    /// The code with which the connection is closed.
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::DifferentNetwork { .. } => CloseCode::DIFFERENT_NETWORK,
            Self::WrongVersion { .. } => CloseCode::WRONG_VERSION,
            Self::NotAdmitted => CloseCode::NOT_ADMITTED,
        }
    }
}

impl Hello {
    /// Judges the hello of the peer at `peer_side` of the connection.
    ///
    /// # Errors
    /// [`HelloError`] where the peer is not to be admitted.
    pub fn judge(
        &self,
        peer_side: Side,
        context: &HelloContext,
        secret: Option<&NetworkSecret>,
    ) -> Result<(), HelloError> {
        if self.network != context.network {
            let (ours, theirs) = (context.network, self.network);
            return Err(HelloError::DifferentNetwork { ours, theirs });
        }
        if self.versions.newest_common(WIRE_VERSIONS).is_none() {
            return Err(HelloError::WrongVersion {
                ours: WIRE_VERSIONS,
                theirs: self.versions,
            });
        }
        match (secret, &self.proof) {
            (None, None) => Ok(()),
            (Some(secret), Some(proof)) if secret.verify(peer_side, context, proof) => Ok(()),
            _ => Err(HelloError::NotAdmitted),
        }
    }
}

/// What nodes of a closed network share. Erased from memory when dropped, never shown and never sent.
///
/// Only a slow hash of the text is kept: a proof that was seen allows guesses at the text, and each guess
/// costs [`STRETCH_ROUNDS`](Self::STRETCH_ROUNDS) rounds. Choose a text that cannot be guessed all the same.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NetworkSecret([u8; 32]);

impl NetworkSecret {
    /// Rounds of PBKDF2-HMAC-SHA256 (RFC 8018, section 5.2): tens of milliseconds at a node's start.
    pub const STRETCH_ROUNDS: u32 = 100_000;

    /// Derives the secret of `network` from `text`. Takes tens of milliseconds of CPU.
    #[must_use]
    pub fn new(text: &str, network: NetworkId) -> Self {
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(
            text.as_bytes(),
            network.as_bytes(),
            Self::STRETCH_ROUNDS,
            &mut key,
        );
        Self(key)
    }

    /// The proof that the end at `side` of the connection knows the secret.
    ///
    /// It is bound to the connection by the exporter, so it cannot be replayed on another, and to the side
    /// and both identities, so it cannot be reflected on the same.
    #[must_use]
    pub fn prove(&self, side: Side, context: &HelloContext) -> [u8; 32] {
        self.mac(side, context).finalize().into_bytes().into()
    }

    fn verify(&self, side: Side, context: &HelloContext, proof: &[u8; 32]) -> bool {
        // Compares in constant time.
        self.mac(side, context).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, context: &HelloContext) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(b"smalti network admission 1");
        mac.update(match side {
            Side::Dialer => b"dialer  ",
            Side::Acceptor => b"acceptor",
        });
        mac.update(&context.exporter);
        mac.update(context.dialer.as_bytes());
        mac.update(context.acceptor.as_bytes());
        mac.update(context.network.as_bytes());
        mac
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SecretKey;

    fn context() -> HelloContext {
        HelloContext {
            network: NetworkId::from("net"),
            exporter: [7; 32],
            dialer: SecretKey::from("dialer").peer_id(),
            acceptor: SecretKey::from("acceptor").peer_id(),
        }
    }

    fn hello(secret: Option<&NetworkSecret>, side: Side) -> Hello {
        Hello {
            network: context().network,
            versions: WIRE_VERSIONS,
            instance: Instance::from_bytes([1; 16]),
            proof: secret.map(|secret| secret.prove(side, &context())),
        }
    }

    #[test]
    fn equal_networks_and_secrets_are_admitted() {
        let secret = NetworkSecret::new("s", context().network);
        assert_eq!(
            hello(None, Side::Dialer).judge(Side::Dialer, &context(), None),
            Ok(())
        );
        for side in [Side::Dialer, Side::Acceptor] {
            let hello = hello(Some(&secret), side);
            assert_eq!(hello.judge(side, &context(), Some(&secret)), Ok(()));
        }
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let secret = NetworkSecret::new("s", context().network);
        let other = NetworkSecret::new("t", context().network);
        let hello = hello(Some(&secret), Side::Dialer);
        let refused = Err(HelloError::NotAdmitted);
        assert_eq!(
            hello.judge(Side::Dialer, &context(), Some(&other)),
            refused,
            "another secret"
        );
        assert_eq!(
            hello.judge(Side::Acceptor, &context(), Some(&secret)),
            refused,
            "reflected"
        );
        let replayed = HelloContext {
            exporter: [8; 32],
            ..context()
        };
        assert_eq!(
            hello.judge(Side::Dialer, &replayed, Some(&secret)),
            refused,
            "replayed"
        );
        let swapped = HelloContext {
            dialer: context().acceptor,
            acceptor: context().dialer,
            ..context()
        };
        assert_eq!(
            hello.judge(Side::Dialer, &swapped, Some(&secret)),
            refused,
            "other peers"
        );
    }

    #[test]
    fn secrets_are_had_by_both_or_by_none() {
        let secret = NetworkSecret::new("s", context().network);
        let refused = Err(HelloError::NotAdmitted);
        let with = hello(Some(&secret), Side::Dialer);
        let without = hello(None, Side::Dialer);
        assert_eq!(with.judge(Side::Dialer, &context(), None), refused);
        assert_eq!(
            without.judge(Side::Dialer, &context(), Some(&secret)),
            refused
        );
    }

    #[test]
    fn other_networks_and_versions_are_refused_with_their_codes() {
        let mut stranger = hello(None, Side::Dialer);
        stranger.network = NetworkId::from("other");
        let error = stranger.judge(Side::Dialer, &context(), None).unwrap_err();
        assert_eq!(error.close_code(), CloseCode::DIFFERENT_NETWORK);
        let mut future = hello(None, Side::Dialer);
        future.versions = VersionRange { min: 9, max: 12 };
        let error = future.judge(Side::Dialer, &context(), None).unwrap_err();
        assert_eq!(error.close_code(), CloseCode::WRONG_VERSION);
    }

    #[test]
    fn the_newest_common_version_is_taken() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).newest_common(range(2, 9)), Some(3));
        assert_eq!(range(2, 9).newest_common(range(1, 2)), Some(2));
        assert_eq!(range(1, 1).newest_common(range(2, 3)), None);
    }
}
