//! What all collections and hosts of a run have in common.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use smalti_core::collections::{CollectionConfig, Executed, WriteError};
use smalti_core::groups::{CommandError, ConsensusConfig, Storage, Version, WriteKey};
use smalti_sim::history::ClientId;
use smalti_sim::rng::Streams;
use smalti_sim::time::SimTime;
use tokio::sync::watch;

use super::items::Fate;
use crate::cluster::Findings;

pub(super) const DURABLE: &str = "the collections were durable";
pub(super) const VOLATILE: &str = "the collections were in memory";
pub(super) const GUARDED: &str = "only those might write who knew a secret";
pub(super) const UNKNOWN: &str = "nobody knows what became of a write";
pub(super) const OUT_OF_BOUNDS: &str = "a write was asked for at a place that was not there";
pub(super) const SUPERSEDED: &str = "two foundings met, and one was given up";
pub(super) const REFORMED: &str = "a collection went on from what was left of it";
pub(super) const SNAPSHOT: &str = "a snapshot took the place of what was not applied";
pub(super) const LAGGED: &str = "changes were missed by one who followed them";
pub(super) const LAGGED_LIVE: &str = "changes were missed by one who was level with them";
pub(super) const LOST_RACE: &str = "somebody lost the race for a decision";
pub(super) const TOOK_UNTOLD: &str = "somebody took an item and was not told which";
pub(super) const SEEN_TO_GO: &str = "an item was seen to go";
pub(super) const SWEPT: &str = "items were seen to go at once";
pub(super) const SWAPPED: &str = "items were seen to be exchanged";
pub(super) const EVICTED: &str = "an entry was given up for the capacity of a queue";

pub(super) const RARE_STATES: &[&str] = &[
    DURABLE,
    VOLATILE,
    GUARDED,
    UNKNOWN,
    OUT_OF_BOUNDS,
    SUPERSEDED,
    SNAPSHOT,
    LAGGED,
    LAGGED_LIVE,
    LOST_RACE,
    TOOK_UNTOLD,
    SEEN_TO_GO,
    SWEPT,
    SWAPPED,
    EVICTED,
];

/// What a run asks of its collections.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) config: ConsensusConfig,
    pub(super) storage: Storage,
    /// So many hosts write, the first; the others read.
    pub(super) writers: usize,
    /// What those that write know, where members ask for it; those that read know its verifier.
    pub(super) write_secret: Option<WriteKey>,
    /// The mean time between two operations of a host.
    pub(super) pace: Duration,
    pub(super) command_timeout: Duration,
    /// Whether items of a `Vec` are exchanged: what one handle puts behind all others is in no order then.
    pub(super) swaps: bool,
    /// Whether queues are limited now and then: whoever puts something may take something then.
    pub(super) capacities: bool,
}

impl Setting {
    pub(super) fn collection_config(&self, writes: bool) -> CollectionConfig {
        let config = CollectionConfig::default()
            .with_consensus_config(self.config.clone())
            .with_storage(self.storage)
            .with_command_timeout(self.command_timeout);
        match &self.write_secret {
            Some(secret) if writes => config.with_write_secret(secret.clone()),
            Some(secret) => config.with_write_verifier(secret.verifier()),
            None => config,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Applications do what they like.
    Work,
    /// Each is to get one write and one strong read through, and then shows what it has.
    Settle,
}

/// How many writes and strong reads came to what.
#[derive(Default)]
struct Tally {
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    reads: u64,
}

/// A clone is the same.
#[derive(Clone)]
pub(super) struct World(Rc<Inner>);

struct Inner {
    setting: Setting,
    streams: Streams,
    findings: Findings,
    phase: watch::Sender<Phase>,
    now: Cell<SimTime>,
    lives: Cell<u32>,
    numbers: Cell<u64>,
    tally: RefCell<Tally>,
    failure: RefCell<Option<String>>,
}

impl World {
    pub(super) fn new(seed: u64, setting: Setting, findings: Findings) -> Self {
        Self(Rc::new(Inner {
            setting,
            streams: Streams::new(seed).branch("applications"),
            findings,
            phase: watch::Sender::new(Phase::Work),
            now: Cell::new(SimTime::ZERO),
            lives: Cell::new(0),
            numbers: Cell::new(0),
            tally: RefCell::default(),
            failure: RefCell::default(),
        }))
    }

    pub(super) fn setting(&self) -> &Setting {
        &self.0.setting
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Told at each step what time it is in the run: hosts' clocks drift.
    pub(super) fn tick(&self, elapsed: Duration) {
        self.0.now.set(SimTime::ZERO + elapsed);
    }

    pub(super) fn now(&self) -> SimTime {
        self.0.now.get()
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    pub(super) fn settle(&self) {
        self.0.phase.send_replace(Phase::Settle);
    }

    /// A host begins a life.
    pub(super) fn begin_life(&self) -> ClientId {
        let life = self.0.lives.get() + 1;
        self.0.lives.set(life);
        ClientId(life)
    }

    /// A number that there was not before; each is greater than those before it.
    pub(super) fn number(&self) -> u64 {
        let number = self.0.numbers.get() + 1;
        self.0.numbers.set(number);
        number
    }

    pub(super) fn reach(&self, state: &'static str) {
        self.0.findings.reach(state);
    }

    /// Takes note of what must not be, unless something was before it.
    pub(super) fn fail(&self, cause: String) {
        self.0.failure.borrow_mut().get_or_insert(cause);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.0.failure.borrow().clone()
    }

    /// What is known of a write that has ended.
    pub(super) fn fate<C, T>(&self, result: &Result<Executed<T>, WriteError<C>>) -> Fate<()> {
        let mut tally = self.0.tally.borrow_mut();
        match result {
            Ok(executed) => {
                tally.acknowledged += 1;
                Fate::Done(executed.version, ())
            }
            Err(error) => {
                if self.check(error) {
                    tally.refused += 1;
                    Fate::Refused
                } else {
                    tally.unknown += 1;
                    self.reach(UNKNOWN);
                    Fate::Unknown
                }
            }
        }
    }

    /// Whether an error says that nothing was done. One that there is no reason for is a finding.
    fn check<C>(&self, error: &WriteError<C>) -> bool {
        match error {
            WriteError::OutOfBounds(_) => self.reach(OUT_OF_BOUNDS),
            WriteError::Schema(_) => self.fail(format!("all have one type: {error}")),
            WriteError::Command(command) => match **command {
                CommandError::Refused(_)
                | CommandError::Undecodable(_)
                | CommandError::Unencodable { .. }
                | CommandError::TooLong { .. } => self.fail(format!("a write: {error}")),
                _ => {}
            },
            _ => self.fail(format!("a new error: {error}")),
        }
        error.is_rejected()
    }

    pub(super) fn has_read(&self) {
        self.0.tally.borrow_mut().reads += 1;
    }

    pub(super) fn operations(&self) -> u64 {
        let tally = self.0.tally.borrow();
        tally.acknowledged + tally.refused + tally.unknown + tally.reads
    }

    pub(super) fn totals(&self) -> String {
        let tally = self.0.tally.borrow();
        format!(
            "{} writes acknowledged, {} refused, {} unknown, {} strong reads, {} lives of hosts",
            tally.acknowledged,
            tally.refused,
            tally.unknown,
            tally.reads,
            self.0.lives.get(),
        )
    }
}

/// Whether all up to `version` is in what is seen at `now`, where the two can be compared at all.
pub(super) fn reaches(now: Version, version: Version) -> bool {
    now.incarnation != version.incarnation || now.index >= version.index
}
