//! Histories whose verdict is known, and what is said about the bad ones.

mod random;

use super::*;
use crate::history::{ClientId, History, OpId};
use crate::time::SimTime;

type Registers = History<RegisterOp<u32>, RegisterOutput<u32>>;

/// A history of a register from lines such as these:
///
/// ```text
/// 1 w5 0..10         client 1 writes 5, called at 0, returned at 10
/// 1 w6 11..          the same of unknown outcome
/// 2 r5 20..30        reads 5
/// 3 c5>7 31..32 yes  swaps 5 for 7, or `no`: does not find 5
/// ```
fn registers(lines: &[&str]) -> Registers {
    enum What {
        Call(RegisterOp<u32>),
        Return(RegisterOutput<u32>),
    }
    let mut events = Vec::new();
    for (line, text) in lines.iter().enumerate() {
        let mut words = text.split_whitespace();
        let mut word = || words.next().expect("client, operation and times");
        let client = ClientId(word().parse().unwrap());
        let op = word();
        let (called, returned) = word().split_once("..").expect("two times");
        let swapped = words.next() == Some("yes");
        let (op, output) = match op.split_at(1) {
            ("w", value) => (
                RegisterOp::Write(value.parse().unwrap()),
                RegisterOutput::Done,
            ),
            ("r", value) => {
                let value = value.parse().unwrap_or_default();
                (RegisterOp::Read, RegisterOutput::Value(value))
            }
            (_, values) => {
                let (expected, new) = values.split_once('>').expect("two values");
                let (expected, new) = (expected.parse().unwrap(), new.parse().unwrap());
                (
                    RegisterOp::CompareAndSwap(expected, new),
                    RegisterOutput::Swapped(swapped),
                )
            }
        };
        events.push((called.parse::<u64>().unwrap(), line, client, What::Call(op)));
        if let Ok(returned) = returned.parse::<u64>() {
            events.push((returned, line, client, What::Return(output)));
        }
    }
    events.sort_by_key(|(time, line, ..)| (*time, *line));
    let mut history = History::new();
    let mut ids: Vec<Option<OpId>> = vec![None; lines.len()];
    for (time, line, client, what) in events {
        let time = SimTime::from_nanos(time);
        match what {
            What::Call(op) => ids[line] = Some(history.call(client, op, time)),
            What::Return(output) => history.returned(ids[line].unwrap(), output, time),
        }
    }
    history
}

fn check(lines: &[&str]) -> Verdict<Register<u32>> {
    Checker::new(Register::new(0)).check(&registers(lines))
}

#[track_caller]
fn good(lines: &[&str]) {
    check(lines).assert_linearizable();
}

/// Checks that `lines` are not linearizable, and that those at `conflict` are why.
#[track_caller]
fn bad(lines: &[&str], conflict: &[usize]) {
    let Verdict::NotLinearizable(example) = check(lines) else {
        panic!("no violation in {lines:?}");
    };
    assert!(example.is_smallest);
    let found = example.conflict.iter().map(|entry| {
        let (client, called) = (entry.operation.client().0, entry.operation.called());
        (client, called.as_nanos(), entry.operation.op().clone())
    });
    let mut found: Vec<_> = found.collect();
    let expected = conflict.iter().map(|&line| {
        let history = registers(&lines[line..=line]);
        let operation = history.operations().next().unwrap().clone();
        let (client, called) = (operation.client().0, operation.called());
        (client, called.as_nanos(), operation.op().clone())
    });
    let mut expected: Vec<_> = expected.collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{example}");
}

#[test]
fn nothing_is_linearizable() {
    good(&[]);
    good(&["1 w5 0.."]);
}

#[test]
fn a_client_by_itself_reads_what_it_wrote() {
    good(&[
        "1 r0 0..1",
        "1 w5 2..3",
        "1 r5 4..5",
        "1 w6 6..7",
        "1 r6 8..9",
    ]);
    bad(&["1 w5 2..3", "1 r0 4..5"], &[0, 1]);
}

#[test]
fn a_value_that_was_never_written_is_not_read() {
    bad(&["1 w5 0..1", "2 w6 0..1", "3 r7 0..1"], &[2]);
    bad(&["1 r7 0..1", "2 w7 2..3"], &[0]);
}

#[test]
fn a_read_beside_a_write_sees_it_or_not() {
    good(&["1 w5 0..10", "2 r0 1..2"]);
    good(&["1 w5 0..10", "2 r5 1..2"]);
    good(&["1 w5 0..10", "2 r0 1..2", "2 r5 3..4"]);
    good(&["1 w5 0..10", "2 r0 1..9", "3 r5 2..8"]);
}

#[test]
fn reads_do_not_go_back() {
    bad(&["1 w5 0..10", "2 r5 1..2", "2 r0 3..4"], &[1, 2]);
    bad(&["1 w5 0..10", "2 r5 1..2", "3 r0 3..4"], &[1, 2]);
    bad(
        &[
            "1 w5 0..9",
            "2 w6 0..9",
            "3 r5 1..2",
            "3 r6 3..4",
            "3 r5 5..6",
        ],
        &[2, 3, 4],
    );
    bad(
        &["1 w5 0..9", "2 w6 0..9", "3 r5 10..11", "4 r6 12..13"],
        &[1, 2, 3],
    );
}

#[test]
fn a_stale_read_is_found_however_much_lies_around_it() {
    let mut lines = vec!["1 w5 0..1".to_owned(), "2 w6 2..3".to_owned()];
    for time in 2..400 {
        lines.push(format!("3 r6 {}..{}", 2 * time, 2 * time + 1));
    }
    lines.push("1 w7 800..900".to_owned());
    lines.push("4 r5 801..802".to_owned());
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let (write, read) = (0, lines.len() - 1);
    // Any one of the many reads shows that 5 is gone; which one is not promised.
    let Verdict::NotLinearizable(example) = check(&lines) else {
        panic!("the read is stale");
    };
    assert!(example.is_smallest);
    assert_eq!(example.conflict.len(), 3, "{example}");
    assert_eq!(example.conflict[0].text, "Write(5) -> Done", "line {write}");
    assert_eq!(example.conflict[2].text, "Read -> Value(5)", "line {read}");
    assert_eq!(
        example.states,
        [6],
        "the write of 7 need not have taken effect"
    );
    assert_eq!(example.others, lines.len() - 3);
}

#[test]
fn an_update_is_not_lost() {
    let both = ["1 c0>5 0..10 yes", "2 c0>6 0..10 yes"];
    bad(&both, &[0, 1]);
    good(&["1 c0>5 0..10 yes", "2 c0>6 0..10 no"]);
    bad(&["1 c0>5 0..10 no", "2 c0>6 0..10 no"], &[0, 1]);
    bad(&["1 c0>5 0..10 no", "2 c0>6 11..12 no"], &[0]);
    good(&[
        "1 c0>5 0..9 yes",
        "2 c5>6 0..9 yes",
        "3 c6>7 0..9 yes",
        "4 r7 10..11",
    ]);
    bad(&["1 c0>5 0..9 yes", "2 c6>7 0..9 yes"], &[1]);
    bad(
        &["1 c0>5 0..9 yes", "2 c5>6 0..9 yes", "4 r5 10..11"],
        &[1, 2],
    );
}

#[test]
fn an_unknown_write_may_appear_late_or_never() {
    good(&["1 w5 0..", "2 r0 10..11", "2 r0 12..13"]);
    good(&["1 w5 0..", "2 r0 10..11", "2 r5 12..13", "2 r5 14..15"]);
    good(&["1 w5 0..", "2 w6 10..11", "2 r6 12..13", "2 r5 14..15"]);
}

#[test]
fn an_unknown_write_does_not_appear_before_its_call_or_twice() {
    bad(&["2 r5 0..1", "1 w5 2.."], &[0]);
    bad(&["1 w5 0..", "2 r5 10..11", "2 r0 12..13"], &[1, 2]);
    bad(
        &["1 w5 0..", "2 r5 1..2", "2 w6 3..4", "2 r5 5..6"],
        &[1, 2, 3],
    );
    // Two of them may.
    good(&[
        "1 w5 0..",
        "3 w5 0..",
        "2 r5 1..2",
        "2 w6 3..4",
        "2 r5 5..6",
    ]);
    good(&["1 c0>5 0..", "3 c5>6 0..", "2 r0 1..2", "2 r6 3..4"]);
    bad(
        &["1 c0>5 0..", "3 c5>6 0..", "2 r6 1..2", "2 r5 3..4"],
        &[2, 3],
    );
}

#[test]
fn an_unknown_swap_may_have_happened_or_not() {
    good(&["1 c0>5 0..", "2 c5>6 1..2 yes", "2 r6 3..4"]);
    good(&["1 c0>5 0..", "2 c5>6 1..2 no", "2 r0 3..4", "2 r5 5..6"]);
    bad(&["1 c7>5 0..", "2 c5>6 1..2 yes"], &[1]);
}

#[test]
fn what_different_clients_do_at_one_time_is_concurrent() {
    good(&["1 w5 0..10", "2 r0 10..11"]);
    bad(&["1 w5 0..10", "1 r0 10..11"], &[0, 1]);
    good(&["1 w5 7..7", "1 r5 7..7", "2 r0 7..7"]);
    bad(&["1 w5 7..7", "1 r5 7..7", "1 r0 7..7"], &[1, 2]);
}

#[test]
fn a_client_may_have_several_outstanding() {
    good(&["1 w5 0..10", "1 w6 0..10", "1 r6 1..9", "1 r5 11..12"]);
    bad(&["1 w5 0..10", "1 w6 0..2", "1 r0 3..9"], &[1, 2]);
}

#[test]
fn the_verdict_of_one_key_is_not_that_of_another() {
    let at = SimTime::from_nanos;
    let mut history = History::new();
    for (key, seen) in [("a", 1), ("b", 0), ("c", 1)] {
        let op = RegisterOp::Write(1);
        let id = history.call(ClientId(1), KeyedOp { key, op }, at(0));
        history.returned(id, RegisterOutput::Done, at(1));
        let op = RegisterOp::Read;
        let id = history.call(ClientId(2), KeyedOp { key, op }, at(2));
        history.returned(id, RegisterOutput::Value(seen), at(3));
    }
    let checker = Checker::new(Keyed::new(Register::new(0)));
    let Verdict::NotLinearizable(example) = checker.check(&history) else {
        panic!("b is wrong");
    };
    assert_eq!((example.key, example.others), ("b", 0));
}

#[test]
fn the_text_of_a_counter_example_is_a_timeline() {
    let verdict = check(&[
        "1 w5 1000..2000",
        "2 w6 1500..4000",
        "2 r6 5000..6000",
        "3 r5 7000..8000",
        "3 r5 9000..9001",
    ]);
    assert_eq!(
        verdict.to_string(),
        "\
not linearizable: 3 operations conflict
(whatever became of the other 2)
  client 1  0.000001000..0.000002000  |-|          Write(5) -> Done
  client 2  0.000005000..0.000006000      |-|      Read -> Value(6)
  client 3  0.000007000..0.000008000          |-|  Read -> Value(5)
the first return that nothing explains:
  client 3: Read -> Value(5) [0.000007000..0.000008000]
an order of what came before (3 of 3):
  client 1: Write(5) -> Done [0.000001000..0.000002000]
  client 2: Write(6) -> Done [0.000001500..0.000004000]
  client 2: Read -> Value(6) [0.000005000..0.000006000]
the state is then one of:
  6"
    );
}

#[test]
#[should_panic(expected = "not linearizable: 1 operations conflict")]
fn a_bad_history_fails_a_test() {
    check(&["1 r7 0..1"]).assert_linearizable();
}

#[test]
fn what_exceeds_the_budget_is_undecided() {
    // Additions of unknown outcome: which of them make up the sum is a hard question.
    let mut history = History::new();
    for client in 0..40 {
        let id = history.call(
            ClientId(client),
            CounterOp::Add(1000 + 2 * i64::from(client) * i64::from(client)),
            SimTime::ZERO,
        );
        history.unknown(id);
    }
    let id = history.call(ClientId(99), CounterOp::Get, SimTime::ZERO);
    history.returned(id, Some(20_001), SimTime::from_nanos(9));
    let verdict = Checker::new(Counter).steps_max(10_000).check(&history);
    let Verdict::Undecided {
        operations, steps, ..
    } = verdict
    else {
        panic!("{verdict}");
    };
    assert_eq!((operations, steps), (41, 10_000));
    assert!(!verdict.is_linearizable());
    assert!(verdict.to_string().contains("`steps_max`"));
}

#[test]
fn a_violation_counts_more_than_what_is_undecided() {
    let mut history = History::new();
    for key in 0..2 {
        let op = RegisterOp::Read;
        let id = history.call(ClientId(1), KeyedOp { key, op }, SimTime::ZERO);
        history.returned(id, RegisterOutput::Value(key), SimTime::ZERO);
    }
    let checker = Checker::new(Keyed::new(Register::new(0)));
    let Verdict::NotLinearizable(example) = checker.clone().steps_max(1).check(&history) else {
        panic!("one step is enough to see that 1 was not there");
    };
    assert_eq!(example.key, 1);
    let Verdict::Undecided { key, .. } = checker.steps_max(0).check(&history) else {
        panic!("without a step nothing is decided");
    };
    assert_eq!(key, 0);
}

#[test]
fn many_equal_unknown_operations_are_as_easy_as_few() {
    let build = |seen| {
        let mut history = History::new();
        for client in 0..500 {
            history.call(ClientId(client), CounterOp::Add(1), SimTime::ZERO);
        }
        let id = history.call(ClientId(999), CounterOp::Get, SimTime::ZERO);
        history.returned(id, Some(seen), SimTime::ZERO);
        history
    };
    let checker = Checker::new(Counter).steps_max(2_000);
    checker.check(&build(400)).assert_linearizable();
    assert!(matches!(
        checker.check(&build(501)),
        Verdict::NotLinearizable(_)
    ));
}

/// Writes of unknown outcome, many known ones, and at last a read of a value that was overwritten.
#[test]
fn many_different_unknown_writes_do_not_multiply_the_work() {
    let lost = (0..400).map(|value| format!("{value} w{} {value}..", 1000 + value));
    let mut lines: Vec<_> = lost.collect();
    for step in 0..200 {
        let time = 500 + 10 * step;
        lines.push(format!("9001 w{step} {time}..{}", time + 8));
        lines.push(format!("9002 w{} {}..{}", 5000 + step, time + 2, time + 9));
        // Some of the lost ones show.
        let seen = if step % 4 == 0 { 1000 + step } else { step };
        lines.push(format!("9003 r{seen} {}..{}", time + 3, time + 9));
    }
    lines.push("9003 r1000 9000..9001".to_owned());
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let checker = Checker::new(Register::new(0)).steps_max(200_000);
    checker
        .check(&registers(&lines[..lines.len() - 1]))
        .assert_linearizable();
    let verdict = checker.check(&registers(&lines));
    let Verdict::NotLinearizable(example) = verdict else {
        panic!("1000 was read at first and overwritten since: {verdict}");
    };
    assert!(
        example.is_smallest && example.conflict.len() <= 4,
        "{example}"
    );
}

#[test]
fn a_log_has_one_order() {
    let at = SimTime::from_nanos;
    let history = |first, second, read: Option<char>| {
        let mut history = History::new();
        let a = history.call(ClientId(1), LogOp::Append('a'), at(0));
        let b = history.call(ClientId(2), LogOp::Append('b'), at(1));
        history.returned(b, LogOutput::Position(second), at(5));
        history.returned(a, LogOutput::Position(first), at(6));
        let lost = history.call(ClientId(1), LogOp::Append('c'), at(7));
        history.unknown(lost);
        for (time, op, output) in [
            (8, LogOp::Read(0), LogOutput::Entry(read)),
            (10, LogOp::End, LogOutput::Position(3)),
            (12, LogOp::Read(2), LogOutput::Entry(Some('c'))),
        ] {
            let id = history.call(ClientId(3), op, at(time));
            history.returned(id, output, at(time + 1));
        }
        Checker::new(Log::new()).check(&history)
    };
    history(0, 1, Some('a')).assert_linearizable();
    history(1, 0, Some('b')).assert_linearizable();
    assert!(!history(1, 0, Some('a')).is_linearizable());
    assert!(!history(1, 1, Some('a')).is_linearizable());
    assert!(!history(0, 1, None).is_linearizable());
}

#[test]
fn a_queue_gives_each_item_once_and_in_order() {
    let at = SimTime::from_nanos;
    let history = |pops: [Option<char>; 3]| {
        let mut history = History::new();
        for (time, item) in [(0, 'a'), (2, 'b')] {
            let id = history.call(ClientId(1), QueueOp::Push(item), at(time));
            history.returned(id, QueueOutput::Done, at(time + 1));
        }
        history.call(ClientId(2), QueueOp::Push('c'), at(4));
        for (time, item) in [5, 7, 9].into_iter().zip(pops) {
            let id = history.call(ClientId(3), QueueOp::Pop, at(time));
            history.returned(id, QueueOutput::Popped(item), at(time + 1));
        }
        Checker::new(Queue::new()).check(&history)
    };
    history([Some('a'), Some('b'), None]).assert_linearizable();
    history([Some('a'), Some('b'), Some('c')]).assert_linearizable();
    assert!(!history([Some('a'), Some('a'), Some('b')]).is_linearizable());
    assert!(!history([Some('b'), Some('a'), None]).is_linearizable());
    assert!(!history([Some('a'), None, Some('b')]).is_linearizable());
}
