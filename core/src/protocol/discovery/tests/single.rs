//! What one machine answers to what.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::*;
use super::harness::EPOCH;
use super::laws::{entry, key};
use crate::id::{GroupId, Instance, NetworkId, PeerId, SecretKey, StreamId, Tag, UniqueId};
use crate::protocol::Machine;
use crate::time::{Duration, Instant, WallTime};

pub(super) struct Single {
    pub(super) machine: Discovery,
    pub(super) now: Instant,
    requests: u64,
}

impl Single {
    pub(super) fn new(config: Config) -> Self {
        let identity = Identity {
            network: NetworkId::from("test"),
            secret_key: SecretKey::from("single"),
            instance: Instance::from_bytes([9; 16]),
            addresses: vec![([10, 0, 0, 9], 9).into()],
            wall: WallTime::from_micros(EPOCH),
        };
        let now = Instant::ZERO + Duration::from_secs(1);
        let rng = ChaCha8Rng::seed_from_u64(1);
        let mut single = Self {
            machine: Discovery::new(now, identity, config, rng),
            now,
            requests: 0,
        };
        single.drain();
        single
    }

    fn drain(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.machine.poll_output()).collect();
        self.machine.check_invariants();
        outputs
    }

    pub(super) fn input(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input);
        self.drain()
    }

    fn message(&mut self, from: PeerId, message: Message) -> Vec<Output> {
        self.input(Input::Message { from, message })
    }

    pub(super) fn request(&mut self, command: Command) -> Result<(), RequestError> {
        self.requests += 1;
        let request = RequestId(self.requests);
        let outputs = self.input(Input::Request { request, command });
        let mut results = outputs.into_iter().filter_map(|output| match output {
            Output::Done {
                request: done,
                result,
            } if done == request => Some(result),
            _ => None,
        });
        results.next().expect("the request is done at once")
    }

    /// Lets time pass; gives all that was put out, with when.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<(Instant, Output)> {
        let end = self.now + time;
        let mut all = Vec::new();
        while let Some((at, _)) = self.machine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            all.extend(self.drain().into_iter().map(|output| (self.now, output)));
        }
        self.now = end;
        all
    }

    /// Peer `index` becomes a neighbour by asking.
    fn neighbour(&mut self, index: u64, priority: Priority) -> Vec<Output> {
        let peer = peer(index);
        self.input(Input::Connected(peer.id));
        self.message(
            peer.id,
            Message::Neighbor {
                priority,
                sender: peer,
            },
        )
    }

    /// A machine with neighbours 0 to `count`, who have told it of themselves.
    pub(super) fn with_neighbours(count: u64) -> Self {
        let mut single = Self::new(Config::default());
        for index in 0..count {
            single.neighbour(index, Priority::Low);
            single.gossip(index, entry(index, 0, 0, 0, false));
        }
        // The announcements of each to the others are out.
        single.pass(Duration::from_secs(3));
        assert_eq!(single.machine.neighbours().len(), count as usize);
        single
    }

    pub(super) fn gossip(&mut self, from: u64, entry: VerifiedEntry) -> Vec<Output> {
        let records = vec![Aged { entry, age_ms: 0 }];
        self.message(peer(from).id, Message::Gossip { records })
    }
}

fn peer(index: u64) -> PeerAddr {
    PeerAddr::new(key(index).peer_id(), [([10, 0, 0, 1], 1).into()])
}

fn sent(outputs: &[Output]) -> Vec<(PeerId, &Message)> {
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Send(to, message) => Some((*to, message)),
        _ => None,
    });
    sent.collect()
}

fn accepted(outputs: &[Output]) -> Option<bool> {
    sent(outputs).iter().find_map(|(_, message)| match message {
        Message::NeighborReply { accepted, .. } => Some(*accepted),
        _ => None,
    })
}

/// To whom entries were pushed, and to whom announced.
fn spread(outputs: &[Output]) -> (Vec<PeerId>, Vec<PeerId>) {
    let to = |which: fn(&Message) -> bool| {
        sent(outputs)
            .iter()
            .filter(|(_, message)| which(message))
            .map(|(to, _)| *to)
            .collect()
    };
    (
        to(|message| matches!(message, Message::Gossip { .. })),
        to(|message| matches!(message, Message::IHave { .. })),
    )
}

#[test]
fn a_full_view_refuses_only_who_merely_has_room() {
    for (priority, expected) in [
        (Priority::Low, false),
        (Priority::High, true),
        (Priority::Join, true),
    ] {
        let mut single = Single::with_neighbours(5);
        let outputs = single.neighbour(9, priority);
        assert_eq!(accepted(&outputs), Some(expected), "{priority:?}");
        assert_eq!(single.machine.neighbours().len(), 5);
        assert_eq!(single.machine.neighbours().contains(&peer(9).id), expected);
        let evicted = outputs
            .iter()
            .filter(|output| matches!(output, Output::Disconnect(_)));
        assert_eq!(evicted.count(), usize::from(expected));
        let told =
            |(_, message): &&(PeerId, &Message)| matches!(message, Message::ForwardJoin { .. });
        let told = sent(&outputs).iter().filter(told).count();
        assert_eq!(
            told,
            if priority == Priority::Join { 4 } else { 0 },
            "{priority:?}"
        );
    }
}

#[test]
fn a_walk_goes_on_until_it_ends_and_then_the_joiner_is_dialled() {
    let mut single = Single::with_neighbours(3);
    let joiner = peer(9);
    let walk = |ttl| Message::ForwardJoin {
        peer: joiner.clone(),
        ttl,
    };
    let outputs = single.message(peer(0).id, walk(6));
    let onward = sent(&outputs);
    assert!(matches!(onward[..], [(to, Message::ForwardJoin { ttl: 5, .. })] if to != peer(0).id));
    let outputs = single.message(peer(0).id, walk(0));
    assert_eq!(outputs, [Output::Connect(joiner.clone())]);
    // It is on its way already.
    assert_eq!(single.message(peer(1).id, walk(0)), []);
    // Strangers have no say.
    let mut single = Single::with_neighbours(3);
    assert_eq!(single.message(peer(5).id, walk(0)), []);
}

#[test]
fn a_shuffle_walks_on_and_its_answer_goes_back_along_the_path() {
    let mut single = Single::with_neighbours(2);
    let (left, right) = (peer(0).id, peer(1).id);
    let peers = vec![peer(7), peer(8)];
    let shuffle = Message::Shuffle {
        path: vec![left],
        ttl: 3,
        peers: peers.clone(),
    };
    let local = *single.machine.local().id();
    let path = vec![left, local];
    let onward = Message::Shuffle {
        path,
        ttl: 2,
        peers: peers.clone(),
    };
    assert_eq!(single.message(left, shuffle), [Output::Send(right, onward)]);
    let reply = Message::ShuffleReply {
        path: vec![left],
        peers: peers.clone(),
    };
    let back = Message::ShuffleReply {
        path: vec![],
        peers: peers.clone(),
    };
    assert_eq!(single.message(right, reply), [Output::Send(left, back)]);
    // At its end it is answered with what is known, and what it offers is kept.
    let last = Message::Shuffle {
        path: vec![peer(6).id, left],
        ttl: 0,
        peers: peers.clone(),
    };
    let answer = Message::ShuffleReply {
        path: vec![peer(6).id],
        peers: vec![],
    };
    assert_eq!(
        single.message(left, last.clone()),
        [Output::Send(left, answer)]
    );
    let outputs = single.message(left, last);
    let [Output::Send(_, Message::ShuffleReply { peers: offered, .. })] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(offered.len(), 2);
}

#[test]
fn a_link_that_comes_to_nothing_is_given_up() {
    let mut single = Single::new(Config::default());
    single.input(Input::Connected(peer(1).id));
    let closed = single.pass(Duration::from_secs(11));
    assert!(
        closed
            .iter()
            .any(|(_, output)| *output == Output::Disconnect(peer(1).id))
    );
    assert_eq!(single.machine.neighbours(), []);
}

#[test]
fn bootstrap_peers_are_dialled_again_until_they_are_there() {
    let config = Config::builder().with_bootstrap(peer(1)).build().unwrap();
    let mut single = Single::new(config);
    let mut dials = Vec::new();
    while dials.len() < 8 {
        for (at, output) in single.pass(Duration::from_millis(100)) {
            if output == Output::Connect(peer(1)) {
                dials.push(at);
                single.input(Input::ConnectFailed(peer(1).id));
            }
        }
    }
    let gaps: Vec<_> = dials
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    assert!(gaps[0] < Duration::from_secs(2), "{gaps:?}");
    assert!(
        gaps[6] > Duration::from_secs(14) && gaps[6] < Duration::from_secs(46),
        "{gaps:?}"
    );
}

#[test]
fn entries_are_pushed_on_the_tree_and_announced_beside_it() {
    let mut single = Single::with_neighbours(3);
    let ids: Vec<_> = (0..3).map(|index| peer(index).id).collect();
    let news = |sequence| entry(9, 0, sequence, 0, false);
    let outputs = single.gossip(0, news(0));
    assert_eq!(spread(&outputs), (vec![ids[1], ids[2]], vec![]));
    // What comes again closes a cycle: the link leaves the tree, on both sides.
    let outputs = single.gossip(1, news(0));
    assert_eq!(outputs, [Output::Send(ids[1], Message::Prune)]);
    single.message(ids[2], Message::Prune);
    let outputs = single.gossip(0, news(1));
    assert_eq!(spread(&outputs), (vec![], vec![]));
    let later: Vec<_> = single
        .pass(Duration::from_secs(3))
        .into_iter()
        .map(|(_, o)| o)
        .collect();
    assert_eq!(spread(&later), (vec![], vec![ids[1], ids[2]]));
    // Who asks gets the present entry, and is part of the tree again.
    let graft = Message::Graft {
        peers: vec![*news(0).id()],
    };
    let outputs = single.message(ids[2], graft);
    let [(to, Message::Gossip { records })] = &sent(&outputs)[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((*to, &records[0].entry), (ids[2], &news(1)));
    assert_eq!(spread(&single.gossip(0, news(2))), (vec![ids[2]], vec![]));
}

#[test]
fn what_is_announced_and_does_not_come_is_asked_for() {
    let mut single = Single::with_neighbours(3);
    let missing = entry(9, 0, 3, 0, false);
    let id = EntryId {
        peer: *missing.id(),
        version: missing.version(),
    };
    let graft = Message::Graft {
        peers: vec![id.peer],
    };
    for index in [1, 2] {
        assert_eq!(
            single.message(peer(index).id, Message::IHave { entries: vec![id] }),
            []
        );
    }
    let asked = single.pass(Duration::from_secs(3));
    let asked: Vec<_> = asked
        .into_iter()
        .filter_map(|(_, output)| match output {
            Output::Send(to, message) if message == graft => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [peer(1).id, peer(2).id], "one after the other");
    // Once it is there, nobody is asked any more, and what is known is not news.
    single.gossip(0, missing);
    single.message(peer(1).id, Message::IHave { entries: vec![id] });
    let outputs = single.pass(Duration::from_secs(3));
    assert!(
        outputs
            .iter()
            .all(|(_, o)| !matches!(o, Output::Send(_, Message::Graft { .. })))
    );
}

#[test]
fn who_sends_something_old_is_told_the_new() {
    let mut single = Single::with_neighbours(2);
    single.gossip(0, entry(9, 0, 5, 0, false));
    let outputs = single.gossip(1, entry(9, 0, 4, 0, false));
    let [(to, Message::Gossip { records })] = &sent(&outputs)[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(
        (*to, &records[0].entry),
        (peer(1).id, &entry(9, 0, 5, 0, false))
    );
}

#[test]
fn announcements_are_spread_around_their_interval() {
    let mut single = Single::with_neighbours(1);
    let outputs = single.pass(Duration::from_secs(3_000));
    let announced: Vec<_> = outputs
        .iter()
        .filter(|(_, output)| matches!(output, Output::Send(_, Message::Gossip { .. })))
        .map(|(at, _)| *at)
        .collect();
    let gaps: Vec<_> = announced
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(
        *least >= Duration::from_millis(7_500) && *least < Duration::from_secs(9),
        "{least:?}"
    );
    assert!(
        *most <= Duration::from_millis(22_500) && *most > Duration::from_secs(21),
        "{most:?}"
    );
    assert!(
        (170..230).contains(&gaps.len()),
        "{} announcements",
        gaps.len()
    );
}

#[test]
fn changes_in_quick_succession_are_announced_together() {
    let mut single = Single::with_neighbours(1);
    let mut pushed = 0;
    for index in 0..100 {
        let tags = vec![Tag::from(index.to_string())];
        single.requests += 1;
        let request = RequestId(single.requests);
        let command = Command::Local(LocalChange::AddTags(tags));
        let outputs = single.input(Input::Request { request, command });
        pushed += spread(&outputs).0.len();
        assert_eq!(
            single.machine.catalog().local().unwrap().tags().len(),
            index + 1
        );
        let outputs = single.pass(Duration::from_millis(1));
        pushed += spread(&outputs.into_iter().map(|(_, o)| o).collect::<Vec<_>>())
            .0
            .len();
    }
    assert!((2..=3).contains(&pushed), "{pushed} announcements");
}

#[test]
fn changes_of_the_own_entry_do_what_they_say() {
    let mut single = Single::new(Config::default());
    let ticket = |class: &str, data: &'static [u8]| Ticket {
        class: UniqueId::from(class),
        data: data.into(),
    };
    let stream = StreamInfo {
        schema: crate::id::Digest::of("x", &[]),
    };
    let candidate = GroupInfo { incarnation: None };
    let member = GroupInfo {
        incarnation: Some(crate::id::Digest::of("founding", &[])),
    };
    for change in [
        LocalChange::AddTags(["a", "b"].map(Tag::from).to_vec()),
        LocalChange::RemoveTags(vec![Tag::from("a")]),
        LocalChange::SetStream(StreamId::from("s"), stream),
        LocalChange::SetGroup(GroupId::from("g"), candidate),
        LocalChange::SetGroup(GroupId::from("h"), candidate),
        LocalChange::SetGroup(GroupId::from("g"), member),
        LocalChange::RemoveGroup(GroupId::from("h")),
        LocalChange::AddTicket(ticket("x", b"1")),
        LocalChange::AddTicket(ticket("x", b"2")),
        LocalChange::AddTicket(ticket("y", b"3")),
        LocalChange::ReplaceTicket(ticket("x", b"4")),
        LocalChange::RemoveTicketsOf(UniqueId::from("y")),
        LocalChange::SetExtension(7, "later".into()),
        LocalChange::SetAddresses(vec![([10, 0, 0, 2], 2).into(); 2]),
    ] {
        let before = single.machine.local().version();
        assert_eq!(single.request(Command::Local(change.clone())), Ok(()));
        assert!(single.machine.local().version() > before);
        // Nothing has changed the second time.
        let before = single.machine.local().version();
        if !matches!(change, LocalChange::AddTicket(_)) {
            single.request(Command::Local(change)).unwrap();
            assert_eq!(single.machine.local().version(), before);
        }
    }
    let own = single.machine.local();
    assert_eq!(own.tags().iter().collect::<Vec<_>>(), [&Tag::from("b")]);
    assert_eq!(own.streams()[&StreamId::from("s")], stream);
    let groups: Vec<_> = own.groups().iter().collect();
    assert_eq!(groups, [(&GroupId::from("g"), &member)]);
    assert_eq!(own.tickets(), [ticket("x", b"4")]);
    assert_eq!(own.tickets_of(UniqueId::from("y")).count(), 0);
    assert_eq!(own.extensions()[&7], "later");
    assert_eq!(own.addresses().len(), 1);
    let before = own.clone();
    let tags = (0..=255).map(|i: u8| Tag::from_bytes([i; 32])).collect();
    let refused = single.request(Command::Local(LocalChange::AddTags(tags)));
    assert!(matches!(
        refused,
        Err(RequestError::Entry(EntryError::TooMany { .. }))
    ));
    assert_eq!(*single.machine.local(), before);
}

#[test]
fn leaving_says_so_to_all_before_anything_closes() {
    let mut single = Single::with_neighbours(3);
    let command = Command::Leave;
    let outputs = single.input(Input::Request {
        request: RequestId(7),
        command,
    });
    let place = |which: &dyn Fn(&Output) -> bool| {
        let places: Vec<_> = outputs
            .iter()
            .enumerate()
            .filter(|(_, o)| which(o))
            .collect();
        (
            places.len(),
            places.first().unwrap().0,
            places.last().unwrap().0,
        )
    };
    let (told, _, last_told) = place(&|output| match output {
        Output::Send(_, Message::Gossip { records }) => records[0].entry.is_departed(),
        _ => false,
    });
    let (closed, first_closed, last_closed) = place(&|o| matches!(o, Output::Disconnect(_)));
    assert_eq!((told, closed), (3, 3));
    assert!(last_told < first_closed && last_closed < outputs.len() - 1);
    assert_eq!(outputs.last(), Some(&Output::Left));
    assert_eq!(single.machine.poll_timeout(), None);
    assert_eq!(
        single.request(Command::ClearUnsigned),
        Err(RequestError::Left)
    );
    assert_eq!(single.neighbour(9, Priority::Join), []);
}

#[test]
fn far_peers_are_hidden_until_they_come_near() {
    let limit = Duration::from_millis(100);
    let mut single = Single::new(Config::builder().with_max_rtt(limit).build().unwrap());
    single
        .request(Command::Feed(entry(1, 0, 0, 0, false)))
        .unwrap();
    let id = peer(1).id;
    let mut sample = |millis| {
        let sample = Some(Duration::from_millis(millis));
        let outputs = single.input(Input::Rtt { peer: id, sample });
        let content = outputs.contains(&Output::CatalogChanged { content: true });
        let catalog = single.machine.catalog();
        assert_eq!(catalog.get(&id).is_some(), catalog.peers_count() == 1);
        let info = catalog.info(&id);
        assert_eq!(info.map(|info| info.entry), catalog.get(&id));
        assert!(info.is_none_or(|info| info.is_signed && info.rtt == catalog.rtt(&id)));
        (catalog.get(&id).is_some(), content)
    };
    assert_eq!(sample(100), (true, false));
    assert_eq!(sample(200), (false, true));
    assert_eq!(sample(50), (false, false));
    assert_eq!(sample(50), (true, true));
}

#[test]
fn entries_by_hand_stay_here_and_yield_to_signed_ones() {
    let mut single = Single::with_neighbours(2);
    let by_hand = PeerEntry::new(NetworkId::from("test"), peer(9)).with_tags([Tag::from("mine")]);
    assert_eq!(single.request(Command::Insert(by_hand.clone())), Ok(()));
    let info = single.machine.catalog().info(&peer(9).id).unwrap();
    assert_eq!(
        (info.entry, info.is_signed, info.rtt),
        (&by_hand, false, None)
    );
    let outputs = single.pass(Duration::from_secs(60));
    let is_mine = |output: &Output| match output {
        Output::Send(_, Message::Gossip { records }) => records
            .iter()
            .any(|record| *record.entry.id() == peer(9).id),
        Output::Send(_, Message::IHave { entries }) => {
            entries.iter().any(|entry| entry.peer == peer(9).id)
        }
        _ => false,
    };
    assert!(
        !outputs.iter().any(|(_, output)| is_mine(output)),
        "it was gossiped"
    );
    let catalog = single.machine.catalog().clone();
    assert_eq!(catalog.get(&peer(9).id), Some(&by_hand));
    assert_eq!(
        (catalog.unsigned_peers().count(), catalog.peers_count()),
        (1, 3)
    );
    single.gossip(0, entry(9, 60_000_000, 0, 0, false));
    let catalog = single.machine.catalog().clone();
    assert!(
        !catalog
            .get(&peer(9).id)
            .unwrap()
            .has_tag(&Tag::from("mine"))
    );
    assert_eq!(
        (catalog.unsigned_peers().count(), catalog.peers_count()),
        (0, 3)
    );
    single.request(Command::ClearUnsigned).unwrap();
    assert_eq!(single.machine.catalog().peers_count(), 3);
    single.request(Command::Remove(peer(9).id)).unwrap();
    assert_eq!(single.machine.catalog().peers_count(), 2);
    let refused = single.request(Command::Feed(entry(9, 60_000_000, 0, 0, false)));
    assert_eq!(refused, Err(RequestError::Refused(Refusal::Stale)));
    single
        .request(Command::Feed(entry(9, 60_000_000, 1, 0, false)))
        .unwrap();
    assert_eq!(single.machine.catalog().peers_count(), 3);
}

#[test]
fn requests_about_oneself_are_refused() {
    let mut single = Single::new(Config::default());
    let local = single.machine.local().address();
    for command in [
        Command::SyncWith(local.clone()),
        Command::Remove(local.id),
        Command::Insert(PeerEntry::new(NetworkId::from("test"), local)),
    ] {
        assert_eq!(single.request(command), Err(RequestError::Oneself));
    }
}

#[test]
fn a_session_that_fails_is_reported_to_who_asked() {
    let mut single = Single::new(Config::default());
    let command = Command::SyncWith(peer(1));
    let outputs = single.input(Input::Request {
        request: RequestId(7),
        command,
    });
    let [Output::SyncOpen { session, .. }, Output::SyncSend { .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    let cause: Arc<str> = "no route".into();
    let result = Err(RequestError::SyncFailed {
        peer: peer(1).id,
        failure: SyncFailure::Link(cause.clone()),
    });
    let done = Output::Done {
        request: RequestId(7),
        result,
    };
    let cause = Some(cause);
    assert_eq!(single.input(Input::SyncClosed { session, cause }), [done]);
}

/// The events that tell of this node's clock, in what was put out.
fn behind(outputs: &[Output]) -> Vec<(usize, Duration)> {
    let events = outputs.iter().filter_map(|output| match output {
        Output::Event(Event::ClockBehind { peers, at_least }) => Some((*peers, *at_least)),
        _ => None,
    });
    events.collect()
}

#[test]
fn a_node_whose_clock_is_behind_all_others_says_so_once_a_minute() {
    let mut single = Single::new(Config::default());
    single.neighbour(0, Priority::Low);
    let mut reports = Vec::new();
    for second in 0..90 {
        for index in 0..2 {
            // One is ahead by a hundred seconds, the other by more.
            let started = (second + 100 + index) * 1_000_000;
            let outputs = single.gossip(0, entry(index, started, 0, 0, false));
            reports.extend(behind(&outputs).into_iter().map(|report| (second, report)));
        }
        single.pass(Duration::from_secs(1));
    }
    let report = (2, Duration::from_secs(100));
    assert_eq!(reports, [(5, report), (65, report)]);
    assert_eq!(single.machine.catalog().peers_count(), 0);
}

#[test]
fn peers_whose_clocks_are_ahead_of_most_do_not_make_a_node_doubt_its_own() {
    let mut single = Single::with_neighbours(3);
    for second in 0..30 {
        for index in 0..3 {
            let ahead = entry(7 + index, (second + 100) * 1_000_000, 0, 0, false);
            assert_eq!(behind(&single.gossip(0, ahead)), []);
        }
        single.pass(Duration::from_secs(1));
    }
}

#[test]
fn what_was_refused_before_the_clock_was_set_does_not_count() {
    let mut single = Single::new(Config::default());
    single.neighbour(0, Priority::Low);
    let ahead = |second: u64| entry(1, (second + 100) * 1_000_000, 0, 0, false);
    assert_eq!(behind(&single.gossip(0, ahead(0))), []);
    single.pass(Duration::from_secs(10));
    single.input(Input::Wall(single.machine.wall(single.now)));
    assert_eq!(behind(&single.gossip(0, ahead(10))), []);
    single.pass(Duration::from_secs(5));
    assert_eq!(behind(&single.gossip(0, ahead(15))).len(), 1);
}

#[test]
fn inputs_out_of_place_change_nothing() {
    let mut single = Single::with_neighbours(2);
    let stranger = peer(7);
    for message in [
        Message::Disconnect,
        Message::Prune,
        Message::Graft {
            peers: vec![stranger.id],
        },
        Message::NeighborReply {
            accepted: true,
            summary: Fingerprint::default(),
        },
        Message::Neighbor {
            priority: Priority::High,
            sender: stranger.clone(),
        },
        Message::Shuffle {
            path: vec![],
            ttl: 200,
            peers: vec![],
        },
        Message::ShuffleReply {
            path: vec![stranger.id],
            peers: vec![],
        },
        Message::Gossip { records: vec![] },
        Message::IHave { entries: vec![] },
    ] {
        assert_eq!(
            single.message(stranger.id, message.clone()),
            [],
            "{message:?}"
        );
    }
    assert_eq!(single.input(Input::ConnectFailed(stranger.id)), []);
    assert_eq!(single.input(Input::Disconnected(stranger.id)), []);
    assert_eq!(
        single.input(Input::SyncClosed {
            session: SessionId::Incoming(3),
            cause: None,
        }),
        []
    );
    assert_eq!(
        single.input(Input::Rtt {
            peer: stranger.id,
            sample: None
        }),
        []
    );
    assert_eq!(single.machine.neighbours().len(), 2);
}

#[test]
fn a_neighbour_that_was_lost_is_looked_for_until_it_is_heard_of() {
    // Full views: nothing else gives a reason to dial.
    let mut single = Single::with_neighbours(5);
    single.input(Input::Disconnected(peer(0).id));
    single.neighbour(7, Priority::Low);
    let dials = |single: &mut Single, time| {
        let mut dials = Vec::new();
        for _ in 0..time {
            for (at, output) in single.pass(Duration::from_millis(100)) {
                if let Output::Connect(address) = output {
                    dials.extend((address.id == peer(0).id).then_some(at));
                    single.input(Input::ConnectFailed(address.id));
                }
            }
        }
        dials
    };
    let found = dials(&mut single, 2_000);
    assert!((4..20).contains(&found.len()), "{found:?}");
    let gaps: Vec<_> = found
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    assert!(gaps[0] < gaps[gaps.len() - 1], "{gaps:?}");
    // It has found another way into the network.
    single.gossip(1, entry(0, 100_000_000, 0, 0, false));
    assert_eq!(dials(&mut single, 2_000), []);
}
