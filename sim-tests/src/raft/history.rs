//! Whether what the applications saw of each incarnation is linearizable.

use std::collections::BTreeMap;

use smalti_core::protocol::raft::Incarnation;
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{Checker, Model, Verdict};

use super::clients::{Clients, End};
use super::ledger::Ledger;
use super::registers::Operation;

/// The registers, as their clients see them.
#[derive(Clone, Copy, Debug)]
struct Registers;

/// What is done with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Access {
    key: u8,
    /// `None` for a read.
    change: Option<Operation>,
}

impl Model for Registers {
    type Op = Access;
    /// The value before.
    type Output = u64;
    type State = u64;
    type Key = u8;

    fn key(&self, op: &Access) -> u8 {
        op.key
    }

    fn initial(&self, _: &u8) -> u64 {
        0
    }

    fn step(&self, state: &u64, op: &Access, output: Option<&u64>) -> Option<u64> {
        let fits = output.is_none_or(|output| output == state);
        fits.then(|| op.change.map_or(*state, |change| change.of(*state)))
    }

    fn is_read(&self, op: &Access, _: Option<&u64>) -> bool {
        op.change.is_none()
    }
}

/// Judges the history of each incarnation. What nobody knows the outcome of belongs to those in which it
/// was seen to be applied.
///
/// # Errors
/// The smallest part of a history that cannot be explained.
pub(super) fn check(clients: &Clients, ledger: &Ledger) -> Result<(), String> {
    let mut histories = BTreeMap::<Incarnation, History<Access, u64>>::new();
    // A node has several operations open at once: each is a client of its own, so that times alone tell
    // what came before what.
    let mut next_client = 0;
    let mut client = || {
        next_client += 1;
        ClientId(next_client)
    };
    for call in &clients.calls {
        let access = Access {
            key: call.command.key,
            change: Some(call.command.operation),
        };
        match call.end {
            End::Applied {
                incarnation,
                before,
                at,
                ..
            } => {
                let history = histories.entry(incarnation).or_default();
                let id = history.call(client(), access, call.called);
                history.returned(id, before, at);
            }
            End::Open | End::OutputLost | End::Unknown => {
                for life in ledger.lives() {
                    if life.effect_of(call.command.id).is_some() {
                        let history = histories.entry(life.incarnation).or_default();
                        history.call(client(), access, call.called);
                    }
                }
            }
            End::Never => {}
        }
    }
    for read in &clients.reads {
        if let Some(shown) = read.shown {
            let history = histories.entry(shown.incarnation).or_default();
            let access = Access {
                key: read.key,
                change: None,
            };
            let id = history.call(client(), access, read.called);
            history.returned(id, shown.value, shown.at);
        }
    }
    for (incarnation, history) in histories {
        match Checker::new(Registers).steps_max(STEPS_MAX).check(&history) {
            Verdict::Linearizable => {}
            verdict => return Err(format!("the history of {incarnation} is {verdict}")),
        }
    }
    Ok(())
}

/// Steps of the search for each register. Outputs tell nearly all of the order, so that few are needed.
const STEPS_MAX: u64 = 1_000_000;
