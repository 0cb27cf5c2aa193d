//! Segments: runs of datums that travel as one frame.
//!
//! A frame is its length (four bytes, little endian, as everywhere), a header of [`HEADER_LEN`] bytes (sequence
//! number of the first datum: eight bytes; number of datums: four; wall clock of the producer in microseconds:
//! eight), and each datum behind its own length (four bytes). A producer writes a segment once, in
//! place, whatever the number of consumers; the same bytes go to all of them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::time::WallTime;
use crate::wire::FRAME_HEADER_LEN;

/// The bytes of a segment's header, after the length of the frame.
pub const HEADER_LEN: usize = 20;
/// The bytes in front of each datum.
pub const DATUM_HEADER_LEN: usize = 4;
/// The longest datum, encoded, in bytes.
pub const DATUM_LEN_MAX: usize = 16 * 1_024 * 1_024;
/// A segment of this many bytes takes no more datums.
pub const SEGMENT_LEN: usize = 64 * 1_024;
/// The longest frame of a segment, in bytes: a full datum on top of a segment that was not full yet.
pub const FRAME_LEN_MAX: usize = SEGMENT_LEN + HEADER_LEN + DATUM_HEADER_LEN + DATUM_LEN_MAX;

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
    first: u64,
    count: u32,
}

impl SegmentWriter {
    /// Begins a segment at the end of `out`; its first datum will have the sequence number `first`.
    #[must_use]
    pub fn begin(out: &mut BytesMut, first: u64, at: WallTime) -> Self {
        let start = out.len();
        out.put_u32_le(0);
        out.put_u64_le(first);
        out.put_u32_le(0);
        out.put_u64_le(at.as_micros());
        Self {
            start,
            end: out.len(),
            first,
            count: 0,
        }
    }

    /// Appends the datum that `encode` writes to `out`. On an error `out` is as before.
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
        out.truncate(self.end);
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
                self.count += 1;
                Ok(())
            }
            Err(error) => {
                out.truncate(header);
                Err(error)
            }
        }
    }

    /// The datums in it.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The sequence number of its first datum.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
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
        let len = (out.len() - self.start - FRAME_HEADER_LEN) as u32;
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
    next: u64,
    left: u32,
    at: WallTime,
    datums: Bytes,
}

impl Segment {
    /// The segment that is `frame` (without the frame's length). All of it is checked here, so that taking
    /// datums cannot fail.
    ///
    /// # Errors
    /// [`SegmentError`] where it is none.
    pub fn parse(mut frame: Bytes) -> Result<Self, SegmentError> {
        let len = frame.len();
        if len < HEADER_LEN {
            return Err(SegmentError::Malformed { len, count: 0 });
        }
        let next = frame.get_u64_le();
        let left = frame.get_u32_le();
        let at = WallTime::from_micros(frame.get_u64_le());
        if left == 0 || next.checked_add(left.into()).is_none() {
            return Err(SegmentError::Count(left));
        }
        let malformed = SegmentError::Malformed { len, count: left };
        let mut rest = &frame[..];
        for _ in 0..left {
            let (header, after) = rest.split_first_chunk().ok_or(malformed)?;
            let datum_len = u32::from_le_bytes(*header) as usize;
            rest = after.get(datum_len..).ok_or(malformed)?;
        }
        if !rest.is_empty() {
            return Err(malformed);
        }
        Ok(Self {
            next,
            left,
            at,
            datums: frame,
        })
    }

    /// The sequence number of the next datum.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next
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
        Some((sequence, datum))
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
        let missing = first.checked_sub(self.next).ok_or(SegmentError::Repeated {
            first,
            next: self.next,
        })?;
        self.next = first
            .checked_add(count.into())
            .ok_or(SegmentError::Count(count))?;
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

        #[test]
        fn arbitrary_frames_never_panic(frame in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(mut segment) = Segment::parse(frame.into()) {
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
}
