//! The stores of consensus groups: what both promise, and what the durable one keeps on a disk that loses,
//! tears, fails, fills up and rots.

mod conformance;
mod crashes;
mod errors;
mod rot;
mod script;

use std::collections::BTreeMap;
use std::sync::Arc;

use smalti::storage::RedbStorage;
use smalti_core::id::{GroupId, SecretKey};
use smalti_core::protocol::raft::{Recovered, Storage, StorageError};
use smalti_sim::disk::SimDisk;

/// The file of the store.
const FILE: &str = "node.store";
/// Where in it the journal begins, behind the store's own pages.
const JOURNAL_AT: usize = 12_288;
/// Where in it the database begins, behind the journal.
const DATABASE_AT: usize = JOURNAL_AT + 262_144;

/// What is stored, by group.
type Contents = BTreeMap<GroupId, Recovered>;

fn key() -> SecretKey {
    SecretKey::from("the node")
}

/// Opens the store of the present life of the host.
fn open(disk: &SimDisk) -> Result<RedbStorage, StorageError> {
    RedbStorage::open(disk.mount(), None, key)
}

/// All that a store holds.
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

/// Opens the store and reads all of it.
fn read(disk: &SimDisk) -> Result<Contents, StorageError> {
    contents(&mut open(disk)?)
}

#[test]
fn a_store_belongs_to_the_key_that_it_was_made_with() {
    let disk = SimDisk::new(&smalti_sim::rng::Streams::new(1));
    let open = |given: Option<&SecretKey>| {
        let mount = Arc::clone(&disk.mount());
        let store = RedbStorage::open(mount, given, || SecretKey::from("fresh"));
        store.map(|store| store.secret_key().peer_id())
    };
    let made = open(Some(&key()));
    assert_eq!(made, Ok(key().peer_id()));
    assert_eq!(open(None), made);
    assert_eq!(open(Some(&key())), made);
    let refused = open(Some(&SecretKey::from("another")));
    assert!(matches!(refused, Err(StorageError::Foreign { .. })));

    let other = SimDisk::new(&smalti_sim::rng::Streams::new(2));
    let fresh = RedbStorage::open(other.mount(), None, || SecretKey::from("fresh"));
    let fresh = fresh.unwrap().secret_key().peer_id();
    assert_eq!(fresh, SecretKey::from("fresh").peer_id());
}

#[test]
fn what_is_no_store_is_left_alone() {
    let no_stores: [(&str, &[u8]); 3] = [
        ("a text", b"groceries: bread, milk"),
        ("nothing", b""),
        ("zeros", &[0; 100_000]),
    ];
    for (name, bytes) in no_stores {
        let disk = SimDisk::new(&smalti_sim::rng::Streams::new(1));
        disk.put(FILE, bytes.to_vec());
        let refused = open(&disk).map(drop);
        let is_refused = match name {
            // It may as well be a store that was cut off.
            "nothing" => matches!(refused, Err(StorageError::Damaged { .. })),
            _ => matches!(refused, Err(StorageError::Foreign { .. })),
        };
        assert!(is_refused, "{name}: {refused:?}");
        assert_eq!(disk.contents(FILE).as_deref(), Some(bytes), "{name}");
    }
}
