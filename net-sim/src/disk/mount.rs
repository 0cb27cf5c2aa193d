//! A disk as one life of its host sees it.

use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use smalti_core::runtime::{Disk, DiskFile};

use super::file::FileState;
use super::{Operation, Place, SimDisk, lock, medium_error};
use crate::rng::below;

/// One life's view of a [`SimDisk`], or of a directory of it. Once the host has crashed, all that it is asked
/// fails.
#[derive(Debug)]
pub struct Mount {
    disk: SimDisk,
    life: u64,
    directory: Option<String>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let mut state = self.disk.lock();
            if state.life == self.life {
                state.held.remove(directory);
            }
        }
    }
}

impl Mount {
    pub(super) const fn new(disk: SimDisk, life: u64, directory: Option<String>) -> Self {
        Self {
            disk,
            life,
            directory,
        }
    }

    /// Does `operation` for something that is no file, and gives its place. `Err` where the disk fails.
    pub(crate) fn begin(&self, operation: Operation) -> io::Result<Place> {
        let mut state = self.disk.lock();
        let fails = state.begin(self.life, operation)?;
        if let Operation::Write { bytes } = operation {
            state.make_room(bytes)?;
        }
        if fails {
            return Err(medium_error());
        }
        Ok(state.place())
    }

    /// Whether the host has not crashed since.
    pub(crate) fn is_live(&self) -> bool {
        self.disk.lock().life == self.life
    }

    pub(crate) const fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// What the disk calls the file `name`.
    fn path(&self, name: &str) -> String {
        match &self.directory {
            Some(directory) => format!("{directory}/{name}"),
            None => name.to_owned(),
        }
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
        state.end_all_syncs();
        change(&mut state)
    }
}

impl Disk for Mount {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.disk.lock();
        if state.begin(self.life, Operation::Read)? {
            return Err(medium_error());
        }
        let found = state.files.get(&self.path(name));
        found
            .map(|file| self.file(file))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(|state| match state.files.entry(self.path(name)) {
            Entry::Vacant(vacant) => Ok(self.file(vacant.insert(Arc::default()))),
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let file = state.files.remove(&self.path(from));
            let file = file.ok_or(io::ErrorKind::NotFound)?;
            state.files.insert(self.path(to), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            let removed = state.files.remove(&self.path(name));
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
        let directory = self.path("");
        let names = state.files.keys();
        let names = names.filter_map(|path| path.strip_prefix(&directory));
        let names = names.filter(|name| !name.contains('/'));
        Ok(names.map(str::to_owned).collect())
    }

    fn describe(&self) -> String {
        match &self.directory {
            Some(directory) => format!("{directory} on the simulated disk"),
            None => "the simulated disk".to_owned(),
        }
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
        let (place, mut file) = (disk.place(), lock(&self.state));
        if fails {
            let written = below(&mut disk.rng, len) as usize;
            file.write(place, offset, &bytes[..written]);
            return Err(medium_error());
        }
        file.write(place, offset, bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        if disk.begin(self.life, Operation::Write { bytes: 0 })? {
            return Err(medium_error());
        }
        let before = lock(&self.state).len();
        disk.make_room(len.saturating_sub(before))?;
        lock(&self.state).set_len(disk.place(), len);
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
        if fails {
            disk.end_all_syncs();
            let sector_len = disk.faults.sector_len;
            lock(&self.state).fail_sync(&mut disk.rng, sector_len);
            return Err(medium_error());
        }
        lock(&self.state).sync(disk.place());
        if disk.syncs_end_at_once {
            disk.end_all_syncs();
        }
        Ok(())
    }
}
