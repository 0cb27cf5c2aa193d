//! The queue of a producer: each datum is encoded once, into a segment that all subscriptions share.
//!
//! Datums go to the end of an open segment. It is sealed, which makes it one `Bytes` that nobody writes to any
//! more, when it is full, or when a writer has nothing else to send: an idle producer's datum leaves at
//! once, and a busy one's leave by the segment. A sealed segment stays until every subscription has taken
//! it. The lock is taken once for each datum by who sends and once for each batch by each writer.
//!
//! Subscriptions with criteria have lanes of their own, one for all that have the same. A datum is encoded once all the
//! same, and its bytes go into each lane whose criteria choose it. What none chooses is not even encoded.

mod lane;
mod undelivered;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use self::lane::Lane;
use self::undelivered::Undelivered;
use crate::datum::{Datum, EncodeError};
use crate::protocol::streams::Criteria;
use crate::protocol::streams::producer::SubscriptionId;
use crate::protocol::streams::segment::{DATUM_LEN_MAX, DatumTooLarge};
use crate::time::WallTime;

/// The most bytes in the queue, however few datums they are. One datum is always taken.
const QUEUE_BYTES_MAX: usize = 64 * 1_024 * 1_024;
/// What a writer takes at a time, in bytes: it stops at the segment that reaches this.
pub(super) const BATCH_LEN: usize = 256 * 1_024;
/// Encodings of this many bytes are not copied where they are at hand: a write of its own for each shorter one would
/// cost more than the copy.
const APART_LEN_MIN: usize = 16 * 1_024;
/// The most room that is kept for encodings that are copied.
const SCRATCH_LEN_MAX: usize = 1_024 * 1_024;

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
    /// Of those who want all.
    all: Lane,
    /// Of those who have criteria.
    selected: BTreeMap<Arc<Criteria>, Lane>,
    segment_len: usize,
    /// The sequence number of the next datum.
    next: u64,
    cursors: BTreeMap<SubscriptionId, Cursor>,
    /// Where a datum is encoded that is copied.
    scratch: BytesMut,
    /// Who waits for room, by handle.
    senders: BTreeMap<u64, Waker>,
    undelivered: Option<Undelivered>,
    online: bool,
    closed: bool,
    full_told: bool,
}

/// Where a subscription stands.
struct Cursor {
    criteria: Option<Arc<Criteria>>,
    /// The number of the segment that it takes next.
    segment: u64,
    /// The number of the segment before which it ends, where it is to end.
    until: Option<u64>,
}

impl Fanout {
    /// A queue of at most `capacity` datums, in segments of about `segment_len` bytes.
    pub(super) fn new(capacity: usize, segment_len: usize, keeps_undelivered: bool) -> Self {
        Self {
            state: Mutex::new(State {
                all: Lane::new(false, segment_len),
                selected: BTreeMap::new(),
                segment_len,
                next: 0,
                cursors: BTreeMap::new(),
                scratch: BytesMut::new(),
                senders: BTreeMap::new(),
                undelivered: keeps_undelivered.then(Undelivered::default),
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
        // sealed. Every other change is whole.
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
        state.send(datum, wall)?;
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
        if state.is_empty() || state.closed && state.cursors.is_empty() {
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

    /// Adds a subscription; gives the sequence number of the first datum that it will get, or that its criteria pass
    /// over.
    pub(super) fn subscribe(&self, id: SubscriptionId, criteria: Option<Criteria>) -> u64 {
        let mut state = self.lock();
        let state = &mut *state;
        let (next, segment_len) = (state.next, state.segment_len);
        let criteria = criteria.map(Arc::new);
        let lane = match &criteria {
            None => &mut state.all,
            Some(criteria) => state
                .selected
                .entry(criteria.clone())
                .or_insert_with(|| Lane::new(true, segment_len)),
        };
        let cursor = Cursor {
            criteria,
            segment: lane.subscribe(next),
            until: None,
        };
        state.cursors.insert(id, cursor);
        next
    }

    /// Lets a subscription end once it has taken what is queued for it now.
    pub(super) fn finish(&self, id: SubscriptionId) {
        let mut state = self.lock();
        let Some((lane, cursor, _)) = state.parts(id) else {
            return;
        };
        lane.finish(cursor);
        let waker = lane.idle.remove(&id);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Removes a subscription. What it has not taken it will not get.
    pub(super) fn unsubscribe(&self, id: SubscriptionId) {
        let mut state = self.lock();
        let Some((lane, cursor, undelivered)) = state.parts(id) else {
            return;
        };
        let writer = lane.idle.remove(&id);
        lane.unsubscribe(cursor, undelivered);
        let is_unused = lane.is_unused();
        if let Some(criteria) = cursor.criteria.clone()
            && is_unused
        {
            state.selected.remove(&criteria);
        }
        state.cursors.remove(&id);
        if state.cursors.is_empty()
            && let Some(undelivered) = &mut state.undelivered
        {
            undelivered.wake();
        }
        let wakers = std::mem::take(&mut state.senders);
        drop(state);
        wakers.into_values().chain(writer).for_each(Waker::wake);
    }

    /// Gives what is queued for subscription `id`, a batch of about `limit` bytes at a time. Pending for ever once it
    /// is removed: that is no end, and who removes it tells its writer otherwise.
    pub(super) fn poll_take(
        &self,
        cx: &Context<'_>,
        id: SubscriptionId,
        limit: usize,
        frames: &mut Vec<Bytes>,
    ) -> Poll<Taken> {
        let mut state = self.lock();
        let closed = state.closed;
        let Some((lane, cursor, undelivered)) = state.parts(id) else {
            return Poll::Pending;
        };
        let datums = lane.take(cursor, limit, frames, undelivered);
        if datums > 0 {
            if lane.release(undelivered) {
                let wakers = std::mem::take(&mut state.senders);
                drop(state);
                wakers.into_values().for_each(Waker::wake);
            }
            return Poll::Ready(Taken::Segments(datums));
        }
        if closed || cursor.until.is_some() {
            return Poll::Ready(Taken::End);
        }
        lane.idle.insert(id, cx.waker().clone());
        Poll::Pending
    }

    /// The encoding of a datum that nobody will take; `None` where there will be none any more.
    pub(super) fn poll_undelivered(&self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lock();
        let is_over = state.closed && state.cursors.is_empty();
        let Some(undelivered) = &mut state.undelivered else {
            return Poll::Ready(None);
        };
        let taken = undelivered.poll_take(cx, is_over);
        if matches!(taken, Poll::Ready(Some(_))) {
            let wakers = std::mem::take(&mut state.senders);
            drop(state);
            wakers.into_values().for_each(Waker::wake);
        }
        taken
    }

    /// Keeps no more of what nobody will take.
    pub(super) fn forget_undelivered(&self) {
        let mut state = self.lock();
        state.undelivered = None;
        let wakers = std::mem::take(&mut state.senders);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Whether the queue is full, and the subscriptions that its oldest datum waits for.
    pub(super) fn examine(&self) -> (bool, Vec<SubscriptionId>) {
        let mut state = self.lock();
        if state.room(self.capacity) != Room::Full {
            state.full_told = false;
            return (false, Vec::new());
        }
        // Where it is bytes that fill it, any lane may hold them.
        let by_bytes = state.bytes() >= QUEUE_BYTES_MAX;
        let waiting = state.cursors.iter().filter(|(_, cursor)| {
            let lane = state.lane(cursor.criteria.as_ref());
            lane.is_some_and(|lane| {
                (by_bytes || lane.datums() >= self.capacity) && lane.waits_for(cursor)
            })
        });
        (true, waiting.map(|(&id, _)| id).collect())
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
        let writers = state.all_idle_wakers();
        if let Some(undelivered) = &mut state.undelivered {
            undelivered.wake();
        }
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
        } else if self.longest_lane() >= capacity || self.bytes() >= QUEUE_BYTES_MAX {
            Room::Full
        } else {
            Room::Free
        }
    }

    /// The most datums that wait in one lane, or for who takes those that are not delivered.
    fn longest_lane(&self) -> u64 {
        let undelivered = self.undelivered.as_ref().map_or(0, Undelivered::len);
        let selected = self.selected.values().map(Lane::datums);
        selected.fold(self.all.datums().max(undelivered), u64::max)
    }

    fn bytes(&self) -> usize {
        let undelivered = self.undelivered.as_ref().map_or(0, Undelivered::bytes);
        let selected = self.selected.values().map(Lane::bytes);
        self.all.bytes() + undelivered + selected.sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.all.datums() == 0 && self.selected.values().all(|lane| lane.datums() == 0)
    }

    fn lane(&self, criteria: Option<&Arc<Criteria>>) -> Option<&Lane> {
        match criteria {
            None => Some(&self.all),
            Some(criteria) => self.selected.get(criteria),
        }
    }

    /// A subscription and its lane.
    fn parts(
        &mut self,
        id: SubscriptionId,
    ) -> Option<(&mut Lane, &mut Cursor, &mut Option<Undelivered>)> {
        let cursor = self.cursors.get_mut(&id)?;
        let lane = match &cursor.criteria {
            None => &mut self.all,
            Some(criteria) => self.selected.get_mut(criteria)?,
        };
        Some((lane, cursor, &mut self.undelivered))
    }

    /// Puts a datum into each lane that wants it. Sent to nobody, it is missed by whoever comes later.
    fn send<D: Datum>(
        &mut self,
        datum: &D,
        wall: impl FnOnce() -> WallTime,
    ) -> Result<(), PushError> {
        let sequence = self.next;
        if self.selected.is_empty() && self.undelivered.is_none() {
            self.all.wants = self.all.has_takers();
            if self.all.wants {
                match encoded_apart(datum) {
                    Some(encoded) => self.all.append_apart(sequence, wall, encoded)?,
                    None => self.all.append(sequence, wall, |out| {
                        datum.encode(out).map_err(PushError::Encode)
                    })?,
                }
            }
        } else {
            self.send_selected(datum, wall)?;
        }
        self.next += 1;
        Ok(())
    }

    fn send_selected<D: Datum>(
        &mut self,
        datum: &D,
        wall: impl FnOnce() -> WallTime,
    ) -> Result<(), PushError> {
        let sequence = self.next;
        self.all.wants = self.all.has_takers();
        let mut count = usize::from(self.all.wants);
        for (criteria, lane) in &mut self.selected {
            lane.wants = lane.has_takers() && datum.is_wanted(criteria);
            count += usize::from(lane.wants);
        }
        if count == 0 && self.undelivered.is_none() {
            return Ok(());
        }
        let at = wall();
        let lanes = self.selected.values_mut().chain([&mut self.all]);
        let mut wanting = lanes.filter(|lane| lane.wants);
        if let (Some(encoded), None) = (encoded_apart(datum), &self.undelivered) {
            return wanting
                .try_for_each(|lane| lane.append_apart(sequence, || at, encoded.clone()));
        }
        // Apart from the lanes, so that an encoding that goes wrong harms none.
        if self.scratch.capacity() > SCRATCH_LEN_MAX {
            self.scratch = BytesMut::new();
        }
        self.scratch.clear();
        datum.encode(&mut self.scratch).map_err(PushError::Encode)?;
        let encoded = &self.scratch[..];
        let len = encoded.len();
        if len > DATUM_LEN_MAX {
            return Err(DatumTooLarge { len }.into());
        }
        wanting.try_for_each(|lane| {
            lane.append(
                sequence,
                || at,
                |out| {
                    out.extend_from_slice(encoded);
                    Ok(())
                },
            )
        })?;
        if let Some(undelivered) = &mut self.undelivered {
            undelivered.sent(sequence, count, encoded);
        }
        Ok(())
    }

    /// The idle writers of lanes that the datum which is being sent has gone into.
    fn idle_wakers(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for lane in self.selected.values_mut().chain([&mut self.all]) {
            if lane.wants && !lane.idle.is_empty() {
                wakers.extend(std::mem::take(&mut lane.idle).into_values());
            }
        }
        wakers
    }

    fn all_idle_wakers(&mut self) -> Vec<Waker> {
        let lanes = self.selected.values_mut().chain([&mut self.all]);
        lanes
            .flat_map(|lane| std::mem::take(&mut lane.idle).into_values())
            .collect()
    }
}

fn encoded_apart<D: Datum>(datum: &D) -> Option<Bytes> {
    let encoded = datum.encoded()?;
    (encoded.len() >= APART_LEN_MIN).then(|| encoded.clone())
}
