//! One member that catches up, simulated sources, and the wire between them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::pieces::PIECES_MAX;
use super::super::{CatchUp, Gained, Gap, LogView, SnapshotShelf, fetch};
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::raft::replica::chunk_digest;
use crate::protocol::raft::{
    Batch, Charter, CommandsBuilder, Config, Configuration, Entry, Incarnation, Index, Manifest,
    Member, Message, Payload, Sequence, SessionId, Snapshot, Term,
};
use crate::time::{Duration, Instant};

pub(super) const FETCHER: PeerId = PeerId::from_bytes([255; 32]);

/// Entries that are asked for at a time.
const BATCH: u64 = 512;

/// How the gap is filled.
pub(super) fn config() -> Config {
    Config {
        fetch_batch_size: BATCH as u32,
        fetch_timeout: millis(1_000),
        snapshot_request_timeout: millis(1_000),
        snapshot_ttl: millis(20_000),
        ..Config::default()
    }
}

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

pub(super) const fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

pub(super) const fn member(number: u8) -> Member {
    Member {
        peer: peer(number),
        instance: Instance::from_bytes([number; 16]),
    }
}

fn charter() -> Charter {
    Charter {
        group: GroupId::named("catch-up"),
        nonce: [7; 32],
        founder: member(1),
        voters: vec![member(1), member(2), member(3)],
        expected: 0,
        parent: None,
    }
}

pub(super) fn incarnation() -> Incarnation {
    charter().incarnation()
}

/// The committed entry at `index`: of growing terms, now and then with commands of up to 4 KiB.
pub(super) fn entry(index: u64) -> Entry {
    let payload = match index {
        1 => Payload::Founding(Box::new(charter())),
        _ if index.is_multiple_of(3) => {
            let mut commands = CommandsBuilder::default();
            commands.push(&vec![index as u8; (index * 37 % 4_096) as usize]);
            Payload::Commands(Batch {
                session: SessionId(Index(2)),
                first: Sequence(index),
                acked_through: Sequence(0),
                commands: commands.take(),
            })
        }
        _ => Payload::Blank,
    };
    Entry {
        term: Term(1 + index / 700),
        index: Index(index),
        payload,
    }
}

pub(super) fn truth(len: u64) -> Rc<Vec<Entry>> {
    Rc::new((1..=len).map(entry).collect())
}

/// The snapshot at `index`. Every second chunk of the state is the same at all indexes; the others differ
/// from member to member as well where a `flavour` is given.
pub(super) fn snapshot(index: u64, chunks: u32, flavour: Option<u8>) -> Snapshot {
    let chunks: Vec<_> = (0..chunks)
        .map(|number| match number % 2 {
            0 => Bytes::from(format!("{index} {number} {flavour:?}")),
            _ => Bytes::from(format!("always {number}")),
        })
        .collect();
    Snapshot {
        manifest: Manifest {
            incarnation: incarnation(),
            position: entry(index).position(),
            configuration: Configuration {
                voters: charter().voters.into_iter().collect(),
                demotions: BTreeMap::new(),
            },
            configured_at: Index(1),
            chunks: chunks.iter().map(|chunk| chunk_digest(chunk)).collect(),
        },
        chunks,
    }
}

/// What is wrong with an answer, and how it is made so.
pub(super) type Lie = (&'static str, fn(&mut Message));

/// What goes wrong with a source, and on the way to it and back.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Of 100 messages so many are lost.
    pub(super) lost: u32,
    /// Of 100 messages so many come twice.
    pub(super) twice: u32,
    /// Each message takes from so long to so long, in milliseconds.
    pub(super) delay: (u64, u64),
    /// It answers nothing from here to there.
    pub(super) stalls: Option<(Instant, Instant)>,
    /// It is gone from here to there, and is another member afterwards.
    pub(super) vanishes: Option<(Instant, Instant)>,
    /// What it makes of its answers.
    pub(super) lie: Option<fn(&mut Message)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            lost: 0,
            twice: 0,
            delay: (5, 5),
            stalls: None,
            vanishes: None,
            lie: None,
        }
    }
}

pub(super) struct Source {
    pub(super) member: Member,
    truth: Rc<Vec<Entry>>,
    kept_from: Index,
    pub(super) commit: Index,
    /// What it has above its commit index: nothing that was ever committed.
    tail: Vec<Entry>,
    pub(super) shelf: SnapshotShelf,
    pub(super) faults: Faults,
    /// All that it was asked, in the order in which it came.
    pub(super) asked: Vec<Message>,
    is_here: bool,
}

impl LogView for Source {
    fn entry(&self, index: Index) -> Option<&Entry> {
        if index < self.kept_from || index == Index::ZERO {
            return None;
        }
        match index.0.checked_sub(self.commit.0 + 1) {
            None => self.truth.get(index.0 as usize - 1),
            Some(at) => self.tail.get(at as usize),
        }
    }

    fn kept_from(&self) -> Index {
        self.kept_from
    }

    fn last_index(&self) -> Index {
        Index(self.commit.0 + self.tail.len() as u64)
    }

    fn commit(&self) -> Index {
        self.commit
    }
}

impl Source {
    /// The member `number` that has the entries from `kept_from` to `commit` of `truth`, and some above
    /// that nobody else has.
    pub(super) fn new(number: u8, truth: &Rc<Vec<Entry>>, kept_from: u64, commit: u64) -> Self {
        let tail = (commit + 1..commit + 40).map(|index| Entry {
            term: Term(1_000),
            index: Index(index),
            payload: Payload::Blank,
        });
        Self {
            member: member(number),
            truth: truth.clone(),
            kept_from: Index(kept_from),
            commit: Index(commit),
            tail: tail.collect(),
            shelf: SnapshotShelf::new(&config()),
            faults: Faults::default(),
            asked: Vec::new(),
            is_here: true,
        }
    }

    pub(super) fn with_snapshot(mut self, snapshot: Snapshot) -> Self {
        self.shelf.put(Instant::ZERO, Arc::new(snapshot));
        self
    }

    pub(super) fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Commits up to `commit`, puts `snapshot` on the shelf and drops the log below `wanted`, but for what
    /// the shelf keeps if `is_pinning`.
    pub(super) fn compact(
        &mut self,
        now: Instant,
        commit: u64,
        snapshot: Snapshot,
        wanted: u64,
        is_pinning: bool,
    ) {
        self.commit = Index(commit);
        self.tail.clear();
        self.shelf.put(now, Arc::new(snapshot));
        let cut = if is_pinning {
            let size = |index| self.entry(index).map(Entry::size);
            self.shelf.keep_from(now, Index(wanted), size)
        } else {
            Index(wanted)
        };
        self.kept_from = self.kept_from.max(cut);
    }

    fn answer(&mut self, now: Instant, message: &Message) -> Message {
        self.shelf.handle_timeout(now);
        self.asked.push(message.clone());
        let mut answer = match *message {
            Message::Fetch { first, last } => {
                self.shelf.fetches(now, FETCHER, first);
                fetch(&config(), self, first, last)
            }
            Message::FetchManifest => self.shelf.manifest(now, FETCHER),
            Message::FetchChunk { position, number } => {
                self.shelf.chunk(now, FETCHER, position, number)
            }
            ref other => panic!("{other:?} is no request"),
        };
        if let Some(lie) = self.faults.lie {
            lie(&mut answer);
        }
        answer
    }

    /// Firsts of the pieces it was asked for.
    pub(super) fn firsts(&self) -> BTreeSet<u64> {
        let firsts = self.asked.iter().filter_map(|message| match message {
            Message::Fetch { first, .. } => Some(first.0),
            _ => None,
        });
        firsts.collect()
    }

    /// Chunks it was asked for.
    pub(super) fn chunks(&self) -> Vec<u32> {
        let numbers = self.asked.iter().filter_map(|message| match message {
            Message::FetchChunk { number, .. } => Some(*number),
            _ => None,
        });
        numbers.collect()
    }
}

enum Happening {
    /// A message comes to this source, which must still be this member.
    Asked(Member, Message),
    /// A message comes from it.
    Answered(Member, Message),
    /// Bonds have changed.
    Bonds,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) catch_up: CatchUp,
    pub(super) sources: BTreeMap<PeerId, Source>,
    pub(super) leader: PeerId,
    pub(super) truth: Rc<Vec<Entry>>,
    /// All up to here was handed over.
    pub(super) have: u64,
    /// The snapshots that were.
    pub(super) restored: Vec<Snapshot>,
    /// When who was asked for what, to compare runs.
    pub(super) trace: Vec<(Instant, PeerId, Message)>,
    /// The most requests that were with one source and neither answered nor lost.
    pub(super) most_at_one: usize,
    at_source: BTreeMap<PeerId, usize>,
    wire: BTreeMap<(Instant, u64), Happening>,
    sent: u64,
    rng: ChaCha8Rng,
}

impl World {
    /// `leader` is one of `sources`; the member has all up to `have` and lacks what the leader has
    /// committed above.
    pub(super) fn new(
        seed: u64,
        truth: &Rc<Vec<Entry>>,
        have: u64,
        is_canonical: bool,
        leader: u8,
        sources: Vec<Source>,
    ) -> Self {
        let sources: BTreeMap<_, _> = sources
            .into_iter()
            .map(|source| (source.member.peer, source))
            .collect();
        let leads = &sources[&peer(leader)];
        let gap = Gap {
            incarnation: incarnation(),
            have: Index(have),
            target: leads.commit,
            is_canonical,
        };
        let present: Vec<_> = sources
            .values()
            .map(|source| (source.member, Index::ZERO))
            .collect();
        let catch_up = CatchUp::new(
            Instant::ZERO,
            &config(),
            &gap,
            &present,
            peer(leader),
            leads.kept_from,
        );
        let mut world = Self {
            now: Instant::ZERO,
            catch_up,
            sources,
            leader: peer(leader),
            truth: truth.clone(),
            have,
            restored: Vec::new(),
            trace: Vec::new(),
            most_at_one: 0,
            at_source: BTreeMap::new(),
            wire: BTreeMap::new(),
            sent: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        let changes: Vec<_> = world
            .sources
            .values()
            .filter_map(|source| source.faults.vanishes)
            .flat_map(|(from, to)| [from, to])
            .collect();
        for change in changes {
            world.put(change, Happening::Bonds);
        }
        world.drain();
        world
    }

    fn put(&mut self, at: Instant, happening: Happening) {
        self.wire.insert((at, self.sent), happening);
        self.sent += 1;
    }

    fn send(&mut self, faults: &Faults, make: impl Fn() -> Happening) {
        if self.rng.random_range(0..100_u32) < faults.lost {
            return;
        }
        let copies = 1 + u32::from(self.rng.random_range(0..100_u32) < faults.twice);
        for _ in 0..copies {
            let delay = self.rng.random_range(faults.delay.0..=faults.delay.1);
            self.put(self.now + millis(delay), make());
        }
    }

    /// Takes all that the catch-up gives, and checks it.
    fn drain(&mut self) {
        while let Some(gained) = self.catch_up.poll_gained() {
            match gained {
                Gained::Entries(entries) => {
                    assert!(!entries.is_empty());
                    for entry in entries {
                        assert_eq!(
                            Some(&entry),
                            self.truth.get(self.have as usize),
                            "after {}",
                            self.have
                        );
                        self.have += 1;
                    }
                }
                Gained::Snapshot(snapshot) => {
                    let position = snapshot.manifest.position;
                    assert!(position.index.0 > self.have, "{position} <= {}", self.have);
                    self.have = position.index.0;
                    self.restored.push(snapshot);
                }
            }
        }
        assert_eq!(self.catch_up.pieces.have().0, self.have);
        while let Some((peer, message)) = self.catch_up.poll_message() {
            self.trace.push((self.now, peer, message.clone()));
            if let Message::Fetch { first, last } = message {
                assert!(first.0 > self.have && first <= last, "{first} to {last}");
                assert!(last.0 - first.0 < BATCH);
                assert!(last.0 <= self.have + PIECES_MAX as u64 * BATCH);
            }
            let Some(source) = self.sources.get(&peer) else {
                panic!("{peer:?} is no source");
            };
            assert!(source.is_here, "only those that are bonded are asked");
            let (to, faults) = (source.member, source.faults.clone());
            let at_source = self.at_source.entry(peer).or_default();
            *at_source += 1;
            self.most_at_one = self.most_at_one.max(*at_source);
            self.send(&faults, || Happening::Asked(to, message.clone()));
        }
    }

    /// Goes on until something has happened; whether anything has.
    pub(super) fn step(&mut self) -> bool {
        let due = self.catch_up.poll_timeout();
        let next = self.wire.first_key_value().map(|((at, _), _)| *at);
        let Some(now) = due.into_iter().chain(next).min() else {
            return false;
        };
        assert!(
            now > self.now || next.is_some_and(|next| next <= now) || due == Some(self.now),
            "time stands still"
        );
        self.now = now.max(self.now);
        if next.is_some_and(|next| next <= now) {
            if let Some((_, happening)) = self.wire.pop_first() {
                self.happen(happening);
            }
        } else {
            self.catch_up.handle_timeout(self.now);
            let again = self.catch_up.poll_timeout();
            assert!(again.is_none_or(|again| again > self.now), "it is over");
        }
        self.drain();
        true
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Asked(to, message) => {
                let Some(source) = self.sources.get_mut(&to.peer) else {
                    return;
                };
                let is_silent = source
                    .faults
                    .stalls
                    .is_some_and(|(from, to)| (from..to).contains(&now));
                if source.member != to || !source.is_here || is_silent {
                    return;
                }
                let faults = source.faults.clone();
                let answer = source.answer(now, &message);
                self.send(&faults, || Happening::Answered(to, answer.clone()));
            }
            Happening::Answered(from, message) => {
                let source = &self.sources[&from.peer];
                if source.member != from || !source.is_here {
                    return;
                }
                self.deliver(from.peer, message);
            }
            Happening::Bonds => {
                for source in self.sources.values_mut() {
                    let gone = source.faults.vanishes;
                    let is_here = gone.is_none_or(|(from, to)| !(from..to).contains(&now));
                    if is_here && !source.is_here {
                        source.member.instance = Instance::from_bytes([200; 16]);
                    }
                    source.is_here = is_here;
                }
                self.bonds_changed();
            }
        }
    }

    /// Hands the catch-up an answer of `from`.
    pub(super) fn deliver(&mut self, from: PeerId, message: Message) {
        if let Some(at_source) = self.at_source.get_mut(&from) {
            *at_source = at_source.saturating_sub(1);
        }
        let now = self.now;
        match message {
            Message::Fetched {
                first,
                entries,
                commit,
            } => self.catch_up.fetched(now, from, first, entries, commit),
            Message::Gone {
                first,
                kept_from,
                commit,
            } => self.catch_up.gone(now, from, first, kept_from, commit),
            Message::Manifest(manifest) => {
                self.catch_up
                    .manifest(now, from, manifest.map(|manifest| *manifest));
            }
            Message::Chunk {
                position,
                number,
                bytes,
            } => self.catch_up.chunk(now, from, position, number, bytes),
            other => panic!("{other:?} is no answer"),
        }
    }

    pub(super) fn bonds_changed(&mut self) {
        let present: Vec<_> = self
            .sources
            .values()
            .filter(|source| source.is_here)
            .map(|source| (source.member, Index::ZERO))
            .collect();
        self.catch_up
            .sources_changed(self.now, &present, self.leader);
    }

    /// Tells the catch-up where the leader is by now.
    pub(super) fn leader_speaks(&mut self) {
        let leader = &self.sources[&self.leader];
        let (commit, kept_from) = (leader.commit, leader.kept_from);
        self.catch_up.leader_at(self.now, commit, kept_from);
        self.drain();
    }

    /// Goes on until the member has all, or time is up; whether it has.
    pub(super) fn run(&mut self, limit: Duration) -> bool {
        let end = self.now + limit;
        while !self.catch_up.is_complete() && self.now < end && self.step() {}
        self.catch_up.is_complete()
    }

    pub(super) fn source(&self, number: u8) -> &Source {
        &self.sources[&peer(number)]
    }
}
