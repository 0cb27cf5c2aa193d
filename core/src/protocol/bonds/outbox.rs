//! What waits to be sent over one link.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::messages::{Frame, FrameBuilder, Item};
use super::proof::Proof;
use crate::id::{GroupId, Signature};
use crate::wire::CloseCode;

/// The most that the messages of one link may weigh together.
pub(super) const WEIGHT_MAX: usize = 32 << 20;

/// What a message weighs beside its bytes, so that empty ones are bounded too.
const MESSAGE_WEIGHT: usize = 256;

/// Something said in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Offer {
        proof: Proof,
        reply: bool,
        write: Option<Signature>,
    },
    Refuse(CloseCode),
    Depart,
    Message(Bytes),
}

impl Said {
    fn weight(&self) -> usize {
        match self {
            Self::Message(payload) => payload.len() + MESSAGE_WEIGHT,
            Self::Offer { .. } | Self::Refuse(_) | Self::Depart => 0,
        }
    }

    fn into_item(self, group: GroupId) -> Item {
        match self {
            Self::Offer {
                proof,
                reply,
                write,
            } => Item::Offer {
                group,
                proof,
                reply,
                write,
            },
            Self::Refuse(code) => Item::Refuse { group, code },
            Self::Depart => Item::Depart(group),
            Self::Message(payload) => Item::Message { group, payload },
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    said: VecDeque<Said>,
    weight: usize,
}

/// The queue of one link: a lane for each group, in order within it, and a place for a ping and for a pong. Lanes
/// take turns, one item each, so that no group waits for another's backlog.
///
/// Where its messages weigh more than [`WEIGHT_MAX`] together, the heaviest lane loses its oldest message, until they
/// do not: a group that says more than the link carries pays for it itself. Only messages are ever dropped.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lanes: BTreeMap<GroupId, Lane>,
    weight: usize,
    /// The group whose turn was last.
    last: Option<GroupId>,
    ping: Option<u64>,
    pong: Option<u64>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.ping.is_none() && self.pong.is_none()
    }

    /// How much the messages of a group weigh together.
    pub(super) fn waiting(&self, group: GroupId) -> usize {
        self.lanes.get(&group).map_or(0, |lane| lane.weight)
    }

    /// Adds what is said in `group`. Gives how many messages had to go for it.
    pub(super) fn push(&mut self, group: GroupId, said: Said) -> u64 {
        let weight = said.weight();
        let lane = self.lanes.entry(group).or_default();
        lane.weight += weight;
        lane.said.push_back(said);
        self.weight += weight;
        let mut dropped = 0;
        while self.weight > WEIGHT_MAX && self.drop_oldest() {
            dropped += 1;
        }
        dropped
    }

    fn drop_oldest(&mut self) -> bool {
        let heaviest = self.lanes.iter().max_by_key(|(_, lane)| lane.weight);
        let Some((&group, _)) = heaviest else {
            return false;
        };
        self.remove_first(group, |said| matches!(said, Said::Message(_)))
            .is_some()
    }

    fn remove_first(&mut self, group: GroupId, which: impl Fn(&Said) -> bool) -> Option<Said> {
        let lane = self.lanes.get_mut(&group)?;
        let at = lane.said.iter().position(which)?;
        let said = lane.said.remove(at)?;
        lane.weight -= said.weight();
        self.weight -= said.weight();
        if lane.said.is_empty() {
            self.lanes.remove(&group);
        }
        Some(said)
    }

    /// Forgets the messages of `group` that wait. Gives how many there were.
    pub(super) fn drop_messages(&mut self, group: GroupId) -> u64 {
        let Some(lane) = self.lanes.get_mut(&group) else {
            return 0;
        };
        let before = lane.said.len();
        lane.said.retain(|said| !matches!(said, Said::Message(_)));
        let dropped = before - lane.said.len();
        self.weight -= lane.weight;
        lane.weight = 0;
        if lane.said.is_empty() {
            self.lanes.remove(&group);
        }
        dropped as u64
    }

    /// Asks for a sign of life; a ping that still waits is replaced.
    pub(super) const fn ping(&mut self, number: u64) {
        self.ping = Some(number);
    }

    /// Answers a ping; only the last one is answered.
    pub(super) const fn pong(&mut self, number: u64) {
        self.pong = Some(number);
    }

    /// The next frame, and the number of the ping in it.
    pub(super) fn next_frame(&mut self) -> Option<(Frame, Option<u64>)> {
        let mut frame = FrameBuilder::new();
        let ping = self.ping.take();
        if let Some(number) = self.pong.take() {
            frame.push(Item::Pong(number));
        }
        if let Some(number) = ping {
            frame.push(Item::Ping(number));
        }
        while !frame.is_full() {
            let Some((group, said)) = self.next() else {
                break;
            };
            frame.push(said.into_item(group));
        }
        (!frame.is_empty()).then(|| (frame.finish(), ping))
    }

    fn next(&mut self) -> Option<(GroupId, Said)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = self.lanes.range((after, Bound::Unbounded));
        let (&group, _) = later.next().or_else(|| self.lanes.first_key_value())?;
        self.last = Some(group);
        let said = self.remove_first(group, |_| true)?;
        Some((group, said))
    }

    pub(super) fn check_invariants(&self) {
        let mut weight = 0;
        for lane in self.lanes.values() {
            assert!(!lane.said.is_empty(), "an empty lane is kept");
            let of_lane: usize = lane.said.iter().map(Said::weight).sum();
            assert_eq!(lane.weight, of_lane, "a lane is weighed wrongly");
            weight += of_lane;
        }
        assert_eq!(self.weight, weight, "the lanes are weighed wrongly");
        assert!(weight <= WEIGHT_MAX, "too much waits for a link");
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{FRAME_LEN_AIM, FRAME_LEN_MAX, PAYLOAD_LEN_MAX, decode};
    use super::*;

    fn group(number: u8) -> GroupId {
        GroupId::from_bytes([number; 32])
    }

    fn message(len: usize, byte: u8) -> Said {
        Said::Message(vec![byte; len].into())
    }

    fn next_items(outbox: &mut Outbox) -> Vec<Item> {
        let (frame, _) = outbox.next_frame().unwrap();
        outbox.check_invariants();
        decode(&frame.body()).unwrap()
    }

    #[test]
    fn groups_take_turns_and_keep_their_order() {
        let mut outbox = Outbox::default();
        for byte in 0..3 {
            outbox.push(group(1), message(1, byte));
        }
        outbox.push(group(2), Said::Depart);
        outbox.push(group(3), message(1, 9));
        let order: Vec<_> = next_items(&mut outbox)
            .into_iter()
            .map(|item| match item {
                Item::Message { group, payload } => (group.as_bytes()[0], Some(payload[0])),
                Item::Depart(group) => (group.as_bytes()[0], None),
                other => panic!("{other:?}"),
            })
            .collect();
        let one = |byte| (1, Some(byte));
        assert_eq!(order, [one(0), (2, None), (3, Some(9)), one(1), one(2)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_group_that_says_too_much_pays_for_it() {
        let mut outbox = Outbox::default();
        outbox.push(group(1), Said::Depart);
        outbox.push(group(1), message(1 << 20, 0));
        let mut dropped = 0;
        outbox.push(group(2), Said::Depart);
        for byte in 0..40 {
            dropped += outbox.push(group(2), message(1 << 20, byte));
            outbox.check_invariants();
        }
        assert_eq!(dropped, 10);
        assert_eq!(outbox.waiting(group(1)), (1 << 20) + MESSAGE_WEIGHT);
        assert!(outbox.waiting(group(2)) <= WEIGHT_MAX - outbox.waiting(group(1)));
        assert_eq!(outbox.waiting(group(3)), 0);
        let mut kept = Vec::new();
        let mut departs = 0;
        while !outbox.is_empty() {
            for item in next_items(&mut outbox) {
                match item {
                    Item::Message { group, payload } => {
                        kept.push((group.as_bytes()[0], payload[0]));
                    }
                    Item::Depart(_) => departs += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(departs, 2, "only messages are dropped");
        assert!(
            kept.contains(&(1, 0)),
            "the quiet group has lost its message"
        );
        let of_loud: Vec<_> = kept.iter().filter(|(group, _)| *group == 2).collect();
        assert_eq!(of_loud.first(), Some(&&(2, 10)), "the oldest go first");
        assert_eq!(of_loud.last(), Some(&&(2, 39)));
    }

    #[test]
    fn frames_stay_near_their_aim_and_within_their_limit() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push(group(1), message(2_000, 1));
        }
        outbox.push(group(2), message(FRAME_LEN_AIM - 4_000, 1));
        outbox.push(group(3), message(PAYLOAD_LEN_MAX, 1));
        let mut frames = 0;
        while let Some((frame, _)) = outbox.next_frame() {
            assert!(frame.body().len() <= FRAME_LEN_MAX);
            frames += 1;
        }
        assert!((3..7).contains(&frames), "{frames} frames");
    }

    #[test]
    fn pings_and_pongs_come_first_and_once() {
        let mut outbox = Outbox::default();
        outbox.push(group(1), Said::Depart);
        for number in 1..=3 {
            outbox.ping(number);
            outbox.pong(10 + number);
        }
        let (frame, ping) = outbox.next_frame().unwrap();
        assert_eq!(ping, Some(3));
        let items = [Item::Pong(13), Item::Ping(3), Item::Depart(group(1))];
        assert_eq!(decode(&frame.body()).unwrap(), items);
        assert!(outbox.next_frame().is_none());
    }

    #[test]
    fn messages_of_a_lost_bond_are_forgotten_alone() {
        let mut outbox = Outbox::default();
        outbox.push(group(1), message(10, 1));
        outbox.push(group(1), Said::Depart);
        outbox.push(group(2), message(10, 2));
        assert_eq!(outbox.drop_messages(group(1)), 1);
        outbox.check_invariants();
        let items = next_items(&mut outbox);
        assert_eq!(items[0], Item::Depart(group(1)));
        assert!(matches!(&items[1], Item::Message { payload, .. } if payload.len() == 10));
    }
}
