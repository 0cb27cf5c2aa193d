//! Whole networks in a small world (`cluster`, `random`), and one machine against a peer made by hand (`hostile`), or one that
//! sends again what it has heard (`proofs`).

mod cluster;
mod hostile;
mod proofs;
mod random;
mod world;
mod writers;
