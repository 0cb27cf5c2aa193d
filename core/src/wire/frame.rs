//! Frames: a length in front of each message on a stream.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;

use super::codec::{EncodeError, encode_into};

/// Chunks shorter than this are copied: one that is kept as it came keeps the whole packet that it came in,
/// and a peer may put one byte into each.
const COPIED_LEN_MAX: usize = 256;

/// The length field: four bytes, little endian.
pub const FRAME_HEADER_LEN: usize = 4;

/// A frame cannot be sent or taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It is longer than the protocol allows.
    #[error("a frame of {len} bytes is longer than the {max} that the protocol allows")]
    TooLarge {
        /// Its length in bytes, as announced.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Its value cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Appends `value` as one frame of at most `max` bytes to `out`. On an error `out` is as before.
///
/// # Errors
/// [`FrameError`] where the value does not fit or cannot be encoded.
pub fn encode_frame<T: Serialize + ?Sized>(
    value: &T,
    max: usize,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    let encoded = encode_into(value, out);
    let len = out.len() - start - FRAME_HEADER_LEN;
    let header = match (encoded, u32::try_from(len)) {
        (Ok(()), Ok(header)) if len <= max => header,
        (result, _) => {
            out.truncate(start);
            result?;
            return Err(FrameError::TooLarge { len, max });
        }
    };
    out[start..start + FRAME_HEADER_LEN].copy_from_slice(&header.to_le_bytes());
    Ok(())
}

/// Appends `message`, which is encoded already, as one frame of at most `max` bytes to `out`. On an error
/// `out` is as before.
///
/// # Errors
/// [`FrameError::TooLarge`] where it does not fit.
pub fn append_frame(message: &[u8], max: usize, out: &mut BytesMut) -> Result<(), FrameError> {
    let len = message.len();
    match u32::try_from(len) {
        Ok(header) if len <= max => {
            out.extend_from_slice(&header.to_le_bytes());
            out.extend_from_slice(message);
            Ok(())
        }
        _ => Err(FrameError::TooLarge { len, max }),
    }
}

/// Cuts a stream of chunks into frames. Holds at most one incomplete frame and what was pushed after it.
///
/// A frame that lies within one chunk is given without copying. The buffer grows with what has arrived,
/// never with what a length field announces.
#[derive(Debug)]
pub struct FrameBuffer {
    /// What has arrived and is not given out yet, in order; no chunk is empty.
    chunks: VecDeque<Bytes>,
    /// Small chunks that came after those, copied together.
    tail: BytesMut,
    /// The bytes in `chunks` and `tail`.
    len: usize,
    frame_len_max: usize,
}

impl FrameBuffer {
    /// An empty buffer for frames of at most `frame_len_max` bytes.
    #[must_use]
    pub fn new(frame_len_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            frame_len_max,
        }
    }

    /// Appends what has arrived.
    pub fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() < COPIED_LEN_MAX {
            self.tail.extend_from_slice(&chunk);
        } else {
            self.end_tail();
            self.chunks.push_back(chunk);
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// True where nothing has arrived that was not given out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next whole frame, without its length field; `None` until more arrives.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], now and for ever, once a longer frame is announced.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.len < FRAME_HEADER_LEN {
            return Ok(None);
        }
        let len = self.announced_len();
        if len > self.frame_len_max {
            return Err(FrameError::TooLarge {
                len,
                max: self.frame_len_max,
            });
        }
        if self.len < FRAME_HEADER_LEN + len {
            return Ok(None);
        }
        self.end_tail();
        self.take(FRAME_HEADER_LEN);
        Ok(Some(self.take(len)))
    }

    fn announced_len(&self) -> usize {
        let mut header = [0; FRAME_HEADER_LEN];
        let chunks = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let bytes = chunks.chain(&self.tail);
        for (slot, byte) in header.iter_mut().zip(bytes) {
            *slot = *byte;
        }
        u32::from_le_bytes(header) as usize
    }

    /// Removes the first `len` bytes, of which there are enough.
    fn take(&mut self, len: usize) -> Bytes {
        self.len -= len;
        let mut gathered = BytesMut::new();
        while let Some(first) = self.chunks.front_mut() {
            let missing = len - gathered.len();
            if gathered.is_empty() && first.len() >= missing {
                let taken = first.split_to(missing);
                self.drop_empty_front();
                return taken;
            }
            let part = missing.min(first.len());
            gathered.extend_from_slice(&first[..part]);
            first.advance(part);
            self.drop_empty_front();
            if gathered.len() == len {
                break;
            }
        }
        gathered.freeze()
    }

    fn drop_empty_front(&mut self) {
        if self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..12),
            cuts in prop::collection::vec(prop_oneof![1..17usize, 200..700usize], 1..8),
        ) {
            let mut wire = BytesMut::new();
            for message in &messages {
                encode_frame(message, 1_024, &mut wire).unwrap();
            }
            let mut wire = wire.freeze();
            let mut buffer = FrameBuffer::new(1_024);
            let mut received = Vec::new();
            for cut in cuts.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                buffer.push(wire.split_to((*cut).min(wire.len())));
                while let Some(frame) = buffer.next_frame().unwrap() {
                    received.push(super::super::decode::<Vec<u8>>(&frame).unwrap());
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(received, messages);
        }

        #[test]
        fn arbitrary_chunks_never_panic(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
        ) {
            let mut buffer = FrameBuffer::new(16);
            for chunk in chunks {
                buffer.push(chunk.into());
                while let Ok(Some(frame)) = buffer.next_frame() {
                    prop_assert!(frame.len() <= 16);
                }
            }
        }
    }

    #[test]
    fn a_length_of_four_gigabytes_is_refused_before_anything_is_kept_for_it() {
        let mut buffer = FrameBuffer::new(1_024);
        buffer.push(Bytes::from_static(&[0xff; 4]));
        let refused = Err(FrameError::TooLarge {
            len: 0xffff_ffff,
            max: 1_024,
        });
        assert_eq!(buffer.next_frame(), refused);
        assert_eq!(buffer.next_frame(), refused);
    }

    #[test]
    fn a_frame_that_does_not_fit_leaves_the_output_as_it_was() {
        let mut out = BytesMut::from(&b"before"[..]);
        let error = encode_frame(&[0u8; 32], 16, &mut out).unwrap_err();
        assert_eq!(error, FrameError::TooLarge { len: 32, max: 16 });
        assert_eq!(&out[..], b"before");
    }
}
