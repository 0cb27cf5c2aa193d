//! Dialling, accepting, identities, datagrams.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use smalti_core::id::SecretKey;
use smalti_core::runtime::{Connection, DialError, SendDatagramError, Side};
use smalti_core::time::Duration;

use super::{ECHO, Node, OTHER, Pair, UNKNOWN, World};

/// Keys are proved both ways, and both ends name the same protocol.
pub async fn both_ends_know_each_other_and_the_protocol(world: World) {
    let pair = Pair::start(&world).await;
    assert_eq!(pair.a_to_b.peer(), pair.b.key.peer_id());
    assert_eq!(pair.b_to_a.peer(), pair.a.key.peer_id());
    for (connection, side) in [(&pair.a_to_b, Side::Dialer), (&pair.b_to_a, Side::Acceptor)] {
        assert_eq!(connection.protocol(), ECHO);
        assert_eq!(connection.side(), side);
        assert_eq!(connection.close_reason(), None);
        assert!(connection.rtt() > Duration::ZERO);
    }
    let address = pair.a_to_b.remote_address();
    assert!(pair.b.endpoint.addresses().contains(&address));
    let address = pair.b_to_a.remote_address();
    assert!(pair.a.endpoint.addresses().contains(&address));
}

/// Exported keying material agrees at both ends, and differs by connection, label and context.
pub async fn keying_material_is_shared_by_both_ends_and_nobody_else(world: World) {
    let pair = Pair::start(&world).await;
    let (again, _) = pair.a.connect(&pair.b, ECHO).await;
    let export = |connection: &Arc<dyn Connection>, label: &[u8], context: &[u8]| {
        connection.export_keying_material(label, context).unwrap()
    };
    let material = export(&pair.a_to_b, b"label", b"context");
    assert_eq!(material, export(&pair.b_to_a, b"label", b"context"));
    assert_ne!(material, export(&pair.a_to_b, b"lapel", b"context"));
    assert_ne!(material, export(&pair.a_to_b, b"label", b""));
    assert_ne!(material, export(&again, b"label", b"context"));
}

/// A dialer that meets another peer than it asked for is told so.
pub async fn whoever_answers_must_hold_the_key(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let somebody_else = SecretKey::from("c").peer_id();
    let dial = a.endpoint.dial(somebody_else, b.endpoint.addresses(), ECHO);
    let refused = smalti_core::select! {
        refused = a.within("the dial", dial) => refused,
        _ = b.endpoint.accept() => panic!("a dialer that was not looking for b was accepted"),
    };
    match refused.err() {
        Some(DialError::WrongPeer { peer, address }) => {
            assert_eq!(peer, somebody_else);
            assert!(b.endpoint.addresses().contains(&address));
        }
        other => panic!("not a wrong peer: {other:?}"),
    }
}

/// A protocol that the peer does not speak is an error of its own.
pub async fn an_unknown_protocol_is_refused_and_others_are_served(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let refused = a.within("the dial", a.dial(&b, UNKNOWN));
    // The acceptor takes part only while somebody accepts.
    let refused = smalti_core::select! {
        refused = refused => refused,
        _ = b.endpoint.accept() => panic!("an unknown protocol was accepted"),
    };
    let peer = b.key.peer_id();
    let expected = DialError::WrongAlpn {
        peer,
        protocol: UNKNOWN,
    };
    assert_eq!(refused.err(), Some(expected));
    a.within("the dial", a.connect(&b, ECHO)).await;
}

/// A dial to where nobody listens ends, and says where it has tried.
pub async fn a_dial_to_nobody_ends(world: World) {
    let a = Node::start(&world, "a").await;
    let (peer, addresses) = (SecretKey::from("b").peer_id(), vec![world.nobody]);
    let started = a.runtime.now();
    let dial = a.endpoint.dial(peer, addresses.clone(), ECHO);
    let result = a.within("the dial", dial).await;
    assert_eq!(
        result.err(),
        Some(DialError::Unreachable { peer, addresses })
    );
    assert!(a.runtime.now().since(started) < Duration::from_secs(30));
}

/// Without an address there is nothing to wait for.
pub async fn a_dial_without_addresses_ends_at_once(world: World) {
    let a = Node::start(&world, "a").await;
    let peer = SecretKey::from("b").peer_id();
    let dial = a.endpoint.dial(peer, Vec::new(), ECHO);
    let result = dial.now_or_never().expect("it need not wait");
    assert_eq!(result.err(), Some(DialError::NoAddress { peer }));
}

/// Dead addresses, and another node's, do not keep a dial from the right one.
pub async fn a_dial_finds_the_one_address_that_answers(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let other = Node::start(&world, "c").await;
    let mut addresses = vec![world.nobody];
    addresses.extend(other.endpoint.addresses());
    addresses.extend(b.endpoint.addresses());
    let dial = a.endpoint.dial(b.key.peer_id(), addresses, ECHO);
    let both = join(dial, b.endpoint.accept());
    let (dialled, _) = smalti_core::select! {
        both = a.within("the dial", both) => both,
        _ = other.endpoint.accept() => panic!("the wrong node has accepted"),
    };
    assert_eq!(dialled.ok().map(|c| c.peer()), Some(b.key.peer_id()));
}

/// Connections for different protocols meet at the same address and stay apart.
pub async fn many_protocols_share_one_socket(world: World) {
    let pair = Pair::start(&world).await;
    let (dialled, accepted) = pair.a.connect(&pair.b, OTHER).await;
    assert_eq!(dialled.protocol(), OTHER);
    assert_eq!(accepted.protocol(), OTHER);
    assert_eq!(dialled.remote_address(), pair.a_to_b.remote_address());
    assert_eq!(accepted.remote_address(), pair.b_to_a.remote_address());
    dialled.close(smalti_core::wire::CloseCode::IDLE, "");
    pair.a.within("the close", accepted.closed()).await;
    assert_eq!(pair.a_to_b.close_reason(), None);
}

/// Dials that cross make two connections; which one stays is decided above the transport.
pub async fn two_nodes_may_dial_each_other_at_once(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let dials = join(a.connect(&b, ECHO), b.connect(&a, ECHO));
    let ((first, _kept), (second, _too)) = a.within("the dials", dials).await;
    assert_eq!(first.peer(), b.key.peer_id());
    assert_eq!(second.peer(), a.key.peer_id());
    assert_eq!(first.close_reason(), None);
    assert_eq!(second.close_reason(), None);
}

/// Handshakes do not wait for each other, and none is lost.
pub async fn many_dialers_are_accepted_at_once(world: World) {
    let center = Node::start(&world, "center").await;
    let names = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let nodes = join_all(names.iter().map(|name| Node::start(&world, name))).await;
    let dials = join_all(nodes.iter().map(|node| node.dial(&center, ECHO)));
    let accepts = async {
        let mut peers = Vec::new();
        for _ in &nodes {
            peers.push(center.endpoint.accept().await.unwrap().peer());
        }
        peers
    };
    let (dialled, mut accepted) = center.within("the dials", join(dials, accepts)).await;
    assert!(dialled.iter().all(Result::is_ok));
    let mut expected: Vec<_> = nodes.iter().map(|node| node.key.peer_id()).collect();
    expected.sort();
    accepted.sort();
    assert_eq!(accepted, expected);
}

/// Accepting is cancellation safe: in the midst of a handshake, too.
pub async fn an_abandoned_accept_loses_no_connection(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let mut dial = pin!(a.within("the dial", a.dial(&b, ECHO)));
    let mut accepted = None;
    let dialled = loop {
        // Each of these accepts is polled once and dropped.
        accepted = accepted.or(b.endpoint.accept().now_or_never().flatten());
        smalti_core::select! {
            dialled = dial.as_mut() => break dialled,
            () = nap(&a) => {}
        }
    };
    assert!(dialled.is_ok());
    if accepted.is_none() {
        accepted = a.within("the accept", b.endpoint.accept()).await;
    }
    assert_eq!(accepted.map(|c| c.peer()), Some(a.key.peer_id()));
}

async fn nap(node: &Node) {
    let deadline = node.runtime.now() + Duration::from_millis(1);
    node.runtime.sleep_until(deadline, "nap").await;
}

/// Datagrams may be lost, but not changed or cut.
pub async fn datagrams_arrive_whole_and_too_long_ones_are_refused(world: World) {
    let pair = Pair::start(&world).await;
    for (from, to) in [(&pair.a_to_b, &pair.b_to_a), (&pair.b_to_a, &pair.a_to_b)] {
        let send = async {
            loop {
                from.send_datagram(super::pattern(1_000)).unwrap();
                nap(&pair.a).await;
            }
        };
        let received = smalti_core::select! {
            received = pair.a.within("a datagram", to.read_datagram()) => received,
            () = send => unreachable!("it sends for ever"),
        };
        assert_eq!(received, Ok(super::pattern(1_000)));
        let len = 70_000;
        match from.send_datagram(Bytes::from(vec![0; len])) {
            Err(SendDatagramError::TooLarge { len: told, max }) => {
                assert_eq!(told, len);
                assert!((1_000..len).contains(&max));
            }
            other => panic!("not too large: {other:?}"),
        }
    }
}

/// What an endpoint calls its addresses are such that others can use.
pub async fn addresses_can_be_dialled_and_stay_while_nothing_changes(world: World) {
    let (a, b) = (
        Node::start(&world, "a").await,
        Node::start(&world, "b").await,
    );
    let addresses = b.endpoint.addresses();
    assert!(!addresses.is_empty());
    for address in &addresses {
        assert!(!address.ip().is_unspecified());
        assert_ne!(address.port(), 0);
        let dial = a.endpoint.dial(b.key.peer_id(), vec![*address], ECHO);
        let (dialled, _) = a.within("the dial", join(dial, b.endpoint.accept())).await;
        assert!(dialled.is_ok());
    }
    assert_eq!(b.endpoint.addresses(), addresses);
    assert!(b.endpoint.addresses_changed().now_or_never().is_none());
}

/// Sleep ends at its deadline or later; a deadline in the past ends at once.
pub async fn the_clock_runs_and_wakes(world: World) {
    let clock = (world.runtime)();
    let deadline = clock.now() + Duration::from_millis(5);
    clock.sleep_until(deadline, "a deadline to come").await;
    assert!(clock.now() >= deadline);
    clock.sleep_until(deadline, "a deadline past").await;
    let never = clock.sleep_until(smalti_core::time::Instant::FAR_FUTURE, "never");
    assert!(never.now_or_never().is_none());
}

/// No seed is given twice.
pub async fn seeds_differ(world: World) {
    let (a, b) = ((world.runtime)(), (world.runtime)());
    let seeds = [a.seed("x"), a.seed("x"), a.seed("y"), b.seed("x")];
    for (i, seed) in seeds.iter().enumerate() {
        assert!(!seeds[..i].contains(seed));
    }
    // An async function, like all cases, that has nothing to wait for.
    std::future::ready(()).await;
}
