//! Whole nodes in groups, under turmoil: what the machines alone cannot show. Bonds over links, workers, stores, the
//! handles that applications use.

mod chaos;
mod clients;
mod late;
mod lives;
mod rare;
mod record;
mod registers;
mod supervisor;

pub use chaos::Chaos;
pub(crate) use chaos::draw_sync;
pub use late::Late;
