//! Runs the machine of one consumer, and reads from its producers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::condition::{Predicate, Subscribers};
use super::inbox::Inbox;
use super::preference::{self, Preference};
use super::reader::{Reader, Subscription};
use super::roster::{Counters, Line, Roster, SubscriptionState, entry};
use crate::id::PeerId;
use crate::node::connections::Connections;
use crate::node::discovery::{CatalogWatch, Discovery};
use crate::node::driver::{Host, drive};
use crate::node::tasks::Tasks;
use crate::node::watched::Watched;
use crate::protocol::discovery::Catalog;
use crate::protocol::streams::consumer::{
    self as machine, AttemptId, Candidate, Input, Machine, Output, State,
};
use crate::protocol::streams::{Accepted, Refusal, Subscribe};
use crate::runtime::Clock;
use crate::time::Instant;
use crate::wire::CloseCode;

/// What waits for the worker. Readers wait while it is full.
const EVENTS_MAX: usize = 256;

/// All that can happen around the machine.
pub(super) enum Event {
    Catalog(Catalog),
    Waiting {
        attempt: AttemptId,
        max: u64,
    },
    Began {
        attempt: AttemptId,
        accepted: Accepted,
    },
    Refused {
        attempt: AttemptId,
        refusal: Refusal,
    },
    Ended {
        attempt: AttemptId,
        code: Option<CloseCode>,
    },
    Missing {
        attempt: AttemptId,
        datums: u64,
    },
    Close,
}

/// What the worker of a consumer is started with.
pub(super) struct Start {
    pub(super) subscribe: Subscribe,
    pub(super) machine: Machine,
    pub(super) predicates: Vec<Predicate>,
    pub(super) preferences: Vec<Preference>,
    pub(super) online_when: Subscribers,
    pub(super) inbox: Arc<Inbox>,
    pub(super) roster: Arc<Watched<Roster>>,
    pub(super) notices: broadcast::Sender<machine::Event>,
    /// Cancelled when the consumer is to end.
    pub(super) close: CancellationToken,
}

/// Starts the worker.
pub(super) fn start(tasks: &Tasks, connections: &Connections, discovery: &Discovery, start: Start) {
    let (events, queue) = mpsc::channel(EVENTS_MAX);
    let catalog = discovery.catalog_watch();
    tasks.spawn(
        "watch for a consumer",
        watch(start.close, catalog, events.clone()),
    );
    let worker = Worker {
        tasks: tasks.clone(),
        connections: connections.clone(),
        discovery: discovery.clone(),
        subscribe: start.subscribe,
        predicates: start.predicates,
        preferences: start.preferences,
        online_when: start.online_when,
        inbox: start.inbox,
        published: start.roster,
        notices: start.notices,
        events,
        catalog: Catalog::default(),
        named: BTreeSet::new(),
        attempts: BTreeMap::new(),
        counters: BTreeMap::new(),
        since: BTreeMap::new(),
        roster: Roster::default(),
        roster_changed: true,
        changed: BTreeSet::new(),
        follow_ups: VecDeque::new(),
        closed: false,
    };
    let (driver, machine) = (tasks.clone(), start.machine);
    tasks.spawn("consumer", async move {
        drive(&driver, machine, worker, queue).await;
    });
}

/// Passes on what happens elsewhere.
async fn watch(close: CancellationToken, mut catalog: CatalogWatch, events: mpsc::Sender<Event>) {
    let mut event = Event::Catalog(catalog.current());
    loop {
        let is_last = matches!(event, Event::Close);
        if events.send(event).await.is_err() || is_last {
            return;
        }
        event = crate::select! {
            () = close.cancelled() => Event::Close,
            changed = catalog.changed() => match changed {
                Ok(catalog) => Event::Catalog(catalog),
                Err(_) => Event::Close,
            },
        };
    }
}

struct Worker {
    tasks: Tasks,
    connections: Connections,
    discovery: Discovery,
    subscribe: Subscribe,
    predicates: Vec<Predicate>,
    preferences: Vec<Preference>,
    online_when: Subscribers,
    inbox: Arc<Inbox>,
    published: Arc<Watched<Roster>>,
    notices: broadcast::Sender<machine::Event>,
    events: mpsc::Sender<Event>,
    catalog: Catalog,
    /// The peers that produce the stream.
    named: BTreeSet<PeerId>,
    attempts: BTreeMap<AttemptId, Arc<Subscription>>,
    /// Of the producers on the roster.
    counters: BTreeMap<PeerId, Arc<Counters>>,
    since: BTreeMap<PeerId, Instant>,
    roster: Roster,
    roster_changed: bool,
    /// Producers with which the consumer stands otherwise than the roster says.
    changed: BTreeSet<PeerId>,
    follow_ups: VecDeque<Input>,
    closed: bool,
}

impl Host for Worker {
    type Machine = Machine;
    type Event = Event;

    fn input(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Catalog(catalog) => {
                let before = std::mem::replace(&mut self.catalog, catalog);
                let touched = self.catalog.touched_since(&before);
                self.roster_changed |= self.roster.refresh(&self.catalog, &touched);
                if let (Some(before), Some(now)) = (before.local(), self.catalog.local())
                    && !now.says_the_same_as(before)
                {
                    self.follow_ups.push_back(Input::LocalChanged);
                }
                Some(self.catalog_changed(touched))
            }
            Event::Waiting { attempt, max } => Some(Input::Waiting { attempt, max }),
            Event::Began { attempt, accepted } => Some(Input::Subscribed { attempt, accepted }),
            Event::Refused { attempt, refusal } => {
                self.attempts.remove(&attempt);
                Some(Input::Refused { attempt, refusal })
            }
            Event::Ended { attempt, code } => {
                self.attempts.remove(&attempt)?;
                Some(Input::Lost {
                    attempt,
                    span: self.inbox.end(attempt),
                    code,
                })
            }
            Event::Missing { attempt, datums } => Some(Input::Missing { attempt, datums }),
            Event::Close => {
                self.closed = true;
                Some(Input::Close)
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Subscribe { attempt, peer } => self.subscribe(attempt, peer),
            Output::Leave(attempt) => {
                if let Some(subscription) = self.attempts.get(&attempt) {
                    subscription.leave.cancel();
                }
            }
            Output::Review => {
                let catalog = self.discovery.catalog();
                let costs = self.named.iter().filter_map(|peer| {
                    let entry = catalog.get(peer)?;
                    let cost = preference::cost(&self.preferences, entry, catalog.rtt(peer));
                    Some((*peer, cost))
                });
                self.follow_ups.push_back(Input::Reviewed(costs.collect()));
            }
            Output::Changed(peer) => {
                self.changed.insert(peer);
            }
            Output::Unsubscribe(attempt) => {
                if let Some(subscription) = self.attempts.remove(&attempt) {
                    subscription.cancelled.cancel();
                }
                let span = self.inbox.end(attempt);
                self.follow_ups.push_back(Input::Lost {
                    attempt,
                    span,
                    code: None,
                });
            }
            Output::Event(event) => {
                match &event {
                    machine::Event::Subscribed { peer } => {
                        self.since
                            .insert(*peer, Clock::now(&**self.tasks.runtime()));
                    }
                    machine::Event::Unsubscribed { peer, .. } => {
                        self.since.remove(peer);
                    }
                    machine::Event::Lagged { peer, datums } => {
                        self.counters(*peer)
                            .missing
                            .fetch_add(*datums, Ordering::Relaxed);
                    }
                    machine::Event::Refused { .. } | machine::Event::Waiting { .. } => {}
                }
                tracing::debug!(stream = %self.subscribe.stream.short(), ?event, "consumer");
                // Fails only where nobody listens.
                let _ = self.notices.send(event);
            }
        }
    }

    fn follow_up(&mut self) -> Option<Input> {
        self.follow_ups.pop_front()
    }

    fn end_turn(&mut self, machine: &Machine) -> ControlFlow<()> {
        if std::mem::take(&mut self.roster_changed) || !self.changed.is_empty() {
            self.publish(machine);
        }
        if self.closed {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Worker {
    /// What is new of these peers, for the machine.
    fn catalog_changed(&mut self, touched: BTreeSet<PeerId>) -> Input {
        let (mut named, mut gone, mut far) = (Vec::new(), Vec::new(), Vec::new());
        for peer in touched {
            match self.candidate(&peer) {
                Some(candidate) => {
                    self.named.insert(peer);
                    named.push(candidate);
                }
                None if !self.named.remove(&peer) => {}
                None if self.catalog.is_far(&peer) => far.push(peer),
                None => gone.push(peer),
            }
        }
        Input::CatalogChanged { named, gone, far }
    }

    /// `peer` as a producer, if it is one. A node does not consume what it produces itself.
    fn candidate(&self, peer: &PeerId) -> Option<Candidate> {
        if *peer == self.discovery.local_id() {
            return None;
        }
        let entry = self.catalog.get(peer)?;
        let info = entry.streams().get(&self.subscribe.stream)?;
        Some(Candidate {
            peer: *peer,
            version: entry.version(),
            schema: info.schema,
            accepted: self.predicates.iter().all(|predicate| predicate(entry)),
            cost: preference::cost(&self.preferences, entry, self.catalog.rtt(peer)),
        })
    }

    fn counters(&mut self, peer: PeerId) -> &Arc<Counters> {
        self.counters.entry(peer).or_default()
    }

    fn subscribe(&mut self, attempt: AttemptId, peer: PeerId) {
        let subscription = Arc::new(Subscription::new(
            attempt,
            peer,
            self.counters(peer).clone(),
        ));
        self.attempts.insert(attempt, subscription.clone());
        let reader = Reader {
            tasks: self.tasks.clone(),
            connections: self.connections.clone(),
            subscribe: self.subscribe.clone(),
            subscription,
            inbox: self.inbox.clone(),
            events: self.events.clone(),
        };
        self.tasks.spawn("stream reader", reader.run());
    }

    /// Shows the application how it goes with each producer.
    fn publish(&mut self, machine: &Machine) {
        for peer in std::mem::take(&mut self.changed) {
            let Some(state) = machine.state(&peer) else {
                self.roster.remove(&(peer, 0));
                self.counters.remove(&peer);
                continue;
            };
            let state = match state {
                State::Standby => SubscriptionState::Standby,
                State::Connecting => SubscriptionState::Connecting,
                State::Waiting => SubscriptionState::Waiting,
                State::Subscribed => SubscriptionState::Subscribed,
                State::Leaving => SubscriptionState::Leaving,
                State::BackingOff { .. } => SubscriptionState::BackingOff,
                State::Unsuitable(_) => SubscriptionState::Unsuitable,
            };
            let line = Line {
                entry: entry(&self.catalog, &peer),
                state,
                since: self.since.get(&peer).copied(),
                counters: self.counters(peer).clone(),
            };
            self.roster.set((peer, 0), line);
        }
        let online = !self.closed && self.online_when.is_met(&self.roster);
        self.roster.set_online(online);
        self.published.set(self.roster.clone());
    }
}

impl Drop for Worker {
    /// Also where the node ends before the consumer does.
    fn drop(&mut self) {
        for subscription in self.attempts.values() {
            subscription.cancelled.cancel();
        }
        self.inbox.close();
        self.published.set(Roster::default());
    }
}
