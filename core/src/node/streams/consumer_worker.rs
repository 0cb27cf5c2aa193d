//! Runs the machine of one consumer, and reads from its producers.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::condition::{Predicate, Subscribers};
use super::inbox::{Delivery, Inbox};
use super::roster::{Counters, Line, Roster, SubscriptionState, entry};
use crate::id::{Digest, PeerId, StreamId};
use crate::node::connections::{Connections, Lease, LinkError};
use crate::node::discovery::{CatalogWatch, Discovery};
use crate::node::driver::{Host, drive};
use crate::node::framed::{FrameReadError, FrameReader, write_all};
use crate::node::tasks::Tasks;
use crate::node::watched::Watched;
use crate::protocol::discovery::Catalog;
use crate::protocol::streams::consumer::{
    self as machine, AttemptId, Candidate, Input, Machine, Output, State,
};
use crate::protocol::streams::segment::{FRAME_LEN_MAX, Position, Segment};
use crate::protocol::streams::{
    Accepted, ConsumerNumber, HANDSHAKE_LEN_MAX, Refusal, Reply, STREAMS_ALPN, Subscribe,
};
use crate::runtime::{Clock, ConnectionError, RecvStream, SendStream, StreamError};
use crate::time::{Duration, Instant};
use crate::wire::{CloseCode, decode, encode_frame};

/// What waits for the worker. Readers wait while it is full.
const EVENTS_MAX: usize = 256;
/// How long a producer is given to answer, once it is connected.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// All that can happen around the machine.
enum Event {
    Catalog(Catalog),
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

/// One attempt to subscribe, and what comes of it.
pub(super) struct Subscription {
    pub(super) attempt: AttemptId,
    pub(super) peer: PeerId,
    counters: Arc<Counters>,
    cancelled: CancellationToken,
    /// The connection, once there is one.
    lease: OnceLock<Arc<Lease>>,
}

impl Subscription {
    pub(super) fn new(attempt: AttemptId, peer: PeerId, counters: Arc<Counters>) -> Self {
        Self {
            attempt,
            peer,
            counters,
            cancelled: CancellationToken::new(),
            lease: OnceLock::new(),
        }
    }

    /// Counts `missing` datums, and closes the connection of a producer that breaks the protocol, as only the
    /// application could find out.
    pub(super) fn report_violation(&self, error: String, missing: u64) {
        self.counters.missing.fetch_add(missing, Ordering::Relaxed);
        if let Some(lease) = self.lease.get() {
            lease.report_violation(&LinkError::Violation(error));
        }
    }
}

/// What the worker of a consumer is started with.
pub(super) struct Start {
    pub(super) stream: StreamId,
    pub(super) schema: Digest,
    pub(super) number: ConsumerNumber,
    pub(super) machine: Machine,
    pub(super) predicates: Vec<Predicate>,
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
        subscribe: Subscribe {
            stream: start.stream,
            schema: start.schema,
            consumer: start.number,
        },
        predicates: start.predicates,
        online_when: start.online_when,
        inbox: start.inbox,
        published: start.roster,
        notices: start.notices,
        events,
        catalog: Catalog::default(),
        attempts: BTreeMap::new(),
        counters: BTreeMap::new(),
        since: BTreeMap::new(),
        roster: Roster::default(),
        roster_changed: true,
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
    subscribe: Subscribe,
    predicates: Vec<Predicate>,
    online_when: Subscribers,
    inbox: Arc<Inbox>,
    published: Arc<Watched<Roster>>,
    notices: broadcast::Sender<machine::Event>,
    events: mpsc::Sender<Event>,
    catalog: Catalog,
    attempts: BTreeMap<AttemptId, Arc<Subscription>>,
    /// Of the producers on the roster.
    counters: BTreeMap<PeerId, Arc<Counters>>,
    since: BTreeMap<PeerId, Instant>,
    roster: Roster,
    roster_changed: bool,
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
                self.roster_changed |= self.roster.refresh(&self.catalog);
                if let (Some(before), Some(now)) = (before.local(), self.catalog.local())
                    && !now.says_the_same_as(before)
                {
                    self.follow_ups.push_back(Input::LocalChanged);
                }
                Some(Input::CatalogChanged(self.candidates()))
            }
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
            Output::Subscribe { attempt, peer } => {
                self.roster_changed = true;
                self.subscribe(attempt, peer);
            }
            Output::Unsubscribe(attempt) => {
                self.roster_changed = true;
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
                self.roster_changed = true;
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
                    machine::Event::Refused { .. } => {}
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
        if std::mem::take(&mut self.roster_changed) {
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
    fn candidates(&self) -> Vec<Candidate> {
        let producers = self.catalog.peers().filter_map(|entry| {
            let info = entry.streams().get(&self.subscribe.stream)?;
            Some(Candidate {
                peer: *entry.id(),
                version: entry.version(),
                schema: info.schema,
                accepted: self.predicates.iter().all(|predicate| predicate(entry)),
            })
        });
        producers.collect()
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
        let mut roster = Roster::default();
        for (peer, state) in machine.producers() {
            let state = match state {
                State::Connecting => SubscriptionState::Connecting,
                State::Subscribed => SubscriptionState::Subscribed,
                State::BackingOff { .. } => SubscriptionState::BackingOff,
                State::Unsuitable(_) => SubscriptionState::Unsuitable,
            };
            let line = Line {
                entry: entry(&self.catalog, &peer),
                state,
                since: self.since.get(&peer).copied(),
                counters: self.counters(peer).clone(),
            };
            roster.set((peer, 0), line);
        }
        self.counters.retain(|peer, _| roster.contains(&(*peer, 0)));
        roster.set_online(!self.closed && self.online_when.is_met(&roster));
        self.roster = roster.clone();
        self.published.set(roster);
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

/// Reads from one producer.
struct Reader {
    tasks: Tasks,
    connections: Connections,
    subscribe: Subscribe,
    subscription: Arc<Subscription>,
    inbox: Arc<Inbox>,
    events: mpsc::Sender<Event>,
}

/// How a subscription has ended.
enum End {
    Refused(Refusal),
    /// The producer has ended it.
    Code(CloseCode),
    Failed(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Stream(StreamError::Reset(code)) => Self::Code(code),
            error => Self::Failed(error),
        }
    }
}

impl From<StreamError> for End {
    fn from(error: StreamError) -> Self {
        LinkError::from(error).into()
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        LinkError::from(error).into()
    }
}

impl Reader {
    async fn run(mut self) {
        let cancelled = self.subscription.cancelled.clone();
        let end = crate::select! {
            // Whoever has cancelled it knows.
            () = cancelled.cancelled() => return,
            result = self.read() => match result {
                Ok(()) => End::Code(CloseCode::STREAM_ENDED),
                Err(end) => end,
            },
        };
        let attempt = self.subscription.attempt;
        let event = match end {
            End::Refused(refusal) => Event::Refused { attempt, refusal },
            End::Code(code) => Event::Ended {
                attempt,
                code: Some(code),
            },
            End::Failed(error) => {
                let peer = self.subscription.peer;
                tracing::debug!(peer = %peer.short(), %error, "a subscription has failed");
                Event::Ended {
                    attempt,
                    code: None,
                }
            }
        };
        self.tell(event).await;
    }

    /// Reads until the producer ends.
    async fn read(&mut self) -> Result<(), End> {
        let lease = self
            .connections
            .lease(self.subscription.peer, STREAMS_ALPN)
            .await?;
        let lease = &**self.subscription.lease.get_or_init(|| Arc::new(lease));
        let asked = self
            .tasks
            .timeout(REPLY_TIMEOUT, "reply to a subscription", self.ask(lease));
        let Some(asked) = asked.await else {
            return Err(StreamError::Reset(CloseCode::TIMED_OUT).into());
        };
        let (mut frames, accepted) = asked?;
        self.inbox.begin(self.subscription.attempt, accepted);
        if self.subscription.cancelled.is_cancelled() {
            // Whoever has cancelled it may have looked before there was anything to end.
            self.inbox.end(self.subscription.attempt);
            return Ok(());
        }
        self.tell(Event::Began {
            attempt: self.subscription.attempt,
            accepted,
        })
        .await;
        let mut position = Position::new(accepted.first);
        while let Some(frame) = next(&mut frames, lease).await? {
            let len = frame.len();
            let segment = Segment::parse(frame).map_err(|error| violation(lease, &error))?;
            let count = segment.left();
            let missing = position
                .advance(segment.next_sequence(), count)
                .map_err(|error| violation(lease, &error))?;
            if missing > 0 {
                self.tell(Event::Missing {
                    attempt: self.subscription.attempt,
                    datums: missing,
                })
                .await;
            }
            let from = self.subscription.clone();
            let mut delivery = Some(Delivery { segment, from });
            poll_fn(|cx| {
                self.inbox
                    .poll_push(cx, self.subscription.attempt, &mut delivery)
            })
            .await;
            self.subscription.counters.add(count.into(), len);
        }
        Ok(())
    }

    /// Asks for the subscription.
    async fn ask(&self, lease: &Lease) -> Result<(FrameReader, Accepted), End> {
        let stream = lease.connection().open().await?;
        let (mut send, recv): (Box<dyn SendStream>, Box<dyn RecvStream>) = stream;
        let mut frame = BytesMut::new();
        encode_frame(&self.subscribe, HANDSHAKE_LEN_MAX, &mut frame).map_err(LinkError::from)?;
        write_all(&mut send, &mut frame.freeze()).await?;
        send.finish();
        let mut frames = FrameReader::new(recv, FRAME_LEN_MAX);
        let Some(reply) = next(&mut frames, lease).await? else {
            return Err(StreamError::Reset(CloseCode::CANCELLED).into());
        };
        match decode(&reply) {
            Ok(Reply::Accepted(accepted)) => Ok((frames, accepted)),
            Ok(Reply::Refused(refusal)) => Err(End::Refused(refusal)),
            Err(error) => Err(violation(lease, &error)),
        }
    }

    async fn tell(&self, event: Event) {
        // Fails only where the consumer has ended.
        let _ = self.events.send(event).await;
    }
}

async fn next(frames: &mut FrameReader, lease: &Lease) -> Result<Option<Bytes>, End> {
    match frames.next().await {
        Ok(frame) => Ok(frame),
        Err(FrameReadError::Stream(error)) => Err(error.into()),
        Err(FrameReadError::Frame(error)) => {
            let error = LinkError::from(error);
            lease.report_violation(&error);
            Err(error.into())
        }
        Err(FrameReadError::Truncated) => {
            lease.report_violation(&LinkError::Truncated);
            Err(LinkError::Truncated.into())
        }
    }
}

/// A producer that breaks the protocol loses its connection, and is told why.
fn violation(lease: &Lease, error: &impl std::fmt::Display) -> End {
    let error = LinkError::Violation(error.to_string());
    lease.report_violation(&error);
    error.into()
}
