//! The exchange of hellos, at both ends.

use std::sync::Arc;

use bytes::BytesMut;

use super::LinkError;
use crate::id::{Instance, NetworkId, PeerId};
use crate::node::framed::{FrameReadError, FrameReader, write_all};
use crate::runtime::{BiStream, Connection, ConnectionError, SendStream, Side, StreamError};
use crate::wire::{
    HELLO_EXPORTER_LABEL, HELLO_LEN_MAX, Hello, HelloContext, NetworkSecret, WIRE_VERSIONS, decode,
    encode_frame,
};

/// Who this node is, to every peer.
pub(crate) struct LocalIdentity {
    pub(crate) peer: PeerId,
    pub(crate) network: NetworkId,
    pub(crate) instance: Instance,
    pub(crate) secret: Option<NetworkSecret>,
}

/// Says hello on the first stream of a connection and judges the peer's. Gives the peer's instance.
///
/// The dialer speaks first; it is admitted once it has the acceptor's answer, because the handshake of TLS
/// 1.3 alone does not tell it. The acceptor answers only a hello that it accepts.
pub(super) async fn exchange(
    connection: &Arc<dyn Connection>,
    local: &LocalIdentity,
) -> Result<Instance, LinkError> {
    match run(connection, local).await {
        Err(LinkError::Stream(StreamError::Connection(ConnectionError::ClosedByPeer {
            code,
            reason,
        }))) => Err(LinkError::Refused {
            peer: connection.peer(),
            code,
            reason: reason.to_string(),
        }),
        result => result,
    }
}

async fn run(
    connection: &Arc<dyn Connection>,
    local: &LocalIdentity,
) -> Result<Instance, LinkError> {
    let side = connection.side();
    let context = context(connection, local)?;
    let stream = match side {
        Side::Dialer => connection.open().await,
        Side::Acceptor => connection.accept().await,
    };
    let (mut send, recv): BiStream = stream.map_err(StreamError::from)?;
    let mut frames = FrameReader::new(recv, HELLO_LEN_MAX);
    match side {
        Side::Dialer => {
            say(&mut send, side, &context, local).await?;
            hear(&mut frames, connection, &context, local).await
        }
        Side::Acceptor => {
            let instance = hear(&mut frames, connection, &context, local).await?;
            say(&mut send, side, &context, local).await?;
            Ok(instance)
        }
    }
}

fn context(
    connection: &Arc<dyn Connection>,
    local: &LocalIdentity,
) -> Result<HelloContext, LinkError> {
    let network = local.network;
    let exporter = connection.export_keying_material(HELLO_EXPORTER_LABEL, network.as_bytes())?;
    let (dialer, acceptor) = match connection.side() {
        Side::Dialer => (local.peer, connection.peer()),
        Side::Acceptor => (connection.peer(), local.peer),
    };
    Ok(HelloContext {
        network,
        exporter,
        dialer,
        acceptor,
    })
}

async fn say(
    send: &mut Box<dyn SendStream>,
    side: Side,
    context: &HelloContext,
    local: &LocalIdentity,
) -> Result<(), LinkError> {
    let hello = Hello {
        network: local.network,
        versions: WIRE_VERSIONS,
        instance: local.instance,
        proof: local
            .secret
            .as_ref()
            .map(|secret| secret.prove(side, context)),
    };
    let mut frame = BytesMut::new();
    encode_frame(&hello, HELLO_LEN_MAX, &mut frame)?;
    write_all(send, &mut frame.freeze()).await?;
    send.finish();
    Ok(())
}

async fn hear(
    frames: &mut FrameReader,
    connection: &Arc<dyn Connection>,
    context: &HelloContext,
    local: &LocalIdentity,
) -> Result<Instance, LinkError> {
    let frame = match frames.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) | Err(FrameReadError::Truncated) => return Err(LinkError::Truncated),
        Err(FrameReadError::Stream(error)) => return Err(error.into()),
        Err(FrameReadError::Frame(error)) => return Err(error.into()),
    };
    let hello: Hello = decode(&frame)?;
    let peer_side = match connection.side() {
        Side::Dialer => Side::Acceptor,
        Side::Acceptor => Side::Dialer,
    };
    hello
        .judge(peer_side, context, local.secret.as_ref())
        .map_err(|error| LinkError::Hello {
            peer: connection.peer(),
            error,
        })?;
    Ok(hello.instance)
}
