//! The overlay: who is whose neighbour, and how entries spread among neighbours.

pub(super) mod broadcast;
pub(super) mod seeds;
pub(super) mod views;
