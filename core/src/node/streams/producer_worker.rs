//! Runs the machine of one producer, and writes to its consumers.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::condition::{Predicate, Subscribers};
use super::fanout::Taken;
use super::handle::Streams;
use super::producer::Core;
use super::roster::{Counters, Key, Line, Roster, SubscriptionState, entry};
use crate::id::PeerId;
use crate::node::connections::Lease;
use crate::node::discovery::{CatalogWatch, Discovery};
use crate::node::driver::{Host, drive};
use crate::node::framed::write_all;
use crate::node::tasks::Tasks;
use crate::protocol::discovery::Catalog;
use crate::protocol::streams::producer::{self as machine, Input, Machine, Output, SubscriptionId};
use crate::protocol::streams::{Accepted, HANDSHAKE_LEN_MAX, Refusal, Reply, Subscribe};
use crate::runtime::{Clock, SendStream, StreamError};
use crate::time::Duration;
use crate::wire::{CloseCode, encode_frame};

/// What waits for the worker. Beyond it, who asks for a subscription waits.
const EVENTS_MAX: usize = 256;
/// How long a peer is given to take a refusal, or the end of a stream.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// All that can happen around the machine.
pub(super) enum Event {
    Request(Request),
    Ended(SubscriptionId),
    Catalog(Catalog),
    QueueFull,
    Retire,
}

/// A consumer that asks for a subscription.
pub(super) struct Request {
    pub(super) peer: PeerId,
    pub(super) subscribe: Subscribe,
    pub(super) lease: Arc<Lease>,
    pub(super) send: Box<dyn SendStream>,
    /// Counts it among those that are not answered yet.
    pub(super) permit: OwnedSemaphorePermit,
}

impl Request {
    /// Tells the consumer why it cannot subscribe.
    pub(super) async fn refuse(mut self, refusal: Refusal, tasks: &Tasks) {
        let Ok(mut reply) = encode_reply(&Reply::Refused(refusal)) else {
            return;
        };
        let told = async {
            write_all(&mut self.send, &mut reply).await?;
            self.send.finish();
            poll_fn(|cx| self.send.poll_stopped(cx)).await
        };
        // Where it cannot be told, it finds out by itself.
        let _ = tasks.timeout(FAREWELL_TIMEOUT, "refusal", told).await;
        drop((self.permit, self.lease));
    }
}

fn encode_reply(reply: &Reply) -> Result<Bytes, crate::wire::FrameError> {
    let mut frame = BytesMut::new();
    encode_frame(reply, HANDSHAKE_LEN_MAX, &mut frame)?;
    Ok(frame.freeze())
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
        live: BTreeMap::new(),
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

/// How this side ends a subscription.
#[derive(Default)]
struct End {
    code: OnceLock<CloseCode>,
    cancelled: CancellationToken,
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
    live: BTreeMap<SubscriptionId, Live>,
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
                self.live.remove(&id);
                self.leaving.push(id);
                Some(Input::Ended(id))
            }
            Event::Catalog(catalog) => {
                self.catalog = catalog;
                self.roster_changed |= self.roster.refresh(&self.catalog);
                if self.predicates.is_empty() {
                    return None;
                }
                let peers = self.live.values().map(|live| live.peer);
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
            Output::Refuse { id, refusal } => {
                if let Some(request) = self.requests.remove(&id) {
                    let tasks = self.tasks.clone();
                    self.tasks.spawn("refuse", async move {
                        request.refuse(refusal, &tasks).await;
                    });
                }
            }
            Output::Disconnect { id, code } => {
                if let Some(live) = self.live.remove(&id) {
                    // Set once: the machine ends a subscription once.
                    let _ = live.end.code.set(code);
                    live.end.cancelled.cancel();
                }
                self.leaving.push(id);
            }
            Output::Examine => {
                let (full, waiting) = self.core.fanout.examine();
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

    fn accept(&mut self, id: SubscriptionId, instance: crate::id::UniqueId) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let peer = request.peer;
        let counters = Arc::new(Counters::default());
        let end = Arc::new(End::default());
        let first = self.core.fanout.subscribe(id);
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
        let writer = Writer {
            tasks: self.tasks.clone(),
            core: self.core.clone(),
            id,
            send: request.send,
            _lease: request.lease,
            counters,
        };
        let events = self.events.clone();
        self.tasks.spawn("stream writer", async move {
            writer.run(Accepted { instance, first }, &end).await;
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
            live.end.cancelled.cancel();
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

/// Writes to one consumer.
struct Writer {
    tasks: Tasks,
    core: Arc<Core>,
    id: SubscriptionId,
    send: Box<dyn SendStream>,
    _lease: Arc<Lease>,
    counters: Arc<Counters>,
}

impl Writer {
    async fn run(mut self, accepted: Accepted, end: &End) {
        crate::select! {
            () = end.cancelled.cancelled() => {
                self.send.reset(end.code.get().copied().unwrap_or(CloseCode::CANCELLED));
            },
            result = self.write(accepted) => if let Err(error) = result {
                tracing::debug!(%error, "a consumer is gone");
            },
        }
    }

    /// Writes all that is sent until the producer ends.
    async fn write(&mut self, accepted: Accepted) -> Result<(), StreamError> {
        let Ok(reply) = encode_reply(&Reply::Accepted(accepted)) else {
            return Err(StreamError::Closed);
        };
        let mut chunks = vec![reply];
        let mut written = 0;
        poll_fn(|cx| {
            loop {
                while written < chunks.len() {
                    match self.send.poll_write(cx, &mut chunks[written..]) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Ready(Ok(_)) => {
                            while chunks.get(written).is_some_and(Bytes::is_empty) {
                                written += 1;
                            }
                        }
                    }
                }
                chunks.clear();
                written = 0;
                match self.core.fanout.poll_take(cx, self.id, &mut chunks) {
                    Poll::Ready(Taken::Segments(datums)) => {
                        self.counters
                            .add(datums, chunks.iter().map(Bytes::len).sum());
                    }
                    Poll::Ready(Taken::End) => return Poll::Ready(Ok(())),
                    // Nothing to write, so that only this tells that the consumer has left.
                    Poll::Pending => {
                        return match self.send.poll_stopped(cx) {
                            Poll::Pending => Poll::Pending,
                            Poll::Ready(Ok(code)) => Poll::Ready(Err(StreamError::Stopped(
                                code.unwrap_or(CloseCode::NONE),
                            ))),
                            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        };
                    }
                }
            }
        })
        .await?;
        self.send.finish();
        let taken = poll_fn(|cx| self.send.poll_stopped(cx));
        let _ = self
            .tasks
            .timeout(FAREWELL_TIMEOUT, "end of a stream", taken)
            .await;
        Ok(())
    }
}
