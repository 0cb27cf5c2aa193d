//! A value that many wait on, each polling by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// A value, and who is to be woken when it changes.
pub(super) struct Watched<T>(Mutex<Inner<T>>);

struct Inner<T> {
    value: T,
    /// By the number of the watcher, so that they are woken in the order in which they came.
    wakers: BTreeMap<u64, Waker>,
    watchers: u64,
}

impl<T: Clone> Watched<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(Inner {
            value,
            wakers: BTreeMap::new(),
            watchers: 0,
        }))
    }

    pub(super) fn get(&self) -> T {
        self.lock().value.clone()
    }

    /// Replaces the value and wakes all who wait.
    pub(super) fn set(&self, value: T) {
        let mut inner = self.lock();
        let former = std::mem::replace(&mut inner.value, value);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        drop(former);
        wakers.into_values().for_each(Waker::wake);
    }

    /// A name for a new watcher.
    pub(super) fn watcher(&self) -> u64 {
        let mut inner = self.lock();
        inner.watchers += 1;
        inner.watchers
    }

    /// The value, after whose next change `watcher` is woken.
    pub(super) fn watch(&self, watcher: u64, cx: &Context<'_>) -> T {
        let mut inner = self.lock();
        inner.wakers.insert(watcher, cx.waker().clone());
        inner.value.clone()
    }

    /// Wakes `watcher` no more.
    pub(super) fn forget(&self, watcher: u64) {
        let waker = self.lock().wakers.remove(&watcher);
        drop(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
