//! The two halves of a stream.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{StoppedError, VarInt};
use smalti_core::runtime::{BoxFuture, RecvStream, SendStream, StreamError};
use smalti_core::wire::CloseCode;

use super::connection::AcceptedHalf;
use super::error::{LocalClose, close_code, var_int};

/// How a sending half stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    Open,
    Finished,
    Reset,
}

/// The sending half of a QUIC stream.
pub(super) struct QuicSendStream {
    inner: quinn::SendStream,
    state: SendState,
    close: Arc<LocalClose>,
    /// Kept between polls: it holds its place among those that wait.
    stopped: Option<BoxFuture<'static, Result<Option<VarInt>, StoppedError>>>,
    _accepted: Option<Arc<AcceptedHalf>>,
}

impl QuicSendStream {
    pub(super) fn new(
        inner: quinn::SendStream,
        close: Arc<LocalClose>,
        accepted: Option<Arc<AcceptedHalf>>,
    ) -> Self {
        Self {
            inner,
            state: SendState::Open,
            close,
            stopped: None,
            _accepted: accepted,
        }
    }

    fn abandon(&mut self, code: CloseCode) {
        if self.state != SendState::Reset {
            self.state = SendState::Reset;
            // An error says that the stream has ended already.
            let _ = self.inner.reset(var_int(code));
        }
    }
}

impl SendStream for QuicSendStream {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        if self.state != SendState::Open {
            return Poll::Ready(Err(StreamError::Closed));
        }
        // The connection keeps the waker under the stream's id, so that the future may go.
        let written = ready!(pin!(self.inner.write_chunks(chunks)).poll(cx));
        Poll::Ready(match written {
            Ok(written) => Ok(written.bytes),
            Err(error) => Err(self.close.write_error(error)),
        })
    }

    fn finish(&mut self) {
        if self.state == SendState::Open {
            self.state = SendState::Finished;
            // An error says that the peer has stopped the stream, which `poll_stopped` tells.
            let _ = self.inner.finish();
        }
    }

    fn reset(&mut self, code: CloseCode) {
        self.abandon(code);
    }

    fn poll_stopped(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<CloseCode>, StreamError>> {
        if self.state == SendState::Reset {
            return Poll::Ready(Err(StreamError::Closed));
        }
        let stopped = self
            .stopped
            .get_or_insert_with(|| Box::pin(self.inner.stopped()));
        let result = ready!(stopped.as_mut().poll(cx));
        self.stopped = None;
        Poll::Ready(match result {
            Ok(code) => Ok(code.map(close_code)),
            Err(error) => Err(self.close.stopped_error(error)),
        })
    }
}

impl Drop for QuicSendStream {
    fn drop(&mut self) {
        // Quinn would finish the stream: the peer would take what was cut off for the whole.
        if self.state == SendState::Open {
            self.abandon(CloseCode::NONE);
        }
    }
}

/// Chunks that one read takes at most.
const CHUNKS_MAX: usize = 32;

/// The receiving half of a QUIC stream.
pub(super) struct QuicRecvStream {
    inner: quinn::RecvStream,
    close: Arc<LocalClose>,
    /// The longest chunk so far, in bytes; tells how many chunks make up a read's limit. A packet of the
    /// least MTU at first.
    chunk_len_max: usize,
    /// How the stream has ended, if not well: quinn tells it once, and the end of the stream from then on.
    failed: Option<StreamError>,
    _accepted: Option<Arc<AcceptedHalf>>,
}

impl QuicRecvStream {
    pub(super) fn new(
        inner: quinn::RecvStream,
        close: Arc<LocalClose>,
        accepted: Option<Arc<AcceptedHalf>>,
    ) -> Self {
        Self {
            inner,
            close,
            chunk_len_max: 1_200,
            failed: None,
            _accepted: accepted,
        }
    }

    fn poll_one(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Poll<Result<Option<usize>, quinn::ReadError>> {
        let chunk = ready!(pin!(self.inner.read_chunk(limit.max(1), true)).poll(cx))?;
        Poll::Ready(Ok(chunk.map(|chunk| {
            let len = chunk.bytes.len();
            chunks.push(chunk.bytes);
            len
        })))
    }

    fn poll_several(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        count: usize,
    ) -> Poll<Result<Option<usize>, quinn::ReadError>> {
        let mut slots = [const { Bytes::new() }; CHUNKS_MAX];
        let read = ready!(pin!(self.inner.read_chunks(&mut slots[..count])).poll(cx))?;
        let Some(read) = read else {
            return Poll::Ready(Ok(None));
        };
        let mut len = 0;
        for chunk in slots.into_iter().take(read) {
            len += chunk.len();
            self.chunk_len_max = self.chunk_len_max.max(chunk.len());
            chunks.push(chunk);
        }
        Poll::Ready(Ok(Some(len)))
    }
}

impl RecvStream for QuicRecvStream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Poll<Result<Option<usize>, StreamError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        // As with writes, the connection keeps the waker.
        let count = (limit / self.chunk_len_max).min(CHUNKS_MAX);
        let read = if count < 2 {
            self.poll_one(cx, chunks, limit)
        } else {
            self.poll_several(cx, chunks, count)
        };
        Poll::Ready(ready!(read).map_err(|error| {
            let error = self.close.read_error(error);
            self.failed = Some(error.clone());
            error
        }))
    }

    fn stop(&mut self, code: CloseCode) {
        // An error says that the stream has ended already.
        let _ = self.inner.stop(var_int(code));
        self.failed.get_or_insert(StreamError::Closed);
    }
}
