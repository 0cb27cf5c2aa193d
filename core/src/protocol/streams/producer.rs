//! The producer's side: who may subscribe, who has to leave, and when it is over.
//!
//! The worker hands in what consumers ask for, together with the verdict of the application's predicates,
//! and carries out what the machine decides. Datums go past the machine, through a queue that all
//! subscriptions share; the machine hears only when the queue has become full, and looks at it from time to time
//! until it no longer is.
//!
//! A consumer that asks while all places are taken is told to wait, and is answered in its turn when a place becomes
//! free. So nobody asks again and again, and nobody who came later is served first.
//!
//! ```text
//!             Retire                 last subscription ended, or drain timeout
//!   Serving ----------> Draining ------------------------------------------------> Ended
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::criteria::CRITERIA_MAX;
use super::{ConsumerNumber, Criteria, ProducerInstance, Refusal, Subscribe};
use crate::id::{Digest, PeerId};
use crate::protocol;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

/// The most consumers of a producer, whatever it is configured to.
pub const CONSUMERS_MAX: usize = 16_384;
/// The most consumers that wait for a place, whatever a producer is configured to.
pub const WAITING_MAX: usize = 1_024;

/// How often a full queue is looked at within the lag timeout: who is stuck is dropped after the timeout and
/// at most this part of it more.
const LOOKS_PER_TIMEOUT: u32 = 8;

/// How a producer treats its consumers.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The most consumers; at most [`CONSUMERS_MAX`], which is the default.
    pub max_consumers: usize,
    /// The most consumers that wait for a place; at most [`WAITING_MAX`], which is the default. Who asks beyond is
    /// refused, and asks again later.
    pub max_waiting: usize,
    /// Whether a consumer is dropped that holds up the others. Default: yes.
    pub disconnect_lagging: bool,
    /// How long the queue may be full without a datum leaving before those who hold it up are dropped. Default: 1 s.
    pub lag_timeout: Duration,
    /// How long consumers are given to take what is queued when the producer ends. Default: 5 s. Who has not taken
    /// all by then is told that it was too slow.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_consumers: CONSUMERS_MAX,
            max_waiting: WAITING_MAX,
            disconnect_lagging: true,
            lag_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Names a subscription, or the request for one, within its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// What can happen to a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A consumer asks for a subscription.
    Subscribe {
        /// The name of the request, never used before; the name of the subscription if there will be one.
        id: SubscriptionId,
        /// Who asks.
        peer: PeerId,
        /// What it asks for.
        request: Subscribe,
        /// Whether the application's predicates accept the peer.
        accepted: bool,
    },
    /// Peers' entries have changed: the verdicts of the predicates now, for any of the subscribed peers.
    Verdicts(BTreeMap<PeerId, bool>),
    /// A subscription's stream has ended, whoever has ended it. For subscriptions that the machine has ended
    /// this may come or not. So does the stream of one that waits.
    Ended(SubscriptionId),
    /// A consumer leaves in good order: it is to get what is queued for it, and no more.
    Leave(SubscriptionId),
    /// The queue is full: nothing can be sent until a datum leaves. Need not be said again before
    /// [`Examined`](Self::Examined) has said that it no longer is.
    QueueFull,
    /// The answer to [`Output::Examine`].
    Examined {
        /// Whether the queue is full.
        full: bool,
        /// The subscriptions that the oldest datum in the queue waits for, each with its progress: a number
        /// that changes whenever it takes something, be it a part of a datum.
        waiting: Vec<(SubscriptionId, u64)>,
    },
    /// The last handle is gone, or the node shuts down.
    Retire,
}

/// What a producer wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Begin a subscription: reply with the instance given here and the sequence number of the next datum.
    Accept {
        /// The subscription.
        id: SubscriptionId,
        /// The life of the producer that its sequence numbers belong to.
        instance: ProducerInstance,
    },
    /// Tell a consumer to wait. Another [`Accept`](Self::Accept) or [`Refuse`](Self::Refuse) may follow, unless it ends
    /// before.
    Wait {
        /// The request.
        id: SubscriptionId,
        /// The most consumers there may be.
        max: u64,
    },
    /// Finish a subscription once it has got what is queued for it now.
    Finish(SubscriptionId),
    /// Refuse a request, or one that waits.
    Refuse {
        /// The request.
        id: SubscriptionId,
        /// Why.
        refusal: Refusal,
    },
    /// End a subscription, or one that waits, at once; what is queued for it is lost to it.
    Disconnect {
        /// The subscription.
        id: SubscriptionId,
        /// What the consumer is told.
        code: CloseCode,
    },
    /// Look at the queue, and answer at once with [`Input::Examined`].
    Examine,
    /// Take no more datums; finish each subscription once it has got what is queued.
    Drain,
    /// All is over: nothing is subscribed and nothing ever will be.
    Ended,
    /// Tell the application.
    Event(Event),
}

/// What an application may want to know of its producer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A consumer has subscribed.
    Subscribed {
        /// The subscription.
        id: SubscriptionId,
        /// The consumer's node.
        peer: PeerId,
    },
    /// A consumer is gone.
    Unsubscribed {
        /// The subscription.
        id: SubscriptionId,
        /// The consumer's node.
        peer: PeerId,
        /// Why this side has ended it; `None` where the consumer has left or cannot be reached.
        code: Option<CloseCode>,
    },
    /// A consumer waits for a place. It is subscribed or refused later, unless it gives up before.
    Waiting {
        /// The subscription to be.
        id: SubscriptionId,
        /// The consumer's node.
        peer: PeerId,
    },
    /// A consumer was refused.
    Refused {
        /// The consumer's node.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Debug)]
struct Subscription {
    peer: PeerId,
    consumer: ConsumerNumber,
    criteria: Option<Criteria>,
}

/// A queue that is full.
#[derive(Debug)]
struct Lag {
    /// When to look again.
    examine_at: Instant,
    /// Whom the queue waits for: the progress of each, and since when it has made none.
    waiting: BTreeMap<SubscriptionId, (u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { until: Instant },
    Ended,
}

/// The machine of one producer. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    config: Config,
    schema: Digest,
    instance: ProducerInstance,
    phase: Phase,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// Those who wait for a place, the first to come first.
    waiting: BTreeMap<SubscriptionId, Subscription>,
    /// Of both.
    by_consumer: BTreeMap<(PeerId, ConsumerNumber), SubscriptionId>,
    /// The criteria of all subscriptions, and how many have each.
    criteria: BTreeMap<Criteria, usize>,
    /// What was seen of the queue; `None` while it is not full.
    lag: Option<Lag>,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A producer of datums with the fingerprint `schema`. `instance` must be fresh: drawn at random.
    #[must_use]
    pub const fn new(config: Config, schema: Digest, instance: ProducerInstance) -> Self {
        Self {
            config,
            schema,
            instance,
            phase: Phase::Serving,
            subscriptions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            by_consumer: BTreeMap::new(),
            criteria: BTreeMap::new(),
            lag: None,
            outputs: VecDeque::new(),
        }
    }

    /// The number of subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    fn max_consumers(&self) -> usize {
        self.config.max_consumers.min(CONSUMERS_MAX)
    }

    fn subscribe(&mut self, id: SubscriptionId, peer: PeerId, request: &Subscribe, accepted: bool) {
        if let Err(refusal) = self.admit(request, accepted) {
            self.refuse(id, peer, refusal);
            return;
        }
        let place = (peer, request.consumer);
        let replaced = self.by_consumer.get(&place).copied();
        let has_place = replaced.is_some_and(|id| self.subscriptions.contains_key(&id));
        let waits = replaced.is_some() && !has_place;
        let max = self.max_consumers();
        let is_full = self.subscriptions.len() >= max && !has_place;
        let max_waiting = self.config.max_waiting.min(WAITING_MAX);
        if is_full && self.waiting.len() - usize::from(waits) >= max_waiting {
            let max = max as u64;
            self.refuse(id, peer, Refusal::NoCapacity { max });
            return;
        }
        // The consumer asks again because it has lost the subscription that still seems alive here.
        if let Some(replaced) = replaced {
            self.disconnect(replaced, CloseCode::REPLACED);
        }
        let subscription = Subscription {
            peer,
            consumer: request.consumer,
            criteria: request.criteria.clone(),
        };
        self.by_consumer.insert(place, id);
        if is_full {
            self.waiting.insert(id, subscription);
            let max = max as u64;
            self.outputs.push_back(Output::Wait { id, max });
            self.outputs
                .push_back(Output::Event(Event::Waiting { id, peer }));
        } else {
            self.accept(id, subscription);
        }
    }

    fn admit(&self, request: &Subscribe, accepted: bool) -> Result<(), Refusal> {
        if self.phase != Phase::Serving {
            return Err(Refusal::ShuttingDown);
        }
        if request.schema != self.schema {
            return Err(Refusal::SchemaDiffers {
                producer: self.schema,
                consumer: request.schema,
            });
        }
        if !accepted {
            return Err(Refusal::Rejected);
        }
        self.admit_criteria(request.criteria.as_ref())
    }

    /// Each different criteria costs something for each datum.
    fn admit_criteria(&self, criteria: Option<&Criteria>) -> Result<(), Refusal> {
        match criteria {
            Some(new)
                if self.criteria.len() >= CRITERIA_MAX && !self.criteria.contains_key(new) =>
            {
                let max = CRITERIA_MAX as u64;
                Err(Refusal::TooManyCriteria { max })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn accept(&mut self, id: SubscriptionId, subscription: Subscription) {
        let peer = subscription.peer;
        if let Some(criteria) = &subscription.criteria {
            *self.criteria.entry(criteria.clone()).or_default() += 1;
        }
        let previous = self.subscriptions.insert(id, subscription);
        debug_assert!(previous.is_none(), "a name is given once");
        self.outputs.push_back(Output::Accept {
            id,
            instance: self.instance,
        });
        self.outputs
            .push_back(Output::Event(Event::Subscribed { id, peer }));
    }

    fn refuse(&mut self, id: SubscriptionId, peer: PeerId, refusal: Refusal) {
        self.outputs.push_back(Output::Refuse {
            id,
            refusal: refusal.clone(),
        });
        self.outputs
            .push_back(Output::Event(Event::Refused { peer, refusal }));
    }

    /// Gives free places to those who wait, in the order in which they came.
    fn offer(&mut self) {
        while self.phase == Phase::Serving
            && self.subscriptions.len() < self.max_consumers()
            && let Some((id, subscription)) = self.waiting.pop_first()
        {
            match self.admit_criteria(subscription.criteria.as_ref()) {
                Ok(()) => self.accept(id, subscription),
                Err(refusal) => {
                    self.forget_place(&subscription);
                    self.refuse(id, subscription.peer, refusal);
                }
            }
        }
    }

    /// Refuses those who wait and of whom `is_refused` says so.
    fn refuse_waiting(&mut self, refusal: &Refusal, is_refused: impl Fn(&PeerId) -> bool) {
        let refused: Vec<SubscriptionId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| is_refused(&waiting.peer))
            .map(|(&id, _)| id)
            .collect();
        for id in refused {
            if let Some(waiting) = self.waiting.remove(&id) {
                self.forget_place(&waiting);
                self.refuse(id, waiting.peer, refusal.clone());
            }
        }
    }

    fn forget_place(&mut self, subscription: &Subscription) {
        self.by_consumer
            .remove(&(subscription.peer, subscription.consumer));
    }

    /// Forgets a subscription, or one that waits.
    fn remove(&mut self, id: SubscriptionId, code: Option<CloseCode>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.forget_place(&waiting);
        }
        let Some(subscription) = self.subscriptions.remove(&id) else {
            return;
        };
        self.forget_place(&subscription);
        if let Some(criteria) = &subscription.criteria
            && let Some(count) = self.criteria.get_mut(criteria)
        {
            *count -= 1;
            if *count == 0 {
                self.criteria.remove(criteria);
            }
        }
        let peer = subscription.peer;
        self.outputs
            .push_back(Output::Event(Event::Unsubscribed { id, peer, code }));
    }

    fn disconnect(&mut self, id: SubscriptionId, code: CloseCode) {
        if self.subscriptions.contains_key(&id) || self.waiting.contains_key(&id) {
            self.outputs.push_back(Output::Disconnect { id, code });
            self.remove(id, Some(code));
        }
    }

    /// Looks at a queue that is full, if it is time to.
    fn examine(&mut self, now: Instant) {
        let pause = self.config.lag_timeout / LOOKS_PER_TIMEOUT;
        if let Some(lag) = &mut self.lag
            && now >= lag.examine_at
        {
            // Not zero, so that time goes on between two looks.
            lag.examine_at = now + pause.max(Duration::from_nanos(1));
            self.outputs.push_back(Output::Examine);
        }
    }

    fn examined(&mut self, now: Instant, full: bool, waiting: Vec<(SubscriptionId, u64)>) {
        let Some(lag) = &mut self.lag else {
            return;
        };
        if !full {
            self.lag = None;
            return;
        }
        let former = std::mem::take(&mut lag.waiting);
        let mut stuck = Vec::new();
        for (id, progress) in waiting {
            let since = match former.get(&id) {
                Some(&(before, since)) if before == progress => since,
                Some(_) | None => now,
            };
            if now.since(since) >= self.config.lag_timeout {
                stuck.push(id);
            } else {
                lag.waiting.insert(id, (progress, since));
            }
        }
        for id in stuck {
            self.disconnect(id, CloseCode::STREAM_TOO_SLOW);
        }
    }

    fn end_if_drained(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) && self.subscriptions.is_empty() {
            self.phase = Phase::Ended;
            self.lag = None;
            self.outputs.push_back(Output::Ended);
        }
    }
}

impl protocol::Machine for Machine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Subscribe {
                id,
                peer,
                request,
                accepted,
            } => {
                self.subscribe(id, peer, &request, accepted);
            }
            Input::Verdicts(verdicts) => {
                let rejected: Vec<SubscriptionId> = self
                    .subscriptions
                    .iter()
                    .filter(|(_, subscription)| verdicts.get(&subscription.peer) == Some(&false))
                    .map(|(&id, _)| id)
                    .collect();
                for id in rejected {
                    self.disconnect(id, CloseCode::STREAM_REJECTED);
                }
                self.refuse_waiting(&Refusal::Rejected, |peer| {
                    verdicts.get(peer) == Some(&false)
                });
            }
            Input::Ended(id) => self.remove(id, None),
            Input::Leave(id) => {
                if self.subscriptions.contains_key(&id) {
                    self.outputs.push_back(Output::Finish(id));
                } else {
                    self.remove(id, None);
                }
            }
            Input::QueueFull => {
                if self.config.disconnect_lagging
                    && self.phase != Phase::Ended
                    && self.lag.is_none()
                {
                    self.lag = Some(Lag {
                        examine_at: now,
                        waiting: BTreeMap::new(),
                    });
                    self.examine(now);
                }
            }
            Input::Examined { full, waiting } => self.examined(now, full, waiting),
            Input::Retire => {
                if self.phase == Phase::Serving {
                    self.phase = Phase::Draining {
                        until: now + self.config.drain_timeout,
                    };
                    self.outputs.push_back(Output::Drain);
                    self.refuse_waiting(&Refusal::ShuttingDown, |_| true);
                }
            }
        }
        // Only now, so that nobody is given the place of who takes it anew.
        self.offer();
        self.end_if_drained();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.examine(now);
        if let Phase::Draining { until } = self.phase
            && now >= until
        {
            let left: Vec<SubscriptionId> = self.subscriptions.keys().copied().collect();
            for id in left {
                // Not the code of an end that is complete: what was queued for it is cut off.
                self.disconnect(id, CloseCode::STREAM_TOO_SLOW);
            }
            self.end_if_drained();
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let drain = match self.phase {
            Phase::Draining { until } => Some((until, "drain")),
            Phase::Serving | Phase::Ended => None,
        };
        let lag = self.lag.as_ref().map(|lag| (lag.examine_at, "lag"));
        lag.into_iter().chain(drain).min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {
        assert_eq!(
            self.subscriptions.len() + self.waiting.len(),
            self.by_consumer.len(),
            "a consumer has one subscription at most"
        );
        assert!(
            self.waiting.is_empty() || self.subscriptions.len() >= self.max_consumers(),
            "nobody waits while a place is free"
        );
        assert!(
            self.waiting.len() <= self.config.max_waiting.min(WAITING_MAX),
            "no more wait than may"
        );
        let mut criteria = BTreeMap::<&Criteria, usize>::new();
        for subscription in self.subscriptions.values() {
            if let Some(one) = &subscription.criteria {
                *criteria.entry(one).or_default() += 1;
            }
        }
        assert!(
            criteria.len() <= CRITERIA_MAX
                && criteria
                    .into_iter()
                    .eq(self.criteria.iter().map(|(one, &count)| (one, count))),
            "the different criteria are counted, and no more than may be"
        );
        assert!(
            self.subscriptions.len() <= self.config.max_consumers.min(CONSUMERS_MAX),
            "a producer has no more subscriptions than it may"
        );
        assert!(
            self.phase != Phase::Ended
                || (self.subscriptions.is_empty() && self.poll_timeout().is_none()),
            "nothing is subscribed to, or awaited of, what has ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use protocol::Machine as _;

    use super::*;
    use crate::id::StreamId;

    const SCHEMA: Digest = Digest::from_bytes([1; 32]);
    const INSTANCE: ProducerInstance = ProducerInstance::from_bytes([2; 32]);

    fn machine(config: Config) -> Machine {
        Machine::new(config, SCHEMA, INSTANCE)
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn ask(id: u64, peer_number: u8, consumer: u64) -> Input {
        Input::Subscribe {
            id: SubscriptionId(id),
            peer: peer(peer_number),
            request: Subscribe {
                stream: StreamId::from("prices"),
                schema: SCHEMA,
                consumer: ConsumerNumber(consumer),
                criteria: None,
            },
            accepted: true,
        }
    }

    /// The outputs of one input, without the events.
    fn handle(machine: &mut Machine, now: Instant, input: Input) -> Vec<Output> {
        machine.handle(now, input);
        drain(machine)
    }

    fn drain(machine: &mut Machine) -> Vec<Output> {
        machine.check_invariants();
        std::iter::from_fn(|| machine.poll_output())
            .filter(|output| !matches!(output, Output::Event(_)))
            .collect()
    }

    fn accept(id: u64) -> Output {
        Output::Accept {
            id: SubscriptionId(id),
            instance: INSTANCE,
        }
    }

    fn refuse(id: u64, refusal: Refusal) -> Output {
        Output::Refuse {
            id: SubscriptionId(id),
            refusal,
        }
    }

    fn disconnect(id: u64, code: CloseCode) -> Output {
        Output::Disconnect {
            id: SubscriptionId(id),
            code,
        }
    }

    fn wait(id: u64, max: u64) -> Output {
        Output::Wait {
            id: SubscriptionId(id),
            max,
        }
    }

    fn ended(id: u64) -> Input {
        Input::Ended(SubscriptionId(id))
    }

    #[test]
    fn consumers_are_admitted_up_to_the_capacity_and_others_wait_and_get_the_places_in_turn() {
        let mut machine = machine(Config {
            max_consumers: 2,
            max_waiting: 3,
            ..Config::default()
        });
        let now = Instant::ZERO;
        assert_eq!(handle(&mut machine, now, ask(0, 1, 0)), [accept(0)]);
        assert_eq!(handle(&mut machine, now, ask(1, 1, 1)), [accept(1)]);
        for (id, peer) in [(2, 2), (3, 3), (4, 4)] {
            assert_eq!(handle(&mut machine, now, ask(id, peer, 0)), [wait(id, 2)]);
        }
        let full = Refusal::NoCapacity { max: 2 };
        assert_eq!(handle(&mut machine, now, ask(5, 5, 0)), [refuse(5, full)]);
        // One who waits asks anew, and waits behind the others.
        assert_eq!(
            handle(&mut machine, now, ask(6, 2, 0)),
            [disconnect(2, CloseCode::REPLACED), wait(6, 2)]
        );
        assert_eq!(handle(&mut machine, now, ended(0)), [accept(3)]);
        // Who gives up waiting is passed over.
        assert_eq!(handle(&mut machine, now, ended(4)), []);
        assert_eq!(handle(&mut machine, now, ended(1)), [accept(6)]);
        assert_eq!(handle(&mut machine, now, ended(3)), []);
        assert_eq!(handle(&mut machine, now, ask(7, 7, 0)), [accept(7)]);
    }

    #[test]
    fn who_waits_is_refused_when_it_cannot_get_a_place_any_more() {
        let mut machine = machine(Config {
            max_consumers: 1,
            ..Config::default()
        });
        let now = Instant::ZERO;
        for (id, peer) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            handle(&mut machine, now, ask(id, peer, 0));
        }
        let verdicts = BTreeMap::from([(peer(2), false), (peer(3), true)]);
        assert_eq!(
            handle(&mut machine, now, Input::Verdicts(verdicts)),
            [refuse(1, Refusal::Rejected)]
        );
        // Who leaves before it has a place needs none.
        assert_eq!(
            handle(&mut machine, now, Input::Leave(SubscriptionId(2))),
            []
        );
        assert_eq!(
            handle(&mut machine, now, Input::Retire),
            [Output::Drain, refuse(3, Refusal::ShuttingDown)]
        );
        assert_eq!(handle(&mut machine, now, ended(0)), [Output::Ended]);
    }

    #[test]
    fn who_leaves_is_finished_and_keeps_its_place_until_then() {
        let mut machine = machine(Config {
            max_consumers: 1,
            ..Config::default()
        });
        let now = Instant::ZERO;
        handle(&mut machine, now, ask(0, 1, 0));
        handle(&mut machine, now, ask(1, 2, 0));
        let id = SubscriptionId(0);
        assert_eq!(
            handle(&mut machine, now, Input::Leave(id)),
            [Output::Finish(id)]
        );
        assert_eq!(handle(&mut machine, now, ended(0)), [accept(1)]);
    }

    #[test]
    fn different_criteria_are_bounded_and_equal_ones_are_shared() {
        let mut machine = machine(Config::default());
        let with_criteria = |id: u64, number: u64| {
            let mut input = ask(id, 1, id);
            if let Input::Subscribe { request, .. } = &mut input {
                request.criteria = Some(Criteria::field("n").is(number));
            }
            input
        };
        let now = Instant::ZERO;
        let max = CRITERIA_MAX as u64;
        for id in 0..max {
            assert_eq!(
                handle(&mut machine, now, with_criteria(id, id)),
                [accept(id)]
            );
        }
        let refusal = Refusal::TooManyCriteria { max };
        assert_eq!(
            handle(&mut machine, now, with_criteria(max, max)),
            [refuse(max, refusal)]
        );
        assert_eq!(
            handle(&mut machine, now, with_criteria(max + 1, 0)),
            [accept(max + 1)]
        );
        assert_eq!(
            handle(&mut machine, now, ask(max + 2, 2, 0)),
            [accept(max + 2)]
        );
        handle(&mut machine, now, ended(1));
        assert_eq!(
            handle(&mut machine, now, with_criteria(max + 3, max)),
            [accept(max + 3)]
        );
    }

    #[test]
    fn a_consumer_that_asks_again_takes_its_own_place() {
        let mut machine = machine(Config {
            max_consumers: 1,
            ..Config::default()
        });
        let now = Instant::ZERO;
        assert_eq!(handle(&mut machine, now, ask(0, 1, 7)), [accept(0)]);
        assert_eq!(
            handle(&mut machine, now, ask(1, 1, 7)),
            [disconnect(0, CloseCode::REPLACED), accept(1)]
        );
        // What is heard of the old one later does not touch the new one.
        assert_eq!(
            handle(&mut machine, now, Input::Ended(SubscriptionId(0))),
            []
        );
        assert_eq!(machine.subscriptions(), 1);
    }

    #[test]
    fn each_refusal_says_why() {
        let other = Digest::from_bytes([9; 32]);
        let with = |change: &dyn Fn(&mut Subscribe, &mut bool)| {
            let mut input = ask(0, 1, 0);
            if let Input::Subscribe {
                request, accepted, ..
            } = &mut input
            {
                change(request, accepted);
            }
            let outputs = handle(&mut machine(Config::default()), Instant::ZERO, input);
            let [Output::Refuse { refusal, .. }] = &outputs[..] else {
                panic!("{outputs:?}")
            };
            refusal.clone()
        };
        assert_eq!(
            with(&|request, _| request.schema = other),
            Refusal::SchemaDiffers {
                producer: SCHEMA,
                consumer: other
            }
        );
        assert_eq!(with(&|_, accepted| *accepted = false), Refusal::Rejected);
        let mut retired = machine(Config::default());
        handle(&mut retired, Instant::ZERO, Input::Retire);
        let refused = handle(&mut retired, Instant::ZERO, ask(0, 1, 0));
        assert_eq!(refused, [refuse(0, Refusal::ShuttingDown)]);
    }

    #[test]
    fn a_peer_that_is_no_longer_accepted_loses_all_its_subscriptions() {
        let mut machine = machine(Config::default());
        let now = Instant::ZERO;
        for input in [ask(0, 1, 0), ask(1, 1, 1), ask(2, 2, 0)] {
            handle(&mut machine, now, input);
        }
        let verdicts = BTreeMap::from([(peer(1), false), (peer(2), true), (peer(3), false)]);
        assert_eq!(
            handle(&mut machine, now, Input::Verdicts(verdicts)),
            [
                disconnect(0, CloseCode::STREAM_REJECTED),
                disconnect(1, CloseCode::STREAM_REJECTED)
            ]
        );
    }

    fn examined(full: bool, waiting: &[(u64, u64)]) -> Input {
        let waiting = waiting
            .iter()
            .map(|&(id, taken)| (SubscriptionId(id), taken))
            .collect();
        Input::Examined { full, waiting }
    }

    /// Looks at a queue that stays full, for which `waiting` says who has taken how much; gives who is dropped
    /// and when.
    fn watch(
        machine: &mut Machine,
        mut waiting: impl FnMut(Duration) -> Vec<(u64, u64)>,
    ) -> Vec<(Duration, Output)> {
        let mut dropped = Vec::new();
        let mut now = Instant::ZERO;
        let mut outputs = handle(machine, now, Input::QueueFull);
        while now < Instant::ZERO + Duration::from_secs(10) {
            assert_eq!(outputs, [Output::Examine]);
            let passed = now.since(Instant::ZERO);
            let looked = handle(machine, now, examined(true, &waiting(passed)));
            dropped.extend(looked.into_iter().map(|output| (passed, output)));
            let (next, reason) = machine.poll_timeout().unwrap();
            assert_eq!(reason, "lag");
            assert!(next > now);
            machine.handle_timeout(Instant::from_nanos(next.as_nanos() - 1));
            assert_eq!(drain(machine), []);
            now = next;
            machine.handle_timeout(now);
            outputs = drain(machine);
        }
        dropped
    }

    #[test]
    fn who_holds_up_a_full_queue_for_the_lag_timeout_is_dropped() {
        let mut machine = machine(Config::default());
        for (id, peer) in [(0, 1), (1, 2), (2, 3)] {
            handle(&mut machine, Instant::ZERO, ask(id, peer, 0));
        }
        // One goes on taking, slowly; one stops after two seconds; one is not waited for.
        let dropped = watch(&mut machine, |passed| {
            let millis = passed.as_millis() as u64;
            vec![(0, millis / 900), (1, millis.min(2_000) / 100)]
        });
        let [(when, output)] = &dropped[..] else {
            panic!("{dropped:?}")
        };
        assert_eq!(*output, disconnect(1, CloseCode::STREAM_TOO_SLOW));
        assert!((3_000..3_250).contains(&when.as_millis()), "{when:?}");
    }

    #[test]
    fn nobody_is_dropped_while_the_queue_moves_or_where_lagging_is_allowed() {
        let mut moving = machine(Config::default());
        handle(&mut moving, Instant::ZERO, ask(0, 1, 0));
        assert_eq!(
            watch(&mut moving, |passed| vec![(0, passed.as_millis() as u64)]),
            []
        );
        let later = Instant::ZERO + Duration::from_secs(20);
        assert_eq!(handle(&mut moving, later, examined(false, &[])), []);
        assert_eq!(moving.poll_timeout(), None);
        // What was seen before it moved does not count when it is full again.
        assert_eq!(
            handle(&mut moving, later, Input::QueueFull),
            [Output::Examine]
        );
        assert_eq!(handle(&mut moving, later, examined(true, &[(0, 5)])), []);

        let mut patient = machine(Config {
            disconnect_lagging: false,
            ..Config::default()
        });
        handle(&mut patient, Instant::ZERO, ask(0, 1, 0));
        assert_eq!(handle(&mut patient, Instant::ZERO, Input::QueueFull), []);
        assert_eq!(patient.poll_timeout(), None);
    }

    #[test]
    fn a_retired_producer_drains_and_ends_with_its_last_consumer_or_the_timeout() {
        let now = Instant::ZERO;
        assert_eq!(
            handle(&mut machine(Config::default()), now, Input::Retire),
            [Output::Drain, Output::Ended]
        );
        let mut taken = machine(Config::default());
        handle(&mut taken, now, ask(0, 1, 0));
        assert_eq!(handle(&mut taken, now, Input::Retire), [Output::Drain]);
        assert_eq!(handle(&mut taken, now, Input::Retire), []);
        assert_eq!(
            handle(&mut taken, now, Input::Ended(SubscriptionId(0))),
            [Output::Ended]
        );
        let mut stuck = machine(Config::default());
        handle(&mut stuck, now, ask(0, 1, 0));
        handle(&mut stuck, now, Input::Retire);
        let (deadline, reason) = stuck.poll_timeout().unwrap();
        assert_eq!((deadline, reason), (now + Duration::from_secs(5), "drain"));
        stuck.handle_timeout(deadline);
        assert_eq!(
            drain(&mut stuck),
            [disconnect(0, CloseCode::STREAM_TOO_SLOW), Output::Ended]
        );
        assert_eq!(stuck.poll_timeout(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask {
            peer: u8,
            consumer: u64,
            schema: bool,
            accepted: bool,
        },
        End(u64),
        Leave(u64),
        Verdict(u8, bool),
        Full,
        Examined(bool, u64),
        Wait(u64),
        Retire,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..4u8, 0..3u64, prop::bool::weighted(0.9), prop::bool::weighted(0.9)).prop_map(
                |(peer, consumer, schema, accepted)| Step::Ask { peer, consumer, schema, accepted }
            ),
            4 => (0..30u64).prop_map(Step::End),
            1 => (0..30u64).prop_map(Step::Leave),
            2 => (0..4u8, any::<bool>()).prop_map(|(peer, verdict)| Step::Verdict(peer, verdict)),
            1 => Just(Step::Full),
            2 => (any::<bool>(), 0..30u64).prop_map(|(full, id)| Step::Examined(full, id)),
            2 => (0..3_000u64).prop_map(Step::Wait),
            1 => Just(Step::Retire),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens: each request is answered once, or told to wait and answered at most once more, and what
        /// the outputs say about who is subscribed agrees with the events and with the machine.
        #[test]
        fn requests_are_answered_once_and_outputs_agree(steps in steps()) {
            let config = Config { max_consumers: 4, max_waiting: 3, ..Config::default() };
            let mut machine = machine(config);
            let mut now = Instant::ZERO;
            let (mut live, mut told) = (BTreeSet::new(), BTreeSet::new());
            let mut waiting = BTreeSet::new();
            let mut ended = false;
            for (n, step) in steps.into_iter().enumerate() {
                let id = n as u64;
                let mut unanswered = None;
                match step {
                    Step::Ask { peer: number, consumer, schema, accepted: verdict } => {
                        unanswered = Some(SubscriptionId(id));
                        let mut input = ask(id, number, consumer);
                        if let Input::Subscribe { request, accepted, .. } = &mut input {
                            *accepted = verdict;
                            if !schema {
                                request.schema = Digest::from_bytes([0; 32]);
                            }
                        }
                        machine.handle(now, input);
                    }
                    Step::End(id) => {
                        live.remove(&SubscriptionId(id));
                        waiting.remove(&SubscriptionId(id));
                        machine.handle(now, Input::Ended(SubscriptionId(id)));
                    }
                    Step::Leave(id) => {
                        waiting.remove(&SubscriptionId(id));
                        machine.handle(now, Input::Leave(SubscriptionId(id)));
                    }
                    Step::Verdict(number, verdict) => {
                        machine.handle(now, Input::Verdicts(BTreeMap::from([(peer(number), verdict)])));
                    }
                    Step::Full => machine.handle(now, Input::QueueFull),
                    Step::Examined(full, id) => machine.handle(now, examined(full, &[(id, 0)])),
                    Step::Wait(millis) => {
                        now += Duration::from_millis(millis);
                        machine.handle_timeout(now);
                    }
                    Step::Retire => machine.handle(now, Input::Retire),
                }
                machine.check_invariants();
                while let Some(output) = machine.poll_output() {
                    let refuses = matches!(
                        output,
                        Output::Refuse { .. } | Output::Event(Event::Refused { .. })
                    );
                    prop_assert!(!ended || refuses);
                    match output {
                        Output::Accept { id, .. } => {
                            prop_assert!(waiting.remove(&id) || unanswered.take() == Some(id));
                            live.insert(id);
                        }
                        Output::Refuse { id, .. } => {
                            prop_assert!(waiting.remove(&id) || unanswered.take() == Some(id));
                        }
                        Output::Wait { id, .. } => {
                            prop_assert_eq!(unanswered.take(), Some(id));
                            waiting.insert(id);
                        }
                        Output::Disconnect { id, .. } => {
                            prop_assert!(live.remove(&id) || waiting.remove(&id));
                        }
                        Output::Finish(id) => prop_assert!(live.contains(&id)),
                        Output::Ended => ended = true,
                        Output::Examine | Output::Drain => {}
                        Output::Event(Event::Waiting { id, .. }) => {
                            prop_assert!(waiting.contains(&id));
                        }
                        Output::Event(Event::Subscribed { id, .. }) => {
                            prop_assert!(told.insert(id));
                        }
                        Output::Event(Event::Unsubscribed { id, .. }) => {
                            prop_assert!(told.remove(&id));
                        }
                        Output::Event(Event::Refused { .. }) => {}
                    }
                }
                prop_assert_eq!(unanswered, None);
                prop_assert_eq!(&live, &told);
                prop_assert_eq!(live.len(), machine.subscriptions());
                prop_assert!(!ended || live.is_empty() && waiting.is_empty());
            }
        }
    }
}
