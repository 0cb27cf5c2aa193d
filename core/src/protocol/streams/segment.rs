//! Segments: runs of datums that travel as one frame.
//!
//! A frame is its length (four bytes, little endian, as everywhere), a header of [`HEADER_LEN`] bytes (sequence
//! number of the first datum: eight bytes; number of datums: four; wall clock of the producer in microseconds:
//! eight), and each datum behind its own length (four bytes). A producer writes a segment once, in
//! place, whatever the number of consumers; the same bytes go to all of them.
//!
//! Where a consumer has criteria, its segments are *selected*: their datums do not follow one upon the other. Each
//! has in front of its length the number of datums passed over before it (eight bytes), and the header's sequence
//! number is that of the first datum passed over. So segments still leave no hole between them, and what was passed
//! over is told apart from what is missing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::time::WallTime;
use crate::wire::FRAME_HEADER_LEN;

/// The bytes of a segment's header, after the length of the frame.
pub const HEADER_LEN: usize = 20;
/// The bytes in front of each datum.
pub const DATUM_HEADER_LEN: usize = 4;
/// The bytes in front of each datum of a selected segment.
pub const SELECTED_HEADER_LEN: usize = 8 + DATUM_HEADER_LEN;
/// The longest datum, encoded, in bytes.
pub const DATUM_LEN_MAX: usize = 16 * 1_024 * 1_024;
/// A segment of this many bytes takes no more datums.
pub const SEGMENT_LEN: usize = 64 * 1_024;
/// The longest frame of a segment, in bytes: a full datum on top of a segment that was not full yet.
pub const FRAME_LEN_MAX: usize = SEGMENT_LEN + HEADER_LEN + SELECTED_HEADER_LEN + DATUM_LEN_MAX;

/// Bytes that are no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The frame ends within the header, or a datum, or goes on after the last.
    #[error("a segment of {len} bytes does not hold the {count} datums it announces")]
    Malformed {
        /// The length of the frame in bytes.
        len: usize,
        /// The datums announced.
        count: u32,
    },
    /// A segment has no datum, or more than sequence numbers are left for.
    #[error("a segment cannot hold {0} datums")]
    Count(u32),
    /// The sequence goes back.
    #[error("datum {first} follows although {next} is due: a producer never repeats itself")]
    Repeated {
        /// The first datum of the segment.
        first: u64,
        /// The datum that was due.
        next: u64,
    },
}

/// A segment being written at the end of a buffer.
#[derive(Debug)]
pub struct SegmentWriter {
    start: usize,
    /// Where its last datum ends: what lies beyond was left by an encoding that panicked.
    end: usize,
    /// The sequence number after the last datum.
    next: u64,
    count: u32,
    selected: bool,
}

impl SegmentWriter {
    /// Begins a segment at the end of `out`; its first datum will have the sequence number `first`.
    #[must_use]
    pub fn begin(out: &mut BytesMut, first: u64, at: WallTime) -> Self {
        Self::begin_either(out, first, at, false)
    }

    /// Begins a selected segment at the end of `out`; `first` is the sequence number of the first datum that it has or
    /// passes over.
    #[must_use]
    pub fn begin_selected(out: &mut BytesMut, first: u64, at: WallTime) -> Self {
        Self::begin_either(out, first, at, true)
    }

    fn begin_either(out: &mut BytesMut, first: u64, at: WallTime, selected: bool) -> Self {
        let start = out.len();
        out.put_u32_le(0);
        out.put_u64_le(first);
        out.put_u32_le(0);
        out.put_u64_le(at.as_micros());
        Self {
            start,
            end: out.len(),
            next: first,
            count: 0,
            selected,
        }
    }

    /// Appends the datum that `encode` writes to `out`. In a selected segment nothing is passed over before it. On an
    /// error `out` is as before.
    ///
    /// # Errors
    /// What `encode` gives, and [`DatumTooLarge`] for more than [`DATUM_LEN_MAX`] bytes.
    ///
    /// # Panics
    /// If `encode` cuts off what was in `out` before.
    pub fn push<E: From<DatumTooLarge>>(
        &mut self,
        out: &mut BytesMut,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        self.push_at(out, self.next, encode)
    }

    /// Appends the datum with this sequence number, and passes over those before it, which only a selected segment
    /// does. On an error `out` is as before.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    ///
    /// # Panics
    /// As [`push`](Self::push), and where `sequence` is not what is due.
    pub fn push_at<E: From<DatumTooLarge>>(
        &mut self,
        out: &mut BytesMut,
        sequence: u64,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        out.truncate(self.end);
        let before = out.len();
        self.put_passed_over(out, sequence);
        let header = out.len();
        out.put_u32_le(0);
        let start = out.len();
        let encoded = encode(out);
        assert!(
            out.len() >= start,
            "an encoding appends, and never takes away what was there"
        );
        let len = out.len() - start;
        let encoded = encoded.and_then(|()| match u32::try_from(len) {
            Ok(field) if len <= DATUM_LEN_MAX => Ok(field),
            _ => Err(DatumTooLarge { len }.into()),
        });
        match encoded {
            Ok(field) => {
                out[header..start].copy_from_slice(&field.to_le_bytes());
                self.end = out.len();
                self.next = sequence + 1;
                self.count += 1;
                Ok(())
            }
            Err(error) => {
                out.truncate(before);
                Err(error)
            }
        }
    }

    fn put_passed_over(&self, out: &mut BytesMut, sequence: u64) {
        let passed_over = sequence.checked_sub(self.next);
        let passed_over = passed_over.expect("sequence numbers go up");
        if self.selected {
            out.put_u64_le(passed_over);
        } else {
            assert_eq!(passed_over, 0, "all datums go into a segment for all");
        }
    }

    /// Completes the segment with a last datum whose bytes are not in `out`: they are to be sent after what begins at
    /// the segment's start there.
    ///
    /// # Errors
    /// [`DatumTooLarge`] for more than [`DATUM_LEN_MAX`] bytes; the segment is as before.
    ///
    /// # Panics
    /// Where `sequence` is not what is due.
    pub fn seal_before(
        &mut self,
        out: &mut BytesMut,
        sequence: u64,
        len: usize,
    ) -> Result<(), DatumTooLarge> {
        let Some(field) = u32::try_from(len).ok().filter(|_| len <= DATUM_LEN_MAX) else {
            return Err(DatumTooLarge { len });
        };
        out.truncate(self.end);
        self.put_passed_over(out, sequence);
        out.put_u32_le(field);
        self.end = out.len();
        self.next = sequence + 1;
        self.count += 1;
        self.complete(out, len);
        Ok(())
    }

    /// The datums in it.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The sequence number after its last datum.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether it has no datum.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of its frame so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether `out` still holds all its datums: an encoding may have cut some off.
    #[must_use]
    pub fn is_whole(&self, out: &BytesMut) -> bool {
        out.len() >= self.end
    }

    /// Takes it away from the end of `out`.
    pub fn abandon(self, out: &mut BytesMut) {
        out.truncate(self.start);
    }

    /// Completes it: what begins at its start in `out` is then one frame.
    pub fn seal(self, out: &mut BytesMut) {
        out.truncate(self.end);
        self.complete(out, 0);
    }

    fn complete(&self, out: &mut BytesMut, follows: usize) {
        let len = (out.len() - self.start - FRAME_HEADER_LEN + follows) as u32;
        let frame = &mut out[self.start..];
        frame[..4].copy_from_slice(&len.to_le_bytes());
        frame[12..16].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// A datum is longer than a stream takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datum of {len} bytes is longer than the {DATUM_LEN_MAX} that a stream takes")]
pub struct DatumTooLarge {
    /// Its encoded length in bytes.
    pub len: usize,
}

/// A segment as received, of which datums are taken from the front.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The first sequence number that it has something to say of.
    first: u64,
    /// The sequence number of the datum that is taken next; after the last, the first beyond the segment.
    next: u64,
    end: u64,
    left: u32,
    at: WallTime,
    selected: bool,
    datums: Bytes,
}

impl Segment {
    /// The segment that is `frame` (without the frame's length). All of it is checked here, so that taking
    /// datums cannot fail.
    ///
    /// # Errors
    /// [`SegmentError`] where it is none.
    pub fn parse(frame: Bytes) -> Result<Self, SegmentError> {
        Self::parse_either(frame, false)
    }

    /// The selected segment that is `frame`, as [`parse`](Self::parse).
    ///
    /// # Errors
    /// [`SegmentError`] where it is none.
    pub fn parse_selected(frame: Bytes) -> Result<Self, SegmentError> {
        Self::parse_either(frame, true)
    }

    fn parse_either(mut frame: Bytes, selected: bool) -> Result<Self, SegmentError> {
        let len = frame.len();
        if len < HEADER_LEN {
            return Err(SegmentError::Malformed { len, count: 0 });
        }
        let first = frame.get_u64_le();
        let left = frame.get_u32_le();
        let at = WallTime::from_micros(frame.get_u64_le());
        if left == 0 {
            return Err(SegmentError::Count(left));
        }
        let malformed = SegmentError::Malformed { len, count: left };
        let mut rest = &frame[..];
        let mut end = first;
        for _ in 0..left {
            if selected {
                let (passed_over, after) = rest.split_first_chunk().ok_or(malformed)?;
                let passed_over = u64::from_le_bytes(*passed_over);
                end = end
                    .checked_add(passed_over)
                    .ok_or(SegmentError::Count(left))?;
                rest = after;
            }
            end = end.checked_add(1).ok_or(SegmentError::Count(left))?;
            let (header, after) = rest.split_first_chunk().ok_or(malformed)?;
            let datum_len = u32::from_le_bytes(*header) as usize;
            rest = after.get(datum_len..).ok_or(malformed)?;
        }
        if !rest.is_empty() {
            return Err(malformed);
        }
        let mut segment = Self {
            first,
            next: first,
            end,
            left,
            at,
            selected,
            datums: frame,
        };
        segment.pass_over();
        Ok(segment)
    }

    /// The first sequence number that it has something to say of: that of its first datum, or of the first passed over.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The sequence number of the next datum; after the last, [`end`](Self::end).
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The sequence number after the last datum.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The datums left in it.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.left
    }

    /// The bytes left in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datums.len()
    }

    /// Whether all of it has been taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The producer's wall clock when it began the segment.
    #[must_use]
    pub const fn at(&self) -> WallTime {
        self.at
    }

    /// The next datum with its sequence number; `None` once all have been taken.
    pub fn take(&mut self) -> Option<(u64, Bytes)> {
        if self.left == 0 {
            return None;
        }
        let sequence = self.next;
        let len = self.datums.get_u32_le() as usize;
        let datum = self.datums.split_to(len);
        self.next += 1;
        self.left -= 1;
        self.pass_over();
        Some((sequence, datum))
    }

    /// Goes to the next datum. Beyond the last there is nothing to pass over.
    fn pass_over(&mut self) {
        if self.selected && self.left > 0 {
            self.next += self.datums.get_u64_le();
        }
    }
}

/// Where a consumer stands in one producer's sequence: it finds what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    next: u64,
}

impl Position {
    /// At the datum with the sequence number `next`, not received yet.
    #[must_use]
    pub const fn new(next: u64) -> Self {
        Self { next }
    }

    /// The datum that is due.
    #[must_use]
    pub const fn next(self) -> u64 {
        self.next
    }

    /// Takes note of a run of `count` datums that begins at `first`: gives the number of datums missing before
    /// it.
    ///
    /// # Errors
    /// [`SegmentError::Repeated`] where it begins before the datum that is due.
    pub fn advance(&mut self, first: u64, count: u32) -> Result<u64, SegmentError> {
        let end = first.checked_add(count.into());
        self.cover(first, first, end.ok_or(SegmentError::Count(count))?)
    }

    /// Takes note of a whole segment, as [`advance`](Self::advance). What it passes over may have been passed over
    /// before: consumers with the same criteria share segments, and one may have come later than another.
    ///
    /// # Errors
    /// [`SegmentError::Repeated`] where one of its datums comes before the datum that is due.
    pub fn advance_over(&mut self, segment: &Segment) -> Result<u64, SegmentError> {
        self.cover(segment.first(), segment.next_sequence(), segment.end())
    }

    fn cover(&mut self, from: u64, first: u64, end: u64) -> Result<u64, SegmentError> {
        if first < self.next {
            let next = self.next;
            return Err(SegmentError::Repeated { first, next });
        }
        let missing = from.saturating_sub(self.next);
        self.next = end;
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::FrameBuffer;

    fn push(writer: &mut SegmentWriter, out: &mut BytesMut, datum: &[u8]) {
        writer
            .push::<DatumTooLarge>(out, |out| {
                out.extend_from_slice(datum);
                Ok(())
            })
            .unwrap();
    }

    proptest! {
        #[test]
        fn segments_round_trip(
            first in 0..u64::MAX / 2,
            segments in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
                1..5,
            ),
        ) {
            let at = WallTime::from_micros(5);
            let mut out = BytesMut::new();
            let mut next = first;
            for datums in &segments {
                let mut writer = SegmentWriter::begin(&mut out, next, at);
                for datum in datums {
                    push(&mut writer, &mut out, datum);
                    next += 1;
                }
                writer.seal(&mut out);
            }
            let mut buffer = FrameBuffer::new(FRAME_LEN_MAX);
            buffer.push(out.freeze());
            let mut position = Position::new(first);
            let mut sequence = first;
            for datums in &segments {
                let mut segment = Segment::parse(buffer.next_frame().unwrap().unwrap()).unwrap();
                prop_assert_eq!(segment.at(), at);
                prop_assert_eq!(position.advance(segment.next_sequence(), segment.left()), Ok(0));
                for datum in datums {
                    let (number, bytes) = segment.take().unwrap();
                    prop_assert_eq!(number, sequence);
                    prop_assert_eq!(&bytes[..], &datum[..]);
                    sequence += 1;
                }
                prop_assert!(segment.take().is_none());
            }
            prop_assert_eq!(position.next(), next);
        }

        /// Also where the last datum of a segment is not written in place.
        #[test]
        fn selected_segments_round_trip_and_tell_what_is_passed_over_from_what_is_missing(
            first in 0..u64::MAX / 2,
            segments in prop::collection::vec(
                (prop::collection::vec((0..9u64, 0..40usize), 1..20), any::<bool>(), 0..9u64),
                1..5,
            ),
        ) {
            let mut position = Position::new(first);
            let mut due = first;
            for (datums, apart, missing) in segments {
                due += missing;
                let mut out = BytesMut::new();
                let mut writer = SegmentWriter::begin_selected(&mut out, due, WallTime::default());
                let mut expected = Vec::new();
                let mut frame = None;
                for (n, &(passed_over, len)) in datums.iter().enumerate() {
                    let sequence = due + passed_over;
                    let datum = Bytes::from(vec![n as u8; len]);
                    if apart && n + 1 == datums.len() {
                        writer.seal_before(&mut out, sequence, len).unwrap();
                        frame = Some([&out[..], &datum[..]].concat());
                    } else {
                        writer.push_at::<DatumTooLarge>(&mut out, sequence, |out| {
                            out.extend_from_slice(&datum);
                            Ok(())
                        }).unwrap();
                    }
                    due = sequence + 1;
                    expected.push((sequence, datum));
                }
                let frame = frame.unwrap_or_else(|| {
                    writer.seal(&mut out);
                    out.to_vec()
                });
                let mut buffer = FrameBuffer::new(FRAME_LEN_MAX);
                buffer.push(frame.into());
                let frame = buffer.next_frame().unwrap().unwrap();
                let mut segment = Segment::parse_selected(frame).unwrap();
                prop_assert_eq!(position.advance_over(&segment), Ok(missing));
                prop_assert_eq!(position.next(), due);
                prop_assert_eq!(
                    std::iter::from_fn(|| segment.take()).collect::<Vec<_>>(),
                    expected
                );
                prop_assert_eq!(segment.next_sequence(), segment.end());
            }
        }

        #[test]
        fn arbitrary_frames_never_panic(
            frame in prop::collection::vec(any::<u8>(), 0..80),
            selected: bool,
        ) {
            if let Ok(mut segment) = Segment::parse_either(frame.into(), selected) {
                while segment.take().is_some() {}
                prop_assert_eq!(segment.len(), 0);
            }
        }

        #[test]
        fn a_segment_that_is_cut_or_goes_on_is_refused(
            datums in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..5),
            cut in 1..30usize,
        ) {
            let mut out = BytesMut::new();
            let mut writer = SegmentWriter::begin(&mut out, 0, WallTime::default());
            datums.iter().for_each(|datum| push(&mut writer, &mut out, datum));
            writer.seal(&mut out);
            let frame = out.freeze().split_off(FRAME_HEADER_LEN);
            prop_assert!(Segment::parse(frame.slice(..frame.len().saturating_sub(cut))).is_err());
            let longer = [&frame[..], &vec![0; cut]].concat();
            prop_assert!(Segment::parse(longer.into()).is_err());
        }
    }

    #[test]
    fn a_datum_that_fails_or_is_too_long_leaves_the_segment_whole() {
        #[derive(Debug, PartialEq)]
        enum Error {
            Failed,
            TooLarge,
        }
        impl From<DatumTooLarge> for Error {
            fn from(_: DatumTooLarge) -> Self {
                Self::TooLarge
            }
        }
        let mut out = BytesMut::new();
        let mut writer = SegmentWriter::begin(&mut out, 7, WallTime::default());
        push(&mut writer, &mut out, b"one");
        let failed = writer.push(&mut out, |out| {
            out.put_u8(1);
            Err(Error::Failed)
        });
        assert_eq!(failed, Err(Error::Failed));
        let too_large = writer.push(&mut out, |out| {
            out.put_bytes(0, DATUM_LEN_MAX + 1);
            Ok(())
        });
        assert_eq!(too_large, Err(Error::TooLarge));
        push(&mut writer, &mut out, b"two");
        writer.seal(&mut out);
        let mut segment = Segment::parse(out.freeze().split_off(FRAME_HEADER_LEN)).unwrap();
        assert_eq!(segment.take().unwrap(), (7, Bytes::from_static(b"one")));
        assert_eq!(segment.take().unwrap(), (8, Bytes::from_static(b"two")));
        assert!(segment.is_empty());
    }

    #[test]
    fn gaps_are_counted_and_repetitions_refused() {
        let mut position = Position::new(10);
        assert_eq!(position.advance(10, 5), Ok(0));
        assert_eq!(position.advance(18, 2), Ok(3));
        assert_eq!(
            position.advance(19, 1),
            Err(SegmentError::Repeated {
                first: 19,
                next: 20
            })
        );
        assert_eq!(position.next(), 20);
        assert_eq!(position.advance(u64::MAX, 1), Err(SegmentError::Count(1)));
    }

    #[test]
    fn who_comes_later_to_shared_segments_may_see_passed_over_what_was_before_it() {
        let mut out = BytesMut::new();
        let mut writer = SegmentWriter::begin_selected(&mut out, 5, WallTime::default());
        writer
            .push_at::<DatumTooLarge>(&mut out, 9, |_| Ok(()))
            .unwrap();
        writer.seal(&mut out);
        let frame = out.freeze().split_off(FRAME_HEADER_LEN);
        let segment = Segment::parse_selected(frame).unwrap();
        assert_eq!(Position::new(7).advance_over(&segment), Ok(0));
        assert_eq!(Position::new(3).advance_over(&segment), Ok(2));
        assert!(Position::new(10).advance_over(&segment).is_err());
    }
}
