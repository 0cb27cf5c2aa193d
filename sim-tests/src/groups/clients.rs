//! Applications that use the group.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::groups::{
    ConsensusConfig, Events, Group, GroupEvent, GroupKey, GroupStatus, Index, JoinError, Passage,
    Queried, QueryError, Reformed, Stopped, Storage, Superseded, Version,
};
use smalti_core::network::Error as NetworkError;
use smalti_core::{Network, Strong, Weak};
use smalti_sim::AppResult;
use smalti_sim::history::ClientId;
use smalti_sim::rng::{Streams, below, between, chance};
use smalti_sim::time::SimTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::lives::Parting;
use super::rare;
use super::record::{Counts, Record};
use super::registers::{Answer, Change, Contents, Registers};
use crate::cluster::Findings;

/// Registers that are used.
const KEYS: u64 = 3;

/// How often a host that has come to rest shows what it has.
const SHOWS_EVERY: Duration = Duration::from_millis(500);

/// How often it is tried to join again where the group has stopped.
const JOINS_AGAIN: u32 = 20;

/// What a run asks of its group.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) config: ConsensusConfig,
    pub(super) storage: Storage,
    /// The mean time between two operations of a host.
    pub(super) pace: Duration,
    pub(super) command_timeout: Duration,
    /// Operators have a group that stands still go on from what is left, after so long at most.
    pub(super) operators: Option<Duration>,
}

#[cfg(smalti_mutants)]
impl Setting {
    /// The same, with a rule that all members break.
    pub(super) fn with_mutant(mut self, mutant: Option<smalti_core::protocol::Mutant>) -> Self {
        self.config.mutant = mutant;
        self
    }
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
    /// Why the group does nothing any more on a host, in its present life.
    stopped: Rc<RefCell<BTreeMap<usize, String>>>,
    /// Where each host stands, not long ago.
    statuses: Rc<RefCell<BTreeMap<usize, GroupStatus>>>,
    /// Operators say everywhere that the group is to go on from what is left.
    orders: watch::Sender<()>,
    lives: Rc<RefCell<u32>>,
    phase: watch::Sender<Phase>,
    setting: Rc<Setting>,
    findings: Findings,
    seed: u64,
}

impl Clients {
    pub(super) fn new(seed: u64, setting: Setting, findings: Findings) -> Self {
        Self {
            record: Rc::default(),
            stopped: Rc::default(),
            statuses: Rc::default(),
            orders: watch::Sender::new(()),
            lives: Rc::default(),
            phase: watch::Sender::new(Phase::Work),
            setting: Rc::new(setting),
            findings,
            seed,
        }
    }

    /// Told at each step what time it is in the run: hosts' clocks drift.
    pub(super) fn tick(&self, elapsed: Duration) {
        self.record().now = SimTime::ZERO + elapsed;
    }

    pub(super) fn settle(&self) {
        self.phase.send_replace(Phase::Settle);
    }

    /// Why the group does nothing any more on a host.
    pub(super) fn stopped(&self, host: usize) -> Option<String> {
        self.stopped.borrow().get(&host).cloned()
    }

    /// Has the group go on from what is left.
    pub(super) fn order(&self) {
        self.orders.send_replace(());
    }

    /// Whether a life of the group stands still, and nothing is left of any on all of these hosts: their members have
    /// nothing of a log, and cannot know that nobody else has.
    pub(super) fn has_nothing_left(&self, hosts: usize) -> bool {
        let statuses = self.statuses.borrow();
        let mut all = statuses.values();
        statuses.len() == hosts
            && statuses.values().any(|it| it.stalled.is_some())
            && all.all(|it| it.last.index == Index::ZERO)
    }

    /// Where all hosts stand.
    pub(super) fn describe(&self) -> String {
        let statuses = self.statuses.borrow();
        let statuses = statuses.iter().map(|(host, status)| {
            let life = status.incarnation.map(|life| life.to_string());
            let stalled = status.stalled.as_ref().map(|missing| missing.len());
            format!(
                "host {host} {:?} of {} in {}, last {}, commit {}, applied {}, {} voters, leader {}, stalled {stalled:?}",
                status.role,
                life.unwrap_or_default(),
                status.term,
                status.last.index,
                status.committed,
                status.applied,
                status.voters.len(),
                status.leader.is_some(),
            )
        });
        statuses.collect::<Vec<_>>().join("; ")
    }

    /// How many lives the group has had.
    pub(super) fn lives_of_group(&self) -> usize {
        self.record().lives.count()
    }

    /// Why not all of these hosts have come to rest and show the same; `None` where they do.
    pub(super) fn differs(&self, hosts: usize) -> Option<String> {
        self.record().differs(hosts)
    }

    /// What is wrong already.
    pub(super) fn failure(&self) -> Option<String> {
        self.record().failure().cloned()
    }

    /// Whether all that was seen can be, after the hosts have come to rest.
    ///
    /// # Errors
    /// What cannot.
    pub(super) fn judge(&self) -> Result<Counts, String> {
        self.record().judge()
    }

    pub(super) fn totals(&self) -> String {
        let lives = self.lives.borrow();
        format!("{}, {lives} lives of hosts", self.record().totals())
    }

    pub(super) fn operations(&self) -> u64 {
        self.record().operations()
    }

    fn record(&self) -> RefMut<'_, Record> {
        self.record.borrow_mut()
    }

    /// The application of a host.
    pub(super) async fn live(
        self,
        host: usize,
        network: Result<Network, NetworkError>,
    ) -> AppResult {
        self.record().shown.remove(&host);
        self.stopped.borrow_mut().remove(&host);
        self.statuses.borrow_mut().remove(&host);
        *self.lives.borrow_mut() += 1;
        let life = *self.lives.borrow();
        let network = match network {
            Ok(network) => network,
            Err(NetworkError::Storage(error)) => return self.stop(host, error.to_string()).await,
            Err(error) => return Err(error.into()),
        };
        let group = match self.join(&network).await {
            Ok(group) => group,
            Err(JoinError::Storage { error, .. }) => {
                return self.stop(host, error.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        };
        let events = group.events();
        let client = Client {
            rng: Streams::new(self.seed).stream(&format!("client {life}")),
            clients: self.clone(),
            group,
            host,
            id: ClientId(life),
        };
        let listener = Listener {
            clients: self.clone(),
            group: client.group.clone(),
            host,
            rng: Streams::new(self.seed).stream(&format!("operator {life}")),
            passages: 0,
        };
        // What happened is noted before anything else is done.
        let why = smalti_core::select! {
            why = listener.listen(events) => why,
            () = client.run() => Stopped::ShutDown,
        };
        let Stopped::Storage(error) = &why else {
            return Err(format!("the group has stopped on host {host}: {why}").into());
        };
        self.findings.reach(rare::stopped_by(error));
        self.join_again(host, &network).await;
        self.stop(host, why.to_string()).await
    }

    async fn join(&self, network: &Network) -> Result<Group<Registers>, JoinError> {
        let builder = network.groups().with_key(GroupKey::from_bytes([5; 32]));
        builder
            .with_state_machine(Registers::default())
            .with_storage(self.setting.storage)
            .with_consensus_config(self.setting.config.clone())
            .with_command_timeout(self.setting.command_timeout)
            .join()
            .await
    }

    /// What a failed disk holds is not known, so the group must not be joined again in the same life.
    async fn join_again(&self, host: usize, network: &Network) {
        for _ in 0..JOINS_AGAIN {
            match self.join(network).await {
                Err(JoinError::Storage { .. }) => return self.findings.reach(rare::REFUSED),
                // It is just about to end.
                Err(JoinError::AlreadyJoined(_)) => sleep(Duration::from_millis(10)).await,
                other => {
                    let cause = format!("host {host} joined again on a failed disk: {other:?}");
                    return self.record().fail(cause);
                }
            }
        }
        self.record().fail(format!(
            "the group has stopped on host {host} and does not end"
        ));
    }

    /// Waits to be started again.
    async fn stop(&self, host: usize, why: String) -> AppResult {
        self.stopped.borrow_mut().insert(host, why);
        std::future::pending().await
    }
}

/// Notes what a host is told of its group.
struct Listener {
    clients: Clients,
    group: Group<Registers>,
    host: usize,
    rng: ChaCha8Rng,
    /// How many it has taken.
    passages: u64,
}

impl Listener {
    /// Until the group stops, and why it does.
    async fn listen(mut self, mut events: Events<GroupEvent>) -> Stopped {
        let mut order_at: Option<Instant> = None;
        let mut orders = self.clients.orders.subscribe();
        loop {
            let event = smalti_core::select! {
                event = events.recv() => event,
                () = due(order_at) => {
                    order_at = None;
                    self.group.reform();
                    self.clients.findings.reach(rare::ORDERED);
                    continue;
                },
                // The sender is in our hands as well.
                _ = orders.changed() => {
                    self.group.reform();
                    continue;
                },
                () = sleep(SHOWS_EVERY) => {
                    let status = self.group.status();
                    self.clients.statuses.borrow_mut().insert(self.host, status);
                    continue;
                },
            };
            match event {
                Ok(Some(GroupEvent::Superseded(_) | GroupEvent::Reformed(_))) => {
                    self.take_passages().await;
                }
                Ok(Some(GroupEvent::Stalled { .. })) => {
                    self.clients.findings.reach(rare::STALLED);
                    if let Some(patience) = self.clients.setting.operators {
                        let after = between(&mut self.rng, Duration::ZERO, patience);
                        order_at = Some(Instant::now() + after);
                    }
                }
                Ok(Some(GroupEvent::Leader(Some(_)))) => order_at = None,
                Ok(Some(GroupEvent::Stopped(why))) => return why,
                Ok(Some(_)) => {}
                Ok(None) => return Stopped::ShutDown,
                Err(lagged) => {
                    let cause = format!("host {} has missed events: {lagged}", self.host);
                    self.clients.record().fail(cause);
                }
            }
        }
    }

    /// Each event of a passage finds it, with those that came just after it.
    async fn take_passages(&mut self) {
        for (number, passage) in self.group.take_passages() {
            self.passages += 1;
            if number != self.passages {
                let (host, missed) = (self.host, self.passages);
                let cause = format!("host {host} takes passage {number}, and has missed {missed}");
                self.clients.record().fail(cause);
            }
            match passage {
                Passage::Superseded(superseded) => self.superseded(&superseded),
                Passage::Reformed(reformed) => self.reformed(&reformed).await,
                other => {
                    let cause = format!("host {} does not know passage {other:?}", self.host);
                    self.clients.record().fail(cause);
                }
            }
        }
        if self.passages == 0 {
            let cause = format!("host {} was told of a passage that is not there", self.host);
            self.clients.record().fail(cause);
        }
    }

    fn superseded(&self, superseded: &Superseded) {
        self.clients.findings.reach(rare::SUPERSEDED);
        if superseded.commands > 0 {
            self.clients.findings.reach(rare::SUPERSEDED_WITH_DATA);
        }
        let state =
            superseded.state::<<Registers as smalti_core::groups::StateMachine>::Snapshot>();
        let parting = state
            .map_err(|error| error.to_string())
            .map(|state| Parting {
                host: self.host,
                from: superseded.version,
                into: superseded.into,
                kept: Some(state.0),
                at: None,
                is_proved: true,
            });
        self.part(parting);
    }

    async fn reformed(&self, reformed: &Reformed) {
        let findings = &self.clients.findings;
        let by_patience = self.clients.setting.config.reform_after.is_some();
        findings.reach(match reformed.is_proved {
            true => rare::REFORMED,
            false if by_patience => rare::REFORMED_BY_PATIENCE,
            false => rare::REFORMED_BY_ORDER,
        });
        let state = reformed.state::<<Registers as smalti_core::groups::StateMachine>::Snapshot>();
        let parting = state
            .map_err(|error| error.to_string())
            .map(|state| Parting {
                host: self.host,
                from: reformed.parent,
                into: reformed.incarnation,
                kept: state.map(|state| state.0),
                at: Some(reformed.at.index.0),
                is_proved: reformed.is_proved,
            });
        if matches!(&parting, Ok(Parting { kept: Some(_), .. })) {
            findings.reach(rare::FOLLOWED_LATE);
        }
        self.part(parting);
        // What the life begins with, where it is over before anybody comes to rest in it.
        if let Some((version, contents)) = show(&self.group).await {
            let mut record = self.clients.record();
            let result = record.lives.see(version, &contents);
            record.expect(result);
        }
    }

    fn part(&self, parting: Result<Parting, String>) {
        let mut record = self.clients.record();
        let result = parting.and_then(|parting| record.lives.part(parting));
        record.expect(result);
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// All that a host has; `None` where it belongs to no group, or to one that has stopped.
async fn show(group: &Group<Registers>) -> Option<(Version, Contents)> {
    let shown: Result<_, QueryError> = group.query(None, Weak).await;
    match shown {
        Ok(Queried {
            version: Some(version),
            result: Answer::All(contents),
        }) => Some((version, *contents)),
        _ => None,
    }
}

/// One life of a host.
struct Client {
    clients: Clients,
    group: Group<Registers>,
    host: usize,
    id: ClientId,
    rng: ChaCha8Rng,
}

impl Client {
    /// Until the group stops.
    async fn run(mut self) {
        let mut phase = self.clients.phase.subscribe();
        while !self.is_over() && *phase.borrow_and_update() == Phase::Work {
            let pause = between(&mut self.rng, Duration::ZERO, self.clients.setting.pace * 2);
            // A phase that has changed in the meantime is looked at next.
            let _ = timeout(pause, phase.changed()).await;
            self.operate().await;
        }
        // Gets a change and a read through, whatever it takes.
        while !self.is_over() && self.change(0, Change::Add(1)).await.is_none() {}
        while !self.is_over() && self.read(0).await.is_none() {}
        while !self.is_over() {
            match show(&self.group).await {
                Some(shown) => drop(self.clients.record().shown.insert(self.host, shown)),
                None => drop(self.clients.record().shown.remove(&self.host)),
            }
            sleep(SHOWS_EVERY).await;
        }
        // The listener is told why.
        std::future::pending::<()>().await;
    }

    fn is_over(&self) -> bool {
        self.group.status().stopped.is_some()
    }

    async fn operate(&mut self) {
        let rng = &mut self.rng;
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
            let change = change(rng);
            let _ = self.change(key, change).await;
        }
    }

    async fn change(&self, key: u8, change: Change) -> Option<Version> {
        let (operation, command) = self.clients.record().begin(self.id, key, change);
        let result = self.group.execute(command).await;
        self.clients.record().ended(operation, command.id, result)
    }

    async fn change_together(&self, changes: &[(u8, Change)]) {
        let begun = changes
            .iter()
            .map(|(key, change)| self.clients.record().begin(self.id, *key, *change));
        let begun: Vec<_> = begun.collect();
        let commands = begun.iter().map(|(_, command)| *command);
        let results = self.group.execute_many(commands).await;
        let mut record = self.clients.record();
        if results.len() != begun.len() {
            let (results, commands) = (results.len(), begun.len());
            record.fail(format!("{commands} commands have {results} results"));
        }
        for ((operation, command), result) in begun.into_iter().zip(results) {
            record.ended(operation, command.id, result);
        }
    }

    async fn read(&self, key: u8) -> Option<Version> {
        let operation = self.clients.record().read(self.id, key);
        let result = self.group.query(Some(key), Strong).await;
        let mut record = self.clients.record();
        let read = match result {
            Ok(Queried {
                version: Some(version),
                result: Answer::Value(value),
            }) => Some((value, version)),
            Ok(answer) => {
                record.fail(format!("a strong read was answered by {answer:?}"));
                None
            }
            Err(_) => None,
        };
        record.was_read(operation, read);
        read.map(|(_, version)| version)
    }
}
