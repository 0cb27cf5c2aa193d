//! `Cell`: one value, or none.

use serde::{Deserialize, Serialize};

use super::collection::{Collection, OutOfBounds, Reply, Value};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use super::snapshot::malformed;
use crate::protocol::raft::RestoreError;

/// A replicated cell: one value, or none.
///
/// As a value this is what such a cell holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell<T: Value>(Option<std::sync::Arc<T>>);

impl<T: Value> Cell<T> {
    /// The value.
    #[must_use]
    pub fn read(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Value> Default for Cell<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// What can be done to a [`Cell`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CellOperation<T> {
    /// Puts a value, or none.
    Write(Option<T>),
    /// Puts a value, or none, where there is what is expected.
    CompareExchange {
        /// What must be there.
        expected: Option<T>,
        /// What comes in its place.
        new: Option<T>,
    },
}

impl<T: Value> Cell<T> {
    fn write(&mut self, new: Option<T>, changes: &mut Noted<Option<T>>) -> Option<T> {
        if self.0.is_some() || new.is_some() {
            changes.push(|| new.clone());
        }
        let former = std::mem::replace(&mut self.0, new.map(Into::into));
        former.map(std::sync::Arc::unwrap_or_clone)
    }
}

impl<T: Value> Collection for Cell<T> {
    const KIND: &'static str = "smalti cell 1";
    type Operation = CellOperation<T>;
    /// What the cell holds now.
    type Change = Option<T>;
    type Item = T;

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<T>()
    }

    fn apply(
        &mut self,
        operation: CellOperation<T>,
        changes: &mut Noted<Option<T>>,
    ) -> Result<Reply, OutOfBounds> {
        Ok(match operation {
            CellOperation::Write(new) => Reply::of(&self.write(new, changes)),
            CellOperation::CompareExchange { expected, new } => {
                let present = self.read();
                let result = if present == expected.as_ref() {
                    Ok(self.write(new, changes))
                } else {
                    Err(present.cloned())
                };
                Reply::of(&result)
            }
        })
    }

    fn items(&self) -> impl Iterator<Item = impl Serialize> {
        self.read().into_iter()
    }

    fn put(&mut self, item: T) -> Result<(), RestoreError> {
        match self.0.replace(item.into()) {
            None => Ok(()),
            Some(_) => Err(malformed("there is more than one value")),
        }
    }
}
