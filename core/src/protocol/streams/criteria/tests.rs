use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::wire;

#[derive(Serialize)]
struct Price(u64);

#[derive(Serialize)]
enum State {
    Open,
    Filled { by: &'static str },
    Part(u32, f64),
    Held(Price),
}

#[derive(Serialize)]
struct Order {
    symbol: &'static str,
    price: Price,
    discount: Option<f32>,
    tags: Vec<&'static str>,
    state: State,
    place: (i8, i8),
    limits: BTreeMap<&'static str, u16>,
    shelves: BTreeMap<u8, bool>,
    mark: char,
}

fn order(state: State) -> Order {
    Order {
        symbol: "ACME",
        price: Price(100),
        discount: Some(0.5),
        tags: vec!["new", "urgent"],
        state,
        place: (-3, 4),
        limits: BTreeMap::from([("day", 7)]),
        shelves: BTreeMap::from([(2, true)]),
        mark: 'x',
    }
}

#[test]
fn comparisons_find_their_fields_and_nothing_else() {
    let field = Criteria::field;
    let table = [
        (field("symbol").is("ACME"), true),
        (field("symbol").is("ACM"), false),
        (field("symbol").starts_with("AC"), true),
        (field("symbol").above("ABC"), true),
        (field("symbol").is(100), false),
        (field("price").is(100u64), true),
        (field("price").above(99), true),
        (field("price").above(100), false),
        (field("price").below(100.5), true),
        (field("price").is(100.0), true),
        (field("discount").is(0.5), true),
        (field("discount").below(1), true),
        (field("discount").is(f64::NAN), false),
        (field("tags").is("urgent"), true),
        (field("tags").is("old"), false),
        (field("place.0").below(0), true),
        (field("place.1").below(0), false),
        (field("place.2").is_there(), false),
        (field("limits.day").is(7), true),
        (field("limits.week").is_there(), false),
        (field("shelves.2").is(true), true),
        (field("shelves.3").is_there(), false),
        (field("mark").is("x"), true),
        (field("price.0").is_there(), false),
        (field("unknown").is_there(), false),
        (field("place").is_there(), true),
        (field("").is_there(), true),
        (field("state").is("Open"), true),
        (field("state.Open").is_there(), true),
        (field("state.Filled").is_there(), false),
    ];
    for (criteria, expected) in table {
        assert_eq!(
            criteria.selects(&order(State::Open)),
            expected,
            "{criteria:?}"
        );
        assert_eq!((!criteria).selects(&order(State::Open)), !expected);
    }
    let none = Order {
        discount: None,
        tags: Vec::new(),
        ..order(State::Open)
    };
    for name in ["discount", "tags"] {
        assert!(
            field(name).is_there().selects(&order(State::Open)),
            "{name}"
        );
        assert!(!field(name).is_there().selects(&none), "{name}");
    }
}

#[test]
fn variants_are_names_of_what_lies_in_them() {
    let field = Criteria::field;
    let by = field("state.Filled.by").is("desk");
    assert!(by.selects(&order(State::Filled { by: "desk" })));
    assert!(!by.selects(&order(State::Open)));
    assert!(
        field("state")
            .is("Filled")
            .selects(&order(State::Filled { by: "desk" }))
    );
    let part = field("state.Part.1").above(0.5) & field("state.Part.0").is(3);
    assert!(part.selects(&order(State::Part(3, 0.75))));
    assert!(!part.selects(&order(State::Part(4, 0.75))));
    assert!(
        field("state.Held")
            .is(9)
            .selects(&order(State::Held(Price(9))))
    );
}

#[test]
fn bytes_are_compared_whole_and_the_unknown_satisfies_no_comparison() {
    assert!(
        Criteria::field("")
            .starts_with("eu/")
            .selects_bytes(b"eu/paris")
    );
    assert!(
        !Criteria::field("")
            .starts_with("eu/")
            .selects_bytes(b"us/nyc")
    );
    assert!(!Criteria::field("x").is_there().selects_bytes(b"eu/paris"));
    assert!(!Criteria::field("x").is_there().selects_unknown());
    assert!((!Criteria::field("x").is_there()).selects_unknown());
}

#[test]
fn what_is_too_large_is_refused_by_both_ends() {
    let one = || Criteria::field("a").is(1);
    let many = |count: usize| (1..count).fold(one(), |criteria, _| criteria | one());
    // A comparison each, and a connective each but for the first.
    let longest = many(STEPS_MAX.div_ceil(2));
    assert_eq!(longest.check(), Ok(()));
    let sent = wire::encode(&longest).unwrap();
    assert_eq!(wire::decode::<Criteria>(&sent), Ok(longest));
    let too_many = many(STEPS_MAX);
    assert_eq!(
        too_many.check(),
        Err(CriteriaError::TooManySteps(2 * STEPS_MAX - 1))
    );
    assert!(wire::decode::<Criteria>(&wire::encode(&too_many).unwrap()).is_err());
    let long = Criteria::field(&"x".repeat(CRITERIA_LEN_MAX)).is_there();
    assert!(matches!(long.check(), Err(CriteriaError::TooLong(_))));
    for steps in [vec![], vec![Step::Not], vec![Step::And], {
        let mut steps = one().steps;
        steps.extend(one().steps);
        steps
    }] {
        assert!(wire::decode::<Criteria>(&wire::encode(&steps).unwrap()).is_err());
    }
}

/// Criteria over three flags, and the same as a program in postfix form: 0, 1, 2 are flags, 3 and, 4 or, 5 not.
fn formulas() -> impl Strategy<Value = (Criteria, Vec<u8>)> {
    // With the connectives that are missing at the end, no more steps than allowed.
    prop::collection::vec(0..6u8, 1..STEPS_MAX / 2).prop_map(|program| {
        let (mut stack, mut kept) = (Vec::<Criteria>::new(), Vec::new());
        for step in program {
            let enough = match step {
                0..=2 => true,
                3 | 4 => stack.len() >= 2,
                _ => !stack.is_empty(),
            };
            if !enough {
                continue;
            }
            kept.push(step);
            let criteria = match step {
                0..=2 => Criteria::field(&step.to_string()).is(true),
                5 => !stack.pop().unwrap(),
                _ => {
                    let (right, left) = (stack.pop().unwrap(), stack.pop().unwrap());
                    if step == 3 {
                        left & right
                    } else {
                        left | right
                    }
                }
            };
            stack.push(criteria);
        }
        while stack.len() > 1 {
            let (right, left) = (stack.pop().unwrap(), stack.pop().unwrap());
            stack.push(left | right);
            kept.push(4);
        }
        let criteria = stack.pop().unwrap_or_else(|| Criteria::field("0").is(true));
        if kept.is_empty() {
            kept.push(0);
        }
        (criteria, kept)
    })
}

fn truth(flags: [bool; 3], program: &[u8]) -> bool {
    let mut stack: Vec<bool> = Vec::new();
    for &step in program {
        let value = match step {
            0..=2 => flags[usize::from(step)],
            5 => !stack.pop().unwrap(),
            _ => {
                let (right, left): (bool, bool) = (stack.pop().unwrap(), stack.pop().unwrap());
                if step == 3 {
                    left && right
                } else {
                    left || right
                }
            }
        };
        stack.push(value);
    }
    stack.pop().unwrap()
}

proptest! {
    #[test]
    fn connectives_are_those_of_logic((criteria, program) in formulas(), flags: [bool; 3]) {
        let datum = (flags[0], flags[1], flags[2]);
        prop_assert_eq!(criteria.selects(&datum), truth(flags, &program));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(criteria) = wire::decode::<Criteria>(&bytes) {
            let _ = criteria.selects(&(true, "x", [1u8, 2]));
        }
    }
}
