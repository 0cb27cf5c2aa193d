//! The producing end, as applications see it.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_sink::Sink;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::condition::{Predicate, Subscribers, When};
use super::error::{ProducerError, SendError, TrySendError};
use super::fanout::{Fanout, PushError};
use super::handle::Streams;
use super::roster::{Roster, Stats};
use super::undelivered::{self, UndeliveredSink};
use crate::datum::Datum;
use crate::id::{PeerId, StreamId};
use crate::node::events::Events;
use crate::node::watched::Watched;
use crate::protocol::discovery::PeerEntry;
use crate::protocol::streams::egress::BURST;
use crate::protocol::streams::producer::{Config, Event};
use crate::protocol::streams::segment::SEGMENT_LEN;
use crate::runtime::{Clock, Runtime};

/// The most datums in a producer's queue, unless another number is given.
pub(super) const BUFFER_SIZE: usize = 1_024;

/// How often in a row a `Sink` is ready before it lets the executor's other tasks run: where nobody
/// consumes, or everybody at once, it would never wait by itself.
const READY_MAX: u32 = 1_024;

/// Sends datums to all who consume their stream.
///
/// A clone is another handle of the same producer. It is a [`Sink`], which waits while nobody is there to
/// send to and while the queue is full; [`try_send`](Self::try_send) says so instead. What was sent leaves by itself:
/// flushing does nothing more. Datums of one handle arrive in the order in which they were sent.
///
/// When the last handle is dropped or closed the producer ends: consumers are given some seconds to take what
/// is queued, and the stream is no longer announced.
pub struct Producer<D> {
    core: Arc<Core>,
    /// Keeps the producer from ending; `None` once this handle is closed.
    handle: Option<Arc<Handle>>,
    /// Names this handle among those who wait for room.
    sender: u64,
    /// How often in a row this handle was ready.
    ready: u32,
    datum: PhantomData<fn(D)>,
}

/// What dropping or closing the last [`Producer`] drops.
pub(super) struct Handle(pub(super) Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.retire.cancel();
    }
}

/// What the handles of a producer, its worker and its writers share.
pub(super) struct Core {
    pub(super) stream: StreamId,
    pub(super) fanout: Fanout,
    pub(super) roster: Arc<Watched<Roster>>,
    pub(super) events: broadcast::Sender<Event>,
    /// Cancelled when the producer is to end.
    pub(super) retire: CancellationToken,
    pub(super) runtime: Arc<dyn Runtime>,
    /// The most bytes per second that a consumer is sent.
    pub(super) max_egress: Option<u64>,
    senders: AtomicU64,
}

/// What a [`Core`] is made with.
pub(super) struct Queue {
    pub(super) buffer_size: usize,
    pub(super) max_egress: Option<u64>,
    pub(super) keeps_undelivered: bool,
}

impl Queue {
    /// Segments are short where consumers are sent little, so that they get it evenly.
    fn segment_len(&self) -> usize {
        let burst = |rate: u64| {
            let len = u128::from(rate) * BURST.as_millis() / 1_000;
            usize::try_from(len).unwrap_or(usize::MAX)
        };
        self.max_egress
            .map_or(SEGMENT_LEN, |rate| burst(rate).clamp(1, SEGMENT_LEN))
    }
}

impl Core {
    pub(super) fn new(
        stream: StreamId,
        queue: &Queue,
        runtime: Arc<dyn Runtime>,
        retire: CancellationToken,
    ) -> Self {
        let (events, _) = broadcast::channel(crate::node::events::BACKLOG);
        let segment_len = queue.segment_len();
        Self {
            stream,
            fanout: Fanout::new(queue.buffer_size, segment_len, queue.keeps_undelivered),
            roster: Arc::new(Watched::new(Roster::default())),
            events,
            retire,
            runtime,
            max_egress: queue.max_egress,
            senders: AtomicU64::new(0),
        }
    }
}

impl<D: Datum> Producer<D> {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        let core = handle.0.clone();
        Self {
            sender: core.senders.fetch_add(1, Ordering::Relaxed),
            core,
            handle: Some(handle),
            ready: 0,
            datum: PhantomData,
        }
    }

    /// Sends `datum` if that is possible at once.
    ///
    /// # Errors
    /// [`TrySendError`], which gives the datum back.
    pub fn try_send(&self, datum: D) -> Result<(), TrySendError<D>> {
        if self.handle.is_none() {
            return Err(TrySendError::Closed(datum));
        }
        self.push(&datum, false).map_err(|error| match error {
            PushError::Offline => TrySendError::Offline(datum),
            PushError::Full => TrySendError::Full(datum),
            PushError::Closed => TrySendError::Closed(datum),
            PushError::Encode(error) => TrySendError::Encode { datum, error },
            PushError::TooLarge(error) => TrySendError::TooLarge {
                datum,
                len: error.len,
            },
        })
    }

    fn push(&self, datum: &D, force: bool) -> Result<(), PushError> {
        let runtime = &self.core.runtime;
        self.core
            .fanout
            .push(datum, force, || Clock::wall(&**runtime))
    }
}

impl<D> Producer<D> {
    /// The stream.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.core.stream
    }

    /// Conditions on who consumes.
    pub fn when(&self) -> When {
        When::new(self.core.roster.clone())
    }

    /// Whether datums can be sent: what `online_when` asks for is met.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.core.roster.get().is_online()
    }

    /// How it goes with each consumer.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.roster.get().stats(self.core.runtime.now())
    }

    /// The nodes of the consumers that are subscribed now, each once for each of its consumers.
    #[must_use]
    pub fn consumers(&self) -> Vec<PeerId> {
        self.core.roster.get().peers().collect()
    }

    /// What happens from now on: who subscribes, who leaves, who is refused.
    #[must_use]
    pub fn events(&self) -> Events<Event> {
        Events::new(&self.core.events)
    }
}

impl<D: Datum> Sink<D> for Producer<D> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.handle.is_none() {
            return Poll::Ready(Err(SendError::Closed));
        }
        if self.ready >= READY_MAX {
            self.ready = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = self.core.fanout.poll_room(cx, self.sender);
        self.ready = if room.is_ready() { self.ready + 1 } else { 0 };
        room.map_err(|_| SendError::Closed)
    }

    fn start_send(self: Pin<&mut Self>, datum: D) -> Result<(), SendError> {
        if self.handle.is_none() {
            return Err(SendError::Closed);
        }
        // There was room when this handle was ready. Others may have taken it since: the queue then holds one
        // more for each handle.
        self.push(&datum, true).map_err(|error| match error {
            PushError::Encode(error) => SendError::Encode(error),
            PushError::TooLarge(error) => SendError::TooLarge { len: error.len },
            PushError::Offline | PushError::Full | PushError::Closed => SendError::Closed,
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    /// Completes when all that was sent has left the queue. This handle sends nothing more; others do.
    ///
    /// Closing the last handle ends the producer, which bounds the wait: what a consumer has not taken by the end of
    /// the drain timeout is dropped. While there are other handles, a consumer that lags and is not disconnected
    /// holds it up.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.handle = None;
        self.core.fanout.poll_empty(cx, self.sender).map(Ok)
    }
}

impl<D> Clone for Producer<D> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
            handle: self.handle.clone(),
            sender: self.core.senders.fetch_add(1, Ordering::Relaxed),
            ready: 0,
            datum: PhantomData,
        }
    }
}

impl<D> Drop for Producer<D> {
    fn drop(&mut self) {
        self.core.fanout.forget_sender(self.sender);
    }
}

impl<D> fmt::Debug for Producer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("stream", &self.stream_id())
            .finish_non_exhaustive()
    }
}

/// How a producer is made. What is not set keeps its default.
#[must_use]
pub struct ProducerBuilder<D> {
    streams: Streams,
    settings: ProducerSettings<D>,
}

/// What a [`ProducerBuilder`] collects.
pub(super) struct ProducerSettings<D> {
    pub(super) stream: Option<StreamId>,
    pub(super) buffer_size: usize,
    pub(super) predicates: Vec<Predicate>,
    pub(super) online_when: Subscribers,
    pub(super) config: Config,
    pub(super) max_egress: Option<u64>,
    pub(super) undelivered: Option<UndeliveredSink<D>>,
}

impl<D: Datum> ProducerBuilder<D> {
    pub(super) fn new(streams: Streams) -> Self {
        let settings = ProducerSettings {
            stream: None,
            buffer_size: BUFFER_SIZE,
            predicates: Vec::new(),
            online_when: Subscribers::default(),
            config: Config::default(),
            max_egress: None,
            undelivered: None,
        };
        Self { streams, settings }
    }

    /// Names the stream. Default: the name that follows from the datums' type.
    pub fn with_stream_id(mut self, stream: impl Into<StreamId>) -> Self {
        self.settings.stream = Some(stream.into());
        self
    }

    /// Accepts only consumers whose node `predicate` accepts, besides the predicates given before. It is asked again
    /// when the node's entry in the catalog changes; a node that is not in the catalog is refused until it is.
    pub fn require(
        mut self,
        predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.predicates.push(Arc::new(predicate));
        self
    }

    /// The same as [`require`](Self::require).
    pub fn accept_if(self, predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static) -> Self {
        self.require(predicate)
    }

    /// The most consumers. Default, and most: 16,384. Others wait, and get a place each when one becomes free, in the
    /// order in which they came.
    pub const fn with_max_consumers(mut self, max: usize) -> Self {
        self.settings.config.max_consumers = max;
        self
    }

    /// The most consumers that wait for a place. Default, and most: 1,024. Further ones are refused, and ask again
    /// later.
    pub const fn with_max_waiting(mut self, max: usize) -> Self {
        self.settings.config.max_waiting = max;
        self
    }

    /// The most bytes per second that each consumer is sent; what has been sent less in the past 50 ms may be made up
    /// for. Default: no limit. As the queue is shared, datums are taken in no faster either, once it is full. A
    /// consumer that waits only for this never lags.
    pub const fn with_max_egress(mut self, bytes_per_second: u64) -> Self {
        self.settings.max_egress = Some(bytes_per_second);
        self
    }

    /// Gives to `sink` the datums that were sent and that no consumer was sent: since nobody was subscribed, nobody's
    /// criteria chose them, or those who were to get them left before. What was handed to a connection counts as
    /// sent, even if the connection is lost. Each comes once; some may come later than those sent after them. While
    /// the sink is not ready the queue fills. When it fails, no more are given. Default: they are dropped.
    ///
    /// Without consumers, datums are sent only where [`online_when`](Self::online_when) says so. Of each datum that is
    /// encoded a note is kept until it is taken, and none is sent without a copy.
    pub fn with_undelivered_sink(mut self, sink: impl Sink<D> + Send + 'static) -> Self {
        self.settings.undelivered = Some(undelivered::sink(sink));
        self
    }

    /// The most datums that wait for the slowest consumer. Default: 1,024. More than 64 MiB are never
    /// queued, however few datums that is.
    pub const fn with_buffer_size(mut self, datums: usize) -> Self {
        self.settings.buffer_size = datums;
        self
    }

    /// Whether a consumer is disconnected that takes nothing from a full queue for a second (default), with
    /// [`STREAM_TOO_SLOW`](crate::wire::CloseCode::STREAM_TOO_SLOW), or may hold up the producer for as long as it
    /// likes.
    pub const fn disconnect_lagging(mut self, disconnect: bool) -> Self {
        self.settings.config.disconnect_lagging = disconnect;
        self
    }

    /// When datums can be sent. Default: while anybody is subscribed. With a minimum of zero, datums that
    /// nobody consumes are sent to nobody.
    pub fn online_when(mut self, condition: impl FnOnce(Subscribers) -> Subscribers) -> Self {
        self.settings.online_when = condition(Subscribers::default());
        self
    }

    /// Makes the producer. The stream is announced at once.
    ///
    /// # Errors
    /// [`ProducerError`]; where the producer is there already, the error holds it.
    pub fn build(self) -> Result<Producer<D>, ProducerError<D>> {
        self.streams.build_producer(self.settings)
    }
}
