//! What a message is on the wire, without writing it there: its digest for the trace, and its
//! length.

use std::hash::Hasher;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use smalti_core::wire::FRAME_HEADER_LEN;
use smalti_sim::trace::TraceHasher;

/// The digest of the bytes that `message` takes on the wire.
pub(super) fn digest(message: &impl Serialize) -> u64 {
    encode(message).0
}

/// How many bytes `message` takes on the wire, the header of its frame included.
pub(super) fn wire_len(message: &impl Serialize) -> usize {
    encode(message).1 + FRAME_HEADER_LEN
}

/// How many bytes `part` of a message takes.
pub(super) fn len(part: &impl Serialize) -> usize {
    encode(part).1
}

fn encode(message: &impl Serialize) -> (u64, usize) {
    // Nothing in a message refuses to be serialized, and the sink takes all.
    postcard::serialize_with_flavor(message, Sink::default())
        .expect("messages have no unserializable part")
}

/// Takes bytes and forgets them. Single ones are gathered into words, since most of a message is in
/// slices.
#[derive(Default)]
struct Sink {
    hasher: TraceHasher,
    word: u64,
    filled: u32,
    len: usize,
}

impl Sink {
    fn flush(&mut self) {
        // The number of bytes tells apart words that end in zeros.
        self.hasher.write_u64(self.word);
        self.hasher.write_u32(self.filled);
        (self.word, self.filled) = (0, 0);
    }
}

impl Flavor for Sink {
    type Output = (u64, usize);

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.word |= u64::from(byte) << (8 * self.filled);
        self.filled += 1;
        self.len += 1;
        if self.filled == 8 {
            self.flush();
        }
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() < 8 {
            return bytes.iter().try_for_each(|byte| self.try_push(*byte));
        }
        self.flush();
        self.hasher.write(bytes);
        self.len += bytes.len();
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<(u64, usize)> {
        self.flush();
        Ok((self.hasher.finish(), self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_encoding_and_digests_tell_messages_apart() {
        let messages: [(u8, Vec<u64>, &str); 5] = [
            (0, vec![], ""),
            (0, vec![0], ""),
            (0, vec![0, 0], ""),
            (0, vec![1, u64::MAX], "seven b"),
            (0, vec![1, u64::MAX], "a longer string"),
        ];
        for (index, message) in messages.iter().enumerate() {
            let encoded = postcard::to_stdvec(message).unwrap();
            assert_eq!(len(message), encoded.len());
            assert_eq!(wire_len(message), encoded.len() + 4);
            let same = messages
                .iter()
                .position(|other| digest(other) == digest(message));
            assert_eq!(same, Some(index));
        }
    }
}
