//! What streams cost, beside bare quinn that carries the same bytes in writes of 64 KiB over the same transport
//! settings: throughput one to one and one to four, and one-way latency.
//! `cargo bench -p smalti --bench streams [throughput|latency]`

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
    let mode = std::env::args().find(|arg| arg == "throughput" || arg == "latency");
    if mode.as_deref() != Some("latency") {
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
    if mode.as_deref() != Some("throughput") {
        let mut delays = run(latency());
        delays.sort_unstable();
        let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
        println!(
            "one-way latency at 1,000/s: p50 {:?}, p99 {:?}",
            at(0.5),
            at(0.99)
        );
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

async fn quinn(len: usize, datums: usize, consumers: usize) -> Duration {
    let (_, from) = bind("from");
    let total = datums * (len + HEADER_LEN);
    let mut started = None;
    let mut tasks = Vec::new();
    for n in 0..consumers {
        let (key, to) = bind(&format!("to {n}"));
        let address = to.addresses()[0];
        tasks.push(tokio::spawn(async move {
            let endpoint = to.quinn().expect("open");
            let connection = endpoint
                .accept()
                .await
                .expect("open")
                .await
                .expect("dialled");
            let (_send, mut recv) = connection.accept_bi().await.expect("open");
            let mut slots = [const { Bytes::new() }; 32];
            let mut received = 0;
            while let Some(count) = recv.read_chunks(&mut slots).await.expect("open") {
                received += slots[..count].iter().map(Bytes::len).sum::<usize>();
            }
            assert_eq!(received, total);
        }));
        let connecting = from
            .connect_quinn(key.peer_id(), address, PROTOCOL)
            .expect("address");
        let connection = connecting.await.expect("it answers");
        let (mut send, _recv) = connection.open_bi().await.expect("open");
        started.get_or_insert_with(Instant::now);
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
            drop(connection);
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    started.expect("there is a consumer").elapsed()
}

/// The times from sending to receiving of 64 bytes, one each millisecond.
async fn latency() -> Vec<Duration> {
    const DATUMS: usize = 5_000;
    let from = node(None).await;
    let to = node(Some(&from)).await;
    let producer = from.streams().produce::<Raw>();
    let mut consumer = to.streams().consume::<Raw>();
    producer.when().subscribed().await;
    let origin = Instant::now();
    let reader = tokio::spawn(async move {
        let mut delays = Vec::with_capacity(DATUMS);
        while delays.len() < DATUMS {
            let datum = consumer.recv().await.expect("the node runs");
            let sent = u64::from_le_bytes(datum[..8].try_into().expect("eight bytes"));
            delays.push(origin.elapsed() - Duration::from_nanos(sent));
        }
        delays
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..DATUMS {
        ticks.tick().await;
        let mut datum = vec![0; 64];
        datum[..8].copy_from_slice(&(origin.elapsed().as_nanos() as u64).to_le_bytes());
        producer.try_send(Raw::from(datum)).expect("there is room");
    }
    reader.await.expect("no panic")
}
