//! Seeded scenarios over whole Smalti clusters, and the campaign command.

pub mod transport_suite;
