//! The trace: everything that happened, as one number.
//!
//! Every event is mixed as canonical words (time, node, kind, digest of its payload) into a rolling 64-bit
//! hash. Two runs of one seed have equal hashes, in debug and release, in this process and another. Where
//! they differ, the checkpoints taken each [`CHECKPOINT_EVERY`] events say where to look, and a second run
//! with [`Trace::record_lines`] shows those events as text.
//!
//! The hash tells honest runs apart; it is no cryptographic one.

use std::hash::Hasher;
use std::ops::Range;

use crate::NodeIndex;
use crate::time::SimTime;

/// Events between two checkpoints of the rolling hash.
pub const CHECKPOINT_EVERY: u64 = 10_000;

/// What an event is, as it enters the hash. The numbers are part of the hash: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum EventKind {
    /// A node started, for the first time or again.
    Start = 1,
    /// Something reached a node: a message, a reply, a request.
    Input = 2,
    /// A node's deadline came.
    Timer = 3,
    /// A fault began or ended.
    Fault = 4,
    /// A packet was handed to the network.
    PacketSent = 5,
    /// A packet reached its host.
    PacketReceived = 6,
    /// The network dropped a packet.
    PacketLost = 7,
    /// A host's application ended.
    Finish = 8,
    /// A link or connection opened, closed or failed.
    Link = 9,
    /// A disk operation.
    Disk = 10,
    /// Something that an application wrote into the trace.
    Note = 11,
}

/// The trace of one run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    checkpoints: Vec<u64>,
    recorded: Range<u64>,
    lines: Vec<String>,
}

impl Trace {
    /// An empty trace that keeps no lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps, as text, the events numbered within `range` (the first event is number zero).
    pub fn record_lines(&mut self, range: Range<u64>) {
        self.recorded = range;
    }

    /// Takes note of an event. `describe` is called only where the event is kept as text.
    pub fn record(
        &mut self,
        time: SimTime,
        node: NodeIndex,
        kind: EventKind,
        digest: u64,
        describe: impl FnOnce() -> String,
    ) {
        let place = (u64::from(node.0) << 8) | u64::from(kind as u8);
        self.hash = mix(mix(mix(self.hash, time.as_nanos()), place), digest);
        if self.recorded.contains(&self.events) {
            let number = self.events;
            self.lines.push(format!(
                "{number:>9} {time} n{} {kind:?} {digest:016x} {}",
                node.0,
                describe()
            ));
        }
        self.events += 1;
        if self.events.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpoints.push(self.hash);
        }
    }

    /// The hash of all events so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The hash after each [`CHECKPOINT_EVERY`] events.
    #[must_use]
    pub fn checkpoints(&self) -> &[u64] {
        &self.checkpoints
    }

    /// The events kept as text, one line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The numbers of the events among which this trace and `other` first differ, or nothing where they
    /// are the same.
    #[must_use]
    pub fn first_divergence(&self, other: &Self) -> Option<Range<u64>> {
        let same = self
            .checkpoints
            .iter()
            .zip(&other.checkpoints)
            .take_while(|(ours, theirs)| ours == theirs)
            .count() as u64;
        let first = same * CHECKPOINT_EVERY;
        let last = self.events.max(other.events).min(first + CHECKPOINT_EVERY);
        (self.hash != other.hash || self.events != other.events).then_some(first..last)
    }
}

/// A hasher for what goes into a [`Trace`]: the same result on every 64-bit machine, in every process.
///
/// It is a [`Hasher`], so that whatever derives `Hash` can be digested.
///
/// ```
/// use smalti_sim::trace::digest;
/// assert_eq!(digest(&("ping", 7u32)), digest(&("ping", 7u32)));
/// assert_ne!(digest(&("ping", 7u32)), digest(&("ping", 8u32)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct TraceHasher(u64);

impl TraceHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }
}

impl Hasher for TraceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = mix(self.0, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells apart a short rest from one that ends in zeros.
        self.0 = mix(
            self.0,
            u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56),
        );
    }

    // The provided methods write in the machine's byte order; these do not.
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}

/// The digest of `value` for a [`Trace`].
pub fn digest<T: std::hash::Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = TraceHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// One step of the hash: a multiplication to 128 bits, folded (as in wyhash).
fn mix(state: u64, word: u64) -> u64 {
    // Odd constants with about as many ones as zeros: the fractions of the golden ratio and of pi.
    let product = u128::from(state ^ word ^ 0x243f_6a88_85a3_08d3)
        * u128::from(word.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15);
    (product as u64) ^ ((product >> 64) as u64) ^ state.rotate_left(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(trace: &mut Trace, value: u64) {
        let time = SimTime::from_nanos(value);
        trace.record(time, NodeIndex(1), EventKind::Note, value, || {
            format!("note {value}")
        });
    }

    fn trace_of(values: impl IntoIterator<Item = u64>) -> Trace {
        let mut trace = Trace::new();
        for value in values {
            note(&mut trace, value);
        }
        trace
    }

    #[test]
    fn the_hash_is_the_same_on_every_machine_and_in_every_build() {
        assert_eq!(trace_of(0..1_000).hash(), 2_719_517_163_351_335_217);
        assert_eq!(
            digest(&("ping", 7u32, [1u8, 2, 3])),
            13_675_800_060_162_617_583
        );
    }

    #[test]
    fn order_content_and_number_of_events_all_show() {
        let hash = trace_of([1, 2, 3]).hash();
        assert_ne!(trace_of([2, 1, 3]).hash(), hash);
        assert_ne!(trace_of([1, 2, 4]).hash(), hash);
        assert_ne!(trace_of([1, 2, 3, 3]).hash(), hash);
        assert_ne!(trace_of([0]).hash(), trace_of([0, 0]).hash());
    }

    #[test]
    fn the_first_difference_is_found_to_within_one_checkpoint() {
        let a = trace_of(0..35_000);
        assert_eq!(a.first_divergence(&a.clone()), None);
        let b = trace_of((0..35_000).map(|value| if value == 23_456 { 0 } else { value }));
        assert_eq!(a.first_divergence(&b), Some(20_000..30_000));
        let shorter = trace_of(0..30_500);
        assert_eq!(a.first_divergence(&shorter), Some(30_000..35_000));
    }

    #[test]
    fn only_the_lines_asked_for_are_kept() {
        let mut trace = Trace::new();
        trace.record_lines(3..5);
        for value in 0..10 {
            note(&mut trace, value);
        }
        assert_eq!(trace.lines().len(), 2);
        assert!(trace.lines()[0].ends_with("note 3"), "{}", trace.lines()[0]);
        assert_eq!(trace.hash(), trace_of(0..10).hash());
    }

    #[test]
    fn bytes_that_end_in_zeros_differ_from_shorter_ones() {
        assert_ne!(digest(&[1u8, 0][..]), digest(&[1u8][..]));
        let mut hashes = Vec::new();
        for len in 0..20 {
            let mut hasher = TraceHasher::new();
            hasher.write(&vec![0; len]);
            assert!(!hashes.contains(&hasher.finish()));
            hashes.push(hasher.finish());
        }
    }
}
