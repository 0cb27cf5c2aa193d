//! The runtime's transport over the link machine: one driver for each endpoint, and handles that wait.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use smalti_core::id::PeerId;
use smalti_core::runtime::{
    Alpn, BiStream, BindError, BoxFuture, Connection, ConnectionError, DialError, Endpoint,
    EndpointConfig, RecvStream, SendDatagramError, SendStream, Side, StreamError,
};
use smalti_core::time::{Duration, Instant};
use smalti_core::wire::CloseCode;
use tokio::sync::{Notify, oneshot};

use super::runtime::sleep_until;
use super::socket::Socket;
use super::state::{Life, Run};
use crate::link::{self, DialFailure, Event, Handle};
use crate::trace::{EventKind, digest};

/// Opens the socket of a host; gives its handle and what drives it.
pub(super) async fn bind(
    run: &Run,
    life: Life,
    config: &EndpointConfig,
) -> Result<(Arc<dyn Endpoint>, BoxFuture<'static, ()>), BindError> {
    let socket = Socket::bind_first(run, life, &config.addresses).await?;
    let rng = ChaCha8Rng::from_seed(run.lock().draw_seed(life, "transport"));
    let names = config
        .protocols
        .iter()
        .map(|protocol| Arc::from(protocol.as_str()))
        .collect();
    let shared = Arc::new(Shared {
        run: run.clone(),
        life,
        address: socket.address(),
        protocols: config.protocols.clone(),
        state: Mutex::new(State {
            machine: link::Endpoint::new(config.secret_key.peer_id(), names, rng),
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            incoming: VecDeque::new(),
            released: false,
            driver_gone: false,
        }),
        work: Notify::new(),
        incoming: Notify::new(),
        drained: Notify::new(),
    });
    let endpoint: Arc<dyn Endpoint> = Arc::new(SimEndpoint(shared.clone()));
    Ok((endpoint, Box::pin(drive(shared, socket))))
}

struct Shared {
    run: Run,
    life: Life,
    address: SocketAddr,
    protocols: Vec<Alpn>,
    state: Mutex<State>,
    /// The driver has something to do.
    work: Notify,
    incoming: Notify,
    drained: Notify,
}

struct State {
    machine: link::Endpoint,
    dials: BTreeMap<Handle, oneshot::Sender<Result<(), DialFailure>>>,
    connections: BTreeMap<Handle, Arc<Waiting>>,
    incoming: VecDeque<Handle>,
    /// The endpoint's own handle has been dropped.
    released: bool,
    driver_gone: bool,
}

/// Who waits for what on one connection.
#[derive(Default)]
struct Waiting {
    opened: Notify,
    allowed: Notify,
    datagram: Notify,
    closed: Notify,
    streams: Mutex<StreamWakers>,
}

#[derive(Default)]
struct StreamWakers {
    readers: BTreeMap<u64, Waker>,
    writers: BTreeMap<u64, Waker>,
    stoppers: BTreeMap<u64, Waker>,
}

impl Waiting {
    fn wakers(&self) -> MutexGuard<'_, StreamWakers> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let StreamWakers {
            readers,
            writers,
            stoppers,
        } = std::mem::take(&mut *self.wakers());
        for waker in readers
            .into_values()
            .chain(writers.into_values())
            .chain(stoppers.into_values())
        {
            waker.wake();
        }
        for notify in [&self.opened, &self.allowed, &self.datagram, &self.closed] {
            notify.notify_waiters();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        self.run.lock().monotonic(self.life)
    }

    fn trace(&self, what: &'static str, handle: Handle) {
        let mut state = self.run.lock();
        if state.is_live(self.life) {
            let now = state.sim_time(self.life);
            let digest = digest(&(what, handle));
            state
                .trace
                .record(now, self.life.node, EventKind::Link, digest, || {
                    what.to_owned()
                });
        }
    }
}

/// Carries packets to the machine and from it, until the endpoint is closed or nobody holds it.
async fn drive(shared: Arc<Shared>, mut socket: Socket) {
    loop {
        let now = shared.now();
        let mut arrived = Vec::new();
        while let Some(packet) = socket.receive() {
            arrived.push(packet);
        }
        let (transmits, events, deadline) = {
            let mut state = shared.lock();
            for (from, packet) in arrived {
                state.machine.handle_packet(now, from, &packet);
            }
            state.machine.handle_timeout(now);
            let mut transmits = Vec::new();
            while let Some(transmit) = state.machine.poll_transmit(now) {
                transmits.push(transmit);
            }
            let mut events = Vec::new();
            while let Some(event) = state.machine.poll_event() {
                events.push(event);
            }
            (transmits, events, state.machine.poll_timeout())
        };
        for transmit in transmits {
            socket.send(transmit.to, &transmit.bytes);
        }
        events
            .into_iter()
            .for_each(|event| dispatch(&shared, event));
        {
            let mut state = shared.lock();
            let unused = state.released && state.connections.is_empty() && state.dials.is_empty();
            if state.machine.is_drained() || unused {
                state.driver_gone = true;
                break;
            }
        }
        let arrival = socket.next_arrival().map(|at| {
            // The machine's clock is the host's.
            let state = shared.run.lock();
            // One more, since the conversion rounds down and the packet must be there by then.
            state.host(shared.life.node).clock.monotonic(at) + Duration::from_nanos(1)
        });
        let deadline = deadline.map(|(at, _)| at).into_iter().chain(arrival).min();
        let deadline = deadline.unwrap_or(Instant::FAR_FUTURE);
        smalti_core::select! {
            () = shared.work.notified() => (),
            () = socket.readable() => (),
            () = sleep_until(&shared.run, shared.life, deadline) => (),
        }
    }
    shared.incoming.notify_waiters();
    shared.drained.notify_waiters();
}

fn dispatch(shared: &Arc<Shared>, event: Event) {
    let handle = match event {
        Event::Connected(handle) => {
            shared.trace("connected", handle);
            let mut state = shared.lock();
            state.connections.insert(handle, Arc::default());
            if let Some(dial) = state.dials.remove(&handle) {
                // A dialer that has given up closes the connection by not taking it.
                let _ = dial.send(Ok(()));
            }
            return;
        }
        Event::DialFailed(handle, failure) => {
            shared.trace("dial failed", handle);
            if let Some(dial) = shared.lock().dials.remove(&handle) {
                let _ = dial.send(Err(failure));
            }
            return;
        }
        Event::Incoming(handle) => {
            shared.trace("accepted", handle);
            let mut state = shared.lock();
            state.connections.insert(handle, Arc::default());
            state.incoming.push_back(handle);
            shared.incoming.notify_waiters();
            return;
        }
        Event::StreamOpened(handle)
        | Event::Readable(handle, _)
        | Event::Writable(handle, _)
        | Event::StreamsAllowed(handle)
        | Event::Datagram(handle)
        | Event::Closed(handle) => handle,
    };
    let Some(waiting) = shared.lock().connections.get(&handle).cloned() else {
        return;
    };
    match event {
        Event::StreamOpened(_) => waiting.opened.notify_waiters(),
        Event::StreamsAllowed(_) => waiting.allowed.notify_waiters(),
        Event::Datagram(_) => waiting.datagram.notify_waiters(),
        Event::Readable(_, stream) => {
            let waker = waiting.wakers().readers.remove(&stream);
            waker.into_iter().for_each(Waker::wake);
        }
        Event::Writable(_, stream) => {
            let (writer, stopper) = {
                let mut wakers = waiting.wakers();
                (
                    wakers.writers.remove(&stream),
                    wakers.stoppers.remove(&stream),
                )
            };
            writer.into_iter().chain(stopper).for_each(Waker::wake);
        }
        Event::Closed(_) => {
            shared.trace("closed", handle);
            waiting.wake_all();
        }
        Event::Connected(_) | Event::DialFailed(..) | Event::Incoming(_) => {}
    }
}

/// Waits until `attempt` gives something, asking again whenever `notify` says that it may.
async fn wait_for<T>(notify: &Notify, mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut notified = std::pin::pin!(notify.notified());
        // Before the attempt, so that nothing that happens in between is missed.
        notified.as_mut().enable();
        if let Some(done) = attempt() {
            return done;
        }
        notified.await;
    }
}

struct SimEndpoint(Arc<Shared>);

impl Drop for SimEndpoint {
    fn drop(&mut self) {
        self.0.lock().released = true;
        self.0.work.notify_one();
    }
}

impl SimEndpoint {
    fn connection(&self, handle: Handle) -> Option<Arc<dyn Connection>> {
        let state = self.0.lock();
        let waiting = state.connections.get(&handle)?.clone();
        let (peer, protocol, side, _) = state.machine.describe(handle)?;
        drop(state);
        let known = |known: &&Alpn| known.as_str() == &*protocol;
        let protocol = self.0.protocols.iter().find(known).copied();
        Some(Arc::new(SimConnection(Arc::new(Held {
            shared: self.0.clone(),
            handle,
            waiting,
            peer,
            protocol: protocol?,
            side,
        }))))
    }
}

/// Gives a dial up that nobody waits for any more.
struct DialGuard<'a> {
    shared: &'a Arc<Shared>,
    handle: Handle,
    taken: bool,
}

impl Drop for DialGuard<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let now = self.shared.now();
        let mut state = self.shared.lock();
        if state.dials.remove(&self.handle).is_some() {
            state.machine.cancel_dial(self.handle);
        } else if state.connections.remove(&self.handle).is_some() {
            // It has connected, and nobody has taken it.
            state
                .machine
                .close(now, self.handle, CloseCode::CANCELLED, "");
            state.machine.forget(self.handle);
        }
        drop(state);
        self.shared.work.notify_one();
    }
}

impl Endpoint for SimEndpoint {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.0.address]
    }

    fn addresses_changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn dial(
        &self,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        protocol: Alpn,
    ) -> BoxFuture<'_, Result<Arc<dyn Connection>, DialError>> {
        Box::pin(async move {
            if addresses.is_empty() {
                return Err(DialError::NoAddress { peer });
            }
            let now = self.0.now();
            let (sender, done) = oneshot::channel();
            let handle = {
                let mut state = self.0.lock();
                if state.driver_gone {
                    return Err(DialError::EndpointClosed);
                }
                let name = protocol.as_str().into();
                let handle = state.machine.dial(now, peer, addresses.clone(), name);
                state.dials.insert(handle, sender);
                handle
            };
            let mut guard = DialGuard {
                shared: &self.0,
                handle,
                taken: false,
            };
            self.0.work.notify_one();
            match done.await.unwrap_or(Err(DialFailure::EndpointClosed)) {
                Ok(()) => {
                    let connection = self.connection(handle);
                    guard.taken = connection.is_some();
                    connection.ok_or(DialError::EndpointClosed)
                }
                Err(DialFailure::Unreachable) => Err(DialError::Unreachable { peer, addresses }),
                Err(DialFailure::WrongPeer(address)) => Err(DialError::WrongPeer { peer, address }),
                Err(DialFailure::WrongProtocol) => Err(DialError::WrongAlpn { peer, protocol }),
                Err(DialFailure::EndpointClosed) => Err(DialError::EndpointClosed),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>> {
        Box::pin(async move {
            loop {
                let next = wait_for(&self.0.incoming, || {
                    let mut state = self.0.lock();
                    match state.incoming.pop_front() {
                        Some(handle) => Some(Some(handle)),
                        None => state.driver_gone.then_some(None),
                    }
                });
                // One that is gone already is passed over.
                if let Some(connection) = self.connection(next.await?) {
                    return Some(connection);
                }
            }
        })
    }

    fn close(&self, code: CloseCode) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let now = self.0.now();
            self.0.lock().machine.close_all(now, code);
            self.0.work.notify_one();
            wait_for(&self.0.drained, || self.0.lock().driver_gone.then_some(())).await;
        })
    }
}

/// A connection for as long as a handle of it or of its streams exists.
struct Held {
    shared: Arc<Shared>,
    handle: Handle,
    waiting: Arc<Waiting>,
    peer: PeerId,
    protocol: Alpn,
    side: Side,
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

struct SimConnection(Arc<Held>);

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
