//! The consumer's side: which producers to subscribe to, and when to try again.
//!
//! The worker hands in the producers that the catalog names, each with the verdict of the application's
//! predicates, and what becomes of each attempt. The machine keeps one subscription to each producer that
//! is named and accepted, and none to any other. For each producer:
//!
//! ```text
//!                 +-------------- Subscribed -----------+
//!                 |                                     v
//!   named --> Connecting                            Subscribed
//!                 ^ |                                   |
//!        the time | | Refused, Lost                Lost |
//!        has come | v                                   |
//!             BackingOff <------------------------------+
//! ```
//!
//! A producer that is no longer accepted is unsubscribed from, whatever the state. One that is no longer named is
//! not: it is about to end, and will say so once it has sent what it has; it is then forgotten. The place in
//! a producer's sequence is kept, so that what it sends meanwhile is counted when it is subscribed to again, also
//! where it has restarted in between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;

use super::{Accepted, Backoff, ProducerInstance, Refusal};
use crate::id::{Digest, PeerId};
use crate::protocol;
use crate::protocol::discovery::EntryVersion;
use crate::time::Instant;
use crate::wire::CloseCode;

/// The most producers whose place in the sequence is kept after they are gone.
const SEEN_MAX: usize = 4_096;

/// A peer that produces the stream, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub peer: PeerId,
    /// Which of its entries names the stream.
    pub version: EntryVersion,
    /// The fingerprint of its datums.
    pub schema: Digest,
    /// Whether the application's predicates accept it.
    pub accepted: bool,
}

/// Names one attempt to subscribe, and the subscription that comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// The part of a producer's sequence that a subscription has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it began.
    pub accepted: Accepted,
    /// The datum that was due when it ended.
    pub next: u64,
}

/// What can happen to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// All peers that produce the stream now, in ascending order.
    CatalogChanged(Vec<Candidate>),
    /// This node's own entry has changed: who refused it may accept it now.
    LocalChanged,
    /// A producer has accepted.
    Subscribed {
        /// The attempt.
        attempt: AttemptId,
        /// Where the subscription begins.
        accepted: Accepted,
    },
    /// A producer has refused.
    Refused {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        refusal: Refusal,
    },
    /// An attempt has failed, or its subscription has ended. A subscription that was given up
    /// ([`Output::Unsubscribe`]) ends with this too, before any other input.
    Lost {
        /// The attempt.
        attempt: AttemptId,
        /// Where the subscription began and ended, whether or not it was told that it has begun;
        /// `None` where it had not.
        span: Option<Span>,
        /// The producer's code, where it has ended the subscription.
        code: Option<CloseCode>,
    },
    /// Datums are missing within a subscription.
    Missing {
        /// The attempt.
        attempt: AttemptId,
        /// How many.
        datums: u64,
    },
    /// The application has dropped the consumer, or the node shuts down.
    Close,
}

/// What a consumer wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Subscribe to a producer.
    Subscribe {
        /// The name of the attempt, never used before.
        attempt: AttemptId,
        /// The producer.
        peer: PeerId,
    },
    /// Give up an attempt, or end its subscription.
    Unsubscribe(AttemptId),
    /// Tell the application.
    Event(Event),
}

/// What an application may want to know of its consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Datums of a producer will arrive.
    Subscribed {
        /// The producer.
        peer: PeerId,
    },
    /// No more datums of a producer will arrive, for now at least.
    Unsubscribed {
        /// The producer.
        peer: PeerId,
        /// The producer's code, where it has ended the subscription.
        code: Option<CloseCode>,
    },
    /// A producer has refused this consumer. It will be asked again, later and later.
    Refused {
        /// The producer.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// Datums of a producer are missing: it has sent them while this consumer was not subscribed, or was too
    /// slow, or they cannot be decoded. Where a producer has restarted, what it sent since is counted, and what was
    /// missing of its earlier life when that ended cannot be.
    Lagged {
        /// The producer.
        peer: PeerId,
        /// How many datums are missing.
        datums: u64,
    },
}

/// Where a consumer stands with one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being asked.
    Connecting,
    /// Its datums arrive.
    Subscribed,
    /// It could not be reached, has ended the subscription, or has refused: it is asked again at `until`.
    BackingOff {
        /// When it is asked again.
        until: Instant,
        /// Why it has refused, where it has.
        refusal: Option<Refusal>,
    },
    /// Its entry says that its datums are of another type: it is not asked until the entry changes.
    Unsuitable(Refusal),
}

#[derive(Debug)]
struct Producer {
    version: EntryVersion,
    /// Whether the catalog names it. If not, only the subscription that is there is kept.
    named: bool,
    /// `None` where it is named, but not accepted.
    link: Option<Link>,
    failures: u32,
}

/// The life of a producer whose datums were received last, and the datum of it that is due.
#[derive(Clone, Copy, Debug)]
struct Seen {
    instance: ProducerInstance,
    next: u64,
}

#[derive(Debug)]
enum Link {
    Connecting(AttemptId),
    Subscribed {
        attempt: AttemptId,
        since: Instant,
    },
    BackingOff {
        until: Instant,
        refusal: Option<Refusal>,
    },
    Unsuitable(Refusal),
}

/// The machine of one consumer. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    schema: Digest,
    backoff: Backoff,
    rng: ChaCha8Rng,
    producers: BTreeMap<PeerId, Producer>,
    attempts: BTreeMap<AttemptId, PeerId>,
    /// Subscriptions that were given up, and where they ended is not known yet.
    leaving: BTreeMap<AttemptId, PeerId>,
    /// What was received of whom, also of producers that are gone: they may come back.
    seen: BTreeMap<PeerId, Seen>,
    /// The ends of all back-offs.
    deadlines: BTreeSet<(Instant, PeerId)>,
    next_attempt: u64,
    closed: bool,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A consumer of datums with the fingerprint `schema`, which knows of no producer yet.
    #[must_use]
    pub const fn new(schema: Digest, backoff: Backoff, rng: ChaCha8Rng) -> Self {
        Self {
            schema,
            backoff,
            rng,
            producers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            leaving: BTreeMap::new(),
            seen: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_attempt: 0,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// The producers that are named and accepted, or subscribed to, and where the consumer stands with each.
    pub fn producers(&self) -> impl Iterator<Item = (PeerId, State)> + '_ {
        self.producers.iter().filter_map(|(&peer, producer)| {
            let state = match producer.link.as_ref()? {
                Link::Connecting(_) => State::Connecting,
                Link::Subscribed { .. } => State::Subscribed,
                Link::BackingOff { until, refusal } => State::BackingOff {
                    until: *until,
                    refusal: refusal.clone(),
                },
                Link::Unsuitable(refusal) => State::Unsuitable(refusal.clone()),
            };
            Some((peer, state))
        })
    }

    fn catalog_changed(&mut self, candidates: Vec<Candidate>) {
        let named: BTreeSet<PeerId> = candidates.iter().map(|candidate| candidate.peer).collect();
        let gone: Vec<PeerId> = self
            .producers
            .keys()
            .filter(|peer| !named.contains(peer))
            .copied()
            .collect();
        for peer in gone {
            match self.producers.get_mut(&peer) {
                Some(producer) if matches!(producer.link, Some(Link::Subscribed { .. })) => {
                    producer.named = false;
                }
                Some(_) | None => {
                    self.leave(peer);
                    self.producers.remove(&peer);
                }
            }
        }
        for Candidate {
            peer,
            version,
            schema,
            accepted,
        } in candidates
        {
            let producer = self.producers.entry(peer).or_insert(Producer {
                version,
                named: true,
                link: None,
                failures: 0,
            });
            let restarted = producer.version.started_at != version.started_at;
            producer.version = version;
            producer.named = true;
            if !accepted {
                self.leave(peer);
            } else if schema != self.schema {
                self.schema_differs(peer, schema);
            } else if self.wants(peer, restarted) {
                self.connect(peer);
            }
        }
    }

    /// Whether to ask a producer that is accepted and of the same type now: it is new, or has changed its type,
    /// or has restarted and is not what failed before.
    fn wants(&self, peer: PeerId, restarted: bool) -> bool {
        match self.producers.get(&peer).map(|producer| &producer.link) {
            Some(None | Some(Link::Unsuitable(_))) => true,
            Some(Some(Link::BackingOff { .. })) => restarted,
            Some(Some(Link::Connecting(_) | Link::Subscribed { .. })) | None => false,
        }
    }

    /// Does not ask a producer whose entry says that it would refuse.
    fn schema_differs(&mut self, peer: PeerId, schema: Digest) {
        let refusal = Refusal::SchemaDiffers {
            producer: schema,
            consumer: self.schema,
        };
        let link = self
            .producers
            .get(&peer)
            .and_then(|producer| producer.link.as_ref());
        if matches!(link, Some(Link::Unsuitable(known)) if *known == refusal) {
            return;
        }
        self.leave(peer);
        self.set_link(peer, Some(Link::Unsuitable(refusal.clone())));
        self.outputs
            .push_back(Output::Event(Event::Refused { peer, refusal }));
    }

    fn connect(&mut self, peer: PeerId) {
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        self.set_link(peer, Some(Link::Connecting(attempt)));
        self.outputs.push_back(Output::Subscribe { attempt, peer });
    }

    /// Ends whatever there is with `peer`.
    fn leave(&mut self, peer: PeerId) {
        match self.set_link(peer, None) {
            Some(Link::Connecting(attempt)) => {
                // It may have begun, and the news of it be on the way.
                self.leaving.insert(attempt, peer);
                self.outputs.push_back(Output::Unsubscribe(attempt));
            }
            Some(Link::Subscribed { attempt, .. }) => {
                self.leaving.insert(attempt, peer);
                self.outputs.push_back(Output::Unsubscribe(attempt));
                self.outputs
                    .push_back(Output::Event(Event::Unsubscribed { peer, code: None }));
            }
            Some(Link::BackingOff { .. } | Link::Unsuitable(_)) | None => {}
        }
    }

    fn back_off(&mut self, now: Instant, peer: PeerId, refusal: Option<Refusal>) {
        let Some(producer) = self.producers.get_mut(&peer) else {
            return;
        };
        producer.failures = match refusal {
            // A difference of types does not go away by asking soon.
            Some(Refusal::SchemaDiffers { .. }) => u32::MAX,
            _ => producer.failures.saturating_add(1),
        };
        let until = now + self.backoff.delay(producer.failures, &mut self.rng);
        self.set_link(peer, Some(Link::BackingOff { until, refusal }));
    }

    /// The only place where a link changes, so that the indexes follow.
    fn set_link(&mut self, peer: PeerId, link: Option<Link>) -> Option<Link> {
        match &link {
            Some(Link::Connecting(attempt) | Link::Subscribed { attempt, .. }) => {
                self.attempts.insert(*attempt, peer);
            }
            Some(Link::BackingOff { until, .. }) => {
                self.deadlines.insert((*until, peer));
            }
            Some(Link::Unsuitable(_)) | None => {}
        }
        let producer = self.producers.get_mut(&peer)?;
        let former = std::mem::replace(&mut producer.link, link);
        let attempt = producer.link.as_ref().and_then(Link::attempt);
        let deadline = producer.link.as_ref().and_then(Link::deadline);
        if let Some(former) = &former {
            if let Some(ended) = former.attempt().filter(|&ended| Some(ended) != attempt) {
                self.attempts.remove(&ended);
            }
            if let Some(past) = former.deadline().filter(|&past| Some(past) != deadline) {
                self.deadlines.remove(&(past, peer));
            }
        }
        former
    }

    fn subscribed(&mut self, now: Instant, attempt: AttemptId, accepted: Accepted) {
        let Some(&peer) = self.attempts.get(&attempt) else {
            return;
        };
        let missing = self.began_at(peer, accepted);
        self.set_link(
            peer,
            Some(Link::Subscribed {
                attempt,
                since: now,
            }),
        );
        self.outputs
            .push_back(Output::Event(Event::Subscribed { peer }));
        self.missing(peer, missing);
    }

    /// Notes where a subscription to `peer` has begun; gives how many datums are missing before it.
    fn began_at(&mut self, peer: PeerId, accepted: Accepted) -> u64 {
        let Accepted { instance, first } = accepted;
        let former = self.seen.insert(
            peer,
            Seen {
                instance,
                next: first,
            },
        );
        let missing = match former {
            // Whoever is met for the first time owes nothing of what it sent before.
            None => 0,
            Some(former) if former.instance == instance => first.saturating_sub(former.next),
            // It has restarted: all that it has sent since is missing.
            Some(_) => first,
        };
        if self.seen.len() > SEEN_MAX {
            let forgotten = self
                .seen
                .keys()
                .find(|peer| !self.producers.contains_key(peer));
            if let Some(forgotten) = forgotten.copied() {
                self.seen.remove(&forgotten);
            }
        }
        missing
    }

    /// Notes what a subscription to `peer` has received.
    fn ended_at(&mut self, peer: PeerId, span: Option<Span>) {
        let Some(Span { accepted, next }) = span else {
            return;
        };
        // Nothing is missing where its beginning was told before.
        let missing = self.began_at(peer, accepted);
        self.missing(peer, missing);
        if let Some(seen) = self.seen.get_mut(&peer) {
            seen.next = next;
        }
    }

    fn missing(&mut self, peer: PeerId, datums: u64) {
        if datums > 0 {
            self.outputs
                .push_back(Output::Event(Event::Lagged { peer, datums }));
        }
    }

    fn lost(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        span: Option<Span>,
        code: Option<CloseCode>,
    ) {
        if let Some(peer) = self.leaving.remove(&attempt) {
            self.ended_at(peer, span);
            return;
        }
        let Some(&peer) = self.attempts.get(&attempt) else {
            return;
        };
        self.ended_at(peer, span);
        let Some(producer) = self.producers.get_mut(&peer) else {
            return;
        };
        if let Some(Link::Subscribed { since, .. }) = producer.link {
            // A producer that accepts and drops at once, time after time, is asked less and less often.
            if now.since(since) >= self.backoff.max() {
                producer.failures = 0;
            }
            self.outputs
                .push_back(Output::Event(Event::Unsubscribed { peer, code }));
        }
        if producer.named {
            self.back_off(now, peer, None);
        } else {
            self.set_link(peer, None);
            self.producers.remove(&peer);
        }
    }
}

impl Link {
    const fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Connecting(attempt) | Self::Subscribed { attempt, .. } => Some(*attempt),
            Self::BackingOff { .. } | Self::Unsuitable(_) => None,
        }
    }

    const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::BackingOff { until, .. } => Some(*until),
            Self::Connecting(_) | Self::Subscribed { .. } | Self::Unsuitable(_) => None,
        }
    }
}

impl protocol::Machine for Machine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        if self.closed {
            return;
        }
        match input {
            Input::CatalogChanged(candidates) => self.catalog_changed(candidates),
            Input::LocalChanged => {
                let refused: Vec<PeerId> = self
                    .producers
                    .iter()
                    .filter(|(_, producer)| {
                        matches!(
                            producer.link,
                            Some(Link::BackingOff {
                                refusal: Some(Refusal::Rejected),
                                ..
                            })
                        )
                    })
                    .map(|(&peer, _)| peer)
                    .collect();
                for peer in refused {
                    self.connect(peer);
                }
            }
            Input::Subscribed { attempt, accepted } => self.subscribed(now, attempt, accepted),
            Input::Refused { attempt, refusal } => {
                if let Some(&peer) = self.attempts.get(&attempt) {
                    let event = Event::Refused {
                        peer,
                        refusal: refusal.clone(),
                    };
                    self.outputs.push_back(Output::Event(event));
                    self.back_off(now, peer, Some(refusal));
                }
            }
            Input::Lost {
                attempt,
                span,
                code,
            } => self.lost(now, attempt, span, code),
            Input::Missing { attempt, datums } => {
                if let Some(&peer) = self.attempts.get(&attempt) {
                    self.missing(peer, datums);
                }
            }
            Input::Close => {
                self.closed = true;
                let all: Vec<PeerId> = self.producers.keys().copied().collect();
                for peer in all {
                    self.leave(peer);
                }
                self.producers.clear();
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        // Each turn takes one deadline away: connecting has none.
        while let Some(&(until, peer)) = self.deadlines.first()
            && until <= now
        {
            self.connect(peer);
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadlines
            .first()
            .map(|&(until, _)| (until, "subscribe again"))
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {
        let links = || {
            self.producers
                .iter()
                .filter_map(|(peer, p)| Some((*peer, p.link.as_ref()?)))
        };
        let attempts: BTreeMap<AttemptId, PeerId> = links()
            .filter_map(|(peer, link)| Some((link.attempt()?, peer)))
            .collect();
        assert_eq!(
            attempts, self.attempts,
            "each attempt belongs to one producer"
        );
        let deadlines: BTreeSet<(Instant, PeerId)> = links()
            .filter_map(|(peer, link)| Some((link.deadline()?, peer)))
            .collect();
        assert_eq!(deadlines, self.deadlines, "each back-off has its deadline");
        assert!(
            self.seen.len() <= SEEN_MAX.max(self.producers.len() + 1),
            "memory is bounded"
        );
        assert!(
            self.producers
                .values()
                .all(|producer| producer.named
                    || matches!(producer.link, Some(Link::Subscribed { .. }))),
            "of who is not named there is nothing but a subscription"
        );
        assert!(
            !self.closed || self.producers.is_empty(),
            "a closed consumer has no producers"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Machine as _;
    use rand::SeedableRng;

    use super::*;
    use crate::time::{Duration, WallTime};

    const SCHEMA: Digest = Digest::from_bytes([1; 32]);
    const LIFE: ProducerInstance = ProducerInstance::from_bytes([2; 32]);

    fn machine() -> Machine {
        Machine::new(SCHEMA, Backoff::default(), ChaCha8Rng::seed_from_u64(7))
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
        }
    }

    fn drain(machine: &mut Machine) -> Vec<Output> {
        machine.check_invariants();
        std::iter::from_fn(|| machine.poll_output()).collect()
    }

    fn handle(machine: &mut Machine, now: Instant, input: Input) -> Vec<Output> {
        machine.handle(now, input);
        drain(machine)
    }

    fn named(machine: &mut Machine, now: Instant, candidates: &[Candidate]) -> Vec<Output> {
        handle(machine, now, Input::CatalogChanged(candidates.to_vec()))
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

    #[derive(Clone, Debug)]
    enum Step {
        Named(Vec<(u8, bool, bool, u64)>),
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
        fn one_attempt_per_wanted_producer_and_events_that_agree(steps in steps()) {
            let mut machine = machine();
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
                        machine.handle(now, Input::CatalogChanged(candidates));
                    }
                    Step::Local => machine.handle(now, Input::LocalChanged),
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
                        Output::Event(Event::Refused { .. } | Event::Lagged { .. }) => {}
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
}
