//! Two incarnations of one group that meet: who offers, who decides, and who takes an offer back.
//!
//! The leader of the smaller digest greets those of the greater, and once one of them is ready commits
//! `Frozen`. It sends the offer until it hears what was decided, and commits `Sealed` or `Thawed`; after a
//! while `Thawed` in any case. What the entries mean is [`Standing`]'s to say: nothing here rests on what a
//! leader believes, on the order of these messages, nor on their arrival.

use super::core::{Core, State};
use super::entry::Payload;
use super::messages::{Meeting, Message};
use super::standing::{Offer, Phase, Standing};
use super::types::{Incarnation, Index, Member, Position};
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// An incarnation stays frozen for so many election timeouts at first, and goes on for so many times as long
/// before it offers again.
const PATIENCE: u32 = 2;
const PAUSE: u32 = 2;
/// Both double with each offer that came to nothing, so often at most: an answer that takes longer than one is
/// waited for does so no more in the end.
const DOUBLINGS_MAX: u32 = 3;

/// How the meetings that this member has led have gone.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    /// Offers that came to nothing, one after the other.
    failures: u32,
    /// Nothing is offered before.
    not_before: Instant,
    /// The offer that stands, and since when it does here.
    since: Option<(Position, Instant)>,
}

/// What a leader has proposed in its term: once is enough.
#[derive(Debug, Default)]
pub(super) struct Proposed {
    /// It has proposed to freeze, and that is not applied yet.
    is_freezing: bool,
    sealed: Option<Position>,
    thawed: Option<Position>,
    decided: Option<Offer>,
}

impl Core {
    /// Whether the incarnation is neither frozen nor sealed, as far as that is applied here.
    pub(super) const fn is_open(&self) -> bool {
        self.standing.is_open()
    }

    pub(super) const fn is_sealed(&self) -> bool {
        self.standing.phase().seal().is_some()
    }

    /// Whether what this member appends now would be committed, as far as it knows, and all before it is
    /// applied.
    fn can_propose(&self) -> bool {
        let stands_still =
            matches!(&self.state, State::Leader(leading) if leading.transfer.is_some());
        matches!(self.state, State::Leader(_))
            && self.has_committed_in_term()
            && !stands_still
            && !self.is_sealed()
    }

    fn members_of(&self, incarnation: Incarnation) -> Vec<PeerId> {
        let peers = self.peers.iter();
        let of_it =
            peers.filter(|(_, peer)| peer.may_write && peer.incarnation == Some(incarnation));
        of_it.map(|(id, _)| *id).collect()
    }

    fn say(&mut self, to: &[PeerId], meeting: Meeting) {
        for peer in to {
            self.send(*peer, Message::Meeting(meeting));
        }
    }

    /// The leader's regular look at others.
    pub(super) fn go_on_meeting(&mut self, now: Instant) {
        if !self.can_propose() {
            return;
        }
        match *self.standing.phase() {
            Phase::Open if now >= self.meetings.not_before => self.greet(),
            Phase::Open | Phase::Sealed(_) => {}
            Phase::Frozen(offer) => {
                let (_, since) = match self.meetings.since {
                    Some(since) if since.0 == offer.at => since,
                    _ => *self.meetings.since.insert((offer.at, now)),
                };
                // What it has met has ended as well, or does not answer: clients have waited long enough.
                let is_over = self.seals.get(&offer.to).is_some()
                    || now.since(since) >= self.meetings.patience(self.config.election_timeout);
                if is_over {
                    self.thaw(offer.at);
                } else {
                    let to = self.members_of(offer.to);
                    self.say(&to, Meeting::Offer(offer));
                }
            }
        }
    }

    /// Greets those that may take us in.
    fn greet(&mut self) {
        let Some(ours) = self.incarnation else {
            return;
        };
        let peers = self.peers.iter();
        let greater = peers.filter(|(_, peer)| {
            let theirs = peer.incarnation.filter(|theirs| *theirs > ours);
            peer.may_write && theirs.is_some_and(|theirs| self.seals.get(&theirs).is_none())
        });
        let greater: Vec<PeerId> = greater.map(|(id, _)| *id).collect();
        self.say(&greater, Meeting::Greet);
    }

    fn thaw(&mut self, offer: Position) {
        if let State::Leader(leading) = &mut self.state
            && leading.proposed.thawed != Some(offer)
        {
            leading.proposed.thawed = Some(offer);
            self.append_own(Payload::Thawed { offer });
        }
    }

    /// A member of another incarnation, or one of ours that passes on what it has heard.
    pub(super) fn on_meeting(
        &mut self,
        now: Instant,
        from: Member,
        theirs: Option<Incarnation>,
        meeting: Meeting,
    ) {
        let (Some(ours), Some(theirs)) = (self.incarnation, theirs) else {
            return;
        };
        match meeting {
            Meeting::Greet => {
                // Whoever hears a leader passes the offer on to it: the leaders may have no bond.
                let has_leader = match self.state {
                    State::Leader(_) => self.can_propose(),
                    _ => !self.is_sealed() && self.hears_leader(now),
                };
                if theirs < ours && has_leader {
                    self.say(&[from.peer], Meeting::Ready);
                }
            }
            Meeting::Ready => self.on_ready(ours, theirs),
            Meeting::Offer(offer) if offer.to == ours => {
                self.on_offer(from, theirs == ours, &offer);
            }
            Meeting::Decided {
                from: offered_by,
                by,
                offer,
                absorbs,
            } if offered_by == ours => {
                if theirs != ours && !matches!(self.state, State::Leader(_)) {
                    self.pass_to_leader(meeting);
                } else {
                    self.on_decided(by, offer, absorbs);
                }
            }
            Meeting::Offer(_) | Meeting::Decided { .. } => {}
        }
    }

    fn pass_to_leader(&mut self, meeting: Meeting) {
        if let Some(leader) = self.leader.filter(|leader| *leader != self.me) {
            self.send_to(leader, Message::Meeting(meeting));
        }
    }

    /// The leader of another incarnation is there.
    fn on_ready(&mut self, ours: Incarnation, theirs: Incarnation) {
        let may = self.can_propose() && self.is_open() && theirs > ours;
        if !may {
            return;
        }
        if let State::Leader(leading) = &mut self.state
            && !std::mem::replace(&mut leading.proposed.is_freezing, true)
        {
            self.append_own(Payload::Frozen { to: theirs });
        }
    }

    /// Another incarnation offers to be taken in.
    fn on_offer(&mut self, from: Member, is_passed_on: bool, offer: &Offer) {
        if let Some(verdict) = self.standing.verdict(offer) {
            let decided = Meeting::Decided {
                from: offer.from,
                by: offer.to,
                offer: offer.at,
                absorbs: verdict.absorbs,
            };
            self.say(&[from.peer], decided);
            return;
        }
        if !self.can_propose() {
            if !is_passed_on && !matches!(self.state, State::Leader(_)) {
                self.pass_to_leader(Meeting::Offer(*offer));
            }
            return;
        }
        if let State::Leader(leading) = &mut self.state
            && leading.proposed.decided != Some(*offer)
        {
            leading.proposed.decided = Some(*offer);
            self.append_own(Payload::Decided { offer: *offer });
        }
    }

    /// Our offer was decided on.
    fn on_decided(&mut self, by: Incarnation, offer: Position, absorbs: bool) {
        let is_ours =
            matches!(self.standing.phase(), Phase::Frozen(of) if of.at == offer && of.to == by);
        if !is_ours || !self.can_propose() {
            return;
        }
        if !absorbs {
            // It was not in vain: whoever comes next is not to wait for it.
            self.meetings.failures = 0;
            self.thaw(offer);
            return;
        }
        if let State::Leader(leading) = &mut self.state
            && leading.proposed.sealed != Some(offer)
        {
            leading.proposed.sealed = Some(offer);
            self.append_own(Payload::Sealed { into: by, offer });
        }
    }

    /// Takes note of what was applied.
    pub(super) fn note_standing(
        &mut self,
        now: Instant,
        standing: &Standing,
        (applied, commands): (Index, u64),
    ) {
        (self.applied, self.commands_applied) = (applied, commands);
        if self.standing == *standing {
            return;
        }
        let before = std::mem::replace(&mut self.standing, standing.clone());
        if let State::Leader(leading) = &mut self.state {
            leading.proposed.is_freezing = false;
        }
        match *standing.phase() {
            Phase::Frozen(offer) => {
                self.meetings.since = Some((offer.at, now));
                if self.can_propose() {
                    let to = self.members_of(offer.to);
                    self.say(&to, Meeting::Offer(offer));
                }
            }
            Phase::Open if matches!(before.phase(), Phase::Frozen(_)) => {
                self.meetings.thawed(now, self.config.election_timeout);
            }
            Phase::Sealed(seal) => self.sealed(now, seal),
            Phase::Open => {}
        }
        self.tell_verdicts(&before);
    }

    /// Those that wait for a decision hear of it at once; if that is lost they ask again.
    fn tell_verdicts(&mut self, before: &Standing) {
        let (State::Leader(_), Some(by)) = (&self.state, self.incarnation) else {
            return;
        };
        let is_new = |(from, verdict): &(&Incarnation, &super::standing::Verdict)| {
            let mut known = before.verdicts();
            !known.any(|(of, known)| of == *from && known == *verdict)
        };
        let news: Vec<_> = self.standing.verdicts().filter(is_new).collect();
        let news: Vec<(Incarnation, Meeting)> = news
            .into_iter()
            .map(|(from, verdict)| {
                let decided = Meeting::Decided {
                    from: *from,
                    by,
                    offer: verdict.at,
                    absorbs: verdict.absorbs,
                };
                (*from, decided)
            })
            .collect();
        for (from, decided) in news {
            let to = self.members_of(from);
            self.say(&to, decided);
        }
    }
}

impl Meetings {
    fn doubled(&self, time: Duration) -> Duration {
        time * (1 << self.failures.min(DOUBLINGS_MAX))
    }

    fn patience(&self, election_timeout: Duration) -> Duration {
        self.doubled(PATIENCE * election_timeout)
    }

    /// An offer has come to nothing.
    fn thawed(&mut self, now: Instant, election_timeout: Duration) {
        self.not_before = now + self.doubled(PAUSE * election_timeout);
        self.failures = self.failures.saturating_add(1);
        self.since = None;
    }
}
