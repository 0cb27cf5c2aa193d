//! Smoothing of round-trip times.

use crate::time::Duration;

/// A round-trip time, smoothed after RFC 6298, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl Estimate {
    /// The estimate after one sample.
    pub(super) fn new(sample: Duration) -> Self {
        Self {
            smoothed: sample,
            variation: sample / 2,
        }
    }

    /// Takes in another sample.
    pub(super) fn update(&mut self, sample: Duration) {
        let deviation = self.smoothed.abs_diff(sample);
        self.variation = (self.variation * 3 + deviation) / 4;
        self.smoothed = (self.smoothed * 7 + sample) / 8;
    }

    /// The smoothed time.
    pub(super) const fn smoothed(self) -> Duration {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_follows_rfc_6298() {
        let ms = Duration::from_millis;
        let mut estimate = Estimate::new(ms(100));
        assert_eq!(estimate.smoothed(), ms(100));
        estimate.update(ms(180));
        assert_eq!(estimate.smoothed(), ms(110));
        // (3 * 50 + |100 - 180|) / 4
        assert_eq!(estimate.variation, Duration::from_micros(57_500));
    }
}
