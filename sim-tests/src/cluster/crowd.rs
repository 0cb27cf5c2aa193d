//! `streams-crowd`: five hundred consumers of one producer, of which one takes nothing: it is dropped for it, and the
//! others miss nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::future::join_all;
use smalti_core::network::CloseCode;
use smalti_core::streams::{ProducerEvent, Raw};
use smalti_core::{Consumer, Network, PeerId};
use smalti_sim::rng::{Streams, below};
use smalti_sim::{AppResult, Control, Simulation};

use super::{Findings, HOSTS, name, observe};
use crate::{Nodes, Options, Outcome, Scenario};

/// The scenario `streams-crowd`.
pub struct Crowd;

/// So many consumers take everything, and one nothing.
const TAKERS: usize = 499;
/// More than these bytes are never on their way to one consumer: what the simulated connections hold of a stream at both
/// ends, and its shares of the queues.
const UNDER_WAY_MAX: usize = 640 * 1_024;
/// How long all may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked at how far all are.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a run sends.
#[derive(Clone, Copy, Debug)]
struct Load {
    datums: u64,
    /// Bytes of each datum.
    len: usize,
    /// Datums that wait for a consumer, at each end.
    buffer: usize,
}

impl Scenario for Crowd {
    fn name(&self) -> &'static str {
        "streams-crowd"
    }

    fn description(&self) -> &'static str {
        "of 500 consumers of one producer one takes nothing, and the others miss nothing"
    }

    fn nodes(&self) -> Nodes {
        HOSTS
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        let hosts = options.nodes(HOSTS) as usize - 1;
        let load = draw(&Streams::new(seed));
        let findings = Findings::default();
        let (done, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let simulation = Simulation::new(seed).duration(LIMIT * 2);
        // The last host has the one that takes nothing as well.
        let stopped = simulation.peer_id(&name(hosts));
        let counted = dropped.clone();
        let mut simulation = simulation.service(&name(0), move |network| {
            produce(network, load, stopped, counted.clone())
        });
        for host in 1..=hosts {
            let takers = TAKERS / hosts + usize::from(host <= TAKERS % hosts);
            let done = done.clone();
            simulation = simulation.service(&name(host), move |network| {
                consume(network, load, takers, host == hosts, done.clone())
            });
        }
        let noted = findings.clone();
        let simulation = simulation.script(move |control| {
            let (done, dropped, findings) = (done.clone(), dropped.clone(), noted.clone());
            async move {
                let result = script(&control, &done, &dropped).await;
                findings.measure(format!("all have everything after {:?}", control.elapsed()));
                findings.conclude(result);
            }
        });
        observe(simulation, vec![format!("{load:?}")], &findings, options)
    }
}

fn draw(streams: &Streams) -> Load {
    let mut rng = streams.stream("load");
    let len = 1_024 + below(&mut rng, 20_000) as usize;
    let buffer = 1 + below(&mut rng, 4) as usize;
    let datums = (UNDER_WAY_MAX / len + 2 * buffer) as u64;
    Load {
        datums,
        len,
        buffer,
    }
}

/// Sends everything once all consumers are there, and counts who is dropped: only who takes nothing may be.
async fn produce(
    network: Network,
    load: Load,
    stopped: PeerId,
    dropped: Rc<Cell<usize>>,
) -> AppResult {
    let producer = network.streams().producer::<Raw>();
    let mut producer = producer.with_buffer_size(load.buffer).build()?;
    producer.when().subscribed().minimum_of(TAKERS + 1).await;
    let mut events = producer.events();
    let mut sending = std::pin::pin!(async {
        for number in 0..load.datums {
            let mut datum = number.to_le_bytes().to_vec();
            datum.resize(load.len, number as u8);
            producer.send(Raw::from(datum)).await?;
        }
        std::future::pending::<AppResult>().await
    });
    loop {
        let event = smalti_core::select! {
            event = events.recv() => event?.ok_or("the producer has ended")?,
            result = &mut sending => return result,
        };
        if let ProducerEvent::Unsubscribed { peer, code, .. } = event {
            assert_eq!((peer, code), (stopped, Some(CloseCode::STREAM_TOO_SLOW)));
            dropped.set(dropped.get() + 1);
        }
    }
}

async fn consume(
    network: Network,
    load: Load,
    takers: usize,
    has_stopped: bool,
    done: Rc<Cell<usize>>,
) -> AppResult {
    let consumer = || {
        let consumer = network.streams().consumer::<Raw>();
        consumer.with_buffer_size(load.buffer).build()
    };
    let stopped = has_stopped.then(&consumer).transpose()?;
    let consumers: Result<Vec<_>, _> = (0..takers).map(|_| consumer()).collect();
    let all = consumers?.into_iter().map(|consumer| take(consumer, load));
    let all = join_all(all.map(async |taken| {
        let consumer = taken.await;
        done.set(done.get() + 1);
        consumer
    }));
    let kept = all.await;
    std::future::pending::<()>().await;
    drop((stopped, kept));
    Ok(())
}

/// Takes all datums, in order and without a gap.
async fn take(mut consumer: Consumer<Raw>, load: Load) -> Consumer<Raw> {
    for number in 0..load.datums {
        let datum = consumer.recv_with_meta().await;
        let (datum, meta) = datum.expect("the node goes on");
        assert_eq!(meta.sequence, number, "a datum is missing");
        assert_eq!(datum.len(), load.len);
        assert_eq!(datum[..8], number.to_le_bytes());
    }
    consumer
}

async fn script(
    control: &Control,
    done: &Cell<usize>,
    dropped: &Cell<usize>,
) -> Result<(), String> {
    while done.get() < TAKERS || dropped.get() == 0 {
        if control.elapsed() > LIMIT {
            return Err(format!(
                "after {LIMIT:?} only {} of {TAKERS} have everything, and who takes nothing was dropped {} times",
                done.get(),
                dropped.get()
            ));
        }
        control.sleep(LOOK_EVERY).await;
    }
    Ok(())
}
