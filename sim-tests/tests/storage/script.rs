//! Random writes that a member could make, and what they leave.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use smalti_core::id::{Digest, GroupId, Instance, PeerId};
use smalti_core::protocol::raft::{
    Batch, CommandsBuilder, Configuration, Entry, HardState, Incarnation, Index, Manifest, Member,
    Owner, Payload, Position, Run, Runs, Seal, Sequence, SessionId, StagedChunk, StoreImage, Term,
    Write,
};

use crate::Contents;

/// A call that changes a store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(GroupId, Box<Write>),
    Forget(GroupId),
}

/// What a store holds for several groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(BTreeMap<GroupId, StoreImage>);

impl Model {
    pub(crate) fn carry_out(&mut self, change: Change) {
        match change {
            Change::Write(group, write) => {
                let image = self.0.entry(group).or_default();
                assert_eq!(image.carry_out(*write), Ok(()));
            }
            Change::Forget(group) => drop(self.0.remove(&group)),
        }
    }

    /// The store is opened anew.
    pub(crate) fn open_anew(&mut self) {
        self.0.values_mut().for_each(StoreImage::forget_staged);
    }

    pub(crate) fn contents(&self) -> Contents {
        let found = |(group, image): (&GroupId, &StoreImage)| Some((*group, image.recovered()?));
        self.0.iter().filter_map(found).collect()
    }
}

/// Makes changes that fit what the model holds.
pub(crate) struct Script {
    rng: ChaCha8Rng,
    groups: Vec<GroupId>,
    /// Chunks to come of the snapshot that is being staged, by group.
    staging: BTreeMap<GroupId, (Manifest, Vec<StagedChunk>)>,
}

impl Script {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        let groups = ["a", "b", "c"].map(GroupId::from).to_vec();
        Self {
            rng,
            groups,
            staging: BTreeMap::new(),
        }
    }

    /// The store is opened anew.
    pub(crate) fn open_anew(&mut self) {
        self.staging.clear();
    }

    /// A change that fits `model`, which holds all changes so far.
    pub(crate) fn change(&mut self, model: &Model) -> Change {
        let group = self.groups[self.rng.random_range(0..self.groups.len())];
        let image = model.0.get(&group).cloned().unwrap_or_default();
        if self.rng.random_ratio(1, 60) {
            self.staging.remove(&group);
            return Change::Forget(group);
        }
        Change::Write(group, Box::new(self.write(group, &image)))
    }

    fn write(&mut self, group: GroupId, image: &StoreImage) -> Write {
        let mut write = Write::default();
        let mut log = image.outline().log();
        let mut snapshot = image.outline().snapshot().unwrap_or_default();
        if image.recovered().is_none() || self.rng.random_ratio(1, 5) {
            write.hard_state = Some(self.hard_state());
        }
        if self.rng.random_ratio(1, 40) {
            self.staging.remove(&group);
            write.reset = true;
            (log, snapshot) = (None, Index::ZERO);
        }
        if self.rng.random_ratio(1, 3) {
            self.stage(group, &mut write, &mut log, &mut snapshot);
        }
        if snapshot > Index::ZERO && self.rng.random_ratio(1, 4) {
            let through = Index(self.rng.random_range(0..=snapshot.0));
            write.compact_through = Some(through);
            log = log
                .map(|(first, last)| (first.max(through.next()), last))
                .filter(|(first, last)| first <= last);
        }
        if self.rng.random_ratio(2, 3) {
            let low = snapshot.next();
            let first = match log {
                // Mostly at the end, sometimes in place of some.
                Some((first, last)) if self.rng.random_ratio(1, 4) => {
                    let from = low.max(first).0;
                    Index(self.rng.random_range(from..=last.0 + 1))
                }
                Some((_, last)) => last.next(),
                None => low,
            };
            for index in first.0..first.0 + self.rng.random_range(1..5) {
                write.entries.push(self.entry(Index(index)));
            }
        }
        write
    }

    /// Stages a chunk; with the last, the snapshot is in place.
    fn stage(
        &mut self,
        group: GroupId,
        write: &mut Write,
        log: &mut Option<(Index, Index)>,
        snapshot: &mut Index,
    ) {
        let begins = self.rng.random_ratio(1, 20);
        if begins || !self.staging.contains_key(&group) {
            let ahead = self.rng.random_range(1..12);
            let plan = self.plan(snapshot.0 + ahead);
            self.staging.insert(group, plan);
        }
        let Some((manifest, chunks)) = self.staging.get_mut(&group) else {
            return;
        };
        write.staged = chunks.pop();
        if !chunks.is_empty() {
            return;
        }
        let position = manifest.position.index;
        let is_ahead = log.is_none_or(|(_, last)| last < position);
        if position > *snapshot {
            write.snapshot = Some(manifest.clone());
            *snapshot = position;
            write.drop_log = is_ahead;
            if is_ahead {
                *log = None;
            }
        }
        self.staging.remove(&group);
    }

    /// A snapshot at `index`, and its chunks in any order.
    fn plan(&mut self, index: u64) -> (Manifest, Vec<StagedChunk>) {
        let position = Position {
            term: Term(self.rng.random_range(1..9)),
            index: Index(index),
        };
        let count = self.rng.random_range(0..4);
        let mut chunks: Vec<_> = (0..count)
            .map(|number| StagedChunk {
                position,
                number,
                bytes: self.bytes(9_000),
            })
            .collect();
        let digest = |chunk: &StagedChunk| Digest::of("chunk", &[&chunk.bytes]);
        let manifest = Manifest {
            incarnation: Incarnation(Digest::of("life", &[])),
            position,
            configuration: self.configuration(),
            configured_at: Index(1),
            chunks: chunks.iter().map(digest).collect(),
        };
        if self.rng.random() {
            chunks.reverse();
        }
        (manifest, chunks)
    }

    fn entry(&mut self, index: Index) -> Entry {
        let payload = match self.rng.random_range(0..6) {
            0 => Payload::Blank,
            1 => Payload::Configuration(self.configuration()),
            2 => Payload::Open(Owner {
                member: self.member(),
                run: Run {
                    boot: self.rng.random(),
                    id: self.rng.random(),
                },
            }),
            _ => {
                let mut commands = CommandsBuilder::default();
                for _ in 0..self.rng.random_range(1..5) {
                    // Some are long, so that the journal is full now and then.
                    if self.rng.random_ratio(1, 12) {
                        let len = self.rng.random_range(0..60_000);
                        commands.push(&vec![self.rng.random(); len]);
                    } else {
                        commands.push(&self.bytes(2_000));
                    }
                }
                Payload::Commands(Batch {
                    session: SessionId(Index(2)),
                    first: Sequence(index.0),
                    acked_through: Sequence(0),
                    commands: commands.take(),
                })
            }
        };
        Entry {
            term: Term(self.rng.random_range(1..9)),
            index,
            payload,
        }
    }

    pub(crate) fn hard_state(&mut self) -> HardState {
        HardState {
            instance: Instance::from_rng(&mut self.rng),
            boot: self.rng.random_range(1..9),
            runs: Runs::NONE.then(self.rng.random()),
            incarnation: self
                .rng
                .random_ratio(1, 2)
                .then(|| Incarnation(Digest::of("life", &[&[self.rng.random()]]))),
            term: Term(self.rng.random_range(1..99)),
            vote: self.rng.random_ratio(1, 2).then(|| self.member()),
            seals: [
                self.rng.random_ratio(1, 4).then(|| self.seal()),
                None,
                None,
                None,
            ],
        }
    }

    fn seal(&mut self) -> Seal {
        let mut incarnation = || Incarnation(Digest::of("life", &[&[self.rng.random()]]));
        Seal {
            incarnation: incarnation(),
            into: incarnation(),
            at: Position {
                term: Term(2),
                index: Index(7),
            },
            commands: 3,
        }
    }

    fn configuration(&mut self) -> Configuration {
        let voters: BTreeSet<_> = (0..3).map(|_| self.member()).collect();
        Configuration {
            voters,
            demotions: BTreeMap::new(),
        }
    }

    fn member(&mut self) -> Member {
        Member {
            peer: PeerId::from_bytes([self.rng.random_range(0..5); 32]),
            instance: Instance::from_bytes([self.rng.random_range(0..5); 16]),
        }
    }

    /// Mostly a few bytes, sometimes many.
    fn bytes(&mut self, len_max: usize) -> Bytes {
        let len_max = if self.rng.random_ratio(1, 8) {
            len_max
        } else {
            50
        };
        let mut bytes = vec![0; self.rng.random_range(0..=len_max)];
        self.rng.fill_bytes(&mut bytes);
        Bytes::from(bytes)
    }
}
