//! Messages as bytes, and the exchange of catalogs in bytes.

use std::collections::VecDeque;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::context::Context;
use super::super::messages::{ListItem, Question};
use super::super::records::{PEERS_MAX, Records};
use super::super::sync::{Ended, OUTGOING_MAX, Sessions};
use super::super::*;
use super::laws::{entry, key, records};
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// Two catalogs and the session between them.
struct Pair {
    records: [Records; 2],
    sessions: [Sessions; 2],
    outputs: [VecDeque<Output>; 2],
    rng: ChaCha8Rng,
    bytes: usize,
    longest: usize,
    messages: usize,
}

const IDS: [SessionId; 2] = [SessionId::Outgoing(0), SessionId::Incoming(0)];

impl Pair {
    fn new(left: &[VerifiedEntry], right: &[VerifiedEntry]) -> Self {
        let filled = |entries: &[VerifiedEntry]| {
            let mut records = records(Instant::ZERO);
            for entry in entries {
                records.accept(Instant::ZERO, entry.clone(), 0).unwrap();
            }
            records
        };
        Self {
            records: [filled(left), filled(right)],
            sessions: [Sessions::new(), Sessions::new()],
            outputs: [VecDeque::new(), VecDeque::new()],
            rng: ChaCha8Rng::seed_from_u64(1),
            bytes: 0,
            longest: 0,
            messages: 0,
        }
    }

    fn with<T>(
        &mut self,
        side: usize,
        act: impl FnOnce(&mut Sessions, &mut Context<'_>) -> T,
    ) -> T {
        let mut ctx = Context {
            now: Instant::ZERO,
            rng: &mut self.rng,
            records: &self.records[side],
            outputs: &mut self.outputs[side],
        };
        act(&mut self.sessions[side], &mut ctx)
    }

    /// Runs one session over encoded messages; gives how it ended for who opened it.
    fn sync(&mut self) -> Ended {
        let peer = PeerAddr::new(PeerId::from_bytes([1; 32]), []);
        assert!(self.with(0, |sessions, ctx| sessions.open(
            ctx,
            peer,
            Some(RequestId(1))
        )));
        self.with(1, |sessions, ctx| {
            sessions.opened(ctx, IDS[1], PeerId::from_bytes([2; 32]));
        });
        let mut ended = [None, None];
        loop {
            let side = usize::from(self.outputs[0].is_empty());
            let Some(output) = self.outputs[side].pop_front() else {
                break;
            };
            let other = 1 - side;
            match output {
                Output::SyncSend { message, .. } => {
                    let wire = message.encode();
                    self.bytes += wire.len();
                    self.longest = self.longest.max(wire.len());
                    self.messages += 1;
                    let received =
                        SyncMessage::decode(&wire, self.records[other].catalog()).unwrap();
                    assert_eq!(received, message);
                    for record in &received.records {
                        let entry = record.entry.clone();
                        let _refused =
                            self.records[other].accept(Instant::ZERO, entry, record.age_ms);
                    }
                    let age = Duration::from_secs(5);
                    let end = self.with(other, |sessions, ctx| {
                        sessions.message(ctx, IDS[other], received, age)
                    });
                    ended[other] = ended[other].take().or(end);
                }
                Output::SyncClose { .. } => {
                    let end = self.sessions[other].closed(IDS[other], None);
                    ended[other] = ended[other].take().or(end);
                }
                Output::SyncOpen { .. } => {}
                output => panic!("{output:?}"),
            }
        }
        let [opener, other] = ended.map(|ended| ended.expect("the session ended"));
        assert!(other.failure.is_none(), "the other side did not end well");
        opener
    }

    fn contents(&self, side: usize) -> Vec<VerifiedEntry> {
        let records = self.records[side].catalog().records(&Range::ALL);
        records.map(|record| record.entry.clone()).collect()
    }
}

fn entries(range: std::ops::Range<u64>, sequence: u64) -> Vec<VerifiedEntry> {
    range
        .map(|index| entry(index, 0, sequence, 0, false))
        .collect()
}

#[test]
fn ten_differences_among_a_thousand_cost_less_than_40_kb() {
    let all = entries(0..1_000, 0);
    let size = all[0].wire_len();
    for (what, left, right) in [
        ("unknown here", all[..990].to_vec(), all.clone()),
        ("unknown there", all.clone(), all[10..].to_vec()),
        (
            "older here",
            all.clone(),
            [&all[..990], &entries(990..1_000, 1)].concat(),
        ),
        ("both", all[..995].to_vec(), all[5..].to_vec()),
    ] {
        let mut pair = Pair::new(&left, &right);
        assert!(pair.sync().failure.is_none());
        assert_eq!(pair.contents(0), pair.contents(1), "{what}");
        assert_eq!(pair.contents(0).len(), 1_000, "{what}");
        let overhead = pair.bytes - 10 * size;
        assert!(pair.bytes < 40_000, "{what}: {} bytes", pair.bytes);
        assert!(
            overhead < 16_000,
            "{what}: {overhead} bytes besides the entries"
        );
    }
}

#[test]
fn catalogs_that_agree_are_found_to_for_200_bytes() {
    let all = entries(0..1_000, 0);
    let mut pair = Pair::new(&all, &all);
    assert!(pair.sync().failure.is_none());
    assert!(pair.bytes < 200, "{} bytes", pair.bytes);
    assert_eq!(pair.messages, 2);
}

#[test]
fn a_joiner_gets_everything_for_little_more_than_its_size() {
    let all = entries(0..1_000, 0);
    let size: usize = all.iter().map(VerifiedEntry::wire_len).sum();
    for (left, right) in [(&[][..], &all[..]), (&all[..], &[][..])] {
        let mut pair = Pair::new(left, right);
        assert!(pair.sync().failure.is_none());
        assert_eq!(pair.contents(0), all_sorted(&all));
        assert_eq!(pair.contents(1), all_sorted(&all));
        assert!(
            pair.bytes < size + size / 20 + 200,
            "{} bytes for {size}",
            pair.bytes
        );
        assert!(
            pair.longest <= MESSAGE_BYTES_AIM + ENTRY_BYTES_MAX,
            "{} bytes",
            pair.longest
        );
    }
}

fn all_sorted(entries: &[VerifiedEntry]) -> Vec<VerifiedEntry> {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|entry| *entry.id());
    entries
}

#[test]
fn a_session_counts_what_broadcasts_have_missed() {
    let mut pair = Pair::new(&entries(0..4, 0), &entries(0..8, 0));
    pair.records[0].set_wall(
        Instant::ZERO,
        crate::time::WallTime::from_micros(u64::MAX / 2),
    );
    let ended = pair.sync();
    // All were made just now, so nothing says that a broadcast was lost.
    assert_eq!((ended.tally.missed, ended.request), (0, Some(RequestId(1))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_two_catalogs_come_to_their_join(
        common in 0..120u64,
        left in proptest::collection::vec((0..200u64, 0..3u64, 0..2u8, any::<bool>()), 0..40),
        right in proptest::collection::vec((0..200u64, 0..3u64, 0..2u8, any::<bool>()), 0..40),
    ) {
        let make = |list: &[(u64, u64, u8, bool)]| {
            let mut all = entries(0..common, 0);
            all.extend(list.iter().map(|(peer, sequence, variant, gone)| {
                entry(*peer, 0, *sequence, *variant, *gone)
            }));
            all
        };
        let (left, right) = (make(&left), make(&right));
        let mut join = records(Instant::ZERO);
        for entry in left.iter().chain(&right) {
            join.accept(Instant::ZERO, entry.clone(), 0).unwrap();
        }
        let mut pair = Pair::new(&left, &right);
        prop_assert!(pair.sync().failure.is_none());
        prop_assert_eq!(pair.contents(0), pair.contents(1));
        let join: Vec<_> = join.catalog().records(&Range::ALL).map(|r| r.entry.clone()).collect();
        prop_assert_eq!(pair.contents(0), join);
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let records = records(Instant::ZERO);
        let _error = Message::decode(&bytes, records.catalog());
        let _error = SyncMessage::decode(&bytes, records.catalog());
        if let Ok(signed) = postcard::from_bytes::<SignedPeerEntry>(&bytes) {
            prop_assert!(signed.verify().is_err());
        }
    }

    #[test]
    fn messages_with_a_changed_byte_are_no_reason_to_panic(
        which in any::<prop::sample::Index>(),
        position in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let records = records(Instant::ZERO);
        let all = messages();
        let mut wire = all[which.index(all.len())].encode().to_vec();
        let position = position.index(wire.len());
        wire[position] = value;
        let _error = Message::decode(&wire, records.catalog());
    }

    #[test]
    fn a_peer_that_says_anything_in_a_session_is_answered_or_closed(
        ranges in proptest::collection::vec((any::<[u8; 32]>(), 0..=64u8, 0..3u8, 0..20u32), 0..6)
    ) {
        let mut pair = Pair::new(&entries(0..50, 0), &[]);
        pair.with(0, |sessions, ctx| sessions.opened(ctx, IDS[1], PeerId::from_bytes([2; 32])));
        let questions = ranges.into_iter().map(|(bytes, nibbles, kind, count)| {
            let id = PeerId::from_bytes(bytes);
            let mut range = Range::ALL;
            for _ in 0..nibbles {
                range = range.part(range.part_of(&id) as u8).unwrap();
            }
            let mut fingerprint = Fingerprint::default();
            fingerprint.count = count;
            match kind {
                0 => Question::Whole { range, fingerprint },
                1 => Question::Split { range, parts: vec![fingerprint; count as usize] },
                _ => {
                    let id = EntryId { peer: id, version: EntryVersion::default() };
                    Question::List { range, items: vec![ListItem { id, digest: [0; 8] }; 1] }
                }
            }
        });
        let message = SyncMessage { questions: questions.collect(), ..SyncMessage::default() };
        let age = Duration::from_secs(5);
        let ended = pair.with(0, |sessions, ctx| sessions.message(ctx, IDS[1], message, age));
        prop_assert!(ended.is_some() || !pair.outputs[0].is_empty());
        pair.sessions[0].check_invariants();
    }
}

#[test]
fn ranges_that_overlap_break_the_protocol() {
    let mut pair = Pair::new(&entries(0..50, 0), &[]);
    pair.with(0, |sessions, ctx| {
        sessions.opened(ctx, IDS[1], PeerId::from_bytes([2; 32]));
    });
    let question = Question::Whole {
        range: Range::ALL,
        fingerprint: Fingerprint::default(),
    };
    let questions = vec![question.clone(), question];
    let message = SyncMessage {
        questions,
        ..SyncMessage::default()
    };
    let age = Duration::from_secs(5);
    let ended = pair.with(0, |sessions, ctx| {
        sessions.message(ctx, IDS[1], message, age)
    });
    assert!(ended.is_some_and(|ended| ended.failure.is_some()));
    assert_eq!(
        pair.outputs[0].pop_front(),
        Some(Output::SyncClose { session: IDS[1] })
    );
}

#[test]
fn a_turn_that_is_about_more_peers_than_there_may_be_breaks_the_protocol() {
    type Ask = fn(Range) -> Question;
    let kinds: [Ask; 2] = [
        |range| {
            let mut fingerprint = Fingerprint::default();
            fingerprint.count = 1;
            Question::Whole { range, fingerprint }
        },
        |range| {
            let version = EntryVersion::default();
            let id = EntryId {
                peer: range.first(),
                version,
            };
            let items = vec![ListItem { id, digest: [0; 8] }];
            Question::List { range, items }
        },
    ];
    for kind in kinds {
        let mut pair = Pair::new(&entries(0..50, 0), &[]);
        pair.with(0, |sessions, ctx| {
            sessions.opened(ctx, IDS[1], PeerId::from_bytes([2; 32]));
        });
        // A million ranges, which is sixteen times as many as there may be peers.
        let mut ranges = vec![Range::ALL];
        for _ in 0..5 {
            let parts = |range: &Range| (0..16).map(|n| range.part(n)).collect::<Vec<_>>();
            ranges = ranges.iter().flat_map(parts).flatten().collect();
        }
        let mut ranges = ranges.chunks(LIST_MAX);
        let asked = ranges.position(|ranges| {
            let message = SyncMessage {
                questions: ranges.iter().map(|range| kind(*range)).collect(),
                more: true,
                ..SyncMessage::default()
            };
            let age = Duration::from_secs(5);
            let ended = pair.with(0, |sessions, ctx| {
                sessions.message(ctx, IDS[1], message, age)
            });
            ended.is_some_and(|ended| ended.failure == Some(SyncFailure::Violation))
        });
        let most = PEERS_MAX / LIST_MAX;
        assert!(asked.is_some_and(|asked| asked <= most), "{asked:?}");
    }
}

#[test]
fn one_peer_does_not_take_the_sessions_of_all() {
    let mut pair = Pair::new(&[], &[]);
    let open = |pair: &mut Pair, number, peer| {
        let (id, peer) = (SessionId::Incoming(number), PeerId::from_bytes([peer; 32]));
        pair.with(0, |sessions, ctx| sessions.opened(ctx, id, peer));
        pair.sessions[0].peer(id) == Some(peer)
    };
    let taken = (0..1_000).filter(|n| open(&mut pair, *n, 1)).count();
    assert_eq!(taken, OUTGOING_MAX);
    assert_eq!(pair.outputs[0].len(), 1_000 - OUTGOING_MAX);
    assert!(open(&mut pair, 1_000, 2));
}

#[test]
fn a_silent_peer_does_not_keep_a_session() {
    let mut pair = Pair::new(&[], &[]);
    let peer = PeerAddr::new(PeerId::from_bytes([1; 32]), []);
    pair.with(0, |sessions, ctx| {
        sessions.open(ctx, peer, Some(RequestId(1)))
    });
    let deadline = pair.sessions[0].deadline();
    let ended = pair.with(0, |sessions, ctx| {
        ctx.now = deadline;
        (sessions.handle_timeout(ctx), sessions.handle_timeout(ctx))
    });
    assert!(ended.0.is_some_and(|ended| ended.failure.is_some()));
    assert_eq!(ended.1, None);
    assert_eq!(pair.sessions[0].deadline(), Instant::FAR_FUTURE);
}

fn messages() -> Vec<Message> {
    let peer = PeerAddr::new(key(1).peer_id(), [([10, 0, 0, 1], 1).into()]);
    let id = EntryId {
        peer: peer.id,
        version: EntryVersion::default(),
    };
    let records = vec![Aged {
        entry: entry(1, 2, 3, 4, false),
        age_ms: 5,
    }];
    vec![
        Message::Neighbor {
            priority: Priority::Join,
            sender: peer.clone(),
        },
        Message::NeighborReply {
            accepted: true,
            summary: Fingerprint::default(),
        },
        Message::Disconnect,
        Message::ForwardJoin {
            peer: peer.clone(),
            ttl: 6,
        },
        Message::Shuffle {
            path: vec![peer.id],
            ttl: 6,
            peers: vec![peer.clone()],
        },
        Message::ShuffleReply {
            path: vec![peer.id],
            peers: vec![peer.clone()],
        },
        Message::Gossip { records },
        Message::IHave {
            entries: vec![id; 3],
        },
        Message::Graft {
            peers: vec![peer.id],
        },
        Message::Prune,
    ]
}

#[test]
fn messages_round_trip() {
    let records = records(Instant::ZERO);
    for message in messages() {
        let wire = message.encode();
        assert_eq!(Message::decode(&wire, records.catalog()), Ok(message));
        let longer = [&wire[..], &[0]].concat();
        assert!(Message::decode(&longer, records.catalog()).is_err());
    }
}

#[test]
fn lists_and_messages_are_bounded() {
    let records = records(Instant::ZERO);
    let peers = vec![PeerId::from_bytes([1; 32]); LIST_MAX + 1];
    let wire = Message::Graft { peers }.encode();
    assert!(matches!(
        Message::decode(&wire, records.catalog()),
        Err(MessageError::Malformed(_))
    ));
    let wire = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(
        Message::decode(&wire, records.catalog()),
        Err(MessageError::TooLarge(MESSAGE_BYTES_MAX + 1))
    );
}

#[test]
fn an_entry_that_is_known_is_not_verified_again() {
    let known = entry(1, 0, 0, 0, false);
    // A wrong signature tells whether it was looked at.
    let mut wire = postcard::to_stdvec(&known).unwrap();
    *wire.last_mut().unwrap() ^= 1;
    let signed: SignedPeerEntry = postcard::from_bytes(&wire).unwrap();
    let mut records = records(Instant::ZERO);
    assert!(signed.verify_with(records.catalog()).is_err());
    records.accept(Instant::ZERO, known.clone(), 0).unwrap();
    assert_eq!(signed.verify_with(records.catalog()), Ok(known));
}
