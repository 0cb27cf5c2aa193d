//! Tests of the machine as a whole: many of them in one deterministic network.

mod cluster;
mod harness;
mod laws;
mod regressions;
mod single;
mod wire;
