//! What a leader knows of one other member.

use std::collections::VecDeque;

use super::types::{Index, Run};
use crate::time::Instant;

/// Appends on their way to one member, at most: with fewer the wire idles, with more a slow member holds
/// more of the leader's memory, and batches are smaller.
const IN_FLIGHT_MAX: usize = 4;

/// How entries are sent to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It is not known where the logs agree: one append at a time, answered before the next.
    Probe {
        /// One is on its way.
        sent: bool,
    },
    /// The logs agree up to what was sent: append after append.
    Replicate,
    /// It fetches what it lacks from others: signs of life alone.
    CatchingUp,
}

/// What a leader knows of one other member, voter or not. Kept for one life of the member: a later one has
/// acknowledged nothing.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The logs agree up to here, durably there.
    pub(super) matched: Index,
    /// What is sent next.
    pub(super) next: Index,
    pub(super) pace: Pace,
    /// The last index of each append on its way.
    in_flight: VecDeque<Index>,
    /// The latest round that it has echoed.
    pub(super) round: u64,
    /// When it was last heard.
    pub(super) heard_at: Instant,
    /// Since when it has kept up, without a pause.
    pub(super) kept_up_since: Option<Instant>,
    /// With fewer than three voters: it was waited for in vain, and is not waited for before this instant.
    pub(super) skipped_until: Instant,
    /// The commit index it was last told.
    pub(super) told_commit: Index,
    /// Its run, when it was last heard of.
    pub(super) run: Option<Run>,
    /// Its store was set back: what it acknowledged may be gone, so nothing that it says counts.
    pub(super) is_suspect: bool,
}

impl Progress {
    /// Of a member that nothing is known of yet, in a log that ends at `last`.
    pub(super) fn new(now: Instant, last: Index) -> Self {
        Self {
            matched: Index::ZERO,
            next: last.next(),
            pace: Pace::Probe { sent: false },
            in_flight: VecDeque::new(),
            round: 0,
            heard_at: now,
            kept_up_since: None,
            skipped_until: Instant::ZERO,
            told_commit: Index::ZERO,
            run: None,
            is_suspect: false,
        }
    }

    /// The bond is new: what was on its way is lost. What was acknowledged stays so. The leader's log ends
    /// at `last`: where nothing was acknowledged, the end is where to begin to look.
    pub(super) fn reconnected(&mut self, last: Index) {
        self.in_flight.clear();
        self.next = if self.matched > Index::ZERO {
            self.matched.next()
        } else {
            last.next()
        };
        self.pace = Pace::Probe { sent: false };
    }

    /// The member has less than it had acknowledged: nothing that it says counts any more, and where its
    /// log agrees is to be found out anew.
    pub(super) fn set_back(&mut self) {
        self.is_suspect = true;
        self.matched = Index::ZERO;
    }

    /// Whether entries may be sent now.
    pub(super) fn may_send(&self) -> bool {
        match self.pace {
            Pace::Probe { sent } => !sent,
            Pace::Replicate => self.in_flight.len() < IN_FLIGHT_MAX,
            Pace::CatchingUp => false,
        }
    }

    /// Entries up to `last` are on their way.
    pub(super) fn sent(&mut self, last: Index) {
        match &mut self.pace {
            Pace::Probe { sent } => *sent = true,
            Pace::Replicate => {
                self.in_flight.push_back(last);
                self.next = last.next();
            }
            Pace::CatchingUp => {}
        }
    }

    /// A heartbeat is due: what was not answered since the last one is probably lost.
    pub(super) fn heartbeat(&mut self) {
        if let Pace::Probe { sent } = &mut self.pace {
            *sent = false;
        }
    }

    /// The logs agree up to `index`. `true` where that is news.
    pub(super) fn matched(&mut self, index: Index) -> bool {
        while self.in_flight.front().is_some_and(|last| *last <= index) {
            self.in_flight.pop_front();
        }
        let is_news = index > self.matched;
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched.next());
        if !matches!(self.pace, Pace::Replicate) && (is_news || index == self.matched) {
            self.pace = Pace::Replicate;
            self.in_flight.clear();
            self.next = self.matched.next();
        }
        is_news
    }

    /// The logs do not agree at `refused`. `false` where that is old news.
    pub(super) fn refused(&mut self, refused: Index, agree: Index, catching_up: bool) -> bool {
        let is_stale = match self.pace {
            Pace::Probe { .. } => refused.next() != self.next && !catching_up,
            Pace::Replicate | Pace::CatchingUp => false,
        };
        // A member that denies what it has acknowledged is not sent the same again at once, and for ever.
        if is_stale || refused <= self.matched {
            return false;
        }
        let next = agree.next().max(self.matched.next());
        // The same probe would be refused again, and each refusal would bring the next one at once.
        let is_same = matches!(self.pace, Pace::Probe { .. }) && next == self.next;
        self.next = next;
        self.in_flight.clear();
        self.pace = if catching_up {
            Pace::CatchingUp
        } else {
            Pace::Probe { sent: is_same }
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress::new(Instant::ZERO, Index(10))
    }

    #[test]
    fn one_probe_at_a_time_until_the_logs_agree() {
        let mut progress = progress();
        assert!(progress.may_send());
        progress.sent(Index(10));
        assert!(!progress.may_send());
        assert!(progress.refused(Index(10), Index(4), false));
        assert_eq!(progress.next, Index(5));
        progress.sent(Index(8));
        assert!(
            !progress.refused(Index(10), Index(2), false),
            "an old answer"
        );
        assert!(progress.matched(Index(8)));
        assert_eq!(progress.pace, Pace::Replicate);
        assert_eq!(progress.next, Index(9));
    }

    #[test]
    fn a_lost_probe_is_sent_again_at_the_next_heartbeat() {
        let mut progress = progress();
        progress.sent(Index(10));
        progress.heartbeat();
        assert!(progress.may_send());
    }

    #[test]
    fn only_so_many_appends_are_on_their_way() {
        let mut progress = progress();
        progress.matched(Index(10));
        for last in 11..11 + IN_FLIGHT_MAX as u64 {
            assert!(progress.may_send());
            progress.sent(Index(last));
        }
        assert!(!progress.may_send());
        progress.matched(Index(12));
        assert!(progress.may_send());
    }

    #[test]
    fn a_refusal_that_leads_nowhere_waits_for_the_next_heartbeat() {
        let mut progress = progress();
        progress.sent(Index(10));
        progress.refused(Index(10), Index(10), false);
        assert!(!progress.may_send());
        progress.heartbeat();
        assert!(progress.may_send());
    }

    #[test]
    fn a_refusal_below_what_matched_is_old_news() {
        let mut progress = progress();
        progress.matched(Index(10));
        assert!(!progress.refused(Index(9), Index(3), false));
        assert_eq!(progress.next, Index(11));
    }
}
