//! A disk as one life of its host sees it.

use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use smalti_core::runtime::{Disk, DiskFile};

use super::file::FileState;
use super::{Operation, SimDisk, lock, medium_error};
use crate::rng::below;

/// One life's view of a [`SimDisk`]. Once the host has crashed, all that it is asked fails.
#[derive(Debug)]
pub struct Mount {
    disk: SimDisk,
    life: u64,
}

impl Mount {
    pub(super) const fn new(disk: SimDisk, life: u64) -> Self {
        Self { disk, life }
    }

    fn file(&self, state: &Arc<Mutex<FileState>>) -> Arc<dyn DiskFile> {
        Arc::new(MountedFile {
            disk: self.disk.clone(),
            life: self.life,
            state: Arc::clone(state),
        })
    }

    /// Does something to the directory, or fails.
    fn change<T>(&self, change: impl FnOnce(&mut super::State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.begin(self.life, Operation::Directory)? {
            return Err(medium_error());
        }
        change(&mut state)
    }
}

impl Disk for Mount {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.disk.lock();
        if state.begin(self.life, Operation::Read)? {
            return Err(medium_error());
        }
        let found = state.files.get(name);
        found
            .map(|file| self.file(file))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(|state| match state.files.entry(name.to_owned()) {
            Entry::Vacant(vacant) => Ok(self.file(vacant.insert(Arc::default()))),
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.files.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            let removed = state.files.remove(name);
            removed
                .map(drop)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.disk.lock();
        if state.begin(self.life, Operation::Read)? {
            return Err(medium_error());
        }
        Ok(state.files.keys().cloned().collect())
    }

    fn describe(&self) -> String {
        "the simulated disk".to_owned()
    }
}

/// An open file, in one life of the host.
struct MountedFile {
    disk: SimDisk,
    life: u64,
    state: Arc<Mutex<FileState>>,
}

impl fmt::Debug for MountedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountedFile")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl DiskFile for MountedFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.disk.lock().begin(self.life, Operation::Read)? {
            return Err(medium_error());
        }
        let state = lock(&self.state);
        let from = usize::try_from(offset).ok();
        let found = from.and_then(|from| state.seen().get(from..from.checked_add(into.len())?));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut disk = self.disk.lock();
        let fails = disk.begin(self.life, Operation::Write { bytes: len })?;
        let before = lock(&self.state).len();
        disk.make_room(end.saturating_sub(before))?;
        let mut file = lock(&self.state);
        if fails {
            let written = below(&mut disk.rng, len) as usize;
            file.write(offset, &bytes[..written]);
            return Err(medium_error());
        }
        file.write(offset, bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if disk.begin(self.life, Operation::Write { bytes: 0 })? {
            return Err(medium_error());
        }
        let before = lock(&self.state).len();
        disk.make_room(len.saturating_sub(before))?;
        lock(&self.state).set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        if self.disk.lock().begin(self.life, Operation::Read)? {
            return Err(medium_error());
        }
        Ok(lock(&self.state).len())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fails = disk.begin(self.life, Operation::Sync)?;
        let mut file = lock(&self.state);
        if fails {
            let sector_len = disk.faults.sector_len;
            file.fail_sync(&mut disk.rng, sector_len);
            return Err(medium_error());
        }
        file.sync();
        Ok(())
    }
}
