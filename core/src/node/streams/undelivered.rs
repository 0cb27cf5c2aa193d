//! The way of datums that no consumer takes to the application's sink.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_sink::Sink;
use futures_util::SinkExt;

use super::producer::Core;
use crate::datum::Datum;
use crate::node::tasks::Tasks;
use crate::time::Duration;

/// How long the sink may take with each datum once the producer ends, and with its own end.
const SINK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where datums go that nobody takes.
pub(super) type UndeliveredSink<D> = Pin<Box<dyn Sink<D, Error = SinkFailed> + Send>>;

/// The sink takes nothing any more.
#[derive(Debug)]
pub(super) struct SinkFailed;

pub(super) fn sink<D: 'static>(sink: impl Sink<D> + Send + 'static) -> UndeliveredSink<D> {
    Box::pin(sink.sink_map_err(|_| SinkFailed))
}

/// Passes on what nobody takes, until the producer has ended or the sink fails.
pub(super) async fn pass_on<D: Datum>(core: Arc<Core>, tasks: Tasks, mut sink: UndeliveredSink<D>) {
    while let Some(encoded) = next(&core, &mut sink).await {
        match D::decode(encoded) {
            Ok(datum) => {
                if feed(&core, &tasks, &mut sink, datum).await.is_err() {
                    tracing::warn!(
                        stream = %core.stream.short(),
                        "the sink of undelivered datums takes no more: they are dropped from now on"
                    );
                    break;
                }
            }
            Err(error) => tracing::warn!(
                stream = %core.stream.short(),
                %error,
                "an undelivered datum cannot be decoded again: it is dropped"
            ),
        }
    }
    core.fanout.forget_undelivered();
    let closed = poll_fn(|cx| sink.as_mut().poll_close(cx));
    // What it has not taken in by then is lost; that it has failed was said.
    let _ = tasks
        .timeout(SINK_TIMEOUT, "end of undelivered datums", closed)
        .await;
}

/// The next datum; while there is none, the sink is flushed.
async fn next<D>(core: &Core, sink: &mut UndeliveredSink<D>) -> Option<Bytes> {
    poll_fn(|cx| {
        let next = core.fanout.poll_undelivered(cx);
        if next.is_pending() {
            // Its failure shows again when it is given the next datum.
            let _: Poll<Result<(), SinkFailed>> = sink.as_mut().poll_flush(cx);
        }
        next
    })
    .await
}

/// Gives a datum to the sink. Once the producer ends, nobody waits for a sink for ever.
async fn feed<D>(
    core: &Core,
    tasks: &Tasks,
    sink: &mut UndeliveredSink<D>,
    datum: D,
) -> Result<(), SinkFailed> {
    crate::select! {
        ready = poll_fn(|cx| sink.as_mut().poll_ready(cx)) => ready,
        () = core.retire.cancelled() => {
            let ready = poll_fn(|cx| sink.as_mut().poll_ready(cx));
            let ready = tasks.timeout(SINK_TIMEOUT, "undelivered datum", ready).await;
            ready.unwrap_or(Err(SinkFailed))
        },
    }?;
    sink.as_mut().start_send(datum)
}
