//! Three processes of one durable group, killed all at once under load, again and again: nothing that was acknowledged
//! may be lost, nothing applied twice.
//!
//! `cargo run --release --bin kill9 -- --help` tells what can be changed.

mod node;
mod parent;
mod tally;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Kills a durable group of three processes under load, over QUIC on loopback and with redb on disk, and checks after
/// each restart that nothing acknowledged was lost and nothing applied twice. Exits non-zero if anything was.
#[derive(Parser)]
#[command(name = "kill9", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// How often all three are killed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Commands that each process keeps in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Acknowledgements in each round before the kill comes, over all processes.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    acknowledged: u64,
    /// Where the processes keep their data; it must not be there yet. Default: a directory for temporary files, removed
    /// where all went well.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Give up where one round takes longer than this, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

#[derive(Subcommand)]
enum Command {
    /// One of the processes; started by the command itself.
    #[command(hide = true)]
    Node(NodeOptions),
}

#[derive(Args)]
struct NodeOptions {
    /// Which of the three.
    #[arg(long)]
    number: u32,
    /// Which of its lives.
    #[arg(long)]
    life: u32,
    /// Where all three listen.
    #[arg(long, num_args = 1, required = true)]
    address: Vec<SocketAddr>,
    #[arg(long)]
    directory: PathBuf,
    #[arg(long)]
    in_flight: u32,
}

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Node(options)) => node::run(options),
        None => parent::run(&cli.options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kill9: {error}");
            ExitCode::FAILURE
        }
    }
}
