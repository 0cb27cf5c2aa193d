//! The search for an order.
//!
//! A configuration says which operations have been linearized, and in which state that left the object. Those
//! that have to be linearized are numbered by their returns; all before `first` are linearized, and of the
//! later ones few, as no more can be than were outstanding at one time. So configurations are small, however
//! long the history is.
//!
//! That nothing is missed where configurations and operations are left out: suppose that some of the
//! configurations visited could be completed, and take one of them that needs the fewest further operations, among
//! those that do not restrict what comes next. Then each of unknown outcome in that completion matters to the one
//! that follows it, or it could be dropped, which contradicts "fewest"; reads may be moved to where they first are
//! possible, and equal operations may change places. So its steps up to the next known operation are such as are
//! tried. What each leads to was visited, or something at least as good was: with the same state, with
//! no other operations of unknown outcome used, and not restricted otherwise. That can be completed with the
//! same steps, and behind the known operation it is not restricted and needs fewer: a contradiction.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Model;
use super::part::{Helpers, Part, Plan, index};

/// What a search came to.
pub(super) enum Found<State> {
    /// There are orders of all known operations.
    Orders(Ends<State>),
    /// There is none. This many operations, in the order of their returns, were linearized at most before any
    /// other was needed that could not be.
    None(usize),
    /// The steps were used up.
    Undecided,
}

/// Orders of all known operations.
pub(super) struct Ends<State> {
    /// One of them, with those other operations that it uses.
    pub(super) order: Vec<usize>,
    /// The states in which those end that were looked for.
    pub(super) states: Vec<State>,
}

/// Which orders to look for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// The first that is found.
    One,
    /// All but those that use more operations of unknown outcome than another with the same end, or as many of
    /// them as the steps suffice for.
    All,
}

#[derive(Clone)]
struct Configuration {
    /// The lowest number that is not linearized.
    first: usize,
    state: usize,
    /// The numbers above `first` that are linearized, in order.
    ahead: Vec<u32>,
    /// Operations of unknown outcome that are linearized, in order.
    used: Vec<u32>,
    /// The last operation linearized, if its outcome is unknown: what comes next is something that it can matter
    /// to. Nothing where that is so of all that may come next.
    last: Option<usize>,
}

impl Configuration {
    fn is_linearized(&self, number: u32) -> bool {
        (number as usize) < self.first || self.ahead.binary_search(&number).is_ok()
    }

    /// Adds a known operation.
    fn linearize(&mut self, number: u32) {
        self.last = None;
        if number as usize != self.first {
            let place = self.ahead.partition_point(|&other| other < number);
            self.ahead.insert(place, number);
            return;
        }
        self.first += 1;
        let ahead = self.ahead.iter().zip(self.first..);
        let gone = ahead
            .take_while(|(number, first)| **number as usize == *first)
            .count();
        self.ahead.drain(..gone);
        self.first += gone;
    }

    fn uses(&self, op: usize) -> bool {
        self.used.binary_search(&index(op)).is_ok()
    }

    /// Adds an operation of unknown outcome.
    fn using(&mut self, op: usize) {
        let op = index(op);
        let place = self.used.partition_point(|&other| other < op);
        self.used.insert(place, op);
    }
}

#[derive(Clone, Copy)]
enum Choice {
    Known(u32),
    Unknown(usize),
}

/// A configuration on the way, and what is to be tried from there.
struct Frame {
    configuration: Configuration,
    /// The last operation linearized, in the tree of those.
    node: usize,
    choices: std::vec::IntoIter<Choice>,
    has_unknown: bool,
}

/// An operation linearized after others.
struct Node {
    before: usize,
    op: usize,
}

/// Stands in the tree for the beginning.
const ROOT: usize = usize::MAX;

/// How many comparisons of operations take as long as a step.
const COMPARED: usize = 16;

/// Configurations that differ at most in what unknown operations they have used.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    first: usize,
    state: usize,
    ahead: Box<[u32]>,
    /// The kind of the last operation, where that restricts what comes next.
    last: Option<usize>,
}

pub(super) struct Search<'s, 'a, M: Model> {
    model: &'a M,
    part: &'s Part<'a, M>,
    plan: Plan,
    helpers: &'s mut Helpers<'a, M>,
    /// Which of the known operations are reads, by number.
    reads: Vec<bool>,
    /// States by their numbers, and back.
    states: Vec<Rc<M::State>>,
    numbers: BTreeMap<Rc<M::State>, usize>,
    visited: BTreeMap<Place, Vec<Box<[u32]>>>,
    tree: Vec<Node>,
    stack: Vec<Frame>,
    /// The highest `first` so far.
    furthest: usize,
    /// The first order found, by its last node, and the states in which orders end.
    end: Option<usize>,
    ends: BTreeSet<usize>,
    steps: &'s mut u64,
}

impl<'s, 'a, M: Model> Search<'s, 'a, M> {
    /// A search in which those operations have to be linearized, with their outputs, that `is_known`; all
    /// others may take effect at any time after their calls, or never. Each step takes one from `steps`.
    pub(super) fn new(
        model: &'a M,
        part: &'s Part<'a, M>,
        is_known: &[bool],
        helpers: &'s mut Helpers<'a, M>,
        steps: &'s mut u64,
    ) -> Self {
        let plan = Plan::new(part, is_known);
        let known = plan.known.iter().map(|&op| part.operations[op]);
        let reads = known
            .map(|known| model.is_read(known.op(), known.output()))
            .collect();
        Self {
            model,
            part,
            plan,
            helpers,
            reads,
            states: Vec::new(),
            numbers: BTreeMap::new(),
            visited: BTreeMap::new(),
            tree: Vec::new(),
            stack: Vec::new(),
            furthest: 0,
            end: None,
            ends: BTreeSet::new(),
            steps,
        }
    }

    pub(super) fn run(mut self, want: Want) -> Found<M::State> {
        let state = self.number(self.model.initial(&self.part.key));
        let mut arrived = Some((
            Configuration {
                first: 0,
                state,
                ahead: Vec::new(),
                used: Vec::new(),
                last: None,
            },
            ROOT,
        ));
        loop {
            if let Some((configuration, node)) = arrived {
                let Some((configuration, node)) = self.read_all(configuration, node) else {
                    return self.gave_up();
                };
                self.furthest = self.furthest.max(configuration.first);
                if configuration.first == self.plan.known.len() {
                    self.end.get_or_insert(node);
                    self.ends.insert(configuration.state);
                    if want == Want::One {
                        return self.found();
                    }
                } else if self.visit(&configuration) {
                    let choices = self.known_choices(&configuration).into_iter();
                    self.stack.push(Frame {
                        configuration,
                        node,
                        choices,
                        has_unknown: false,
                    });
                }
            }
            let Some(mut frame) = self.stack.pop() else {
                return self.found();
            };
            arrived = None;
            if let Some(choice) = frame.choices.next() {
                if !take_step(self.steps) {
                    return self.gave_up();
                }
                arrived = self.choose(&frame.configuration, frame.node, choice);
                self.stack.push(frame);
            } else if !frame.has_unknown {
                let Some(choices) = self.unknown_choices(&frame.configuration) else {
                    return self.gave_up();
                };
                frame.choices = choices.into_iter();
                frame.has_unknown = true;
                self.stack.push(frame);
            }
        }
    }

    /// Linearizes every read that is possible: coming sooner, it forbids nothing. Nothing if the steps are
    /// used up.
    fn read_all(
        &mut self,
        mut configuration: Configuration,
        mut node: usize,
    ) -> Option<(Configuration, usize)> {
        'again: while configuration.first < self.plan.known.len() {
            for &number in self.plan.open(configuration.first) {
                let op = self.plan.known[number as usize];
                if !self.reads[number as usize] || !self.may_come(&configuration, number) {
                    continue;
                }
                if !take_step(self.steps) {
                    return None;
                }
                let operation = self.part.operations[op];
                let state = &self.states[configuration.state];
                if self
                    .model
                    .step(state, operation.op(), operation.output())
                    .is_some()
                {
                    configuration.linearize(number);
                    node = grow(&mut self.tree, node, op);
                    continue 'again;
                }
            }
            break;
        }
        Some((configuration, node))
    }

    /// What has to be linearized, may be next, and is not a read. Reads that are possible have been linearized.
    fn known_choices(&mut self, configuration: &Configuration) -> Vec<Choice> {
        let mut choices = self.may_come_next(configuration);
        choices.retain(|&number| !self.reads[number as usize]);
        if let Some(last) = configuration.last {
            choices.retain(|&number| self.prepares(last, number));
        }
        choices.into_iter().map(Choice::Known).collect()
    }

    /// The operations of unknown outcome that can matter, one of each kind. Nothing if the steps are used up.
    fn unknown_choices(&mut self, configuration: &Configuration) -> Option<Vec<Choice>> {
        let mut ops = BTreeSet::new();
        if let Some(last) = configuration.last {
            for &kind in self.helpers.helped_by(self.part, last).iter() {
                ops.extend(self.available(configuration, kind)?);
            }
        } else if !self.plan.unknown.is_empty() {
            // What matters to what may come next, what matters to that, and so on.
            let numbers = self.may_come_next(configuration).into_iter();
            let known = numbers.map(|number| (self.plan.known[number as usize], true));
            let mut asked: Vec<_> = known.collect();
            let mut kinds = BTreeSet::new();
            while let Some((op, with_output)) = asked.pop() {
                for &kind in self.helpers.helpers_of(self.part, op, with_output).iter() {
                    if kinds.insert(kind)
                        && let Some(helper) = self.available(configuration, kind)?
                    {
                        asked.push((helper, false));
                        ops.insert(helper);
                    }
                }
            }
        }
        // The sooner one was called, the likelier it has taken effect.
        Some(ops.into_iter().map(Choice::Unknown).collect())
    }

    /// The first operation of unknown outcome of a kind that may be linearized. Nothing if the steps are used up.
    fn available(&mut self, configuration: &Configuration, kind: usize) -> Option<Option<usize>> {
        if !take_step(self.steps) {
            return None;
        }
        let Some(ops) = self.plan.unknown.get(&kind) else {
            return Some(None);
        };
        let operations = &self.part.operations;
        let returned = operations[self.plan.known[configuration.first]].returned();
        let mut called = ops
            .iter()
            .copied()
            .take_while(|&op| Some(operations[op].called()) <= returned);
        Some(called.find(|&op| {
            let linearized = |number| configuration.is_linearized(number);
            !configuration.uses(op) && self.plan.may_come(op, linearized)
        }))
    }

    /// The numbers of what has to be linearized and may be next.
    fn may_come_next(&self, configuration: &Configuration) -> Vec<u32> {
        let open = self.plan.open(configuration.first).iter().copied();
        open.filter(|&number| self.may_come(configuration, number))
            .collect()
    }

    fn may_come(&self, configuration: &Configuration, number: u32) -> bool {
        let linearized = |number| configuration.is_linearized(number);
        let op = self.plan.known[number as usize];
        !linearized(number) && self.plan.may_come(op, linearized)
    }

    /// Whether `unknown` can matter right before the known operation of a number.
    fn prepares(&mut self, unknown: usize, number: u32) -> bool {
        let op = self.plan.known[number as usize];
        let helpers = self.helpers.helpers_of(self.part, op, true);
        helpers.binary_search(&self.part.kinds[unknown]).is_ok()
    }

    /// Whether there is anything that may be next and that `unknown` cannot matter to.
    fn restricts(&mut self, configuration: &Configuration, unknown: usize) -> bool {
        !self.helpers.help_is_general(self.part, unknown)
            || self
                .may_come_next(configuration)
                .into_iter()
                .any(|next| !self.prepares(unknown, next))
    }

    fn choose(
        &mut self,
        configuration: &Configuration,
        node: usize,
        choice: Choice,
    ) -> Option<(Configuration, usize)> {
        let (op, output) = match choice {
            Choice::Known(number) => {
                let op = self.plan.known[number as usize];
                (op, self.part.operations[op].output())
            }
            Choice::Unknown(op) => (op, None),
        };
        let state = &self.states[configuration.state];
        let state = self
            .model
            .step(state, self.part.operations[op].op(), output)?;
        let mut next = configuration.clone();
        next.state = self.number(state);
        match choice {
            Choice::Known(number) => next.linearize(number),
            // It would be used in vain.
            Choice::Unknown(_) if next.state == configuration.state => return None,
            Choice::Unknown(op) => {
                next.using(op);
                next.last = self.restricts(&next, op).then_some(op);
            }
        }
        Some((next, grow(&mut self.tree, node, op)))
    }

    /// Whether nothing as good has been visited: the same with no unknown operation used that this has not.
    fn visit(&mut self, configuration: &Configuration) -> bool {
        let mut place = Place {
            first: configuration.first,
            state: configuration.state,
            ahead: configuration.ahead.as_slice().into(),
            last: None,
        };
        let used = &configuration.used;
        let is_as_good =
            |visited: &Vec<Box<[u32]>>| visited.iter().any(|fewer| is_subset(fewer, used));
        if let Some(last) = configuration.last {
            if self.visited.get(&place).is_some_and(is_as_good) {
                return false;
            }
            place.last = Some(self.part.kinds[last]);
        }
        let visited = self.visited.entry(place).or_default();
        if is_as_good(visited) {
            return false;
        }
        // Comparing takes time as well.
        *self.steps = self
            .steps
            .saturating_sub((visited.len() * (1 + used.len()) / COMPARED) as u64);
        visited.push(used.as_slice().into());
        true
    }

    fn number(&mut self, state: M::State) -> usize {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let state = Rc::new(state);
        self.states.push(Rc::clone(&state));
        self.numbers.insert(state, self.states.len() - 1);
        self.states.len() - 1
    }

    /// The operations linearized up to `node`, in order.
    fn order(&self, mut node: usize) -> Vec<usize> {
        let mut order = Vec::new();
        while node != ROOT {
            order.push(self.tree[node].op);
            node = self.tree[node].before;
        }
        order.reverse();
        order
    }

    fn found(&self) -> Found<M::State> {
        let Some(node) = self.end else {
            return Found::None(self.furthest);
        };
        let states = self
            .ends
            .iter()
            .map(|&state| M::State::clone(&self.states[state]));
        Found::Orders(Ends {
            order: self.order(node),
            states: states.collect(),
        })
    }

    /// The steps are used up.
    fn gave_up(&self) -> Found<M::State> {
        match self.end {
            Some(_) => self.found(),
            None => Found::Undecided,
        }
    }
}

/// Takes a step, if one is left.
fn take_step(steps: &mut u64) -> bool {
    let left = steps.checked_sub(1);
    *steps = left.unwrap_or_default();
    left.is_some()
}

fn grow(tree: &mut Vec<Node>, before: usize, op: usize) -> usize {
    tree.push(Node { before, op });
    tree.len() - 1
}

/// Whether all of `few` are in `many`. Both are in order.
fn is_subset(few: &[u32], many: &[u32]) -> bool {
    let mut many = many.iter();
    few.len() <= many.len()
        && few
            .iter()
            .all(|one| many.by_ref().any(|other| other == one))
}
