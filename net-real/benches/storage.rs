//! What durability costs: a sync of a plain file beside a commit of the store, and how many commands one
//! commit makes durable. `cargo bench -p smalti --bench storage [-- DIRECTORY]`
//!
//! The directory decides what is measured: by default it lies in the build's target directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smalti::storage::{OsDisk, RedbStorage};
use smalti_core::id::{GroupId, Instance, SecretKey};
use smalti_core::protocol::raft::{
    Batch, CommandsBuilder, Entry, HardState, Index, Payload, Runs, Sequence, SessionId, Storage,
    Term, Write,
};

const ROUNDS: usize = 5;
const SYNCS: usize = 200;
const IN_FLIGHT: usize = 1_024;
const COMMAND: [u8; 64] = [7; 64];

fn main() {
    // Cargo adds an argument of its own.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let tmp = || Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-storage");
    let directory = given.map_or_else(tmp, PathBuf::from);
    let scratch = directory.join(format!("smalti-{}", std::process::id()));
    fs::create_dir_all(&scratch).expect("the directory can be made");
    println!("in {}: median and 99th percentile", scratch.display());
    for round in 1..=ROUNDS {
        println!("round {round}");
        let mut appended = make(&scratch.join("appended"), 0);
        report("4 KiB appended, synced", 0, || {
            append(&mut appended, 4_096);
        });
        let mut in_place = make(&scratch.join("in-place"), 1 << 20);
        report("4 KiB in place, synced", 0, || {
            in_place.seek(SeekFrom::Start(0)).expect("it is a file");
            append(&mut in_place, 4_096);
        });
        let mut large = make(&scratch.join("large"), 0);
        report("68 KiB appended, synced", IN_FLIGHT, || {
            append(&mut large, IN_FLIGHT * (COMMAND.len() + 4));
        });
        for (name, groups, commands) in [
            ("commit of 1 command", 1, 1),
            ("commit of 1,024 commands in one entry", 1, IN_FLIGHT),
            ("commit of 1,024 commands in 16 groups", 16, IN_FLIGHT / 16),
        ] {
            let mut store = Store::open(&scratch.join("store"), groups);
            report(name, groups * commands, || store.commit(commands));
            drop(store);
            fs::remove_dir_all(scratch.join("store")).expect("it was made");
        }
        recover(&scratch.join("store"));
    }
    fs::remove_dir_all(&scratch).expect("it was made");
}

/// Runs `call` so many times, and says how long one takes, and how many commands that makes in a second.
fn report(name: &str, commands: usize, mut call: impl FnMut()) {
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, high) = (times[SYNCS / 2], times[SYNCS * 99 / 100]);
    let total: Duration = times.iter().sum();
    let rate = (commands * SYNCS) as f64 / total.as_secs_f64();
    let rate = (commands > 0).then(|| format!("{commands:>6} per sync, {rate:>9.0}/s"));
    println!(
        "  {name:<40} {:>8.0} us {:>8.0} us {}",
        median.as_secs_f64() * 1e6,
        high.as_secs_f64() * 1e6,
        rate.unwrap_or_default()
    );
}

fn make(path: &Path, len: usize) -> File {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = options.open(path).expect("the file can be made");
    file.write_all(&vec![1; len]).expect("the disk has room");
    file.sync_all().expect("the disk is sound");
    file
}

fn append(file: &mut File, len: usize) {
    file.write_all(&vec![2; len]).expect("the disk has room");
    file.sync_data().expect("the disk is sound");
}

/// The store, and where the log of its groups ends.
struct Store {
    store: RedbStorage,
    groups: Vec<GroupId>,
    last: Index,
}

impl Store {
    fn open(directory: &Path, groups: usize) -> Self {
        let disk = OsDisk::open(directory).expect("nobody else has it");
        let store = RedbStorage::open(Arc::new(disk), None, || SecretKey::from("bench"));
        let name = |group: usize| GroupId::from(format!("group {group}"));
        Self {
            store: store.expect("the disk is sound"),
            groups: (0..groups).map(name).collect(),
            last: Index::ZERO,
        }
    }

    /// One entry of so many commands for each group, and a sync.
    fn commit(&mut self, commands: usize) {
        self.last = self.last.next();
        for group in &self.groups {
            let mut batch = CommandsBuilder::default();
            (0..commands).for_each(|_| batch.push(&COMMAND));
            let entry = Entry {
                term: Term(1),
                index: self.last,
                payload: Payload::Commands(Batch {
                    session: SessionId(Index(1)),
                    first: Sequence(1),
                    acked_through: Sequence::ZERO,
                    commands: batch.take(),
                }),
            };
            let begins = self.last == Index(1);
            let write = Write {
                hard_state: begins.then_some(HARD_STATE),
                entries: vec![entry],
                ..Write::default()
            };
            self.store.write(group, write).expect("it fits");
        }
        self.store.sync().expect("the disk is sound");
    }
}

const HARD_STATE: HardState = HardState {
    instance: Instance::from_bytes([1; 16]),
    boot: 1,
    runs: Runs::NONE,
    incarnation: None,
    term: Term(1),
    vote: None,
    seals: [None; 4],
};

/// How long it takes to open and read a store of 64 MiB, closed and not.
fn recover(directory: &Path) {
    let mut store = Store::open(directory, 1);
    for _ in 0..1_000 {
        store.commit(IN_FLIGHT);
    }
    let group = store.groups[0];
    drop(store);
    let start = Instant::now();
    let mut store = Store::open(directory, 1);
    let opened = start.elapsed();
    let found = store.store.load(&group).expect("it is sound");
    let entries = found.map_or(0, |found| found.entries.len());
    let len = fs::metadata(directory.join("node.store")).expect("it is there");
    println!(
        "  open {opened:?}, then read {entries} entries {:?}; a file of {} MiB",
        start.elapsed() - opened,
        len.len() >> 20
    );
    drop(store);
    fs::remove_dir_all(directory).expect("it was made");
}
