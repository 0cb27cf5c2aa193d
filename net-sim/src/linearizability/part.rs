//! The operations of one key, numbered for the search.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Model, OperationOf};

/// The operations of one key, by when they were called.
pub(super) struct Part<'a, M: Model> {
    pub(super) key: M::Key,
    pub(super) operations: Vec<&'a OperationOf<M>>,
    /// Equal operations have equal kinds, counted from 0.
    pub(super) kinds: Vec<usize>,
}

impl<'a, M: Model> Part<'a, M> {
    pub(super) fn new(key: M::Key, mut operations: Vec<&'a OperationOf<M>>) -> Self {
        operations.sort_by_key(|operation| operation.call_order());
        let mut numbers = BTreeMap::new();
        let kinds = operations.iter().map(|operation| {
            let next = numbers.len();
            *numbers.entry(operation.op()).or_insert(next)
        });
        let kinds = kinds.collect();
        Self {
            key,
            operations,
            kinds,
        }
    }

    /// Which operations have returned, by operation.
    pub(super) fn returned(&self) -> Vec<bool> {
        let operations = self.operations.iter();
        operations.map(|op| op.returned().is_some()).collect()
    }
}

/// Which operations may be linearized when, where some have to be and others may.
pub(super) struct Plan {
    /// Those that have to be linearized, by when they returned. An operation's place here is its number.
    pub(super) known: Vec<usize>,
    /// For each number `n`: the numbers, from `n` up, of operations called before `n` returned. While `n` is the
    /// first that is not linearized, these may be.
    open: Vec<u32>,
    /// Where in `open` the numbers of each end.
    open_ends: Vec<usize>,
    /// Those that may be linearized, of each kind, by when they were called.
    pub(super) unknown: BTreeMap<usize, Vec<usize>>,
    /// Of the operations that follow others of their client at one and the same time: the numbers that they
    /// follow. The times alone do not tell.
    follows: BTreeMap<usize, Vec<u32>>,
}

impl Plan {
    /// Takes as known those operations that are in `known`. All of those must have returned.
    pub(super) fn new<M: Model>(part: &Part<'_, M>, is_known: &[bool]) -> Self {
        let operations = &part.operations;
        let (mut known, others): (Vec<_>, Vec<_>) =
            (0..operations.len()).partition(|&op| is_known[op]);
        known.sort_by_key(|&op| operations[op].return_order());

        let mut unknown: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for op in others {
            unknown.entry(part.kinds[op]).or_default().push(op);
        }
        let (open, open_ends) = open(operations, &known);
        let follows = follows(operations, &known);
        Self {
            known,
            open,
            open_ends,
            unknown,
            follows,
        }
    }

    /// The numbers of operations that times permit to linearize where `first` is the first number that is not
    /// linearized. Some of them may be.
    pub(super) fn open(&self, first: usize) -> &[u32] {
        let begin = first
            .checked_sub(1)
            .map_or(0, |before| self.open_ends[before]);
        &self.open[begin..self.open_ends[first]]
    }

    /// Whether all that `op` follows at its very time is linearized.
    pub(super) fn may_come(&self, op: usize, is_linearized: impl Fn(u32) -> bool) -> bool {
        let follows = self.follows.get(&op);
        follows.is_none_or(|numbers| numbers.iter().all(|&number| is_linearized(number)))
    }
}

fn open<Op, Output>(
    operations: &[&crate::history::Operation<Op, Output>],
    known: &[usize],
) -> (Vec<u32>, Vec<usize>) {
    let mut by_call: Vec<_> = (0..known.len()).collect();
    by_call.sort_by_key(|&number| operations[known[number]].call_order());
    let mut calls = by_call.into_iter().peekable();
    let mut active = std::collections::BTreeSet::new();
    let (mut open, mut ends) = (Vec::new(), Vec::new());
    for (number, &op) in known.iter().enumerate() {
        let returned = operations[op].returned();
        while let Some(call) =
            calls.next_if(|&call| Some(operations[known[call]].called()) <= returned)
        {
            active.insert(index(call));
        }
        open.extend(&active);
        ends.push(open.len());
        active.remove(&index(number));
    }
    (open, ends)
}

fn follows<Op, Output>(
    operations: &[&crate::history::Operation<Op, Output>],
    known: &[usize],
) -> BTreeMap<usize, Vec<u32>> {
    let mut returns: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, &op) in known.iter().enumerate() {
        let operation = operations[op];
        if let Some(returned) = operation.returned() {
            let at = (operation.client(), returned);
            returns.entry(at).or_default().push(index(number));
        }
    }
    let mut follows = BTreeMap::new();
    for (op, operation) in operations.iter().enumerate() {
        let Some(numbers) = returns.get(&(operation.client(), operation.called())) else {
            continue;
        };
        let before = |number: &u32| operations[known[*number as usize]].precedes(operation);
        let numbers: Vec<_> = numbers.iter().copied().filter(before).collect();
        if !numbers.is_empty() {
            follows.insert(op, numbers);
        }
    }
    follows
}

/// A number or an operation's place as the search keeps it.
pub(super) fn index(place: usize) -> u32 {
    u32::try_from(place).expect("no history in memory has four thousand million operations")
}

/// What more kinds of operations than this can help is likely to need none of them in particular, and takes long to
/// search. Conflicts are looked for among other operations first.
pub(super) const HELPERS_MAX: usize = 64;

/// Which kinds of operations of unknown outcome [can matter](Model::can_matter) to what. Answers are kept, for the
/// model is asked about many pairs.
pub(super) struct Helpers<'a, M: Model> {
    model: &'a M,
    /// The kinds that are asked about, in order, each with an operation of it.
    kinds: Vec<(usize, &'a M::Op)>,
    /// What helps, by operation and whether its output counts.
    helpers: BTreeMap<(usize, bool), Rc<[usize]>>,
    /// What is helped, by kind.
    helped: BTreeMap<usize, Rc<[usize]>>,
}

impl<'a, M: Model> Helpers<'a, M> {
    /// Asks about the kinds of those operations of `part` that are not known, or of all.
    pub(super) fn new(model: &'a M, part: &Part<'a, M>, is_known: Option<&[bool]>) -> Self {
        let asked = |op: &usize| is_known.is_none_or(|is_known| !is_known[*op]);
        let ops = (0..part.operations.len()).filter(asked);
        let kinds: BTreeMap<_, _> = ops
            .map(|op| (part.kinds[op], part.operations[op].op()))
            .collect();
        Self {
            model,
            kinds: kinds.into_iter().collect(),
            helpers: BTreeMap::new(),
            helped: BTreeMap::new(),
        }
    }

    /// The kinds that can matter right before operation `op` of `part`, in order.
    pub(super) fn helpers_of(
        &mut self,
        part: &Part<'_, M>,
        op: usize,
        with_output: bool,
    ) -> Rc<[usize]> {
        let ask = || {
            let next = part.operations[op];
            let output = next.output().filter(|_| with_output);
            let can_matter = |unknown: &M::Op| self.model.can_matter(unknown, next.op(), output);
            let kinds = self.kinds.iter();
            let kinds = kinds.filter(|(_, unknown)| can_matter(unknown));
            kinds.map(|(kind, _)| *kind).collect()
        };
        let answer = self.helpers.entry((op, with_output)).or_insert_with(ask);
        Rc::clone(answer)
    }

    /// The kinds that operation `op` of `part` can matter to where neither output is known.
    pub(super) fn helped_by(&mut self, part: &Part<'_, M>, op: usize) -> Rc<[usize]> {
        let ask = || {
            let unknown = part.operations[op].op();
            let kinds = self.kinds.iter();
            let kinds = kinds.filter(|(_, next)| self.model.can_matter(unknown, next, None));
            kinds.map(|(kind, _)| *kind).collect()
        };
        let answer = self.helped.entry(part.kinds[op]).or_insert_with(ask);
        Rc::clone(answer)
    }

    /// Whether that is so of all kinds.
    pub(super) fn help_is_general(&mut self, part: &Part<'_, M>, op: usize) -> bool {
        self.helped_by(part, op).len() == self.kinds.len()
    }
}
