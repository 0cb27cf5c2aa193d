//! Bonds: the links between the members of groups, over which the groups' own protocols speak.
//!
//! A node has one [`Bonds`] for all its groups and one link to each peer that it shares a group with, whatever their
//! number. A *bond* is a pair of nodes in one group that have proved its key to each other on the present link; only
//! then do messages of the group pass. Heartbeats belong to the link, not to its bonds.
//!
//! Messages may be lost, with their link or where more is said than it carries; what arrives of one link's life
//! arrives in order and once. The book's page on bonds has the exchange, what a proof is bound to, and which tests
//! hold which invariant.

mod config;
mod io;
mod line;
mod link;
mod machine;
mod messages;
mod outbox;
mod peer;
mod proof;

pub use config::{Config, ConfigError};
pub use io::{BondInfo, BondState, Event, Input, LinkId, Loss, Output, Refusal, Stats};
pub use machine::Bonds;
pub use messages::{
    FRAME_LEN_MAX, Frame, GROUPS_ALPN, GROUPS_EXPORTER_LABEL, ITEMS_MAX, Item, ItemError,
    PAYLOAD_LEN_MAX, decode,
};
pub use proof::Proof;

#[cfg(test)]
mod tests;
