//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use smalti::discovery::PeerAddr;

const EXIT_CODES: &str = "\
Exit codes:
  0  all went well
  1  the node cannot be started, for example because the port or the data directory is in use
  2  the command line is wrong
  3  no bootstrap peer lets the node in (inspect)

Every option can also be given by the environment variable named with it. SMALTI_LOG takes a filter such as
'smalti_core=debug,quinn=info' in place of -v and -q. Logs go to standard error.";

/// Runs nodes of self-organizing networks, and looks into them.
#[derive(Debug, Parser)]
#[command(name = "smalti", version, after_long_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    pub(crate) const fn verbosity(&self) -> Verbosity {
        match &self.command {
            Command::Node(node) => Verbosity {
                base: 2,
                flags: node.common.logging,
            },
            Command::Inspect(inspect) => Verbosity {
                base: 1,
                flags: inspect.common.logging,
            },
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a node that other nodes can join through, until Ctrl-C or SIGTERM.
    ///
    /// Prints one line: the node's id and addresses, which is what other nodes take for --bootstrap. It needs
    /// no peers to start, and leaves the network in good order.
    #[command(after_long_help = EXIT_CODES)]
    Node(NodeArguments),
    /// Joins a network, prints who is in it, and leaves.
    #[command(after_long_help = EXIT_CODES)]
    Inspect(InspectArguments),
}

/// What all commands take.
#[derive(Debug, Args)]
pub(crate) struct CommonArguments {
    /// The network: a name, or an id of 64 hexadecimal digits.
    #[arg(long, short, env = "SMALTI_NETWORK", value_name = "NAME")]
    pub(crate) network: String,

    /// The secret that the network's nodes share, where it has one.
    ///
    /// Other users of this machine can read the command line: prefer the environment variable.
    #[arg(
        long,
        env = "SMALTI_NETWORK_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(crate) network_secret: Option<String>,

    /// Where to listen [default: all interfaces, a free port].
    #[arg(long, short, env = "SMALTI_LISTEN", value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) logging: LoggingFlags,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LoggingFlags {
    /// Logs more; twice for everything.
    #[arg(long, short, env = "SMALTI_VERBOSE", action = clap::ArgAction::Count)]
    verbose: u8,

    /// Logs nothing but errors.
    #[arg(long, short, env = "SMALTI_QUIET", conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    #[command(flatten)]
    pub(crate) common: CommonArguments,

    /// The node's secret key, so that it keeps its id: 64 hexadecimal digits, or any text, which is hashed
    /// to a key [default: that of the data directory, or a new one at each start].
    ///
    /// Whoever can guess it can be the node. Other users of this machine can read the command line: prefer the
    /// environment variable.
    #[arg(
        long,
        short,
        env = "SMALTI_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(crate) secret: Option<String>,

    /// A directory in which the node keeps its secret key, so that it has the same id at each start, and what its
    /// groups store. It is made where it is not there, for this network and this key; one node at a time has it.
    #[arg(long, short, env = "SMALTI_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// A node to join through, as it prints itself; may be repeated. In the environment variable, several are
    /// separated by spaces.
    #[arg(
        long,
        short,
        env = "SMALTI_BOOTSTRAP",
        value_name = "ID@IP:PORT",
        value_delimiter = ' '
    )]
    pub(crate) bootstrap: Vec<PeerAddr>,

    /// A tag of the node; may be repeated, or several separated by commas.
    #[arg(
        long,
        short,
        env = "SMALTI_TAG",
        value_name = "TAG",
        value_delimiter = ','
    )]
    pub(crate) tag: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    pub(crate) common: CommonArguments,

    /// A node to join through, as it prints itself; may be repeated. In the environment variable, several are
    /// separated by spaces.
    #[arg(
        long,
        short,
        env = "SMALTI_BOOTSTRAP",
        value_name = "ID@IP:PORT",
        value_delimiter = ' ',
        required = true
    )]
    pub(crate) bootstrap: Vec<PeerAddr>,

    /// Prints JSON instead of a table.
    #[arg(long, env = "SMALTI_JSON")]
    pub(crate) json: bool,

    /// A tag or a stream to show by this name instead of its digest; may be repeated, or several separated by
    /// commas.
    #[arg(long, env = "SMALTI_NAME", value_name = "NAME", value_delimiter = ',')]
    pub(crate) name: Vec<String>,

    /// How long to wait, in seconds, for the network to be known.
    #[arg(
        long,
        env = "SMALTI_TIMEOUT",
        value_name = "SECONDS",
        default_value = "10",
        value_parser = parse_seconds
    )]
    pub(crate) timeout: Duration,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3_600.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds above 0, 3600 at most".to_owned()),
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verbosity {
    /// What the command logs by itself, as a place in the list of levels.
    base: usize,
    flags: LoggingFlags,
}

impl Verbosity {
    pub(crate) fn filter(self) -> String {
        const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
        let level = if self.flags.quiet {
            0
        } else {
            (self.base + usize::from(self.flags.verbose)).min(LEVELS.len() - 1)
        };
        // The libraries below tell every packet at their lower levels.
        let libraries = LEVELS[level.saturating_sub(1).min(2)];
        let level = LEVELS[level];
        format!("{libraries},smalti={level},smalti_core={level}")
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_environment_variable() {
        for command in Arguments::command().get_subcommands() {
            for option in command.get_arguments() {
                let Some(long) = option.get_long().filter(|long| *long != "help") else {
                    continue;
                };
                let expected = format!("SMALTI_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(option.get_env(), Some(expected.as_ref()), "{long}");
            }
        }
    }

    #[test]
    fn timeouts_are_positive_and_bounded() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "4000", "soon"] {
            assert!(parse_seconds(wrong).is_err());
        }
    }

    #[test]
    fn flags_shift_the_level_of_logs() {
        let filter = |verbose, quiet| {
            let flags = LoggingFlags { verbose, quiet };
            Verbosity { base: 1, flags }.filter()
        };
        assert_eq!(filter(0, false), "error,smalti=warn,smalti_core=warn");
        assert_eq!(filter(2, false), "info,smalti=debug,smalti_core=debug");
        assert_eq!(filter(9, false), "info,smalti=trace,smalti_core=trace");
        assert_eq!(filter(0, true), "error,smalti=error,smalti_core=error");
    }
}
