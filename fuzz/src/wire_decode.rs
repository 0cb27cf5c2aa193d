//! Arbitrary bytes into every decoder that bytes from the network reach.
//!
//! No decoder panics, and what decodes encodes to bytes that decode to the same value. The first byte of
//! the input chooses the decoder, the rest is decoded.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smalti_core::id::{
    Digest, GroupId, Instance, NetworkId, PeerId, SecretKey, StreamId, Tag, UniqueId,
};
use smalti_core::protocol::discovery::{
    Aged, Catalog, EntryId, Fingerprint, Message, PeerAddr, PeerEntry, Priority, SignedPeerEntry,
    StreamInfo, SyncMessage, VerifiedEntry,
};
use smalti_core::protocol::raft::{
    self, Batch, Charter, CommandsBuilder, Entry, Envelope, Incarnation, Index, Member, Payload,
    Run, Sequence, SessionId, Term,
};
use smalti_core::protocol::streams::segment::{DatumTooLarge, Position, Segment, SegmentWriter};
use smalti_core::protocol::streams::{
    Accepted, ConsumerNumber, Criteria, Refusal, Reply, Subscribe,
};
use smalti_core::runtime::Side;
use smalti_core::time::WallTime;
use smalti_core::wire::{
    FRAME_HEADER_LEN, FrameBuffer, FrameError, Hello, HelloContext, NetworkSecret, WIRE_VERSIONS,
    append_frame, decode, encode,
};

use crate::script::Script;
use crate::{Body, Seed};

/// The decoders, in the order of the byte that chooses them.
const DECODERS: [(&str, Body); 10] = [
    ("frames", frames),
    ("hello", hello),
    ("message", message),
    ("sync-message", sync_message),
    ("entry", entry),
    ("text", text),
    ("subscribe", subscribe),
    ("reply", reply),
    ("segment", segment),
    ("envelope", envelope),
];

/// The body of the target.
///
/// # Panics
/// Where a decoder breaks what is promised of it.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let (_, decoder) = DECODERS[script.below(DECODERS.len())];
    decoder(script.rest());
}

/// What decodes encodes to what decodes to the same.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = decode(bytes).ok()?;
    let encoded = encode(&value).expect("what was decoded can be encoded");
    assert_eq!(decode::<T>(&encoded).as_ref(), Ok(&value));
    Some(value)
}

/// What is parsed is shown as text that parses to the same.
fn round_trip_text<T: FromStr + ToString + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        assert_eq!(shown.parse::<T>().ok(), Some(value), "from {shown:?}");
    }
}

/// The frames do not depend on the chunks in which their bytes arrive, and are made of those bytes.
fn frames(input: &[u8]) {
    let mut script = Script::new(input);
    let len_max = 1 << script.below(8);
    let chunk_len_max = 1 + script.below(16);
    let stream = Bytes::copy_from_slice(script.rest());
    let mut whole = FrameBuffer::new(len_max);
    whole.push(stream.clone());
    let (expected, end) = drain(&mut whole);

    let mut chunked = FrameBuffer::new(len_max);
    let (mut frames, mut chunked_end) = (Vec::new(), Ok(()));
    let mut left = stream.clone();
    while !left.is_empty() && chunked_end.is_ok() {
        // The lengths of the chunks follow from the bytes too, so that no input is needed for them.
        let len = 1 + usize::from(left[0]) % chunk_len_max;
        chunked.push(left.split_to(len.min(left.len())));
        let (more, now) = drain(&mut chunked);
        frames.extend(more);
        chunked_end = now;
    }
    assert_eq!((&frames, &chunked_end), (&expected, &end));

    let mut encoded = BytesMut::new();
    for frame in &frames {
        append_frame(frame, len_max, &mut encoded).expect("it was within the limit");
    }
    assert!(stream.starts_with(&encoded));
    if end.is_ok() {
        assert_eq!(whole.is_empty(), encoded.len() == stream.len());
    }
}

fn drain(buffer: &mut FrameBuffer) -> (Vec<Bytes>, Result<(), FrameError>) {
    let mut frames = Vec::new();
    loop {
        match buffer.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

fn hello(input: &[u8]) {
    let Some(hello) = round_trip::<Hello>(input) else {
        return;
    };
    for side in [Side::Dialer, Side::Acceptor] {
        let open = hello.judge(side, &CONTEXT, None);
        let closed = hello.judge(side, &CONTEXT, Some(&SECRET));
        assert!(
            open.is_err() || closed.is_err(),
            "a hello fits an open network and a closed one"
        );
    }
}

fn message(input: &[u8]) {
    round_trip::<Message<SignedPeerEntry>>(input);
    let catalog = Catalog::default();
    if let Ok(message) = Message::decode(input, &catalog) {
        let decoded = Message::decode(&message.encode(), &catalog);
        assert_eq!(decoded, Ok(message));
    }
}

fn sync_message(input: &[u8]) {
    round_trip::<SyncMessage<SignedPeerEntry>>(input);
    let catalog = Catalog::default();
    if let Ok(message) = SyncMessage::decode(input, &catalog) {
        let decoded = SyncMessage::decode(&message.encode(), &catalog);
        assert_eq!(decoded, Ok(message));
    }
}

fn entry(input: &[u8]) {
    round_trip::<PeerEntry>(input);
    let Some(signed) = round_trip::<SignedPeerEntry>(input) else {
        return;
    };
    if let Ok(verified) = signed.verify() {
        assert_eq!(verified.signed(), &signed);
        assert_eq!(signed.verify_with(&Catalog::default()), Ok(verified));
    }
}

/// Criteria are evaluated, as a producer does.
fn subscribe(input: &[u8]) {
    let Some(subscribe) = round_trip::<Subscribe>(input) else {
        return;
    };
    if let Some(criteria) = subscribe.criteria {
        // Whatever they choose.
        let _ = criteria.selects(&(7, "text", [Some(true), None]));
        let _ = criteria.selects_bytes(input);
    }
}

fn reply(input: &[u8]) {
    round_trip::<Reply>(input);
}

/// What members of a group say to each other; commands are looked into, as whoever applies them does.
fn envelope(input: &[u8]) {
    let Some(envelope) = round_trip::<Envelope>(input) else {
        return;
    };
    let batches = match envelope.message {
        raft::Message::Forward { batches } => batches,
        raft::Message::Append(raft::Append { entries, .. })
        | raft::Message::Fetched { entries, .. } => {
            let payloads = entries.into_iter().map(|entry| entry.payload);
            let batches = payloads.filter_map(|payload| match payload {
                Payload::Commands(batch) => Some(batch),
                _ => None,
            });
            batches.collect()
        }
        _ => return,
    };
    for batch in batches {
        let count = batch.commands.count() as usize;
        let read = batch.commands.iter().count();
        assert!(read <= count);
        assert!(read == count || !batch.commands.is_well_formed());
        assert!(batch.last() >= batch.first || batch.commands.is_empty());
    }
}

/// A segment has one encoding, so that writing its datums anew gives its bytes.
fn segment(input: &[u8]) {
    selected_segment(input);
    let Ok(segment) = Segment::parse(Bytes::copy_from_slice(input)) else {
        return;
    };
    let (first, count) = (segment.next_sequence(), segment.left());
    let mut written = BytesMut::new();
    let mut writer = SegmentWriter::begin(&mut written, first, segment.at());
    let mut left = segment;
    let mut position = Position::new(first);
    while let Some((sequence, datum)) = left.take() {
        assert_eq!(position.advance(sequence, 1), Ok(0), "a datum is missing");
        let pushed: Result<(), DatumTooLarge> = writer.push(&mut written, |out| {
            out.extend_from_slice(&datum);
            Ok(())
        });
        assert_eq!(pushed, Ok(()));
    }
    assert!(left.is_empty());
    assert_eq!(writer.count(), count);
    writer.seal(&mut written);
    assert_eq!(&written[FRAME_HEADER_LEN..], input);
}

/// The same of a segment that passes over datums.
fn selected_segment(input: &[u8]) {
    let Ok(mut left) = Segment::parse_selected(Bytes::copy_from_slice(input)) else {
        return;
    };
    let (first, end) = (left.first(), left.end());
    let mut position = Position::new(first);
    assert_eq!(position.advance_over(&left), Ok(0), "nothing is missing");
    assert_eq!(position.next(), end);
    let mut written = BytesMut::new();
    let mut writer = SegmentWriter::begin_selected(&mut written, first, left.at());
    while let Some((sequence, datum)) = left.take() {
        let pushed: Result<(), DatumTooLarge> = writer.push_at(&mut written, sequence, |out| {
            out.extend_from_slice(&datum);
            Ok(())
        });
        assert_eq!(pushed, Ok(()));
    }
    assert_eq!(writer.next(), end);
    writer.seal(&mut written);
    assert_eq!(&written[FRAME_HEADER_LEN..], input);
}

fn text(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    round_trip_text::<PeerAddr>(&text);
    round_trip_text::<PeerId>(&text);
    round_trip_text::<StreamId>(&text);
    round_trip_text::<Digest>(&text);
}

const CONTEXT: HelloContext = HelloContext {
    network: NetworkId::named("fuzz"),
    exporter: [7; 32],
    dialer: PeerId::from_bytes([1; 32]),
    acceptor: PeerId::from_bytes([2; 32]),
};

static SECRET: LazyLock<NetworkSecret> =
    LazyLock::new(|| NetworkSecret::new("secret", CONTEXT.network));

/// What real nodes say, for each decoder.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| {
        let kind = |(decoder, _): &(&str, Body)| name.starts_with(decoder);
        let selector = DECODERS.iter().position(kind).expect("a decoder's name");
        let mut input = vec![selector as u8];
        input.extend_from_slice(bytes);
        seeds.push((name.to_owned(), input));
    };

    let key = SecretKey::from("fuzz peer");
    let address = PeerAddr::new(
        key.peer_id(),
        ["10.0.0.1:4433", "[2001:db8::1]:4433"].map(|text| text.parse().expect("an address")),
    );
    let stream = StreamInfo {
        schema: Digest::of("seed", &[]),
    };
    let content = PeerEntry::new(CONTEXT.network, address.clone())
        .with_tags(["matcher", "eu"].map(Tag::from))
        .with_stream(StreamId::from("orders"), stream);
    let verified = VerifiedEntry::sign(content.clone(), &key).expect("it is within bounds");

    let mut wire = BytesMut::new();
    for message in [&b"first"[..], b"", b"second"] {
        append_frame(message, 16, &mut wire).expect("it is short");
    }
    let mut framed = vec![4, 4];
    framed.extend_from_slice(&wire);
    add("frames-three", &framed);
    add("frames-too-long", &[2, 0, 0xff, 0xff, 0xff, 0xff]);

    for (name, proof) in [
        ("hello-open", None),
        ("hello-closed", Some(SECRET.prove(Side::Dialer, &CONTEXT))),
    ] {
        let hello = Hello {
            network: CONTEXT.network,
            versions: WIRE_VERSIONS,
            instance: Instance::from_bytes([3; 16]),
            proof,
        };
        add(name, &encode(&hello).expect("a hello can be encoded"));
    }

    for (name, message) in messages(&address, &verified) {
        add(&format!("message-{name}"), &message.encode());
    }
    for (i, message) in crate::catalog_merge::session().iter().enumerate() {
        add(&format!("sync-message-{i}"), &message.encode());
    }
    add("entry-signed", &encode(&verified).expect("it is an entry"));
    add("entry-content", &encode(&content).expect("it is an entry"));
    add("text-address", address.to_string().as_bytes());

    let subscribe = Subscribe {
        stream: StreamId::from("orders"),
        schema: stream.schema,
        consumer: ConsumerNumber(1),
        criteria: None,
    };
    add("subscribe", &encode(&subscribe).expect("it can be encoded"));
    let urgent = Criteria::field("tags").is("urgent") | Criteria::field("2.price").above(1.5);
    let selective = Subscribe {
        criteria: Some(urgent & !Criteria::field("1").starts_with("old")),
        ..subscribe
    };
    add(
        "subscribe-criteria",
        &encode(&selective).expect("it can be encoded"),
    );
    for (name, reply) in replies(stream.schema) {
        add(name, &encode(&reply).expect("it can be encoded"));
    }
    let mut frame = BytesMut::new();
    let mut writer = SegmentWriter::begin(&mut frame, 7, WallTime::from_micros(1));
    for datum in [&b"first"[..], b"", b"third"] {
        let pushed: Result<(), DatumTooLarge> = writer.push(&mut frame, |out| {
            out.extend_from_slice(datum);
            Ok(())
        });
        pushed.expect("it is short");
    }
    writer.seal(&mut frame);
    add("segment", &frame[FRAME_HEADER_LEN..]);
    let mut frame = BytesMut::new();
    let mut writer = SegmentWriter::begin_selected(&mut frame, 7, WallTime::from_micros(1));
    for (sequence, datum) in [(9, &b"first"[..]), (10, b""), (1 << 40, b"third")] {
        let pushed: Result<(), DatumTooLarge> = writer.push_at(&mut frame, sequence, |out| {
            out.extend_from_slice(datum);
            Ok(())
        });
        pushed.expect("it is short");
    }
    writer.seal(&mut frame);
    add("segment-selected", &frame[FRAME_HEADER_LEN..]);
    for (name, message) in envelopes(key.peer_id()) {
        let envelope = Envelope {
            from: Instance::from_bytes([3; 16]),
            run: Run { boot: 1, id: 2 },
            to: Some(Instance::from_bytes([4; 16])),
            incarnation: Some(Incarnation(Digest::of("seed", &[]))),
            message,
        };
        let encoded = encode(&envelope).expect("it can be encoded");
        add(&format!("envelope-{name}"), &encoded);
    }
    seeds
}

fn envelopes(peer: PeerId) -> Vec<(&'static str, raft::Message)> {
    let member = Member {
        peer,
        instance: Instance::from_bytes([4; 16]),
    };
    let position = raft::Position {
        term: Term(2),
        index: Index(3),
    };
    let mut commands = CommandsBuilder::default();
    commands.push(b"one");
    commands.push_given_up();
    let batch = Batch {
        session: SessionId(Index(2)),
        first: Sequence(1),
        acked_through: Sequence::ZERO,
        commands: commands.take(),
    };
    let entry = Entry {
        term: Term(2),
        index: Index(4),
        payload: Payload::Commands(batch.clone()),
    };
    let charter = Charter {
        group: GroupId::named("fuzz"),
        nonce: [7; 32],
        founder: member,
        voters: vec![member],
        expected: 0,
        parent: None,
    };
    vec![
        (
            "append",
            raft::Message::Append(raft::Append {
                term: Term(2),
                previous: position,
                entries: vec![entry],
                commit: Index(3),
                kept_from: Index(1),
                round: 9,
            }),
        ),
        (
            "forward",
            raft::Message::Forward {
                batches: vec![batch],
            },
        ),
        ("founding", raft::Message::Founding(Box::new(charter))),
        (
            "meeting",
            raft::Message::Meeting(raft::Meeting::Offer(raft::Offer {
                from: Incarnation(Digest::of("fuzz", &[b"from"])),
                to: Incarnation(Digest::of("fuzz", &[b"to"])),
                at: position,
                weight: raft::Weight {
                    is_established: true,
                    commands: 5,
                },
            })),
        ),
        (
            "chunk",
            raft::Message::Chunk {
                position,
                number: 0,
                bytes: Some(Bytes::from_static(b"state")),
            },
        ),
    ]
}

fn replies(schema: Digest) -> Vec<(&'static str, Reply)> {
    let accepted = Accepted {
        instance: UniqueId::from("life"),
        first: 7,
    };
    let differs = Refusal::SchemaDiffers {
        producer: schema,
        consumer: Digest::of("another", &[]),
    };
    vec![
        ("reply-accepted", Reply::Accepted(accepted)),
        ("reply-waiting", Reply::Waiting { max: 16 }),
        ("reply-unknown", Reply::Refused(Refusal::UnknownStream)),
        ("reply-schema", Reply::Refused(differs)),
        (
            "reply-capacity",
            Reply::Refused(Refusal::NoCapacity { max: 16 }),
        ),
    ]
}

fn messages(address: &PeerAddr, entry: &VerifiedEntry) -> Vec<(&'static str, Message)> {
    let peers = vec![address.clone()];
    let path = vec![address.id];
    let id = EntryId {
        peer: address.id,
        version: entry.version(),
    };
    let record = Aged {
        entry: entry.clone(),
        age_ms: 1_500,
    };
    vec![
        (
            "neighbor",
            Message::Neighbor {
                priority: Priority::Join,
                sender: address.clone(),
            },
        ),
        (
            "neighbor-reply",
            Message::NeighborReply {
                accepted: true,
                summary: Fingerprint::default(),
            },
        ),
        ("disconnect", Message::Disconnect),
        (
            "forward-join",
            Message::ForwardJoin {
                peer: address.clone(),
                ttl: 3,
            },
        ),
        (
            "shuffle",
            Message::Shuffle {
                path: path.clone(),
                ttl: 3,
                peers: peers.clone(),
            },
        ),
        ("shuffle-reply", Message::ShuffleReply { path, peers }),
        (
            "gossip",
            Message::Gossip {
                records: vec![record],
            },
        ),
        ("i-have", Message::IHave { entries: vec![id] }),
        (
            "graft",
            Message::Graft {
                peers: vec![address.id],
            },
        ),
        ("prune", Message::Prune),
    ]
}
