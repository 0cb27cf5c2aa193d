//! The database in the store's file and the journal before it: commits of steps, and views of what is there.

use std::io;
use std::sync::Arc;

use redb::Database;
use smalti_core::protocol::raft::StorageError;

use super::backend::Backend;
use super::file::{JOURNAL_AT, Mark, StoreFile};
use super::guard::{Failure, disk_error, drop_guarded, guard};
use super::journal::Journal;
use super::rows::{COMMITS, Rows, Step, Store, Tables};

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
    journal: Journal,
    /// What the journal has and the database has not.
    pending: Vec<Step>,
    commits: u64,
}

impl Engine {
    /// Makes a database in a file that has none.
    pub(super) fn make(file: StoreFile) -> Result<Self, StorageError> {
        let backend = Backend::new(Arc::clone(&file.file));
        Self::over(file, backend)
    }

    /// Opens the database of a file, verifies all of it, and reads what the journal has beyond it. Nothing is
    /// written until it is [settled](Self::settle).
    pub(super) fn open(file: StoreFile) -> Result<Self, StorageError> {
        let backend = Backend::keeping_back(Arc::clone(&file.file));
        let backend = backend.map_err(|error| disk_error(&error, OPENING))?;
        let mut engine = Self::over(file, backend)?;
        let what = engine.file.what.clone();
        engine.commits = engine.view(&[], |tables| {
            Store(&what).get(Rows::Node, tables.get(Rows::Node), COMMITS)
        })?;
        engine.read_journal()?;
        Ok(engine)
    }

    fn read_journal(&mut self) -> Result<(), StorageError> {
        let read = self.journal.read();
        for record in self.check_disk(read, OPENING)? {
            // Those before are of an earlier round.
            if record.number > self.commits {
                // The journal begins anew after the database has become durable.
                if record.number > self.commits + 1 {
                    return Err(self.file.damaged(format!(
                        "its journal goes on with commit {}, and its database holds {}",
                        record.number, self.commits
                    )));
                }
                self.commits = record.number;
                self.pending.extend(record.steps);
            }
        }
        Ok(())
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
            journal: Journal::new(Arc::clone(&file.file), JOURNAL_AT),
            file,
            backend,
            database: Some(database),
            pending: Vec::new(),
            commits: 0,
        })
    }

    /// Writes what opening has mended, once the caller has found all as it should be in a file with this mark,
    /// and leaves an empty journal.
    pub(super) fn settle(&mut self, mark: Mark) -> Result<(), StorageError> {
        let settled = self.write_mended(mark);
        self.check_disk(settled, OPENING)?;
        self.checkpoint()
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
            self.pending.clear();
        }
    }

    /// Makes `steps` durable, all of them or, after a crash, none, by one sync of the file.
    pub(super) fn commit(&mut self, steps: Vec<Step>) -> Result<(), StorageError> {
        if self.is_closed() {
            return Err(StorageError::Closed);
        }
        self.commits += 1;
        let appended = self.append(&steps);
        let is_durable = self.check_disk(appended, SYNCING)?;
        self.pending.extend(steps);
        if !is_durable {
            self.checkpoint()?;
        }
        let marked = self.file.mark(Mark {
            commits: self.commits,
            is_closed: false,
        });
        self.check_disk(marked, SYNCING)
    }

    /// Makes `steps` durable in the journal, where they fit.
    fn append(&mut self, steps: &[Step]) -> io::Result<bool> {
        let has_room = self.journal.append(self.commits, steps)?;
        if has_room {
            self.file.file.sync()?;
        }
        Ok(has_room)
    }

    /// Puts all that is pending into the database, in one transaction that is made durable by one sync. Only
    /// then may the journal be written over.
    fn checkpoint(&mut self) -> Result<(), StorageError> {
        let mut steps = std::mem::take(&mut self.pending);
        if steps.is_empty() {
            return Ok(());
        }
        steps.push(Step::put(Rows::Node, COMMITS.to_vec(), &self.commits)?);
        let (transaction, ()) = self.transact(SYNCING, |tables| {
            steps.iter().try_for_each(|step| tables.carry_out(step))
        })?;
        self.guarded(SYNCING, |_| Ok(transaction.commit()?))?;
        self.journal.begin_anew();
        Ok(())
    }

    /// Reads what would be there with what is pending and `steps` carried out.
    pub(super) fn view<T>(
        &mut self,
        steps: &[Step],
        read: impl FnOnce(&Tables<'_>) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let pending = std::mem::take(&mut self.pending);
        let viewed = self.transact(READING, |tables| {
            let mut steps = pending.iter().chain(steps);
            steps.try_for_each(|step| tables.carry_out(step))?;
            read(tables)
        });
        self.pending = pending;
        let (transaction, found) = viewed?;
        // It was for looking only.
        drop_guarded(transaction);
        Ok(found)
    }

    /// Closes the database, which then has all that was committed. That is durable in any case.
    pub(super) fn close(&mut self) -> Result<(), StorageError> {
        self.checkpoint()?;
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

    fn check_disk<T>(
        &mut self,
        result: io::Result<T>,
        doing: &'static str,
    ) -> Result<T, StorageError> {
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
