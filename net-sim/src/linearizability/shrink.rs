//! Makes a counter-example small.
//!
//! Operations cannot simply be left out: without a write, a read of its value is wrong for another reason. What
//! is done to an operation here is to treat its outcome as unknown. That permits all that was permitted before, and
//! more, so operations that still have no order with it have none without. What remains is a set of
//! operations that conflict whatever became of all others.

use super::Model;
use super::part::{HELPERS_MAX, Helpers, Part};
use super::search::{Ends, Found, Search, Want};

/// The search for the first conflict may use this part of the steps at a time.
const FIRST_SHARE: u64 = 4;

/// Each search for a smaller one may use this part, so that hard ones leave some for the others.
const SHARE: u64 = 32;

/// Why there is no order.
pub(super) struct Reason<State> {
    /// Operations that conflict, by when they returned.
    pub(super) conflict: Vec<usize>,
    /// Whether each is needed: without any one of them there is an order.
    pub(super) is_smallest: bool,
    /// The first operation whose return no order reaches, or a later one where the steps did not suffice.
    pub(super) blocked: usize,
    /// Orders of all that returned before. Nothing if the steps did not suffice to find one.
    pub(super) before: Option<Ends<State>>,
}

/// Finds out why there is no order of the operations of `part`, given that there is one of the first `good`
/// that returned. Takes at most `steps` steps.
pub(super) fn shrink<'a, M: Model>(
    model: &'a M,
    part: &Part<'a, M>,
    good: usize,
    steps: u64,
) -> Reason<M::State> {
    let returned = part.returned();
    let mut all: Vec<_> = (0..returned.len()).filter(|&op| returned[op]).collect();
    all.sort_by_key(|&op| part.operations[op].return_order());
    let mut is_good = vec![false; returned.len()];
    for &op in &all[..good] {
        is_good[op] = true;
    }
    let mut shrink = Shrink {
        model,
        part,
        helpers: Helpers::new(model, part, Some(&is_good)),
        steps,
        share: steps / FIRST_SHARE,
        is_decided: true,
    };
    let count = shrink.first_conflict(&all, good);
    let before = match shrink.search(&all[..count - 1], Want::All) {
        Found::Orders(ends) => Some(ends),
        Found::None(_) | Found::Undecided => None,
    };
    shrink.helpers = Helpers::new(model, part, None);
    shrink.share = steps / SHARE;
    let conflict = shrink.fewest(&all[..count]);
    Reason {
        conflict,
        is_smallest: shrink.is_decided,
        blocked: all[count - 1],
        before,
    }
}

struct Shrink<'s, 'a, M: Model> {
    model: &'a M,
    part: &'s Part<'a, M>,
    helpers: Helpers<'a, M>,
    steps: u64,
    share: u64,
    /// Whether all searches of late came to an end.
    is_decided: bool,
}

impl<M: Model> Shrink<'_, '_, M> {
    /// How many of `all` there are up to the first that has no order with those before it.
    fn first_conflict(&mut self, all: &[usize], good: usize) -> usize {
        let (mut good, mut bad) = (good, all.len());
        let mut further = 1;
        while good + 1 < bad {
            // It is seldom far away.
            let count = (good + further).min(good.midpoint(bad)).max(good + 1);
            if self.has_conflict(&all[..count]) {
                bad = count;
                further = 1;
            } else {
                good = count;
                further *= 2;
            }
        }
        bad
    }

    /// Fewest of `operations`, which conflict, that still do. The last one is among them.
    fn fewest(&mut self, operations: &[usize]) -> Vec<usize> {
        let mut operations = self.latest(operations);
        // What is needed beside some others is needed beside fewer, so nothing is asked about twice.
        let mut chunk = operations.len().div_ceil(2);
        while chunk > 0 {
            // Only what is said of single operations counts for whether all are needed.
            self.is_decided = true;
            let mut begin = 0;
            while begin + 1 < operations.len() {
                let end = (begin + chunk).min(operations.len() - 1);
                let fewer = [&operations[..begin], &operations[end..]].concat();
                if self.has_conflict(&fewer) {
                    operations = fewer;
                } else {
                    begin = end;
                }
                if self.steps == 0 {
                    self.is_decided = false;
                    return operations;
                }
            }
            chunk /= 2;
        }
        operations
    }

    /// Some of `operations` that conflict, if possible of the latest: most conflicts are among those.
    fn latest(&mut self, operations: &[usize]) -> Vec<usize> {
        let Some((&last, before)) = operations.split_last() else {
            return Vec::new();
        };
        let plain = before
            .iter()
            .copied()
            .filter(|&op| self.helpers.helpers_of(self.part, op, true).len() <= HELPERS_MAX);
        let plain: Vec<_> = plain.chain([last]).collect();
        for among in [plain.as_slice(), operations] {
            let mut count = 0;
            while count < among.len() {
                count = (2 * count).clamp(1, among.len());
                let latest = &among[among.len() - count..];
                if count < operations.len() && self.has_conflict(latest) {
                    return latest.to_vec();
                }
            }
        }
        operations.to_vec()
    }

    /// Whether these operations certainly have no order, whatever became of the others.
    fn has_conflict(&mut self, operations: &[usize]) -> bool {
        match self.search(operations, Want::One) {
            Found::None(_) => true,
            Found::Orders(_) => false,
            Found::Undecided => {
                self.is_decided = false;
                false
            }
        }
    }

    fn search(&mut self, known: &[usize], want: Want) -> Found<M::State> {
        if self.steps == 0 {
            return Found::Undecided;
        }
        let mut is_known = vec![false; self.part.operations.len()];
        for &op in known {
            is_known[op] = true;
        }
        let given = self.steps.min(self.share);
        let mut left = given;
        let helpers = &mut self.helpers;
        let found = Search::new(self.model, self.part, &is_known, helpers, &mut left).run(want);
        self.steps -= given - left;
        found
    }
}
