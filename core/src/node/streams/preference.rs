//! Which producers a consumer prefers, where it does not want all.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::id::Tag;
use crate::protocol::discovery::PeerEntry;
use crate::protocol::streams::consumer::{Cost, Part};
use crate::time::Duration;

/// One thing that speaks for a producer, or against it.
pub(super) enum Preference {
    /// It is near.
    Near,
    /// It has these tags.
    Tags(BTreeSet<Tag>),
    /// What the application says.
    By(Arc<dyn Fn(&PeerEntry) -> u64 + Send + Sync>),
}

/// What speaks against the producer with this entry.
pub(super) fn cost(preferences: &[Preference], entry: &PeerEntry, rtt: Option<Duration>) -> Cost {
    let part = |preference: &Preference| match preference {
        Preference::Near => Part::Rtt(rtt),
        Preference::Tags(tags) => {
            let lacking = tags.iter().filter(|tag| !entry.has_tag(tag)).count();
            Part::Exact(lacking as u64)
        }
        Preference::By(cost) => Part::Exact(cost(entry)),
    };
    Cost(preferences.iter().map(part).collect())
}
