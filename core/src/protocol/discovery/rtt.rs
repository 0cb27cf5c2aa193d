//! Round-trip times: when to measure which, and what the measurements amount to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::id::PeerId;
use crate::protocol::rtt::Estimate;
use crate::time::{Duration, Instant};

/// The most probes under way at once.
pub(super) const OUTSTANDING_MAX: usize = 16;
/// The most probes begun in one interval; in larger networks each peer is measured less often.
const PER_INTERVAL: u32 = 32;
/// A probe that has not come back by then has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Prober {
    interval: Duration,
    peers: BTreeMap<PeerId, State>,
    /// Peers that are to be probed, the one whose turn it is first.
    due: BTreeSet<(Instant, PeerId)>,
    /// Probes under way, the oldest first; those that have come back are passed over.
    deadlines: VecDeque<(Instant, PeerId)>,
    outstanding: usize,
    next_at: Instant,
    deadline: Instant,
}

struct State {
    estimate: Option<Estimate>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Due(Instant),
    Outstanding(Instant),
}

impl Prober {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            peers: BTreeMap::new(),
            due: BTreeSet::new(),
            deadlines: VecDeque::new(),
            outstanding: 0,
            next_at: Instant::ZERO,
            deadline: Instant::FAR_FUTURE,
        }
    }

    /// From now on `peer` is measured, first at a random point within the interval.
    pub(super) fn add(&mut self, now: Instant, peer: PeerId, rng: &mut ChaCha8Rng) {
        if self.peers.contains_key(&peer) {
            return;
        }
        let at = now + Duration::from_nanos(rng.random_range(0..=nanos(self.interval)));
        self.peers.insert(
            peer,
            State {
                estimate: None,
                phase: Phase::Due(at),
            },
        );
        self.due.insert((at, peer));
        self.update_deadline();
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        match self.peers.remove(peer).map(|state| state.phase) {
            Some(Phase::Due(at)) => {
                self.due.remove(&(at, *peer));
            }
            Some(Phase::Outstanding(_)) => self.outstanding -= 1,
            None => {}
        }
        self.update_deadline();
    }

    /// Takes in a sample, asked for or not; gives the smoothed time where there is news of it.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        peer: &PeerId,
        sample: Option<Duration>,
    ) -> Option<Duration> {
        let state = self.peers.get_mut(peer)?;
        match state.phase {
            Phase::Due(at) => {
                self.due.remove(&(at, *peer));
            }
            Phase::Outstanding(_) => self.outstanding -= 1,
        }
        let next = now + self.interval;
        state.phase = Phase::Due(next);
        self.due.insert((next, *peer));
        self.update_deadline();
        let state = self.peers.get_mut(peer)?;
        let sample = sample?;
        match &mut state.estimate {
            Some(estimate) => estimate.update(sample),
            none => *none = Some(Estimate::new(sample)),
        }
        state.estimate.map(Estimate::smoothed)
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn update_deadline(&mut self) {
        let timeout = self.deadlines.front().map(|(at, _)| *at);
        let due = self.due.first().map(|(at, _)| (*at).max(self.next_at));
        let due = due.filter(|_| self.outstanding < OUTSTANDING_MAX);
        self.deadline = timeout
            .into_iter()
            .chain(due)
            .min()
            .unwrap_or(Instant::FAR_FUTURE);
    }

    /// The peer to probe now, if any.
    pub(super) fn poll(&mut self, now: Instant) -> Option<PeerId> {
        let peer = self.begin(now);
        self.update_deadline();
        peer
    }

    fn begin(&mut self, now: Instant) -> Option<PeerId> {
        while let Some((at, peer)) = self.deadlines.front().copied() {
            let phase = self.peers.get(&peer).map(|state| state.phase);
            if phase == Some(Phase::Outstanding(at)) {
                if at > now {
                    break;
                }
                self.sample(now, &peer, None);
            }
            self.deadlines.pop_front();
        }
        if self.outstanding >= OUTSTANDING_MAX || now < self.next_at {
            return None;
        }
        let (at, peer) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, peer));
        let deadline = now + PROBE_TIMEOUT;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.phase = Phase::Outstanding(deadline);
        }
        self.deadlines.push_back((deadline, peer));
        self.outstanding += 1;
        self.next_at = now + self.interval / PER_INTERVAL;
        Some(peer)
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.outstanding <= OUTSTANDING_MAX,
            "too many probes are under way"
        );
        assert_eq!(
            self.due.len() + self.outstanding,
            self.peers.len(),
            "a peer is never probed"
        );
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(32);

    fn peers(count: u8) -> (Prober, Vec<PeerId>) {
        let mut prober = Prober::new(INTERVAL);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let ids: Vec<_> = (0..count).map(|i| PeerId::from_bytes([i; 32])).collect();
        for id in &ids {
            prober.add(Instant::ZERO, *id, &mut rng);
        }
        (prober, ids)
    }

    /// Probes until `end`, answering after `latency`, or never; gives when each peer was probed.
    fn run(prober: &mut Prober, latency: Option<Duration>, end: Instant) -> Vec<(Instant, PeerId)> {
        let mut probed = Vec::new();
        let mut replies = VecDeque::new();
        loop {
            let reply = replies.front().map_or(Instant::FAR_FUTURE, |(at, _)| *at);
            let now = prober.deadline().min(reply);
            if now > end {
                return probed;
            }
            if reply <= now {
                let (_, peer) = replies.pop_front().unwrap();
                prober.sample(now, &peer, latency);
            }
            while let Some(peer) = prober.poll(now) {
                probed.push((now, peer));
                if let Some(latency) = latency {
                    replies.push_back((now + latency, peer));
                }
            }
            prober.check_invariants();
        }
    }

    #[test]
    fn every_peer_is_probed_once_in_an_interval_spread_over_it() {
        let (mut prober, ids) = peers(30);
        let probed = run(
            &mut prober,
            Some(Duration::from_millis(1)),
            Instant::ZERO + INTERVAL * 2,
        );
        let first: BTreeMap<_, _> = probed.iter().rev().map(|(at, peer)| (*peer, *at)).collect();
        assert_eq!(first.len(), ids.len());
        let half = Instant::ZERO + INTERVAL / 2;
        let early = first.values().filter(|at| **at < half).count();
        assert!(
            (5..25).contains(&early),
            "{early} of 30 in the first half of the interval"
        );
        assert!((30..=60).contains(&probed.len()), "{} probes", probed.len());
    }

    #[test]
    fn a_large_network_is_probed_within_the_budget_and_in_turn() {
        let (mut prober, ids) = peers(200);
        let probed = run(
            &mut prober,
            Some(Duration::from_millis(1)),
            Instant::ZERO + INTERVAL * 16,
        );
        assert!(probed.len() <= 32 * 16 + 1, "{} probes", probed.len());
        for id in ids {
            let times = probed.iter().filter(|(_, peer)| *peer == id).count();
            assert!((2..=3).contains(&times), "{id:?} was probed {times} times");
        }
    }

    #[test]
    fn silent_peers_hold_no_more_than_the_budget_and_are_tried_again() {
        let (mut prober, _) = peers(40);
        let probed = run(&mut prober, None, Instant::ZERO + INTERVAL * 4);
        let within = |start: Duration| {
            let start = Instant::ZERO + start;
            let window = start..start + PROBE_TIMEOUT;
            probed.iter().filter(|(at, _)| window.contains(at)).count()
        };
        assert!(within(INTERVAL) <= 2 * OUTSTANDING_MAX);
        assert!(probed.len() > 40, "{} probes", probed.len());
    }

    #[test]
    fn a_forgotten_peer_gives_its_probe_back() {
        let (mut prober, ids) = peers(1);
        let at = prober.deadline();
        assert_eq!(prober.poll(at), Some(ids[0]));
        prober.remove(&ids[0]);
        prober.check_invariants();
        assert_eq!(prober.sample(at, &ids[0], Some(INTERVAL)), None);
        assert_eq!(prober.poll(at + PROBE_TIMEOUT), None);
        assert_eq!(prober.deadline(), Instant::FAR_FUTURE);
    }
}
