//! The log, as far as it is kept.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::configuration::Configuration;
use super::entry::{Entry, Payload};
use super::types::{Charter, Index, Member, Position, Term};

/// The entries of a member, without holes, after a position that a snapshot covers.
///
/// It knows nothing of what is committed: the caller never truncates that.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last entry that is not kept any more.
    base: Position,
    entries: VecDeque<Entry>,
    /// The configurations in the log, each with the entry that holds it: the first is the one in force at
    /// the base, if there is a base. A change is in force from the moment that it is appended.
    configurations: Vec<(Index, Arc<Configuration>)>,
    none: Arc<Configuration>,
}

impl Log {
    /// The log that goes on from `base`, where `configuration` was in force.
    pub(super) fn after(
        base: Position,
        configured_at: Index,
        configuration: Configuration,
    ) -> Self {
        Self {
            base,
            configurations: vec![(configured_at, Arc::new(configuration))],
            ..Self::default()
        }
    }

    /// The last entry that is not kept any more.
    pub(super) const fn base(&self) -> Position {
        self.base
    }

    /// The lowest index that is kept, or would be.
    pub(super) const fn kept_from(&self) -> Index {
        self.base.index.next()
    }

    /// Where the log ends.
    pub(super) fn last(&self) -> Position {
        self.entries.back().map_or(self.base, Entry::position)
    }

    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.kept_from().0)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The term of the entry at `index`, the base included.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// Whether the log has this very entry, the base included.
    pub(super) fn has(&self, position: Position) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The configuration in force, and the entry that says so.
    pub(super) fn configuration(&self) -> &Arc<Configuration> {
        self.configurations.last().map_or(&self.none, |(_, it)| it)
    }

    /// The entry that holds the configuration in force; zero where there is none.
    pub(super) fn configured_at(&self) -> Index {
        self.configurations
            .last()
            .map_or(Index::ZERO, |(at, _)| *at)
    }

    /// The configuration of the last entry at or below `index`.
    pub(super) fn configuration_as_of(&self, index: Index) -> &Arc<Configuration> {
        let mut before = self.configurations.iter().rev();
        before
            .find(|(at, _)| *at <= index)
            .map_or(&self.none, |(_, it)| it)
    }

    /// All that vote by the configuration in force at `index` or by a later one.
    pub(super) fn named_from(&self, index: Index) -> BTreeSet<Member> {
        let first = self.configurations.iter().rposition(|(at, _)| *at <= index);
        let all = self.configurations.iter().skip(first.unwrap_or(0));
        all.flat_map(|(_, it)| it.voters.iter().copied()).collect()
    }

    /// The charter, while entry 1 is kept.
    pub(super) fn charter(&self) -> Option<&Charter> {
        match &self.entry(Index(1))?.payload {
            Payload::Founding(charter) => Some(charter),
            _ => None,
        }
    }

    /// Adds the entry that follows the last.
    pub(super) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(
            entry.index,
            self.last().index.next(),
            "the log has no holes"
        );
        match &entry.payload {
            Payload::Founding(charter) => {
                let configuration = Configuration {
                    voters: charter.voters.iter().copied().collect(),
                    ..Configuration::default()
                };
                self.configurations
                    .push((entry.index, Arc::new(configuration)));
            }
            Payload::Configuration(configuration) => {
                self.configurations
                    .push((entry.index, Arc::new(configuration.clone())));
            }
            Payload::Blank
            | Payload::Open(_)
            | Payload::Commands(_)
            | Payload::SnapshotPoint
            | Payload::Frozen { .. }
            | Payload::Decided { .. }
            | Payload::Sealed { .. }
            | Payload::Thawed { .. } => {}
        }
        self.entries.push_back(entry);
    }

    /// Drops the entry at `from` and all after it, configurations included.
    pub(super) fn truncate_from(&mut self, from: Index) {
        let keep = from.0.saturating_sub(self.kept_from().0);
        self.entries
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        let last = self.last().index;
        while self.configurations.last().is_some_and(|(at, _)| *at > last) {
            self.configurations.pop();
        }
    }

    /// Drops the entry at `through` and all before it. The caller has a snapshot that covers them.
    pub(super) fn compact_through(&mut self, through: Index) {
        while let Some(first) = self.entries.front()
            && first.index <= through
        {
            self.base = first.position();
            self.entries.pop_front();
        }
        let base = self.base.index;
        let at_base = self.configurations.iter().rposition(|(at, _)| *at <= base);
        self.configurations.drain(..at_base.unwrap_or(0));
    }

    /// Entries from `from` on: at least one where there is one, then as many as `bytes` allow.
    pub(super) fn slice(&self, from: Index, bytes: usize, count: usize) -> Vec<Entry> {
        let offset = from.0.saturating_sub(self.kept_from().0);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut left = bytes;
        let taken = self.entries.iter().skip(offset).take(count);
        let taken = taken.enumerate().take_while(|(i, entry)| {
            let fits = *i == 0 || entry.size() <= left;
            left = left.saturating_sub(entry.size());
            fits
        });
        taken.map(|(_, entry)| entry.clone()).collect()
    }

    /// The lowest index from which on the log up to `end` has at most so many entries and bytes. That of `end`
    /// at the most, and what is kept at the least.
    pub(super) fn window_from(&self, end: Index, entries: u64, bytes: u64) -> Index {
        let lowest = end.0.saturating_sub(entries);
        let (mut from, mut left) = (end.next(), bytes);
        while from.0 > lowest + 1
            && let Some(entry) = self.entry(from.previous())
            && let Some(rest) = left.checked_sub(entry.size() as u64)
        {
            (from, left) = (from.previous(), rest);
        }
        from
    }

    /// The highest position, at or below `index`, whose term is not above `term`: where two logs that
    /// differ at `index` may still agree. The base where none that is kept qualifies.
    pub(super) fn agree_at_most(&self, index: Index, term: Term) -> Position {
        let index = index.min(self.last().index);
        let mut at = index;
        while let Some(entry) = self.entry(at) {
            if entry.term <= term {
                return entry.position();
            }
            at = at.previous();
        }
        self.base
    }

    /// Panics where the log is not what it must be. Looks at the ends only, unless `fully`.
    pub(super) fn check(&self, fully: bool) {
        let first = self.entries.front().map(|entry| entry.index);
        assert!(
            first.is_none_or(|first| first == self.kept_from()),
            "the log begins at {first:?} after {}",
            self.base
        );
        assert_eq!(
            self.last().index.0,
            self.base.index.0 + self.entries.len() as u64,
            "the log has holes"
        );
        if fully {
            let mut before = self.base;
            for entry in &self.entries {
                assert_eq!(entry.index, before.index.next(), "the log has holes");
                assert!(entry.term >= before.term, "terms fall in the log");
                before = entry.position();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Instance, PeerId};

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            payload: Payload::Blank,
        }
    }

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::default();
        for (i, term) in terms.iter().enumerate() {
            log.append(entry(i as u64 + 1, *term));
        }
        log
    }

    fn configuration(voters: u8) -> Configuration {
        let voter = |n| Member {
            peer: PeerId::from_bytes([n; 32]),
            instance: Instance::from_bytes([n; 16]),
        };
        Configuration {
            voters: (0..voters).map(voter).collect::<BTreeSet<_>>(),
            ..Configuration::default()
        }
    }

    fn position(index: u64, term: u64) -> Position {
        Position {
            index: Index(index),
            term: Term(term),
        }
    }

    #[test]
    fn the_base_stays_known_after_compaction() {
        let mut log = log(&[1, 1, 2, 3]);
        log.compact_through(Index(2));
        assert_eq!(log.base(), position(2, 1));
        assert_eq!(log.kept_from(), Index(3));
        assert!(log.has(position(2, 1)) && log.has(position(3, 2)));
        assert_eq!(log.term_at(Index(1)), None);
        log.compact_through(Index(9));
        assert_eq!(log.last(), position(4, 3));
        log.check(true);
    }

    #[test]
    fn a_configuration_is_in_force_when_appended_and_undone_when_truncated() {
        let mut log = log(&[1]);
        for (index, voters) in [(2, 3), (3, 4)] {
            log.append(Entry {
                payload: Payload::Configuration(configuration(voters)),
                ..entry(index, 1)
            });
        }
        assert_eq!(log.configuration().voters.len(), 4);
        assert_eq!(log.configuration_as_of(Index(2)).voters.len(), 3);
        assert_eq!(log.named_from(Index(2)).len(), 4);
        assert_eq!(log.named_from(Index(1)).len(), 4);
        log.truncate_from(Index(3));
        assert_eq!(log.configuration().voters.len(), 3);
        assert_eq!(log.configured_at(), Index(2));
        log.compact_through(Index(2));
        assert_eq!(log.configuration().voters.len(), 3, "it outlives its entry");
    }

    #[test]
    fn a_slice_has_one_entry_at_least_and_what_fits() {
        let log = log(&[1, 1, 1, 1]);
        let size = entry(1, 1).size();
        let indexes = |from, bytes, count| {
            let slice = log.slice(Index(from), bytes, count);
            slice.iter().map(|entry| entry.index.0).collect::<Vec<_>>()
        };
        assert_eq!(indexes(2, 0, 9), [2]);
        assert_eq!(indexes(2, 2 * size, 9), [2, 3]);
        assert_eq!(indexes(1, 9 * size, 3), [1, 2, 3]);
        assert_eq!(indexes(5, 9 * size, 3), [0; 0]);
    }

    #[test]
    fn a_window_is_bounded_by_entries_and_by_bytes() {
        let mut log = log(&[1; 9]);
        let size = entry(1, 1).size() as u64;
        assert_eq!(log.window_from(Index(8), 3, u64::MAX), Index(6));
        assert_eq!(log.window_from(Index(8), 3, 2 * size), Index(7));
        assert_eq!(log.window_from(Index(8), 0, u64::MAX), Index(9));
        assert_eq!(log.window_from(Index(8), u64::MAX, u64::MAX), Index(1));
        log.compact_through(Index(4));
        assert_eq!(log.window_from(Index(8), u64::MAX, u64::MAX), Index(5));
    }

    #[test]
    fn the_hint_skips_terms_that_the_leader_cannot_have() {
        let log = log(&[1, 1, 4, 4, 6]);
        assert_eq!(log.agree_at_most(Index(9), Term(9)), position(5, 6));
        assert_eq!(log.agree_at_most(Index(5), Term(5)), position(4, 4));
        assert_eq!(log.agree_at_most(Index(5), Term(3)), position(2, 1));
        assert_eq!(log.agree_at_most(Index(5), Term(0)), Position::ZERO);
    }
}
