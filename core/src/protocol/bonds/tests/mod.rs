//! Whole networks in a small world (`cluster`, `random`), and one machine against a peer made by hand (`hostile`).

mod cluster;
mod hostile;
mod random;
mod world;
