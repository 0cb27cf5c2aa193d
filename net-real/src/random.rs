//! Random ids and keys. Core has no randomness of its own; here it is the operating system's.

use smalti_core::id::{Digest, Id, Kind, SecretKey};

use crate::quic_runtime::random_bytes;

/// Values drawn from the operating system's randomness, such as `NetworkId::random()`.
///
/// # Panics
/// `random` panics where the operating system gives no randomness.
pub trait Random: sealed::Sealed {
    /// A value that nobody can guess and nothing else has.
    #[must_use]
    fn random() -> Self;
}

mod sealed {
    /// Keeps the set of types closed.
    pub trait Sealed {}
}

impl<K: Kind> sealed::Sealed for Id<K> {}
impl<K: Kind> Random for Id<K> {
    fn random() -> Self {
        Self::from_bytes(random_bytes())
    }
}

impl sealed::Sealed for Digest {}
impl Random for Digest {
    fn random() -> Self {
        Self::from_bytes(random_bytes())
    }
}

impl sealed::Sealed for SecretKey {}
impl Random for SecretKey {
    fn random() -> Self {
        Self::from_bytes(random_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smalti_core::id::NetworkId;

    #[test]
    fn no_two_random_values_are_alike() {
        assert_ne!(NetworkId::random(), NetworkId::random());
        assert_ne!(SecretKey::random().peer_id(), SecretKey::random().peer_id());
    }
}
