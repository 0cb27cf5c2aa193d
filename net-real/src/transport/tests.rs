//! What is QUIC's own; what every transport must do is tested by the suite in `sim-tests`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use rustls::sign::CertifiedKey;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{
    Alpn, BiStream, BindError, Clock, Connection, ConnectionError, DialError, Endpoint,
    EndpointConfig, StreamError, Transport,
};
use smalti_core::wire::CloseCode;

use super::identity::certified_key;
use super::{QuicEndpoint, Tuning, socket};
use crate::QuicRuntime;

const PROTOCOL: Alpn = Alpn::new("/test/1");

fn config(name: &str, addresses: Vec<SocketAddr>) -> EndpointConfig {
    EndpointConfig {
        secret_key: SecretKey::from(name),
        addresses,
        protocols: vec![PROTOCOL],
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn bind(name: &str) -> Arc<QuicEndpoint> {
    QuicRuntime::new()
        .bind_quic(config(name, vec![loopback()]))
        .unwrap()
}

async fn connect(
    a: &dyn Endpoint,
    b: &dyn Endpoint,
    name: &str,
) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let dial = a.dial(SecretKey::from(name).peer_id(), b.addresses(), PROTOCOL);
    let (dialled, accepted) = join(dial, b.accept()).await;
    (dialled.unwrap(), accepted.unwrap())
}

async fn write(stream: &mut BiStream, bytes: &'static [u8]) -> Result<(), StreamError> {
    let mut chunks = [Bytes::from_static(bytes)];
    std::future::poll_fn(|cx| stream.0.poll_write(cx, &mut chunks)).await?;
    Ok(())
}

async fn read(stream: &mut BiStream) -> Result<Option<usize>, StreamError> {
    let mut chunks = Vec::new();
    std::future::poll_fn(|cx| stream.1.poll_read(cx, &mut chunks, 1_000)).await
}

/// The public key of `claimed`, and the secret of somebody else.
fn forged(endpoint: &QuicEndpoint, claimed: &SecretKey) -> Arc<CertifiedKey> {
    let claimed = certified_key(&endpoint.tls.crypto, claimed).unwrap();
    let own = endpoint.tls.key.key.clone();
    Arc::new(CertifiedKey::new(claimed.cert.clone(), own))
}

#[tokio::test]
async fn a_dialer_that_lacks_the_secret_of_its_key_is_refused() {
    let b = bind("b");
    let mut thief = bind("thief");
    let key = forged(&thief, &SecretKey::from("a"));
    Arc::get_mut(&mut thief).unwrap().tls.key = key;
    let dial = thief.dial(SecretKey::from("b").peer_id(), b.addresses(), PROTOCOL);
    // In TLS 1.3 the dialer is done before the acceptor has seen its key; the refusal follows.
    let end = async {
        match dial.await {
            Ok(connection) => connection.closed().await,
            Err(DialError::Handshake { error, .. }) => error,
            Err(other) => panic!("not a failed handshake: {other}"),
        }
    };
    let end = smalti_core::select! {
        end = end => end,
        _ = b.accept() => panic!("a thief was accepted"),
    };
    assert!(matches!(end, ConnectionError::Transport(_)), "{end}");
}

#[tokio::test]
async fn an_acceptor_that_lacks_the_secret_of_its_key_is_the_wrong_peer() {
    let a = bind("a");
    let thief = bind("thief");
    let key = forged(&thief, &SecretKey::from("b"));
    let tls = super::tls::Tls {
        key,
        ..thief.tls.clone()
    };
    let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&[7; 64]);
    let server = quinn::ServerConfig::new(tls.server(&[PROTOCOL]).unwrap(), Arc::new(token_key));
    thief.quinn().unwrap().set_server_config(Some(server));
    let dial = a.dial(SecretKey::from("b").peer_id(), thief.addresses(), PROTOCOL);
    let result = smalti_core::select! {
        result = dial => result,
        _ = thief.accept() => panic!("the handshake was completed"),
    };
    let (peer, address) = (SecretKey::from("b").peer_id(), thief.addresses()[0]);
    assert_eq!(result.err(), Some(DialError::WrongPeer { peer, address }));
}

#[tokio::test]
async fn a_node_that_comes_back_after_a_crash_resets_the_connections_of_its_former_life() {
    let a = bind("a");
    let former_life = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let runtime = QuicRuntime::on(former_life.handle().clone());
    let b = runtime.bind_quic(config("b", vec![loopback()])).unwrap();
    let addresses = b.addresses();
    let (connection, accepted) = connect(&*a, &*b, "b").await;
    let mut stream = connection.open().await.unwrap();
    // All tasks go, and nobody says good-bye: one that still ran would, for the handles that are dropped next.
    let ended =
        tokio::task::spawn_blocking(|| former_life.shutdown_timeout(Duration::from_secs(60)));
    ended.await.unwrap();
    drop((b, accepted));
    let _b = loop {
        // The socket is closed when the last of those tasks is gone, on another thread.
        match QuicRuntime::new().bind_quic(config("b", addresses.clone())) {
            Ok(b) => break b,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let lost = Err(StreamError::Connection(ConnectionError::Reset));
    write(&mut stream, b"are you there?").await.unwrap();
    assert_eq!(read(&mut stream).await, lost);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let tuning = Tuning {
        idle_timeout: Duration::from_millis(200),
        keep_alive_interval: Duration::from_millis(50),
        ..Tuning::default()
    };
    let runtime = QuicRuntime::new().with_tuning(tuning);
    let a = runtime.bind_quic(config("a", vec![loopback()])).unwrap();
    let b = bind("b");
    let (connection, _accepted) = connect(&*a, &*b, "b").await;
    b.socket.release();
    assert_eq!(connection.closed().await, ConnectionError::TimedOut);
}

#[tokio::test]
async fn a_connection_follows_its_dialer_to_another_address() {
    let (a, b) = (bind("a"), bind("b"));
    let (connection, accepted) = connect(&*a, &*b, "b").await;
    let mut asked = connection.open().await.unwrap();
    write(&mut asked, b"first").await.unwrap();
    let mut answered = accepted.accept().await.unwrap();
    read(&mut answered).await.unwrap();
    let moved = socket::bind(loopback(), 1 << 20).unwrap();
    let address = moved.local_addr().unwrap();
    assert_ne!(accepted.remote_address(), address);
    a.quinn().unwrap().rebind(moved).unwrap();
    write(&mut asked, b"second").await.unwrap();
    read(&mut answered).await.unwrap();
    assert_eq!(accepted.remote_address(), address);
    write(&mut answered, b"third").await.unwrap();
    assert_eq!(read(&mut asked).await, Ok(Some(5)));
}

/// Fills every window, from the stream's to the path's.
async fn fill(stream: &mut BiStream) {
    let piece = Bytes::from(vec![7; 1 << 20]);
    std::future::poll_fn(|cx| {
        loop {
            let mut chunks = [piece.clone()];
            match stream.0.poll_write(cx, &mut chunks) {
                std::task::Poll::Ready(taken) => assert!(taken.unwrap() > 0),
                std::task::Poll::Pending => return std::task::Poll::Ready(()),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_at_full_speed_can_still_say_why_it_closes() {
    let tuning = Tuning {
        initial_window: 3_000,
        ..Tuning::default()
    };
    #[derive(Debug)]
    enum How {
        Connection,
        Endpoint,
        Drop,
    }
    for how in [How::Connection, How::Endpoint, How::Drop] {
        let runtime = QuicRuntime::new().with_tuning(tuning.clone());
        let a = runtime.bind_quic(config("a", vec![loopback()])).unwrap();
        let b = bind("b");
        let (connection, accepted) = connect(&*a, &*b, "b").await;
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = connection.open().await.unwrap();
            fill(&mut stream).await;
            streams.push(stream);
        }
        let code = match how {
            How::Connection => {
                connection.close(CloseCode::REPLACED, "");
                CloseCode::REPLACED
            }
            How::Endpoint => {
                a.close(CloseCode::GRACEFUL_SHUTDOWN).await;
                CloseCode::GRACEFUL_SHUTDOWN
            }
            How::Drop => {
                drop((connection, streams));
                CloseCode::NONE
            }
        };
        let seen = accepted.closed().await;
        let reason = "".into();
        let expected = ConnectionError::ClosedByPeer { code, reason };
        assert_eq!(seen, expected, "{how:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_quic_disturb_nobody() {
    let (a, b) = (bind("a"), bind("b"));
    let stranger = std::net::UdpSocket::bind(loopback()).unwrap();
    for len in [0, 1, 20, 1_200, 9_000] {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            stranger
                .send_to(&vec![first; len], b.addresses()[0])
                .unwrap();
        }
    }
    connect(&*a, &*b, "b").await;
}

#[tokio::test]
async fn nodes_that_were_given_no_address_reach_each_other_at_those_they_announce() {
    let a = QuicRuntime::new()
        .bind(config("a", Vec::new()))
        .await
        .unwrap();
    let b = QuicRuntime::new()
        .bind(config("b", Vec::new()))
        .await
        .unwrap();
    let (connection, _accepted) = connect(&*a, &*b, "b").await;
    assert!(b.addresses().contains(&connection.remote_address()));
}

#[tokio::test]
async fn the_first_address_that_is_free_is_bound() {
    let holder = socket::bind(loopback(), 1 << 16).unwrap();
    let taken = holder.local_addr().unwrap();
    let refused = QuicRuntime::new().bind(config("b", vec![taken])).await;
    match refused.err() {
        Some(BindError::Address { address, .. }) => assert_eq!(address, taken),
        other => panic!("not an address in use: {other:?}"),
    }
    let bound = QuicRuntime::new()
        .bind(config("b", vec![taken, loopback()]))
        .await;
    assert_ne!(bound.unwrap().addresses(), [taken]);
}

#[tokio::test]
async fn an_endpoint_without_protocols_only_dials() {
    let b = bind("b");
    let dialer = EndpointConfig {
        protocols: Vec::new(),
        ..config("a", vec![loopback()])
    };
    let a = QuicRuntime::new().bind_quic(dialer).unwrap();
    connect(&*a, &*b, "b").await;
}

#[tokio::test]
async fn new_interfaces_are_noticed() {
    let mut a = QuicRuntime::new()
        .bind_quic(config("a", Vec::new()))
        .unwrap();
    let endpoint = Arc::get_mut(&mut a).unwrap();
    endpoint.interfaces = Arc::new(|| vec![Ipv4Addr::new(192, 0, 2, 99).into()]);
    endpoint.watch.get_mut().unwrap().next_poll = std::time::Instant::now();
    a.addresses_changed().await;
    assert_eq!(a.addresses()[0].ip(), Ipv4Addr::new(192, 0, 2, 99));
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_kept_to_the_clock_of_the_runtime() {
    let runtime = QuicRuntime::new();
    let deadline = runtime.now() + Duration::from_secs(3_600);
    runtime.sleep_until(deadline, "an hour").await;
    assert!(runtime.now() >= deadline);
}
