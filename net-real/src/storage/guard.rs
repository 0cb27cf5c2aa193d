//! Calls into redb: its errors and its panics as errors of ours.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smalti_core::protocol::raft::StorageError;

/// What the disk said first, where it failed. redb passes it on in one of many ways, or not at all.
#[derive(Debug, Default)]
pub(super) struct FirstError(Mutex<Option<(io::ErrorKind, String)>>);

impl FirstError {
    /// Notes what went wrong, unless something has before.
    pub(super) fn note(&self, error: &io::Error) {
        let mut first = lock(&self.0);
        first.get_or_insert_with(|| (error.kind(), error.to_string()));
    }

    fn get(&self) -> Option<(io::ErrorKind, String)> {
        lock(&self.0).clone()
    }
}

/// Runs `call`, which calls redb. `what` and `doing` are for errors.
///
/// What `call` owns is dropped where it panics: a transaction must be borrowed, or its destructor might
/// panic while the stack is unwound, which ends the process.
pub(super) fn guard<T>(
    what: &str,
    doing: &'static str,
    first_error: &FirstError,
    call: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, StorageError> {
    let how = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(Failure::Ours(error))) => return Err(error),
        Ok(Err(Failure::Redb(error))) => error.to_string(),
        Err(panic) => format!("the database cannot be read: {}", message(&*panic)),
    };
    Err(match first_error.get() {
        // A page that is pointed at lies behind the end of the file.
        Some((io::ErrorKind::UnexpectedEof, _)) | None => StorageError::Damaged {
            what: what.to_owned(),
            how,
        },
        Some((kind, cause)) => of_disk(kind, cause, doing),
    })
}

/// Drops what is of redb, whose destructors may panic on a file that was altered.
pub(super) fn drop_guarded<T>(value: T) {
    // It is given up either way: there is nothing to be done about a panic here.
    let _given_up = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Why a call failed.
pub(super) enum Failure {
    /// It was redb.
    Redb(redb::Error),
    /// We have found out ourselves.
    Ours(StorageError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// The error of a store whose disk failed with `error`.
pub(super) fn disk_error(error: &io::Error, doing: &'static str) -> StorageError {
    of_disk(error.kind(), error.to_string(), doing)
}

fn of_disk(kind: io::ErrorKind, cause: String, doing: &'static str) -> StorageError {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { doing },
        _ => StorageError::Disk { doing, cause },
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
