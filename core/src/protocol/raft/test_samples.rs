//! Values that the tests of the stores are made of.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::configuration::Configuration;
use super::entry::{Entry, Payload};
use super::store::{HardState, Manifest, SEALS, StagedChunk};
use super::types::{Incarnation, Index, Position, Runs, Term};
use crate::id::{Digest, Instance};

pub(super) fn hard_state(boot: u64) -> HardState {
    HardState {
        instance: Instance::from_bytes([7; 16]),
        boot,
        runs: Runs::NONE.then(boot),
        incarnation: None,
        term: Term(boot),
        vote: None,
        seals: [None; SEALS],
    }
}

pub(super) fn entries(indexes: RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    let entry = |index| Entry {
        term: Term(term),
        index: Index(index),
        payload: Payload::Blank,
    };
    indexes.map(entry).collect()
}

fn position(index: u64) -> Position {
    Position {
        term: Term(1),
        index: Index(index),
    }
}

pub(super) fn chunk(index: u64, number: u32) -> StagedChunk {
    StagedChunk {
        position: position(index),
        number,
        bytes: Bytes::from(format!("chunk {number} at {index}")),
    }
}

pub(super) fn manifest(index: u64, chunks: usize) -> Manifest {
    Manifest {
        incarnation: Incarnation(Digest::of("test", &[])),
        position: position(index),
        configuration: Configuration::default(),
        configured_at: Index(1),
        chunks: vec![Digest::of("test chunk", &[]); chunks],
    }
}
