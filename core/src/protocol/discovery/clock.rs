//! Notices that this node's clock is behind: by it, everybody is from the future.

use std::collections::BTreeMap;

use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// How long entries are gathered before it is said that they are refused.
const GATHER: Duration = Duration::from_secs(5);
/// Least time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// The most peers that are counted.
const COUNTED_MAX: usize = 128;

/// Peers whose entries are dated too far in the future to be taken in.
pub(super) struct ClockWatch {
    /// By how much each was ahead when it was heard last.
    ahead: BTreeMap<PeerId, Duration>,
    since: Instant,
    report_allowed_at: Instant,
}

/// More peers are refused because of the clock than are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// How many are refused.
    pub(super) peers: usize,
    /// By how much the one is ahead that is so the least.
    pub(super) at_least: Duration,
}

impl ClockWatch {
    pub(super) const fn new() -> Self {
        Self {
            ahead: BTreeMap::new(),
            since: Instant::ZERO,
            report_allowed_at: Instant::ZERO,
        }
    }

    /// An entry of `peer` was refused that was made `ahead` from now by this node's clock, while `known`
    /// others are in the catalog. Gives what is to be reported, where it is time to.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        peer: PeerId,
        ahead: Duration,
        known: usize,
    ) -> Option<Behind> {
        // Who was refused long ago may have set its clock right since.
        if now.since(self.since) > REPORT_INTERVAL {
            self.ahead.clear();
        }
        if self.ahead.is_empty() {
            self.since = now;
        }
        if self.ahead.len() < COUNTED_MAX || self.ahead.contains_key(&peer) {
            self.ahead.insert(peer, ahead);
        }
        let is_due = now >= self.report_allowed_at && now.since(self.since) >= GATHER;
        // Where most are taken in, it is the others' clocks that are ahead.
        if !is_due || self.ahead.len() <= known {
            return None;
        }
        self.report_allowed_at = now + REPORT_INTERVAL;
        let peers = self.ahead.len();
        let at_least = std::mem::take(&mut self.ahead).into_values().min()?;
        Some(Behind { peers, at_least })
    }

    /// The clock was set.
    pub(super) fn clear(&mut self) {
        self.ahead.clear();
    }
}
