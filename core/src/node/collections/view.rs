//! The contents of a collection at one moment.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::protocol::collections::{Collection, Fingerprint, Machine};
use crate::protocol::raft::Version;

/// The contents of a collection at one moment, unmoved by later writes. A clone costs nothing to speak of.
///
/// It reads like the collection's own type, for example [`Map`](crate::collections::Map), which it
/// dereferences to. It shares its structure with the present contents: the first write after it to each part of them
/// copies that part.
pub struct View<C: Collection>(Arc<Seen<C>>);

struct Seen<C> {
    contents: C,
    version: Option<Version>,
    schema: Option<Fingerprint>,
}

impl<C: Collection> View<C> {
    /// What `machine` holds, which is at `version`.
    pub(super) fn of(machine: &Machine<C>, version: Option<Version>) -> Self {
        Self(Arc::new(Seen {
            contents: machine.contents().clone(),
            version,
            schema: machine.schema(),
        }))
    }

    /// The same contents, which are also those of `version`.
    pub(super) fn at(self, version: Option<Version>) -> Self {
        if self.0.version == version {
            return self;
        }
        Self(Arc::new(Seen {
            contents: self.contents(),
            version,
            schema: self.0.schema,
        }))
    }

    /// Where in the history of the collection it is: all up to here is in it. `None` before anything was written, as far as
    /// this node knows.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.0.version
    }

    /// The contents as a value of their own. O(1).
    #[must_use]
    pub fn contents(&self) -> C {
        self.0.contents.clone()
    }

    /// What the element types are, once a command has settled it.
    pub(super) fn schema(&self) -> Option<Fingerprint> {
        self.0.schema
    }
}

impl<C: Collection> Deref for View<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0.contents
    }
}

impl<C: Collection> Clone for View<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Collection + fmt::Debug> fmt::Debug for View<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("version", &self.0.version)
            .field("contents", &self.0.contents)
            .finish()
    }
}
