//! Where the member of a collection and the handles of its node meet.
//!
//! Contents are persistent structures. Whatever shares a part of them makes the next write to that part copy it, which
//! costs several times what the write does. So nobody is given a share who has not asked: between two commands the member's
//! machine lies here, and the first who looks makes the [`View`] that all share until the next command. While commands
//! are applied the member has the machine. Whoever looks then is given the view that was made before, if somebody has
//! made one, and else waits until the machine is back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::view::View;
use crate::node::watched::Watched;
use crate::protocol::collections::{Collection, Machine};
use crate::protocol::raft::Version;

/// The contents of a collection, for all handles of a node.
pub(super) struct Showcase<C: Collection> {
    place: Mutex<Place<C>>,
    /// The machine is back, and somebody waits for it.
    back: Condvar,
    /// How often contents were shown.
    shown: Arc<Watched<u64>>,
}

/// What lies in a showcase.
pub(super) struct Place<C: Collection> {
    /// `None` while commands are applied.
    machine: Option<Box<Machine<C>>>,
    /// What is shown is all up to here.
    version: Option<Version>,
    /// What is shown, once somebody has looked.
    view: Option<View<C>>,
    shown: u64,
    /// How many wait for the machine.
    waiting: usize,
}

impl<C: Collection> Showcase<C> {
    /// One that shows the contents of a new machine.
    pub(super) fn new() -> Self {
        Self {
            place: Mutex::new(Place {
                machine: Some(Box::default()),
                version: None,
                view: None,
                shown: 0,
                waiting: 0,
            }),
            back: Condvar::new(),
            shown: Arc::new(Watched::new(0)),
        }
    }

    // ---- The member ----

    /// Takes the machine, to apply something to it. Reads see what was shown before until the next is.
    ///
    /// Where that may take long, `leave_view` lets them do so without waiting.
    pub(super) fn take(&self, leave_view: bool) -> Box<Machine<C>> {
        let mut place = self.lock();
        if leave_view {
            place.view();
        }
        let machine = place.machine.take();
        machine.expect("the one member that takes it has brought it back")
    }

    /// Shows the contents of `machine`, which are at `version`, and wakes all who wait for others.
    pub(super) fn show(&self, machine: Box<Machine<C>>, version: Option<Version>) {
        let mut place = self.lock();
        place.version = version;
        place.shown += 1;
        // Dropped when the lock is released: there may be much that only it has kept.
        let former = place.view.take();
        place.machine = Some(machine);
        self.release(place);
        drop(former);
    }

    /// What is shown is also what there is at `version`. Nobody is woken: contents are as they were. Where nothing was
    /// written there is still no version.
    pub(super) fn pass(&self, version: Option<Version>) {
        let mut place = self.lock();
        if place.version.is_some() && version.is_some() {
            place.version = version;
            place.view = place.view.take().map(|view| view.at(version));
        }
    }

    /// Ends what is shown with the machine of a member that has failed. Where there is a view of what was shown before
    /// the failure, that stays. Else the machine's contents take its place, with whatever the failure has left of the
    /// command that it came from: without them reads would fall behind what was acknowledged.
    pub(super) fn leave(&self, machine: Box<Machine<C>>) {
        let mut place = self.lock();
        let of_no_use = match place.view {
            Some(_) => Some(machine),
            None => place.machine.replace(machine),
        };
        self.release(place);
        drop(of_no_use);
    }

    fn release(&self, place: MutexGuard<'_, Place<C>>) {
        let (shown, waiting) = (place.shown, place.waiting);
        drop(place);
        if waiting > 0 {
            self.back.notify_all();
        }
        self.shown.set(shown);
    }

    // ---- The handles ----

    /// What is shown. Waits while commands are applied and nobody has looked since those before them.
    pub(super) fn view(&self) -> View<C> {
        let mut place = self.lock();
        loop {
            if let Some(view) = place.view() {
                return view;
            }
            place.waiting += 1;
            let woken = self.back.wait(place);
            place = woken.unwrap_or_else(PoisonError::into_inner);
            place.waiting -= 1;
        }
    }

    /// How far what is shown has come.
    pub(super) fn version(&self) -> Option<Version> {
        self.lock().version
    }

    /// What `look` makes of the machine and its version; `None` while commands are applied, and after a failure.
    pub(super) fn look<R>(
        &self,
        look: impl FnOnce(&Machine<C>, Option<Version>) -> R,
    ) -> Option<R> {
        let place = self.lock();
        let machine = place.machine.as_ref()?;
        Some(look(machine, place.version))
    }

    /// Changes each time contents are shown.
    pub(super) const fn shown(&self) -> &Arc<Watched<u64>> {
        &self.shown
    }

    fn lock(&self) -> MutexGuard<'_, Place<C>> {
        // Every change is whole when the lock is released, also by a panic.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Collection> Place<C> {
    /// What is shown; `None` while it cannot be seen.
    fn view(&mut self) -> Option<View<C>> {
        if self.view.is_none() {
            let machine = self.machine.as_ref()?;
            self.view = Some(View::of(machine, self.version));
        }
        self.view.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::id::Digest;
    use crate::protocol::collections::{Batch, Map, MapOperation, Outcome};
    use crate::protocol::raft::{Incarnation, Index};

    static CLONES: AtomicU64 = AtomicU64::new(0);

    /// Counts how often values were cloned.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Counted(u64);

    impl Clone for Counted {
        fn clone(&self) -> Self {
            CLONES.fetch_add(1, Ordering::Relaxed);
            Self(self.0)
        }
    }

    type Numbers = Map<u64, u64>;

    fn version(index: u64) -> Option<Version> {
        Some(Version {
            incarnation: Incarnation(Digest::from_bytes([1; 32])),
            index: Index(index),
        })
    }

    fn insert<V: crate::protocol::collections::Value>(
        machine: &mut Machine<Map<u64, V>>,
        index: u64,
        key: u64,
        value: V,
    ) {
        let mut batch = Batch::<Map<u64, V>>::new();
        batch.push::<Option<V>>(&MapOperation::Insert(key, value));
        let command = batch.into_command(Map::<u64, V>::fingerprint());
        let outcome = machine.apply(Index(index), &command);
        assert!(matches!(outcome, Outcome::Applied(_)));
    }

    /// One that shows a map with key 1 at index 1.
    fn showcase() -> Showcase<Numbers> {
        let showcase = Showcase::new();
        let mut machine = showcase.take(false);
        insert(&mut machine, 1, 1, 10);
        showcase.show(machine, version(1));
        showcase
    }

    fn values(view: &View<Numbers>) -> Vec<u64> {
        view.values().copied().collect()
    }

    #[test]
    fn what_was_looked_at_is_seen_until_something_else_is_shown() {
        let showcase = showcase();
        assert_eq!(values(&showcase.view()), [10]);
        let mut machine = showcase.take(false);
        insert(&mut machine, 2, 2, 20);
        let during = showcase.view();
        assert_eq!((values(&during), during.version()), (vec![10], version(1)));
        assert!(showcase.look(|_, _| ()).is_none());
        showcase.show(machine, version(2));
        let after = showcase.view();
        assert_eq!(
            (values(&after), after.version()),
            (vec![10, 20], version(2))
        );
        assert_eq!(values(&during), [10]);
        assert_eq!(showcase.version(), version(2));
        assert_eq!(showcase.shown().get(), 2);
    }

    #[test]
    fn a_version_goes_on_where_contents_stay() {
        let showcase = Showcase::<Numbers>::new();
        showcase.pass(version(1));
        assert_eq!(showcase.view().version(), None, "nothing was written");
        let mut machine = showcase.take(false);
        insert(&mut machine, 2, 1, 10);
        showcase.show(machine, version(2));
        let before = showcase.view();
        showcase.pass(version(3));
        showcase.pass(None);
        let after = showcase.view();
        assert_eq!(
            (before.version(), after.version()),
            (version(2), version(3))
        );
        assert_eq!((values(&after), showcase.version()), (vec![10], version(3)));
        assert_eq!(showcase.shown().get(), 1, "there is nothing else to see");
    }

    #[test]
    fn who_looks_first_while_commands_are_applied_waits_for_what_they_lead_to() {
        let showcase = showcase();
        let mut machine = showcase.take(false);
        assert_eq!(showcase.version(), version(1));
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| values(&showcase.view()));
            insert(&mut machine, 2, 2, 20);
            // Nothing is gained by waiting longer: there is nothing to see before.
            while showcase.lock().waiting == 0 {
                std::thread::yield_now();
            }
            showcase.show(machine, version(2));
            assert_eq!(looking.join().unwrap(), [10, 20]);
        });
    }

    #[test]
    fn a_view_is_left_on_demand() {
        let showcase = showcase();
        let machine = showcase.take(true);
        assert_eq!(values(&showcase.view()), [10]);
        showcase.show(machine, version(2));
    }

    #[test]
    fn after_a_failure_reads_go_neither_back_nor_beyond_what_was_looked_at() {
        for (has_looked, expected) in [(true, vec![10]), (false, vec![10, 20])] {
            let showcase = showcase();
            let mut machine = showcase.take(has_looked);
            insert(&mut machine, 2, 2, 20);
            std::thread::scope(|scope| {
                let looking = scope.spawn(|| values(&showcase.view()));
                showcase.leave(machine);
                assert_eq!(looking.join().unwrap(), expected);
            });
            let left = showcase.view();
            assert_eq!((values(&left), left.version()), (expected, version(1)));
            assert_eq!(showcase.look(|_, _| ()).is_none(), has_looked);
        }
    }

    #[test]
    fn what_nobody_looks_at_is_not_copied() {
        let showcase = Showcase::<Map<u64, Counted>>::new();
        let write = |index: u64| {
            let before = CLONES.load(Ordering::Relaxed);
            let mut machine = showcase.take(false);
            insert(&mut machine, index, index % 100, Counted(index));
            showcase.show(machine, version(index));
            CLONES.load(Ordering::Relaxed) - before
        };
        let filled: u64 = (1..=100).map(write).sum();
        assert!(filled >= 100);
        // One for those who follow the changes.
        assert_eq!(write(101), 1);
        let view = showcase.view();
        assert!(write(102) > 1, "the view keeps what it shows");
        assert_eq!(view.get(&2), Some(&Counted(2)));
        drop(view);
        assert_eq!(write(103), 1);
    }
}
