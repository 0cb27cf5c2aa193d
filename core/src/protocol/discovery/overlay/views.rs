//! Partial views: Leitão, Pereira, Rodrigues, "HyParView: A Membership Protocol for Reliable Gossip-Based
//! Broadcast", 2007.
//!
//! Each node has a few neighbours (the active view), both ways, each with a link that is up; and knows some
//! others to replace them with (the passive view). Where the paper opens a connection for an answer, ours
//! goes back along the way that the question came, so that no connection serves a single message.

use std::collections::{BTreeMap, VecDeque};

use super::super::context::Context;
use super::super::io::Output;
use super::super::messages::{Message, Priority, SHUFFLE_MAX, WALK_MAX};
use super::super::peer_addr::PeerAddr;
use super::seeds::Seeds;
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// The most neighbours.
pub(crate) const ACTIVE_MAX: usize = 5;
/// The most peers kept to replace neighbours with.
pub(crate) const PASSIVE_MAX: usize = 30;
/// Steps of a walk that makes a joining peer known (ARWL).
const WALK_ACTIVE: u8 = 6;
/// Steps left when a walk leaves the joining peer in a passive view (PRWL).
const WALK_PASSIVE: u8 = 3;
/// Neighbours offered in a shuffle.
const SHUFFLE_ACTIVE: usize = 3;
/// Peers of the passive view offered in a shuffle.
const SHUFFLE_PASSIVE: usize = 4;
/// Mean time between two shuffles.
const SHUFFLE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a dial may take, and how long a link may then be up without the two being neighbours.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// The most links that are up or being opened, neighbours and others.
const LINKS_MAX: usize = 128;
/// Attempts at finding a neighbour that are under way at once.
const REPAIRS_MAX: usize = 2;
/// Time before the first attempt to replace a neighbour.
const REPAIR_DELAY: Duration = Duration::from_millis(50);
/// Time between attempts at first; it doubles with each that brings nothing.
const REPAIR_BACKOFF_MIN: Duration = Duration::from_millis(250);

pub(in super::super) struct Views {
    local: PeerAddr,
    links: BTreeMap<PeerId, Link>,
    active: Vec<PeerId>,
    passive: Vec<PeerAddr>,
    /// When links that are not agreed on are given up, in order; those that were agreed on meanwhile are
    /// passed over.
    deadlines: VecDeque<(Instant, PeerId)>,
    seeds: Seeds,
    repair_at: Instant,
    repair_backoff: Duration,
    shuffle_at: Instant,
    changes: VecDeque<Change>,
}

struct Link {
    address: PeerAddr,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Being opened, to ask with this priority.
    Dialing { priority: Priority, until: Instant },
    /// Up; asked for, with this priority, or to be asked for by the peer.
    Agreeing {
        asked: Option<Priority>,
        until: Instant,
    },
    /// A neighbour.
    Active,
}

/// A change of the neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Change {
    /// The peer is a neighbour now.
    Up(PeerId),
    /// The peer is one no longer.
    Down(PeerId),
}

impl Views {
    pub(in super::super) fn new(now: Instant, local: PeerAddr, bootstrap: Vec<PeerAddr>) -> Self {
        Self {
            seeds: Seeds::new(now, &local.id, bootstrap),
            local,
            links: BTreeMap::new(),
            active: Vec::new(),
            passive: Vec::new(),
            deadlines: VecDeque::new(),
            repair_at: Instant::FAR_FUTURE,
            repair_backoff: REPAIR_BACKOFF_MIN,
            // Drawn when the first neighbour is there.
            shuffle_at: Instant::FAR_FUTURE,
            changes: VecDeque::new(),
        }
    }

    pub(in super::super) fn active(&self) -> &[PeerId] {
        &self.active
    }

    pub(in super::super) fn is_active(&self, peer: &PeerId) -> bool {
        self.active.contains(peer)
    }

    /// Where a linked peer is.
    pub(in super::super) fn address_of(&self, peer: &PeerId) -> Option<PeerAddr> {
        let address = &self.links.get(peer)?.address;
        (!address.addresses.is_empty()).then(|| address.clone())
    }

    pub(in super::super) fn random_passive(&self, ctx: &mut Context<'_>) -> Option<PeerAddr> {
        ctx.choose(&self.passive)
    }

    /// Closes all links, once what was sent before is on its way.
    pub(in super::super) fn close_all(&mut self, ctx: &mut Context<'_>) {
        let peers: Vec<_> = self.links.keys().copied().collect();
        peers.iter().for_each(|peer| self.close(ctx, peer));
    }

    pub(in super::super) fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    pub(in super::super) fn set_local(&mut self, local: PeerAddr) {
        self.local = local;
    }

    /// Joins through `address` too.
    pub(in super::super) fn dial(&mut self, now: Instant, address: PeerAddr) {
        if address.id != self.local.id {
            self.seeds.dial(now, address);
        }
    }

    /// There is evidence that what `address` hears does not come here: makes it a neighbour.
    pub(in super::super) fn bridge(&mut self, ctx: &mut Context<'_>, address: PeerAddr) {
        self.connect(ctx, address, Priority::High);
    }

    /// A peer is known that was not.
    pub(in super::super) fn discovered(&mut self, now: Instant) {
        if self.active.len() < ACTIVE_MAX / 2 {
            self.repair_backoff = REPAIR_BACKOFF_MIN;
            self.repair_at = self.repair_at.min(now + REPAIR_DELAY);
        }
    }

    /// `peer` has taken leave.
    pub(in super::super) fn departed(&mut self, ctx: &mut Context<'_>, peer: &PeerId) {
        self.seeds.forget(peer);
        self.passive.retain(|other| other.id != *peer);
        if self.links.contains_key(peer) {
            self.close(ctx, peer);
        }
    }

    pub(in super::super) fn connected(&mut self, ctx: &mut Context<'_>, peer: PeerId) {
        let until = ctx.now + LINK_TIMEOUT;
        let asked = match self.links.get(&peer).map(|link| link.state) {
            Some(State::Dialing { priority, .. }) => Some(priority),
            Some(State::Agreeing { asked, .. }) => asked,
            // The link was replaced; whatever was on it is lost, so the two begin anew.
            Some(State::Active) => {
                self.deactivate(ctx, &peer);
                Some(Priority::High)
            }
            None if self.links.len() >= LINKS_MAX || peer == self.local.id => {
                ctx.outputs.push_back(Output::Disconnect(peer));
                return;
            }
            None => None,
        };
        let link = self.links.entry(peer).or_insert_with(|| Link {
            address: PeerAddr {
                id: peer,
                addresses: Vec::new(),
            },
            state: State::Active,
        });
        link.state = State::Agreeing { asked, until };
        self.deadlines.push_back((until, peer));
        if let Some(priority) = asked {
            ctx.send(
                peer,
                Message::Neighbor {
                    priority,
                    sender: self.local.clone(),
                },
            );
        }
    }

    pub(in super::super) fn connect_failed(&mut self, ctx: &mut Context<'_>, peer: &PeerId) {
        if let Some(Link {
            state: State::Dialing { .. },
            ..
        }) = self.links.get(peer)
        {
            self.links.remove(peer);
            self.passive.retain(|other| other.id != *peer);
            self.repair_soon(ctx);
        }
    }

    pub(in super::super) fn disconnected(&mut self, ctx: &mut Context<'_>, peer: &PeerId) {
        let Some(link) = self.links.get(peer) else {
            return;
        };
        let address = link.address.clone();
        if link.state == State::Active {
            self.deactivate(ctx, peer);
            let current = ctx.records.address_of(peer).unwrap_or(address);
            self.seeds.lost(ctx, current);
        } else if matches!(link.state, State::Dialing { .. }) {
            // The end of an earlier link; the dial is still under way.
            return;
        }
        self.links.remove(peer);
        self.repair_soon(ctx);
    }

    /// Handles a request to become neighbours.
    pub(in super::super) fn neighbor(
        &mut self,
        ctx: &mut Context<'_>,
        from: PeerId,
        priority: Priority,
        sender: PeerAddr,
    ) {
        let Some(link) = self.links.get_mut(&from) else {
            return;
        };
        if sender.id == from {
            link.address = sender.clone();
        }
        let wanted = match link.state {
            State::Agreeing { asked, .. } => asked.is_some(),
            State::Active => true,
            State::Dialing { .. } => return,
        };
        let accepted = wanted || priority != Priority::Low || self.active.len() < ACTIVE_MAX;
        let summary = ctx.records.catalog().summary();
        ctx.send(from, Message::NeighborReply { accepted, summary });
        if !accepted {
            self.remember(ctx, sender);
            return;
        }
        self.activate(ctx, from);
        if priority == Priority::Join && sender.id == from {
            for peer in self.active.clone() {
                if peer != from {
                    let peer_address = sender.clone();
                    ctx.send(
                        peer,
                        Message::ForwardJoin {
                            peer: peer_address,
                            ttl: WALK_ACTIVE,
                        },
                    );
                }
            }
        }
    }

    /// Handles the answer to a request; whether the two are neighbours now.
    pub(in super::super) fn neighbor_reply(
        &mut self,
        ctx: &mut Context<'_>,
        from: PeerId,
        accepted: bool,
    ) -> bool {
        let Some(link) = self.links.get(&from) else {
            return false;
        };
        let priority = match link.state {
            State::Agreeing {
                asked: Some(priority),
                ..
            } => priority,
            State::Active => return accepted,
            State::Agreeing { asked: None, .. } | State::Dialing { .. } => return false,
        };
        if !accepted {
            self.close(ctx, &from);
            return false;
        }
        if priority == Priority::Low && self.active.len() >= ACTIVE_MAX {
            // The view has filled up meanwhile.
            ctx.send(from, Message::Disconnect);
            self.close(ctx, &from);
            return false;
        }
        self.activate(ctx, from);
        true
    }

    /// The peer needs its place for another.
    pub(in super::super) fn disconnect(&mut self, ctx: &mut Context<'_>, from: &PeerId) {
        if let Some(link) = self.links.get(from) {
            let address = link.address.clone();
            self.close(ctx, from);
            self.remember(ctx, address);
        }
    }

    pub(in super::super) fn forward_join(
        &mut self,
        ctx: &mut Context<'_>,
        from: &PeerId,
        peer: PeerAddr,
        ttl: u8,
    ) {
        if peer.id == self.local.id || !self.is_active(from) {
            return;
        }
        if ttl == WALK_PASSIVE {
            self.remember(ctx, peer.clone());
        }
        let mut onward = self.active.clone();
        onward.retain(|other| other != from && *other != peer.id);
        match ctx.choose(&onward) {
            Some(next) if ttl > 0 && self.active.len() > 1 => {
                let ttl = (ttl - 1).min(WALK_ACTIVE);
                ctx.send(next, Message::ForwardJoin { peer, ttl });
            }
            _ => {
                self.connect(ctx, peer, Priority::High);
            }
        }
    }

    pub(in super::super) fn shuffle(
        &mut self,
        ctx: &mut Context<'_>,
        from: &PeerId,
        mut path: Vec<PeerId>,
        ttl: u8,
        peers: Vec<PeerAddr>,
    ) {
        if path.last() != Some(from) || path.contains(&self.local.id) {
            return;
        }
        let mut onward = self.active.clone();
        onward.retain(|other| !path.contains(other));
        match ctx.choose(&onward) {
            Some(next) if ttl > 0 && path.len() < WALK_MAX && self.active.len() > 1 => {
                path.push(self.local.id);
                ctx.send(
                    next,
                    Message::Shuffle {
                        path,
                        ttl: ttl - 1,
                        peers,
                    },
                );
            }
            _ => {
                path.pop();
                let offer = ctx.sample(&mut self.passive, peers.len().min(SHUFFLE_MAX));
                ctx.send(*from, Message::ShuffleReply { path, peers: offer });
                peers.into_iter().for_each(|peer| self.remember(ctx, peer));
            }
        }
    }

    pub(in super::super) fn shuffle_reply(
        &mut self,
        ctx: &mut Context<'_>,
        mut path: Vec<PeerId>,
        peers: Vec<PeerAddr>,
    ) {
        match path.pop() {
            Some(next) if self.is_active(&next) => {
                ctx.send(next, Message::ShuffleReply { path, peers });
            }
            Some(_) => {}
            None => peers.into_iter().for_each(|peer| self.remember(ctx, peer)),
        }
    }

    pub(in super::super) fn deadline(&self) -> (Instant, &'static str) {
        let link = self
            .deadlines
            .front()
            .map_or(Instant::FAR_FUTURE, |(at, _)| *at);
        (link, "link")
            .min(self.seeds.deadline())
            .min((self.repair_at, "repair"))
            .min((self.shuffle_at, "shuffle"))
    }

    pub(in super::super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        while let Some((at, peer)) = self
            .deadlines
            .front()
            .copied()
            .filter(|(at, _)| *at <= ctx.now)
        {
            self.deadlines.pop_front();
            if self
                .links
                .get(&peer)
                .is_some_and(|link| link.state.until() == Some(at))
            {
                self.passive.retain(|other| other.id != peer);
                self.close(ctx, &peer);
            }
        }
        let links = &self.links;
        for address in self.seeds.due_seeds(ctx, |peer| links.contains_key(peer)) {
            self.connect(ctx, address, Priority::Join);
        }
        if let Some(address) = self.seeds.due_lost(ctx) {
            self.connect(ctx, address, Priority::High);
        }
        if self.repair_at <= ctx.now {
            self.repair(ctx);
        }
        if self.shuffle_at <= ctx.now {
            self.begin_shuffle(ctx);
        }
    }

    fn begin_shuffle(&mut self, ctx: &mut Context<'_>) {
        self.shuffle_at = ctx.now + ctx.jittered(SHUFFLE_INTERVAL, 0.5);
        let Some(to) = ctx.choose(&self.active) else {
            return;
        };
        let mut neighbours = self.active.clone();
        neighbours.retain(|peer| *peer != to);
        let mut peers = vec![self.local.clone()];
        for peer in ctx.sample(&mut neighbours, SHUFFLE_ACTIVE) {
            peers.extend(ctx.records.address_of(&peer));
        }
        peers.extend(ctx.sample(&mut self.passive, SHUFFLE_PASSIVE));
        let path = vec![self.local.id];
        ctx.send(
            to,
            Message::Shuffle {
                path,
                ttl: WALK_ACTIVE,
                peers,
            },
        );
    }

    /// Looks for neighbours while there are fewer than there may be.
    fn repair(&mut self, ctx: &mut Context<'_>) {
        self.repair_at = Instant::FAR_FUTURE;
        let under_way = self
            .links
            .values()
            .filter(|link| link.state.is_asking())
            .count();
        let room = ACTIVE_MAX.saturating_sub(self.active.len() + under_way);
        if self.active.len() >= ACTIVE_MAX {
            return;
        }
        for _ in 0..room.min(REPAIRS_MAX.saturating_sub(under_way)) {
            let Some(address) = self.candidate(ctx) else {
                break;
            };
            let priority = if self.active.is_empty() {
                Priority::High
            } else {
                Priority::Low
            };
            self.connect(ctx, address, priority);
        }
        // The fewer there are, the more urgent it is. In a network where all views are full but one, that
        // one goes on asking; it should be seldom.
        let longest = match self.active.len() {
            0 | 1 => Duration::from_secs(2),
            2 | 3 => Duration::from_secs(8),
            _ => Duration::from_secs(30),
        };
        self.repair_backoff = self.repair_backoff.min(longest);
        self.repair_at = ctx.now + ctx.jittered(self.repair_backoff, 0.5);
        self.repair_backoff *= 2;
    }

    fn candidate(&mut self, ctx: &mut Context<'_>) -> Option<PeerAddr> {
        let links = &self.links;
        let local = self.local.id;
        let is_free = |peer: &PeerId| *peer != local && !links.contains_key(peer);
        let passive: Vec<_> = self
            .passive
            .iter()
            .filter(|peer| is_free(&peer.id))
            .collect();
        match ctx.choose(&passive) {
            // What the peer says of itself now goes before what was heard of it.
            Some(peer) => ctx
                .records
                .address_of(&peer.id)
                .or_else(|| Some(peer.clone())),
            None => ctx.random_peer(is_free),
        }
    }

    fn repair_soon(&mut self, ctx: &mut Context<'_>) {
        if self.active.len() < ACTIVE_MAX {
            let delay = ctx.jittered(REPAIR_DELAY, 0.9);
            let at = match self.repair_at {
                Instant::FAR_FUTURE => ctx.now + delay,
                // An attempt that failed does not hurry the next one, or a node that nobody answers would
                // dial without pause.
                at => at,
            };
            self.repair_at = at;
        }
    }

    /// Opens a link to become neighbours, unless there is one.
    fn connect(&mut self, ctx: &mut Context<'_>, address: PeerAddr, priority: Priority) {
        let peer = address.id;
        if peer == self.local.id
            || self.links.len() >= LINKS_MAX
            || self.links.contains_key(&peer)
            || address.addresses.is_empty()
        {
            return;
        }
        let until = ctx.now + LINK_TIMEOUT;
        let state = State::Dialing { priority, until };
        self.links.insert(
            peer,
            Link {
                address: address.clone(),
                state,
            },
        );
        self.deadlines.push_back((until, peer));
        ctx.outputs.push_back(Output::Connect(address));
    }

    fn activate(&mut self, ctx: &mut Context<'_>, peer: PeerId) {
        if self.is_active(&peer) {
            return;
        }
        if self.active.len() >= ACTIVE_MAX
            && let Some(other) = ctx.choose(&self.active)
        {
            ctx.send(other, Message::Disconnect);
            let address = self.links.get(&other).map(|link| link.address.clone());
            self.close(ctx, &other);
            address
                .into_iter()
                .for_each(|address| self.remember(ctx, address));
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.state = State::Active;
        }
        self.active.push(peer);
        self.passive.retain(|other| other.id != peer);
        self.seeds.reached(&peer);
        self.changes.push_back(Change::Up(peer));
        self.repair_backoff = REPAIR_BACKOFF_MIN;
        if self.active.len() < ACTIVE_MAX {
            self.repair_soon(ctx);
        } else {
            self.repair_at = Instant::FAR_FUTURE;
        }
        if self.shuffle_at == Instant::FAR_FUTURE {
            self.shuffle_at = ctx.now + ctx.jittered(SHUFFLE_INTERVAL, 0.5);
        }
    }

    /// Takes a neighbour out of the view; its link stays.
    fn deactivate(&mut self, ctx: &mut Context<'_>, peer: &PeerId) {
        self.active.retain(|other| other != peer);
        self.changes.push_back(Change::Down(*peer));
        self.repair_backoff = REPAIR_BACKOFF_MIN;
        self.repair_at = Instant::FAR_FUTURE;
        self.repair_soon(ctx);
    }

    /// Closes the link with `peer`, or stops dialling it.
    fn close(&mut self, ctx: &mut Context<'_>, peer: &PeerId) {
        if self.is_active(peer) {
            self.deactivate(ctx, peer);
        }
        self.links.remove(peer);
        ctx.outputs.push_back(Output::Disconnect(*peer));
        self.repair_soon(ctx);
    }

    /// Puts `peer` into the passive view, in the place of another if need be.
    fn remember(&mut self, ctx: &mut Context<'_>, peer: PeerAddr) {
        let is_gone = ctx
            .records
            .catalog()
            .record(&peer.id)
            .is_some_and(|r| r.entry.is_departed());
        if peer.id == self.local.id
            || is_gone
            || peer.addresses.is_empty()
            || self.is_active(&peer.id)
            || self.passive.iter().any(|other| other.id == peer.id)
        {
            return;
        }
        if self.passive.len() >= PASSIVE_MAX {
            ctx.sample(&mut self.passive, 1);
            self.passive.swap_remove(0);
        }
        self.passive.push(peer);
    }

    pub(in super::super) fn check_invariants(&self) {
        assert!(self.active.len() <= ACTIVE_MAX, "too many neighbours");
        assert!(
            self.passive.len() <= PASSIVE_MAX,
            "the passive view is too large"
        );
        assert!(self.links.len() <= LINKS_MAX, "too many links");
        assert!(
            self.changes.is_empty(),
            "a change of neighbours was not passed on"
        );
        for peer in &self.active {
            let state = self.links.get(peer).map(|link| link.state);
            assert_eq!(state, Some(State::Active), "a neighbour without a link");
            assert!(
                self.passive.iter().all(|other| other.id != *peer),
                "a neighbour is passive"
            );
        }
        let active = self
            .links
            .values()
            .filter(|link| link.state == State::Active)
            .count();
        assert_eq!(
            active,
            self.active.len(),
            "a link of a neighbour that is none"
        );
        assert!(
            !self.links.contains_key(&self.local.id),
            "a link with oneself"
        );
        self.seeds.check_invariants();
    }
}

impl State {
    const fn until(&self) -> Option<Instant> {
        match self {
            Self::Dialing { until, .. } | Self::Agreeing { until, .. } => Some(*until),
            Self::Active => None,
        }
    }

    const fn is_asking(&self) -> bool {
        matches!(
            self,
            Self::Dialing { .. } | Self::Agreeing { asked: Some(_), .. }
        )
    }
}
