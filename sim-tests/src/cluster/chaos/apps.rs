//! The applications of `streams-chaos`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt};
use rand_chacha::ChaCha8Rng;
use smalti_core::streams::{Consumer, ConsumerEvent, Criteria, Meta, Producer, SubscriptionState};
use smalti_core::wire::CloseCode;
use smalti_core::{Network, PeerId};
use smalti_sim::AppResult;
use smalti_sim::rng::{Streams, between, chance};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::Mode;
use super::board::{
    Board, EDGES, KINDS, Life, PLACED, Phase, Reading, TOO_SLOW, WAITED, WENT_OVER, cost,
};
use super::edges::Edges;

/// The least mean time between two of the last readings.
const LAST_PACE: Duration = Duration::from_millis(20);
/// How often a consumer shows to whom it is subscribed.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// For how long producers and consumers stay, and how long they are away.
const STAYS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));
const AWAY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3));
/// How long a consumer takes nothing, each time that it does.
const STALL_MAX: Duration = Duration::from_secs(4);

/// The application of one host, over all its lives.
#[derive(Clone)]
pub(super) struct Application {
    board: Board,
    rng: Rc<RefCell<ChaCha8Rng>>,
    /// Which readings the consumer wants, where not all.
    kind: Option<u64>,
}

impl Application {
    pub(super) fn new(board: &Board, streams: &Streams, host: usize) -> Self {
        let chooses = board.setup.criteria && host % 2 == 1;
        Self {
            board: board.clone(),
            rng: Rc::new(RefCell::new(streams.stream(&format!("application {host}")))),
            kind: chooses.then_some(host as u64 / 2 % KINDS),
        }
    }

    pub(super) fn producers(&self) -> usize {
        self.board.setup.producers
    }

    fn draw(&self, (least, most): (Duration, Duration)) -> Duration {
        between(&mut *self.rng.borrow_mut(), least, most)
    }

    /// Produces for a while, again and again.
    pub(super) async fn produce(self, network: Network) -> AppResult {
        let node = *network.discovery().me().instance();
        let mut phase = self.board.phase();
        for turn in 0.. {
            let ends = Instant::now() + self.draw(STAYS);
            let life = Life { node, turn };
            tokio::select! {
                biased;
                result = self.produce_once(&network, life) => return result,
                () = until(&mut phase, ends) => {}
            }
            sleep(self.draw(AWAY)).await;
        }
        Ok(())
    }

    /// Returns only where something is wrong.
    async fn produce_once(&self, network: &Network, life: Life) -> AppResult {
        let setup = &self.board.setup;
        let local = network.local().id();
        let mut builder = network
            .streams()
            .producer::<Reading>()
            .with_buffer_size(setup.buffer)
            .disconnect_lagging(setup.disconnect_lagging);
        if let Mode::FewPlaces(max) = setup.mode {
            builder = builder.with_max_consumers(max);
        }
        if let Some(max) = setup.max_egress {
            builder = builder.with_max_egress(max);
        }
        let mut producer: Producer<Reading> = builder.build().map_err(|error| error.to_string())?;
        let mut edges = Edges::new(&producer.when());
        let mut phase = self.board.phase();
        self.board.begin_life(local, life);
        let send_all = async {
            let mut last = None;
            for number in 0u64.. {
                if let (None, Phase::Last(more)) = (last, *phase.borrow_and_update()) {
                    last = Some(number + more);
                    self.board.last_from(local, number);
                }
                if last == Some(number) {
                    break;
                }
                self.board.sending(local, number);
                let reading = Reading {
                    life,
                    number,
                    kind: number % KINDS,
                    rest: vec![number as u8; setup.len],
                };
                producer
                    .send(reading)
                    .await
                    .map_err(|error| error.to_string())?;
                if number % 8 == 7 {
                    // The last ones so slowly that few networks make a consumer lag.
                    let pace = last.map_or(setup.pace, |_| setup.pace.max(LAST_PACE));
                    sleep(pace * 8).await;
                }
            }
            self.board.done(local);
            // What has been sent may still be on its way: the producer stays.
            std::future::pending::<Result<(), String>>().await
        };
        tokio::select! {
            biased;
            wrong = poll_fn(|cx| edges.poll_wrong(cx)) => Err(wrong.into()),
            result = send_all => Ok(result?),
        }
    }

    /// Consumes for a while, again and again.
    pub(super) async fn consume(self, network: Network) -> AppResult {
        let mut phase = self.board.phase();
        loop {
            let ends = Instant::now() + self.draw(STAYS);
            tokio::select! {
                biased;
                result = self.consume_once(&network) => return result,
                () = until(&mut phase, ends) => {}
            }
            sleep(self.draw(AWAY)).await;
        }
    }

    fn consumer(&self, network: &Network) -> Result<Consumer<Reading>, String> {
        let setup = &self.board.setup;
        let mut builder = network
            .streams()
            .consumer::<Reading>()
            .with_buffer_size(setup.buffer);
        if let Mode::FewProducers(max) = setup.mode {
            builder = builder
                .with_max_producers(max)
                .prefer_by(|entry| cost(entry.id()));
        }
        if let Some(kind) = self.kind {
            builder = builder.with_criteria(Criteria::field("kind").is(kind));
        }
        builder.build().map_err(|error| error.to_string())
    }

    /// Returns only where something is wrong, or the node ends.
    async fn consume_once(&self, network: &Network) -> AppResult {
        let local = network.local().id();
        let mut consumer = self.consumer(network)?;
        self.board.begin_consumer(local, self.kind);
        let phase = self.board.phase();
        let mut edges = Edges::new(&consumer.when());
        let mut events = consumer.events();
        let mut show = tokio::time::interval(SHOW_EVERY);
        let mut waited = false;
        loop {
            tokio::select! {
                biased;
                wrong = poll_fn(|cx| edges.poll_wrong(cx)) => return Err(wrong.into()),
                // Before the readings, so that what is missing is told before they show it.
                event = events.recv() => match event {
                    Ok(Some(event)) => self.hear(&local, &event, &mut waited),
                    Ok(None) => return Ok(()),
                    Err(lagged) => return Err(format!("{local} lost events: {lagged:?}").into()),
                },
                reading = consumer.recv_with_meta() => {
                    let Some((reading, meta)) = reading else { return Ok(()) };
                    self.take(local, &reading, &meta)?;
                    let stalls = self.board.setup.stalls && *phase.borrow() == Phase::Changing;
                    if stalls && chance(&mut *self.rng.borrow_mut(), 2_000) {
                        sleep(self.draw((Duration::ZERO, STALL_MAX))).await;
                        while let Some(Ok(Some(event))) = events.recv().now_or_never() {
                            self.hear(&local, &event, &mut waited);
                        }
                        // Nothing can come in while these are taken, since nothing is waited for.
                        let mut queued = 0;
                        while let Some(Some((reading, meta))) =
                            consumer.recv_with_meta().now_or_never()
                        {
                            queued += 1;
                            self.take(local, &reading, &meta)?;
                        }
                        self.board.queued(queued)?;
                    }
                }
                // Neither an event nor a reading is there.
                _ = show.tick() => {
                    if edges.seen() > 2 {
                        self.board.findings.reach(EDGES);
                    }
                    let leaving = SubscriptionState::Leaving;
                    if consumer.stats().iter().any(|stats| stats.state == leaving) {
                        self.board.findings.reach(WENT_OVER);
                    }
                    self.board.show(local, consumer.producers());
                }
            }
        }
    }

    fn take(&self, local: PeerId, reading: &Reading, meta: &Meta) -> Result<(), String> {
        let Reading { number, .. } = *reading;
        if number != meta.sequence {
            return Err(format!("number {number} came as {}", meta.sequence));
        }
        let taken = self.board.take(local, meta.producer, reading);
        taken.map_err(|cause| format!("{local} got number {number} of {}: {cause}", meta.producer))
    }

    fn hear(&self, local: &PeerId, event: &ConsumerEvent, waited: &mut bool) {
        match event {
            ConsumerEvent::Lagged { peer, datums } => self.board.told(*local, *peer, *datums),
            ConsumerEvent::Waiting { .. } => {
                *waited = true;
                self.board.findings.reach(WAITED);
            }
            ConsumerEvent::Subscribed { .. } if *waited => {
                self.board.findings.reach(PLACED);
            }
            ConsumerEvent::Unsubscribed { code, .. }
                if *code == Some(CloseCode::STREAM_TOO_SLOW) =>
            {
                self.board.findings.reach(TOO_SLOW);
            }
            _ => {}
        }
    }
}

/// Waits until it is time to go; for ever where nobody goes any more.
async fn until(phase: &mut watch::Receiver<Phase>, ends: Instant) {
    let staying = phase.wait_for(|phase| *phase != Phase::Changing);
    if timeout_at(ends, staying).await.is_ok() {
        std::future::pending::<()>().await;
    }
}
