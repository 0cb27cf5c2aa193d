//! The handle of an endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use smalti_core::id::PeerId;
use smalti_core::runtime::{Alpn, BoxFuture, Connection, DialError, Endpoint};
use smalti_core::wire::CloseCode;
use tokio::sync::oneshot;

use super::connection::{Held, SimConnection};
use super::{Shared, wait_for};
use crate::link::{DialFailure, Handle};

pub(super) struct SimEndpoint(pub(super) Arc<Shared>);

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
