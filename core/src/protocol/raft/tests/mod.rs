mod hostile;
mod readers;
mod regressions;
mod smoke;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::replica::testing::List;
use super::*;
use crate::id::{GroupId, PeerId};
use crate::time::Instant;

/// A member that has nothing yet.
pub(super) fn machine() -> Raft<List> {
    let identity = Identity {
        group: GroupId::from("test"),
        peer: PeerId::from_bytes([1; 32]),
        preference: LeadershipPreference::Normal,
    };
    let rng = ChaCha8Rng::seed_from_u64(1);
    let (config, list) = (Config::default(), List::default());
    let machine = Raft::new(Instant::ZERO, identity, config, None, list, rng);
    machine.expect("there is nothing to recover")
}

/// The first hello of a peer that has nothing.
fn hello() -> Hello {
    Hello {
        preference: LeadershipPreference::Normal,
        ping: 1,
        pong: 0,
        awaits_answer: true,
        runs: Runs::NONE,
        recovered: Index::ZERO,
        leader: None,
        left: None,
        sealed: None,
        succeeds: None,
        commit: Index::ZERO,
    }
}
