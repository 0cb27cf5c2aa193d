//! The check of a whole history.

use std::collections::BTreeMap;
use std::fmt;

use super::part::{HELPERS_MAX, Helpers, Part};
use super::search::{Found, Search, Want};
use super::{CounterExample, HistoryOf, Model};

/// How many steps a check takes at most for each key, unless told otherwise. A step tries one operation in one
/// state; this many take some seconds and some hundred megabytes at worst.
pub const STEPS_MAX: u64 = 5_000_000;

/// Checks histories of one model. See the [module](super).
#[derive(Clone, Debug)]
pub struct Checker<M> {
    model: M,
    steps_max: u64,
}

impl<M: Model> Checker<M> {
    /// A checker that takes up to [`STEPS_MAX`] steps for each key.
    #[must_use]
    pub const fn new(model: M) -> Self {
        Self {
            model,
            steps_max: STEPS_MAX,
        }
    }

    /// Takes up to `steps` steps for each key; as many again for a second, simpler search where those did not
    /// suffice; and as many again to make a counter-example smaller.
    #[must_use]
    pub const fn steps_max(mut self, steps: u64) -> Self {
        self.steps_max = steps;
        self
    }

    /// Judges `history`, key by key. The verdict is about the first key, in their order, that has no
    /// order of its operations; if there is none, about the first that was not decided.
    pub fn check(&self, history: &HistoryOf<M>) -> Verdict<M> {
        let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for operation in history.operations() {
            let key = self.model.key(operation.op());
            keys.entry(key).or_default().push(operation);
        }
        let mut verdict = Verdict::Linearizable;
        for (key, operations) in keys {
            let part = Part::new(key, operations);
            match self.search(&part) {
                Found::Orders(_) => {}
                Found::None(good) => {
                    let example = CounterExample::new(&self.model, &part, good, self.steps_max);
                    return Verdict::NotLinearizable(Box::new(example));
                }
                Found::Undecided => {
                    if verdict.is_linearizable() {
                        verdict = Verdict::Undecided {
                            operations: part.operations.len(),
                            key: part.key,
                            steps: self.steps_max,
                        };
                    }
                }
            }
        }
        verdict
    }

    /// Looks for an order of the operations of one key.
    fn search<'a>(&'a self, part: &Part<'a, M>) -> Found<M::State> {
        let mut known = part.returned();
        let mut helpers = Helpers::new(&self.model, part, Some(&known));
        let mut steps = self.steps_max;
        let search = Search::new(&self.model, part, &known, &mut helpers, &mut steps);
        let found = search.run(Want::One);
        if !matches!(found, Found::Undecided) {
            return found;
        }
        // Perhaps those that are easy to search have no order whatever became of the others. Then all have none.
        let mut is_easier = false;
        for (op, known) in known.iter_mut().enumerate() {
            if *known && helpers.helpers_of(part, op, true).len() > HELPERS_MAX {
                *known = false;
                is_easier = true;
            }
        }
        if !is_easier {
            return found;
        }
        let mut helpers = Helpers::new(&self.model, part, Some(&known));
        let mut steps = self.steps_max;
        let search = Search::new(&self.model, part, &known, &mut helpers, &mut steps);
        match search.run(Want::One) {
            Found::None(_) => Found::None(0),
            Found::Orders(_) | Found::Undecided => Found::Undecided,
        }
    }
}

/// What a check came to.
#[derive(Clone, Debug)]
#[must_use]
pub enum Verdict<M: Model> {
    /// There is an order that explains all outputs.
    Linearizable,
    /// There is none.
    NotLinearizable(Box<CounterExample<M>>),
    /// Not known: the steps were used up before all orders were tried.
    Undecided {
        /// Where they were used up.
        key: M::Key,
        /// The number of operations of that key.
        operations: usize,
        /// The steps taken for it.
        steps: u64,
    },
}

impl<M: Model> Verdict<M> {
    /// Whether there certainly is an order.
    #[must_use]
    pub const fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }

    /// Goes on where the history is linearizable.
    ///
    /// # Panics
    ///
    /// If it is not, or if that was not decided, with the verdict as text.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        assert!(self.is_linearizable(), "{self}");
    }
}

impl<M: Model> fmt::Display for Verdict<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => write!(f, "linearizable"),
            Self::NotLinearizable(example) => write!(f, "not linearizable{example}"),
            Self::Undecided {
                key,
                operations,
                steps,
            } => write!(
                f,
                "not decided in {steps} steps whether the {operations} operations of key {key:?} are \
                 linearizable: allow more with `steps_max`, or record fewer operations for each key"
            ),
        }
    }
}
