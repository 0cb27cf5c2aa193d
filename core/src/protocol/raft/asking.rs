//! The strong reads of this node: asked of the leader, answered once the state has come far enough.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::io::{Output, ReadError, ReadId};
use super::types::{Incarnation, Index, Member, Term, Version};
use crate::time::{Duration, Instant};

/// Reads that wait, at most.
const WAITING_MAX: usize = 65_536;

/// Reads of this node.
#[derive(Debug)]
pub(super) struct Asking {
    /// Added to the numbers of reads on their way: an answer to an earlier run, which may have given the same
    /// numbers, answers none of this one.
    base: u64,
    /// Those not ended, each with the index it waits for once that is known.
    open: BTreeMap<u64, Option<Index>>,
    unsent: Vec<u64>,
    ready_at: BTreeSet<(Index, u64)>,
    /// In order: all wait equally long.
    deadlines: VecDeque<(Instant, u64)>,
    /// Whom they were sent to.
    asked: Option<(Member, Term)>,
    retry_at: Option<Instant>,
}

impl Asking {
    pub(super) const fn new(base: u64) -> Self {
        Self {
            base,
            open: BTreeMap::new(),
            unsent: Vec::new(),
            ready_at: BTreeSet::new(),
            deadlines: VecDeque::new(),
            asked: None,
            retry_at: None,
        }
    }

    pub(super) fn ask(
        &mut self,
        now: Instant,
        id: ReadId,
        patience: Duration,
    ) -> Option<ReadError> {
        if self.open.len() >= WAITING_MAX {
            return Some(ReadError::Busy);
        }
        self.open.insert(id.0, None);
        self.unsent.push(id.0);
        self.deadlines.push_back((now + patience, id.0));
        None
    }

    /// The reads that `leader` is to be asked for now, by their numbers on the way.
    pub(super) fn outgoing(
        &mut self,
        now: Instant,
        leader: Option<Member>,
        term: Term,
        retry: Duration,
    ) -> Vec<u64> {
        let asked = leader.map(|leader| (leader, term));
        let is_overdue = self.retry_at.is_some_and(|at| at <= now);
        if asked != self.asked || is_overdue {
            // What was asked before may be lost with its leader, or on the way.
            self.asked = asked;
            self.retry_at = None;
            let unanswered = self.open.iter().filter(|(_, index)| index.is_none());
            self.unsent = unanswered.map(|(id, _)| *id).collect();
        }
        if leader.is_none() || self.unsent.is_empty() {
            return Vec::new();
        }
        self.retry_at.get_or_insert(now + retry);
        let unsent = std::mem::take(&mut self.unsent).into_iter();
        unsent.map(|id| id.wrapping_add(self.base)).collect()
    }

    /// All that the read must see lies at or below `index`.
    pub(super) fn answered(&mut self, number: u64, index: Index) {
        let id = number.wrapping_sub(self.base);
        if let Some(known @ None) = self.open.get_mut(&id) {
            *known = Some(index);
            self.ready_at.insert((index, id));
        }
    }

    /// The state has come to `applied`: reads that waited for it are ready.
    pub(super) fn applied(
        &mut self,
        applied: Index,
        incarnation: Option<Incarnation>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(incarnation) = incarnation else {
            return;
        };
        while let Some((index, id)) = self.ready_at.first().copied()
            && index <= applied
        {
            self.ready_at.pop_first();
            self.open.remove(&id);
            let version = Version {
                incarnation,
                index: applied,
            };
            outputs.push_back(Output::ReadReady(ReadId(id), version));
        }
    }

    /// Fails those that have waited for too long.
    pub(super) fn expire(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            if self.open.contains_key(&id) {
                if deadline > now {
                    return;
                }
                self.end(id, ReadError::TimedOut, outputs);
            }
            self.deadlines.pop_front();
        }
    }

    /// The indexes of an incarnation that was left mean nothing in the next.
    pub(super) fn incarnation_left(&mut self) {
        self.ready_at.clear();
        for index in self.open.values_mut() {
            *index = None;
        }
        self.asked = None;
    }

    /// Fails all, for the reason given.
    pub(super) fn fail_all(&mut self, error: ReadError, outputs: &mut VecDeque<Output>) {
        while let Some((id, _)) = self.open.first_key_value() {
            let id = *id;
            self.end(id, error, outputs);
        }
        self.unsent.clear();
    }

    fn end(&mut self, id: u64, error: ReadError, outputs: &mut VecDeque<Output>) {
        if let Some(Some(index)) = self.open.remove(&id) {
            self.ready_at.remove(&(index, id));
        }
        outputs.push_back(Output::ReadFailed(ReadId(id), error));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        [deadline, self.retry_at].into_iter().flatten().min()
    }
}
