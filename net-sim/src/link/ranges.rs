//! Sets of numbers, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers as disjoint, non-adjacent ranges: packet numbers, or offsets of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // All ranges that touch the new one become one with it.
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.0.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.0.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&first, &last)) = self.0.range(..range.end).next_back() {
            if last <= range.start {
                break;
            }
            self.0.remove(&first);
            if first < range.start {
                self.0.insert(first, range.start);
            }
            if last > range.end {
                self.0.insert(range.end, last);
            }
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0
            .range(..=number)
            .next_back()
            .is_some_and(|(_, end)| *end > number)
    }

    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.0.first_key_value().map(|(start, end)| *start..*end)
    }

    /// From the greatest down.
    pub(super) fn descending(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().rev().map(|(start, end)| *start..*end)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pop_first(&mut self) -> Option<Range<u64>> {
        self.0.pop_first().map(|(start, end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_does(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..10), 0..40)
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                if insert {
                    ranges.insert(start..start + len);
                    set.extend(start..start + len);
                } else {
                    ranges.remove(start..start + len);
                    set.retain(|number| !(start..start + len).contains(number));
                }
                for number in 0..72 {
                    prop_assert_eq!(ranges.contains(number), set.contains(&number));
                }
                let all: Vec<_> = ranges.descending().collect();
                prop_assert!(all.windows(2).all(|pair| pair[1].end < pair[0].start));
            }
        }
    }
}
