//! Founding: how candidates become a group, and how a founding that cannot be completed is left.

use std::collections::BTreeSet;

use rand::Rng;

use super::config::{FoundingRule, LeadershipPreference};
use super::core::{Core, State};
use super::entry::{Entry, Payload};
use super::hello::Peer;
use super::io::Event;
use super::leading::Leading;
use super::log::Log;
use super::messages::Message;
use super::standing::Standing;
use super::store::Manifest;
use super::types::{Charter, Incarnation, Index, Member, Position, Term};
use crate::id::{Instance, PeerId};
use crate::protocol::mutant;
use crate::time::Instant;

/// `Any` waits for candidates it has not met so many times as long as for others.
const PATIENCE: u32 = 3;
/// News of candidates put a founding off no longer than so many times the quiet that it wants.
const NEWS_PATIENCE: u32 = 10;

/// What a member without an incarnation keeps.
#[derive(Debug)]
pub(super) struct Candidacy {
    /// When it became one.
    since: Instant,
    /// When a candidate was last met for the first time.
    news_at: Instant,
    met: BTreeSet<PeerId>,
    /// A founding that it proposes.
    attempt: Option<Attempt>,
    /// Whom it has promised to take part, and until when. Nothing rests on it: it only keeps two
    /// foundings from being tried at once.
    promised: Option<(PeerId, Instant)>,
}

/// Why a voter that a founding lists will do nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its life is over.
    IsOver,
    /// It has accepted another.
    IsElsewhere,
}

#[derive(Debug)]
struct Attempt {
    round: u64,
    voters: Vec<Member>,
    promised: BTreeSet<Member>,
    until: Instant,
}

impl Candidacy {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            news_at: now,
            met: BTreeSet::new(),
            attempt: None,
            promised: None,
        }
    }
}

impl Core {
    /// When something about the founding is due.
    pub(super) fn founding_due_at(&self) -> Option<Instant> {
        let State::Candidate(candidacy) = &self.state else {
            return None;
        };
        if self.is_observer() || self.surroundings.is_founded || self.leaving.is_some() {
            return None;
        }
        let promised_until = candidacy.promised.map(|(_, until)| until);
        let attempt_until = candidacy.attempt.as_ref().map(|attempt| attempt.until);
        let at = self
            .quiet_at(candidacy)
            .max(promised_until.unwrap_or(Instant::ZERO));
        if let Some(until) = attempt_until {
            return Some(until);
        }
        self.voters_of_founding().is_some().then_some(at)
    }

    /// When it will have been quiet for long enough to found.
    fn quiet_at(&self, candidacy: &Candidacy) -> Instant {
        let delay = self.config.bootstrap_delay;
        // Peers that come and go, or start again and again, do not put it off for ever.
        let quiet = (candidacy.news_at + delay).min(candidacy.since + delay * NEWS_PATIENCE);
        if self.surroundings.incomplete && self.config.founding == FoundingRule::Any {
            // Somebody is known of that was not met yet: two foundings would be the price of haste
            // (schedule H13).
            return quiet.max(candidacy.since + delay * PATIENCE);
        }
        quiet
    }

    /// Whom a founding by us would list; `None` where it is not for us to found, or not yet.
    fn voters_of_founding(&self) -> Option<Vec<Member>> {
        let mut candidates: Vec<Member> = vec![self.me];
        for (id, peer) in &self.peers {
            if let (Some(instance), None) = (peer.instance, peer.incarnation)
                && peer.preference != LeadershipPreference::Observer
            {
                candidates.push(Member {
                    peer: *id,
                    instance,
                });
            }
        }
        candidates.sort_unstable();
        let needed = match self.config.founding {
            FoundingRule::Any => 1,
            FoundingRule::Expect(expected) => expected as usize,
        };
        let is_ours = candidates.first() == Some(&self.me);
        candidates.truncate(self.config.max_voters as usize);
        (is_ours && candidates.len() >= needed).then_some(candidates)
    }

    /// Who is there has changed, or time has passed.
    pub(super) fn go_on_founding(&mut self, now: Instant) {
        let present: BTreeSet<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.incarnation.is_none() && peer.instance.is_some())
            // Nobody waits for those who never found.
            .filter(|(_, peer)| peer.may_write)
            .map(|(id, _)| *id)
            .collect();
        let State::Candidate(candidacy) = &mut self.state else {
            return;
        };
        if !present.is_subset(&candidacy.met) {
            candidacy.news_at = now;
        }
        candidacy.met = present;
        if candidacy.promised.is_some_and(|(_, until)| until <= now) {
            candidacy.promised = None;
        }
        if candidacy
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.until <= now)
        {
            candidacy.attempt = None;
        }
        let is_due = self.founding_due_at().is_some_and(|at| at <= now);
        let State::Candidate(candidacy) = &self.state else {
            return;
        };
        if !is_due || candidacy.attempt.is_some() {
            return;
        }
        let Some(voters) = self.voters_of_founding() else {
            return;
        };
        if voters.len() == 1 {
            self.found(now, voters);
            return;
        }
        let round = self.rng.next_u64();
        let until = now + self.config.election_timeout;
        let me = self.me;
        for voter in voters.iter().filter(|voter| **voter != me) {
            let invitation = Message::Invite {
                round,
                voters: voters.clone(),
            };
            self.send(voter.peer, invitation);
        }
        if let State::Candidate(candidacy) = &mut self.state {
            candidacy.attempt = Some(Attempt {
                round,
                voters,
                promised: BTreeSet::new(),
                until,
            });
        }
    }

    /// Another candidate wants to found with us.
    pub(super) fn on_invite(&mut self, now: Instant, from: Member, round: u64, voters: &[Member]) {
        let until = now + self.config.election_timeout;
        let (me, is_observer) = (self.me, self.is_observer());
        let State::Candidate(candidacy) = &mut self.state else {
            return;
        };
        let is_free = candidacy
            .promised
            .is_none_or(|(peer, until)| peer == from.peer || until <= now);
        // Of two that try at once the smaller goes on.
        let yields = candidacy.attempt.is_none() || from.peer < me.peer;
        if !is_observer && voters.contains(&me) && is_free && yields {
            candidacy.attempt = None;
            candidacy.promised = Some((from.peer, until));
            self.send(from.peer, Message::Promise { round });
        }
    }

    /// A candidate would take part in our founding.
    pub(super) fn on_promise(&mut self, now: Instant, from: Member, round: u64) {
        let me = self.me;
        let State::Candidate(candidacy) = &mut self.state else {
            return;
        };
        let Some(attempt) = &mut candidacy.attempt else {
            return;
        };
        if attempt.round != round || !attempt.voters.contains(&from) || attempt.until <= now {
            return;
        }
        attempt.promised.insert(from);
        let mut others = attempt.voters.iter().filter(|voter| **voter != me);
        if others.all(|voter| attempt.promised.contains(voter)) {
            let voters = std::mem::take(&mut attempt.voters);
            self.found(now, voters);
        }
    }

    /// Founds the group: the founder leads term 1, in this run alone. It says nothing of it before it is
    /// durable: else it could forget it, and take part in another (schedule A-v).
    fn found(&mut self, now: Instant, voters: Vec<Member>) {
        let mut nonce = [0; 32];
        // The same members may found the group again. Its messages must not be taken for those of its
        // earlier life (schedule H1).
        if !mutant!(self.config, IncarnationWithoutFreshBytes) {
            self.rng.fill_bytes(&mut nonce);
        }
        let expected = match self.config.founding {
            FoundingRule::Any => 0,
            FoundingRule::Expect(expected) => expected,
        };
        let charter = Charter {
            group: self.group,
            nonce,
            founder: self.me,
            voters,
            expected,
            parent: None,
        };
        self.accept(now, charter.clone());
        self.silent_until = self.disk.latest();
        self.lead(now);
        self.pass_on(&charter);
    }

    /// Takes part in a founding: its entry, and a vote for the founder, so that no election follows. For
    /// good: an instance accepts one founding ever.
    fn accept(&mut self, now: Instant, charter: Charter) {
        let incarnation = charter.incarnation();
        let founder = charter.founder;
        let is_new = self.incarnation.is_none();
        self.incarnation = Some(incarnation);
        if self.term == Term::ZERO {
            self.term = Term(1);
            self.vote = Some(founder);
        }
        self.persist_hard_state();
        let entry = Entry {
            term: Term(1),
            index: Index(1),
            payload: Payload::Founding(Box::new(charter)),
        };
        self.disk.append(&entry);
        self.log.append(entry);
        self.state = State::Follower;
        self.await_leader(now);
        self.reforming.begin_anew(now);
        self.introduce_anew(now);
        if is_new {
            self.event(Event::Joined(incarnation));
        }
    }

    /// A founding has come, from its founder or another member.
    pub(super) fn on_founding(&mut self, now: Instant, charter: &Charter) {
        let incarnation = charter.incarnation();
        let is_listed =
            charter.voters.contains(&self.me) && charter.voters.contains(&charter.founder);
        // Whoever joined it without an entry yet may still accept it; whoever belongs to another may not.
        let is_free = self.incarnation.is_none_or(|ours| ours == incarnation)
            && self.last() == Position::ZERO;
        if charter.group != self.group
            || !self.may_write
            || !is_listed
            || !is_free
            || charter.voters.len() > super::config::VOTERS_MAX
        {
            return;
        }
        self.accept(now, charter.clone());
        // The founder may not have reached all.
        self.pass_on(charter);
    }

    /// Tells all listed voters that there is a bond with, unless they know.
    fn pass_on(&mut self, charter: &Charter) {
        for voter in &charter.voters {
            if *voter != self.me && *voter != charter.founder {
                self.pass_on_to(charter, *voter);
            }
        }
    }

    fn pass_on_to(&mut self, charter: &Charter, voter: Member) {
        let needs_it = self.peers.get(&voter.peer).is_some_and(|peer| {
            peer.instance == Some(voter.instance) && peer.incarnation.is_none()
        });
        if needs_it {
            self.send_durably(voter.peer, Message::Founding(Box::new(charter.clone())));
        }
    }

    /// A peer has said who it is: it may belong to an incarnation that we join, lack a founding that lists
    /// it, or be the proof that ours cannot be completed.
    pub(super) fn on_acquaintance(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        match (self.incarnation, peer.incarnation) {
            // A late node joins what is there, with a leader or without (schedule H14); but not what it has
            // left itself, which others may have joined on its word, nor what only those speak of who may not write:
            // it may never have been.
            (None, Some(theirs)) if self.left != Some(theirs) && peer.may_write => {
                self.join(now, self.seals.last_of(theirs));
            }
            (Some(_), None) => {
                let voter = peer.instance.map(|instance| Member { peer: id, instance });
                if let (Some(voter), Some(charter)) = (voter, self.log.charter().cloned())
                    && charter.voters.contains(&voter)
                {
                    self.pass_on_to(&charter, voter);
                }
            }
            _ => {}
        }
        self.leave_founding_if_void(now);
        self.change_over_if_proved(now);
        self.go_on_founding(now);
    }

    /// Becomes a learner of an incarnation.
    fn join(&mut self, now: Instant, incarnation: Incarnation) {
        self.incarnation = Some(incarnation);
        self.persist_hard_state();
        self.state = State::Follower;
        self.await_leader(now);
        self.reforming.begin_anew(now);
        self.introduce_anew(now);
        self.event(Event::Joined(incarnation));
    }

    /// Whether the log shows that something after the founding was committed: commands come only of sessions
    /// that were opened, and voters change only after a commit.
    pub(super) fn has_data(&self) -> bool {
        let is_empty = |entry: &Entry| {
            matches!(
                entry.payload,
                Payload::Founding(_) | Payload::Blank | Payload::Open(_)
            )
        };
        let mut entries = (1..=self.last().index.0).map(|index| self.log.entry(Index(index)));
        entries.any(|entry| !entry.is_some_and(is_empty))
    }

    /// Leaves a founding that can never be completed: on proof, or because a member that had the proof says
    /// so. Only while nothing after it is known to be committed: later it would drop what was acknowledged.
    fn leave_founding_if_void(&mut self, now: Instant) {
        // Entries that carry nothing of anybody's may go with it.
        if self.incarnation.is_none() || self.commit > Index(1) || self.has_data() {
            return;
        }
        // Others may know of more: of voters that were added since, without which nobody is to judge.
        if self
            .bonded_members()
            .any(|(_, peer)| peer.commit > Index(1))
        {
            return;
        }
        // Whoever has joined it without an entry cannot judge. Without this, those who have left it would
        // find it advertised by those who joined it on their word, and nobody could ever found again.
        let is_told = self
            .peers
            .values()
            .any(|peer| peer.left == self.incarnation);
        if is_told || self.is_founding_void() {
            self.leave_founding(now);
        }
    }

    /// Whether so many of the founding's voters hold another, or are in another life, that the others are no
    /// majority, or that fewer than expected can accept it.
    fn is_founding_void(&self) -> bool {
        let Some(charter) = self.log.charter() else {
            return false;
        };
        let listed = charter.voters.len();
        // Of those in another life each may have accepted it before. Only a leader that has not yet learnt of
        // enough acceptances knows better: what was ever acknowledged would be in its log.
        let waits_for = match &self.state {
            State::Leader(leading) if !leading.is_accepted => Some(leading),
            _ => None,
        };
        let (mut gone, mut never_accepted) = (0, 0);
        for voter in &charter.voters {
            let Some(fate) = self.fate_of(voter) else {
                continue;
            };
            gone += 1;
            let has_accepted = |leading: &Leading| {
                let progress = leading.progress.get(voter);
                progress.is_some_and(|it| it.matched > Index::ZERO)
            };
            let may_have_accepted =
                fate == Fate::IsOver && waits_for.is_none_or(|leading| has_accepted(leading));
            never_accepted += usize::from(!may_have_accepted);
        }
        let expected = charter.expected as usize;
        gone > 0 && (listed - gone < listed / 2 + 1 || listed - never_accepted < expected)
    }

    /// What has become of a listed voter that is not there any more; `None` where that is not proved.
    pub(super) fn fate_of(&self, voter: &Member) -> Option<Fate> {
        let peer = self.peers.get(&voter.peer)?;
        // The answer to a question that we asked after we had accepted: what was said before may be older than
        // the life that is listed.
        if *voter == self.me || peer.pong < self.ping {
            return None;
        }
        if peer.instance? != voter.instance {
            return Some(Fate::IsOver);
        }
        (peer.incarnation? != self.incarnation?).then_some(Fate::IsElsewhere)
    }

    /// Goes where others are that have something, once the incarnation stands still in which this member has nothing.
    ///
    /// It has never acknowledged anything there, so that nothing rests on it but votes that it may have given, and those
    /// stay true: to those whom it leaves it has crashed for good. It does not tell them that the incarnation is void,
    /// as whoever has the proof of that does: others may have all of it. If that one goes on some day, the two meet.
    /// Without this, a node that came to a group as it died would stand still for ever beside the next one.
    pub(super) fn leave_for_another(&mut self, now: Instant) {
        let is_elsewhere = |peer: &Peer| {
            peer.incarnation.is_some()
                && peer.incarnation != self.incarnation
                && peer.commit > Index::ZERO
        };
        if self.last() == Position::ZERO
            && self.peers.values().any(is_elsewhere)
            && let Some(left) = self.incarnation.take()
        {
            self.begin_as_candidate(now, left);
        }
    }

    fn leave_founding(&mut self, now: Instant) {
        if let Some(left) = self.incarnation.take() {
            self.left = Some(left);
            self.begin_as_candidate(now, left);
        }
    }

    fn begin_as_candidate(&mut self, now: Instant, left: Incarnation) {
        self.begin_another_life();
        self.state = State::Candidate(Candidacy::new(now));
        self.reforming.begin_anew(now);
        self.introduce_anew(now);
        self.event(Event::LeftFounding(left));
    }

    /// Forgets all of the incarnation that it has belonged to; the caller has set the one that it belongs to
    /// from now on.
    pub(super) fn begin_another_life(&mut self) {
        // A fresh instance, in the same write: what the one before has promised stays true for ever,
        // so that proofs do not age (schedules A-ii, A-iii).
        let instance = self.next_instance();
        self.forget_life(instance);
        self.disk.reset();
        self.persist_hard_state();
    }

    /// A life that nobody has had before.
    pub(super) fn next_instance(&mut self) -> Instance {
        Instance::from_rng(&mut self.rng)
    }

    /// Becomes another member, which knows nothing of the one before. What the disk has of it is the caller's.
    fn forget_life(&mut self, instance: Instance) {
        self.me.instance = instance;
        self.term = Term::ZERO;
        self.vote = None;
        self.log = Log::default();
        self.commit = Index::ZERO;
        self.recovered = Index::ZERO;
        self.standing = Standing::default();
        self.applied = Index::ZERO;
        self.commands_applied = 0;
        self.read_indexes.clear();
        self.state = State::Follower;
        self.set_leader(None);
        self.leader_heard_at = None;
        for peer in self.peers.values_mut() {
            peer.pong = 0;
        }
    }

    /// Begins a life in an incarnation that was reformed from the present one, with the snapshot at `manifest` as all that
    /// it has. The caller writes that, and then the hard state, in one.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        instance: Instance,
        manifest: &Manifest,
        standing: &Standing,
        commands: u64,
    ) {
        self.forget_life(instance);
        let position = manifest.position;
        self.incarnation = Some(manifest.incarnation);
        self.term = position.term;
        self.log = Log::after(
            position,
            manifest.configured_at,
            manifest.configuration.clone(),
        );
        self.commit = position.index;
        self.standing = standing.clone();
        (self.applied, self.commands_applied) = (position.index, commands);
        self.disk.forget_held();
        self.reforming.begin_anew(now);
        self.await_leader(now);
        self.introduce_anew(now);
    }

    /// The founding of an incarnation that goes on from the present one, by this member alone, in its next life.
    pub(super) fn charter_of_reform(&mut self) -> Charter {
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        let founder = Member {
            peer: self.me.peer,
            instance: self.next_instance(),
        };
        Charter {
            group: self.group,
            nonce,
            founder,
            voters: vec![founder],
            expected: 0,
            parent: self.incarnation,
        }
    }
}
