//! `smalti node`: a node without an application.

use std::io::Write;
use std::time::Duration;

use smalti::discovery::Config;
use smalti::{Network, NetworkBuilder, NetworkBuilderExt, NetworkExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Failure;
use crate::args::{CommonArguments, NodeArguments};

/// How long the node is alone before that is worth a warning.
const ALONE_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn run(arguments: NodeArguments) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let joins = !arguments.bootstrap.is_empty();
    let config = Config::builder()
        .with_bootstrap(arguments.bootstrap)
        .with_tags(arguments.tag);
    let mut builder = configure(&arguments.common).with_discovery(config);
    if let Some(secret) = &arguments.secret {
        builder = builder.with_secret_key(secret.as_str());
    }
    if let Some(directory) = arguments.data_dir {
        builder = builder.with_data_dir(directory);
    }
    let network = builder.build().await?;
    announce(&network)?;
    smalti::select! {
        () = signals.next() => (),
        () = follow(&network, joins) => (),
    }
    tracing::info!("leaving the network");
    smalti::select! {
        () = network.shutdown() => tracing::info!("left"),
        () = signals.next() => tracing::warn!("signalled again: not waiting any longer"),
    }
    Ok(())
}

/// What all commands configure alike.
pub(crate) fn configure(common: &CommonArguments) -> NetworkBuilder {
    let mut builder = Network::builder(common.network.as_str()).with_addresses(common.listen);
    if let Some(secret) = &common.network_secret {
        builder = builder.with_network_secret(secret);
    }
    builder
}

/// Prints the one line that other nodes take for `--bootstrap`.
fn announce(network: &Network) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", network.local().addr())
        .and_then(|()| output.flush())
        .map_err(Failure::Output)
}

/// Logs who comes and goes, as long as the node runs.
async fn follow(network: &Network, joins: bool) {
    use smalti::discovery::Event;

    let mut catalog = network.discovery().catalog_watch();
    let mut events = network.discovery().events();
    if joins {
        let met = catalog.wait_for(|catalog| catalog.peers_count() > 0);
        smalti::select! {
            _ = met => (),
            () = tokio::time::sleep(ALONE_MAX) => tracing::warn!(
                "no peer found yet: does a node of this network listen at the bootstrap addresses? \
                 The node goes on trying"
            ),
        }
    }
    loop {
        match events.recv().await {
            Ok(Some(Event::PeerDiscovered(entry))) => {
                tracing::info!(peer = %entry.id(), addresses = ?entry.addresses(), "peer joined");
            }
            Ok(Some(Event::PeerDeparted(peer))) => tracing::info!(%peer, "peer left"),
            Ok(Some(Event::DuplicateIdentity { addresses, .. })) => tracing::error!(
                ?addresses,
                "another running node has the same secret key: stop one of the two"
            ),
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(lagged) => tracing::warn!("{lagged}"),
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::Signals)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::Signals)?,
        })
    }

    /// The next of either.
    async fn next(&mut self) {
        smalti::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}
