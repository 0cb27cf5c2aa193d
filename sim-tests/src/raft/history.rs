//! Whether what the applications saw of each incarnation is linearizable.
//!
//! The log says in which order commands took effect, and the index of a read where it belongs among them.
//! Where this order explains all outputs and agrees with real time, it is the proof. Where it does not, the
//! checker looks for another, and shows what cannot be explained.

use std::collections::BTreeMap;

use smalti_core::protocol::raft::{Incarnation, Index};
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{Checker, Model, Verdict};
use smalti_sim::time::SimTime;

use super::clients::{Clients, End};
use super::ledger::{Ledger, Life};
use super::registers::{Command, CommandId, Operation};

/// Judges the history of each incarnation; where the log explains it, the checker is asked as well only if
/// that is to be done `thoroughly`. What nobody knows the outcome of belongs to those in which it
/// was seen to be applied.
///
/// # Errors
/// What in a history cannot be explained.
pub(super) fn check(clients: &Clients, ledger: &Ledger, thoroughly: bool) -> Result<(), String> {
    for (incarnation, accesses) in accesses(clients, ledger) {
        let life = ledger.find(&incarnation);
        let first = life.map_or_else(BTreeMap::new, Life::first_values);
        if let Err(cause) = follows_the_log(&accesses, &first) {
            let explained = explain(&accesses, first);
            return Err(format!("{incarnation}: {cause}; {explained}"));
        }
        if thoroughly && let verdict @ Verdict::NotLinearizable(_) = judge(&accesses, first) {
            return Err(format!(
                "{incarnation}: the log explains all, but {verdict}"
            ));
        }
    }
    Ok(())
}

/// What an application did and saw.
#[derive(Clone, Copy, Debug)]
struct Access {
    key: u8,
    /// `None` for a read.
    change: Option<Operation>,
    /// Where it took effect, or what a read showed.
    index: Index,
    /// The value before it, as the log has it.
    before: u64,
    called: SimTime,
    /// What its caller was told, and when.
    returned: Option<(u64, SimTime)>,
}

/// What was done to each incarnation and took effect there.
fn accesses(clients: &Clients, ledger: &Ledger) -> BTreeMap<Incarnation, Vec<Access>> {
    let mut accesses = BTreeMap::<Incarnation, Vec<Access>>::new();
    let ids = clients.calls.iter().map(|call| (call.command.id, call));
    let calls: BTreeMap<CommandId, _> = ids.collect();
    for life in ledger.lives() {
        let list = accesses.entry(life.incarnation).or_default();
        for (id, index, before) in life.effects() {
            let Some(call) = calls.get(&id) else {
                continue;
            };
            let Command { key, operation, .. } = call.command;
            let returned = match call.end {
                End::Applied { before, at, .. } => Some((before, at)),
                End::OutputLost(at) => Some((before, at)),
                End::Open | End::Unknown | End::Never => None,
            };
            list.push(Access {
                key,
                change: Some(operation),
                index,
                before,
                called: call.called,
                returned,
            });
        }
    }
    for read in &clients.reads {
        if let Some(shown) = read.shown {
            let list = accesses.entry(shown.incarnation).or_default();
            list.push(Access {
                key: read.key,
                change: None,
                index: shown.index,
                before: shown.value,
                called: read.called,
                returned: Some((shown.value, shown.at)),
            });
        }
    }
    accesses
}

/// Whether the order of the log explains all, where the registers held `first` before it.
fn follows_the_log(accesses: &[Access], first: &BTreeMap<u8, u64>) -> Result<(), String> {
    // A read comes after the command at its index.
    let mut order: Vec<&Access> = accesses.iter().collect();
    order.sort_by_key(|access| (access.index, access.change.is_none()));
    let mut values = first.clone();
    for access in &order {
        let value = values.entry(access.key).or_insert(0);
        let told = access.returned.map_or(access.before, |(told, _)| told);
        if told != *value {
            return Err(format!("before {access:?} the value was {value}"));
        }
        if let Some(change) = access.change {
            *value = change.of(*value);
        }
    }
    // What ended before another began comes first in the log. Of what happens at one moment, calls first.
    let mut events: Vec<(SimTime, bool, usize)> = Vec::new();
    for (place, access) in order.iter().enumerate() {
        events.push((access.called, false, place));
        if let Some((_, at)) = access.returned {
            events.push((at, true, place));
        }
    }
    events.sort_unstable();
    let mut furthest: Option<usize> = None;
    for (_, is_return, place) in events {
        if is_return {
            furthest = furthest.max(Some(place));
            continue;
        }
        let Some(before) = furthest.filter(|before| *before > place) else {
            continue;
        };
        let (before, access) = (order[before], order[place]);
        // Reads of one state may come in any order.
        if before.index > access.index || access.change.is_some() {
            return Err(format!("{access:?} was called after {before:?} had ended"));
        }
    }
    Ok(())
}

/// What the checker says of a history that the log does not explain.
fn explain(accesses: &[Access], first: BTreeMap<u8, u64>) -> String {
    match judge(accesses, first) {
        Verdict::Linearizable => "another order explains it".to_owned(),
        verdict => verdict.to_string(),
    }
}

/// What the checker says of a history, of which it does not see the log.
fn judge(accesses: &[Access], first: BTreeMap<u8, u64>) -> Verdict<Registers> {
    let mut history = History::new();
    // A node has several operations open at once: each is a client of its own, so that times alone tell
    // what came before what.
    for (number, access) in (0..).zip(accesses) {
        let Access { key, change, .. } = *access;
        let id = history.call(ClientId(number), Call { key, change }, access.called);
        if let Some((told, at)) = access.returned {
            history.returned(id, told, at);
        }
    }
    Checker::new(Registers { first })
        .steps_max(STEPS_MAX)
        .check(&history)
}

/// Steps of the search for each register.
const STEPS_MAX: u64 = 200_000;

/// The registers, as their clients see them.
#[derive(Clone, Debug)]
struct Registers {
    /// What they held at first, where that is not 0.
    first: BTreeMap<u8, u64>,
}

/// What is done with a register: read, unless there is a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    key: u8,
    change: Option<Operation>,
}

impl Model for Registers {
    type Op = Call;
    /// The value before.
    type Output = u64;
    type State = u64;
    type Key = u8;

    fn key(&self, op: &Call) -> u8 {
        op.key
    }

    fn initial(&self, key: &u8) -> u64 {
        self.first.get(key).copied().unwrap_or_default()
    }

    fn step(&self, state: &u64, op: &Call, output: Option<&u64>) -> Option<u64> {
        let fits = output.is_none_or(|output| output == state);
        fits.then(|| op.change.map_or(*state, |change| change.of(*state)))
    }

    fn is_read(&self, op: &Call, _: Option<&u64>) -> bool {
        op.change.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(index: u64, put: Option<u64>, before: u64, called: u64, returned: u64) -> Access {
        Access {
            key: 1,
            change: put.map(Operation::Put),
            index: Index(index),
            before,
            called: SimTime::from_nanos(called),
            returned: Some((before, SimTime::from_nanos(returned))),
        }
    }

    #[test]
    fn the_log_explains_what_is_as_it_should_be() {
        let accesses = [
            access(3, Some(5), 0, 10, 20),
            access(4, Some(6), 5, 10, 19),
            access(4, None, 6, 12, 30),
            access(4, None, 6, 31, 32),
            access(3, None, 5, 19, 20),
        ];
        // The last began when the second ended, at the same moment.
        assert_eq!(follows_the_log(&accesses, &BTreeMap::new()), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found() {
        let accesses = [access(3, Some(5), 0, 10, 20), access(2, None, 0, 21, 30)];
        let cause = follows_the_log(&accesses, &BTreeMap::new()).unwrap_err();
        assert!(cause.contains("had ended"), "{cause}");
        assert!(explain(&accesses, BTreeMap::new()).contains("not linearizable"));
    }

    #[test]
    fn a_wrong_output_is_found() {
        let mut accesses = [access(3, Some(5), 0, 10, 20), access(4, Some(6), 5, 10, 30)];
        accesses[1].returned = Some((0, SimTime::from_nanos(30)));
        assert!(follows_the_log(&accesses, &BTreeMap::new()).is_err());
        assert!(explain(&accesses, BTreeMap::new()).contains("not linearizable"));
    }

    #[test]
    fn a_write_that_is_ordered_before_one_that_had_ended_is_found() {
        let accesses = [access(4, Some(5), 6, 10, 20), access(3, Some(6), 0, 21, 30)];
        assert!(follows_the_log(&accesses, &BTreeMap::new()).is_err());
    }
}
