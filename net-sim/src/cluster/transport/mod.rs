//! The runtime's transport over the link machine: one driver for each endpoint, and handles that wait.

mod connection;
mod endpoint;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use smalti_core::runtime::{Alpn, BindError, BoxFuture, Endpoint, EndpointConfig};
use smalti_core::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

use endpoint::SimEndpoint;

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
