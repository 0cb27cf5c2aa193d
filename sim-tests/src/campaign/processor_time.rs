//! How long this thread has had a processor, so that speed does not depend on what else the machine
//! does.

use std::fs;
use std::time::{Duration, Instant};

/// Measures the processor time that this thread takes from its making on; where the system does not
/// tell, the time that passes.
pub(super) struct Stopwatch {
    begun: Instant,
    taken_before: Option<Duration>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            taken_before: taken(),
        }
    }

    pub(super) fn read(&self) -> Duration {
        match (self.taken_before, taken()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            (None, _) | (_, None) => self.begun.elapsed(),
        }
    }
}

/// The processor time of this thread so far: the first number of Linux's scheduler statistics, in
/// nanoseconds.
fn taken() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}
