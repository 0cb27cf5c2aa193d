//! Tells the element types of collections apart.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The fingerprint of a collection's element types: equal where two builds read the same data under the same names.
///
/// These are the first eight bytes of their [schema](crate::schema)'s digest. They guard against mistakes, not against
/// members with bad intentions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of the types inside of `T`.
    #[must_use]
    pub fn of<T: DeserializeOwned>() -> Self {
        let digest = schema::fingerprint::<T>();
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A collection holds other element types than this node's build has for them.
///
/// The first batch that was committed has settled what the collection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the collection holds elements of schema {theirs}, and this node's are of schema {ours}: use the types that it was written with, or another id"
)]
pub struct SchemaConflict {
    /// What this node's types are.
    pub ours: Fingerprint,
    /// What the collection holds.
    pub theirs: Fingerprint,
}
