//! Writes to one consumer of a producer, and hears when it leaves.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::fanout::{BATCH_LEN, Taken};
use super::producer::Core;
use super::producer_worker::{Event, FAREWELL_TIMEOUT, Request};
use super::roster::Counters;
use crate::node::connections::{Lease, LinkError};
use crate::node::framed::{FrameReader, write_chunks};
use crate::node::tasks::Tasks;
use crate::protocol::streams::egress::Egress;
use crate::protocol::streams::producer::SubscriptionId;
use crate::protocol::streams::{Accepted, Refusal, Reply};
use crate::runtime::{Clock, StreamError};
use crate::wire::CloseCode;

/// What the worker and the writer of a subscription share.
#[derive(Default)]
pub(super) struct End {
    code: OnceLock<CloseCode>,
    /// Cancelled when the subscription has ended, or is to end.
    ended: CancellationToken,
    /// Whether it is sent no more for now, because it has been sent enough.
    held: AtomicBool,
    /// The bytes of segments that the transport has taken.
    moved: AtomicU64,
}

impl End {
    /// Ends the subscription; the consumer is told this.
    pub(super) fn with(&self, code: CloseCode) {
        // Only the first counts.
        let _ = self.code.set(code);
        self.ended.cancel();
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// The bytes that the transport has taken for the consumer.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

/// What a consumer is served with.
pub(super) struct Grant {
    pub(super) tasks: Tasks,
    pub(super) core: Arc<Core>,
    pub(super) id: SubscriptionId,
    pub(super) accepted: Accepted,
    pub(super) counters: Arc<Counters>,
    pub(super) end: Arc<End>,
    pub(super) events: mpsc::Sender<Event>,
}

/// What becomes of a consumer that waits.
pub(super) enum Verdict {
    Accepted(Grant),
    Refused(Refusal),
    Ended(CloseCode),
}

/// Lets a consumer wait until it is decided whether it is served, or it leaves.
pub(super) async fn wait(
    mut request: Request,
    max: u64,
    decided: oneshot::Receiver<Verdict>,
    tasks: &Tasks,
) {
    let left = async {
        request.answer.reply(&Reply::Waiting { max }).await?;
        // It has been answered, so that others may ask.
        drop(request.permit.take());
        let (send, frames) = (&mut request.answer.send, &mut request.frames);
        poll_fn(|cx| {
            if frames.poll_next(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            send.poll_stopped(cx).map_ok(|_| ())
        })
        .await
    };
    let decided = crate::select! {
        left = left => {
            let _: Result<(), StreamError> = left;
            return;
        },
        decided = decided => decided,
    };
    match decided {
        Ok(Verdict::Accepted(grant)) => serve(request, grant).await,
        Ok(Verdict::Refused(refusal)) => request.refuse(refusal, tasks).await,
        Ok(Verdict::Ended(code)) => request.answer.send.reset(code),
        Err(_) => request.answer.send.reset(CloseCode::CANCELLED),
    }
}

/// Writes to a consumer until it leaves, or one of both ends.
pub(super) async fn serve(request: Request, grant: Grant) {
    let Request {
        lease,
        mut answer,
        frames,
        permit,
        ..
    } = request;
    drop(permit);
    let (id, end, events) = (grant.id, grant.end.clone(), grant.events.clone());
    grant.tasks.spawn(
        "stream leave",
        hear(id, frames, lease, end.clone(), events.clone()),
    );
    crate::select! {
        () = end.ended.cancelled() => {
            answer.send.reset(end.code.get().copied().unwrap_or(CloseCode::CANCELLED));
        },
        result = write(&grant, &mut answer) => if let Err(error) = result {
            tracing::debug!(%error, "a consumer is gone");
        },
    }
    end.ended.cancel();
    // Fails only where the producer has ended.
    let _ = events.send(Event::Ended(id)).await;
}

/// Tells the worker when the consumer asks for the end. Apart from writing, so that this costs nothing while datums
/// flow.
async fn hear(
    id: SubscriptionId,
    mut frames: FrameReader,
    lease: Arc<Lease>,
    end: Arc<End>,
    events: mpsc::Sender<Event>,
) {
    let heard = crate::select! {
        () = end.ended.cancelled() => return,
        heard = frames.next() => heard,
    };
    match heard {
        Ok(None) => {
            let _ = events.send(Event::Leave(id)).await;
        }
        Ok(Some(_)) => {
            let error = "a consumer says nothing after it has subscribed".to_owned();
            lease.report_violation(&LinkError::Violation(error));
        }
        // Whoever writes finds out.
        Err(_) => {}
    }
    // The connection is kept as long as the subscription.
    end.ended.cancelled().await;
}

/// Writes all that is sent until the producer ends, or what was there when the consumer asked for the end.
async fn write(grant: &Grant, answer: &mut Answer) -> Result<(), StreamError> {
    let core = &grant.core;
    answer.reply(&Reply::Accepted(grant.accepted)).await?;
    let send = &mut answer.send;
    let mut egress = core.max_egress.map(Egress::new);
    let burst_len = egress.as_ref().map_or(usize::MAX, Egress::burst_len);
    let limit = burst_len.min(BATCH_LEN);
    let mut chunks = Vec::new();
    loop {
        let taken = poll_fn(
            |cx| match core.fanout.poll_take(cx, grant.id, limit, &mut chunks) {
                Poll::Ready(taken) => Poll::Ready(Ok(taken)),
                // Nothing to write, so that only this tells that the consumer has left.
                Poll::Pending => send.poll_stopped(cx).map(|stopped| Err(left(stopped))),
            },
        );
        let Taken::Segments(datums) = taken.await? else {
            break;
        };
        let len = chunks.iter().map(Bytes::len).sum();
        grant.counters.add(datums, len);
        let moved = |len| _ = grant.end.moved.fetch_add(len as u64, Ordering::Relaxed);
        write_chunks(send, &mut chunks, moved).await?;
        chunks.clear();
        if let Some(egress) = &mut egress {
            egress.spend(Clock::now(&*core.runtime), len);
            grant.end.held.store(true, Ordering::Relaxed);
            crate::select! {
                stopped = poll_fn(|cx| send.poll_stopped(cx)) => return Err(left(stopped)),
                () = core.runtime.sleep_until(egress.ready_at(), "egress") => (),
            }
            grant.end.held.store(false, Ordering::Relaxed);
        }
    }
    send.finish();
    let taken = poll_fn(|cx| send.poll_stopped(cx));
    let _ = grant
        .tasks
        .timeout(FAREWELL_TIMEOUT, "end of a stream", taken)
        .await;
    Ok(())
}

fn left(stopped: Result<Option<CloseCode>, StreamError>) -> StreamError {
    match stopped {
        Ok(code) => StreamError::Stopped(code.unwrap_or(CloseCode::NONE)),
        Err(error) => error,
    }
}
