//! The store's file: whose it is, how much of it was durable, and where the database begins.

use std::io;
use std::sync::Arc;

use smalti_core::id::Digest;
use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::{Disk, DiskFile};

use super::guard::disk_error;
use super::journal::JOURNAL_LEN;

/// The file that holds the store.
pub(super) const NAME: &str = "node.store";
/// What it is called until it is complete.
pub(super) const UNFINISHED: &str = "node.store.new";

/// So much precedes the journal: three pages, of which the second and the third hold the marks.
pub(super) const JOURNAL_AT: u64 = 3 * PAGE_LEN;
/// So much precedes the database.
pub(super) const DATABASE_AT: u64 = JOURNAL_AT + JOURNAL_LEN;
const PAGE_LEN: u64 = 4_096;

/// Binary bytes and both ends of lines, so that no text file and no file that went through a conversion of
/// text begins like it.
const MAGIC: &[u8; 16] = b"\x89smalti store\r\n\x1a";
const FORMAT: u32 = 3;

const CHECKSUM_LEN: usize = 8;
const HEADER_LEN: usize = MAGIC.len() + 4 + CHECKSUM_LEN;
const MARK_LEN: usize = 8 + 1 + CHECKSUM_LEN;

/// So much is written anew at a time.
const ANEW_LEN: u64 = 1 << 20;

/// What was known of the store when it was last written to. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// So many commits were durable.
    pub(super) commits: u64,
    /// It was closed, and not opened since.
    pub(super) is_closed: bool,
}

impl Mark {
    fn encode(self) -> Vec<u8> {
        let mut bytes = self.commits.to_le_bytes().to_vec();
        bytes.push(u8::from(self.is_closed));
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    fn decode(bytes: &[u8; MARK_LEN]) -> Option<Self> {
        let (said, sum) = bytes.split_at(MARK_LEN - CHECKSUM_LEN);
        let (commits, is_closed) = said.split_first_chunk()?;
        (sum == checksum(said)).then_some(Self {
            commits: u64::from_le_bytes(*commits),
            is_closed: is_closed == [1],
        })
    }
}

/// The file of a store, apart from its database.
#[derive(Clone, Debug)]
pub(super) struct StoreFile {
    pub(super) file: Arc<dyn DiskFile>,
    /// For messages.
    pub(super) what: String,
}

impl StoreFile {
    /// Opens the file, where it is there.
    pub(super) fn open(disk: &dyn Disk) -> Result<Option<Self>, StorageError> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk_error(&error, OPENING)),
        };
        let what = format!("{NAME} in {}", disk.describe());
        Ok(Some(Self { file, what }))
    }

    /// Begins a file under another name; what an earlier attempt has left there is removed.
    pub(super) fn begin(disk: &dyn Disk) -> Result<Self, StorageError> {
        match disk.remove(UNFINISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(disk_error(&error, MAKING));
            }
            _ => {}
        }
        let failed = |error: io::Error| disk_error(&error, MAKING);
        let file = disk.create(UNFINISHED).map_err(failed)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&checksum(&header));
        header.resize(DATABASE_AT as usize, 0);
        // All of it, not its length alone: a sync of what is written over later then has no space to assign.
        file.write_at(0, &header).map_err(failed)?;
        let what = format!("{UNFINISHED} in {}", disk.describe());
        Ok(Self { file, what })
    }

    /// Gives the file its name: it is complete.
    pub(super) fn finish(self, disk: &dyn Disk) -> Result<(), StorageError> {
        let failed = |error: io::Error| disk_error(&error, MAKING);
        self.file.sync().map_err(failed)?;
        disk.rename(UNFINISHED, NAME).map_err(failed)
    }

    /// Checks that the file is a store's, and of this format.
    pub(super) fn check_header(&self) -> Result<(), StorageError> {
        let len = self.len()?;
        let mut header = vec![0; HEADER_LEN.min(len as usize)];
        self.read(0, &mut header)?;
        let begins = header.iter().zip(MAGIC).all(|(found, ours)| found == ours);
        if !begins {
            return Err(self.foreign("it does not begin as a store does"));
        }
        let Some((said, sum)) = header.split_at_checked(HEADER_LEN - CHECKSUM_LEN) else {
            return Err(self.damaged("it is cut off in its header"));
        };
        if len <= DATABASE_AT {
            return Err(self.damaged("it is cut off before its database"));
        }
        if sum != checksum(said) {
            return Err(self.damaged("its header is not what was written"));
        }
        match said.last_chunk().copied().map(u32::from_le_bytes) {
            Some(FORMAT) => Ok(()),
            format => Err(self.foreign(format!(
                "it is of format {}, and this program knows format {FORMAT} alone",
                format.unwrap_or_default()
            ))),
        }
    }

    /// The later of the marks.
    pub(super) fn marked(&self) -> Result<Mark, StorageError> {
        let mut latest = None;
        for slot in 0..2 {
            let mut bytes = [0; MARK_LEN];
            self.read(mark_at(slot), &mut bytes)?;
            latest = latest.max(Mark::decode(&bytes));
        }
        latest.ok_or_else(|| self.damaged("neither of its marks is what was written"))
    }

    /// Writes a mark. It is durable after the next sync. Two take turns, so that one is whole where the
    /// other is torn.
    pub(super) fn mark(&self, mark: Mark) -> io::Result<()> {
        self.file.write_at(mark_at(mark.commits), &mark.encode())
    }

    /// Writes all of the file anew, as it is read, and makes it durable.
    ///
    /// Where a sync has failed, the operating system goes on returning what it did not write, and no later
    /// sync writes it: nothing may be built on it before this.
    pub(super) fn write_anew(&self) -> io::Result<()> {
        let mut left = self.file.len()?;
        let mut at = 0;
        let mut bytes = vec![0; left.min(ANEW_LEN) as usize];
        while left > 0 {
            let part = &mut bytes[..left.min(ANEW_LEN) as usize];
            self.file.read_at(at, part)?;
            self.file.write_at(at, part)?;
            at += part.len() as u64;
            left -= part.len() as u64;
        }
        self.file.sync()
    }

    pub(super) fn damaged(&self, how: impl Into<String>) -> StorageError {
        StorageError::Damaged {
            what: self.what.clone(),
            how: how.into(),
        }
    }

    pub(super) fn foreign(&self, how: impl Into<String>) -> StorageError {
        StorageError::Foreign {
            what: self.what.clone(),
            how: how.into(),
        }
    }

    fn len(&self) -> Result<u64, StorageError> {
        let len = self.file.len();
        len.map_err(|error| disk_error(&error, OPENING))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let read = self.file.read_at(at, into);
        read.map_err(|error| disk_error(&error, OPENING))
    }
}

const OPENING: &str = "opening the store";
const MAKING: &str = "making the store";

const fn mark_at(commits: u64) -> u64 {
    PAGE_LEN * (1 + commits % 2)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Digest::of("smalti store header", &[bytes]);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest.as_bytes()[..CHECKSUM_LEN]);
    sum
}
