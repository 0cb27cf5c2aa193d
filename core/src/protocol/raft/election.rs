//! Elections: pre-vote, votes, and what keeps a live leader from being disturbed.

use std::collections::BTreeSet;

use super::core::{Core, State};
use super::entry::Payload;
use super::io::WriteId;
use super::leading::Leading;
use super::messages::{Candidacy, Message, Verdict};
use super::progress::Progress;
use super::types::{Member, Term};
use crate::id::PeerId;
use crate::protocol::mutant;
use crate::time::Instant;

/// The votes of one candidacy.
#[derive(Debug)]
pub(super) struct Ballot {
    /// The term that is asked for.
    term: Term,
    granted: BTreeSet<Member>,
    /// The write that holds our own vote: it counts once it is durable, like anybody's.
    own_vote: WriteId,
    transfer: bool,
}

impl Core {
    /// The time to wait for a leader is over.
    pub(super) fn election_due(&mut self, now: Instant) {
        if now < self.election_at || matches!(self.state, State::Leader(_) | State::Candidate(_)) {
            return;
        }
        self.await_leader(now);
        if self.is_voter() && self.may_write && !self.reforming.is_pledged() {
            self.ask_whether_elected(now);
        } else {
            self.set_leader(None);
        }
    }

    /// Asks all voters whether they would vote for us. Nothing changes by it, so that a member that was cut
    /// off does not depose a leader when it comes back.
    fn ask_whether_elected(&mut self, now: Instant) {
        self.set_leader(None);
        let ballot = Ballot {
            term: self.term.next(),
            granted: BTreeSet::from([self.me]),
            own_vote: WriteId(0),
            transfer: false,
        };
        self.state = State::PreCandidate(ballot);
        self.ask_voters(false);
        self.count_votes(now);
    }

    /// Stands for election in the next term.
    pub(super) fn stand(&mut self, now: Instant, transfer: bool) {
        self.set_leader(None);
        self.term = self.term.next();
        self.vote = Some(self.me);
        self.persist_hard_state();
        let ballot = Ballot {
            term: self.term,
            granted: BTreeSet::from([self.me]),
            own_vote: self.disk.latest(),
            transfer,
        };
        self.state = State::Standing(ballot);
        self.await_leader(now);
        self.ask_voters(transfer);
        self.count_votes(now);
    }

    fn ask_voters(&mut self, transfer: bool) {
        let (term, pre) = match &self.state {
            State::PreCandidate(ballot) => (ballot.term, true),
            State::Standing(ballot) => (ballot.term, false),
            _ => return,
        };
        let candidacy = Candidacy {
            term,
            last: self.last(),
            transfer,
        };
        for voter in self.configuration().voters.clone() {
            if voter == self.me || !self.is_bonded(&voter) {
                continue;
            }
            if pre {
                self.send(voter.peer, Message::PreVote(candidacy));
            } else {
                // After a crash we stand in this term again, perhaps with a shorter log: votes that were
                // given for this candidacy must not be counted for that one. So nobody is asked before
                // the term is durable.
                self.send_durably(voter.peer, Message::RequestVote(candidacy));
            }
        }
    }

    /// A candidate asks for a vote, or whether it would get one.
    pub(super) fn on_candidacy(
        &mut self,
        now: Instant,
        candidate: Member,
        candidacy: Candidacy,
        pre: bool,
    ) {
        // A vote would let the incarnation go on that the member has given its word to leave.
        let verdict = if self.is_held_to_word(&candidate) {
            Verdict::Refused
        } else {
            self.judge(now, candidate, candidacy, pre)
        };
        if verdict == Verdict::Granted && !pre {
            self.vote = Some(candidate);
            self.persist_hard_state();
            self.await_leader(now);
        }
        let reply = Message::VoteReply {
            term: candidacy.term,
            seen: self.term,
            pre,
            verdict,
        };
        if pre || mutant!(self.config, VoteNotPersisted) {
            self.send(candidate.peer, reply);
        } else {
            // A vote that a restart forgets could be given twice in a term, and elect two leaders.
            self.send_durably(candidate.peer, reply);
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        candidate: Member,
        candidacy: Candidacy,
        pre: bool,
    ) -> Verdict {
        // Its own vote is worth nothing, and would be one of a majority with ours: it has forgotten what it has acknowledged
        // together with others, and we never had that (schedule H26).
        if self.is_set_back(&candidate) && !mutant!(self.config, VoteForSetBack) {
            return Verdict::Refused;
        }
        // The candidate's configuration says who votes, not ours: a member that was promoted may be needed
        // before it has heard of it (schedule H17). An observer is in none, but where it was a voter before it began
        // to observe: then the others may need it to elect a leader that replaces it.
        if self.is_observer() && !self.is_voter() && candidacy.last <= self.last() {
            return Verdict::Abstained;
        }
        if mutant!(self.config, PromotedLearnerRefusesVote) && !self.is_voter() {
            return Verdict::Abstained;
        }
        // Whoever hears a leader keeps to it (Ongaro 2014, section 4.2.3), and does not move to the term of
        // somebody who does not hear it, unless the leader itself wants to hand over.
        if !candidacy.transfer && self.hears_leader(now) {
            return Verdict::Refused;
        }
        // By the log alone: one that is behind the candidate must vote for it too, else a leader that
        // dies with entries nobody else has leaves nobody to elect (schedule H5).
        if mutant!(self.config, AbstainWhenBehind) && self.last() < candidacy.last {
            return Verdict::Abstained;
        }
        let is_up_to_date =
            candidacy.last >= self.last() || mutant!(self.config, VoteForShorterLog);
        if pre {
            let would = candidacy.term > self.term && is_up_to_date;
            return if would {
                Verdict::Granted
            } else {
                Verdict::Refused
            };
        }
        if candidacy.term < self.term {
            return Verdict::Refused;
        }
        if candidacy.term > self.term {
            self.follow(now, candidacy.term, None);
        }
        let is_free = self.vote.is_none_or(|vote| vote == candidate);
        if is_free && is_up_to_date && !matches!(self.state, State::Leader(_)) {
            Verdict::Granted
        } else {
            Verdict::Refused
        }
    }

    /// Whether there is a leader that was heard within the shortest election timeout.
    pub(super) fn hears_leader(&self, now: Instant) -> bool {
        match (&self.state, self.leader, self.leader_heard_at) {
            (State::Leader(_), ..) => true,
            (_, Some(_), Some(heard_at)) => now.since(heard_at) < self.config.election_timeout,
            _ => false,
        }
    }

    pub(super) fn on_vote_reply(
        &mut self,
        now: Instant,
        voter: Member,
        term: Term,
        seen: Term,
        pre: bool,
        verdict: Verdict,
    ) {
        if seen > self.term {
            self.follow(now, seen, None);
            return;
        }
        // Its store was set back: it may have voted for another in this term, and forgotten (schedule H26).
        if self.is_set_back(&voter) {
            return;
        }
        let any_term = mutant!(self.config, StaleVotesCounted);
        let ((State::PreCandidate(ballot), true) | (State::Standing(ballot), false)) =
            (&mut self.state, pre)
        else {
            return;
        };
        // A vote belongs to the candidacy that asked for it.
        if (term == ballot.term || any_term) && verdict == Verdict::Granted {
            ballot.granted.insert(voter);
            self.count_votes(now);
        }
    }

    /// Goes on where a majority of our own configuration has granted.
    pub(super) fn count_votes(&mut self, now: Instant) {
        let (State::PreCandidate(ballot) | State::Standing(ballot)) = &self.state else {
            return;
        };
        let configuration = self.configuration();
        // Sets of two lives of one peer are sets of two members: a vote counts for the life that gave it.
        let votes = configuration.voters.intersection(&ballot.granted).count();
        if votes < configuration.majority() {
            return;
        }
        match &self.state {
            State::PreCandidate(_) => {
                let transfer = ballot.transfer;
                self.stand(now, transfer);
            }
            // Our own vote is a promise like any: it counts once it is durable.
            State::Standing(_) if self.disk.is_durable(ballot.own_vote) => self.lead(now),
            _ => {}
        }
    }

    /// Becomes the leader of the present term.
    pub(super) fn lead(&mut self, now: Instant) {
        self.reforming.begin_anew(now);
        self.forget_former_voters();
        let mut leading = Leading::new(now, self.term);
        let last = self.last().index;
        let bonded = self.bonded_members();
        let bonded: Vec<_> = bonded
            .map(|(member, peer)| (member, Some(peer.run)))
            .collect();
        let voters = self.configuration().voters.iter();
        for (member, run) in voters.map(|voter| (*voter, None)).chain(bonded) {
            if member != self.me {
                let mut progress = Progress::new(now, last);
                progress.run = run;
                progress.is_suspect = self.is_set_back(&member);
                leading.progress.insert(member, progress);
            }
        }
        leading.is_accepted = self.commit.0 > 0;
        self.state = State::Leader(Box::new(leading));
        self.set_leader(Some(self.me));
        // Entries of earlier terms are committed only together with one of ours. Without an entry to go
        // with, they would wait for the next command, and strong reads with them.
        if !mutant!(self.config, NoBlankOnElection) && self.last().term != self.term {
            self.append_own(Payload::Blank);
        }
    }

    /// Whether a message about leadership is for a leader that hands over to us.
    pub(super) fn on_timeout_now(&mut self, now: Instant, from: PeerId, term: Term) {
        let is_from_leader = self.leader.is_some_and(|leader| leader.peer == from);
        // One that is late would depose a leader that was elected since (schedule H29).
        if term == self.term && is_from_leader && self.is_voter() && !self.is_observer() {
            self.stand(now, true);
        }
    }
}
