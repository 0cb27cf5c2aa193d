//! What the benchmarks of groups and collections have in common: a round trip of bare quinn, which what Smalti adds is
//! measured against, and the time of the processor.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smalti::QuicRuntime;
use smalti::transport::QuicEndpoint;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{Alpn, Endpoint, EndpointConfig};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const PROTOCOL: Alpn = Alpn::new("/bench/1");

/// Calls of which a median is made.
pub(crate) const CALLS: usize = 2_000;

pub(crate) fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("tokio starts")
}

/// What is to be measured, by default "all", and how often: what the arguments of a benchmark say.
pub(crate) fn mode_and_rounds(mut arguments: impl Iterator<Item = String>) -> (String, usize) {
    let (mut mode, mut rounds) = ("all".to_owned(), 3);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let count = arguments.next().and_then(|it| it.parse().ok());
            rounds = count.expect("--rounds takes a number");
        } else {
            mode = argument;
        }
    }
    (mode, rounds)
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
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

/// One end of a stream of bare quinn whose other end answers each frame of 64 bytes by the same.
pub(crate) struct Echo {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    answering: JoinHandle<()>,
    _endpoint: Arc<QuicEndpoint>,
}

impl Echo {
    /// Starts both ends. The other one waits for `before` each time before it answers.
    pub(crate) async fn start<F>(before: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let ((_, a), (key, b)) = (bind("a"), bind("b"));
        let address = b.addresses()[0];
        let answering = tokio::spawn(async move {
            let quinn = b.quinn().expect("open");
            let connection = quinn.accept().await.expect("open").await.expect("dialled");
            let (mut send, mut recv) = connection.accept_bi().await.expect("open");
            let mut frame = [0; 64];
            while recv.read_exact(&mut frame).await.is_ok() {
                before().await;
                send.write_all(&frame).await.expect("open");
            }
        });
        let connecting = a.connect_quinn(key.peer_id(), address, PROTOCOL);
        let connection = connecting.expect("address").await.expect("it answers");
        let (send, recv) = connection.open_bi().await.expect("open");
        Self {
            send,
            recv,
            answering,
            _endpoint: a,
        }
    }

    /// Sends a frame, and waits for the answer.
    pub(crate) async fn call(&mut self) {
        let mut frame = [7; 64];
        self.send.write_all(&frame).await.expect("open");
        self.recv.read_exact(&mut frame).await.expect("open");
    }

    pub(crate) async fn end(mut self) {
        self.send.finish().expect("open");
        self.answering.await.expect("no panic");
    }
}

/// A frame of 64 bytes there and back over one stream of bare quinn: median and 99th percentile, in us.
pub(crate) async fn raw_round_trip() -> (f64, f64) {
    let mut echo = Echo::start(|| std::future::ready(())).await;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        echo.call().await;
        times.push(start.elapsed());
    }
    echo.end().await;
    percentiles(times)
}

/// The median and the 99th percentile, in us.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    (micros(times.len() / 2), micros(times.len() * 99 / 100))
}

/// Processor time of this process so far.
pub(crate) fn processor_time() -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |place: usize| {
        let field = fields.split_whitespace().nth(place);
        field
            .and_then(|it| it.parse::<u64>().ok())
            .unwrap_or_default()
    };
    Duration::from_millis((ticks(11) + ticks(12)) * 1_000 / TICKS_PER_SECOND)
}
