//! Peers that a node comes back to: those it was told to join through, and those that it has lost.
//!
//! Bootstrap peers are dialled whenever the catalog does not show them. Neighbours that went away without
//! taking leave are dialled in turn until they are heard of again, so that the halves of a network that was
//! cut in two find each other even after they have purged each other's entries.

use std::collections::VecDeque;

use super::super::context::Context;
use super::super::entry::EntryVersion;
use super::super::peer_addr::PeerAddr;
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// The most peers to join through, dialled ones included.
const SEEDS_MAX: usize = 128;
/// The most lost peers remembered, the oldest forgotten first.
const LOST_MAX: usize = 64;
/// Time before the second attempt at a peer; it doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest time between two attempts at a bootstrap peer.
const SEED_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest time between two attempts at a lost peer.
const LOST_BACKOFF_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether a bootstrap peer is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Attempts at a peer that was dialled by hand.
const DIAL_ATTEMPTS: u32 = 8;
/// Peers joined through at once.
const AT_ONCE_MAX: usize = 3;

pub(in super::super) struct Seeds {
    seeds: Vec<Seed>,
    seeds_at: Instant,
    lost: VecDeque<Lost>,
    lost_at: Instant,
}

struct Seed {
    address: PeerAddr,
    next_at: Instant,
    backoff: Duration,
    /// Attempts left; `None` for a bootstrap peer, which is never given up.
    attempts: Option<u32>,
}

struct Lost {
    address: PeerAddr,
    /// The peer's entry when it was lost: a newer one shows that it can be heard of.
    version: Option<EntryVersion>,
    next_at: Instant,
    backoff: Duration,
}

impl Seeds {
    pub(super) fn new(now: Instant, local: &PeerId, bootstrap: Vec<PeerAddr>) -> Self {
        let mut seeds = Self {
            seeds: Vec::new(),
            seeds_at: Instant::FAR_FUTURE,
            lost: VecDeque::new(),
            lost_at: Instant::FAR_FUTURE,
        };
        for address in bootstrap {
            if address.id != *local {
                seeds.add_seed(now, address, None);
            }
        }
        seeds
    }

    /// Joins through `address` too, soon.
    pub(super) fn dial(&mut self, now: Instant, address: PeerAddr) {
        self.add_seed(now, address, Some(DIAL_ATTEMPTS));
    }

    fn add_seed(&mut self, now: Instant, address: PeerAddr, attempts: Option<u32>) {
        self.seeds_at = self.seeds_at.min(now);
        let has_room = self.seeds.len() < SEEDS_MAX;
        match self
            .seeds
            .iter_mut()
            .find(|seed| seed.address.id == address.id)
        {
            Some(seed) => {
                for other in address.addresses {
                    if !seed.address.addresses.contains(&other) {
                        seed.address.addresses.insert(0, other);
                    }
                }
                seed.address.addresses.truncate(super::super::ADDRESSES_MAX);
                seed.next_at = now;
                seed.backoff = BACKOFF_MIN;
                seed.attempts = seed.attempts.and(attempts);
            }
            None if has_room => {
                self.seeds.push(Seed {
                    address,
                    next_at: now,
                    backoff: BACKOFF_MIN,
                    attempts,
                });
            }
            None => {}
        }
    }

    /// `peer` has become a neighbour.
    pub(super) fn reached(&mut self, peer: &PeerId) {
        self.seeds
            .retain(|seed| seed.attempts.is_none() || seed.address.id != *peer);
        for seed in &mut self.seeds {
            if seed.address.id == *peer {
                seed.backoff = BACKOFF_MIN;
            }
        }
        self.forget(peer);
    }

    /// A neighbour went away without taking leave.
    pub(super) fn lost(&mut self, ctx: &Context<'_>, address: PeerAddr) {
        self.forget(&address.id);
        if self.lost.len() == LOST_MAX {
            self.lost.pop_front();
        }
        let version = ctx
            .records
            .catalog()
            .record(&address.id)
            .map(|r| r.entry.version());
        let next_at = ctx.now + BACKOFF_MIN;
        self.lost.push_back(Lost {
            address,
            version,
            next_at,
            backoff: BACKOFF_MIN,
        });
        self.lost_at = self.lost_at.min(next_at);
    }

    /// A lost peer need not be looked for any longer.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.lost.retain(|lost| lost.address.id != *peer);
    }

    pub(super) fn deadline(&self) -> (Instant, &'static str) {
        (self.seeds_at, "bootstrap").min((self.lost_at, "lost"))
    }

    /// The peers to join through now, given who is linked.
    pub(super) fn due_seeds(
        &mut self,
        ctx: &mut Context<'_>,
        is_linked: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerAddr> {
        let mut due = Vec::new();
        if self.seeds_at > ctx.now {
            return due;
        }
        for seed in &mut self.seeds {
            if seed.next_at > ctx.now {
                continue;
            }
            let is_present = seed.attempts.is_none()
                && ctx
                    .records
                    .catalog()
                    .record(&seed.address.id)
                    .is_some_and(|r| !r.entry.is_departed());
            if is_linked(&seed.address.id) || is_present || due.len() == AT_ONCE_MAX {
                let wait = if due.len() == AT_ONCE_MAX {
                    BACKOFF_MIN
                } else {
                    CHECK_INTERVAL
                };
                seed.next_at = ctx.now + ctx.jittered(wait, 0.5);
                continue;
            }
            due.push(seed.address.clone());
            seed.next_at = ctx.now + ctx.jittered(seed.backoff, 0.5);
            seed.backoff = (seed.backoff * 2).min(SEED_BACKOFF_MAX);
            seed.attempts = seed.attempts.map(|attempts| attempts.saturating_sub(1));
        }
        self.seeds.retain(|seed| seed.attempts != Some(0));
        self.seeds_at = earliest(self.seeds.iter().map(|seed| seed.next_at));
        due
    }

    /// The lost peer to look for now, if any: one at a time.
    pub(super) fn due_lost(&mut self, ctx: &mut Context<'_>) -> Option<PeerAddr> {
        if self.lost_at > ctx.now {
            return None;
        }
        self.lost.retain(|lost| {
            let known = ctx.records.catalog().record(&lost.address.id);
            known.is_none_or(|r| !r.entry.is_departed() && Some(r.entry.version()) <= lost.version)
        });
        let position = self.lost.iter().position(|lost| lost.next_at <= ctx.now);
        let due = position
            .and_then(|position| self.lost.remove(position))
            .map(|mut lost| {
                lost.next_at = ctx.now + ctx.jittered(lost.backoff, 0.5);
                lost.backoff = (lost.backoff * 2).min(LOST_BACKOFF_MAX);
                let address = lost.address.clone();
                self.lost.push_back(lost);
                address
            });
        self.lost_at = earliest(self.lost.iter().map(|lost| lost.next_at));
        if self.lost_at < Instant::FAR_FUTURE {
            // One at a time: a network of which half is gone is not to be busy with dialling it.
            self.lost_at = self.lost_at.max(ctx.now + BACKOFF_MIN);
        }
        due
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.seeds.len() <= SEEDS_MAX && self.lost.len() <= LOST_MAX,
            "too many seeds"
        );
    }
}

fn earliest(instants: impl Iterator<Item = Instant>) -> Instant {
    instants.min().unwrap_or(Instant::FAR_FUTURE)
}
