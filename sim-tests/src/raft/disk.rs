//! A node's disk: what is durable, and what is on its way there.

use std::collections::VecDeque;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{Input, Recovered, StorageClass, StorageError, Write, WriteId};
use smalti_sim::rng::{below, between};

use super::image::Image;

/// The disk.
pub(super) struct Disk {
    class: StorageClass,
    pub(super) image: Image,
    /// Writes taken note of and not durable yet.
    unsynced: VecDeque<(WriteId, Write)>,
    last: WriteId,
    /// The last write that the sync under way covers.
    syncing: Option<WriteId>,
    /// How often a sync began: one of an earlier life is void.
    syncs: u64,
    latency: (Duration, Duration),
    times: u32,
    fails_next: bool,
    is_full: bool,
    /// Whether it has failed since the node started: then it takes no more writes.
    failed: bool,
    rng: ChaCha8Rng,
}

/// What a write, or the end of a sync, brings.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing for now.
    Waits,
    /// A sync has begun, and is over after so long; its number is to be given back.
    Syncs(Duration, u64),
    /// The machine is to be told.
    Tells(Input),
    /// The machine is to be told, and another sync has begun.
    TellsAndSyncs(Input, Duration, u64),
}

impl Disk {
    /// An empty disk that takes from `latency.0` to `latency.1` to make something durable.
    pub(super) fn new(class: StorageClass, latency: (Duration, Duration), rng: ChaCha8Rng) -> Self {
        Self {
            class,
            image: Image::default(),
            unsynced: VecDeque::new(),
            last: WriteId(0),
            syncing: None,
            syncs: 0,
            latency,
            times: 1,
            fails_next: false,
            is_full: false,
            failed: false,
            rng,
        }
    }

    /// Whether what a promise rests on is to be found here.
    pub(super) fn is_durable(&self) -> bool {
        self.class == StorageClass::Durable
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether it has failed, or will at the next sync.
    pub(super) fn is_failing(&self) -> bool {
        self.failed || self.fails_next
    }

    /// Whether something is on its way.
    pub(super) fn is_writing(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// The machine wants `write` to be durable.
    pub(super) fn write(&mut self, id: WriteId, write: Write) -> Progress {
        assert_eq!(
            id.0,
            self.last.0 + 1,
            "writes are numbered without gaps from 1"
        );
        self.last = id;
        self.keeps_promises(&write);
        if self.failed {
            // The machine does not know yet.
            return Progress::Waits;
        }
        if !self.is_durable() {
            self.image.carry_out(write);
            return Progress::Tells(Input::Persisted(id));
        }
        if self.is_full {
            self.failed = true;
            self.keep_some();
            let doing = "writing";
            return Progress::Tells(Input::PersistFailed(StorageError::Full { doing }));
        }
        self.unsynced.push_back((id, write));
        match self.sync() {
            Some((delay, number)) => Progress::Syncs(delay, number),
            None => Progress::Waits,
        }
    }

    /// What is written takes nothing back that was promised before, by this run or an earlier one.
    fn keeps_promises(&self, write: &Write) {
        let written = self.unsynced.iter().rev();
        let before = written
            .filter_map(|(_, write)| write.hard_state.as_ref())
            .next();
        let before = before.or(self.image.hard_state.as_ref());
        let (Some(before), Some(now)) = (before, &write.hard_state) else {
            return;
        };
        if before.instance != now.instance {
            return;
        }
        let is_first = self.last == WriteId(1);
        assert!(
            !is_first
                || (before.term, before.vote, before.incarnation)
                    == (now.term, now.vote, now.incarnation),
            "a start makes {now:?} of {before:?}"
        );
        assert!(
            now.term >= before.term,
            "the term falls from {} to {}",
            before.term,
            now.term
        );
        assert!(
            now.term > before.term || before.vote.is_none() || now.vote == before.vote,
            "a vote of term {} is forgotten",
            now.term
        );
    }

    /// The sync of this number is over.
    pub(super) fn synced(&mut self, number: u64) -> Progress {
        if number != self.syncs {
            return Progress::Waits;
        }
        let Some(through) = self.syncing.take() else {
            return Progress::Waits;
        };
        if self.fails_next {
            self.fails_next = false;
            self.failed = true;
            self.keep_some();
            return Progress::Tells(Input::PersistFailed(StorageError::Disk {
                doing: "synchronising",
                cause: "an input/output error".to_owned(),
            }));
        }
        let count = self.unsynced.partition_point(|(id, _)| *id <= through);
        for (_, write) in self.unsynced.drain(..count) {
            self.image.carry_out(write);
        }
        let told = Input::Persisted(through);
        match self.sync() {
            Some((delay, number)) => Progress::TellsAndSyncs(told, delay, number),
            None => Progress::Tells(told),
        }
    }

    /// Begins to make durable all that waits, unless that is under way.
    fn sync(&mut self) -> Option<(Duration, u64)> {
        if self.syncing.is_some() {
            return None;
        }
        self.syncing = Some(self.unsynced.back()?.0);
        self.syncs += 1;
        let delay = between(&mut self.rng, self.latency.0, self.latency.1);
        Some((delay * self.times, self.syncs))
    }

    /// Of what was not durable, some prefix is there all the same. Gives how many writes are not.
    fn keep_some(&mut self) -> usize {
        let kept = below(&mut self.rng, self.unsynced.len() as u64 + 1) as usize;
        let lost = self.unsynced.len() - kept;
        for (_, write) in self.unsynced.drain(..).take(kept) {
            self.image.carry_out(write);
        }
        self.syncing = None;
        self.syncs += 1;
        lost
    }

    /// The node crashes. Gives how many writes were lost.
    pub(super) fn crash(&mut self) -> usize {
        let lost = self.keep_some();
        if !self.is_durable() {
            self.image = Image::default();
        }
        self.image.forget_staged();
        self.last = WriteId(0);
        self.fails_next = false;
        self.failed = false;
        lost
    }

    /// The node has left: it keeps nothing of the group.
    pub(super) fn forget(&mut self) {
        self.unsynced.clear();
        self.syncing = None;
        self.syncs += 1;
        self.image = Image::default();
    }

    /// What is found when the node starts.
    pub(super) fn recovered(&self) -> Option<Recovered> {
        if self.is_durable() {
            self.image.recovered()
        } else {
            None
        }
    }

    pub(super) fn fail_next_sync(&mut self) {
        self.fails_next = true;
    }

    pub(super) fn slow_down(&mut self, times: u32) {
        self.times = times.max(1);
    }

    pub(super) fn fill(&mut self, is_full: bool) {
        self.is_full = is_full;
    }
}
