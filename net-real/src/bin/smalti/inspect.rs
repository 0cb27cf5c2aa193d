//! `smalti inspect`: joins, waits until the network is known, prints it, and leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use smalti::discovery::{Catalog, CatalogWatch, Config, PeerAddr, PeerEntry};
use smalti::runtime::{Alpn, Clock, DialError, EndpointConfig, Transport};
use smalti::time::{Duration, Instant, WallTime};
use smalti::transport::Tuning;
use smalti::{Network, PeerId, QuicRuntime, Random, SecretKey, StreamId, Tag};

use crate::Failure;
use crate::args::InspectArguments;
use crate::node::configure;

/// The network counts as known when no peer has come or gone for this long. A join takes two round trips or
/// three from there on.
const QUIET: Duration = Duration::from_millis(300);

/// How long round-trip times are waited for beyond that.
const RTT_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often round-trip times are measured: as often as discovery permits.
const RTT_PROBE_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(arguments: InspectArguments) -> Result<(), Failure> {
    let runtime = Arc::new(QuicRuntime::new());
    let deadline = runtime.now() + arguments.timeout;
    let config = Config::builder()
        .with_bootstrap(arguments.bootstrap.clone())
        .with_rtt_probe_interval(RTT_PROBE_INTERVAL);
    let builder = configure(&arguments.common).with_discovery(config);
    let network = builder.build_on(runtime.clone()).await?;
    let result = inspect(&network, &runtime, deadline, &arguments).await;
    network.shutdown().await;
    result
}

async fn inspect(
    network: &Network,
    runtime: &QuicRuntime,
    deadline: Instant,
    arguments: &InspectArguments,
) -> Result<(), Failure> {
    join(network, runtime, deadline, arguments).await?;
    let watch = network.discovery().catalog_watch();
    let settled = settle(watch, runtime, deadline).await;
    if !settled {
        tracing::warn!("the network still changes: this is how it looked when time was up");
    }
    let catalog = network.discovery().catalog();
    let report = Report::new(network, &catalog, runtime.wall(), settled);
    let text = if arguments.json {
        report.to_json()
    } else {
        report.to_table(&Names::new(&arguments.name))
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(Failure::Output)
}

/// Takes over the catalog of the first bootstrap peer that gives it.
async fn join(
    network: &Network,
    runtime: &QuicRuntime,
    deadline: Instant,
    arguments: &InspectArguments,
) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    for peer in &arguments.bootstrap {
        let timeout = runtime.sleep_until(deadline, "inspect");
        let synced = smalti::select! {
            synced = network.discovery().sync_with(peer.clone()) => synced.map_err(|e| e.to_string()),
            () = timeout => Err("no answer in time".to_owned()),
        };
        match synced {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{peer}: {}", diagnose(peer, &error).await)),
        }
    }
    Err(Failure::NotJoined {
        network: arguments.common.network.clone(),
        reasons,
    })
}

/// Says why a peer does not answer, by dialling it once more without being a node.
async fn diagnose(peer: &PeerAddr, error: &str) -> String {
    let tuning = Tuning {
        handshake_timeout: Duration::from_secs(2),
        ..Tuning::default()
    };
    let config = EndpointConfig {
        secret_key: SecretKey::random(),
        addresses: Vec::new(),
        protocols: Vec::new(),
    };
    let Ok(endpoint) = QuicRuntime::new().with_tuning(tuning).bind(config).await else {
        return error.to_owned();
    };
    let protocol = Alpn::new("/smalti/catalog/1");
    let dialled = endpoint
        .dial(peer.id, peer.addresses.clone(), protocol)
        .await;
    match dialled {
        Ok(_) => {
            "it answers, but does not let this node in; is it in this network, and is the network \
                  secret the same?"
                .to_owned()
        }
        Err(DialError::Unreachable { .. }) => {
            "nobody answers there; is the node running, and does the network let UDP through?"
                .to_owned()
        }
        Err(DialError::WrongPeer { .. }) => {
            "another node answers there; has the node been started anew without a fixed secret?"
                .to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Waits until the network is known; false where `deadline` comes first.
async fn settle(mut watch: CatalogWatch, runtime: &QuicRuntime, deadline: Instant) -> bool {
    let started = runtime.now();
    let mut catalog = watch.current();
    let mut quiet_since = started;
    loop {
        let peers: BTreeSet<PeerId> = catalog.peers().map(|entry| *entry.id()).collect();
        let measured = peers.iter().all(|peer| catalog.rtt(peer).is_some());
        let mut due = quiet_since + QUIET;
        if !measured {
            due = due.max(started + RTT_WAIT_MAX);
        }
        if runtime.now() >= due {
            return true;
        }
        let wake = runtime.sleep_until(due.min(deadline), "settle");
        smalti::select! {
            changed = watch.changed() => match changed {
                Ok(changed) => {
                    if !changed.peers().map(PeerEntry::id).eq(peers.iter()) {
                        quiet_since = runtime.now();
                    }
                    catalog = changed;
                }
                Err(_) => return false,
            },
            () = wake => if due > deadline {
                return false;
            },
        }
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// The network's id.
    network: String,
    /// Whether no peer came or went for a while before the end.
    settled: bool,
    peers: Vec<Peer>,
}

#[derive(Debug, Serialize)]
struct Peer {
    id: PeerId,
    addresses: Vec<SocketAddr>,
    tags: BTreeSet<Tag>,
    streams: BTreeMap<StreamId, String>,
    /// The smoothed round-trip time, in microseconds.
    rtt_us: Option<u64>,
    /// For how long the peer says that it runs, in milliseconds.
    uptime_ms: u64,
}

impl Report {
    fn new(network: &Network, catalog: &Catalog, now: WallTime, settled: bool) -> Self {
        let peers = catalog.peers().map(|entry| Peer {
            id: *entry.id(),
            addresses: entry.addresses().to_vec(),
            tags: entry.tags().clone(),
            streams: entry
                .streams()
                .iter()
                .map(|(stream, info)| (*stream, info.schema.to_string()))
                .collect(),
            rtt_us: catalog.rtt(entry.id()).map(micros),
            uptime_ms: micros(entry.uptime(now)) / 1_000,
        });
        Self {
            network: network.network_id().to_string(),
            settled,
            peers: peers.collect(),
        }
    }

    fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .expect("ids and numbers can always be written as JSON");
        text.push('\n');
        text
    }

    fn to_table(&self, names: &Names) -> String {
        let header = ["PEER", "ADDRESS", "RTT", "UP", "TAGS", "STREAMS"].map(str::to_owned);
        let mut rows = vec![header];
        for peer in &self.peers {
            let address = match peer.addresses.as_slice() {
                [] => "-".to_owned(),
                [address] => address.to_string(),
                [first, more @ ..] => format!("{first} +{}", more.len()),
            };
            rows.push([
                peer.id.short(),
                address,
                peer.rtt_us.map_or_else(|| "-".to_owned(), milliseconds),
                human_duration(Duration::from_millis(peer.uptime_ms)),
                list(peer.tags.iter().map(|tag| names.tag(tag))),
                list(peer.streams.keys().map(|stream| names.stream(stream))),
            ]);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let count = self.peers.len();
        let _ = writeln!(
            text,
            "{count} {}",
            if count == 1 { "peer" } else { "peers" }
        );
        text
    }
}

/// Tags and streams that are shown by name.
#[derive(Debug)]
struct Names {
    tags: BTreeMap<Tag, String>,
    streams: BTreeMap<StreamId, String>,
}

impl Names {
    fn new(names: &[String]) -> Self {
        Self {
            tags: names.iter().map(|n| (Tag::from(n), n.clone())).collect(),
            streams: names
                .iter()
                .map(|n| (StreamId::from(n), n.clone()))
                .collect(),
        }
    }

    fn tag(&self, tag: &Tag) -> String {
        self.tags.get(tag).cloned().unwrap_or_else(|| tag.short())
    }

    fn stream(&self, stream: &StreamId) -> String {
        let name = self.streams.get(stream).cloned();
        name.unwrap_or_else(|| stream.short())
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(",")
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

/// The two greatest units, such as `3h 5m`.
fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let peer = |byte: u8, tags: &[&str], rtt_us| Peer {
            id: PeerId::from_bytes([byte; 32]),
            addresses: vec!["192.0.2.1:4433".parse().unwrap(); usize::from(byte)],
            tags: tags.iter().map(|tag| Tag::from(*tag)).collect(),
            streams: BTreeMap::new(),
            rtt_us,
            uptime_ms: 61_000,
        };
        Report {
            network: "id".to_owned(),
            settled: true,
            peers: vec![peer(1, &[], None), peer(2, &["matcher"], Some(1_050))],
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_peer() {
        let table = report().to_table(&Names::new(&["matcher".to_owned()]));
        assert_eq!(
            table,
            "\
PEER        ADDRESS            RTT       UP     TAGS     STREAMS
0101010101  192.0.2.1:4433     -         1m 1s  -        -
0202020202  192.0.2.1:4433 +1  1.050 ms  1m 1s  matcher  -
2 peers
"
        );
    }

    #[test]
    fn json_has_whole_ids_and_plain_numbers() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["peers"][1]["id"], "02".repeat(32));
        assert_eq!(json["peers"][1]["rtt_us"], 1_050);
        assert_eq!(
            json["peers"][1]["tags"][0],
            Tag::from("matcher").to_string()
        );
        assert_eq!(json["peers"][0]["rtt_us"], serde_json::Value::Null);
        assert_eq!(json["settled"], true);
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (75, "1m 15s"),
            (7_260, "2h 1m"),
            (180_000, "2d 2h"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
