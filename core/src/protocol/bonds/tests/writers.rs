//! Proofs that a peer may write: one machine against a peer made by hand.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::link::{IDLE_OFFERS_MAX, WRITE_PROOF_WEIGHT};
use super::super::messages::FrameBuilder;
use super::super::proof::{Ends, ProofKey, WriteGuard};
use super::super::*;
use super::world::{group, key};
use crate::id::{Instance, PeerId, Signature};
use crate::protocol::Machine;
use crate::protocol::groups::{WriteAccess, WriteKey};
use crate::runtime::Side;
use crate::time::Instant;
use crate::wire::CloseCode;

const LOCAL: PeerId = PeerId::from_bytes([5; 32]);
const PEER: PeerId = PeerId::from_bytes([9; 32]);
const EXPORTER: [u8; 32] = [7; 32];
const ENDS: Ends = Ends {
    exporter: EXPORTER,
    dialer: PEER,
    acceptor: LOCAL,
};
const NOT_PROVED: CloseCode = CloseCode::GROUP_WRITE_NOT_PROVED;

fn write_key() -> WriteKey {
    WriteKey::from_bytes([1; 32])
}

fn writer() -> WriteAccess {
    WriteAccess::Writer(write_key())
}

fn reader() -> WriteAccess {
    WriteAccess::Reader(write_key().verifier())
}

/// A machine in group 1, with a link that the peer has opened.
struct Case {
    bonds: Bonds,
    access: WriteAccess,
}

impl Case {
    fn new(access: WriteAccess) -> Self {
        let bonds = Bonds::new(LOCAL, Config::default(), ChaCha8Rng::seed_from_u64(1));
        let mut case = Self { bonds, access };
        case.join();
        case.input(Input::LinkOpened {
            link: LinkId(1),
            peer: PEER,
            instance: Instance::from_bytes([1; 16]),
            side: Side::Acceptor,
            exporter: EXPORTER,
        });
        case
    }

    fn join(&mut self) -> Vec<Output> {
        self.input(Input::Joined {
            group: group(1),
            key: key(1),
            access: self.access.clone(),
        })
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        let now = Instant::from_nanos(1);
        self.bonds.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = self.bonds.poll_output() {
            if let Output::Send { link, .. } = &output {
                self.bonds.handle(now, Input::Sent(*link));
            }
            outputs.push(output);
        }
        self.bonds.check_invariants();
        outputs
    }

    fn say(&mut self, items: &[Item]) -> Told {
        let mut frame = FrameBuilder::new();
        for item in items {
            frame.push(item.clone());
        }
        let frame = frame.finish().body();
        let link = LinkId(1);
        let mut told = Told::default();
        for output in self.input(Input::Frame { link, frame }) {
            match output {
                Output::Send { frame, .. } => told.said.extend(decode(&frame.body()).unwrap()),
                Output::Event(Event::Bonded { may_write, .. }) => told.bonded = Some(may_write),
                Output::Event(Event::Refused { why, .. }) => told.refused = Some(why),
                Output::Close { code, .. } => told.closed = Some(code),
                _ => {}
            }
        }
        told
    }
}

/// What comes of what the peer says.
#[derive(Debug, Default)]
struct Told {
    said: Vec<Item>,
    /// There is a bond now, with a peer that may write or not.
    bonded: Option<bool>,
    refused: Option<Refusal>,
    closed: Option<CloseCode>,
}

/// An offer of the peer.
fn offer(write: Option<Signature>) -> Item {
    Item::Offer {
        group: group(1),
        proof: ProofKey::new(&key(1)).prove(Side::Dialer, group(1), &ENDS),
        reply: false,
        write,
    }
}

fn proof(access: &WriteAccess, side: Side, of: u8, ends: &Ends) -> Option<Signature> {
    WriteGuard::new(access).prove(side, group(of), ends)
}

fn good() -> Option<Signature> {
    proof(&writer(), Side::Dialer, 1, &ENDS)
}

/// Another signature of somebody who does not know the key.
fn wrong() -> Option<Signature> {
    let other = WriteAccess::Writer(WriteKey::from_bytes([2; 32]));
    proof(&other, Side::Dialer, 1, &ENDS)
}

#[test]
fn a_bond_tells_whether_the_peer_may_write() {
    for access in [writer(), reader()] {
        for (write, may_write) in [(good(), true), (None, false)] {
            let told = Case::new(access.clone()).say(&[offer(write)]);
            assert_eq!(told.bonded, Some(may_write), "{access:?}");
        }
    }
    // Where nobody asks for a proof there is none to be given.
    let told = Case::new(WriteAccess::Open).say(&[offer(None)]);
    assert_eq!(told.bonded, Some(true));
    let told = Case::new(WriteAccess::Open).say(&[offer(good())]);
    assert_eq!(told.refused, Some(Refusal::WriteNotProved));
}

#[test]
fn a_node_proves_that_it_may_write_on_its_own_side_of_the_link() {
    let own = |access: WriteAccess| {
        let said = Case::new(access).say(&[offer(None)]).said;
        let offers = said.into_iter().find_map(|item| match item {
            Item::Offer { write, .. } => Some(write),
            _ => None,
        });
        offers.expect("it answers")
    };
    let proved = own(writer());
    assert!(proved.is_some());
    let guard = WriteGuard::new(&reader());
    assert!(guard.verify(Side::Acceptor, group(1), &ENDS, proved.as_ref()));
    // Said back to it, it is worth nothing.
    let told = Case::new(writer()).say(&[offer(proved)]);
    assert_eq!(told.refused, Some(Refusal::WriteNotProved));
    assert_eq!(own(reader()), None);
    assert_eq!(own(WriteAccess::Open), None);
}

#[test]
fn wrong_proofs_are_refused_and_then_end_the_link() {
    let another_link = Ends {
        exporter: [8; 32],
        ..ENDS
    };
    let wrong = [
        wrong(),
        proof(&writer(), Side::Dialer, 2, &ENDS),
        proof(&writer(), Side::Acceptor, 1, &ENDS),
        proof(&writer(), Side::Dialer, 1, &another_link),
    ];
    for access in [writer(), reader()] {
        for write in wrong {
            let mut case = Case::new(access.clone());
            let told = case.say(&[offer(write)]);
            assert_eq!(told.bonded, None);
            assert_eq!(told.refused, Some(Refusal::WriteNotProved));
            let (of, code) = (group(1), NOT_PROVED);
            assert_eq!(told.said, [Item::Refuse { group: of, code }]);
            assert_eq!(case.say(&[offer(write)]).closed, Some(NOT_PROVED));
        }
    }
    // Nor does another kind of mistake in between help, nor one that was made before.
    let wrong_key = Item::Offer {
        group: group(1),
        proof: [0; 32],
        reply: false,
        write: None,
    };
    for mistakes in [
        [offer(wrong[0]), wrong_key.clone()],
        [wrong_key, offer(wrong[0])],
    ] {
        assert!(Case::new(reader()).say(&mistakes).closed.is_some());
    }
}

#[test]
fn who_is_refused_may_still_read() {
    let mut case = Case::new(reader());
    case.say(&[offer(wrong())]);
    assert_eq!(case.say(&[offer(None)]).bonded, Some(false));
}

#[test]
fn a_bond_stays_what_it_was_made_as() {
    for (first, second) in [(None, good()), (good(), None), (good(), wrong())] {
        let mut case = Case::new(reader());
        case.say(&[offer(first)]);
        assert_eq!(case.say(&[offer(first)]).closed, None, "said again");
        assert_eq!(case.say(&[offer(second)]).closed, Some(NOT_PROVED));
    }
    // Whoever departs may come back as another.
    let mut case = Case::new(reader());
    for (write, may_write) in [(None, false), (good(), true), (None, false)] {
        let told = case.say(&[offer(write), Item::Depart(group(1))]);
        assert_eq!((told.bonded, told.closed), (Some(may_write), None));
    }
    // So may this node, whose own proof is made anew.
    case.say(&[offer(None)]);
    for (access, proves) in [(writer(), true), (reader(), false), (writer(), true)] {
        case.input(Input::Left(group(1)));
        case.access = access;
        case.join();
        let told = case.say(&[offer(good())]);
        assert_eq!(told.bonded, Some(true));
        let own =
            |item: &Item| matches!(item, Item::Offer { write, .. } if write.is_some() == proves);
        assert!(told.said.iter().any(own), "{told:?}");
    }
}

#[test]
fn signatures_cannot_be_had_checked_without_end() {
    let depart = || Item::Depart(group(1));
    let right = vec![offer(good()), depart()];
    // Between two that are wrong there must be one that is not.
    let wrong = vec![offer(wrong()), offer(None), depart()];
    for again in [right, wrong] {
        let mut case = Case::new(reader());
        let times = (0..=IDLE_OFFERS_MAX / WRITE_PROOF_WEIGHT + 1).map(|_| case.say(&again).closed);
        let closed: Vec<_> = times.flatten().collect();
        assert_eq!(closed, [CloseCode::TOO_MANY]);
    }
}

#[test]
fn who_oversteps_loses_its_link() {
    let overstepped = Input::Overstepped {
        group: group(1),
        peer: PEER,
    };
    let closes = |outputs: &[Output]| {
        let code = CloseCode::GROUP_NOT_WRITER;
        let mut outputs = outputs.iter();
        outputs.any(|output| matches!(output, Output::Close { code: of, .. } if *of == code))
    };
    let mut case = Case::new(reader());
    case.say(&[offer(None)]);
    assert!(closes(&case.input(overstepped)));
    assert_eq!(case.bonds.stats().violations, 1);
    // The bond may have ended since.
    let mut case = Case::new(reader());
    case.say(&[offer(None), Item::Depart(group(1))]);
    let late = Input::Overstepped {
        group: group(1),
        peer: PEER,
    };
    assert!(!closes(&case.input(late)));
}

#[test]
fn a_writer_and_a_reader_bond_whoever_dials() {
    let mut world = super::world::World::new(1, 3);
    for index in 0..3 {
        world.start(index);
        world.join_as(index, 1, if index == 1 { reader() } else { writer() });
    }
    world.run(super::world::SECOND * 5);
    for (at, with) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let bonded = Event::Bonded {
            group: group(1),
            peer: world.ids[with],
            may_write: with != 1,
        };
        assert_eq!(
            world
                .node(at)
                .events
                .iter()
                .filter(|it| **it == bonded)
                .count(),
            1
        );
    }
}
