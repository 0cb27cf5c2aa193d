//! Starts the processes, kills them, and checks what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::tally::{Say, Tally, Writer};
use crate::{Options, Result};

const PROCESSES: u32 = 3;

/// What a process has said, and which.
type Said = (u32, Result<Say, String>);

/// Processes of one round. They are killed when this is dropped, each by its own id.
struct Running {
    children: Vec<Child>,
    said: Receiver<Said>,
}

impl Running {
    /// Kills all, and gives what they have said that was not heard yet.
    fn kill(mut self) -> Receiver<Said> {
        self.end();
        // Dropping it ends nothing twice.
        std::mem::replace(&mut self.said, channel().1)
    }

    fn end(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself, which has been reported then.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What all rounds together have shown.
#[derive(Default)]
struct Account {
    /// Commands that were acknowledged.
    acknowledged: BTreeMap<Writer, BTreeSet<u64>>,
    /// The state as it was read last.
    tally: Tally,
}

impl Account {
    fn acknowledge(&mut self, writer: Writer, number: u64) {
        self.acknowledged.entry(writer).or_default().insert(number);
    }

    fn count(&self) -> usize {
        self.acknowledged.values().map(BTreeSet::len).sum()
    }

    /// Whether a state that was read linearizably is one that may be.
    fn check(
        &mut self,
        tally: Tally,
        acknowledged: &BTreeMap<Writer, BTreeSet<u64>>,
    ) -> Result<()> {
        for (writer, applied) in &tally.0 {
            if !applied.repeated.is_empty() {
                let numbers = &applied.repeated;
                return Err(format!("applied twice: {numbers:?} of {writer:?}").into());
            }
        }
        for (writer, numbers) in acknowledged {
            let applied = tally.0.get(writer).cloned().unwrap_or_default();
            let lost: Vec<_> = numbers.iter().filter(|it| !applied.has(**it)).collect();
            if !lost.is_empty() {
                return Err(format!("acknowledged and lost: {lost:?} of {writer:?}").into());
            }
        }
        self.tally = tally;
        Ok(())
    }
}

/// Runs all rounds, and one more that only reads.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (directory, is_ours) = match &options.directory {
        Some(directory) => (directory.clone(), false),
        None => {
            let name = format!("smalti-kill9-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    std::fs::create_dir(&directory)
        .map_err(|error| format!("{} cannot be made: {error}", directory.display()))?;
    let addresses = free_addresses()?;
    let begun = Instant::now();
    let mut account = Account::default();
    for round in 0..=options.rounds {
        let is_last = round == options.rounds;
        let started = Instant::now();
        let running = start(options, round, &addresses, &directory)?;
        let target = if is_last { 0 } else { options.acknowledged };
        let recovered = watch(options, round, &running, &mut account, target)?;
        // Said before the kill, so acknowledged; the rest is the next round's to find.
        for (number, said) in running.kill() {
            if let Say::Acknowledged(command) = said? {
                let writer = Writer {
                    number,
                    life: round,
                };
                account.acknowledge(writer, command);
            }
        }
        let what = if is_last { "read" } else { "killed" };
        println!(
            "round {round}: back after {:.2} s, {what} after {:.2} s, {} acknowledged so far",
            recovered.as_secs_f64(),
            started.elapsed().as_secs_f64(),
            account.count(),
        );
    }
    let unacknowledged: u64 =
        account.tally.0.values().map(|it| it.next).sum::<u64>() - account.count() as u64;
    println!(
        "{} kills of {PROCESSES} processes in {:.0} s: {} acknowledged, none lost, none applied twice; \
         {unacknowledged} more were applied or given up unacknowledged",
        options.rounds,
        begun.elapsed().as_secs_f64(),
        account.count(),
    );
    if is_ours {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

/// Ports of loopback that are free now.
fn free_addresses() -> Result<Vec<SocketAddr>> {
    let sockets: Vec<UdpSocket> = (0..PROCESSES)
        .map(|_| UdpSocket::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<_>>()?;
    let addresses = sockets.iter().map(UdpSocket::local_addr);
    Ok(addresses.collect::<std::io::Result<_>>()?)
}

fn start(
    options: &Options,
    life: u32,
    addresses: &[SocketAddr],
    directory: &Path,
) -> Result<Running> {
    let (sender, said) = channel();
    let mut running = Running {
        children: Vec::new(),
        said,
    };
    for number in 0..PROCESSES {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node");
        command.args(["--number", &number.to_string()]);
        command.args(["--life", &life.to_string()]);
        command.args(["--in-flight", &options.in_flight.to_string()]);
        let own: PathBuf = directory.join(number.to_string());
        command.arg("--directory").arg(own);
        for address in addresses {
            command.args(["--address", &address.to_string()]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take();
        running.children.push(child);
        let Some(out) = out else {
            return Err("a process has no output".into());
        };
        let sender = sender.clone();
        std::thread::spawn(move || listen(number, BufReader::new(out), &sender));
    }
    Ok(running)
}

/// Passes on what a process says, until it ends. A line without its end was not said.
fn listen(number: u32, mut out: impl BufRead, sender: &Sender<Said>) {
    let mut line = String::new();
    while out.read_line(&mut line).is_ok_and(|len| len > 0) && line.ends_with('\n') {
        // Nobody listens any more where the round has failed.
        if sender.send((number, line.trim_end().parse())).is_err() {
            return;
        }
        line.clear();
    }
}

/// Follows a round until so many commands more are acknowledged, and all processes have read. Gives the time until the
/// last of them had.
fn watch(
    options: &Options,
    life: u32,
    running: &Running,
    account: &mut Account,
    target: u64,
) -> Result<Duration> {
    let started = Instant::now();
    let limit = Duration::from_secs(options.timeout);
    // A read must see what was acknowledged before it began: all of the earlier rounds.
    let earlier = account.acknowledged.clone();
    let (mut read, mut acknowledged) = (BTreeSet::new(), 0);
    let mut recovered = Duration::ZERO;
    while read.len() < PROCESSES as usize || acknowledged < target {
        let left = limit.saturating_sub(started.elapsed());
        let (number, said) = match running.said.recv_timeout(left) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "round {life} is not done after {} s: {} of {PROCESSES} are back, {acknowledged} of {target} acknowledged; see --timeout",
                    options.timeout,
                    read.len()
                )
                .into());
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err("all processes have ended by themselves".into());
            }
        };
        match said? {
            Say::Read(tally) => {
                account.check(tally, &earlier)?;
                read.insert(number);
                recovered = started.elapsed();
            }
            Say::Acknowledged(command) => {
                account.acknowledge(Writer { number, life }, command);
                acknowledged += 1;
            }
            Say::Failed(why) => return Err(format!("process {number}: {why}").into()),
        }
    }
    Ok(recovered)
}
