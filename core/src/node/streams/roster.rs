//! Who is at the other end of a stream, and how it goes with each.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use im::OrdMap;
use im::ordmap::DiffItem;

use crate::id::PeerId;
use crate::protocol::discovery::{Catalog, PeerEntry};
use crate::time::{Duration, Instant};

/// Names a line of the roster: a peer may have several subscriptions to one producer.
pub(super) type Key = (PeerId, u64);

/// A snapshot of all that a producer or consumer knows of the peers at the other end. Cloning it is cheap.
#[derive(Clone, Default)]
pub(super) struct Roster {
    lines: OrdMap<Key, Line>,
    subscribed: usize,
    online: bool,
}

/// One peer at the other end.
#[derive(Clone)]
pub(super) struct Line {
    /// What the catalog says of it; `None` where it is not in the catalog.
    pub(super) entry: Option<Arc<PeerEntry>>,
    pub(super) state: SubscriptionState,
    /// Since when it is subscribed.
    pub(super) since: Option<Instant>,
    pub(super) counters: Arc<Counters>,
}

impl PartialEq for Line {
    /// Whether it is the same line, in the same state.
    fn eq(&self, other: &Self) -> bool {
        let entries = match (&self.entry, &other.entry) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        entries
            && self.state == other.state
            && self.since == other.since
            && Arc::ptr_eq(&self.counters, &other.counters)
    }
}

/// How much has come, or gone, through a subscription.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) datums: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) missing: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, datums: u64, bytes: usize) {
        self.datums.fetch_add(datums, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Roster {
    pub(super) const fn is_online(&self) -> bool {
        self.online
    }

    pub(super) const fn set_online(&mut self, online: bool) {
        self.online = online;
    }

    /// How many are subscribed.
    pub(super) const fn subscribed(&self) -> usize {
        self.subscribed
    }

    /// The entries of those who are subscribed, as far as they are known.
    pub(super) fn entries(&self) -> impl Iterator<Item = &PeerEntry> {
        self.lines.values().filter_map(Line::subscribed_entry)
    }

    /// What is not as it was in `former`: the lines, each with the entry of its peer where that is subscribed and
    /// known. Takes time in proportion to what was changed since, where `former` is a former state of this roster.
    pub(super) fn changes_since(&self, former: &Self) -> Vec<(Key, Option<&PeerEntry>)> {
        let changes = former.lines.diff(&self.lines).map(|item| match item {
            DiffItem::Add(key, line)
            | DiffItem::Update {
                new: (key, line), ..
            } => (*key, line.subscribed_entry()),
            DiffItem::Remove(key, _) => (*key, None),
        });
        // The iterator borrows both.
        changes.collect()
    }

    /// The peers that are subscribed; one that has several subscriptions is given once for each.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let subscribed = self.lines.iter().filter(|(_, line)| line.is_subscribed());
        subscribed.map(|(key, _)| key.0)
    }

    pub(super) fn set(&mut self, key: Key, line: Line) {
        self.subscribed += usize::from(line.is_subscribed());
        if let Some(former) = self.lines.insert(key, line) {
            self.subscribed -= usize::from(former.is_subscribed());
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(former) = self.lines.remove(key) {
            self.subscribed -= usize::from(former.is_subscribed());
        }
    }

    /// Takes in what the catalog says now of those of the peers here that are `touched`; `false` where nothing is new.
    pub(super) fn refresh(&mut self, catalog: &Catalog, touched: &BTreeSet<PeerId>) -> bool {
        let mut changed = Vec::new();
        for peer in touched {
            for (key, line) in self.lines.range((*peer, 0)..=(*peer, u64::MAX)) {
                let known = line.entry.as_ref().map(|entry| entry.version());
                if catalog.get(peer).map(PeerEntry::version) != known {
                    changed.push((
                        *key,
                        Line {
                            entry: entry(catalog, peer),
                            ..line.clone()
                        },
                    ));
                }
            }
        }
        let any = !changed.is_empty();
        changed
            .into_iter()
            .for_each(|(key, line)| self.set(key, line));
        any
    }

    pub(super) fn stats(&self, now: Instant) -> Stats {
        let lines = self.lines.iter().map(|(key, line)| SubscriptionStats {
            peer: key.0,
            state: line.state,
            datums: line.counters.datums.load(Ordering::Relaxed),
            bytes: line.counters.bytes.load(Ordering::Relaxed),
            lagged: line.counters.missing.load(Ordering::Relaxed),
            uptime: line.since.map(|since| now.since(since)),
        });
        Stats(lines.collect())
    }

    #[cfg(test)]
    pub(super) fn set_subscribed_for_test(&mut self, key: Key, entry: Arc<PeerEntry>) {
        let state = SubscriptionState::Subscribed;
        self.set(
            key,
            Line {
                entry: Some(entry),
                state,
                since: None,
                counters: Arc::default(),
            },
        );
    }
}

impl Line {
    fn subscribed_entry(&self) -> Option<&PeerEntry> {
        self.entry.as_deref().filter(|_| self.is_subscribed())
    }

    fn is_subscribed(&self) -> bool {
        matches!(
            self.state,
            SubscriptionState::Subscribed | SubscriptionState::Leaving
        )
    }
}

/// What the catalog says of `peer`.
pub(super) fn entry(catalog: &Catalog, peer: &PeerId) -> Option<Arc<PeerEntry>> {
    match catalog.get_signed(peer) {
        Some(signed) => Some(signed.entry().clone()),
        None => catalog.get(peer).cloned().map(Arc::new),
    }
}

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// The producer is not asked, since there are enough that are preferred.
    Standby,
    /// The producer is being asked.
    Connecting,
    /// The producer has no place free, and has let the consumer wait for one.
    Waiting,
    /// Datums flow.
    Subscribed,
    /// The last datums flow: another producer has taken the place of this one.
    Leaving,
    /// The producer has refused, has ended the subscription or cannot be reached; it is asked again later.
    BackingOff,
    /// The producer's datums are of another type.
    Unsuitable,
}

impl fmt::Display for SubscriptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Standby => "standby",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Subscribed => "subscribed",
            Self::Leaving => "leaving",
            Self::BackingOff => "backing off",
            Self::Unsuitable => "unsuitable",
        })
    }
}

/// How it goes with each peer at the other end of a stream. Shown as text, one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats(Vec<SubscriptionStats>);

impl std::ops::Deref for Stats {
    type Target = [SubscriptionStats];

    fn deref(&self) -> &[SubscriptionStats] {
        &self.0
    }
}

impl IntoIterator for Stats {
    type Item = SubscriptionStats;
    type IntoIter = std::vec::IntoIter<SubscriptionStats>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for line in &self.0 {
            write!(f, "{separator}{line}")?;
            separator = "\n";
        }
        Ok(())
    }
}

/// How it goes with one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Who is at the other end.
    pub peer: PeerId,
    /// Where the subscription stands.
    pub state: SubscriptionState,
    /// Datums received, or handed to the connection. For a consumer: over all subscriptions to this producer.
    pub datums: u64,
    /// Their bytes, encoded, with what surrounds them.
    pub bytes: u64,
    /// Datums that the consumer has missed, as far as they can be counted. Always zero for a producer.
    pub lagged: u64,
    /// For how long it has been subscribed; `None` where it is not.
    pub uptime: Option<Duration>,
}

impl fmt::Display for SubscriptionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            state,
            datums,
            bytes,
            lagged,
            uptime,
        } = self;
        write!(
            f,
            "{} {state}, {datums} datums, {}",
            peer.short(),
            Size(*bytes)
        )?;
        if *lagged > 0 {
            write!(f, ", {lagged} missed")?;
        }
        match uptime {
            Some(uptime) => write!(f, ", for {:.1} s", uptime.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// A number of bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1_024 {
            return write!(f, "{} B", self.0);
        }
        let mut size = self.0 as f64 / 1_024.0;
        let mut unit = 0;
        while size >= 1_024.0 && unit + 1 < UNITS.len() {
            size /= 1_024.0;
            unit += 1;
        }
        write!(f, "{size:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_read_well() {
        let stats = SubscriptionStats {
            peer: PeerId::from_bytes([0xab; 32]),
            state: SubscriptionState::Subscribed,
            datums: 1_234,
            bytes: 5 * 1_024 * 1_024 + 300 * 1_024,
            lagged: 0,
            uptime: Some(Duration::from_millis(3_440)),
        };
        let ended = SubscriptionStats {
            state: SubscriptionState::BackingOff,
            bytes: 1_023,
            lagged: 7,
            uptime: None,
            ..stats
        };
        assert_eq!(
            Stats(vec![stats, ended]).to_string(),
            "ababababab subscribed, 1234 datums, 5.3 MiB, for 3.4 s\n\
             ababababab backing off, 1234 datums, 1023 B, 7 missed"
        );
    }
}
