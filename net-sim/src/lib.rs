//! Deterministic cluster simulation for Smalti and for applications built on it.
