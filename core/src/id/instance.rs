//! Runs of a node.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// One run of a node: 16 random bytes drawn when it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance([u8; 16]);

impl Instance {
    /// The instance with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A fresh instance.
    #[must_use]
    pub fn from_rng(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..5]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
