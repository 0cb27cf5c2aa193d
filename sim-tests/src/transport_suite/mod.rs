//! What every transport must do, as tests written against core's traits alone.
//!
//! The same functions run over QUIC on this machine and over the simulated network, so that whatever core
//! relies on holds for both. [`transport_suite!`](macro@crate::transport_suite) makes a test of each.
//!
//! They wait for conditions, and use the clock only as a bound that a failure would hit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod closing;
pub mod connecting;
pub mod streams;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{
    Alpn, BiStream, BoxFuture, Connection, DialError, Endpoint, EndpointConfig, RecvStream,
    Runtime, SendStream, StreamError,
};
use smalti_core::time::Duration;

/// Makes a test of each function of the suite; `$run` is a `fn(Case)` that runs it in some world.
#[macro_export]
macro_rules! transport_suite {
    ($run:path) => {
        $crate::transport_suite! { $run:
            connecting::both_ends_know_each_other_and_the_protocol
            connecting::keying_material_is_shared_by_both_ends_and_nobody_else
            connecting::whoever_answers_must_hold_the_key
            connecting::an_unknown_protocol_is_refused_and_others_are_served
            connecting::a_dial_to_nobody_ends
            connecting::a_dial_without_addresses_ends_at_once
            connecting::a_dial_finds_the_one_address_that_answers
            connecting::many_protocols_share_one_socket
            connecting::two_nodes_may_dial_each_other_at_once
            connecting::many_dialers_are_accepted_at_once
            connecting::an_abandoned_accept_loses_no_connection
            connecting::datagrams_arrive_whole_and_too_long_ones_are_refused
            connecting::addresses_can_be_dialled_and_stay_while_nothing_changes
            connecting::the_clock_runs_and_wakes
            connecting::seeds_differ
            streams::bytes_arrive_in_order_and_end
            streams::writes_take_from_the_front_and_leave_the_rest
            streams::a_read_gives_no_more_than_its_limit
            streams::a_finished_stream_is_delivered_after_its_sender_is_dropped
            streams::a_reset_is_seen_by_the_reader
            streams::a_stop_is_seen_by_the_writer
            streams::a_sender_dropped_unfinished_resets_the_stream
            streams::a_dropped_receiver_stops_the_stream
            streams::a_closed_half_takes_and_gives_nothing
            streams::a_reader_that_does_not_read_holds_back_its_writer_alone
            streams::many_streams_run_side_by_side_in_both_directions
            streams::a_hundred_streams_may_be_open_at_once
            closing::the_code_and_the_reason_of_a_close_are_seen_by_the_peer
            closing::a_close_ends_what_waits_on_the_connection
            closing::dropping_all_handles_closes_the_connection
            closing::a_closed_endpoint_tells_its_peers_and_does_nothing_more
            closing::a_node_is_reached_again_after_its_endpoint_was_bound_anew
        }
    };
    ($run:path: $($module:ident::$name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $run(|world| Box::pin($crate::transport_suite::$module::$name(world)));
            }
        )*
    };
}

/// A test of the suite.
pub type Case = fn(World) -> BoxFuture<'static, ()>;

/// Where the suite runs.
#[derive(Clone)]
pub struct World {
    /// Makes the runtime of one more node.
    pub runtime: Arc<dyn Fn() -> Arc<dyn Runtime> + Send + Sync>,
    /// Where nodes listen; the port is free.
    pub listen: Vec<SocketAddr>,
    /// Where nobody listens.
    pub nobody: SocketAddr,
}

/// No case takes longer, by its own clock.
const BOUND: Duration = Duration::from_secs(60);

/// A protocol that all nodes of the suite speak.
pub const ECHO: Alpn = Alpn::new("/suite/echo/1");
/// Another one.
pub const OTHER: Alpn = Alpn::new("/suite/other/1");
/// One that none speaks.
pub const UNKNOWN: Alpn = Alpn::new("/suite/unknown/1");

/// A node of the suite: an endpoint and what belongs to it.
struct Node {
    runtime: Arc<dyn Runtime>,
    endpoint: Arc<dyn Endpoint>,
    key: SecretKey,
}

impl Node {
    async fn start(world: &World, name: &str) -> Self {
        Self::start_at(world, name, world.listen.clone()).await
    }

    async fn start_at(world: &World, name: &str, addresses: Vec<SocketAddr>) -> Self {
        let runtime = (world.runtime)();
        let key = SecretKey::from(name);
        let config = EndpointConfig {
            secret_key: key.clone(),
            addresses,
            protocols: vec![ECHO, OTHER],
        };
        let endpoint = runtime.bind(config).await.expect("the address is free");
        Self {
            runtime,
            endpoint,
            key,
        }
    }

    async fn dial(&self, to: &Self, protocol: Alpn) -> Result<Arc<dyn Connection>, DialError> {
        let (peer, addresses) = (to.key.peer_id(), to.endpoint.addresses());
        self.endpoint.dial(peer, addresses, protocol).await
    }

    /// Both ends of a new connection to `to`.
    async fn connect(
        &self,
        to: &Self,
        protocol: Alpn,
    ) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
        let dial = self.dial(to, protocol);
        let (dialled, accepted) = futures_util::future::join(dial, to.endpoint.accept()).await;
        (
            dialled.expect("the peer listens"),
            accepted.expect("the endpoint is open"),
        )
    }

    /// The output of `future`, which must come within the suite's bound.
    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        within(&*self.runtime, what, future).await
    }
}

/// Two nodes and a connection from the first to the second.
struct Pair {
    a: Node,
    b: Node,
    a_to_b: Arc<dyn Connection>,
    b_to_a: Arc<dyn Connection>,
}

impl Pair {
    async fn start(world: &World) -> Self {
        let (a, b) = (Node::start(world, "a").await, Node::start(world, "b").await);
        let (a_to_b, b_to_a) = a.within("connect", a.connect(&b, ECHO)).await;
        Self {
            a,
            b,
            a_to_b,
            b_to_a,
        }
    }

    /// Both ends of a new stream; its first byte, which opens it at the acceptor, is read.
    async fn stream(&self) -> (BiStream, BiStream) {
        let open = async {
            let mut stream = self.a_to_b.open().await.expect("the connection is open");
            write(&mut *stream.0, Bytes::from_static(b"!")).await;
            stream
        };
        let accept = async {
            let mut stream = self.b_to_a.accept().await.expect("the connection is open");
            assert_eq!(read(&mut *stream.1, 1).await, b"!");
            stream
        };
        futures_util::future::join(open, accept).await
    }
}

async fn within<T>(clock: &dyn Runtime, what: &str, future: impl Future<Output = T>) -> T {
    let deadline = clock.now() + BOUND;
    smalti_core::select! {
        output = future => output,
        () = clock.sleep_until(deadline, "bound of the suite") => panic!("{what} takes too long"),
    }
}

async fn try_write(stream: &mut dyn SendStream, bytes: Bytes) -> Result<(), StreamError> {
    let mut chunks = [bytes];
    while !chunks[0].is_empty() {
        poll_fn(|cx| stream.poll_write(cx, &mut chunks)).await?;
    }
    Ok(())
}

async fn write(stream: &mut dyn SendStream, bytes: Bytes) {
    try_write(stream, bytes).await.expect("the peer reads");
}

/// All that still comes, to the end of the stream.
async fn try_read_to_end(stream: &mut dyn RecvStream) -> Result<Vec<u8>, StreamError> {
    let mut bytes = Vec::new();
    loop {
        let mut chunks = Vec::new();
        if poll_fn(|cx| stream.poll_read(cx, &mut chunks, 64 * 1_024))
            .await?
            .is_none()
        {
            return Ok(bytes);
        }
        bytes.extend(chunks.concat());
    }
}

async fn read_to_end(stream: &mut dyn RecvStream) -> Vec<u8> {
    try_read_to_end(stream)
        .await
        .expect("the peer writes and ends")
}

/// The next `len` bytes.
async fn read(stream: &mut dyn RecvStream, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let mut chunks = Vec::new();
        let limit = len - bytes.len();
        poll_fn(|cx| stream.poll_read(cx, &mut chunks, limit))
            .await
            .expect("the peer writes")
            .expect("the peer writes more");
        bytes.extend(chunks.concat());
    }
    bytes
}

/// Whether `stream` takes some of `bytes` at once; what it takes is cut off.
async fn takes(stream: &mut dyn SendStream, bytes: &mut Bytes) -> bool {
    let chunks = std::slice::from_mut(bytes);
    poll_fn(|cx| match stream.poll_write(cx, chunks) {
        Poll::Ready(taken) => Poll::Ready(taken.expect("the stream is open") > 0),
        Poll::Pending => Poll::Ready(false),
    })
    .await
}

/// Bytes of which no two stretches are alike.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}
