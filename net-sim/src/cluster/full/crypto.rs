//! Cryptography that draws from the seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, PeerMisbehaved};
use x25519_dalek::{PublicKey, StaticSecret};

use super::super::state::{Life, Run};
use crate::NodeIndex;
use crate::rng::Streams;

/// Production's provider, but for the source of randomness and the key exchange that draws from it.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![&SeededX25519],
        secure_random: &SeededRandom,
        ..default_provider()
    }
}

/// The streams that the cryptography of each life of each host draws from.
pub(in super::super) struct Secrets {
    streams: Streams,
    of_lives: BTreeMap<(NodeIndex, u32), ChaCha8Rng>,
}

impl Secrets {
    pub(in super::super) fn new(streams: &Streams) -> Self {
        Self {
            streams: streams.branch("secrets"),
            of_lives: BTreeMap::new(),
        }
    }

    fn fill(&mut self, life: (NodeIndex, u32), bytes: &mut [u8]) {
        let streams = &self.streams;
        let rng = self.of_lives.entry(life);
        rng.or_insert_with(|| streams.stream(&format!("{} {}", life.0, life.1)))
            .fill_bytes(bytes);
    }
}

thread_local! {
    /// The run that is under way on this thread.
    static CURRENT: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// Says which run is under way on this thread, for as long as it exists: rustls takes its randomness from
/// a static, which has no other way to know.
pub(in super::super) struct CurrentRun {
    outer: Option<Run>,
}

impl CurrentRun {
    pub(in super::super) fn begin(run: &Run) -> Self {
        Self {
            outer: CURRENT.replace(Some(run.clone())),
        }
    }
}

impl Drop for CurrentRun {
    fn drop(&mut self) {
        CURRENT.set(self.outer.take());
    }
}

/// Draws from the stream of the host on whose executor it is called.
#[derive(Debug)]
struct SeededRandom;

impl SecureRandom for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        let run = CURRENT.with_borrow(Clone::clone).ok_or(GetRandomFailed)?;
        let mut state = run.lock();
        let executor = tokio::runtime::Handle::try_current()
            .ok()
            .map(|handle| handle.id());
        let on_host = state
            .hosts
            .iter()
            .position(|host| executor.is_some() && host.executor == executor);
        // Destructors of a crashed host run on no executor; what they draw reaches nobody.
        let life = on_host
            .and_then(|place| u32::try_from(place).ok())
            .map_or((NodeIndex(u32::MAX), 0), |place| {
                (NodeIndex(place), state.hosts[place as usize].life)
            });
        state.secrets.fill(life, bytes);
        Ok(())
    }
}

/// X25519 (RFC 7748) whose secrets come from [`SeededRandom`].
#[derive(Debug)]
struct SeededX25519;

impl SupportedKxGroup for SeededX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        SeededRandom.fill(&mut secret)?;
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer
            .try_into()
            .map_err(|_| Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare))?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer));
        if !shared.was_contributory() {
            return Err(Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare));
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// A host's wall clock.
pub(super) struct WallClock {
    pub(super) run: Run,
    pub(super) life: Life,
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", self.life.node)
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let state = self.run.lock();
        let now = state.sim_time(self.life);
        let wall = state.host(self.life.node).clock.wall(now);
        Some(UnixTime::since_unix_epoch(Duration::from_micros(
            wall.as_micros(),
        )))
    }
}
