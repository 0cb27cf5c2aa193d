//! Whom is asked, for what, and what is known of each.

use std::collections::BTreeMap;

use crate::id::PeerId;
use crate::protocol::raft::{Config, Index, Member, Position};
use crate::time::{Duration, Instant};

/// So many requests for entries may be with one source at a time.
pub(super) const REQUESTS_MAX: usize = 2;

/// So many requests for chunks may be with one source at a time. Chunks are shorter than runs of entries.
pub(super) const CHUNK_REQUESTS_MAX: usize = 8;

/// After so many timeouts in a row a source is no longer waited for in place of another.
const FAILURES_MAX: u32 = 3;

/// Requests that have timed out and of which a late answer is still of use, for each source.
const OVERDUE_MAX: usize = CHUNK_REQUESTS_MAX;

/// What a source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Entries { first: Index, last: Index },
    Manifest,
    Chunk { position: Position, number: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Request {
    what: Asked,
    /// `None` once it has passed: somebody else may be asked, but an answer is still taken.
    deadline: Option<Instant>,
}

/// What is known of one source.
#[derive(Debug)]
pub(super) struct Source {
    member: Member,
    /// It has committed at least this much.
    commit: Index,
    /// It no longer has what lies below.
    kept_from: Index,
    /// It said that it has committed no more than this; not to be believed after the instant.
    behind: Option<(Index, Instant)>,
    /// The position of a snapshot that it said not to have.
    lacks: Option<Position>,
    /// It has sent what no honest source sends.
    distrusted: bool,
    /// Timeouts in a row.
    failures: u32,
    /// It has let a request time out, and is left alone until then.
    rests_until: Option<Instant>,
    requests: Vec<Request>,
}

impl Source {
    const fn new(member: Member) -> Self {
        Self {
            member,
            commit: Index::ZERO,
            kept_from: Index::ZERO,
            behind: None,
            lacks: None,
            distrusted: false,
            failures: 0,
            rests_until: None,
            requests: Vec::new(),
        }
    }

    const fn is_usable(&self) -> bool {
        !self.distrusted && self.rests_until.is_none()
    }

    /// Whether it may have the committed entry at `index`, for all that is known.
    pub(super) fn may_have(&self, index: Index) -> bool {
        self.kept_from <= index && self.behind.is_none_or(|(commit, _)| commit >= index)
    }

    /// Whether it is known to have committed `index`.
    pub(super) fn has_committed(&self, index: Index) -> bool {
        self.commit >= index
    }

    /// Whether it may have the snapshot at `position`, for all that is known.
    pub(super) fn may_have_snapshot(&self, position: Position) -> bool {
        self.lacks != Some(position)
    }

    fn has_committed_at_least(&mut self, commit: Index) {
        self.commit = self.commit.max(commit);
        self.behind = self.behind.filter(|(behind, _)| *behind >= self.commit);
    }

    fn live(&self) -> impl Iterator<Item = &Request> {
        self.requests
            .iter()
            .filter(|request| request.deadline.is_some())
    }
}

/// Who is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// This one.
    Ask(PeerId),
    /// Nobody yet: those who may have it have enough to do.
    Wait,
    /// Nobody: no one may have it.
    Nobody,
}

/// All sources, and what they are asked for.
#[derive(Debug)]
pub(super) struct Sources {
    sources: BTreeMap<PeerId, Source>,
    leader: PeerId,
    /// How long somebody is left alone who lacked something, or was too slow.
    pause: Duration,
    fetch_timeout: Duration,
    snapshot_request_timeout: Duration,
}

impl Sources {
    pub(super) fn new(leader: PeerId, config: &Config) -> Self {
        Self {
            sources: BTreeMap::new(),
            leader,
            pause: config.forward_timeout / 2,
            fetch_timeout: config.fetch_timeout,
            snapshot_request_timeout: config.snapshot_request_timeout,
        }
    }

    /// Those that there are now. What was asked of one that is gone, or that has begun another life, is no
    /// longer waited for.
    pub(super) fn set(&mut self, present: &[(Member, Index)], leader: PeerId) {
        self.leader = leader;
        self.sources
            .retain(|_, source| present.iter().any(|(member, _)| *member == source.member));
        for (member, commit) in present {
            let source = self
                .sources
                .entry(member.peer)
                .or_insert_with(|| Source::new(*member));
            source.has_committed_at_least(*commit);
        }
    }

    pub(super) const fn leader(&self) -> PeerId {
        self.leader
    }

    pub(super) const fn pause(&self) -> Duration {
        self.pause
    }

    /// Takes note that `peer` no longer has what lies below `kept_from`, and has committed `commit`.
    pub(super) fn note(&mut self, peer: PeerId, kept_from: Index, commit: Index) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.kept_from = source.kept_from.max(kept_from);
            source.has_committed_at_least(commit);
        }
    }

    /// Takes note that `peer` has committed no more than `commit`, and is to be asked for more later.
    pub(super) fn note_behind(&mut self, now: Instant, peer: PeerId, commit: Index) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.behind = Some((commit, now + self.pause));
        }
    }

    /// Takes note that `peer` does not have the snapshot at `position`.
    pub(super) fn note_lacking(&mut self, peer: PeerId, position: Position) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.lacks = Some(position);
        }
    }

    /// Takes note that `peer` has the snapshot at `position`, though it may have lacked it when it was asked before:
    /// it had not come so far yet.
    pub(super) fn note_holding(&mut self, peer: PeerId, position: Position) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.lacks = source.lacks.filter(|lacked| *lacked != position);
        }
    }

    /// Asks `peer` for nothing any more: it has sent what no honest source sends.
    pub(super) fn distrust(&mut self, peer: PeerId) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.distrusted = true;
            source.requests.clear();
        }
    }

    /// Whether somebody is left who may be asked, now or later.
    pub(super) fn is_any_trusted(&self) -> bool {
        self.sources.values().any(|source| !source.distrusted)
    }

    /// Whether somebody who is trusted has said that the entry at `index` is no longer there.
    pub(super) fn is_gone_somewhere(&self, index: Index) -> bool {
        self.sources
            .values()
            .any(|source| !source.distrusted && source.kept_from > index)
    }

    /// Whether anybody is expected to answer such a request.
    pub(super) fn is_asked(&self, is_such: impl Fn(&Asked) -> bool) -> bool {
        self.sources
            .values()
            .flat_map(Source::live)
            .any(|request| is_such(&request.what))
    }

    /// Whether `peer` is expected to answer this request.
    pub(super) fn is_asked_of(&self, peer: PeerId, what: &Asked) -> bool {
        self.sources
            .get(&peer)
            .is_some_and(|source| source.live().any(|request| request.what == *what))
    }

    /// Whether `peer` is there, and was always honest.
    pub(super) fn is_trusted(&self, peer: &PeerId) -> bool {
        self.sources
            .get(peer)
            .is_some_and(|source| !source.distrusted)
    }

    /// Those who may be asked now for something that all have, and whether each has room for a request.
    /// The leader is among them only where `leader` says so.
    pub(super) fn usable(&self, leader: bool) -> impl Iterator<Item = (PeerId, bool)> + '_ {
        self.sources
            .iter()
            .filter(move |(peer, source)| source.is_usable() && (**peer == self.leader) == leader)
            .map(|(peer, source)| (*peer, source.live().count() < REQUESTS_MAX))
    }

    /// Whether one of those of which `may` holds will be asked sooner or later.
    pub(super) fn is_any_left(&self, may: impl Fn(PeerId, &Source) -> bool) -> bool {
        self.sources.iter().any(|(peer, source)| {
            !source.distrusted && source.failures < FAILURES_MAX && may(*peer, source)
        })
    }

    /// Chooses among those of which `may` holds: the leader only where no other is left, and first those
    /// of which `prefer` holds, that answer, and that have little to do. None is asked that has `most`
    /// requests already.
    pub(super) fn pick(
        &self,
        most: usize,
        may: impl Fn(PeerId, &Source) -> bool,
        prefer: impl Fn(PeerId, &Source) -> bool,
    ) -> Pick {
        let is_last = |peer: &PeerId, source: &Source| {
            *peer == self.leader || source.failures >= FAILURES_MAX
        };
        let may: Vec<_> = self
            .sources
            .iter()
            .filter(|(peer, source)| source.is_usable() && may(**peer, source))
            .collect();
        let only_last = may.iter().all(|(peer, source)| is_last(peer, source));
        let room = |source: &Source| {
            if source.failures == 0 { most } else { 1 }
        };
        let best = may
            .iter()
            .filter(|(peer, source)| is_last(peer, source) == only_last)
            .filter(|(_, source)| source.live().count() < room(source))
            .min_by_key(|(peer, source)| {
                let load = source.live().count();
                (source.failures, !prefer(**peer, source), load, **peer)
            });
        match best {
            Some((peer, _)) => Pick::Ask(**peer),
            None if may.is_empty() => Pick::Nobody,
            None => Pick::Wait,
        }
    }

    /// Takes note that `peer` is being asked.
    pub(super) fn ask(&mut self, now: Instant, peer: PeerId, what: Asked) {
        let timeout = match what {
            Asked::Entries { .. } => self.fetch_timeout,
            Asked::Manifest | Asked::Chunk { .. } => self.snapshot_request_timeout,
        };
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        source.requests.retain(|request| request.what != what);
        // Who was too slow is given more time.
        let patience = timeout * (1 << source.failures.min(2));
        source.requests.push(Request {
            what,
            deadline: Some(now + patience),
        });
    }

    /// What of the kind that `is_such` names `peer` was asked for, now that it has answered. `None`: it was
    /// not asked, or has answered before.
    pub(super) fn answered(
        &mut self,
        peer: PeerId,
        is_such: impl Fn(&Asked) -> bool,
    ) -> Option<Asked> {
        let source = self.sources.get_mut(&peer)?;
        let at = source
            .requests
            .iter()
            .position(|request| is_such(&request.what))?;
        let request = source.requests.remove(at);
        source.rests_until = None;
        source.failures = match request.deadline {
            Some(_) => 0,
            None => source.failures.saturating_sub(1),
        };
        Some(request.what)
    }

    /// Takes note of what has timed out, and of rests that are over.
    pub(super) fn expire(&mut self, now: Instant) {
        let pause = self.pause;
        for source in self.sources.values_mut() {
            source.behind = source.behind.filter(|(_, until)| *until > now);
            source.rests_until = source.rests_until.filter(|until| *until > now);
            let mut late = false;
            for request in &mut source.requests {
                if request.deadline.is_some_and(|deadline| deadline <= now) {
                    request.deadline = None;
                    late = true;
                }
            }
            if late {
                source.failures = source.failures.saturating_add(1);
                source.rests_until = Some(now + pause * (1 << source.failures.min(4)));
            }
            let overdue = source.requests.len() - source.live().count();
            let mut excess = overdue.saturating_sub(OVERDUE_MAX);
            source.requests.retain(|request| {
                let keep = request.deadline.is_some() || excess == 0;
                excess -= usize::from(!keep);
                keep
            });
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sources
            .values()
            .filter(|source| !source.distrusted)
            .flat_map(|source| {
                let requests = source.live().filter_map(|request| request.deadline);
                requests
                    .chain(source.rests_until)
                    .chain(source.behind.map(|(_, until)| until))
            })
            .min()
    }
}
