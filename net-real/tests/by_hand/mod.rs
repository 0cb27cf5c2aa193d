//! A peer that speaks to a node by hand, message by message.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smalti::QuicRuntime;
use smalti_core::discovery::PeerAddr;
use smalti_core::id::{Instance, SecretKey};
use smalti_core::runtime::{
    Alpn, BiStream, Connection, DialError, Endpoint, EndpointConfig, SendStream, Transport,
};
use smalti_core::wire::{Hello, WIRE_VERSIONS, encode_frame};
use smalti_core::{Network, NetworkId};

/// The network that it is admitted to.
pub(crate) const NETWORK: &str = "the network";

pub(crate) fn loopback() -> [SocketAddr; 1] {
    [([127, 0, 0, 1], 0).into()]
}

/// Dials a node by hand.
pub(crate) struct Dialer {
    endpoint: Arc<dyn Endpoint>,
    target: PeerAddr,
}

impl Dialer {
    pub(crate) async fn new(target: &Network) -> Self {
        let secret_key = SecretKey::from("by hand");
        let config = EndpointConfig {
            secret_key,
            addresses: loopback().into(),
            protocols: vec![],
        };
        let endpoint = QuicRuntime::new()
            .bind(config)
            .await
            .expect("loopback can be listened on");
        Self {
            endpoint,
            target: target.local().addr(),
        }
    }

    pub(crate) async fn dial(&self, protocol: Alpn) -> Result<Arc<dyn Connection>, DialError> {
        self.endpoint
            .dial(self.target.id, self.target.addresses.clone(), protocol)
            .await
    }

    /// Dials and writes `bytes` on the first stream.
    pub(crate) async fn say(
        &self,
        protocol: Alpn,
        bytes: &[u8],
    ) -> (Arc<dyn Connection>, BiStream) {
        let connection = self.dial(protocol).await.expect("the node can be dialled");
        let mut stream = connection.open().await.expect("a stream can be opened");
        write(&mut stream.0, bytes).await;
        (connection, stream)
    }

    /// Dials and is admitted.
    pub(crate) async fn enter(&self, protocol: Alpn) -> Arc<dyn Connection> {
        let (connection, (_send, mut recv)) = self.say(protocol, &hello(NETWORK)).await;
        let mut chunks = Vec::new();
        while poll_fn(|cx| recv.poll_read(cx, &mut chunks, 1_024))
            .await
            .expect("the node says hello")
            .is_some()
        {}
        assert!(!chunks.is_empty(), "the node says hello");
        connection
    }
}

pub(crate) async fn write(send: &mut Box<dyn SendStream>, bytes: &[u8]) {
    let mut chunk = [Bytes::copy_from_slice(bytes)];
    while !chunk[0].is_empty() {
        // The node may have closed the connection already; the test looks at the code.
        if poll_fn(|cx| send.poll_write(cx, &mut chunk)).await.is_err() {
            return;
        }
    }
}

pub(crate) fn hello(network: &str) -> Vec<u8> {
    let hello = Hello {
        network: NetworkId::from(network),
        versions: WIRE_VERSIONS,
        instance: Instance::from_bytes([9; 16]),
        proof: None,
    };
    let mut frame = BytesMut::new();
    encode_frame(&hello, 4_096, &mut frame).expect("a hello fits");
    frame.to_vec()
}
