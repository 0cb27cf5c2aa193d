//! Answers those who catch up, from the log.

use crate::protocol::mutant;
use crate::protocol::raft::{Config, Entry, Index, Message};

/// No entry is added to a reply that has so many bytes.
const REPLY_BYTES: usize = 256 << 10;

/// A log that can be read.
pub(in crate::protocol::raft) trait LogView {
    /// The entry at `index`, if it is kept.
    fn entry(&self, index: Index) -> Option<&Entry>;
    /// The lowest index that is kept; above the last where none is.
    fn kept_from(&self) -> Index;
    /// The last index.
    fn last_index(&self) -> Index;
    /// How far it is known to be committed.
    fn commit(&self) -> Index;
}

/// The answer to [`Message::Fetch`]: what is committed of the entries from `first` to `last`, as far as one
/// reply goes, and at least the first. Nothing uncommitted is ever given away: who takes it for committed
/// would keep it when the leader has something else there.
pub(in crate::protocol::raft) fn fetch(
    config: &Config,
    log: &impl LogView,
    first: Index,
    last: Index,
) -> Message {
    let commit = if mutant!(config, UncommittedServed) {
        log.last_index()
    } else {
        log.commit()
    };
    let last = last.min(commit).min(Index(
        first
            .0
            .saturating_add(u64::from(config.fetch_batch_size) - 1),
    ));
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut next = first;
    while next <= last
        && bytes < REPLY_BYTES
        && let Some(entry) = log.entry(next)
    {
        bytes += entry.size();
        entries.push(entry.clone());
        next = next.next();
    }
    if entries.is_empty() {
        return Message::Gone {
            first,
            kept_from: log.kept_from(),
            commit,
        };
    }
    Message::Fetched {
        first,
        entries,
        commit,
    }
}
