//! The consuming end, as applications see it.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::condition::{Predicate, Subscribers, When};
use super::error::{ConsumerError, TryRecvError};
use super::handle::Streams;
use super::inbox::{Delivery, Inbox};
use super::preference::Preference;
use super::roster::{Roster, Stats};
use crate::datum::Datum;
use crate::id::{PeerId, StreamId, Tag};
use crate::node::events::Events;
use crate::node::watched::Watched;
use crate::protocol::discovery::{OneOrMany, PeerEntry};
use crate::protocol::streams::consumer::{Config, Event};
use crate::protocol::streams::{Backoff, Criteria};
use crate::runtime::Runtime;
use crate::time::WallTime;

/// The most datums in a consumer's queue, unless another number is given.
const BUFFER_SIZE: usize = 1_024;

/// Receives the datums of all producers of a stream, also of those that come later.
///
/// It is a [`Stream`], which ends when the node shuts down. Datums of one producer come in the order in which they
/// were sent, and those of several in the order of arrival. An application that does not take them holds up
/// the producers, and may be disconnected by them: what it then misses is counted
/// ([`stats`](Self::stats), [`events`](Self::events)). Dropping the consumer unsubscribes.
pub struct Consumer<D> {
    stream: StreamId,
    inbox: Arc<Inbox>,
    /// What is being taken now.
    current: Option<Delivery>,
    roster: Arc<Watched<Roster>>,
    events: broadcast::Sender<Event>,
    close: CancellationToken,
    runtime: Arc<dyn Runtime>,
    datum: PhantomData<fn() -> D>,
}

/// Where a datum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// The node that has sent it.
    pub producer: PeerId,
    /// Its number among the datums that the producer has sent since it was made: what is missing leaves a hole.
    pub sequence: u64,
    /// The producer's wall clock when it began the segment in which the datum came: at the datum, or shortly before it
    /// where many are sent.
    pub timestamp: WallTime,
}

impl<D: Datum> Consumer<D> {
    /// The next datum, or `None` once the node has shut down. Cancellation safe.
    pub async fn recv(&mut self) -> Option<D> {
        self.recv_with_meta().await.map(|(datum, _)| datum)
    }

    /// The next datum, and where it comes from; `None` once the node has shut down. Cancellation safe.
    pub async fn recv_with_meta(&mut self) -> Option<(D, Meta)> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next datum, if it has arrived.
    ///
    /// # Errors
    /// [`TryRecvError`] where there is none.
    pub fn try_recv(&mut self) -> Result<D, TryRecvError> {
        match self.poll_recv(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Some((datum, _))) => Ok(datum),
            Poll::Ready(None) => Err(TryRecvError::Closed),
            Poll::Pending => Err(TryRecvError::Empty),
        }
    }

    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<(D, Meta)>> {
        loop {
            let Some(delivery) = &mut self.current else {
                match self.inbox.poll_take(cx) {
                    Poll::Ready(Some(delivery)) => self.current = Some(delivery),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            };
            let timestamp = delivery.segment.at();
            let Some((sequence, bytes)) = delivery.segment.take() else {
                self.current = None;
                continue;
            };
            let producer = delivery.from.peer;
            match D::decode(bytes) {
                Ok(datum) => {
                    let meta = Meta {
                        producer,
                        sequence,
                        timestamp,
                    };
                    return Poll::Ready(Some((datum, meta)));
                }
                Err(error) => {
                    // The types agree, so it was not sent in good faith; what else it has sent is not wanted.
                    let from = delivery.from.clone();
                    let left = u64::from(delivery.segment.left());
                    self.current = None;
                    let datums = 1 + left + self.inbox.reject(from.attempt);
                    from.report_violation(format!("datum {sequence}: {error}"), datums);
                    // Fails only where nobody listens.
                    let _ = self.events.send(Event::Lagged {
                        peer: producer,
                        datums,
                    });
                }
            }
        }
    }
}

impl<D> Consumer<D> {
    /// The stream.
    #[must_use]
    pub const fn stream_id(&self) -> StreamId {
        self.stream
    }

    /// Conditions on who produces.
    pub fn when(&self) -> When {
        When::new(self.roster.clone())
    }

    /// Whether what `online_when` asks for is met.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.roster.get().is_online()
    }

    /// How it goes with each producer, those included that are not subscribed to at present.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.roster.get().stats(self.runtime.now())
    }

    /// The producers that are subscribed to now.
    #[must_use]
    pub fn producers(&self) -> Vec<PeerId> {
        self.roster.get().peers().collect()
    }

    /// What happens from now on: to whom it subscribes, who refuses or ends it, what is missing.
    #[must_use]
    pub fn events(&self) -> Events<Event> {
        Events::new(&self.events)
    }
}

impl<D: Datum> Stream for Consumer<D> {
    type Item = D;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<D>> {
        self.get_mut()
            .poll_recv(cx)
            .map(|received| received.map(|(datum, _)| datum))
    }
}

impl<D> Drop for Consumer<D> {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

impl<D> fmt::Debug for Consumer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// What a [`Consumer`] is made of.
pub(super) struct Parts {
    pub(super) stream: StreamId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) roster: Arc<Watched<Roster>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) close: CancellationToken,
    pub(super) runtime: Arc<dyn Runtime>,
}

impl<D> From<Parts> for Consumer<D> {
    fn from(parts: Parts) -> Self {
        let Parts {
            stream,
            inbox,
            roster,
            events,
            close,
            runtime,
        } = parts;
        let (current, datum) = (None, PhantomData);
        Self {
            stream,
            inbox,
            current,
            roster,
            events,
            close,
            runtime,
            datum,
        }
    }
}

/// How a consumer is made. What is not set keeps its default.
#[must_use]
pub struct ConsumerBuilder<D> {
    streams: Streams,
    settings: ConsumerSettings,
    datum: PhantomData<fn() -> D>,
}

/// What a [`ConsumerBuilder`] collects.
pub(super) struct ConsumerSettings {
    pub(super) stream: Option<StreamId>,
    pub(super) buffer_size: usize,
    pub(super) predicates: Vec<Predicate>,
    pub(super) preferences: Vec<Preference>,
    pub(super) criteria: Option<Criteria>,
    pub(super) online_when: Subscribers,
    pub(super) config: Config,
}

impl<D: Datum> ConsumerBuilder<D> {
    pub(super) fn new(streams: Streams) -> Self {
        let settings = ConsumerSettings {
            stream: None,
            buffer_size: BUFFER_SIZE,
            predicates: Vec::new(),
            preferences: Vec::new(),
            criteria: None,
            online_when: Subscribers::default(),
            config: Config::default(),
        };
        Self {
            streams,
            settings,
            datum: PhantomData,
        }
    }

    /// Names the stream. Default: the name that follows from the datums' type.
    pub fn with_stream_id(mut self, stream: impl Into<StreamId>) -> Self {
        self.settings.stream = Some(stream.into());
        self
    }

    /// Subscribes only to producers whose node `predicate` accepts, besides the predicates given before. It is
    /// asked again when the catalog changes.
    pub fn require(
        mut self,
        predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.predicates.push(Arc::new(predicate));
        self
    }

    /// The same as [`require`](Self::require).
    pub fn subscribe_if(
        self,
        predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.require(predicate)
    }

    /// The most datums that wait for the application, but for one segment of each producer. Default: 1,024. More
    /// than 64 MiB do not wait, however few datums that is.
    pub const fn with_buffer_size(mut self, datums: usize) -> Self {
        self.settings.buffer_size = datums;
        self
    }

    /// How long to wait before a producer that has failed or refused is asked again. Default: 100 ms, doubled each
    /// time up to 5 s, up to half of it taken away at random.
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.settings.config.backoff = backoff;
        self
    }

    /// Receives only the datums that `criteria` choose. Producers evaluate them, so that others are not even sent; they
    /// leave holes in the sequence numbers, and are not counted as missing. Default: all.
    ///
    /// A producer evaluates up to 64 different criteria, and refuses a consumer that has one more. Consumers with
    /// equal criteria share the work.
    pub fn with_criteria(mut self, criteria: Criteria) -> Self {
        self.settings.criteria = Some(criteria);
        self
    }

    /// Subscribes to no more producers than these, to the best by what is preferred. Default: to all. At least one.
    ///
    /// When one fails, refuses, or lets the consumer wait, the next best takes its place at once. A better one takes
    /// the place of another only after it has been better for five to ten seconds, for round-trip times by a quarter
    /// and two milliseconds at least. The consumer is subscribed to the new one then before the other is asked to
    /// end, so that nothing that the other has taken in by then is lost.
    pub const fn with_max_producers(mut self, max: usize) -> Self {
        self.settings.config.max_producers = Some(max);
        self
    }

    /// Prefers producers with a shorter round-trip time, where those preferences that were stated before leave a
    /// choice. It matters only with [`with_max_producers`](Self::with_max_producers).
    pub fn prefer_near(self) -> Self {
        self.prefer(Preference::Near)
    }

    /// Prefers producers that have more of `tags`, as [`prefer_near`](Self::prefer_near).
    pub fn prefer_tags<M>(self, tags: impl OneOrMany<Tag, M>) -> Self {
        let mut list = Vec::new();
        tags.append_to(&mut list);
        self.prefer(Preference::Tags(list.into_iter().collect()))
    }

    /// Prefers producers for which `cost` gives less, as [`prefer_near`](Self::prefer_near). It is asked when an entry
    /// changes, and every five seconds.
    pub fn prefer_by(self, cost: impl Fn(&PeerEntry) -> u64 + Send + Sync + 'static) -> Self {
        self.prefer(Preference::By(Arc::new(cost)))
    }

    fn prefer(mut self, preference: Preference) -> Self {
        self.settings.preferences.push(preference);
        self
    }

    /// When the consumer counts as online. Default: while it is subscribed to any producer.
    pub fn online_when(mut self, condition: impl FnOnce(Subscribers) -> Subscribers) -> Self {
        self.settings.online_when = condition(Subscribers::default());
        self
    }

    /// Makes the consumer. It looks for producers at once, and as long as it lives.
    ///
    /// # Errors
    /// [`ConsumerError`].
    pub fn build(self) -> Result<Consumer<D>, ConsumerError> {
        self.streams.build_consumer(self.settings)
    }
}

impl<D> fmt::Debug for ConsumerBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("stream", &self.settings.stream)
            .finish_non_exhaustive()
    }
}
