//! The queue of a producer: each datum is encoded once, into a segment that all subscriptions share.
//!
//! Datums go to the end of an open segment. It is sealed, which makes it one `Bytes` that nobody writes to any
//! more, when it is full, or when a writer has nothing else to send: an idle producer's datum leaves at
//! once, and a busy one's leave by the segment. A sealed segment stays until every subscription has taken
//! it. The lock is taken once for each datum by who sends and once for each batch by each writer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::datum::{Datum, EncodeError};
use crate::protocol::streams::producer::SubscriptionId;
use crate::protocol::streams::segment::{DatumTooLarge, SEGMENT_LEN, SegmentWriter};
use crate::time::WallTime;

/// The most bytes in the queue, however few datums they are. One datum is always taken.
const QUEUE_BYTES_MAX: usize = 64 * 1_024 * 1_024;
/// What a writer takes at a time, in bytes: it stops at the segment that reaches this.
const BATCH_LEN: usize = 256 * 1_024;
/// Segments are cut from blocks of this many bytes, so that short ones do not take a block each.
const BLOCK_LEN: usize = 4 * SEGMENT_LEN;

/// Why a datum was not taken into the queue.
#[derive(Debug)]
pub(super) enum PushError {
    /// Nobody is there to send it to.
    Offline,
    /// No place is free.
    Full,
    /// The producer has ended.
    Closed,
    Encode(EncodeError),
    TooLarge(DatumTooLarge),
}

impl From<DatumTooLarge> for PushError {
    fn from(error: DatumTooLarge) -> Self {
        Self::TooLarge(error)
    }
}

/// What a writer gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was given segments that hold so many datums.
    Segments(u64),
    /// It has had all that there will ever be.
    End,
}

/// Whether a datum can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    Full,
    Offline,
    Closed,
}

pub(super) struct Fanout {
    state: Mutex<State>,
    /// The most datums in the queue.
    capacity: u64,
    /// Told when the queue becomes full, once until [`Fanout::examine`] finds that it is not.
    pub(super) full: Notify,
}

struct State {
    /// Ends with the open segment.
    block: BytesMut,
    open: Option<SegmentWriter>,
    sealed: VecDeque<Sealed>,
    /// The number of the first of `sealed`. Segments are numbered as they are sealed.
    first_sealed: u64,
    sealed_bytes: usize,
    /// The sequence number of the next datum.
    next: u64,
    /// The longest datum of late: how much to keep free for one.
    longest: usize,
    cursors: BTreeMap<SubscriptionId, Cursor>,
    /// How many cursors have a waker.
    idle: usize,
    /// Who waits for room, by handle.
    senders: BTreeMap<u64, Waker>,
    online: bool,
    closed: bool,
    full_told: bool,
}

struct Sealed {
    frame: Bytes,
    first: u64,
    count: u32,
    /// Subscriptions that have not taken it.
    missing: usize,
}

/// Where a subscription stands.
struct Cursor {
    /// The number of the segment that it takes next.
    segment: u64,
    /// The datums that it has taken.
    taken: u64,
    waker: Option<Waker>,
}

impl Fanout {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                block: BytesMut::new(),
                open: None,
                sealed: VecDeque::new(),
                first_sealed: 0,
                sealed_bytes: 0,
                next: 0,
                longest: 0,
                cursors: BTreeMap::new(),
                idle: 0,
                senders: BTreeMap::new(),
                online: false,
                closed: false,
                full_told: false,
            }),
            capacity: capacity.max(1) as u64,
            full: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a datum's encoding left behind when it panicked is cut off before the next is written, or the segment
        // sealed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes `datum` into the queue. `force` takes it although the queue is full, for a `Sink` that has
    /// found room before.
    pub(super) fn push<D: Datum>(
        &self,
        datum: &D,
        force: bool,
        wall: impl FnOnce() -> WallTime,
    ) -> Result<(), PushError> {
        let mut state = self.lock();
        match state.room(self.capacity) {
            Room::Closed => return Err(PushError::Closed),
            Room::Offline if !force => return Err(PushError::Offline),
            Room::Full if !force => {
                self.tell_full(&mut state);
                return Err(PushError::Full);
            }
            Room::Free | Room::Full | Room::Offline => {}
        }
        if state.cursors.is_empty() {
            // Sent to nobody, and missed by whoever comes later.
            state.next += 1;
            return Ok(());
        }
        state.append(datum, wall)?;
        let wakers = state.idle_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Says when a datum can be sent; `sender` names the handle that waits.
    pub(super) fn poll_room(&self, cx: &Context<'_>, sender: u64) -> Poll<Result<(), PushError>> {
        let mut state = self.lock();
        match state.room(self.capacity) {
            Room::Free => {
                state.senders.remove(&sender);
                return Poll::Ready(Ok(()));
            }
            Room::Closed => return Poll::Ready(Err(PushError::Closed)),
            Room::Full => self.tell_full(&mut state),
            Room::Offline => {}
        }
        state.senders.insert(sender, cx.waker().clone());
        Poll::Pending
    }

    /// Completes when all that was sent has been taken by the writers.
    pub(super) fn poll_empty(&self, cx: &Context<'_>, sender: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.queued() == 0 || state.closed && state.cursors.is_empty() {
            state.senders.remove(&sender);
            return Poll::Ready(());
        }
        state.senders.insert(sender, cx.waker().clone());
        Poll::Pending
    }

    /// Forgets the waker of a handle.
    pub(super) fn forget_sender(&self, sender: u64) {
        self.lock().senders.remove(&sender);
    }

    fn tell_full(&self, state: &mut State) {
        if !std::mem::replace(&mut state.full_told, true) {
            self.full.notify_one();
        }
    }

    /// Adds a subscription; gives the sequence number of the first datum that it will get.
    pub(super) fn subscribe(&self, id: SubscriptionId) -> u64 {
        let mut state = self.lock();
        state.seal();
        let segment = state.first_sealed + state.sealed.len() as u64;
        state.cursors.insert(
            id,
            Cursor {
                segment,
                taken: 0,
                waker: None,
            },
        );
        state.next
    }

    /// Removes a subscription. What it has not taken it will not get.
    pub(super) fn unsubscribe(&self, id: SubscriptionId) {
        let mut state = self.lock();
        let Some(cursor) = state.cursors.remove(&id) else {
            return;
        };
        state.idle -= usize::from(cursor.waker.is_some());
        let from = (cursor.segment - state.first_sealed) as usize;
        for segment in state.sealed.range_mut(from..) {
            segment.missing -= 1;
        }
        if state.cursors.is_empty() {
            state.abandon();
        }
        let wakers = state.release();
        drop(state);
        wakers.into_values().for_each(Waker::wake);
        if let Some(waker) = cursor.waker {
            waker.wake();
        }
    }

    /// Gives what is queued for subscription `id`, a batch at a time. Pending for ever once it is removed: that is
    /// no end, and who removes it tells its writer otherwise.
    pub(super) fn poll_take(
        &self,
        cx: &Context<'_>,
        id: SubscriptionId,
        frames: &mut Vec<Bytes>,
    ) -> Poll<Taken> {
        let mut state = self.lock();
        let end = state.first_sealed + state.sealed.len() as u64;
        match state.cursors.get(&id) {
            None => return Poll::Pending,
            Some(cursor) if cursor.segment == end => state.seal(),
            Some(_) => {}
        }
        let datums = state.take(id, frames);
        if datums > 0 {
            let wakers = state.release();
            drop(state);
            wakers.into_values().for_each(Waker::wake);
            return Poll::Ready(Taken::Segments(datums));
        }
        if state.closed {
            return Poll::Ready(Taken::End);
        }
        let cursor = state.cursors.get_mut(&id).expect("it was there above");
        if cursor.waker.replace(cx.waker().clone()).is_none() {
            state.idle += 1;
        }
        Poll::Pending
    }

    /// Whether the queue is full, and the subscriptions that its oldest datum waits for, with what each has taken.
    pub(super) fn examine(&self) -> (bool, Vec<(SubscriptionId, u64)>) {
        let mut state = self.lock();
        if state.room(self.capacity) != Room::Full {
            state.full_told = false;
            return (false, Vec::new());
        }
        let oldest = state.first_sealed;
        let waiting = state
            .cursors
            .iter()
            .filter(|(_, cursor)| cursor.segment == oldest);
        (
            true,
            waiting.map(|(&id, cursor)| (id, cursor.taken)).collect(),
        )
    }

    /// Sets whether datums are taken in although there may be nobody to send them to.
    pub(super) fn set_online(&self, online: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.online, online) == online {
            return;
        }
        let wakers = std::mem::take(&mut state.senders);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Takes in nothing more. What is queued can still be taken.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let senders = std::mem::take(&mut state.senders);
        let writers = state.idle_wakers();
        drop(state);
        senders.into_values().chain(writers).for_each(Waker::wake);
    }
}

impl State {
    fn room(&self, capacity: u64) -> Room {
        if self.closed {
            Room::Closed
        } else if !self.online {
            Room::Offline
        } else if self.queued() >= capacity || self.bytes() >= QUEUE_BYTES_MAX {
            Room::Full
        } else {
            Room::Free
        }
    }

    /// The datums that some subscription has not taken.
    fn queued(&self) -> u64 {
        let first = self.sealed.front().map(|segment| segment.first);
        let first = first.or_else(|| self.open.as_ref().map(SegmentWriter::first));
        first.map_or(0, |first| self.next - first)
    }

    fn bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, SegmentWriter::len);
        self.sealed_bytes + open
    }

    fn append<D: Datum>(
        &mut self,
        datum: &D,
        wall: impl FnOnce() -> WallTime,
    ) -> Result<(), PushError> {
        self.drop_if_cut();
        // Stays in its place while the datum is encoded: should that panic, the datums before it are as they were.
        let open = self.open.get_or_insert_with(|| {
            // Room for a segment and one more datum, so that writing seldom moves what is written.
            let needed = SEGMENT_LEN + self.longest;
            if self.block.capacity() - self.block.len() < needed {
                self.block = BytesMut::with_capacity(needed.max(BLOCK_LEN));
            }
            SegmentWriter::begin(&mut self.block, self.next, wall())
        });
        let before = open.len();
        let pushed = open.push(&mut self.block, |out| {
            datum.encode(out).map_err(PushError::Encode)
        });
        let len = open.len();
        if let Err(error) = pushed {
            if open.is_empty() {
                self.abandon();
            }
            return Err(error);
        }
        self.next += 1;
        // Falls slowly, so that one long datum does not take long blocks for ever.
        self.longest = (len - before).max(self.longest - self.longest / 64);
        if len >= SEGMENT_LEN {
            self.seal();
        }
        Ok(())
    }

    /// Drops the open segment if an encoding has cut off some of it, and panicked for that. Consumers find
    /// the hole in the sequence.
    fn drop_if_cut(&mut self) {
        if (self.open.as_ref()).is_some_and(|open| !open.is_whole(&self.block)) {
            self.abandon();
        }
    }

    fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            open.abandon(&mut self.block);
        }
    }

    /// Makes the open segment one that can be taken.
    fn seal(&mut self) {
        self.drop_if_cut();
        let Some(open) = self.open.take() else {
            return;
        };
        if open.is_empty() {
            // The encoding of what would have been its first datum has panicked.
            open.abandon(&mut self.block);
            return;
        }
        let (first, count) = (open.first(), open.count());
        open.seal(&mut self.block);
        let frame = self.block.split().freeze();
        self.sealed_bytes += frame.len();
        let missing = self.cursors.len();
        self.sealed.push_back(Sealed {
            frame,
            first,
            count,
            missing,
        });
    }

    /// Gives subscription `id` what is sealed, up to a batch, and the number of datums in it.
    fn take(&mut self, id: SubscriptionId, frames: &mut Vec<Bytes>) -> u64 {
        let Some(cursor) = self.cursors.get_mut(&id) else {
            return 0;
        };
        let before = cursor.taken;
        let from = (cursor.segment - self.first_sealed) as usize;
        let mut len = 0;
        for segment in self.sealed.range_mut(from..) {
            segment.missing -= 1;
            frames.push(segment.frame.clone());
            cursor.segment += 1;
            cursor.taken += u64::from(segment.count);
            len += segment.frame.len();
            if len >= BATCH_LEN {
                break;
            }
        }
        if cursor.waker.take().is_some() {
            self.idle -= 1;
        }
        cursor.taken - before
    }

    /// Drops what every subscription has taken. Gives those who wait for room, if there may be some.
    fn release(&mut self) -> BTreeMap<u64, Waker> {
        let mut released = false;
        while let Some(front) = self.sealed.front()
            && front.missing == 0
        {
            self.sealed_bytes -= front.frame.len();
            self.sealed.pop_front();
            self.first_sealed += 1;
            released = true;
        }
        if released || self.cursors.is_empty() {
            std::mem::take(&mut self.senders)
        } else {
            BTreeMap::new()
        }
    }

    fn idle_wakers(&mut self) -> Vec<Waker> {
        if self.idle == 0 {
            return Vec::new();
        }
        self.idle = 0;
        self.cursors
            .values_mut()
            .filter_map(|cursor| cursor.waker.take())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;
    use crate::datum::Raw;
    use crate::protocol::streams::segment::{DATUM_LEN_MAX, FRAME_LEN_MAX, Position, Segment};
    use crate::wire::FrameBuffer;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (wakes.clone(), wakes.into())
    }

    fn id(n: u64) -> SubscriptionId {
        SubscriptionId(n)
    }

    fn online(capacity: usize) -> Fanout {
        let fanout = Fanout::new(capacity);
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
        while let Poll::Ready(Taken::Segments(_)) = fanout.poll_take(&cx, id, &mut frames) {
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
        (0..4).for_each(|n| assert_eq!(fanout.subscribe(id(n)), 0));
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
        fanout.subscribe(id(0));
        let (wakes, waker) = counted();
        let mut frames = Vec::new();
        assert!(
            fanout
                .poll_take(&Context::from_waker(&waker), id(0), &mut frames)
                .is_pending()
        );
        (0..100).for_each(|_| push(&fanout, "x").unwrap());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(take(&fanout, id(0)).len(), 100);
    }

    #[test]
    fn the_slowest_consumer_fills_the_queue_and_its_leaving_frees_it() {
        let fanout = online(3);
        fanout.subscribe(id(0));
        fanout.subscribe(id(1));
        (0..3).for_each(|_| push(&fanout, "x").unwrap());
        assert!(matches!(push(&fanout, "x"), Err(PushError::Full)));
        assert_eq!(take(&fanout, id(0)).len(), 3);
        assert!(matches!(push(&fanout, "x"), Err(PushError::Full)));
        assert_eq!(fanout.examine(), (true, vec![(id(1), 0)]));
        let (wakes, waker) = counted();
        assert!(
            fanout
                .poll_room(&Context::from_waker(&waker), 0)
                .is_pending()
        );
        fanout.unsubscribe(id(1));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(fanout.examine(), (false, vec![]));
        push(&fanout, "x").unwrap();
        assert_eq!(take(&fanout, id(0)), [(3, Bytes::from_static(b"x"))]);
    }

    #[test]
    fn bytes_fill_the_queue_too() {
        let fanout = online(1_000);
        fanout.subscribe(id(0));
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
        let fanout = Fanout::new(10);
        assert!(matches!(push(&fanout, "x"), Err(PushError::Offline)));
        fanout.set_online(true);
        (0..100).for_each(|_| push(&fanout, "x").unwrap());
        // Whoever comes then sees by the sequence what there was.
        assert_eq!(fanout.subscribe(id(0)), 100);
        push(&fanout, "y").unwrap();
        assert_eq!(take(&fanout, id(0)), [(100, Bytes::from_static(b"y"))]);
    }

    #[test]
    fn what_is_queued_can_be_taken_after_the_end() {
        let fanout = online(10);
        fanout.subscribe(id(0));
        push(&fanout, "x").unwrap();
        fanout.close();
        assert!(matches!(push(&fanout, "y"), Err(PushError::Closed)));
        let cx = Context::from_waker(Waker::noop());
        let mut frames = Vec::new();
        assert_eq!(
            fanout.poll_take(&cx, id(0), &mut frames),
            Poll::Ready(Taken::Segments(1))
        );
        assert_eq!(
            fanout.poll_take(&cx, id(0), &mut frames),
            Poll::Ready(Taken::End)
        );
    }

    #[test]
    fn what_is_cut_off_has_no_end() {
        let fanout = online(10);
        fanout.subscribe(id(0));
        push(&fanout, "x").unwrap();
        fanout.close();
        fanout.unsubscribe(id(0));
        let cx = Context::from_waker(Waker::noop());
        let mut frames = Vec::new();
        assert!(fanout.poll_take(&cx, id(0), &mut frames).is_pending());
        assert!(frames.is_empty());
    }

    #[test]
    fn a_datum_that_cannot_be_encoded_leaves_no_trace() {
        let fanout = online(10);
        fanout.subscribe(id(0));
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
        fanout.subscribe(id(0));
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
            fanout.subscribe(id(0));
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
                            prop_assert_eq!(fanout.subscribe(id(n)), sent);
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
}
