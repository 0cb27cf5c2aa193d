//! One file: what is durable, what the host sees, and what lies between.

use rand::Rng;

use crate::rng::{MILLION, below, chance};

/// The place of an operation among all that have changed a disk.
pub(crate) type Place = u64;

/// A change that no sync has made durable.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A file of a simulated disk.
#[derive(Debug, Default)]
pub(super) struct FileState {
    durable: Vec<u8>,
    /// Durable bytes and changes: what reads return.
    seen: Vec<u8>,
    /// In the order in which they were made.
    changes: Vec<(Place, Change)>,
    /// Syncs that are not known to have ended, and how many of the changes each covers.
    syncs: Vec<(Place, usize)>,
}

/// Which changes survive a crash.
enum Survival {
    /// Each sector of each by itself, so often in a million.
    Sectors(u32),
    /// Those before this one, and its first so many bytes.
    Prefix(usize, u64),
}

impl FileState {
    pub(super) fn with(contents: Vec<u8>) -> Self {
        Self {
            seen: contents.clone(),
            durable: contents,
            changes: Vec::new(),
            syncs: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub(super) fn durable_len(&self) -> u64 {
        self.durable.len() as u64
    }

    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    pub(super) fn write(&mut self, place: Place, offset: u64, bytes: &[u8]) {
        put(&mut self.seen, offset, bytes);
        let bytes = bytes.to_vec();
        self.changes.push((place, Change::Write { offset, bytes }));
    }

    pub(super) fn set_len(&mut self, place: Place, len: u64) {
        self.seen.resize(len as usize, 0);
        self.changes.push((place, Change::Length(len)));
    }

    /// All changes are durable once this sync has [ended](Self::end_syncs).
    pub(super) fn sync(&mut self, place: Place) {
        self.syncs.push((place, self.changes.len()));
    }

    /// The syncs up to this place have ended.
    pub(super) fn end_syncs(&mut self, through: Place) {
        let ended = self.syncs.partition_point(|(place, _)| *place <= through);
        let Some((_, covered)) = self.syncs.drain(..ended).next_back() else {
            return;
        };
        for (_, change) in self.changes.drain(..covered) {
            change.carry_out(&mut self.durable);
        }
        for (_, covers) in &mut self.syncs {
            *covers -= covered;
        }
    }

    /// A sync that fails: some of the changes become durable, the others never will.
    pub(super) fn fail_sync(&mut self, rng: &mut impl Rng, sector_len: u32) {
        let changes = self.changes.drain(..).map(|(_, change)| change).collect();
        survive(&mut self.durable, changes, rng, sector_len);
    }

    /// The power goes off when all up to this place had been asked for, and nothing after it. Gives how many
    /// changes were lost, whole or in part.
    pub(super) fn crash(&mut self, at: Place, rng: &mut impl Rng, sector_len: u32) -> u64 {
        self.end_syncs(at);
        self.syncs.clear();
        let before = self.changes.len() as u64;
        let changes = self.changes.drain(..).filter(|(place, _)| *place <= at);
        let changes = changes.map(|(_, change)| change).collect();
        let whole = survive(&mut self.durable, changes, rng, sector_len);
        self.seen.clone_from(&self.durable);
        before - whole
    }

    /// Flips a bit of the durable bytes, and of what is seen where that is the same byte.
    pub(super) fn flip(&mut self, bit: u64) {
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let Some(durable) = self.durable.get_mut(at) else {
            return;
        };
        if let Some(seen) = self.seen.get_mut(at)
            && *seen == *durable
        {
            *seen ^= mask;
        }
        *durable ^= mask;
    }
}

impl Change {
    fn carry_out(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(file, *offset, bytes),
            Self::Length(len) => file.resize(*len as usize, 0),
        }
    }

    /// How many bytes a tear may cut off.
    fn len(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } => bytes.len() as u64,
            Self::Length(_) => 0,
        }
    }

    /// Its parts that are written whole or not at all, cut at the disk's sectors.
    fn sectors(self, sector_len: u32) -> Vec<Self> {
        let Self::Write { mut offset, bytes } = self else {
            return vec![self];
        };
        let sector_len = u64::from(sector_len.max(1));
        let mut rest = &bytes[..];
        let mut sectors = Vec::new();
        while !rest.is_empty() {
            let left_in_sector = sector_len - offset % sector_len;
            let (sector, after) = rest.split_at(rest.len().min(left_in_sector as usize));
            sectors.push(Self::Write {
                offset,
                bytes: sector.to_vec(),
            });
            offset += sector.len() as u64;
            rest = after;
        }
        sectors
    }
}

/// Carries out what chance lets survive of the changes. Gives how many have survived as a whole.
fn survive(
    durable: &mut Vec<u8>,
    changes: Vec<Change>,
    rng: &mut impl Rng,
    sector_len: u32,
) -> u64 {
    if changes.is_empty() {
        return 0;
    }
    let survival = match below(rng, 5) {
        0 => Survival::Sectors(0),
        1 => Survival::Sectors(MILLION),
        2 => {
            let torn = below(rng, changes.len() as u64) as usize;
            Survival::Prefix(torn, below(rng, changes[torn].len() + 1))
        }
        _ => Survival::Sectors(below(rng, u64::from(MILLION)) as u32),
    };
    let mut whole = 0;
    for (number, change) in changes.into_iter().enumerate() {
        let mut is_whole = true;
        // A cache writes the sectors back in any order, but of one sector never an older version over a
        // newer one: carried out in order, each by chance, they give every such outcome.
        for (place, sector) in change.sectors(sector_len).into_iter().enumerate() {
            let survives = match survival {
                Survival::Sectors(ppm) => chance(rng, ppm),
                Survival::Prefix(torn, bytes) => {
                    let before = place as u64 * u64::from(sector_len);
                    number < torn || (number == torn && before < bytes)
                }
            };
            is_whole &= survives;
            if survives {
                sector.carry_out(durable);
            }
        }
        whole += u64::from(is_whole);
    }
    whole
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if file.len() < to {
        file.resize(to, 0);
    }
    file[from..to].copy_from_slice(bytes);
}
