//! The two halves of a stream: what waits to be sent or acknowledged, and what waits to be read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::{Buf, Bytes};
use smalti_core::runtime::StreamError;
use smalti_core::wire::CloseCode;

use super::ranges::Ranges;
use super::{SEND_BUFFER_MAX, STREAM_WINDOW};

/// The sending half: the bytes from `base` on are kept until they are acknowledged.
#[derive(Debug, Default)]
pub(super) struct SendHalf {
    chunks: VecDeque<Bytes>,
    base: u64,
    end: u64,
    /// What has never been sent begins here.
    next: u64,
    acknowledged: Ranges,
    lost: Ranges,
    finished: bool,
    /// The end of the stream is to be sent (again).
    fin_pending: bool,
    fin_acknowledged: bool,
    /// How far the peer lets this half send.
    pub(super) peer_max: u64,
    pub(super) stopped: Option<CloseCode>,
    reset: bool,
}

impl SendHalf {
    pub(super) fn new() -> Self {
        Self {
            peer_max: STREAM_WINDOW,
            ..Self::default()
        }
    }

    /// Takes whole chunks or a beginning of one; gives how many bytes, zero where there is no room.
    pub(super) fn write(&mut self, chunks: &mut [Bytes]) -> Result<usize, StreamError> {
        if let Some(code) = self.stopped {
            return Err(StreamError::Stopped(code));
        }
        if self.finished || self.reset {
            return Err(StreamError::Closed);
        }
        let mut taken = 0;
        for chunk in chunks {
            let room =
                SEND_BUFFER_MAX - usize::try_from(self.end - self.base).unwrap_or(usize::MAX);
            if room == 0 {
                break;
            }
            let part = chunk.split_to(room.min(chunk.len()));
            if part.is_empty() {
                continue;
            }
            taken += part.len();
            self.end += part.len() as u64;
            self.chunks.push_back(part);
        }
        Ok(taken)
    }

    pub(super) fn finish(&mut self) {
        if !self.finished && !self.reset {
            self.finished = true;
            self.fin_pending = true;
        }
    }

    /// Forgets all that was to be sent; gives the length that the stream had, where it was still alive.
    pub(super) fn reset(&mut self) -> Option<u64> {
        if self.reset || self.is_delivered() {
            return None;
        }
        self.reset = true;
        self.chunks.clear();
        self.lost = Ranges::default();
        self.fin_pending = false;
        Some(self.next)
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset
    }

    pub(super) fn is_delivered(&self) -> bool {
        self.finished && self.fin_acknowledged && self.base == self.end
    }

    /// Whether nothing of this half needs to be kept any more.
    pub(super) fn is_done(&self) -> bool {
        self.reset || self.is_delivered()
    }

    /// The next piece to send, of at most `len_max` bytes, of which at most `new_max` may be bytes never
    /// sent before. Gives its offset, its data, whether it is the last, and how many bytes of it are new.
    pub(super) fn next_piece(
        &mut self,
        len_max: usize,
        new_max: u64,
    ) -> Option<(u64, Bytes, bool, u64)> {
        if self.reset || len_max == 0 {
            return None;
        }
        if let Some(lost) = self.lost.first() {
            let end = lost.end.min(lost.start + len_max as u64);
            self.lost.remove(lost.start..end);
            let fin = self.fin_pending && end == self.end;
            self.fin_pending &= !fin;
            return Some((lost.start, self.copy(lost.start..end), fin, 0));
        }
        let start = self.next;
        let end = self
            .end
            .min(self.peer_max)
            .min(start + new_max)
            .min(start + len_max as u64);
        let fin = self.fin_pending && end.max(start) == self.end;
        if end <= start && !fin {
            return None;
        }
        self.fin_pending &= !fin;
        let end = end.max(start);
        self.next = end;
        Some((start, self.copy(start..end), fin, end - start))
    }

    pub(super) fn acknowledge(&mut self, range: Range<u64>, fin: bool) {
        self.fin_acknowledged |= fin;
        if self.reset {
            return;
        }
        self.lost.remove(range.clone());
        self.acknowledged.insert(range);
        while let Some(first) = self.acknowledged.first() {
            if first.start > self.base {
                break;
            }
            self.acknowledged.pop_first();
            self.drop_until(first.end);
        }
    }

    pub(super) fn lose(&mut self, range: Range<u64>, fin: bool) {
        if self.reset {
            return;
        }
        self.fin_pending |= fin && !self.fin_acknowledged;
        let start = range.start.max(self.base);
        self.lost.insert(start..range.end.max(start));
        for acknowledged in self.acknowledged.clone().descending() {
            self.lost.remove(acknowledged);
        }
    }

    fn drop_until(&mut self, end: u64) {
        while self.base < end {
            let Some(first) = self.chunks.front_mut() else {
                break;
            };
            let len = first
                .len()
                .min(usize::try_from(end - self.base).unwrap_or(usize::MAX));
            self.base += len as u64;
            if len == first.len() {
                self.chunks.pop_front();
            } else {
                first.advance(len);
            }
        }
    }

    /// The bytes of `range`, which are all kept.
    fn copy(&self, range: Range<u64>) -> Bytes {
        let mut bytes = Vec::new();
        let mut offset = self.base;
        for chunk in &self.chunks {
            let chunk_range = offset..offset + chunk.len() as u64;
            offset = chunk_range.end;
            let start = range.start.max(chunk_range.start);
            let end = range.end.min(chunk_range.end);
            if start < end {
                // Both lie within the chunk, whose length is a `usize`.
                let from = (start - chunk_range.start) as usize;
                let to = (end - chunk_range.start) as usize;
                if start == range.start && end == range.end {
                    return chunk.slice(from..to);
                }
                bytes.extend_from_slice(&chunk[from..to]);
            }
            if offset >= range.end {
                break;
            }
        }
        bytes.into()
    }
}

/// The receiving half: pieces wait until those before them are there and have been read.
#[derive(Debug)]
pub(super) struct RecvHalf {
    pieces: BTreeMap<u64, Bytes>,
    read: u64,
    /// The end of what has arrived.
    pub(super) highest: u64,
    /// How far the peer may send.
    pub(super) max: u64,
    len: Option<u64>,
    reset: Option<CloseCode>,
    pub(super) stopped: bool,
    /// The end, or the reset, has been read.
    ended: bool,
}

impl RecvHalf {
    pub(super) fn new() -> Self {
        Self {
            pieces: BTreeMap::new(),
            read: 0,
            highest: 0,
            max: STREAM_WINDOW,
            len: None,
            reset: None,
            stopped: false,
            ended: false,
        }
    }

    /// Takes a piece; gives by how much it moved the end of what has arrived.
    ///
    /// # Errors
    /// What the peer has broken.
    pub(super) fn receive(
        &mut self,
        offset: u64,
        data: Bytes,
        fin: bool,
    ) -> Result<u64, &'static str> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or("an offset beyond all streams")?;
        if end > self.max {
            return Err("more of a stream than was allowed");
        }
        if self.len.is_some_and(|len| end > len || fin && end != len) || fin && end < self.highest {
            return Err("a stream that ends twice");
        }
        if fin {
            self.len = Some(end);
        }
        let new = end.saturating_sub(self.highest);
        self.highest = self.highest.max(end);
        if self.reset.is_none() && !self.stopped {
            self.keep(offset, data);
        }
        Ok(new)
    }

    /// Keeps of `data` what is neither read nor kept already.
    fn keep(&mut self, mut offset: u64, mut data: Bytes) {
        let skip = |offset: &mut u64, data: &mut Bytes, until: u64| {
            let len = usize::try_from(until.saturating_sub(*offset)).unwrap_or(usize::MAX);
            let len = len.min(data.len());
            *offset += len as u64;
            data.advance(len);
        };
        skip(&mut offset, &mut data, self.read);
        while !data.is_empty() {
            if let Some((before, piece)) = self.pieces.range(..=offset).next_back() {
                skip(&mut offset, &mut data, before + piece.len() as u64);
            }
            if data.is_empty() {
                break;
            }
            let next = self.pieces.range(offset..).next().map(|(next, _)| *next);
            let len = next.map_or(data.len(), |next| {
                data.len()
                    .min(usize::try_from(next - offset).unwrap_or(usize::MAX))
            });
            if len == 0 {
                continue;
            }
            self.pieces.insert(offset, data.split_to(len));
            offset += len as u64;
        }
    }

    /// The peer has abandoned the stream at `len` bytes; gives by how much that moves the end of what has
    /// arrived, and how many bytes will never be read.
    pub(super) fn receive_reset(
        &mut self,
        code: CloseCode,
        len: u64,
    ) -> Result<(u64, u64), &'static str> {
        if len < self.highest || len > self.max || self.len.is_some_and(|known| known != len) {
            return Err("a reset that contradicts what was sent");
        }
        let new = len - self.highest;
        self.highest = len;
        self.len = Some(len);
        self.reset.get_or_insert(code);
        self.pieces.clear();
        let unread = self.highest - self.read;
        self.read = self.highest;
        Ok((new, unread))
    }

    /// Reads about `limit` bytes; `None` where nothing is there yet, `Some(None)` at the end.
    pub(super) fn read(
        &mut self,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Result<Option<Option<usize>>, StreamError> {
        if self.stopped {
            return Err(StreamError::Closed);
        }
        if let Some(code) = self.reset {
            self.ended = true;
            return Err(StreamError::Reset(code));
        }
        if self.len == Some(self.read) {
            self.ended = true;
            return Ok(Some(None));
        }
        let mut taken = 0;
        while let Some(entry) = self.pieces.first_entry() {
            if *entry.key() != self.read || taken >= limit.max(1) {
                break;
            }
            let mut piece = entry.remove();
            let rest = piece.split_off(piece.len().min(limit.max(1) - taken));
            taken += piece.len();
            self.read += piece.len() as u64;
            chunks.push(piece);
            if !rest.is_empty() {
                self.pieces.insert(self.read, rest);
            }
        }
        Ok((taken > 0).then_some(Some(taken)))
    }

    pub(super) fn is_readable(&self) -> bool {
        self.reset.is_some()
            || self.len == Some(self.read)
            || self
                .pieces
                .first_key_value()
                .is_some_and(|(offset, _)| *offset == self.read)
    }

    /// Wants no more; gives how many bytes that have arrived will never be read.
    pub(super) fn stop(&mut self) -> u64 {
        self.stopped = true;
        self.pieces.clear();
        let unread = self.highest - self.read;
        self.read = self.highest;
        unread
    }

    /// A new limit for the peer, once half of the window has been read.
    pub(super) fn new_max(&mut self) -> Option<u64> {
        if self.len.is_some() || self.stopped {
            return None;
        }
        let max = self.read + STREAM_WINDOW;
        (max >= self.max + STREAM_WINDOW / 2).then(|| {
            self.max = max;
            max
        })
    }

    /// Whether nothing of this half needs to be kept any more.
    pub(super) fn is_done(&self) -> bool {
        self.ended || self.stopped && self.len.is_some()
    }
}
