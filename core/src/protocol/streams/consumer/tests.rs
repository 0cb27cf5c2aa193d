use proptest::prelude::*;
use protocol::Machine as _;
use rand::SeedableRng;

use super::*;
use crate::time::{Duration, WallTime};

const SCHEMA: Digest = Digest::from_bytes([1; 32]);
const LIFE: ProducerInstance = ProducerInstance::from_bytes([2; 32]);

fn machine() -> Machine {
    Machine::new(SCHEMA, Config::default(), ChaCha8Rng::seed_from_u64(7))
}

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

fn candidate(n: u8) -> Candidate {
    let version = EntryVersion {
        started_at: WallTime::from_micros(1),
        sequence: 0,
    };
    Candidate {
        peer: peer(n),
        version,
        schema: SCHEMA,
        accepted: true,
        cost: Cost::default(),
    }
}

fn drain(machine: &mut Machine) -> Vec<Output> {
    machine.check_invariants();
    std::iter::from_fn(|| machine.poll_output())
        .filter(|output| !matches!(output, Output::Changed(_)))
        .collect()
}

fn handle(machine: &mut Machine, now: Instant, input: Input) -> Vec<Output> {
    machine.handle(now, input);
    drain(machine)
}

/// What the catalog says now: these produce the stream, and no others.
fn catalog(machine: &Machine, candidates: &[Candidate]) -> Input {
    let is_named = |peer: &PeerId| candidates.iter().any(|candidate| candidate.peer == *peer);
    let known = machine.producers.keys().copied();
    Input::CatalogChanged {
        named: candidates.to_vec(),
        gone: known.filter(|peer| !is_named(peer)).collect(),
        far: Vec::new(),
    }
}

fn named(machine: &mut Machine, now: Instant, candidates: &[Candidate]) -> Vec<Output> {
    let input = catalog(machine, candidates);
    handle(machine, now, input)
}

fn subscribe(attempt: u64, n: u8) -> Output {
    Output::Subscribe {
        attempt: AttemptId(attempt),
        peer: peer(n),
    }
}

fn subscribed(attempt: u64, instance: ProducerInstance, first: u64) -> Input {
    Input::Subscribed {
        attempt: AttemptId(attempt),
        accepted: Accepted { instance, first },
    }
}

fn span(instance: ProducerInstance, first: u64, next: u64) -> Option<Span> {
    let accepted = Accepted { instance, first };
    Some(Span { accepted, next })
}

fn lost(attempt: u64, span: Option<Span>) -> Input {
    Input::Lost {
        attempt: AttemptId(attempt),
        span,
        code: None,
    }
}

fn unsubscribed(n: u8) -> Output {
    Output::Event(Event::Unsubscribed {
        peer: peer(n),
        code: None,
    })
}

/// Lets the back-off pass; gives the outputs.
fn wait(machine: &mut Machine, now: &mut Instant) -> Vec<Output> {
    let (deadline, _) = machine.poll_timeout().unwrap();
    *now = deadline;
    machine.handle_timeout(*now);
    drain(machine)
}

#[test]
fn producers_are_subscribed_to_as_they_are_named_and_forgotten_as_they_end() {
    let mut machine = machine();
    let now = Instant::ZERO;
    assert_eq!(
        named(&mut machine, now, &[candidate(1), candidate(2)]),
        [subscribe(0, 1), subscribe(1, 2)]
    );
    // What is known already changes nothing.
    assert_eq!(named(&mut machine, now, &[candidate(1), candidate(2)]), []);
    assert_eq!(
        handle(&mut machine, now, subscribed(0, LIFE, 5)),
        [Output::Event(Event::Subscribed { peer: peer(1) })]
    );
    assert_eq!(
        named(&mut machine, now, &[]),
        [Output::Unsubscribe(AttemptId(1))]
    );
    // Late news of what was given up is not heard.
    assert_eq!(handle(&mut machine, now, subscribed(1, LIFE, 0)), []);
    // Who is subscribed to is given the time to send what it has, and then forgotten.
    assert_eq!(machine.producers().count(), 1);
    assert_eq!(
        handle(&mut machine, now, lost(0, span(LIFE, 5, 9))),
        [unsubscribed(1)]
    );
    assert_eq!(
        (machine.producers().count(), machine.poll_timeout()),
        (0, None)
    );
}

#[test]
fn a_subscription_outlives_that_the_catalog_loses_the_producer_for_a_while() {
    let mut machine = machine();
    let now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    assert_eq!(named(&mut machine, now, &[]), []);
    assert_eq!(named(&mut machine, now, &[candidate(1)]), []);
    assert_eq!(
        handle(&mut machine, now, lost(0, span(LIFE, 0, 0))),
        [unsubscribed(1)]
    );
    assert!(machine.poll_timeout().is_some());
}

#[test]
fn the_verdict_of_the_predicates_is_followed_as_it_changes() {
    let mut machine = machine();
    let now = Instant::ZERO;
    let rejected = Candidate {
        accepted: false,
        ..candidate(1)
    };
    assert_eq!(
        named(&mut machine, now, std::slice::from_ref(&rejected)),
        []
    );
    assert_eq!(named(&mut machine, now, &[candidate(1)]), [subscribe(0, 1)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    assert_eq!(
        named(&mut machine, now, &[rejected]),
        [Output::Unsubscribe(AttemptId(0)), unsubscribed(1)]
    );
    assert_eq!(machine.producers().count(), 0);
}

#[test]
fn what_was_missed_between_two_subscriptions_of_one_life_is_counted() {
    let mut machine = machine();
    let mut now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    handle(&mut machine, now, subscribed(0, LIFE, 5));
    assert_eq!(
        handle(&mut machine, now, lost(0, span(LIFE, 5, 10))),
        [unsubscribed(1)]
    );
    assert_eq!(wait(&mut machine, &mut now), [subscribe(1, 1)]);
    assert_eq!(
        handle(&mut machine, now, subscribed(1, LIFE, 17)),
        [
            Output::Event(Event::Subscribed { peer: peer(1) }),
            Output::Event(Event::Lagged {
                peer: peer(1),
                datums: 7
            })
        ]
    );
    let missing = Input::Missing {
        attempt: AttemptId(1),
        datums: 3,
    };
    assert_eq!(
        handle(&mut machine, now, missing),
        [Output::Event(Event::Lagged {
            peer: peer(1),
            datums: 3
        })]
    );
    // Also where it was this side that has left.
    let rejected = Candidate {
        accepted: false,
        ..candidate(1)
    };
    named(&mut machine, now, &[rejected]);
    handle(&mut machine, now, lost(1, span(LIFE, 17, 20)));
    named(&mut machine, now, &[candidate(1)]);
    assert_eq!(
        handle(&mut machine, now, subscribed(2, LIFE, 21)),
        [
            Output::Event(Event::Subscribed { peer: peer(1) }),
            Output::Event(Event::Lagged {
                peer: peer(1),
                datums: 1
            })
        ]
    );
}

#[test]
fn what_a_restarted_producer_has_sent_before_it_is_subscribed_to_is_counted() {
    let mut machine = machine();
    let mut now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    // Nothing is owed by who is met for the first time.
    assert_eq!(
        handle(&mut machine, now, subscribed(0, LIFE, 5)),
        [Output::Event(Event::Subscribed { peer: peer(1) })]
    );
    let mut former = span(LIFE, 5, 30);
    for (attempt, life, first, missing) in [(1, 3, 0, 0), (2, 4, 100, 100), (3, 4, 101, 71)] {
        handle(&mut machine, now, lost(attempt - 1, former));
        wait(&mut machine, &mut now);
        let life = ProducerInstance::from_bytes([life; 32]);
        former = span(life, first, 30);
        assert_eq!(
            handle(&mut machine, now, subscribed(attempt, life, first)),
            subscribed_and_lagged(missing)
        );
    }
}

/// What is told of a new subscription to the first peer, before which datums are missing.
fn subscribed_and_lagged(missing: u64) -> Vec<Output> {
    let peer = peer(1);
    let datums = missing;
    let mut told = vec![Output::Event(Event::Subscribed { peer })];
    told.extend((missing > 0).then_some(Output::Event(Event::Lagged { peer, datums })));
    told
}

#[test]
fn a_subscription_given_up_before_it_was_told_to_have_begun_keeps_its_place() {
    let mut machine = machine();
    let now = Instant::ZERO;
    let rejected = Candidate {
        accepted: false,
        ..candidate(1)
    };
    // Given up with nothing received so far, after a former subscription, without having begun.
    for (attempt, ended, told, next, missing) in [
        (0, span(LIFE, 5, 10), 0, 12, 2),
        (2, span(LIFE, 15, 17), 3, 17, 0),
        (4, None, 0, 20, 3),
    ] {
        named(&mut machine, now, &[candidate(1)]);
        assert_eq!(
            named(&mut machine, now, std::slice::from_ref(&rejected)),
            [Output::Unsubscribe(AttemptId(attempt))]
        );
        let lagged = Output::Event(Event::Lagged {
            peer: peer(1),
            datums: told,
        });
        assert_eq!(
            handle(&mut machine, now, lost(attempt, ended)),
            Vec::from_iter((told > 0).then_some(lagged))
        );
        // The news of it comes too late.
        assert_eq!(handle(&mut machine, now, subscribed(attempt, LIFE, 0)), []);
        named(&mut machine, now, &[candidate(1)]);
        assert_eq!(
            handle(&mut machine, now, subscribed(attempt + 1, LIFE, next)),
            subscribed_and_lagged(missing)
        );
        named(&mut machine, now, std::slice::from_ref(&rejected));
        handle(&mut machine, now, lost(attempt + 1, span(LIFE, next, next)));
    }
}

#[test]
fn failures_are_retried_less_and_less_often_and_a_lasting_subscription_forgives() {
    let mut machine = machine();
    let mut now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    let mut delays = Vec::new();
    for attempt in 0..10 {
        assert_eq!(handle(&mut machine, now, lost(attempt, None)), []);
        let before = now;
        assert_eq!(wait(&mut machine, &mut now), [subscribe(attempt + 1, 1)]);
        delays.push(now.since(before));
    }
    assert!(delays[0] <= Duration::from_millis(100));
    assert!(delays[9] >= Duration::from_millis(2_500) && delays[9] <= Duration::from_secs(5));
    handle(&mut machine, now, subscribed(10, LIFE, 0));
    now += Duration::from_secs(60);
    handle(&mut machine, now, lost(10, span(LIFE, 0, 0)));
    let before = now;
    wait(&mut machine, &mut now);
    assert!(now.since(before) <= Duration::from_millis(100));
}

#[test]
fn a_refusal_is_told_and_asked_again_at_once_when_its_reason_may_be_gone() {
    let mut machine = machine();
    let now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    let refused = Input::Refused {
        attempt: AttemptId(0),
        refusal: Refusal::Rejected,
    };
    assert_eq!(
        handle(&mut machine, now, refused),
        [Output::Event(Event::Refused {
            peer: peer(1),
            refusal: Refusal::Rejected
        })]
    );
    assert!(matches!(
        machine.producers().next(),
        Some((
            _,
            State::BackingOff {
                refusal: Some(Refusal::Rejected),
                ..
            }
        ))
    ));
    assert_eq!(
        handle(&mut machine, now, Input::LocalChanged),
        [subscribe(1, 1)]
    );
    // The peer has restarted.
    handle(&mut machine, now, lost(1, None));
    let version = EntryVersion {
        started_at: WallTime::from_micros(2),
        sequence: 0,
    };
    let restarted = Candidate {
        version,
        ..candidate(1)
    };
    assert_eq!(named(&mut machine, now, &[restarted]), [subscribe(2, 1)]);
}

#[test]
fn a_producer_of_another_type_is_not_asked_until_its_entry_says_otherwise() {
    let mut machine = machine();
    let now = Instant::ZERO;
    let schema = Digest::from_bytes([9; 32]);
    let other = Candidate {
        schema,
        ..candidate(1)
    };
    let refusal = Refusal::SchemaDiffers {
        producer: schema,
        consumer: SCHEMA,
    };
    assert_eq!(
        named(&mut machine, now, std::slice::from_ref(&other)),
        [Output::Event(Event::Refused {
            peer: peer(1),
            refusal
        })]
    );
    assert_eq!(named(&mut machine, now, &[other]), []);
    assert_eq!(named(&mut machine, now, &[candidate(1)]), [subscribe(0, 1)]);
}

#[test]
fn a_closed_consumer_leaves_all_and_does_nothing_more() {
    let mut machine = machine();
    let now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1), candidate(2)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    handle(&mut machine, now, lost(1, None));
    assert_eq!(
        handle(&mut machine, now, Input::Close),
        [Output::Unsubscribe(AttemptId(0)), unsubscribed(1)]
    );
    assert_eq!(named(&mut machine, now, &[candidate(3)]), []);
    assert_eq!(machine.poll_timeout(), None);
}

/// A consumer that wants so many producers.
fn choosy(max: usize) -> Machine {
    let config = Config {
        max_producers: Some(max),
        ..Config::default()
    };
    Machine::new(SCHEMA, config, ChaCha8Rng::seed_from_u64(7))
}

fn at_cost(n: u8, cost: u64) -> Candidate {
    Candidate {
        cost: Cost(vec![Part::Exact(cost)]),
        ..candidate(n)
    }
}

fn rtts(rtts: &[(u8, u64)]) -> Input {
    let cost = |millis| Cost(vec![Part::Rtt(Some(Duration::from_millis(millis)))]);
    let costs = rtts.iter().map(|&(n, millis)| (peer(n), cost(millis)));
    Input::Reviewed(costs.collect())
}

fn told_subscribed(n: u8) -> Output {
    Output::Event(Event::Subscribed { peer: peer(n) })
}

#[test]
fn the_best_producers_are_asked_and_who_fails_is_replaced_by_the_next_best() {
    let mut machine = choosy(2);
    let mut now = Instant::ZERO;
    let all = [
        at_cost(1, 40),
        at_cost(2, 10),
        at_cost(3, 30),
        at_cost(4, 20),
    ];
    assert_eq!(
        named(&mut machine, now, &all),
        [subscribe(0, 2), subscribe(1, 4)]
    );
    assert_eq!(machine.state(&peer(1)), Some(State::Standby));
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    let refused = Input::Refused {
        attempt: AttemptId(1),
        refusal: Refusal::Rejected,
    };
    let outputs = handle(&mut machine, now, refused);
    assert_eq!(outputs[1..], [subscribe(2, 3)]);
    handle(&mut machine, now, subscribed(2, LIFE, 0));
    assert_eq!(
        handle(&mut machine, now, lost(0, span(LIFE, 0, 5))),
        [unsubscribed(2), subscribe(3, 1)]
    );
    handle(&mut machine, now, subscribed(3, LIFE, 0));
    // Those that have failed are on standby once their back-off is over.
    while machine
        .producers()
        .any(|(_, state)| matches!(state, State::BackingOff { .. }))
    {
        let outputs = wait(&mut machine, &mut now);
        assert!(
            outputs.iter().all(|output| *output == Output::Review),
            "{outputs:?}"
        );
    }
    assert_eq!(machine.state(&peer(2)), Some(State::Standby));
}

#[test]
fn a_producer_that_lets_wait_is_replaced_and_may_come_back_for_the_worst() {
    let mut machine = choosy(1);
    let now = Instant::ZERO;
    named(&mut machine, now, &[at_cost(1, 10), at_cost(2, 20)]);
    let waiting = Input::Waiting {
        attempt: AttemptId(0),
        max: 3,
    };
    let told = Event::Waiting {
        peer: peer(1),
        max: 3,
    };
    assert_eq!(
        handle(&mut machine, now, waiting),
        [Output::Event(told), subscribe(1, 2)]
    );
    handle(&mut machine, now, subscribed(1, LIFE, 0));
    assert_eq!(
        handle(&mut machine, now, subscribed(0, LIFE, 7)),
        [told_subscribed(1), Output::Leave(AttemptId(1))]
    );
    assert_eq!(machine.state(&peer(2)), Some(State::Leaving));
    assert_eq!(
        handle(&mut machine, now, lost(1, span(LIFE, 0, 4))),
        [unsubscribed(2)]
    );
    assert_eq!(machine.state(&peer(2)), Some(State::Standby));
}

#[test]
fn a_consumer_goes_over_only_to_who_is_clearly_better_twice_in_a_row() {
    let mut machine = choosy(1);
    let mut now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    let mut review = |machine: &mut Machine, answer: &[(u8, u64)]| {
        assert_eq!(wait(machine, &mut now), [Output::Review]);
        (now, handle(machine, now, rtts(answer)))
    };
    let both = [candidate(1), at_cost(2, 0)];
    named(&mut machine, Instant::ZERO, &both);
    // Not by enough; then once only; then twice.
    for answer in [[(1, 100), (2, 90)], [(1, 100), (2, 50)], [(1, 60), (2, 50)]] {
        assert_eq!(review(&mut machine, &answer).1, []);
    }
    assert_eq!(review(&mut machine, &[(1, 100), (2, 50)]).1, []);
    let (now, outputs) = review(&mut machine, &[(1, 100), (2, 60)]);
    assert_eq!(outputs, [subscribe(1, 2)]);
    // The one it had sends on until the other one does.
    assert_eq!(machine.state(&peer(1)), Some(State::Subscribed));
    assert_eq!(
        handle(&mut machine, now, subscribed(1, LIFE, 0)),
        [told_subscribed(2), Output::Leave(AttemptId(0))]
    );
    // It ends in good time, or is not waited for.
    let left = machine.poll_timeout().unwrap().0;
    let mut late = now;
    let mut outputs = Vec::new();
    while late < now + LEAVE_TIMEOUT {
        late = machine.poll_timeout().unwrap().0;
        machine.handle_timeout(late);
        outputs.extend(drain(&mut machine));
    }
    assert!(left > now);
    assert!(
        outputs.contains(&Output::Unsubscribe(AttemptId(0))),
        "{outputs:?}"
    );
    assert!(outputs.contains(&unsubscribed(1)));
    assert_eq!(machine.state(&peer(1)), Some(State::Standby));
}

#[test]
fn a_switch_that_fails_leaves_everything_as_it_is() {
    let mut machine = choosy(1);
    let mut now = Instant::ZERO;
    named(&mut machine, now, &[at_cost(1, 10)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    named(&mut machine, now, &[at_cost(1, 10), at_cost(2, 5)]);
    for _ in 0..2 {
        assert_eq!(wait(&mut machine, &mut now), [Output::Review]);
        let same = Input::Reviewed(BTreeMap::new());
        let outputs = handle(&mut machine, now, same);
        if outputs == [subscribe(1, 2)] {
            assert_eq!(handle(&mut machine, now, lost(1, None)), []);
        }
    }
    assert_eq!(machine.state(&peer(1)), Some(State::Subscribed));
    assert!(matches!(
        machine.state(&peer(2)),
        Some(State::BackingOff { .. })
    ));
}

#[test]
fn a_producer_that_is_too_far_away_is_left_and_one_that_is_about_to_end_is_not() {
    let mut machine = machine();
    let now = Instant::ZERO;
    named(&mut machine, now, &[candidate(1), candidate(2)]);
    handle(&mut machine, now, subscribed(0, LIFE, 0));
    handle(&mut machine, now, subscribed(1, LIFE, 0));
    let changed = Input::CatalogChanged {
        named: Vec::new(),
        gone: vec![peer(1)],
        far: vec![peer(2)],
    };
    assert_eq!(
        handle(&mut machine, now, changed),
        [Output::Unsubscribe(AttemptId(1)), unsubscribed(2)]
    );
    assert_eq!(machine.state(&peer(1)), Some(State::Subscribed));
    assert_eq!(machine.state(&peer(2)), None);
    handle(&mut machine, now, lost(1, span(LIFE, 0, 4)));
    // It is near again.
    assert_eq!(named(&mut machine, now, &[candidate(2)]), [subscribe(2, 2)]);
}

#[test]
fn equal_producers_are_chosen_by_lot() {
    let chosen: BTreeSet<PeerId> = (0..20)
        .map(|seed| {
            let config = Config {
                max_producers: Some(1),
                ..Config::default()
            };
            let mut machine = Machine::new(SCHEMA, config, ChaCha8Rng::seed_from_u64(seed));
            let outputs = named(&mut machine, Instant::ZERO, &[candidate(1), candidate(2)]);
            match outputs[..] {
                [Output::Subscribe { peer, .. }] => peer,
                _ => panic!("{outputs:?}"),
            }
        })
        .collect();
    assert_eq!(chosen.len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Named(Vec<(u8, bool, bool, u64)>),
    Costs(Vec<u64>),
    LetWait(usize),
    Local,
    Accept(usize, u64),
    Refuse(usize, bool),
    Lose(usize),
    Wait(u64),
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let producers = prop::collection::btree_map(
        0..5u8,
        (
            prop::bool::weighted(0.8),
            prop::bool::weighted(0.9),
            1..3u64,
        ),
        0..5,
    );
    let step = prop_oneof![
        4 => producers.prop_map(|producers| {
            Step::Named(producers.into_iter().map(|(n, (a, s, t))| (n, a, s, t)).collect())
        }),
        1 => Just(Step::Local),
        1 => prop::collection::vec(0..9u64, 5).prop_map(Step::Costs),
        1 => any::<usize>().prop_map(Step::LetWait),
        6 => (any::<usize>(), 0..100u64).prop_map(|(n, first)| Step::Accept(n, first)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, schema)| Step::Refuse(n, schema)),
        4 => any::<usize>().prop_map(Step::Lose),
        4 => (0..6_000u64).prop_map(Step::Wait),
    ];
    let last = prop::option::of(Just(Step::Close));
    (prop::collection::vec(step, 0..60), last)
        .prop_map(|(steps, last)| steps.into_iter().chain(last).collect())
}

proptest! {
    /// Whatever happens: no producer has two attempts at once, none is asked that is not named, accepted
    /// and of the same type, subscriptions end when it no longer is accepted, and the events say exactly who is
    /// subscribed.
    #[test]
    fn one_attempt_per_wanted_producer_and_events_that_agree(
        steps in steps(),
        max_producers in prop::option::of(1..4usize),
    ) {
        let config = Config { max_producers, ..Config::default() };
        let mut machine = Machine::new(SCHEMA, config, ChaCha8Rng::seed_from_u64(7));
        let mut now = Instant::ZERO;
        let mut open: BTreeMap<AttemptId, PeerId> = BTreeMap::new();
        let mut wanted: BTreeSet<PeerId> = BTreeSet::new();
        let mut unwanted: BTreeSet<PeerId> = BTreeSet::new();
        let mut told: BTreeSet<PeerId> = BTreeSet::new();
        for step in steps {
            let pick = |n: usize| open.keys().nth(n % open.len().max(1)).copied();
            let mut ended = None;
            match step {
                Step::Named(producers) => {
                    let candidates: Vec<Candidate> = producers
                        .iter()
                        .map(|&(n, accepted, same_schema, started)| Candidate {
                            accepted,
                            schema: if same_schema { SCHEMA } else { Digest::from_bytes([0; 32]) },
                            version: EntryVersion {
                                started_at: WallTime::from_micros(started),
                                sequence: 0,
                            },
                            ..candidate(n)
                        })
                        .collect();
                    let (good, bad): (Vec<_>, Vec<_>) = candidates
                        .iter()
                        .partition(|candidate| candidate.accepted && candidate.schema == SCHEMA);
                    wanted = good.into_iter().map(|candidate| candidate.peer).collect();
                    unwanted = bad.into_iter().map(|candidate| candidate.peer).collect();
                    let input = catalog(&machine, &candidates);
                    machine.handle(now, input);
                }
                Step::Local => machine.handle(now, Input::LocalChanged),
                Step::Costs(costs) => {
                    let cost = |cost| Cost(vec![Part::Exact(cost)]);
                    let costs = costs.into_iter().enumerate();
                    let costs = costs.map(|(n, value)| (peer(n as u8), cost(value)));
                    machine.handle(now, Input::Reviewed(costs.collect()));
                }
                Step::LetWait(n) => {
                    if let Some(attempt) = pick(n)
                        && !told.contains(&open[&attempt])
                    {
                        machine.handle(now, Input::Waiting { attempt, max: 1 });
                    }
                }
                Step::Accept(n, first) => {
                    let accepted = Accepted { instance: LIFE, first };
                    if let Some(attempt) = pick(n)
                        && !told.contains(&open[&attempt])
                    {
                        machine.handle(now, Input::Subscribed { attempt, accepted });
                    }
                }
                Step::Refuse(n, capacity) => {
                    if let Some(attempt) = pick(n)
                        && !told.contains(&open[&attempt])
                    {
                        ended = Some(attempt);
                        let refusal = if capacity {
                            Refusal::NoCapacity { max: 1 }
                        } else {
                            Refusal::Rejected
                        };
                        machine.handle(now, Input::Refused { attempt, refusal });
                    }
                }
                Step::Lose(n) => {
                    if let Some(attempt) = pick(n) {
                        ended = Some(attempt);
                        machine.handle(now, Input::Lost { attempt, span: None, code: None });
                    }
                }
                Step::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    machine.handle_timeout(now);
                }
                Step::Close => {
                    wanted.clear();
                    machine.handle(now, Input::Close);
                }
            }
            if let Some(ended) = ended {
                open.remove(&ended);
            }
            machine.check_invariants();
            while let Some(output) = machine.poll_output() {
                match output {
                    Output::Subscribe { attempt, peer } => {
                        prop_assert!(wanted.contains(&peer));
                        prop_assert!(open.values().all(|of| *of != peer));
                        prop_assert!(open.insert(attempt, peer).is_none());
                    }
                    Output::Unsubscribe(attempt) => {
                        prop_assert!(open.remove(&attempt).is_some());
                    }
                    Output::Event(Event::Subscribed { peer }) => {
                        prop_assert!(told.insert(peer));
                    }
                    Output::Event(Event::Unsubscribed { peer, .. }) => {
                        prop_assert!(told.remove(&peer));
                    }
                    Output::Leave(attempt) => {
                        prop_assert!(told.contains(&open[&attempt]));
                    }
                    Output::Review | Output::Changed(_) => {}
                    Output::Event(
                        Event::Refused { .. } | Event::Lagged { .. } | Event::Waiting { .. },
                    ) => {}
                }
            }
            prop_assert!(open.values().all(|peer| !unwanted.contains(peer)
                && (wanted.contains(peer) || told.contains(peer))));
            prop_assert!(told.iter().all(|peer| open.values().any(|of| of == peer)));
            // Nobody who is wanted is forgotten: each is asked, subscribed, or waited for.
            prop_assert_eq!(
                machine.producers().filter(|(peer, _)| wanted.contains(peer)).count(),
                wanted.len()
            );
        }
    }
}
