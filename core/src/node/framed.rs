//! Frames on the halves of a stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::runtime::{RecvStream, SendStream, StreamError};
use crate::wire::{CloseCode, FrameBuffer, FrameError};

/// How much is taken from a stream at a time, in bytes.
const READ_LEN: usize = 64 * 1_024;

/// Reads frames from a stream. Holds at most one incomplete frame and one read beyond it.
pub(crate) struct FrameReader {
    stream: Box<dyn RecvStream>,
    chunks: Vec<Bytes>,
    frames: FrameBuffer,
    ended: bool,
}

/// No more frames come from a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameReadError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stream ends within a frame")]
    Truncated,
}

impl FrameReader {
    pub(crate) fn new(stream: Box<dyn RecvStream>, frame_len_max: usize) -> Self {
        Self {
            stream,
            chunks: Vec::new(),
            frames: FrameBuffer::new(frame_len_max),
            ended: false,
        }
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, FrameReadError>> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.ended {
                return Poll::Ready(if self.frames.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameReadError::Truncated)
                });
            }
            match self.stream.poll_read(cx, &mut self.chunks, READ_LEN) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(_))) => {
                    self.chunks
                        .drain(..)
                        .for_each(|chunk| self.frames.push(chunk));
                }
                Poll::Ready(Ok(None)) => self.ended = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// The next frame, or `None` at the end of the stream. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FrameReadError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn stop(&mut self, code: CloseCode) {
        self.stream.stop(code);
    }
}

/// Writes all of `bytes`, and takes from it what was written, so that nothing is lost or sent twice when
/// the future is dropped and another continues.
pub(crate) async fn write_all(
    stream: &mut Box<dyn SendStream>,
    bytes: &mut Bytes,
) -> Result<(), StreamError> {
    write_chunks(stream, std::slice::from_mut(bytes), |_| ()).await
}

/// Like [`write_all`], for bytes in several chunks. None is copied.
/// Tells `moved` how many bytes the transport takes, whenever it takes some.
pub(crate) async fn write_chunks(
    stream: &mut Box<dyn SendStream>,
    mut chunks: &mut [Bytes],
    mut moved: impl FnMut(usize),
) -> Result<(), StreamError> {
    loop {
        let written = chunks.iter().take_while(|chunk| chunk.is_empty()).count();
        chunks = &mut chunks[written..];
        if chunks.is_empty() {
            return Ok(());
        }
        moved(poll_fn(|cx| stream.poll_write(cx, chunks)).await?);
    }
}
