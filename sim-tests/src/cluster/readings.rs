//! What producers send in `streams-deliver`, and what consumers check of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::SinkExt;
use serde::{Deserialize, Serialize};
use smalti_core::id::{Instance, PeerId};
use smalti_core::streams::ConsumerEvent;
use smalti_core::{Consumer, Network, Producer};
use smalti_sim::AppResult;
use tokio::sync::watch;

use super::Findings;
use super::gaps::{Gaps, Shown, unreceived};

pub(super) const MISSED: &str = "a consumer missed datums and was told so";
pub(super) const RESUBSCRIBED: &str = "a consumer subscribed to a producer again";
pub(super) const NEXT_LIFE: &str = "a consumer went on with the next life of a producer";

/// How often a consumer shows to whom it is subscribed.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    /// Which life of the producer's node sends it.
    life: Instance,
    /// Counts the readings of that life.
    number: u64,
}

/// How far a run is, for its producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Send on.
    Sending,
    /// Send so many more, and then no more.
    Last(u64),
}

/// What producers have sent and consumers have received, in their present lives. A clone is the
/// same.
#[derive(Clone)]
pub(super) struct Board {
    state: Rc<RefCell<State>>,
    phase: watch::Sender<Phase>,
    /// The mean time between two readings.
    pub(super) pace: Duration,
}

#[derive(Default)]
struct State {
    /// What each producer has sent, by the node that it is on.
    sent: BTreeMap<PeerId, Sent>,
    /// What each consumer has received, by the node that it is on.
    received: BTreeMap<PeerId, Received>,
    /// All readings received.
    readings: u64,
    /// All readings that a consumer has missed within a life.
    missing: u64,
}

/// What one producer has sent.
#[derive(Default)]
struct Sent {
    /// Each of its lives with the next number, from the first life to the present.
    lives: Vec<(Instance, u64)>,
    /// The first of the last readings of its present life.
    last_from: Option<u64>,
    /// Whether the present life has sent all.
    done: bool,
}

/// What one consumer has received.
#[derive(Default)]
struct Received {
    producers: Vec<PeerId>,
    /// What it has received of each producer, and what it was told.
    gaps: BTreeMap<PeerId, Gaps<Instance>>,
}

impl Board {
    pub(super) fn new(pace: Duration) -> Self {
        Self {
            state: Rc::default(),
            phase: watch::Sender::new(Phase::Sending),
            pace,
        }
    }

    /// Lets all producers send `readings` more, and then no more.
    pub(super) fn finish(&self, readings: u64) {
        self.phase.send_replace(Phase::Last(readings));
    }

    /// The application of a producer.
    pub(super) async fn produce(self, network: Network) -> AppResult {
        let producer_id = network.local().id();
        let life = *network.discovery().me().instance();
        let mut producer: Producer<Reading> = network.streams().produce();
        let mut phase = self.phase.subscribe();
        let mut last = None;
        self.change_sent(producer_id, |sent| {
            sent.lives.push((life, 0));
            (sent.last_from, sent.done) = (None, false);
        });
        for number in 0.. {
            if let (None, Phase::Last(more)) = (last, *phase.borrow_and_update()) {
                last = Some(number + more);
                self.change_sent(producer_id, |sent| sent.last_from = Some(number));
            }
            if last == Some(number) {
                break;
            }
            // Noted before, as it may arrive even where this life ends within `send`.
            self.change_sent(producer_id, |sent| {
                if let Some((_, next)) = sent.lives.last_mut() {
                    *next = number + 1;
                }
            });
            producer.send(Reading { life, number }).await?;
            if number % 8 == 7 {
                tokio::time::sleep(self.pace * 8).await;
            }
        }
        self.change_sent(producer_id, |sent| sent.done = true);
        // What has been sent may still be on its way: the producer stays.
        std::future::pending().await
    }

    fn change_sent(&self, producer: PeerId, change: impl FnOnce(&mut Sent)) {
        change(self.state.borrow_mut().sent.entry(producer).or_default());
    }

    /// The application of a consumer: checks all that it receives.
    pub(super) async fn consume(self, network: Network, findings: Findings) -> AppResult {
        let local = network.local().id();
        let mut consumer: Consumer<Reading> = network.streams().consume();
        let start = Received::default();
        self.state.borrow_mut().received.insert(local, start);
        let mut show = tokio::time::interval(SHOW_EVERY);
        let mut events = consumer.events();
        loop {
            tokio::select! {
                biased;
                // Before the readings, so that what is missing is told before they show it.
                event = events.recv() => match event {
                    Ok(Some(event)) => self.told(local, &event, &findings),
                    Ok(None) => return Ok(()),
                    Err(lagged) => return Err(format!("{local} lost events: {lagged:?}").into()),
                },
                reading = consumer.recv_with_meta() => {
                    let Some((reading, meta)) = reading else { return Ok(()) };
                    if reading.number != meta.sequence {
                        let sequence = meta.sequence;
                        return Err(format!("{reading:?} came under the number {sequence}").into());
                    }
                    self.take(local, meta.producer, reading, &findings)?;
                }
                // Neither an event nor a reading is there.
                _ = show.tick() => {
                    if let Some(received) = self.state.borrow_mut().received.get_mut(&local) {
                        received.producers = consumer.producers();
                        received.gaps.values_mut().for_each(Gaps::all_taken);
                    }
                }
            }
        }
    }

    /// Takes note of what a consumer is told of a producer.
    fn told(&self, consumer: PeerId, event: &ConsumerEvent, findings: &Findings) {
        let mut state = self.state.borrow_mut();
        let received = state.received.entry(consumer).or_default();
        match event {
            ConsumerEvent::Lagged { peer, datums } => {
                received.gaps.entry(*peer).or_default().told(*datums);
            }
            ConsumerEvent::Subscribed { peer } => {
                let gaps = received.gaps.get(peer);
                if gaps.is_some_and(|gaps| gaps.next().is_some()) {
                    findings.reach(RESUBSCRIBED);
                }
            }
            _ => {}
        }
    }

    /// Takes note of a reading: it is none that was due before, and just what is missing has been
    /// told.
    fn take(
        &self,
        consumer: PeerId,
        producer: PeerId,
        reading: Reading,
        findings: &Findings,
    ) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        let State {
            sent,
            received,
            readings,
            missing,
        } = &mut *state;
        *readings += 1;
        let received = received.entry(consumer).or_default();
        let gaps = received.gaps.entry(producer).or_default();
        let of_earlier_lives = sent
            .get(&producer)
            .map_or(0, |sent| unreceived(&sent.lives, gaps.next(), reading.life));
        match gaps.take(reading.life, reading.number, of_earlier_lives) {
            Ok(Shown::Next | Shown::First) => {}
            Ok(Shown::NextLife) => findings.reach(NEXT_LIFE),
            Ok(Shown::Missing(datums)) => {
                findings.reach(MISSED);
                *missing += datums;
            }
            Err(cause) => {
                return Err(format!("{consumer} got {reading:?} of {producer}: {cause}"));
            }
        }
        Ok(())
    }

    /// Why not every one of so many consumers is subscribed to every one of so many producers; `Ok`
    /// where it is so.
    pub(super) fn all_subscribed(&self, producers: usize, consumers: usize) -> Result<(), String> {
        let state = self.state.borrow();
        let consuming = state.received.len();
        if consuming < consumers {
            return Err(format!("{consuming} of {consumers} consumers have started"));
        }
        for (consumer, received) in &state.received {
            let count = received.producers.len();
            if count != producers {
                return Err(format!(
                    "{consumer} is subscribed to {count} of {producers} producers"
                ));
            }
        }
        Ok(())
    }

    /// Why not every consumer has received all the last readings of every producer's present life,
    /// and been told of nothing else that is missing; `Ok` where it has.
    pub(super) fn all_received(&self) -> Result<(), String> {
        let state = self.state.borrow();
        for (producer, sent) in &state.sent {
            let (Some((life, next)), true) = (sent.lives.last(), sent.done) else {
                return Err(format!("{producer} is not done"));
            };
            for (consumer, received) in &state.received {
                let gaps = received.gaps.get(producer).copied().unwrap_or_default();
                if gaps.next() != Some((*life, *next)) {
                    let due = gaps.next().map(|(_, next)| next);
                    return Err(format!(
                        "{consumer} waits for number {due:?} of {producer}, which has sent {next}"
                    ));
                }
                if gaps.unbroken_from(*life) > sent.last_from {
                    return Err(format!(
                        "{consumer} misses one of the last readings of {producer}, which begin with \
                         {:?}: all from {:?} on have arrived",
                        sent.last_from,
                        gaps.unbroken_from(*life)
                    ));
                }
                let unaccounted = gaps.unaccounted();
                if unaccounted > 0 {
                    return Err(format!(
                        "{consumer} was told of {unaccounted} readings of {producer} too many"
                    ));
                }
            }
        }
        Ok(())
    }

    /// How many readings were received and how many are known to be missing.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state.borrow();
        (state.readings, state.missing)
    }
}
