//! All that a node knows of its peers.
//!
//! The signed part is a join-semilattice: for each peer the entry of the greatest
//! [precedence](VerifiedEntry::precedence) stays, so merging is commutative, associative and idempotent,
//! and any exchange of entries in any order leads all nodes to the same catalog. A departure is an entry
//! like any other, so it outranks what the peer had said before.

use std::collections::BTreeSet;
use std::sync::Arc;

use im::OrdMap;
use im::ordmap::DiffItem;

use super::entry::{EntryVersion, PeerEntry, Status, VerifiedEntry};
use super::range::{Fingerprint, PARTS, Range};
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// What a node knows of its peers at one moment. Cloning it takes constant time.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    local: Option<PeerId>,
    signed: OrdMap<PeerId, Record>,
    unsigned: OrdMap<PeerId, Arc<PeerEntry>>,
    rtts: OrdMap<PeerId, Duration>,
    max_rtt: Option<Duration>,
    /// Records whose peer is alive, this node's own among them.
    alive: usize,
    sums: Sums,
}

/// What a node knows of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo<'a> {
    /// What is said of it.
    pub entry: &'a PeerEntry,
    /// It speaks for itself; else it was put in by hand.
    pub is_signed: bool,
    /// The smoothed round-trip time to it, where it has been measured.
    pub rtt: Option<Duration>,
}

/// An entry, and until when it counts.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) entry: VerifiedEntry,
    /// The entry's version, here again because it is what is asked for most often: in a large network
    /// every look at an entry itself misses the processor's cache.
    pub(super) version: EntryVersion,
    /// When it will have reached the age at which it is purged.
    pub(super) expires: Instant,
    /// When it is looked at for that: no later.
    pub(super) place: Instant,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.entry == other.entry
    }
}

impl Catalog {
    pub(super) fn new(local: PeerId, max_rtt: Option<Duration>) -> Self {
        Self {
            local: Some(local),
            max_rtt,
            ..Self::default()
        }
    }

    /// All visible peers but this node itself, in the order of their ids. A peer that is known by a
    /// signed entry and an unsigned one is given once, by the signed.
    pub fn peers(&self) -> impl Iterator<Item = &PeerEntry> {
        self.iter().filter(|entry| Some(entry.id) != self.local)
    }

    /// Visible peers that speak for themselves, but this node.
    pub fn signed_peers(&self) -> impl Iterator<Item = &VerifiedEntry> {
        self.signed
            .values()
            .map(|record| &record.entry)
            .filter(|entry| self.is_visible(entry) && Some(entry.id) != self.local)
    }

    /// Peers that were put in by hand and have not spoken for themselves.
    pub fn unsigned_peers(&self) -> impl Iterator<Item = &PeerEntry> {
        self.unsigned
            .values()
            .map(|entry| &**entry)
            .filter(|entry| self.is_by_hand_only(entry))
    }

    /// All visible entries, this node's own among them: first those that are signed, in the order of
    /// their ids, then those that are not.
    pub fn iter(&self) -> impl Iterator<Item = &PeerEntry> {
        let signed = self.signed.values().map(|record| &record.entry);
        let signed = signed.filter(|entry| self.is_visible(entry));
        signed.map(|entry| &**entry).chain(self.unsigned_peers())
    }

    /// What is known of `peer`, if it is visible.
    #[must_use]
    pub fn get(&self, peer: &PeerId) -> Option<&PeerEntry> {
        match self.get_signed(peer) {
            Some(entry) => Some(entry),
            None => {
                let entry = &**self.unsigned.get(peer)?;
                self.is_by_hand_only(entry).then_some(entry)
            }
        }
    }

    /// What `peer` says of itself, if it is visible.
    #[must_use]
    pub fn get_signed(&self, peer: &PeerId) -> Option<&VerifiedEntry> {
        let record = self.signed.get(peer)?;
        self.is_visible(&record.entry).then_some(&record.entry)
    }

    /// What this node says of itself.
    #[must_use]
    pub fn local(&self) -> Option<&VerifiedEntry> {
        self.signed.get(&self.local?).map(|record| &record.entry)
    }

    /// How many peers are visible, this node not counted.
    #[must_use]
    pub fn peers_count(&self) -> usize {
        if self.max_rtt.is_none() && self.unsigned.is_empty() {
            self.alive - usize::from(self.local().is_some_and(|own| own.status == Status::Alive))
        } else {
            self.peers().count()
        }
    }

    /// The smoothed round-trip time to `peer`, where it has been measured.
    #[must_use]
    pub fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        self.rtts.get(peer).copied()
    }

    /// All that is known of `peer`, if it is visible.
    #[must_use]
    pub fn info(&self, peer: &PeerId) -> Option<PeerInfo<'_>> {
        Some(PeerInfo {
            entry: self.get(peer)?,
            is_signed: self.get_signed(peer).is_some(),
            rtt: self.rtt(peer),
        })
    }

    /// Peers of which [`get`](Self::get) may give something else than `earlier` did, and few others. Takes time in
    /// proportion to what was changed since, where `earlier` is a former state of this catalog.
    pub(crate) fn touched_since(&self, earlier: &Self) -> BTreeSet<PeerId> {
        let mut touched = BTreeSet::new();
        touched.extend(earlier.signed.diff(&self.signed).map(|item| peer_of(&item)));
        let unsigned = earlier.unsigned.diff(&self.unsigned);
        touched.extend(unsigned.map(|item| peer_of(&item)));
        // Round-trip times change often, and mean something only where they hide peers.
        if self.max_rtt.is_some() {
            touched.extend(earlier.rtts.diff(&self.rtts).map(|item| peer_of(&item)));
        }
        touched
    }

    fn is_visible(&self, entry: &VerifiedEntry) -> bool {
        entry.status == Status::Alive && !self.is_far(&entry.id)
    }

    fn is_by_hand_only(&self, entry: &PeerEntry) -> bool {
        let speaks = self.signed.get(&entry.id);
        speaks.is_none_or(|record| record.entry.status == Status::Departed)
            && !self.is_far(&entry.id)
    }

    /// Whether `peer` is hidden because its round-trip time is above `max_rtt`.
    pub(crate) fn is_far(&self, peer: &PeerId) -> bool {
        self.max_rtt
            .is_some_and(|max| self.rtts.get(peer).is_some_and(|rtt| *rtt > max))
    }

    /// The very entry of `peer` that has this digest, where it is here.
    pub(super) fn holding(
        &self,
        peer: &PeerId,
        digest: &crate::id::Digest,
    ) -> Option<&VerifiedEntry> {
        let entry = &self.signed.get(peer)?.entry;
        (entry.digest() == digest).then_some(entry)
    }

    /// What is here of `peer`, tombstones included.
    pub(super) fn record(&self, peer: &PeerId) -> Option<&Record> {
        self.signed.get(peer)
    }

    /// All signed entries whose peers lie in `range`, tombstones included.
    pub(super) fn records(&self, range: &Range) -> impl Iterator<Item = &Record> {
        self.signed
            .range(range.first()..=range.last())
            .map(|(_, record)| record)
    }

    /// How many signed entries are here, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.signed.len()
    }

    /// The first peer at or after `start`, going round at the end.
    pub(super) fn next_from(&self, start: &PeerId) -> Option<&Record> {
        let after = self.signed.get_next(start);
        after
            .or_else(|| self.signed.get_min().map(|(id, record)| (id, record)))
            .map(|(_, r)| r)
    }

    /// Puts `entry` in the place of what is here of its peer. It takes precedence over that, by the
    /// caller's word.
    pub(super) fn put(
        &mut self,
        entry: VerifiedEntry,
        expires: Instant,
        place: Instant,
    ) -> Option<Record> {
        self.sums.insert(&entry);
        self.alive += usize::from(entry.status == Status::Alive);
        let record = Record {
            version: entry.version,
            entry,
            expires,
            place,
        };
        let replaced = self.signed.insert(record.entry.id, record);
        if let Some(replaced) = &replaced {
            self.sums.remove(&replaced.entry);
            self.alive -= usize::from(replaced.entry.status == Status::Alive);
        }
        replaced
    }

    pub(super) fn remove(&mut self, peer: &PeerId) -> Option<Record> {
        let record = self.signed.remove(peer)?;
        self.sums.remove(&record.entry);
        self.alive -= usize::from(record.entry.status == Status::Alive);
        self.rtts.remove(peer);
        Some(record)
    }

    /// Notes when the record of `peer` is looked at next.
    pub(super) fn set_place(&mut self, peer: &PeerId, place: Instant) {
        if let Some(record) = self.signed.get_mut(peer) {
            record.place = place;
        }
    }

    pub(super) fn insert_unsigned(&mut self, entry: Arc<PeerEntry>) -> Option<Arc<PeerEntry>> {
        self.unsigned.insert(entry.id, entry)
    }

    pub(super) fn remove_unsigned(&mut self, peer: &PeerId) -> Option<Arc<PeerEntry>> {
        self.unsigned.remove(peer)
    }

    pub(super) fn unsigned_ids(&self) -> Vec<PeerId> {
        self.unsigned.keys().copied().collect()
    }

    pub(super) fn unsigned_count(&self) -> usize {
        self.unsigned.len()
    }

    pub(super) fn set_rtt(&mut self, peer: PeerId, rtt: Duration) {
        self.rtts.insert(peer, rtt);
    }

    /// The sum of all signed entries.
    pub(super) fn summary(&self) -> Fingerprint {
        self.sums.total
    }

    /// The sum of the signed entries in `range`.
    pub(super) fn fingerprint(&self, range: &Range) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        match range.nibbles() {
            0 => return self.sums.total,
            1 | 2 => {
                let first = usize::from(range.first_byte());
                let width = if range.nibbles() == 1 { PARTS } else { 1 };
                for sum in &self.sums.by_byte[first..first + width] {
                    fingerprint.add(sum);
                }
            }
            _ => {
                for record in self.records(range) {
                    fingerprint.insert(record.entry.digest());
                }
            }
        }
        fingerprint
    }

    /// The sums of the sixteen parts of `range`, read in one go.
    pub(super) fn fingerprint_parts(&self, range: &Range) -> Vec<Fingerprint> {
        if range.nibbles() < 2 {
            let parts = (0..PARTS as u8).filter_map(|nibble| range.part(nibble));
            return parts.map(|part| self.fingerprint(&part)).collect();
        }
        let mut parts = vec![Fingerprint::default(); PARTS];
        for record in self.records(range) {
            parts[range.part_of(&record.entry.id)].insert(record.entry.digest());
        }
        parts
    }

    /// Panics where the sums and counts are not those of the entries. Takes time linear in their number.
    pub(super) fn check_invariants(&self) {
        let mut sums = Sums::default();
        let mut alive = 0;
        for (id, record) in &self.signed {
            assert_eq!(*id, record.entry.id, "a record lies under another id");
            assert_eq!(
                record.version, record.entry.version,
                "a record shows another version"
            );
            sums.insert(&record.entry);
            alive += usize::from(record.entry.status == Status::Alive);
        }
        assert_eq!(
            sums, self.sums,
            "the fingerprints are not those of the records"
        );
        assert_eq!(alive, self.alive, "the count of live peers is wrong");
    }
}

/// Whom a difference is about.
const fn peer_of<V>(item: &DiffItem<'_, '_, PeerId, V>) -> PeerId {
    match item {
        DiffItem::Add(peer, _) | DiffItem::Remove(peer, _) => **peer,
        DiffItem::Update { new, .. } => *new.0,
    }
}

/// Sums kept up to date with every change, so that comparing catalogs reads only what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    total: Fingerprint,
    /// By the first byte of the peer id.
    by_byte: Arc<[Fingerprint; 256]>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            total: Fingerprint::default(),
            by_byte: Arc::new([Fingerprint::default(); 256]),
        }
    }
}

impl Sums {
    fn insert(&mut self, entry: &VerifiedEntry) {
        self.total.insert(entry.digest());
        Arc::make_mut(&mut self.by_byte)[usize::from(entry.id.as_bytes()[0])]
            .insert(entry.digest());
    }

    fn remove(&mut self, entry: &VerifiedEntry) {
        self.total.remove(entry.digest());
        Arc::make_mut(&mut self.by_byte)[usize::from(entry.id.as_bytes()[0])]
            .remove(entry.digest());
    }
}
