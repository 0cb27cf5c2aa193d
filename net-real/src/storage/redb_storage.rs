//! The durable store: writes are collected as steps, and one commit makes durable all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use redb::ReadableTable;
use smalti_core::Bytes;
use smalti_core::id::{GroupId, SecretKey};
use smalti_core::protocol::raft::{
    Entry, Index, Manifest, Outline, Payload, Recovered, Snapshot, Storage, StorageError, Write,
};
use smalti_core::runtime::{Disk, OpenStore};

use super::engine::Engine;
use super::file::StoreFile;
use super::guard::{Failure, disk_error};
use super::rows::{Head, Rows, SECRET_KEY, Step, Store, Tables, chunk_key, log_key};

/// The durable store of a node, for all its groups, and the node's secret key.
///
/// [`write`](Storage::write) collects in memory; [`sync`](Storage::sync) makes all that was collected durable
/// as one commit, which costs one sync of the file. A write is refused, and the store closed, where
/// it contradicts what is there. The store is closed well when it is dropped; [`close`](Self::close) says
/// whether that succeeded. Where neither happens, all that was synced is found all the same.
pub struct RedbStorage {
    engine: Engine,
    secret_key: SecretKey,
    groups: BTreeMap<GroupId, Group>,
    steps: Vec<Step>,
    /// The groups whose heads the next commit writes.
    changed: BTreeSet<GroupId>,
    /// Holds the data directory for as long as the store is open.
    _disk: Arc<dyn Disk>,
}

/// What is known of a group, as the writes so far leave it.
#[derive(Debug)]
struct Group {
    head: Head,
    outline: Outline,
}

impl fmt::Debug for RedbStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStorage")
            .field("file", &self.engine.file().what)
            .field("groups", &self.groups.len())
            .field("commits", &self.engine.commits())
            .field("is_closed", &self.engine.is_closed())
            .finish_non_exhaustive()
    }
}

impl RedbStorage {
    /// Opens the store of a data directory; makes it where there is none.
    ///
    /// A store belongs to one secret key, that it was made with: `given`, or where none is given the one
    /// that `fresh` draws. Opened again, it gives that key back.
    ///
    /// All of it is verified, so this takes as long as reading the file does. Of a file that is damaged it may take up to
    /// 4 GiB of memory for a moment: redb believes the header how long a page is, before it looks whether the file has it.
    ///
    /// # Errors
    /// [`StorageError::Foreign`] where the file is not a store's, is of another format, or belongs to
    /// another key than `given`; [`StorageError::Damaged`] where it is not what was written;
    /// [`StorageError::Full`] and [`StorageError::Disk`] where the disk refused. A file that is not ours or
    /// damaged is left as it is.
    pub fn open(
        disk: Arc<dyn Disk>,
        given: Option<&SecretKey>,
        fresh: impl FnOnce() -> SecretKey,
    ) -> Result<Self, StorageError> {
        let file = if let Some(file) = StoreFile::open(&*disk)? {
            file
        } else {
            make(&*disk, &given.cloned().unwrap_or_else(fresh))?;
            let made = StoreFile::open(&*disk)?;
            made.ok_or_else(|| disk_error(&io::ErrorKind::NotFound.into(), "making the store"))?
        };
        file.check_header()?;
        let mark = file.marked()?;
        let what = file.what.clone();
        let mut engine = Engine::open(file)?;
        let found = engine.view(&[], |tables| Found::read(tables, Store(&what)))?;
        let file = engine.file();
        let commits = engine.commits();
        if commits < mark.commits {
            return Err(file.damaged(format!(
                "it holds {commits} commits of {} that were durable",
                mark.commits
            )));
        }
        let owner = found.secret_key.peer_id();
        if let Some(given) = given.map(SecretKey::peer_id)
            && given != owner
        {
            return Err(file.foreign(format!(
                "it belongs to peer {owner}, and the key given is that of peer {given}"
            )));
        }
        engine.settle(mark)?;
        Ok(Self {
            engine,
            secret_key: found.secret_key,
            groups: found.groups,
            steps: Vec::new(),
            changed: BTreeSet::new(),
            _disk: disk,
        })
    }

    /// The key that the store belongs to.
    #[must_use]
    pub const fn secret_key(&self) -> &SecretKey {
        &self.secret_key
    }

    /// The groups that something was written for.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.keys()
    }

    /// Closes the store. What was written since the last sync is lost.
    ///
    /// # Errors
    /// Where the disk failed. All that was synced is there still.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.engine.close()
    }

    /// Notes what `write` does to the rows.
    fn plan(&mut self, group: &GroupId, write: &Write) -> Result<(), StorageError> {
        let known = self.groups.get(group).map(|known| known.head.hard_state);
        let Some(hard_state) = write.hard_state.or(known) else {
            // The first write of a group without a hard state: the outline says what is wrong.
            return Outline::default().carry_out(write);
        };
        let Group { head, outline } = self.groups.entry(*group).or_insert_with(|| Group {
            head: Head::new(hard_state),
            outline: Outline::default(),
        });
        let (log, staged) = (outline.log(), outline.staged());
        outline.carry_out(write)?;
        head.hard_state = hard_state;
        let steps = &mut self.steps;
        if write.reset {
            steps.extend(all_but_the_head(group));
        }
        if let Some(chunk) = &write.staged {
            if staged != Some(chunk.position) {
                steps.push(Step::remove_slot(group, !head.slot));
            }
            let key = chunk_key(group, !head.slot, chunk.number);
            let bytes = chunk.bytes.to_vec();
            steps.push(Step::put_bytes(Rows::Chunks, key, bytes));
        }
        if let Some(manifest) = &write.snapshot {
            let key = group.as_bytes().to_vec();
            steps.push(Step::put(Rows::Manifests, key, manifest)?);
            steps.push(Step::remove_slot(group, head.slot));
            head.slot = !head.slot;
            let count = manifest.chunks.len() as u32;
            steps.push(Step::remove_chunks_from(group, head.slot, count));
        }
        if let Some((first, last)) = log {
            if write.drop_log {
                steps.push(Step::remove_log(group, first, last));
            }
            if let Some(through) = write.compact_through
                && first <= through
            {
                steps.push(Step::remove_log(group, first, through.min(last)));
            }
            if let Some(end) = write.entries.last().map(|entry| entry.index)
                && end < last
            {
                steps.push(Step::remove_log(group, end.next(), last));
            }
        }
        for entry in &write.entries {
            let key = log_key(group, entry.index);
            steps.push(Step::put(Rows::Log, key, entry)?);
        }
        head.log = outline.log();
        head.snapshot = outline.snapshot();
        self.changed.insert(*group);
        Ok(())
    }

    /// Does something, unless the store is closed; closes it where that fails.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.engine.is_closed() {
            return Err(StorageError::Closed);
        }
        let result = work(self);
        if result.is_err() {
            self.engine.give_up();
        }
        result
    }
}

impl Storage for RedbStorage {
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError> {
        self.attempt(|this| {
            let Some(Group { head, .. }) = this.groups.get(group) else {
                return Ok(None);
            };
            let what = this.engine.file().what.clone();
            let found = this.engine.view(&this.steps, |tables| {
                read_group(tables, Store(&what), group, head)
            });
            found.map(Some)
        })
    }

    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError> {
        self.attempt(|this| {
            if write.is_empty() {
                return Ok(());
            }
            this.plan(group, &write)
        })
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.attempt(|this| {
            for group in std::mem::take(&mut this.changed) {
                if let Some(Group { head, .. }) = this.groups.get(&group) {
                    let key = group.as_bytes().to_vec();
                    this.steps.push(Step::put(Rows::Groups, key, head)?);
                }
            }
            let steps = std::mem::take(&mut this.steps);
            if steps.is_empty() {
                return Ok(());
            }
            this.engine.commit(steps)
        })
    }

    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError> {
        self.attempt(|this| {
            if this.groups.remove(group).is_some() {
                this.steps.extend(all_but_the_head(group));
                let head = Step::remove(Rows::Groups, group.as_bytes());
                this.steps.push(head);
            }
            Ok(())
        })
    }
}

impl From<RedbStorage> for OpenStore {
    fn from(store: RedbStorage) -> Self {
        Self {
            secret_key: store.secret_key.clone(),
            storage: Box::new(store),
        }
    }
}

impl Drop for RedbStorage {
    fn drop(&mut self) {
        if let Err(error) = self.engine.close() {
            tracing::warn!(%error, "the store was not closed well; all that was synced is there");
        }
    }
}

/// Makes a store in which nothing is written but its key.
fn make(disk: &dyn Disk, secret_key: &SecretKey) -> Result<(), StorageError> {
    let file = StoreFile::begin(disk)?;
    let mut engine = Engine::make(file.clone())?;
    let key = secret_key.as_bytes().to_vec();
    engine.commit(vec![Step::put_bytes(Rows::Node, SECRET_KEY.to_vec(), key)])?;
    engine.close()?;
    file.finish(disk)
}

fn all_but_the_head(group: &GroupId) -> [Step; 4] {
    [
        Step::remove_log(group, Index::ZERO, Index(u64::MAX)),
        Step::remove(Rows::Manifests, group.as_bytes()),
        Step::remove_slot(group, false),
        Step::remove_slot(group, true),
    ]
}

/// What is found in a store beside logs and snapshots.
struct Found {
    secret_key: SecretKey,
    groups: BTreeMap<GroupId, Group>,
}

impl Found {
    fn read(tables: &Tables<'_>, store: Store<'_>) -> Result<Self, Failure> {
        let node = tables.get(Rows::Node);
        let key = store.get_bytes(Rows::Node, node, SECRET_KEY)?;
        let Some(secret_key) = key.first_chunk().filter(|seed| seed.len() == key.len()) else {
            return Err(store.damaged(Rows::Node, SECRET_KEY, "it is no secret key"));
        };
        let mut groups = BTreeMap::new();
        for row in tables.get(Rows::Groups).iter()? {
            let (key, value) = row?;
            let head: Head = store.read(Rows::Groups, key.value(), value.value())?;
            let Ok(group) = key.value().try_into().map(GroupId::from_bytes) else {
                return Err(store.damaged(Rows::Groups, key.value(), "its key is no group"));
            };
            let outline = Outline::recovered(head.log, head.snapshot);
            groups.insert(group, Group { head, outline });
        }
        Ok(Self {
            secret_key: SecretKey::from_bytes(*secret_key),
            groups,
        })
    }
}

/// Reads what `head` says is there of a group.
fn read_group(
    tables: &Tables<'_>,
    store: Store<'_>,
    group: &GroupId,
    head: &Head,
) -> Result<Recovered, Failure> {
    let snapshot = match head.snapshot {
        Some(index) => Some(read_snapshot(tables, store, group, head.slot, index)?),
        None => None,
    };
    let entries = match head.log {
        Some((first, last)) => read_log(tables, store, group, first, last)?,
        None => Vec::new(),
    };
    Ok(Recovered {
        hard_state: head.hard_state,
        snapshot,
        entries,
    })
}

fn read_snapshot(
    tables: &Tables<'_>,
    store: Store<'_>,
    group: &GroupId,
    slot: bool,
    index: Index,
) -> Result<Snapshot, Failure> {
    let key = group.as_bytes();
    let manifest: Manifest = store.get(Rows::Manifests, tables.get(Rows::Manifests), key)?;
    if manifest.position.index != index {
        let found = manifest.position.index;
        let how = format!("it is that of {found}, not of {index}");
        return Err(store.damaged(Rows::Manifests, key, how));
    }
    let mut chunks = Vec::new();
    for number in 0..manifest.chunks.len() as u32 {
        let key = chunk_key(group, slot, number);
        let chunk = store.get_bytes(Rows::Chunks, tables.get(Rows::Chunks), &key)?;
        chunks.push(Bytes::from(chunk));
    }
    Ok(Snapshot { manifest, chunks })
}

fn read_log(
    tables: &Tables<'_>,
    store: Store<'_>,
    group: &GroupId,
    first: Index,
    last: Index,
) -> Result<Vec<Entry>, Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    let (from, to) = (log_key(group, first), log_key(group, last));
    let mut next = first;
    for row in tables.get(Rows::Log).range(&from[..]..=&to[..])? {
        let (key, value) = row?;
        let expected = log_key(group, next);
        if key.value() != expected {
            return Err(store.damaged(Rows::Log, &expected, "it is missing"));
        }
        let entry: Entry = store.read(Rows::Log, &expected, value.value())?;
        let is_whole = match &entry.payload {
            Payload::Commands(batch) => batch.commands.is_well_formed(),
            _ => true,
        };
        if entry.index != next || !is_whole {
            return Err(store.damaged(Rows::Log, &expected, "it is not what was written"));
        }
        entries.push(entry);
        next = next.next();
    }
    if next <= last {
        let expected = log_key(group, next);
        return Err(store.damaged(Rows::Log, &expected, "it is missing"));
    }
    Ok(entries)
}
