//! The catalog and the rules by which entries come into it and leave it.
//!
//! Ages, not dates, decide what is stale: an entry's age travels with it and grows on every node that keeps
//! it, by that node's monotonic clock. So the entry of a dead peer reaches `purge_after` everywhere at
//! about the same time, however clocks are set and however often it is passed on.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::catalog::{Catalog, Record};
use super::config::Config;
use super::entry::{EntryVersion, PeerEntry, VerifiedEntry};
use super::io::Refusal;
use super::messages::{Aged, EntryId};
use super::peer_addr::PeerAddr;
use crate::id::{NetworkId, PeerId};
use crate::time::{Duration, Instant, WallTime};

/// The most peers in a catalog, tombstones included.
pub(super) const PEERS_MAX: usize = 65_536;
/// The most entries that were inserted by hand.
pub(super) const UNSIGNED_MAX: usize = 1_024;
/// The most purged entries that are remembered, the oldest forgotten first.
const GRAVES_MAX: usize = 8_192;

/// What became of an entry that was to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// Nothing was known of the peer.
    New,
    /// It took the place of this one.
    Replaced(VerifiedEntry),
    /// It was there already.
    Known,
    /// There is one of greater precedence.
    Outranked,
}

pub(super) struct Records {
    catalog: Catalog,
    network: NetworkId,
    local: PeerId,
    purge_after: Duration,
    max_time_drift: Duration,
    wall: WallTime,
    wall_read_at: Instant,
    /// For each record one instant, its place, no later than its expiry. Renewing a record leaves its place in the
    /// index alone; when the place comes up it is put where it then belongs.
    expiry: BTreeSet<(Instant, PeerId)>,
    /// No later than the first place in the index and the first grave's end.
    next_purge: Instant,
    /// Versions at and below which entries were purged or removed. Without them an entry could come back
    /// from a node that counts its age from a moment later.
    /// The version that was given up, and until when that is remembered.
    graves: BTreeMap<PeerId, (EntryVersion, Instant)>,
    grave_queue: VecDeque<(Instant, PeerId)>,
}

impl Records {
    pub(super) fn new(
        now: Instant,
        network: NetworkId,
        local: PeerId,
        wall: WallTime,
        config: &Config,
    ) -> Self {
        Self {
            catalog: Catalog::new(local, config.max_rtt),
            network,
            local,
            purge_after: config.purge_after,
            max_time_drift: config.max_time_drift,
            wall,
            wall_read_at: now,
            expiry: BTreeSet::new(),
            next_purge: Instant::FAR_FUTURE,
            graves: BTreeMap::new(),
            grave_queue: VecDeque::new(),
        }
    }

    pub(super) const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(super) fn set_wall(&mut self, now: Instant, wall: WallTime) {
        self.wall = wall;
        self.wall_read_at = now;
    }

    pub(super) fn wall(&self, now: Instant) -> WallTime {
        self.wall + now.since(self.wall_read_at)
    }

    /// The latest date that is taken for a difference of clocks.
    pub(super) fn horizon(&self, now: Instant) -> WallTime {
        self.wall(now) + self.max_time_drift
    }

    /// True of an entry that is dated further in the future than clocks may differ.
    pub(super) fn is_from_the_future(&self, now: Instant, entry: &VerifiedEntry) -> bool {
        let horizon = self.horizon(now);
        entry.updated_at > horizon || entry.version.started_at > horizon
    }

    /// Takes in `entry`, made `age_ms` ago, if the rules allow it.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        entry: VerifiedEntry,
        age_ms: u32,
    ) -> Result<Merged, Refusal> {
        let known = self.catalog.record(&entry.id);
        let precedence = known.map(|record| match entry.version.cmp(&record.version) {
            Ordering::Equal => entry.precedence(&record.entry),
            unequal => unequal,
        });
        match precedence {
            Some(Ordering::Equal) => return Ok(Merged::Known),
            Some(Ordering::Less) => return Ok(Merged::Outranked),
            Some(Ordering::Greater) | None => {}
        }
        if entry.network != self.network {
            return Err(Refusal::OtherNetwork);
        }
        if self.is_from_the_future(now, &entry) {
            return Err(Refusal::FromTheFuture);
        }
        let age = Duration::from_millis(age_ms.into());
        if age >= self.purge_after {
            return Err(Refusal::Stale);
        }
        if self
            .graves
            .get(&entry.id)
            .is_some_and(|(buried, _)| entry.version <= *buried)
        {
            return Err(Refusal::Stale);
        }
        if known.is_none() && self.catalog.len() >= PEERS_MAX {
            return Err(Refusal::Full);
        }
        Ok(match self.put(now + (self.purge_after - age), entry) {
            None => Merged::New,
            Some(replaced) => Merged::Replaced(replaced.entry),
        })
    }

    /// Puts in this node's own entry, made just now.
    pub(super) fn put_own(&mut self, now: Instant, entry: VerifiedEntry) {
        self.put(now + self.purge_after, entry);
    }

    fn put(&mut self, expires: Instant, entry: VerifiedEntry) -> Option<Record> {
        let id = entry.id;
        let former = self.catalog.record(&id).map(|record| record.place);
        let place = former.map_or(expires, |former| former.min(expires));
        if former != Some(place) {
            // Not one more: a peer whose entries come now younger and now older would fill the index.
            if let Some(former) = former {
                self.expiry.remove(&(former, id));
            }
            self.expiry.insert((place, id));
            self.next_purge = self.next_purge.min(place);
        }
        self.catalog.put(entry, expires, place)
    }

    fn move_to(&mut self, place: Instant, peer: PeerId) {
        self.expiry.insert((place, peer));
        self.catalog.set_place(&peer, place);
    }

    /// How long ago the record's entry was made, as far as is known.
    pub(super) fn age(&self, now: Instant, record: &Record) -> Duration {
        self.purge_after.saturating_sub(record.expires.since(now))
    }

    /// The record as it is sent to another node.
    pub(super) fn aged(&self, now: Instant, record: &Record) -> Aged<VerifiedEntry> {
        let entry = record.entry.clone();
        // Rounded up, so that an age never shrinks on its way.
        let age_ms = self.age(now, record).as_nanos().div_ceil(1_000_000);
        Aged {
            entry,
            age_ms: u32::try_from(age_ms).unwrap_or(u32::MAX),
        }
    }

    /// What is known of `peer`, ready to be sent, if it is in the catalog.
    pub(super) fn aged_of(&self, now: Instant, peer: &PeerId) -> Option<Aged<VerifiedEntry>> {
        self.catalog
            .record(peer)
            .map(|record| self.aged(now, record))
    }

    /// Where `peer` can be reached, if it is alive.
    pub(super) fn address_of(&self, peer: &PeerId) -> Option<PeerAddr> {
        let record = self.catalog.record(peer)?;
        let entry = &record.entry;
        (!entry.is_departed() && !entry.addresses().is_empty()).then(|| entry.address())
    }

    /// Whether an entry that is announced is newer than what is here.
    pub(super) fn is_news(&self, id: &EntryId) -> bool {
        match self.catalog.record(&id.peer) {
            Some(record) => record.version < id.version,
            None => self
                .graves
                .get(&id.peer)
                .is_none_or(|(buried, _)| id.version > *buried),
        }
    }

    /// When [`purge`](Self::purge) may have something to do.
    pub(super) const fn next_purge(&self) -> Instant {
        self.next_purge
    }

    /// Takes out one entry that has reached its purge age; `None` where there is none left.
    pub(super) fn purge(&mut self, now: Instant) -> Option<VerifiedEntry> {
        while self
            .grave_queue
            .front()
            .is_some_and(|(until, _)| *until <= now)
        {
            self.forget_oldest_grave();
        }
        while let Some((at, peer)) = self.expiry.first().copied().filter(|(at, _)| *at <= now) {
            self.expiry.remove(&(at, peer));
            let Some(record) = self.catalog.record(&peer) else {
                continue;
            };
            if record.expires > now {
                self.move_to(record.expires, peer);
            } else if peer == self.local {
                // The machine was asleep; its own entry is about to be renewed.
                self.move_to(now + self.purge_after, peer);
            } else {
                return self.bury(now, &peer);
            }
        }
        let expiry = self.expiry.first().map(|(at, _)| *at);
        let grave = self.grave_queue.front().map(|(until, _)| *until);
        self.next_purge = expiry
            .into_iter()
            .chain(grave)
            .min()
            .unwrap_or(Instant::FAR_FUTURE);
        None
    }

    /// Takes out what is known of `peer`; it comes back only with a newer entry.
    pub(super) fn bury(&mut self, now: Instant, peer: &PeerId) -> Option<VerifiedEntry> {
        let record = self.catalog.remove(peer)?;
        self.expiry.remove(&(record.place, *peer));
        if self.grave_queue.len() == GRAVES_MAX {
            self.forget_oldest_grave();
        }
        let until = now + self.purge_after;
        self.graves.insert(*peer, (record.entry.version, until));
        self.grave_queue.push_back((until, *peer));
        self.next_purge = self.next_purge.min(until);
        Some(record.entry)
    }

    fn forget_oldest_grave(&mut self) {
        let Some((until, peer)) = self.grave_queue.pop_front() else {
            return;
        };
        // A later grave of the same peer has a later place in the queue.
        if self.graves.get(&peer).is_some_and(|grave| grave.1 == until) {
            self.graves.remove(&peer);
        }
    }

    pub(super) fn insert_unsigned(&mut self, entry: Arc<PeerEntry>) -> Option<Arc<PeerEntry>> {
        self.catalog.insert_unsigned(entry)
    }

    pub(super) fn remove_unsigned(&mut self, peer: &PeerId) -> Option<Arc<PeerEntry>> {
        self.catalog.remove_unsigned(peer)
    }

    /// Notes the smoothed round-trip time; whether that hides or shows the peer.
    pub(super) fn set_rtt(&mut self, peer: PeerId, rtt: Duration) -> bool {
        let was_far = self.catalog.is_far(&peer);
        self.catalog.set_rtt(peer, rtt);
        was_far != self.catalog.is_far(&peer)
    }

    pub(super) fn check_invariants(&self) {
        self.catalog.check_invariants();
        assert!(
            self.catalog.len() <= PEERS_MAX + 1,
            "the catalog exceeds its bound"
        );
        assert!(
            self.graves.len() <= self.grave_queue.len(),
            "a grave would never be forgotten"
        );
        let first_place = self
            .expiry
            .first()
            .map_or(Instant::FAR_FUTURE, |(at, _)| *at);
        assert!(self.next_purge <= first_place, "the purge comes too late");
        assert_eq!(
            self.expiry.len(),
            self.catalog.len(),
            "each record has one place in the index"
        );
        for record in self.catalog.records(&super::Range::ALL) {
            let id = record.entry.id;
            assert!(
                self.expiry.contains(&(record.place, id)),
                "a record is not where it says"
            );
            assert!(
                record.place <= record.expires || id == self.local,
                "a record would never expire"
            );
        }
    }
}
