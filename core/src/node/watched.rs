//! A value that many wait on, each polling by itself, and the moments in which something becomes true of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A value, and who is to be woken when it changes.
pub(crate) struct Watched<T>(Mutex<Inner<T>>);

struct Inner<T> {
    value: T,
    /// By the number of the watcher, so that they are woken in the order in which they came.
    wakers: BTreeMap<u64, Waker>,
    watchers: u64,
}

impl<T: Clone> Watched<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(Inner {
            value,
            wakers: BTreeMap::new(),
            watchers: 0,
        }))
    }

    pub(crate) fn get(&self) -> T {
        self.lock().value.clone()
    }

    /// Replaces the value and wakes all who wait.
    pub(crate) fn set(&self, value: T) {
        let mut inner = self.lock();
        let former = std::mem::replace(&mut inner.value, value);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        drop(former);
        wakers.into_values().for_each(Waker::wake);
    }

    /// A name for a new watcher.
    pub(crate) fn watcher(&self) -> u64 {
        let mut inner = self.lock();
        inner.watchers += 1;
        inner.watchers
    }

    /// The value, after whose next change `watcher` is woken.
    pub(crate) fn watch(&self, watcher: u64, cx: &Context<'_>) -> T {
        let mut inner = self.lock();
        inner.wakers.insert(watcher, cx.waker().clone());
        inner.value.clone()
    }

    /// Wakes `watcher` no more.
    pub(crate) fn forget(&self, watcher: u64) {
        let waker = self.lock().wakers.remove(&watcher);
        drop(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns a value into the moments in which something becomes true of it.
pub(crate) struct Edge<T: Clone> {
    watched: Arc<Watched<T>>,
    watcher: u64,
    was_met: bool,
}

impl<T: Clone> Edge<T> {
    pub(crate) fn new(watched: Arc<Watched<T>>) -> Self {
        let watcher = watched.watcher();
        Self {
            watched,
            watcher,
            was_met: false,
        }
    }

    /// The present value.
    pub(crate) fn get(&self) -> T {
        self.watched.get()
    }

    /// The present value, after whose next change the task is woken.
    pub(crate) fn watch(&mut self, cx: &Context<'_>) -> T {
        self.watched.watch(self.watcher, cx)
    }

    /// Ready when `is_met` becomes true, or is at the first poll.
    pub(crate) fn poll(&mut self, cx: &Context<'_>, is_met: impl FnOnce(&T) -> bool) -> Poll<()> {
        let is_met = is_met(&self.watch(cx));
        if is_met && !std::mem::replace(&mut self.was_met, is_met) {
            return Poll::Ready(());
        }
        self.was_met = is_met;
        Poll::Pending
    }
}

impl<T: Clone> Drop for Edge<T> {
    fn drop(&mut self) {
        self.watched.forget(self.watcher);
    }
}

impl<T: Clone> fmt::Debug for Edge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("was_met", &self.was_met)
            .finish_non_exhaustive()
    }
}
