//! The entries that scripts deliver, made once by real machines.

use std::sync::LazyLock;

use smalti_core::id::{PeerId, Tag};
use smalti_core::protocol::Machine;
use smalti_core::protocol::discovery::{
    Aged, Command, Discovery, Input, LocalChange, RequestId, VerifiedEntry,
};
use smalti_core::time::{Duration, Instant, WallTime};

use super::NODES;
use super::nodes::{NETWORK, discovery, key};
use crate::script::Script;

/// The age at which entries are purged: the default.
pub(super) const PURGE_AFTER: Duration = Duration::from_secs(300);
/// Time between two entries of one peer.
pub(super) const GAP: Duration = Duration::from_secs(40);
/// The wall clock of every node at its start.
pub(super) const WALL: WallTime = WallTime::from_micros(1_700_000_000_000_000);

/// Peers that speak.
const PEERS: usize = 3;
/// How often each of them starts; each run ends with a departure.
const RUNS: u32 = 2;
/// Entries of one run.
const ENTRIES_PER_RUN: u32 = 4;
/// Every entry exists in so many variants of one version, as when a key is used twice.
const TWINS: u32 = 2;

pub(super) static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

/// An entry, and when its peer has made it.
#[derive(Clone)]
pub(super) struct Born {
    pub(super) at: Instant,
    pub(super) entry: VerifiedEntry,
}

impl Born {
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        now.since(self.at) >= PURGE_AFTER
    }

    /// The entry as it travels at `now`.
    pub(super) fn aged(&self, now: Instant) -> Aged<VerifiedEntry> {
        let age_ms = now.since(self.at).as_millis();
        Aged {
            entry: self.entry.clone(),
            age_ms: u32::try_from(age_ms).unwrap_or(u32::MAX),
        }
    }
}

pub(super) struct Pool {
    pub(super) peers: Vec<PeerId>,
    pub(super) entries: Vec<Born>,
    /// What no node takes: it is from the future, or of another network.
    pub(super) refused: Vec<VerifiedEntry>,
    /// For each node, what is said under its key by another run of it.
    pub(super) own: Vec<Vec<VerifiedEntry>>,
}

impl Pool {
    fn new() -> Self {
        let names: Vec<_> = (0..PEERS).map(|i| format!("peer {i}")).collect();
        let later = WALL + Duration::from_secs(30 * 24 * 60 * 60);
        let elsewhere = "another network";
        let own = |node| {
            // A clock that is ahead, but by no more than nodes put up with.
            let ahead = WALL + Duration::from_secs(5);
            let name = format!("node {node}");
            let mut entries: Vec<_> = life(&name, NETWORK, WALL, 0).collect();
            entries.extend(life(&name, NETWORK, ahead, 0));
            entries.truncate(ENTRIES_PER_RUN as usize + 1);
            entries.into_iter().map(|born| born.entry).collect()
        };
        Self {
            peers: names.iter().map(|name| key(name).peer_id()).collect(),
            entries: names.iter().flat_map(|name| lives(name)).collect(),
            refused: vec![
                first("peer 0", NETWORK, later),
                first("peer 1", elsewhere, WALL),
            ],
            own: (0..NODES).map(own).collect(),
        }
    }

    /// An entry that the script names by its peer and its place in the order of birth.
    pub(super) fn choose(&self, script: &mut Script<'_>) -> &Born {
        let of_peer = self.entries.len() / PEERS;
        &self.entries[script.below(PEERS) * of_peer + script.below(of_peer)]
    }
}

/// All that a peer ever says, in the order of birth.
fn lives(name: &str) -> Vec<Born> {
    let mut lives = Vec::new();
    for run in 0..RUNS {
        let start = GAP * (run * ENTRIES_PER_RUN);
        for twin in 0..TWINS {
            let life = life(name, NETWORK, WALL + start, twin);
            lives.extend(life.map(|born| Born {
                at: born.at + start,
                ..born
            }));
        }
    }
    lives.sort_by_key(|born| born.at);
    lives
}

/// What one run of a peer says, from its start to its departure.
fn life(name: &str, network: &str, wall: WallTime, twin: u32) -> impl Iterator<Item = Born> {
    let mut machine = discovery(name, network, wall, &format!("twin {twin}"));
    (0..ENTRIES_PER_RUN).map(move |i| {
        let at = Instant::ZERO + GAP * i;
        match i {
            0 => {}
            _ if i + 1 == ENTRIES_PER_RUN => command(&mut machine, at, Command::Leave),
            _ => {
                let tags = vec![Tag::from(format!("change {i}"))];
                command(&mut machine, at, Command::Local(LocalChange::AddTags(tags)));
            }
        }
        let entry = machine.catalog().local().expect("a node knows itself");
        Born {
            at,
            entry: entry.clone(),
        }
    })
}

fn first(name: &str, network: &str, wall: WallTime) -> VerifiedEntry {
    let born = life(name, network, wall, 0).next();
    born.expect("a run begins with an entry").entry
}

fn command(machine: &mut Discovery, now: Instant, command: Command) {
    let request = RequestId(0);
    machine.handle(now, Input::Request { request, command });
    while machine.poll_output().is_some() {}
}
