//! The journal: what is durable, and not in the database yet.
//!
//! A commit of the database writes anew all pages from the rows that it touches up to the roots of their
//! tables and of its own: some ten of them for one small entry. So the steps of a commit are only appended
//! here and synced, which is one write; the database gets those of many commits in one transaction
//! (write-ahead logging with checkpoints, after Mohan et al., ARIES, TODS 1992).
//!
//! The journal is a part of the store's file, of fixed length, written over and over from its beginning. A
//! record is the number of its commit, its steps, and a checksum, which covers the checksum of the record
//! before it: so nothing that is left of earlier rounds continues a record of this one. Like the database's
//! own header it relies on a sector being written as a whole or not at all.

use std::io;
use std::sync::Arc;

use smalti_core::id::Digest;
use smalti_core::runtime::DiskFile;

use super::rows::{Rows, Step};

/// So long is the journal. A hundred small commits and more fit, while a load, which has to look at all that is
/// pending, stays short.
pub(super) const JOURNAL_LEN: u64 = 256 << 10;
/// A longer record is not worth writing twice: its commit goes into the database at once.
const RECORD_LEN_MAX: usize = 64 << 10;

const CHECKSUM_LEN: usize = 8;
/// The length of the steps, and the number of the commit.
const HEAD_LEN: usize = 4 + 8;

/// The steps of a commit.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) steps: Vec<Step>,
}

/// Where the next record goes.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<dyn DiskFile>,
    /// Where in the file the journal begins.
    at: u64,
    /// So much of it is taken.
    taken: u64,
    /// The checksum of the last record.
    last: [u8; CHECKSUM_LEN],
}

impl Journal {
    /// A journal that will be written from its beginning.
    pub(super) const fn new(file: Arc<dyn DiskFile>, at: u64) -> Self {
        Self {
            file,
            at,
            taken: 0,
            last: [0; CHECKSUM_LEN],
        }
    }

    /// Appends the steps of a commit, which are durable after the next sync. Says whether there was room for
    /// them; otherwise nothing was written.
    pub(super) fn append(&mut self, number: u64, steps: &[Step]) -> io::Result<bool> {
        let steps_len: usize = steps.iter().map(encoded_len).sum();
        let len = HEAD_LEN + steps_len + CHECKSUM_LEN;
        if len > RECORD_LEN_MAX || self.taken + len as u64 > JOURNAL_LEN {
            return Ok(false);
        }
        let mut record = Vec::with_capacity(len);
        record.extend_from_slice(&(steps_len as u32).to_le_bytes());
        record.extend_from_slice(&number.to_le_bytes());
        steps.iter().for_each(|step| encode(step, &mut record));
        let sum = checksum(self.last, &record);
        record.extend_from_slice(&sum);
        self.file.write_at(self.at + self.taken, &record)?;
        self.taken += len as u64;
        self.last = sum;
        Ok(true)
    }

    /// The database has all that the journal held: the next record is the first again.
    pub(super) const fn begin_anew(&mut self) {
        self.taken = 0;
        self.last = [0; CHECKSUM_LEN];
    }

    /// The records from the journal's beginning up to the first that is not whole.
    pub(super) fn read(&self) -> io::Result<Vec<Record>> {
        let mut bytes = vec![0; JOURNAL_LEN as usize];
        self.file.read_at(self.at, &mut bytes)?;
        let (mut rest, mut last) = (&bytes[..], [0; CHECKSUM_LEN]);
        let mut records = Vec::new();
        while let Some(record) = decode(&mut rest, &mut last) {
            records.push(record);
        }
        Ok(records)
    }
}

/// Takes the next record off `bytes`, where it is whole, and continues the one whose checksum was `last`.
fn decode(bytes: &mut &[u8], last: &mut [u8; CHECKSUM_LEN]) -> Option<Record> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
    let (steps_len, number) = head.split_first_chunk()?;
    let number = u64::from_le_bytes(number.try_into().ok()?);
    let steps_len = u32::from_le_bytes(*steps_len) as usize;
    let (mut encoded, rest) = rest.split_at_checked(steps_len)?;
    let (sum, rest) = rest.split_first_chunk()?;
    if *sum != checksum(*last, &bytes[..HEAD_LEN + steps_len]) {
        return None;
    }
    let mut steps = Vec::new();
    while !encoded.is_empty() {
        steps.push(decode_step(&mut encoded)?);
    }
    (*bytes, *last) = (rest, *sum);
    Some(Record { number, steps })
}

const PUT: u8 = 0;
const REMOVE: u8 = 1;

/// What a step does, to which table, and the two strings of bytes that say with what.
const fn parts(step: &Step) -> (u8, Rows, [&[u8]; 2]) {
    match step {
        Step::Put { rows, key, value } => (PUT, *rows, [key.as_slice(), value.as_slice()]),
        Step::Remove { rows, first, last } => (REMOVE, *rows, [first.as_slice(), last.as_slice()]),
    }
}

fn encoded_len(step: &Step) -> usize {
    let (_, _, [first, second]) = parts(step);
    2 + 4 + first.len() + 4 + second.len()
}

fn encode(step: &Step, into: &mut Vec<u8>) {
    let (what, rows, strings) = parts(step);
    into.extend_from_slice(&[what, rows as u8]);
    for string in strings {
        into.extend_from_slice(&(string.len() as u32).to_le_bytes());
        into.extend_from_slice(string);
    }
}

fn decode_step(bytes: &mut &[u8]) -> Option<Step> {
    let (&[what, rows], mut rest) = bytes.split_first_chunk()?;
    let rows = *Rows::ALL.get(usize::from(rows))?;
    let mut string = || {
        let (len, after) = rest.split_first_chunk()?;
        let (string, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        rest = after;
        Some(string.to_vec())
    };
    let (first, second) = (string()?, string()?);
    *bytes = rest;
    match what {
        PUT => Some(Step::Put {
            rows,
            key: first,
            value: second,
        }),
        REMOVE => Some(Step::Remove {
            rows,
            first,
            last: second,
        }),
        _ => None,
    }
}

fn checksum(last: [u8; CHECKSUM_LEN], record: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Digest::of("smalti store journal", &[&last, record]);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest.as_bytes()[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
mod tests {
    use super::super::backend::tests::Memory;
    use super::super::guard::lock;
    use super::*;

    const AT: u64 = 100;

    fn journal() -> (Arc<Memory>, Journal) {
        let file = Arc::new(Memory::default());
        file.set_len(AT + JOURNAL_LEN).unwrap();
        (file.clone(), Journal::new(file, AT))
    }

    fn put(len: usize) -> Step {
        Step::Put {
            rows: Rows::Log,
            key: vec![1; 40],
            value: vec![2; len],
        }
    }

    fn numbers(journal: &Journal) -> Vec<u64> {
        let records = journal.read().unwrap();
        records.iter().map(|record| record.number).collect()
    }

    #[test]
    fn what_is_read_is_what_was_appended() {
        let (_, mut journal) = journal();
        let remove = Step::Remove {
            rows: Rows::Chunks,
            first: vec![3; 37],
            last: Vec::new(),
        };
        let steps = [put(0), remove, put(7)];
        assert!(numbers(&journal).is_empty());
        assert!(journal.append(5, &steps).unwrap());
        assert!(journal.append(6, &[]).unwrap());
        assert!(journal.append(7, &steps[1..]).unwrap());
        let found = journal.read().unwrap();
        let found: Vec<_> = found.iter().map(|it| (it.number, &it.steps[..])).collect();
        let written = [(5, &steps[..]), (6, &[][..]), (7, &steps[1..])];
        assert_eq!(format!("{found:?}"), format!("{written:?}"));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let (file, mut journal) = journal();
        assert!(!journal.append(1, &[put(RECORD_LEN_MAX)]).unwrap());
        let mut number = 0;
        while journal.append(number + 1, &[put(5_000)]).unwrap() {
            number += 1;
        }
        assert!(number > 50, "{number}");
        assert!(journal.append(number + 1, &[put(100)]).unwrap());
        assert_eq!(numbers(&journal).len() as u64, number + 1);
        assert_eq!(lock(&file.0).len() as u64, AT + JOURNAL_LEN);
    }

    #[test]
    fn a_record_that_is_not_whole_ends_it() {
        let (file, mut journal) = journal();
        for number in 1..=3 {
            journal.append(number, &[put(10)]).unwrap();
        }
        let sound = lock(&file.0).clone();
        let len = journal.taken as usize / 3;
        for at in 0..3 * len {
            lock(&file.0).clone_from(&sound);
            lock(&file.0)[AT as usize + at] ^= 0x10;
            assert_eq!(numbers(&journal).len(), at / len, "{at}");
        }
    }

    #[test]
    fn what_is_left_of_an_earlier_round_does_not_continue_a_later_one() {
        let (_, mut journal) = journal();
        for number in 1..=3 {
            journal.append(number, &[put(10)]).unwrap();
        }
        journal.begin_anew();
        assert_eq!(numbers(&journal), [1, 2, 3]);
        // As long as the one that was there, and even of its number.
        let other = Step::Put {
            rows: Rows::Log,
            key: vec![1; 40],
            value: vec![3; 10],
        };
        journal.append(1, &[other]).unwrap();
        assert_eq!(numbers(&journal), [1]);
    }
}
