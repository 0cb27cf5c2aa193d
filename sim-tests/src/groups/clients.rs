//! Applications that use the group, and a record of all that they did and saw.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use rand_chacha::ChaCha8Rng;
use smalti_core::groups::{
    CommandError, ConsensusConfig, Executed, Group, GroupEvent, GroupKey, Incarnation, Queried,
    QueryError, Storage, Version,
};
use smalti_core::{Network, Strong, Weak};
use smalti_sim::AppResult;
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{Checker, Verdict};
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::time::SimTime;
use tokio::sync::watch;

use super::registers::{Access, Answer, Change, Command, Contents, Registers, Sequential};

/// Registers that are used.
const KEYS: u64 = 3;

/// What a run asks of its group.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) config: ConsensusConfig,
    pub(super) storage: Storage,
    /// The mean time between two operations of a host.
    pub(super) pace: Duration,
    pub(super) command_timeout: Duration,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Clients do what they like.
    Work,
    /// Each host is to get one change and one strong read through, and then shows what it has.
    Settle,
}

/// All clients of a run, and what they have seen. A clone is the same.
#[derive(Clone)]
pub(super) struct Clients {
    record: Rc<RefCell<Record>>,
    phase: watch::Sender<Phase>,
    setting: Rc<Setting>,
    seed: u64,
}

#[derive(Default)]
struct Record {
    now: SimTime,
    operations: Vec<Operation>,
    /// Names the commands, and the lives of hosts.
    commands: u64,
    lives: u32,
    /// Commands that were acknowledged, and those that certainly were not applied.
    acknowledged: BTreeMap<u64, Version>,
    refused: Vec<u64>,
    unknown: u64,
    /// How often a host was told that its life of the group was given up.
    superseded: u64,
    reads: u64,
    /// What each host shows in the end.
    settled: BTreeMap<usize, (Version, Contents)>,
    failure: Option<String>,
}

/// What a client did, and what came of it.
struct Operation {
    client: ClientId,
    access: Access,
    called: SimTime,
    end: End,
}

enum End {
    /// Nobody knows, yet or ever.
    Unknown,
    /// It took effect in this life of the group.
    Returned {
        output: u64,
        at: SimTime,
        life: Incarnation,
    },
    /// It has had no effect, and never will.
    Failed,
}

impl Clients {
    pub(super) fn new(seed: u64, setting: Setting) -> Self {
        Self {
            record: Rc::default(),
            phase: watch::Sender::new(Phase::Work),
            setting: Rc::new(setting),
            seed,
        }
    }

    /// Told at each step what time it is in the run: hosts' clocks drift.
    pub(super) fn tick(&self, elapsed: Duration) {
        self.record.borrow_mut().now = SimTime::ZERO + elapsed;
    }

    pub(super) fn settle(&self) {
        self.phase.send_replace(Phase::Settle);
    }

    /// Which hosts have come to rest.
    pub(super) fn settled(&self) -> Vec<usize> {
        self.record.borrow().settled.keys().copied().collect()
    }

    /// The application of a host.
    pub(super) async fn live(self, host: usize, network: Network) -> AppResult {
        let life = {
            let mut record = self.record.borrow_mut();
            record.settled.remove(&host);
            record.lives += 1;
            record.lives
        };
        let builder = network.groups().with_key(GroupKey::from_bytes([5; 32]));
        let group = builder
            .with_state_machine(Registers::default())
            .with_storage(self.setting.storage)
            .with_consensus_config(self.setting.config.clone())
            .with_command_timeout(self.setting.command_timeout)
            .join()
            .await?;
        let mut rng = Streams::new(self.seed).stream(&format!("client {life}"));
        let mut phase = self.phase.subscribe();
        let mut events = group.events();
        let client = Client {
            clients: self.clone(),
            group,
            id: ClientId(life),
        };
        while *phase.borrow_and_update() == Phase::Work {
            let pause = between(&mut rng, Duration::ZERO, self.setting.pace * 2);
            // A phase that has changed in the meantime is looked at next.
            let _ = tokio::time::timeout(pause, phase.changed()).await;
            client.operate(&mut rng).await;
            // Taken as they are there: an operation has just given them time.
            while let Some(Ok(Some(event))) = events.recv().now_or_never() {
                if matches!(event, GroupEvent::Superseded(_)) {
                    self.record.borrow_mut().superseded += 1;
                }
            }
        }
        let shown = client.settle().await;
        self.record.borrow_mut().settled.insert(host, shown);
        std::future::pending().await
    }

    /// Whether all that was seen can be, after the hosts have come to rest.
    ///
    /// # Errors
    /// What cannot.
    pub(super) fn judge(&self) -> Result<(), String> {
        let record = self.record.borrow();
        if let Some(failure) = &record.failure {
            return Err(failure.clone());
        }
        let mut by_version: BTreeMap<(Incarnation, u64), &Contents> = BTreeMap::new();
        for (host, (version, contents)) in &record.settled {
            let place = (version.incarnation, version.index.0);
            if let Some(other) = by_version.insert(place, contents)
                && other != contents
            {
                return Err(format!(
                    "host {host} and another have different states at {}",
                    version.index
                ));
            }
            record.check_commands(*host, version, contents)?;
        }
        record.check_histories()
    }

    pub(super) fn totals(&self) -> String {
        let record = self.record.borrow();
        format!(
            "{} commands acknowledged, {} refused, {} unknown, {} strong reads, {} lives of hosts",
            record.acknowledged.len(),
            record.refused.len(),
            record.unknown,
            record.reads,
            record.lives,
        )
    }

    pub(super) fn unknown(&self) -> u64 {
        self.record.borrow().unknown
    }

    pub(super) fn superseded(&self) -> u64 {
        self.record.borrow().superseded
    }

    pub(super) fn operations(&self) -> u64 {
        let record = self.record.borrow();
        record.commands + record.reads
    }
}

impl Record {
    /// Acknowledged commands are there once, refused ones not at all, and none twice.
    fn check_commands(
        &self,
        host: usize,
        version: &Version,
        contents: &Contents,
    ) -> Result<(), String> {
        if let Some((id, times)) = contents.applied.iter().find(|(_, times)| **times > 1) {
            return Err(format!(
                "host {host} has applied command {id} {times} times"
            ));
        }
        let of_this_life = self
            .acknowledged
            .iter()
            .filter(|(_, at)| at.incarnation == version.incarnation && at.index <= version.index);
        for (id, at) in of_this_life {
            if !contents.applied.contains_key(id) {
                return Err(format!(
                    "host {host} at {} lacks command {id}, which was acknowledged at {}",
                    version.index, at.index
                ));
            }
        }
        match self
            .refused
            .iter()
            .find(|id| contents.applied.contains_key(id))
        {
            Some(id) => Err(format!(
                "host {host} has applied command {id}, which was refused"
            )),
            None => Ok(()),
        }
    }

    /// What clients saw of each life of the group is linearizable. What nobody knows the fate of may belong to any.
    fn check_histories(&self) -> Result<(), String> {
        let lives = self.operations.iter().filter_map(|it| match it.end {
            End::Returned { life, .. } => Some(life),
            End::Unknown | End::Failed => None,
        });
        for life in lives.collect::<BTreeSet<_>>() {
            let mut history = History::new();
            for operation in &self.operations {
                let returned = match operation.end {
                    End::Failed => continue,
                    End::Returned { life: of, .. } if of != life => continue,
                    End::Returned { output, at, .. } => Some((output, at)),
                    End::Unknown => None,
                };
                let id = history.call(operation.client, operation.access, operation.called);
                if let Some((output, at)) = returned {
                    history.returned(id, output, at);
                }
            }
            match Checker::new(Sequential).check(&history) {
                Verdict::Linearizable => {}
                verdict => return Err(format!("in life {life}: {verdict}")),
            }
        }
        Ok(())
    }
}

/// One life of a host.
struct Client {
    clients: Clients,
    group: Group<Registers>,
    id: ClientId,
}

impl Client {
    async fn operate(&self, rng: &mut ChaCha8Rng) {
        let key = below(rng, KEYS) as u8;
        if chance(rng, 300_000) {
            // Fails where no majority can be reached.
            let _ = self.read(key).await;
            return;
        }
        let change = |rng: &mut ChaCha8Rng| {
            let value = below(rng, 4);
            match below(rng, 3) {
                0 => Change::Put(value),
                1 => Change::Swap(value, below(rng, 4)),
                _ => Change::Add(1),
            }
        };
        // What became of it is on record.
        if chance(rng, 250_000) {
            let count = 2 + below(rng, 4);
            let together: Vec<_> = (0..count)
                .map(|_| (below(rng, KEYS) as u8, change(rng)))
                .collect();
            self.change_together(&together).await;
        } else {
            let _ = self.change(key, change(rng)).await;
        }
    }

    async fn change(&self, key: u8, change: Change) -> Option<Version> {
        let (operation, command) = self.begin(key, change);
        let result = self.group.execute(command).await;
        let mut record = self.clients.record.borrow_mut();
        record.ended(operation, command.id, result)
    }

    async fn change_together(&self, changes: &[(u8, Change)]) {
        let begun = changes
            .iter()
            .map(|(key, change)| self.begin(*key, *change));
        let begun: Vec<_> = begun.collect();
        let commands = begun.iter().map(|(_, command)| *command);
        let results = self.group.execute_many(commands).await;
        let mut record = self.clients.record.borrow_mut();
        if results.len() != begun.len() {
            let (results, commands) = (results.len(), begun.len());
            record.failure = Some(format!("{commands} commands have {results} results"));
        }
        for ((operation, command), result) in begun.into_iter().zip(results) {
            record.ended(operation, command.id, result);
        }
    }

    /// A command, and its place on record.
    fn begin(&self, key: u8, change: Change) -> (usize, Command) {
        let mut record = self.clients.record.borrow_mut();
        record.commands += 1;
        let id = record.commands;
        let operation = record.call(self.id, (key, Some(change)));
        (operation, Command { key, change, id })
    }

    async fn read(&self, key: u8) -> Option<Version> {
        let operation = {
            let mut record = self.clients.record.borrow_mut();
            record.call(self.id, (key, None))
        };
        let result = self.group.query(Some(key), Strong).await;
        let mut record = self.clients.record.borrow_mut();
        match result {
            Ok(Queried {
                version: Some(version),
                result: Answer::Value(value),
            }) => {
                record.returned(operation, value, version);
                record.reads += 1;
                Some(version)
            }
            Ok(answer) => {
                record.failure = Some(format!("a strong read was answered by {answer:?}"));
                None
            }
            // A read that failed has shown nothing.
            Err(_) => {
                record.operations[operation].end = End::Failed;
                None
            }
        }
    }

    /// Gets a change and a read through, whatever it takes, and gives what the host has then.
    async fn settle(&self) -> (Version, Contents) {
        while self.change(0, Change::Add(1)).await.is_none() {}
        while self.read(0).await.is_none() {}
        loop {
            let shown: Result<_, QueryError> = self.group.query(None, Weak).await;
            if let Ok(Queried {
                version: Some(version),
                result: Answer::All(contents),
            }) = shown
            {
                return (version, *contents);
            }
            self.group.when().online().await;
        }
    }
}

impl Record {
    /// Notes that an operation begins, and gives its place on record.
    fn call(&mut self, client: ClientId, access: Access) -> usize {
        self.operations.push(Operation {
            client,
            access,
            called: self.now,
            end: End::Unknown,
        });
        self.operations.len() - 1
    }

    /// Notes what became of command `id`.
    fn ended(
        &mut self,
        operation: usize,
        id: u64,
        result: Result<Executed<u64>, CommandError<Command>>,
    ) -> Option<Version> {
        match result {
            Ok(executed) => {
                self.returned(operation, executed.output, executed.version);
                self.acknowledged.insert(id, executed.version);
                Some(executed.version)
            }
            Err(error) if error.is_rejected() => {
                self.operations[operation].end = End::Failed;
                self.refused.push(id);
                None
            }
            Err(_) => {
                self.unknown += 1;
                None
            }
        }
    }

    fn returned(&mut self, operation: usize, output: u64, version: Version) {
        self.operations[operation].end = End::Returned {
            output,
            at: self.now,
            life: version.incarnation,
        };
    }
}
