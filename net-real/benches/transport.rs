//! What the transport costs: throughput of one stream beside bare quinn under the same settings, and memory of
//! endpoints and of idle connections. `cargo bench -p smalti --bench transport [throughput|memory]`

#[path = "common/process.rs"]
mod process;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smalti::QuicRuntime;
use smalti::transport::QuicEndpoint;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{Alpn, Connection, Endpoint, EndpointConfig};

use self::process::resident;

const PROTOCOL: Alpn = Alpn::new("/bench/1");
const FRAME_LEN: usize = 64 * 1_024;
const FRAMES: usize = 100_000;

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode != "memory" {
        for round in 1..=3 {
            for bare in [false, true] {
                throughput(round, bare);
            }
        }
    }
    if mode != "throughput" {
        memory();
    }
}

fn bind(name: &str) -> (SecretKey, Arc<QuicEndpoint>) {
    let secret_key = SecretKey::from(name);
    let config = EndpointConfig {
        secret_key: secret_key.clone(),
        addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        protocols: vec![PROTOCOL],
    };
    let endpoint = QuicRuntime::new().bind_quic(config);
    (secret_key, endpoint.expect("loopback has a free port"))
}

/// One stream, 64 KiB frames, each end on a runtime of its own.
fn throughput(round: usize, bare: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio starts");
    let elapsed = runtime.block_on(async {
        let ((_, a), (key, b)) = (bind("a"), bind("b"));
        let address = b.addresses()[0];
        if bare {
            let reader = tokio::spawn(async move {
                let quinn = b.quinn().expect("open");
                let connection = quinn.accept().await.expect("open").await.expect("dialled");
                let (_send, mut recv) = connection.accept_bi().await.expect("open");
                let mut slots = [const { Bytes::new() }; 32];
                let mut received = 0;
                while let Some(count) = recv.read_chunks(&mut slots).await.expect("open") {
                    received += slots[..count].iter().map(Bytes::len).sum::<usize>();
                }
                assert_eq!(received, FRAMES * FRAME_LEN);
            });
            let connecting = a
                .connect_quinn(key.peer_id(), address, PROTOCOL)
                .expect("address");
            let connection = connecting.await.expect("it answers");
            let (mut send, _recv) = connection.open_bi().await.expect("open");
            let frame = Bytes::from(vec![7; FRAME_LEN]);
            let started = Instant::now();
            for _ in 0..FRAMES {
                send.write_chunk(frame.clone()).await.expect("open");
            }
            send.finish().expect("open");
            reader.await.expect("no panic");
            started.elapsed()
        } else {
            let reader = tokio::spawn(async move {
                let connection = Endpoint::accept(&*b).await.expect("open");
                let (_send, mut recv) = connection.accept().await.expect("open");
                let mut chunks = Vec::new();
                let mut received = 0;
                loop {
                    let read = poll_fn(|cx| recv.poll_read(cx, &mut chunks, 256 * 1_024)).await;
                    let Some(len) = read.expect("open") else {
                        break;
                    };
                    received += len;
                    chunks.clear();
                }
                assert_eq!(received, FRAMES * FRAME_LEN);
            });
            let connection = a.dial(key.peer_id(), vec![address], PROTOCOL).await;
            let connection = connection.expect("it answers");
            let (mut send, _recv) = connection.open().await.expect("open");
            let frame = Bytes::from(vec![7; FRAME_LEN]);
            let started = Instant::now();
            for _ in 0..FRAMES {
                let mut chunks = [frame.clone()];
                while !chunks[0].is_empty() {
                    poll_fn(|cx| send.poll_write(cx, &mut chunks))
                        .await
                        .expect("open");
                }
            }
            send.finish();
            reader.await.expect("no panic");
            started.elapsed()
        }
    });
    let rate = FRAMES as f64 / elapsed.as_secs_f64();
    let name = if bare { "bare quinn" } else { "transport " };
    let megabytes = rate * FRAME_LEN as f64 / 1e6;
    println!("round {round}  {name}  64 KiB frames: {rate:>8.0}/s  {megabytes:>6.0} MB/s");
}

/// 64 endpoints, then every pair connected, then all idle.
fn memory() {
    const NODES: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("tokio starts");
    runtime.block_on(async {
        let before = resident();
        let nodes: Vec<_> = (0..NODES).map(|n| bind(&n.to_string())).collect();
        let bound = resident();
        let mut held: Vec<Arc<dyn Connection>> = Vec::new();
        for (i, (_, dialer)) in nodes.iter().enumerate() {
            for (key, acceptor) in &nodes[..i] {
                let dial = dialer.dial(key.peer_id(), acceptor.addresses(), PROTOCOL);
                let (dialled, accepted) =
                    futures_util::future::join(dial, Endpoint::accept(&**acceptor)).await;
                held.push(dialled.expect("it answers"));
                held.push(accepted.expect("open"));
            }
        }
        let connected = resident();
        // Some state of the handshake goes only after a while.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let idle = resident();
        let pairs = held.len() as f64 / 2.0;
        assert!(held.iter().all(|connection| connection.close_reason().is_none()));
        println!(
            "memory: {:.0} KiB an endpoint; {:.1} KiB an idle connection, both ends ({:.1} at first); \
             {NODES} nodes, fully meshed: {:.0} KiB a node",
            (bound - before) / NODES as f64,
            (idle - bound) / pairs,
            (connected - bound) / pairs,
            (idle - before) / NODES as f64,
        );
    });
}
