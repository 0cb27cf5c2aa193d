//! The consumer's side: which producers to subscribe to, and when to try again.
//!
//! The worker hands in the producers that the catalog names, each with the verdict of the application's
//! predicates, and what becomes of each attempt. The machine keeps one subscription to each producer that
//! is named and accepted, or to the best so many of them, and none to any other. For each producer:
//!
//! ```text
//!                            +--> Waiting --+
//!               it is wanted |              | Subscribed
//!   named --> Standby --> Connecting -------+------> Subscribed --> Leaving
//!               ^  ^         |                           |   a better one |
//!      the time |  |         | Refused, Lost        Lost |  is subscribed |
//!      has come |  |         v                           |                |
//!               |  +-------------------------------------|----------------+
//!               +------- BackingOff <--------------------+       Lost
//! ```
//!
//! Where a consumer wants no more than so many producers, it takes those of the lowest [`Cost`]. It goes over to
//! another one only where that has been better by a margin twice in a row, when it looks from time to time; it
//! subscribes there before it leaves the one it had, and lets that send what it has taken in by then. A producer that
//! is lost, or lets it wait, is replaced at once.
//!
//! A producer that is no longer accepted is unsubscribed from, whatever the state. One that is no longer named is
//! not: it is about to end, and will say so once it has sent what it has; it is then forgotten. The place in
//! a producer's sequence is kept, so that what it sends meanwhile is counted when it is subscribed to again, also
//! where it has restarted in between.

mod cost;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Accepted, Backoff, ProducerInstance, Refusal};
use crate::id::{Digest, PeerId};
use crate::protocol;
use crate::protocol::discovery::EntryVersion;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

pub use cost::{Cost, Part};

/// The most producers whose place in the sequence is kept after they are gone.
const SEEN_MAX: usize = 4_096;
/// How often a consumer that wants only some of the producers looks for better ones.
pub const REVIEW_EVERY: Duration = Duration::from_secs(5);
/// How long a producer that is left is given to send what it has taken in.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a consumer chooses and asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// When a producer that has failed or refused is asked again.
    pub backoff: Backoff,
    /// The most producers to subscribe to; `None`, which is the default, for all. Zero counts as one.
    pub max_producers: Option<usize>,
}

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
    /// What speaks against it.
    pub cost: Cost,
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
    /// What the catalog says of some peers has changed.
    CatalogChanged {
        /// Peers that produce the stream now.
        named: Vec<Candidate>,
        /// Peers that do not, any more.
        gone: Vec<PeerId>,
        /// Peers that are too far away, whatever they produce.
        far: Vec<PeerId>,
    },
    /// What speaks against each producer now: the answer to [`Output::Review`].
    Reviewed(BTreeMap<PeerId, Cost>),
    /// This node's own entry has changed: who refused it may accept it now.
    LocalChanged,
    /// A producer has no place free, and lets the consumer wait for one.
    Waiting {
        /// The attempt.
        attempt: AttemptId,
        /// The most consumers that it may have.
        max: u64,
    },
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
    /// Ask the producer to end a subscription once it has sent what it has taken in so far.
    Leave(AttemptId),
    /// Say what speaks against each producer, with [`Input::Reviewed`].
    Review,
    /// Where the consumer stands with this producer is not what it was.
    Changed(PeerId),
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
    /// A producer has no place free. The consumer waits for one there, in turn with others.
    Waiting {
        /// The producer.
        peer: PeerId,
        /// The most consumers that it may have.
        max: u64,
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
    ///
    /// Datums that the consumer's criteria pass over are not missing. What was sent while it was not subscribed is
    /// counted whether or not its criteria would have chosen it: nobody has asked them. So is what they passed over
    /// right before a subscription ended, since a producer says that something was passed over with the next datum that
    /// is not.
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
    /// It is not asked, since there are enough others.
    Standby,
    /// It is being asked.
    Connecting,
    /// It has no place free, and has let the consumer wait for one.
    Waiting,
    /// Its datums arrive.
    Subscribed,
    /// Its last datums arrive: it was asked to end the subscription, since there are better ones.
    Leaving,
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
    cost: Cost,
    /// Drawn at random, so that consumers to whom producers are equal do not all choose the same.
    lot: u64,
}

/// The life of a producer whose datums were received last, and the datum of it that is due.
#[derive(Clone, Copy, Debug)]
struct Seen {
    instance: ProducerInstance,
    next: u64,
}

#[derive(Debug)]
enum Link {
    Standby,
    Connecting(AttemptId),
    Waiting(AttemptId),
    Subscribed {
        attempt: AttemptId,
        since: Instant,
    },
    Leaving {
        attempt: AttemptId,
        until: Instant,
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
    config: Config,
    rng: ChaCha8Rng,
    producers: BTreeMap<PeerId, Producer>,
    /// Those on standby.
    standby: BTreeSet<PeerId>,
    attempts: BTreeMap<AttemptId, PeerId>,
    /// Subscriptions that were given up, and where they ended is not known yet.
    leaving: BTreeMap<AttemptId, PeerId>,
    /// What was received of whom, also of producers that are gone: they may come back.
    seen: BTreeMap<PeerId, Seen>,
    /// The ends of all back-offs, and when those who are left have to have ended.
    deadlines: BTreeSet<(Instant, PeerId)>,
    /// When to look for better producers, where there are any to choose from.
    review_at: Option<Instant>,
    /// Who was found to be better than whom in the last review.
    better: Option<(PeerId, PeerId)>,
    next_attempt: u64,
    closed: bool,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A consumer of datums with the fingerprint `schema`, which knows of no producer yet.
    #[must_use]
    pub const fn new(schema: Digest, config: Config, rng: ChaCha8Rng) -> Self {
        Self {
            schema,
            config,
            rng,
            producers: BTreeMap::new(),
            standby: BTreeSet::new(),
            attempts: BTreeMap::new(),
            leaving: BTreeMap::new(),
            seen: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            review_at: None,
            better: None,
            next_attempt: 0,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// The producers that are named and accepted, or subscribed to, and where the consumer stands with each.
    pub fn producers(&self) -> impl Iterator<Item = (PeerId, State)> + '_ {
        let peers = self.producers.keys().copied();
        peers.filter_map(|peer| Some((peer, self.state(&peer)?)))
    }

    /// Where the consumer stands with `peer`; `None` where it has nothing to do with it.
    #[must_use]
    pub fn state(&self, peer: &PeerId) -> Option<State> {
        Some(match self.producers.get(peer)?.link.as_ref()? {
            Link::Standby => State::Standby,
            Link::Connecting(_) => State::Connecting,
            Link::Waiting(_) => State::Waiting,
            Link::Subscribed { .. } => State::Subscribed,
            Link::Leaving { .. } => State::Leaving,
            Link::BackingOff { until, refusal } => State::BackingOff {
                until: *until,
                refusal: refusal.clone(),
            },
            Link::Unsuitable(refusal) => State::Unsuitable(refusal.clone()),
        })
    }

    /// What it has sent is not to be lost because the news of its end were faster.
    fn gone(&mut self, peer: PeerId) {
        match self.producers.get_mut(&peer) {
            Some(producer)
                if matches!(
                    producer.link,
                    Some(Link::Subscribed { .. } | Link::Leaving { .. })
                ) =>
            {
                producer.named = false;
            }
            Some(_) => {
                self.leave(peer);
                self.producers.remove(&peer);
            }
            None => {}
        }
    }

    fn named(&mut self, candidate: Candidate) {
        let Candidate {
            peer,
            version,
            schema,
            accepted,
            cost,
        } = candidate;
        let lot = &mut self.rng;
        let producer = self.producers.entry(peer).or_insert_with(|| Producer {
            version,
            named: true,
            link: None,
            failures: 0,
            cost: Cost::default(),
            lot: lot.random(),
        });
        let restarted = producer.version.started_at != version.started_at;
        producer.version = version;
        producer.named = true;
        producer.cost = cost;
        if !accepted {
            self.leave(peer);
        } else if schema != self.schema {
            self.schema_differs(peer, schema);
        } else if self.is_worth_asking(peer, restarted) {
            self.set_link(peer, Some(Link::Standby));
        }
    }

    /// Whether a producer that is accepted and of the same type now can be asked: it is new, or has changed its type,
    /// or has restarted and is not what failed before.
    fn is_worth_asking(&self, peer: PeerId, restarted: bool) -> bool {
        match self.producers.get(&peer).map(|producer| &producer.link) {
            Some(None | Some(Link::Unsuitable(_))) => true,
            Some(Some(Link::BackingOff { .. })) => restarted,
            Some(Some(
                Link::Standby
                | Link::Connecting(_)
                | Link::Waiting(_)
                | Link::Subscribed { .. }
                | Link::Leaving { .. },
            ))
            | None => false,
        }
    }

    fn max_producers(&self) -> usize {
        self.config
            .max_producers
            .map_or(usize::MAX, |max| max.max(1))
    }

    /// Asks as many of those on standby as are wanted, the best first.
    fn fill(&mut self, now: Instant) {
        let wanted = match self.config.max_producers {
            // Counting takes time in proportion to them.
            None => Some(usize::MAX),
            Some(_) => self.max_producers().checked_sub(self.used().count()),
        };
        let Some(wanted) = wanted else {
            return;
        };
        let mut standby: Vec<PeerId> = self.standby.iter().copied().collect();
        if standby.len() > wanted {
            standby.sort_by(|one, other| self.prefer(one, other));
            standby.truncate(wanted);
        }
        for peer in standby {
            self.connect(peer);
        }
        let has_cost = |peer| {
            let producer: Option<&Producer> = self.producers.get(peer);
            producer.is_some_and(|producer| !producer.cost.0.is_empty())
        };
        let can_choose = !self.attempts.is_empty() && self.standby.iter().any(has_cost);
        self.review_at = match self.review_at {
            _ if !can_choose => None,
            None => Some(now + REVIEW_EVERY),
            at => at,
        };
    }

    /// The producers that count among those that are wanted. Who lets the consumer wait does not, nor who is about to
    /// end.
    fn used(&self) -> impl Iterator<Item = PeerId> {
        self.attempts.values().copied().filter(|peer| {
            self.producers.get(peer).is_some_and(|producer| {
                let link = producer.link.as_ref();
                producer.named
                    && matches!(link, Some(Link::Connecting(_) | Link::Subscribed { .. }))
            })
        })
    }

    fn prefer(&self, one: &PeerId, other: &PeerId) -> std::cmp::Ordering {
        match (self.producers.get(one), self.producers.get(other)) {
            (Some(one), Some(other)) => {
                let order = one.cost.compare(&other.cost);
                order.then(one.lot.cmp(&other.lot))
            }
            _ => one.cmp(other),
        }
    }

    /// Goes over to a better producer, if the last review has found the same.
    fn reviewed(&mut self, costs: BTreeMap<PeerId, Cost>) {
        for (peer, cost) in costs {
            if let Some(producer) = self.producers.get_mut(&peer) {
                producer.cost = cost;
            }
        }
        let before = self.better.take();
        let used: Vec<PeerId> = self.used().collect();
        let is_settled = used.iter().all(|peer| self.is_subscribed(peer));
        let worst = used.iter().max_by(|one, other| self.prefer(one, other));
        let best = self
            .standby
            .iter()
            .min_by(|one, other| self.prefer(one, other));
        let (Some(&worst), Some(&best)) = (worst, best) else {
            return;
        };
        let cost = |peer| self.producers.get(&peer).map(|producer| &producer.cost);
        let is_better = match (cost(best), cost(worst)) {
            (Some(best), Some(worst)) => best.is_clearly_below(worst),
            _ => false,
        };
        if !is_better || !is_settled {
            return;
        }
        if before == Some((best, worst)) {
            // One more than is wanted, until it is subscribed.
            self.connect(best);
        } else {
            self.better = Some((best, worst));
        }
    }

    fn is_subscribed(&self, peer: &PeerId) -> bool {
        let link = self
            .producers
            .get(peer)
            .and_then(|producer| producer.link.as_ref());
        matches!(link, Some(Link::Subscribed { .. }))
    }

    /// Leaves those that are not wanted any more, now that there are others.
    fn leave_surplus(&mut self, now: Instant) {
        if self.config.max_producers.is_none() {
            return;
        }
        let mut subscribed: Vec<PeerId> = self
            .used()
            .filter(|peer| self.is_subscribed(peer))
            .collect();
        let max = self.max_producers();
        if subscribed.len() <= max {
            return;
        }
        subscribed.sort_by(|one, other| self.prefer(one, other));
        for peer in subscribed.split_off(max) {
            let link = self
                .producers
                .get(&peer)
                .and_then(|producer| producer.link.as_ref());
            if let Some(attempt) = link.and_then(Link::attempt) {
                let until = now + LEAVE_TIMEOUT;
                self.set_link(peer, Some(Link::Leaving { attempt, until }));
                self.outputs.push_back(Output::Leave(attempt));
            }
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
            Some(Link::Connecting(attempt) | Link::Waiting(attempt)) => {
                // It may have begun, and the news of it be on the way.
                self.leaving.insert(attempt, peer);
                self.outputs.push_back(Output::Unsubscribe(attempt));
            }
            Some(Link::Subscribed { attempt, .. } | Link::Leaving { attempt, .. }) => {
                self.leaving.insert(attempt, peer);
                self.outputs.push_back(Output::Unsubscribe(attempt));
                self.outputs
                    .push_back(Output::Event(Event::Unsubscribed { peer, code: None }));
            }
            Some(Link::Standby | Link::BackingOff { .. } | Link::Unsuitable(_)) | None => {}
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
        let until = now + self.config.backoff.delay(producer.failures, &mut self.rng);
        self.set_link(peer, Some(Link::BackingOff { until, refusal }));
    }

    /// The only place where a link changes, so that the indexes follow.
    fn set_link(&mut self, peer: PeerId, link: Option<Link>) -> Option<Link> {
        let producer = self.producers.get_mut(&peer)?;
        let former = std::mem::replace(&mut producer.link, link);
        if let Some(former) = &former {
            if let Some(attempt) = former.attempt() {
                self.attempts.remove(&attempt);
            }
            if let Some(deadline) = former.deadline() {
                self.deadlines.remove(&(deadline, peer));
            }
            if matches!(former, Link::Standby) {
                self.standby.remove(&peer);
            }
        }
        if let Some(link) = &producer.link {
            if let Some(attempt) = link.attempt() {
                self.attempts.insert(attempt, peer);
            }
            if let Some(deadline) = link.deadline() {
                self.deadlines.insert((deadline, peer));
            }
            if matches!(link, Link::Standby) {
                self.standby.insert(peer);
            }
        }
        self.outputs.push_back(Output::Changed(peer));
        former
    }

    fn waiting(&mut self, attempt: AttemptId, max: u64) {
        if let Some(&peer) = self.attempts.get(&attempt) {
            self.set_link(peer, Some(Link::Waiting(attempt)));
            self.outputs
                .push_back(Output::Event(Event::Waiting { peer, max }));
        }
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
        let named = producer.named;
        let mut failed = true;
        match producer.link {
            Some(Link::Subscribed { since, .. }) => {
                // A producer that accepts and drops at once, time after time, is asked less and less often.
                if now.since(since) >= self.config.backoff.max() {
                    producer.failures = 0;
                }
                self.outputs
                    .push_back(Output::Event(Event::Unsubscribed { peer, code }));
            }
            Some(Link::Leaving { .. }) => {
                // This side has ended it.
                failed = false;
                let code = None;
                self.outputs
                    .push_back(Output::Event(Event::Unsubscribed { peer, code }));
            }
            _ => {}
        }
        if !named {
            self.set_link(peer, None);
            self.producers.remove(&peer);
        } else if failed {
            self.back_off(now, peer, None);
        } else {
            self.set_link(peer, Some(Link::Standby));
        }
    }
}

impl Link {
    const fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Connecting(attempt)
            | Self::Waiting(attempt)
            | Self::Subscribed { attempt, .. }
            | Self::Leaving { attempt, .. } => Some(*attempt),
            Self::Standby | Self::BackingOff { .. } | Self::Unsuitable(_) => None,
        }
    }

    const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::BackingOff { until, .. } | Self::Leaving { until, .. } => Some(*until),
            Self::Standby
            | Self::Connecting(_)
            | Self::Waiting(_)
            | Self::Subscribed { .. }
            | Self::Unsuitable(_) => None,
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
            Input::CatalogChanged { named, gone, far } => {
                gone.into_iter().for_each(|peer| self.gone(peer));
                for peer in far {
                    self.leave(peer);
                    self.producers.remove(&peer);
                }
                named
                    .into_iter()
                    .for_each(|candidate| self.named(candidate));
            }
            Input::Reviewed(costs) => self.reviewed(costs),
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
                    self.set_link(peer, Some(Link::Standby));
                }
            }
            Input::Waiting { attempt, max } => self.waiting(attempt, max),
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
                self.review_at = None;
                return;
            }
        }
        // A producer that was about to end may have stayed, so that there is one too many without a new one.
        self.leave_surplus(now);
        self.fill(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        // Each turn takes one deadline away: no link that is set here has one.
        while let Some(&(until, peer)) = self.deadlines.first()
            && until <= now
        {
            let link = self
                .producers
                .get(&peer)
                .and_then(|producer| producer.link.as_ref());
            if matches!(link, Some(Link::Leaving { .. })) {
                self.leave(peer);
            }
            if self
                .producers
                .get(&peer)
                .is_some_and(|producer| producer.named)
            {
                self.set_link(peer, Some(Link::Standby));
            } else {
                self.producers.remove(&peer);
            }
        }
        if self.review_at.is_some_and(|at| at <= now) {
            self.review_at = Some(now + REVIEW_EVERY);
            self.outputs.push_back(Output::Review);
        }
        self.fill(now);
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.deadlines.first().map(|&(until, _)| until);
        let deadline = deadline.map(|until| (until, "subscribe again"));
        let review = self.review_at.map(|at| (at, "look for better producers"));
        deadline.into_iter().chain(review).min()
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
            self.producers.values().all(|producer| producer.named
                || matches!(
                    producer.link,
                    Some(Link::Subscribed { .. } | Link::Leaving { .. })
                )),
            "of who is not named there is nothing but a subscription"
        );
        assert!(
            links()
                .filter(|(_, link)| matches!(link, Link::Standby))
                .map(|(peer, _)| peer)
                .eq(self.standby.iter().copied()),
            "those on standby are known"
        );
        let subscribed = self.used().filter(|peer| self.is_subscribed(peer)).count();
        assert!(
            subscribed <= self.max_producers(),
            "no more are subscribed to than are wanted"
        );
        assert!(
            self.standby.is_empty() || self.used().count() >= self.max_producers(),
            "nobody is on standby who is wanted"
        );
        assert!(
            !self.closed || self.producers.is_empty(),
            "a closed consumer has no producers"
        );
    }
}
