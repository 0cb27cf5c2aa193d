//! Proofs of a group's key, and of its write key, worth nothing but on one link, from one of its ends.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{GroupId, PeerId, SecretKey, Signature};
use crate::protocol::groups::{GroupKey, WriteAccess, WriteVerifier};
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
        for part in bound_to(b"smalti group bond 1", side, &group, ends) {
            mac.update(part);
        }
        mac
    }
}

/// All that a proof is bound to, so that it is worth nothing elsewhere: each part of a length that never varies for one
/// `purpose`.
fn bound_to<'a>(
    purpose: &'a [u8],
    side: Side,
    group: &'a GroupId,
    ends: &'a Ends,
) -> [&'a [u8]; 6] {
    [
        purpose,
        match side {
            Side::Dialer => b"dialer  ",
            Side::Acceptor => b"acceptor",
        },
        &ends.exporter,
        group.as_bytes(),
        ends.dialer.as_bytes(),
        ends.acceptor.as_bytes(),
    ]
}

/// Proves that this node may write, where it may, and checks the others' proofs.
pub(super) struct WriteGuard {
    verifier: Option<WriteVerifier>,
    signer: Option<SecretKey>,
}

impl WriteGuard {
    pub(super) fn new(access: &WriteAccess) -> Self {
        Self {
            verifier: access.verifier(),
            signer: match access {
                WriteAccess::Writer(key) => Some(key.signer()),
                WriteAccess::Open | WriteAccess::Reader(_) => None,
            },
        }
    }

    /// The proof that the end at `side` of the link may write to `group`; `None` where it may not, or where nobody asks
    /// for one.
    pub(super) fn prove(&self, side: Side, group: GroupId, ends: &Ends) -> Option<Signature> {
        let signer = self.signer.as_ref()?;
        Some(signer.sign(&Self::message(side, group, ends)))
    }

    /// Whether what the end at `side` says of itself is true: it proves that it may write, or does not say so. Where
    /// nobody asks for a proof there is none to be given.
    pub(super) fn verify(
        &self,
        side: Side,
        group: GroupId,
        ends: &Ends,
        proof: Option<&Signature>,
    ) -> bool {
        match (&self.verifier, proof) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(verifier), Some(proof)) => {
                let message = Self::message(side, group, ends);
                verifier.verify(&message, proof).is_ok()
            }
        }
    }

    /// Whether a peer may write that has given `proof`, which is [verified](Self::verify).
    pub(super) const fn admits(&self, proof: Option<&Signature>) -> bool {
        self.verifier.is_none() || proof.is_some()
    }

    /// What is signed. Not what a proof of the group's key is made of: neither is ever worth anything as the other.
    fn message(side: Side, group: GroupId, ends: &Ends) -> Vec<u8> {
        bound_to(b"smalti group write proof 1", side, &group, ends).concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::groups::WriteKey;

    const ENDS: Ends = Ends {
        exporter: [7; 32],
        dialer: PeerId::from_bytes([1; 32]),
        acceptor: PeerId::from_bytes([2; 32]),
    };

    /// Asserts that `verify` takes what was made for the dialer of `ENDS` in "group" there, and nowhere else.
    fn assert_worth_nothing_elsewhere(verify: impl Fn(Side, GroupId, &Ends) -> bool) {
        let group = GroupId::from("group");
        assert!(verify(Side::Dialer, group, &ENDS));
        let (dialer, acceptor) = (ENDS.dialer, ENDS.acceptor);
        let crossed = Ends {
            dialer: acceptor,
            acceptor: dialer,
            ..ENDS
        };
        let exporter = [8; 32];
        let third = PeerId::from_bytes([3; 32]);
        assert!(!verify(Side::Acceptor, group, &ENDS), "reflected");
        assert!(
            !verify(Side::Acceptor, group, &crossed),
            "on a crossing link"
        );
        assert!(!verify(Side::Dialer, group, &crossed), "reflected there");
        assert!(
            !verify(Side::Dialer, GroupId::from("other"), &ENDS),
            "another group"
        );
        assert!(
            !verify(Side::Dialer, group, &Ends { exporter, ..ENDS }),
            "replayed"
        );
        let passed_on = Ends {
            acceptor: third,
            ..ENDS
        };
        assert!(!verify(Side::Dialer, group, &passed_on), "passed on");
        let posed = Ends {
            dialer: third,
            ..ENDS
        };
        assert!(!verify(Side::Dialer, group, &posed), "another's");
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let key = ProofKey::new(&GroupKey::from_bytes([1; 32]));
        let other = ProofKey::new(&GroupKey::from_bytes([2; 32]));
        let group = GroupId::from("group");
        let proof = key.prove(Side::Dialer, group, &ENDS);
        assert_worth_nothing_elsewhere(|side, group, ends| key.verify(side, group, ends, &proof));
        assert!(
            !other.verify(Side::Dialer, group, &ENDS, &proof),
            "another key"
        );
    }

    #[test]
    fn a_proof_of_a_writer_is_worth_nothing_elsewhere() {
        let key = WriteKey::from_bytes([1; 32]);
        let writer = WriteGuard::new(&WriteAccess::Writer(key.clone()));
        let reader = WriteGuard::new(&WriteAccess::Reader(key.verifier()));
        let group = GroupId::from("group");
        let proof = writer.prove(Side::Dialer, group, &ENDS);
        assert!(proof.is_some());
        for guard in [&writer, &reader] {
            assert_worth_nothing_elsewhere(|side, group, ends| {
                guard.verify(side, group, ends, proof.as_ref())
            });
        }
        let other = WriteGuard::new(&WriteAccess::Writer(WriteKey::from_bytes([2; 32])));
        assert!(
            !other.verify(Side::Dialer, group, &ENDS, proof.as_ref()),
            "another key"
        );
        // What proves the group's key, signed by whoever it may be, says nothing of writing.
        let message = bound_to(b"smalti group bond 1", Side::Dialer, &group, &ENDS).concat();
        let of_bond = key.signer().sign(&message);
        assert!(!writer.verify(Side::Dialer, group, &ENDS, Some(&of_bond)));
    }

    #[test]
    fn readers_prove_nothing_and_are_taken_for_readers() {
        let key = WriteKey::from_bytes([1; 32]);
        let group = GroupId::from("group");
        let writer = WriteGuard::new(&WriteAccess::Writer(key.clone()));
        let reader = WriteGuard::new(&WriteAccess::Reader(key.verifier()));
        let open = WriteGuard::new(&WriteAccess::Open);
        assert_eq!(reader.prove(Side::Dialer, group, &ENDS), None);
        assert_eq!(open.prove(Side::Dialer, group, &ENDS), None);
        let proof = writer.prove(Side::Dialer, group, &ENDS);
        for guard in [&writer, &reader] {
            assert!(guard.verify(Side::Dialer, group, &ENDS, None));
            assert!(!guard.admits(None) && guard.admits(proof.as_ref()));
        }
        assert!(open.admits(None), "there is nothing to prove");
        assert!(!open.verify(Side::Dialer, group, &ENDS, proof.as_ref()));
    }
}
