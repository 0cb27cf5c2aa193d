//! Epidemic broadcast trees: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (Plumtree), 2007.
//!
//! An entry is pushed over the links of a tree and announced over the others; an announced entry that does
//! not come is asked for, which mends the tree. What is special here: the store of messages is the
//! catalog. A message is named by its peer and version, only the newest of a peer matters, and asking for
//! one is answered with the present one, so nothing is cached.

use std::collections::{BTreeMap, VecDeque};

use super::super::entry::{EntryVersion, VerifiedEntry};
use super::super::io::Output;
use super::super::messages::{Aged, EntryId, LIST_MAX, MESSAGE_BYTES_AIM, Message};
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// How long announcements are gathered where a peer only repeats itself: a repetition that the tree has lost
/// is not missed so soon.
const LAZY_INTERVAL: Duration = Duration::from_secs(2);
/// How long they are gathered where a peer is new, has gone or has changed.
const URGENT_INTERVAL: Duration = Duration::from_millis(100);
/// How long an announced entry may take to come by itself.
const GRAFT_TIMEOUT: Duration = Duration::from_millis(250);
/// How long an entry that was asked for may take before another neighbour is asked.
const GRAFT_RETRY: Duration = Duration::from_secs(1);
/// The most entries waited for; what exceeds them is left to synchronisation.
const MISSING_MAX: usize = 4_096;
/// The most neighbours remembered to have a missing entry.
const HOLDERS_MAX: usize = 8;

pub(in super::super) struct Broadcast {
    neighbours: Vec<Neighbour>,
    lazy_at: Instant,
    /// Entries that were announced and have not come.
    missing: BTreeMap<PeerId, Missing>,
    /// When to ask for them, in order: at most one place for each missing entry and timeout.
    asking: VecDeque<(Instant, PeerId)>,
    retrying: VecDeque<(Instant, PeerId)>,
    flush: bool,
}

struct Neighbour {
    id: PeerId,
    /// Whether the link belongs to the tree.
    eager: bool,
    outbox: Vec<Aged<VerifiedEntry>>,
    announced: Vec<EntryId>,
    grafts: Vec<PeerId>,
    prune: bool,
}

struct Missing {
    version: EntryVersion,
    holders: Vec<PeerId>,
}

impl Broadcast {
    pub(in super::super) const fn new() -> Self {
        Self {
            neighbours: Vec::new(),
            lazy_at: Instant::FAR_FUTURE,
            missing: BTreeMap::new(),
            asking: VecDeque::new(),
            retrying: VecDeque::new(),
            flush: false,
        }
    }

    fn neighbour(&mut self, peer: &PeerId) -> Option<&mut Neighbour> {
        self.neighbours
            .iter_mut()
            .find(|neighbour| neighbour.id == *peer)
    }

    /// A new link starts in the tree; the first duplicate over it takes it out.
    pub(in super::super) fn neighbour_up(&mut self, peer: PeerId) {
        if self.neighbour(&peer).is_none() {
            self.neighbours.push(Neighbour {
                id: peer,
                eager: true,
                outbox: Vec::new(),
                announced: Vec::new(),
                grafts: Vec::new(),
                prune: false,
            });
        }
    }

    pub(in super::super) fn neighbour_down(&mut self, peer: &PeerId) {
        self.neighbours.retain(|neighbour| neighbour.id != *peer);
    }

    /// Passes on an entry that is new here: pushes it along the tree, announces it beside the tree,
    /// the sooner if it is urgent.
    pub(in super::super) fn push(
        &mut self,
        now: Instant,
        record: &Aged<VerifiedEntry>,
        urgent: bool,
        from: Option<&PeerId>,
    ) {
        self.arrived(&record.entry);
        let id = EntryId {
            peer: record.entry.id,
            version: record.entry.version,
        };
        let lazy_at = now
            + if urgent {
                URGENT_INTERVAL
            } else {
                LAZY_INTERVAL
            };
        for neighbour in &mut self.neighbours {
            if Some(&neighbour.id) == from {
                // It pushes, so to it the link is part of the tree.
                neighbour.eager = true;
            } else if neighbour.eager {
                neighbour.outbox.push(record.clone());
                self.flush = true;
            } else {
                neighbour.announced.push(id);
                self.lazy_at = self.lazy_at.min(lazy_at);
                self.flush |= neighbour.announced.len() >= LIST_MAX;
            }
        }
    }

    /// Makes known an entry that came from beside the overlay and that neighbours may well have.
    pub(in super::super) fn announce(
        &mut self,
        now: Instant,
        entry: &VerifiedEntry,
        from: Option<&PeerId>,
    ) {
        self.arrived(entry);
        let id = EntryId {
            peer: entry.id,
            version: entry.version,
        };
        for neighbour in &mut self.neighbours {
            if Some(&neighbour.id) != from {
                neighbour.announced.push(id);
                self.lazy_at = self.lazy_at.min(now + URGENT_INTERVAL);
                self.flush |= neighbour.announced.len() >= LIST_MAX;
            }
        }
    }

    /// Pushes to everyone, tree or not: what must not wait for a repair.
    pub(in super::super) fn push_to_all(&mut self, record: &Aged<VerifiedEntry>) {
        for neighbour in &mut self.neighbours {
            neighbour.outbox.push(record.clone());
        }
        self.flush = true;
    }

    /// Sends `record` to one neighbour.
    pub(in super::super) fn push_to(&mut self, peer: &PeerId, record: Aged<VerifiedEntry>) {
        if let Some(neighbour) = self.neighbour(peer) {
            neighbour.outbox.push(record);
            self.flush = true;
        }
    }

    fn arrived(&mut self, entry: &VerifiedEntry) {
        if !self.missing.is_empty()
            && self
                .missing
                .get(&entry.id)
                .is_some_and(|m| m.version <= entry.version)
        {
            self.missing.remove(&entry.id);
        }
    }

    /// `from` has pushed what was here already: the link closes a cycle.
    pub(in super::super) fn duplicate(&mut self, from: &PeerId) {
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.eager = false;
            neighbour.prune = true;
            self.flush = true;
        }
    }

    pub(in super::super) fn prune(&mut self, from: &PeerId) {
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.eager = false;
        }
    }

    pub(in super::super) fn graft(&mut self, from: &PeerId) {
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.eager = true;
        }
    }

    /// `from` has announced `entries`; `is_news` tells where this node has nothing as new.
    pub(in super::super) fn announced(
        &mut self,
        now: Instant,
        from: &PeerId,
        entries: &[EntryId],
        is_news: impl Fn(&EntryId) -> bool,
    ) {
        let Some(neighbour) = self.neighbour(from) else {
            return;
        };
        // It need not be told what it has just told. Lists are sent in descending order.
        neighbour
            .announced
            .retain(|mine| entries.binary_search_by(|theirs| mine.cmp(theirs)).is_err());
        for id in entries {
            if is_news(id) {
                self.await_entry(now, from, *id);
            }
        }
    }

    fn await_entry(&mut self, now: Instant, from: &PeerId, id: EntryId) {
        let room = self.missing.len() < MISSING_MAX && self.asking.len() < 2 * MISSING_MAX;
        match self.missing.get_mut(&id.peer) {
            Some(missing) if missing.version < id.version => {
                *missing = Missing {
                    version: id.version,
                    holders: vec![*from],
                };
            }
            Some(missing) => {
                let is_holder = missing.version == id.version && !missing.holders.contains(from);
                if is_holder && missing.holders.len() < HOLDERS_MAX {
                    missing.holders.push(*from);
                }
            }
            None if room => {
                let missing = Missing {
                    version: id.version,
                    holders: vec![*from],
                };
                self.missing.insert(id.peer, missing);
                self.asking.push_back((now + GRAFT_TIMEOUT, id.peer));
            }
            None => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, and why.
    pub(in super::super) fn deadline(&self) -> (Instant, &'static str) {
        let asking = self
            .asking
            .front()
            .map_or(Instant::FAR_FUTURE, |(at, _)| *at);
        let retrying = self
            .retrying
            .front()
            .map_or(Instant::FAR_FUTURE, |(at, _)| *at);
        (self.lazy_at, "ihave").min((asking.min(retrying), "graft"))
    }

    pub(in super::super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, peer)) = pop_due(&mut self.asking, now) {
            self.ask(now, peer);
        }
        while let Some((_, peer)) = pop_due(&mut self.retrying, now) {
            self.ask(now, peer);
        }
        self.flush |= self.lazy_at <= now;
    }

    fn ask(&mut self, now: Instant, peer: PeerId) {
        let Some(missing) = self.missing.get_mut(&peer) else {
            return;
        };
        while !missing.holders.is_empty() {
            let holder = missing.holders.remove(0);
            if let Some(neighbour) = self.neighbours.iter_mut().find(|n| n.id == holder) {
                neighbour.eager = true;
                neighbour.grafts.push(peer);
                self.flush = true;
                self.retrying.push_back((now + GRAFT_RETRY, peer));
                return;
            }
        }
        self.missing.remove(&peer);
    }

    /// Sends what has gathered: one message for each neighbour as a rule.
    pub(in super::super) fn flush(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        if !std::mem::take(&mut self.flush) {
            return;
        }
        let lazy_due = self.lazy_at <= now;
        if lazy_due {
            self.lazy_at = Instant::FAR_FUTURE;
        }
        for neighbour in &mut self.neighbours {
            let id = neighbour.id;
            let mut send = |message| outputs.push_back(Output::Send(id, message));
            if std::mem::take(&mut neighbour.prune) {
                send(Message::Prune);
            }
            if !neighbour.grafts.is_empty() {
                for peers in neighbour.grafts.chunks(LIST_MAX) {
                    send(Message::Graft {
                        peers: peers.to_vec(),
                    });
                }
                neighbour.grafts.clear();
            }
            for records in split(std::mem::take(&mut neighbour.outbox)) {
                send(Message::Gossip { records });
            }
            if lazy_due || neighbour.announced.len() >= LIST_MAX {
                let mut entries = std::mem::take(&mut neighbour.announced);
                entries.sort_unstable_by(|a, b| b.cmp(a));
                entries.dedup_by_key(|entry| entry.peer);
                if entries.len() <= LIST_MAX && !entries.is_empty() {
                    send(Message::IHave { entries });
                } else {
                    for entries in entries.chunks(LIST_MAX) {
                        send(Message::IHave {
                            entries: entries.to_vec(),
                        });
                    }
                }
            }
        }
    }

    pub(in super::super) fn neighbours(&self) -> impl Iterator<Item = (&PeerId, bool)> {
        self.neighbours
            .iter()
            .map(|neighbour| (&neighbour.id, neighbour.eager))
    }

    pub(in super::super) fn check_invariants(&self) {
        assert!(!self.flush, "something was not sent at the end of a step");
        assert!(
            self.missing.len() <= MISSING_MAX,
            "too many entries are waited for"
        );
        for neighbour in &self.neighbours {
            assert!(neighbour.outbox.is_empty(), "an outbox was not sent");
            assert!(
                neighbour.announced.len() < LIST_MAX,
                "too many announcements wait"
            );
            assert!(
                neighbour.announced.is_empty() || self.lazy_at < Instant::FAR_FUTURE,
                "announcements wait for no timer"
            );
        }
        assert!(
            self.missing.len() <= self.asking.len() + self.retrying.len(),
            "a missing entry is never asked for"
        );
    }
}

fn pop_due(queue: &mut VecDeque<(Instant, PeerId)>, now: Instant) -> Option<(Instant, PeerId)> {
    queue.front().filter(|(at, _)| *at <= now)?;
    queue.pop_front()
}

/// The records in lists that fit a message each.
pub(in super::super) fn split(
    records: Vec<Aged<VerifiedEntry>>,
) -> impl Iterator<Item = Vec<Aged<VerifiedEntry>>> {
    let mut records = records.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut list = vec![records.next()?];
        let mut bytes = record_len(&list[0]);
        while let Some(record) = records.peek() {
            bytes += record_len(record);
            if bytes > MESSAGE_BYTES_AIM || list.len() == LIST_MAX {
                break;
            }
            list.extend(records.next());
        }
        Some(list)
    })
}

/// Bytes of the record in a message, with its age.
pub(in super::super) fn record_len(record: &Aged<VerifiedEntry>) -> usize {
    record.entry.wire_len() + 5
}
