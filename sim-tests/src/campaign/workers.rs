//! Seeds on several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::processor_time::Stopwatch;
use super::seeds::Seeds;
use crate::panics::catch;
use crate::{Options, Outcome, Scenario};

/// Stack of a worker in bytes: as much as a main thread has, since debug builds of deep state
/// machines need it.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// In which order seeds are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// From the smallest to the greatest.
    Ascending,
    /// Every second one first, then those in between: beside each other run others than ascending.
    Alternating,
}

impl Order {
    /// Which of `count` seeds is begun at the place `index`.
    const fn seed_at(self, index: u64, count: u64) -> u64 {
        let odd = count / 2;
        match self {
            Self::Ascending => index,
            Self::Alternating if index < odd => index * 2 + 1,
            Self::Alternating => (index - odd) * 2,
        }
    }
}

/// A seed that has run.
pub(super) struct Finished<R> {
    pub(super) seed: u64,
    pub(super) result: R,
    /// Time of one processor that it took.
    pub(super) taken: Duration,
}

/// Runs `work` for every seed, in `order`, on `jobs` threads that start now and end with it, and
/// hands each result to `finished` on this thread as it comes. Where `finished` fails, the seeds not yet begun are left out.
pub(super) fn for_each_seed<R: Send, E>(
    seeds: &Seeds,
    order: Order,
    jobs: Option<NonZeroUsize>,
    work: impl Fn(u64) -> R + Sync,
    mut finished: impl FnMut(Finished<R>) -> Result<(), E>,
) -> Result<(), E> {
    let jobs = jobs.or_else(|| thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZeroUsize::get) as u64;
    let next = AtomicU64::new(0);
    let (results, arrived) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        for number in 0..jobs.min(seeds.count()) {
            let (next, work, results) = (&next, &work, results.clone());
            thread::Builder::new()
                .name(format!("seeds {number}"))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, move || {
                    while let Some(seed) = take(next, seeds, order) {
                        let stopwatch = Stopwatch::start();
                        let result = work(seed);
                        let taken = stopwatch.read();
                        let sent = results.send(Finished {
                            seed,
                            result,
                            taken,
                        });
                        if sent.is_err() {
                            return;
                        }
                    }
                })
                .expect("the system starts a thread for each processor");
        }
        drop(results);
        // The receiver goes with the closure, so that workers end where this does.
        let arrived = arrived;
        for result in &arrived {
            finished(result)?;
        }
        Ok(())
    })
}

fn take(next: &AtomicU64, seeds: &Seeds, order: Order) -> Option<u64> {
    let (index, count) = (next.fetch_add(1, Ordering::Relaxed), seeds.count());
    (index < count).then(|| seeds.first() + order.seed_at(index, count))
}

/// Runs one seed; where the scenario itself panics, that is its failure.
pub(super) fn run_seed(scenario: &dyn Scenario, seed: u64, options: &Options) -> Outcome {
    catch(|| scenario.run(seed, options)).unwrap_or_else(|cause| Outcome {
        failure: Some(cause),
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_begins_every_seed_once() {
        for (order, expected) in [
            (Order::Ascending, [0, 1, 2, 3, 4]),
            (Order::Alternating, [1, 3, 0, 2, 4]),
        ] {
            assert_eq!(
                [0, 1, 2, 3, 4].map(|index| order.seed_at(index, 5)),
                expected
            );
        }
        assert_eq!(
            [0, 1].map(|index| Order::Alternating.seed_at(index, 2)),
            [1, 0]
        );
        assert_eq!(Order::Alternating.seed_at(0, 1), 0);
    }
}
