//! One link to a peer, and the bonds on it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::io::{Event, LinkId, Loss, Output, Refusal};
use super::messages::{Frame, Item};
use super::outbox::{Outbox, Said};
use super::peer::{Interest, Shared};
use super::proof::{Ends, Proof};
use crate::id::{GroupId, PeerId};
use crate::protocol::crossing::Candidate;
use crate::protocol::rtt::Estimate;
use crate::runtime::Side;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

/// Frames that the transport may hold and has not taken yet: one that it writes, and one to go on with.
pub(super) const FRAMES_UNDER_WAY_MAX: usize = 2;

/// Pings whose answers are waited for.
const PINGS_MAX: usize = 16;

/// Offers that lead to nothing, within the time after which a silent peer is given up. A peer that makes more breaks
/// the protocol.
pub(super) const IDLE_OFFERS_MAX: u32 = 4_096;

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
    outbox: Outbox,
    /// Something waits that is to go out as soon as the transport takes it.
    hurry: bool,
    /// When all else that waits is to go out.
    gather_until: Instant,
    /// When the frames were given to the transport that it has not taken yet.
    under_way: VecDeque<Instant>,
    heard_at: Instant,
    /// Since when there is neither a bond nor a wish for one.
    unused_since: Option<Instant>,
    next_ping_at: Instant,
    /// A bound from below of the bonds' deadlines.
    bonds_due_at: Instant,
    next_ping: u64,
    pings: VecDeque<(u64, Instant)>,
    rtt: Option<Estimate>,
    idle_offers: u32,
    idle_offers_since: Instant,
}

#[derive(Debug)]
struct Bond {
    phase: Phase,
    own: OwnProof,
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
    const fn timed_out(loss: Loss) -> Self {
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
        let ends = Ends {
            exporter,
            dialer,
            acceptor,
        };
        let first = shared.random_up_to(shared.config.heartbeat_interval);
        Self {
            id,
            candidate,
            peer,
            ends,
            bonds: BTreeMap::new(),
            bonded: 0,
            outbox: Outbox::default(),
            hurry: false,
            gather_until: Instant::FAR_FUTURE,
            under_way: VecDeque::new(),
            heard_at: now,
            unused_since: Some(now),
            next_ping_at: now + first,
            bonds_due_at: Instant::FAR_FUTURE,
            next_ping: 0,
            pings: VecDeque::new(),
            rtt: None,
            idle_offers: 0,
            idle_offers_since: now,
        }
    }

    pub(super) const fn bonded(&self) -> usize {
        self.bonded
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(Estimate::smoothed)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.next_ping_at
            .min(self.bonds_due_at)
            .min(self.gather_until)
    }

    /// The state of the bond in `group`, if there ever was something to it.
    pub(super) fn state(&self, group: GroupId) -> Option<super::BondState> {
        Some(match self.bonds.get(&group)?.phase {
            Phase::Offered { .. } => super::BondState::Proving,
            Phase::Bonded { since } => super::BondState::Bonded { since },
            Phase::Apart { why, .. } => super::BondState::Apart(why),
            Phase::Left => return None,
        })
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
        let Some(key) = shared.groups.get(&group) else {
            return false;
        };
        let proof = key.prove(self.candidate.side, group, &self.ends);
        self.say(group, Said::Offer { proof, reply }, shared);
        self.bond(group).own = OwnProof::Stands;
        true
    }

    fn bond(&mut self, group: GroupId) -> &mut Bond {
        self.bonds.entry(group).or_insert(Bond {
            phase: Phase::Left,
            own: OwnProof::Unsent,
            failures: 0,
            reported: None,
        })
    }

    fn say(&mut self, group: GroupId, said: Said, shared: &mut Shared) {
        self.hurry = true;
        shared.stats.dropped += self.outbox.push(group, said);
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
            if can_wait {
                let until = now + shared.config.gather;
                self.gather_until = self.gather_until.min(until);
            } else {
                self.hurry = true;
            }
            shared.stats.dropped += self.outbox.push(group, Said::Message(payload));
        }
        is_bonded
    }

    /// Gives the transport what is due, as far as it takes it.
    pub(super) fn flush(&mut self, now: Instant, shared: &mut Shared) {
        while self.hurry && self.under_way.len() < FRAMES_UNDER_WAY_MAX {
            self.send_frame(now, shared);
        }
    }

    /// Gives the transport all that waits.
    pub(super) fn flush_all(&mut self, now: Instant, shared: &mut Shared) {
        self.hurry = true;
        while self.hurry {
            self.send_frame(now, shared);
        }
    }

    /// Gives the transport one frame, of whatever waits.
    fn send_frame(&mut self, now: Instant, shared: &mut Shared) {
        if let Some((frame, ping)) = self.outbox.next_frame() {
            self.frame_made(now, frame, ping, shared);
        }
        if self.outbox.is_empty() {
            self.hurry = false;
            self.gather_until = Instant::FAR_FUTURE;
        }
    }

    fn frame_made(&mut self, now: Instant, frame: Frame, ping: Option<u64>, shared: &mut Shared) {
        if let Some(number) = ping {
            if self.pings.len() == PINGS_MAX {
                self.pings.pop_front();
            }
            self.pings.push_back((number, now));
        }
        self.under_way.push_back(now);
        let link = self.id;
        shared.outputs.push_back(Output::Send { link, frame });
    }

    /// The transport has taken a frame.
    pub(super) fn sent(&mut self) {
        self.under_way.pop_front();
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
            Item::Ping(number) => {
                self.outbox.pong(number);
                self.hurry = true;
            }
            Item::Pong(number) => self.take_pong(now, number),
            Item::Offer {
                group,
                proof,
                reply,
            } => return self.take_offer(now, group, &proof, reply, interest, shared),
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

    /// Notes that the peer lives.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    fn take_pong(&mut self, now: Instant, number: u64) {
        while let Some((asked, sent_at)) = self.pings.front().copied() {
            if asked > number {
                return;
            }
            self.pings.pop_front();
            if asked == number {
                let sample = now.since(sent_at);
                match &mut self.rtt {
                    Some(estimate) => estimate.update(sample),
                    none => *none = Some(Estimate::new(sample)),
                }
            }
        }
    }

    fn take_offer(
        &mut self,
        now: Instant,
        group: GroupId,
        proof: &Proof,
        reply: bool,
        interest: &mut Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        let Some(key) = shared.groups.get(&group) else {
            shared.stats.not_member += 1;
            // An answer comes from a peer that does not know yet that this node has left.
            if !reply {
                self.say(group, Said::Refuse(CloseCode::GROUP_NOT_MEMBER), shared);
            }
            return self.count_idle_offer(now, shared);
        };
        let peer_side = match self.candidate.side {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        };
        if !key.verify(peer_side, group, &self.ends, proof) {
            return self.take_wrong_proof(now, group, interest, shared);
        }
        interest.trust(group, shared);
        let (phase, own) = {
            let bond = self.bond(group);
            (bond.phase, bond.own)
        };
        match phase {
            // The peer has this node's proof, or will have it: links keep their order.
            Phase::Offered { .. } => self.make_bond(now, group, shared),
            Phase::Bonded { .. } if reply => {}
            Phase::Bonded { .. } => {
                self.send_proof(group, true, shared);
                return self.count_idle_offer(now, shared);
            }
            Phase::Apart { .. } | Phase::Left if reply => {
                // It answers an offer that was given up here. One that was taken back it will know of.
                if own == OwnProof::Stands {
                    self.make_bond(now, group, shared);
                } else {
                    return self.count_idle_offer(now, shared);
                }
            }
            Phase::Apart { .. } | Phase::Left => {
                self.send_proof(group, true, shared);
                self.make_bond(now, group, shared);
                if own != OwnProof::Unsent {
                    return self.count_idle_offer(now, shared);
                }
            }
        }
        Ok(())
    }

    fn take_wrong_proof(
        &mut self,
        now: Instant,
        group: GroupId,
        interest: &mut Interest,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        shared.stats.wrong_proofs += 1;
        let why = Some(Refusal::NotProved);
        let phase = self.bond(group).phase;
        if matches!(phase, Phase::Apart { why: known, .. } if known == why) {
            return Err(Closing::violation(CloseCode::GROUP_NOT_PROVED));
        }
        self.say(group, Said::Refuse(CloseCode::GROUP_NOT_PROVED), shared);
        self.unbond(group, Loss::Refused(Refusal::NotProved), shared);
        interest.distrust(group, shared);
        self.part(now, group, why, shared);
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
                    payload,
                });
            }
            // It was said before the peer knew that the bond had ended.
            Some(bond) if bond.own != OwnProof::Unsent => shared.stats.stray += 1,
            Some(_) | None => return Err(Closing::violation(CloseCode::GROUP_NOT_BONDED)),
        }
        Ok(())
    }

    fn count_idle_offer(&mut self, now: Instant, shared: &Shared) -> Result<(), Closing> {
        if now.since(self.idle_offers_since) >= shared.config.silence() {
            self.idle_offers = 0;
            self.idle_offers_since = now;
        }
        self.idle_offers += 1;
        if self.idle_offers > IDLE_OFFERS_MAX {
            return Err(Closing::violation(CloseCode::TOO_MANY));
        }
        Ok(())
    }

    fn make_bond(&mut self, now: Instant, group: GroupId, shared: &mut Shared) {
        let bond = self.bond(group);
        bond.phase = Phase::Bonded { since: now };
        bond.failures = 0;
        bond.reported = None;
        self.bonded += 1;
        self.unused_since = None;
        shared.event(Event::Bonded {
            group,
            peer: self.peer,
        });
    }

    /// Ends the bond in `group` if there is one, and forgets what waits for the peer.
    fn unbond(&mut self, group: GroupId, why: Loss, shared: &mut Shared) {
        let peer = self.peer;
        if matches!(self.bond(group).phase, Phase::Bonded { .. }) {
            self.bonded -= 1;
            // The last words of a member that leaves go out before its farewell.
            if why != Loss::Left {
                shared.stats.dropped += self.outbox.drop_messages(group);
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
        if self.gather_until <= now {
            self.hurry = true;
            self.gather_until = Instant::FAR_FUTURE;
        }
        if self.next_ping_at <= now {
            self.beat(now, shared)?;
        }
        Ok(())
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

    fn beat(&mut self, now: Instant, shared: &mut Shared) -> Result<(), Closing> {
        let silence = shared.config.silence();
        if now.since(self.next_ping_at) > shared.config.heartbeat_interval {
            // This node itself did not run: it cannot tell for how long others were silent.
            self.heard_at = now;
            self.under_way.iter_mut().for_each(|at| *at = now);
        }
        let unused = self.unused_since.map(|since| now.since(since));
        if unused.is_some_and(|time| time >= shared.config.handshake_timeout) {
            return Err(Closing::orderly(CloseCode::IDLE, Loss::Closed(None)));
        }
        if now.since(self.heard_at) >= silence {
            return Err(Closing::timed_out(Loss::Silent));
        }
        let oldest = self.under_way.front();
        if oldest.is_some_and(|at| now.since(*at) >= silence) {
            return Err(Closing::timed_out(Loss::Stalled));
        }
        self.next_ping += 1;
        self.outbox.ping(self.next_ping);
        self.hurry = true;
        let jitter = shared.random_up_to(shared.config.heartbeat_jitter);
        self.next_ping_at = now + shared.config.heartbeat_interval + jitter;
        Ok(())
    }

    pub(super) fn check_invariants(&self, interest: &Interest, shared: &Shared) {
        self.outbox.check_invariants();
        let is_gathering = !self.hurry && self.gather_until < Instant::FAR_FUTURE;
        assert!(
            self.outbox.is_empty() || is_gathering || self.under_way.len() >= FRAMES_UNDER_WAY_MAX,
            "something waits though the transport takes it"
        );
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
