//! The end of an incarnation: when its members go over to the one that goes on.

use super::core::{Core, State};
use super::entry::Payload;
use super::standing::{Seal, Standing};
use super::store::SEALS;
use super::types::{Incarnation, Index};
use crate::protocol::mutant;
use crate::time::Instant;

/// Incarnations that are known to have ended, at most.
const KNOWN_MAX: usize = 64;

/// The incarnations that are known to have ended.
#[derive(Debug, Default)]
pub(super) struct Seals {
    /// Those that the member has given up itself, the latest one first; durable where members are.
    own: [Option<Seal>; SEALS],
    /// Those that it was told of, the latest one last.
    told: Vec<Seal>,
    /// Since when the incarnation that it belongs to is known to be sealed.
    since: Option<Instant>,
}

impl Seals {
    pub(super) const fn recovered(own: &[Option<Seal>; SEALS]) -> Self {
        Self {
            own: *own,
            told: Vec::new(),
            since: None,
        }
    }

    pub(super) const fn own(&self) -> [Option<Seal>; SEALS] {
        self.own
    }

    pub(super) fn get(&self, incarnation: &Incarnation) -> Option<Seal> {
        let all = self.own.iter().flatten().chain(&self.told);
        let mut of_it = all.filter(|seal| seal.incarnation == *incarnation);
        of_it.next().copied()
    }

    /// Where the members of `incarnation` go on, after all those that are known to have ended.
    pub(super) fn last_of(&self, incarnation: Incarnation) -> Incarnation {
        let mut last = incarnation;
        // Honest incarnations yield to heavier ones and form no circle; bounded all the same.
        for _ in 0..SEALS + KNOWN_MAX {
            match self.get(&last) {
                Some(seal) => last = seal.into,
                None => return last,
            }
        }
        incarnation
    }

    fn tell(&mut self, seal: Seal) {
        if self.get(&seal.incarnation).is_none() {
            if self.told.len() >= KNOWN_MAX {
                self.told.remove(0);
            }
            self.told.push(seal);
        }
    }

    fn give_up(&mut self, seal: Seal) {
        if let Some(oldest) = self.own[SEALS - 1] {
            self.tell(oldest);
        }
        self.told
            .retain(|told| told.incarnation != seal.incarnation);
        self.own.rotate_right(1);
        self.own[0] = Some(seal);
        self.since = None;
    }
}

impl Core {
    /// The seal of its incarnation was applied.
    pub(super) fn sealed(&mut self, now: Instant, seal: Seal) {
        debug_assert_eq!(self.incarnation, Some(seal.incarnation));
        self.seals.since = Some(now);
    }

    /// When the member goes over to the incarnation that goes on. A leader stays for those that have not heard
    /// of the seal yet, but not for long: whoever has gone over tells them as well.
    pub(super) fn change_over_at(&self) -> Option<Instant> {
        if mutant!(self.config, ChangeOverBeforeCommit) && self.foreseen_seal().is_some() {
            return Some(Instant::ZERO);
        }
        let since = self.seals.since.filter(|_| self.is_sealed())?;
        let is_alone = self.bonded_members().next().is_none();
        let waits = matches!(self.state, State::Leader(_)) && !is_alone;
        Some(if waits {
            since + self.config.election_timeout
        } else {
            since
        })
    }

    /// Goes over where the seal is committed and applied.
    pub(super) fn change_over_if_due(&mut self, now: Instant) {
        if mutant!(self.config, ChangeOverBeforeCommit)
            && let Some(seal) = self.foreseen_seal()
        {
            self.change_over(now, seal);
            return;
        }
        if self.change_over_at().is_some_and(|at| at <= now)
            && let Some(seal) = self.standing.phase().seal()
        {
            self.change_over(now, seal);
        }
    }

    /// A member that has changed over says that the seal of `seal.incarnation` was committed.
    pub(super) fn on_seal_told(&mut self, now: Instant, seal: Seal) {
        if seal.incarnation == seal.into {
            return;
        }
        self.seals.tell(seal);
        if self.incarnation != Some(seal.incarnation) {
            return;
        }
        if self.log.has(seal.at) {
            // Then all up to it is what was committed: what is given up is to be given up as a whole.
            let term = self.term;
            self.follow(now, term, None);
            self.commit = self.commit.max(seal.at.index);
        } else {
            self.change_over(now, seal);
        }
    }

    /// Goes over where the log ends in a seal that is not known to be committed, and never will be: of two voters one
    /// has gone over and forgotten, and the other is no majority (schedule B6).
    pub(super) fn change_over_if_proved(&mut self, now: Instant) {
        if self.incarnation.is_none() || self.log.configured_at() > self.commit {
            return;
        }
        let configuration = self.configuration();
        // That nobody can commit the seal any more does not say that nothing was committed in its place: a majority
        // without this member may have taken the offer back before it was gone, and have acknowledged what clients
        // wrote then. Only one that every majority needs has all that can ever have been committed in its own log. With
        // more voters the incarnation is reformed from what is left, and meets the other one again.
        let is_needed = configuration.is_voter(&self.me)
            && configuration.majority() == configuration.voters.len();
        let is_needed = is_needed || mutant!(self.config, SealedByAbsence);
        let mut voters = configuration.voters.iter();
        let is_no_majority = voters.any(|voter| self.fate_of(voter).is_some());
        if is_needed
            && is_no_majority
            && let Some(seal) = self.foreseen_seal()
        {
            self.change_over(now, seal);
        }
    }

    /// The seal that the log comes to if all of it is committed; `None` where commands of clients lie between
    /// what is applied and it, which may be what the seal is to be judged by.
    fn foreseen_seal(&self) -> Option<Seal> {
        let ours = self.incarnation?;
        let mut standing: Standing = self.standing.clone();
        for index in self.applied.0 + 1..=self.last().index.0 {
            let entry = self.log.entry(Index(index))?;
            if matches!(entry.payload, Payload::Commands(_)) && standing.is_open() {
                return None;
            }
            standing.meet(&self.config, ours, self.commands_applied, entry);
        }
        standing.phase().seal()
    }

    /// Goes over: as another instance, with nothing of what it has had, as a learner. All of it is one write,
    /// after which nobody is told anything before it is durable; a crash before it leaves the member where it
    /// was, and it goes over again.
    fn change_over(&mut self, now: Instant, seal: Seal) {
        self.seals.give_up(seal);
        self.go_over(now, seal, self.seals.last_of(seal.into));
    }

    /// Goes over to `into` for no other reason than that those are there that may write. Its own incarnation is not known to
    /// have ended: the member does not keep as a seal what is none, and goes back if that turns out to be the one that goes on.
    pub(super) fn follow_writers(&mut self, now: Instant, into: Incarnation) {
        let Some(incarnation) = self.incarnation else {
            return;
        };
        let given_up = Seal {
            incarnation,
            into,
            at: self.last(),
            commands: self.commands_applied,
        };
        self.go_over(now, given_up, into);
    }

    fn go_over(&mut self, now: Instant, seal: Seal, into: Incarnation) {
        self.incarnation = Some(into);
        self.begin_another_life();
        self.reforming.begin_anew(now);
        self.await_leader(now);
        self.note_voting();
        // What it was told of others in the meantime is not what its state was given up for.
        self.given_up.get_or_insert(seal);
        self.introduce_anew(now);
    }
}
