//! What is watched while a network of machines runs: what nodes are shown, and what one
//! announcement costs.

use std::collections::BTreeMap;

use smalti_core::id::{Instance, PeerId};
use smalti_core::protocol::discovery::{EntryVersion, Event, Message, PeerEntry, SyncMessage};
use smalti_core::time::{Duration, WallTime};
use smalti_core::wire::FRAME_HEADER_LEN;
use smalti_sim::NodeIndex;
use smalti_sim::time::SimTime;

use super::bytes;
use super::membership::Members;
use super::rare;
use crate::Coverage;

/// What each node has been told of the others, in its present life. Nobody who was given up may be
/// shown again but by something newer that it says, and nobody whose departure the node has heard
/// of by anything older than that.
pub(super) struct Shown {
    /// For each node, what was last shown of a peer, and whether it was given up since.
    nodes: Vec<BTreeMap<PeerId, Last>>,
    /// For each node, the departures that it has heard of by gossip, and until when it minds them.
    departures: Vec<BTreeMap<PeerId, (EntryVersion, SimTime)>>,
}

#[derive(Clone, Copy)]
struct Last {
    instance: Instance,
    version: EntryVersion,
    given_up: bool,
}

/// How long a departure takes to reach everybody where nothing hinders it.
const DEPARTURE_SPREADS_WITHIN: Duration = Duration::from_secs(5);

impl Shown {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            nodes: vec![BTreeMap::new(); nodes as usize],
            departures: vec![BTreeMap::new(); nodes as usize],
        }
    }

    pub(super) fn forget(&mut self, node: NodeIndex) {
        self.nodes[node.0 as usize].clear();
        self.departures[node.0 as usize].clear();
    }

    /// Takes note of the departures in `message`, which `node` receives and takes for true where
    /// they are not dated after `horizon` nor older than `purge_after`.
    pub(super) fn message(
        &mut self,
        now: SimTime,
        node: NodeIndex,
        message: &Message,
        horizon: WallTime,
        purge_after: Duration,
    ) {
        let Message::Gossip { records } = message else {
            return;
        };
        let departures = &mut self.departures[node.0 as usize];
        for record in records {
            let (entry, age) = (&record.entry, Duration::from_millis(record.age_ms.into()));
            if entry.is_departed() && entry.updated_at() <= horizon && age < purge_after {
                let known = departures.entry(*entry.id()).or_default();
                *known = (entry.version(), now + (purge_after - age)).max(*known);
            }
        }
    }

    /// Takes note of `event`, which `node` is told of.
    pub(super) fn event(
        &mut self,
        now: SimTime,
        node: NodeIndex,
        event: &Event,
        members: &Members,
        coverage: &mut Coverage,
    ) {
        match event {
            Event::PeerDiscovered(entry) | Event::PeerUpdated(entry) => {
                self.show(now, node, entry, coverage);
            }
            Event::PeerDeparted(peer) => self.give_up(now, node, peer, members, coverage),
            Event::DuplicateIdentity { .. } => coverage.reach(rare::DUPLICATE_IDENTITY),
            _ => {}
        }
    }

    fn show(&mut self, now: SimTime, node: NodeIndex, entry: &PeerEntry, coverage: &mut Coverage) {
        let shown = &mut self.nodes[node.0 as usize];
        let (instance, version) = (*entry.instance(), entry.version());
        let departed = self.departures[node.0 as usize].get(entry.id());
        assert!(
            departed.is_none_or(|(departed, until)| version > *departed || now > *until),
            "{node} is shown {} again, which it knows has left: {entry:?}",
            entry.id(),
        );
        if let Some(last) = shown.get(entry.id())
            && last.given_up
        {
            assert!(
                last.instance != instance || version > last.version,
                "{node} is shown {} again, which it had given up, by what it knew: {entry:?}",
                entry.id(),
            );
            coverage.reach(rare::GIVEN_UP_AND_BACK);
        }
        let last = Last {
            instance,
            version,
            given_up: false,
        };
        shown.insert(*entry.id(), last);
    }

    fn give_up(
        &mut self,
        now: SimTime,
        node: NodeIndex,
        peer: &PeerId,
        members: &Members,
        coverage: &mut Coverage,
    ) {
        let last = self.nodes[node.0 as usize].get_mut(peer);
        let last = last.unwrap_or_else(|| panic!("{node} lost {peer}, which it never had"));
        last.given_up = true;
        let member = members.node(peer).map(|peer| members.member(peer));
        match member.and_then(|member| member.left.get(&last.instance)) {
            Some(left) if now.since(*left) > DEPARTURE_SPREADS_WITHIN => {
                coverage.reach(rare::DEPARTURE_LEARNT_LATE);
            }
            Some(_) => {}
            None if member.is_some_and(|member| member.live == Some(last.instance)) => {
                coverage.reach(rare::LIVE_PEER_PURGED);
            }
            None => coverage.reach(rare::CRASHED_PEER_PURGED),
        }
    }
}

/// Counts bytes.
pub(super) struct Meter {
    /// Whose announcement is followed, and from which version on.
    pub(super) announcement: Option<(PeerId, EntryVersion)>,
    /// What each node has sent for it.
    pub(super) sent: Vec<usize>,
    /// Whose synchronisation is measured.
    pub(super) joiner: Option<NodeIndex>,
    /// What was sent in its sessions, in both directions, and the messages that was in.
    pub(super) synchronised: usize,
    pub(super) messages: u32,
}

impl Meter {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            announcement: None,
            sent: vec![0; nodes as usize],
            joiner: None,
            synchronised: 0,
            messages: 0,
        }
    }

    /// Counts what of `message` is due to the announcement: the parts that are about it, and a
    /// frame's and a message's header however many others share them. A `Prune` does not say what
    /// it is about and is counted.
    pub(super) fn gossip(&mut self, node: NodeIndex, message: &Message) {
        let Some((peer, version)) = &self.announcement else {
            return;
        };
        let parts: usize = match message {
            Message::Gossip { records } => records
                .iter()
                .filter(|record| record.entry.id() == peer && record.entry.version() >= *version)
                .map(bytes::len)
                .sum(),
            Message::IHave { entries } => entries
                .iter()
                .filter(|entry| entry.peer == *peer && entry.version >= *version)
                .map(bytes::len)
                .sum(),
            Message::Graft { peers } => {
                let grafted = peers.iter().filter(|grafted| *grafted == peer);
                grafted.map(bytes::len).sum()
            }
            Message::Prune => 1,
            Message::Neighbor { .. }
            | Message::NeighborReply { .. }
            | Message::Disconnect
            | Message::ForwardJoin { .. }
            | Message::Shuffle { .. }
            | Message::ShuffleReply { .. } => 0,
        };
        if parts > 0 {
            self.sent[node.0 as usize] += parts + MESSAGE_HEADER_LEN + FRAME_HEADER_LEN;
        }
    }

    /// Counts `message`, which goes between `node` and `with`.
    pub(super) fn session(&mut self, node: NodeIndex, with: NodeIndex, message: &SyncMessage) {
        if self
            .joiner
            .is_some_and(|joiner| joiner == node || joiner == with)
        {
            self.synchronised += bytes::wire_len(message);
            self.messages += 1;
        }
    }
}

/// The kind of a message and the length of its list.
const MESSAGE_HEADER_LEN: usize = 3;
