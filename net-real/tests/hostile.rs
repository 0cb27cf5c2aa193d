//! A node faces peers that do not keep to the protocol: each is told why it is closed, and nobody else
//! notices.

mod by_hand;

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smalti::QuicRuntime;
use smalti_core::discovery::Config;
use smalti_core::network::CloseCode;
use smalti_core::runtime::{Alpn, Connection, ConnectionError, DialError};
use smalti_core::{Network, NetworkBuilder};

use by_hand::{Dialer, NETWORK, hello, loopback, write};

const PROTOCOLS: [Alpn; 4] = [
    Alpn::new("/smalti/gossip/1"),
    Alpn::new("/smalti/catalog/1"),
    Alpn::new("/smalti/streams/1"),
    Alpn::new("/smalti/groups/1"),
];

async fn node() -> Network {
    NetworkBuilder::new(NETWORK)
        .with_addresses(loopback())
        .build_on(Arc::new(QuicRuntime::new()))
        .await
        .expect("loopback can be listened on")
}

async fn close_code(connection: &Arc<dyn Connection>) -> CloseCode {
    match connection.closed().await {
        ConnectionError::ClosedByPeer { code, .. } => code,
        other => panic!("closed in another way: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_protocol_is_refused_in_the_handshake() {
    let node = node().await;
    let dialer = Dialer::new(&node).await;
    let protocol = Alpn::new("/smalti/nonsense/1");
    let error = dialer
        .dial(protocol)
        .await
        .err()
        .expect("the dial is refused");
    assert_eq!(
        error,
        DialError::WrongAlpn {
            peer: node.local().id(),
            protocol
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_no_hello_is_closed_with_its_code() {
    let node = node().await;
    let dialer = Dialer::new(&node).await;
    let garbage = [&[40, 0, 0, 0][..], &[0xee; 40]].concat();
    let four_gigabytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    for protocol in PROTOCOLS {
        for (bytes, code) in [
            (hello("another network"), CloseCode::DIFFERENT_NETWORK),
            (garbage.clone(), CloseCode::PROTOCOL_VIOLATION),
            (four_gigabytes.to_vec(), CloseCode::FRAME_TOO_LARGE),
        ] {
            let (connection, _stream) = dialer.say(protocol, &bytes).await;
            assert_eq!(
                close_code(&connection).await,
                code,
                "{protocol}: {bytes:x?}"
            );
        }
        let (connection, mut stream) = dialer.say(protocol, &hello(NETWORK)[..10]).await;
        stream.0.finish();
        assert_eq!(
            close_code(&connection).await,
            CloseCode::PROTOCOL_VIOLATION,
            "truncated"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stalls_is_closed_after_the_hello_timeout() {
    let node = node().await;
    let dialer = Dialer::new(&node).await;
    let (connection, _stream) = dialer.say(PROTOCOLS[0], &hello(NETWORK)[..5]).await;
    let silent = dialer
        .dial(PROTOCOLS[1])
        .await
        .expect("the node can be dialled");
    assert_eq!(close_code(&connection).await, CloseCode::TIMED_OUT);
    assert_eq!(close_code(&silent).await, CloseCode::TIMED_OUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_the_hello_is_closed_with_its_code_and_counted() {
    let node = node().await;
    let dialer = Dialer::new(&node).await;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for protocol in PROTOCOLS {
        let mut garbage = [0xff; 204];
        rng.fill_bytes(&mut garbage[20..]);
        garbage[..4].copy_from_slice(&200u32.to_le_bytes());
        for (bytes, finished, code) in [
            (&garbage[..], false, CloseCode::PROTOCOL_VIOLATION),
            (&[0xff; 7], false, CloseCode::FRAME_TOO_LARGE),
            (&garbage[..100], true, CloseCode::PROTOCOL_VIOLATION),
        ] {
            let violations = node.violations();
            let connection = dialer.enter(protocol).await;
            let mut stream = connection.open().await.expect("a stream can be opened");
            write(&mut stream.0, bytes).await;
            if finished {
                stream.0.finish();
            }
            assert_eq!(
                close_code(&connection).await,
                code,
                "{protocol}: {bytes:x?}"
            );
            assert_eq!(node.violations(), violations + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_a_thousand_hostile_streams_hang() {
    let node = node().await;
    let dialer = Dialer::new(&node).await;
    let mut held = Vec::new();
    let before = resident_bytes();
    for round in 0..100 {
        let protocol = PROTOCOLS[round % PROTOCOLS.len()];
        // Announces a frame of the greatest length and leaves it there.
        let (connection, stream) = dialer.say(protocol, &[0, 16, 0, 0, 1]).await;
        held.push((connection, stream));
    }
    let connection = dialer.enter(PROTOCOLS[1]).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = connection.open().await.expect("a stream can be opened");
        write(&mut stream.0, &(128u32 * 1_024).to_le_bytes()).await;
        streams.push(stream);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 64 << 20,
        "100 hanging connections, both ends of them, took {grown} bytes"
    );

    let config = Config::builder().with_bootstrap(node.local().addr());
    let other = NetworkBuilder::new(NETWORK)
        .with_addresses(loopback())
        .with_discovery(config)
        .build_on(Arc::new(QuicRuntime::new()))
        .await
        .expect("loopback can be listened on");
    let mut catalog = node.discovery().catalog_watch();
    let id = other.local().id();
    catalog
        .wait_for(|catalog| catalog.get(&id).is_some())
        .await
        .expect("the node runs");
}

/// The memory of this process, both ends of all connections included.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("Linux tells");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    kib * 1_024
}
