//! Files, for what must outlive the process.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The node's data directory: named files, and nothing below it.
///
/// All calls block; they are made where that harms nobody. What a call of this trait returns without an
/// error is durable: files that were created, renamed or removed are so after a crash too. What is written
/// to a file is durable after the [`sync`](DiskFile::sync) that follows, and not before.
///
/// Errors are told by [`io::Error::kind`]: [`StorageFull`](io::ErrorKind::StorageFull) where no space is
/// left, [`NotFound`](io::ErrorKind::NotFound) and [`AlreadyExists`](io::ErrorKind::AlreadyExists) where a
/// file is missing or in the way, [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) where it ends before what
/// is read, anything else where the disk failed.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens the file `name`, which is there.
    ///
    /// # Errors
    /// Where it is not, or the disk failed.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes the file `name`, which is not there yet.
    ///
    /// # Errors
    /// Where it is, or the disk failed.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names `from` as `to`, in place of what `to` was: after a crash `to` is one or the other.
    ///
    /// # Errors
    /// Where `from` is not there, or the disk failed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the file `name`.
    ///
    /// # Errors
    /// Where it is not there, or the disk failed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, in ascending order.
    ///
    /// # Errors
    /// Where the disk failed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// What the directory is called, for messages.
    fn describe(&self) -> String;
}

/// An open file of a [`Disk`].
///
/// After a [`sync`](Self::sync) that failed, what is durable of the file is unknown, and a later one that
/// succeeds says nothing about it (Rebello et al., Can Applications Recover from fsync Failures?, ATC
/// 2020).
#[expect(
    clippy::len_without_is_empty,
    reason = "a file is asked how long it is, never whether it is empty"
)]
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Where the file ends before, or the disk failed.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`. The file grows where they end behind its end.
    ///
    /// # Errors
    /// Where no space is left, or the disk failed. A part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or lengthens it by zeros.
    ///
    /// # Errors
    /// Where no space is left, or the disk failed.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// Where the disk failed.
    fn len(&self) -> io::Result<u64>;

    /// Makes durable all that was written, and the length.
    ///
    /// # Errors
    /// Where that failed: what is durable is then unknown.
    fn sync(&self) -> io::Result<()>;
}
