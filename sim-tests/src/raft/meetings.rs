//! Incarnations that meet: one of them stays, the other ends once, and nothing happens in it afterwards.

use std::collections::BTreeMap;

use smalti_core::protocol::raft::{Entry, Incarnation, Index, Payload, Position, Seal};
use smalti_sim::time::SimTime;

use super::ledger::{Ledger, Life};

/// What the meetings of one incarnation have come to, as seen from outside.
#[derive(Default)]
pub(super) struct Meetings {
    /// The entries of meetings that were committed.
    entries: BTreeMap<Index, (Position, Payload)>,
    /// The seal, and when a member was first seen to have applied it.
    sealed: Option<(Seal, SimTime)>,
    /// The commands that any member was seen to have applied.
    commands: u64,
    /// Seals that came too late.
    pub(super) void_seals: u64,
}

impl Meetings {
    pub(super) fn commit(&mut self, entry: &Entry) {
        let seen = (entry.position(), entry.payload.clone());
        self.entries.insert(entry.index, seen);
        if let Some((_, true)) = self.is_void(entry.index) {
            self.void_seals += 1;
        }
    }

    /// The seal, if a member was seen to have applied it, and when that was first so.
    pub(super) const fn sealed(&self) -> Option<(Seal, SimTime)> {
        self.sealed
    }

    /// Whether the seal at `at` means nothing, because what it answers had been taken back before. Told from
    /// the entries alone; `None` where it is no seal, or answers nothing that was seen.
    fn is_void(&self, at: Index) -> Option<(Index, bool)> {
        let (_, Payload::Sealed { offer, .. }) = self.entries.get(&at)? else {
            return None;
        };
        let mut between = self.entries.range(offer.index..at);
        let is_thaw =
            |payload: &Payload| matches!(payload, Payload::Thawed { offer: of } if of == offer);
        Some((
            offer.index,
            between.any(|(_, (_, payload))| is_thaw(payload)),
        ))
    }

    pub(super) fn has_seen(&mut self, commands: u64) {
        self.commands = self.commands.max(commands);
    }

    /// The entry that a command at `index` comes after, where that forbids it to be applied. Told from the
    /// entries alone, as the rules have it: what froze, unless it was thawed.
    pub(super) fn forbids(&self, index: Index) -> Option<Index> {
        let mut frozen: Option<Position> = None;
        for (at, (position, payload)) in self.entries.range(..index) {
            match (payload, frozen) {
                (Payload::Frozen { .. }, None) => frozen = Some(*position),
                (Payload::Thawed { offer }, Some(under)) if *offer == under => frozen = None,
                (Payload::Sealed { offer, .. }, Some(under)) if *offer == under => {
                    return Some(*at);
                }
                _ => {}
            }
        }
        frozen.map(|position| position.index)
    }
}

impl Life {
    /// A command is applied at `index`.
    pub(super) fn is_allowed(&self, index: Index) {
        if let Some((seal, _)) = self.meetings.sealed {
            assert!(
                index < seal.at.index,
                "a command is applied at {index}, behind {seal:?}"
            );
        }
        let Some(under) = self.meetings.forbids(index) else {
            return;
        };
        // Where nobody was seen to have an entry in between, that may have thawed it.
        assert!(
            !self.has_all(under, index),
            "a command is applied at {index} of {}, which was frozen or sealed at {under}",
            self.incarnation
        );
    }
}

impl Ledger {
    /// A member has applied the seal of its incarnation.
    pub(super) fn sealed(&mut self, seal: Seal, now: SimTime) {
        let place = self.place(seal.incarnation);
        let life = self.life(place);
        if let Some((offer, true)) = life.meetings.is_void(seal.at.index) {
            assert!(
                !life.has_all(offer, seal.at.index),
                "{seal:?}, and the offer at {offer} had been taken back before"
            );
        }
        let meetings = &mut life.meetings;
        let (first, _) = *meetings.sealed.get_or_insert((seal, now));
        assert!(first == seal, "{first:?}, and {seal:?}");
        // Else both sides are lost.
        let mut end = seal.into;
        while let Some((next, _)) = self.find(&end).and_then(|life| life.meetings.sealed()) {
            assert!(
                next.into != seal.into,
                "incarnations have given themselves up for each other: {seal:?}, {next:?}"
            );
            end = next.into;
        }
    }

    /// When the incarnation was first seen to be sealed.
    pub(super) fn sealed_at(&self, incarnation: &Incarnation) -> Option<SimTime> {
        let life = self.find(incarnation)?;
        life.meetings.sealed().map(|(_, at)| at)
    }

    /// Of two that have met the heavier one has stayed.
    pub(super) fn heavier_ones_stay(&self) {
        for life in self.lives() {
            let Some((seal, ..)) = life.meetings.sealed else {
                continue;
            };
            assert!(
                life.meetings.commands <= seal.commands,
                "{seal:?}, and a member has applied {} commands there",
                life.meetings.commands
            );
            let stays = self.find(&seal.into);
            let has = stays.map_or(0, |stays| stays.meetings.commands);
            let is_group = stays.is_some_and(Life::had_several_voters);
            assert!(
                has >= seal.commands || (has > 0 && is_group),
                "{seal:?}, and the one that stays has {has} commands"
            );
            assert!(
                is_group || !life.was_founded_by_several() || seal.commands == 0,
                "a group with data is given up for a newcomer that founded alone: {seal:?}"
            );
        }
    }
}
