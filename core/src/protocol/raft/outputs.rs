//! What came of commands that followed each other in one entry, in one piece of memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::types::Index;

/// What came of commands that followed each other in one entry. A clone, or a part, shares the memory.
#[derive(Clone, Debug)]
pub struct Outputs {
    shared: Arc<Shared>,
    /// Which of them these are.
    range: Range<usize>,
}

#[derive(Debug)]
struct Shared {
    index: Index,
    slots: Vec<Slot>,
    /// The outputs, one after the other.
    bytes: Bytes,
}

/// One command.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where in the bytes its output ends: it begins where the one before ends.
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Applied,
    GivenUp,
    Refused,
}

/// What came of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<T> {
    /// It was applied, with this output.
    Applied(T),
    /// It was given up before it was applied.
    GivenUp,
    /// It was not applied, since the incarnation was frozen.
    Refused,
}

impl<T> Ending<T> {
    /// The output, if there is one.
    pub fn output(self) -> Option<T> {
        match self {
            Self::Applied(output) => Some(output),
            Self::GivenUp | Self::Refused => None,
        }
    }
}

impl Outputs {
    /// The entry that they were in.
    #[must_use]
    pub fn index(&self) -> Index {
        self.shared.index
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// What came of the commands, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Ending<&[u8]>> {
        self.iter_from(0)
    }

    /// What came of the commands from this place on, which must be there.
    pub(super) fn iter_from(&self, place: usize) -> impl Iterator<Item = Ending<&[u8]>> {
        let first = self.range.start + place;
        let mut start = self.start_of(first);
        let slots = self.shared.slots[first..self.range.end].iter();
        slots.map(move |slot| {
            let output = start..slot.end;
            start = slot.end;
            slot.kind.with(|| &self.shared.bytes[output])
        })
    }

    /// What came of the command at this place, if there are so many.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Ending<Bytes>> {
        let at = self.range.start.checked_add(place)?;
        let slot = self.shared.slots[..self.range.end].get(at)?;
        let output = self.start_of(at)..slot.end;
        Some(slot.kind.with(|| self.shared.bytes.slice(output)))
    }

    /// Those of the commands at these places, which must be there.
    #[must_use]
    pub fn slice(&self, places: Range<usize>) -> Self {
        assert!(places.end <= self.len(), "there are not so many outputs");
        Self {
            shared: Arc::clone(&self.shared),
            range: self.range.start + places.start..self.range.start + places.end,
        }
    }

    /// Leaves out the first `count`, or all.
    pub(super) fn drop_first(&mut self, count: usize) {
        self.range.start += count.min(self.len());
    }

    /// The bytes of all of them together.
    pub(super) fn len_bytes(&self) -> usize {
        self.start_of(self.range.end) - self.start_of(self.range.start)
    }

    /// Where the output of the command at `at` begins.
    fn start_of(&self, at: usize) -> usize {
        let before = at.checked_sub(1).and_then(|at| self.shared.slots.get(at));
        before.map_or(0, |slot| slot.end)
    }
}

impl PartialEq for Outputs {
    fn eq(&self, other: &Self) -> bool {
        self.index() == other.index() && self.iter().eq(other.iter())
    }
}

impl Eq for Outputs {}

impl Kind {
    fn with<T>(self, output: impl FnOnce() -> T) -> Ending<T> {
        match self {
            Self::Applied => Ending::Applied(output()),
            Self::GivenUp => Ending::GivenUp,
            Self::Refused => Ending::Refused,
        }
    }
}

/// An output is taken to be about so long before it is known.
const OUTPUT_LEN: usize = 8;

/// Collects what comes of commands.
#[derive(Debug, Default)]
pub struct OutputsBuilder {
    slots: Vec<Slot>,
    bytes: BytesMut,
}

impl OutputsBuilder {
    /// With room for so many commands.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self {
            slots: Vec::with_capacity(count),
            bytes: BytesMut::with_capacity(count * OUTPUT_LEN),
        }
    }

    /// The next command was applied, with this output.
    pub fn push(&mut self, output: &[u8]) {
        self.bytes.extend_from_slice(output);
        self.end(Kind::Applied);
    }

    /// The next command was applied; `write` appends its output to the buffer, or fails.
    ///
    /// # Errors
    /// As `write` does. It is then as if the command had not been noted.
    pub fn push_with<E>(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let written = write(&mut self.bytes);
        match written {
            Ok(()) => self.end(Kind::Applied),
            Err(_) => self.bytes.truncate(start),
        }
        written
    }

    /// The next command was given up.
    pub(super) fn push_given_up(&mut self) {
        self.end(Kind::GivenUp);
    }

    /// The next command was refused.
    pub(super) fn push_refused(&mut self) {
        self.end(Kind::Refused);
    }

    /// Inlined into what is generic over the output, which is compiled elsewhere.
    #[inline]
    fn end(&mut self, kind: Kind) {
        let end = self.bytes.len();
        self.slots.push(Slot { end, kind });
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The bytes of all outputs.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All of them; they were in entry `index`.
    #[must_use]
    pub fn finish(self, index: Index) -> Outputs {
        let range = 0..self.slots.len();
        let shared = Shared {
            index,
            slots: self.slots,
            bytes: self.bytes.freeze(),
        };
        Outputs {
            shared: Arc::new(shared),
            range,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tell_of_their_commands_alone() {
        let mut outputs = OutputsBuilder::default();
        outputs.push(b"one");
        outputs.push_refused();
        outputs.push(b"");
        outputs.push_given_up();
        outputs
            .push_with(|buffer| {
                buffer.extend_from_slice(b"lost");
                Err(())
            })
            .unwrap_err();
        outputs.push(b"five");
        let all = outputs.finish(Index(7));
        let expected: [Ending<&[u8]>; 5] = [
            Ending::Applied(b"one"),
            Ending::Refused,
            Ending::Applied(b""),
            Ending::GivenUp,
            Ending::Applied(b"five"),
        ];
        assert!(all.iter().eq(expected));
        assert_eq!((all.len(), all.len_bytes()), (5, 7));
        for (from, to) in [(0, 0), (0, 2), (1, 4), (4, 5)] {
            let part = all.slice(from..to);
            assert!(part.iter().eq(expected[from..to].iter().copied()));
            let one_by_one = (0..=part.len()).map_while(|place| part.get(place));
            assert!(one_by_one.eq(expected[from..to].iter().map(|it| match it {
                Ending::Applied(output) => Ending::Applied(Bytes::from_static(output)),
                Ending::GivenUp => Ending::GivenUp,
                Ending::Refused => Ending::Refused,
            })));
        }
        let mut last = all.clone();
        last.drop_first(3);
        assert_eq!(last, all.slice(3..5));
        assert_eq!(last.len_bytes(), 4);
        last.drop_first(9);
        assert!(last.is_empty());
    }
}
