//! A typed, framed, bidirectional stream to one peer.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::connections::{Lease, LinkError};
use super::framed::{FrameReadError, FrameReader, write_all};
use super::tasks::Tasks;
use crate::id::PeerId;
use crate::runtime::{Alpn, BiStream, Connection, SendStream};
use crate::time::Duration;
use crate::wire::{CloseCode, append_frame, decode, encode_frame};

/// How long a link that this end has closed may take to send what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What two ends of a [`Link`] agree on at compile time.
pub trait Protocol: Send + Sync + 'static {
    /// Names the protocol and its version in the TLS handshake.
    const ALPN: Alpn;
    /// The longest encoded message, in bytes. A peer that sends a longer one is disconnected.
    const MESSAGE_LEN_MAX: usize;
    /// The messages, in both directions.
    type Message: Serialize + DeserializeOwned + Send + 'static;
}

/// A typed, framed, bidirectional stream of protocol `P` to one peer.
///
/// Dropping it abandons the stream in both directions; [`LinkSender::finish`] ends it in good order.
pub struct Link<P: Protocol> {
    sender: LinkSender<P>,
    receiver: LinkReceiver<P>,
}

impl<P: Protocol> Link<P> {
    pub(crate) fn new(lease: Lease, (send, recv): BiStream) -> Self {
        let lease = Arc::new(lease);
        Self {
            sender: LinkSender {
                lease: lease.clone(),
                stream: send,
                queued: BytesMut::new(),
                writing: Bytes::new(),
                protocol: PhantomData,
            },
            receiver: LinkReceiver {
                lease,
                frames: FrameReader::new(recv, P::MESSAGE_LEN_MAX),
                protocol: PhantomData,
            },
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.sender.peer()
    }

    /// Sends one message. See [`LinkSender::send`].
    ///
    /// # Errors
    /// [`LinkError`] where the message does not fit or the link is lost.
    pub async fn send(&mut self, message: &P::Message) -> Result<(), LinkError> {
        self.sender.send(message).await
    }

    /// The next message. See [`LinkReceiver::recv`].
    ///
    /// # Errors
    /// [`LinkError`] where the link is lost or the peer breaks the protocol.
    pub async fn recv(&mut self) -> Result<Option<P::Message>, LinkError> {
        self.receiver.recv().await
    }

    /// What keeps its connection.
    pub(crate) fn lease(&self) -> &Lease {
        &self.sender.lease
    }

    /// The parts, for protocols that write and read frames of their own.
    pub(crate) fn into_parts(self) -> (Arc<Lease>, Box<dyn SendStream>, FrameReader) {
        (self.sender.lease, self.sender.stream, self.receiver.frames)
    }

    /// Both halves, to be used by two tasks.
    #[must_use]
    pub fn split(self) -> (LinkSender<P>, LinkReceiver<P>) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a [`Link`].
pub struct LinkSender<P: Protocol> {
    lease: Arc<Lease>,
    stream: Box<dyn SendStream>,
    /// Frames that are not with the stream yet.
    queued: BytesMut,
    /// What is left of the frames being written.
    writing: Bytes,
    protocol: PhantomData<fn(P)>,
}

impl<P: Protocol> LinkSender<P> {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.lease.connection().peer()
    }

    /// The connection that carries the link.
    #[must_use]
    pub fn connection(&self) -> &Arc<dyn Connection> {
        self.lease.connection()
    }

    /// Adds `message` to what the next [`flush`](Self::flush) writes.
    ///
    /// # Errors
    /// [`LinkError::Frame`] where it does not fit a frame; the link is as before.
    pub fn queue(&mut self, message: &P::Message) -> Result<(), LinkError> {
        Ok(encode_frame(message, P::MESSAGE_LEN_MAX, &mut self.queued)?)
    }

    /// Adds a message that is encoded already.
    ///
    /// # Errors
    /// [`LinkError::Frame`] where it does not fit a frame; the link is as before.
    pub(crate) fn queue_encoded(&mut self, message: &[u8]) -> Result<(), LinkError> {
        Ok(append_frame(message, P::MESSAGE_LEN_MAX, &mut self.queued)?)
    }

    /// Hands all that is queued to the stream. Cancellation safe: what was not written stays queued.
    ///
    /// # Errors
    /// [`LinkError`] where the link is lost.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        loop {
            write_all(&mut self.stream, &mut self.writing).await?;
            if self.queued.is_empty() {
                return Ok(());
            }
            self.writing = self.queued.split().freeze();
        }
    }

    /// Queues `message` and flushes. Cancellation safe in that the peer never sees a torn frame: a message
    /// whose sending was cancelled goes out with the next one.
    ///
    /// # Errors
    /// [`LinkError`] where the message does not fit or the link is lost.
    pub async fn send(&mut self, message: &P::Message) -> Result<(), LinkError> {
        self.queue(message)?;
        self.flush().await
    }

    /// Says that no more follows.
    pub fn finish(&mut self) {
        self.stream.finish();
    }

    /// Completes when the peer has received all that was sent before [`finish`](Self::finish), or wants no
    /// more of it.
    ///
    /// # Errors
    /// [`LinkError`] where the connection is lost first.
    pub async fn stopped(&mut self) -> Result<Option<CloseCode>, LinkError> {
        Ok(poll_fn(|cx| self.stream.poll_stopped(cx)).await?)
    }

    /// Abandons the stream with `code`.
    pub fn reset(&mut self, code: CloseCode) {
        self.stream.reset(code);
    }
}

/// The receiving half of a [`Link`].
pub struct LinkReceiver<P: Protocol> {
    lease: Arc<Lease>,
    frames: FrameReader,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> LinkReceiver<P> {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.lease.connection().peer()
    }

    /// The next message, or `None` where the peer has finished. Cancellation safe.
    ///
    /// # Errors
    /// [`LinkError`] where the link is lost. Where the peer breaks the protocol, its connection is closed with
    /// the code that says how.
    pub async fn recv(&mut self) -> Result<Option<P::Message>, LinkError> {
        let Some(frame) = self.recv_frame().await? else {
            return Ok(None);
        };
        match decode(&frame) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(self.violation(error.into())),
        }
    }

    /// The next frame as it came, for protocols that decode it elsewhere.
    pub(crate) async fn recv_frame(&mut self) -> Result<Option<Bytes>, LinkError> {
        match self.frames.next().await {
            Ok(frame) => Ok(frame),
            Err(FrameReadError::Stream(error)) => Err(error.into()),
            Err(FrameReadError::Frame(error)) => Err(self.violation(error.into())),
            Err(FrameReadError::Truncated) => Err(self.violation(LinkError::Truncated)),
        }
    }

    /// Tells the peer to send no more.
    pub fn stop(&mut self, code: CloseCode) {
        self.frames.stop(code);
    }

    /// A peer that breaks the protocol loses its connection, and is told why.
    pub(crate) fn violation(&self, error: LinkError) -> LinkError {
        self.lease.report_violation(&error);
        error
    }
}

/// Completes when a link that this end has closed has had its time to send what was queued: a peer that
/// does not read cannot keep it.
pub(crate) async fn closed_for_long(tasks: Tasks, closing: CancellationToken) {
    closing.cancelled().await;
    let runtime = tasks.runtime();
    runtime
        .sleep_until(runtime.now() + CLOSE_TIMEOUT, "end of closed link")
        .await;
}
