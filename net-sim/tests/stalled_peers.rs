//! A node faces peers that do not read any more: it gives them up, in time, and what it says to them last
//! is not lost by what they say.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "applications keep time by tokio, whose clock is simulated"
)]

use std::error::Error;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smalti_core::PeerId;
use smalti_core::discovery::{Config, PeerAddr, SignedPeerEntry};
use smalti_core::id::{Instance, NetworkId, Tag};
use smalti_core::protocol::discovery::{MESSAGE_BYTES_MAX, Message, Priority};
use smalti_core::runtime::{
    Alpn, BiStream, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, StreamError,
};
use smalti_core::wire::{
    FrameBuffer, HELLO_LEN_MAX, Hello, WIRE_VERSIONS, append_frame, decode, encode_frame,
};
use smalti_sim::{AppResult, Simulation};
use tokio::time::{Instant, sleep, timeout};

const GOSSIP: Alpn = Alpn::new("/smalti/gossip/1");
const CATALOG: Alpn = Alpn::new("/smalti/catalog/1");

/// How long a node lets a link take that it has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What goes to the node and back, and what it does in between, takes no longer.
const A_MOMENT: Duration = Duration::from_millis(500);
/// Many more messages of the node's own entry than windows, buffers and queues hold.
const FLOOD: usize = 1_800;
/// Messages of it that fill the windows and buffers, but not the queue behind them.
const ALL_THAT_IS_BETWEEN: usize = 250;
/// Later than the end of every test.
const NEVER: Duration = Duration::from_secs(100_000);

type Failure = Box<dyn Error + Send + Sync>;
type Received = Message<SignedPeerEntry>;

/// Runs a node beside a peer that `behave` acts for by hand. The node's entry is some kilobytes long, and
/// it leaves the network after `leaves_after`.
fn against_node<F>(leaves_after: Duration, behave: impl Fn(Peer) -> F + Copy + 'static)
where
    F: Future<Output = AppResult> + 'static,
{
    let tags = (0..128).map(|number: u32| Tag::from(format!("tag {number}").as_str()));
    let config = Config::builder()
        .with_tags(tags.collect::<Vec<_>>())
        .with_graceful_departure_window(Duration::from_secs(20));
    let simulation = Simulation::new(1).service_with(
        "node",
        move |builder| builder.with_discovery(config.clone()),
        move |network| async move {
            sleep(leaves_after).await;
            network.shutdown().await;
            std::future::pending().await
        },
    );
    let node = PeerAddr::new(simulation.peer_id("node"), simulation.address("node"));
    let own = simulation.secret_key("peer");
    simulation
        .host_on_runtime("peer", move |runtime| {
            let (own, node) = (own.clone(), node.clone());
            async move {
                let config = EndpointConfig {
                    secret_key: own.clone(),
                    addresses: vec![],
                    protocols: vec![GOSSIP, CATALOG],
                };
                let endpoint = runtime.bind(config).await?;
                let id = own.peer_id();
                behave(Peer { endpoint, id, node }).await
            }
        })
        .run()
        .expect("the node does as it should");
}

/// A peer that speaks with the node by hand.
struct Peer {
    endpoint: Arc<dyn Endpoint>,
    id: PeerId,
    node: PeerAddr,
}

impl Peer {
    /// Dials the node for `protocol` and is admitted.
    async fn enter(&self, protocol: Alpn) -> Result<Arc<dyn Connection>, Failure> {
        let (node, addresses) = (self.node.id, self.node.addresses.clone());
        let connection = self.endpoint.dial(node, addresses, protocol).await?;
        let hello = Hello {
            network: NetworkId::from("simulation"),
            versions: WIRE_VERSIONS,
            instance: Instance::from_bytes([9; 16]),
            proof: None,
        };
        let mut frame = BytesMut::new();
        encode_frame(&hello, HELLO_LEN_MAX, &mut frame)?;
        let mut stream = Stream::from(connection.open().await?);
        write(&mut stream.send, frame.freeze()).await?;
        stream.next().await?.ok_or("the node says hello")?;
        Ok(connection)
    }

    /// Opens a gossip link and becomes a neighbour of the node.
    async fn become_neighbour(&self) -> Result<(Arc<dyn Connection>, Stream), Failure> {
        let connection = self.enter(GOSSIP).await?;
        let mut link = Stream::from(connection.open().await?);
        let priority = Priority::High;
        let sender = PeerAddr::new(self.id, self.endpoint.addresses());
        link.say(&Message::Neighbor { priority, sender }).await?;
        loop {
            let frame = link.next().await?.ok_or("the node answers")?;
            if let Received::NeighborReply { accepted, .. } = decode(&frame)? {
                assert!(accepted);
                return Ok((connection, link));
            }
        }
    }
}

/// A stream of frames.
struct Stream {
    send: Box<dyn SendStream>,
    recv: Box<dyn RecvStream>,
    frames: FrameBuffer,
}

impl From<BiStream> for Stream {
    fn from((send, recv): BiStream) -> Self {
        let frames = FrameBuffer::new(MESSAGE_BYTES_MAX);
        Self { send, recv, frames }
    }
}

impl Stream {
    async fn say(&mut self, message: &Message) -> Result<(), StreamError> {
        self.write_frame(&message.encode()).await
    }

    /// Asks for entries in a session.
    async fn want(&mut self, peers: &[PeerId]) -> Result<(), StreamError> {
        // Questions, wants, records, and whether the turn goes on.
        let turn = ([(); 0].as_slice(), peers, [(); 0].as_slice(), false);
        let message = postcard::to_stdvec(&turn).expect("it has no unserializable part");
        self.write_frame(&message).await
    }

    async fn write_frame(&mut self, message: &[u8]) -> Result<(), StreamError> {
        let mut frame = BytesMut::new();
        append_frame(message, MESSAGE_BYTES_MAX, &mut frame).expect("a message fits");
        write(&mut self.send, frame.freeze()).await
    }

    /// The next frame, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let mut chunks = Vec::new();
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(Some(frame));
            }
            let read = poll_fn(|cx| self.recv.poll_read(cx, &mut chunks, 65_536));
            if read.await?.is_none() {
                return Ok(None);
            }
            chunks.drain(..).for_each(|chunk| self.frames.push(chunk));
        }
    }

    /// Completes when the node has let go of the stream, without reading anything; gives how long that
    /// took.
    async fn abandoned(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let stopped = poll_fn(|cx| self.send.poll_stopped(cx));
        let code = timeout(Duration::from_secs(60), stopped).await??;
        code.ok_or("the node lets go of a stream that is not finished")?;
        Ok(begun.elapsed())
    }
}

async fn write(send: &mut Box<dyn SendStream>, bytes: Bytes) -> Result<(), StreamError> {
    let mut chunk = [bytes];
    while !chunk[0].is_empty() {
        poll_fn(|cx| send.poll_write(cx, &mut chunk)).await?;
    }
    Ok(())
}

#[test]
fn a_neighbour_that_stops_reading_is_one_no_longer_and_its_link_ends() {
    against_node(NEVER, |peer| async move {
        let (connection, mut link) = peer.become_neighbour().await?;
        let peers = vec![peer.node.id];
        for _ in 0..FLOOD {
            let peers = peers.clone();
            link.say(&Message::Graft { peers }).await?;
        }
        // The node has lost its only neighbour, so it looks for one: it knows but this.
        let again = timeout(CLOSE_TIMEOUT, connection.accept()).await??;
        let frame = Stream::from(again).next().await?.ok_or("the node asks")?;
        assert!(matches!(decode(&frame)?, Received::Neighbor { .. }));
        let taken = link.abandoned().await?;
        assert!(taken <= CLOSE_TIMEOUT + A_MOMENT, "it took {taken:?}");
        Ok(())
    });
}

#[test]
fn a_link_that_the_node_has_closed_ends_though_the_peer_does_not_read() {
    against_node(NEVER, |peer| async move {
        let (_connection, mut link) = peer.become_neighbour().await?;
        for _ in 0..ALL_THAT_IS_BETWEEN {
            let peers = vec![peer.node.id];
            link.say(&Message::Graft { peers }).await?;
        }
        sleep(A_MOMENT).await;
        link.say(&Message::Disconnect).await?;
        let taken = link.abandoned().await?;
        // The node has something to send until then, so it gives the peer its time.
        let expected = CLOSE_TIMEOUT..CLOSE_TIMEOUT + A_MOMENT;
        assert!(expected.contains(&taken), "it took {taken:?}");
        Ok(())
    });
}

#[test]
fn a_session_whose_peer_stops_reading_ends() {
    against_node(NEVER, |peer| async move {
        let connection = peer.enter(CATALOG).await?;
        let mut session = Stream::from(connection.open().await?);
        for _ in 0..FLOOD {
            session.want(&[peer.node.id]).await?;
        }
        let taken = session.abandoned().await?;
        let expected = CLOSE_TIMEOUT..CLOSE_TIMEOUT + A_MOMENT;
        assert!(expected.contains(&taken), "it took {taken:?}");
        Ok(())
    });
}

#[test]
fn a_session_that_the_node_has_closed_ends_though_the_peer_does_not_read() {
    against_node(NEVER, |peer| async move {
        let connection = peer.enter(CATALOG).await?;
        let mut session = Stream::from(connection.open().await?);
        session.want(&[peer.node.id; ALL_THAT_IS_BETWEEN]).await?;
        sleep(A_MOMENT).await;
        // Nothing asked and nothing given is the end of a session.
        session.want(&[]).await?;
        let taken = session.abandoned().await?;
        let expected = CLOSE_TIMEOUT..CLOSE_TIMEOUT + A_MOMENT;
        assert!(expected.contains(&taken), "it took {taken:?}");
        Ok(())
    });
}

#[test]
fn a_departure_arrives_though_the_neighbour_reads_late_and_speaks_on() {
    let leaves_after = Duration::from_secs(5);
    against_node(leaves_after, move |peer| async move {
        let begun = Instant::now();
        let (_connection, mut link) = peer.become_neighbour().await?;
        for _ in 0..ALL_THAT_IS_BETWEEN {
            let peers = vec![peer.node.id];
            link.say(&Message::Graft { peers }).await?;
        }
        // The departure has to wait behind what the node has said before.
        while begun.elapsed() < leaves_after + Duration::from_secs(2) {
            link.say(&Message::Prune).await?;
            sleep(Duration::from_millis(1)).await;
        }
        let mut last = None;
        while let Some(frame) = link.next().await? {
            if let Received::Gossip { records } = decode(&frame)? {
                last = records.into_iter().next_back();
            }
        }
        let last = last.ok_or("the node has said something")?.entry.verify()?;
        assert!(last.is_departed(), "the last that was heard is {last:?}");
        Ok(())
    });
}
