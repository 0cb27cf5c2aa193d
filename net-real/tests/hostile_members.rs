//! A node that is in no group faces peers that take it for a member.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smalti::QuicRuntime;
use smalti_core::discovery::PeerAddr;
use smalti_core::id::{Instance, SecretKey};
use smalti_core::network::CloseCode;
use smalti_core::protocol::Machine;
use smalti_core::protocol::bonds::{
    Bonds, FRAME_LEN_MAX, GROUPS_ALPN, GROUPS_EXPORTER_LABEL, Input, Item, LinkId, Output, decode,
};
use smalti_core::protocol::groups::GroupKey;
use smalti_core::runtime::{
    BiStream, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, Side,
    Transport,
};
use smalti_core::time::Instant;
use smalti_core::wire::{FrameBuffer, HELLO_LEN_MAX, Hello, WIRE_VERSIONS, encode_frame};
use smalti_core::{GroupId, Network, NetworkBuilder, NetworkId, PeerId};

const KEY: GroupKey = GroupKey::from_bytes([1; 32]);

async fn node() -> Network {
    NetworkBuilder::new("the network")
        .with_addresses(loopback())
        .build_on(Arc::new(QuicRuntime::new()))
        .await
        .expect("loopback can be listened on")
}

fn loopback() -> [SocketAddr; 1] {
    [([127, 0, 0, 1], 0).into()]
}

/// Acts as a member by hand.
struct Attacker {
    endpoint: Arc<dyn Endpoint>,
    secret_key: SecretKey,
    target: PeerAddr,
    group: GroupId,
}

impl Attacker {
    async fn new(target: &Network) -> Self {
        let secret_key = SecretKey::from("attacker");
        let config = EndpointConfig {
            secret_key: secret_key.clone(),
            addresses: loopback().into(),
            protocols: vec![GROUPS_ALPN],
        };
        let endpoint = QuicRuntime::new()
            .bind(config)
            .await
            .expect("loopback can be listened on");
        Self {
            endpoint,
            secret_key,
            target: target.local().addr(),
            group: GroupId::from("g"),
        }
    }

    fn id(&self) -> PeerId {
        self.secret_key.peer_id()
    }

    /// Dials the node, is admitted, and opens a link.
    async fn link(&self) -> Link {
        let (node, addresses) = (self.target.id, self.target.addresses.clone());
        let dialled = self.endpoint.dial(node, addresses, GROUPS_ALPN);
        let connection = dialled.await.expect("the node can be dialled");
        let stream = connection.open().await.expect("a stream can be opened");
        let mut hello = Link::new(connection.clone(), stream);
        hello.say(&self::hello()).await;
        assert!(hello.hear().await.is_some(), "the node says hello");
        let stream = connection.open().await.expect("a stream can be opened");
        Link::new(connection, stream)
    }

    /// A frame with an offer in the node's group, as a member with `key` makes it for `link`.
    fn offer(&self, link: &Link, key: GroupKey) -> Bytes {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let mut bonds = Bonds::new(self.id(), Default::default(), rng);
        let (group, peer) = (self.group, self.target.id);
        let groups = BTreeSet::from([group]);
        let exported = link
            .connection
            .export_keying_material(GROUPS_EXPORTER_LABEL, b"");
        let now = Instant::from_nanos(1);
        for input in [
            Input::Joined { group, key },
            Input::Peer { peer, groups },
            Input::LinkOpened {
                link: LinkId(1),
                peer,
                instance: Instance::from_bytes([1; 16]),
                side: Side::Dialer,
                exporter: exported.expect("the connection is up"),
            },
        ] {
            bonds.handle(now, input);
        }
        let outputs = std::iter::from_fn(|| bonds.poll_output());
        let mut frames = outputs.filter_map(|output| match output {
            Output::Send { frame, .. } => Some(frame),
            _ => None,
        });
        let frame = frames.next().expect("the bond is offered");
        frame.into_chunks().concat().into()
    }
}

/// A stream of frames.
struct Link {
    connection: Arc<dyn Connection>,
    send: Box<dyn SendStream>,
    recv: Box<dyn RecvStream>,
    frames: FrameBuffer,
}

impl Link {
    fn new(connection: Arc<dyn Connection>, (send, recv): BiStream) -> Self {
        Self {
            connection,
            send,
            recv,
            frames: FrameBuffer::new(FRAME_LEN_MAX),
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        let mut chunk = [Bytes::copy_from_slice(bytes)];
        while !chunk[0].is_empty() {
            // The node may have closed the connection already; the test looks at the code.
            let written = poll_fn(|cx| self.send.poll_write(cx, &mut chunk)).await;
            if written.is_err() {
                return;
            }
        }
    }

    /// The next frame, until the end of the stream or of its connection.
    async fn hear(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.next_frame().expect("the node's frames fit") {
                return Some(frame);
            }
            let mut chunks = Vec::new();
            let read = poll_fn(|cx| self.recv.poll_read(cx, &mut chunks, 65_536)).await;
            read.ok()??;
            chunks.into_iter().for_each(|chunk| self.frames.push(chunk));
        }
    }

    /// The next frame that has anything to do with a group.
    async fn hear_of_group(&mut self) -> Bytes {
        loop {
            let frame = self.hear().await.expect("the node says something");
            let items = decode(&frame).expect("the node keeps to the protocol");
            if !items
                .iter()
                .all(|item| matches!(item, Item::Ping(_) | Item::Pong(_)))
            {
                return frame;
            }
        }
    }

    /// Waits until the node refuses the bond in `group`, with which code.
    async fn refusal(&mut self) -> (GroupId, CloseCode) {
        let frame = self.hear_of_group().await;
        let items = decode(&frame).expect("the node keeps to the protocol");
        let refusal = items.into_iter().find_map(|item| match item {
            Item::Refuse { group, code } => Some((group, code)),
            _ => None,
        });
        refusal.expect("the node refuses")
    }

    async fn close_code(&self) -> CloseCode {
        match self.connection.closed().await {
            ConnectionError::ClosedByPeer { code, .. } => code,
            other => panic!("closed in another way: {other}"),
        }
    }
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        network: NetworkId::from("the network"),
        versions: WIRE_VERSIONS,
        instance: Instance::from_bytes([9; 16]),
        proof: None,
    };
    let mut frame = BytesMut::new();
    encode_frame(&hello, HELLO_LEN_MAX, &mut frame).expect("a hello fits");
    frame.to_vec()
}

/// `body` as a frame.
fn frame(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("it is short");
    [&len.to_le_bytes(), body].concat()
}

/// A message of three bytes in `group`, written by hand.
fn message(group: GroupId) -> Vec<u8> {
    frame(&[&[5], &group.as_bytes()[..], &[3], b"abc"].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_in_no_group_of_the_node_is_refused_and_the_link_goes_on() {
    let node = node().await;
    let attacker = Attacker::new(&node).await;
    let mut link = attacker.link().await;
    let offer = attacker.offer(&link, KEY);
    for _ in 0..3 {
        link.say(&offer).await;
        let refusal = (attacker.group, CloseCode::GROUP_NOT_MEMBER);
        assert_eq!(link.refusal().await, refusal);
    }
    assert_eq!(node.violations(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_bond_closes_the_link() {
    let node = node().await;
    let attacker = Attacker::new(&node).await;
    let mut link = attacker.link().await;
    link.say(&message(attacker.group)).await;
    assert_eq!(link.close_code().await, CloseCode::GROUP_NOT_BONDED);
    assert_eq!(node.violations(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_the_exchange_closes_the_link() {
    let node = node().await;
    let attacker = Attacker::new(&node).await;
    // Something that is no item, and an item whose payload is longer than its frame.
    for (violations, garbage) in [(1, &[0xee; 40][..]), (2, &[5; 34])] {
        let mut link = attacker.link().await;
        let offer = attacker.offer(&link, KEY);
        link.say(&offer).await;
        link.refusal().await;
        link.say(&frame(garbage)).await;
        assert_eq!(link.close_code().await, CloseCode::PROTOCOL_VIOLATION);
        assert_eq!(node.violations(), violations);
    }
}
