//! Reforming: how a group goes on whose voters are gone for good.
//!
//! A member that has not heard a leader for long asks all that it has a bond with what is left of the
//! incarnation. Where it turns out that nobody can ever be elected, the member with the best log founds a new
//! incarnation that goes on from its state, alone; the others become learners of it once they have that
//! state. The book's page on consensus tells the whole story.

use std::collections::{BTreeMap, BTreeSet};

use super::core::{Core, State};
use super::hello::Peer;
use super::messages::{Message, Pledge, Reform};
use super::remains::{Answer, Finding, Left, NAMED_MAX, Part, Remains, Survey};
use super::types::{Incarnation, Index, Member, Position};
use crate::id::{Digest, PeerId};
use crate::protocol::mutant;
use crate::time::{Duration, Instant};

/// A member that has heard no leader for so many times the longest election timeout asks what is left.
const PATIENCE: u32 = 3;
/// An order to reform without proof stands for so many election timeouts.
const ORDER_PATIENCE: u32 = 8;
/// It is reported that the group stands still where another has not gone on with it for so many rounds.
const ROUNDS_MAX: u32 = 5;

/// Why a member's group stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The lives that may still go on with it: they neither answer nor are proved to be over. Empty where nobody
    /// that is left has a log to know that by.
    pub missing: Vec<Member>,
}

/// What a member keeps that knows of no leader.
#[derive(Debug)]
pub(super) struct Reforming {
    /// Since when it knows of none.
    since: Instant,
    /// When it asks next.
    ask_at: Instant,
    attempt: Option<Attempt>,
    /// The lives that were named in the last round.
    known: BTreeSet<Member>,
    /// The entry that is asked about: the greatest that a participant knew to be committed.
    floor: Position,
    /// Rounds in which another was found to be the one to go on, one after the other.
    rounds: u32,
    /// What was reported, and when.
    stalled: Option<(Stalled, Instant)>,
    /// It is to reform without proof.
    order: Option<Order>,
    /// It has agreed to leave the incarnation for one that was reformed from it.
    agrees: bool,
    pledged: Option<Pledge>,
    /// It is to found now.
    decided: Option<Decision>,
}

/// To found an incarnation that goes on from the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// The digest of those by whose word that is proved to be right; `None` where it is not.
    pub(super) word: Option<Digest>,
}

/// An order to reform without proof.
#[derive(Clone, Copy, Debug)]
struct Order {
    until: Instant,
    /// It was given here. Others pass on none that was passed on to them: else none would ever end.
    is_own: bool,
}

/// A round of questions.
#[derive(Debug)]
struct Attempt {
    round: u64,
    asked: BTreeSet<PeerId>,
    answers: BTreeMap<PeerId, Answer>,
    until: Instant,
    pledge: Option<Pledge>,
}

impl Reforming {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            ask_at: now,
            attempt: None,
            known: BTreeSet::new(),
            floor: Position::ZERO,
            rounds: 0,
            stalled: None,
            order: None,
            agrees: false,
            pledged: None,
            decided: None,
        }
    }

    /// A leader was heard, or the member belongs to another incarnation.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    pub(super) fn stalled(&self) -> Option<&Stalled> {
        self.stalled.as_ref().map(|(stalled, _)| stalled)
    }

    /// Whether it has given its word to do nothing more for the incarnation.
    pub(super) const fn is_pledged(&self) -> bool {
        self.pledged.is_some()
    }

    /// Gives the word no longer, nor founds by it in this turn.
    fn take_word_back(&mut self) {
        self.pledged = None;
        self.decided = None;
    }

    /// Whether this life is known to be over.
    pub(super) fn is_gone(&self, life: &Member) -> bool {
        let gone = self.pledged.iter();
        gone.into_iter().any(|pledge| pledge.gone.contains(life))
    }

    /// The digest of all that it has given its word with.
    pub(super) fn word(&self) -> Option<Digest> {
        self.pledged.as_ref().map(Pledge::word)
    }

    /// Takes the decision to found, once.
    pub(super) fn take_decision(&mut self) -> Option<Decision> {
        self.decided.take()
    }
}

impl Core {
    // ---- Time ----

    fn stall_patience(&self) -> Duration {
        PATIENCE * (self.config.election_timeout + self.config.election_timeout_jitter)
    }

    /// When something about reforming is due.
    pub(super) fn reforming_due_at(&self) -> Option<Instant> {
        let waits = matches!(
            self.state,
            State::Follower | State::PreCandidate(_) | State::Standing(_)
        );
        if !waits || self.incarnation.is_none() || self.is_sealed() {
            return None;
        }
        let reforming = &self.reforming;
        if let Some(attempt) = &reforming.attempt {
            return Some(attempt.until);
        }
        if reforming.order.is_some() {
            return Some(reforming.ask_at);
        }
        Some(
            reforming
                .ask_at
                .max(reforming.since + self.stall_patience()),
        )
    }

    /// Asks what is left, or goes by what was answered.
    pub(super) fn reforming_due(&mut self, now: Instant) {
        if self.reforming_due_at().is_none_or(|at| at > now) {
            return;
        }
        if !self.may_write {
            self.look_for_writers(now);
            return;
        }
        if self.reforming.attempt.is_some() {
            self.conclude(now);
        }
        if self.reforming.attempt.is_some() || self.reforming.decided.is_some() {
            return;
        }
        if self.reforming.order.is_some_and(|order| order.until <= now) {
            self.reforming.order = None;
        }
        if self.is_patience_over(now) {
            self.order(now, true);
        }
        if self.reforming_due_at().is_some_and(|at| at <= now) {
            self.ask(now, None);
        }
    }

    fn is_patience_over(&self, now: Instant) -> bool {
        let reported_at = self.reforming.stalled.as_ref().map(|(_, at)| *at);
        let patience = self.config.reform_after;
        patience
            .zip(reported_at)
            .is_some_and(|(patience, at)| now.since(at) >= patience)
    }

    /// It is to reform without proof. Nothing comes of it where the group can go on.
    pub(super) fn order(&mut self, now: Instant, is_own: bool) {
        if self.incarnation.is_none() || !self.may_write || self.hears_leader(now) {
            return;
        }
        let before = self.reforming.order;
        if before.is_none() {
            self.reforming.ask_at = now;
        }
        self.reforming.order = Some(Order {
            until: now + ORDER_PATIENCE * self.config.election_timeout,
            is_own: is_own || before.is_some_and(|before| before.is_own),
        });
    }

    // ---- Who may only read ----

    /// Goes where those are that may write, once the member has heard no leader for long and none of them is left where it
    /// is. It takes no part in what becomes of its incarnation, and nothing rests on it. Without this, readers would stand still for
    /// ever beside a writer that has lost its memory and begun anew. Should the incarnation go on after all, the two meet.
    fn look_for_writers(&mut self, now: Instant) {
        let Some(of) = self.incarnation else {
            return;
        };
        let timeout = self.config.election_timeout;
        self.reforming.ask_at = now + self.jittered(timeout, timeout / 2);
        let voters = self.configuration().voters.iter();
        let missing = voters.filter(|voter| !self.is_bonded(voter)).copied();
        let missing = missing.collect();
        self.report(now, of, missing);
        let is_left = self.incarnation != Some(of) || self.bonded_writers().next().is_some();
        if is_left || self.successor(now).is_some() {
            return;
        }
        let goes_on = |peer: &&Peer| peer.may_write && peer.commit > Index::ZERO;
        let elsewhere = self.peers.values().find(goes_on);
        if let Some(into) = elsewhere.and_then(|peer| peer.incarnation) {
            self.follow_writers(now, into);
        }
    }

    // ---- Who asks ----

    fn ask(&mut self, now: Instant, pledge: Option<Pledge>) {
        let Some(of) = self.incarnation else {
            return;
        };
        let peers = self.peers.iter();
        // Those that may only read take no part: what they have could be anything.
        let asked = peers.filter(|(_, peer)| peer.may_write && peer.instance.is_some());
        let asked: BTreeSet<PeerId> = asked.map(|(id, _)| *id).collect();
        let round = self.random();
        let timeout = self.config.election_timeout;
        if let Some(pledge) = &pledge {
            self.pledge(now, pledge);
        }
        let ask = Reform::Ask {
            of,
            round,
            floor: self.reforming.floor,
            is_ordered: self.reforming.order.is_some_and(|order| order.is_own),
            pledge: pledge.clone(),
        };
        for peer in &asked {
            self.send(*peer, Message::Reform(Box::new(ask.clone())));
        }
        let pause = self.jittered(timeout, timeout / 2);
        self.reforming.ask_at = now + pause;
        self.reforming.attempt = Some(Attempt {
            round,
            asked,
            answers: BTreeMap::new(),
            until: now + timeout,
            pledge,
        });
        self.conclude_if_complete(now);
    }

    fn on_answer(&mut self, now: Instant, answer: Answer, of: Incarnation, round: u64) {
        if let Some(seal) = answer.remains.sealed {
            self.on_seal_told(now, seal);
        }
        if self.incarnation != Some(of) || !answer.remains.is_sound() {
            return;
        }
        self.release_if_wrong(&answer);
        let Some(attempt) = &mut self.reforming.attempt else {
            return;
        };
        if attempt.round == round && attempt.asked.contains(&answer.member.peer) {
            attempt.answers.insert(answer.member.peer, answer);
            self.conclude_if_complete(now);
        }
    }

    fn conclude_if_complete(&mut self, now: Instant) {
        let attempt = self.reforming.attempt.as_ref();
        if attempt.is_some_and(|attempt| attempt.answers.len() == attempt.asked.len()) {
            self.conclude(now);
        }
    }

    /// Goes by what the round has brought.
    fn conclude(&mut self, now: Instant) {
        let (Some(attempt), Some(of)) = (self.reforming.attempt.take(), self.incarnation) else {
            return;
        };
        let ours = self.remains(now, of, self.reforming.floor);
        let silent = self.bonded_writers().map(|(member, _)| member);
        let silent = silent.filter(|member| !attempt.answers.contains_key(&member.peer));
        let finding = Survey {
            of,
            me: self.me,
            ours: &ours,
            floor: self.reforming.floor,
            known: &self.reforming.known,
            answers: &attempt.answers,
            silent: &silent.collect(),
        }
        .judge();
        match finding {
            Finding::GoesOn => {
                self.reforming.stalled = None;
                self.reforming.rounds = 0;
            }
            Finding::OtherFloor(floor) => {
                self.reforming.floor = floor;
                self.ask(now, None);
            }
            Finding::Stands(left) => {
                let mut answers = attempt.answers.values();
                let is_followed = answers.any(|answer| answer.remains.has_gone_over)
                    || self.peers.values().any(|peer| peer.succeeds == Some(of));
                self.stands(now, of, attempt.pledge, left, is_followed);
            }
        }
    }

    /// The incarnation cannot go on with those that have answered. `is_followed`: another was reformed from it.
    fn stands(
        &mut self,
        now: Instant,
        of: Incarnation,
        pledge: Option<Pledge>,
        left: Left,
        is_followed: bool,
    ) {
        let named = left.gone.iter().chain(&left.missing);
        let named: BTreeSet<Member> = named.chain(&left.participants).copied().collect();
        let is_news = !named.is_subset(&self.reforming.known);
        if is_news {
            self.reforming.known = named;
        }
        let is_proved = left.is_proved() || mutant!(self.config, ReformWithoutProof);
        let is_ours = left.heir == self.me || mutant!(self.config, ReformFromAnyLog);
        if is_proved {
            if is_followed {
                // It is certain that nothing can be lost by it but what is lost already.
                self.reforming.agrees = true;
            } else if is_ours {
                self.go_on_with_proof(now, of, pledge, left);
            } else {
                self.reforming.rounds = self.reforming.rounds.saturating_add(1);
                if self.reforming.rounds > ROUNDS_MAX {
                    self.report(now, of, Vec::new());
                }
            }
            return;
        }
        self.reforming.rounds = 0;
        if is_news {
            // Those who have answered may know more of the lives that were named here for the first time.
            self.ask(now, None);
            return;
        }
        self.report(now, of, left.missing.iter().copied().collect());
        let order = self.reforming.order;
        let is_ordered = order.is_some_and(|order| now < order.until);
        if is_ordered && is_followed {
            self.reforming.agrees = true;
        } else if is_ordered && is_ours {
            self.reforming.decided = Some(Decision { word: None });
        }
    }

    /// It is proved that nobody can go on, and up to this member to found. First all that take part give their
    /// word: what they have answered in this round stays as it is.
    fn go_on_with_proof(
        &mut self,
        now: Instant,
        of: Incarnation,
        pledge: Option<Pledge>,
        left: Left,
    ) {
        let size = left.participants.len().max(left.gone.len());
        if size > NAMED_MAX {
            // Nobody gives a word that names so many, and what was answered without one may change.
            self.report(now, of, Vec::new());
            return;
        }
        // The word may have been taken back since, by somebody who is no longer there.
        let is_pledged = self.reforming.is_pledged() || mutant!(self.config, PledgeBroken);
        // By the word of just those that take part now: whoever else has given it may know of more.
        let given = pledge.filter(|pledge| {
            left.participants == pledge.participants && left.gone.is_subset(&pledge.gone)
        });
        if let Some(pledge) = given
            && is_pledged
        {
            let word = Some(pledge.word());
            self.reforming.decided = Some(Decision { word });
            return;
        }
        let pledge = Pledge {
            participants: left.participants,
            gone: left.gone,
        };
        self.ask(now, Some(pledge));
    }

    fn report(&mut self, now: Instant, incarnation: Incarnation, missing: Vec<Member>) {
        let before = self.reforming.stalled.as_ref();
        let since = before.map_or(now, |(_, since)| *since);
        let is_new = before.is_none();
        let stalled = Stalled {
            incarnation,
            missing,
        };
        self.reforming.stalled = Some((stalled.clone(), since));
        if is_new {
            self.event(super::io::Event::Stalled(Box::new(stalled)));
        }
        self.leave_for_another(now);
    }

    // ---- Who is asked ----

    /// What this member knows of an incarnation.
    fn remains(&self, now: Instant, of: Incarnation, floor: Position) -> Remains {
        let is_ours = self.incarnation == Some(of);
        let peers = self.peers.iter();
        let knows = peers.filter_map(|(id, peer)| {
            let instance = peer.instance?;
            (peer.may_write && peer.incarnation == Some(of)).then_some(Member {
                peer: *id,
                instance,
            })
        });
        Remains {
            goes_on: is_ours && self.hears_leader(now),
            has_gone_over: self.standing.descends_from(&of),
            sealed: self.seals.get(&of),
            part: is_ours.then(|| self.part(floor)),
            knows: knows.collect(),
            set_back: self.all_set_back().into_iter().collect(),
        }
    }

    fn part(&self, floor: Position) -> Part {
        let term = self.log.term_at(self.commit).unwrap_or_default();
        let named = self.log.named_from(self.commit);
        Part {
            last: self.last(),
            commit: Position {
                term,
                index: self.commit,
            },
            has_floor: floor.index <= self.commit || self.log.has(floor),
            voters: self.configuration().voters.iter().copied().collect(),
            named: named.into_iter().collect(),
            is_observer: self.is_observer() || self.leaving.is_some(),
        }
    }

    pub(super) fn on_reform(
        &mut self,
        now: Instant,
        from: Member,
        theirs: Option<Incarnation>,
        reform: Reform,
    ) {
        // Its word counts for nothing, so it gives none.
        if !self.may_write {
            return;
        }
        match reform {
            Reform::Ask {
                of,
                round,
                floor,
                is_ordered,
                pledge,
            } => {
                if self.incarnation == Some(of) && !self.hears_leader(now) {
                    if let Some(pledge) = pledge.filter(|it| it.participants.contains(&self.me)) {
                        self.pledge(now, &pledge);
                    }
                    if is_ordered {
                        // Whoever has the best log is to found, and the others are to follow it.
                        self.order(now, false);
                        self.reforming.agrees = true;
                    }
                }
                let remains = self.remains(now, of, floor);
                if remains.is_sound() {
                    let answer = Reform::Answer { of, round, remains };
                    // To which incarnation this life belongs is a promise.
                    self.send_durably(from.peer, Message::Reform(Box::new(answer)));
                }
            }
            Reform::Answer { of, round, remains } => {
                let answer = Answer {
                    member: from,
                    incarnation: theirs,
                    remains,
                };
                self.on_answer(now, answer, of, round);
            }
        }
    }

    // ---- The word that was given ----

    /// Gives its word to do nothing more for the incarnation: no vote, no acknowledgement, no news of what was
    /// committed. What is founded next goes on from what all had answered by then; were something found to be
    /// committed, and acknowledged, only afterwards, it could be lost (a late message of a leader that is gone).
    fn pledge(&mut self, now: Instant, pledge: &Pledge) {
        if mutant!(self.config, PledgeBroken) {
            return;
        }
        let size = pledge.participants.len().max(pledge.gone.len());
        if size > NAMED_MAX {
            return;
        }
        let term = self.term;
        self.follow(now, term, None);
        let before = self.reforming.pledged.take();
        let mut pledge = pledge.clone();
        if let Some(before) = before {
            // That a life is over stays true.
            pledge.gone.extend(before.gone);
            pledge.gone = pledge.gone.into_iter().take(NAMED_MAX).collect();
        }
        self.reforming.pledged = Some(pledge);
        self.reforming.agrees = true;
    }

    /// A message of the incarnation has come that only who takes part in it sends. Whether it is to be dropped, since
    /// the member has given its word.
    pub(super) fn is_held_to_word(&mut self, from: &Member) -> bool {
        let Some(pledge) = &self.reforming.pledged else {
            return false;
        };
        if pledge.participants.contains(from) {
            return true;
        }
        // Somebody lives that nobody who gave the word knew of: it was given by mistake, and the group may need
        // this member to go on.
        self.reforming.take_word_back();
        false
    }

    /// Takes its word back where somebody takes part, with a log, that was not known when it was given.
    fn release_if_wrong(&mut self, answer: &Answer) {
        let has_log = |part: &Part| part.last > Position::ZERO;
        let is_wrong = self.reforming.pledged.as_ref().is_some_and(|pledge| {
            answer.remains.part.as_ref().is_some_and(has_log)
                && !pledge.participants.contains(&answer.member)
        });
        if is_wrong {
            self.reforming.take_word_back();
        }
    }

    // ---- Going over ----

    /// A member of an incarnation that was reformed from ours, which this member is to join.
    pub(super) fn successor(&self, now: Instant) -> Option<(Member, Incarnation)> {
        let ours = self.incarnation?;
        // Whoever has no entry has nothing to lose, and nobody counts on it; nor on one that may only read, which follows
        // those that may write wherever they go.
        let is_reader = !self.may_write && now.since(self.reforming.since) >= self.stall_patience();
        let may_go = self.reforming.agrees || is_reader || self.last() == Position::ZERO;
        if !may_go || self.is_sealed() || self.hears_leader(now) {
            return None;
        }
        let mut peers = self.peers.iter();
        peers.find_map(|(id, peer)| {
            let (instance, theirs) = (peer.instance?, peer.incarnation?);
            let member = Member {
                peer: *id,
                instance,
            };
            (peer.succeeds == Some(ours) && theirs != ours).then_some((member, theirs))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_keeps_is_forgotten_when_a_leader_is_heard() {
        let mut reforming = Reforming::new(Instant::ZERO);
        let life = Member {
            peer: PeerId::from_bytes([1; 32]),
            instance: crate::id::Instance::from_bytes([1; 16]),
        };
        reforming.pledged = Some(Pledge {
            participants: BTreeSet::new(),
            gone: BTreeSet::from([life]),
        });
        reforming.decided = Some(Decision { word: None });
        assert!(reforming.is_pledged() && reforming.is_gone(&life));
        reforming.begin_anew(Instant::ZERO);
        assert!(!reforming.is_pledged() && !reforming.is_gone(&life));
        assert_eq!(reforming.take_decision(), None);
    }
}
