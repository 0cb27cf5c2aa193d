//! Configuration of discovery.

use std::time::Duration;

use super::entry::TAGS_MAX;
use super::peer_addr::PeerAddr;
use crate::id::Tag;

/// The most bootstrap peers that a configuration may name.
pub const BOOTSTRAP_MAX: usize = 64;

/// How a node finds its peers and tells them of itself.
///
/// ```
/// use smalti_core::protocol::discovery::Config;
/// use smalti_core::time::Duration;
///
/// let config = Config::builder()
///     .with_tags(["matcher", "eu-west"])
///     .with_announce_interval(Duration::from_secs(5))
///     .build()?;
/// assert_eq!(config.tags.len(), 2);
/// # Ok::<(), smalti_core::protocol::discovery::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Peers to join the network through. Default: none, so others must dial this node.
    pub bootstrap: Vec<PeerAddr>,
    /// Tags that the node starts with. Default: none.
    pub tags: Vec<Tag>,
    /// Mean time between two announcements of an unchanged entry. Default: 15 s.
    pub announce_interval: Duration,
    /// How far a single interval may lie from the mean, as a part of it: 0.5 draws from half to one and a
    /// half of it, so that nodes started together do not stay in step. Default: 0.5.
    pub announce_jitter: f64,
    /// The age at which an entry that was not renewed is hidden and given up. Default: 300 s.
    pub purge_after: Duration,
    /// Entries dated further than this in the future are refused. Default: 10 s.
    pub max_time_drift: Duration,
    /// How many events a subscriber may lag behind before it loses some. Default: 100.
    pub events_backlog: usize,
    /// Time between two round-trip measurements of one peer. Default: 30 s.
    pub rtt_probe_interval: Duration,
    /// Peers whose smoothed round-trip time exceeds this are hidden. Default: none are.
    pub max_rtt: Option<Duration>,
    /// How long a leaving node may take to hand over its departure. Default: 500 ms.
    pub graceful_departure_window: Duration,
    /// Whether peers are also looked for where the configuration names none. Default: yes.
    pub auto_bootstrap: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            tags: Vec::new(),
            announce_interval: Duration::from_secs(15),
            announce_jitter: 0.5,
            purge_after: Duration::from_secs(300),
            max_time_drift: Duration::from_secs(10),
            events_backlog: 100,
            rtt_probe_interval: Duration::from_secs(30),
            max_rtt: None,
            graceful_departure_window: Duration::from_millis(500),
            auto_bootstrap: true,
        }
    }
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder(Self::default())
    }

    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.announce_interval < MIN_INTERVAL {
            return Err(ConfigError::TooShort {
                what: "announce_interval",
                value: self.announce_interval,
            });
        }
        if self.rtt_probe_interval < MIN_INTERVAL {
            return Err(ConfigError::TooShort {
                what: "rtt_probe_interval",
                value: self.rtt_probe_interval,
            });
        }
        // Not `contains`: a NaN must fail too, and it does.
        if !(0.0..1.0).contains(&self.announce_jitter) {
            return Err(ConfigError::Jitter(self.announce_jitter));
        }
        let longest = self.announce_interval.mul_f64(1.0 + self.announce_jitter);
        if self.purge_after < longest * 2 || self.purge_after > MAX_PURGE_AFTER {
            return Err(ConfigError::PurgeAfter {
                purge_after: self.purge_after,
                least: longest * 2,
            });
        }
        if self.events_backlog == 0 {
            return Err(ConfigError::NoBacklog);
        }
        for (what, count, max) in [
            ("bootstrap peers", self.bootstrap.len(), BOOTSTRAP_MAX),
            ("tags", self.tags.len(), TAGS_MAX),
        ] {
            if count > max {
                return Err(ConfigError::TooMany { what, count, max });
            }
        }
        Ok(())
    }
}

/// Shorter intervals would make the network busy with itself.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Ages travel as 32-bit milliseconds.
const MAX_PURGE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A configuration value that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An interval is so short that the network would be busy with itself.
    #[error("discovery: {what} is {value:?}; it must be at least {MIN_INTERVAL:?}")]
    TooShort {
        /// The field.
        what: &'static str,
        /// Its value.
        value: Duration,
    },
    /// The jitter is no part of the interval.
    #[error("discovery: announce_jitter is {0}; it must be at least 0 and below 1")]
    Jitter(f64),
    /// Live peers would be purged between two announcements, or ages would not fit their encoding.
    #[error(
        "discovery: purge_after is {purge_after:?}; it must be at least {least:?} (twice the longest \
         time between two announcements) and at most {MAX_PURGE_AFTER:?}"
    )]
    PurgeAfter {
        /// Its value.
        purge_after: Duration,
        /// The least that the announcement settings allow.
        least: Duration,
    },
    /// No event could ever be delivered.
    #[error("discovery: events_backlog is 0; it must be at least 1")]
    NoBacklog,
    /// A list is longer than an entry or a start-up can hold.
    #[error("discovery: {count} {what} were given; {max} are the most")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
}

/// Builds a [`Config`]; what is not set keeps its default.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConfigBuilder(Config);

impl From<Config> for ConfigBuilder {
    fn from(config: Config) -> Self {
        Self(config)
    }
}

impl ConfigBuilder {
    /// Adds one or many peers to join through.
    pub fn with_bootstrap<M>(mut self, peers: impl OneOrMany<PeerAddr, M>) -> Self {
        peers.append_to(&mut self.0.bootstrap);
        self
    }

    /// Adds one or many tags that the node starts with.
    pub fn with_tags<M>(mut self, tags: impl OneOrMany<Tag, M>) -> Self {
        tags.append_to(&mut self.0.tags);
        self
    }

    /// Mean time between two announcements (default 15 s, at least 100 ms).
    pub const fn with_announce_interval(mut self, interval: Duration) -> Self {
        self.0.announce_interval = interval;
        self
    }

    /// Part of the interval by which one announcement may move (default 0.5, at least 0 and below 1).
    pub const fn with_announce_jitter(mut self, jitter: f64) -> Self {
        self.0.announce_jitter = jitter;
        self
    }

    /// Age at which an entry that was not renewed is given up (default 300 s).
    pub const fn with_purge_after(mut self, age: Duration) -> Self {
        self.0.purge_after = age;
        self
    }

    /// How far in the future an entry may be dated (default 10 s).
    pub const fn with_max_time_drift(mut self, drift: Duration) -> Self {
        self.0.max_time_drift = drift;
        self
    }

    /// How many events a subscriber may lag behind (default 100, at least 1).
    pub const fn with_events_backlog(mut self, events: usize) -> Self {
        self.0.events_backlog = events;
        self
    }

    /// Time between two round-trip measurements of one peer (default 30 s, at least 100 ms).
    pub const fn with_rtt_probe_interval(mut self, interval: Duration) -> Self {
        self.0.rtt_probe_interval = interval;
        self
    }

    /// Hides peers whose smoothed round-trip time exceeds `rtt` (default: none).
    pub const fn with_max_rtt(mut self, rtt: Duration) -> Self {
        self.0.max_rtt = Some(rtt);
        self
    }

    /// How long a leaving node may take to hand over its departure (default 500 ms).
    pub const fn with_graceful_departure_window(mut self, window: Duration) -> Self {
        self.0.graceful_departure_window = window;
        self
    }

    /// Looks for no peers besides those named by [`with_bootstrap`](Self::with_bootstrap).
    pub const fn no_auto_bootstrap(mut self) -> Self {
        self.0.auto_bootstrap = false;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// Where [`Config::validate`] finds one.
    pub fn build(self) -> Result<Config, ConfigError> {
        self.0.validate()?;
        Ok(self.0)
    }
}

/// An argument that is one `T` or many. `M` tells the two apart and is always inferred.
pub trait OneOrMany<T, M> {
    /// Appends all of them to `list`.
    fn append_to(self, list: &mut Vec<T>);
}

/// Marks an argument that is a single value.
#[derive(Debug)]
pub enum One {}

/// Marks an argument that is a collection.
#[derive(Debug)]
pub enum Many {}

impl<T, U: Into<T>> OneOrMany<T, One> for U {
    fn append_to(self, list: &mut Vec<T>) {
        list.push(self.into());
    }
}

impl<T, I: IntoIterator<Item: Into<T>>> OneOrMany<T, Many> for I {
    fn append_to(self, list: &mut Vec<T>) {
        list.extend(self.into_iter().map(Into::into));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn tags_and_bootstrap_peers_add_up() {
        let peer: PeerAddr = format!("{}@127.0.0.1:1", "0".repeat(64)).parse().unwrap();
        let config = Config::builder()
            .with_tags("a")
            .with_tags(["b", "c"])
            .with_tags(Tag::from("d"))
            .with_bootstrap(peer.clone())
            .with_bootstrap(vec![peer.clone(), peer])
            .build()
            .unwrap();
        assert_eq!(config.tags, ["a", "b", "c", "d"].map(Tag::from));
        assert_eq!(config.bootstrap.len(), 3);
    }

    #[test]
    fn values_without_sense_are_refused() {
        type Build = fn(ConfigBuilder) -> ConfigBuilder;
        let cases: [(Build, &str); 8] = [
            (
                |b| b.with_announce_interval(Duration::ZERO),
                "announce_interval is 0ns",
            ),
            (
                |b| b.with_rtt_probe_interval(Duration::ZERO),
                "rtt_probe_interval is 0ns",
            ),
            (|b| b.with_announce_jitter(1.0), "announce_jitter is 1;"),
            (
                |b| b.with_announce_jitter(f64::NAN),
                "announce_jitter is NaN",
            ),
            (
                |b| b.with_purge_after(Duration::from_secs(44)),
                "at least 45s",
            ),
            (
                |b| b.with_purge_after(Duration::from_secs(90_000)),
                "at most 86400s",
            ),
            (|b| b.with_events_backlog(0), "events_backlog is 0"),
            (
                |b| b.with_tags(vec![Tag::from("x"); TAGS_MAX + 1]),
                "129 tags",
            ),
        ];
        for (build, message) in cases {
            let error = build(Config::builder()).build().unwrap_err().to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }
}
