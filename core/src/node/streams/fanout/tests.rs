use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::datum::Raw;
use crate::node::streams::wakes::counted;
use crate::protocol::streams::segment::{FRAME_LEN_MAX, Position, SEGMENT_LEN, Segment};
use crate::wire::FrameBuffer;

fn id(n: u64) -> SubscriptionId {
    SubscriptionId(n)
}

fn online(capacity: usize) -> Fanout {
    let fanout = Fanout::new(capacity, SEGMENT_LEN, false);
    fanout.set_online(true);
    fanout
}

fn push(fanout: &Fanout, datum: impl Into<Bytes>) -> Result<(), PushError> {
    fanout.push(&Raw(datum.into()), false, WallTime::default)
}

/// All that is queued for `id` now: sequence numbers and datums.
fn take(fanout: &Fanout, id: SubscriptionId) -> Vec<(u64, Bytes)> {
    let cx = Context::from_waker(Waker::noop());
    let mut datums = Vec::new();
    let mut frames = Vec::new();
    while let Poll::Ready(Taken::Segments(_)) = fanout.poll_take(&cx, id, BATCH_LEN, &mut frames) {
        let mut buffer = FrameBuffer::new(FRAME_LEN_MAX);
        frames.drain(..).for_each(|frame| buffer.push(frame));
        while let Some(frame) = buffer.next_frame().unwrap() {
            let mut segment = Segment::parse(frame).unwrap();
            datums.extend(std::iter::from_fn(|| segment.take()));
        }
    }
    datums
}

#[test]
fn datums_are_encoded_once_whatever_the_number_of_consumers() {
    struct Counting(Arc<AtomicUsize>);
    impl Datum for Counting {
        fn schema() -> crate::id::Digest {
            crate::id::Digest::of("counting", &[])
        }
        fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            out.extend_from_slice(b"x");
            Ok(())
        }
        fn decode(_: Bytes) -> Result<Self, crate::datum::DecodeError> {
            Err(crate::datum::DecodeError::custom("never decoded here"))
        }
    }
    let encoded = Arc::new(AtomicUsize::new(0));
    let fanout = online(1_000);
    (0..4).for_each(|n| assert_eq!(fanout.subscribe(id(n), None), 0));
    for _ in 0..100 {
        fanout
            .push(&Counting(encoded.clone()), false, WallTime::default)
            .unwrap();
    }
    let first = take(&fanout, id(0));
    assert_eq!(first.len(), 100);
    for n in 1..4 {
        let other = take(&fanout, id(n));
        assert_eq!(other, first);
        // The same bytes, not equal ones.
        assert_eq!(other[0].1.as_ptr(), first[0].1.as_ptr());
    }
    assert_eq!(encoded.load(Ordering::Relaxed), 100);
}

#[test]
fn an_idle_writer_is_woken_once_for_many_datums() {
    let fanout = online(1_000);
    fanout.subscribe(id(0), None);
    let (wakes, waker) = counted();
    let mut frames = Vec::new();
    assert!(
        fanout
            .poll_take(&Context::from_waker(&waker), id(0), BATCH_LEN, &mut frames)
            .is_pending()
    );
    (0..100).for_each(|_| push(&fanout, "x").unwrap());
    assert_eq!(wakes.count(), 1);
    assert_eq!(take(&fanout, id(0)).len(), 100);
}

#[test]
fn the_slowest_consumer_fills_the_queue_and_its_leaving_frees_it() {
    let fanout = online(3);
    fanout.subscribe(id(0), None);
    fanout.subscribe(id(1), None);
    (0..3).for_each(|_| push(&fanout, "x").unwrap());
    assert!(matches!(push(&fanout, "x"), Err(PushError::Full)));
    assert_eq!(take(&fanout, id(0)).len(), 3);
    assert!(matches!(push(&fanout, "x"), Err(PushError::Full)));
    assert_eq!(fanout.examine(), (true, vec![id(1)]));
    let (wakes, waker) = counted();
    assert!(
        fanout
            .poll_room(&Context::from_waker(&waker), 0)
            .is_pending()
    );
    fanout.unsubscribe(id(1));
    assert_eq!(wakes.count(), 1);
    assert_eq!(fanout.examine(), (false, vec![]));
    push(&fanout, "x").unwrap();
    assert_eq!(take(&fanout, id(0)), [(3, Bytes::from_static(b"x"))]);
}

#[test]
fn bytes_fill_the_queue_too() {
    let fanout = online(1_000);
    fanout.subscribe(id(0), None);
    let long = Bytes::from(vec![7; DATUM_LEN_MAX]);
    let mut taken = 0;
    while push(&fanout, long.clone()).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, QUEUE_BYTES_MAX / DATUM_LEN_MAX);
    assert_eq!(take(&fanout, id(0)).len(), taken);
}

#[test]
fn without_consumers_datums_are_refused_or_by_wish_sent_to_nobody() {
    let fanout = Fanout::new(10, SEGMENT_LEN, false);
    assert!(matches!(push(&fanout, "x"), Err(PushError::Offline)));
    fanout.set_online(true);
    (0..100).for_each(|_| push(&fanout, "x").unwrap());
    // Whoever comes then sees by the sequence what there was.
    assert_eq!(fanout.subscribe(id(0), None), 100);
    push(&fanout, "y").unwrap();
    assert_eq!(take(&fanout, id(0)), [(100, Bytes::from_static(b"y"))]);
}

#[test]
fn what_is_queued_can_be_taken_after_the_end() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    push(&fanout, "x").unwrap();
    fanout.close();
    assert!(matches!(push(&fanout, "y"), Err(PushError::Closed)));
    let cx = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    assert_eq!(
        fanout.poll_take(&cx, id(0), BATCH_LEN, &mut frames),
        Poll::Ready(Taken::Segments(1))
    );
    assert_eq!(
        fanout.poll_take(&cx, id(0), BATCH_LEN, &mut frames),
        Poll::Ready(Taken::End)
    );
}

#[test]
fn what_is_cut_off_has_no_end() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    push(&fanout, "x").unwrap();
    fanout.close();
    fanout.unsubscribe(id(0));
    let cx = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    assert!(
        fanout
            .poll_take(&cx, id(0), BATCH_LEN, &mut frames)
            .is_pending()
    );
    assert!(frames.is_empty());
}

#[test]
fn a_datum_that_cannot_be_encoded_leaves_no_trace() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    for _ in 0..2 {
        let too_long = push(&fanout, vec![0; DATUM_LEN_MAX + 1]);
        assert!(matches!(too_long, Err(PushError::TooLarge(_))));
        push(&fanout, "x").unwrap();
    }
    let sequences: Vec<u64> = take(&fanout, id(0)).into_iter().map(|(n, _)| n).collect();
    assert_eq!(sequences, [0, 1]);
}

/// Its encoding goes wrong, and leaves something behind.
enum Bomb {
    Appends,
    CutsOff,
}

impl Datum for Bomb {
    fn schema() -> crate::id::Digest {
        crate::id::Digest::of("bomb", &[])
    }
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Appends => {
                out.extend_from_slice(b"junk");
                panic!("an encoding has a bug");
            }
            Self::CutsOff => {
                out.clear();
                Ok(())
            }
        }
    }
    fn decode(_: Bytes) -> Result<Self, crate::datum::DecodeError> {
        Err(crate::datum::DecodeError::custom("never decoded here"))
    }
}

fn push_that_panics(fanout: &Fanout, bomb: &Bomb) {
    let pushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        fanout.push(bomb, false, WallTime::default)
    }));
    assert!(pushed.is_err());
}

#[test]
fn an_encoding_that_panics_harms_no_other_datum() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    // As the first of a segment, also where the next to happen is a writer, and within one.
    push_that_panics(&fanout, &Bomb::Appends);
    assert_eq!(take(&fanout, id(0)), []);
    push_that_panics(&fanout, &Bomb::Appends);
    push(&fanout, "one").unwrap();
    push_that_panics(&fanout, &Bomb::Appends);
    push(&fanout, "two").unwrap();
    push_that_panics(&fanout, &Bomb::Appends);
    let expected = [
        (0, Bytes::from_static(b"one")),
        (1, Bytes::from_static(b"two")),
    ];
    assert_eq!(take(&fanout, id(0)), expected);
    assert_eq!(fanout.examine(), (false, vec![]));
}

#[test]
fn an_encoding_that_cuts_off_other_datums_leaves_a_hole_and_no_damage() {
    for pushes_between in [0, 1] {
        let fanout = online(10);
        fanout.subscribe(id(0), None);
        push(&fanout, "lost").unwrap();
        push_that_panics(&fanout, &Bomb::CutsOff);
        (0..pushes_between).for_each(|_| push(&fanout, "x").unwrap());
        let taken = take(&fanout, id(0));
        assert_eq!(taken.len(), pushes_between);
        push(&fanout, "y").unwrap();
        let next = 1 + pushes_between as u64;
        assert_eq!(take(&fanout, id(0)), [(next, Bytes::from_static(b"y"))]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Take(u64),
    Subscribe(u64),
    Unsubscribe(u64),
}

proptest! {
    /// Each subscription gets every datum sent while it was there, in order, and the queue never holds
    /// more than it may.
    #[test]
    fn every_subscription_gets_all_in_order(steps in prop::collection::vec(
        prop_oneof![
            6 => prop_oneof![0..100usize, 10_000..80_000usize].prop_map(Step::Push),
            3 => (0..4u64).prop_map(Step::Take),
            1 => (0..4u64).prop_map(Step::Subscribe),
            1 => (0..4u64).prop_map(Step::Unsubscribe),
        ],
        0..120,
    )) {
        let fanout = online(16);
        let mut sent = 0;
        let mut positions: BTreeMap<u64, Position> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Push(len) => {
                    let behind = positions.values().map(|position| sent - position.next()).max();
                    let pushed = push(&fanout, vec![sent as u8; len]);
                    prop_assert_eq!(pushed.is_ok(), behind.unwrap_or(0) < 16);
                    sent += u64::from(pushed.is_ok());
                }
                Step::Take(n) => {
                    if let Some(position) = positions.get_mut(&n) {
                        for (sequence, datum) in take(&fanout, id(n)) {
                            prop_assert_eq!(position.advance(sequence, 1), Ok(0));
                            prop_assert!(datum.iter().all(|byte| *byte == sequence as u8));
                        }
                        prop_assert_eq!(position.next(), sent);
                    }
                }
                Step::Subscribe(n) => {
                    if let std::collections::btree_map::Entry::Vacant(vacant) = positions.entry(n) {
                        prop_assert_eq!(fanout.subscribe(id(n), None), sent);
                        vacant.insert(Position::new(sent));
                    }
                }
                Step::Unsubscribe(n) => {
                    fanout.unsubscribe(id(n));
                    positions.remove(&n);
                }
            }
        }
    }
}

fn wants(prefix: &str) -> Option<Criteria> {
    Some(Criteria::field("").starts_with(prefix))
}

type Datums = Vec<(u64, Bytes)>;
type Covered = Vec<(u64, u64)>;

/// As [`take`], of a subscription with criteria; with the sequence numbers that each segment covers.
fn take_selected(fanout: &Fanout, id: SubscriptionId) -> (Datums, Covered) {
    let (mut datums, mut covered) = (Vec::new(), Vec::new());
    for mut segment in take_segments(fanout, id) {
        covered.push((segment.first(), segment.end()));
        datums.extend(std::iter::from_fn(|| segment.take()));
    }
    (datums, covered)
}

/// All segments that are queued now for a subscription with criteria.
fn take_segments(fanout: &Fanout, id: SubscriptionId) -> Vec<Segment> {
    let cx = Context::from_waker(Waker::noop());
    let (mut segments, mut frames) = (Vec::new(), Vec::new());
    while let Poll::Ready(Taken::Segments(_)) = fanout.poll_take(&cx, id, BATCH_LEN, &mut frames) {
        let mut buffer = FrameBuffer::new(FRAME_LEN_MAX);
        frames.drain(..).for_each(|frame| buffer.push(frame));
        while let Some(frame) = buffer.next_frame().unwrap() {
            segments.push(Segment::parse_selected(frame).unwrap());
        }
    }
    segments
}

#[test]
fn criteria_choose_and_what_they_pass_over_leaves_no_hole() {
    let fanout = online(1_000);
    fanout.subscribe(id(0), wants("a"));
    for datum in ["a0", "b1", "b2", "a3"] {
        push(&fanout, datum).unwrap();
    }
    let chosen = |n: u64, datum: &'static str| (n, Bytes::from_static(datum.as_bytes()));
    let (datums, covered) = take_selected(&fanout, id(0));
    assert_eq!(datums, [chosen(0, "a0"), chosen(3, "a3")]);
    assert_eq!(covered, [(0, 4)]);
    // Nothing is taken in, nor is anybody woken, for what nobody wants.
    let (wakes, waker) = counted();
    let cx = Context::from_waker(&waker);
    let mut frames = Vec::new();
    assert!(
        fanout
            .poll_take(&cx, id(0), BATCH_LEN, &mut frames)
            .is_pending()
    );
    (4..2_000).for_each(|_| push(&fanout, "b").unwrap());
    assert_eq!(wakes.count(), 0);
    // Who comes later shares the segments from then on.
    assert_eq!(fanout.subscribe(id(1), wants("a")), 2_000);
    push(&fanout, "a2000").unwrap();
    assert_eq!(wakes.count(), 1);
    for n in 0..2 {
        let (datums, covered) = take_selected(&fanout, id(n));
        assert_eq!(datums, [chosen(2_000, "a2000")]);
        // It begins where the first one stands: a later beginning would be a gap to it.
        assert_eq!(covered, [(4, 2_001)]);
    }
}

proptest! {
    /// Those who share a lane come and go, and none ever sees a gap, nor misses a datum that its criteria choose.
    #[test]
    fn who_comes_to_a_shared_lane_makes_no_gap_for_who_is_there(steps in prop::collection::vec(
        prop_oneof![
            6 => (0..3usize).prop_map(Step::Push),
            3 => (0..3u64).prop_map(Step::Take),
            2 => (0..3u64).prop_map(Step::Subscribe),
            1 => (0..3u64).prop_map(Step::Unsubscribe),
        ],
        0..120,
    )) {
        let fanout = online(1_000);
        let (mut sent, mut chosen) = (0, Vec::new());
        let mut positions: BTreeMap<u64, (Position, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Push(n) => {
                    let is_chosen = n == 0;
                    push(&fanout, if is_chosen { "a" } else { "b" }).unwrap();
                    chosen.extend(is_chosen.then_some(sent));
                    sent += 1;
                }
                Step::Take(n) => {
                    if let Some((position, from)) = positions.get_mut(&n) {
                        let mut taken = Vec::new();
                        for mut segment in take_segments(&fanout, id(n)) {
                            prop_assert_eq!(position.advance_over(&segment), Ok(0));
                            taken.extend(std::iter::from_fn(|| segment.take()).map(|(n, _)| n));
                        }
                        let due: Vec<u64> = chosen.iter().copied().filter(|n| n >= from).collect();
                        prop_assert_eq!(taken, due);
                        *from = sent;
                    }
                }
                Step::Subscribe(n) => {
                    if let std::collections::btree_map::Entry::Vacant(vacant) = positions.entry(n) {
                        prop_assert_eq!(fanout.subscribe(id(n), wants("a")), sent);
                        vacant.insert((Position::new(sent), sent));
                    }
                }
                Step::Unsubscribe(n) => {
                    fanout.unsubscribe(id(n));
                    positions.remove(&n);
                }
            }
        }
    }
}

#[test]
fn a_datum_is_encoded_once_for_all_criteria_and_never_for_none() {
    struct Counting(Arc<AtomicUsize>, u64);
    impl Datum for Counting {
        fn schema() -> crate::id::Digest {
            crate::id::Digest::of("counting", &[])
        }
        fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            out.extend_from_slice(&self.1.to_le_bytes());
            Ok(())
        }
        fn decode(_: Bytes) -> Result<Self, crate::datum::DecodeError> {
            Err(crate::datum::DecodeError::custom("never decoded here"))
        }
        fn is_wanted(&self, criteria: &Criteria) -> bool {
            criteria.selects(&self.1)
        }
    }
    let fanout = online(1_000);
    fanout.subscribe(id(0), Some(Criteria::field("").below(10)));
    fanout.subscribe(id(1), Some(Criteria::field("").below(5)));
    let encoded = Arc::new(AtomicUsize::new(0));
    for n in 0..100 {
        let datum = Counting(encoded.clone(), n);
        fanout.push(&datum, false, WallTime::default).unwrap();
    }
    assert_eq!(encoded.load(Ordering::Relaxed), 10);
    assert_eq!(take_selected(&fanout, id(0)).0.len(), 10);
    assert_eq!(take_selected(&fanout, id(1)).0.len(), 5);
}

#[test]
fn the_longest_lane_fills_the_queue_and_only_who_holds_it_up_is_waited_for() {
    let fanout = online(3);
    fanout.subscribe(id(0), None);
    fanout.subscribe(id(1), wants("a"));
    push(&fanout, "a").unwrap();
    assert_eq!(take(&fanout, id(0)).len(), 1);
    for _ in 0..2 {
        push(&fanout, "a").unwrap();
        assert_eq!(take(&fanout, id(0)).len(), 1);
    }
    assert!(matches!(push(&fanout, "b"), Err(PushError::Full)));
    assert_eq!(fanout.examine(), (true, vec![id(1)]));
    assert_eq!(take_selected(&fanout, id(1)).0.len(), 3);
    push(&fanout, "b").unwrap();
    assert_eq!(take_selected(&fanout, id(1)).0.len(), 0);
}

#[test]
fn who_leaves_gets_what_was_there_and_its_end() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    fanout.subscribe(id(1), None);
    push(&fanout, "x").unwrap();
    fanout.finish(id(0));
    push(&fanout, "y").unwrap();
    assert_eq!(take(&fanout, id(0)), [(0, Bytes::from_static(b"x"))]);
    let cx = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    assert_eq!(
        fanout.poll_take(&cx, id(0), BATCH_LEN, &mut frames),
        Poll::Ready(Taken::End)
    );
    // Also when the others have taken more than it will, and it is gone by then.
    assert_eq!(take(&fanout, id(1)).len(), 2);
    assert_eq!(take(&fanout, id(0)), []);
    fanout.unsubscribe(id(0));
    // The last one who takes anything leaves, and comes again.
    let (wakes, waker) = counted();
    let idle = Context::from_waker(&waker);
    assert!(
        fanout
            .poll_take(&idle, id(1), BATCH_LEN, &mut frames)
            .is_pending()
    );
    fanout.finish(id(1));
    assert_eq!(wakes.count(), 1);
    push(&fanout, "to nobody").unwrap();
    assert_eq!(fanout.subscribe(id(2), None), 3);
    push(&fanout, "z").unwrap();
    fanout.unsubscribe(id(1));
    assert_eq!(take(&fanout, id(2)), [(3, Bytes::from_static(b"z"))]);
}

#[test]
fn long_bytes_are_sent_without_a_copy() {
    let fanout = online(10);
    fanout.subscribe(id(0), None);
    fanout.subscribe(id(1), wants(""));
    let long = Bytes::from(vec![7; APART_LEN_MIN]);
    push(&fanout, "short").unwrap();
    push(&fanout, long.clone()).unwrap();
    let cx = Context::from_waker(Waker::noop());
    for n in 0..2 {
        let mut frames = Vec::new();
        let taken = fanout.poll_take(&cx, id(n), BATCH_LEN, &mut frames);
        assert_eq!(taken, Poll::Ready(Taken::Segments(2)));
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1].as_ptr(), long.as_ptr());
    }
}

fn undelivered(fanout: &Fanout) -> Vec<Bytes> {
    let cx = Context::from_waker(Waker::noop());
    let next = || match fanout.poll_undelivered(&cx) {
        Poll::Ready(datum) => datum,
        Poll::Pending => None,
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn what_nobody_takes_is_kept_for_who_asks_for_it() {
    let fanout = Fanout::new(4, SEGMENT_LEN, true);
    fanout.set_online(true);
    push(&fanout, "before").unwrap();
    fanout.subscribe(id(0), wants("a"));
    fanout.subscribe(id(1), wants("ab"));
    for datum in ["a1", "ab", "c"] {
        push(&fanout, datum).unwrap();
    }
    assert_eq!(undelivered(&fanout), ["before", "c"]);
    // What one has taken is not undelivered when another leaves without it, nor is what another may still take.
    assert_eq!(take_selected(&fanout, id(1)).0.len(), 1);
    push(&fanout, "abc").unwrap();
    fanout.unsubscribe(id(0));
    assert_eq!(undelivered(&fanout), ["a1"]);
    fanout.unsubscribe(id(1));
    assert_eq!(undelivered(&fanout), ["abc"]);
    // It fills the queue like anything else.
    for datum in ["1", "2", "3", "4"] {
        push(&fanout, datum).unwrap();
    }
    assert!(matches!(push(&fanout, "5"), Err(PushError::Full)));
    fanout.close();
    assert_eq!(undelivered(&fanout), ["1", "2", "3", "4"]);
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(fanout.poll_undelivered(&cx), Poll::Ready(None));
}
