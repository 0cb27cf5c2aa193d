//! How fast a consumer is sent to: a token bucket, kept as the time at which it would be full again (the generic
//! cell rate algorithm, ITU-T I.371).

use crate::time::{Duration, Instant};

/// What may be sent at once after a pause, as a time at the full rate.
pub const BURST: Duration = Duration::from_millis(50);

/// Limits the bytes of one consumer. Bytes are spent after the fact: what is sent last within the burst may exceed
/// it, and is made up for before more is sent. So in any time `t` no more is sent than `rate * (t + BURST)`, and one
/// piece.
#[derive(Clone, Copy, Debug)]
pub struct Egress {
    /// Bytes per second, at least one.
    rate: u64,
    /// When all that was sent would have been, at the full rate.
    paid: Instant,
}

impl Egress {
    /// Nothing has been sent. `rate` is in bytes per second; zero counts as one.
    #[must_use]
    pub const fn new(rate: u64) -> Self {
        Self {
            rate: if rate == 0 { 1 } else { rate },
            paid: Instant::ZERO,
        }
    }

    /// When more may be sent; in the past where it may be now.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(self.paid.as_nanos().saturating_sub(burst))
    }

    /// How many bytes make up a burst, at least one.
    #[must_use]
    pub fn burst_len(&self) -> usize {
        let len = u128::from(self.rate) * BURST.as_nanos() / 1_000_000_000;
        usize::try_from(len).unwrap_or(usize::MAX).max(1)
    }

    /// So many bytes are being sent.
    pub fn spend(&mut self, now: Instant, bytes: usize) {
        // Rounded up, so that the rate is never exceeded in the long run.
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.rate));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let paid = self.paid.max(now).as_nanos().saturating_add(nanos);
        self.paid = Instant::from_nanos(paid);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// From any piece on and for any time: no more than the rate allows, a burst and one piece. And all of
        /// the rate can be used.
        #[test]
        fn no_more_than_the_rate_is_sent_and_no_less_is_possible(
            rate in 1..10_000_000u64,
            pieces in prop::collection::vec((1..200_000usize, 0..100u64), 1..60),
        ) {
            let mut egress = Egress::new(rate);
            let mut now = Instant::ZERO + Duration::from_secs(1);
            let mut sent: Vec<(Instant, usize)> = Vec::new();
            let start = now;
            let (mut total, mut paused) = (0usize, Duration::ZERO);
            for (len, pause_ms) in pieces {
                let pause = Duration::from_millis(pause_ms);
                now += pause;
                paused += pause;
                now = now.max(egress.ready_at());
                egress.spend(now, len);
                sent.push((now, len));
                total += len;
            }
            for (n, (from, _)) in sent.iter().enumerate() {
                let mut len = 0;
                for (at, piece) in &sent[n..] {
                    let allowed = (at.since(*from) + BURST).as_secs_f64() * rate as f64 + 1.0;
                    prop_assert!(len as f64 <= allowed, "{len} of {allowed}");
                    len += piece;
                }
            }
            let needed = Duration::from_secs_f64(total as f64 / rate as f64);
            let slack = Duration::from_micros(1);
            prop_assert!(now.since(start) <= paused + needed + slack);
        }
    }

    #[test]
    fn what_may_be_sent_at_once_follows_from_the_rate() {
        assert_eq!(Egress::new(0).burst_len(), 1);
        assert_eq!(Egress::new(1_000_000).burst_len(), 50_000);
        assert_eq!(Egress::new(u64::MAX).burst_len(), (u64::MAX / 20) as usize);
    }
}
