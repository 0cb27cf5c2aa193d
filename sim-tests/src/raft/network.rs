//! Bonds between nodes, and messages over them.

use std::collections::VecDeque;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{Envelope, Input};
use smalti_sim::NodeIndex;
use smalti_sim::rng::chance;
use smalti_sim::time::SimTime;

use super::cluster::{Ctx, Scheduled};
use super::digests::len_of;
use super::peers::peer;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriage {
    /// Each by itself: lost, duplicated, overtaken.
    Datagrams,
    /// In order and without loss, until the bond breaks: then what has not arrived is gone. A cut holds
    /// messages back until it ends or the bond breaks.
    Streams,
}

/// How bonds behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BondRules {
    pub(super) carriage: Carriage,
    /// A node gives a bond up once the peer was out of reach for so long.
    pub(super) idle_timeout: Duration,
    /// How often a bond that is made again follows the one before without an `Unbonded` between, in parts
    /// per million.
    pub(super) replaced_ppm: u32,
}

/// One of two nodes that may have a bond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Side {
    /// Which of their bonds it has, as far as it knows.
    bond: Option<u32>,
}

/// Two nodes.
#[derive(Debug, Default)]
struct Pair {
    /// Counts their bonds.
    bond: u32,
    /// By the order of their numbers.
    sides: [Side; 2],
    /// When a bond that is being made is taken to have failed.
    made_by: Option<SimTime>,
    unreached_since: Option<SimTime>,
}

/// Messages from one node to another.
#[derive(Debug, Default)]
struct Way {
    /// When the last message of this bond arrives: the next one is not before it.
    last_arrival: (u32, SimTime),
    /// What a cut holds back.
    held: VecDeque<(u32, Envelope)>,
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) from: NodeIndex,
    pub(super) to: NodeIndex,
    bond: u32,
    envelope: Envelope,
}

/// A bond that is made at one end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bonding {
    pub(super) node: NodeIndex,
    peer: NodeIndex,
    bond: u32,
}

/// All bonds.
pub(super) struct Network {
    nodes: u32,
    rules: BondRules,
    pairs: Vec<Pair>,
    ways: Vec<Way>,
    rng: ChaCha8Rng,
}

/// Making a bond takes at most so long, or is tried again.
const BONDING_LIMIT: Duration = Duration::from_secs(2);

impl Network {
    pub(super) fn new(nodes: u32, rules: BondRules, rng: ChaCha8Rng) -> Self {
        let squared = (nodes * nodes) as usize;
        Self {
            nodes,
            rules,
            pairs: (0..squared).map(|_| Pair::default()).collect(),
            ways: (0..squared).map(|_| Way::default()).collect(),
            rng,
        }
    }

    /// The place of what is about two nodes, and which side the first of them is.
    fn place(&self, node: NodeIndex, other: NodeIndex) -> (usize, usize) {
        let (low, high) = (node.min(other), node.max(other));
        let place = low.0 * self.nodes + high.0;
        (place as usize, usize::from(node > other))
    }

    /// Whether `node` has a bond with `other`, as far as it knows.
    pub(super) fn is_bonded(&self, node: NodeIndex, other: NodeIndex) -> bool {
        let (place, side) = self.place(node, other);
        self.pairs[place].sides[side].bond.is_some()
    }

    /// The node has crashed: it knows of no bond.
    pub(super) fn forget(&mut self, node: NodeIndex) {
        for other in (0..self.nodes)
            .map(NodeIndex)
            .filter(|other| *other != node)
        {
            let (place, side) = self.place(node, other);
            let pair = &mut self.pairs[place];
            pair.sides[side].bond = None;
            pair.bond += 1;
            pair.made_by = None;
            let way = &mut self.ways[(node.0 * self.nodes + other.0) as usize];
            way.held.clear();
        }
    }

    /// The network has changed: bonds that were being made are begun anew.
    pub(super) fn hurry(&mut self) {
        for pair in &mut self.pairs {
            pair.made_by = None;
        }
    }

    /// Looks which nodes reach each other: makes bonds and gives them up. A node whose machine has stopped
    /// ends its bonds itself.
    pub(super) fn look(&mut self, has_stopped: impl Fn(NodeIndex) -> bool, ctx: &mut Ctx) {
        for first in (0..self.nodes).map(NodeIndex) {
            for second in (first.0 + 1..self.nodes).map(NodeIndex) {
                let is_over = has_stopped(first) || has_stopped(second);
                self.look_at(first, second, is_over, ctx);
                self.release(first, second, ctx);
                self.release(second, first, ctx);
            }
        }
    }

    fn look_at(&mut self, first: NodeIndex, second: NodeIndex, is_over: bool, ctx: &mut Ctx) {
        let now = ctx.now();
        let place = self.place(first, second).0;
        let is_cut = ctx.faults().is_cut(first, second) || ctx.faults().is_cut(second, first);
        let reached = ctx.is_up(first) && ctx.is_up(second) && !is_cut && !is_over;
        let pair = &mut self.pairs[place];
        if reached {
            pair.unreached_since = None;
            let is_made = pair.sides.iter().all(|side| side.bond == Some(pair.bond));
            if is_made || pair.made_by.is_some_and(|by| now < by) {
                return;
            }
            pair.bond += 1;
            pair.made_by = Some(now + BONDING_LIMIT);
            let bond = pair.bond;
            for (node, peer) in [(first, second), (second, first)] {
                // A handshake is two ways, the last message of it a third.
                let delay =
                    ctx.faults().latency(first, second) * 2 + ctx.faults().latency(peer, node);
                let bonding = Bonding { node, peer, bond };
                ctx.schedule(now + delay, Scheduled::Bonded(bonding));
            }
            return;
        }
        let since = *pair.unreached_since.get_or_insert(now);
        let is_told = is_over && !is_cut;
        if now.since(since) < self.rules.idle_timeout && !is_told {
            return;
        }
        for (node, other) in [(first, second), (second, first)] {
            let (place, side) = self.place(node, other);
            let pair = &mut self.pairs[place];
            if pair.sides[side].bond.take().is_some() {
                pair.bond += 1;
                ctx.deliver(node, Input::Unbonded(peer(other)));
            }
            self.ways[(node.0 * self.nodes + other.0) as usize]
                .held
                .clear();
        }
    }

    /// A bond has been made at one end.
    pub(super) fn bonded(&mut self, bonding: Bonding, ctx: &mut Ctx) {
        let Bonding {
            node,
            peer: other,
            bond,
        } = bonding;
        let (place, side) = self.place(node, other);
        let pair = &mut self.pairs[place];
        if pair.bond != bond || !ctx.is_up(node) {
            return;
        }
        let before = pair.sides[side].bond.replace(bond);
        if before.is_some() && !chance(&mut self.rng, self.rules.replaced_ppm) {
            ctx.deliver(node, Input::Unbonded(peer(other)));
        }
        ctx.deliver(node, Input::Bonded(peer(other)));
    }

    /// Sends a message to a bonded peer; without a bond it is lost.
    pub(super) fn send(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        envelope: Envelope,
        ctx: &mut Ctx,
    ) {
        let (place, side) = self.place(from, to);
        let Some(bond) = self.pairs[place].sides[side].bond else {
            return;
        };
        match self.rules.carriage {
            Carriage::Datagrams => {
                let now = ctx.now();
                let copies = ctx.faults().packet(now, from, to, len_of(&envelope));
                // A corrupt datagram fails its checksum: it is lost.
                if copies.corrupt.is_some() {
                    return;
                }
                if let Some(at) = copies.second {
                    let envelope = envelope.clone();
                    Self::post(from, to, bond, envelope, at, ctx);
                }
                if let Some(at) = copies.first {
                    Self::post(from, to, bond, envelope, at, ctx);
                }
            }
            Carriage::Streams => {
                let is_cut = ctx.faults().is_cut(from, to);
                let way = &mut self.ways[(from.0 * self.nodes + to.0) as usize];
                if is_cut || !way.held.is_empty() {
                    way.held.push_back((bond, envelope));
                } else {
                    self.stream(from, to, bond, envelope, ctx);
                }
            }
        }
    }

    fn stream(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        bond: u32,
        envelope: Envelope,
        ctx: &mut Ctx,
    ) {
        let now = ctx.now();
        let sent = ctx.faults().reliable(now, from, to, len_of(&envelope));
        // A stream on which nothing arrives for longer is given up, and another bond is made.
        let arrives = sent.arrives.min(now + self.rules.idle_timeout);
        let way = &mut self.ways[(from.0 * self.nodes + to.0) as usize];
        let (of, before) = way.last_arrival;
        let arrives = if of == bond {
            arrives.max(before)
        } else {
            arrives
        };
        way.last_arrival = (bond, arrives);
        Self::post(from, to, bond, envelope, arrives, ctx);
    }

    /// Sends what a cut has held back, if it is over.
    fn release(&mut self, from: NodeIndex, to: NodeIndex, ctx: &mut Ctx) {
        let place = (from.0 * self.nodes + to.0) as usize;
        if self.ways[place].held.is_empty() || ctx.faults().is_cut(from, to) {
            return;
        }
        for (bond, envelope) in std::mem::take(&mut self.ways[place].held) {
            self.stream(from, to, bond, envelope, ctx);
        }
    }

    fn post(
        from: NodeIndex,
        to: NodeIndex,
        bond: u32,
        envelope: Envelope,
        at: SimTime,
        ctx: &mut Ctx,
    ) {
        let parcel = Parcel {
            from,
            to,
            bond,
            envelope,
        };
        ctx.schedule(at, Scheduled::Arrived(parcel));
    }

    /// A message has arrived: it is for the machine if that has a bond with the sender, and on a stream if
    /// it has the bond that the message was sent over.
    pub(super) fn arrived(&self, parcel: Parcel, ctx: &mut Ctx) {
        let (place, side) = self.place(parcel.to, parcel.from);
        let Some(bond) = self.pairs[place].sides[side].bond else {
            return;
        };
        if self.rules.carriage == Carriage::Datagrams || bond == parcel.bond {
            let input = Input::Message(peer(parcel.from), parcel.envelope);
            ctx.deliver(parcel.to, input);
        }
    }
}
