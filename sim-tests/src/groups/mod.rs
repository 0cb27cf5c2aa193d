//! Whole nodes in groups, under turmoil: what the machines alone cannot show. Bonds over links, workers, stores, the
//! handles that applications use.

mod chaos;
mod clients;
mod registers;

pub use chaos::Chaos;
