//! The public handle of streams, and what a node's producers share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::consumer::{self, Consumer, ConsumerBuilder, ConsumerSettings};
use super::consumer_worker;
use super::error::{ConsumerError, ProducerError};
use super::inbox::Inbox;
use super::producer::{Core, Handle, Producer, ProducerBuilder, ProducerSettings, Queue};
use super::producer_worker::{self, Event, Request};
use super::roster::Roster;
use super::undelivered;
use crate::datum::Datum;
use crate::id::{Digest, PeerId, StreamId};
use crate::node::connections::{Connections, Listener};
use crate::node::discovery::{Discovery, Error as DiscoveryError};
use crate::node::link::{Link, Protocol};
use crate::node::tasks::Tasks;
use crate::node::watched::Watched;
use crate::protocol::discovery::{LocalChange, STREAMS_MAX, StreamInfo};
use crate::protocol::streams::{
    ConsumerNumber, HANDSHAKE_LEN_MAX, ProducerInstance, Refusal, STREAMS_ALPN, Subscribe,
    consumer as consumer_machine, producer as producer_machine,
};
use crate::runtime::Alpn;
use crate::time::Duration;
use crate::wire::CloseCode;

/// Streams that peers have opened and not been answered on. Beyond it they wait.
const UNANSWERED_MAX: usize = 1_024;
/// How long a peer that has opened a stream is given to say what it wants.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What consumers say to producers. The way back is not of messages.
pub(crate) struct Subscriptions;

impl Protocol for Subscriptions {
    const ALPN: Alpn = STREAMS_ALPN;
    const MESSAGE_LEN_MAX: usize = HANDSHAKE_LEN_MAX;
    type Message = Subscribe;
}

/// Produces and consumes streams of datums. A clone is the same node's.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    /// Workers, readers and writers.
    tasks: Tasks,
    connections: Connections,
    discovery: Discovery,
    registry: Mutex<Registry>,
    /// Told when what is announced may not be what is produced.
    changed: Notify,
    consumers: AtomicU64,
    shutdown: CancellationToken,
}

/// The node's producers.
#[derive(Default)]
struct Registry {
    producers: BTreeMap<StreamId, Registered>,
    generations: u64,
}

struct Registered {
    schema: Digest,
    handle: Weak<Handle>,
    requests: mpsc::Sender<Event>,
    generation: u64,
}

/// Starts to answer those who want to subscribe.
pub(crate) fn start(
    tasks: &Tasks,
    connections: &Connections,
    discovery: &Discovery,
    listener: Listener<Subscriptions>,
) -> Streams {
    let streams = Streams(Arc::new(Shared {
        tasks: tasks.child(),
        connections: connections.clone(),
        discovery: discovery.clone(),
        registry: Mutex::default(),
        changed: Notify::new(),
        consumers: AtomicU64::new(0),
        shutdown: CancellationToken::new(),
    }));
    tasks.spawn("accept subscriptions", streams.clone().accept(listener));
    tasks.spawn("announce streams", streams.clone().announce());
    streams
}

impl Streams {
    /// A producer of `D` under the name that follows from its type: another handle of the one that this node
    /// has already, or a new one with all defaults.
    ///
    /// Where none can be made the producer that is returned has ended already;
    /// [`producer`](Self::producer) says why.
    #[must_use]
    pub fn produce<D: Datum>(&self) -> Producer<D> {
        match self.producer::<D>().build() {
            Ok(producer) | Err(ProducerError::AlreadyExists(producer)) => producer,
            Err(error) => {
                tracing::warn!(%error, "a stream cannot be produced");
                self.ended_producer()
            }
        }
    }

    /// Makes a producer of `D` that is not as by default.
    pub fn producer<D: Datum>(&self) -> ProducerBuilder<D> {
        ProducerBuilder::new(self.clone())
    }

    /// A consumer of `D` under the name that follows from its type, with all defaults. Each consumer gets
    /// every datum, also where this node has several.
    ///
    /// Once the node has shut down, a consumer is returned that has ended already.
    #[must_use]
    pub fn consume<D: Datum>(&self) -> Consumer<D> {
        match self.consumer::<D>().build() {
            Ok(consumer) => consumer,
            Err(error) => {
                tracing::warn!(%error, "a stream cannot be consumed");
                self.ended_consumer()
            }
        }
    }

    /// Makes a consumer of `D` that is not as by default.
    pub fn consumer<D: Datum>(&self) -> ConsumerBuilder<D> {
        ConsumerBuilder::new(self.clone())
    }

    pub(super) fn build_producer<D: Datum>(
        &self,
        settings: ProducerSettings<D>,
    ) -> Result<Producer<D>, ProducerError<D>> {
        let schema = D::schema();
        let stream = settings.stream.unwrap_or_else(D::stream_id);
        if settings.max_egress == Some(0) {
            return Err(ProducerError::NoEgress);
        }
        if self.0.shutdown.is_cancelled() {
            return Err(ProducerError::ShuttingDown);
        }
        let mut registry = self.registry();
        if let Some(existing) = registry.producers.get(&stream)
            && let Some(handle) = existing.handle.upgrade()
        {
            return Err(if existing.schema == schema {
                ProducerError::AlreadyExists(Producer::new(handle))
            } else {
                let (existing, requested) = (existing.schema, schema);
                ProducerError::SchemaDiffers {
                    stream,
                    existing,
                    requested,
                }
            });
        }
        if registry.producers.len() >= STREAMS_MAX && !registry.producers.contains_key(&stream) {
            return Err(ProducerError::TooMany(STREAMS_MAX));
        }
        let generation = registry.generations;
        registry.generations += 1;
        let core = self.core(
            stream,
            &Queue {
                buffer_size: settings.buffer_size,
                max_egress: settings.max_egress,
                keeps_undelivered: settings.undelivered.is_some(),
            },
        );
        if let Some(sink) = settings.undelivered {
            let passing_on = undelivered::pass_on(core.clone(), self.0.tasks.clone(), sink);
            self.0.tasks.spawn("pass on undelivered datums", passing_on);
        }
        let instance = ProducerInstance::from_bytes(self.0.tasks.runtime().seed("producer"));
        let requests = producer_worker::start(
            &self.0.tasks,
            &self.0.discovery,
            producer_worker::Start {
                core: core.clone(),
                machine: producer_machine::Machine::new(settings.config, schema, instance),
                predicates: settings.predicates,
                online_when: settings.online_when,
                generation,
                streams: self.clone(),
            },
        );
        let handle = Arc::new(Handle(core));
        let registered = Registered {
            schema,
            handle: Arc::downgrade(&handle),
            requests,
            generation,
        };
        registry.producers.insert(stream, registered);
        drop(registry);
        self.0.changed.notify_one();
        Ok(Producer::new(handle))
    }

    fn core(&self, stream: StreamId, queue: &Queue) -> Arc<Core> {
        let runtime = self.0.tasks.runtime().clone();
        let retire = self.0.shutdown.child_token();
        Arc::new(Core::new(stream, queue, runtime, retire))
    }

    fn ended_producer<D: Datum>(&self) -> Producer<D> {
        let nothing = Queue {
            buffer_size: 0,
            max_egress: None,
            keeps_undelivered: false,
        };
        let core = self.core(D::stream_id(), &nothing);
        core.fanout.close();
        Producer::new(Arc::new(Handle(core)))
    }

    pub(super) fn build_consumer<D: Datum>(
        &self,
        settings: ConsumerSettings,
    ) -> Result<Consumer<D>, ConsumerError> {
        if self.0.shutdown.is_cancelled() {
            return Err(ConsumerError::ShuttingDown);
        }
        if let Some(criteria) = &settings.criteria {
            criteria.check()?;
        }
        let schema = D::schema();
        let stream = settings.stream.unwrap_or_else(D::stream_id);
        let parts = self.consumer_parts(stream, settings.buffer_size);
        let rng = ChaCha8Rng::from_seed(self.0.tasks.runtime().seed("consumer"));
        consumer_worker::start(
            &self.0.tasks,
            &self.0.connections,
            &self.0.discovery,
            consumer_worker::Start {
                subscribe: Subscribe {
                    stream,
                    schema,
                    consumer: ConsumerNumber(self.0.consumers.fetch_add(1, Ordering::Relaxed)),
                    criteria: settings.criteria,
                },
                machine: consumer_machine::Machine::new(schema, settings.config, rng),
                predicates: settings.predicates,
                preferences: settings.preferences,
                online_when: settings.online_when,
                inbox: parts.inbox.clone(),
                roster: parts.roster.clone(),
                notices: parts.events.clone(),
                close: parts.close.clone(),
            },
        );
        Ok(parts.into())
    }

    fn consumer_parts(&self, stream: StreamId, buffer_size: usize) -> consumer::Parts {
        let (events, _) = broadcast::channel(crate::node::events::BACKLOG);
        consumer::Parts {
            stream,
            inbox: Arc::new(Inbox::new(buffer_size)),
            roster: Arc::new(Watched::new(Roster::default())),
            events,
            close: self.0.shutdown.child_token(),
            runtime: self.0.tasks.runtime().clone(),
        }
    }

    fn ended_consumer<D: Datum>(&self) -> Consumer<D> {
        let parts = self.consumer_parts(D::stream_id(), 0);
        parts.inbox.close();
        parts.into()
    }

    /// Ends all producers and consumers; completes when consumers elsewhere have taken what was queued for
    /// them.
    pub(crate) async fn shut_down(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.ended().await;
    }

    /// A producer has ended, or is about to: others may take its place.
    pub(super) fn retired(&self, stream: StreamId, generation: u64) {
        let mut registry = self.registry();
        if registry
            .producers
            .get(&stream)
            .is_some_and(|there| there.generation == generation)
        {
            registry.producers.remove(&stream);
            drop(registry);
            self.0.changed.notify_one();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every change is whole when the lock is released, also by a panic.
        self.0
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers peers that open streams.
    async fn accept(self, mut listener: Listener<Subscriptions>) {
        let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX));
        while let Some(link) = listener.accept().await {
            let Ok(permit) = unanswered.clone().acquire_owned().await else {
                return;
            };
            let streams = self.clone();
            self.0.tasks.spawn("answer a subscription", async move {
                streams.answer(link, permit).await;
            });
        }
    }

    async fn answer(
        self,
        mut link: Link<Subscriptions>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) {
        let asked = self
            .0
            .tasks
            .timeout(SUBSCRIBE_TIMEOUT, "what a peer wants", link.recv())
            .await;
        let peer = link.peer();
        let (lease, mut send, frames) = link.into_parts();
        let subscribe = match asked {
            Some(Ok(Some(subscribe))) => subscribe,
            // It has broken the protocol, or left: the link has dealt with that.
            Some(Err(_)) => return,
            Some(Ok(None)) | None => {
                send.reset(CloseCode::TIMED_OUT);
                return;
            }
        };
        let requests = self.requests_of(&subscribe.stream);
        let request = Request {
            peer,
            subscribe,
            lease,
            answer: Answer::new(send),
            frames,
            permit: Some(permit),
        };
        let refused = match requests {
            None => Some((request, Refusal::UnknownStream)),
            Some(requests) => match requests.send(Event::Request(request)).await {
                Ok(()) => None,
                Err(mpsc::error::SendError(Event::Request(request))) => {
                    Some((request, Refusal::ShuttingDown))
                }
                Err(_) => None,
            },
        };
        if let Some((request, refusal)) = refused {
            request.refuse(refusal, &self.0.tasks).await;
        }
    }

    fn requests_of(&self, stream: &StreamId) -> Option<mpsc::Sender<Event>> {
        self.registry()
            .producers
            .get(stream)
            .map(|there| there.requests.clone())
    }

    /// Keeps what the node says of itself in step with what it produces.
    async fn announce(self) {
        let mut announced: BTreeMap<StreamId, StreamInfo> = BTreeMap::new();
        loop {
            self.0.changed.notified().await;
            let produced: BTreeMap<StreamId, StreamInfo> = self
                .registry()
                .producers
                .iter()
                .map(|(&stream, there)| {
                    (
                        stream,
                        StreamInfo {
                            schema: there.schema,
                        },
                    )
                })
                .collect();
            let gone = announced
                .keys()
                .filter(|stream| !produced.contains_key(stream));
            let gone = gone.map(|&stream| LocalChange::RemoveStream(stream));
            let new = produced
                .iter()
                .filter(|(stream, info)| announced.get(stream) != Some(info));
            let new = new.map(|(&stream, &info)| LocalChange::SetStream(stream, info));
            let changes: Vec<LocalChange> = gone.chain(new).collect();
            for change in changes {
                match self.0.discovery.change(change).await {
                    Ok(()) => {}
                    Err(DiscoveryError::ShuttingDown) => return,
                    Err(error) => tracing::warn!(%error, "a stream cannot be announced"),
                }
            }
            announced = produced;
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn local_id(&self) -> PeerId {
        self.0.discovery.local_id()
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("local", &self.local_id())
            .finish_non_exhaustive()
    }
}
