//! Why a history is not linearizable, for people to read.

use std::collections::BTreeSet;
use std::fmt;

use super::part::Part;
use super::shrink::shrink;
use super::{Model, OperationOf};
use crate::time::SimTime;

/// How many operations of the longest order are shown.
const SHOWN: usize = 8;

/// How many operations of a conflict are shown, the last ones.
const CONFLICT_SHOWN: usize = 24;

/// Why there is no order of the operations of one key. It is shown as text, with a timeline.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CounterExample<M: Model> {
    /// The key.
    pub key: M::Key,
    /// Operations that have no order, by when they were called. That is so whatever became of all others of the
    /// key: even if each of those took effect at any time after its call, or never, and returned anything.
    pub conflict: Vec<Entry<M>>,
    /// Whether each operation of the conflict is needed for it. If not, the steps were used up before that was known.
    pub is_smallest: bool,
    /// The number of other operations of the key.
    pub others: usize,
    /// The first operation whose return cannot be explained: all returns before it can. A later one if the steps
    /// did not suffice to find that.
    pub blocked: Entry<M>,
    /// An order of all operations that returned before it, and of others that had been called by then. Empty also
    /// if the steps did not suffice to find it.
    pub order: Vec<Entry<M>>,
    /// The states in which such orders end, and from which no return of `blocked` follows; as many of them as the
    /// steps sufficed to find, without those for which operations take effect that have not returned and need
    /// not have.
    pub states: Vec<M::State>,
}

/// An operation of a [`CounterExample`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<M: Model> {
    /// The operation.
    pub operation: OperationOf<M>,
    /// What was called and returned, as the model [describes](Model::describe) it.
    pub text: String,
}

impl<M: Model> CounterExample<M> {
    /// The counter-example of `part`, which has no order, though the first `good` operations that returned have.
    pub(super) fn new(model: &M, part: &Part<'_, M>, good: usize, steps: u64) -> Self {
        let reason = shrink(model, part, good, steps);
        let mut conflict = reason.conflict;
        conflict.sort_unstable();
        let (order, states) = match reason.before {
            Some(ends) => (ends.order, ends.states),
            None => (Vec::new(), Vec::new()),
        };
        let entry = |op: usize| Entry::new(model, part.operations[op]);
        Self {
            key: part.key.clone(),
            others: part.operations.len() - conflict.len(),
            conflict: conflict.into_iter().map(entry).collect(),
            is_smallest: reason.is_smallest,
            blocked: entry(reason.blocked),
            order: order.into_iter().map(entry).collect(),
            states,
        }
    }
}

impl<M: Model> Entry<M> {
    fn new(model: &M, operation: &OperationOf<M>) -> Self {
        Self {
            operation: operation.clone(),
            text: model.describe(operation.op(), operation.output()),
        }
    }
}

impl<M: Model> fmt::Display for Entry<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = &self.operation;
        write!(
            f,
            "{}: {} [{}..",
            operation.client(),
            self.text,
            operation.called()
        )?;
        match operation.returned() {
            Some(returned) => write!(f, "{returned}]"),
            None => write!(f, "?]"),
        }
    }
}

impl<M: Model> fmt::Display for CounterExample<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = format!("{:?}", self.key);
        if key != "()" {
            write!(f, ", key {key}")?;
        }
        writeln!(f, ": {} operations conflict", self.conflict.len())?;
        if self.others > 0 {
            writeln!(f, "(whatever became of the other {})", self.others)?;
        }
        if !self.is_smallest {
            writeln!(
                f,
                "(some of them may not be needed for that: the steps were used up)"
            )?;
        }
        self.write_timeline(f)?;

        writeln!(
            f,
            "the first return that nothing explains:\n  {}",
            self.blocked
        )?;
        let shown = self.order.len().min(SHOWN);
        writeln!(
            f,
            "an order of what came before ({shown} of {}):",
            self.order.len()
        )?;
        for entry in &self.order[self.order.len() - shown..] {
            writeln!(f, "  {entry}")?;
        }
        write!(f, "the state is then one of:")?;
        for state in self.states.iter().take(SHOWN) {
            write!(f, "\n  {state:?}")?;
        }
        match self.states.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl<M: Model> CounterExample<M> {
    /// One line for each operation of the conflict: when it was called and returned, as a bar too, and what.
    /// Each point of time at which something happens is as wide as the next.
    fn write_timeline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.conflict.len().saturating_sub(CONFLICT_SHOWN);
        if hidden > 0 {
            writeln!(f, "  {hidden} of them, and then:")?;
        }
        let conflict = &self.conflict[hidden..];
        let operations = conflict.iter().map(|entry| &entry.operation);
        let operations = operations.filter_map(|op| Some((op, op.called(), op.returned()?)));
        let operations: Vec<_> = operations.collect();
        let ends = operations
            .iter()
            .flat_map(|(_, called, returned)| [*called, *returned]);
        let times: BTreeSet<SimTime> = ends.collect();
        let column = |time| 2 * times.range(..time).count();
        let width = 2 * times.len();
        let names = operations
            .iter()
            .map(|(op, ..)| op.client().to_string().len());
        let name_width = names.max().unwrap_or_default();
        for (entry, (operation, called, returned)) in conflict.iter().zip(&operations) {
            let (begin, end) = (column(*called), column(*returned));
            let mut bar = " ".repeat(begin) + "|";
            if end > begin {
                bar += &"-".repeat(end - begin - 1);
                bar += "|";
            }
            let name = operation.client().to_string();
            let text = &entry.text;
            writeln!(
                f,
                "  {name:name_width$}  {called}..{returned}  {bar:width$} {text}"
            )?;
        }
        Ok(())
    }
}
