//! What the kinds of collections have in common.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::history::Noted;
use crate::protocol::raft::RestoreError;
use crate::wire;

/// What a collection may hold: any plain data.
///
/// Equal values must have equal encodings on every node: no default-hashed map may be inside. `PartialEq` and `Clone` must
/// depend on the value alone, and so must what its `Deserialize` takes and refuses: a node that refused what others take would
/// hold something else from then on.
///
/// It must not nest deeper than some 250 levels, each sequence, map, tuple, struct, enum, option and newtype being one: members
/// refuse what does, and the write [fails](crate::collections::WriteError).
pub trait Value: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T> Value for T where T: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{}

/// What a collection may be ordered by: a [`Value`] with a total order, which is the same on every node.
pub trait Key: Value + Ord {}

impl<T: Value + Ord> Key for T {}

/// A kind of collection, with its element types: the contents, and what changes them.
///
/// Contents are persistent structures: a clone costs nothing to speak of and is unmoved by what is applied afterwards.
/// The six kinds are all there are; applications have no reason to write another one.
pub trait Collection: Clone + Default + Send + Sync + Sized + 'static {
    /// Names the kind, what its operations do, and how all is encoded.
    const KIND: &'static str;

    /// One change that a writer asks for.
    type Operation: Serialize + DeserializeOwned + Send + 'static;
    /// One change that was made, as `changes()` tells it.
    type Change: Clone + Send + Sync + 'static;
    /// A part of the contents, as snapshots hold it.
    type Item: DeserializeOwned;

    /// Tells the element types from others.
    fn fingerprint() -> Fingerprint;

    /// Carries out an operation and notes what it has changed.
    ///
    /// # Errors
    /// Where there is no such place. Nothing was changed then.
    fn apply(
        &mut self,
        operation: Self::Operation,
        changes: &mut Noted<Self::Change>,
    ) -> Result<Reply, OutOfBounds>;

    /// What is in a change, in bytes, where that may be more than the command had from which it came. Default: nothing.
    fn weight(change: &Self::Change) -> usize {
        let _ = change;
        0
    }

    /// The contents in their order, which depends on nothing else.
    fn items(&self) -> impl Iterator<Item = impl Serialize>;

    /// Puts the next of the [items](Self::items) of other contents to these.
    ///
    /// # Errors
    /// Where it cannot be the next.
    fn put(&mut self, item: Self::Item) -> Result<(), RestoreError>;
}

/// What an operation gives to its caller, encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub(super) Bytes);

impl Reply {
    /// The reply that is `value`.
    pub(super) fn of<R: Serialize>(value: &R) -> Self {
        // What is in it was decoded before: that it cannot be encoded is a defect of the element type's.
        let encoded = wire::encode(value).expect("what was decoded must be encodable");
        Self(Bytes::from(encoded))
    }
}

/// There is no such place in a `Vec`. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("there is no place {index} in a vec of {len} items; nothing was changed")]
pub struct OutOfBounds {
    /// The place that was asked for.
    pub index: u64,
    /// How many items there were at that moment.
    pub len: u64,
}
