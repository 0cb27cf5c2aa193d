//! TLS configurations: version 1.3 alone, raw keys on both sides, nothing that outlives a connection.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use smalti_core::runtime::Alpn;

use super::identity::RawKeyVerifier;

/// What all TLS configurations of an endpoint share.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) crypto: Arc<CryptoProvider>,
    pub(super) time: Arc<dyn TimeProvider>,
    pub(super) key: Arc<CertifiedKey>,
}

/// The text of an error of rustls or quinn that only a wrong crypto provider can cause.
pub(super) type ConfigurationError = Box<dyn std::error::Error + Send + Sync>;

impl Tls {
    /// Accepts dialers that offer one of `protocols`.
    pub(super) fn server(
        &self,
        protocols: &[Alpn],
    ) -> Result<Arc<QuicServerConfig>, ConfigurationError> {
        let mut tls =
            rustls::ServerConfig::builder_with_details(self.crypto.clone(), self.time.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(RawKeyVerifier::new(&self.crypto))
                .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                    self.key.clone(),
                )));
        tls.alpn_protocols = protocols.iter().map(alpn_bytes).collect();
        // No tickets and no resumption: every connection proves both keys, and early data, which can be
        // replayed, does not exist.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(tls.try_into().map(|tls: QuicServerConfig| tls)?))
    }

    /// Dials for `protocol`, whoever the peer is.
    pub(super) fn client(
        &self,
        protocol: Alpn,
    ) -> Result<Arc<QuicClientConfig>, ConfigurationError> {
        let mut tls =
            rustls::ClientConfig::builder_with_details(self.crypto.clone(), self.time.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(RawKeyVerifier::new(&self.crypto))
                .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                    self.key.clone(),
                )));
        tls.alpn_protocols = vec![alpn_bytes(&protocol)];
        tls.enable_sni = false;
        tls.resumption = Resumption::disabled();
        Ok(Arc::new(tls.try_into().map(|tls: QuicClientConfig| tls)?))
    }
}

fn alpn_bytes(protocol: &Alpn) -> Vec<u8> {
    protocol.as_str().as_bytes().to_vec()
}
