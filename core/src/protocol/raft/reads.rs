//! Strong reads by the read index (Ongaro 2014, section 6.4).

use std::collections::VecDeque;

use super::core::{Core, State};
use super::messages::Message;
use super::types::{Index, Member};
use crate::protocol::mutant;

/// Reads that wait at a leader, at most; more are dropped, and asked again by those who want them.
const WAITING_MAX: usize = 65_536;
/// Those of members that may only read, at most: they do not keep the others' from being answered.
const OF_READERS_MAX: usize = WAITING_MAX / 2;

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// This node.
    Local(u64),
    /// Another member, by the number that it gave.
    Remote(Member, u64),
    /// One that may only read, as it has not proved more.
    Unproved(Member, u64),
}

/// Reads that a leader has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// They came before an entry of the leader's term was committed.
    early: Vec<Reader>,
    /// Each with the commit index when it came, and the round that has to be confirmed.
    waiting: VecDeque<(u64, Index, Reader)>,
    /// How many of them are of members that may only read.
    of_readers: usize,
}

impl Reads {
    pub(super) fn is_empty(&self) -> bool {
        self.early.is_empty() && self.waiting.is_empty()
    }
}

impl Core {
    /// A read has come to this leader. Answered with an index that covers all that was acknowledged before.
    pub(super) fn read_index(&mut self, reader: Reader) {
        let commit = self.commit;
        let is_ready =
            self.has_committed_in_term() || mutant!(self.config, ReadBeforeOwnTermCommitted);
        let serves_stale = mutant!(self.config, StaleLeaderServesReads);
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        let of_reader = matches!(reader, Reader::Unproved(..));
        if leading.reads.early.len() + leading.reads.waiting.len() >= WAITING_MAX
            || (of_reader && leading.reads.of_readers >= OF_READERS_MAX)
        {
            return;
        }
        if serves_stale {
            self.answer(reader, commit);
            return;
        }
        leading.reads.of_readers += usize::from(of_reader);
        // A new leader may not know yet what its predecessors have acknowledged.
        if !is_ready {
            leading.reads.early.push(reader);
            return;
        }
        // Only a round that begins after the read came shows that there was no other leader when it came:
        // an answer on its way may be older (schedule H21).
        leading.is_round_due = true;
        leading
            .reads
            .waiting
            .push_back((leading.round + 1, commit, reader));
    }

    /// Answers what has become certain.
    pub(super) fn confirm_reads(&mut self) {
        let is_ready = self.has_committed_in_term();
        let (commit, me) = (self.commit, self.me);
        let configuration = self.configuration().clone();
        let unconfirmed = mutant!(self.config, ReadIndexWithoutConfirmation);
        // An incarnation that is frozen may have been sealed by the next entry, and another one gone on.
        if !self.is_open() && !mutant!(self.config, ReadWhileFrozen) {
            return;
        }
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        // Nor is there anything to be read in one that the only one who knows of it may still forget.
        if leading.reads.is_empty() || !self.disk.is_durable(self.silent_until) {
            return;
        }
        if is_ready && !leading.reads.early.is_empty() {
            let round = leading.round + 1;
            leading.is_round_due = true;
            let early = std::mem::take(&mut leading.reads.early);
            let waiting = early.into_iter().map(|reader| (round, commit, reader));
            leading.reads.waiting.extend(waiting);
        }
        let ours = leading.round;
        let mut confirmed = configuration.reached_by_majority(|voter| {
            if *voter == me {
                return ours;
            }
            let progress = leading.progress.get(voter);
            progress.map_or(0, |progress| {
                if progress.is_suspect {
                    0
                } else {
                    progress.round
                }
            })
        });
        if unconfirmed && confirmed > 0 {
            confirmed += 1;
        }
        let mut answered = Vec::new();
        while let Some((round, index, reader)) = leading.reads.waiting.front()
            && *round <= confirmed
        {
            if let Reader::Unproved(..) = reader {
                leading.reads.of_readers -= 1;
            }
            answered.push((*reader, *index));
            leading.reads.waiting.pop_front();
        }
        for (reader, index) in answered {
            self.answer(reader, index);
        }
    }

    fn answer(&mut self, reader: Reader, index: Index) {
        match reader {
            Reader::Local(id) => self.read_indexes.push((id, index)),
            Reader::Remote(member, id) | Reader::Unproved(member, id) => {
                self.send_to(member, Message::ReadIndexReply { id, index });
            }
        }
    }
}
