//! Where an incarnation stands when it has met another of the same group: what the entries of a meeting mean.
//!
//! Two foundings of one group can meet. One of them stays, and its members take in those of the other, which
//! is *sealed* by an entry of its own log. All that is decided is decided here, by every member alike, when
//! the entry is applied where it lies in the log, and never by what a leader knew when it proposed it. The
//! book's page on consensus tells the whole story.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::entry::{Entry, Payload};
use super::types::{Incarnation, Position};
use crate::id::Digest;
use crate::protocol::mutant;

/// Incarnations whose offers an incarnation decides on, at most: what it has decided is never forgotten.
const DECIDED_MAX: usize = 64;

/// Incarnations that one goes on from, one after the other, at most: of more the first are forgotten.
const ANCESTORS_MAX: usize = 16;

/// An incarnation that another one goes on from, since too many of its voters were lost for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ancestor {
    /// Which.
    pub incarnation: Incarnation,
    /// Where the log ended that was gone on from: what lies above, in any other log of it, is lost.
    pub at: Position,
    /// The commands of clients that were applied up to there.
    pub commands: u64,
    /// Where it was proved that it could not go on by itself: the digest of the lives by whose word that was. `None`
    /// where an operator has said so.
    pub word: Option<Digest>,
}

/// How much an incarnation has to lose. Of two that meet the heavier one stays.
///
/// Never falls within an incarnation, so that those that yield to each other never form a circle.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Weight {
    /// It has had commands of clients and more than one voter: a newcomer that founded alone, and has written
    /// much since, does not displace it.
    pub is_established: bool,
    /// The commands of clients that were applied.
    pub commands: u64,
}

/// The offer of an incarnation to be taken in by another. It takes no commands until that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// Whose it is: the one of the smaller digest.
    pub from: Incarnation,
    /// Who is to decide on it.
    pub to: Incarnation,
    /// The entry of its log that froze it; names the offer.
    pub at: Position,
    /// What it has up to there.
    pub weight: Weight,
}

/// An incarnation has come to its end, and its members go on in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seal {
    /// The one that has ended.
    pub incarnation: Incarnation,
    /// The one that goes on.
    pub into: Incarnation,
    /// The last entry of the first that means anything.
    pub at: Position,
    /// The commands of clients that the first had applied in all.
    pub commands: u64,
}

/// Whether an incarnation goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// It does.
    #[default]
    Open,
    /// Another decides on its offer. Commands are refused, and strong reads wait.
    Frozen(Offer),
    /// It does not: nothing that follows in its log means anything.
    Sealed(Seal),
}

impl Phase {
    /// The seal, if there is one.
    #[must_use]
    pub const fn seal(&self) -> Option<Seal> {
        match self {
            Self::Sealed(seal) => Some(*seal),
            Self::Open | Self::Frozen(_) => None,
        }
    }
}

/// What an incarnation has decided on an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) at: Position,
    /// It takes the other in; else it is sealed itself.
    pub(super) absorbs: bool,
}

/// What all the meetings of an incarnation have come to. A function of its log alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    phase: Phase,
    is_established: bool,
    /// The latest offer of each that was decided on.
    decided: BTreeMap<Incarnation, Verdict>,
    /// Those that it was reformed from, the latest one last.
    ancestors: Vec<Ancestor>,
}

impl Standing {
    pub(super) const fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The standing of an incarnation that goes on from this one, which had so many voters last. It decides anew on all
    /// that it meets: offers were made to the one before.
    pub(super) fn reformed(&self, ancestor: Ancestor, voters: usize) -> Self {
        let mut standing = Self {
            is_established: self.is_established,
            ancestors: self.ancestors.clone(),
            ..Self::default()
        };
        standing.ancestors.push(ancestor);
        if standing.ancestors.len() > ANCESTORS_MAX {
            standing.ancestors.remove(0);
        }
        // What was applied while it was frozen, or behind the last entry weighed, counts now.
        standing.weigh(ancestor.commands, voters);
        standing
    }

    /// What is remembered of an incarnation that this one goes on from.
    pub(super) fn ancestor(&self, incarnation: &Incarnation) -> Option<Ancestor> {
        let mut all = self.ancestors.iter();
        all.find(|of| of.incarnation == *incarnation).copied()
    }

    pub(super) fn descends_from(&self, incarnation: &Incarnation) -> bool {
        self.ancestor(incarnation).is_some()
    }

    /// What was decided on this offer, if anything.
    pub(super) fn verdict(&self, offer: &Offer) -> Option<Verdict> {
        let verdict = self.decided.get(&offer.from);
        verdict.filter(|verdict| verdict.at == offer.at).copied()
    }

    /// The latest decisions, each with the incarnation whose offer it was on.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = (&Incarnation, &Verdict)> {
        self.decided.iter()
    }

    /// Whether it can have come about: asked of what comes from elsewhere.
    pub(super) fn is_sound(&self) -> bool {
        self.decided.len() <= DECIDED_MAX && self.ancestors.len() <= ANCESTORS_MAX
    }

    /// After an entry: so many commands and voters there are now.
    pub(super) fn weigh(&mut self, commands: u64, voters: usize) {
        // While it is frozen its weight is the one that it has offered.
        if self.phase == Phase::Open {
            self.is_established |= commands > 0 && voters > 1;
        }
    }

    const fn weight(&self, commands: u64) -> Weight {
        Weight {
            is_established: self.is_established,
            commands,
        }
    }

    /// An entry of a meeting, after so many commands; of others nothing comes.
    pub(super) fn meet(
        &mut self,
        config: &Config,
        ours: Incarnation,
        commands: u64,
        entry: &Entry,
    ) {
        let at = entry.position();
        match &entry.payload {
            Payload::Frozen { to } => self.freeze(ours, at, *to, commands),
            Payload::Decided { offer } => self.decide(config, ours, (at, commands), offer),
            Payload::Sealed { into, offer } => {
                self.seal(config, ours, (at, commands), *into, *offer);
            }
            Payload::Thawed { offer } => self.thaw(*offer),
            _ => {}
        }
    }

    /// `Frozen`, in the entry at `at`, after so many commands.
    fn freeze(&mut self, ours: Incarnation, at: Position, to: Incarnation, commands: u64) {
        // The smaller one offers and the greater one decides: so nothing is ever decided in two logs.
        if self.phase == Phase::Open && ours < to {
            self.phase = Phase::Frozen(Offer {
                from: ours,
                to,
                at,
                weight: self.weight(commands),
            });
        }
    }

    /// `Decided`, in this entry, after so many commands. Counted where the entry lies: a command that lies between what the
    /// leader had applied and this entry counts as well (schedule B2').
    fn decide(
        &mut self,
        config: &Config,
        ours: Incarnation,
        (here, commands): (Position, u64),
        offer: &Offer,
    ) {
        let before = self.decided.get(&offer.from).map(|verdict| verdict.at);
        // An offer that is not the latest was taken back before the latest was made.
        let is_old = before.is_some_and(|before| before.index >= offer.at.index);
        let is_full = before.is_none() && self.decided.len() >= DECIDED_MAX;
        let is_for_us = offer.to == ours && offer.from < ours;
        if self.phase.seal().is_some() || is_old || is_full || !is_for_us {
            return;
        }
        let absorbs = self.weight(commands) >= offer.weight;
        let at = offer.at;
        if mutant!(config, BothSeal) {
            self.decided
                .insert(offer.from, Verdict { at, absorbs: true });
            self.seal_into(ours, offer.from, (here, commands));
            return;
        }
        self.decided.insert(offer.from, Verdict { at, absorbs });
        if !absorbs {
            self.seal_into(ours, offer.from, (here, commands));
        }
    }

    /// `Sealed`, here: void unless frozen, here, under the offer at `offer`. It may have been thawed when the answer
    /// came, and have taken commands since (schedules B1, B5).
    fn seal(
        &mut self,
        config: &Config,
        ours: Incarnation,
        here: (Position, u64),
        into: Incarnation,
        offer: Position,
    ) {
        let is_frozen = matches!(&self.phase, Phase::Frozen(of) if of.at == offer && of.to == into);
        let is_void = !is_frozen && !mutant!(config, SealedBehindThawed);
        if self.phase.seal().is_none() && !is_void {
            self.seal_into(ours, into, here);
        }
    }

    fn seal_into(
        &mut self,
        incarnation: Incarnation,
        into: Incarnation,
        (at, commands): (Position, u64),
    ) {
        self.phase = Phase::Sealed(Seal {
            incarnation,
            into,
            at,
            commands,
        });
    }

    /// `Thawed`: void unless frozen under that offer.
    fn thaw(&mut self, offer: Position) {
        if matches!(&self.phase, Phase::Frozen(of) if of.at == offer) {
            self.phase = Phase::Open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::raft::types::{Index, Term};

    fn incarnation(n: u8) -> Incarnation {
        Incarnation(Digest::from_bytes([n; 32]))
    }

    fn at(index: u64) -> Position {
        Position {
            term: Term(1),
            index: Index(index),
        }
    }

    fn offer(from: u8, to: u8, index: u64, commands: u64) -> Offer {
        Offer {
            from: incarnation(from),
            to: incarnation(to),
            at: at(index),
            weight: Weight {
                is_established: false,
                commands,
            },
        }
    }

    fn decided(offer: &Offer, commands: u64) -> Standing {
        let mut standing = Standing::default();
        standing.decide(&Config::default(), offer.to, (at(7), commands), offer);
        standing
    }

    #[test]
    fn the_heavier_one_stays_and_of_equal_ones_the_greater_digest() {
        let offer = offer(1, 2, 5, 3);
        for (commands, absorbs) in [(2, false), (3, true), (4, true)] {
            let standing = decided(&offer, commands);
            assert_eq!(standing.verdict(&offer).unwrap().absorbs, absorbs);
            let seal = Seal {
                incarnation: incarnation(2),
                into: incarnation(1),
                at: at(7),
                commands,
            };
            assert_eq!(standing.phase().seal(), (!absorbs).then_some(seal));
        }
    }

    #[test]
    fn a_newcomer_that_founded_alone_never_displaces_a_group_with_data() {
        let lone = offer(1, 2, 5, 1_000);
        let mut group = Standing::default();
        group.weigh(1, 3);
        group.decide(&Config::default(), incarnation(2), (at(7), 1), &lone);
        assert!(group.verdict(&lone).unwrap().absorbs);
        // What has no data is no group to be kept.
        let mut empty = Standing::default();
        empty.weigh(0, 3);
        empty.decide(&Config::default(), incarnation(2), (at(7), 0), &lone);
        assert!(!empty.verdict(&lone).unwrap().absorbs);
    }

    #[test]
    fn the_weight_that_was_offered_is_kept_until_it_is_thawed() {
        let mut lone = Standing::default();
        lone.freeze(incarnation(1), at(5), incarnation(2), 7);
        lone.weigh(7, 3);
        assert!(!lone.is_established);
        lone.thaw(at(5));
        lone.weigh(7, 3);
        assert!(lone.is_established);
    }

    #[test]
    fn an_offer_is_decided_once_and_old_ones_not_at_all() {
        let first = offer(1, 2, 5, 3);
        let mut standing = decided(&first, 3);
        let next = offer(1, 2, 9, 3);
        let config = Config::default();
        let here = (at(20), 3);
        standing.decide(&config, incarnation(2), here, &next);
        assert!(standing.verdict(&next).is_some() && standing.verdict(&first).is_none());
        let heavy = Offer {
            weight: offer(1, 2, 5, 99).weight,
            ..first
        };
        standing.decide(&config, incarnation(2), here, &heavy);
        let again = Offer { at: at(9), ..heavy };
        standing.decide(&config, incarnation(2), here, &again);
        assert_eq!(standing.phase(), &Phase::Open);
        // Nor those that are for another, or of one with the greater digest.
        let before = standing.clone();
        standing.decide(&config, incarnation(2), here, &offer(1, 3, 20, 99));
        standing.decide(&config, incarnation(2), here, &offer(3, 2, 20, 99));
        assert_eq!(standing, before);
    }

    #[test]
    fn what_is_not_frozen_under_the_offer_is_not_sealed() {
        let (ours, other) = (incarnation(1), incarnation(2));
        let config = Config::default();
        let mut standing = Standing::default();
        let here = (at(9), 3);
        standing.seal(&config, ours, here, other, at(5));
        standing.freeze(ours, at(5), other, 3);
        standing.seal(&config, ours, here, other, at(4));
        standing.seal(&config, ours, here, incarnation(3), at(5));
        standing.thaw(at(4));
        assert!(matches!(standing.phase(), Phase::Frozen(offer) if offer.at == at(5)));
        standing.thaw(at(5));
        standing.seal(&config, ours, here, other, at(5));
        assert_eq!(standing.phase(), &Phase::Open);
        standing.freeze(ours, at(8), other, 4);
        standing.seal(&config, ours, (at(10), 4), other, at(8));
        let sealed = standing.clone();
        assert!(sealed.phase().seal().is_some());
        // Nothing after the seal means anything.
        standing.thaw(at(8));
        standing.freeze(ours, at(9), other, 4);
        standing.decide(&config, ours, (at(11), 4), &offer(0, 1, 9, 99));
        assert_eq!(standing, sealed);
    }

    #[test]
    fn what_goes_on_from_another_has_its_weight_and_none_of_its_decisions() {
        let ancestor = |n, commands| Ancestor {
            incarnation: incarnation(n),
            at: at(9),
            commands,
            word: Some(Digest::from_bytes([n; 32])),
        };
        let mut before = decided(&offer(0, 1, 5, 0), 3);
        before.freeze(incarnation(1), at(8), incarnation(2), 3);
        let after = before.reformed(ancestor(1, 3), 3);
        assert!(after.is_open() && after.verdicts().count() == 0);
        assert!(after.weight(3).is_established);
        assert!(after.descends_from(&incarnation(1)) && !after.descends_from(&incarnation(2)));
        assert!(!before.reformed(ancestor(1, 0), 3).weight(0).is_established);
        let mut last = after;
        for n in 2..=ANCESTORS_MAX as u8 + 1 {
            last = last.reformed(ancestor(n, 3), 1);
        }
        assert!(last.is_sound() && last.weight(3).is_established);
        assert!(!last.descends_from(&incarnation(1)) && last.descends_from(&incarnation(2)));
    }

    #[test]
    fn the_greater_digest_never_offers() {
        let mut standing = Standing::default();
        standing.freeze(incarnation(2), at(5), incarnation(1), 3);
        assert_eq!(standing.phase(), &Phase::Open);
    }

    #[test]
    fn what_was_decided_is_never_forgotten_for_something_new() {
        let config = Config::default();
        let mut standing = Standing::default();
        for n in 0..=DECIDED_MAX as u8 {
            standing.decide(&config, incarnation(200), (at(7), 1), &offer(n, 200, 5, 0));
        }
        assert_eq!(standing.verdicts().count(), DECIDED_MAX);
        assert!(standing.is_sound());
        assert!(standing.verdict(&offer(0, 200, 5, 0)).is_some());
    }
}
