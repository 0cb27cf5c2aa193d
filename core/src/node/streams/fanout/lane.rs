//! A lane of the queue: the segments of those who want the same datums.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::undelivered::Undelivered;
use super::{Cursor, PushError};
use crate::protocol::streams::producer::SubscriptionId;
use crate::protocol::streams::segment::{SEGMENT_LEN, Segment, SegmentWriter};
use crate::time::WallTime;
use crate::wire::FRAME_HEADER_LEN;

/// Segments are cut from blocks of this many bytes, so that short ones do not take a block each.
const BLOCK_LEN: usize = 4 * SEGMENT_LEN;

pub(super) struct Lane {
    /// Whether its datums are chosen by criteria, so that others are passed over.
    selected: bool,
    /// A segment of this many bytes takes no more datums.
    segment_len: usize,
    /// Ends with the open segment.
    block: BytesMut,
    open: Option<SegmentWriter>,
    sealed: VecDeque<Sealed>,
    /// The number of the first of `sealed`. Segments are numbered as they are sealed.
    first_sealed: u64,
    sealed_bytes: usize,
    sealed_datums: u64,
    /// The sequence number up to which its segments say what became of each datum.
    covered: u64,
    /// The longest datum of late: how much to keep free for one.
    longest: usize,
    /// Subscriptions that take what is sent from now on.
    takers: usize,
    /// All subscriptions, also those that only take what is there.
    cursors: usize,
    /// Whether the datum that is being sent, or was sent last, goes into it.
    pub(super) wants: bool,
    /// Writers that have nothing else to send.
    pub(super) idle: BTreeMap<SubscriptionId, Waker>,
}

struct Sealed {
    head: Bytes,
    /// Its last datum, where that was not copied.
    tail: Option<Bytes>,
    count: u32,
    /// Subscriptions that have not taken it.
    missing: usize,
    /// Whether any has.
    taken: bool,
}

impl Sealed {
    fn len(&self) -> usize {
        self.head.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }

    /// The datums with their sequence numbers; what was not copied is left out.
    fn datums(&self, selected: bool) -> impl Iterator<Item = (u64, Bytes)> {
        let frame = self.head.slice(FRAME_HEADER_LEN..);
        let segment = if selected {
            Segment::parse_selected(frame)
        } else {
            Segment::parse(frame)
        };
        let mut segment = segment.ok();
        std::iter::from_fn(move || segment.as_mut()?.take())
    }
}

impl Lane {
    pub(super) fn new(selected: bool, segment_len: usize) -> Self {
        Self {
            selected,
            segment_len,
            block: BytesMut::new(),
            open: None,
            sealed: VecDeque::new(),
            first_sealed: 0,
            sealed_bytes: 0,
            sealed_datums: 0,
            covered: 0,
            longest: 0,
            takers: 0,
            cursors: 0,
            wants: false,
            idle: BTreeMap::new(),
        }
    }

    pub(super) const fn has_takers(&self) -> bool {
        self.takers > 0
    }

    pub(super) const fn is_unused(&self) -> bool {
        self.cursors == 0
    }

    /// The datums that some subscription has not taken.
    pub(super) fn datums(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, SegmentWriter::count);
        self.sealed_datums + u64::from(open)
    }

    pub(super) fn bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, SegmentWriter::len);
        self.sealed_bytes + open
    }

    /// The number of the segment that is sealed next.
    pub(super) fn end(&self) -> u64 {
        self.first_sealed + self.sealed.len() as u64
    }

    /// Whether the oldest datum waits for this cursor.
    pub(super) fn waits_for(&self, cursor: &Cursor) -> bool {
        self.datums() > 0
            && cursor.segment == self.first_sealed
            && cursor.until != Some(cursor.segment)
    }

    /// Appends the datum with this sequence number that `encode` writes.
    pub(super) fn append(
        &mut self,
        sequence: u64,
        at: impl FnOnce() -> WallTime,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), PushError>,
    ) -> Result<(), PushError> {
        let (open, block) = self.open(sequence, at);
        let before = open.len();
        let pushed = open.push_at(block, sequence, encode);
        let len = open.len();
        if let Err(error) = pushed {
            if open.is_empty() {
                self.abandon();
            }
            return Err(error);
        }
        self.covered = sequence + 1;
        // Falls slowly, so that one long datum does not take long blocks for ever.
        self.longest = (len - before).max(self.longest - self.longest / 64);
        if len >= self.segment_len {
            self.seal();
        }
        Ok(())
    }

    /// Appends a datum without copying its encoding; its segment ends with it.
    pub(super) fn append_apart(
        &mut self,
        sequence: u64,
        at: impl FnOnce() -> WallTime,
        encoded: Bytes,
    ) -> Result<(), PushError> {
        let (open, block) = self.open(sequence, at);
        if let Err(error) = open.seal_before(block, sequence, encoded.len()) {
            if open.is_empty() {
                self.abandon();
            }
            return Err(error.into());
        }
        let count = open.count();
        self.open = None;
        self.covered = sequence + 1;
        self.push_sealed(count, Some(encoded));
        Ok(())
    }

    /// The open segment, begun where there is none.
    fn open(
        &mut self,
        sequence: u64,
        at: impl FnOnce() -> WallTime,
    ) -> (&mut SegmentWriter, &mut BytesMut) {
        self.drop_if_cut();
        let block = &mut self.block;
        // Stays in its place while the datum is encoded: should that panic, the datums before it are as they were.
        let open = self.open.get_or_insert_with(|| {
            // Room for a segment and one more datum, so that writing seldom moves what is written.
            let needed = self.segment_len + self.longest;
            if block.capacity() - block.len() < needed {
                *block = BytesMut::with_capacity(needed.max(BLOCK_LEN));
            }
            if self.selected {
                SegmentWriter::begin_selected(block, self.covered, at())
            } else {
                SegmentWriter::begin(block, sequence, at())
            }
        });
        (open, block)
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
    pub(super) fn seal(&mut self) {
        self.drop_if_cut();
        let Some(open) = self.open.take() else {
            return;
        };
        if open.is_empty() {
            // The encoding of what would have been its first datum has panicked.
            open.abandon(&mut self.block);
            return;
        }
        let count = open.count();
        open.seal(&mut self.block);
        self.push_sealed(count, None);
    }

    fn push_sealed(&mut self, count: u32, tail: Option<Bytes>) {
        let sealed = Sealed {
            head: self.block.split().freeze(),
            tail,
            count,
            missing: self.takers,
            taken: false,
        };
        self.sealed_bytes += sealed.len();
        self.sealed_datums += u64::from(count);
        self.sealed.push_back(sealed);
    }

    /// A subscription that takes what is sent from the datum `next` on.
    pub(super) fn subscribe(&mut self, next: u64) -> u64 {
        self.seal();
        if self.takers == 0 {
            // Nobody has looked at what was sent since. Where others are there, the next segment begins where they
            // stand, before this subscription: to it that is passed over, while to them a later one would be a gap.
            self.covered = next;
        }
        self.takers += 1;
        self.cursors += 1;
        self.end()
    }

    /// Lets a subscription end with what is there now.
    pub(super) fn finish(&mut self, cursor: &mut Cursor) {
        if cursor.until.is_none() {
            self.seal();
            self.takers -= 1;
            cursor.until = Some(self.end());
        }
    }

    /// Removes a subscription. What it has not taken it will not get.
    pub(super) fn unsubscribe(&mut self, cursor: &Cursor, undelivered: &mut Option<Undelivered>) {
        self.cursors -= 1;
        let left = self.left(cursor);
        for segment in self.sealed.range_mut(left) {
            segment.missing -= 1;
        }
        if cursor.until.is_none() {
            self.takers -= 1;
        }
        if self.takers == 0 {
            match undelivered {
                Some(_) => self.seal(),
                None => self.abandon(),
            }
        }
        self.release(undelivered);
    }

    /// Which of the sealed segments a subscription is still to take.
    fn left(&self, cursor: &Cursor) -> Range<usize> {
        let until = cursor.until.unwrap_or_else(|| self.end());
        if cursor.segment == until {
            // Nothing is kept for it any more, so that all of it may be behind the oldest segment.
            return 0..0;
        }
        let place = |segment| (segment - self.first_sealed) as usize;
        place(cursor.segment)..place(until)
    }

    /// Gives a subscription what is sealed, until it is more than `limit` bytes, and the number of datums in it.
    pub(super) fn take(
        &mut self,
        cursor: &mut Cursor,
        limit: usize,
        frames: &mut Vec<Bytes>,
        undelivered: &mut Option<Undelivered>,
    ) -> u64 {
        if cursor.segment == self.end() && cursor.until.is_none() {
            self.seal();
        }
        let (mut datums, mut len) = (0, 0);
        let left = self.left(cursor);
        for segment in self.sealed.range_mut(left) {
            segment.missing -= 1;
            if !std::mem::replace(&mut segment.taken, true)
                && let Some(undelivered) = undelivered
            {
                segment
                    .datums(self.selected)
                    .for_each(|(sequence, _)| undelivered.delivered(sequence));
            }
            frames.push(segment.head.clone());
            frames.extend(segment.tail.clone());
            cursor.segment += 1;
            datums += u64::from(segment.count);
            len += segment.len();
            if len >= limit {
                break;
            }
        }
        datums
    }

    /// Drops what every subscription has taken, or will never take; `false` where there is nothing of it.
    pub(super) fn release(&mut self, undelivered: &mut Option<Undelivered>) -> bool {
        let mut released = false;
        while let Some(front) = self.sealed.front()
            && front.missing == 0
        {
            if !front.taken
                && let Some(undelivered) = undelivered
            {
                front
                    .datums(self.selected)
                    .for_each(|(sequence, datum)| undelivered.dropped(sequence, datum));
            }
            self.sealed_bytes -= front.len();
            self.sealed_datums -= u64::from(front.count);
            self.sealed.pop_front();
            self.first_sealed += 1;
            released = true;
        }
        released
    }
}
