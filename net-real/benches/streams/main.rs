//! What streams cost, beside bare quinn that carries the same bytes in writes of 64 KiB over the same transport
//! settings: throughput one to one and one to four, one-way latency, many consumers of which one takes nothing, and
//! memory.
//! `cargo bench -p smalti --bench streams [throughput|latency|crowd|memory]`

mod crowd;
mod memory;
#[path = "../common/process.rs"]
mod process;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use smalti::streams::Raw;
use smalti::transport::QuicEndpoint;
use smalti::*;
use smalti_core::discovery::Config;
use smalti_core::runtime::{Alpn, Endpoint, EndpointConfig};

const PROTOCOL: Alpn = Alpn::new("/bench/1");
const WRITE_LEN: usize = 64 * 1_024;
const HEADER_LEN: usize = 4;
const ROUNDS: usize = 3;

fn main() {
    let modes = ["throughput", "latency", "crowd", "memory"];
    let asked: Vec<String> = std::env::args()
        .filter(|arg| modes.contains(&arg.as_str()))
        .collect();
    for mode in modes {
        if asked.is_empty() || asked.iter().any(|it| it == mode) {
            match mode {
                "throughput" => throughput(),
                "latency" => latencies(),
                "crowd" => run(crowd::measure()),
                _ => run(memory::measure()),
            }
            println!();
        }
    }
}

fn throughput() {
    println!(
        "{:>7} {:>3} {:>14} {:>12} {:>14} {:>7}",
        "bytes", "to", "datums/s", "MB/s", "quinn MB/s", "ratio"
    );
    for (len, datums) in [(64, 3_000_000), (1_024, 500_000), (65_536, 15_000)] {
        for consumers in [1, 4] {
            let datums = datums / consumers;
            let streams = median(|| run(streams(len, datums, consumers)));
            let quinn = median(|| run(quinn(len, datums, consumers)));
            let delivered = (datums * consumers) as f64;
            let megabytes = delivered * len as f64 / 1e6;
            println!(
                "{len:>7} {consumers:>3} {:>14.0} {:>12.0} {:>14.0} {:>6.0}%",
                delivered / streams.as_secs_f64(),
                megabytes / streams.as_secs_f64(),
                megabytes / quinn.as_secs_f64(),
                100.0 * quinn.as_secs_f64() / streams.as_secs_f64(),
            );
        }
    }
}

fn latencies() {
    println!("one-way latency of 64 bytes at 1,000/s");
    let streams = Delays::of(run(latency()));
    let quinn = Delays::of(run(latency_of_quinn()));
    println!(
        "streams  p50 {:>9.1?}  p99 {:>9.1?}",
        streams.p50, streams.p99
    );
    println!("quinn    p50 {:>9.1?}  p99 {:>9.1?}", quinn.p50, quinn.p99);
    println!(
        "ratio    p50 {:>9.2}  p99 {:>9.2}",
        streams.p50.div_duration_f64(quinn.p50),
        streams.p99.div_duration_f64(quinn.p99)
    );
}

/// What half and all but a hundredth of the datums took at most.
struct Delays {
    p50: Duration,
    p99: Duration,
}

impl Delays {
    fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort_unstable();
        let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("tokio starts").block_on(future)
}

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| measure()).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn node(bootstrap: Option<&Network>) -> Network {
    let mut config = Config::builder();
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap.local().addr());
    }
    let builder = Network::builder("bench")
        .with_addresses([loopback()])
        .with_discovery(config);
    builder.build().await.expect("loopback has a free port")
}

async fn streams(len: usize, datums: usize, consumers: usize) -> Duration {
    let from = node(None).await;
    let mut producer = from.streams().produce::<Raw>();
    let mut readers = Vec::new();
    for _ in 0..consumers {
        let to = node(Some(&from)).await;
        let mut consumer = to.streams().consume::<Raw>();
        readers.push(tokio::spawn(async move {
            for sequence in 0..datums {
                let (datum, meta) = consumer.recv_with_meta().await.expect("the node runs");
                assert_eq!((datum.len(), meta.sequence), (len, sequence as u64));
            }
            to
        }));
    }
    producer.when().subscribed().minimum_of(consumers).await;
    let datum = Raw::from(vec![7; len]);
    let started = Instant::now();
    for _ in 0..datums {
        producer
            .feed(datum.clone())
            .await
            .expect("it has consumers");
    }
    let mut nodes = Vec::new();
    for reader in readers {
        nodes.push(reader.await.expect("nothing is lost"));
    }
    let elapsed = started.elapsed();
    for node in nodes.iter().chain([&from]) {
        node.shutdown().await;
    }
    elapsed
}

fn bind(name: &str) -> (SecretKey, Arc<QuicEndpoint>) {
    let secret_key = SecretKey::from(name);
    let config = EndpointConfig {
        secret_key: secret_key.clone(),
        addresses: vec![loopback()],
        protocols: vec![PROTOCOL],
    };
    let endpoint = QuicRuntime::new().bind_quic(config);
    (secret_key, endpoint.expect("loopback has a free port"))
}

/// Both ends of a stream of bare quinn, and what keeps its connection open.
struct QuinnPair {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    connections: [quinn::Connection; 2],
    _receiver: Arc<QuicEndpoint>,
}

async fn quinn_pair(from: &QuicEndpoint, name: &str) -> QuinnPair {
    let (key, to) = bind(name);
    let address = to.addresses()[0];
    let connecting = from
        .connect_quinn(key.peer_id(), address, PROTOCOL)
        .expect("address");
    let incoming = to.quinn().expect("open").accept().await.expect("open");
    let accepting = incoming.accept().expect("open");
    let (dialled, accepted) = tokio::try_join!(connecting, accepting).expect("it answers");
    let (mut send, _) = dialled.open_bi().await.expect("open");
    // The peer learns of a stream with its first bytes.
    send.write_all(&[0]).await.expect("open");
    let (_, mut recv) = accepted.accept_bi().await.expect("open");
    recv.read_exact(&mut [0]).await.expect("open");
    QuinnPair {
        send,
        recv,
        connections: [dialled, accepted],
        _receiver: to,
    }
}

async fn quinn(len: usize, datums: usize, consumers: usize) -> Duration {
    let (_, from) = bind("from");
    let total = datums * (len + HEADER_LEN);
    let mut pairs = Vec::new();
    for n in 0..consumers {
        pairs.push(quinn_pair(&from, &format!("to {n}")).await);
    }
    let started = Instant::now();
    let mut tasks = Vec::new();
    for pair in pairs {
        let QuinnPair {
            mut send,
            mut recv,
            connections,
            _receiver,
        } = pair;
        tasks.push(tokio::spawn(async move {
            let mut slots = [const { Bytes::new() }; 32];
            let mut received = 0;
            while let Some(count) = recv.read_chunks(&mut slots).await.expect("open") {
                received += slots[..count].iter().map(Bytes::len).sum::<usize>();
            }
            assert_eq!(received, total);
            drop((connections, _receiver));
        }));
        tasks.push(tokio::spawn(async move {
            let chunk = Bytes::from(vec![7; WRITE_LEN]);
            let mut left = total;
            while left > 0 {
                let now = left.min(WRITE_LEN);
                send.write_chunk(chunk.slice(..now)).await.expect("open");
                left -= now;
            }
            send.finish().expect("open");
            let _ = send.stopped().await;
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    started.elapsed()
}

/// The datums of a latency measurement: one each millisecond.
const LATENCY_DATUMS: usize = 5_000;

/// The same as [`latency`] over bare quinn.
async fn latency_of_quinn() -> Vec<Duration> {
    let (_, from) = bind("from");
    let mut pair = quinn_pair(&from, "to").await;
    let origin = Instant::now();
    let reader = tokio::spawn(async move {
        let mut delays = Vec::with_capacity(LATENCY_DATUMS);
        let mut datum = [0; 64 + HEADER_LEN];
        while delays.len() < LATENCY_DATUMS {
            pair.recv.read_exact(&mut datum).await.expect("open");
            delays.push(delay(origin, &datum));
        }
        delays
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..LATENCY_DATUMS {
        ticks.tick().await;
        let datum = stamped(origin, 64 + HEADER_LEN);
        pair.send.write_chunk(datum.into()).await.expect("open");
    }
    reader.await.expect("no panic")
}

/// A datum that says when it was made.
fn stamped(origin: Instant, len: usize) -> Vec<u8> {
    let mut datum = vec![0; len];
    datum[..8].copy_from_slice(&(origin.elapsed().as_nanos() as u64).to_le_bytes());
    datum
}

/// For how long a datum has been under way.
fn delay(origin: Instant, datum: &[u8]) -> Duration {
    let made = u64::from_le_bytes(datum[..8].try_into().expect("eight bytes"));
    origin.elapsed() - Duration::from_nanos(made)
}

/// The times from sending to receiving of 64 bytes, one each millisecond.
async fn latency() -> Vec<Duration> {
    let from = node(None).await;
    let to = node(Some(&from)).await;
    let producer = from.streams().produce::<Raw>();
    let mut consumer = to.streams().consume::<Raw>();
    producer.when().subscribed().await;
    let origin = Instant::now();
    let reader = tokio::spawn(async move {
        let mut delays = Vec::with_capacity(LATENCY_DATUMS);
        while delays.len() < LATENCY_DATUMS {
            let datum = consumer.recv().await.expect("the node runs");
            delays.push(delay(origin, &datum));
        }
        delays
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..LATENCY_DATUMS {
        ticks.tick().await;
        let datum = stamped(origin, 64);
        producer.try_send(Raw::from(datum)).expect("there is room");
    }
    reader.await.expect("no panic")
}
