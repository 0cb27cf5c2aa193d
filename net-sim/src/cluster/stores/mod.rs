//! What hosts keep across their lives: a disk each, and the stores of nodes on it.
//!
//! Where the nodes' transport is the real one, or it was asked for, the store is the real one, on files of the
//! disk. Elsewhere stores are [images](images) of what was written.

mod images;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use smalti_core::id::{NetworkId, SecretKey};
use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::OpenStore;

use self::images::Shared;
use super::state::{Life, Run};
use crate::disk::{Place, SimDisk};

/// The disk of a host, and the stores on it, by directory. It outlives the host's lives.
pub(super) struct HostDisk {
    disk: SimDisk,
    stores: BTreeMap<String, Shared>,
    /// Writes of stores that crashes have lost.
    lost: u64,
}

impl HostDisk {
    pub(super) const fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            stores: BTreeMap::new(),
            lost: 0,
        }
    }

    pub(super) const fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Those who asked have seen the end of all that was asked up to this place.
    pub(super) fn end_syncs(&self, through: Place) {
        self.disk.end_syncs(through);
        for store in self.stores.values() {
            images::lock(store).end_syncs(through);
        }
    }

    /// The host crashes with its power.
    pub(super) fn crash(&mut self) {
        let at = self.disk.crash_somewhere();
        for store in self.stores.values() {
            let draw = |bound| self.disk.draw_below(bound);
            self.lost += images::lock(store).crash(at, draw);
        }
    }

    /// How many writes crashes have lost, over all lives.
    pub(super) fn lost_writes(&self) -> u64 {
        self.lost + self.disk.lost_changes()
    }

    /// What is kept of the store of `directory`; an empty one where there is none.
    fn store(&mut self, directory: &str) -> Shared {
        let store = self.stores.entry(directory.to_owned()).or_default();
        Shared::clone(store)
    }
}

/// Opens the store in a directory of the host's disk: the real one where the nodes' transport is real too.
pub(super) fn open(
    run: &Run,
    life: Life,
    directory: &Path,
    network: NetworkId,
    given: Option<SecretKey>,
) -> Result<OpenStore, StorageError> {
    let directory = directory.to_string_lossy();
    let disk = run.lock().host(life.node).disk.disk().clone();
    let Some(mount) = disk.mount_directory(&directory) else {
        return Err(StorageError::InUse {
            what: directory.into_owned(),
        });
    };
    let fresh = || SecretKey::from_bytes(run.lock().draw_seed(life, "secret key"));
    #[cfg(feature = "full")]
    if run.lock().real_stores {
        let mount: std::sync::Arc<dyn smalti_core::runtime::Disk> = mount;
        return smalti::storage::open_directory(&mount, &network, given.as_ref(), fresh);
    }
    let kept = run.lock().host_mut(life.node).disk.store(&directory);
    images::open(mount, kept, network, given, fresh)
}
