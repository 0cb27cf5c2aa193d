//! How long to wait before the next attempt.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::time::Duration;

/// Delays between attempts that fail: each twice the one before, up to a cap, every one shortened by a random
/// part so that those who failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: f64,
}

/// A backoff that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// The first delay is zero, or above the cap.
    #[error("the first delay ({first:?}) must be above zero and no longer than the cap ({max:?})")]
    Delays {
        /// The first delay.
        first: Duration,
        /// The cap.
        max: Duration,
    },
    /// The jitter is no share of the delay.
    #[error("the jitter ({0}) must lie between 0 and 1")]
    Jitter(f64),
}

impl Backoff {
    /// Delays from `first` on, doubled at each failure and never above `max`, of which a random part up to
    /// `jitter` (0 to 1) is taken away.
    ///
    /// # Errors
    /// [`BackoffError`] where the arguments fit no such delays.
    pub fn new(first: Duration, max: Duration, jitter: f64) -> Result<Self, BackoffError> {
        if first.is_zero() || first > max {
            return Err(BackoffError::Delays { first, max });
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(BackoffError::Jitter(jitter));
        }
        Ok(Self { first, max, jitter })
    }

    /// The longest delay.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The delay after so many failures in a row, of which there is at least one.
    pub(crate) fn delay(&self, failures: u32, rng: &mut ChaCha8Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(1.0 - self.jitter * rng.random::<f64>())
    }
}

impl Default for Backoff {
    /// From 100 ms to 5 s, jitter 0.5: a producer that comes back is found again within seconds.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(5),
            jitter: 0.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_keep_to_their_jitter() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let backoff =
            Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 0.5).unwrap();
        for (failures, full_ms) in [(1, 100), (2, 200), (4, 800), (5, 1_000), (u32::MAX, 1_000)] {
            let full = Duration::from_millis(full_ms);
            for _ in 0..100 {
                let delay = backoff.delay(failures, &mut rng);
                assert!(delay <= full && delay >= full / 2, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn impossible_delays_are_refused() {
        let second = Duration::from_secs(1);
        assert!(Backoff::new(Duration::ZERO, second, 0.0).is_err());
        assert!(Backoff::new(second * 2, second, 0.0).is_err());
        assert_eq!(
            Backoff::new(second, second, 1.5),
            Err(BackoffError::Jitter(1.5))
        );
        assert!(Backoff::new(second, second, f64::NAN).is_err());
    }
}
