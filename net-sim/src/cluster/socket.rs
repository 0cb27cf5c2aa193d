//! A host's UDP socket, through the fault layer.
//!
//! Turmoil's own network does nothing but carry packets to their host at the next tick. When a packet
//! arrives is decided when it is sent, and travels with it; the receiving socket holds it until then. A
//! crash of the sender does not touch packets that are on their way, and a partition touches those alone
//! that are sent under it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use smalti_core::runtime::BindError;
use turmoil::net::UdpSocket;

use super::state::{Life, Run, address_of, host_at};
use crate::time::SimTime;
use crate::trace::{EventKind, TraceHasher};

/// Bytes of a packet, at most, with its time of arrival.
const BUFFER_LEN: usize = 65_536;
/// Packets that are on their way to a socket, at most.
const ON_THEIR_WAY_MAX: usize = 65_536;

pub(super) struct Socket {
    run: Run,
    life: Life,
    inner: UdpSocket,
    address: SocketAddr,
    on_their_way: BTreeMap<(SimTime, u64), (SocketAddr, Vec<u8>)>,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Socket {
    /// Binds the first of `addresses` whose port is free; none given, any free port.
    pub(super) async fn bind_first(
        run: &Run,
        life: Life,
        addresses: &[SocketAddr],
    ) -> Result<Self, BindError> {
        let any = [SocketAddr::from(([0, 0, 0, 0], 0))];
        let wanted = if addresses.is_empty() {
            &any
        } else {
            addresses
        };
        let mut bound = Err(BindError::Configuration("no address is given".into()));
        for address in wanted {
            let socket = Self::bind(run.clone(), life, address.port()).await;
            bound = socket.map_err(|error| BindError::Address {
                address: *address,
                reason: error.to_string().into(),
            });
            if bound.is_ok() {
                break;
            }
        }
        bound
    }

    /// Binds `port`, or a free one where it is zero.
    async fn bind(run: Run, life: Life, port: u16) -> io::Result<Self> {
        let inner = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let address = SocketAddr::new(address_of(life.node), inner.local_addr()?.port());
        Ok(Self {
            run,
            life,
            inner,
            address,
            on_their_way: BTreeMap::new(),
            sequence: 0,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a packet, which the network may lose, double, delay or change.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let copies = {
            let mut state = self.run.lock();
            let Some(target) = host_at(to.ip(), state.hosts.len()) else {
                return;
            };
            if !state.is_live(self.life) {
                return;
            }
            let (now, node) = (state.sim_time(self.life), self.life.node);
            let copies = state.faults.packet(now, node, target, bytes.len());
            let kind = match copies.first {
                Some(_) => EventKind::PacketSent,
                None => EventKind::PacketLost,
            };
            let digest = digest_of(bytes, to);
            let describe = || format!("to {target}, {} bytes, {copies:?}", bytes.len());
            state.trace.record(now, node, kind, digest, describe);
            copies
        };
        for at in [copies.first, copies.second].into_iter().flatten() {
            let mut packet = Vec::with_capacity(8 + bytes.len());
            packet.extend_from_slice(&at.as_nanos().to_le_bytes());
            packet.extend_from_slice(bytes);
            if let Some((place, by)) = copies.corrupt
                && !bytes.is_empty()
            {
                // Below the length, which is a `usize`.
                let place = (place % bytes.len() as u64) as usize;
                packet[8 + place] ^= by;
            }
            if let Err(error) = self.inner.try_send_to(&packet, to) {
                tracing::debug!(%error, %to, "a packet could not be sent");
            }
        }
    }

    /// The next packet that has arrived, and where from.
    pub(super) fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        while let Ok((len, from)) = self.inner.try_recv_from(&mut self.buffer) {
            if let Some((at, packet)) = self.buffer[..len].split_first_chunk::<8>()
                && self.on_their_way.len() < ON_THEIR_WAY_MAX
            {
                let at = SimTime::from_nanos(u64::from_le_bytes(*at));
                self.on_their_way
                    .insert((at, self.sequence), (from, packet.to_vec()));
                self.sequence += 1;
            }
        }
        let mut state = self.run.lock();
        let now = state.sim_time(self.life);
        let first = self.on_their_way.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let (from, packet) = first.remove();
        let (node, digest) = (self.life.node, digest_of(&packet, from));
        state
            .trace
            .record(now, node, EventKind::PacketReceived, digest, || {
                format!("from {from}, {} bytes", packet.len())
            });
        Some((from, packet))
    }

    /// When the next packet arrives of those that are known to be on their way.
    pub(super) fn next_arrival(&self) -> Option<SimTime> {
        self.on_their_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// Completes when something new is on its way.
    pub(super) async fn readable(&self) {
        if let Err(error) = self.inner.readable().await {
            tracing::debug!(%error, "the socket cannot be read");
            std::future::pending::<()>().await;
        }
    }
}

fn digest_of(bytes: &[u8], peer: SocketAddr) -> u64 {
    use std::hash::Hasher;
    let mut hasher = TraceHasher::new();
    if let SocketAddr::V4(peer) = peer {
        hasher.write_u32(peer.ip().to_bits());
        hasher.write_u16(peer.port());
    }
    hasher.write(bytes);
    hasher.finish()
}
