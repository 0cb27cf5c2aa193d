//! What surrounds the discovery machines of a network: links, sessions, clocks, and eyes.

use std::time::Duration;

use smalti_core::id::{Instance, NetworkId};
use smalti_core::protocol::discovery::{
    Config, Discovery, Event, Identity, Input, Message, Output, PeerAddr, RequestError, SyncMessage,
};
use smalti_core::unique_id;
use smalti_sim::NodeIndex;
use smalti_sim::bare::{Context, Environment, LinkEvent, World};
use smalti_sim::faults::Fault;
use smalti_sim::rng::Streams;
use smalti_sim::trace;

use super::bytes;
use super::gossip::Gossip;
use super::membership::Members;
use super::rare;
use super::sessions::Sessions;
use super::watch::{Meter, Shown};
use crate::Coverage;

/// What the environment works with.
pub(super) type Ctx = Context<Input, Scheduled>;

/// Machines in their environment.
pub(super) type Overlay = World<Discovery, Network>;

/// How long a probe of a peer that does not answer takes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the environment schedules for itself.
pub(super) enum Scheduled {
    Gossip(LinkEvent<Message>),
    Session(LinkEvent<SyncMessage>),
}

impl From<LinkEvent<Message>> for Scheduled {
    fn from(event: LinkEvent<Message>) -> Self {
        Self::Gossip(event)
    }
}

impl From<LinkEvent<SyncMessage>> for Scheduled {
    fn from(event: LinkEvent<SyncMessage>) -> Self {
        Self::Session(event)
    }
}

/// The environment.
pub(super) struct Network {
    config: Config,
    /// The first so many nodes are those through which all others join.
    bootstrap: u32,
    /// A node that joins nobody until it is told to.
    loner: Option<NodeIndex>,
    pub(super) members: Members,
    pub(super) meter: Meter,
    pub(super) coverage: Coverage,
    gossip: Gossip,
    sessions: Sessions,
    /// `None` where a network is too large to remember what everybody was shown of everybody.
    shown: Option<Shown>,
}

impl Network {
    /// Room for `nodes` nodes, which join through the first `bootstrap` of them.
    pub(super) fn new(streams: &Streams, nodes: u32, bootstrap: u32, config: Config) -> Self {
        Self {
            config,
            bootstrap,
            loner: None,
            members: Members::new(streams, nodes),
            meter: Meter::new(nodes),
            coverage: Coverage::default(),
            gossip: Gossip::new(nodes),
            sessions: Sessions::new(nodes),
            shown: None,
        }
    }

    /// The same, watching what every node is shown.
    pub(super) fn watching_all(mut self, nodes: u32) -> Self {
        self.shown = Some(Shown::new(nodes));
        self
    }

    /// The same, with a node that joins nobody until it is told to.
    pub(super) const fn with_loner(mut self, node: NodeIndex) -> Self {
        self.loner = Some(node);
        self
    }

    fn bootstrap_of(&self, node: NodeIndex) -> Vec<PeerAddr> {
        if self.loner == Some(node) {
            return Vec::new();
        }
        let others = (0..self.bootstrap)
            .map(NodeIndex)
            .filter(|peer| *peer != node);
        others.map(|peer| self.members.address(peer)).collect()
    }

    fn node(&self, peer: &PeerAddr) -> NodeIndex {
        let node = self.members.node(&peer.id);
        node.expect("machines know only of peers that there are")
    }

    /// A round trip from `node` to `peer` and back.
    fn probe(&self, node: NodeIndex, peer: &PeerAddr, ctx: &mut Ctx) {
        let to = self.node(peer);
        let answers = ctx.is_up(to) && !ctx.is_paused(to) && !self.members.has_left(to);
        let reached = !ctx.faults().is_cut(node, to) && !ctx.faults().is_cut(to, node);
        let (delay, sample) = if answers && reached {
            let round_trip = ctx.faults().latency(node, to) + ctx.faults().latency(to, node);
            (round_trip, Some(round_trip))
        } else {
            (PROBE_TIMEOUT, None)
        };
        let peer = peer.id;
        ctx.reply_after(delay, node, Input::Rtt { peer, sample });
    }

    fn left(&mut self, node: NodeIndex, ctx: &mut Ctx) {
        self.gossip.leave(node, ctx);
        self.sessions.leave(node, ctx);
        let now = ctx.now();
        let others = self.members.live().map(|(other, ..)| other);
        let is_cut_off = others
            .into_iter()
            .any(|other| ctx.faults().is_cut(node, other));
        if is_cut_off {
            self.coverage.reach(rare::LEFT_PARTITIONED);
        }
        let member = self.members.member_mut(node);
        member.has_left = true;
        if let Some(instance) = member.live.take() {
            member.left.insert(instance, now);
        }
    }

    fn crashed(&mut self, node: NodeIndex) {
        self.gossip.forget(node);
        if self.sessions.forget(node) > 0 {
            self.coverage.reach(rare::CRASHED_IN_SESSION);
        }
        if let Some(shown) = &mut self.shown {
            shown.forget(node);
        }
        self.members.member_mut(node).live = None;
    }

    fn event_of(&mut self, node: NodeIndex, event: &Event, ctx: &Ctx) {
        if let Some(shown) = &mut self.shown {
            shown.event(ctx.now(), node, event, &self.members, &mut self.coverage);
        }
    }
}

impl Environment<Discovery> for Network {
    type Event = Scheduled;

    fn start(&mut self, node: NodeIndex, _: u32, ctx: &mut Ctx) -> Discovery {
        let streams = ctx.streams_of(node);
        let instance = Instance::from_rng(&mut streams.stream("instance"));
        let (now, wall) = (ctx.monotonic(node), ctx.wall(node));
        let bootstrap = self.bootstrap_of(node);
        let member = self.members.member_mut(node);
        if member.started.is_some_and(|started| wall < started) {
            self.coverage.reach(rare::EARLIER_CLOCK);
        }
        if member.has_left {
            self.coverage.reach(rare::RESTARTED_AFTER_LEAVING);
        }
        member.started = Some(wall);
        member.has_left = false;
        member.has_raised = false;
        member.is_alone = true;
        member.live = Some(instance);
        let identity = Identity {
            network: NETWORK,
            secret_key: member.key.clone(),
            instance,
            addresses: member.address.addresses.clone(),
            wall,
        };
        let mut config = self.config.clone();
        config.bootstrap = bootstrap;
        Discovery::new(now, identity, config, streams.stream("discovery"))
    }

    fn output(&mut self, node: NodeIndex, output: Output, ctx: &mut Ctx) {
        match output {
            Output::Connect(peer) => self.gossip.connect(node, self.node(&peer), ctx),
            Output::Disconnect(peer) => {
                if let Some(peer) = self.members.node(&peer) {
                    self.gossip.disconnect(node, peer, ctx);
                }
            }
            Output::Send(peer, message) => {
                if let Some(peer) = self.members.node(&peer) {
                    self.meter.gossip(node, &message);
                    self.gossip.send(node, peer, message, ctx);
                }
            }
            Output::SyncOpen { session, peer } => {
                self.sessions.open(node, session, self.node(&peer), ctx);
            }
            Output::SyncSend { session, message } => {
                if let Some(with) = self.sessions.other_end(node, session) {
                    self.meter.session(node, with, &message);
                }
                self.sessions.send(node, session, message, ctx);
            }
            Output::SyncClose { session } => self.sessions.close(node, session, ctx),
            Output::Probe(peer) => self.probe(node, &peer, ctx),
            Output::Event(event) => self.event_of(node, &event, ctx),
            Output::CatalogChanged { .. } => {}
            Output::Done { request, result } => {
                let is_granted = matches!(result, Ok(()) | Err(RequestError::Left));
                assert!(is_granted, "{node} refuses {request:?}: {result:?}");
            }
            Output::Left => self.left(node, ctx),
        }
    }

    fn event(&mut self, event: Scheduled, ctx: &mut Ctx) {
        let (members, coverage) = (&self.members, &mut self.coverage);
        let (node, input) = match event {
            Scheduled::Gossip(event) => {
                let Some((node, input)) = self.gossip.links.handle(event, ctx) else {
                    return;
                };
                (node, self.gossip.input(node, input, members, coverage, ctx))
            }
            Scheduled::Session(event) => {
                let Some((node, input)) = self.sessions.links.handle(event, ctx) else {
                    return;
                };
                let input = self.sessions.input(node, input, members, coverage, ctx);
                (node, input)
            }
        };
        let Some(input) = input else {
            return;
        };
        // A paused node takes note of it later, after other things.
        if let (Some(shown), Input::Message { message, .. }) = (&mut self.shown, &input)
            && !ctx.is_paused(node)
        {
            let horizon = ctx.wall(node) + self.config.max_time_drift;
            let purge_after = self.config.purge_after;
            shown.message(ctx.now(), node, message, horizon, purge_after);
        }
        ctx.deliver(node, input);
    }

    fn fault(&mut self, fault: &Fault, ctx: &mut Ctx) {
        self.gossip.links.fault(fault, ctx);
        self.sessions.links.fault(fault, ctx);
        match fault {
            Fault::Crash(node) => self.crashed(*node),
            Fault::Jump(node, _) if ctx.is_up(*node) => {
                let wall = ctx.wall(*node);
                ctx.deliver(*node, Input::Wall(wall));
            }
            _ => {}
        }
    }

    fn stepped(&mut self, node: NodeIndex, machine: &Discovery, ctx: &mut Ctx) {
        let member = self.members.member_mut(node);
        let is_alone = machine.neighbours().is_empty();
        if is_alone && !member.is_alone {
            self.coverage.reach(rare::ALONE);
        }
        member.is_alone = is_alone;
        if !member.has_raised && ctx.life(node) > 0 {
            let own = machine.catalog().local().map(|entry| entry.started_at());
            member.has_raised = own > member.started;
            if member.has_raised {
                self.coverage.reach(rare::RAISED);
            }
        }
    }

    fn digest(input: &Input) -> u64 {
        match input {
            Input::Connected(peer) => trace::digest(&(1u8, peer)),
            Input::ConnectFailed(peer) => trace::digest(&(2u8, peer)),
            Input::Disconnected(peer) => trace::digest(&(3u8, peer)),
            Input::Message { from, message } => trace::digest(&(4u8, from, bytes::digest(message))),
            Input::SyncOpened { session, peer } => trace::digest(&(5u8, session, peer)),
            Input::SyncMessage { session, message } => {
                trace::digest(&(6u8, session, bytes::digest(message)))
            }
            Input::SyncClosed { session, .. } => trace::digest(&(7u8, session)),
            Input::Wall(wall) => trace::digest(&(8u8, wall)),
            Input::Rtt { peer, sample } => trace::digest(&(9u8, peer, sample)),
            Input::Request { request, .. } => trace::digest(&(10u8, request)),
        }
    }

    fn describe(input: &Input) -> String {
        format!("{input:?}")
    }
}

/// The network that all nodes are in.
const NETWORK: NetworkId = unique_id!("overlay scenarios");
