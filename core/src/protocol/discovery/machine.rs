//! The discovery machine.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;

use super::catalog::Catalog;
use super::config::Config;
use super::io::{Identity, Input, Output};
use crate::id::PeerId;
use crate::protocol::Machine;
use crate::time::Instant;

/// Finds the peers of a node and tells them of it.
pub struct Discovery {
    catalog: Catalog,
    outputs: VecDeque<Output>,
}

impl Discovery {
    /// A node that starts at `now`. It announces itself and joins through its bootstrap peers at once.
    #[must_use]
    pub fn new(now: Instant, identity: Identity, config: Config, rng: ChaCha8Rng) -> Self {
        let _ = (now, &identity, config, rng);
        let catalog = Catalog::new(identity.secret_key.peer_id(), None);
        Self {
            catalog,
            outputs: VecDeque::new(),
        }
    }

    /// What is known now.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The neighbours in the overlay.
    pub fn neighbours(&self) -> impl Iterator<Item = &PeerId> {
        std::iter::empty()
    }
}

impl Machine for Discovery {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, _now: Instant, _input: Input) {}

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {
        self.catalog.check_invariants();
    }
}
