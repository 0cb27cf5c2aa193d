//! Conditions on who is subscribed, as futures.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::roster::{Key, Roster};
use crate::id::Tag;
use crate::node::watched::{Edge, Watched};
use crate::protocol::discovery::{OneOrMany, PeerEntry};

/// Says of a peer whether it counts.
pub(super) type Predicate = Arc<dyn Fn(&PeerEntry) -> bool + Send + Sync>;

/// What is to be true of the peers at the other end of a stream: that at least so many are subscribed which
/// have all of some tags and which a predicate accepts.
#[derive(Clone)]
#[must_use]
pub struct Subscribers {
    minimum: usize,
    tags: BTreeSet<Tag>,
    predicates: Vec<Predicate>,
    negated: bool,
}

impl Default for Subscribers {
    /// At least one, whichever.
    fn default() -> Self {
        Self {
            minimum: 1,
            tags: BTreeSet::new(),
            predicates: Vec::new(),
            negated: false,
        }
    }
}

impl Subscribers {
    /// At least `minimum` of them. Default: one.
    pub const fn minimum_of(mut self, minimum: usize) -> Self {
        self.minimum = minimum;
        self
    }

    /// Only those count that have all of `tags`, besides the tags named before.
    pub fn with_tags<M>(mut self, tags: impl OneOrMany<Tag, M>) -> Self {
        let mut list = Vec::new();
        tags.append_to(&mut list);
        self.tags.extend(list);
        self
    }

    /// Only those count that `predicate` accepts, besides the predicates given before.
    pub fn with_predicate(
        mut self,
        predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.predicates.push(Arc::new(predicate));
        self
    }

    /// The contrary.
    pub const fn unmet(mut self) -> Self {
        self.negated = !self.negated;
        self
    }

    pub(super) fn is_met(&self, roster: &Roster) -> bool {
        let count = if self.counts_all() {
            roster.subscribed()
        } else {
            let counting = roster.entries().filter(|entry| self.counts(entry));
            counting.take(self.minimum).count()
        };
        self.is_met_by(count)
    }

    /// The same, from what was found out of a former state of the roster.
    pub(super) fn is_met_after(&self, counted: &mut Counted, roster: &Roster) -> bool {
        self.is_met_by(if self.counts_all() {
            roster.subscribed()
        } else {
            counted.update(self, roster)
        })
    }

    fn is_met_by(&self, count: usize) -> bool {
        (count >= self.minimum) != self.negated
    }

    fn counts_all(&self) -> bool {
        self.tags.is_empty() && self.predicates.is_empty()
    }

    fn counts(&self, entry: &PeerEntry) -> bool {
        self.tags.iter().all(|tag| entry.has_tag(tag))
            && self.predicates.iter().all(|predicate| predicate(entry))
    }
}

/// Who counts for a condition, kept so that it looks only at what has changed: with thousands of peers, going through
/// all of them for each that comes or goes would take time in proportion to their square.
#[derive(Default)]
pub(super) struct Counted {
    roster: Roster,
    counting: BTreeSet<Key>,
}

impl Counted {
    fn update(&mut self, subscribers: &Subscribers, roster: &Roster) -> usize {
        for (key, entry) in roster.changes_since(&self.roster) {
            if entry.is_some_and(|entry| subscribers.counts(entry)) {
                self.counting.insert(key);
            } else {
                self.counting.remove(&key);
            }
        }
        self.roster = roster.clone();
        self.counting.len()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counted")
            .field(&self.counting.len())
            .finish()
    }
}

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribers")
            .field("minimum", &self.minimum)
            .field("tags", &self.tags)
            .field("predicates", &self.predicates.len())
            .field("negated", &self.negated)
            .finish()
    }
}

/// Makes conditions on a producer or a consumer.
///
/// A condition is a future. It completes when what it says becomes true, or is true when it is first
/// polled. It can be polled again then: it completes once more when what it says has been false in between. It
/// sees the newest state, not every state: what is true for less than it takes to wake up may be missed.
/// Dropping it costs nothing. A condition that is not true when its stream is closed stays so.
#[derive(Clone)]
pub struct When(Arc<Watched<Roster>>);

impl When {
    pub(super) const fn new(roster: Arc<Watched<Roster>>) -> Self {
        Self(roster)
    }

    /// The stream is online: what `online_when` asks for is met.
    pub fn online(&self) -> Online {
        Online(Edge::new(self.0.clone()), true)
    }

    /// The stream is not online.
    pub fn offline(&self) -> Online {
        Online(Edge::new(self.0.clone()), false)
    }

    /// A peer is subscribed: for a producer a consumer, for a consumer a producer. Which and how many can be
    /// said more closely.
    pub fn subscribed(&self) -> Subscribed {
        Subscribed {
            edge: Edge::new(self.0.clone()),
            subscribers: Subscribers::default(),
            counted: Counted::default(),
        }
    }

    /// Nobody is subscribed.
    pub fn unsubscribed(&self) -> Subscribed {
        self.subscribed().unmet()
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("When")
    }
}

/// Completes when a stream goes online, or offline. See [`When`].
#[derive(Debug)]
#[must_use = "a condition does nothing unless it is awaited"]
pub struct Online(Edge<Roster>, bool);

impl Online {
    /// The contrary.
    pub const fn unmet(mut self) -> Self {
        self.1 = !self.1;
        self
    }

    /// Whether it is true now.
    #[must_use]
    pub fn is_condition_met(&self) -> bool {
        self.0.get().is_online() == self.1
    }
}

impl Future for Online {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self(edge, online) = self.get_mut();
        edge.poll(cx, |roster| roster.is_online() == *online)
    }
}

/// Completes when enough peers of the right kind are subscribed. See [`When`].
#[derive(Debug)]
#[must_use = "a condition does nothing unless it is awaited"]
pub struct Subscribed {
    edge: Edge<Roster>,
    subscribers: Subscribers,
    counted: Counted,
}

impl Subscribed {
    fn map(mut self, change: impl FnOnce(Subscribers) -> Subscribers) -> Self {
        self.subscribers = change(self.subscribers);
        // Who counts is found out anew.
        self.counted = Counted::default();
        self
    }

    /// See [`Subscribers::minimum_of`].
    pub fn minimum_of(self, minimum: usize) -> Self {
        self.map(|subscribers| subscribers.minimum_of(minimum))
    }

    /// See [`Subscribers::with_tags`].
    pub fn with_tags<M>(self, tags: impl OneOrMany<Tag, M>) -> Self {
        self.map(|subscribers| subscribers.with_tags(tags))
    }

    /// See [`Subscribers::with_predicate`].
    pub fn with_predicate(
        self,
        predicate: impl Fn(&PeerEntry) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.map(|subscribers| subscribers.with_predicate(predicate))
    }

    /// The contrary.
    pub fn unmet(self) -> Self {
        self.map(Subscribers::unmet)
    }

    /// Whether it is true now.
    #[must_use]
    pub fn is_condition_met(&self) -> bool {
        self.subscribers.is_met(&self.edge.get())
    }
}

impl Future for Subscribed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            edge,
            subscribers,
            counted,
        } = self.get_mut();
        edge.poll(cx, |roster| subscribers.is_met_after(counted, roster))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use super::*;
    use crate::id::{NetworkId, PeerId};
    use crate::protocol::discovery::PeerAddr;

    fn entry(n: u8, tags: &[&str]) -> Arc<PeerEntry> {
        let address = PeerAddr::new(PeerId::from_bytes([n; 32]), Vec::new());
        let entry = PeerEntry::new(NetworkId::from("test"), address);
        Arc::new(entry.with_tags(tags.iter().map(|tag| Tag::from(*tag))))
    }

    fn roster(tags: &[&[&str]]) -> Roster {
        tags.iter()
            .enumerate()
            .fold(Roster::default(), |mut roster, (n, tags)| {
                let entry = entry(n as u8, tags);
                let key = (*entry.id(), 0);
                roster.set_subscribed_for_test(key, entry);
                roster
            })
    }

    fn is_ready(condition: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(condition).poll(&mut cx).is_ready()
    }

    #[test]
    fn a_condition_completes_each_time_it_becomes_true_and_not_while_it_stays_so() {
        let state = Arc::new(Watched::new(roster(&[])));
        let mut two = When::new(state.clone()).subscribed().minimum_of(2);
        assert!(!is_ready(&mut two));
        state.set(roster(&[&[], &[]]));
        assert!(two.is_condition_met());
        assert!(is_ready(&mut two));
        assert!(!is_ready(&mut two));
        state.set(roster(&[&[], &[], &[]]));
        assert!(!is_ready(&mut two));
        state.set(roster(&[&[]]));
        assert!(!is_ready(&mut two));
        state.set(roster(&[&[], &[]]));
        assert!(is_ready(&mut two));
    }

    #[test]
    fn conditions_count_who_has_the_tags_and_is_accepted() {
        type Change = fn(Subscribers) -> Subscribers;
        let table: [(&str, Change, bool); 9] = [
            ("one", |c| c, true),
            ("three", |c| c.minimum_of(3), true),
            ("four", |c| c.minimum_of(4), false),
            ("none needed", |c| c.minimum_of(0), true),
            ("one red", |c| c.with_tags(Tag::from("red")), true),
            (
                "two red",
                |c| c.minimum_of(2).with_tags(Tag::from("red")),
                true,
            ),
            (
                "one red and blue",
                |c| c.with_tags([Tag::from("red"), Tag::from("blue")]),
                true,
            ),
            (
                "two red and blue",
                |c| {
                    c.minimum_of(2)
                        .with_tags(Tag::from("red"))
                        .with_tags(Tag::from("blue"))
                },
                false,
            ),
            (
                "two that are not red",
                |c| {
                    c.minimum_of(2)
                        .with_predicate(|entry| !entry.has_tag(&Tag::from("red")))
                },
                false,
            ),
        ];
        let roster = roster(&[&["red"], &["red", "blue"], &["blue"]]);
        for (name, change, expected) in table {
            let subscribers = change(Subscribers::default());
            assert_eq!(subscribers.is_met(&roster), expected, "{name}");
            let counted = &mut Counted::default();
            assert_eq!(
                subscribers.is_met_after(counted, &roster),
                expected,
                "{name}"
            );
            assert_eq!(
                subscribers.unmet().is_met(&roster),
                !expected,
                "{name}, unmet"
            );
        }
    }

    #[test]
    fn a_condition_looks_only_at_peers_that_have_changed() {
        const PEERS: u8 = 200;
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let mut roster = Roster::default();
        let state = Arc::new(Watched::new(roster.clone()));
        let mut all = When::new(state.clone())
            .subscribed()
            .minimum_of(usize::from(PEERS))
            .with_predicate(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                true
            });
        for n in 0..PEERS {
            assert!(!is_ready(&mut all));
            let entry = entry(n, &[]);
            roster.set_subscribed_for_test((*entry.id(), 0), entry);
            state.set(roster.clone());
        }
        assert!(is_ready(&mut all));
        assert_eq!(asked.load(Ordering::Relaxed), usize::from(PEERS));
        roster.remove(&(PeerId::from_bytes([7; 32]), 0));
        state.set(roster.clone());
        assert!(!is_ready(&mut all));
        let entry = entry(7, &["again"]);
        roster.set_subscribed_for_test((*entry.id(), 0), entry);
        state.set(roster);
        assert!(is_ready(&mut all));
    }

    #[test]
    fn online_and_unsubscribed_follow_the_roster() {
        let state = Arc::new(Watched::new(roster(&[])));
        let when = When::new(state.clone());
        let (mut online, mut offline) = (when.online(), when.offline());
        let mut unsubscribed = when.unsubscribed();
        assert!(!is_ready(&mut online) && is_ready(&mut offline) && is_ready(&mut unsubscribed));
        let mut with_one = roster(&[&[]]);
        with_one.set_online(true);
        state.set(with_one);
        assert!(is_ready(&mut online) && !is_ready(&mut offline) && !is_ready(&mut unsubscribed));
        assert!(online.unmet().unmet().is_condition_met());
    }
}
