//! The database in the store's file: commits of steps, and views of what is there.

use std::io;
use std::sync::Arc;

use redb::Database;
use smalti_core::protocol::raft::StorageError;

use super::backend::Backend;
use super::file::{Mark, StoreFile};
use super::guard::{Failure, disk_error, drop_guarded, guard};
use super::rows::{COMMITS, Rows, Step, Tables};

/// So much memory the database takes for what it has read and is about to write, at most.
const CACHE_BYTES: usize = 32 << 20;

const OPENING: &str = "opening the store";
const READING: &str = "reading the store";
const SYNCING: &str = "making writes durable";
const CLOSING: &str = "closing the store";

/// An open database. Once something has failed it is closed, and all else fails too.
#[derive(Debug)]
pub(super) struct Engine {
    file: StoreFile,
    backend: Backend,
    database: Option<Database>,
    commits: u64,
}

impl Engine {
    /// Makes a database in a file that has none.
    pub(super) fn make(file: StoreFile) -> Result<Self, StorageError> {
        let backend = Backend::new(Arc::clone(&file.file));
        Self::over(file, backend)
    }

    /// Opens the database of a file, and verifies all of it. Nothing is written until it is
    /// [settled](Self::settle).
    pub(super) fn open(file: StoreFile) -> Result<Self, StorageError> {
        let backend = Backend::keeping_back(Arc::clone(&file.file));
        let backend = backend.map_err(|error| disk_error(&error, OPENING))?;
        Self::over(file, backend)
    }

    fn over(file: StoreFile, backend: Backend) -> Result<Self, StorageError> {
        let database = guard(&file.what, OPENING, backend.first_error(), || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            // Pages are not verified when they are read later.
            builder.set_check_integrity_on_open(true);
            Ok(builder.create_with_backend(backend.clone())?)
        })?;
        Ok(Self {
            file,
            backend,
            database: Some(database),
            commits: 0,
        })
    }

    /// Writes what opening has mended, once the caller has found all as it should be: as many commits as
    /// were found, and a file with this mark.
    pub(super) fn settle(&mut self, commits: u64, mark: Mark) -> Result<(), StorageError> {
        self.commits = commits;
        let settled = self.write_mended(mark);
        self.check_disk(settled, OPENING)
    }

    fn write_mended(&self, mark: Mark) -> io::Result<()> {
        if !mark.is_closed {
            self.file.write_anew()?;
        }
        self.file.mark(Mark {
            commits: self.commits,
            is_closed: false,
        })?;
        self.backend.let_through()
    }

    pub(super) const fn file(&self) -> &StoreFile {
        &self.file
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.database.is_none()
    }

    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }

    /// Closes the database as if the process died: nothing more is written.
    pub(super) fn give_up(&mut self) {
        if let Some(database) = self.database.take() {
            self.backend.cut_off();
            drop_guarded(database);
        }
    }

    /// Carries out `steps` in one transaction, and makes it durable by one sync of the file.
    pub(super) fn commit(&mut self, steps: &[Step]) -> Result<(), StorageError> {
        let commits = self.commits + 1;
        let count = Step::put(Rows::Node, COMMITS.to_vec(), &commits)?;
        self.transact(SYNCING, |tables| {
            let mut steps = steps.iter().chain([&count]);
            steps.try_for_each(|step| tables.carry_out(step))
        })
        .and_then(|(transaction, ())| self.guarded(SYNCING, |_| Ok(transaction.commit()?)))?;
        self.commits = commits;
        let marked = self.file.mark(Mark {
            commits,
            is_closed: false,
        });
        self.check_disk(marked, SYNCING)
    }

    /// Reads what would be there with `steps` carried out.
    pub(super) fn view<T>(
        &mut self,
        steps: &[Step],
        read: impl FnOnce(&Tables<'_>) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let viewed = self.transact(READING, |tables| {
            steps.iter().try_for_each(|step| tables.carry_out(step))?;
            read(tables)
        });
        let (transaction, found) = viewed?;
        // It was for looking only.
        drop_guarded(transaction);
        Ok(found)
    }

    /// Closes the database. What it has committed is there in any case.
    pub(super) fn close(&mut self) -> Result<(), StorageError> {
        if let Some(database) = self.database.take() {
            let first_error = self.backend.first_error();
            guard(&self.file.what, CLOSING, first_error, || {
                Ok(database.close()?)
            })?;
            let marked = self.mark_closed();
            return marked.map_err(|error| disk_error(&error, CLOSING));
        }
        Ok(())
    }

    /// Says in the file that it was closed, once all else in it is durable.
    fn mark_closed(&self) -> io::Result<()> {
        self.file.file.sync()?;
        self.file.mark(Mark {
            commits: self.commits,
            is_closed: true,
        })?;
        self.file.file.sync()
    }

    /// Does something to the tables in a transaction that is still to be committed.
    fn transact<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, Failure>,
    ) -> Result<(redb::WriteTransaction, T), StorageError> {
        let transaction = self.guarded(doing, |database| Ok(database.begin_write()?))?;
        let done = self.guarded(doing, |_| {
            let mut tables = Tables::open(&transaction)?;
            work(&mut tables)
        });
        match done {
            Ok(done) => Ok((transaction, done)),
            Err(error) => {
                drop_guarded(transaction);
                Err(error)
            }
        }
    }

    /// Calls the database; gives it up where that fails.
    fn guarded<T>(
        &mut self,
        doing: &'static str,
        call: impl FnOnce(&Database) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let Some(database) = &self.database else {
            return Err(StorageError::Closed);
        };
        let first_error = self.backend.first_error();
        let result = guard(&self.file.what, doing, first_error, || call(database));
        if result.is_err() {
            self.give_up();
        }
        result
    }

    fn check_disk(
        &mut self,
        result: io::Result<()>,
        doing: &'static str,
    ) -> Result<(), StorageError> {
        result.map_err(|error| {
            self.give_up();
            disk_error(&error, doing)
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.give_up();
    }
}
