//! The one time of a run, and how each node's clocks depart from it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti_core::time::{Instant, WallTime};

/// A point of simulated time: nanoseconds since the run began, the same for all nodes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SimTime(u64);

impl SimTime {
    /// The beginning of the run.
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `nanos` nanoseconds into the run.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the run began.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`, or zero where that is the later of the two.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for SimTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl From<Duration> for SimTime {
    fn from(since_start: Duration) -> Self {
        Self(nanos(since_start))
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// Nanoseconds of `duration`, at most what 64 bits hold (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What every node's wall clock shows when a run begins, before its own offset: 14 November 2023.
pub const EPOCH: WallTime = WallTime::from_micros(1_700_000_000_000_000);

/// The fastest and slowest that a clock may run: half as fast again, and half as fast.
pub const DRIFT_PPM_MAX: i32 = 500_000;

/// A node's clocks: one oscillator that may run fast or slow, the monotonic clock that counts it since
/// the node's start, and the wall clock that counts it since [`EPOCH`] and is also set from outside.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// When the rate last changed, and what the oscillator had counted by then.
    changed: SimTime,
    counted: u64,
    drift_ppm: i32,
    /// What the oscillator had counted when the node started.
    started: u64,
    wall_offset_micros: i64,
}

impl Default for NodeClock {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeClock {
    /// A clock without offset or drift, of a node that starts when the run begins.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            changed: SimTime::ZERO,
            counted: 0,
            drift_ppm: 0,
            started: 0,
            wall_offset_micros: 0,
        }
    }

    /// Makes the node start at `now`: its monotonic clock shows zero. Drift and offset stay.
    pub fn restart(&mut self, now: SimTime) {
        self.started = self.count(now);
    }

    /// Lets the clocks run fast by `ppm` parts in a million from `now` on, or slow where negative; at
    /// most [`DRIFT_PPM_MAX`] either way.
    pub fn set_drift(&mut self, now: SimTime, ppm: i32) {
        self.counted = self.count(now);
        self.changed = now;
        self.drift_ppm = ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX);
    }

    /// Sets the wall clock forward by `micros`, or back where negative.
    pub fn jump(&mut self, micros: i64) {
        self.wall_offset_micros = self.wall_offset_micros.saturating_add(micros);
    }

    /// What the monotonic clock shows at `now`.
    #[must_use]
    pub fn monotonic(&self, now: SimTime) -> Instant {
        Instant::from_nanos(self.count(now).saturating_sub(self.started))
    }

    /// When the monotonic clock shows `instant` (the first nanosecond at which it is not below).
    #[must_use]
    pub fn when(&self, instant: Instant) -> SimTime {
        let count = self.started.saturating_add(instant.as_nanos());
        if self.drift_ppm == 0 {
            return SimTime(
                count
                    .saturating_sub(self.counted)
                    .saturating_add(self.changed.0),
            );
        }
        let ahead = u128::from(count.saturating_sub(self.counted));
        let nanos = (ahead * 1_000_000).div_ceil(self.rate());
        SimTime(
            u64::try_from(nanos)
                .unwrap_or(u64::MAX)
                .saturating_add(self.changed.0),
        )
    }

    /// What the wall clock shows at `now`.
    #[must_use]
    pub fn wall(&self, now: SimTime) -> WallTime {
        let micros = EPOCH.as_micros() + self.count(now) / 1_000;
        WallTime::from_micros(micros.saturating_add_signed(self.wall_offset_micros))
    }

    fn count(&self, now: SimTime) -> u64 {
        let passed = now.0.saturating_sub(self.changed.0);
        if self.drift_ppm == 0 {
            return self.counted.saturating_add(passed);
        }
        let counted = u128::from(passed) * self.rate() / 1_000_000;
        self.counted
            .saturating_add(u64::try_from(counted).unwrap_or(u64::MAX))
    }

    fn rate(&self) -> u128 {
        // The drift is clamped far above minus one million.
        u128::from((1_000_000 + self.drift_ppm).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_reached_early_whatever_the_drift() {
        for drift in [
            0,
            1,
            -1,
            333,
            -333,
            77_777,
            -77_777,
            DRIFT_PPM_MAX,
            -DRIFT_PPM_MAX,
        ] {
            let mut clock = NodeClock::new();
            clock.set_drift(SimTime::from_nanos(1_234_567), drift);
            clock.restart(SimTime::from_nanos(9_999_999));
            for nanos in [1, 17, 1_000_003, 7_000_000_001] {
                let deadline = Instant::from_nanos(nanos);
                let due = clock.when(deadline);
                assert!(clock.monotonic(due) >= deadline, "{drift} {nanos}");
                let before = SimTime::from_nanos(due.as_nanos() - 1);
                assert!(clock.monotonic(before) < deadline, "{drift} {nanos}");
            }
        }
    }

    #[test]
    fn jumps_move_the_wall_clock_alone() {
        let mut clock = NodeClock::new();
        let now = SimTime::from_nanos(5_000);
        clock.jump(-1_000_000);
        assert_eq!(
            clock.wall(now).as_micros(),
            EPOCH.as_micros() + 5 - 1_000_000
        );
        assert_eq!(clock.monotonic(now), Instant::from_nanos(5_000));
    }

    #[test]
    fn a_change_of_rate_does_not_move_the_clock() {
        let mut clock = NodeClock::new();
        let now = SimTime::from_nanos(1_000_000);
        clock.set_drift(now, 100_000);
        assert_eq!(clock.monotonic(now), Instant::from_nanos(1_000_000));
        let later = SimTime::from_nanos(2_000_000);
        assert_eq!(clock.monotonic(later), Instant::from_nanos(2_100_000));
    }
}
