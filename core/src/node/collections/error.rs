//! What can go wrong with a collection.

use std::fmt;

use crate::node::groups::{CommandError, JoinError, Stopped};
use crate::protocol::collections::{Batch, OutOfBounds, RESULTS_LEN_MAX, SchemaConflict};

/// A collection cannot be opened, or does not come online.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It holds other element types. The node takes no part in it any more.
    #[error(transparent)]
    Schema(#[from] SchemaConflict),
    /// It was to be opened to write, and this node knows the verifier of its write secret alone.
    #[error(
        "this node may only read the collection: open a reader, or give the write secret by CollectionConfig::with_write_secret"
    )]
    ReadOnly,
    /// Its group cannot be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// It has stopped on this node.
    #[error("the collection does not come online: {0}")]
    Stopped(Stopped),
}

/// What became of a write that was not made, or of which that is not known. Where it is certain that it was not made, it
/// is given back as a batch.
#[non_exhaustive]
pub enum WriteError<C> {
    /// The group did not apply it, or cannot tell. See [`CommandError`] for what is certain.
    Command(Box<CommandError<Batch<C>>>),
    /// There is no such place. Nothing was changed, on any member.
    OutOfBounds(OutOfBounds),
    /// The collection holds other element types. Nothing was changed.
    Schema(SchemaConflict),
    /// What the operations of the batch give is longer than 8 MiB together, when encoded. Nothing was changed, on any member.
    ResultsTooLong,
}

impl<C> WriteError<C> {
    /// The write, to be [committed](super::Writer::commit) again, where it is certain that it was not made and
    /// never will be, and that it can succeed another time.
    #[must_use]
    pub fn into_batch(self) -> Option<Batch<C>> {
        match self {
            Self::Command(error) => error.into_command(),
            Self::OutOfBounds(_) | Self::Schema(_) | Self::ResultsTooLong => None,
        }
    }

    /// Whether it is certain that the write was not made and never will be, not even in a life of the group that was
    /// given up, but for one that [forked](CommandError::is_rejected).
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        match self {
            Self::Command(error) => error.is_rejected(),
            Self::OutOfBounds(_) | Self::Schema(_) | Self::ResultsTooLong => true,
        }
    }
}

impl<C> From<CommandError<Batch<C>>> for WriteError<C> {
    fn from(error: CommandError<Batch<C>>) -> Self {
        Self::Command(Box::new(error))
    }
}

impl<C> fmt::Display for WriteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(error) => error.fmt(f),
            Self::OutOfBounds(error) => error.fmt(f),
            Self::Schema(error) => error.fmt(f),
            Self::ResultsTooLong => write!(
                f,
                "the operations of the batch give more than {RESULTS_LEN_MAX} bytes together; nothing was changed: split it"
            ),
        }
    }
}

// Elements need not be printable for their errors to be.
impl<C> fmt::Debug for WriteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(error) => fmt::Debug::fmt(error, f),
            Self::OutOfBounds(error) => fmt::Debug::fmt(error, f),
            Self::Schema(error) => fmt::Debug::fmt(error, f),
            Self::ResultsTooLong => f.write_str("ResultsTooLong"),
        }
    }
}

impl<C> std::error::Error for WriteError<C> {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::StoreId;
    use crate::node::alone::Alone;
    use crate::protocol::collections::{Cell, Map};

    #[test]
    fn what_is_too_long_comes_back_and_changes_nothing() {
        let runtime = Arc::new(Alone::default());
        let network = runtime.node();
        let id = StoreId::from("long");
        let map = runtime.run(Map::<u32, String>::online_writer(&network, id));
        let map = map.unwrap();
        let text = "x".repeat(1 << 20);
        let extended = runtime.run(map.extend((0..9).map(|key| (key, text.clone()))));
        let error = extended.unwrap_err();
        assert!(error.is_rejected());
        assert!(matches!(
            &error,
            WriteError::Command(error) if matches!(**error, CommandError::TooLong { len, .. } if len > 9 << 20)
        ));
        assert_eq!(error.into_batch().map(|batch| batch.len()), Some(1));
        assert!(map.is_empty());
        // As many as fit.
        let extended = runtime.run(map.extend((0..7).map(|key| (key, text.clone()))));
        assert_eq!(extended.unwrap().output, 7);
    }

    #[test]
    fn a_batch_that_asks_for_too_much_changes_nothing() {
        let runtime = Arc::new(Alone::default());
        let network = runtime.node();
        let id = StoreId::from("long");
        let cell = runtime.run(Cell::<String>::online_writer(&network, id));
        let cell = cell.unwrap();
        runtime.run(cell.write("x".repeat(1 << 20))).unwrap();
        let mut batch = cell.batch();
        for _ in 0..9 {
            batch.compare_exchange(None, None);
        }
        batch.clear();
        let error = runtime.run(cell.commit(batch)).unwrap_err();
        assert!(matches!(error, WriteError::ResultsTooLong) && error.is_rejected());
        assert!(error.to_string().contains("split it"), "{error}");
        assert_eq!(error.into_batch(), None);
        assert_eq!(cell.read().map(|text| text.len()), Some(1 << 20));
    }
}
