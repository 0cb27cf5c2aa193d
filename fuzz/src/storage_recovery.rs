//! Files that are anything into the durable store, which is opened and read.
//!
//! Nothing panics, and what is found in a file that was altered is what was written: all of it, or all but
//! the last commit, where the file's mark was altered with it. The first byte of the input chooses how the
//! file is made: of the input's bytes alone, of them behind a sound beginning, or of a sound file that the
//! rest of the input alters.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use smalti::storage::RedbStorage;
use smalti_core::id::{Digest, GroupId, Instance, SecretKey};
use smalti_core::protocol::raft::{
    Batch, CommandsBuilder, Configuration, Entry, HardState, Incarnation, Index, Manifest, Payload,
    Position, Recovered, Runs, Sequence, SessionId, StagedChunk, Storage, StorageError, Term,
    Write,
};
use smalti_sim::disk::SimDisk;
use smalti_sim::rng::Streams;

use crate::Seed;
use crate::script::Script;

const FILE: &str = "node.store";

/// Where the journal begins, behind the store's own pages.
const JOURNAL_AT: usize = 12_288;
/// Where the database begins, behind the journal.
const DATABASE_AT: usize = JOURNAL_AT + 262_144;
/// So long is the database's header, of which each byte counts.
const DATABASE_HEADER_LEN: usize = 320;
/// A file is lengthened by no more, so that its size follows from the input's.
const LENGTHENED_MAX: usize = 1 << 16;

type Contents = BTreeMap<GroupId, Recovered>;

/// A sound file, and what may be found in it.
struct Sound {
    file: Vec<u8>,
    last: Contents,
    before: Contents,
}

/// One that was closed, and one that was not.
static SOUND: LazyLock<[Sound; 2]> = LazyLock::new(|| [true, false].map(sound));

/// The body of the target.
///
/// # Panics
/// Where the store does, or holds what was never written.
pub fn run(input: &[u8]) {
    #[cfg(fuzzing)]
    silence::once();
    let mut script = Script::new(input);
    let sound = &SOUND[script.below(SOUND.len())];
    let kept = match script.below(5) {
        0 => 0,
        1 => DATABASE_AT,
        2 => DATABASE_AT + DATABASE_HEADER_LEN,
        4 => JOURNAL_AT,
        _ => sound.file.len(),
    };
    let mut file = sound.file[..kept].to_vec();
    if kept == sound.file.len() {
        alter(&mut file, &mut script);
    } else {
        file.extend_from_slice(script.rest());
    }
    match read(file) {
        Ok(found) => assert!(
            found == sound.last || found == sound.before,
            "it was never written"
        ),
        Err(StorageError::Damaged { .. } | StorageError::Foreign { .. }) => {}
        Err(error) => panic!("the disk is sound: {error}"),
    }
}

/// Changes bits, overwrites, moves parts about, cuts and lengthens, as the input says.
fn alter(file: &mut Vec<u8>, script: &mut Script<'_>) {
    while !script.is_empty() && !file.is_empty() {
        let act = script.below(8);
        let at = place(file, script);
        match act {
            0 => file.truncate(at),
            1 => {
                let len = file.len() + (at % LENGTHENED_MAX);
                file.resize(len, script.byte());
            }
            2 => {
                let to = (at + usize::from(script.byte()) * 64).min(file.len());
                file[at..to].fill(script.byte());
            }
            3 => {
                let from = place(file, script);
                let len = (usize::from(script.byte()) * 64)
                    .min(file.len() - at)
                    .min(file.len() - from);
                file.copy_within(from..from + len, at);
            }
            _ => file[at] ^= script.byte(),
        }
    }
}

/// A place in the file: half of the time in its headers or its journal.
fn place(file: &[u8], script: &mut Script<'_>) -> usize {
    let page = usize::from(script.byte());
    let rest = usize::from(script.byte()) << 8 | usize::from(script.byte());
    let at = match page {
        0..32 => (page / 8 * 4_096) + rest % DATABASE_HEADER_LEN,
        32..48 => DATABASE_AT + rest % DATABASE_HEADER_LEN,
        48..80 => JOURNAL_AT + rest,
        80..128 => DATABASE_AT + rest,
        _ => (page & 127) << 16 | rest,
    };
    at % file.len()
}

fn open(disk: &SimDisk) -> Result<RedbStorage, StorageError> {
    RedbStorage::open(disk.mount(), None, || SecretKey::from("the node"))
}

fn contents(store: &mut RedbStorage) -> Result<Contents, StorageError> {
    let groups: Vec<GroupId> = store.groups().copied().collect();
    let mut contents = Contents::new();
    for group in groups {
        if let Some(found) = store.load(&group)? {
            contents.insert(group, found);
        }
    }
    Ok(contents)
}

fn read(file: Vec<u8>) -> Result<Contents, StorageError> {
    let disk = SimDisk::new(&Streams::new(1));
    disk.put(FILE, file);
    contents(&mut open(&disk)?)
}

/// A store of two groups, with logs and a snapshot, of which the database has the first rounds at least.
fn sound(is_closed: bool) -> Sound {
    const SOUND: &str = "the disk is sound";
    let disk = SimDisk::new(&Streams::new(1));
    let mut store = open(&disk).expect(SOUND);
    let mut before = Contents::new();
    for round in 1..=8 {
        before = contents(&mut store).expect(SOUND);
        for group in ["a", "b"] {
            let written = store.write(&GroupId::from(group), write(round));
            written.expect(SOUND);
        }
        store.sync().expect(SOUND);
        if round == 4 {
            store.close().expect(SOUND);
            store = open(&disk).expect(SOUND);
        }
    }
    let last = contents(&mut store).expect(SOUND);
    if is_closed {
        store.close().expect(SOUND);
    } else {
        disk.kill();
    }
    let file = disk.contents(FILE).expect("it was made");
    Sound { file, last, before }
}

/// Three entries in each round, the last of them long; a snapshot in the fifth.
fn write(round: u64) -> Write {
    let position = Position {
        term: Term(1),
        index: Index(9),
    };
    let chunk = StagedChunk {
        position,
        number: 0,
        bytes: Bytes::from(vec![5; 5_000]),
    };
    let manifest = Manifest {
        incarnation: Incarnation(Digest::of("fuzz", &[])),
        position,
        configuration: Configuration::default(),
        configured_at: Index(1),
        chunks: vec![Digest::of("fuzz", &[&chunk.bytes])],
    };
    let has_snapshot = round == 5;
    Write {
        hard_state: Some(HardState {
            instance: Instance::from_bytes([1; 16]),
            boot: 1,
            runs: Runs::NONE.then(round),
            incarnation: Some(manifest.incarnation),
            term: Term(round),
            vote: None,
            seals: [None; 4],
        }),
        staged: has_snapshot.then_some(chunk),
        snapshot: has_snapshot.then_some(manifest),
        compact_through: has_snapshot.then_some(Index(4)),
        entries: (0..3).map(|n| entry(3 * round - 2 + n, n)).collect(),
        ..Write::default()
    }
}

fn entry(index: u64, nth: u64) -> Entry {
    let mut commands = CommandsBuilder::default();
    commands.push(&vec![index as u8; 1_500 * nth as usize]);
    Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Commands(Batch {
            session: SessionId(Index(2)),
            first: Sequence(index),
            acked_through: Sequence::ZERO,
            commands: commands.take(),
        }),
    }
}

/// Inputs that reach each way of making a file.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let inputs: [(&str, &[u8]); 14] = [
        ("text", b"\0\0no store at all"),
        ("begins-like-a-store", b"\0\0\x89smalti store\r\n\x1a"),
        ("no-database", b"\0\x01no database"),
        ("no-pages", b"\x01\x02no pages"),
        ("sound-closed", b"\0\x03"),
        ("sound-not-closed", b"\x01\x03"),
        ("cut", &[1, 3, 0, 130, 0, 0]),
        ("lengthened", &[0, 3, 1, 40, 16, 0, 0]),
        ("zeros", &[1, 3, 2, 40, 0, 0, 255, 0]),
        ("moved", &[1, 3, 3, 130, 0, 0, 129, 0, 0, 64]),
        ("no-journal", b"\x01\x04no journal"),
        ("journal", &[1, 3, 7, 48, 2, 0, 1]),
        ("mark", &[1, 3, 7, 8, 0, 0, 1]),
        ("page-and-mark", &[0, 3, 7, 131, 9, 9, 255, 7, 16, 0, 1, 8]),
    ];
    let seed = |(name, input): &(&str, &[u8])| ((*name).to_owned(), input.to_vec());
    inputs.iter().map(seed).collect()
}

/// libFuzzer ends the process at the first panic, also at one that is caught; the store catches those of
/// redb.
#[cfg(fuzzing)]
mod silence {
    use std::panic;
    use std::sync::Once;

    pub(super) fn once() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let hook = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let file = info.location().map(panic::Location::file);
                if !file.is_some_and(|file| file.contains("/redb-")) {
                    hook(info);
                }
            }));
        });
    }
}
