//! A snapshot on its way: first the manifests, then the chunks of one of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::sources::{Asked, CHUNK_REQUESTS_MAX, Pick, Sources};
use crate::id::{Digest, PeerId};
use crate::protocol::raft::replica::chunk_digest;
use crate::protocol::raft::{Incarnation, Index, Manifest, Position, Snapshot, VOTERS_MAX};
use crate::time::Instant;

/// The most chunks of a snapshot.
pub(super) const CHUNKS_MAX: usize = 65_536;

/// The longest chunk, in bytes. Most are much shorter, but a state machine need not cut within one value,
/// which may be as long as a command.
pub(super) const CHUNK_LEN_MAX: usize = 16 << 20;

/// No log comes so far: a snapshot that lies above is none of an honest source, and indexes that are counted
/// up from one below never overflow.
const INDEX_MAX: Index = Index(u64::MAX / 2);

#[derive(Debug)]
enum Stage {
    /// None is fetched.
    Idle,
    /// Manifests are awaited.
    Choosing {
        /// All that have come, and who has none that is of use.
        answers: BTreeMap<PeerId, Option<Manifest>>,
        /// Others than the leader are not waited for after this instant; `None` once it has passed.
        until: Option<Instant>,
    },
    /// Chunks are awaited.
    Chunks {
        manifest: Manifest,
        /// Who has given this manifest.
        holders: BTreeSet<PeerId>,
        /// All chunks before this one have come.
        next: u32,
    },
    /// Nobody had a snapshot, or it was lost on the way: to be tried again at this instant.
    Resting(Instant),
}

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Answers are awaited.
    Wait,
    /// It has all chunks.
    Complete(Snapshot),
}

/// The way of one snapshot after the other, until one is complete.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Whether equal states have equal chunks everywhere.
    is_canonical: bool,
    stage: Stage,
    /// Chunks that a manifest has named. Those that the next one names as well are not fetched again.
    stock: BTreeMap<Digest, Bytes>,
}

impl Transfer {
    pub(super) const fn new(is_canonical: bool) -> Self {
        Self {
            is_canonical,
            stage: Stage::Idle,
            stock: BTreeMap::new(),
        }
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Begins by asking for manifests.
    pub(super) fn begin(&mut self, until: Instant) {
        self.stage = Stage::Choosing {
            answers: BTreeMap::new(),
            until: Some(until),
        };
    }

    /// Ends a rest or a wait. After a rest it is for the caller to begin anew, if a snapshot is still
    /// needed.
    pub(super) fn expire(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::Resting(until) if *until <= now => self.stage = Stage::Idle,
            Stage::Choosing { until, .. } => *until = until.filter(|until| *until > now),
            Stage::Idle | Stage::Chunks { .. } | Stage::Resting(_) => {}
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Resting(until) => Some(until),
            Stage::Choosing { until, .. } => until,
            Stage::Idle | Stage::Chunks { .. } => None,
        }
    }

    /// Takes the manifest that `from` was asked for; `have` is what a snapshot must go beyond.
    ///
    /// # Errors
    /// Where no honest source sends such a manifest.
    pub(super) fn manifest(
        &mut self,
        from: PeerId,
        manifest: Option<Manifest>,
        incarnation: Incarnation,
        have: Index,
    ) -> Result<(), Dishonest> {
        if manifest
            .as_ref()
            .is_some_and(|manifest| !is_sound(manifest, incarnation))
        {
            return Err(Dishonest);
        }
        if let Stage::Choosing { answers, .. } = &mut self.stage {
            let newer = manifest.filter(|manifest| manifest.position.index > have);
            answers.insert(from, newer);
        }
        Ok(())
    }

    /// Takes a chunk that its source was asked for.
    ///
    /// # Errors
    /// Where it is not the one that the manifest names.
    pub(super) fn chunk(
        &mut self,
        position: Position,
        number: u32,
        bytes: Bytes,
    ) -> Result<(), Dishonest> {
        let Stage::Chunks { manifest, .. } = &self.stage else {
            return Ok(());
        };
        let digest = manifest.chunks.get(number as usize);
        let Some(digest) = digest.filter(|_| manifest.position == position) else {
            return Ok(());
        };
        if bytes.len() > CHUNK_LEN_MAX || chunk_digest(&bytes) != *digest {
            return Err(Dishonest);
        }
        self.stock.insert(*digest, bytes);
        Ok(())
    }

    /// Asks for what is lacking next; `asked` is told of each request. A snapshot that does not go beyond
    /// `have` is given up.
    pub(super) fn pump(
        &mut self,
        now: Instant,
        have: Index,
        sources: &mut Sources,
        mut asked: impl FnMut(PeerId, Asked),
    ) -> Step {
        if let Stage::Choosing { answers, until } = &self.stage {
            let is_patient = until.is_some();
            let Some(next) = choose(now, answers, is_patient, sources, &mut asked) else {
                return Step::Wait;
            };
            if let Stage::Chunks { manifest, .. } = &next {
                let named: BTreeSet<_> = manifest.chunks.iter().collect();
                self.stock.retain(|digest, _| named.contains(digest));
            }
            self.stage = next;
        }
        let Stage::Chunks {
            manifest,
            holders,
            next,
        } = &mut self.stage
        else {
            return Step::Wait;
        };
        let position = manifest.position;
        if position.index <= have {
            self.stage = Stage::Idle;
            return Step::Wait;
        }
        while let Some(digest) = manifest.chunks.get(*next as usize) {
            if !self.stock.contains_key(digest) {
                break;
            }
            *next += 1;
        }
        if *next as usize == manifest.chunks.len() {
            return self.complete();
        }
        for (number, digest) in (0..).zip(&manifest.chunks).skip(*next as usize) {
            if self.stock.contains_key(digest) {
                continue;
            }
            let what = Asked::Chunk { position, number };
            if sources.is_asked(|asked| *asked == what) {
                continue;
            }
            let is_canonical = self.is_canonical;
            let pick = sources.pick(
                CHUNK_REQUESTS_MAX,
                |peer, source| {
                    source.may_have_snapshot(position) && (is_canonical || holders.contains(&peer))
                },
                |peer, _| holders.contains(&peer),
            );
            let Pick::Ask(peer) = pick else {
                break;
            };
            sources.ask(now, peer, what);
            asked(peer, what);
        }
        // A source that only might have it, since its state has the same bytes, is no reason to wait.
        let is_any_left = sources.is_any_left(|peer, source| {
            holders.contains(&peer) && source.may_have_snapshot(position)
        });
        let is_awaited = sources.is_asked(|asked| matches!(asked, Asked::Chunk { .. }));
        if !is_any_left && !is_awaited {
            self.stage = Stage::Resting(now + sources.pause());
        }
        Step::Wait
    }

    fn complete(&mut self) -> Step {
        let Stage::Chunks { manifest, .. } = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return Step::Wait;
        };
        let stock = std::mem::take(&mut self.stock);
        let chunks = manifest
            .chunks
            .iter()
            .filter_map(|digest| stock.get(digest).cloned())
            .collect();
        Step::Complete(Snapshot { manifest, chunks })
    }
}

/// Asks all others, and then the leader, for their manifests; the next stage, once it is clear.
fn choose(
    now: Instant,
    answers: &BTreeMap<PeerId, Option<Manifest>>,
    is_patient: bool,
    sources: &mut Sources,
    asked: &mut impl FnMut(PeerId, Asked),
) -> Option<Stage> {
    for leader in [false, true] {
        let unasked: Vec<_> = sources
            .usable(leader)
            .filter(|(peer, _)| !answers.contains_key(peer))
            .collect();
        for (peer, has_room) in unasked {
            if has_room && !sources.is_asked_of(peer, &Asked::Manifest) {
                sources.ask(now, peer, Asked::Manifest);
                asked(peer, Asked::Manifest);
            }
        }
        let is_open = sources
            .usable(leader)
            .any(|(peer, _)| !answers.contains_key(&peer));
        if is_open && (is_patient || leader) {
            return None;
        }
        let best = answers
            .iter()
            .filter(|(peer, _)| sources.is_trusted(peer))
            .filter_map(|(_, manifest)| manifest.as_ref())
            .max_by_key(|manifest| manifest.position.index);
        if let Some(best) = best {
            let has_it = |answer: &Option<Manifest>| answer.as_ref() == Some(best);
            return Some(Stage::Chunks {
                manifest: best.clone(),
                holders: answers
                    .iter()
                    .filter(|(_, answer)| has_it(answer))
                    .map(|(peer, _)| *peer)
                    .collect(),
                next: 0,
            });
        }
    }
    Some(Stage::Resting(now + sources.pause()))
}

/// A source has sent what no honest source sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dishonest;

fn is_sound(manifest: &Manifest, incarnation: Incarnation) -> bool {
    let voters = manifest.configuration.voters.len();
    manifest.incarnation == incarnation
        && manifest.position.index <= INDEX_MAX
        && manifest.configured_at <= manifest.position.index
        && (1..=VOTERS_MAX + 1).contains(&voters)
        && (1..=CHUNKS_MAX).contains(&manifest.chunks.len())
}
