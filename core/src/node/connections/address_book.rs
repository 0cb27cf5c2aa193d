//! Where peers were last known to be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::PeerId;

/// Addresses kept for one peer of each origin.
const ADDRESSES_PER_PEER_MAX: usize = 8;

/// Peers kept. Beyond it some peer is forgotten for each new one; whoever dials it names its addresses again.
const PEERS_MAX: usize = 65_536;

/// Where peers were last known to be, by what they say and by what was seen.
#[derive(Default)]
pub(crate) struct AddressBook(Mutex<BTreeMap<PeerId, Known>>);

#[derive(Default)]
struct Known {
    /// Where an authenticated connection came from: the likeliest to work.
    observed: Option<SocketAddr>,
    /// What users and peers have named.
    named: Vec<SocketAddr>,
}

impl AddressBook {
    /// Replaces what is named of `peer`.
    pub(crate) fn name(&self, peer: PeerId, addresses: &[SocketAddr]) {
        self.with(peer, |known| {
            known.named.clear();
            known
                .named
                .extend(addresses.iter().take(ADDRESSES_PER_PEER_MAX));
        });
    }

    /// Notes where an authenticated connection of `peer` came from.
    pub(crate) fn observe(&self, peer: PeerId, address: SocketAddr) {
        self.with(peer, |known| known.observed = Some(address));
    }

    /// Drops what is known of `peer`.
    pub(crate) fn forget(&self, peer: PeerId) {
        self.lock().remove(&peer);
    }

    /// Where to try to reach `peer`, the likeliest first.
    pub(crate) fn addresses(&self, peer: PeerId) -> Vec<SocketAddr> {
        let book = self.lock();
        let Some(known) = book.get(&peer) else {
            return Vec::new();
        };
        let mut addresses: Vec<_> = known.observed.into_iter().collect();
        addresses.extend(
            known
                .named
                .iter()
                .filter(|named| Some(**named) != known.observed),
        );
        addresses
    }

    fn with(&self, peer: PeerId, change: impl FnOnce(&mut Known)) {
        let mut book = self.lock();
        if book.len() >= PEERS_MAX && !book.contains_key(&peer) {
            // Ids are random, so the first is as good as any.
            book.pop_first();
        }
        change(book.entry(peer).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Known>> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId::from_bytes([1; 32]);

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn what_was_seen_comes_before_what_was_said_and_once() {
        let book = AddressBook::default();
        book.name(PEER, &[address(1), address(2)]);
        assert_eq!(book.addresses(PEER), [address(1), address(2)]);
        book.observe(PEER, address(2));
        assert_eq!(book.addresses(PEER), [address(2), address(1)]);
        book.name(PEER, &[address(3)]);
        assert_eq!(book.addresses(PEER), [address(2), address(3)]);
        book.forget(PEER);
        assert_eq!(book.addresses(PEER), []);
    }

    #[test]
    fn a_full_book_still_takes_newcomers() {
        let book = AddressBook::default();
        let peer = |n: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_be_bytes());
            PeerId::from_bytes(id)
        };
        let many = u32::try_from(PEERS_MAX).unwrap() + 10;
        (0..many).for_each(|n| book.observe(peer(n), address(1)));
        assert_eq!(book.addresses(peer(many - 1)), [address(1)]);
        assert_eq!(book.lock().len(), PEERS_MAX);
    }

    #[test]
    fn a_peer_cannot_fill_the_book_with_addresses() {
        let book = AddressBook::default();
        let many: Vec<_> = (0..1_000).map(address).collect();
        book.name(PEER, &many);
        assert_eq!(book.addresses(PEER).len(), ADDRESSES_PER_PEER_MAX);
    }
}
