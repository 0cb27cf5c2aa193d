//! Randomness: one seed, many streams, each named by what it is for.
//!
//! Taking one fault away must not change what is drawn for another, or no failure could be made smaller.
//! So nothing shares a stream: each purpose asks for its own by label, and a node's streams are those of
//! its own branch. All draws are in integers, so that they are the same on every machine.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::time::nanos;

/// A million: what probabilities are counted in (parts per million).
pub const MILLION: u32 = 1_000_000;

/// A source of independent random streams, told apart by label.
///
/// ```
/// use rand::Rng;
/// use smalti_sim::rng::Streams;
///
/// let streams = Streams::new(7);
/// let draw = streams.stream("net/latency").next_u64();
/// assert_eq!(Streams::new(7).stream("net/latency").next_u64(), draw);
/// assert_ne!(streams.stream("net/loss").next_u64(), draw);
/// ```
#[derive(Clone, Debug)]
pub struct Streams([u8; 32]);

impl Streams {
    /// The streams of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(derive("smalti simulation seed", &seed.to_le_bytes(), &[]))
    }

    /// The stream of `label`, from its beginning.
    #[must_use]
    pub fn stream(&self, label: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.seed(label))
    }

    /// The 32 bytes that the stream of `label` is seeded with, for keys and for code that brings its own
    /// generator.
    #[must_use]
    pub fn seed(&self, label: &str) -> [u8; 32] {
        derive("smalti simulation stream", &self.0, label.as_bytes())
    }

    /// The streams that belong to `label`, for example to one node.
    #[must_use]
    pub fn branch(&self, label: &str) -> Self {
        Self(derive(
            "smalti simulation branch",
            &self.0,
            label.as_bytes(),
        ))
    }
}

fn derive(domain: &str, key: &[u8], label: &[u8]) -> [u8; 32] {
    *smalti_core::id::Digest::of(domain, &[key, label]).as_bytes()
}

/// A number below `bound` (zero where `bound` is zero).
///
/// By multiplication, without rejection: the bias is below `bound / 2^64`, and the result does not depend
/// on the version of a library.
pub fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    let product = u128::from(rng.next_u64()) * u128::from(bound);
    // The upper half of a product of two 64-bit numbers fits.
    (product >> 64) as u64
}

/// Whether something that happens `ppm` times in a million happens now. Draws nothing where the answer is
/// certain.
pub fn chance(rng: &mut impl Rng, ppm: u32) -> bool {
    match ppm {
        0 => false,
        MILLION.. => true,
        _ => below(rng, u64::from(MILLION)) < u64::from(ppm),
    }
}

/// A duration from `low` to `high`, in nanoseconds, both included.
pub fn between(rng: &mut impl Rng, low: Duration, high: Duration) -> Duration {
    let (low, high) = (nanos(low), nanos(high));
    let span = high.saturating_sub(low).saturating_add(1);
    Duration::from_nanos(low + below(rng, span))
}

/// A duration that is exponential in all but detail: each further `half_life` halves the probability, and
/// within one it is uniform. Its mean is 1.5 half-lives.
pub fn exponential(rng: &mut impl Rng, half_life_nanos: u64) -> u64 {
    let draw = rng.next_u64();
    // The low half decides how many half-lives pass, the high half where in the last one it ends.
    let whole = u64::from((draw as u32).trailing_zeros());
    let part = (u128::from(draw >> 32) * u128::from(half_life_nanos)) >> 32;
    whole
        .saturating_mul(half_life_nanos)
        .saturating_add(part as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_label_and_branch() {
        let streams = Streams::new(1);
        let draws = [
            streams.stream("a").next_u64(),
            streams.stream("b").next_u64(),
            streams.branch("a").stream("a").next_u64(),
            Streams::new(2).stream("a").next_u64(),
        ];
        for (index, draw) in draws.iter().enumerate() {
            assert!(!draws[..index].contains(draw));
        }
    }

    #[test]
    fn chances_come_out_as_often_as_asked() {
        let mut rng = Streams::new(3).stream("chance");
        let hits = (0..100_000).filter(|_| chance(&mut rng, 250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        assert!(!chance(&mut rng, 0));
        assert!(chance(&mut rng, MILLION));
    }

    #[test]
    fn the_exponential_has_the_mean_and_the_tail_that_it_claims() {
        let mut rng = Streams::new(4).stream("exponential");
        let draws: Vec<u64> = (0..100_000).map(|_| exponential(&mut rng, 1_000)).collect();
        let mean = draws.iter().sum::<u64>() / 100_000;
        assert!((1_470..1_530).contains(&mean), "{mean}");
        let beyond_three = draws.iter().filter(|draw| **draw >= 3_000).count();
        assert!((11_900..13_100).contains(&beyond_three), "{beyond_three}");
    }

    #[test]
    fn durations_stay_within_their_bounds() {
        let mut rng = Streams::new(5).stream("between");
        let (low, high) = (Duration::from_nanos(3), Duration::from_nanos(5));
        let mut seen = [false; 3];
        for _ in 0..200 {
            let draw = between(&mut rng, low, high);
            seen[usize::try_from(draw.as_nanos() - 3).unwrap()] = true;
        }
        assert_eq!(seen, [true; 3]);
    }
}
