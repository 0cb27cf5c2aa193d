//! Reads and writes of a `Cell` and a `Once`.

use super::error::OpenError;
use super::handle::{Reader, Writer};
use super::roles::{roles, writes};
use crate::protocol::collections::{Cell, CellOperation, Once, OnceOperation, Value};

/// Reads a [`Cell`].
pub type CellReader<T> = Reader<Cell<T>>;

/// Reads and writes a [`Cell`].
pub type CellWriter<T> = Writer<Cell<T>>;

/// Reads a [`Once`].
pub type OnceReader<T> = Reader<Once<T>>;

/// Reads and writes a [`Once`].
pub type OnceWriter<T> = Writer<Once<T>>;

roles!([T: Value] Cell<T>);
roles!([T: Value] Once<T>);

impl<T: Value> Reader<Cell<T>> {
    /// The value, cloned. O(1).
    #[must_use]
    pub fn read(&self) -> Option<T> {
        self.view().read().cloned()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }
}

writes!([T: Value] Cell<T> {
    /// Puts a value, and gives the one that was there. O(1).
    fn write(value: T) -> Option<T> = CellOperation::Write(Some(value));

    /// The same as [`write`](Self::write).
    fn set(value: T) -> Option<T> = CellOperation::Write(Some(value));

    /// Puts the value `new`, or none, if what is there equals `expected`. Gives what was there: `Ok` where it was
    /// exchanged, `Err` where not. O(1).
    fn compare_exchange(expected: Option<T>, new: Option<T>) -> Result<Option<T>, Option<T>> =
        CellOperation::CompareExchange { expected, new };

    /// Removes the value, and gives it. O(1).
    fn clear() -> Option<T> = CellOperation::Write(None);
});

impl<T: Value> Reader<Once<T>> {
    /// The value, once this node knows that it was written, cloned. O(1).
    #[must_use]
    pub fn read(&self) -> Option<T> {
        self.view().read().cloned()
    }

    /// Whether it was not written yet, as far as this node knows. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    /// The value, as soon as it is written. Cancellation safe.
    ///
    /// # Errors
    /// Where the collection stops on this node before.
    pub async fn await_value(&self) -> Result<T, OpenError> {
        // One for all looks: from where there are no changes from the beginning on, each new one would at once be told so.
        let mut changes = self.changes(None);
        loop {
            if let Some(value) = self.read() {
                return Ok(value);
            }
            // Whatever it tells, there is something new to be read; or the collection has stopped, and is never online
            // again.
            if changes.next().await.is_none() {
                self.online().await?;
            }
        }
    }
}

writes!([T: Value] Once<T> {
    /// Writes the value, if nobody has. `Err` has the value that somebody has written before. O(1).
    fn write(value: T) -> Result<(), T> = OnceOperation::Write(value);

    /// The same as [`write`](Self::write).
    fn set(value: T) -> Result<(), T> = OnceOperation::Write(value);
});

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::sync::Arc;

    use super::*;
    use crate::StoreId;
    use crate::node::alone::{Alone, poll};
    use crate::node::collections::{CollectionConfig, SyncConfig};
    use crate::node::groups::Storage;

    #[test]
    fn who_was_given_a_snapshot_without_a_value_waits_for_it_and_lets_others_go_on() {
        let runtime = Arc::new(Alone::default());
        let network = runtime.node();
        let open = || {
            let sync = SyncConfig {
                snapshot_interval: 16,
                log_window: 4,
                ..SyncConfig::default()
            };
            let config = CollectionConfig::default().with_storage(Storage::Durable);
            let config = config.with_sync_config(sync);
            let id = StoreId::from("once");
            let opened = Once::<u64>::online_writer_with_config(&network, id, config);
            runtime.run(opened).unwrap()
        };
        let once = open();
        for _ in 0..100 {
            runtime.run(once.commit(once.batch())).unwrap();
        }
        drop(once);
        // Until it has ended.
        assert!(runtime.run_without("", pending::<()>()).is_none());
        let once = open();
        let first = runtime.run(once.changes(None).next());
        assert!(matches!(first, Some(Err(_))), "its state is no snapshot");
        let mut value = pin!(once.await_value());
        assert!(poll(value.as_mut()).is_pending());
        runtime.run(once.write(7)).unwrap().output.unwrap();
        assert_eq!(runtime.run(value), Ok(7));
    }
}
