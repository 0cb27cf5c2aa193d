//! What a leader keeps while it leads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::meeting::Proposed;
use super::progress::Progress;
use super::reads::Reads;
use super::types::{Index, Member, Run, Runs, Term};
use crate::time::Instant;

/// A handover of leadership.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) target: Member,
    /// Given up here: the leader goes on.
    pub(super) until: Instant,
    /// The target was told to stand for election.
    pub(super) is_told: bool,
}

/// The entries that a leader has appended and that are not both committed and on its disk, by their bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn appended(&mut self, index: Index, bytes: usize) {
        self.entries.push_back((index, bytes));
        self.bytes += bytes;
    }

    pub(super) fn settled(&mut self, through: Index) {
        while let Some((index, bytes)) = self.entries.front()
            && *index <= through
        {
            self.bytes -= bytes;
            self.entries.pop_front();
        }
    }

    /// The bytes of all of them, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The state of a leader. Gone with the term.
pub(super) struct Leading {
    /// All other members that are known, and all voters.
    pub(super) progress: BTreeMap<Member, Progress>,
    pub(super) heartbeat_at: Instant,
    /// All are to hear from the leader in this turn.
    pub(super) is_heartbeat_due: bool,
    /// Numbers the appends: the echo of a round shows that it was answered after the round began.
    pub(super) round: u64,
    /// A round is to begin in this turn, for reads that came since the last one began.
    pub(super) is_round_due: bool,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
    /// None is begun before this instant.
    pub(super) no_transfer_before: Instant,
    /// How far its log was durable at the last look, and since when.
    pub(super) durable: (Index, Instant),
    /// With fewer than three voters: the index that waits for learners, and until when it does.
    pub(super) held: Option<(Index, Instant)>,
    /// As many as the founding expects have accepted it.
    pub(super) is_accepted: bool,
    pub(super) since: Instant,
    /// What is not committed, or not durable, of what it has appended.
    pub(super) backlog: Backlog,
    /// What it has proposed for a meeting.
    pub(super) proposed: Proposed,
    /// The voters that asked to vote no longer.
    pub(super) leavers: BTreeSet<Member>,
    pub(super) term: Term,
}

impl Leading {
    pub(super) fn new(now: Instant, term: Term) -> Self {
        Self {
            progress: BTreeMap::new(),
            heartbeat_at: now,
            is_heartbeat_due: true,
            round: 0,
            is_round_due: false,
            reads: Reads::default(),
            transfer: None,
            no_transfer_before: now,
            durable: (Index::ZERO, now),
            held: None,
            is_accepted: false,
            since: now,
            backlog: Backlog::default(),
            proposed: Proposed::default(),
            leavers: BTreeSet::new(),
            term,
        }
    }

    /// A member of our incarnation has said who it is; our log ends at `last`. `recovered`: how far its
    /// log went when its `run` began. Whether it is certain that its store was set back, for other leaders too.
    pub(super) fn joined(
        &mut self,
        now: Instant,
        member: Member,
        last: Index,
        is_new: bool,
        (run, runs): (Run, &Runs),
        (recovered, commit): (Index, Index),
    ) -> bool {
        let progress = self
            .progress
            .entry(member)
            .or_insert_with(|| Progress::new(now, last));
        // One that restarts with less than it had acknowledged, or from before its last start, was set back,
        // and what was counted on it may be gone.
        let mut is_certain = false;
        if progress.run != Some(run) {
            let is_set_back = progress
                .run
                .is_some_and(|before| runs.lack(run.boot, before));
            // What was not committed a leader of a later term may have had it drop, of whom we have not heard yet.
            is_certain = is_set_back || recovered < progress.matched.min(commit);
            if is_set_back || recovered < progress.matched {
                progress.set_back();
            }
            progress.run = Some(run);
        }
        if is_new {
            progress.reconnected(last);
        }
        progress.heard_at = now;
        is_certain
    }

    /// The bond with a member is gone, or its life is over.
    pub(super) fn lost(&mut self, member: Member, last: Index) {
        if let Some(progress) = self.progress.get_mut(&member) {
            progress.reconnected(last);
            progress.kept_up_since = None;
        }
    }

    /// The store of a member was set back.
    pub(super) fn suspect(&mut self, member: Member) {
        if let Some(progress) = self.progress.get_mut(&member) {
            progress.set_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_no_backlog() {
        let mut backlog = Backlog::default();
        backlog.appended(Index(4), 10);
        backlog.appended(Index(5), 20);
        assert_eq!(backlog.bytes(), 30);
        backlog.settled(Index(3));
        assert_eq!(backlog.bytes(), 30);
        backlog.settled(Index(4));
        assert_eq!(backlog.bytes(), 20);
        backlog.settled(Index(9));
        assert_eq!(backlog.bytes(), 0);
    }
}
