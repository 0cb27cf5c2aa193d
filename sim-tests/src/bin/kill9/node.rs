//! One of the processes.

use std::io::Write as _;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use smalti::groups::{ConsensusConfig, FoundingRule, GroupKey, Storage};
use smalti::{Network, NetworkBuilderExt, NetworkExt, SecretKey, Strong, discovery};

use crate::tally::{Say, Tally, Write, Writer};
use crate::{NodeOptions, Result};

/// The keys of the processes are known beforehand, so that each can be told where the others are.
fn key(number: usize) -> SecretKey {
    SecretKey::from(format!("kill9 process {number}").as_str())
}

/// Runs the process until it is killed.
pub(crate) fn run(options: &NodeOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(work(options));
    if let Err(error) = &result {
        say(&Say::Failed(error.to_string()))?;
    }
    result
}

/// Whole lines only, and at once: what is said is what the other side counts on.
fn say(what: &Say) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    Ok(out.flush()?)
}

async fn work(options: &NodeOptions) -> Result<()> {
    let own = options.number as usize;
    let others = options.address.iter().enumerate();
    let others = others.filter(|(number, _)| *number != own);
    let bootstrap: Vec<discovery::PeerAddr> = others
        .map(|(number, address)| discovery::PeerAddr::new(key(number).peer_id(), [*address]))
        .collect();
    let network = Network::builder("kill9")
        .with_secret_key(key(own))
        .with_addresses([options.address[own]])
        .with_bootstrap(bootstrap)
        .with_data_dir(&options.directory)
        .build()
        .await?;
    let config = ConsensusConfig {
        heartbeat_interval: Duration::from_millis(100),
        heartbeat_jitter: Duration::from_millis(30),
        election_timeout: Duration::from_millis(500),
        election_timeout_jitter: Duration::from_millis(200),
        bootstrap_delay: Duration::from_millis(500),
        founding: FoundingRule::Expect(3),
        // Small, so that snapshots and the dropping of the log are under way when the kill comes.
        snapshot_interval: 512,
        log_window: 512,
        ..ConsensusConfig::default()
    };
    let group = network
        .groups()
        .with_key(GroupKey::from_bytes([9; 32]))
        .with_state_machine(Tally::default())
        .with_storage(Storage::Durable)
        .with_consensus_config(config)
        .join()
        .await?;
    group.when().online().await;
    // Leadership may still be settling; whoever kills this process has patience, and a limit.
    let tally = loop {
        match group.query((), Strong).await {
            Ok(tally) => break tally.result,
            Err(error) => eprintln!("process {own}: {error}"),
        }
    };
    say(&Say::Read(tally))?;

    let writer = Writer {
        number: options.number,
        life: options.life,
    };
    let mut in_flight = FuturesUnordered::new();
    let mut next = 0;
    loop {
        while in_flight.len() < options.in_flight as usize {
            let number = next;
            next += 1;
            let pending = group.feed(Write { writer, number }).await?;
            in_flight.push(async move { (number, pending.await) });
        }
        let Some((number, result)) = in_flight.next().await else {
            continue;
        };
        result?;
        say(&Say::Acknowledged(number))?;
    }
}
