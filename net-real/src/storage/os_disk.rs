//! A data directory of the operating system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::{Disk, DiskFile};

use super::guard::disk_error;

/// Whoever holds a lock on this file has the directory.
const LOCK: &str = "lock";

/// A data directory. One process at a time has it open; the operating system lets go of it when that
/// process ends, however it does.
#[derive(Debug)]
pub struct OsDisk {
    directory: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl OsDisk {
    /// Opens the directory; makes it, readable by its owner alone, where it is not there.
    ///
    /// # Errors
    /// [`StorageError::InUse`] where another process, or this one, has it open already; otherwise as the
    /// operating system says.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StorageError> {
        const OPENING: &str = "opening the data directory";
        let directory = directory.into();
        let failed = |error: io::Error| {
            let named = format!("{}: {error}", directory.display());
            disk_error(&io::Error::new(error.kind(), named), OPENING)
        };
        make_directory(&directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let lock = owners(&mut options)
            .open(directory.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                directory,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
                what: directory.display().to_string(),
            }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where the file `name` lies, which must be in the directory itself.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let mut components = Path::new(name).components();
        let is_name = matches!(components.next(), Some(Component::Normal(_)));
        if !is_name || components.next().is_some() || name == LOCK {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        Ok(self.directory.join(name))
    }

    /// Makes durable which files there are.
    fn sync_directory(&self) -> io::Result<()> {
        // Elsewhere a directory cannot be opened, and its changes are durable by themselves.
        if cfg!(unix) {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(())
    }
}

impl Disk for OsDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name)?)?;
        Ok(Arc::new(OsFile::new(opened)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let created = owners(&mut options).open(self.path(name)?)?;
        self.sync_directory()?;
        Ok(Arc::new(OsFile::new(created)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)?;
        self.sync_directory()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)?;
        self.sync_directory()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            if let Ok(name) = name
                && name != LOCK
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn describe(&self) -> String {
        self.directory.display().to_string()
    }
}

/// A file.
#[derive(Debug)]
struct OsFile {
    file: File,
    /// Held by whoever moves the position of the file, where reads and writes have none of their own.
    #[cfg(not(unix))]
    position: std::sync::Mutex<()>,
}

impl OsFile {
    const fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(not(unix))]
            position: std::sync::Mutex::new(()),
        }
    }
}

impl DiskFile for OsFile {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    #[cfg(not(unix))]
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _position = super::guard::lock(&self.position);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).read_exact(into)
    }

    #[cfg(not(unix))]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let _position = super::guard::lock(&self.position);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).write_all(bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Makes the directory and those above it, and makes durable that it is there.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)?;
    if cfg!(unix)
        && let Some(parent) = fs::canonicalize(directory)?.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Files that are made can be read by their owner alone: one of them holds the secret key.
fn owners(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("smalti-os-disk-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn files_hold_what_is_written_and_are_found_again() {
        let scratch = Scratch::new("files");
        let disk = OsDisk::open(scratch.0.join("deep/down")).unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(3, b"abc").unwrap();
        file.sync().unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        let again = disk.open("b").unwrap();
        let mut all = [9; 6];
        again.read_at(0, &mut all).unwrap();
        assert_eq!(&all, b"\0\0\0abc");
        let end = again.read_at(1, &mut all).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        again.set_len(2).unwrap();
        assert_eq!(file.len().unwrap(), 2);
        let taken = disk.create("b").unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        disk.remove("b").unwrap();
        assert_eq!(disk.open("b").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_stay_in_the_directory() {
        let scratch = Scratch::new("names");
        let disk = OsDisk::open(&scratch.0).unwrap();
        for name in ["", ".", "..", "a/b", "/a", LOCK] {
            let refused = disk.create(name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidFilename, "{name}");
        }
    }

    #[test]
    fn a_directory_is_open_once() {
        let scratch = Scratch::new("lock");
        let first = OsDisk::open(&scratch.0).unwrap();
        let refused = OsDisk::open(&scratch.0).unwrap_err();
        assert!(matches!(refused, StorageError::InUse { .. }), "{refused}");
        drop(first);
        OsDisk::open(&scratch.0).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn others_cannot_read_what_is_there() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("mode");
        let disk = OsDisk::open(&scratch.0).unwrap();
        disk.create("a").unwrap();
        for path in [scratch.0.clone(), scratch.0.join("a")] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
    }
}
