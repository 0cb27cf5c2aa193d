//! What a producer says to a consumer before datums flow.

use bytes::{Bytes, BytesMut};

use crate::node::framed::write_all;
use crate::protocol::streams::{HANDSHAKE_LEN_MAX, Reply};
use crate::runtime::{SendStream, StreamError};
use crate::wire::encode_frame;

/// The way to a consumer: first replies, then segments.
pub(super) struct Answer {
    pub(super) send: Box<dyn SendStream>,
    /// What is left of the replies.
    unsent: Bytes,
}

impl Answer {
    pub(super) const fn new(send: Box<dyn SendStream>) -> Self {
        let unsent = Bytes::new();
        Self { send, unsent }
    }

    /// Writes a reply. Where the future is dropped before it completes, what is left of the reply goes out with the
    /// next one: a place may become free while the consumer is being told that there is none, and a frame of which
    /// it has got a part has to become whole.
    pub(super) async fn reply(&mut self, reply: &Reply) -> Result<(), StreamError> {
        let mut frames = BytesMut::from(&self.unsent[..]);
        // Replies are within bounds, whatever they say.
        encode_frame(reply, HANDSHAKE_LEN_MAX, &mut frames).map_err(|_| StreamError::Closed)?;
        self.unsent = frames.freeze();
        write_all(&mut self.send, &mut self.unsent).await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::protocol::streams::{Accepted, ProducerInstance};
    use crate::wire::{CloseCode, FrameBuffer, decode};

    /// Takes so many bytes.
    #[derive(Clone, Default)]
    struct Window(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Window {
        fn open(&self, bytes: usize) {
            self.0.lock().unwrap().0 += bytes;
        }

        fn received(&self) -> Bytes {
            self.0.lock().unwrap().1.clone().into()
        }
    }

    impl SendStream for Window {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            chunks: &mut [Bytes],
        ) -> Poll<Result<usize, StreamError>> {
            let (room, received) = &mut *self.0.lock().unwrap();
            let len = chunks[0].len().min(*room);
            if len == 0 {
                return Poll::Pending;
            }
            *room -= len;
            received.extend(chunks[0].split_to(len));
            Poll::Ready(Ok(len))
        }

        fn finish(&mut self) {}

        fn reset(&mut self, _: CloseCode) {}

        fn poll_stopped(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<Result<Option<CloseCode>, StreamError>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_reply_that_another_overtakes_stays_whole() {
        let waiting = Reply::Waiting { max: 300 };
        let accepted = Reply::Accepted(Accepted {
            instance: ProducerInstance::from_bytes([7; 32]),
            first: 9,
        });
        let mut cx = Context::from_waker(Waker::noop());
        for written in 0..8 {
            let window = Window::default();
            let mut answer = Answer::new(Box::new(window.clone()));
            window.open(written);
            // Dropped where it waits, after so many bytes, or done.
            let is_done = pin!(answer.reply(&waiting)).poll(&mut cx).is_ready();
            window.open(1_000);
            assert!(pin!(answer.reply(&accepted)).poll(&mut cx).is_ready());
            let mut frames = FrameBuffer::new(HANDSHAKE_LEN_MAX);
            frames.push(window.received());
            for expected in [&waiting, &accepted] {
                let frame = frames.next_frame().unwrap().unwrap();
                assert_eq!(decode::<Reply>(&frame).as_ref(), Ok(expected), "{written}");
            }
            assert!(frames.is_empty());
            assert_eq!(is_done, written == 7);
        }
    }
}
