//! A record of all that clients did and saw, and whether it can be.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::groups::{CommandError, Executed, Incarnation, Version};
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{Checker, Verdict};
use smalti_sim::time::SimTime;

use super::lives::Lives;
use super::registers::{Access, Change, Command, Contents, Sequential};

/// All that was seen in a run.
#[derive(Default)]
pub(super) struct Record {
    pub(super) now: SimTime,
    pub(super) lives: Lives,
    /// What each host shows in the end.
    pub(super) shown: BTreeMap<usize, (Version, Contents)>,
    operations: Vec<Operation>,
    /// All commands, each named by its place, from 1.
    commands: Vec<(u8, Change)>,
    /// Commands that were acknowledged, and those that certainly were not applied.
    acknowledged: BTreeMap<u64, Version>,
    refused: BTreeSet<u64>,
    unknown: u64,
    reads: u64,
    failure: Option<String>,
}

/// What a client did, and what came of it.
struct Operation {
    client: ClientId,
    access: Access,
    /// The command, where it is one.
    command: Option<u64>,
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
        version: Version,
    },
    /// It has had no effect, and never will.
    Failed,
}

/// What a run did, counted.
pub(super) struct Counts {
    pub(super) unknown: u64,
    /// Acknowledged commands that are not part of what all hosts have in the end.
    pub(super) lost: u64,
    /// Lives whose beginning nobody has shown, so that it is not known whether what was seen in them can be.
    pub(super) unjudged: u64,
}

impl Record {
    /// Something is wrong. The first that is counts.
    pub(super) fn fail(&mut self, cause: String) {
        self.failure.get_or_insert(cause);
    }

    /// Notes what came of something that may be wrong.
    pub(super) fn expect(&mut self, result: Result<(), String>) {
        if let Err(cause) = result {
            self.fail(cause);
        }
    }

    /// What is wrong already.
    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    /// A command, and its place on record.
    pub(super) fn begin(&mut self, client: ClientId, key: u8, change: Change) -> (usize, Command) {
        self.commands.push((key, change));
        let id = self.commands.len() as u64;
        let operation = self.call(client, (key, Some(change)), Some(id));
        (operation, Command { key, change, id })
    }

    /// Notes that a read begins, and gives its place on record.
    pub(super) fn read(&mut self, client: ClientId, key: u8) -> usize {
        self.call(client, (key, None), None)
    }

    fn call(&mut self, client: ClientId, access: Access, command: Option<u64>) -> usize {
        self.operations.push(Operation {
            client,
            access,
            command,
            called: self.now,
            end: End::Unknown,
        });
        self.operations.len() - 1
    }

    /// A read has returned; `None`: it has failed, and shown nothing.
    pub(super) fn was_read(&mut self, operation: usize, read: Option<(u64, Version)>) {
        match read {
            Some((value, version)) => {
                self.returned(operation, value, version);
                self.reads += 1;
            }
            None => self.operations[operation].end = End::Failed,
        }
    }

    /// Notes what became of command `id`.
    pub(super) fn ended(
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
                self.refused.insert(id);
                None
            }
            Err(_) => {
                self.unknown += 1;
                None
            }
        }
    }

    fn returned(&mut self, operation: usize, output: u64, version: Version) {
        self.lives.note(version.incarnation);
        self.operations[operation].end = End::Returned {
            output,
            at: self.now,
            version,
        };
    }

    /// Why not all of these hosts show the same; `None` where they do.
    pub(super) fn differs(&self, hosts: usize) -> Option<String> {
        let Some((_, (version, contents))) = self.shown.first_key_value() else {
            return Some("no host got a change and a read through".to_owned());
        };
        if self.shown.len() < hosts {
            let settled: Vec<_> = self.shown.keys().collect();
            return Some(format!(
                "only hosts {settled:?} of {hosts} got a change and a read through"
            ));
        }
        let mut others = self.shown.iter();
        let (host, (other, _)) =
            others.find(|(_, (at, shown))| at != version || shown != contents)?;
        Some(format!(
            "host {host} is at {} of {}, and another at {} of {}",
            other.index, other.incarnation, version.index, version.incarnation
        ))
    }

    /// Whether all that was seen can be, after the hosts have come to show the same.
    ///
    /// # Errors
    /// What cannot.
    pub(super) fn judge(&mut self) -> Result<Counts, String> {
        for (version, contents) in self.shown.values() {
            self.lives.see(*version, contents)?;
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        for (life, through, applied) in self.lives.seen() {
            self.check_commands(life, through, applied)?;
        }
        self.lives.check_partings(&self.acknowledged)?;
        let unjudged = self.check_histories()?;
        let mut shown = self.shown.values();
        let last = shown.next().map(|(_, contents)| &contents.applied);
        let last: BTreeSet<u64> = last.into_iter().flatten().map(|(_, id)| *id).collect();
        let lost = self.acknowledged.keys().filter(|id| !last.contains(id));
        Ok(Counts {
            unknown: self.unknown,
            lost: lost.count() as u64,
            unjudged,
        })
    }

    pub(super) fn operations(&self) -> u64 {
        self.commands.len() as u64 + self.reads
    }

    pub(super) fn totals(&self) -> String {
        format!(
            "{} commands acknowledged, {} refused, {} unknown, {} strong reads, {} lives of the group",
            self.acknowledged.len(),
            self.refused.len(),
            self.unknown,
            self.reads,
            self.lives.count(),
        )
    }

    /// Acknowledged commands are there once, refused ones not at all, and none twice. Where the group has gone on without proof
    /// from a log that others have gone on with too, they may have decided against what was open in it.
    fn check_commands(
        &self,
        life: Incarnation,
        through: u64,
        applied: &[(u64, u64)],
    ) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for (index, id) in applied {
            if !ids.insert(*id) {
                return Err(format!(
                    "command {id} is applied twice in {life}, at {index} again"
                ));
            }
            if self.refused.contains(id) && !self.lives.is_of_fork(&life, *index) {
                return Err(format!(
                    "command {id} was refused, and is applied at {index} of {life}"
                ));
            }
        }
        let of_it = self.acknowledged.iter();
        let mut of_it = of_it.filter(|(_, at)| at.incarnation == life && at.index.0 <= through);
        match of_it.find(|(id, _)| !ids.contains(id)) {
            Some((id, at)) => Err(format!(
                "{life} was seen at {through} without command {id}, acknowledged at {}",
                at.index
            )),
            None => Ok(()),
        }
    }

    /// What clients saw of each life of the group is linearizable, from what it began with. Gives how many lives could
    /// not be judged, because nobody has shown what those began with.
    fn check_histories(&self) -> Result<u64, String> {
        let lives = self.operations.iter().filter_map(|it| match it.end {
            End::Returned { version, .. } => Some(version.incarnation),
            End::Unknown | End::Failed => None,
        });
        let mut unjudged = 0;
        for life in lives.collect::<BTreeSet<_>>() {
            let Some(inherited) = self.lives.inherited(&life, &self.acknowledged) else {
                unjudged += 1;
                continue;
            };
            let (history, sequential) = (self.history(life, inherited), self.replay(inherited));
            match Checker::new(sequential).check(&history) {
                Verdict::Linearizable => {}
                verdict => return Err(format!("in life {life}: {verdict}")),
            }
        }
        Ok(unjudged)
    }

    /// What clients saw of a life. What nobody knows the fate of may belong to it, unless it is certain that it does not.
    fn history(&self, life: Incarnation, inherited: &[(u64, u64)]) -> History<Access, u64> {
        let seen = self.lives.seen_of(&life).filter(|(through, _)| {
            // Else something that was returned may come of what nobody has shown.
            self.operations.iter().all(|it| match it.end {
                End::Returned { version, .. } => {
                    version.incarnation != life || version.index.0 <= *through
                }
                End::Unknown | End::Failed => true,
            })
        });
        let ids = |applied: &[(u64, u64)]| applied.iter().map(|(_, id)| *id).collect();
        let seen: Option<BTreeSet<u64>> = seen.map(|(_, applied)| ids(applied));
        let inherited: BTreeSet<u64> = ids(inherited);
        let may_belong = |id: &u64| {
            let was_seen = seen.as_ref().is_none_or(|seen| seen.contains(id));
            was_seen && !inherited.contains(id)
        };
        let mut history = History::new();
        for operation in &self.operations {
            let returned = match operation.end {
                End::Failed => continue,
                End::Returned { version, .. } if version.incarnation != life => continue,
                End::Returned { output, at, .. } => Some((output, at)),
                End::Unknown if !operation.command.as_ref().is_some_and(may_belong) => continue,
                End::Unknown => None,
            };
            let id = history.call(operation.client, operation.access, operation.called);
            if let Some((output, at)) = returned {
                history.returned(id, output, at);
            }
        }
        history
    }

    /// The registers after these commands.
    fn replay(&self, applied: &[(u64, u64)]) -> Sequential {
        let mut values = BTreeMap::new();
        for (_, id) in applied {
            let command = usize::try_from(id - 1).ok();
            if let Some((key, change)) = command.and_then(|place| self.commands.get(place)) {
                let value = values.entry(*key).or_default();
                *value = change.of(*value);
            }
        }
        Sequential(values)
    }
}

#[cfg(test)]
mod tests {
    use smalti_core::groups::{Index, Stopped};
    use smalti_core::id::Digest;

    use super::*;

    fn at(life: u8, index: u64) -> Version {
        Version {
            incarnation: Incarnation(Digest::from_bytes([life; 32])),
            index: Index(index),
        }
    }

    /// A command that puts a value, and is acknowledged with what was there before.
    fn put(record: &mut Record, value: u64, before: u64, version: Version) {
        let (operation, command) = record.begin(ClientId(1), 0, Change::Put(value));
        let executed = Executed {
            version,
            output: before,
        };
        record.now = record.now + std::time::Duration::from_millis(1);
        record.ended(operation, command.id, Ok(executed));
        record.now = record.now + std::time::Duration::from_millis(1);
    }

    fn show(record: &mut Record, version: Version, applied: &[(u64, u64)]) {
        let contents = Contents {
            applied: applied.to_vec(),
            ..Contents::default()
        };
        record.shown.insert(0, (version, contents));
    }

    /// What is wrong with a run in which command 1 was acknowledged at 3 and 2 at 4, and these were there in the end.
    fn judge(applied: &[(u64, u64)]) -> Result<Counts, String> {
        let mut record = Record::default();
        put(&mut record, 5, 0, at(1, 3));
        put(&mut record, 6, 5, at(1, 4));
        show(&mut record, at(1, 8), applied);
        record.judge()
    }

    #[test]
    fn acknowledged_commands_are_there_once() {
        assert!(judge(&[(3, 1), (4, 2)]).is_ok());
        assert!(judge(&[(3, 1)]).is_err());
        assert!(judge(&[(3, 1), (4, 2), (5, 1)]).is_err());
    }

    #[test]
    fn refused_commands_are_not_there() {
        for (applied, is_right) in [(&[][..], true), (&[(3, 1)][..], false)] {
            let mut record = Record::default();
            let (operation, command) = record.begin(ClientId(1), 0, Change::Add(1));
            let why = Stopped::Left;
            let refused = Err(CommandError::Stopped { command, why });
            record.ended(operation, command.id, refused);
            show(&mut record, at(1, 8), applied);
            assert_eq!(record.judge().is_ok(), is_right);
        }
    }

    #[test]
    fn a_life_is_judged_from_what_it_has_begun_with() {
        for (before, is_right) in [(5, true), (0, false)] {
            let mut record = Record::default();
            put(&mut record, 5, 0, at(1, 3));
            put(&mut record, 7, before, at(2, 6));
            let parting = super::super::lives::Parting {
                host: 0,
                from: at(1, 4),
                into: at(2, 0).incarnation,
                kept: None,
                at: Some(4),
                is_proved: true,
            };
            record.lives.part(parting).unwrap();
            show(&mut record, at(2, 8), &[(3, 1), (6, 2)]);
            let result = record.judge().map(|counts| counts.lost);
            assert_eq!(result.is_ok(), is_right, "{result:?}");
        }
    }

    #[test]
    fn hosts_agree_when_they_show_the_same() {
        let mut record = Record::default();
        assert!(record.differs(1).is_some());
        show(&mut record, at(1, 8), &[(3, 1)]);
        assert_eq!(record.differs(1), None);
        assert!(record.differs(2).is_some());
        let other = record.shown[&0].clone();
        record.shown.insert(1, other.clone());
        assert_eq!(record.differs(2), None);
        record.shown.insert(1, (at(1, 9), other.1));
        assert!(record.differs(2).is_some());
    }
}
