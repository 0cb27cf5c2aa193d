//! What the group replicates: who has written how far, and whatever is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smalti::groups::{ApplyContext, Serialized, StateMachine};
use smalti::{UniqueId, unique_id};

/// One life of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Writer {
    pub(crate) number: u32,
    pub(crate) life: u32,
}

/// The command with this number of a writer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) writer: Writer,
    pub(crate) number: u64,
}

/// What was applied of one writer's commands, which are numbered from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// One above the highest number.
    pub(crate) next: u64,
    /// Numbers below that were never applied.
    pub(crate) missing: Vec<u64>,
    /// Numbers that were applied again.
    pub(crate) repeated: Vec<u64>,
}

impl Applied {
    pub(crate) fn has(&self, number: u64) -> bool {
        number < self.next && !self.missing.contains(&number)
    }
}

/// All writers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally(pub(crate) BTreeMap<Writer, Applied>);

impl StateMachine for Tally {
    type Command = Write;
    type Output = ();
    type Query = ();
    type QueryResult = Self;
    type Snapshot = Serialized<Self>;

    fn signature(&self) -> UniqueId {
        unique_id!("tally of kill9")
    }

    fn apply(&mut self, write: Write, _context: ApplyContext) {
        let applied = self.0.entry(write.writer).or_default();
        if write.number < applied.next {
            applied.repeated.push(write.number);
        } else {
            applied.missing.extend(applied.next..write.number);
            applied.next = write.number + 1;
        }
    }

    fn query(&self, (): ()) -> Self {
        self.clone()
    }

    fn snapshot(&self) -> Serialized<Self> {
        Serialized(self.clone())
    }

    fn restore(&mut self, Serialized(state): Serialized<Self>) {
        *self = state;
    }
}

/// What a process says to the one that started it, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// It has read this, linearizably.
    Read(Tally),
    /// The command with this number was acknowledged.
    Acknowledged(u64),
    /// It cannot go on.
    Failed(String),
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(tally) => {
                let rows: Vec<_> = tally.0.iter().collect();
                let json = serde_json::to_string(&rows).map_err(|_| fmt::Error)?;
                write!(f, "read {json}")
            }
            Self::Acknowledged(number) => write!(f, "ack {number}"),
            Self::Failed(why) => write!(f, "failed {why}"),
        }
    }
}

impl FromStr for Say {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let unknown = || format!("a process said something else than expected: {line}");
        match line.split_once(' ') {
            Some(("read", json)) => {
                let rows: Vec<(Writer, Applied)> =
                    serde_json::from_str(json).map_err(|_| unknown())?;
                Ok(Self::Read(Tally(rows.into_iter().collect())))
            }
            Some(("ack", number)) => {
                let number = number.parse().map_err(|_| unknown())?;
                Ok(Self::Acknowledged(number))
            }
            Some(("failed", why)) => Ok(Self::Failed(why.to_owned())),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITER: Writer = Writer { number: 1, life: 2 };

    fn apply(tally: &mut Tally, number: u64) {
        let context = ApplyContext {
            index: smalti::groups::Index(1),
            term: smalti::groups::Term(1),
        };
        let write = Write {
            writer: WRITER,
            number,
        };
        tally.apply(write, context);
    }

    #[test]
    fn holes_and_repetitions_show() {
        let mut tally = Tally::default();
        for number in [0, 1, 4, 1] {
            apply(&mut tally, number);
        }
        let applied = &tally.0[&WRITER];
        assert_eq!((applied.next, &applied.missing), (5, &vec![2, 3]));
        assert_eq!(applied.repeated, [1]);
        assert!(applied.has(1) && applied.has(4) && !applied.has(2) && !applied.has(5));
    }

    #[test]
    fn what_is_said_is_understood() {
        let mut tally = Tally::default();
        apply(&mut tally, 3);
        for say in [
            Say::Read(tally),
            Say::Acknowledged(7),
            Say::Failed("no disk".to_owned()),
        ] {
            assert_eq!(say.to_string().parse(), Ok(say));
        }
        assert!("ack x".parse::<Say>().is_err() && "".parse::<Say>().is_err());
    }
}
