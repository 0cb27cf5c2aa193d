//! A small network of bonds: reliable ordered links with latency, cuts, stalls, crashes. It watches every frame and
//! every event, and panics where a promise is broken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::*;
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::Machine;
use crate::protocol::groups::{GroupKey, WriteAccess};
use crate::runtime::Side;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Node {
    pub(super) machine: Bonds,
    /// Tells runs of a node apart.
    run: u32,
    instance: Instance,
    /// The groups that it is in, with the key it has.
    pub(super) groups: BTreeMap<GroupId, u8>,
    /// What it was told.
    bonded: BTreeSet<(GroupId, usize)>,
    pub(super) events: Vec<Event>,
    pub(super) received: Vec<(GroupId, usize, Bytes)>,
    /// Until when nothing happens on it.
    paused_until: Instant,
    timer: Instant,
}

/// A link, and what was seen on it. Of the two places of arrays the first is the dialer's.
struct Wire {
    ends: [usize; 2],
    runs: [u32; 2],
    instances: [Instance; 2],
    /// Whether the end has not closed it, nor was told that it is closed.
    open: [bool; 2],
    /// When the last frame sent by the end arrives.
    arrives: [Instant; 2],
    /// Groups in which the end has sent a proof and not taken it back.
    proofs_sent: [BTreeSet<GroupId>; 2],
    /// Groups in which a proof has ever arrived at the end.
    proofs_had: [BTreeSet<GroupId>; 2],
    /// Frames that the end's transport does not take while the pair is stalled.
    held: [Vec<Bytes>; 2],
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ids: Vec<PeerId>,
    pub(super) nodes: Vec<Option<Node>>,
    config: Config,
    queue: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    pub(super) rng: ChaCha8Rng,
    wires: BTreeMap<u64, Wire>,
    /// Pairs that cannot dial each other.
    cut: BTreeSet<(usize, usize)>,
    /// Pairs whose links carry nothing, and do not break either.
    stalled: BTreeSet<(usize, usize)>,
    runs: u32,
    pub(super) frames: u64,
    pub(super) dials: u64,
    pub(super) latency: Duration,
    next_payload: u64,
    /// The last payload that arrived, by receiver, sender and group.
    arrived: BTreeMap<(usize, usize, GroupId), u64>,
}

enum Happening {
    Timer(usize, u32),
    Dial(usize, u32, usize),
    /// The dialer learns of its link.
    Opened {
        wire: u64,
    },
    Arrive {
        wire: u64,
        to: usize,
        frame: Bytes,
    },
    Sent {
        wire: u64,
        end: usize,
    },
    Closed {
        wire: u64,
        end: usize,
        code: Option<CloseCode>,
    },
    Named {
        at: usize,
        run: u32,
        peer: usize,
        groups: BTreeSet<GroupId>,
    },
}

pub(super) fn group(number: u8) -> GroupId {
    GroupId::from_bytes([number; 32])
}

pub(super) fn key(number: u8) -> GroupKey {
    GroupKey::from_bytes([number; 32])
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub(super) fn new(seed: u64, size: usize) -> Self {
        Self {
            now: Instant::ZERO,
            ids: (0..size)
                .map(|i| PeerId::from_bytes([i as u8 + 1; 32]))
                .collect(),
            nodes: (0..size).map(|_| None).collect(),
            config: Config::default(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            runs: 0,
            frames: 0,
            dials: 0,
            latency: Duration::from_millis(10),
            next_payload: 0,
            arrived: BTreeMap::new(),
        }
    }

    /// A world whose nodes all run and are in `groups`, with equal keys.
    pub(super) fn with_groups(seed: u64, size: usize, groups: &[u8]) -> Self {
        let mut world = Self::new(seed, size);
        for index in 0..size {
            world.start(index);
            for &number in groups {
                world.join(index, number, number);
            }
        }
        world
    }

    pub(super) fn start(&mut self, index: usize) {
        self.runs += 1;
        let mut rng = ChaCha8Rng::seed_from_u64(self.rng.random_range(0..=u64::MAX));
        let instance = Instance::from_rng(&mut rng);
        self.nodes[index] = Some(Node {
            machine: Bonds::new(self.ids[index], self.config.clone(), rng),
            run: self.runs,
            instance,
            groups: BTreeMap::new(),
            bonded: BTreeSet::new(),
            events: Vec::new(),
            received: Vec::new(),
            paused_until: self.now,
            timer: Instant::FAR_FUTURE,
        });
        for peer in 0..self.ids.len() {
            if let Some(node) = &self.nodes[peer]
                && peer != index
            {
                let groups = node.groups.keys().copied().collect();
                self.name_later(index, peer, groups);
            }
        }
    }

    /// Ends the node without a word. Peers see their links break, unless they are stalled.
    pub(super) fn crash(&mut self, index: usize) {
        self.nodes[index] = None;
        self.break_wires(|ends| ends.contains(&index));
    }

    pub(super) fn join(&mut self, index: usize, number: u8, with_key: u8) {
        let group = group(number);
        let node = self.nodes[index].as_mut().unwrap();
        if node.groups.insert(group, with_key).is_none() {
            let (key, access) = (key(with_key), WriteAccess::Open);
            self.input(index, Input::Joined { group, key, access });
            self.announce(index);
        }
    }

    /// Joins with the right key, and this proof or none that it may write.
    pub(super) fn join_as(&mut self, index: usize, number: u8, access: WriteAccess) {
        let (group, key) = (group(number), key(number));
        let node = self.nodes[index].as_mut().unwrap();
        node.groups.insert(group, number);
        self.input(index, Input::Joined { group, key, access });
        self.announce(index);
    }

    pub(super) fn leave(&mut self, index: usize, number: u8) {
        let group = group(number);
        let node = self.nodes[index].as_mut().unwrap();
        if node.groups.remove(&group).is_some() {
            self.input(index, Input::Left(group));
            self.announce(index);
        }
    }

    /// Lets the catalogs of all others hear what the node is in now.
    pub(super) fn announce(&mut self, index: usize) {
        let node = self.nodes[index].as_ref().unwrap();
        let groups: BTreeSet<_> = node.groups.keys().copied().collect();
        for at in 0..self.ids.len() {
            if at != index && self.nodes[at].is_some() {
                self.name_later(at, index, groups.clone());
            }
        }
    }

    fn name_later(&mut self, at: usize, peer: usize, groups: BTreeSet<GroupId>) {
        let run = self.nodes[at].as_ref().unwrap().run;
        let named = Happening::Named {
            at,
            run,
            peer,
            groups,
        };
        // News keep their order: the delay is the same for all.
        self.schedule(self.now + self.latency * 3, named);
    }

    pub(super) fn set_cut(&mut self, a: usize, b: usize, is_cut: bool) {
        if is_cut {
            self.cut.insert(pair(a, b));
            self.break_wires(|ends| ends.contains(&a) && ends.contains(&b));
        } else {
            self.cut.remove(&pair(a, b));
        }
    }

    /// Breaks all links of the pair.
    pub(super) fn break_links(&mut self, a: usize, b: usize) {
        self.break_wires(|ends| ends.contains(&a) && ends.contains(&b));
    }

    /// Lets the links of the pair carry nothing, or go on where they stopped.
    pub(super) fn set_stalled(&mut self, a: usize, b: usize, is_stalled: bool) {
        if is_stalled {
            self.stalled.insert(pair(a, b));
            return;
        }
        self.stalled.remove(&pair(a, b));
        let mut released = Vec::new();
        for (&number, wire) in &mut self.wires {
            if pair(wire.ends[0], wire.ends[1]) == pair(a, b) {
                for end in 0..2 {
                    let held = std::mem::take(&mut wire.held[end]);
                    released.extend(held.into_iter().map(|frame| (number, end, frame)));
                }
            }
        }
        for (number, end, frame) in released {
            self.transmit(number, end, frame);
        }
    }

    pub(super) fn pause(&mut self, index: usize, time: Duration) {
        let until = self.now + time;
        self.nodes[index].as_mut().unwrap().paused_until = until;
    }

    fn break_wires(&mut self, which: impl Fn(&[usize; 2]) -> bool) {
        let broken: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| which(&wire.ends))
            .map(|(number, _)| *number)
            .collect();
        for number in broken {
            let is_stalled = {
                let [a, b] = self.wires[&number].ends;
                self.stalled.contains(&pair(a, b))
            };
            for end in 0..2 {
                if is_stalled {
                    continue;
                }
                let code = None;
                let wire = number;
                self.schedule(
                    self.now + self.latency,
                    Happening::Closed { wire, end, code },
                );
            }
        }
    }

    /// Says something that tells itself apart from all else. False where there was no bond.
    pub(super) fn send(&mut self, from: usize, number: u8, to: usize, can_wait: bool) -> bool {
        self.next_payload += 1;
        let mut payload = self.next_payload.to_le_bytes().to_vec();
        payload.resize(self.rng.random_range(8..4_000), 0);
        let (group, peer) = (group(number), self.ids[to]);
        let is_bonded = self.is_bonded(from, number, to);
        self.input(
            from,
            Input::Send {
                group,
                peer,
                payload: payload.into(),
                can_wait,
            },
        );
        is_bonded
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().unwrap()
    }

    pub(super) fn is_bonded(&self, at: usize, number: u8, with: usize) -> bool {
        let node = self.nodes[at].as_ref();
        node.is_some_and(|node| node.bonded.contains(&(group(number), with)))
    }

    pub(super) fn are_bonded(&self, number: u8, a: usize, b: usize) -> bool {
        self.is_bonded(a, number, b) && self.is_bonded(b, number, a)
    }

    pub(super) fn input(&mut self, index: usize, input: Input) {
        let now = self.now;
        if let Some(node) = &mut self.nodes[index] {
            node.machine.handle(now, input);
            self.drain(index);
        }
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.next += 1;
        self.happenings.insert(self.next, happening);
        self.queue.push(Reverse((at, self.next, self.next)));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, _, _))) = self.queue.peek()
            && *at <= end
        {
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let Some(Reverse((at, _, id))) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        let Some(happening) = self.happenings.remove(&id) else {
            return;
        };
        let index = match &happening {
            Happening::Timer(index, _) => *index,
            Happening::Dial(_, _, to) => *to,
            Happening::Arrive { wire, to, .. } => self.wires[wire].ends[*to],
            Happening::Sent { wire, end } | Happening::Closed { wire, end, .. } => {
                self.wires[wire].ends[*end]
            }
            Happening::Opened { wire } => self.wires[wire].ends[0],
            Happening::Named { at, .. } => *at,
        };
        if let Some(node) = &self.nodes[index]
            && node.paused_until > self.now
        {
            let until = node.paused_until;
            self.schedule(until, happening);
            return;
        }
        self.carry_out(happening);
    }

    fn carry_out(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Timer(index, run) => {
                if let Some(node) = &mut self.nodes[index]
                    && node.run == run
                    && node.timer <= now
                {
                    node.timer = Instant::FAR_FUTURE;
                    node.machine.handle_timeout(now);
                    self.drain(index);
                }
            }
            Happening::Dial(from, run, to) => self.dialled(from, run, to),
            Happening::Opened { wire } => self.open(wire, 0),
            Happening::Arrive { wire, to, frame } => self.arrive(wire, to, frame),
            Happening::Sent { wire, end } => {
                if self.is_live(wire, end) {
                    let index = self.wires[&wire].ends[end];
                    self.input(index, Input::Sent(LinkId(wire)));
                }
            }
            Happening::Closed { wire, end, code } => {
                if self.is_live(wire, end) {
                    self.wires.get_mut(&wire).unwrap().open[end] = false;
                    let index = self.wires[&wire].ends[end];
                    let link = LinkId(wire);
                    self.input(index, Input::LinkClosed { link, code });
                }
            }
            Happening::Named {
                at,
                run,
                peer,
                groups,
            } => {
                if self.nodes[at].as_ref().is_some_and(|node| node.run == run) {
                    let peer = self.ids[peer];
                    self.input(at, Input::Peer { peer, groups });
                }
            }
        }
    }

    /// Whether the end is still the one that has opened the link, and has not closed it.
    fn is_live(&self, wire: u64, end: usize) -> bool {
        let wire = &self.wires[&wire];
        let node = self.nodes[wire.ends[end]].as_ref();
        wire.open[end] && node.is_some_and(|node| node.run == wire.runs[end])
    }

    fn dialled(&mut self, from: usize, run: u32, to: usize) {
        let is_same = |node: &Node| node.run == run;
        if !self.nodes[from].as_ref().is_some_and(is_same) {
            return;
        }
        let is_cut = self.cut.contains(&pair(from, to)) || self.stalled.contains(&pair(from, to));
        if is_cut || self.nodes[to].is_none() {
            self.input(from, Input::DialFailed(self.ids[to]));
            return;
        }
        self.next += 1;
        let number = self.next;
        let wire = Wire {
            ends: [from, to],
            runs: [from, to].map(|index| self.node(index).run),
            instances: [from, to].map(|index| self.node(index).instance),
            open: [true; 2],
            arrives: [self.now + self.latency; 2],
            proofs_sent: Default::default(),
            proofs_had: Default::default(),
            held: Default::default(),
        };
        self.wires.insert(number, wire);
        // Later than the acceptor, so that the ends see crossing links in different orders.
        let opened = Happening::Opened { wire: number };
        self.schedule(self.now + self.latency, opened);
        self.open(number, 1);
    }

    fn open(&mut self, number: u64, end: usize) {
        if !self.is_live(number, end) {
            return;
        }
        let wire = &self.wires[&number];
        let mut exporter = [0; 32];
        exporter[..8].copy_from_slice(&number.to_le_bytes());
        let opened = Input::LinkOpened {
            link: LinkId(number),
            peer: self.ids[wire.ends[1 - end]],
            instance: wire.instances[1 - end],
            side: [Side::Dialer, Side::Acceptor][end],
            exporter,
        };
        let index = wire.ends[end];
        self.input(index, opened);
    }

    fn arrive(&mut self, number: u64, to: usize, frame: Bytes) {
        if !self.is_live(number, to) {
            return;
        }
        let wire = self.wires.get_mut(&number).unwrap();
        for item in decode(&frame).expect("machines make good frames") {
            if let Item::Offer { group, .. } = item {
                wire.proofs_had[to].insert(group);
            }
        }
        let index = wire.ends[to];
        let link = LinkId(number);
        self.input(index, Input::Frame { link, frame });
    }

    fn transmit(&mut self, number: u64, end: usize, frame: Bytes) {
        let [a, b] = self.wires[&number].ends;
        let wire = self.wires.get_mut(&number).unwrap();
        if self.stalled.contains(&pair(a, b)) {
            wire.held[end].push(frame);
            return;
        }
        let jitter = Duration::from_micros(self.rng.random_range(0..5_000));
        let at = (self.now + self.latency + jitter).max(wire.arrives[end]);
        wire.arrives[end] = at;
        let (wire, to) = (number, 1 - end);
        self.schedule(self.now + jitter, Happening::Sent { wire, end });
        self.schedule(at, Happening::Arrive { wire, to, frame });
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = {
            let node = self.nodes[index].as_mut();
            node.and_then(|node| node.machine.poll_output())
        } {
            self.output(index, output);
        }
        let Some(node) = &mut self.nodes[index] else {
            return;
        };
        node.machine.check_invariants();
        let timer = node.machine.poll_timeout().map(|(at, _)| at);
        if let Some(at) = timer
            && at < node.timer
        {
            node.timer = at;
            let run = node.run;
            let at = at.max(self.now);
            self.schedule(at, Happening::Timer(index, run));
        }
    }

    fn output(&mut self, index: usize, output: Output) {
        match output {
            Output::Dial(peer) => {
                self.dials += 1;
                let to = self.index(peer);
                let run = self.node(index).run;
                self.schedule(self.now + self.latency * 2, Happening::Dial(index, run, to));
            }
            Output::Send { link, frame } => {
                self.frames += 1;
                let body = frame.body();
                let end = self.end(link.0, index);
                self.look_at(link.0, end, &body);
                self.transmit(link.0, end, body);
            }
            Output::Close { link, code, .. } => {
                let end = self.end(link.0, index);
                let wire = self.wires.get_mut(&link.0).unwrap();
                wire.open[end] = false;
                let [a, b] = wire.ends;
                // What was sent before is not overtaken. On a stalled link nobody learns of it.
                let at = (self.now + self.latency).max(wire.arrives[end]);
                if !self.stalled.contains(&pair(a, b)) {
                    let (wire, end, code) = (link.0, 1 - end, Some(code));
                    self.schedule(at, Happening::Closed { wire, end, code });
                }
            }
            Output::Message {
                group,
                peer,
                payload,
                ..
            } => {
                let from = self.index(peer);
                let node = self.nodes[index].as_mut().unwrap();
                assert!(
                    node.bonded.contains(&(group, from)),
                    "a message without a bond"
                );
                let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
                let last = self.arrived.insert((index, from, group), number);
                assert!(last < Some(number), "a message came twice, or too late");
                node.received.push((group, from, payload));
            }
            Output::Event(event) => self.event(index, event),
        }
    }

    /// What goes over the wire keeps to the order of proofs and messages.
    fn look_at(&mut self, number: u64, end: usize, frame: &Bytes) {
        let wire = self.wires.get_mut(&number).unwrap();
        for item in decode(frame).expect("machines make good frames") {
            match item {
                Item::Offer { group, .. } => {
                    wire.proofs_sent[end].insert(group);
                }
                Item::Depart(group) => {
                    assert!(
                        wire.proofs_sent[end].remove(&group),
                        "left what was never offered"
                    );
                }
                Item::Message { group, .. } => assert!(
                    wire.proofs_sent[end].contains(&group) && wire.proofs_had[end].contains(&group),
                    "a message before both proofs"
                ),
                Item::Ping(_) | Item::Pong(_) | Item::Refuse { .. } => {}
            }
        }
    }

    fn event(&mut self, index: usize, event: Event) {
        match event {
            Event::Bonded { group, peer, .. } => {
                let with = self.index(peer);
                let node = self.nodes[index].as_mut().unwrap();
                assert!(node.bonded.insert((group, with)), "bonded twice");
                let own = node.groups.get(&group);
                assert!(own.is_some(), "bonded in a group that it is not in");
                let own = own.copied();
                // It may have left since; it cannot have had another key.
                if let Some(peer) = &self.nodes[with]
                    && let Some(theirs) = peer.groups.get(&group)
                {
                    assert_eq!(own, Some(*theirs), "bonded with another key");
                }
            }
            Event::Unbonded { group, peer, .. } => {
                let with = self.index(peer);
                let node = self.nodes[index].as_mut().unwrap();
                assert!(node.bonded.remove(&(group, with)), "unbonded twice");
            }
            Event::Refused { .. } => {}
        }
        self.nodes[index].as_mut().unwrap().events.push(event);
    }

    fn index(&self, peer: PeerId) -> usize {
        self.ids.iter().position(|id| *id == peer).unwrap()
    }

    fn end(&self, wire: u64, index: usize) -> usize {
        usize::from(self.wires[&wire].ends[0] != index)
    }
}
