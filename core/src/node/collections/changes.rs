//! Change after change.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::member::Shared;
use super::view::View;
use crate::node::groups::GroupStatus;
use crate::node::watched::{Edge, Watched};
use crate::protocol::collections::{Collection, Entry, History};
use crate::protocol::raft::{Incarnation, Index, Version};

/// One change of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// The version that has it, and all others up to there.
    pub version: Version,
    /// What has changed.
    pub change: T,
}

/// Changes were missed. The contents in their place are here, and the stream goes on with what comes after them.
#[derive(Clone)]
pub struct Lagged<C: Collection> {
    /// The contents.
    pub view: View<C>,
}

impl<C: Collection> fmt::Display for Lagged<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("changes of the collection were missed; its contents take their place")
    }
}

impl<C: Collection> fmt::Debug for Lagged<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lagged(now at {:?})", self.view.version())
    }
}

impl<C: Collection> std::error::Error for Lagged<C> {}

/// The changes of a collection, in the order in which they were made. See
/// [`Reader::changes`](super::Reader::changes).
///
/// A [`Stream`], which ends when the collection stops on this node.
#[must_use = "changes are told only to who asks for them"]
pub struct Changes<C: Collection> {
    shared: Arc<Shared<C>>,
    shown: Edge<u64>,
    status: Edge<GroupStatus>,
    place: Place<C::Change>,
}

/// How far it was told.
struct Place<T> {
    since: Option<Version>,
    /// The life of the group that it belongs to; `None` as long as nothing was told from the beginning on.
    life: Option<Incarnation>,
    /// The number of the entry to go on with, once it is known.
    next: Option<u64>,
    /// What is being told, and how far that has come.
    telling: Option<Telling<T>>,
}

/// An entry that is being told.
struct Telling<T> {
    version: Version,
    entry: Arc<Entry<T>>,
    /// How many of its changes were told.
    told: usize,
}

// Nothing in it is pinned.
impl<C: Collection> Unpin for Changes<C> {}

type Told<C> = Result<Changed<<C as Collection>::Change>, Lagged<C>>;

impl<C: Collection> Changes<C> {
    pub(super) fn new(
        shared: Arc<Shared<C>>,
        status: Arc<Watched<GroupStatus>>,
        since: Option<Version>,
    ) -> Self {
        Self {
            shown: Edge::new(shared.showcase.shown().clone()),
            shared,
            status: Edge::new(status),
            place: Place::new(since),
        }
    }

    /// The next change, or `None` once the collection has stopped on this node. Cancellation safe.
    ///
    /// # Errors
    /// [`Lagged`], in the place of changes that are gone; the next call goes on after it.
    pub async fn next(&mut self) -> Option<Told<C>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Told<C>>> {
        loop {
            if let Some(changed) = self.place.told() {
                return Poll::Ready(Some(Ok(changed)));
            }
            // Looked at first: what is shown after the end was there before it.
            let is_over = self.status.watch(cx).stopped.is_some();
            // While commands are applied there is nothing to see: what they change is told when they have been.
            self.shown.watch(cx);
            let place = &mut self.place;
            let advance = self.shared.showcase.look(|machine, version| {
                let history = machine.history();
                match place.advance(history, version) {
                    Advance::Lagged => {
                        place.begin_after(history, version);
                        Err(View::of(machine, version))
                    }
                    other => Ok(other),
                }
            });
            match advance {
                Some(Ok(Advance::Told)) => {}
                Some(Err(view)) => return Poll::Ready(Some(Err(Lagged { view }))),
                _ if is_over => return Poll::Ready(None),
                _ => return Poll::Pending,
            }
        }
    }
}

impl<T: Clone> Place<T> {
    fn new(since: Option<Version>) -> Self {
        Self {
            since,
            life: since.map(|since| since.incarnation),
            next: None,
            telling: None,
        }
    }

    /// All that the history has is known, up to the present version.
    fn begin_after(&mut self, history: &History<T>, now: Option<Version>) {
        self.since = now;
        self.life = now.map(|now| now.incarnation);
        self.next = Some(history.end());
    }

    /// The next change of the entry that is being told.
    fn told(&mut self) -> Option<Changed<T>> {
        let telling = self.telling.as_mut()?;
        let change = telling.entry.changes.get(telling.told).cloned();
        telling.told += 1;
        let version = telling.version;
        if change.is_none() {
            self.telling = None;
        }
        change.map(|change| Changed { version, change })
    }

    /// Takes the next entry, where there is one.
    fn advance(&mut self, history: &History<T>, now: Option<Version>) -> Advance {
        let Some(now) = now else {
            return Advance::Level;
        };
        // Another life of the group has another history. It need not have begun with another state, so that entries may follow
        // without a gap; but what their indexes are compared to is not theirs.
        if self.life.is_some_and(|life| life != now.incarnation) {
            return Advance::Lagged;
        }
        let since = self.since.map_or(Index::ZERO, |since| since.index);
        let Some(next) = self.next.or_else(|| history.above(since)) else {
            return Advance::Lagged;
        };
        let Some(entry) = history.get(next) else {
            return Advance::Lagged;
        };
        let Some(entry) = entry else {
            self.next = Some(next);
            return Advance::Level;
        };
        self.next = Some(next + 1);
        // This node may be behind the version that was given.
        if entry.index > since {
            let version = Version {
                incarnation: now.incarnation,
                index: entry.index,
            };
            self.life = Some(now.incarnation);
            self.telling = Some(Telling {
                version,
                entry: entry.clone(),
                told: 0,
            });
        }
        Advance::Told
    }
}

/// What there is to tell next.
enum Advance {
    /// Changes, or nothing that is asked for: there may be more.
    Told,
    /// Nothing yet.
    Level,
    /// Something that is not known any more.
    Lagged,
}

impl<C: Collection> Stream for Changes<C> {
    type Item = Told<C>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

impl<C: Collection> fmt::Debug for Changes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("since", &self.place.since)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    fn version(life: u8, index: u64) -> Option<Version> {
        Some(Version {
            incarnation: Incarnation(Digest::from_bytes([life; 32])),
            index: Index(index),
        })
    }

    /// All that is told now; the last says where there are no more.
    fn tell(place: &mut Place<u64>, history: &History<u64>, now: Option<Version>) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            all.extend(std::iter::from_fn(|| place.told()).map(|it| it.change.to_string()));
            match place.advance(history, now) {
                Advance::Told => {}
                Advance::Level => return all,
                Advance::Lagged => {
                    place.begin_after(history, now);
                    all.push("lagged".to_owned());
                }
            }
        }
    }

    #[test]
    fn what_comes_in_another_life_is_not_measured_by_the_indexes_of_the_former() {
        // A snapshot without commands has come at 5, in a life that was given up before there were any. The next one began
        // with the same empty state.
        let mut history = History::new();
        history.restart();
        history.begin(Index(5));
        let mut place = Place::new(None);
        assert_eq!(tell(&mut place, &history, version(1, 5)), ["lagged"]);
        history.push(Index(3), 1, vec![30]);
        assert_eq!(tell(&mut place, &history, version(2, 3)), ["lagged"]);
        history.push(Index(4), 1, vec![40]);
        assert_eq!(tell(&mut place, &history, version(2, 4)), ["40"]);
    }

    #[test]
    fn who_is_ahead_of_a_life_that_another_goes_on_from_is_told() {
        let mut history = History::new();
        history.push(Index(3), 1, vec![30]);
        let mut ahead = Place::new(version(1, 5));
        let mut level = Place::new(version(1, 2));
        assert_eq!(
            tell(&mut ahead, &history, version(1, 3)),
            Vec::<String>::new()
        );
        assert_eq!(tell(&mut level, &history, version(1, 3)), ["30"]);
        // What was at 4 and 5 is lost, and others are there.
        history.push(Index(5), 1, vec![50]);
        for place in [&mut ahead, &mut level] {
            assert_eq!(tell(place, &history, version(2, 5)), ["lagged"]);
        }
    }

    #[test]
    fn all_that_one_entry_of_the_log_has_changed_is_told() {
        let mut history = History::new();
        history.push(Index(2), 1, vec![20, 21]);
        history.push(Index(2), 1, vec![22]);
        history.push(Index(3), 1, vec![30]);
        let now = version(1, 3);
        let mut place = Place::new(None);
        assert_eq!(tell(&mut place, &history, now), ["20", "21", "22", "30"]);
        assert_eq!(tell(&mut Place::new(version(1, 2)), &history, now), ["30"]);
    }
}
