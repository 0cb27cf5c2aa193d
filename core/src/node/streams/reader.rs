//! Reads from one producer of a consumer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::consumer_worker::Event;
use super::inbox::{Delivery, Inbox};
use super::roster::Counters;
use crate::id::PeerId;
use crate::node::connections::{Connections, Lease, LinkError};
use crate::node::framed::{FrameReadError, FrameReader, write_all};
use crate::node::tasks::Tasks;
use crate::protocol::streams::consumer::AttemptId;
use crate::protocol::streams::segment::{FRAME_LEN_MAX, Position, Segment};
use crate::protocol::streams::{
    Accepted, HANDSHAKE_LEN_MAX, Refusal, Reply, STREAMS_ALPN, Subscribe,
};
use crate::runtime::{ConnectionError, RecvStream, SendStream, StreamError};
use crate::time::Duration;
use crate::wire::{CloseCode, decode, encode_frame};

/// How long a producer is given to answer, once it is connected.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// One attempt to subscribe, and what comes of it.
pub(super) struct Subscription {
    pub(super) attempt: AttemptId,
    pub(super) peer: PeerId,
    counters: Arc<Counters>,
    /// Cancelled when nothing more is wanted of it.
    pub(super) cancelled: CancellationToken,
    /// Cancelled when the producer is to end it, once it has sent what it has taken in.
    pub(super) leave: CancellationToken,
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
            leave: CancellationToken::new(),
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

/// Reads from one producer.
pub(super) struct Reader {
    pub(super) tasks: Tasks,
    pub(super) connections: Connections,
    pub(super) subscribe: Subscribe,
    pub(super) subscription: Arc<Subscription>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) events: mpsc::Sender<Event>,
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

/// Both halves of a subscription's stream. The sending half stays open until the consumer leaves.
struct Halves {
    send: Box<dyn SendStream>,
    frames: FrameReader,
}

impl Reader {
    pub(super) async fn run(mut self) {
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
        let (mut halves, accepted) = self.ask(lease).await?;
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
        let mut leave = pin!(self.subscription.leave.cancelled());
        let mut has_left = false;
        loop {
            let frame = poll_fn(|cx| {
                if !has_left && leave.as_mut().poll(cx).is_ready() {
                    has_left = true;
                    halves.send.finish();
                }
                halves.frames.poll_next(cx)
            });
            let Some(frame) = checked(frame.await, lease)? else {
                return Ok(());
            };
            self.take(frame, &mut position, lease).await?;
        }
    }

    /// Puts a segment into the inbox, once there is room.
    async fn take(&self, frame: Bytes, position: &mut Position, lease: &Lease) -> Result<(), End> {
        let len = frame.len();
        let segment = if self.subscribe.criteria.is_some() {
            Segment::parse_selected(frame)
        } else {
            Segment::parse(frame)
        };
        let segment = segment.map_err(|error| violation(lease, &error))?;
        let count = segment.left();
        let missing = position
            .advance_over(&segment)
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
        Ok(())
    }

    /// Asks for the subscription, and waits where the producer says so.
    async fn ask(&self, lease: &Lease) -> Result<(Halves, Accepted), End> {
        let asked = self
            .tasks
            .timeout(REPLY_TIMEOUT, "reply to a subscription", self.open(lease));
        let Some(asked) = asked.await else {
            return Err(StreamError::Reset(CloseCode::TIMED_OUT).into());
        };
        let (mut halves, reply) = asked?;
        match reply {
            Reply::Accepted(accepted) => Ok((halves, accepted)),
            Reply::Refused(refusal) => Err(End::Refused(refusal)),
            Reply::Waiting { max } => {
                let attempt = self.subscription.attempt;
                self.tell(Event::Waiting { attempt, max }).await;
                match reply_of(&mut halves.frames, lease).await? {
                    Reply::Accepted(accepted) => Ok((halves, accepted)),
                    Reply::Refused(refusal) => Err(End::Refused(refusal)),
                    Reply::Waiting { .. } => Err(violation(
                        lease,
                        &"a producer says once that one is to wait",
                    )),
                }
            }
        }
    }

    /// Asks, and gives the first reply.
    async fn open(&self, lease: &Lease) -> Result<(Halves, Reply), End> {
        let stream = lease.connection().open().await?;
        let (mut send, recv): (Box<dyn SendStream>, Box<dyn RecvStream>) = stream;
        let mut frame = BytesMut::new();
        encode_frame(&self.subscribe, HANDSHAKE_LEN_MAX, &mut frame).map_err(LinkError::from)?;
        write_all(&mut send, &mut frame.freeze()).await?;
        let mut frames = FrameReader::new(recv, FRAME_LEN_MAX);
        let reply = reply_of(&mut frames, lease).await?;
        Ok((Halves { send, frames }, reply))
    }

    async fn tell(&self, event: Event) {
        // Fails only where the consumer has ended.
        let _ = self.events.send(event).await;
    }
}

async fn reply_of(frames: &mut FrameReader, lease: &Lease) -> Result<Reply, End> {
    let Some(reply) = checked(frames.next().await, lease)? else {
        return Err(StreamError::Reset(CloseCode::CANCELLED).into());
    };
    decode(&reply).map_err(|error| violation(lease, &error))
}

fn checked(
    frame: Result<Option<Bytes>, FrameReadError>,
    lease: &Lease,
) -> Result<Option<Bytes>, End> {
    match frame {
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
