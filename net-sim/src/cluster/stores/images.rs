//! Stores without files: images of what was written.
//!
//! The disk says what fails, how long it takes, and how far it had got when the host crashed. Of the writes
//! that were not durable then the first few may be, each of them whole: all that a store may leave, and more
//! than the real one does.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smalti_core::id::{GroupId, NetworkId, SecretKey};
use smalti_core::protocol::raft::{Entry, Recovered, Storage, StorageError, StoreImage, Write};
use smalti_core::runtime::{Disk, OpenStore};

use crate::disk::{Mount, Operation, Place};

const OPENING: &str = "opening the store";
const READING: &str = "reading the store";
const WRITING: &str = "writing to the store";
const SYNCING: &str = "making writes durable";

/// What is kept of a store across the lives of its host.
pub(super) type Shared = Arc<Mutex<Kept>>;

/// Opens the store in the directory that `mount` is of.
pub(super) fn open(
    mount: Arc<Mount>,
    kept: Shared,
    network: NetworkId,
    given: Option<SecretKey>,
    fresh: impl FnOnce() -> SecretKey,
) -> Result<OpenStore, StorageError> {
    let failed = |error: io::Error| failure(&error, OPENING);
    mount.begin(Operation::Read).map_err(failed)?;
    let noted = lock(&kept).network;
    if let Some(noted) = noted.filter(|noted| *noted != network) {
        return Err(StorageError::Foreign {
            what: mount.describe(),
            how: format!("it belongs to network {noted}, and the node is one of network {network}"),
        });
    }
    let owner = lock(&kept).owner.clone();
    let secret_key = match (owner, given) {
        (Some(owner), Some(given)) if owner.peer_id() != given.peer_id() => {
            let (owner, given) = (owner.peer_id(), given.peer_id());
            return Err(StorageError::Foreign {
                what: format!("the store in {}", mount.describe()),
                how: format!(
                    "it belongs to peer {owner}, and the key given is that of peer {given}"
                ),
            });
        }
        (Some(owner), _) => owner,
        (None, given) => {
            let made = given.unwrap_or_else(fresh);
            // As the name of a file that is whole: durable when it is given.
            mount.begin(Operation::Directory).map_err(failed)?;
            let mut kept = lock(&kept);
            (kept.owner, kept.network) = (Some(made.clone()), Some(network));
            made
        }
    };
    let seen = lock(&kept).open();
    let storage = Box::new(Images {
        mount,
        kept,
        seen,
        has_failed: false,
    });
    Ok(OpenStore {
        storage,
        secret_key,
    })
}

/// A change of a group; `None` forgets it.
type Change = (Place, GroupId, Option<Write>);

/// What is on the disk, and on its way there.
#[derive(Default)]
pub(super) struct Kept {
    owner: Option<SecretKey>,
    network: Option<NetworkId>,
    durable: BTreeMap<GroupId, StoreImage>,
    changes: VecDeque<Change>,
    /// Syncs whose end nobody has seen, and how many of the changes each covers.
    syncs: VecDeque<(Place, usize)>,
}

impl Kept {
    /// What a process that opens the store finds. What none before it has synced is lost.
    fn open(&mut self) -> BTreeMap<GroupId, StoreImage> {
        self.end_syncs(Place::MAX);
        self.changes.clear();
        let images = self.durable.values_mut();
        images.for_each(StoreImage::forget_staged);
        self.durable.clone()
    }

    /// Those who asked have seen the end of all that was asked up to this place.
    pub(super) fn end_syncs(&mut self, through: Place) {
        let ended = self.syncs.partition_point(|(place, _)| *place <= through);
        let Some((_, covered)) = self.syncs.drain(..ended).next_back() else {
            return;
        };
        self.make_durable(covered);
        for (_, covers) in &mut self.syncs {
            *covers -= covered;
        }
    }

    fn make_durable(&mut self, count: usize) {
        for (_, group, change) in self.changes.drain(..count) {
            carry_out(&mut self.durable, group, change);
        }
    }

    /// The power goes off when all up to this place had been asked for. `draw` gives a number below another. Gives how
    /// many writes were lost.
    pub(super) fn crash(&mut self, at: Place, draw: impl Fn(u64) -> u64) -> u64 {
        self.end_syncs(at);
        let asked = self.changes.partition_point(|(place, ..)| *place <= at);
        if asked > 0 {
            self.make_durable(draw(asked as u64 + 1) as usize);
        }
        let lost = self.changes.len() as u64;
        self.changes.clear();
        self.syncs.clear();
        lost
    }

    /// A sync has failed: the first few changes are durable, the others never will be.
    fn fail_sync(&mut self, draw: impl Fn(u64) -> u64) {
        self.end_syncs(Place::MAX);
        self.make_durable(draw(self.changes.len() as u64 + 1) as usize);
        self.changes.clear();
    }
}

/// All changes that are made to images fitted what had been written when they were made.
fn carry_out(images: &mut BTreeMap<GroupId, StoreImage>, group: GroupId, change: Option<Write>) {
    match change {
        Some(write) => images
            .entry(group)
            .or_default()
            .carry_out(write)
            .expect("it was carried out before, on the same image"),
        None => drop(images.remove(&group)),
    }
}

/// The open store of one life.
struct Images {
    mount: Arc<Mount>,
    kept: Shared,
    /// What was written, durable or not.
    seen: BTreeMap<GroupId, StoreImage>,
    has_failed: bool,
}

impl Images {
    /// Does something, unless the store is closed; closes it where that fails.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.has_failed {
            return Err(StorageError::Closed);
        }
        let result = work(self);
        self.has_failed = result.is_err();
        result
    }

    fn change(&mut self, group: &GroupId, change: Option<Write>) -> Result<(), StorageError> {
        let bytes = change.as_ref().map_or(0, size);
        let place = self.mount.begin(Operation::Write { bytes });
        let place = place.map_err(|error| failure(&error, WRITING))?;
        lock(&self.kept).changes.push_back((place, *group, change));
        Ok(())
    }
}

impl Storage for Images {
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError> {
        self.attempt(|this| {
            let read = this.mount.begin(Operation::Read);
            read.map_err(|error| failure(&error, READING))?;
            Ok(this.seen.get(group).and_then(StoreImage::recovered))
        })
    }

    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError> {
        self.attempt(|this| {
            if write.is_empty() {
                return Ok(());
            }
            let image = this.seen.entry(*group).or_default();
            image.carry_out(write.clone())?;
            this.change(group, Some(write))
        })
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.attempt(|this| {
            let begun = this.mount.begin(Operation::Sync);
            let mut kept = lock(&this.kept);
            match begun {
                Ok(place) => {
                    let covers = kept.changes.len();
                    kept.syncs.push_back((place, covers));
                    Ok(())
                }
                Err(error) => {
                    if this.mount.is_live() {
                        kept.fail_sync(|bound| this.mount.disk().draw_below(bound));
                    }
                    Err(failure(&error, SYNCING))
                }
            }
        })
    }

    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError> {
        self.attempt(|this| {
            if this.seen.remove(group).is_none() {
                return Ok(());
            }
            this.change(group, None)
        })
    }
}

/// About how many bytes a write takes on a disk.
fn size(write: &Write) -> u64 {
    const HEAD: usize = 128;
    let staged = write.staged.as_ref().map_or(0, |chunk| chunk.bytes.len());
    let entries: usize = write.entries.iter().map(Entry::size).sum();
    (HEAD + staged + entries) as u64
}

fn failure(error: &io::Error, doing: &'static str) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull => StorageError::Full { doing },
        _ => StorageError::Disk {
            doing,
            cause: error.to_string(),
        },
    }
}

pub(super) fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
