//! The worker on a storage that notes what it is asked, and fails when it is told to.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::id::{Instance, NetworkId, SecretKey};
use crate::protocol::raft::{HardState, Runs, Term};
use crate::runtime::{
    BindError, BoxFuture, Clock, Endpoint, EndpointConfig, Entropy, OpenStore, Spawner, Stores,
    Transport,
};
use crate::time::{Instant, WallTime};

/// A runtime without a world: its tasks go on when they are asked to, and its disk never makes wait.
#[derive(Default)]
struct ByHand(Mutex<Vec<BoxFuture<'static, ()>>>);

impl ByHand {
    /// Lets all tasks go on as far as they get.
    fn turn(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap());
        let mut context = Context::from_waker(Waker::noop());
        tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        self.0.lock().unwrap().extend(tasks);
    }
}

impl Spawner for ByHand {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.0.lock().unwrap().push(task);
    }

    fn blocking(
        &self,
        _name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        // As in production a panic ends the work alone.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        Box::pin(std::future::ready(()))
    }
}

impl Clock for ByHand {
    fn now(&self) -> Instant {
        Instant::ZERO
    }

    fn wall(&self) -> WallTime {
        WallTime::default()
    }

    fn sleep_until(&self, _deadline: Instant, _reason: &'static str) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Entropy for ByHand {
    fn seed(&self, _label: &str) -> [u8; 32] {
        [0; 32]
    }
}

impl Transport for ByHand {
    fn bind(&self, _config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>> {
        let refusal = BindError::Configuration("there is no network".into());
        Box::pin(std::future::ready(Err(refusal)))
    }
}

impl Stores for ByHand {
    fn open_store(
        &self,
        _directory: PathBuf,
        _network: NetworkId,
        _given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>> {
        Box::pin(std::future::ready(Err(StorageError::Closed)))
    }
}

/// Notes calls; fails or panics at the one that it is told to.
struct Scripted {
    log: Arc<Mutex<Vec<String>>>,
    fails_at: Option<&'static str>,
    panics_at: Option<&'static str>,
}

impl Scripted {
    fn note(&self, call: String) -> Result<(), StorageError> {
        let is = |at: Option<&str>| at == Some(call.as_str());
        let (fails, panics) = (is(self.fails_at), is(self.panics_at));
        self.log.lock().unwrap().push(call);
        assert!(!panics, "as scripted");
        if fails { Err(broken()) } else { Ok(()) }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.log.lock().unwrap().push("closed".to_owned());
    }
}

impl Storage for Scripted {
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError> {
        self.note(format!("load {}", name(group)))?;
        Ok((*group == GroupId::from("a")).then(found))
    }

    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError> {
        let boot = write.hard_state.map_or(0, |it| it.boot);
        self.note(format!("write {boot} of {}", name(group)))
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.note("sync".to_owned())
    }

    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError> {
        self.note(format!("forget {}", name(group)))
    }
}

fn name(group: &GroupId) -> &'static str {
    ["a", "b", "c"]
        .into_iter()
        .find(|name| GroupId::from(*name) == *group)
        .unwrap()
}

/// What is stored of group a.
fn found() -> Recovered {
    Recovered {
        hard_state: hard_state(1),
        snapshot: None,
        entries: Vec::new(),
    }
}

fn hard_state(boot: u64) -> HardState {
    HardState {
        instance: Instance::from_bytes([7; 16]),
        boot,
        runs: Runs::NONE,
        incarnation: None,
        term: Term(0),
        vote: None,
        seals: [None; 4],
    }
}

fn broken() -> StorageError {
    StorageError::Disk {
        doing: "testing",
        cause: "as scripted".to_owned(),
    }
}

/// A write that can be told from others.
fn write(boot: u64) -> Box<Write> {
    Box::new(Write {
        hard_state: Some(hard_state(boot)),
        ..Write::default()
    })
}

/// The store under test, and all that has happened.
struct Bench {
    runtime: Arc<ByHand>,
    tasks: Tasks,
    store: Store,
    log: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(None, None)
    }

    fn with(fails_at: Option<&'static str>, panics_at: Option<&'static str>) -> Self {
        let runtime = Arc::new(ByHand::default());
        let log = Arc::default();
        let tasks = Tasks::new(runtime.clone());
        let storage = Scripted {
            log: Arc::clone(&log),
            fails_at,
            panics_at,
        };
        let store = Store::start(&tasks, Box::new(storage));
        Self {
            runtime,
            tasks,
            store,
            log,
        }
    }

    /// The output of `future`, which needs no more than one turn of the worker.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        self.runtime.turn();
        match future.poll(&mut context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("one turn was not enough"),
        }
    }

    fn open(&self, group: &'static str) -> Result<(GroupStore, Option<Recovered>), StorageError> {
        let log = Arc::clone(&self.log);
        let done: Done = Box::new(move |result| {
            log.lock().unwrap().push(match result {
                Ok(id) => format!("{group}: {} durable", id.0),
                Err(StorageError::Closed) => format!("{group}: closed"),
                Err(error) => format!("{group}: {error}"),
            });
        });
        self.wait(self.store.open(GroupId::from(group), done))
    }

    /// Opens a group that is new.
    fn opened(&self, group: &'static str) -> GroupStore {
        self.open(group).unwrap().0
    }

    /// What has happened since this was last asked.
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn turn(&self) -> Vec<String> {
        self.runtime.turn();
        self.log()
    }
}

#[test]
fn one_sync_serves_all_groups_and_each_is_told_of_its_last_write() {
    let bench = Bench::new();
    let (a, b, _c) = (bench.opened("a"), bench.opened("b"), bench.opened("c"));
    assert_eq!(bench.log(), ["load a", "load b", "load c"]);
    a.write(WriteId(1), write(11));
    b.write(WriteId(1), write(21));
    a.write(WriteId(2), write(12));
    let expected = [
        "write 11 of a",
        "write 21 of b",
        "write 12 of a",
        "sync",
        "a: 2 durable",
        "b: 1 durable",
    ];
    assert_eq!(bench.turn(), expected);
    assert_eq!(bench.turn(), [""; 0], "nothing waits, so nothing is synced");
    b.write(WriteId(2), write(22));
    assert_eq!(bench.turn(), ["write 22 of b", "sync", "b: 2 durable"]);
}

#[test]
fn a_group_finds_what_is_stored_of_it_and_is_open_once() {
    let bench = Bench::new();
    let (a, a_found) = bench.open("a").unwrap();
    assert_eq!(a_found, Some(found()));
    let (_b, b_found) = bench.open("b").unwrap();
    assert_eq!(b_found, None);
    let refused = bench.open("a").map(drop);
    assert!(matches!(refused, Err(StorageError::Contradiction { .. })));
    a.write(WriteId(1), write(1));
    bench.turn();
    drop(a);
    assert!(
        bench.open("a").is_ok(),
        "it was closed, and the store was not"
    );
}

#[test]
fn what_a_dropped_handle_has_written_is_carried_out_before_what_comes_later() {
    let bench = Bench::new();
    let a = bench.opened("a");
    a.write(WriteId(1), write(11));
    drop(a);
    bench.log();
    let again = bench.opened("a");
    assert_eq!(bench.log(), ["write 11 of a", "load a", "sync"]);
    again.write(WriteId(1), write(12));
    assert_eq!(bench.turn(), ["write 12 of a", "sync", "a: 1 durable"]);
}

#[test]
fn what_is_forgotten_is_forgotten_durably_and_after_what_was_written() {
    let bench = Bench::new();
    let (a, b) = (bench.opened("a"), bench.opened("b"));
    a.write(WriteId(1), write(11));
    b.write(WriteId(1), write(21));
    bench.log();
    assert_eq!(bench.wait(a.forget()), Ok(()));
    let expected = [
        "write 11 of a",
        "write 21 of b",
        "forget a",
        "sync",
        "a: 1 durable",
        "b: 1 durable",
    ];
    assert_eq!(bench.log(), expected);
}

#[test]
fn a_failure_is_told_to_every_group_and_closes_the_store_for_good() {
    let table: [(&str, &[&str]); 3] = [
        ("sync", &["write 11 of a", "write 12 of a", "sync"]),
        ("write 11 of a", &["write 11 of a"]),
        ("write 12 of a", &["write 11 of a", "write 12 of a"]),
    ];
    for (fails_at, tried) in table {
        let bench = Bench::with(Some(fails_at), None);
        let (a, b) = (bench.opened("a"), bench.opened("b"));
        bench.log();
        a.write(WriteId(1), write(11));
        a.write(WriteId(2), write(12));
        let told = [format!("a: {}", broken()), format!("b: {}", broken())];
        let expected: Vec<_> = tried.iter().map(ToString::to_string).chain(told).collect();
        assert_eq!(bench.turn(), expected, "{fails_at}");

        a.write(WriteId(3), write(13));
        b.write(WriteId(1), write(21));
        assert_eq!(bench.turn(), [""; 0], "{fails_at}: nothing is tried again");
        assert_eq!(bench.open("c").map(drop), Err(StorageError::Closed));
        assert_eq!(bench.wait(b.forget()), Err(StorageError::Closed));
        assert_eq!(bench.log(), [""; 0], "{fails_at}: nor anything else");
        bench.wait(bench.store.close());
        assert_eq!(bench.log(), ["closed"], "{fails_at}");
    }
}

#[test]
fn who_waits_for_an_answer_learns_of_the_failure_too() {
    let bench = Bench::with(Some("load b"), None);
    let a = bench.opened("a");
    a.write(WriteId(1), write(11));
    assert_eq!(bench.open("b").map(drop), Err(broken()));

    let bench = Bench::with(Some("forget a"), None);
    let a = bench.opened("a");
    assert_eq!(bench.wait(a.forget()), Err(broken()));
}

#[test]
fn a_panic_of_the_storage_is_a_failure() {
    let bench = Bench::with(None, Some("sync"));
    let a = bench.opened("a");
    bench.log();
    a.write(WriteId(1), write(11));
    let log = bench.turn();
    assert_eq!(log[..3], ["write 11 of a", "sync", "closed"]);
    assert!(log[3].starts_with("a: the disk failed"), "{}", log[3]);
    a.write(WriteId(2), write(12));
    assert_eq!(bench.turn(), [""; 0]);
    assert_eq!(bench.open("b").map(drop), Err(StorageError::Closed));
    bench.wait(bench.store.close());
}

#[test]
fn closing_makes_durable_what_is_queued_and_ends_the_worker() {
    let bench = Bench::new();
    let (a, b) = (bench.opened("a"), bench.opened("b"));
    bench.log();
    a.write(WriteId(1), write(11));
    let closing = bench.store.close();
    bench.wait(closing);
    let expected = [
        "write 11 of a",
        "sync",
        "a: 1 durable",
        "a: closed",
        "b: closed",
        "closed",
    ];
    assert_eq!(bench.log(), expected);
    bench.wait(bench.tasks.ended());
    a.write(WriteId(2), write(12));
    assert_eq!(bench.open("c").map(drop), Err(StorageError::Closed));
    assert_eq!(bench.wait(b.forget()), Err(StorageError::Closed));
    bench.wait(bench.store.close());
    assert_eq!(bench.turn(), [""; 0]);
}

#[test]
fn a_store_that_nobody_has_is_closed_once_all_is_durable() {
    let Bench {
        runtime,
        tasks,
        store,
        log,
    } = Bench::new();
    let bench = Bench {
        store: store.clone(),
        runtime,
        tasks,
        log,
    };
    let a = bench.opened("a");
    a.write(WriteId(1), write(11));
    bench.tasks.cancel();
    drop((a, store));
    let Bench {
        runtime,
        tasks,
        store,
        log,
    } = bench;
    drop(store);
    runtime.turn();
    let log = log.lock().unwrap().clone();
    assert_eq!(log, ["load a", "write 11 of a", "sync", "closed"]);
    assert!(futures_util::FutureExt::now_or_never(tasks.ended()).is_some());
}

#[test]
fn an_opening_that_is_given_up_leaves_the_group_free() {
    let bench = Bench::new();
    let done: Done = Box::new(|_| ());
    let mut opening = Box::pin(bench.store.open(GroupId::from("a"), done));
    let mut context = Context::from_waker(Waker::noop());
    assert!(opening.as_mut().poll(&mut context).is_pending());
    drop(opening);
    assert!(bench.open("a").is_ok());
}
