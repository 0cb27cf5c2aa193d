//! `Once`: a value that is written once.

use serde::{Deserialize, Serialize};

use super::collection::{Collection, OutOfBounds, Reply, Value};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use super::snapshot::malformed;
use crate::protocol::raft::RestoreError;

/// A replicated value that is written once: the first to write it decides what it is, for ever.
///
/// As a value this is what is known of it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once<T: Value>(Option<std::sync::Arc<T>>);

impl<T: Value> Once<T> {
    /// The value, once it was written.
    #[must_use]
    pub fn read(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// Whether it was not written yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Value> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// What can be done to a [`Once`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum OnceOperation<T> {
    /// Writes it, unless it was written.
    Write(T),
}

impl<T: Value> Collection for Once<T> {
    const KIND: &'static str = "smalti once 1";
    type Operation = OnceOperation<T>;
    /// The value that was written.
    type Change = T;
    type Item = T;

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<T>()
    }

    fn apply(
        &mut self,
        OnceOperation::Write(value): OnceOperation<T>,
        changes: &mut Noted<T>,
    ) -> Result<Reply, OutOfBounds> {
        Ok(match self.read() {
            Some(winner) => Reply::of(&Err::<(), _>(winner)),
            None => {
                changes.push(|| value.clone());
                self.0 = Some(value.into());
                Reply::of(&Ok::<_, T>(()))
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
