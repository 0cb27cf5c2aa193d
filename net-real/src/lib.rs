//! Self-organizing distributed systems over QUIC: discovery, typed streams.
