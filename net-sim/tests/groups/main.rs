//! Whole nodes that form groups, under simulated faults.

#![expect(
    clippy::disallowed_methods,
    reason = "applications keep time by tokio, whose clock is simulated"
)]

mod bonds;
mod forming;
mod journal;
mod leaving;
mod meeting;
mod reforming;
mod splits;
