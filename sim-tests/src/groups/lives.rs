//! The lives of a group that a run has seen: where each came from, what was seen in it, and what its members took along.
//!
//! A life ends in one of two ways. It is given up for another that it has met: then its members begin anew, and each is
//! given the state that it had. Or it is reformed: another goes on from what was left of it. What a member knew to be
//! committed is part of that, or the member is given the state that it had. So whoever goes over knows what became of
//! all that it has seen.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::groups::{Incarnation, Version};

use super::registers::Contents;

/// Lives that go on from each other, at most, as far as it matters.
const DEPTH_MAX: usize = 16;

/// Commands by the index at which they were applied, in order.
type Applied = [(u64, u64)];

/// A host has gone over from one life to another.
#[derive(Debug)]
pub(super) struct Parting {
    pub(super) host: usize,
    /// How far it had come.
    pub(super) from: Version,
    pub(super) into: Incarnation,
    /// The state that it was given; `None` where all that it knew to be committed goes on.
    pub(super) kept: Option<Contents>,
    /// Where the log of the life before ended, where the other goes on from that.
    pub(super) at: Option<u64>,
    /// It was proved that the life before was over.
    pub(super) is_proved: bool,
}

#[derive(Debug, Default)]
struct Life {
    /// The lives that it goes on from, and where the log of each ended. A member that comes late goes over to a life that
    /// is further on than the next: then there are several.
    origins: BTreeMap<Incarnation, u64>,
    /// Up to here it has what was in a log that nobody had proved to be all that is left: the life before may have gone on
    /// without the end of that.
    forked_at: u64,
    /// The longest state that was seen in it, and up to which index.
    seen: Option<(u64, Contents)>,
}

/// All lives of the group.
#[derive(Debug, Default)]
pub(super) struct Lives {
    lives: BTreeMap<Incarnation, Life>,
    partings: Vec<Parting>,
}

impl Lives {
    pub(super) fn count(&self) -> usize {
        self.lives.len()
    }

    /// Something was seen of a life.
    pub(super) fn note(&mut self, life: Incarnation) {
        self.lives.entry(life).or_default();
    }

    /// A state was seen.
    ///
    /// # Errors
    /// Where it contradicts another of the same life.
    pub(super) fn see(&mut self, at: Version, contents: &Contents) -> Result<(), String> {
        let life = self.lives.entry(at.incarnation).or_default();
        let Some((through, seen)) = &life.seen else {
            life.seen = Some((at.index.0, contents.clone()));
            return Ok(());
        };
        let both = at.index.0.min(*through);
        if upto(&contents.applied, both) != upto(&seen.applied, both) {
            return Err(format!(
                "two members have applied different commands up to {both} of {}",
                at.incarnation
            ));
        }
        if at.index.0 == *through && contents != seen {
            return Err(format!(
                "two members have different states at {through} of {}",
                at.incarnation
            ));
        }
        if at.index.0 > *through {
            life.seen = Some((at.index.0, contents.clone()));
        }
        Ok(())
    }

    /// A host has gone over.
    ///
    /// # Errors
    /// Where what it was given contradicts what others were.
    pub(super) fn part(&mut self, parting: Parting) -> Result<(), String> {
        let parent = parting.from.incarnation;
        self.note(parent);
        if let Some(state) = &parting.kept {
            self.see(parting.from, state)?;
        }
        let life = self.lives.entry(parting.into).or_default();
        if let Some(at) = parting.at {
            let before = *life.origins.entry(parent).or_insert(at);
            if before != at {
                return Err(format!(
                    "{} goes on from {before} of {parent} for one member and from {at} for another",
                    parting.into
                ));
            }
            if !parting.is_proved {
                life.forked_at = life.forked_at.max(at);
            }
        }
        self.partings.push(parting);
        Ok(())
    }

    /// The lives of which a state was seen: up to which index, and what was applied.
    pub(super) fn seen(&self) -> impl Iterator<Item = (Incarnation, u64, &Applied)> {
        let lives = self.lives.iter();
        lives.filter_map(|(of, life)| {
            let (through, contents) = life.seen.as_ref()?;
            Some((*of, *through, &*contents.applied))
        })
    }

    /// The longest that was seen of a life: up to which index, and what was applied.
    pub(super) fn seen_of(&self, life: &Incarnation) -> Option<(u64, &Applied)> {
        let (through, contents) = self.lives.get(life)?.seen.as_ref()?;
        Some((*through, &*contents.applied))
    }

    /// Up to which index a life has what another has: all of it where that is itself, and where it goes on from that, over
    /// others in between perhaps, what each of them has gone on from. Lives go on from `depth` others at most.
    fn shares(&self, life: &Incarnation, with: &Incarnation, depth: usize) -> u64 {
        if life == with {
            return u64::MAX;
        }
        let origins = self.lives.get(life).map(|it| &it.origins);
        let origins = origins.into_iter().flatten().filter(|_| depth > 0);
        let shared = origins.map(|(parent, at)| self.shares(parent, with, depth - 1).min(*at));
        shared.max().unwrap_or(0)
    }

    /// Whether what a life has at an index comes from a log that was gone on from without proof, by itself or by a life before
    /// it: what the log did not keep there, where others have gone on with it, that life may have.
    pub(super) fn is_of_fork(&self, life: &Incarnation, index: u64) -> bool {
        self.is_of_fork_within(life, index, DEPTH_MAX)
    }

    fn is_of_fork_within(&self, life: &Incarnation, index: u64, depth: usize) -> bool {
        let Some(life) = self.lives.get(life).filter(|_| depth > 0) else {
            return false;
        };
        let mut origins = life.origins.iter().filter(|(_, at)| index <= **at);
        index <= life.forked_at
            || origins.any(|(parent, _)| self.is_of_fork_within(parent, index, depth - 1))
    }

    /// What a life has begun with; nothing for a founding, `None` where nobody has shown it. `acknowledged`: the life
    /// in which a command was.
    pub(super) fn inherited(
        &self,
        of: &Incarnation,
        acknowledged: &BTreeMap<u64, Version>,
    ) -> Option<&Applied> {
        let origins = &self.lives.get(of)?.origins;
        let at = origins.values().max().copied().unwrap_or(0);
        let shows = |(life, through, _): &(Incarnation, u64, &Applied)| {
            self.shares(life, of, DEPTH_MAX).min(*through) >= at
        };
        let inherited = match self.seen().find(shows) {
            Some((.., applied)) => upto(applied, at),
            None if at > 0 => return None,
            None => &[],
        };
        // Whoever has founded it may have crashed before anybody was told from what.
        let own = self.seen_of(of).map_or(&[][..], |(_, applied)| applied);
        let own = &own[upto(own, at).len()..];
        let is_of_another =
            |(_, id): &(u64, u64)| acknowledged.get(id).is_some_and(|at| at.incarnation != *of);
        (!own.iter().any(is_of_another)).then_some(inherited)
    }

    /// Whether all that hosts knew to be acknowledged when they went over goes on, or was given to them.
    ///
    /// # Errors
    /// What is not.
    pub(super) fn check_partings(
        &self,
        acknowledged: &BTreeMap<u64, Version>,
    ) -> Result<(), String> {
        for parting in &self.partings {
            let taken = match &parting.kept {
                Some(state) => Some(&*state.applied),
                None => self.inherited(&parting.into, acknowledged),
            };
            let Some(taken) = taken else { continue };
            let taken: BTreeSet<u64> = taken.iter().map(|(_, id)| *id).collect();
            let known = acknowledged.iter().filter(|(_, at)| {
                at.incarnation == parting.from.incarnation && at.index <= parting.from.index
            });
            for (id, at) in known {
                if !taken.contains(id) {
                    return Err(format!(
                        "host {} had applied {} of {} when it went over to {}, and neither that nor what it was given has command {id}, acknowledged at {}",
                        parting.host,
                        parting.from.index,
                        parting.from.incarnation,
                        parting.into,
                        at.index
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What was applied up to an index.
fn upto(applied: &Applied, index: u64) -> &Applied {
    &applied[..applied.partition_point(|(at, _)| *at <= index)]
}

#[cfg(test)]
mod tests {
    use smalti_core::groups::Index;
    use smalti_core::id::Digest;

    use super::*;

    fn at(life: u8, index: u64) -> Version {
        Version {
            incarnation: Incarnation(Digest::from_bytes([life; 32])),
            index: Index(index),
        }
    }

    fn contents(applied: &[(u64, u64)]) -> Contents {
        Contents {
            applied: applied.to_vec(),
            ..Contents::default()
        }
    }

    /// From `from` into the life `into`, which goes on from index `goes_on_at` of the one before, if it does.
    fn parting(
        from: Version,
        into: u8,
        goes_on_at: Option<u64>,
        kept: Option<&Applied>,
    ) -> Parting {
        Parting {
            host: 0,
            from,
            into: at(into, 0).incarnation,
            kept: kept.map(contents),
            at: goes_on_at,
            is_proved: true,
        }
    }

    fn acknowledged(all: &[(u64, Version)]) -> BTreeMap<u64, Version> {
        all.iter().copied().collect()
    }

    #[test]
    fn what_a_host_knew_goes_on_or_is_given_to_it() {
        let acknowledged = acknowledged(&[(1, at(1, 3)), (2, at(1, 4)), (3, at(1, 5))]);
        // It had come to 4, and 2 does not go on.
        let cases: [(Option<&Applied>, bool); 3] = [
            (None, false),
            (Some(&[(3, 1)]), false),
            (Some(&[(3, 1), (4, 2)]), true),
        ];
        for (kept, is_right) in cases {
            let mut lives = Lives::default();
            lives.part(parting(at(1, 4), 2, Some(3), kept)).unwrap();
            lives.see(at(2, 9), &contents(&[(3, 1), (8, 7)])).unwrap();
            let result = lives.check_partings(&acknowledged);
            assert_eq!(result.is_ok(), is_right, "{kept:?}: {result:?}");
        }
    }

    #[test]
    fn two_states_of_one_life_are_one_history() {
        let mut lives = Lives::default();
        lives.see(at(1, 5), &contents(&[(3, 1), (5, 2)])).unwrap();
        lives.see(at(1, 4), &contents(&[(3, 1)])).unwrap();
        lives
            .see(at(1, 7), &contents(&[(3, 1), (5, 2), (7, 3)]))
            .unwrap();
        assert!(lives.see(at(1, 6), &contents(&[(3, 1), (6, 2)])).is_err());
        lives.see(at(2, 6), &contents(&[(3, 9)])).unwrap();
    }

    #[test]
    fn a_life_has_begun_with_what_those_show_that_share_it() {
        let none = BTreeMap::new();
        let ids = |lives: &Lives, life: u8, acknowledged: &BTreeMap<u64, Version>| {
            let inherited = lives.inherited(&at(life, 0).incarnation, acknowledged);
            inherited.map(|applied| applied.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        };
        let mut lives = Lives::default();
        lives.note(at(1, 0).incarnation);
        assert_eq!(ids(&lives, 1, &none), Some(vec![]), "it was founded");
        lives.part(parting(at(1, 4), 2, Some(4), None)).unwrap();
        assert_eq!(ids(&lives, 2, &none), None, "nobody has shown it");
        // 3 goes on from nothing of 2, and 4 from more than 2 has begun with.
        lives.part(parting(at(2, 0), 3, Some(0), None)).unwrap();
        lives.see(at(3, 9), &contents(&[(2, 30)])).unwrap();
        assert_eq!(ids(&lives, 2, &none), None);
        lives.part(parting(at(2, 6), 4, Some(6), None)).unwrap();
        lives
            .see(at(4, 9), &contents(&[(3, 1), (6, 2), (8, 40)]))
            .unwrap();
        assert_eq!(ids(&lives, 2, &none), Some(vec![1]));
        assert_eq!(ids(&lives, 4, &none), Some(vec![1, 2]));
        // What was acknowledged elsewhere shows that more was inherited than is known.
        let elsewhere = acknowledged(&[(40, at(9, 8))]);
        assert_eq!(ids(&lives, 4, &elsewhere), None);
    }

    #[test]
    fn what_was_gone_on_from_without_proof_is_of_a_fork() {
        let mut lives = Lives::default();
        let fork = Parting {
            is_proved: false,
            ..parting(at(1, 4), 2, Some(6), None)
        };
        lives.part(fork).unwrap();
        lives.part(parting(at(2, 8), 3, Some(8), None)).unwrap();
        for (life, index, is_of_fork) in [
            (1, 6, false),
            (2, 6, true),
            (2, 7, false),
            (3, 6, true),
            (3, 8, false),
        ] {
            let life = at(life, 0).incarnation;
            assert_eq!(
                lives.is_of_fork(&life, index),
                is_of_fork,
                "{index} of {life}"
            );
        }
    }

    #[test]
    fn a_life_goes_on_from_one_place() {
        let mut lives = Lives::default();
        lives.part(parting(at(1, 4), 2, Some(4), None)).unwrap();
        assert!(lives.part(parting(at(1, 3), 2, Some(3), None)).is_err());
    }
}
