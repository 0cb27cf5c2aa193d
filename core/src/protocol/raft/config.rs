//! How a group is run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most voters a group may have, but for one more while another is replaced.
pub const VOTERS_MAX: usize = 7;

/// No time that is waited for may be longer: a year. Some of them are doubled and added up.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The most entries that may be asked for at a time: far more than an answer carries.
const FETCH_BATCH_MAX: u32 = 65_536;

/// When a group may be founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FoundingRule {
    /// By whoever is there once it has been quiet for `bootstrap_delay`, alone if need be. Default.
    #[default]
    Any,
    /// Only by so many members or more; nothing is acknowledged before so many have accepted. With more
    /// than half of all members that there will ever be, two foundings never both acknowledge.
    Expect(u32),
}

/// Whether promises outlive the process that made them. Part of the group's identity: members that forget
/// and members that do not are never counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageClass {
    /// In memory: a member that starts again is another one. Default.
    #[default]
    Volatile,
    /// On a disk that is synchronised before anything is answered.
    Durable,
}

/// How eagerly a member leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeadershipPreference {
    /// Like any other. Default.
    #[default]
    Normal,
    /// Waits so many times as long before it stands for election.
    Reluctant {
        /// How many times; 3 is usual.
        factor: u32,
    },
    /// It follows and reads, and is never made a voter. One that was a voter before votes until another has taken
    /// its place, and leads only where nobody else can.
    Observer,
}

/// What all members of a group must agree on.
///
/// ```
/// use smalti_core::protocol::raft::{Config, FoundingRule};
///
/// let config = Config { founding: FoundingRule::Expect(3), ..Config::default() };
/// assert!(config.validate().is_ok());
/// let config = Config { max_voters: 0, ..config };
/// assert!(config.validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Time between two signs of life of the leader. Default: 500 ms.
    pub heartbeat_interval: Duration,
    /// Each interval is longer by a random part of this. Default: 150 ms.
    pub heartbeat_jitter: Duration,
    /// A voter that was silent for so many heartbeat intervals, and for two election timeouts at least, may
    /// be demoted. Default: 10.
    pub max_missed_heartbeats: u32,
    /// The shortest time without a sign of a leader after which a voter stands for election. Default: 2 s.
    pub election_timeout: Duration,
    /// The timeout is longer by a random part of this. Default: 500 ms.
    pub election_timeout_jitter: Duration,
    /// Quiet time, without news of a candidate, before a group is founded. Default: 3 s.
    pub bootstrap_delay: Duration,
    /// Time after which what was sent to the leader and not answered is sent again. Default: 2 s.
    pub forward_timeout: Duration,
    /// Time after which a strong read that no majority has confirmed fails. Default: 2 s.
    pub query_timeout: Duration,
    /// The most entries that are asked of one member at a time while this one catches up; an answer of 256 KiB may
    /// bring fewer. At most 65,536. Default: 2,000.
    pub fetch_batch_size: u32,
    /// Entries that were asked for and have not come after so long are asked of another member, if there is one.
    /// Default: 5 s.
    pub fetch_timeout: Duration,
    /// The same for a part of a snapshot, or for what says of which parts it consists. Default: 15 s.
    pub snapshot_request_timeout: Duration,
    /// A snapshot that a newer one has replaced, and the log above it, are kept for who fetches it until nothing of it
    /// was asked for during this time. Default: 10 s.
    pub snapshot_ttl: Duration,
    /// The most voters that a group makes of its members. Default: 5.
    pub max_voters: u32,
    /// When it may be founded. Default: by any.
    pub founding: FoundingRule,
    /// Whether promises are durable. Default: volatile.
    pub storage: StorageClass,
    /// A snapshot is taken each time so many entries have been committed. Default: 16,384.
    pub snapshot_interval: u64,
    /// A snapshot is also taken when entries of about so many bytes have been committed since the last one, and
    /// no more than that is kept below it. Default: 64 MiB.
    pub snapshot_bytes: u64,
    /// So many entries below the snapshot are kept, so that small gaps need none. Default: 16,384.
    pub log_window: u64,
    /// Sessions that a group keeps; opening one more ends the one unused for longest. Default: 4,096.
    pub sessions_max: u32,
    /// Bytes of outputs kept for one session; above, the oldest go, and before that where all sessions together
    /// keep more than 64 MiB. Default: 1 MiB.
    pub session_bytes_max: u32,
    /// A group that stands still, because too many of its voters are silent, goes on without them after so long, at
    /// the price of what only they have, and of a fork where they live. `None`: it waits for them, or for an operator.
    /// Where it is proved that they are gone it goes on at once. Default: `None`.
    pub reform_after: Option<Duration>,
    /// The rule that this member breaks.
    #[cfg(smalti_mutants)]
    #[serde(skip)]
    pub mutant: Option<crate::protocol::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_jitter: Duration::from_millis(150),
            max_missed_heartbeats: 10,
            election_timeout: Duration::from_secs(2),
            election_timeout_jitter: Duration::from_millis(500),
            bootstrap_delay: Duration::from_secs(3),
            forward_timeout: Duration::from_secs(2),
            query_timeout: Duration::from_secs(2),
            fetch_batch_size: 2_000,
            fetch_timeout: Duration::from_secs(5),
            snapshot_request_timeout: Duration::from_secs(15),
            snapshot_ttl: Duration::from_secs(10),
            max_voters: 5,
            founding: FoundingRule::Any,
            storage: StorageClass::Volatile,
            snapshot_interval: 16_384,
            snapshot_bytes: 64 << 20,
            log_window: 16_384,
            sessions_max: 4_096,
            session_bytes_max: 1 << 20,
            reform_after: None,
            #[cfg(smalti_mutants)]
            mutant: None,
        }
    }
}

impl Config {
    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let zero = [
            ("heartbeat_interval", self.heartbeat_interval),
            ("election_timeout", self.election_timeout),
            ("forward_timeout", self.forward_timeout),
            ("query_timeout", self.query_timeout),
            ("fetch_timeout", self.fetch_timeout),
            ("snapshot_request_timeout", self.snapshot_request_timeout),
            ("snapshot_ttl", self.snapshot_ttl),
        ];
        if let Some((what, _)) = zero.into_iter().find(|(_, value)| value.is_zero()) {
            return Err(ConfigError::Zero { what });
        }
        let long = [
            ("heartbeat_jitter", self.heartbeat_jitter),
            ("election_timeout_jitter", self.election_timeout_jitter),
            ("bootstrap_delay", self.bootstrap_delay),
        ];
        let mut all = zero.into_iter().chain(long);
        if let Some((what, _)) = all.find(|(_, value)| *value > TIME_MAX) {
            return Err(ConfigError::TooLong { what });
        }
        if self.reform_after.is_some_and(|after| after.is_zero()) {
            return Err(ConfigError::Zero {
                what: "reform_after",
            });
        }
        if self.election_timeout < 2 * (self.heartbeat_interval + self.heartbeat_jitter) {
            return Err(ConfigError::Impatient {
                election_timeout: self.election_timeout,
                heartbeat: self.heartbeat_interval + self.heartbeat_jitter,
            });
        }
        if self.max_voters == 0 || self.max_voters as usize > VOTERS_MAX {
            return Err(ConfigError::Voters(self.max_voters));
        }
        if let FoundingRule::Expect(expected) = self.founding
            && (expected == 0 || expected > self.max_voters)
        {
            return Err(ConfigError::Expected {
                expected,
                max_voters: self.max_voters,
            });
        }
        let counts = [
            (
                "max_missed_heartbeats",
                u64::from(self.max_missed_heartbeats),
            ),
            ("fetch_batch_size", u64::from(self.fetch_batch_size)),
            ("snapshot_interval", self.snapshot_interval),
            ("snapshot_bytes", self.snapshot_bytes),
            ("sessions_max", u64::from(self.sessions_max)),
        ];
        if let Some((what, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(ConfigError::Zero { what });
        }
        if self.fetch_batch_size > FETCH_BATCH_MAX {
            return Err(ConfigError::FetchBatch(self.fetch_batch_size));
        }
        Ok(())
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that must be above zero.
    #[error("{what} is zero; give a value above it")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// A time that nobody waits for.
    #[error("{what} is more than a year; give a value below that")]
    TooLong {
        /// Which.
        what: &'static str,
    },
    /// Elections would begin between two signs of life.
    #[error(
        "the election timeout of {election_timeout:?} is below twice the longest heartbeat interval, {heartbeat:?}: raise it, or lower heartbeat_interval and heartbeat_jitter"
    )]
    Impatient {
        /// The election timeout.
        election_timeout: Duration,
        /// The longest interval between two heartbeats.
        heartbeat: Duration,
    },
    /// Too few or too many voters.
    #[error("max_voters is {0}; it must be from 1 to {VOTERS_MAX}")]
    Voters(u32),
    /// Too many entries at a time.
    #[error("fetch_batch_size is {0}; it must be from 1 to {FETCH_BATCH_MAX}")]
    FetchBatch(u32),
    /// More members are awaited than can vote.
    #[error(
        "the founding expects {expected} members, max_voters is {max_voters}: expect from 1 to {max_voters}, or raise max_voters"
    )]
    Expected {
        /// How many are expected.
        expected: u32,
        /// How many can vote.
        max_voters: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_added_up_are_refused() {
        let long: [fn(&mut Config) -> &mut Duration; 10] = [
            |it| &mut it.heartbeat_interval,
            |it| &mut it.heartbeat_jitter,
            |it| &mut it.election_timeout,
            |it| &mut it.election_timeout_jitter,
            |it| &mut it.bootstrap_delay,
            |it| &mut it.forward_timeout,
            |it| &mut it.query_timeout,
            |it| &mut it.fetch_timeout,
            |it| &mut it.snapshot_request_timeout,
            |it| &mut it.snapshot_ttl,
        ];
        for time in long {
            let mut config = Config::default();
            *time(&mut config) = Duration::MAX;
            let refused = config.validate();
            assert!(
                matches!(refused, Err(ConfigError::TooLong { .. })),
                "{refused:?}"
            );
        }
        let config = Config {
            reform_after: Some(Duration::MAX),
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }
    #[test]
    fn as_many_entries_are_asked_for_at_a_time_as_make_sense() {
        let batch = |fetch_batch_size| Config {
            fetch_batch_size,
            ..Config::default()
        };
        assert!(matches!(batch(0).validate(), Err(ConfigError::Zero { .. })));
        assert_eq!(batch(1).validate(), Ok(()));
        assert_eq!(batch(FETCH_BATCH_MAX).validate(), Ok(()));
        let too_many = FETCH_BATCH_MAX + 1;
        assert_eq!(
            batch(too_many).validate(),
            Err(ConfigError::FetchBatch(too_many))
        );
    }
}
