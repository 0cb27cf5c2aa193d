//! Conditions on a collection.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::member::Member;
use crate::node::groups::{self, Condition, Group};
use crate::node::watched::{Edge, Watched};
use crate::protocol::collections::Collection;
use crate::protocol::raft::Version;

/// Makes conditions on a collection.
///
/// A condition is a future that can be polled again after it has completed, like those of
/// [groups](crate::groups::When). Dropping it costs nothing. One that is not true when the collection stops on this node
/// stays so, but for [`offline`](Self::offline).
#[derive(Clone)]
pub struct When<C: Collection> {
    group: groups::When,
    /// Changes each time contents are shown.
    shown: Arc<Watched<u64>>,
    collection: PhantomData<fn() -> C>,
}

impl<C: Collection> When<C> {
    pub(super) fn new(group: &Group<Member<C>>, shown: Arc<Watched<u64>>) -> Self {
        Self {
            group: group.when(),
            shown,
            collection: PhantomData,
        }
    }

    /// This node knows the leader of the collection's group, and has all that the leader knew to be committed when it was first
    /// heard: reads are as fresh as what comes from the leader, and writes are taken. The leader may have been deposed
    /// without knowing: [`Reader::online`](super::Reader::online) asks a majority too.
    pub fn online(&self) -> Condition {
        self.group.online()
    }

    /// The contrary of [`online`](Self::online).
    pub fn offline(&self) -> Condition {
        self.group.offline()
    }

    /// All up to `version`, which a write or a [view](super::View::version) on any node has given, is seen by reads on this
    /// node. Never true where that part of the history was [given up](crate::groups::GroupEvent::Superseded).
    pub fn reaches(&self, version: impl Into<Version>) -> Condition {
        self.group.reaches(version)
    }

    /// More was written than this node has now. It completes again each time more was written since it did.
    pub fn updated(&self) -> Updated<C> {
        let edge = Edge::new(self.shown.clone());
        let seen = edge.get();
        Updated {
            edge,
            seen,
            collection: PhantomData,
        }
    }
}

impl<C: Collection> fmt::Debug for When<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("When")
    }
}

/// Completes when more was written. See [`When::updated`].
#[must_use = "a condition does nothing unless it is awaited"]
pub struct Updated<C: Collection> {
    edge: Edge<u64>,
    seen: u64,
    collection: PhantomData<fn() -> C>,
}

// Nothing in it is pinned.
impl<C: Collection> Unpin for Updated<C> {}

impl<C: Collection> Future for Updated<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shown = self.edge.watch(cx);
        if shown == self.seen {
            return Poll::Pending;
        }
        self.seen = shown;
        Poll::Ready(())
    }
}

impl<C: Collection> fmt::Debug for Updated<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updated")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
