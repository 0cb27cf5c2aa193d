//! One peer: what is wanted of it, whether there is a link, and when to dial.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::config::Config;
use super::io::{Event, LinkId, Loss, Output, Stats};
use super::link::{Closing, Link};
use super::proof::{ProofKey, WriteGuard};
use crate::id::{GroupId, PeerId};
use crate::time::{Duration, Instant};

/// What all peers of the machine share.
pub(super) struct Shared {
    pub(super) local: PeerId,
    pub(super) config: Config,
    pub(super) rng: ChaCha8Rng,
    /// The groups that this node is in.
    pub(super) groups: BTreeMap<GroupId, Keys>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) stats: Stats,
}

/// What this node proves in one group, and checks the others by.
pub(super) struct Keys {
    pub(super) key: ProofKey,
    pub(super) write: WriteGuard,
}

impl Shared {
    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn random_up_to(&mut self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..=nanos))
    }
}

/// In which groups a bond with a peer is wanted: those that both are in as far as is known, but for those whose key
/// one of the two has not proved to the other.
#[derive(Debug, Default)]
pub(super) struct Interest {
    named: BTreeSet<GroupId>,
    distrusted: BTreeSet<GroupId>,
    wanted: BTreeSet<GroupId>,
}

impl Interest {
    pub(super) const fn wanted(&self) -> &BTreeSet<GroupId> {
        &self.wanted
    }

    fn set_named(&mut self, named: BTreeSet<GroupId>, shared: &Shared) {
        self.named = named;
        self.distrusted.clear();
        let common = self.named.iter().copied();
        self.wanted = common
            .filter(|group| shared.groups.contains_key(group))
            .collect();
    }

    /// This node has joined the group or left it.
    fn membership_changed(&mut self, group: GroupId, shared: &Shared) {
        self.distrusted.remove(&group);
        self.update(group, shared);
    }

    pub(super) fn distrust(&mut self, group: GroupId, shared: &Shared) {
        self.distrusted.insert(group);
        self.update(group, shared);
    }

    pub(super) fn trust(&mut self, group: GroupId, shared: &Shared) {
        if self.distrusted.remove(&group) {
            self.update(group, shared);
        }
    }

    fn update(&mut self, group: GroupId, shared: &Shared) {
        let is_wanted = self.named.contains(&group)
            && shared.groups.contains_key(&group)
            && !self.distrusted.contains(&group);
        if is_wanted {
            self.wanted.insert(group);
        } else {
            self.wanted.remove(&group);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dial {
    /// There is nothing to dial for.
    Idle,
    /// It is dialled then.
    Waiting(Instant),
    /// It is being dialled.
    UnderWay,
}

pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) interest: Interest,
    pub(super) link: Option<Link>,
    pub(super) dial: Dial,
    /// Dials and links that came to nothing, in a row.
    failures: u32,
    /// Wishes have changed, or the link: offers may be due that no deadline knows of.
    offers_due: bool,
    /// The deadline that the machine knows of.
    pub(super) deadline: Instant,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Self {
        Self {
            id,
            interest: Interest::default(),
            link: None,
            dial: Dial::Idle,
            failures: 0,
            offers_due: false,
            deadline: Instant::FAR_FUTURE,
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_forgotten(&self) -> bool {
        self.interest.named.is_empty() && self.link.is_none() && self.dial == Dial::Idle
    }

    /// Whether there is a link that is of no use to this node.
    pub(super) fn is_guest(&self) -> bool {
        let link = self.link.as_ref();
        self.interest.wanted.is_empty() && link.is_some_and(|link| link.bonded() == 0)
    }

    pub(super) fn set_named(&mut self, named: BTreeSet<GroupId>, shared: &Shared) {
        self.interest.set_named(named, shared);
        self.offers_due = true;
    }

    /// This node has joined the group or left it.
    pub(super) fn membership_changed(&mut self, group: GroupId, shared: &mut Shared) {
        self.offers_due = true;
        self.interest.membership_changed(group, shared);
        if let Some(link) = &mut self.link
            && !shared.groups.contains_key(&group)
        {
            link.leave(group, shared);
        }
    }

    pub(super) fn set_link(&mut self, link: Link) {
        self.link = Some(link);
        self.offers_due = true;
    }

    pub(super) fn dial_failed(&mut self) {
        if self.dial == Dial::UnderWay {
            self.dial = Dial::Idle;
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// The link has ended.
    pub(super) fn link_lost(&mut self, why: Loss, shared: &mut Shared) -> Option<LinkId> {
        let mut link = self.link.take()?;
        link.unbond_all(why, shared);
        if matches!(why, Loss::Violation(_)) {
            shared.stats.violations += 1;
        }
        if why != Loss::Replaced {
            self.failures = self.failures.saturating_add(1);
        }
        Some(link.id)
    }

    /// Closes the link, if there is one.
    pub(super) fn close_link(&mut self, closing: Closing, shared: &mut Shared) {
        let Closing {
            code,
            loss,
            at_once,
        } = closing;
        if let Some(link) = self.link_lost(loss, shared) {
            shared.outputs.push_back(Output::Close {
                link,
                code,
                at_once,
            });
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, shared: &mut Shared) {
        if let Some(link) = &mut self.link {
            let result = link.handle_timeout(now, &self.interest, shared);
            if let Err(closing) = result {
                self.close_link(closing, shared);
            }
        }
        if let Dial::Waiting(at) = self.dial
            && at <= now
        {
            self.dial(shared);
        }
    }

    fn dial(&mut self, shared: &mut Shared) {
        self.dial = Dial::UnderWay;
        shared.outputs.push_back(Output::Dial(self.id));
    }

    /// Brings dialling and offers in line with what is wanted.
    pub(super) fn settle(&mut self, now: Instant, shared: &mut Shared) {
        if let Some(link) = &mut self.link {
            if link.bonded() > 0 {
                self.failures = 0;
            }
            if std::mem::take(&mut self.offers_due) {
                link.offer_wanted(now, &self.interest, shared);
            }
            link.note_use(now, &self.interest);
            link.line_mut().flush(now, shared);
        }
        let needs_link = self.link.is_none() && !self.interest.wanted.is_empty();
        match self.dial {
            Dial::Idle if needs_link => {
                let mut delay = Duration::ZERO;
                if self.failures > 0 {
                    delay += shared.config.redial.delay(self.failures, &mut shared.rng);
                }
                if self.id < shared.local {
                    delay += shared.config.second_dial_delay;
                }
                if delay.is_zero() {
                    self.dial(shared);
                } else {
                    self.dial = Dial::Waiting(now + delay);
                }
            }
            Dial::Waiting(_) if !needs_link => self.dial = Dial::Idle,
            Dial::Idle | Dial::Waiting(_) | Dial::UnderWay => {}
        }
    }

    /// When something is due.
    pub(super) fn due_at(&self) -> Instant {
        let link = self.link.as_ref().map(Link::deadline);
        let dial = match self.dial {
            Dial::Waiting(at) => Some(at),
            Dial::Idle | Dial::UnderWay => None,
        };
        let deadlines = link.into_iter().chain(dial);
        deadlines.min().unwrap_or(Instant::FAR_FUTURE)
    }

    pub(super) fn check_invariants(&self, shared: &Shared) {
        assert_eq!(self.deadline, self.due_at(), "a deadline is not known");
        assert!(!self.is_forgotten(), "a peer is kept for nothing");
        let expected = |group: &GroupId| {
            self.interest.named.contains(group)
                && shared.groups.contains_key(group)
                && !self.interest.distrusted.contains(group)
        };
        let named = self.interest.named.iter().copied();
        let wanted: BTreeSet<_> = named.filter(expected).collect();
        assert_eq!(self.interest.wanted, wanted, "wishes are not up to date");
        match &self.link {
            Some(link) => {
                link.check_invariants(&self.interest, shared);
                assert!(
                    !matches!(self.dial, Dial::Waiting(_)),
                    "dialled in spite of a link"
                );
            }
            None => assert!(
                wanted.is_empty() || self.dial != Dial::Idle,
                "a peer with a common group is not dialled"
            ),
        }
    }
}
