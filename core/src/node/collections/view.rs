//! The contents of a collection at one moment.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::protocol::collections::{Collection, Fingerprint, History};
use crate::protocol::raft::Version;

/// The contents of a collection at one moment, unmoved by later writes. A clone costs nothing to speak of.
///
/// It reads like the collection's own type, for example [`Map`](crate::collections::Map), which it
/// dereferences to.
pub struct View<C: Collection>(pub(super) Arc<Shown<C>>);

/// What a node shows of a collection.
pub(crate) struct Shown<C: Collection> {
    pub(super) contents: C,
    pub(super) version: Option<Version>,
    pub(super) schema: Option<Fingerprint>,
    pub(super) history: History<C::Change>,
}

impl<C: Collection> Shown<C> {
    /// The same, at this version.
    pub(super) fn at(mut self, version: Option<Version>) -> Self {
        if let Some(version) = version {
            self.history.begin(version.index);
        }
        self.version = version;
        self
    }
}

impl<C: Collection> View<C> {
    pub(super) fn new(shown: Shown<C>) -> Self {
        Self(Arc::new(shown))
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
