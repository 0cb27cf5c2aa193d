//! How connections and endpoints end, and what the peer learns of it.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join;
use smalti_core::runtime::{ConnectionError, DialError, SendDatagramError, StreamError};
use smalti_core::wire::CloseCode;

use super::{ECHO, Node, Pair, World, pattern, try_read_to_end, try_write};

const CODE: CloseCode = CloseCode::PROTOCOL_VIOLATION;

fn by_peer(code: CloseCode, reason: &str) -> ConnectionError {
    let reason = reason.into();
    ConnectionError::ClosedByPeer { code, reason }
}

/// Both ends can tell why it was closed, and the first close counts.
pub async fn the_code_and_the_reason_of_a_close_are_seen_by_the_peer(world: World) {
    let pair = Pair::start(&world).await;
    pair.b_to_a.close(CODE, "frame 7 is out of order");
    pair.b_to_a.close(CloseCode::IDLE, "too late");
    let seen = pair.a.within("the close", pair.a_to_b.closed()).await;
    assert_eq!(seen, by_peer(CODE, "frame 7 is out of order"));
    assert_eq!(pair.a_to_b.close_reason(), Some(seen));
    let local = ConnectionError::ClosedLocally { code: CODE };
    assert_eq!(pair.b_to_a.closed().await, local);
    assert_eq!(pair.b_to_a.close_reason(), Some(local));
}

/// Whatever waits on a connection is told when it ends, and what comes later fails at once.
pub async fn a_close_ends_what_waits_on_the_connection(world: World) {
    let pair = Pair::start(&world).await;
    let ((mut send, mut recv), _kept) = pair.stream().await;
    let connection = &pair.a_to_b;
    let waiting = join(
        join(connection.accept(), connection.read_datagram()),
        try_read_to_end(&mut *recv),
    );
    let close = async { pair.b_to_a.close(CODE, "") };
    let all = join(waiting, close);
    let (((accepted, datagram), read), ()) = pair.a.within("the end", all).await;
    let error = by_peer(CODE, "");
    assert_eq!(accepted.err(), Some(error.clone()));
    assert_eq!(datagram.err(), Some(error.clone()));
    let lost = StreamError::Connection(error.clone());
    assert_eq!(read, Err(lost.clone()));
    assert_eq!(try_write(&mut *send, pattern(1)).await, Err(lost.clone()));
    assert_eq!(poll_fn(|cx| send.poll_stopped(cx)).await, Err(lost));
    assert_eq!(connection.open().await.err(), Some(error.clone()));
    assert_eq!(
        connection.send_datagram(Bytes::new()),
        Err(SendDatagramError::Connection(error))
    );
}

/// A connection that nobody holds does not stay open.
pub async fn dropping_all_handles_closes_the_connection(world: World) {
    let Pair {
        a,
        b: _b,
        a_to_b,
        b_to_a,
    } = Pair::start(&world).await;
    let (first, second) = (Arc::clone(&b_to_a), b_to_a);
    drop(first);
    assert_eq!(a_to_b.close_reason(), None);
    drop(second);
    let seen = a.within("the close", a_to_b.closed()).await;
    assert_eq!(seen, by_peer(CloseCode::NONE, ""));
}

/// Closing an endpoint reaches every connection, and ends whatever waits on the endpoint.
pub async fn a_closed_endpoint_tells_its_peers_and_does_nothing_more(world: World) {
    let pair = Pair::start(&world).await;
    let close = pair.b.endpoint.close(CloseCode::GRACEFUL_SHUTDOWN);
    let all = join(pair.b.endpoint.accept(), close);
    let (accepted, ()) = pair.a.within("the close", all).await;
    assert!(accepted.is_none());
    let seen = pair.a.within("the news", pair.a_to_b.closed()).await;
    assert_eq!(seen, by_peer(CloseCode::GRACEFUL_SHUTDOWN, ""));
    let code = CloseCode::GRACEFUL_SHUTDOWN;
    let local = Some(ConnectionError::ClosedLocally { code });
    assert_eq!(pair.b_to_a.close_reason(), local);
    let dialled = pair.b.dial(&pair.a, ECHO).await;
    assert_eq!(dialled.err(), Some(DialError::EndpointClosed));
    assert!(pair.b.endpoint.accept().await.is_none());
    let again = pair.b.endpoint.close(CloseCode::NONE).now_or_never();
    assert!(again.is_some(), "a second close has nothing to wait for");
}

/// The socket is free after a close, though handles of old connections are kept, and a node that comes back
/// there with its key is the same peer.
pub async fn a_node_is_reached_again_after_its_endpoint_was_bound_anew(world: World) {
    let Pair {
        a,
        b,
        a_to_b,
        b_to_a: _old_handle,
    } = Pair::start(&world).await;
    let addresses = b.endpoint.addresses();
    b.endpoint.close(CloseCode::GRACEFUL_SHUTDOWN).await;
    a.within("the close", a_to_b.closed()).await;
    let b = Node::start_at(&world, "b", addresses).await;
    let (again, _accepted) = a.within("the dial", a.connect(&b, ECHO)).await;
    assert_eq!(again.peer(), a_to_b.peer());
    assert_eq!(again.remote_address(), a_to_b.remote_address());
}
