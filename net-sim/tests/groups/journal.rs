//! What the groups of these tests replicate, and what their hosts have in common.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti_core::groups::{
    ApplyContext, ConsensusConfig, Group, GroupKey, JoinError, Serialized, StateMachine, Storage,
};
use smalti_core::{Network, UniqueId, unique_id};

/// A line that a host has written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) host: String,
    pub(crate) number: u32,
}

/// Keeps all lines in the order of the log.
#[derive(Default)]
pub(crate) struct Journal(Vec<Line>);

impl StateMachine for Journal {
    type Command = Line;
    /// How many lines there are with it.
    type Output = u32;
    type Query = ();
    type QueryResult = Vec<Line>;
    type Snapshot = Serialized<Vec<Line>>;

    fn signature(&self) -> UniqueId {
        unique_id!("journal of the tests")
    }
    fn apply(&mut self, line: Line, _context: ApplyContext) -> u32 {
        self.0.push(line);
        self.0.len() as u32
    }
    fn query(&self, (): ()) -> Vec<Line> {
        self.0.clone()
    }
    fn snapshot(&self) -> Serialized<Vec<Line>> {
        Serialized(self.0.clone())
    }
    fn restore(&mut self, Serialized(lines): Serialized<Vec<Line>>) {
        self.0 = lines;
    }
}

pub(crate) fn key() -> GroupKey {
    GroupKey::from_bytes([7; 32])
}

/// Joins the group of these tests.
pub(crate) async fn join(network: &Network) -> Result<Group<Journal>, JoinError> {
    join_with(network, Storage::InMemory, ConsensusConfig::default()).await
}

pub(crate) async fn join_with(
    network: &Network,
    storage: Storage,
    config: ConsensusConfig,
) -> Result<Group<Journal>, JoinError> {
    let builder = network.groups().with_key(key());
    let builder = builder.with_state_machine(Journal::default());
    let builder = builder.with_storage(storage).with_consensus_config(config);
    builder
        .with_command_timeout(Duration::from_secs(5))
        .join()
        .await
}

/// What the hosts of one run tell each other, and the script, past the network.
#[derive(Clone, Default)]
pub(crate) struct Notes(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    /// The acknowledged lines, in the order in which they were.
    acknowledged: Vec<Line>,
    /// The hosts whose strong queries were answered, in the order in which they were.
    answered: Vec<String>,
    /// The leader that each host sees.
    leaders: BTreeMap<String, Option<String>>,
    /// What each host has applied.
    kept: BTreeMap<String, Vec<Line>>,
}

impl Notes {
    pub(crate) fn acknowledge(&self, line: Line) {
        self.0.borrow_mut().acknowledged.push(line);
    }

    pub(crate) fn answer(&self, host: &str) {
        self.0.borrow_mut().answered.push(host.to_owned());
    }

    pub(crate) fn follow(&self, host: &str, leader: Option<String>) {
        self.0.borrow_mut().leaders.insert(host.to_owned(), leader);
    }

    pub(crate) fn leader_of(&self, host: &str) -> Option<String> {
        self.0.borrow().leaders.get(host).cloned().flatten()
    }

    /// What the host has applied now.
    pub(crate) fn keep(&self, host: &str, lines: Vec<Line>) {
        self.0.borrow_mut().kept.insert(host.to_owned(), lines);
    }

    pub(crate) fn kept_by(&self, host: &str) -> BTreeSet<Line> {
        let lines = self.0.borrow().kept.get(host).cloned();
        lines.into_iter().flatten().collect()
    }

    pub(crate) fn answers_of(&self, host: &str) -> usize {
        let inner = self.0.borrow();
        inner.answered.iter().filter(|of| *of == host).count()
    }

    pub(crate) fn acknowledged(&self) -> Vec<Line> {
        self.0.borrow().acknowledged.clone()
    }

    pub(crate) fn answered(&self) -> Vec<String> {
        self.0.borrow().answered.clone()
    }
}

/// Executes numbered lines one after the other, and notes each.
pub(crate) async fn write(
    group: &Group<Journal>,
    host: &str,
    numbers: std::ops::Range<u32>,
    notes: &Notes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for number in numbers {
        let line = Line {
            host: host.to_owned(),
            number,
        };
        group.execute(line.clone()).await?;
        notes.acknowledge(line);
    }
    Ok(())
}
