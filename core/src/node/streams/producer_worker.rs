//! Runs the machine of one producer, and writes to its consumers.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::answer::Answer;
use super::condition::{Predicate, Subscribers};
use super::handle::Streams;
use super::producer::Core;
use super::roster::{Counters, Key, Line, Roster, SubscriptionState, entry};
use super::writer::{End, Grant, Verdict, serve, wait};
use crate::id::{PeerId, UniqueId};
use crate::node::connections::Lease;
use crate::node::discovery::{CatalogWatch, Discovery};
use crate::node::driver::{Host, drive};
use crate::node::framed::FrameReader;
use crate::node::tasks::Tasks;
use crate::protocol::discovery::Catalog;
use crate::protocol::streams::producer::{self as machine, Input, Machine, Output, SubscriptionId};
use crate::protocol::streams::{Accepted, Refusal, Reply, Subscribe};
use crate::runtime::Clock;
use crate::time::Duration;
use crate::wire::CloseCode;

/// What waits for the worker. Beyond it, who asks for a subscription waits.
const EVENTS_MAX: usize = 256;
/// How long a peer is given to take a refusal, or the end of a stream.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// All that can happen around the machine.
pub(super) enum Event {
    Request(Request),
    Ended(SubscriptionId),
    Leave(SubscriptionId),
    Catalog(Catalog),
    QueueFull,
    Retire,
}

/// A consumer that asks for a subscription.
pub(super) struct Request {
    pub(super) peer: PeerId,
    pub(super) subscribe: Subscribe,
    pub(super) lease: Arc<Lease>,
    pub(super) answer: Answer,
    /// Where the consumer says that it leaves.
    pub(super) frames: FrameReader,
    /// Counts it among those that are not answered yet.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Request {
    /// Tells the consumer why it cannot subscribe.
    pub(super) async fn refuse(mut self, refusal: Refusal, tasks: &Tasks) {
        let told = async {
            self.answer.reply(&Reply::Refused(refusal)).await?;
            self.answer.send.finish();
            poll_fn(|cx| self.answer.send.poll_stopped(cx)).await
        };
        // Where it cannot be told, it finds out by itself.
        let _ = tasks.timeout(FAREWELL_TIMEOUT, "refusal", told).await;
        drop((self.permit, self.lease));
    }
}

/// What the worker of a producer is started with.
pub(super) struct Start {
    pub(super) core: Arc<Core>,
    pub(super) machine: Machine,
    pub(super) predicates: Vec<Predicate>,
    pub(super) online_when: Subscribers,
    /// Tells this producer from a later one of the same stream.
    pub(super) generation: u64,
    pub(super) streams: Streams,
}

/// Starts the worker; gives the way to hand in requests.
pub(super) fn start(tasks: &Tasks, discovery: &Discovery, start: Start) -> mpsc::Sender<Event> {
    let (events, queue) = mpsc::channel(EVENTS_MAX);
    let Start {
        core,
        machine,
        predicates,
        online_when,
        generation,
        streams,
    } = start;
    tasks.spawn(
        "watch for a producer",
        watch(core.clone(), discovery.catalog_watch(), events.clone()),
    );
    let online = online_when.is_met(&Roster::default());
    core.fanout.set_online(online);
    let worker = Worker {
        tasks: tasks.clone(),
        core,
        streams,
        generation,
        predicates,
        online_when,
        catalog: discovery.catalog(),
        events: events.clone(),
        requests: BTreeMap::new(),
        waiting: BTreeMap::new(),
        live: BTreeMap::new(),
        finishing: Vec::new(),
        leaving: Vec::new(),
        next_id: 0,
        roster: Roster::default(),
        roster_changed: true,
        follow_ups: VecDeque::new(),
        draining: false,
        ended: false,
    };
    let driver = tasks.clone();
    tasks.spawn("producer", async move {
        drive(&driver, machine, worker, queue).await;
    });
    events
}

/// Passes on what happens elsewhere.
async fn watch(core: Arc<Core>, mut catalog: CatalogWatch, events: mpsc::Sender<Event>) {
    loop {
        let event = crate::select! {
            () = core.retire.cancelled() => Event::Retire,
            () = core.fanout.full.notified() => Event::QueueFull,
            changed = catalog.changed() => match changed {
                Ok(catalog) => Event::Catalog(catalog),
                Err(_) => Event::Retire,
            },
        };
        let is_last = matches!(event, Event::Retire);
        if events.send(event).await.is_err() || is_last {
            return;
        }
    }
}

/// A subscription that is being written to.
struct Live {
    peer: PeerId,
    end: Arc<End>,
}

/// A consumer that waits for a place.
struct Waiting {
    peer: PeerId,
    subscribe: Subscribe,
    verdict: oneshot::Sender<Verdict>,
}

struct Worker {
    tasks: Tasks,
    core: Arc<Core>,
    streams: Streams,
    generation: u64,
    predicates: Vec<Predicate>,
    online_when: Subscribers,
    catalog: Catalog,
    events: mpsc::Sender<Event>,
    /// Requests that the machine has not answered yet.
    requests: BTreeMap<SubscriptionId, Request>,
    /// Those who wait for a place.
    waiting: BTreeMap<SubscriptionId, Waiting>,
    live: BTreeMap<SubscriptionId, Live>,
    /// Subscriptions that are to end, once they have got what is queued, since this turn.
    finishing: Vec<SubscriptionId>,
    /// Subscriptions that have ended in this turn, and still have their place in the queue.
    leaving: Vec<SubscriptionId>,
    next_id: u64,
    roster: Roster,
    roster_changed: bool,
    follow_ups: VecDeque<Input>,
    draining: bool,
    ended: bool,
}

impl Host for Worker {
    type Machine = Machine;
    type Event = Event;

    fn input(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Request(request) => {
                let id = SubscriptionId(self.next_id);
                self.next_id += 1;
                let input = Input::Subscribe {
                    id,
                    peer: request.peer,
                    request: request.subscribe.clone(),
                    accepted: self.accepts(&request.peer),
                };
                self.requests.insert(id, request);
                Some(input)
            }
            Event::Ended(id) => {
                self.waiting.remove(&id);
                self.live.remove(&id);
                self.leaving.push(id);
                Some(Input::Ended(id))
            }
            Event::Leave(id) => Some(Input::Leave(id)),
            Event::Catalog(catalog) => {
                let before = std::mem::replace(&mut self.catalog, catalog);
                let touched = self.catalog.touched_since(&before);
                self.roster_changed |= self.roster.refresh(&self.catalog, &touched);
                if self.predicates.is_empty() {
                    return None;
                }
                let waiting = self.waiting.values().map(|waiting| waiting.peer);
                let peers = self.live.values().map(|live| live.peer).chain(waiting);
                let peers = peers.filter(|peer| touched.contains(peer));
                Some(Input::Verdicts(
                    peers.map(|peer| (peer, self.accepts(&peer))).collect(),
                ))
            }
            Event::QueueFull => Some(Input::QueueFull),
            Event::Retire => Some(Input::Retire),
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Accept { id, instance } => self.accept(id, instance),
            Output::Wait { id, max } => self.let_wait(id, max),
            Output::Finish(id) => {
                // Who leaves is not sent to any more, so it counts no more.
                if let Some(live) = self.live.get(&id) {
                    self.roster.remove(&key(live.peer, id));
                    self.roster_changed = true;
                    self.finishing.push(id);
                }
            }
            Output::Refuse { id, refusal } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    // Fails where it has just left.
                    let _ = waiting.verdict.send(Verdict::Refused(refusal));
                } else if let Some(request) = self.requests.remove(&id) {
                    let tasks = self.tasks.clone();
                    self.tasks.spawn("refuse", async move {
                        request.refuse(refusal, &tasks).await;
                    });
                }
            }
            Output::Disconnect { id, code } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let _ = waiting.verdict.send(Verdict::Ended(code));
                }
                if let Some(live) = self.live.remove(&id) {
                    live.end.with(code);
                }
                self.leaving.push(id);
            }
            Output::Examine => {
                let (full, waiting) = self.core.fanout.examine();
                let waiting = waiting.into_iter().filter_map(|id| {
                    let end = &self.live.get(&id)?.end;
                    // Progress is what the transport has taken, not the queue's segments: a batch is taken at once and
                    // may take long to be written, and the next is taken only when all of it has been.
                    // Who is sent no more than it may be is not to blame.
                    (!end.is_held()).then(|| (id, end.moved()))
                });
                let waiting = waiting.collect();
                self.follow_ups.push_back(Input::Examined { full, waiting });
            }
            Output::Drain => {
                self.draining = true;
                self.roster_changed = true;
                self.streams.retired(self.core.stream, self.generation);
                self.core.fanout.close();
            }
            Output::Ended => self.ended = true,
            Output::Event(event) => {
                if let machine::Event::Unsubscribed { id, peer, .. } = &event {
                    self.roster.remove(&key(*peer, *id));
                    self.roster_changed = true;
                }
                tracing::debug!(stream = %self.core.stream.short(), ?event, "producer");
                // Fails only where nobody listens.
                let _ = self.core.events.send(event);
            }
        }
    }

    fn follow_up(&mut self) -> Option<Input> {
        self.follow_ups.pop_front()
    }

    fn end_turn(&mut self, _: &Machine) -> ControlFlow<()> {
        if std::mem::take(&mut self.roster_changed) {
            let online = !self.draining && self.online_when.is_met(&self.roster);
            self.roster.set_online(online);
            self.core.fanout.set_online(online);
            self.core.roster.set(self.roster.clone());
        }
        // Only now: the queue is never without the last subscription and still online, which would let a `Sink`
        // send to nobody.
        for id in self.finishing.drain(..) {
            self.core.fanout.finish(id);
        }
        for id in self.leaving.drain(..) {
            self.core.fanout.unsubscribe(id);
        }
        if self.ended {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Worker {
    fn accepts(&self, peer: &PeerId) -> bool {
        if self.predicates.is_empty() {
            return true;
        }
        let entry = self.catalog.get(peer);
        entry.is_some_and(|entry| self.predicates.iter().all(|predicate| predicate(entry)))
    }

    fn accept(&mut self, id: SubscriptionId, instance: UniqueId) {
        let (peer, subscribe, verdict) = match (self.waiting.remove(&id), self.requests.get(&id)) {
            (Some(waiting), _) => (waiting.peer, waiting.subscribe, Some(waiting.verdict)),
            (None, Some(request)) => (request.peer, request.subscribe.clone(), None),
            (None, None) => return,
        };
        let end = Arc::new(End::default());
        let counters = Arc::new(Counters::default());
        let first = self.core.fanout.subscribe(id, subscribe.criteria);
        let line = Line {
            entry: entry(&self.catalog, &peer),
            state: SubscriptionState::Subscribed,
            since: Some(Clock::now(&*self.core.runtime)),
            counters: counters.clone(),
        };
        self.roster.set(key(peer, id), line);
        self.roster_changed = true;
        self.live.insert(
            id,
            Live {
                peer,
                end: end.clone(),
            },
        );
        let grant = Grant {
            tasks: self.tasks.clone(),
            core: self.core.clone(),
            id,
            accepted: Accepted { instance, first },
            counters,
            end,
            events: self.events.clone(),
        };
        if let Some(verdict) = verdict {
            // Fails where it has just left, and says so.
            let _ = verdict.send(Verdict::Accepted(grant));
        } else if let Some(request) = self.requests.remove(&id) {
            self.tasks.spawn("stream writer", serve(request, grant));
        }
    }

    fn let_wait(&mut self, id: SubscriptionId, max: u64) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let (verdict, decided) = oneshot::channel();
        self.waiting.insert(
            id,
            Waiting {
                peer: request.peer,
                subscribe: request.subscribe.clone(),
                verdict,
            },
        );
        let (tasks, events) = (self.tasks.clone(), self.events.clone());
        self.tasks.spawn("waiting consumer", async move {
            wait(request, max, decided, &tasks).await;
            // The machine knows already where it has decided itself.
            let _ = events.send(Event::Ended(id)).await;
        });
    }
}

impl Drop for Worker {
    /// Also where the node ends before the producer does.
    fn drop(&mut self) {
        self.streams.retired(self.core.stream, self.generation);
        self.core.fanout.close();
        for (id, live) in &self.live {
            live.end.with(CloseCode::CANCELLED);
            self.core.fanout.unsubscribe(*id);
        }
        for id in &self.leaving {
            self.core.fanout.unsubscribe(*id);
        }
        self.core.roster.set(Roster::default());
    }
}

const fn key(peer: PeerId, id: SubscriptionId) -> Key {
    (peer, id.0)
}
