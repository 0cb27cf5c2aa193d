//! One machine against a peer made by hand.

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::line::FRAMES_UNDER_WAY_MAX;
use super::super::link::IDLE_OFFERS_MAX;
use super::super::machine::GUESTS_MAX;
use super::super::messages::FrameBuilder;
use super::super::proof::{Ends, ProofKey};
use super::super::*;
use super::world::{SECOND, group, key};
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::Machine;
use crate::protocol::groups::WriteAccess;
use crate::runtime::Side;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

pub(super) const LOCAL: PeerId = PeerId::from_bytes([5; 32]);
pub(super) const PEER: PeerId = PeerId::from_bytes([9; 32]);
pub(super) const EXPORTER: [u8; 32] = [7; 32];

/// A machine in groups 1 and 2, and what it has said.
pub(super) struct Case {
    now: Instant,
    pub(super) bonds: Bonds,
    outputs: Vec<Output>,
}

impl Case {
    fn new() -> Self {
        Self::of(LOCAL, Config::default())
    }

    /// The machine of another node.
    pub(super) fn of(local: PeerId, config: Config) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let mut case = Self {
            now: Instant::from_nanos(1),
            bonds: Bonds::new(local, config, rng),
            outputs: Vec::new(),
        };
        for number in [1, 2] {
            case.input(Input::Joined {
                group: group(number),
                key: key(number),
                access: WriteAccess::Open,
            });
        }
        case
    }

    /// With a link that the peer has opened.
    fn linked() -> Self {
        let mut case = Self::new();
        case.open(1, PEER, 1, EXPORTER);
        case
    }

    /// With a bond in group 1.
    fn bonded() -> Self {
        let mut case = Self::linked();
        case.say(&[offer(1, 1)]);
        assert_eq!(
            case.events(),
            [Event::Bonded {
                group: group(1),
                peer: PEER,
                may_write: true,
            }]
        );
        case
    }

    pub(super) fn open(&mut self, link: u64, peer: PeerId, instance: u8, exporter: [u8; 32]) {
        self.input(Input::LinkOpened {
            link: LinkId(link),
            peer,
            instance: Instance::from_bytes([instance; 16]),
            side: Side::Acceptor,
            exporter,
        });
    }

    /// A link that this node has opened.
    fn dialled(&mut self, link: u64, peer: PeerId) {
        self.input(Input::LinkOpened {
            link: LinkId(link),
            peer,
            instance: Instance::from_bytes([1; 16]),
            side: Side::Dialer,
            exporter: EXPORTER,
        });
    }

    pub(super) fn input(&mut self, input: Input) {
        self.bonds.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.bonds.poll_output() {
            self.outputs.push(output);
        }
        self.bonds.check_invariants();
    }

    pub(super) fn say(&mut self, items: &[Item]) {
        self.say_on(1, items);
    }

    fn say_on(&mut self, link: u64, items: &[Item]) {
        let frame = frame(items);
        let link = LinkId(link);
        self.input(Input::Frame { link, frame });
    }

    /// What it has said since it was asked last. Its transport takes everything.
    pub(super) fn said(&mut self) -> Vec<Item> {
        let mut said = Vec::new();
        loop {
            let sent: Vec<_> = self
                .outputs
                .extract_if(.., |output| matches!(output, Output::Send { .. }))
                .collect();
            if sent.is_empty() {
                return said;
            }
            for output in sent {
                if let Output::Send { link, frame } = output {
                    said.extend(decode(&frame.body()).unwrap());
                    self.input(Input::Sent(link));
                }
            }
        }
    }

    fn events(&mut self) -> Vec<Event> {
        let events = self
            .outputs
            .extract_if(.., |output| matches!(output, Output::Event(_)));
        events
            .map(|output| match output {
                Output::Event(event) => event,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn closed(&self) -> Option<(LinkId, CloseCode, bool)> {
        self.outputs.iter().find_map(|output| match output {
            Output::Close {
                link,
                code,
                at_once,
            } => Some((*link, *code, *at_once)),
            _ => None,
        })
    }

    fn assert_violation(&self, code: CloseCode) {
        assert_eq!(self.closed(), Some((LinkId(1), code, true)));
        assert_eq!(self.bonds.stats().violations, 1);
        assert_eq!(self.bonds.links(), 0);
    }

    /// Lets time pass, with all that becomes due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.bonds.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.bonds.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }
}

fn frame(items: &[Item]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for item in items {
        builder.push(item.clone());
    }
    builder.finish().body()
}

fn ends() -> Ends {
    Ends {
        exporter: EXPORTER,
        dialer: PEER,
        acceptor: LOCAL,
    }
}

/// The peer's offer in a group, proved with a key.
fn offer(number: u8, with_key: u8) -> Item {
    offer_on(&ends(), Side::Dialer, number, with_key)
}

fn offer_on(ends: &Ends, side: Side, number: u8, with_key: u8) -> Item {
    let proof = ProofKey::new(&key(with_key)).prove(side, group(number), ends);
    Item::Offer {
        group: group(number),
        proof,
        reply: false,
        write: None,
    }
}

/// The same proof as an answer to an offer.
fn answer(number: u8, with_key: u8) -> Item {
    let Item::Offer { group, proof, .. } = offer(number, with_key) else {
        unreachable!("an offer is one");
    };
    Item::Offer {
        group,
        proof,
        reply: true,
        write: None,
    }
}

pub(super) fn refuse(number: u8, code: CloseCode) -> Item {
    let group = group(number);
    Item::Refuse { group, code }
}

fn message(number: u8) -> Item {
    Item::Message {
        group: group(number),
        payload: Bytes::from_static(b"payload"),
    }
}

pub(super) const NOT_PROVED: CloseCode = CloseCode::GROUP_NOT_PROVED;
const NOT_MEMBER: CloseCode = CloseCode::GROUP_NOT_MEMBER;

#[test]
fn an_offer_is_answered_with_a_proof_of_this_end() {
    let mut case = Case::bonded();
    let said = case.said();
    let [
        Item::Offer {
            group: of,
            proof,
            reply: true,
            write: None,
        },
    ] = said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!(of, group(1));
    let key = ProofKey::new(&key(1));
    assert!(key.verify(Side::Acceptor, of, &ends(), &proof));
    case.say(&[message(1)]);
    assert!(matches!(
        &case.outputs[..],
        [Output::Message { peer: PEER, .. }]
    ));
}

#[test]
fn proofs_that_are_not_this_link_s_are_refused() {
    let replayed = Ends {
        exporter: [8; 32],
        ..ends()
    };
    let crossed = Ends {
        dialer: LOCAL,
        acceptor: PEER,
        ..ends()
    };
    let third = Ends {
        dialer: PeerId::from_bytes([3; 32]),
        ..ends()
    };
    let offers = [
        ("another key", offer(1, 3)),
        ("the key of another group of both", offer(1, 2)),
        (
            "replayed from another connection",
            offer_on(&replayed, Side::Dialer, 1, 1),
        ),
        ("reflected", offer_on(&ends(), Side::Acceptor, 1, 1)),
        (
            "reflected from a crossing link",
            offer_on(&crossed, Side::Acceptor, 1, 1),
        ),
        (
            "made for this node by another",
            offer_on(&third, Side::Dialer, 1, 1),
        ),
    ];
    for (what, offer) in offers {
        let mut case = Case::linked();
        case.say(std::slice::from_ref(&offer));
        assert_eq!(case.said(), [refuse(1, NOT_PROVED)], "{what}");
        let why = Refusal::NotProved;
        let refused = Event::Refused {
            group: group(1),
            peer: PEER,
            why,
        };
        assert_eq!(case.events(), [refused], "{what}");
        assert_eq!(case.bonds.stats().wrong_proofs, 1);
        // The other group is not touched by it.
        case.say(&[self::offer(2, 2), message(2)]);
        let bonded = Event::Bonded {
            group: group(2),
            peer: PEER,
            may_write: true,
        };
        assert_eq!(case.events(), [bonded], "{what}");
        assert_eq!(case.closed(), None, "{what}");
        // Whoever goes on loses the link.
        case.say(&[offer]);
        case.assert_violation(NOT_PROVED);
    }
}

#[test]
fn a_bond_is_lost_with_a_wrong_proof() {
    let mut case = Case::bonded();
    case.say(&[offer(1, 3), message(1)]);
    let events = case.events();
    let (group, peer, why) = (group(1), PEER, Refusal::NotProved);
    let lost = Event::Unbonded {
        group,
        peer,
        why: Loss::Refused(why),
    };
    assert_eq!(events, [lost, Event::Refused { group, peer, why }]);
    assert_eq!(case.bonds.stats().stray, 1);
}

#[test]
fn a_member_of_another_group_learns_that_it_is_not_known() {
    let mut case = Case::linked();
    case.say(&[offer(7, 7), offer(1, 1)]);
    let said = case.said();
    assert!(said.contains(&refuse(7, NOT_MEMBER)), "{said:?}");
    assert_eq!(
        case.events(),
        [Event::Bonded {
            group: group(1),
            peer: PEER,
            may_write: true,
        }]
    );
    assert_eq!(case.bonds.stats().not_member, 1);
}

#[test]
fn strangers_are_offered_nothing() {
    let mut case = Case::linked();
    assert_eq!(case.said(), []);
    // A group that only the peer is in is none of this node's.
    let groups = [group(7)].into();
    case.input(Input::Peer { peer: PEER, groups });
    assert_eq!(case.said(), []);
    let groups = [group(2), group(7)].into();
    case.input(Input::Peer { peer: PEER, groups });
    let said = case.said();
    assert!(
        matches!(said[..], [Item::Offer { group: of, .. }] if of == group(2)),
        "{said:?}"
    );
}

#[test]
fn garbage_closes_the_link_and_nothing_of_it_counts() {
    let good = frame(&[message(1)]);
    let cut = good.slice(..good.len() - 1);
    let followed = Bytes::from([&good[..], &[0xff]].concat());
    for garbage in [Bytes::from_static(&[0xff; 40]), cut, followed] {
        let mut case = Case::bonded();
        case.said();
        case.input(Input::Frame {
            link: LinkId(1),
            frame: garbage,
        });
        case.assert_violation(CloseCode::PROTOCOL_VIOLATION);
        let why = Loss::Violation(CloseCode::PROTOCOL_VIOLATION);
        assert_eq!(
            case.events(),
            [Event::Unbonded {
                group: group(1),
                peer: PEER,
                why
            }]
        );
        let is_message = |output: &Output| matches!(output, Output::Message { .. });
        assert!(!case.outputs.iter().any(is_message));
    }
}

#[test]
fn a_message_that_its_group_cannot_read_closes_the_link() {
    let mut case = Case::bonded();
    case.input(Input::Garbled {
        group: group(2),
        peer: PEER,
    });
    assert_eq!(case.closed(), None, "there is no such bond any more");
    case.input(Input::Garbled {
        group: group(1),
        peer: PEER,
    });
    case.assert_violation(CloseCode::PROTOCOL_VIOLATION);
}

#[test]
fn messages_before_a_proof_close_the_link() {
    for number in [1, 7] {
        let mut case = Case::linked();
        case.say(&[message(number)]);
        case.assert_violation(CloseCode::GROUP_NOT_BONDED);
    }
    // Not so where the peer may not know yet that the bond is over.
    let mut case = Case::bonded();
    case.input(Input::Left(group(1)));
    case.say(&[message(1)]);
    assert_eq!(case.closed(), None);
    assert_eq!(case.bonds.stats().stray, 1);
    let is_message = |output: &Output| matches!(output, Output::Message { .. });
    assert!(!case.outputs.iter().any(is_message));
}

#[test]
fn an_answer_without_a_question_makes_no_bond() {
    let mut case = Case::linked();
    case.say(&[answer(1, 1)]);
    assert_eq!(case.events(), []);
    assert_eq!(case.said(), []);
}

#[test]
fn an_offer_made_again_is_answered_again_and_an_answer_is_not() {
    let mut case = Case::bonded();
    case.said();
    case.say(&[offer(1, 1)]);
    let said = case.said();
    assert!(
        matches!(said[..], [Item::Offer { reply: true, .. }]),
        "{said:?}"
    );
    case.say(&[answer(1, 1)]);
    assert_eq!(case.said(), []);
    assert_eq!(case.events(), []);
}

#[test]
fn a_flood_of_offers_closes_the_link() {
    type Flood = fn(u32) -> Item;
    let floods: [(&str, Flood); 3] = [
        ("in groups that nobody knows", |i| Item::Offer {
            group: GroupId::from(i.to_string().as_str()),
            proof: [0; 32],
            reply: false,
            write: None,
        }),
        ("in a group that is bonded", |_| offer(1, 1)),
        ("taken back each time", |i| {
            if i % 2 == 0 {
                offer(1, 1)
            } else {
                Item::Depart(group(1))
            }
        }),
    ];
    for (what, flood) in floods {
        let mut case = Case::linked();
        let mut made = 0;
        while case.closed().is_none() {
            let items: Vec<_> = (made..made + 512).map(flood).collect();
            made += 512;
            case.say(&items);
            assert!(made <= 3 * IDLE_OFFERS_MAX, "{what}");
        }
        case.assert_violation(CloseCode::TOO_MANY);
    }
}

#[test]
fn a_peer_that_takes_nothing_and_asks_much_is_given_up() {
    let mut case = Case::bonded();
    let frames = |case: &Case| {
        let is_frame = |output: &&Output| matches!(output, Output::Send { .. });
        case.outputs.iter().filter(is_frame).count()
    };
    for number in 0..1_000 {
        case.say(&[Item::Ping(number)]);
        case.input(Input::Send {
            group: group(1),
            peer: PEER,
            payload: vec![0; 100_000].into(),
            can_wait: false,
        });
    }
    assert_eq!(frames(&case), FRAMES_UNDER_WAY_MAX);
    assert!(case.bonds.stats().dropped > 500, "{:?}", case.bonds.stats());
    // It goes on talking, so it is not silent.
    for number in 0..12 {
        case.pass(SECOND / 2);
        case.say(&[Item::Ping(number)]);
    }
    let closed = (LinkId(1), CloseCode::TIMED_OUT, true);
    assert_eq!(case.closed(), Some(closed));
    let why = Loss::Stalled;
    let lost = Event::Unbonded {
        group: group(1),
        peer: PEER,
        why,
    };
    assert_eq!(case.events(), [lost]);
}

#[test]
fn missed_heartbeats_end_the_bond_and_the_peer_is_dialled_again() {
    let mut case = Case::bonded();
    let groups = [group(1)].into();
    case.input(Input::Peer { peer: PEER, groups });
    case.said();
    for _ in 0..8 {
        case.pass(SECOND / 2);
        let said = case.said();
        assert!(
            said.iter().all(|item| matches!(item, Item::Ping(_))),
            "{said:?}"
        );
    }
    assert_eq!(case.closed(), None);
    case.pass(SECOND * 2);
    let closed = (LinkId(1), CloseCode::TIMED_OUT, true);
    assert_eq!(case.closed(), Some(closed));
    let why = Loss::Silent;
    assert_eq!(
        case.events(),
        [Event::Unbonded {
            group: group(1),
            peer: PEER,
            why
        }]
    );
    let dials = |case: &Case| {
        let is_dial = |output: &&Output| **output == Output::Dial(PEER);
        case.outputs.iter().filter(is_dial).count()
    };
    case.pass(SECOND);
    assert_eq!(dials(&case), 1);
    for times in 2..6 {
        case.input(Input::DialFailed(PEER));
        case.pass(SECOND * 5);
        assert_eq!(dials(&case), times);
    }
}

#[test]
fn a_peer_that_cannot_be_reached_is_dialled_less_and_less() {
    let mut case = Case::new();
    let groups = [group(1)].into();
    case.input(Input::Peer { peer: PEER, groups });
    let mut dials = Vec::new();
    let end = case.now + SECOND * 120;
    while case.now < end {
        while let Some(at) = case
            .outputs
            .iter()
            .position(|output| *output == Output::Dial(PEER))
        {
            case.outputs.remove(at);
            dials.push(case.now);
            assert!(dials.len() < 100, "{dials:?}");
            case.input(Input::DialFailed(PEER));
        }
        case.pass(SECOND / 100);
    }
    assert_eq!(
        dials[0],
        Instant::from_nanos(1),
        "at once, by the smaller id"
    );
    assert!(
        (25..60).contains(&dials.len()),
        "{} dials in two minutes",
        dials.len()
    );
    let last = dials[dials.len() - 1].since(dials[dials.len() - 2]);
    assert!(last >= SECOND * 2, "{last:?}");
}

#[test]
fn of_crossing_links_that_of_the_smaller_id_stays() {
    let smaller = PeerId::from_bytes([3; 32]);
    for (peer, ours_stays) in [(PEER, true), (smaller, false)] {
        for ours_first in [true, false] {
            let mut case = Case::new();
            let (ours, theirs) = (1, 2);
            if ours_first {
                case.dialled(ours, peer);
                case.open(theirs, peer, 1, EXPORTER);
            } else {
                case.open(theirs, peer, 1, EXPORTER);
                case.dialled(ours, peer);
            }
            let goes = LinkId(if ours_stays { theirs } else { ours });
            let closed = (goes, CloseCode::REPLACED, false);
            assert_eq!(case.closed(), Some(closed), "{peer:?}, {ours_first}");
            assert_eq!(case.bonds.links(), 1);
        }
    }
}

#[test]
fn a_pong_measures_its_own_ping() {
    let mut case = Case::bonded();
    case.said();
    let mut pings = Vec::new();
    while pings.len() < 2 {
        case.pass(SECOND / 100);
        let said = case.said();
        pings.extend(said.into_iter().filter_map(|item| match item {
            Item::Ping(number) => Some((number, case.now)),
            _ => None,
        }));
    }
    case.pass(SECOND / 10);
    // The first is never answered; nor is one that was not sent.
    case.say(&[
        Item::Pong(pings[1].0),
        Item::Pong(pings[0].0),
        Item::Pong(u64::MAX),
    ]);
    let info = case.bonds.topology(group(1)).next().unwrap();
    let rtt = info.rtt.unwrap();
    assert!((100..=110).contains(&rtt.as_millis()), "{rtt:?}");
}

#[test]
fn a_peer_that_does_not_answer_is_asked_again_later_and_later() {
    let mut case = Case::linked();
    let groups = [group(1)].into();
    case.input(Input::Peer { peer: PEER, groups });
    let mut offers = 0;
    for number in 0..240 {
        case.pass(SECOND / 2);
        let said = case.said();
        offers += said
            .iter()
            .filter(|item| matches!(item, Item::Offer { .. }))
            .count();
        case.say(&[Item::Ping(number)]);
    }
    assert!((4..14).contains(&offers), "{offers} offers in two minutes");
    let why = Refusal::NoAnswer;
    let refused = Event::Refused {
        group: group(1),
        peer: PEER,
        why,
    };
    assert_eq!(case.events(), [refused], "reported once");
    // Whenever it answers, the bond is there.
    case.say(&[answer(1, 1)]);
    let group = group(1);
    assert_eq!(
        case.events(),
        [Event::Bonded {
            group,
            peer: PEER,
            may_write: true
        }]
    );
}

#[test]
fn links_of_no_use_are_few_and_short() {
    let mut case = Case::new();
    for i in 0..GUESTS_MAX + 10 {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&i.to_le_bytes());
        case.open(i as u64, PeerId::from_bytes(id), 1, EXPORTER);
    }
    assert_eq!(case.bonds.links(), GUESTS_MAX);
    assert!(matches!(
        case.closed(),
        Some((_, CloseCode::TOO_MANY, true))
    ));
    case.pass(SECOND * 6);
    assert_eq!(case.bonds.links(), 0);
    let idle = |output: &&Output| {
        matches!(
            output,
            Output::Close {
                code: CloseCode::IDLE,
                ..
            }
        )
    };
    assert_eq!(case.outputs.iter().filter(idle).count(), GUESTS_MAX);
}

#[test]
fn a_new_run_of_the_peer_takes_the_link_s_place() {
    let mut case = Case::bonded();
    case.said();
    case.events();
    case.open(2, PEER, 2, [8; 32]);
    assert_eq!(case.closed(), Some((LinkId(1), CloseCode::REPLACED, false)));
    let why = Loss::Replaced;
    assert_eq!(
        case.events(),
        [Event::Unbonded {
            group: group(1),
            peer: PEER,
            why
        }]
    );
    // What still comes over the old one is nobody's, and proofs must be made anew.
    case.say_on(1, &[message(1)]);
    case.say_on(2, &[offer(1, 1)]);
    assert_eq!(case.said(), [refuse(1, NOT_PROVED)]);
    let ends = Ends {
        exporter: [8; 32],
        ..ends()
    };
    assert_eq!(case.bonds.links(), 1);
    let mut case = Case::bonded();
    case.open(2, PEER, 2, [8; 32]);
    case.events();
    case.say_on(2, &[offer_on(&ends, Side::Dialer, 1, 1)]);
    assert_eq!(
        case.events(),
        [Event::Bonded {
            group: group(1),
            peer: PEER,
            may_write: true,
        }]
    );
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    let mut case = Case::bonded();
    case.said();
    let mut send = |len: usize| {
        case.input(Input::Send {
            group: group(1),
            peer: PEER,
            payload: vec![0; len].into(),
            can_wait: false,
        });
        case.said().len()
    };
    assert_eq!(send(PAYLOAD_LEN_MAX + 1), 0);
    assert_eq!(send(PAYLOAD_LEN_MAX), 1);
}

#[test]
fn secrets_do_not_show() {
    let joined = Input::Joined {
        group: group(1),
        key: key(1),
        access: WriteAccess::Open,
    };
    let opened = Input::LinkOpened {
        link: LinkId(1),
        peer: PEER,
        instance: Instance::from_bytes([1; 16]),
        side: Side::Dialer,
        exporter: EXPORTER,
    };
    let shown = format!("{joined:?} {opened:?}");
    assert!(
        !shown.contains("7, 7") && !shown.contains("1, 1"),
        "{shown}"
    );
}
