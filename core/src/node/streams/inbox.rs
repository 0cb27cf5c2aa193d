//! The queue of a consumer: segments of all its producers, in the order of their arrival.
//!
//! Who reads from a producer waits here while the queue is full, in turn with others, so that the connection's flow
//! control holds the producer back. Datums are decoded when the application takes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::reader::Subscription;
use crate::protocol::streams::Accepted;
use crate::protocol::streams::consumer::{AttemptId, Span};
use crate::protocol::streams::segment::Segment;

/// The most bytes in the queue, however few datums they are. One segment is always taken.
const INBOX_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// A segment, and who has sent it.
pub(super) struct Delivery {
    pub(super) segment: Segment,
    pub(super) from: Arc<Subscription>,
}

pub(super) struct Inbox {
    state: Mutex<State>,
    /// The datums above which nothing more is taken in.
    capacity: u64,
}

#[derive(Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    datums: u64,
    bytes: usize,
    application: Option<Waker>,
    /// Subscriptions that put in datums, and what of each producer's sequence they have put in.
    spans: BTreeMap<AttemptId, Span>,
    /// Those of them that have sent what cannot be decoded, and are about to end for it.
    rejected: BTreeSet<AttemptId>,
    /// Who waits for room, the first to come first. Room is given in turn: a producer that always has more to send
    /// would else take it from the others, who hold them to be too slow.
    readers: VecDeque<(AttemptId, Waker)>,
    closed: bool,
}

impl State {
    const fn has_room(&self, capacity: u64) -> bool {
        self.datums < capacity && self.bytes < INBOX_BYTES_MAX
    }

    /// Keeps a place for who waits, the one it has already where it has one.
    fn wait(&mut self, attempt: AttemptId, cx: &Context<'_>) {
        match self.readers.iter_mut().find(|(of, _)| *of == attempt) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => self.readers.push_back((attempt, cx.waker().clone())),
        }
    }

    /// Whether nobody waits before `attempt`.
    fn is_turn_of(&self, attempt: AttemptId) -> bool {
        self.readers
            .front()
            .is_none_or(|(first, _)| *first == attempt)
    }

    /// Gives up the place of `attempt`.
    fn leave(&mut self, attempt: AttemptId) -> Option<Waker> {
        let place = self.readers.iter().position(|(of, _)| *of == attempt)?;
        self.readers.remove(place).map(|(_, waker)| waker)
    }

    /// Who is to be woken after any change: nobody else is until it has taken its turn, or given it up.
    fn next_reader(&self, capacity: u64) -> Option<Waker> {
        let (_, waker) = self.readers.front()?;
        self.has_room(capacity).then(|| waker.clone())
    }
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            capacity: capacity.max(1) as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole when the lock is released, also by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a subscription put in datums.
    pub(super) fn begin(&self, attempt: AttemptId, accepted: Accepted) {
        let next = accepted.first;
        self.lock().spans.insert(attempt, Span { accepted, next });
    }

    /// Takes in nothing more of a subscription; gives what it has put in, where it had begun.
    pub(super) fn end(&self, attempt: AttemptId) -> Option<Span> {
        let mut state = self.lock();
        let left = state.leave(attempt);
        state.rejected.remove(&attempt);
        let span = state.spans.remove(&attempt);
        // It may have been its turn.
        let next = state.next_reader(self.capacity);
        drop(state);
        drop(left);
        next.into_iter().for_each(Waker::wake);
        span
    }

    /// Drops what is there of a subscription, and takes in nothing more of it; gives the number of datums dropped. Its
    /// place in the sequence stays behind them.
    pub(super) fn reject(&self, attempt: AttemptId) -> u64 {
        let mut state = self.lock();
        if state.spans.contains_key(&attempt) {
            state.rejected.insert(attempt);
        }
        let (mut datums, mut bytes) = (0, 0);
        state.deliveries.retain(|delivery| {
            let keep = delivery.from.attempt != attempt;
            if !keep {
                datums += u64::from(delivery.segment.left());
                bytes += delivery.segment.len();
            }
            keep
        });
        state.datums -= datums;
        state.bytes -= bytes;
        // It finds that it is not wanted; who comes next finds that there is room.
        let left = state.leave(attempt);
        let next = state.next_reader(self.capacity);
        drop(state);
        left.into_iter().chain(next).for_each(Waker::wake);
        datums
    }

    /// Puts in what `delivery` holds, once there is room. What comes of a subscription that has ended, or is
    /// rejected, is dropped.
    pub(super) fn poll_push(
        &self,
        cx: &Context<'_>,
        attempt: AttemptId,
        delivery: &mut Option<Delivery>,
    ) -> Poll<()> {
        let mut state = self.lock();
        let wanted = state.spans.contains_key(&attempt) && !state.rejected.contains(&attempt);
        if state.closed || !wanted {
            *delivery = None;
            return Poll::Ready(());
        }
        if !state.is_turn_of(attempt) || !state.has_room(self.capacity) {
            state.wait(attempt, cx);
            return Poll::Pending;
        }
        let Some(delivery) = delivery.take() else {
            return Poll::Ready(());
        };
        let datums = u64::from(delivery.segment.left());
        if let Some(span) = state.spans.get_mut(&attempt) {
            span.next = delivery.segment.end();
        }
        state.datums += datums;
        state.bytes += delivery.segment.len();
        state.deliveries.push_back(delivery);
        let application = state.application.take();
        let served = state.leave(attempt);
        let next = state.next_reader(self.capacity);
        drop(state);
        drop(served);
        application.into_iter().chain(next).for_each(Waker::wake);
        Poll::Ready(())
    }

    /// The oldest segment; `None` once the consumer is closed and all has been taken.
    pub(super) fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<Delivery>> {
        let mut state = self.lock();
        let Some(delivery) = state.deliveries.pop_front() else {
            if state.closed {
                return Poll::Ready(None);
            }
            state.application = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.datums -= u64::from(delivery.segment.left());
        state.bytes -= delivery.segment.len();
        let next = state.next_reader(self.capacity);
        drop(state);
        next.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(delivery))
    }

    /// Takes in nothing more. What is there can still be taken.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let readers = std::mem::take(&mut state.readers);
        let application = state.application.take();
        drop(state);
        let readers = readers.into_iter().map(|(_, waker)| waker);
        readers.chain(application).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::id::PeerId;
    use crate::node::streams::wakes::counted;
    use crate::protocol::streams::ProducerInstance;
    use crate::protocol::streams::segment::{DatumTooLarge, SegmentWriter};
    use crate::time::WallTime;
    use crate::wire::FRAME_HEADER_LEN;

    const ATTEMPT: AttemptId = AttemptId(0);

    fn accepted(first: u64) -> Accepted {
        let instance = ProducerInstance::from_bytes([0; 32]);
        Accepted { instance, first }
    }

    fn delivery(first: u64, datums: usize) -> Option<Delivery> {
        let mut out = BytesMut::new();
        let mut writer = SegmentWriter::begin(&mut out, first, WallTime::default());
        for _ in 0..datums {
            writer.push::<DatumTooLarge>(&mut out, |_| Ok(())).unwrap();
        }
        writer.seal(&mut out);
        let segment = Segment::parse(out.freeze().split_off(FRAME_HEADER_LEN)).unwrap();
        let from = Arc::new(Subscription::new(
            ATTEMPT,
            PeerId::from_bytes([0; 32]),
            Arc::default(),
        ));
        Some(Delivery { segment, from })
    }

    fn push(inbox: &Inbox, mut delivery: Option<Delivery>) -> bool {
        let cx = Context::from_waker(Waker::noop());
        inbox.poll_push(&cx, ATTEMPT, &mut delivery).is_ready()
    }

    /// Waits, or puts in one datum, for one of several subscriptions.
    fn push_as(inbox: &Inbox, attempt: AttemptId, waker: &Waker) -> bool {
        let mut delivery = delivery(0, 1);
        inbox
            .poll_push(&Context::from_waker(waker), attempt, &mut delivery)
            .is_ready()
    }

    fn take(inbox: &Inbox) -> Option<u64> {
        match inbox.poll_take(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(delivery)) => Some(delivery.segment.next_sequence()),
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    #[test]
    fn readers_wait_while_the_application_does_not_take() {
        let inbox = Inbox::new(10);
        inbox.begin(ATTEMPT, accepted(0));
        assert!(push(&inbox, delivery(0, 6)));
        assert!(push(&inbox, delivery(6, 6)));
        assert!(!push(&inbox, delivery(12, 6)));
        assert_eq!(take(&inbox), Some(0));
        assert!(push(&inbox, delivery(12, 6)));
        assert_eq!(
            (take(&inbox), take(&inbox), take(&inbox)),
            (Some(6), Some(12), None)
        );
        assert_eq!(inbox.end(ATTEMPT).map(|span| span.next), Some(18));
    }

    #[test]
    fn readers_take_turns_however_fast_one_of_them_is() {
        let inbox = Inbox::new(1);
        let [one, other, third] = [0, 1, 2].map(AttemptId);
        (0..3).for_each(|n| inbox.begin(AttemptId(n), accepted(0)));
        let noop = Waker::noop();
        assert!(push_as(&inbox, one, noop));
        assert!(
            ![one, other, third]
                .map(|n| push_as(&inbox, n, noop))
                .contains(&true)
        );
        for turn in [one, other, third, one, other] {
            assert_eq!(take(&inbox), Some(0));
            for attempt in [one, other, third] {
                // Whoever is asked first, and asks at once for more.
                let pushed = push_as(&inbox, attempt, noop);
                assert_eq!(
                    pushed,
                    attempt == turn,
                    "{attempt:?} in the turn of {turn:?}"
                );
                assert!(!pushed || !push_as(&inbox, attempt, noop));
            }
        }
    }

    #[test]
    fn whose_turn_it_is_holds_up_nobody_when_it_leaves() {
        type Leave = fn(&Inbox);
        let ways: [Leave; 2] = [
            |inbox| assert!(inbox.end(AttemptId(0)).is_some()),
            |inbox| {
                inbox.reject(AttemptId(0));
                assert!(push_as(inbox, AttemptId(0), Waker::noop()));
            },
        ];
        for leave in ways {
            let inbox = Inbox::new(1);
            (0..3).for_each(|n| inbox.begin(AttemptId(n), accepted(0)));
            assert!(push_as(&inbox, AttemptId(2), Waker::noop()));
            let wakes = [0, 1].map(|n| {
                let (wakes, waker) = counted();
                assert!(!push_as(&inbox, AttemptId(n), &waker));
                wakes
            });
            assert_eq!(take(&inbox), Some(0));
            assert_eq!(wakes[0].count(), 1);
            leave(&inbox);
            assert!(wakes[1].count() > 0);
            assert!(push_as(&inbox, AttemptId(1), Waker::noop()));
        }
    }

    #[test]
    fn nothing_comes_of_a_subscription_that_has_ended() {
        let inbox = Inbox::new(10);
        assert_eq!(inbox.end(ATTEMPT), None);
        inbox.begin(ATTEMPT, accepted(3));
        assert!(push(&inbox, delivery(3, 1)));
        assert_eq!(inbox.end(ATTEMPT).map(|span| span.next), Some(4));
        assert!(push(&inbox, delivery(4, 1)));
        assert_eq!((take(&inbox), take(&inbox)), (Some(3), None));
    }

    #[test]
    fn of_a_rejected_subscription_everything_is_dropped_and_counted_or_left_to_be_missed() {
        let inbox = Inbox::new(10);
        inbox.begin(ATTEMPT, accepted(0));
        for first in [0, 6] {
            assert!(push(&inbox, delivery(first, 6)));
        }
        assert!(!push(&inbox, delivery(12, 6)));
        assert_eq!(inbox.reject(ATTEMPT), 12);
        assert_eq!(take(&inbox), None);
        // What still comes is not taken in, and is due when the next subscription begins.
        assert!(push(&inbox, delivery(12, 6)));
        assert_eq!(take(&inbox), None);
        assert_eq!(inbox.end(ATTEMPT).map(|span| span.next), Some(12));
        // Nothing is left of it.
        assert_eq!(inbox.reject(ATTEMPT), 0);
        inbox.begin(ATTEMPT, accepted(12));
        assert!(push(&inbox, delivery(12, 10)));
        assert_eq!(take(&inbox), Some(12));
    }

    #[test]
    fn what_is_there_can_be_taken_after_the_end() {
        let inbox = Inbox::new(10);
        inbox.begin(ATTEMPT, accepted(0));
        assert!(push(&inbox, delivery(0, 1)));
        inbox.close();
        assert!(push(&inbox, delivery(1, 1)));
        assert_eq!(take(&inbox), Some(0));
        let cx = Context::from_waker(Waker::noop());
        assert!(matches!(inbox.poll_take(&cx), Poll::Ready(None)));
    }
}
