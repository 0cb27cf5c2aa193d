//! Whole nodes that share collections, under simulated faults.

#![expect(
    clippy::disallowed_methods,
    reason = "applications keep time by tokio, whose clock is simulated"
)]

mod changes;
mod kinds;
mod map;
mod meeting;
mod online;
mod roles;
mod schema;

use std::future::pending;

use smalti_core::collections::{Collection, Writer};
use smalti_sim::AppResult;

/// Stays a member until the run ends.
async fn stay<C: Collection>(writer: Writer<C>) -> AppResult {
    pending::<()>().await;
    drop(writer);
    Ok(())
}
