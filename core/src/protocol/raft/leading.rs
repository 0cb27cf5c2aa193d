//! What a leader keeps while it leads.

use std::collections::BTreeMap;

use super::progress::Progress;
use super::reads::Reads;
use super::types::{Index, Member, Term};
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
    /// With fewer than three voters: the index that waits for learners, and until when it does.
    pub(super) held: Option<(Index, Instant)>,
    /// As many as the founding expects have accepted it.
    pub(super) is_accepted: bool,
    pub(super) since: Instant,
    /// The member that asked to vote no longer.
    pub(super) leavers: Vec<Member>,
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
            held: None,
            is_accepted: false,
            since: now,
            leavers: Vec::new(),
            term,
        }
    }

    /// A member of our incarnation has said who it is; our log ends at `last`. `boot`: how often its store
    /// was opened, and `recovered`: how far its log went then.
    pub(super) fn joined(
        &mut self,
        now: Instant,
        member: Member,
        last: Index,
        is_new: bool,
        boot: u64,
        recovered: Index,
    ) {
        let progress = self
            .progress
            .entry(member)
            .or_insert_with(|| Progress::new(now, last));
        // One that restarts with less than it had acknowledged, or from before its last start, was set back,
        // and what was counted on it may be gone.
        if boot != progress.boot {
            if boot < progress.boot || recovered < progress.matched {
                progress.set_back();
            }
            progress.boot = boot;
        }
        if is_new {
            progress.reconnected(last);
        }
        progress.heard_at = now;
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
