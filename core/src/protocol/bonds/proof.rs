//! Proofs of a group's key, worth nothing but on one link, from one of its ends.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{GroupId, PeerId};
use crate::protocol::groups::GroupKey;
use crate::runtime::Side;

/// A proof, as it is sent.
pub type Proof = [u8; 32];

/// What both ends of a link know, and a proof is bound to.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// Keying material of the connection, under [`GROUPS_EXPORTER_LABEL`](super::GROUPS_EXPORTER_LABEL).
    pub(super) exporter: [u8; 32],
    /// Who has opened the link.
    pub(super) dialer: PeerId,
    /// Who was dialled.
    pub(super) acceptor: PeerId,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the keying material.
        write!(f, "Ends({:?} to {:?})", self.dialer, self.acceptor)
    }
}

/// The part of a group's key that proofs are made with.
pub(super) struct ProofKey(Zeroizing<[u8; 32]>);

impl ProofKey {
    pub(super) fn new(key: &GroupKey) -> Self {
        Self(key.derive("smalti 1 proof of a group key"))
    }

    /// The proof that the end at `side` of the link knows the key of `group`.
    pub(super) fn prove(&self, side: Side, group: GroupId, ends: &Ends) -> Proof {
        self.mac(side, group, ends).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of the end at `side`. Takes the same time for every wrong proof.
    pub(super) fn verify(&self, side: Side, group: GroupId, ends: &Ends, proof: &Proof) -> bool {
        self.mac(side, group, ends).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, group: GroupId, ends: &Ends) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0[..]).expect("HMAC takes keys of any length");
        mac.update(b"smalti group bond 1");
        mac.update(match side {
            Side::Dialer => b"dialer  ",
            Side::Acceptor => b"acceptor",
        });
        mac.update(&ends.exporter);
        mac.update(group.as_bytes());
        mac.update(ends.dialer.as_bytes());
        mac.update(ends.acceptor.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        exporter: [7; 32],
        dialer: PeerId::from_bytes([1; 32]),
        acceptor: PeerId::from_bytes([2; 32]),
    };

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let key = ProofKey::new(&GroupKey::from_bytes([1; 32]));
        let other = ProofKey::new(&GroupKey::from_bytes([2; 32]));
        let group = GroupId::from("group");
        let proof = key.prove(Side::Dialer, group, &ENDS);
        assert!(key.verify(Side::Dialer, group, &ENDS, &proof));
        let verify = |side, group, ends| key.verify(side, group, &ends, &proof);
        let (dialer, acceptor) = (ENDS.dialer, ENDS.acceptor);
        let crossed = Ends {
            dialer: acceptor,
            acceptor: dialer,
            ..ENDS
        };
        let exporter = [8; 32];
        let third = PeerId::from_bytes([3; 32]);
        assert!(
            !other.verify(Side::Dialer, group, &ENDS, &proof),
            "another key"
        );
        assert!(!verify(Side::Acceptor, group, ENDS), "reflected");
        assert!(
            !verify(Side::Acceptor, group, crossed),
            "on a crossing link"
        );
        assert!(!verify(Side::Dialer, group, crossed), "reflected there");
        assert!(
            !verify(Side::Dialer, GroupId::from("other"), ENDS),
            "another group"
        );
        assert!(
            !verify(Side::Dialer, group, Ends { exporter, ..ENDS }),
            "replayed"
        );
        let passed_on = Ends {
            acceptor: third,
            ..ENDS
        };
        assert!(!verify(Side::Dialer, group, passed_on), "passed on");
        let posed = Ends {
            dialer: third,
            ..ENDS
        };
        assert!(!verify(Side::Dialer, group, posed), "another's");
    }
}
