//! Quinn's socket on a simulated host.
//!
//! The socket itself belongs to a task of the host, so that it goes when the host crashes, whoever still
//! holds an endpoint. Quinn holds two queues.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use smalti_core::time::{Duration, Instant};
use tokio::sync::Notify;

use super::super::runtime::sleep_until;
use super::super::socket::Socket;
use super::quinn_runtime::HostRuntime;

/// Packets that wait to be read, at most; more are dropped, as by a socket whose buffer is full.
const INBOX_MAX: usize = 4_096;

pub(super) struct QuicSocket {
    address: SocketAddr,
    queues: Arc<Queues>,
}

#[derive(Default)]
struct Queues {
    state: Mutex<QueueState>,
    work: Notify,
}

#[derive(Default)]
struct QueueState {
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
    released: bool,
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QuicSocket {
    pub(super) fn start(socket: Socket, runtime: &Arc<HostRuntime>) -> Arc<dyn AsyncUdpSocket> {
        let queues = Arc::new(Queues::default());
        let address = socket.address();
        runtime.spawn_task(Box::pin(carry(socket, queues.clone(), runtime.clone())));
        Arc::new(Self { address, queues })
    }
}

/// Carries packets between the queues and the socket, until quinn lets go of it.
async fn carry(mut socket: Socket, queues: Arc<Queues>, runtime: Arc<HostRuntime>) {
    loop {
        let mut arrived = Vec::new();
        while let Some(packet) = socket.receive() {
            arrived.push(packet);
        }
        let (outbox, reader, released) = {
            let mut state = queues.lock();
            let room = INBOX_MAX.saturating_sub(state.inbox.len());
            state.inbox.extend(arrived.into_iter().take(room));
            let reader = if state.inbox.is_empty() {
                None
            } else {
                state.reader.take()
            };
            (std::mem::take(&mut state.outbox), reader, state.released)
        };
        for (to, packet) in outbox {
            socket.send(to, &packet);
        }
        reader.into_iter().for_each(Waker::wake);
        if released {
            return;
        }
        let arrival = socket.next_arrival().map_or(Instant::FAR_FUTURE, |at| {
            let state = runtime.run.lock();
            // One more, since the conversion rounds down and the packet must be there by then.
            state.host(runtime.life.node).clock.monotonic(at) + Duration::from_nanos(1)
        });
        smalti_core::select! {
            () = queues.work.notified() => (),
            () = socket.readable() => (),
            () = sleep_until(&runtime.run, runtime.life, arrival) => (),
        }
    }
}

impl Drop for QuicSocket {
    fn drop(&mut self) {
        self.queues.lock().released = true;
        self.queues.work.notify_one();
    }
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicSocket({})", self.address)
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let packet = (transmit.destination, transmit.contents.to_vec());
        self.queues.lock().outbox.push(packet);
        self.queues.work.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.queues.lock();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((addr, packet)) = state.inbox.pop_front() else {
                break;
            };
            let len = packet.len().min(buffer.len());
            buffer[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta {
                addr,
                len,
                stride: len,
                ecn: None,
                dst_ip: None,
            };
            count += 1;
        }
        if count == 0 {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// The queue takes all that is sent; what is too much, the network drops.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
