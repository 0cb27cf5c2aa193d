//! The machine.

use std::cell::Cell;
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;

use super::config::Config;
use super::io::{BondInfo, BondState, Input, LinkId, Loss, Output, Stats};
use super::link::{Closing, Link};
use super::messages::{PAYLOAD_LEN_MAX, decode};
use super::peer::{Dial, Keys, Peer, Shared};
use super::proof::{ProofKey, WriteGuard};
use crate::id::{GroupId, PeerId};
use crate::protocol::Machine;
use crate::protocol::crossing::{self, Candidate, Verdict};
use crate::runtime::Side;
use crate::time::Instant;
use crate::wire::CloseCode;

/// Links of peers with which this node shares no group, as far as it knows. Beyond it new ones are closed at once.
pub(super) const GUESTS_MAX: usize = 256;

/// All peers are checked each so many checks.
const FULL_CHECK_EVERY: u32 = 64;

/// All bonds of one node. See the [module](super).
pub struct Bonds {
    shared: Shared,
    peers: BTreeMap<PeerId, Peer>,
    /// The links that are up, each its peer's present one.
    links: BTreeMap<LinkId, PeerId>,
    /// When something is due for whom.
    deadlines: BTreeSet<(Instant, PeerId)>,
    closed: bool,
    /// Whom the last step was about.
    touched: Option<PeerId>,
    checks: Cell<u32>,
}

impl Bonds {
    /// The bonds of `local`, which is in no group yet and knows of nobody. The configuration must be valid.
    #[must_use]
    pub const fn new(local: PeerId, config: Config, rng: ChaCha8Rng) -> Self {
        Self {
            shared: Shared {
                local,
                config,
                rng,
                groups: BTreeMap::new(),
                outputs: VecDeque::new(),
                stats: Stats {
                    violations: 0,
                    wrong_proofs: 0,
                    not_member: 0,
                    dropped: 0,
                    stray: 0,
                },
            },
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            closed: false,
            touched: None,
            checks: Cell::new(0),
        }
    }

    /// Where this node stands in `group` with each peer that it has, or wants, a bond with.
    pub fn topology(&self, group: GroupId) -> impl Iterator<Item = BondInfo> + '_ {
        self.peers.values().filter_map(move |peer| {
            let link = peer.link.as_ref();
            let wanted = || peer.interest.wanted().contains(&group);
            let state = match link.and_then(|link| link.state(group)) {
                Some(state) => state,
                None if wanted() => BondState::Unlinked {
                    until: match peer.dial {
                        Dial::Waiting(until) => Some(until),
                        Dial::Idle | Dial::UnderWay => None,
                    },
                },
                None => return None,
            };
            Some(BondInfo {
                peer: peer.id,
                state,
                may_write: link.is_some_and(|link| link.may_write(group)),
                rtt: link.and_then(|link| link.line().rtt()),
                waiting: link.map_or(0, |link| link.line().waiting(group)),
            })
        })
    }

    /// What has happened since the start.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.shared.stats
    }

    /// How many links are up.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Lets `change` happen to a peer, and brings everything in line with it.
    fn with_peer<R>(
        &mut self,
        now: Instant,
        id: PeerId,
        change: impl FnOnce(&mut Peer, &mut Shared) -> R,
    ) -> R {
        self.touched = Some(id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id));
        let link_before = peer.link.as_ref().map(|link| link.id);
        let result = change(peer, &mut self.shared);
        peer.settle(now, &mut self.shared);
        let link = peer.link.as_ref().map(|link| link.id);
        if link != link_before {
            if let Some(before) = link_before {
                self.links.remove(&before);
            }
            if let Some(link) = link {
                self.links.insert(link, id);
            }
        }
        note_deadline(peer, &mut self.deadlines);
        if peer.is_forgotten() {
            self.peers.remove(&id);
        }
        result
    }

    fn membership_changed(&mut self, now: Instant, group: GroupId) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in peers {
            self.with_peer(now, id, |peer, shared| {
                peer.membership_changed(group, shared);
            });
        }
    }

    fn link_opened(
        &mut self,
        now: Instant,
        id: LinkId,
        peer: PeerId,
        new: Candidate,
        exporter: [u8; 32],
    ) {
        let local = self.shared.local;
        if peer == local || self.has_too_many_guests(peer) {
            self.refuse_link(id, CloseCode::TOO_MANY);
            return;
        }
        self.with_peer(now, peer, |peer, shared| {
            if new.side == Side::Dialer {
                peer.dial = Dial::Idle;
            }
            let replaced = Closing::orderly(CloseCode::REPLACED, Loss::Replaced);
            let old = peer.link.as_ref().map(|link| link.candidate);
            match old.map(|old| crossing::decide(local, peer.id, old, new)) {
                Some(Verdict::RetireNew) => shared.outputs.push_back(Output::Close {
                    link: id,
                    code: replaced.code,
                    at_once: false,
                }),
                Some(Verdict::RetireOld | Verdict::CloseOld) | None => {
                    peer.close_link(replaced, shared);
                    peer.set_link(Link::new(now, id, peer.id, new, exporter, shared));
                }
            }
        });
    }

    /// Whether a link with `peer` would be one too many of those that are of no use to this node.
    fn has_too_many_guests(&self, peer: PeerId) -> bool {
        let peer = self.peers.get(&peer);
        let is_guest =
            peer.is_none_or(|peer| peer.link.is_none() && peer.interest.wanted().is_empty());
        let guests = || self.peers.values().filter(|peer| peer.is_guest()).count();
        is_guest && guests() >= GUESTS_MAX
    }

    fn refuse_link(&mut self, link: LinkId, code: CloseCode) {
        self.shared.outputs.push_back(Output::Close {
            link,
            code,
            at_once: true,
        });
    }

    fn frame(&mut self, now: Instant, link: LinkId, frame: &Bytes) {
        let Some(&peer) = self.links.get(&link) else {
            return;
        };
        let items = decode(frame);
        self.with_peer(now, peer, |peer, shared| {
            let Some(link) = &mut peer.link else {
                return;
            };
            let result = match items {
                Ok(items) => {
                    link.line_mut().heard(now);
                    items
                        .into_iter()
                        .try_for_each(|item| link.take(now, item, &mut peer.interest, shared))
                }
                Err(_) => Err(Closing::violation(CloseCode::PROTOCOL_VIOLATION)),
            };
            if let Err(closing) = result {
                peer.close_link(closing, shared);
            }
        });
    }

    /// Without a look at wishes and dials, which it does not change.
    fn send(&mut self, now: Instant, group: GroupId, id: PeerId, payload: Bytes, can_wait: bool) {
        self.touched = Some(id);
        let mut is_queued = false;
        if payload.len() <= PAYLOAD_LEN_MAX
            && let Some(peer) = self.peers.get_mut(&id)
            && let Some(link) = &mut peer.link
        {
            is_queued = link.send(now, group, payload, can_wait, &mut self.shared);
            link.line_mut().flush(now, &mut self.shared);
            note_deadline(peer, &mut self.deadlines);
        }
        if !is_queued {
            self.shared.stats.dropped += 1;
        }
    }

    fn sent(&mut self, now: Instant, link: LinkId) {
        let Some(id) = self.links.get(&link) else {
            return;
        };
        self.touched = Some(*id);
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(link) = &mut peer.link
        {
            link.line_mut().sent();
            link.line_mut().flush(now, &mut self.shared);
            note_deadline(peer, &mut self.deadlines);
        }
    }

    /// What a member has said cannot be read, or is not for it to say: it breaks the protocol, unless the bond has ended
    /// since.
    fn violated(&mut self, now: Instant, group: GroupId, id: PeerId, code: CloseCode) {
        let link = self.peers.get(&id).and_then(|peer| peer.link.as_ref());
        let state = link.and_then(|link| link.state(group));
        if matches!(state, Some(BondState::Bonded { .. })) {
            let closing = Closing::violation(code);
            self.with_peer(now, id, |peer, shared| peer.close_link(closing, shared));
        }
    }

    fn close(&mut self, now: Instant) {
        let groups: Vec<GroupId> = self.shared.groups.keys().copied().collect();
        self.shared.groups.clear();
        for mut peer in std::mem::take(&mut self.peers).into_values() {
            for &group in &groups {
                peer.membership_changed(group, &mut self.shared);
            }
            if let Some(link) = &mut peer.link {
                link.line_mut().flush_all(now, &mut self.shared);
            }
            let closing = Closing::orderly(CloseCode::GRACEFUL_SHUTDOWN, Loss::Left);
            peer.close_link(closing, &mut self.shared);
        }
        self.links.clear();
        self.deadlines.clear();
        self.touched = None;
        self.closed = true;
    }
}

/// Takes note of when something is due for `peer`.
fn note_deadline(peer: &mut Peer, deadlines: &mut BTreeSet<(Instant, PeerId)>) {
    let due_at = peer.due_at();
    if due_at != peer.deadline {
        deadlines.remove(&(peer.deadline, peer.id));
        if due_at < Instant::FAR_FUTURE {
            deadlines.insert((due_at, peer.id));
        }
        peer.deadline = due_at;
    }
}

impl Machine for Bonds {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        if self.closed {
            if let Input::LinkOpened { link, .. } = input {
                self.refuse_link(link, CloseCode::GRACEFUL_SHUTDOWN);
            }
            return;
        }
        match input {
            Input::Peer { peer, groups } => {
                if peer != self.shared.local {
                    self.with_peer(now, peer, |peer, shared| peer.set_named(groups, shared));
                }
            }
            Input::Joined { group, key, access } => {
                if let Entry::Vacant(entry) = self.shared.groups.entry(group) {
                    entry.insert(Keys {
                        key: ProofKey::new(&key),
                        write: WriteGuard::new(&access),
                    });
                    self.membership_changed(now, group);
                }
            }
            Input::Left(group) => {
                if self.shared.groups.remove(&group).is_some() {
                    self.membership_changed(now, group);
                }
            }
            Input::LinkOpened {
                link,
                peer,
                instance,
                side,
                exporter,
            } => self.link_opened(now, link, peer, Candidate { instance, side }, exporter),
            Input::DialFailed(peer) => {
                self.with_peer(now, peer, |peer, _| peer.dial_failed());
            }
            Input::LinkClosed { link, code } => {
                if let Some(&peer) = self.links.get(&link) {
                    let why = Loss::Closed(code);
                    self.with_peer(now, peer, |peer, shared| peer.link_lost(why, shared));
                }
            }
            Input::Frame { link, frame } => self.frame(now, link, &frame),
            Input::Sent(link) => self.sent(now, link),
            Input::Send {
                group,
                peer,
                payload,
                can_wait,
            } => self.send(now, group, peer, payload, can_wait),
            Input::Garbled { group, peer } => {
                self.violated(now, group, peer, CloseCode::PROTOCOL_VIOLATION);
            }
            Input::Overstepped { group, peer } => {
                self.violated(now, group, peer, CloseCode::GROUP_NOT_WRITER);
            }
            Input::Close => self.close(now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, peer)) = self.deadlines.first()
            && at <= now
        {
            self.with_peer(now, peer, |peer, shared| peer.handle_timeout(now, shared));
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.first().map(|(at, _)| (*at, "bond"))
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    fn check_invariants(&self) {
        let checks = self.checks.get();
        self.checks.set((checks + 1) % FULL_CHECK_EVERY);
        if let Some(peer) = self.touched.and_then(|id| self.peers.get(&id)) {
            peer.check_invariants(&self.shared);
        }
        if checks > 0 {
            return;
        }
        for peer in self.peers.values() {
            peer.check_invariants(&self.shared);
        }
        let up = |peer: &&Peer| peer.link.is_some();
        assert_eq!(self.peers.values().filter(up).count(), self.links.len());
        for (id, peer) in &self.links {
            let link = self.peers.get(peer).and_then(|peer| peer.link.as_ref());
            assert_eq!(link.map(|link| link.id), Some(*id), "a link is nobody's");
        }
        let due = |peer: &&Peer| peer.deadline < Instant::FAR_FUTURE;
        assert_eq!(
            self.peers.values().filter(due).count(),
            self.deadlines.len()
        );
    }
}
