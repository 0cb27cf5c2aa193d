//! Two endpoints and a network between them that loses, doubles, delays and changes packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{ConnectionError, Side, StreamError};
use smalti_core::time::Instant;
use smalti_core::wire::CloseCode;

use super::*;
use crate::NodeIndex;
use crate::faults::{Fault, FaultLayer, LinkFaults};
use crate::rng::Streams;
use crate::time::SimTime;

const A: usize = 0;
const B: usize = 1;

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 4_000))
}

fn node_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]) - 1,
        SocketAddr::V6(_) => unreachable!("the tests use none"),
    }
}

struct Net {
    now: SimTime,
    endpoints: Vec<Endpoint>,
    layer: FaultLayer,
    under_way: BTreeMap<(SimTime, u64), (usize, SocketAddr, Vec<u8>)>,
    sequence: u64,
    events: Vec<Vec<Event>>,
}

fn endpoint(node: usize, life: u32) -> Endpoint {
    let streams = Streams::new(9).branch(&format!("{node} {life}"));
    let peer_id = SecretKey::from_bytes([node as u8 + 1; 32]).peer_id();
    Endpoint::new(
        peer_id,
        vec!["one".into(), "two".into()],
        streams.stream("link"),
    )
}

impl Net {
    fn new(seed: u64, links: LinkFaults) -> Self {
        Self {
            now: SimTime::ZERO,
            endpoints: (0..3).map(|node| endpoint(node, 0)).collect(),
            layer: FaultLayer::new(&Streams::new(seed), links),
            under_way: BTreeMap::new(),
            sequence: 0,
            events: vec![Vec::new(); 3],
        }
    }

    fn instant(&self) -> Instant {
        Instant::from_nanos(self.now.as_nanos())
    }

    fn flush(&mut self) {
        let now = self.instant();
        for node in 0..self.endpoints.len() {
            while let Some(transmit) = self.endpoints[node].poll_transmit(now) {
                assert!(
                    transmit.bytes.len() <= PACKET_LEN_MAX,
                    "{}",
                    transmit.bytes.len()
                );
                let to = node_of(transmit.to);
                let (from, target) = (NodeIndex(node as u32), NodeIndex(to as u32));
                let copies = self
                    .layer
                    .packet(self.now, from, target, transmit.bytes.len());
                let mut bytes = transmit.bytes.to_vec();
                if let Some((place, by)) = copies.corrupt {
                    let place = place as usize % bytes.len();
                    bytes[place] ^= by;
                }
                for at in [copies.first, copies.second].into_iter().flatten() {
                    self.sequence += 1;
                    let packet = (to, address(node), bytes.clone());
                    self.under_way.insert((at, self.sequence), packet);
                }
            }
            while let Some(event) = self.endpoints[node].poll_event() {
                self.events[node].push(event);
            }
        }
    }

    /// Lets the next thing happen, if it is due by `limit`.
    fn step(&mut self, limit: SimTime) -> bool {
        self.flush();
        let packet = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let timer = self
            .endpoints
            .iter()
            .filter_map(Endpoint::poll_timeout)
            .map(|(at, _)| SimTime::from_nanos(at.as_nanos()))
            .min();
        let Some(next) = [packet, timer]
            .into_iter()
            .flatten()
            .min()
            .filter(|at| *at <= limit)
        else {
            self.now = limit;
            return false;
        };
        self.now = self.now.max(next);
        let now = self.instant();
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, from, bytes) = entry.remove();
            self.endpoints[to].handle_packet(now, from, &bytes);
        }
        for endpoint in &mut self.endpoints {
            endpoint.handle_timeout(now);
        }
        self.flush();
        true
    }

    fn run(&mut self, duration: Duration) {
        let limit = self.now + duration;
        while self.step(limit) {}
    }

    fn dial(&mut self, from: usize, to: usize, protocol: &str) -> Handle {
        let peer = SecretKey::from_bytes([to as u8 + 1; 32]).peer_id();
        let now = self.instant();
        self.endpoints[from].dial(now, peer, vec![address(to)], protocol.into())
    }

    /// A connection from A to B that both know of.
    fn connected(&mut self) -> (Handle, Handle) {
        let mut a = self.dial(A, B, "one");
        self.run(Duration::from_secs(3));
        // On a rough network a dial may fail.
        while !self.events[A].contains(&Event::Connected(a)) {
            self.run(Duration::from_secs(3));
            a = self.dial(A, B, "one");
            self.run(Duration::from_secs(3));
        }
        let incoming = |event: &Event| match event {
            Event::Incoming(handle) => Some(*handle),
            _ => None,
        };
        let b = self.events[B]
            .iter()
            .rev()
            .find_map(incoming)
            .expect("B was dialled");
        (a, b)
    }

    fn read_all(&mut self, node: usize, handle: Handle, stream: u64) -> (Vec<u8>, bool) {
        let (mut bytes, mut chunks) = (Vec::new(), Vec::new());
        loop {
            match self.endpoints[node].read(handle, stream, &mut chunks, 10_000) {
                Ok(Some(Some(_))) => {}
                Ok(Some(None)) => {
                    bytes.extend(chunks.concat());
                    return (bytes, true);
                }
                Ok(None) | Err(_) => {
                    bytes.extend(chunks.concat());
                    return (bytes, false);
                }
            }
        }
    }
}

fn calm() -> LinkFaults {
    LinkFaults::constant(Duration::from_millis(10))
}

fn rough() -> LinkFaults {
    LinkFaults {
        loss_ppm: 100_000,
        duplicate_ppm: 50_000,
        reorder_ppm: 200_000,
        reorder_delay: Duration::from_millis(100),
        corrupt_ppm: 20_000,
        ..LinkFaults::default()
    }
}

#[test]
fn both_ends_know_each_other_and_share_a_secret_that_no_other_connection_has() {
    let mut net = Net::new(1, calm());
    let (a, b) = net.connected();
    let (peer, protocol, side, remote) = net.endpoints[A].describe(a).unwrap();
    assert_eq!(
        (&*protocol, side, remote),
        ("one", Side::Dialer, address(B))
    );
    assert_eq!(peer, SecretKey::from_bytes([2; 32]).peer_id());
    let (peer, protocol, side, remote) = net.endpoints[B].describe(b).unwrap();
    assert_eq!(
        (&*protocol, side, remote),
        ("one", Side::Acceptor, address(A))
    );
    assert_eq!(peer, SecretKey::from_bytes([1; 32]).peer_id());
    let exported = net.endpoints[A].export(a, b"label", b"context").unwrap();
    assert_eq!(
        net.endpoints[B].export(b, b"label", b"context").unwrap(),
        exported
    );
    assert_ne!(
        net.endpoints[A].export(a, b"label", b"other").unwrap(),
        exported
    );
    let (second, _) = net.connected();
    assert_ne!(
        net.endpoints[A]
            .export(second, b"label", b"context")
            .unwrap(),
        exported
    );
    assert_eq!(net.endpoints[A].rtt(a), Duration::from_millis(20));
}

#[test]
fn dials_fail_for_the_reason_that_is() {
    let mut net = Net::new(1, calm());
    let now = net.instant();
    let unknown = net.dial(A, B, "three");
    let wrong = SecretKey::from_bytes([3; 32]).peer_id();
    let wrong = net.endpoints[A].dial(now, wrong, vec![address(B)], "one".into());
    let nowhere = vec![];
    let peer = SecretKey::from_bytes([2; 32]).peer_id();
    let silent = net.endpoints[A].dial(now, peer, nowhere, "one".into());
    net.run(Duration::from_secs(6));
    let failed = |handle, failure| Event::DialFailed(handle, failure);
    assert!(net.events[A].contains(&failed(unknown, DialFailure::WrongProtocol)));
    assert!(net.events[A].contains(&failed(wrong, DialFailure::WrongPeer(address(B)))));
    assert!(net.events[A].contains(&failed(silent, DialFailure::Unreachable)));
    assert_eq!(net.events[B], []);
}

#[test]
fn of_several_addresses_the_right_one_is_found() {
    let mut net = Net::new(1, calm());
    let (now, peer) = (net.instant(), SecretKey::from_bytes([2; 32]).peer_id());
    let both = vec![address(2), address(B)];
    let dial = net.endpoints[A].dial(now, peer, both, "two".into());
    net.run(Duration::from_secs(1));
    assert_eq!(net.events[A], [Event::Connected(dial)]);
    assert_eq!(net.endpoints[A].describe(dial).unwrap().3, address(B));
    assert_eq!(net.events[2], []);
}

/// Sends `sizes` bytes on as many streams and gives what arrives, with when the last of it does.
fn transfer(net: &mut Net, sizes: &[usize], limit: Duration) -> BTreeMap<u64, Vec<u8>> {
    let (a, b) = net.connected();
    let content = |stream: u64, size: usize| -> Bytes {
        (0..size)
            .map(|place| (place as u64 * 31 + stream) as u8)
            .collect()
    };
    let mut left = BTreeMap::new();
    for size in sizes {
        let stream = net.endpoints[A]
            .open(a)
            .unwrap()
            .expect("few streams are open");
        left.insert(stream, content(stream, *size));
    }
    let mut got = BTreeMap::<u64, Vec<u8>>::new();
    let mut open: BTreeSet<u64> = left.keys().copied().collect();
    let end = net.now + limit;
    while !open.is_empty() && net.now < end {
        left.retain(|stream, bytes| {
            let mut chunks = [std::mem::take(bytes)];
            net.endpoints[A]
                .write(a, *stream, &mut chunks)
                .expect("the stream is open");
            let [rest] = chunks;
            *bytes = rest;
            if bytes.is_empty() {
                net.endpoints[A].finish(a, *stream);
            }
            !bytes.is_empty()
        });
        net.step(end);
        while net.endpoints[B]
            .accept(b)
            .expect("the connection is open")
            .is_some()
        {}
        for stream in open.clone() {
            let (bytes, ended) = net.read_all(B, b, stream);
            got.entry(stream).or_default().extend(bytes);
            if ended {
                open.remove(&stream);
            }
        }
    }
    assert!(open.is_empty(), "streams {open:?} do not end");
    for (number, size) in sizes.iter().enumerate() {
        let stream = number as u64 * 2;
        assert!(got[&stream] == content(stream, *size), "stream {stream}");
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn streams_arrive_whole_and_in_order_whatever_the_network_does(
        seed in any::<u64>(),
        sizes in prop::collection::vec(0usize..60_000, 1..6),
    ) {
        transfer(&mut Net::new(seed, rough()), &sizes, Duration::from_secs(600));
    }

    #[test]
    fn arbitrary_bytes_disturb_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut net = Net::new(1, calm());
        let (a, _) = net.connected();
        let now = net.instant();
        net.endpoints[A].handle_packet(now, address(B), &bytes);
        prop_assert_eq!(net.endpoints[A].close_reason(a), None);
    }
}

#[test]
fn more_than_all_windows_hold_gets_through() {
    transfer(
        &mut Net::new(1, calm()),
        &[3_000_000, 2_000_000],
        Duration::from_secs(60),
    );
    let narrow = LinkFaults {
        bandwidth: Some(1_000_000),
        ..calm()
    };
    transfer(
        &mut Net::new(1, narrow),
        &[2_000_000],
        Duration::from_secs(60),
    );
}

#[test]
fn what_is_late_on_a_path_that_varies_is_seldom_sent_again() {
    // Each packet takes 5 to 100 ms, so that most are overtaken by some.
    let mut net = Net::new(1, LinkFaults::default());
    let began = net.now;
    transfer(&mut net, &[2_000_000, 2_000_000], Duration::from_secs(10));
    let needed = 4_000_000 / (PACKET_LEN_MAX as u64 - 100);
    // One acknowledgement for each packet.
    let sent = net.sequence / 2;
    assert!(
        sent < needed * 3 / 2,
        "{sent} packets in {:?}, where {needed} would have been enough",
        net.now.since(began)
    );
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_back() {
    let mut net = Net::new(1, calm());
    let (a, _) = net.connected();
    let stream = net.endpoints[A].open(a).unwrap().unwrap();
    let mut written = 0;
    for _ in 0..100 {
        let mut chunks = [Bytes::from(vec![7; 100_000])];
        written += net.endpoints[A].write(a, stream, &mut chunks).unwrap();
        net.run(Duration::from_millis(100));
    }
    assert_eq!(written as u64, STREAM_WINDOW + SEND_BUFFER_MAX as u64);
}

#[test]
fn streams_beyond_the_limit_wait_until_others_have_ended() {
    let mut net = Net::new(1, calm());
    let (a, b) = net.connected();
    let mut streams = Vec::new();
    while let Some(stream) = net.endpoints[A].open(a).unwrap() {
        net.endpoints[A].finish(a, stream);
        streams.push(stream);
    }
    assert_eq!(streams.len() as u64, STREAMS_MAX);
    net.run(Duration::from_secs(1));
    for stream in streams {
        assert_eq!(net.read_all(B, b, stream), (vec![], true));
        net.endpoints[B].finish(b, stream);
    }
    net.run(Duration::from_secs(1));
    let (mut chunks, first) = (Vec::new(), 0);
    assert_eq!(
        net.endpoints[A].read(a, first, &mut chunks, 1),
        Ok(Some(None))
    );
    for stream in 1..STREAMS_MAX {
        net.read_all(A, a, stream * 2);
    }
    net.run(Duration::from_secs(1));
    assert!(net.events[A].contains(&Event::StreamsAllowed(a)));
    assert!(net.endpoints[A].open(a).unwrap().is_some());
}

#[test]
fn resets_and_stops_reach_the_other_side_with_their_codes() {
    let mut net = Net::new(2, rough());
    let (a, b) = net.connected();
    let reset = net.endpoints[A].open(a).unwrap().unwrap();
    let stopped = net.endpoints[A].open(a).unwrap().unwrap();
    for stream in [reset, stopped] {
        let mut chunks = [Bytes::from_static(b"some")];
        net.endpoints[A].write(a, stream, &mut chunks).unwrap();
    }
    net.run(Duration::from_secs(5));
    net.endpoints[A].reset(a, reset, CloseCode::CANCELLED);
    net.endpoints[B].stop(b, stopped, CloseCode::TOO_MANY);
    net.run(Duration::from_secs(5));
    let mut chunks = Vec::new();
    assert_eq!(
        net.endpoints[B].read(b, reset, &mut chunks, 100),
        Err(StreamError::Reset(CloseCode::CANCELLED))
    );
    assert_eq!(
        net.endpoints[A].write(a, stopped, &mut [Bytes::from_static(b"more")]),
        Err(StreamError::Stopped(CloseCode::TOO_MANY))
    );
}

#[test]
fn the_writer_learns_that_all_has_arrived() {
    let mut net = Net::new(3, rough());
    let (a, b) = net.connected();
    let stream = net.endpoints[A].open(a).unwrap().unwrap();
    net.endpoints[A]
        .write(a, stream, &mut [Bytes::from_static(b"some")])
        .unwrap();
    net.endpoints[A].finish(a, stream);
    assert_eq!(net.endpoints[A].stopped(a, stream), Ok(None));
    net.run(Duration::from_secs(5));
    assert_eq!(net.read_all(B, b, stream), (b"some".to_vec(), true));
    assert_eq!(net.endpoints[A].stopped(a, stream), Ok(Some(None)));
}

#[test]
fn a_close_carries_its_code_and_words() {
    let mut net = Net::new(4, rough());
    let (a, b) = net.connected();
    let now = net.instant();
    net.endpoints[A].close(now, a, CloseCode::GRACEFUL_SHUTDOWN, "good night");
    net.run(Duration::from_secs(20));
    let reason = "good night".into();
    let code = CloseCode::GRACEFUL_SHUTDOWN;
    let error = ConnectionError::ClosedByPeer { code, reason };
    assert_eq!(net.endpoints[B].close_reason(b), Some(error));
    assert!(net.events[B].contains(&Event::Closed(b)));
}

#[test]
fn live_connections_stay_and_silent_ones_time_out() {
    let mut net = Net::new(1, calm());
    let (a, b) = net.connected();
    net.run(Duration::from_secs(100));
    assert_eq!(net.endpoints[A].close_reason(a), None);
    net.layer
        .apply(&Fault::Partition(vec![NodeIndex(0)], vec![NodeIndex(1)]));
    net.run(Duration::from_secs(6));
    net.layer.apply(&Fault::RepairAll);
    net.run(Duration::from_secs(30));
    assert_eq!(net.endpoints[A].close_reason(a), None);
    net.layer
        .apply(&Fault::Cut(vec![NodeIndex(0)], vec![NodeIndex(1)]));
    net.run(Duration::from_secs(25));
    assert_eq!(
        net.endpoints[A].close_reason(a),
        Some(ConnectionError::TimedOut)
    );
    assert_eq!(
        net.endpoints[B].close_reason(b),
        Some(ConnectionError::TimedOut)
    );
}

#[test]
fn a_peer_that_has_started_again_resets_the_connection() {
    let mut net = Net::new(1, calm());
    let (a, _) = net.connected();
    net.endpoints[B] = endpoint(B, 1);
    net.endpoints[A]
        .send_datagram(a, Bytes::from_static(b"there?"))
        .unwrap();
    net.run(Duration::from_millis(25));
    assert_eq!(
        net.endpoints[A].close_reason(a),
        Some(ConnectionError::Reset)
    );
}

#[test]
fn datagrams_arrive_at_most_once() {
    let mut net = Net::new(5, rough());
    let (a, b) = net.connected();
    for number in 0..200u8 {
        net.endpoints[A]
            .send_datagram(a, vec![number; 10].into())
            .unwrap();
        net.run(Duration::from_millis(5));
    }
    net.run(Duration::from_secs(2));
    let mut seen = [false; 200];
    let mut count = 0;
    while let Some(datagram) = net.endpoints[B].read_datagram(b).unwrap() {
        assert_eq!(datagram.len(), 10);
        assert!(!std::mem::replace(
            &mut seen[usize::from(datagram[0])],
            true
        ));
        count += 1;
    }
    assert!((120..200).contains(&count), "{count}");
}

#[test]
fn a_closed_endpoint_tells_all_and_takes_nothing_more() {
    let mut net = Net::new(1, calm());
    let (_, b) = net.connected();
    let now = net.instant();
    net.endpoints[A].close_all(now, CloseCode::SUCCESS);
    assert!(!net.endpoints[A].is_drained());
    net.run(Duration::from_secs(2));
    assert!(net.endpoints[A].is_drained());
    assert!(matches!(
        net.endpoints[B].close_reason(b),
        Some(ConnectionError::ClosedByPeer {
            code: CloseCode::SUCCESS,
            ..
        })
    ));
    let dial = net.dial(B, A, "one");
    net.run(Duration::from_secs(6));
    assert!(net.events[B].contains(&Event::DialFailed(dial, DialFailure::Unreachable)));
}
