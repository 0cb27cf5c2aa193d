//! What it costs a writer that readers join, and how long these take. Writer and late reader are processes of their own,
//! so that the memory of each can be told: this program, started again with another role.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use smalti::Network;
use smalti::collections::MapWriter;
use smalti::discovery::PeerAddr;
use tokio::sync::oneshot;

use super::common::{CALLS, processor_time, runtime};
use super::{EXTENDED, ID, Numbers, SPAN, node, node_at};

/// What there is to catch up with.
const ENTRIES: u64 = 1_000_000;
/// Inserts that wait at the same time: as many as make the writer's full rate.
const IN_FLIGHT: usize = 256;
/// Readers that follow one writer.
const READERS: usize = 16;

const WRITER: &str = "join-writer";
const READER: &str = "join-reader";

/// Which processors the two processes run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    /// All of them, for both.
    Shared,
    /// One each, as on two machines. Takes two cores, and Linux's `taskset`.
    OneEach,
}

impl Cores {
    /// Said to the writer, which starts the reader.
    const ONE_EACH: &'static str = "one-core-each";

    /// A command that runs `program` on the core of this number, where each has one.
    fn command(self, core: usize, program: &Path) -> Command {
        match self {
            Self::Shared => Command::new(program),
            Self::OneEach => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
        }
    }
}

/// Plays the role that this process was started for, if it was for one.
pub(crate) fn play(arguments: &[String]) -> bool {
    match arguments {
        [role] if role == WRITER => runtime(2).block_on(write(Cores::Shared)),
        [role, cores] if role == WRITER && cores == Cores::ONE_EACH => {
            runtime(2).block_on(write(Cores::OneEach));
        }
        [role, address] if role == READER => {
            let address = address.parse().expect("the writer gives an address");
            runtime(2).block_on(read(address));
        }
        _ => return false,
    }
    true
}

/// A reader joins a map of a million entries while its writer writes as fast as it can.
pub(crate) fn join(cores: Cores) {
    let mut arguments = vec![WRITER];
    if cores == Cores::OneEach {
        arguments.push(Cores::ONE_EACH);
    }
    let mut writer = start(cores, 0, &arguments, Stdio::inherit());
    let ended = writer.wait().expect("it was started");
    assert!(ended.success(), "the writer has failed");
}

fn start(cores: Cores, core: usize, arguments: &[&str], output: Stdio) -> Child {
    let this = std::env::current_exe().expect("a process knows its program");
    let mut command = cores.command(core, &this);
    let started = command.args(arguments).stdout(output).spawn();
    started.expect("this program, and taskset for a core each, can be started")
}

/// The most memory that this process has had, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or_default()
        / 1_024
}

/// How fast inserts went.
struct Rate {
    per_second: f64,
    /// What each has cost this process, in us of its processor's time.
    cost: f64,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, cost } = self;
        write!(f, "{per_second:.0} inserts/s at {cost:.1} us")
    }
}

/// Writes as fast as it can until `is_over`.
async fn write_until(writer: &MapWriter<u64, u64>, mut is_over: impl FnMut() -> bool) -> Rate {
    let (start, since) = (Instant::now(), processor_time());
    let (mut next, mut written) = (0, 0_u64);
    let mut calls = FuturesUnordered::new();
    loop {
        let goes_on = !is_over();
        while goes_on && calls.len() < IN_FLIGHT {
            // Anywhere in the map, each time elsewhere.
            next = (next + 7_919) % ENTRIES;
            calls.push(writer.insert(next, next));
        }
        match calls.next().await {
            Some(result) => drop(result.expect("a majority is up")),
            None => break,
        }
        written += 1;
    }
    let cost = processor_time() - since;
    Rate {
        per_second: written as f64 / start.elapsed().as_secs_f64(),
        cost: cost.as_secs_f64() * 1e6 / written as f64,
    }
}

async fn write_for(writer: &MapWriter<u64, u64>, span: Duration) -> Rate {
    let start = Instant::now();
    write_until(writer, || start.elapsed() > span).await
}

async fn fill(writer: &MapWriter<u64, u64>, entries: u64) {
    for first in (0..entries).step_by(EXTENDED as usize) {
        let all = (first..first + EXTENDED).map(|number| (number, number));
        writer.extend(all).await.expect("a majority is up");
    }
}

/// The role of the writer.
async fn write(cores: Cores) {
    let network = node(None).await;
    let writer = Numbers::online_writer(&network, ID).await;
    let writer = writer.expect("alone it is a majority");
    fill(&writer, ENTRIES).await;
    let (alone, memory_before) = (write_for(&writer, SPAN * 2).await, peak_memory());
    let address = network.local().addr().to_string();
    let mut reader = start(cores, 1, &[READER, &address], Stdio::piped());
    let output = reader.stdout.take().expect("it is piped");
    let (tell, mut told) = oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let level = BufReader::new(output).lines().next();
        // Nobody waits any more only where the writer has failed.
        let _ = tell.send(());
        level.and_then(Result::ok).unwrap_or_default()
    });
    let mut is_level = false;
    let during = write_until(&writer, || {
        is_level |= told.try_recv().is_ok();
        is_level
    })
    .await;
    let level = reading.await.expect("no panic");
    let followed = write_for(&writer, SPAN * 2).await;
    let on = match cores {
        Cores::Shared => "all cores shared",
        Cores::OneEach => "one core each",
    };
    println!("  join, {on}: {level}");
    println!(
        "  join, {on}: the writer alone: {alone}; while a reader joins: {during}, {:.0} %; while it follows: {followed}; peak memory \
         of the writer: {memory_before} MiB before, {} MiB after",
        during.per_second / alone.per_second * 100.0,
        peak_memory()
    );
    network.shutdown().await;
    assert!(reader.wait().expect("it was started").success());
}

/// The role of the late reader, which tells the writer by a line when it has all.
async fn read(writer: PeerAddr) {
    let network = node_at(Some(writer)).await;
    let (start, since) = (Instant::now(), processor_time());
    let reader = Numbers::online_reader(&network, ID).await;
    let reader = reader.expect("the writer is up");
    let (took, cost) = (start.elapsed(), processor_time() - since);
    assert_eq!(reader.len() as u64, ENTRIES);
    println!(
        "the reader has {ENTRIES} entries and is level after {took:.2?}, at {cost:.2?} of its processor's time and a peak memory \
         of {} MiB",
        peak_memory()
    );
    std::io::stdout().flush().expect("the writer reads it");
    // Until the writer has gone.
    reader.when().offline().await;
    network.shutdown().await;
}

/// One writer and sixteen readers, all in one process.
pub(crate) async fn crowd() {
    let writing = node(None).await;
    let writer = Numbers::online_writer(&writing, ID).await;
    let writer = writer.expect("alone it is a majority");
    let alone = write_for(&writer, SPAN).await;
    let networks: Vec<Network> = join_all((0..READERS).map(|_| node(Some(&writing)))).await;
    let opening = networks.iter().map(|it| Numbers::online_reader(it, ID));
    let opened = join_all(opening).await.into_iter();
    let readers: Vec<_> = opened.map(|it| it.expect("the writer is up")).collect();
    let mut times = Vec::with_capacity(CALLS);
    for number in 0..CALLS as u64 {
        let start = Instant::now();
        let written = writer.insert(number, number).await;
        let version = written.expect("a majority is up").version;
        join_all(readers.iter().map(|it| it.when().reaches(version))).await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (p50, p99) = (times[CALLS / 2], times[CALLS * 99 / 100]);
    let start = Instant::now();
    let rate = write_for(&writer, SPAN).await;
    let written = start.elapsed();
    let last = writer.insert(0, 0).await.expect("a majority is up").version;
    join_all(readers.iter().map(|it| it.when().reaches(last))).await;
    println!(
        "  {READERS} readers in one process: insert until all have it: p50 {p50:.0?}  p99 {p99:.0?}"
    );
    println!(
        "  {READERS} readers: {rate}, all nodes together, of which all had the last {:.2?} after it was written; without readers: {alone}",
        start.elapsed() - written
    );
    for network in networks.iter().chain([&writing]) {
        network.shutdown().await;
    }
}
