//! Node identities in TLS: raw Ed25519 public keys (RFC 7250) on both sides.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime, alg_id,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, public_key_to_spki};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
};
use smalti_core::id::{PeerId, SecretKey};

/// A PKCS#8 version 1 wrapping of an Ed25519 seed (RFC 8410, section 7) is this prefix, then the seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The public key as TLS presents it: with raw keys, the "certificate chain" is one entry that holds the
/// SubjectPublicKeyInfo.
pub(super) fn certified_key(
    provider: &CryptoProvider,
    secret_key: &SecretKey,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let pkcs8 = [&PKCS8_PREFIX[..], secret_key.as_bytes()].concat();
    let key = provider
        .key_provider
        .load_private_key(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8)))?;
    let spki = public_key_to_spki(&alg_id::ED25519, secret_key.peer_id().as_bytes());
    if key.public_key().as_ref() != Some(&spki) {
        return Err(TlsError::General(
            "the key provider and the peer id disagree about the public key".into(),
        ));
    }
    let chain = vec![CertificateDer::from(spki.as_ref().to_vec())];
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// The peer that a presented chain names; `None` where it is not exactly one raw Ed25519 key.
pub(super) fn peer_of_chain(chain: &[CertificateDer<'_>]) -> Option<PeerId> {
    match chain {
        [key] => peer_of_key(key),
        _ => None,
    }
}

fn peer_of_key(spki: &CertificateDer<'_>) -> Option<PeerId> {
    let start = spki.len().checked_sub(32)?;
    let key: [u8; 32] = spki[start..].try_into().ok()?;
    // Compared as a whole, so that no other encoding of the same key passes.
    (public_key_to_spki(&alg_id::ED25519, key).as_ref() == spki.as_ref())
        .then_some(PeerId::from_bytes(key))
}

/// The server name under which `peer` is dialled.
///
/// It carries the expected key to the verifier, so that one client configuration serves all peers, and it
/// never reaches the wire, because SNI is off. A label holds 63 bytes at most, hence two; the last one must
/// not be all digits.
pub(super) fn pinned_name(peer: PeerId) -> String {
    let hex = peer.to_string();
    let (first, second) = hex.split_at(32);
    format!("{first}.{second}.peer")
}

/// Verifies the raw keys of both sides.
///
/// The server's must be the one that the dialer asked for. The client's may be any: who is admitted is
/// decided by what follows the handshake. Either side proves possession of its key by the signature of its
/// TLS 1.3 `CertificateVerify`.
#[derive(Debug)]
pub(super) struct RawKeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl RawKeyVerifier {
    pub(super) fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self {
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn verify_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// Becomes the TLS alert `access_denied`.
fn refused() -> TlsError {
    CertificateError::ApplicationVerificationFailure.into()
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let peer = peer_of_key(key).ok_or_else(refused)?;
        if intermediates.is_empty() && name.to_str() == pinned_name(peer) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        if intermediates.is_empty() && peer_of_key(key).is_some() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    #[test]
    fn a_key_presented_in_tls_names_its_peer() {
        let secret_key = SecretKey::from("a");
        let certified = certified_key(&provider(), &secret_key).unwrap();
        assert_eq!(peer_of_chain(&certified.cert), Some(secret_key.peer_id()));
    }

    #[test]
    fn anything_but_one_raw_key_names_nobody() {
        let certified = certified_key(&provider(), &SecretKey::from("a")).unwrap();
        let key = certified.cert[0].clone();
        assert_eq!(peer_of_chain(&[]), None);
        assert_eq!(peer_of_chain(&[key.clone(), key.clone()]), None);
        assert_eq!(peer_of_chain(&[CertificateDer::from(vec![0; 31])]), None);
        let mut longer = key.to_vec();
        longer.insert(0, 0x30);
        assert_eq!(peer_of_chain(&[CertificateDer::from(longer)]), None);
    }

    #[test]
    fn only_the_key_that_was_asked_for_is_accepted() {
        let (a, b) = (SecretKey::from("a"), SecretKey::from("b"));
        let verifier = RawKeyVerifier::new(&provider());
        let key = &certified_key(&provider(), &a).unwrap().cert[0];
        let verify = |expected: PeerId| {
            let name = ServerName::try_from(pinned_name(expected)).unwrap();
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            verifier.verify_server_cert(key, &[], &name, &[], now)
        };
        assert!(verify(a.peer_id()).is_ok());
        assert_eq!(verify(b.peer_id()).unwrap_err(), refused());
    }

    #[test]
    fn every_peer_id_is_a_valid_server_name() {
        for byte in [0, 9, 0x11, 0xff] {
            let name = pinned_name(PeerId::from_bytes([byte; 32]));
            assert!(ServerName::try_from(name).is_ok());
        }
    }
}
