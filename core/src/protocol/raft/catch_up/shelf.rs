//! The snapshots that can be fetched, and the log that those who fetch them will need next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pieces::PIECES_MAX;
use crate::id::PeerId;
use crate::protocol::raft::{Config, Index, Message, Position, Snapshot};
use crate::time::{Duration, Instant};

/// Entries of so many bytes are kept for those who fetch a snapshot, or of as many as it has itself if that is
/// more: what is written while it is fetched grows with the time that it takes.
const PINNED_BYTES: usize = 64 << 20;

/// What one peer will need next.
#[derive(Clone, Copy, Debug)]
struct Pin {
    /// The snapshot it fetches.
    position: Position,
    /// The first entry it may ask for after it.
    needs: Index,
    /// It has asked for nothing since too long to be waited for after this instant.
    until: Instant,
}

/// The latest snapshot, and the one before it for as long as somebody fetches it.
///
/// A snapshot may take longer to fetch than the next one takes to be made. So that whoever fetches it gets
/// through, the one in transfer is kept until the transfer ends, and so is the log above it, within
/// limits.
#[derive(Debug)]
pub(in crate::protocol::raft) struct SnapshotShelf {
    latest: Option<Arc<Snapshot>>,
    /// The bytes of its chunks.
    latest_bytes: usize,
    /// Counts the changes of what must be kept for others.
    changes: u64,
    previous: Option<Arc<Snapshot>>,
    pins: BTreeMap<PeerId, Pin>,
    /// A transfer ends when nothing was asked for so long.
    ttl: Duration,
    /// How far from the first entry that is lacking others may be asked for.
    window: u64,
}

impl SnapshotShelf {
    /// An empty one.
    pub(in crate::protocol::raft) fn new(config: &Config) -> Self {
        Self {
            latest: None,
            latest_bytes: 0,
            changes: 0,
            previous: None,
            pins: BTreeMap::new(),
            ttl: config.snapshot_ttl,
            window: PIECES_MAX as u64 * u64::from(config.fetch_batch_size),
        }
    }

    /// The latest snapshot.
    pub(in crate::protocol::raft) const fn latest(&self) -> Option<&Arc<Snapshot>> {
        self.latest.as_ref()
    }

    /// Puts a newer snapshot on the shelf.
    pub(in crate::protocol::raft) fn put(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        self.handle_timeout(now);
        self.latest_bytes = snapshot.chunks.iter().map(bytes::Bytes::len).sum();
        self.changes += 1;
        let before = self.latest.replace(snapshot);
        // Of two in transfer the older stays: it is nearer to its end.
        if self.previous.is_none() {
            self.previous = before.filter(|before| self.is_fetched(before));
        }
    }

    /// The answer to [`Message::FetchManifest`].
    pub(in crate::protocol::raft) fn manifest(&mut self, now: Instant, peer: PeerId) -> Message {
        let manifest = self.latest.as_ref().map(|snapshot| &snapshot.manifest);
        let answer = Message::Manifest(manifest.cloned().map(Box::new));
        if let Some(position) = manifest.map(|manifest| manifest.position) {
            self.pin(now, peer, position);
        }
        answer
    }

    /// The answer to [`Message::FetchChunk`].
    pub(in crate::protocol::raft) fn chunk(
        &mut self,
        now: Instant,
        peer: PeerId,
        position: Position,
        number: u32,
    ) -> Message {
        let snapshot = [&self.latest, &self.previous]
            .into_iter()
            .flatten()
            .find(|snapshot| snapshot.manifest.position == position);
        let bytes = snapshot
            .and_then(|snapshot| snapshot.chunks.get(number as usize))
            .cloned();
        if bytes.is_some() {
            self.pin(now, peer, position);
        }
        Message::Chunk {
            position,
            number,
            bytes,
        }
    }

    /// Takes note that `peer` asks for entries from `first` on: one that has fetched a snapshot may need
    /// more of what follows on it.
    pub(in crate::protocol::raft) fn fetches(&mut self, now: Instant, peer: PeerId, first: Index) {
        let until = now + self.ttl;
        if let Some(pin) = self.pins.get_mut(&peer)
            && first > pin.position.index
        {
            pin.until = until;
            self.changes += 1;
            // It asks for nothing that is further than its window from what it needs next.
            pin.needs = pin.needs.max(Index(first.0.saturating_sub(self.window)));
        }
    }

    /// Nothing is kept for `peer` any longer: it is gone.
    pub(in crate::protocol::raft) fn forget(&mut self, peer: &PeerId) {
        self.pins.remove(peer);
        self.tidy();
    }

    /// Grows whenever [`keep_from`](Self::keep_from) may give another answer than before.
    pub(in crate::protocol::raft) const fn changes(&self) -> u64 {
        self.changes
    }

    /// Where the log may be cut that would be kept from `wanted` on if nobody fetched anything. `size` tells
    /// the bytes of an entry; it is asked for those that are kept only for others.
    ///
    /// Where what a transfer needs has too many bytes, nothing is kept for it: a part would not help.
    pub(in crate::protocol::raft) fn keep_from(
        &self,
        now: Instant,
        wanted: Index,
        mut size: impl FnMut(Index) -> Option<usize>,
    ) -> Index {
        let mut pins: Vec<_> = self
            .pins
            .values()
            .filter(|pin| pin.until > now)
            .map(|pin| pin.needs)
            .filter(|from| *from < wanted)
            .collect();
        pins.sort_unstable();
        let bytes_max = PINNED_BYTES.max(self.latest_bytes);
        let mut keep = wanted;
        let mut bytes = 0_usize;
        let mut at = wanted;
        while let Some(pin) = pins.pop() {
            while at > pin {
                let Some(len) = size(at.previous()) else {
                    return keep;
                };
                at = at.previous();
                bytes = bytes.saturating_add(len);
                if bytes > bytes_max {
                    return keep;
                }
            }
            keep = pin;
        }
        keep
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(in crate::protocol::raft) fn poll_timeout(&self) -> Option<Instant> {
        self.pins.values().map(|pin| pin.until).min()
    }

    /// Ends the transfers in which nothing was asked for too long.
    pub(in crate::protocol::raft) fn handle_timeout(&mut self, now: Instant) {
        let before = self.pins.len();
        self.pins.retain(|_, pin| pin.until > now);
        if self.pins.len() < before {
            self.tidy();
        }
    }

    fn pin(&mut self, now: Instant, peer: PeerId, position: Position) {
        let until = now + self.ttl;
        let needs = position.index.next();
        self.pins.insert(
            peer,
            Pin {
                position,
                needs,
                until,
            },
        );
        self.tidy();
    }

    /// Drops the snapshot before the latest when nobody fetches it.
    fn tidy(&mut self) {
        self.changes += 1;
        let previous = self.previous.take();
        self.previous = previous.filter(|previous| self.is_fetched(previous));
    }

    fn is_fetched(&self, snapshot: &Snapshot) -> bool {
        let position = snapshot.manifest.position;
        self.pins.values().any(|pin| pin.position == position)
    }
}
