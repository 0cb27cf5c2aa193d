//! What producers of `streams-chaos` have sent, and what consumers have received and were told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use smalti_core::id::{Instance, PeerId};
use smalti_core::protocol::streams::segment::SEGMENT_LEN;
use tokio::sync::watch;

use super::super::Findings;
use super::super::gaps::{Gaps, Shown, unreceived};
use super::{Mode, Setup};

pub(super) const MISSED: &str = "a consumer missed datums and was told so";
pub(super) const NEXT_LIFE: &str = "a consumer went on with the next life of a producer";
pub(super) const WAITED: &str = "a consumer waited for a place";
pub(super) const PLACED: &str = "a consumer that had waited got its place";
pub(super) const TOO_SLOW: &str = "a consumer was dropped because it was too slow";
pub(super) const WENT_OVER: &str = "a consumer went over to a better producer";
pub(super) const CUT_OFF: &str = "a consumer with criteria missed datums and was told so";
pub(super) const EDGES: &str = "a condition became true and false again";

pub(super) const RARE_STATES: &[&str] = &[
    MISSED, NEXT_LIFE, WAITED, PLACED, TOO_SLOW, WENT_OVER, CUT_OFF, EDGES,
];

/// A consumer with criteria wants one reading in so many.
pub(super) const KINDS: u64 = 4;
/// One life of a producer: the life of its node, and how many producers that has had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) node: Instance,
    pub(super) turn: u32,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) life: Life,
    /// Counts the readings of that life.
    pub(super) number: u64,
    /// The number, by what consumers may choose.
    pub(super) kind: u64,
    pub(super) rest: Vec<u8>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Applications come and go.
    Changing,
    /// They stay.
    Staying,
    /// Producers send so many more, and then no more.
    Last(u64),
}

/// A clone is the same.
#[derive(Clone)]
pub(super) struct Board {
    pub(super) setup: Setup,
    pub(super) findings: Findings,
    state: Rc<RefCell<State>>,
    phase: watch::Sender<Phase>,
}

#[derive(Default)]
struct State {
    /// By the node that the producer is on.
    sent: BTreeMap<PeerId, Sent>,
    /// By the node that the consumer is on.
    received: BTreeMap<PeerId, Received>,
    readings: u64,
    missing: u64,
    most_queued: u64,
}

#[derive(Default)]
struct Sent {
    /// Each life with the next number, from the first to the present.
    lives: Vec<(Life, u64)>,
    /// The first of the last readings.
    last_from: Option<u64>,
    done: bool,
}

#[derive(Default)]
struct Received {
    /// Which readings it wants.
    kind: Option<u64>,
    producers: BTreeSet<PeerId>,
    gaps: BTreeMap<PeerId, Gaps<Life>>,
    chosen: BTreeMap<PeerId, Chosen>,
}

/// What a consumer with criteria has received of a producer. Told is what was sent while it was not subscribed,
/// whether or not it would have been chosen: so it is told of no less than it misses.
#[derive(Clone, Copy, Default)]
struct Chosen {
    at: Option<(Life, u64)>,
    told: u64,
    missed: u64,
    /// All that is chosen has been received from this number on.
    unbroken_from: u64,
}

impl Chosen {
    /// Whether it has received all that it wants of the `next` readings of `life`, or was told of what is missing where it
    /// `may_miss` some.
    fn has_all_of(&self, life: Life, next: u64, kind: u64, may_miss: bool) -> bool {
        let Some((_, due)) = self.at.filter(|(at, _)| *at == life) else {
            return false;
        };
        let left = (due..next).filter(|number| number % KINDS == kind).count() as u64;
        left == 0 || may_miss && self.missed + left <= self.told
    }

    fn take(&mut self, reading: &Reading, kind: u64) -> Result<u64, String> {
        let Reading { life, number, .. } = *reading;
        if number % KINDS != kind {
            return Err(format!("only numbers of kind {kind} are wanted"));
        }
        let missing = match self.at {
            Some((at, next)) if at == life => {
                if number < next {
                    return Err(format!("number {next} was due"));
                }
                (next..number)
                    .filter(|number| number % KINDS == kind)
                    .count() as u64
            }
            _ => {
                self.unbroken_from = number;
                0
            }
        };
        if missing > 0 {
            self.unbroken_from = number;
        }
        self.at = Some((life, number + 1));
        self.missed += missing;
        if self.missed > self.told {
            let told = self.told;
            return Err(format!(
                "{} are missing, and it was told of {told}",
                self.missed
            ));
        }
        Ok(missing)
    }
}

impl Board {
    pub(super) fn new(setup: Setup, findings: Findings) -> Self {
        Self {
            setup,
            findings,
            state: Rc::default(),
            phase: watch::Sender::new(Phase::Changing),
        }
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Lets nobody go any more.
    pub(super) fn stay(&self) {
        self.phase.send_replace(Phase::Staying);
    }

    /// Lets all producers send `readings` more, and then no more.
    pub(super) fn finish(&self, readings: u64) {
        self.phase.send_replace(Phase::Last(readings));
    }

    pub(super) fn begin_life(&self, producer: PeerId, life: Life) {
        let mut state = self.state.borrow_mut();
        let sent = state.sent.entry(producer).or_default();
        sent.lives.push((life, 0));
        (sent.last_from, sent.done) = (None, false);
    }

    /// A reading is about to be sent: it may arrive even where the life ends before that is known.
    pub(super) fn sending(&self, producer: PeerId, number: u64) {
        let mut state = self.state.borrow_mut();
        if let Some((_, next)) = state
            .sent
            .get_mut(&producer)
            .and_then(|sent| sent.lives.last_mut())
        {
            *next = number + 1;
        }
    }

    pub(super) fn last_from(&self, producer: PeerId, number: u64) {
        let mut state = self.state.borrow_mut();
        state.sent.entry(producer).or_default().last_from = Some(number);
    }

    pub(super) fn done(&self, producer: PeerId) {
        let mut state = self.state.borrow_mut();
        state.sent.entry(producer).or_default().done = true;
    }

    /// A consumer begins anew, on a node that may have had one before.
    pub(super) fn begin_consumer(&self, consumer: PeerId, kind: Option<u64>) {
        let mut state = self.state.borrow_mut();
        let received = Received {
            kind,
            ..Received::default()
        };
        state.received.insert(consumer, received);
    }

    /// A consumer has taken all there is, and is subscribed to these.
    pub(super) fn show(&self, consumer: PeerId, producers: Vec<PeerId>) {
        let mut state = self.state.borrow_mut();
        if let Some(received) = state.received.get_mut(&consumer) {
            received.producers = producers.into_iter().collect();
            received.gaps.values_mut().for_each(Gaps::all_taken);
        }
    }

    pub(super) fn told(&self, consumer: PeerId, producer: PeerId, datums: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(received) = state.received.get_mut(&consumer) {
            if received.kind.is_some() {
                received.chosen.entry(producer).or_default().told += datums;
            } else {
                received.gaps.entry(producer).or_default().told(datums);
            }
        }
    }

    /// Takes note of a reading: it is none that was due before, and what is missing was told.
    pub(super) fn take(
        &self,
        consumer: PeerId,
        producer: PeerId,
        reading: &Reading,
    ) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.readings += 1;
        let sent = state.sent.get(&producer);
        let Some(received) = state.received.get_mut(&consumer) else {
            return Err(format!("{consumer} has not begun"));
        };
        if let Some(kind) = received.kind {
            let chosen = received.chosen.entry(producer).or_default();
            let missing = chosen.take(reading, kind)?;
            state.missing += missing;
            if missing > 0 {
                self.findings.reach(CUT_OFF);
            }
            return Ok(());
        }
        let gaps = received.gaps.entry(producer).or_default();
        let of_earlier_lives =
            sent.map_or(0, |sent| unreceived(&sent.lives, gaps.next(), reading.life));
        match gaps.take(reading.life, reading.number, of_earlier_lives)? {
            Shown::Next | Shown::First => {}
            Shown::NextLife => self.findings.reach(NEXT_LIFE),
            Shown::Missing(datums) => {
                self.findings.reach(MISSED);
                state.missing += datums;
            }
        }
        Ok(())
    }

    /// A consumer that had taken nothing for a while has found so many readings in its queue: no more than that may
    /// hold, and the segment that filled it, and the one in hand.
    pub(super) fn queued(&self, readings: u64) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        state.most_queued = state.most_queued.max(readings);
        let segment = SEGMENT_LEN / self.setup.len + 1;
        let most = (self.setup.buffer + 2 * segment) as u64;
        if readings > most {
            return Err(format!(
                "{readings} readings were queued, of {most} at most"
            ));
        }
        Ok(())
    }

    /// Why not everybody is subscribed to whom it is to be; `Ok` where it is so.
    pub(super) fn is_settled(&self) -> Result<(), String> {
        let state = self.state.borrow();
        let Setup {
            producers,
            consumers,
            mode,
            ..
        } = self.setup;
        let (producing, consuming) = (state.sent.len(), state.received.len());
        if producing < producers || consuming < consumers {
            return Err(format!("only {producing} produce and {consuming} consume"));
        }
        let mut by_cost: Vec<PeerId> = state.sent.keys().copied().collect();
        by_cost.sort_by_key(cost);
        let expected: BTreeSet<PeerId> = match mode {
            Mode::FewProducers(max) => by_cost.into_iter().take(max).collect(),
            Mode::All | Mode::FewPlaces(_) => by_cost.into_iter().collect(),
        };
        if let Mode::FewPlaces(max) = mode {
            for producer in &expected {
                let having = |received: &&Received| received.producers.contains(producer);
                let count = state.received.values().filter(having).count();
                if count != max.min(consumers) {
                    return Err(format!(
                        "{count} have one of the {max} places of {producer}"
                    ));
                }
            }
            return Ok(());
        }
        for (consumer, received) in &state.received {
            if received.producers != expected {
                let producers = &received.producers;
                return Err(format!(
                    "{consumer} is subscribed to {producers:?}, not {expected:?}"
                ));
            }
        }
        Ok(())
    }

    /// Why not every consumer has received the last readings of those that it is subscribed to; `Ok` where it has.
    pub(super) fn all_received(&self) -> Result<(), String> {
        let state = self.state.borrow();
        for (consumer, received) in &state.received {
            for producer in &received.producers {
                let Some(sent) = state.sent.get(producer) else {
                    return Err(format!("{producer} has sent nothing"));
                };
                let (Some(&(life, next)), Some(from), true) =
                    (sent.lives.last(), sent.last_from, sent.done)
                else {
                    return Err(format!("{producer} is not done"));
                };
                // Who is dropped even now because the network is slow has been told of all that it misses.
                let may_miss = self.setup.disconnect_lagging;
                let has_all = match received.kind {
                    Some(kind) => {
                        let chosen = received.chosen.get(producer).copied().unwrap_or_default();
                        chosen.has_all_of(life, next, kind, may_miss)
                            && (may_miss || chosen.unbroken_from < from + KINDS)
                    }
                    None => {
                        let gaps = received.gaps.get(producer).copied().unwrap_or_default();
                        let told = gaps.unaccounted();
                        let is_whole = gaps.unbroken_from(life) <= Some(from) && told == 0;
                        gaps.next().map(|(of, due)| (of, due + told)) == Some((life, next))
                            && (may_miss || is_whole)
                    }
                };
                if !has_all {
                    return Err(format!(
                        "{consumer} has not just the readings from {from} to {next} of {producer}"
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn totals(&self) -> String {
        let state = self.state.borrow();
        let lives: usize = state.sent.values().map(|sent| sent.lives.len()).sum();
        format!(
            "{} readings of {lives} lives received, {} missing and told of, {} queued at most",
            state.readings, state.missing, state.most_queued
        )
    }
}

/// What speaks against a producer, for a consumer that does not want all.
pub(super) fn cost(producer: &PeerId) -> u64 {
    let bytes = producer.as_bytes();
    bytes[..8]
        .iter()
        .fold(0, |cost, byte| cost << 8 | u64::from(*byte))
}
