//! Who votes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::Member;
use crate::id::PeerId;

/// The voters of a group, as one entry of its log says. In force from the moment the entry is appended, and
/// undone with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The voters.
    pub voters: BTreeSet<Member>,
    /// How often each peer has been demoted: it is promoted the later for it. Kept for 64
    /// peers, those demoted most often and the last one.
    pub demotions: BTreeMap<PeerId, u32>,
}

/// Peers of which a configuration knows how often they were demoted.
const DEMOTIONS_MAX: usize = 64;

impl Configuration {
    /// So many voters are a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether `member` votes.
    #[must_use]
    pub fn is_voter(&self, member: &Member) -> bool {
        self.voters.contains(member)
    }

    /// How often `peer` has been demoted, as far as that is remembered.
    pub(super) fn demotions_of(&self, peer: &PeerId) -> u32 {
        self.demotions.get(peer).copied().unwrap_or_default()
    }

    /// Counts a demotion of `peer`.
    pub(super) fn note_demotion(&mut self, peer: PeerId) {
        let demotions = self.demotions.entry(peer).or_default();
        *demotions = demotions.saturating_add(1);
        // Peers that come back under another key each time would fill the log with their names.
        if self.demotions.len() > DEMOTIONS_MAX {
            let others = self.demotions.iter().filter(|(other, _)| **other != peer);
            let least = others.min_by_key(|(other, count)| (**count, **other));
            if let Some(least) = least.map(|(other, _)| *other) {
                self.demotions.remove(&least);
            }
        }
    }

    /// The greatest value that a majority of voters has reached, where `of` says what each has.
    ///
    /// Zero for a set without voters: nothing is ever agreed on by nobody.
    pub fn reached_by_majority(&self, mut of: impl FnMut(&Member) -> u64) -> u64 {
        // Voters are few: seven fit in without an allocation.
        let mut small = [0; 7];
        let mut large;
        let values: &mut [u64] = if self.voters.len() <= small.len() {
            &mut small[..self.voters.len()]
        } else {
            large = vec![0; self.voters.len()];
            &mut large
        };
        for (value, voter) in values.iter_mut().zip(&self.voters) {
            *value = of(voter);
        }
        values.sort_unstable();
        // In ascending order, the value at n - majority is reached by it and the majority - 1 after it.
        values
            .len()
            .checked_sub(self.majority())
            .map_or(0, |at| values[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_demoted_most_often_are_remembered() {
        let peer = |n: u8| PeerId::from_bytes([n; 32]);
        let mut configuration = Configuration::default();
        for _ in 0..3 {
            configuration.note_demotion(peer(0));
        }
        for n in 1..200 {
            configuration.note_demotion(peer(n));
        }
        let demotions = &configuration.demotions;
        assert_eq!(demotions.len(), DEMOTIONS_MAX);
        assert_eq!(demotions.get(&peer(0)), Some(&3));
        assert_eq!(
            demotions.get(&peer(199)),
            Some(&1),
            "the last one is not forgotten at once"
        );
    }
}
