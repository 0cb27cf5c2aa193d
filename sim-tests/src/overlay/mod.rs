//! Discovery alone, on bare machines: networks of a size, and over times, that whole nodes cannot
//! reach.

mod bytes;
mod checks;
mod churn;
mod gossip;
mod membership;
mod network;
mod rare;
mod scale;
mod sessions;
mod steady;
mod watch;

pub use churn::Churn;
pub use scale::Scale;
pub use steady::Steady;
