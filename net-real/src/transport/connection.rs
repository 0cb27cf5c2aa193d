//! One connection to one peer for one protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use smalti_core::id::PeerId;
use smalti_core::runtime::{
    Alpn, BiStream, BoxFuture, Connection, ConnectionError, SendDatagramError, Side,
};
use smalti_core::time::Duration;
use smalti_core::wire::CloseCode;

use super::congestion::yield_to_close;
use super::endpoint::QuicEndpoint;
use super::error::{LocalClose, var_int};
use super::identity::peer_of_chain;
use super::stream::{QuicRecvStream, QuicSendStream};

/// A QUIC connection whose handshake is done.
pub(super) struct QuicConnection {
    inner: quinn::Connection,
    peer: PeerId,
    protocol: Alpn,
    close: Arc<LocalClose>,
    accepted: Arc<AcceptedHalf>,
    /// Open streams that the peer may have begun now, and the most that it ever may.
    streams_permitted: AtomicU32,
    streams_max: u32,
}

/// Counted by its references: each half of a stream that the peer has opened holds one.
#[derive(Debug)]
pub(super) struct AcceptedHalf;

impl QuicConnection {
    /// `None` where the handshake has not given the peer's key, which the verifiers rule out.
    pub(super) fn new(
        inner: quinn::Connection,
        protocol: Alpn,
        endpoint: &QuicEndpoint,
    ) -> Option<Self> {
        let chain = inner.peer_identity()?;
        let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        Some(Self {
            peer: peer_of_chain(&chain)?,
            protocol,
            close: LocalClose::new(endpoint.close_code.clone(), Some(inner.clone())),
            inner,
            accepted: Arc::new(AcceptedHalf),
            streams_permitted: AtomicU32::new(endpoint.tuning.streams_at_first()),
            streams_max: endpoint.tuning.streams_max,
        })
    }

    fn halves(
        &self,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        accepted: Option<&Arc<AcceptedHalf>>,
    ) -> BiStream {
        let (close, accepted) = (&self.close, accepted.cloned());
        (
            Box::new(QuicSendStream::new(send, close.clone(), accepted.clone())),
            Box::new(QuicRecvStream::new(recv, close.clone(), accepted)),
        )
    }

    /// Permits twice as many streams once half of those permitted are open.
    fn permit_more_streams(&self) {
        let permitted = self.streams_permitted.load(Ordering::Relaxed);
        // Two for each stream, and the connection's own.
        let halves = Arc::strong_count(&self.accepted) - 1;
        let more = permitted.saturating_mul(2).min(self.streams_max);
        if halves < permitted as usize || more == permitted {
            return;
        }
        let exchanged = self.streams_permitted.compare_exchange(
            permitted,
            more,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if exchanged.is_ok() {
            self.inner
                .set_max_concurrent_bi_streams(VarInt::from_u32(more));
        }
    }

    fn error(&self, error: quinn::ConnectionError) -> ConnectionError {
        self.close.connection_error(error)
    }
}

impl Connection for QuicConnection {
    fn peer(&self) -> PeerId {
        self.peer
    }

    fn protocol(&self) -> Alpn {
        self.protocol
    }

    fn side(&self) -> Side {
        if self.inner.side().is_client() {
            Side::Dialer
        } else {
            Side::Acceptor
        }
    }

    fn remote_address(&self) -> SocketAddr {
        canonical(self.inner.remote_address())
    }

    fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    fn open(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async {
            match self.inner.open_bi().await {
                Ok(halves) => Ok(self.halves(halves, None)),
                Err(error) => Err(self.error(error)),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async {
            match self.inner.accept_bi().await {
                Ok(halves) => {
                    let stream = self.halves(halves, Some(&self.accepted));
                    self.permit_more_streams();
                    Ok(stream)
                }
                Err(error) => Err(self.error(error)),
            }
        })
    }

    fn send_datagram(&self, datagram: Bytes) -> Result<(), SendDatagramError> {
        let len = datagram.len();
        self.inner
            .send_datagram(datagram)
            .map_err(|error| match error {
                quinn::SendDatagramError::UnsupportedByPeer
                | quinn::SendDatagramError::Disabled => SendDatagramError::Unsupported,
                quinn::SendDatagramError::TooLarge => SendDatagramError::TooLarge {
                    len,
                    max: self.inner.max_datagram_size().unwrap_or(0),
                },
                quinn::SendDatagramError::ConnectionLost(error) => self.error(error).into(),
            })
    }

    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>> {
        Box::pin(async {
            let datagram = self.inner.read_datagram().await;
            datagram.map_err(|error| self.error(error))
        })
    }

    fn export_keying_material(
        &self,
        label: &[u8],
        context: &[u8],
    ) -> Result<[u8; 32], ConnectionError> {
        let mut output = [0; 32];
        match self
            .inner
            .export_keying_material(&mut output, label, context)
        {
            Ok(()) => Ok(output),
            Err(_) => Err(self.close_reason().unwrap_or_else(|| {
                ConnectionError::Transport("the session exports no keying material".into())
            })),
        }
    }

    fn close(&self, code: CloseCode, reason: &str) {
        if self.inner.close_reason().is_none() {
            self.close.set(code);
            yield_to_close(&self.inner);
        }
        self.inner.close(var_int(code), reason.as_bytes());
    }

    fn close_reason(&self) -> Option<ConnectionError> {
        self.inner.close_reason().map(|error| self.error(error))
    }

    fn closed(&self) -> BoxFuture<'_, ConnectionError> {
        Box::pin(async { self.error(self.inner.closed().await) })
    }
}

/// An IPv4 address as such, also where the socket takes both families and sees it mapped into IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
