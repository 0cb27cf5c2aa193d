//! The handles of a connection and of its streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use smalti_core::id::PeerId;
use smalti_core::runtime::{
    Alpn, BiStream, BoxFuture, Connection, ConnectionError, RecvStream, SendDatagramError,
    SendStream, Side, StreamError,
};
use smalti_core::time::Duration;
use smalti_core::wire::CloseCode;
use tokio::sync::Notify;

use super::{Shared, Waiting, wait_for};
use crate::link::{self, Handle};

/// A connection for as long as a handle of it or of its streams exists.
pub(super) struct Held {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Handle,
    pub(super) waiting: Arc<Waiting>,
    pub(super) peer: PeerId,
    pub(super) protocol: Alpn,
    pub(super) side: Side,
}

impl Held {
    /// Does something with the machine, which may leave packets to be sent.
    fn with<T>(&self, act: impl FnOnce(&mut link::Endpoint, Handle) -> T) -> T {
        let result = act(&mut self.shared.lock().machine, self.handle);
        self.shared.work.notify_one();
        result
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        state.machine.close(now, self.handle, CloseCode::NONE, "");
        state.machine.forget(self.handle);
        state.connections.remove(&self.handle);
        drop(state);
        self.shared.work.notify_one();
    }
}

pub(super) struct SimConnection(pub(super) Arc<Held>);

impl SimConnection {
    fn stream(&self, id: u64) -> BiStream {
        let send = SimSendStream {
            held: self.0.clone(),
            id,
            finished: false,
        };
        let recv = SimRecvStream {
            held: self.0.clone(),
            id,
            ended: false,
        };
        (Box::new(send), Box::new(recv))
    }

    /// Waits until `attempt` gives something or the connection is closed.
    async fn wait<T>(
        &self,
        notify: &Notify,
        attempt: fn(&mut link::Endpoint, Handle) -> Result<Option<T>, ConnectionError>,
    ) -> Result<T, ConnectionError> {
        let attempt = || {
            let mut state = self.0.shared.lock();
            attempt(&mut state.machine, self.0.handle).transpose()
        };
        smalti_core::select! {
            done = wait_for(notify, attempt) => done,
            error = self.closed() => Err(error),
        }
    }
}

impl Connection for SimConnection {
    fn peer(&self) -> PeerId {
        self.0.peer
    }

    fn protocol(&self) -> Alpn {
        self.0.protocol
    }

    fn side(&self) -> Side {
        self.0.side
    }

    fn remote_address(&self) -> SocketAddr {
        let described = self.0.shared.lock().machine.describe(self.0.handle);
        described.map_or_else(
            || SocketAddr::from(([0, 0, 0, 0], 0)),
            |(.., remote)| remote,
        )
    }

    fn rtt(&self) -> Duration {
        self.0.shared.lock().machine.rtt(self.0.handle)
    }

    fn open(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move {
            let id = self
                .wait(&self.0.waiting.allowed, link::Endpoint::open)
                .await?;
            Ok(self.stream(id))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move {
            let id = self
                .wait(&self.0.waiting.opened, link::Endpoint::accept)
                .await?;
            Ok(self.stream(id))
        })
    }

    fn send_datagram(&self, datagram: Bytes) -> Result<(), SendDatagramError> {
        self.0
            .with(|machine, handle| machine.send_datagram(handle, datagram))
    }

    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>> {
        Box::pin(self.wait(&self.0.waiting.datagram, link::Endpoint::read_datagram))
    }

    fn export_keying_material(
        &self,
        label: &[u8],
        context: &[u8],
    ) -> Result<[u8; 32], ConnectionError> {
        self.0
            .shared
            .lock()
            .machine
            .export(self.0.handle, label, context)
    }

    fn close(&self, code: CloseCode, reason: &str) {
        let now = self.0.shared.now();
        self.0
            .with(|machine, handle| machine.close(now, handle, code, reason));
    }

    fn close_reason(&self) -> Option<ConnectionError> {
        self.0.shared.lock().machine.close_reason(self.0.handle)
    }

    fn closed(&self) -> BoxFuture<'_, ConnectionError> {
        Box::pin(wait_for(&self.0.waiting.closed, || self.close_reason()))
    }
}

struct SimSendStream {
    held: Arc<Held>,
    id: u64,
    finished: bool,
}

impl SendStream for SimSendStream {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        let id = self.id;
        let empty = chunks.iter().all(Bytes::is_empty);
        // First the waker: what happens between the two must not be missed.
        self.held
            .waiting
            .wakers()
            .writers
            .insert(id, cx.waker().clone());
        match self
            .held
            .with(|machine, handle| machine.write(handle, id, chunks))
        {
            Ok(0) if !empty => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        self.held
            .with(|machine, handle| machine.finish(handle, self.id));
    }

    fn reset(&mut self, code: CloseCode) {
        self.finished = true;
        self.held
            .with(|machine, handle| machine.reset(handle, self.id, code));
    }

    fn poll_stopped(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<CloseCode>, StreamError>> {
        let id = self.id;
        self.held
            .waiting
            .wakers()
            .stoppers
            .insert(id, cx.waker().clone());
        match self
            .held
            .with(|machine, handle| machine.stopped(handle, id))
        {
            Ok(None) => Poll::Pending,
            Ok(Some(stopped)) => Poll::Ready(Ok(stopped)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for SimSendStream {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(CloseCode::NONE);
        }
        let mut wakers = self.held.waiting.wakers();
        wakers.writers.remove(&self.id);
        wakers.stoppers.remove(&self.id);
    }
}

struct SimRecvStream {
    held: Arc<Held>,
    id: u64,
    /// The end has been read.
    ended: bool,
}

impl RecvStream for SimRecvStream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut Vec<Bytes>,
        limit: usize,
    ) -> Poll<Result<Option<usize>, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let id = self.id;
        self.held
            .waiting
            .wakers()
            .readers
            .insert(id, cx.waker().clone());
        match self
            .held
            .with(|machine, handle| machine.read(handle, id, chunks, limit))
        {
            Ok(None) => Poll::Pending,
            Ok(Some(read)) => {
                self.ended = read.is_none();
                Poll::Ready(Ok(read))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn stop(&mut self, code: CloseCode) {
        self.held
            .with(|machine, handle| machine.stop(handle, self.id, code));
    }
}

impl Drop for SimRecvStream {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(CloseCode::NONE);
        }
        self.held.waiting.wakers().readers.remove(&self.id);
    }
}
