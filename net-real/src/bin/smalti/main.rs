//! The `smalti` command: runs a node without an application, and looks into a network.

mod args;
mod inspect;
mod node;

use std::process::ExitCode;

use clap::Parser;
use smalti::network;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command, Verbosity};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(arguments.verbosity());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Executor(error)),
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Node(arguments) => node::run(arguments).await,
            Command::Inspect(arguments) => inspect::run(arguments).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// Why the command has failed. Wrong usage is not among them: it ends with code 2, as all commands do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Threads or the event queue cannot be had.
    #[error("the asynchronous runtime cannot be started: {0}")]
    Executor(#[source] std::io::Error),
    /// The node cannot be started.
    #[error("the node cannot be started: {0}")]
    Start(#[from] network::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(#[source] std::io::Error),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] std::io::Error),
    /// No bootstrap peer lets this node in.
    #[error("cannot join the network '{network}'{}", reasons.iter().map(|r| format!("\n  {r}")).collect::<String>())]
    NotJoined {
        network: String,
        reasons: Vec<String>,
    },
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Executor(_) | Self::Start(_) | Self::Signals(_) | Self::Output(_) => 1,
            Self::NotJoined { .. } => 3,
        }
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    ExitCode::from(failure.code())
}

/// Logs go to standard error, so that standard output has nothing but what was asked for.
fn start_logging(verbosity: Verbosity) {
    let filter = EnvFilter::try_from_env("SMALTI_LOG")
        .unwrap_or_else(|_| EnvFilter::new(verbosity.filter()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
