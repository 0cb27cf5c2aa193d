//! One link to a peer, and the bonds on it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::io::{BondState, Event, LinkId, Loss, Output, Refusal};
use super::line::Line;
use super::messages::Item;
use super::outbox::Said;
use super::peer::{Interest, Shared};
use super::proof::{Ends, Proof};
use crate::id::{GroupId, PeerId, Signature};
use crate::protocol::crossing::Candidate;
use crate::protocol::mutant;
use crate::runtime::Side;
use crate::time::Instant;
use crate::wire::CloseCode;

/// Offers that lead to nothing, within the time after which a silent peer is given up. A peer that makes more breaks
/// the protocol.
pub(super) const IDLE_OFFERS_MAX: u32 = 4_096;

/// An offer counts for so many where a proof had to be checked that the peer may write, which takes far longer than one of the
/// group's key.
pub(super) const WRITE_PROOF_WEIGHT: u32 = 16;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) candidate: Candidate,
    peer: PeerId,
    ends: Ends,
    /// One for each group in which a bond was offered, by either end. They outlast the membership: what the peer said
    /// before it knew of the end is no violation.
    bonds: BTreeMap<GroupId, Bond>,
    /// How many of them are up.
    bonded: usize,
    line: Line,
    /// Since when there is neither a bond nor a wish for one.
    unused_since: Option<Instant>,
    /// A bound from below of the bonds' deadlines.
    bonds_due_at: Instant,
    idle_offers: u32,
    idle_offers_since: Instant,
}

#[derive(Debug)]
struct Bond {
    phase: Phase,
    own: OwnProof,
    /// This node's proof that it may write, once it was made: it is the same each time, and takes long to make.
    own_write: Option<Signature>,
    /// The peer's proof that it may write, by which the bond was made.
    write: Option<Signature>,
    /// Whether it may, where the bond is up.
    may_write: bool,
    failures: u32,
    /// The refusal that was reported last.
    reported: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This node waits for the peer's proof.
    Offered { until: Instant },
    /// Both proofs are there.
    Bonded { since: Instant },
    /// It did not come about, or the peer has left (`None`); offered again then, if it is still wanted.
    Apart {
        why: Option<Refusal>,
        retry_at: Instant,
    },
    /// This node is not in the group.
    Left,
}

/// What the peer has of this node's proof, once all that was said so far has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnProof {
    /// It was never sent on this link.
    Unsent,
    /// It counts.
    Stands,
    /// It was taken back.
    Withdrawn,
}

/// Why a link is closed by this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) code: CloseCode,
    pub(super) loss: Loss,
    pub(super) at_once: bool,
}

impl Closing {
    pub(super) const fn violation(code: CloseCode) -> Self {
        Self {
            code,
            loss: Loss::Violation(code),
            at_once: true,
        }
    }

    /// The peer cannot be reached, or might as well not.
    pub(super) const fn timed_out(loss: Loss) -> Self {
        Self {
            code: CloseCode::TIMED_OUT,
            loss,
            at_once: true,
        }
    }

    pub(super) const fn orderly(code: CloseCode, loss: Loss) -> Self {
        Self {
            code,
            loss,
            at_once: false,
        }
    }
}

impl Link {
    pub(super) fn new(
        now: Instant,
        id: LinkId,
        peer: PeerId,
        candidate: Candidate,
        exporter: [u8; 32],
        shared: &mut Shared,
    ) -> Self {
        let (dialer, acceptor) = match candidate.side {
            Side::Dialer => (shared.local, peer),
            Side::Acceptor => (peer, shared.local),
        };
        let is_unbound = mutant!(shared.config, ProofOfAnyLink);
        let ends = Ends {
            // What was proved on an earlier connection proves nothing on this one.
            exporter: if is_unbound { [0; 32] } else { exporter },
            dialer,
            acceptor,
        };
        Self {
            id,
            candidate,
            peer,
            ends,
            bonds: BTreeMap::new(),
            bonded: 0,
            line: Line::new(now, id, shared),
            unused_since: Some(now),
            bonds_due_at: Instant::FAR_FUTURE,
            idle_offers: 0,
            idle_offers_since: now,
        }
    }

    pub(super) const fn line(&self) -> &Line {
        &self.line
    }

    pub(super) const fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }

    pub(super) const fn bonded(&self) -> usize {
        self.bonded
    }

    pub(super) fn deadline(&self) -> Instant {
        self.line.deadline().min(self.bonds_due_at)
    }

    /// The state of the bond in `group`, if there ever was something to it.
    pub(super) fn state(&self, group: GroupId) -> Option<BondState> {
        Some(match self.bonds.get(&group)?.phase {
            Phase::Offered { .. } => BondState::Proving,
            Phase::Bonded { since } => BondState::Bonded { since },
            Phase::Apart { why, .. } => BondState::Apart(why),
            Phase::Left => return None,
        })
    }

    /// Whether there is a bond in `group`, and the peer may write there.
    pub(super) fn may_write(&self, group: GroupId) -> bool {
        let bond = self.bonds.get(&group);
        bond.is_some_and(|bond| bond.may_write && matches!(bond.phase, Phase::Bonded { .. }))
    }

    /// Offers all bonds that are wanted and neither offered nor waiting for their time.
    pub(super) fn offer_wanted(&mut self, now: Instant, interest: &Interest, shared: &mut Shared) {
        for &group in interest.wanted() {
            let is_due = match self.bonds.get(&group).map(|bond| bond.phase) {
                None | Some(Phase::Left) => true,
                Some(Phase::Apart { retry_at, .. }) => {
                    retry_at <= now || retry_at == Instant::FAR_FUTURE
                }
                Some(Phase::Offered { .. } | Phase::Bonded { .. }) => false,
            };
            if is_due {
                self.offer(now, group, shared);
            }
        }
    }

    fn offer(&mut self, now: Instant, group: GroupId, shared: &mut Shared) {
        let until = now + shared.config.handshake_timeout;
        if self.send_proof(group, false, shared) {
            self.bond(group).phase = Phase::Offered { until };
            self.bonds_due_at = self.bonds_due_at.min(until);
        }
    }

    /// Sends this node's proof. False where it is not in the group.
    fn send_proof(&mut self, group: GroupId, reply: bool, shared: &mut Shared) -> bool {
        let Some(keys) = shared.groups.get(&group) else {
            return false;
        };
        let side = self.candidate.side;
        let proof = keys.key.prove(side, group, &self.ends);
        let known = self.bonds.get(&group).and_then(|bond| bond.own_write);
        let write = known.or_else(|| keys.write.prove(side, group, &self.ends));
        let bond = self.bond(group);
        (bond.own, bond.own_write) = (OwnProof::Stands, write);
        let offer = Said::Offer {
            proof,
            reply,
            write,
        };
        self.say(group, offer, shared);
        true
    }

    fn bond(&mut self, group: GroupId) -> &mut Bond {
        self.bonds.entry(group).or_insert(Bond {
            phase: Phase::Left,
            own: OwnProof::Unsent,
            own_write: None,
            write: None,
            may_write: false,
            failures: 0,
            reported: None,
        })
    }

    fn say(&mut self, group: GroupId, said: Said, shared: &mut Shared) {
        shared.stats.dropped += self.line.say(group, said);
    }

    /// Queues a message of this node. False where there is no bond.
    pub(super) fn send(
        &mut self,
        now: Instant,
        group: GroupId,
        payload: Bytes,
        can_wait: bool,
        shared: &mut Shared,
    ) -> bool {
        let phase = self.bonds.get(&group).map(|bond| bond.phase);
        let is_bonded = matches!(phase, Some(Phase::Bonded { .. }));
        if is_bonded {
            let said = Said::Message(payload);
            shared.stats.dropped += if can_wait {
                self.line.say_by(now + shared.config.gather, group, said)
            } else {
                self.line.say(group, said)
            };
        }
        is_bonded
    }

    /// Takes in what the peer says.
    pub(super) fn take(
        &mut self,
        now: Instant,
        item: Item,
        interest: &mut Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        match item {
            Item::Ping(number) => self.line.take_ping(number),
            Item::Pong(number) => self.line.take_pong(now, number),
            Item::Offer {
                group,
                proof,
                reply,
                write,
            } => {
                let proofs = (&proof, write);
                return self.take_offer(now, group, proofs, reply, interest, shared);
            }
            Item::Refuse { group, code } => {
                self.take_refusal(now, group, Refusal::of(code), interest, shared);
            }
            Item::Depart(group) => {
                let phase = self.bonds.get(&group).map(|bond| bond.phase);
                if let Some(Phase::Offered { .. } | Phase::Bonded { .. }) = phase {
                    self.unbond(group, Loss::Departed, shared);
                    self.part(now, group, None, shared);
                }
            }
            Item::Message { group, payload } => return self.take_message(group, payload, shared),
        }
        Ok(())
    }

    fn take_offer(
        &mut self,
        now: Instant,
        group: GroupId,
        (proof, write): (&Proof, Option<Signature>),
        reply: bool,
        interest: &mut Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        let Some(keys) = shared.groups.get(&group) else {
            shared.stats.not_member += 1;
            // An answer comes from a peer that does not know yet that this node has left.
            if !reply {
                self.say(group, Said::Refuse(CloseCode::GROUP_NOT_MEMBER), shared);
            }
            return self.count_idle_offer(now, 1, shared);
        };
        let peer_side = match self.candidate.side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        };
        // This node's own proof, sent back to it, shows that the peer has heard it and no more.
        let is_reflected_taken = mutant!(shared.config, ProofOfEitherEnd);
        let is_proved = keys.key.verify(peer_side, group, &self.ends, proof)
            || (is_reflected_taken
                && keys
                    .key
                    .verify(self.candidate.side, group, &self.ends, proof));
        if !is_proved {
            return self.take_wrong_proof(now, group, Refusal::NotProved, interest, shared);
        }
        let (phase, own, known) = match self.bonds.get(&group) {
            Some(bond) => (bond.phase, bond.own, bond.write),
            None => (Phase::Left, OwnProof::Unsent, None),
        };
        if let Phase::Bonded { .. } = phase {
            // A bond stays what it was made as: whoever may write from now on departs first, and offers another. So a
            // signature, which costs far more than the proof of the key, is checked once for each bond.
            if write != known {
                return Err(Closing::violation(CloseCode::GROUP_WRITE_NOT_PROVED));
            }
        } else if !(keys.write).verify(peer_side, group, &self.ends, write.as_ref()) {
            self.take_wrong_proof(now, group, Refusal::WriteNotProved, interest, shared)?;
            return self.count_idle_offer(now, WRITE_PROOF_WEIGHT, shared);
        }
        let weight = write.map_or(1, |_| WRITE_PROOF_WEIGHT);
        interest.trust(group, shared);
        match phase {
            // The peer has this node's proof, or will have it: links keep their order.
            Phase::Offered { .. } => self.make_bond(now, group, write, shared),
            Phase::Bonded { .. } if reply => {}
            Phase::Bonded { .. } => {
                self.send_proof(group, true, shared);
                return self.count_idle_offer(now, 1, shared);
            }
            Phase::Apart { .. } | Phase::Left if reply => {
                // It answers an offer that was given up here. One that was taken back it will know of.
                if own == OwnProof::Stands {
                    self.make_bond(now, group, write, shared);
                } else {
                    return self.count_idle_offer(now, weight, shared);
                }
            }
            Phase::Apart { .. } | Phase::Left => {
                self.send_proof(group, true, shared);
                self.make_bond(now, group, write, shared);
                if own != OwnProof::Unsent {
                    return self.count_idle_offer(now, weight, shared);
                }
            }
        }
        Ok(())
    }

    fn take_wrong_proof(
        &mut self,
        now: Instant,
        group: GroupId,
        why: Refusal,
        interest: &mut Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        shared.stats.wrong_proofs += 1;
        let code = match why {
            Refusal::WriteNotProved => CloseCode::GROUP_WRITE_NOT_PROVED,
            _ => CloseCode::GROUP_NOT_PROVED,
        };
        let phase = self.bond(group).phase;
        if let Phase::Apart {
            why: Some(Refusal::NotProved | Refusal::WriteNotProved),
            ..
        } = phase
        {
            return Err(Closing::violation(code));
        }
        self.say(group, Said::Refuse(code), shared);
        self.unbond(group, Loss::Refused(why), shared);
        interest.distrust(group, shared);
        self.part(now, group, Some(why), shared);
        Ok(())
    }

    fn take_refusal(
        &mut self,
        now: Instant,
        group: GroupId,
        why: Refusal,
        interest: &mut Interest,
        shared: &mut Shared,
    ) {
        let phase = self.bonds.get(&group).map(|bond| bond.phase);
        if let Some(Phase::Offered { .. } | Phase::Bonded { .. }) = phase {
            self.unbond(group, Loss::Refused(why), shared);
            if why.is_final() {
                interest.distrust(group, shared);
            }
            self.part(now, group, Some(why), shared);
        }
    }

    fn take_message(
        &mut self,
        group: GroupId,
        payload: Bytes,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        let peer = self.peer;
        match self.bonds.get(&group) {
            Some(bond) if matches!(bond.phase, Phase::Bonded { .. }) => {
                shared.outputs.push_back(Output::Message {
                    group,
                    peer,
                    may_write: bond.may_write,
                    payload,
                });
            }
            // It was said before the peer knew that the bond had ended.
            Some(bond) if bond.own != OwnProof::Unsent => shared.stats.stray += 1,
            Some(_) | None => return Err(Closing::violation(CloseCode::GROUP_NOT_BONDED)),
        }
        Ok(())
    }

    fn count_idle_offer(
        &mut self,
        now: Instant,
        weight: u32,
        shared: &Shared,
    ) -> Result<(), Closing> {
        if now.since(self.idle_offers_since) >= shared.config.silence() {
            self.idle_offers = 0;
            self.idle_offers_since = now;
        }
        self.idle_offers += weight;
        if self.idle_offers > IDLE_OFFERS_MAX {
            return Err(Closing::violation(CloseCode::TOO_MANY));
        }
        Ok(())
    }

    fn make_bond(
        &mut self,
        now: Instant,
        group: GroupId,
        write: Option<Signature>,
        shared: &mut Shared,
    ) {
        let keys = shared.groups.get(&group);
        let may_write = keys.is_some_and(|keys| keys.write.admits(write.as_ref()));
        let bond = self.bond(group);
        bond.phase = Phase::Bonded { since: now };
        (bond.write, bond.may_write) = (write, may_write);
        bond.failures = 0;
        bond.reported = None;
        self.bonded += 1;
        self.unused_since = None;
        shared.event(Event::Bonded {
            group,
            peer: self.peer,
            may_write,
        });
    }

    /// Ends the bond in `group` if there is one, and forgets what waits for the peer.
    fn unbond(&mut self, group: GroupId, why: Loss, shared: &mut Shared) {
        let peer = self.peer;
        if matches!(self.bond(group).phase, Phase::Bonded { .. }) {
            self.bonded -= 1;
            // The last words of a member that leaves go out before its farewell.
            if why != Loss::Left {
                shared.stats.dropped += self.line.drop_messages(group);
            }
            shared.event(Event::Unbonded { group, peer, why });
        }
    }

    /// Notes that there is no bond, and when to offer it again.
    fn part(&mut self, now: Instant, group: GroupId, why: Option<Refusal>, shared: &mut Shared) {
        let peer = self.peer;
        let bond = self.bond(group);
        bond.failures = bond.failures.saturating_add(1);
        let retry_at = if why.is_some_and(Refusal::is_final) {
            Instant::FAR_FUTURE
        } else {
            now + shared
                .config
                .offer_again
                .delay(bond.failures, &mut shared.rng)
        };
        bond.phase = Phase::Apart { why, retry_at };
        if let Some(why) = why
            && bond.reported != Some(why)
        {
            bond.reported = Some(why);
            shared.event(Event::Refused { group, peer, why });
        }
        self.bonds_due_at = self.bonds_due_at.min(retry_at);
    }

    /// This node has left the group.
    pub(super) fn leave(&mut self, group: GroupId, shared: &mut Shared) {
        if !self.bonds.contains_key(&group) {
            return;
        }
        self.unbond(group, Loss::Left, shared);
        let bond = self.bond(group);
        bond.phase = Phase::Left;
        bond.reported = None;
        bond.own_write = None;
        if bond.own == OwnProof::Stands {
            bond.own = OwnProof::Withdrawn;
            self.say(group, Said::Depart, shared);
        }
    }

    /// Ends all bonds, because the link ends.
    pub(super) fn unbond_all(&mut self, why: Loss, shared: &mut Shared) {
        let groups: Vec<GroupId> = self.bonds.keys().copied().collect();
        for group in groups {
            self.unbond(group, why, shared);
            self.bond(group).phase = Phase::Left;
        }
    }

    /// Notes whether the link is of use.
    pub(super) fn note_use(&mut self, now: Instant, interest: &Interest) {
        if self.bonded > 0 || !interest.wanted().is_empty() {
            self.unused_since = None;
        } else if self.unused_since.is_none() {
            self.unused_since = Some(now);
        }
    }

    /// Does what has become due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        interest: &Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        if self.bonds_due_at <= now {
            self.look_after_bonds(now, interest, shared);
        }
        if self.line.is_beat_due(now) {
            let unused = self.unused_since.map(|since| now.since(since));
            if unused.is_some_and(|time| time >= shared.config.handshake_timeout) {
                return Err(Closing::orderly(CloseCode::IDLE, Loss::Closed(None)));
            }
        }
        self.line.handle_timeout(now, shared)
    }

    fn look_after_bonds(&mut self, now: Instant, interest: &Interest, shared: &mut Shared) {
        self.bonds_due_at = Instant::FAR_FUTURE;
        let mut unanswered = Vec::new();
        for (&group, bond) in &mut self.bonds {
            match &mut bond.phase {
                Phase::Offered { until } if *until <= now => unanswered.push(group),
                Phase::Offered { until } => self.bonds_due_at = self.bonds_due_at.min(*until),
                // Offered below, or as soon as it is wanted.
                Phase::Apart { retry_at, .. } if *retry_at <= now => {
                    *retry_at = Instant::FAR_FUTURE;
                }
                Phase::Apart { retry_at, .. } => {
                    self.bonds_due_at = self.bonds_due_at.min(*retry_at);
                }
                Phase::Bonded { .. } | Phase::Left => {}
            }
        }
        for group in unanswered {
            self.part(now, group, Some(Refusal::NoAnswer), shared);
        }
        self.offer_wanted(now, interest, shared);
    }

    pub(super) fn check_invariants(&self, interest: &Interest, shared: &Shared) {
        self.line.check_invariants();
        let mut bonded = 0;
        for (group, bond) in &self.bonds {
            let deadline = match bond.phase {
                Phase::Bonded { .. } => {
                    bonded += 1;
                    assert_eq!(bond.own, OwnProof::Stands, "a bond without our proof");
                    assert!(shared.groups.contains_key(group), "a bond in no group");
                    continue;
                }
                Phase::Offered { until } => {
                    assert_eq!(bond.own, OwnProof::Stands, "an offer without our proof");
                    assert!(shared.groups.contains_key(group), "an offer in no group");
                    until
                }
                Phase::Apart { retry_at, .. } => retry_at,
                Phase::Left => {
                    assert_ne!(bond.own, OwnProof::Stands, "left and still offered");
                    continue;
                }
            };
            assert!(self.bonds_due_at <= deadline, "a bond is forgotten");
        }
        assert_eq!(self.bonded, bonded, "bonds are counted wrongly");
        for group in interest.wanted() {
            assert!(
                self.state(*group).is_some(),
                "a bond that is wanted is not offered"
            );
        }
    }
}
