//! Replication: what a leader sends, what a follower makes of it, and what is committed.

use super::config::FoundingRule;
use super::core::{Core, State};
use super::entry::Entry;
use super::io::{Output, StopReason};
use super::log::Log;
use super::messages::{Append, AppendOutcome, AppendReply, Envelope, Message};
use super::progress::Pace;
use super::types::{Index, Member, Position};
use crate::protocol::mutant;
use crate::time::Instant;

/// Bytes of entries in one append, about.
const APPEND_BYTES: usize = 512 << 10;
/// Entries in one append, at most.
const APPEND_ENTRIES: usize = 4_096;
/// A learner that was waited for in vain is not waited for again during so many election timeouts.
const LEARNER_PAUSE: u32 = 10;
/// A follower that lacks more entries than this fetches them from all members instead of having the leader
/// send them.
const CATCH_UP_ENTRIES: u64 = 1_024;

impl Core {
    // ---- The leader ----

    /// Sends what is due: entries to those that lack some, a sign of life to all when its time has come,
    /// the commit index to those that get nothing else.
    pub(super) fn replicate(&mut self, now: Instant) {
        let interval = self.jittered_heartbeat(now);
        let (commit, last, kept_from) = (self.commit, self.last(), self.log.kept_from());
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        let leading = &mut **leading;
        if let Some(next) = interval {
            leading.heartbeat_at = next;
            leading.is_heartbeat_due = true;
        }
        // A founding that its founder forgets in a crash must not be known to others: the founder would
        // take part in another.
        if !self.disk.is_durable(self.silent_until) {
            return;
        }
        let is_heartbeat = std::mem::take(&mut leading.is_heartbeat_due);
        let is_round = std::mem::take(&mut leading.is_round_due);
        if is_heartbeat || is_round {
            leading.round += 1;
        }
        let (from, run, incarnation) = (self.me.instance, self.run, self.incarnation);
        let (term, round) = (self.term, leading.round);
        let append = |to: &Member, previous: Position, entries: Vec<Entry>| {
            let append = Append {
                term,
                previous,
                entries,
                commit,
                kept_from,
                round,
            };
            let envelope = Envelope {
                from,
                run,
                to: Some(to.instance),
                incarnation,
                message: Message::Append(append),
            };
            Output::Send(to.peer, envelope)
        };
        // One that is being removed could be all that has the entry which says so. It then refuses its vote
        // to those it left, whose logs are shorter, and does not stand itself. So it gets the entry once it is
        // committed.
        let configured_at = self.log.configured_at();
        let leaving = (configured_at > commit).then(|| {
            let before = self.log.configuration_as_of(commit);
            (configured_at.previous(), before, self.log.configuration())
        });
        let end_for = |member: &Member| match leaving {
            Some((end, before, after)) if before.is_voter(member) && !after.is_voter(member) => {
                end.min(last.index)
            }
            _ => last.index,
        };
        for (member, progress) in &mut leading.progress {
            let last = end_for(member);
            let is_here = self.peers.get(&member.peer).is_some_and(|peer| {
                let is_ours =
                    peer.incarnation == incarnation || mutant!(self.config, IncarnationIgnored);
                peer.instance == Some(member.instance) && is_ours
            });
            if !is_here {
                continue;
            }
            if is_heartbeat {
                progress.heartbeat();
            }
            let mut is_told = false;
            while progress.may_send() && (progress.next <= last || !is_told) {
                let is_probe = matches!(progress.pace, Pace::Probe { .. });
                let has_entries = progress.next <= last;
                let is_news = progress.told_commit < commit;
                if !(has_entries || is_probe || is_heartbeat || is_round || is_news) {
                    break;
                }
                let (previous, entries) = previous_and_entries(&self.log, progress.next, last);
                progress.next = previous.index.next();
                let end = Index(previous.index.0 + entries.len() as u64);
                if is_probe || !entries.is_empty() {
                    progress.sent(end);
                }
                is_told = true;
                progress.told_commit = commit;
                self.outputs.push_back(append(member, previous, entries));
            }
            let is_news = progress.told_commit < commit;
            if !is_told && (is_heartbeat || is_round || is_news) {
                // A sign of life also finds out whether something was lost on the way: it names the last
                // entry that was sent.
                let before = match progress.pace {
                    Pace::CatchingUp => last,
                    _ => progress.next.previous().min(last),
                };
                progress.told_commit = commit;
                let previous = position_or_base(&self.log, before);
                self.outputs.push_back(append(member, previous, Vec::new()));
            }
        }
    }

    /// When the next heartbeat comes, where one is due now.
    fn jittered_heartbeat(&mut self, now: Instant) -> Option<Instant> {
        let is_due = match &self.state {
            State::Leader(leading) => now >= leading.heartbeat_at,
            _ => false,
        };
        let (interval, jitter) = (self.config.heartbeat_interval, self.config.heartbeat_jitter);
        is_due.then(|| now + self.jittered(interval, jitter))
    }

    /// A member has answered an append.
    pub(super) fn on_append_reply(&mut self, now: Instant, from: Member, reply: AppendReply) {
        if reply.term > self.term {
            // One that may only read could have made it up. If it is true the voters say so as well.
            let peer = self.peers.get(&from.peer);
            if peer.is_some_and(|peer| peer.may_write) {
                self.follow(now, reply.term, None);
            }
            return;
        }
        if reply.term < self.term {
            return;
        }
        let last = self.log.last().index;
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        let Some(progress) = leading.progress.get_mut(&from) else {
            return;
        };
        progress.heard_at = now;
        progress.round = progress.round.max(reply.round.min(leading.round));
        match reply.outcome {
            AppendOutcome::Matched(index) => {
                progress.matched(index.min(last));
            }
            AppendOutcome::Conflict {
                refused,
                hint,
                catching_up,
            } => {
                let agree = self.log.agree_at_most(hint.index, hint.term).index;
                progress.refused(refused, agree, catching_up);
            }
        }
    }

    /// Commits what a majority has.
    pub(super) fn advance_commit(&mut self, now: Instant) {
        let configuration = self.configuration().clone();
        let is_unproved = matches!(&self.state, State::Leader(leading) if !leading.is_accepted);
        // What was accepted once stays so, whoever of those listed is no voter any more.
        let was_accepted = is_unproved && (self.commit > Index(1) || self.has_data());
        // Two that have just become voters could be a majority without the one who voted alone, and who may
        // still forget them. It would then lead without what they were counted for.
        let is_silent = !self.disk.is_durable(self.silent_until);
        let is_silent = is_silent && !mutant!(self.config, ThreeFromOneCounted);
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        leading.is_accepted |= was_accepted;
        if is_silent {
            leading.held = None;
            return;
        }
        let (me, own) = (self.me, self.disk.durable_last());
        leading.backlog.settled(self.commit.min(own));
        let counts_learners = mutant!(self.config, LearnerCounted);
        // The leader counts itself by what is durable, like any other (Ongaro 2014, section 10.2.1). Who is
        // no voter now does not count, and only those that are do.
        let mut index = Index(configuration.reached_by_majority(|voter| {
            if *voter == me {
                return own.0;
            }
            let progress = leading.progress.get(voter);
            progress.map_or(0, |progress| {
                if progress.is_suspect {
                    0
                } else {
                    progress.matched.0
                }
            })
        }));
        if counts_learners {
            let mut all: Vec<Index> = leading.progress.values().map(|it| it.matched).collect();
            all.push(own);
            all.sort_unstable();
            let majority = configuration.majority().min(all.len());
            index = all[all.len() - majority];
        }
        if index <= self.commit {
            leading.held = None;
            return;
        }
        // An entry of an earlier term may be on a majority and still be overwritten (Ongaro and Ousterhout
        // 2014, figure 8): it is committed only with one of this term above it.
        if self.log.term_at(index) != Some(self.term) && !mutant!(self.config, CommitOldTermByCount)
        {
            leading.held = None;
            return;
        }
        // `Expect(n)`: two foundings that share members could both find a majority of their own. So many
        // must have accepted this one that they cannot.
        if !leading.is_accepted {
            let FoundingRule::Expect(expected) = self.config.founding else {
                leading.is_accepted = true;
                return self.advance_commit(now);
            };
            let voters = configuration.voters.iter();
            let accepted = voters.filter(|voter| {
                **voter == me
                    || leading
                        .progress
                        .get(voter)
                        .is_some_and(|progress| progress.matched.0 > 0)
            });
            if accepted.count() < expected as usize {
                return;
            }
            leading.is_accepted = true;
        }
        // One or two voters are easily lost. Learners that keep up are waited for, but not for long; and not those that may
        // only read: nobody goes on from what they have.
        if configuration.voters.len() < 3 {
            let peers = &self.peers;
            let may_write = |member: &Member| {
                let peer = peers.get(&member.peer);
                peer.is_none_or(|peer| peer.may_write)
            };
            let fresh = |heard_at: Instant| now.since(heard_at) < self.config.election_timeout;
            // Who is being removed is sent nothing before that is committed: it would be waited for in vain.
            let before = (self.log.configured_at() > self.commit)
                .then(|| self.log.configuration_as_of(self.commit));
            let goes = |member: &Member| before.is_some_and(|before| before.is_voter(member));
            let waited_for = leading.progress.iter().filter(|(member, progress)| {
                !configuration.is_voter(member)
                    && !goes(member)
                    && may_write(member)
                    && progress.kept_up_since.is_some()
                    && progress.skipped_until <= now
                    && !progress.is_suspect
                    && fresh(progress.heard_at)
            });
            let least = waited_for.map(|(_, progress)| progress.matched).min();
            let patience = now + self.config.election_timeout;
            match (least.filter(|least| *least < index), &mut leading.held) {
                (None, held) => *held = None,
                // What all of them have by now need not wait for the rest, which is newer.
                (Some(least), held) => {
                    let (awaited, until) = held.get_or_insert((index, patience));
                    if least >= *awaited {
                        (*awaited, *until) = (index, patience);
                    }
                    if now < *until {
                        index = least;
                    } else {
                        // They have not kept up, and are not to delay what comes next as well.
                        let awaited = *awaited;
                        *held = None;
                        for progress in leading.progress.values_mut() {
                            if progress.matched < awaited {
                                progress.kept_up_since = None;
                                progress.skipped_until =
                                    now + LEARNER_PAUSE * self.config.election_timeout;
                            }
                        }
                    }
                }
            }
            if index <= self.commit || self.log.term_at(index) != Some(self.term) {
                return;
            }
        }
        self.commit = index;
    }

    // ---- The follower ----

    /// A leader's append. `true` where the member must catch up with the help of others.
    pub(super) fn on_append(&mut self, now: Instant, from: Member, append: Append) -> bool {
        if self.is_held_to_word(&from) {
            return false;
        }
        if append.term < self.term {
            let stale = AppendReply {
                term: self.term,
                round: append.round,
                outcome: AppendOutcome::Conflict {
                    refused: append.previous.index,
                    hint: Position::ZERO,
                    catching_up: false,
                },
            };
            self.send_durably(from.peer, Message::AppendReply(stale));
            return false;
        }
        if matches!(self.state, State::Leader(_)) && append.term == self.term {
            // Nobody else leads our term. What says so is no member of ours.
            return false;
        }
        self.follow(now, append.term, Some(from));
        self.leader_heard_at = Some(now);
        self.await_leader(now);
        let round = append.round;
        // Where the logs differ at the last entry that the leader does not keep any more, it has nothing
        // that could be compared below.
        let is_gap = append.kept_from > append.previous.index
            || append.kept_from > self.last().index.next()
            || append.commit.0 > self.last().index.0.saturating_add(CATCH_UP_ENTRIES);
        let outcome = self.take(append);
        let outcome = match outcome {
            Some(AppendOutcome::Conflict { refused, hint, .. }) => AppendOutcome::Conflict {
                refused,
                hint,
                catching_up: is_gap,
            },
            Some(AppendOutcome::Matched(index)) => AppendOutcome::Matched(index),
            None => return false,
        };
        let reply = Message::AppendReply(AppendReply {
            term: self.term,
            round,
            outcome,
        });
        if mutant!(self.config, AckBeforeFsync) {
            self.send(from.peer, reply);
        } else {
            // The leader counts on it: it must outlive a crash.
            self.send_durably(from.peer, reply);
        }
        is_gap && matches!(outcome, AppendOutcome::Conflict { .. })
    }

    /// Puts the entries of an append of the present leader into the log; nothing where it contradicts what
    /// is committed.
    fn take(&mut self, append: Append) -> Option<AppendOutcome> {
        let Append {
            previous,
            mut entries,
            commit,
            ..
        } = append;
        let end = Index(previous.index.0.checked_add(entries.len() as u64)?);
        let is_contiguous = entries.iter().zip(1..).all(|(entry, offset)| {
            entry.index.0 == previous.index.0 + offset && entry.term <= append.term
        });
        if !is_contiguous || previous.term > append.term {
            return None;
        }
        let base = self.log.base();
        let mut agrees = self.log.has(previous);
        if previous.index < base.index {
            // All that is not kept any more is committed, and the leader of a later term has all that is
            // committed: the logs agree up to the base. But the base may have been fetched of members that follow a
            // later leader already. One that leads no more may have another entry there, and what follows on that
            // follows on nothing here.
            let below = (base.index.0 - previous.index.0) as usize;
            let at_base = entries.get(below - 1).map(Entry::position);
            if at_base.is_some_and(|at_base| at_base != base) {
                return None;
            }
            entries.drain(..below.min(entries.len()));
            agrees = true;
        }
        // Two logs that have an entry of one index and term agree up to it (Ongaro and Ousterhout 2014,
        // section 5.3): it is what makes the entries that follow mean the same here.
        if mutant!(self.config, NoPreviousTermCheck) && self.log.term_at(previous.index).is_some() {
            agrees = true;
        }
        if !agrees {
            let hint = self
                .log
                .agree_at_most(previous.index.previous(), previous.term);
            return Some(AppendOutcome::Conflict {
                refused: previous.index,
                hint,
                catching_up: false,
            });
        }
        if !self.put(entries) {
            return None;
        }
        if mutant!(self.config, TruncateBelowCommit) && end < self.last().index && end >= base.index
        {
            // As if what this append does not have were not in the leader's log either.
            self.log.truncate_from(end.next());
            self.commit = self.commit.min(end);
        }
        // Up to the end of this append the leader has the same; above may lie entries of an older leader.
        self.commit = self.commit.max(commit.min(end));
        if mutant!(self.config, FetchedAcknowledged) {
            return Some(AppendOutcome::Matched(self.last().index));
        }
        Some(AppendOutcome::Matched(end))
    }

    /// Puts entries that go on from one in the log to their places, and drops what contradicts them.
    /// `false`, and nothing done, where that would be something committed.
    pub(super) fn put(&mut self, entries: Vec<Entry>) -> bool {
        for entry in entries {
            if self.log.has(entry.position()) {
                continue;
            }
            if entry.index <= self.last().index {
                // What is committed never changes: whoever says otherwise leads no log of ours.
                if entry.index <= self.commit {
                    return false;
                }
                self.log.truncate_from(entry.index);
            }
            self.disk.append(&entry);
            self.log.append(entry);
        }
        true
    }

    /// A write has failed. What the disk holds of it is unknown, and a second try that succeeds says
    /// nothing of the first: nothing is promised any more until the node is started again.
    pub(super) fn persist_failed(&mut self, error: super::store::StorageError) {
        if mutant!(self.config, FailedSyncRetried) {
            let issued = self.disk.issued();
            self.disk.persisted(issued, &mut self.outputs);
            return;
        }
        self.stop(StopReason::Storage(error));
    }
}

/// The entry at `index`; where it is not kept any more, the base.
fn position_or_base(log: &Log, index: Index) -> Position {
    log.term_at(index)
        .map_or(log.base(), |term| Position { term, index })
}

/// The entry before `next` and those from it on to `last`, as many as one append takes. Where the entry before is
/// not kept any more: the base, and nothing.
fn previous_and_entries(log: &Log, next: Index, last: Index) -> (Position, Vec<Entry>) {
    let previous = position_or_base(log, next.previous());
    let entries = if previous.index == next.previous() {
        let count = last.next().0.saturating_sub(next.0);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        log.slice(next, APPEND_BYTES, count.min(APPEND_ENTRIES))
    } else {
        Vec::new()
    };
    (previous, entries)
}
