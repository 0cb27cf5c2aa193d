//! What is on a disk.

use smalti_core::protocol::raft::{
    Configuration, Entry, HardState, Index, Payload, Recovered, StoreImage, Term, Write,
};

/// What is on a disk, for one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    store: StoreImage,
    pub(super) hard_state: Option<HardState>,
    /// The voters that the snapshot names.
    configuration: Option<Configuration>,
}

impl Image {
    pub(super) fn carry_out(&mut self, write: Write) {
        if write.reset {
            self.configuration = None;
        }
        if let Some(manifest) = &write.snapshot {
            self.configuration = Some(manifest.configuration.clone());
        }
        self.hard_state = write.hard_state.or(self.hard_state);
        if let Err(error) = self.store.carry_out(write) {
            panic!("{error}");
        }
    }

    /// The node starts anew.
    pub(super) fn forget_staged(&mut self) {
        self.store.forget_staged();
    }

    pub(super) fn recovered(&self) -> Option<Recovered> {
        self.store.recovered()
    }

    fn covered(&self) -> Index {
        self.store.outline().snapshot().unwrap_or_default()
    }

    /// The last entry that it has, or of which it has the effect.
    pub(super) fn last(&self) -> Index {
        let end = self.store.outline().log().map(|(_, last)| last);
        end.unwrap_or_default().max(self.covered())
    }

    /// Whether it has the entry, or a snapshot with its effect.
    pub(super) fn has(&self, index: Index, term: Term) -> bool {
        let entry = self.store.entry(index);
        index <= self.covered() || entry.is_some_and(|entry| entry.term == term)
    }

    /// The entries that no snapshot covers.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let indexes = self.covered().0 + 1..=self.last().0;
        indexes.filter_map(|index| self.store.entry(Index(index)))
    }

    /// How many vote after a restart; zero where nobody is known to.
    pub(super) fn voters(&self) -> usize {
        let mut voters = self.configuration.as_ref().map_or(0, |it| it.voters.len());
        for entry in self.entries() {
            match &entry.payload {
                Payload::Founding(charter) => voters = charter.voters.len(),
                Payload::Configuration(configuration) => voters = configuration.voters.len(),
                _ => {}
            }
        }
        voters
    }
}
