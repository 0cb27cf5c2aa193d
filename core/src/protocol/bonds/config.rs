//! How bonds are kept.

use crate::protocol::backoff::Backoff;
use crate::time::Duration;

/// How a node keeps its bonds. Nodes need not agree on it, as long as nobody takes the others' usual silence
/// between two heartbeats for their end.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Time between two pings on a link. Default: 500 ms.
    pub heartbeat_interval: Duration,
    /// Each interval is longer by a random part of this. Default: 150 ms.
    pub heartbeat_jitter: Duration,
    /// A peer that was silent for so many intervals, or has taken nothing for as long, loses its link. Default: 10.
    pub max_missed_heartbeats: u32,
    /// Time that a peer has to answer an offer, and that a link without use is kept. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Messages that need not hurry wait so long for others to share a frame with. Default: 50 ms.
    pub gather: Duration,
    /// The node of the greater id dials so much later, so that both rarely dial at once. Default: 200 ms.
    pub second_dial_delay: Duration,
    /// Time before a peer that could not be reached, or whose link was lost, is dialled again. Default: 100 ms to
    /// 5 s, jitter 0.5.
    pub redial: Backoff,
    /// Time before a bond is offered again to a peer that has refused it or has not answered. Default: 1 s to 30 s,
    /// jitter 0.5.
    pub offer_again: Backoff,
    /// The rule that this node breaks.
    #[cfg(smalti_mutants)]
    pub mutant: Option<crate::protocol::Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(30));
        Self {
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_jitter: Duration::from_millis(150),
            max_missed_heartbeats: 10,
            handshake_timeout: Duration::from_secs(5),
            gather: Duration::from_millis(50),
            second_dial_delay: Duration::from_millis(200),
            redial: Backoff::default(),
            offer_again: Backoff::new(first, max, 0.5).expect("1 s is below 30 s"),
            #[cfg(smalti_mutants)]
            mutant: None,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that must be above zero.
    #[error("{what} is zero; give a value above it")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// A live peer would be taken for silent.
    #[error(
        "a peer is given up after {silence:?} of silence, and pings are up to {longest:?} apart: raise max_missed_heartbeats, or lower heartbeat_jitter"
    )]
    Impatient {
        /// The silence after which a peer is given up.
        silence: Duration,
        /// The longest time between two pings.
        longest: Duration,
    },
}

impl Config {
    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let times = [
            ("heartbeat_interval", self.heartbeat_interval),
            ("handshake_timeout", self.handshake_timeout),
        ];
        if let Some((what, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero { what });
        }
        let (silence, longest) = (
            self.silence(),
            self.heartbeat_interval + self.heartbeat_jitter,
        );
        if silence < 2 * longest {
            return Err(ConfigError::Impatient { silence, longest });
        }
        Ok(())
    }

    /// The silence after which a peer is given up.
    pub(super) fn silence(&self) -> Duration {
        self.heartbeat_interval
            .saturating_mul(self.max_missed_heartbeats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_configurations_are_refused() {
        let config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        let zero = Config {
            heartbeat_interval: Duration::ZERO,
            ..config.clone()
        };
        let what = "heartbeat_interval";
        assert_eq!(zero.validate(), Err(ConfigError::Zero { what }));
        let impatient = Config {
            max_missed_heartbeats: 2,
            ..config
        };
        assert!(matches!(
            impatient.validate(),
            Err(ConfigError::Impatient { .. })
        ));
    }
}
