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
    /// What each producer has sent, by the node that it is on: its life, the next number, and
    /// whether it is done.
    sent: BTreeMap<PeerId, (Instance, u64, bool)>,
    /// What each consumer has received, by the node that it is on.
    received: BTreeMap<PeerId, Received>,
    /// All readings received.
    readings: u64,
}

/// What one consumer has received.
#[derive(Default)]
struct Received {
    producers: Vec<PeerId>,
    /// For each producer: the life, the next number that is due, and how many were missing in it.
    next: BTreeMap<PeerId, (Instance, u64)>,
    missing: BTreeMap<PeerId, u64>,
    /// How many it was told that are missing.
    told: BTreeMap<PeerId, u64>,
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
        self.sent(producer_id, life, 0, false);
        for number in 0.. {
            if let (None, Phase::Last(more)) = (last, *phase.borrow_and_update()) {
                last = Some(number + more);
            }
            if last == Some(number) {
                break;
            }
            producer.send(Reading { life, number }).await?;
            self.sent(producer_id, life, number + 1, false);
            if number % 8 == 7 {
                tokio::time::sleep(self.pace * 8).await;
            }
        }
        let next = last.unwrap_or_default();
        self.sent(producer_id, life, next, true);
        // What has been sent may still be on its way: the producer stays.
        std::future::pending().await
    }

    fn sent(&self, producer: PeerId, life: Instance, next: u64, done: bool) {
        self.state
            .borrow_mut()
            .sent
            .insert(producer, (life, next, done));
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
                _ = show.tick() => {
                    if let Some(received) = self.state.borrow_mut().received.get_mut(&local) {
                        received.producers = consumer.producers();
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
                *received.told.entry(*peer).or_default() += datums;
            }
            ConsumerEvent::Subscribed { peer } if received.next.contains_key(peer) => {
                findings.reach(RESUBSCRIBED);
            }
            _ => {}
        }
    }

    /// Takes note of a reading: it is none that was due before, and what is missing has been told.
    fn take(
        &self,
        consumer: PeerId,
        producer: PeerId,
        reading: Reading,
        findings: &Findings,
    ) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        state.readings += 1;
        let received = state.received.entry(consumer).or_default();
        let due = (reading.life, reading.number + 1);
        let next = match received.next.insert(producer, due) {
            Some((life, next)) if life == reading.life => next,
            Some(_) => {
                findings.reach(NEXT_LIFE);
                return Ok(());
            }
            None => return Ok(()),
        };
        if reading.number < next {
            return Err(format!(
                "{consumer} got {reading:?} of {producer} when number {next} was due"
            ));
        }
        if reading.number == next {
            return Ok(());
        }
        findings.reach(MISSED);
        let missing = received.missing.entry(producer).or_default();
        *missing += reading.number - next;
        let told = received.told.get(&producer).copied().unwrap_or_default();
        if *missing > told {
            return Err(format!(
                "{consumer} misses {missing} readings of {producer}, the last before {reading:?}, \
                 and was told of {told}"
            ));
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

    /// Why not every consumer has received the last reading of every producer's present life; `Ok`
    /// where it has.
    pub(super) fn all_received(&self) -> Result<(), String> {
        let state = self.state.borrow();
        for (producer, (life, next, done)) in &state.sent {
            if !done {
                return Err(format!(
                    "{producer} has sent {next} readings and is not done"
                ));
            }
            for (consumer, received) in &state.received {
                if received.next.get(producer) != Some(&(*life, *next)) {
                    let due = received.next.get(producer).map(|(_, next)| next);
                    return Err(format!(
                        "{consumer} waits for number {due:?} of {producer}, which has sent {next}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// How many readings were received and how many are known to be missing, in present lives.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state.borrow();
        let missing = state.received.values().flat_map(|r| r.missing.values());
        (state.readings, missing.sum())
    }
}
