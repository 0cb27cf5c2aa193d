//! The loop and its networks, with toy machines.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use smalti_core::protocol::Machine;
use smalti_core::time::Instant;

use super::*;
use crate::NodeIndex;
use crate::faults::{Fault, FaultPlan, FaultSchedule, LinkFaults};
use crate::rng::Streams;
use crate::time::SimTime;
use crate::trace::{Trace, digest};

const A: NodeIndex = NodeIndex(0);
const B: NodeIndex = NodeIndex(1);

const fn at(millis: u64) -> SimTime {
    SimTime::from_nanos(millis * 1_000_000)
}

/// A machine that does what it is told over links, and notes what it hears and when.
#[derive(Default)]
struct Talker {
    outputs: VecDeque<Do>,
    heard: Vec<(Instant, LinkInput<u32>)>,
    deadline: Option<Instant>,
    woken: Vec<Instant>,
    refuses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Do {
    Connect(NodeIndex),
    Send(LinkId, u32),
    SendAll(LinkId, u32),
    Close(LinkId),
    Finish(LinkId),
    WakeAfter(u64),
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Hear {
    Do(Do),
    Link(LinkInput<u32>),
}

impl Machine for Talker {
    type Input = Hear;
    type Output = Do;

    fn handle(&mut self, now: Instant, input: Hear) {
        match input {
            Hear::Do(Do::WakeAfter(millis)) => {
                self.deadline = Some(now + Duration::from_millis(millis));
            }
            Hear::Do(Do::SendAll(link, count)) => {
                self.outputs
                    .extend((0..count).map(|number| Do::Send(link, number)));
            }
            Hear::Do(Do::Refuse) => self.refuses = true,
            Hear::Do(order) => self.outputs.push_back(order),
            Hear::Link(input) => {
                if let (true, LinkInput::Incoming(link, _)) = (self.refuses, &input) {
                    self.outputs.push_back(Do::Close(*link));
                }
                self.heard.push((now, input));
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.woken.push(now);
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadline.map(|deadline| (deadline, "alarm"))
    }

    fn poll_output(&mut self) -> Option<Do> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {}
}

#[derive(Default)]
struct Wires {
    links: Links<u32>,
    last: Option<LinkId>,
    sent: u32,
    /// Where set, what is sent on a link is numbered by the link.
    numbered: Option<BTreeMap<(LinkId, NodeIndex), u32>>,
}

impl Environment<Talker> for Wires {
    type Event = LinkEvent<u32>;

    fn start(&mut self, _: NodeIndex, _: u32, _: &mut Context<Hear, Self::Event>) -> Talker {
        Talker::default()
    }

    fn output(&mut self, node: NodeIndex, order: Do, context: &mut Context<Hear, Self::Event>) {
        match order {
            Do::Connect(to) => self.last = Some(self.links.connect(node, to, context)),
            Do::Send(link, number) => {
                self.sent += 1;
                let next = self
                    .numbered
                    .as_mut()
                    .map(|next| next.entry((link, node)).or_default());
                let number = next.map_or(number, |next| std::mem::replace(next, *next + 1));
                self.links.send(link, node, number, 100, context);
            }
            Do::Close(link) => self.links.close(link, node, context),
            Do::Finish(link) => self.links.finish(link, node, context),
            Do::SendAll(..) | Do::WakeAfter(_) | Do::Refuse => {}
        }
    }

    fn event(&mut self, event: Self::Event, context: &mut Context<Hear, Self::Event>) {
        if let Some((node, input)) = self.links.handle(event, context) {
            context.deliver(node, Hear::Link(input));
        }
    }

    fn fault(&mut self, fault: &Fault, context: &mut Context<Hear, Self::Event>) {
        self.links.fault(fault, context);
    }

    fn digest(input: &Hear) -> u64 {
        digest(input)
    }

    fn describe(input: &Hear) -> String {
        format!("{input:?}")
    }
}

type Talk = World<Talker, Wires>;

fn talk(links: LinkFaults) -> Talk {
    let mut world = World::new(1, Wires::default());
    world.add_node();
    world.add_node();
    world.apply(Fault::Links(links));
    world
}

/// Two nodes 10 ms apart, and a link from the first to the second that both know of.
fn linked() -> (Talk, LinkId) {
    linked_over(LinkFaults::constant(Duration::from_millis(10)))
}

fn linked_over(links: LinkFaults) -> (Talk, LinkId) {
    let mut world = talk(links);
    world.input(A, Hear::Do(Do::Connect(B)));
    world.run_until(at(1_000));
    let link = world.environment().last.unwrap();
    assert!(heard(&world, B).contains(&LinkInput::Incoming(link, A)));
    assert!(heard(&world, A).contains(&LinkInput::Opened(link, B)));
    (world, link)
}

fn heard(world: &Talk, node: NodeIndex) -> Vec<LinkInput<u32>> {
    world
        .machine(node)
        .unwrap()
        .heard
        .iter()
        .map(|(_, input)| input.clone())
        .collect()
}

fn numbers(world: &Talk, node: NodeIndex) -> Vec<u32> {
    let number = |input: LinkInput<u32>| match input {
        LinkInput::Message(_, _, number) => Some(number),
        _ => None,
    };
    heard(world, node).into_iter().filter_map(number).collect()
}

/// When the end at `node` closed, in milliseconds, and why.
fn closed(world: &Talk, node: NodeIndex) -> Option<(u64, LinkClosed)> {
    world
        .machine(node)?
        .heard
        .iter()
        .find_map(|(when, input)| match input {
            LinkInput::Closed(_, _, reason) | LinkInput::Failed(_, _, reason) => {
                Some((when.as_nanos() / 1_000_000, *reason))
            }
            _ => None,
        })
}

#[test]
fn a_link_opens_after_one_round_trip() {
    let (world, _) = linked();
    assert_eq!(world.machine(B).unwrap().heard[0].0.as_nanos(), 10_000_000);
    assert_eq!(world.machine(A).unwrap().heard[0].0.as_nanos(), 20_000_000);
}

#[test]
fn messages_keep_their_order_however_latencies_fall() {
    let rough = LinkFaults {
        loss_ppm: 100_000,
        reorder_ppm: 300_000,
        reorder_delay: Duration::from_millis(200),
        ..LinkFaults::default()
    };
    let (mut world, link) = linked_over(rough);
    world.input(A, Hear::Do(Do::SendAll(link, 500)));
    world.run_until(at(30_000));
    assert_eq!(numbers(&world, B), (0..500).collect::<Vec<_>>());
}

#[test]
fn loss_shows_as_delay() {
    let (mut world, link) = linked();
    let lossy = LinkFaults {
        loss_ppm: 500_000,
        ..LinkFaults::constant(Duration::from_millis(10))
    };
    world.apply(Fault::Links(lossy));
    let mut late = 0;
    for round in 0..100 {
        let sent = at(1_000 + round * 2_000);
        world.input_at(sent, A, Hear::Do(Do::Send(link, 0)));
        world.run_until(sent + Duration::from_millis(11));
        late += usize::from(numbers(&world, B).len() < round as usize + 1);
        world.run_until(sent + Duration::from_millis(1_999));
    }
    assert!((25..75).contains(&late), "{late}");
    assert_eq!(closed(&world, A), None);
}

#[test]
fn a_short_partition_only_delays() {
    let (mut world, link) = linked();
    world.input(A, Hear::Do(Do::Send(link, 1)));
    world.apply(Fault::Partition(vec![A], vec![B]));
    world.input(A, Hear::Do(Do::Send(link, 2)));
    world.run_until(at(6_000));
    // What was on the wire arrived.
    assert_eq!(numbers(&world, B), [1]);
    world.apply(Fault::RepairAll);
    world.input(A, Hear::Do(Do::Send(link, 3)));
    world.run_until(at(60_000));
    assert_eq!(numbers(&world, B), [1, 2, 3]);
    assert_eq!((closed(&world, A), closed(&world, B)), (None, None));
}

#[test]
fn a_long_partition_closes_both_ends_and_the_tail_is_lost() {
    let (mut world, link) = linked();
    world.apply(Fault::Partition(vec![A], vec![B]));
    world.input(A, Hear::Do(Do::Send(link, 1)));
    world.run_until(at(20_000));
    world.apply(Fault::RepairAll);
    world.run_until(at(60_000));
    assert_eq!(numbers(&world, B), []);
    assert_eq!(closed(&world, A), Some((11_000, LinkClosed::TimedOut)));
    assert_eq!(closed(&world, B), Some((11_000, LinkClosed::TimedOut)));
    assert!(world.environment().links.is_empty());
}

#[test]
fn under_a_one_way_cut_the_deaf_end_closes_first() {
    let (mut world, link) = linked();
    world.apply(Fault::Cut(vec![A], vec![B]));
    world.input(A, Hear::Do(Do::Send(link, 1)));
    world.input(B, Hear::Do(Do::Send(link, 2)));
    world.run_until(at(60_000));
    assert_eq!((numbers(&world, A), numbers(&world, B)), (vec![2], vec![]));
    assert_eq!(closed(&world, B), Some((11_000, LinkClosed::TimedOut)));
    assert_eq!(closed(&world, A), Some((21_000, LinkClosed::TimedOut)));
}

#[test]
fn an_end_that_timed_out_resets_the_other_once_they_reach_each_other() {
    let (mut world, _) = linked();
    world.apply(Fault::Cut(vec![A], vec![B]));
    world.run_until(at(12_000));
    world.apply(Fault::RepairAll);
    world.run_until(at(60_000));
    assert_eq!(closed(&world, A), Some((12_020, LinkClosed::Reset)));
}

#[test]
fn what_was_sent_before_a_crash_arrives_and_the_peer_times_out() {
    let (mut world, link) = linked();
    world.input(A, Hear::Do(Do::Send(link, 1)));
    world.apply(Fault::Crash(A));
    world.run_until(at(60_000));
    assert_eq!(numbers(&world, B), [1]);
    assert_eq!(closed(&world, B), Some((11_000, LinkClosed::TimedOut)));
    assert!(world.machine(A).is_none());
}

#[test]
fn a_node_that_restarts_resets_the_links_of_its_former_life() {
    let (mut world, link) = linked();
    world.apply(Fault::Crash(A));
    world.run_until(at(2_000));
    world.apply(Fault::Restart(A));
    world.input(B, Hear::Do(Do::Send(link, 1)));
    world.run_until(at(60_000));
    assert_eq!(closed(&world, B), Some((2_020, LinkClosed::Reset)));
    assert_eq!(heard(&world, A), []);
}

#[test]
fn a_crash_falls_between_two_outputs_of_one_drain() {
    let (mut world, link) = linked();
    world.apply(Fault::CrashAfter(A, 3));
    world.input(A, Hear::Do(Do::SendAll(link, 10)));
    assert_eq!(world.environment().sent, 3);
    assert!(world.machine(A).is_none());
    world.run_until(at(2_000));
    assert_eq!(numbers(&world, B), [0, 1, 2]);
}

#[test]
fn a_node_that_is_down_is_dialled_until_it_is_up_again() {
    let mut world = talk(LinkFaults::constant(Duration::from_millis(10)));
    world.apply(Fault::Crash(B));
    world.input(A, Hear::Do(Do::Connect(B)));
    let link = world.environment().last.unwrap();
    world.input(A, Hear::Do(Do::Send(link, 7)));
    world.run_until(at(2_000));
    world.apply(Fault::Restart(B));
    world.run_until(at(4_000));
    assert_eq!(heard(&world, A), [LinkInput::Opened(link, B)]);
    assert_eq!(
        heard(&world, B),
        [LinkInput::Incoming(link, A), LinkInput::Message(link, A, 7)]
    );
}

#[test]
fn dialling_in_vain_ends() {
    let mut world = talk(LinkFaults::constant(Duration::from_millis(10)));
    world.apply(Fault::Cut(vec![B], vec![A]));
    world.input(A, Hear::Do(Do::Connect(B)));
    world.run_until(at(60_000));
    assert_eq!(closed(&world, A), Some((5_000, LinkClosed::Unreachable)));
    assert_eq!(closed(&world, B), Some((15_000, LinkClosed::TimedOut)));
    assert!(world.environment().links.is_empty());
}

#[test]
fn a_refused_link_never_opens() {
    let mut world = talk(LinkFaults::constant(Duration::from_millis(10)));
    world.input(B, Hear::Do(Do::Refuse));
    world.input(A, Hear::Do(Do::Connect(B)));
    world.run_until(at(60_000));
    let link = world.environment().last.unwrap();
    assert_eq!(
        heard(&world, A),
        [LinkInput::Failed(link, B, LinkClosed::Refused)]
    );
}

#[test]
fn finishing_lets_all_arrive_and_closing_need_not() {
    let (mut world, link) = linked();
    world.input(A, Hear::Do(Do::SendAll(link, 100)));
    world.input(A, Hear::Do(Do::Finish(link)));
    world.run_until(at(60_000));
    assert_eq!(numbers(&world, B).len(), 100);
    assert_eq!(heard(&world, B).last(), Some(&LinkInput::Finished(link, A)));

    let (mut world, link) = linked_over(LinkFaults {
        loss_ppm: 500_000,
        ..LinkFaults::constant(Duration::from_millis(10))
    });
    world.input(A, Hear::Do(Do::SendAll(link, 100)));
    world.input(A, Hear::Do(Do::Close(link)));
    world.run_until(at(60_000));
    assert!(numbers(&world, B).len() < 100);
    assert_eq!(closed(&world, B).unwrap().1, LinkClosed::ByPeer);
}

#[test]
fn a_sender_that_is_not_kept_up_with_loses_its_link() {
    let (mut world, link) = linked();
    world.input(A, Hear::Do(Do::SendAll(link, 2_000)));
    world.run_until(at(60_000));
    assert_eq!(closed(&world, A).unwrap().1, LinkClosed::Overflow);
    assert!(numbers(&world, B).len() <= 1_024);
    assert!(closed(&world, B).is_some());
}

#[test]
fn a_paused_node_hears_all_when_it_goes_on() {
    let (mut world, link) = linked();
    world.input(B, Hear::Do(Do::WakeAfter(500)));
    world.apply(Fault::Pause(B));
    world.input(A, Hear::Do(Do::SendAll(link, 3)));
    world.run_until(at(4_000));
    assert_eq!(numbers(&world, B), []);
    world.apply(Fault::Resume(B));
    world.run_until(at(4_001));
    assert_eq!(numbers(&world, B), [0, 1, 2]);
    assert_eq!(
        world.machine(B).unwrap().woken,
        [Instant::from_nanos(4_000_000_000)]
    );
    world.run_until(at(60_000));
    assert_eq!(closed(&world, A), None);
}

#[test]
fn a_clock_that_runs_fast_wakes_early() {
    let mut world = talk(LinkFaults::default());
    world.apply(Fault::Drift(B, 100_000));
    world.input(A, Hear::Do(Do::WakeAfter(1_100)));
    world.input(B, Hear::Do(Do::WakeAfter(1_100)));
    world.run_until(at(1_000));
    assert!(world.machine(A).unwrap().woken.is_empty());
    assert_eq!(world.machine(B).unwrap().woken.len(), 1);
    world.run_until(at(1_100));
    assert_eq!(world.machine(A).unwrap().woken.len(), 1);
}

#[test]
fn a_deadline_that_moves_away_wakes_once() {
    let mut world = talk(LinkFaults::default());
    for round in 0..10 {
        world.input_at(at(round * 10), A, Hear::Do(Do::WakeAfter(50)));
    }
    world.run_until(at(1_000));
    assert_eq!(
        world.machine(A).unwrap().woken,
        [Instant::from_nanos(140_000_000)]
    );
}

#[test]
#[should_panic(expected = "without any time passing")]
fn messages_that_take_no_time_and_never_end_are_reported() {
    let mut world = talk(LinkFaults::default());
    for number in 0..2_000_000 {
        world.input_at(at(1), A, Hear::Do(Do::Send(LinkId::for_test(number), 0)));
    }
    world.run_until(at(2));
}

/// Two that answer each other for ever, a millisecond apart.
struct Echo {
    outputs: Vec<u64>,
}

impl Machine for Echo {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, _: Instant, number: u64) {
        self.outputs.push(number + 1);
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_output(&mut self) -> Option<u64> {
        self.outputs.pop()
    }

    fn check_invariants(&self) {}
}

struct Canyon;

impl Environment<Echo> for Canyon {
    type Event = ();

    fn start(&mut self, _: NodeIndex, _: u32, _: &mut Context<u64, ()>) -> Echo {
        Echo {
            outputs: Vec::new(),
        }
    }

    fn output(&mut self, node: NodeIndex, number: u64, context: &mut Context<u64, ()>) {
        let other = NodeIndex(1 - node.0);
        context.deliver_after(Duration::from_millis(1), other, number);
    }

    fn event(&mut self, (): (), _: &mut Context<u64, ()>) {}

    fn digest(input: &u64) -> u64 {
        *input
    }

    fn describe(input: &u64) -> String {
        format!("echo {input}")
    }
}

fn echoes(limit: u64) -> World<Echo, Canyon> {
    let mut world = World::new(1, Canyon);
    world.limit_effort(limit);
    world.add_node();
    world.add_node();
    world.input(A, 0);
    world.run_until(at(5_500));
    world
}

#[test]
fn a_run_within_its_limit_of_effort_goes_on() {
    assert_eq!(echoes(1_000).busiest_second(), 1_000);
}

#[test]
#[should_panic(
    expected = "the machines run away, with more than 999 steps in a second: n1 took 500 of them, \
                and the last was an input of n1: echo 999"
)]
fn a_run_that_runs_away_fails_with_who_and_what() {
    echoes(999);
}

/// A crowd that talks under whatever faults the seed brings; the trace is all that is looked at.
fn crowd(seed: u64, schedule: Option<&FaultSchedule>) -> Talk {
    let numbered = Some(BTreeMap::new());
    let mut world = World::new(
        seed,
        Wires {
            numbered,
            ..Wires::default()
        },
    );
    for _ in 0..8 {
        world.add_node();
    }
    let streams = Streams::new(seed);
    let drawn = FaultPlan::swarm(&mut streams.stream("plan")).schedule(&streams, 8, at(60_000));
    world.add_faults(schedule.unwrap_or(&drawn));
    let mut rng = streams.stream("workload");
    for _ in 0..2_000 {
        use crate::rng::below;
        let when = at(below(&mut rng, 60_000));
        let node = NodeIndex(below(&mut rng, 8) as u32);
        let peer = NodeIndex(below(&mut rng, 8) as u32);
        world.run_until(when.max(world.now()));
        let link = world.machine(node).and_then(|talker| {
            talker
                .heard
                .iter()
                .rev()
                .find_map(|(_, input)| match input {
                    LinkInput::Opened(link, _) | LinkInput::Incoming(link, _) => Some(*link),
                    _ => None,
                })
        });
        let order = match (below(&mut rng, 4), link) {
            (0, _) | (_, None) => Do::Connect(peer),
            (1, Some(link)) if below(&mut rng, 4) == 0 => Do::Close(link),
            (1, Some(link)) => Do::SendAll(link, 20),
            (2, Some(link)) if below(&mut rng, 4) == 0 => Do::Finish(link),
            (_, Some(link)) => Do::Send(link, below(&mut rng, 1_000) as u32),
        };
        world.input(node, Hear::Do(order));
    }
    world.run_until(at(200_000));
    world
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let first = crowd(7, None);
    assert!(first.trace().events() > 2_000);
    assert_eq!(first.trace().hash(), crowd(7, None).trace().hash());
    assert_ne!(first.trace().hash(), crowd(8, None).trace().hash());
}

#[test]
fn a_run_is_replayed_from_its_recorded_faults() {
    for seed in 0..5 {
        let first = crowd(seed, None);
        let again = FaultSchedule::from_recorded(first.recorded_faults());
        let second = crowd(seed, Some(&again));
        assert_eq!(first.recorded_faults(), second.recorded_faults());
        assert_eq!(first.trace().hash(), second.trace().hash());
    }
}

#[test]
fn whatever_the_faults_a_link_opens_once_and_its_messages_have_no_gap() {
    let mut messages = 0;
    for seed in 0..100 {
        let world = crowd(seed, None);
        for (_, talker) in world.machines() {
            let mut open = BTreeMap::new();
            for (_, input) in &talker.heard {
                match input {
                    LinkInput::Incoming(link, _) | LinkInput::Opened(link, _) => {
                        assert_eq!(open.insert(*link, 0), None, "seed {seed}: opened twice");
                    }
                    LinkInput::Message(link, _, number) => {
                        messages += 1;
                        let expected = open.get_mut(link).expect("only open links speak");
                        assert_eq!(number, expected, "seed {seed} {link:?}");
                        *expected += 1;
                    }
                    LinkInput::Closed(link, ..) | LinkInput::Finished(link, _) => {
                        assert!(open.remove(link).is_some(), "seed {seed}: closed twice");
                    }
                    LinkInput::Failed(link, ..) => assert!(!open.contains_key(link)),
                }
            }
        }
    }
    assert!(messages > 40_000, "{messages}");
}

#[test]
fn the_trace_is_the_same_in_every_build_and_process() {
    assert_eq!(crowd(3, None).trace().hash(), 13_683_885_266_813_134_120);
}

#[test]
fn a_recorded_trace_shows_what_happened() {
    let mut world = talk(LinkFaults::default());
    world.trace_mut().record_lines(0..10);
    world.input(A, Hear::Do(Do::Connect(B)));
    let trace: &Trace = world.trace();
    assert!(
        trace.lines().iter().any(|line| line.contains("Connect")),
        "{:?}",
        trace.lines()
    );
}

/// Counts what it hears.
#[derive(Default)]
struct Counter(BTreeMap<u32, u32>);

impl Machine for Counter {
    type Input = u32;
    type Output = ();

    fn handle(&mut self, _: Instant, number: u32) {
        *self.0.entry(number).or_default() += 1;
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_output(&mut self) -> Option<()> {
        None
    }

    fn check_invariants(&self) {}
}

struct Nothing;

impl Environment<Counter> for Nothing {
    type Event = ();

    fn start(&mut self, _: NodeIndex, _: u32, _: &mut Context<u32, ()>) -> Counter {
        Counter::default()
    }

    fn output(&mut self, _: NodeIndex, (): (), _: &mut Context<u32, ()>) {}

    fn event(&mut self, (): (), _: &mut Context<u32, ()>) {}

    fn digest(input: &u32) -> u64 {
        u64::from(*input)
    }
}

#[test]
fn datagrams_are_lost_and_doubled_one_by_one() {
    let mut world = World::new(1, Nothing);
    world.add_node();
    world.add_node();
    world.apply(Fault::Links(LinkFaults {
        loss_ppm: 200_000,
        duplicate_ppm: 100_000,
        corrupt_ppm: 100_000,
        ..LinkFaults::default()
    }));
    for number in 0..1_000 {
        let (_, context) = world.environment_mut();
        Datagrams.send(A, B, number, 100, context);
    }
    world.run_until(at(10_000));
    let heard = &world.machine(B).unwrap().0;
    assert!((680..760).contains(&heard.len()), "{}", heard.len());
    let doubled = heard.values().filter(|count| **count == 2).count();
    assert!((40..110).contains(&doubled), "{doubled}");
    assert!(heard.values().all(|count| *count <= 2));
}

#[test]
fn a_reply_of_the_disk_does_not_reach_the_next_life_and_a_datagram_does() {
    let mut world = World::new(1, Nothing);
    let node = world.add_node();
    let (_, context) = world.environment_mut();
    context.reply_after(Duration::from_secs(2), node, 1);
    context.deliver_after(Duration::from_secs(2), node, 2);
    world.run_until(at(1_000));
    world.apply(Fault::Crash(node));
    world.apply(Fault::Restart(node));
    world.run_until(at(3_000));
    assert_eq!(
        world
            .machine(node)
            .unwrap()
            .0
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [2]
    );
}
