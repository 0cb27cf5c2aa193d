//! The checker against one that tries every order, on small random histories.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One operation of a random history: client, what, and times.
#[derive(Clone, Debug)]
struct Draw<Op, Output> {
    client: u32,
    op: Op,
    called: u64,
    length: u64,
    /// When it takes effect, of `length`.
    effect: u64,
    is_unknown: bool,
    /// What it returns instead of what is right.
    lie: Option<Output>,
}

fn draw<Op: Clone + std::fmt::Debug, Output: Clone + std::fmt::Debug>(
    op: impl Strategy<Value = Op>,
    lie: impl Strategy<Value = Output>,
) -> impl Strategy<Value = Draw<Op, Output>> {
    let times = (0..8_u64, 0..6_u64, 0..6_u64);
    let lie = proptest::option::weighted(0.15, lie);
    (0..3_u32, op, times, proptest::bool::weighted(0.25), lie).prop_map(
        |(client, op, (called, length, effect), is_unknown, lie)| Draw {
            client,
            op,
            called,
            length,
            effect: effect.min(length),
            is_unknown,
            lie,
        },
    )
}

/// The history of `draws`, whose outputs are right but for the lies. `right` gives the output in a state.
fn history<M: Model>(
    model: &M,
    draws: &[Draw<M::Op, M::Output>],
    right: impl Fn(&M::State, &M::Op) -> M::Output,
) -> HistoryOf<M> {
    let mut by_effect: Vec<_> = (0..draws.len()).collect();
    by_effect.sort_by_key(|&draw| draws[draw].called + draws[draw].effect);
    let mut state = model.initial(&model.key(&draws[0].op));
    let mut outputs = vec![None; draws.len()];
    for draw in by_effect {
        let (op, lie) = (&draws[draw].op, &draws[draw].lie);
        // Half of those whose outcome is unknown never take effect.
        if draws[draw].is_unknown && draws[draw].length % 2 == 0 {
            continue;
        }
        let output = right(&state, op);
        state = model
            .step(&state, op, Some(&output))
            .expect("the output is right");
        outputs[draw] = Some(lie.clone().unwrap_or(output));
    }
    let mut events = Vec::new();
    for (place, draw) in draws.iter().enumerate() {
        events.push((draw.called, place, false));
        if !draw.is_unknown {
            events.push((draw.called + draw.length, place, true));
        }
    }
    events.sort_unstable();
    let mut history = History::new();
    let mut ids = vec![None; draws.len()];
    for (time, place, is_return) in events {
        let (draw, time) = (&draws[place], SimTime::from_nanos(time));
        if is_return {
            let output = outputs[place].take().expect("it took effect");
            history.returned(ids[place].expect("it was called"), output, time);
        } else {
            ids[place] = Some(history.call(ClientId(draw.client), draw.op.clone(), time));
        }
    }
    history
}

/// Whether there is an order, by trying all. Those of `operations` that are not `known` may be left out.
fn try_all<M: Model>(
    model: &M,
    operations: &[&OperationOf<M>],
    known: &[bool],
    taken: &mut Vec<usize>,
    state: &M::State,
) -> bool {
    let missing: Vec<_> = (0..operations.len())
        .filter(|op| !taken.contains(op))
        .collect();
    if missing.iter().all(|&op| !known[op]) {
        return true;
    }
    for &op in &missing {
        let precedes = |&other: &usize| known[other] && operations[other].precedes(operations[op]);
        if missing.iter().any(precedes) {
            continue;
        }
        let output = operations[op].output().filter(|_| known[op]);
        let Some(next) = model.step(state, operations[op].op(), output) else {
            continue;
        };
        taken.push(op);
        let found = try_all(model, operations, known, taken, &next);
        taken.pop();
        if found {
            return true;
        }
    }
    false
}

/// Checks `history` both ways, and that a counter-example is one and has nothing in vain.
fn agree<M: Model>(model: &M, checker: &Checker<M>, history: &HistoryOf<M>) -> bool {
    let operations: Vec<_> = history.operations().collect();
    let initial = model.initial(&model.key(operations[0].op()));
    let has_order = |known: &[bool]| try_all(model, &operations, known, &mut Vec::new(), &initial);
    let returned: Vec<_> = operations
        .iter()
        .map(|op| op.returned().is_some())
        .collect();
    let verdict = checker.check(history);
    let expected = has_order(&returned);
    assert_eq!(verdict.is_linearizable(), expected, "{verdict}");
    let Verdict::NotLinearizable(example) = verdict else {
        assert!(expected, "nothing so small exceeds the budget");
        return true;
    };
    assert!(example.is_smallest);
    let mut known: Vec<_> = operations
        .iter()
        .map(|operation| {
            let order = operation.call_order();
            example
                .conflict
                .iter()
                .any(|entry| entry.operation.call_order() == order)
        })
        .collect();
    assert_eq!(
        known.iter().filter(|known| **known).count(),
        example.conflict.len()
    );
    assert!(!has_order(&known), "{example}");
    for place in 0..known.len() {
        if known[place] {
            known[place] = false;
            assert!(
                has_order(&known),
                "operation {place} is not needed: {example}"
            );
            known[place] = true;
        }
    }
    false
}

fn register_op() -> impl Strategy<Value = RegisterOp<u32>> {
    prop_oneof![
        3 => Just(RegisterOp::Read),
        3 => (1..4_u32).prop_map(RegisterOp::Write),
        2 => (0..4_u32, 1..4_u32).prop_map(|(from, to)| RegisterOp::CompareAndSwap(from, to)),
    ]
}

/// A lie does not know what it answers, so it also gives outputs that no such operation has.
fn register_output() -> impl Strategy<Value = RegisterOutput<u32>> {
    prop_oneof![
        4 => (0..4_u32).prop_map(RegisterOutput::Value),
        1 => Just(RegisterOutput::Done),
        2 => any::<bool>().prop_map(RegisterOutput::Swapped),
    ]
}

fn register_answer(state: &u32, op: &RegisterOp<u32>) -> RegisterOutput<u32> {
    match op {
        RegisterOp::Read => RegisterOutput::Value(*state),
        RegisterOp::Write(_) => RegisterOutput::Done,
        RegisterOp::CompareAndSwap(expected, _) => RegisterOutput::Swapped(state == expected),
    }
}

/// A model without what makes its check faster.
struct Plain<M>(M);

impl<M: Model> Model for Plain<M> {
    type Op = M::Op;
    type Output = M::Output;
    type State = M::State;
    type Key = M::Key;

    fn key(&self, op: &M::Op) -> M::Key {
        self.0.key(op)
    }

    fn initial(&self, key: &M::Key) -> M::State {
        self.0.initial(key)
    }

    fn step(&self, state: &M::State, op: &M::Op, output: Option<&M::Output>) -> Option<M::State> {
        self.0.step(state, op, output)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_register_is_judged_as_by_trying_every_order(
        draws in vec(draw(register_op(), register_output()), 1..8),
    ) {
        let model = Register::new(0);
        let history = history(&model, &draws, register_answer);
        agree(&model, &Checker::new(model.clone()), &history);
    }

    #[test]
    fn a_model_without_hints_is_judged_the_same(
        draws in vec(draw(register_op(), register_output()), 1..7),
    ) {
        let model = Plain(Register::new(0));
        let history = history(&model, &draws, register_answer);
        agree(&model, &Checker::new(Plain(Register::new(0))), &history);
    }

    #[test]
    fn a_counter_is_judged_as_by_trying_every_order(
        draws in vec(
            draw(
                prop_oneof![Just(CounterOp::Get), (-1..3_i64).prop_map(CounterOp::Add)],
                proptest::option::of(-1..4_i64),
            ),
            1..8,
        ),
    ) {
        let history = history(&Counter, &draws, |state, _| Some(*state));
        agree(&Counter, &Checker::new(Counter), &history);
    }

    #[test]
    fn a_queue_is_judged_as_by_trying_every_order(
        draws in vec(
            draw(
                prop_oneof![Just(QueueOp::Pop), (0..3_u32).prop_map(QueueOp::Push)],
                proptest::option::of(0..3_u32).prop_map(QueueOutput::Popped),
            ),
            1..7,
        ),
    ) {
        let model = Queue::new();
        let history = history(&model, &draws, |state, op| match op {
            QueueOp::Push(_) => QueueOutput::Done,
            QueueOp::Pop => QueueOutput::Popped(state.front().copied()),
        });
        agree(&model, &Checker::new(model.clone()), &history);
    }

    #[test]
    fn a_log_is_judged_as_by_trying_every_order(
        draws in vec(
            draw(
                prop_oneof![
                    2 => (0..3_u32).prop_map(LogOp::Append),
                    1 => (0..3_usize).prop_map(LogOp::Read),
                    1 => Just(LogOp::End),
                ],
                (0..4_usize).prop_map(LogOutput::Position),
            ),
            1..7,
        ),
    ) {
        let model = Log::new();
        let history = history(&model, &draws, |state, op| match op {
            LogOp::Append(_) | LogOp::End => LogOutput::Position(state.len()),
            LogOp::Read(position) => LogOutput::Entry(state.get(*position).copied()),
        });
        agree(&model, &Checker::new(model.clone()), &history);
    }
}

/// The comparison would be worth little if nearly all histories were good, or bad.
#[test]
fn the_random_histories_are_good_and_bad() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = vec(draw(register_op(), register_output()), 1..8);
    let model = Register::new(0);
    let checker = Checker::new(model.clone());
    let mut counts = [0; 2];
    for _ in 0..1_000 {
        let draws = strategy.new_tree(&mut runner).expect("no filter").current();
        let is_good = agree(&model, &checker, &history(&model, &draws, register_answer));
        counts[usize::from(is_good)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
}
