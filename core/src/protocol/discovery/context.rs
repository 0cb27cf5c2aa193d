//! What the parts of the machine share while one input is handled.

use std::collections::VecDeque;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::io::Output;
use super::messages::Message;
use super::peer_addr::PeerAddr;
use super::records::Records;
use crate::id::PeerId;
use crate::time::{Duration, Instant};

pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) rng: &'a mut ChaCha8Rng,
    pub(super) records: &'a Records,
    pub(super) outputs: &'a mut VecDeque<Output>,
}

impl Context<'_> {
    pub(super) fn send(&mut self, peer: PeerId, message: Message) {
        self.outputs.push_back(Output::Send(peer, message));
    }

    /// One of `list`, each as likely.
    pub(super) fn choose<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        match list.len() {
            0 => None,
            len => Some(list[self.rng.random_range(0..len as u64) as usize].clone()),
        }
    }

    /// Up to `count` of `list`, which is left in another order.
    pub(super) fn sample<T: Clone>(&mut self, list: &mut [T], count: usize) -> Vec<T> {
        let count = count.min(list.len());
        for i in 0..count {
            let other = self.rng.random_range(i as u64..list.len() as u64) as usize;
            list.swap(i, other);
        }
        list[..count].to_vec()
    }

    /// Some live peer out of the catalog that `accept` accepts, if a few tries find one. Takes no longer in
    /// a large catalog: the peer after a random point of the id space is as good as any, since ids are
    /// spread evenly.
    pub(super) fn random_peer(&mut self, accept: impl Fn(&PeerId) -> bool) -> Option<PeerAddr> {
        let mut start = [0; 32];
        self.rng.fill_bytes(&mut start);
        let mut start = PeerId::from_bytes(start);
        for _ in 0..TRIES_MAX.min(self.records.catalog().len()) {
            let found = self.records.catalog().next_from(&start)?.entry.id;
            if accept(&found)
                && let Some(address) = self.records.address_of(&found)
            {
                return Some(address);
            }
            start = after(&found);
        }
        None
    }

    /// A duration drawn evenly from `mean * (1 - part)` to `mean * (1 + part)`.
    pub(super) fn jittered(&mut self, mean: Duration, part: f64) -> Duration {
        let low = mean.mul_f64(1.0 - part).as_nanos() as u64;
        let high = mean.mul_f64(1.0 + part).as_nanos() as u64;
        Duration::from_nanos(self.rng.random_range(low..=high.max(low)))
    }
}

/// Peers looked at before a search for one is given up.
const TRIES_MAX: usize = 16;

/// The id right after `id`, or the first after the last.
fn after(id: &PeerId) -> PeerId {
    let mut bytes = *id.as_bytes();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    PeerId::from_bytes(bytes)
}
