//! A simulated disk: what is not synced may be lost or torn, and what is may rot.
//!
//! A [`SimDisk`] is the disk of one host and outlives it. Each life of the host has a [`Mount`] of it, which
//! implements [`Disk`](smalti_core::runtime::Disk); a crash ends that life's mount and leaves on the disk what was durable, and of the
//! rest what chance lets through: any subset of sectors, a prefix with its last write torn, all or nothing.
//! Directory operations are durable once they have returned, as the trait demands.
//!
//! All calls are done at once, and cost simulated [time](SimDisk::take_cost). On the disk of a host of a
//! [`Simulation`](crate::Simulation) a crash that comes before that time is over falls between any two of the
//! calls. Elsewhere a sync has ended when it returns.
//!
//! What may go wrong, beside crashes, is in [`DiskFaults`]. A sync that fails leaves an unknown part durable
//! and forgets the rest, as Linux does: reads go on returning it and the next sync succeeds, yet it is gone
//! after a crash (Rebello et al., Can Applications Recover from fsync Failures?, ATC 2020).

mod file;
mod mount;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

pub use self::mount::Mount;

pub(crate) use self::file::Place;

use self::file::FileState;
use crate::rng::{self, Streams};

/// What goes wrong on a disk, and how slow it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFaults {
    /// How many reads in a million fail.
    pub read_error_ppm: u32,
    /// How many writes, changes of length and directory operations in a million fail. A write that fails
    /// may have been carried out in part.
    pub write_error_ppm: u32,
    /// How many syncs in a million fail.
    pub sync_error_ppm: u32,
    /// So many bytes fit on the disk, over all files.
    pub capacity_bytes: Option<u64>,
    /// What is written whole or not at all, in bytes: 512 or 4,096 on real disks. At least 1.
    pub sector_len: u32,
    /// The least and the most that a read or write takes.
    pub access: (Duration, Duration),
    /// The least and the most that a sync takes.
    pub sync: (Duration, Duration),
}

impl Default for DiskFaults {
    /// None, on a disk with sectors of 512 bytes that answers in 10 to 100 microseconds and syncs in 100 to
    /// 2,000.
    fn default() -> Self {
        let micros = |low, high| (Duration::from_micros(low), Duration::from_micros(high));
        Self {
            read_error_ppm: 0,
            write_error_ppm: 0,
            sync_error_ppm: 0,
            capacity_bytes: None,
            sector_len: 512,
            access: micros(10, 100),
            sync: micros(100, 2_000),
        }
    }
}

/// How often what was done, failures included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads.
    pub reads: u64,
    /// Writes and changes of length.
    pub writes: u64,
    /// Bytes given to writes.
    pub written_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Files created, renamed and removed.
    pub directory: u64,
}

impl DiskCounts {
    /// All that changes the disk or makes it durable: the points that a crash may fall between.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.writes + self.syncs + self.directory
    }
}

/// The disk of a simulated host. Clones are the same disk.
///
/// ```
/// use smalti_core::runtime::Disk;
/// use smalti_sim::disk::SimDisk;
/// use smalti_sim::rng::Streams;
///
/// let disk = SimDisk::new(&Streams::new(7));
/// let mount = disk.mount();
/// let file = mount.create("state")?;
/// file.write_at(0, b"promised")?;
/// file.sync()?;
/// file.write_at(0, b"unsynced")?;
/// disk.crash();
/// assert!(file.len().is_err(), "its life is over");
/// assert!(disk.contents("state").is_some());
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: BTreeMap<String, Arc<Mutex<FileState>>>,
    faults: DiskFaults,
    counts: DiskCounts,
    cost: Duration,
    /// Counts lives: mounts of earlier ones do nothing.
    life: u64,
    /// So many changes are carried out before the power goes off.
    power_for: Option<u64>,
    /// The next sync fails.
    fails_next_sync: bool,
    /// The next write fails.
    fails_next_write: bool,
    /// What has failed in the present life, by the medium or for want of space.
    failures: u64,
    /// Changes of files that crashes have lost, in part at least.
    lost: u64,
    /// No file may grow.
    is_full: bool,
    /// All takes so many times as long.
    slowdown: u32,
    /// Whether a sync is over when it returns; else when [`SimDisk::end_syncs`] says so.
    syncs_end_at_once: bool,
    /// Up to this place all syncs have ended.
    ended: Place,
    /// The directories that somebody has open.
    held: BTreeSet<String>,
    /// Which of the pending writes survive, and what fails.
    rng: ChaCha8Rng,
    slowness: ChaCha8Rng,
}

impl SimDisk {
    /// An empty disk without faults, which draws from the streams `disk/..` of `streams`.
    #[must_use]
    pub fn new(streams: &Streams) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            faults: DiskFaults::default(),
            counts: DiskCounts::default(),
            cost: Duration::ZERO,
            life: 0,
            power_for: None,
            fails_next_sync: false,
            fails_next_write: false,
            failures: 0,
            lost: 0,
            is_full: false,
            slowdown: 1,
            syncs_end_at_once: true,
            ended: 0,
            held: BTreeSet::new(),
            rng: streams.stream("disk/faults"),
            slowness: streams.stream("disk/slowness"),
        })))
    }

    /// The same, where a sync counts only once [`end_syncs`](Self::end_syncs) says that it has ended.
    pub(crate) fn with_pending_syncs(streams: &Streams) -> Self {
        let disk = Self::new(streams);
        disk.lock().syncs_end_at_once = false;
        disk
    }

    /// The disk as the present life of the host sees it.
    #[must_use]
    pub fn mount(&self) -> Arc<Mount> {
        Arc::new(Mount::new(self.clone(), self.lock().life, None))
    }

    /// A directory of the disk, as the present life of the host sees it: what is called `NAME` there is called
    /// `DIRECTORY/NAME` on the disk. `None` where a mount of it, in this life, is not dropped yet.
    #[must_use]
    pub fn mount_directory(&self, directory: &str) -> Option<Arc<Mount>> {
        let life = {
            let mut state = self.lock();
            if !state.held.insert(directory.to_owned()) {
                return None;
            }
            state.life
        };
        let directory = Some(directory.to_owned());
        Some(Arc::new(Mount::new(self.clone(), life, directory)))
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    /// Lets the next sync fail.
    pub fn fail_next_sync(&self) {
        self.lock().fails_next_sync = true;
    }

    /// Lets the next write fail, or change of length.
    pub fn fail_next_write(&self) {
        self.lock().fails_next_write = true;
    }

    /// How often something has failed in the present life of the host, by the medium or for want of space.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// How many changes of files crashes have lost, whole or in part.
    #[must_use]
    pub fn lost_changes(&self) -> u64 {
        self.lock().lost
    }

    /// Lets all take so many times as long from now on; 1, or 0, is the disk's own pace.
    pub fn slow_down(&self, times: u32) {
        self.lock().slowdown = times.max(1);
    }

    /// Whether the disk is full from now on: no file may grow then.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Lets the power go off after so many more [changes](DiskCounts::changes): each one after them fails
    /// and does nothing, until the [crash](Self::crash) that belongs to it.
    pub fn lose_power_after(&self, changes: u64) {
        self.lock().power_for = Some(changes);
    }

    /// The host crashes with its power: its mount does nothing from now on, and of what was not synced some
    /// survives.
    pub fn crash(&self) {
        self.crash_somewhere();
    }

    /// As [`crash`](Self::crash). Gives the place of the last change that had been asked for when the power
    /// went off: any of those whose callers have not seen that they ended.
    pub(crate) fn crash_somewhere(&self) -> Place {
        let mut state = self.lock();
        let State {
            files,
            rng,
            faults,
            counts,
            ended,
            syncs_end_at_once,
            lost,
            ..
        } = &mut *state;
        let last = counts.changes();
        let pending = last - *ended;
        let at = if *syncs_end_at_once || pending == 0 {
            last
        } else {
            *ended + rng::below(rng, pending + 1)
        };
        for file in files.values() {
            *lost += lock(file).crash(at, rng, faults.sector_len);
        }
        *ended = last;
        state.end_life();
        at
    }

    /// The callers have seen the end of all syncs up to this place.
    pub(crate) fn end_syncs(&self, through: Place) {
        self.lock().end_syncs(through);
    }

    /// The process dies and the machine stays up: its mount does nothing from now on, and all that was
    /// written is still there.
    pub fn kill(&self) {
        self.lock().end_life();
    }

    /// Flips `count` bits of a file, wherever, in what is durable. Where they are: byte offsets.
    ///
    /// None where there is no such file, or it is empty.
    pub fn rot(&self, name: &str, count: usize) -> Vec<u64> {
        let mut state = self.lock();
        let Some(file) = state.files.get(name).cloned() else {
            return Vec::new();
        };
        let mut file = lock(&file);
        let bits = file.durable_len() * 8;
        let mut offsets = Vec::new();
        for _ in 0..if bits == 0 { 0 } else { count } {
            let bit = rng::below(&mut state.rng, bits);
            file.flip(bit);
            offsets.push(bit / 8);
        }
        offsets
    }

    /// Flips one bit of a file, of its durable bytes, where it has that byte.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        if let Some(file) = self.lock().files.get(name) {
            lock(file).flip(offset * 8 + u64::from(bit % 8));
        }
    }

    /// What the file `name` holds as the host sees it.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.files.get(name).map(|file| lock(file).seen().to_vec())
    }

    /// Puts a file there with these contents, durable, in place of what had the name.
    pub fn put(&self, name: &str, contents: Vec<u8>) {
        let file = Arc::new(Mutex::new(FileState::with(contents)));
        self.lock().files.insert(name.to_owned(), file);
    }

    /// How often what was done.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.lock().counts
    }

    /// How long the calls since this was last asked have taken, in simulated time: whoever made them waits
    /// so long before it goes on.
    #[must_use]
    pub fn take_cost(&self) -> Duration {
        std::mem::take(&mut self.lock().cost)
    }

    /// A number below `bound`, from the stream of the disk's faults.
    pub(crate) fn draw_below(&self, bound: u64) -> u64 {
        rng::below(&mut self.lock().rng, bound)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

/// What is asked of a disk, for its faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write { bytes: u64 },
    Directory,
    Sync,
}

impl State {
    fn end_life(&mut self) {
        self.life += 1;
        self.power_for = None;
        self.fails_next_sync = false;
        self.fails_next_write = false;
        self.failures = 0;
        self.held.clear();
    }

    /// The place of the operation that has just [begun](Self::begin).
    const fn place(&self) -> Place {
        self.counts.changes()
    }

    fn end_syncs(&mut self, through: Place) {
        self.ended = self.ended.max(through);
        for file in self.files.values() {
            lock(file).end_syncs(self.ended);
        }
    }

    /// What has been synced so far is durable: what comes next is so when it returns.
    fn end_all_syncs(&mut self) {
        self.end_syncs(self.place());
    }

    /// Whether a mount of `life` may do `operation` now; counts it and what it costs. Errors that belong to
    /// the medium come back as `Ok(true)`: what they leave behind is the operation's own business.
    fn begin(&mut self, life: u64, operation: Operation) -> io::Result<bool> {
        if life != self.life {
            return Err(io::Error::other("the host has crashed"));
        }
        let (ppm, range) = match operation {
            Operation::Read => {
                self.counts.reads += 1;
                (self.faults.read_error_ppm, self.faults.access)
            }
            Operation::Write { bytes } => {
                self.counts.writes += 1;
                self.counts.written_bytes += bytes;
                (self.faults.write_error_ppm, self.faults.access)
            }
            Operation::Directory => {
                self.counts.directory += 1;
                (self.faults.write_error_ppm, self.faults.access)
            }
            Operation::Sync => {
                self.counts.syncs += 1;
                (self.faults.sync_error_ppm, self.faults.sync)
            }
        };
        let cost = rng::between(&mut self.slowness, range.0, range.1);
        self.cost = self.cost.saturating_add(cost * self.slowdown);
        if operation != Operation::Read
            && let Some(left) = &mut self.power_for
        {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return Err(io::Error::other("the power is off")),
            }
        }
        let fails = rng::chance(&mut self.rng, ppm);
        let is_to_fail = match operation {
            Operation::Sync => std::mem::take(&mut self.fails_next_sync),
            Operation::Write { .. } => std::mem::take(&mut self.fails_next_write),
            Operation::Read | Operation::Directory => false,
        };
        let fails = fails || is_to_fail;
        self.failures += u64::from(fails);
        Ok(fails)
    }

    /// Whether a file may grow by so many bytes.
    fn make_room(&mut self, growth: u64) -> io::Result<()> {
        let is_over = |capacity: u64| {
            let used: u64 = self.files.values().map(|file| lock(file).len()).sum();
            used.saturating_add(growth) > capacity
        };
        let is_full = self.is_full && growth > 0;
        if is_full || self.faults.capacity_bytes.is_some_and(is_over) {
            self.failures += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// What the medium says when it fails.
fn medium_error() -> io::Error {
    io::Error::other("input/output error")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
