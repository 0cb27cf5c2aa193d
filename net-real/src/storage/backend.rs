//! What redb reads and writes: the part of the store's file behind our own pages.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use smalti_core::runtime::DiskFile;

use super::file::DATABASE_AT;
use super::guard::{FirstError, lock};

/// The pages that are kept back are of this length.
const PAGE_LEN: usize = 4_096;

/// redb's view of the file, and ours of what redb does. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<dyn DiskFile>,
    first_error: Arc<FirstError>,
    /// While it is there, nothing is written to the file.
    kept_back: Arc<Mutex<Option<KeptBack>>>,
    is_cut_off: Arc<AtomicBool>,
}

impl Backend {
    /// A backend that writes to `file`, behind our own pages.
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self {
            file,
            first_error: Arc::default(),
            kept_back: Arc::default(),
            is_cut_off: Arc::default(),
        }
    }

    /// A backend that keeps back what is written, until it is [let through](Self::let_through).
    pub(super) fn keeping_back(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let backend = Self::new(file);
        let len = backend.file_len()?;
        let kept_back = KeptBack {
            len,
            of_file: len,
            pages: BTreeMap::new(),
            calls: Vec::new(),
        };
        *lock(&backend.kept_back) = Some(kept_back);
        Ok(backend)
    }

    /// Does to the file what was kept back, call by call, as if it were done now.
    pub(super) fn let_through(&self) -> io::Result<()> {
        let Some(kept_back) = lock(&self.kept_back).take() else {
            return Ok(());
        };
        for call in kept_back.calls {
            self.note(match call {
                Call::Write(at, bytes) => self.file.write_at(at + DATABASE_AT, &bytes),
                Call::SetLen(len) => self.file.set_len(len + DATABASE_AT),
                Call::Sync => self.file.sync(),
            })?;
        }
        Ok(())
    }

    /// Does nothing to the file any more, as if the process had died: what is left to do is of no use.
    pub(super) fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Relaxed);
    }

    pub(super) fn first_error(&self) -> &FirstError {
        &self.first_error
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.saturating_sub(DATABASE_AT))
    }

    /// Whether the file may still be changed.
    fn check(&self) -> io::Result<()> {
        if self.is_cut_off.load(Ordering::Relaxed) {
            return Err(io::Error::other("the store is closed"));
        }
        Ok(())
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.first_error.note(error))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match &*lock(&self.kept_back) {
            Some(kept_back) => Ok(kept_back.len),
            None => self.note(self.file_len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(match &*lock(&self.kept_back) {
            Some(kept_back) => kept_back.read(&*self.file, offset, out),
            None => shifted(offset, out.len()).and_then(|at| self.file.read_at(at, out)),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.note(match &mut *lock(&self.kept_back) {
            Some(kept_back) => {
                kept_back.set_len(len);
                Ok(())
            }
            None => shifted(len, 0).and_then(|len| self.file.set_len(len)),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.note(match &mut *lock(&self.kept_back) {
            Some(kept_back) => {
                kept_back.calls.push(Call::Sync);
                Ok(())
            }
            None => self.file.sync(),
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.note(match &mut *lock(&self.kept_back) {
            Some(kept_back) => kept_back.write(&*self.file, offset, data),
            None => shifted(offset, data.len()).and_then(|at| self.file.write_at(at, data)),
        })
    }
}

/// Where in the file a place of the database lies; an error where it, or what follows, can be nowhere.
fn shifted(offset: u64, len: usize) -> io::Result<u64> {
    let at = offset.checked_add(DATABASE_AT);
    at.filter(|at| at.checked_add(len as u64).is_some())
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What has been written, and not to the file.
#[derive(Debug)]
struct KeptBack {
    len: u64,
    /// Up to here, pages that are not here are the file's.
    of_file: u64,
    /// The pages that differ from the file's, by number.
    pages: BTreeMap<u64, Box<[u8; PAGE_LEN]>>,
    calls: Vec<Call>,
}

#[derive(Debug)]
enum Call {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl KeptBack {
    fn read(&self, file: &dyn DiskFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        for (page, within, part) in parts(offset, out.len()) {
            let out = &mut out[part];
            let of_page = within..within + out.len();
            match self.pages.get(&page) {
                Some(bytes) => out.copy_from_slice(&bytes[of_page]),
                None => out.copy_from_slice(&self.page_of_file(file, page)?[of_page]),
            }
        }
        Ok(())
    }

    fn write(&mut self, file: &dyn DiskFile, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        for (page, within, part) in parts(offset, data.len()) {
            if !self.pages.contains_key(&page) {
                let bytes = Box::new(self.page_of_file(file, page)?);
                self.pages.insert(page, bytes);
            }
            let data = &data[part];
            if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[within..within + data.len()].copy_from_slice(data);
            }
        }
        self.calls.push(Call::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        self.of_file = self.of_file.min(len);
        if len < self.len {
            // What lay behind the end reads as zeros, should the file grow again.
            let first = len / PAGE_LEN as u64;
            for (page, bytes) in self.pages.range_mut(first..) {
                let kept = len.saturating_sub(page * PAGE_LEN as u64) as usize;
                bytes[kept.min(PAGE_LEN)..].fill(0);
            }
        }
        self.len = len;
        self.calls.push(Call::SetLen(len));
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// A page as the file has it, and zeros behind the file's end.
    fn page_of_file(&self, file: &dyn DiskFile, page: u64) -> io::Result<[u8; PAGE_LEN]> {
        let mut bytes = [0; PAGE_LEN];
        let at = page * PAGE_LEN as u64;
        let there = self.of_file.saturating_sub(at).min(PAGE_LEN as u64) as usize;
        if there > 0 {
            file.read_at(at + DATABASE_AT, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

/// The pages that a range lies in: their numbers, where in each it begins, and which part of it that is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_LEN as u64) as usize;
        let next = done + (PAGE_LEN - within).min(len - done);
        let part = (done < len).then(|| (at / PAGE_LEN as u64, within, done..next));
        done = next;
        part
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file in memory.
    #[derive(Debug, Default)]
    pub(in super::super) struct Memory(pub(in super::super) Mutex<Vec<u8>>);

    impl DiskFile for Memory {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            let from = offset as usize;
            let bytes = lock(&self.0);
            let found = bytes.get(from..from + into.len());
            into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let (from, mut all) = (offset as usize, lock(&self.0));
            let end = all.len().max(from + bytes.len());
            all.resize(end, 0);
            all[from..from + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            lock(&self.0).resize(len as usize, 0);
            Ok(())
        }

        fn len(&self) -> io::Result<u64> {
            Ok(lock(&self.0).len() as u64)
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn database(backend: &Backend) -> Vec<u8> {
        let mut all = vec![0; backend.len().unwrap() as usize];
        backend.read(0, &mut all).unwrap();
        all
    }

    #[test]
    fn what_is_kept_back_reads_as_if_it_were_written_and_is_let_through() {
        let begin = || {
            let file = Arc::new(Memory::default());
            let written: Vec<_> = (0..DATABASE_AT + 20_000).map(|at| at as u8).collect();
            file.write_at(0, &written).unwrap();
            file
        };
        let (direct_file, kept_file) = (begin(), begin());
        let direct = Backend::new(direct_file.clone());
        let kept = Backend::keeping_back(kept_file.clone()).unwrap();
        let untouched = lock(&kept_file.0).clone();
        for backend in [&direct, &kept] {
            backend.write(4_090, &[1; 5_000]).unwrap();
            backend.set_len(6_000).unwrap();
            backend.set_len(30_000).unwrap();
            backend.write(12_000, &[2; 10]).unwrap();
            backend.sync_data().unwrap();
            backend.set_len(28_000).unwrap();
        }
        assert_eq!(database(&direct), database(&kept));
        assert_eq!(*lock(&kept_file.0), untouched);
        kept.let_through().unwrap();
        assert_eq!(*lock(&kept_file.0), *lock(&direct_file.0));
        assert_eq!(database(&direct), database(&kept));
    }

    #[test]
    fn nothing_lies_behind_the_end() {
        let file = Arc::new(Memory::default());
        file.set_len(DATABASE_AT + 10).unwrap();
        let backends = [
            Backend::new(file.clone()),
            Backend::keeping_back(file).unwrap(),
        ];
        for backend in backends {
            for (offset, len) in [(0, 11), (10, 1), (u64::MAX, 1), (u64::MAX - DATABASE_AT, 9)] {
                let error = backend.read(offset, &mut vec![0; len]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }
}
