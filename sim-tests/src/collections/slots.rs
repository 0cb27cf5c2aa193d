//! Places that hold a value or none: keys of a map, items of a set, a cell, a decision. What clients saw of each must be
//! linearizable.

use std::collections::BTreeSet;

use smalti_core::groups::Incarnation;
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{Checker, Model, Verdict};
use smalti_sim::time::SimTime;

/// Names a place in its collection.
pub(super) type Slot = u64;

/// What is done with a place, which holds nothing at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Read,
    /// Puts a value, or none.
    Write(Option<u64>),
    /// The same, by who is not told what was there.
    Put(Option<u64>),
    /// Puts the second where it holds the first.
    Exchange(Option<u64>, Option<u64>),
}

/// What is seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// What the place held before.
    pub(super) held: Option<u64>,
    /// Whether it was done: an exchange may not have been.
    pub(super) done: bool,
}

impl Seen {
    /// It was done, and nothing is known of what was held.
    pub(super) const BLIND: Self = Self::held(None);

    /// It was done where this was held.
    pub(super) const fn held(held: Option<u64>) -> Self {
        Self { held, done: true }
    }

    /// An exchange has found what it expected, or something else.
    pub(super) const fn exchanged(result: Result<Option<u64>, Option<u64>>) -> Self {
        match result {
            Ok(held) => Self { held, done: true },
            Err(held) => Self { held, done: false },
        }
    }
}

impl Act {
    /// What is seen, and what the place holds then.
    fn on(self, held: Option<u64>) -> (Seen, Option<u64>) {
        match self {
            Self::Read => (Seen::held(held), held),
            Self::Write(new) => (Seen::held(held), new),
            Self::Put(new) => (Seen::BLIND, new),
            Self::Exchange(expected, new) if expected == held => (Seen::held(held), new),
            Self::Exchange(..) => (Seen { held, done: false }, held),
        }
    }

    /// What it may put.
    const fn puts(self) -> Option<Option<u64>> {
        match self {
            Self::Read => None,
            Self::Write(new) | Self::Put(new) | Self::Exchange(_, new) => Some(new),
        }
    }
}

/// A place, for the checker.
#[derive(Clone, Copy, Debug)]
struct Sequential;

impl Model for Sequential {
    type Op = (Slot, Act);
    type Output = Seen;
    type State = Option<u64>;
    type Key = Slot;

    fn key(&self, (slot, _): &(Slot, Act)) -> Slot {
        *slot
    }

    fn initial(&self, _slot: &Slot) -> Option<u64> {
        None
    }

    fn step(
        &self,
        held: &Option<u64>,
        (_, act): &(Slot, Act),
        output: Option<&Seen>,
    ) -> Option<Option<u64>> {
        let (seen, next) = act.on(*held);
        output.is_none_or(|output| *output == seen).then_some(next)
    }

    fn is_read(&self, (_, act): &(Slot, Act), output: Option<&Seen>) -> bool {
        *act == Act::Read || output.is_some_and(|seen| !seen.done)
    }

    /// What was seen tells what was held right before: an act that puts something else cannot have been what made it
    /// possible.
    fn can_matter(
        &self,
        (_, unknown): &(Slot, Act),
        (_, next): &(Slot, Act),
        output: Option<&Seen>,
    ) -> bool {
        match (next, output) {
            (Act::Put(_), _) => false,
            (_, Some(seen)) => unknown.puts() == Some(seen.held),
            (_, None) => matches!(next, Act::Exchange(..)),
        }
    }
}

/// All that was done with the places of one collection.
#[derive(Default)]
pub(super) struct Slots(Vec<Operation>);

struct Operation {
    client: ClientId,
    access: (Slot, Act),
    called: SimTime,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    /// Nobody knows, yet or ever.
    Unknown,
    /// It took effect in this life of the collection.
    Returned {
        seen: Seen,
        at: SimTime,
        life: Incarnation,
    },
    /// It has had no effect, and never will.
    Failed,
}

impl Slots {
    /// Notes that an operation begins, and gives its place on record.
    pub(super) fn called(&mut self, client: ClientId, access: (Slot, Act), now: SimTime) -> usize {
        self.0.push(Operation {
            client,
            access,
            called: now,
            end: End::Unknown,
        });
        self.0.len() - 1
    }

    pub(super) fn returned(&mut self, place: usize, seen: Seen, life: Incarnation, at: SimTime) {
        self.0[place].end = End::Returned { seen, at, life };
    }

    pub(super) fn failed(&mut self, place: usize) {
        self.0[place].end = End::Failed;
    }

    /// What clients saw of each life is linearizable. What nobody knows the fate of may belong to any.
    ///
    /// # Errors
    /// What cannot be.
    pub(super) fn are_linearizable(&self) -> Result<(), String> {
        for life in self.lives() {
            let mut history = History::new();
            for operation in &self.0 {
                let returned = match operation.end {
                    End::Failed => continue,
                    End::Returned { life: of, .. } if of != life => continue,
                    End::Returned { seen, at, .. } => Some((seen, at)),
                    End::Unknown => None,
                };
                let id = history.call(operation.client, operation.access, operation.called);
                if let Some((seen, at)) = returned {
                    history.returned(id, seen, at);
                }
            }
            match Checker::new(Sequential).check(&history) {
                Verdict::Linearizable => {}
                verdict => return Err(format!("in life {life}: {verdict}")),
            }
        }
        Ok(())
    }

    /// Of those who write a decision, one at most wins in each life, and all others are told what it has written.
    ///
    /// # Errors
    /// What cannot be.
    pub(super) fn are_decided_once(&self) -> Result<(), String> {
        for life in self.lives() {
            let mut decided: Option<u64> = None;
            let mut winners = 0;
            for operation in &self.0 {
                let End::Returned { seen, life: of, .. } = operation.end else {
                    continue;
                };
                let Act::Exchange(None, Some(written)) = operation.access.1 else {
                    continue;
                };
                if of != life {
                    continue;
                }
                winners += u32::from(seen.done);
                let told = if seen.done { Some(written) } else { seen.held };
                let Some(told) = told else {
                    return Err(format!("who wrote {written} has lost to nobody"));
                };
                let first = *decided.get_or_insert(told);
                if first != told || winners > 1 {
                    return Err(format!(
                        "in life {life} both {first} and {told} were decided, by {winners} winners"
                    ));
                }
            }
        }
        Ok(())
    }

    fn lives(&self) -> BTreeSet<Incarnation> {
        let lives = self.0.iter().filter_map(|it| match it.end {
            End::Returned { life, .. } => Some(life),
            End::Unknown | End::Failed => None,
        });
        lives.collect()
    }
}

#[cfg(test)]
mod tests {
    use smalti_core::Digest;

    use super::*;

    fn life(n: u8) -> Incarnation {
        Incarnation(Digest::from_bytes([n; 32]))
    }

    /// One operation after the other, each by a client of its own; `None` where nobody knows what became of it.
    fn slots(operations: &[(Act, Option<Seen>)]) -> Slots {
        let mut slots = Slots::default();
        for (number, (act, seen)) in (0_u32..).zip(operations) {
            let at = |part| SimTime::from_nanos(u64::from(number) * 10 + part);
            let place = slots.called(ClientId(number), (0, *act), at(0));
            if let Some(seen) = seen {
                slots.returned(place, *seen, life(1), at(5));
            }
        }
        slots
    }

    const LOST: Seen = Seen {
        held: Some(1),
        done: false,
    };

    #[test]
    fn histories_that_one_place_can_have_pass() {
        let none = Some(Seen::held(None));
        let good = slots(&[
            (Act::Write(Some(1)), none),
            (Act::Exchange(None, Some(3)), Some(LOST)),
            (Act::Exchange(Some(1), None), Some(Seen::held(Some(1)))),
            (Act::Write(Some(4)), None),
            (Act::Read, Some(Seen::held(Some(4)))),
            (Act::Put(Some(5)), Some(Seen::BLIND)),
            (Act::Write(Some(6)), Some(Seen::held(Some(5)))),
            (Act::Put(None), Some(Seen::BLIND)),
            (Act::Read, none),
        ]);
        good.are_linearizable().unwrap();
    }

    #[test]
    fn histories_that_no_place_can_have_are_noticed() {
        let none = Some(Seen::held(None));
        let lost_write = [(Act::Write(Some(1)), none), (Act::Read, none)];
        let exchanged_twice = [
            (Act::Exchange(None, Some(1)), none),
            (Act::Exchange(None, Some(2)), none),
        ];
        let refused_for_nothing = [(Act::Exchange(None, Some(2)), Some(LOST))];
        let out_of_nowhere = [
            (Act::Write(None), None),
            (Act::Read, Some(Seen::held(Some(1)))),
        ];
        let lost_put = [(Act::Put(Some(1)), none), (Act::Read, none)];
        for bad in [
            &lost_write[..],
            &lost_put,
            &exchanged_twice,
            &refused_for_nothing,
            &out_of_nowhere,
        ] {
            assert!(slots(bad).are_linearizable().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_has_failed_must_not_have_been_done() {
        let mut bad = slots(&[
            (Act::Write(Some(1)), None),
            (Act::Read, Some(Seen::held(Some(1)))),
        ]);
        bad.are_linearizable().unwrap();
        bad.failed(0);
        assert!(bad.are_linearizable().is_err());
    }

    #[test]
    fn lives_are_judged_one_by_one() {
        let write = Act::Exchange(None, Some(1));
        let mut two = slots(&[(write, Some(Seen::held(None)))]);
        let place = two.called(
            ClientId(9),
            (0, Act::Exchange(None, Some(2))),
            SimTime::ZERO,
        );
        two.returned(place, Seen::held(None), life(2), SimTime::from_nanos(1));
        two.are_linearizable().unwrap();
        two.are_decided_once().unwrap();
    }

    #[test]
    fn two_winners_of_a_decision_are_noticed_and_so_are_two_values() {
        let write = |value| Act::Exchange(None, Some(value));
        let won = Some(Seen::held(None));
        slots(&[(write(1), won), (write(2), Some(LOST))])
            .are_decided_once()
            .unwrap();
        let other = Seen {
            held: Some(7),
            done: false,
        };
        let nobody = Seen {
            held: None,
            done: false,
        };
        for bad in [
            [(write(1), won), (write(2), won)],
            [(write(1), won), (write(1), won)],
            [(write(1), won), (write(2), Some(other))],
            [(write(2), Some(LOST)), (write(3), Some(other))],
            [(write(2), Some(LOST)), (write(3), Some(nobody))],
        ] {
            assert!(slots(&bad).are_decided_once().is_err(), "{bad:?}");
        }
    }
}
