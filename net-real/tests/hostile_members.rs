//! Members of a group face peers that know its id but not its key, its key but not the protocol, or its key but not the one that
//! lets write: each is told why it is refused or closed, and the bonds of the others stay as they are.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smalti::QuicRuntime;
use smalti_core::discovery::{Config, GroupInfo, PeerAddr, PeerEntry};
use smalti_core::groups::{
    BondState, BondsConfig, Cursor, Group, GroupStatus, Index, NoOp, Term, WriteKey,
};
use smalti_core::id::{Instance, SecretKey};
use smalti_core::network::CloseCode;
use smalti_core::protocol::Machine;
use smalti_core::protocol::bonds::{
    Bonds, FRAME_LEN_MAX, GROUPS_ALPN, GROUPS_EXPORTER_LABEL, Input, Item, LinkId, Output, decode,
};
use smalti_core::protocol::groups::WriteAccess;
use smalti_core::protocol::raft::{Append, Candidacy, Envelope, Message, Run};
use smalti_core::runtime::{
    BiStream, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, Side,
    Transport,
};
use smalti_core::time::{Duration, Instant};
use smalti_core::wire::{FrameBuffer, HELLO_LEN_MAX, Hello, WIRE_VERSIONS, encode_frame};
use smalti_core::{GroupId, GroupKey, Network, NetworkBuilder, NetworkId, PeerId};

const KEY: GroupKey = GroupKey::from_bytes([1; 32]);
const WRONG_KEY: GroupKey = GroupKey::from_bytes([2; 32]);
const WRITE_KEY: WriteKey = WriteKey::from_bytes([3; 32]);
const WRONG_WRITE_KEY: WriteKey = WriteKey::from_bytes([4; 32]);

fn loopback() -> [SocketAddr; 1] {
    [([127, 0, 0, 1], 0).into()]
}

/// Two members of a group that are bonded with each other.
struct Pair {
    node: Member,
    other: Member,
}

impl Pair {
    async fn new() -> Self {
        Self::with_write_key(None).await
    }

    async fn with_write_key(key: Option<WriteKey>) -> Self {
        let node = Member::join("node", None, key.clone()).await;
        let other = Member::join("other", Some(node.network.local().addr()), key).await;
        let pair = Self { node, other };
        while pair.bond().contains(&None) {
            tokio::task::yield_now().await;
        }
        pair
    }

    /// Lets an attacker of the node do what it can, in which it breaks the protocol so many times. The bond of the
    /// two stays as it is.
    async fn withstands<F: Future<Output = ()>>(
        &self,
        violations: u64,
        attack: impl FnOnce(Attacker) -> F,
    ) {
        let (before, counted) = (self.bond(), self.node.network.violations());
        attack(Attacker::new(&self.node).await).await;
        assert_eq!(self.bond(), before, "the other's bond is another");
        assert_eq!(self.node.network.violations(), counted + violations);
        assert_eq!(self.other.network.violations(), 0);
    }

    /// Since when the bond is there, at each end.
    fn bond(&self) -> [Option<Instant>; 2] {
        let (node, other) = (&self.node, &self.other);
        let (node_id, other_id) = (node.network.local().id(), other.network.local().id());
        [node.bonded_since(other_id), other.bonded_since(node_id)]
    }
}

/// Acts as a member by hand.
struct Attacker {
    endpoint: Arc<dyn Endpoint>,
    secret_key: SecretKey,
    target: PeerAddr,
    group: GroupId,
}

impl Attacker {
    async fn new(target: &Member) -> Self {
        // The node of the smaller id is the one that dials.
        let node = target.network.local().id();
        let keys = (0..).map(|i| SecretKey::from(format!("attacker {i}").as_str()));
        let mut above = keys.filter(|key| key.peer_id() > node);
        let secret_key = above.next().expect("ids are spread evenly");
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
            target: target.network.local().addr(),
            group: target.group,
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

    /// Waits for the node to dial, admits it, and takes the link that it opens.
    async fn accept(&self) -> Link {
        let accepted = self.endpoint.accept().await;
        let connection = accepted.expect("the endpoint is open");
        let stream = connection.accept().await.expect("the node says hello");
        let mut hello = Link::new(connection.clone(), stream);
        assert!(hello.hear().await.is_some(), "the node says hello");
        hello.say(&self::hello()).await;
        hello.send.finish();
        let stream = connection.accept().await.expect("the node opens a link");
        Link::new(connection, stream)
    }

    /// A frame with an offer in the node's group, as a member with `key` makes it for `link`.
    fn offer(&self, link: &Link, key: GroupKey) -> Bytes {
        self.offer_as(link, key, WriteAccess::Open)
    }

    /// The same, with a proof of a write key.
    fn offer_as(&self, link: &Link, key: GroupKey, access: WriteAccess) -> Bytes {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let mut bonds = Bonds::new(self.id(), Default::default(), rng);
        let (group, peer) = (self.group, self.target.id);
        let groups = BTreeSet::from([group]);
        let exported = link
            .connection
            .export_keying_material(GROUPS_EXPORTER_LABEL, b"");
        let now = Instant::from_nanos(1);
        for input in [
            Input::Joined { group, key, access },
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

    /// Waits until the node has bonded.
    async fn bonded(&mut self) {
        let frame = self.hear_of_group().await;
        let items = decode(&frame).expect("the node keeps to the protocol");
        assert!(
            items
                .iter()
                .any(|item| matches!(item, Item::Offer { reply: true, .. })),
            "{items:?}"
        );
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
    short_message(group, b"abc")
}

fn short_message(group: GroupId, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("it is short");
    assert!(len < 128, "longer ones have a longer length");
    frame(&[&[5], &group.as_bytes()[..], &[len], payload].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_and_then_closed() {
    let pair = Pair::new().await;
    pair.withstands(1, async |attacker: Attacker| {
        let mut link = attacker.link().await;
        let offer = attacker.offer(&link, WRONG_KEY);
        link.say(&offer).await;
        let refusal = (attacker.group, CloseCode::GROUP_NOT_PROVED);
        assert_eq!(link.refusal().await, refusal);
        link.say(&offer).await;
        assert_eq!(link.close_code().await, CloseCode::GROUP_NOT_PROVED);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_another_connection_is_refused() {
    let pair = Pair::new().await;
    pair.withstands(0, async |attacker: Attacker| {
        let mut first = attacker.link().await;
        let offer = attacker.offer(&first, KEY);
        first.say(&offer).await;
        first.bonded().await;
        let mut second = attacker.link().await;
        second.say(&offer).await;
        let refusal = (attacker.group, CloseCode::GROUP_NOT_PROVED);
        assert_eq!(second.refusal().await, refusal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_s_own_proof_is_refused() {
    let pair = Pair::new().await;
    let discovery = pair.node.network.discovery().clone();
    pair.withstands(0, async |attacker: Attacker| {
        let address = PeerAddr::new(attacker.id(), attacker.endpoint.addresses());
        let incarnation = None;
        let entry = PeerEntry::new(NetworkId::from("the network"), address)
            .with_group(attacker.group, GroupInfo { incarnation });
        discovery.insert(entry).await.expect("there is room");
        let mut link = attacker.accept().await;
        let offer = link.hear_of_group().await;
        link.say(&frame(&offer)).await;
        let refusal = (attacker.group, CloseCode::GROUP_NOT_PROVED);
        assert_eq!(link.refusal().await, refusal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_bond_closes_the_link() {
    let pair = Pair::new().await;
    pair.withstands(1, async |attacker: Attacker| {
        let mut link = attacker.link().await;
        link.say(&message(attacker.group)).await;
        assert_eq!(link.close_code().await, CloseCode::GROUP_NOT_BONDED);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_a_bonded_member_closes_its_link() {
    let pair = Pair::new().await;
    // Something that is no item, and an item whose payload is longer than its frame.
    for garbage in [&[0xee; 40][..], &[5; 34]] {
        pair.withstands(1, async |attacker: Attacker| {
            let mut link = attacker.link().await;
            let offer = attacker.offer(&link, KEY);
            link.say(&offer).await;
            link.bonded().await;
            link.say(&frame(garbage)).await;
            assert_eq!(link.close_code().await, CloseCode::PROTOCOL_VIOLATION);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bonded_member_that_does_not_speak_as_its_group_does_loses_its_link() {
    let pair = Pair::new().await;
    pair.withstands(1, async |attacker: Attacker| {
        let mut link = attacker.link().await;
        let offer = attacker.offer(&link, KEY);
        link.say(&offer).await;
        link.bonded().await;
        link.say(&message(attacker.group)).await;
        assert_eq!(link.close_code().await, CloseCode::PROTOCOL_VIOLATION);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_to_the_group_is_told_that_the_node_is_not_in_its() {
    let pair = Pair::new().await;
    pair.withstands(0, async |mut attacker: Attacker| {
        attacker.group = GroupId::from("another");
        let mut link = attacker.link().await;
        let offer = attacker.offer(&link, KEY);
        link.say(&offer).await;
        let refusal = (attacker.group, CloseCode::GROUP_NOT_MEMBER);
        assert_eq!(link.refusal().await, refusal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_proof_of_the_write_key_is_refused_and_then_closed() {
    let pair = Pair::with_write_key(Some(WRITE_KEY)).await;
    pair.withstands(1, async |attacker: Attacker| {
        let mut link = attacker.link().await;
        let offer = attacker.offer_as(&link, KEY, WriteAccess::Writer(WRONG_WRITE_KEY));
        link.say(&offer).await;
        let refusal = (attacker.group, CloseCode::GROUP_WRITE_NOT_PROVED);
        assert_eq!(link.refusal().await, refusal);
        link.say(&offer).await;
        assert_eq!(link.close_code().await, CloseCode::GROUP_WRITE_NOT_PROVED);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_the_write_key_of_another_connection_is_refused() {
    let pair = Pair::with_write_key(Some(WRITE_KEY)).await;
    pair.withstands(0, async |attacker: Attacker| {
        let mut first = attacker.link().await;
        let offer = attacker.offer_as(&first, KEY, WriteAccess::Writer(WRITE_KEY));
        first.say(&offer).await;
        first.bonded().await;
        // It proves the group's key anew, and has recorded the rest.
        let recorded = decode(&offer.slice(4..)).expect("it is a frame");
        let [Item::Offer { write, .. }] = recorded[..] else {
            panic!("{recorded:?}");
        };
        let signature = smalti_core::wire::encode(&write.expect("it may write"));
        let signature = signature.expect("a signature can be encoded");
        let mut second = attacker.link().await;
        let fresh = attacker.offer_as(&second, KEY, WriteAccess::Writer(WRITE_KEY));
        let body = &fresh[4..fresh.len() - signature.len()];
        second.say(&frame(&[body, &signature[..]].concat())).await;
        let refusal = (attacker.group, CloseCode::GROUP_WRITE_NOT_PROVED);
        assert_eq!(second.refusal().await, refusal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_the_write_key_that_speaks_as_a_writer_loses_its_link() {
    let pair = Pair::with_write_key(Some(WRITE_KEY)).await;
    pair.node.joined.when().online().await;
    let before = pair.node.joined.status();
    let candidacy = Candidacy {
        term: Term(1_000),
        last: Cursor::default(),
        transfer: true,
    };
    let append = Append {
        term: Term(1_000),
        previous: Cursor::default(),
        entries: Vec::new(),
        commit: Index(0),
        kept_from: Index(1),
        round: 1,
    };
    let batches = Vec::new();
    for message in [
        Message::OpenSession {
            run: Run::default(),
        },
        Message::Forward { batches },
        Message::RequestVote(candidacy),
        Message::Append(append),
        Message::Manifest(None),
    ] {
        pair.withstands(1, async |attacker: Attacker| {
            let mut link = attacker.link().await;
            let offer = attacker.offer(&link, KEY);
            link.say(&offer).await;
            link.bonded().await;
            let envelope = Envelope {
                from: Instance::from_bytes([9; 16]),
                run: Run::default(),
                to: None,
                incarnation: before.incarnation,
                message,
            };
            let payload = smalti_core::wire::encode(&envelope).expect("it can be encoded");
            link.say(&short_message(attacker.group, &payload)).await;
            assert_eq!(link.close_code().await, CloseCode::GROUP_NOT_WRITER);
        })
        .await;
    }
    let after = pair.node.joined.status();
    let gist = |status: &GroupStatus| (status.incarnation, status.term, status.leader);
    assert_eq!(gist(&after), gist(&before), "nobody was disturbed");
}

/// A node in the group. The only part that knows how groups are joined.
struct Member {
    network: Network,
    group: GroupId,
    joined: Group<NoOp>,
}

impl Member {
    async fn join(name: &str, bootstrap: Option<PeerAddr>, write_key: Option<WriteKey>) -> Self {
        // One of two members dials, not both: a bond that is made anew on the better of two links would look like
        // one that was disturbed.
        let bonds = BondsConfig {
            second_dial_delay: Duration::from_secs(3_600),
            ..BondsConfig::default()
        };
        let config = Config::builder().with_bootstrap(Vec::from_iter(bootstrap));
        let network = NetworkBuilder::new("the network")
            .with_addresses(loopback())
            .with_secret_key(SecretKey::from(name))
            .with_discovery(config)
            .with_groups(bonds)
            .build_on(Arc::new(QuicRuntime::new()))
            .await
            .expect("loopback can be listened on");
        let mut builder = network.groups().with_key(KEY);
        if let Some(key) = write_key {
            builder = builder.with_write_key(key);
        }
        let joined = builder.join().await.expect("the group can be joined");
        let group = joined.id();
        Self {
            network,
            group,
            joined,
        }
    }

    fn bonded_since(&self, peer: PeerId) -> Option<Instant> {
        let bonds = self.joined.bonds();
        let bond = bonds.iter().find(|bond| bond.peer == peer)?;
        match bond.state {
            BondState::Bonded { since } => Some(since),
            _ => None,
        }
    }
}
