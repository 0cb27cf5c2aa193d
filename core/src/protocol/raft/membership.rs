//! Who votes: promotion, demotion, leaving, and handing over leadership.
//!
//! A change alters one voter (from one voter to three, two at once), is in force when it is appended, and
//! is proposed only when the one before and an entry of the leader's own term have committed (Ongaro 2014,
//! section 4.1, and its correction of July 2015).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::config::{FoundingRule, LeadershipPreference};
use super::configuration::Configuration;
use super::core::{Core, State};
use super::entry::Payload;
use super::io::StopReason;
use super::leading::{Leading, Transfer};
use super::messages::Message;
use super::types::{Index, Member};
use crate::protocol::mutant;
use crate::time::{Duration, Instant};

/// A member that was demoted often waits no longer than this for its next promotion.
const PROBATION_MAX: Duration = Duration::from_secs(300);
/// So many election timeouts lie between a handover that came to nothing and the next one.
const TRANSFER_PAUSE: u32 = 2;
/// A member keeps up while it lacks no more entries than this.
const LAG_MAX: u64 = 256;

/// A change of voters that is called for.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// The voters of the founding, once more.
    Confirm,
    Add(Vec<Member>),
    Remove(Member),
}

impl Core {
    /// The leader's regular look at its members: does a majority still hear it, who keeps up, who is to
    /// vote.
    pub(super) fn look_at_members(&mut self, now: Instant) {
        if !matches!(self.state, State::Leader(_)) {
            return;
        }
        if !self.hears_majority(now) {
            // Somebody else may lead by now: calls here would only wait (Ongaro 2014, section 6.2).
            let term = self.term;
            self.follow(now, term, None);
            return;
        }
        if self.is_disk_stuck(now) {
            // The others could do without us, but it is this leader that takes no more commands. Without the disk
            // it is not elected again.
            let term = self.term;
            self.follow(now, term, None);
            return;
        }
        self.note_who_keeps_up(now);
        if self.is_observer() {
            // It leads because nobody else could be elected.
            self.transfer(now);
        }
        self.go_on_with_transfer(now);
        if let Some(change) = self.change_called_for(now) {
            self.propose(change);
        }
    }

    /// Whether nothing of what waits for the disk has become durable for two election timeouts.
    fn is_disk_stuck(&mut self, now: Instant) -> bool {
        let (durable, last) = (self.disk.durable_last(), self.log.last().index);
        let State::Leader(leading) = &mut self.state else {
            return false;
        };
        if leading.durable.0 != durable || durable == last {
            leading.durable = (durable, now);
        }
        now.since(leading.durable.1) > 2 * self.config.election_timeout
    }

    fn hears_majority(&self, now: Instant) -> bool {
        let State::Leader(leading) = &self.state else {
            return false;
        };
        let configuration = self.configuration();
        let heard = configuration.voters.iter().filter(|voter| {
            **voter == self.me
                || leading.progress.get(voter).is_some_and(|progress| {
                    now.since(progress.heard_at) < self.config.election_timeout
                })
        });
        heard.count() >= configuration.majority()
    }

    fn note_who_keeps_up(&mut self, now: Instant) {
        let last = self.log.last().index;
        let timeout = self.config.election_timeout;
        let is_settled = self.log.configured_at() <= self.commit;
        let voters = self.configuration().clone();
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        let peers = &self.peers;
        let ours = self.incarnation;
        leading.leavers.retain(|member| voters.is_voter(member));
        leading.progress.retain(|member, _| {
            let peer = peers.get(&member.peer);
            let is_here = peer.is_some_and(|peer| {
                peer.instance == Some(member.instance) && peer.incarnation == ours
            });
            is_here || voters.is_voter(member)
        });
        for (member, progress) in &mut leading.progress {
            // Once the others have committed that it votes no longer, nothing rests on what it had
            // acknowledged.
            progress.is_suspect &= voters.is_voter(member) || !is_settled;
            let peer = peers.get(&member.peer);
            let is_bonded = peer.is_some_and(|peer| peer.instance == Some(member.instance));
            let keeps_up = is_bonded
                && progress.matched.0 + LAG_MAX >= last.0
                && progress.matched.0 > 0
                && now.since(progress.heard_at) < timeout;
            if !keeps_up {
                progress.kept_up_since = None;
            } else if progress.kept_up_since.is_none() {
                progress.kept_up_since = Some(now);
            }
        }
    }

    /// Whether a change may be proposed at all.
    fn may_change(&self) -> bool {
        let own_term = self.has_committed_in_term()
            || mutant!(self.config, ConfigurationBeforeOwnTermCommitted);
        let previous = self.log.configured_at() <= self.commit
            || mutant!(self.config, TwoConfigurationsAtOnce);
        let State::Leader(leading) = &self.state else {
            return false;
        };
        // Nobody is to vote where all are about to go elsewhere.
        if !self.is_open() {
            return false;
        }
        // Without the first, two leaders that each changed the voters by one could both find a majority
        // (schedule H6); without the second, one leader alone could make two sets that share nobody.
        own_term && previous && leading.transfer.is_none()
    }

    fn change_called_for(&self, now: Instant) -> Option<Change> {
        if !self.may_change() {
            return None;
        }
        let silent = self.silent_voters(now);
        let change = self.change_of_voters(now, &silent);
        let configured_at = self.log.configured_at();
        if configured_at == Index(1) {
            // `Expect`: that so many have accepted is not to be forgotten where all start again and one of
            // them never comes back.
            let expects = matches!(self.config.founding, FoundingRule::Expect(2..));
            let is_called_for = expects || change.is_some() || self.has_learners();
            return is_called_for.then_some(Change::Confirm);
        }
        let change = change?;
        // A voter that has nothing but the founding may leave it, where it sees that most of those listed
        // there are in another life. It would not see that they have been replaced since, nor that the group
        // still needs it. So the voters change only once all of them have an entry that keeps them from
        // leaving: the confirmation, or a later change.
        let State::Leader(leading) = &self.state else {
            return None;
        };
        let may_still_leave = |voter: &&Member| {
            let matched = leading.progress.get(voter).map(|it| it.matched);
            **voter != self.me && !silent.contains(voter) && matched < Some(configured_at)
        };
        let voters = self.configuration().voters.iter();
        let mut waits_for = voters.filter(may_still_leave);
        let goes = |voter: &Member| change == Change::Remove(*voter);
        let is_time = waits_for.all(goes) || mutant!(self.config, TwoConfigurationsAtOnce);
        is_time.then_some(change)
    }

    /// The change that would be for the best, whether or not it is time for it.
    fn change_of_voters(&self, now: Instant, silent: &[Member]) -> Option<Change> {
        let State::Leader(leading) = &self.state else {
            return None;
        };
        let configuration = self.configuration();
        let voters = &configuration.voters;
        let count = voters.len();
        let max = self.config.max_voters as usize;

        if let Some(leaver) = leading.leavers.iter().find(|it| voters.contains(it)) {
            let remaining = voters.iter().filter(|voter| *voter != leaver);
            if count > 1 && self.most_keep_up(now, remaining.copied()) {
                return Some(Change::Remove(*leaver));
            }
        }

        // The majority of an even set is no smaller than that of the odd set above it: one that is silent
        // is of no use there. Of five, two that are silent go together, one after the other. Three stay
        // three: a majority of two is two again (schedule H15).
        let may_remove = (count >= 4 && count.is_multiple_of(2) && !silent.is_empty())
            || (count >= 5 && silent.len() >= 2)
            || (count == 3 && !silent.is_empty() && mutant!(self.config, ThreeDemotedToTwo));
        if may_remove && let Some(gone) = silent.first() {
            let remaining = voters.iter().filter(|voter| *voter != gone);
            if self.most_keep_up(now, remaining.copied()) {
                return Some(Change::Remove(*gone));
            }
        }

        // One that was silent has been replaced, and come back before it was removed.
        if count > max {
            let others = voters.iter().filter(|voter| **voter != self.me);
            let last = others.max_by_key(|voter| {
                let demotions = configuration.demotions.get(&voter.peer).copied();
                let matched = leading.progress.get(voter).map(|it| it.matched);
                (demotions, Reverse(matched))
            })?;
            let remaining = voters.iter().filter(|voter| *voter != last);
            let may = self.most_keep_up(now, remaining.copied());
            return may.then_some(Change::Remove(*last));
        }

        let ready = self.ready_learners(now);
        let wanted = match count {
            // One visitor that leaves again would stop a group of one for good (schedule H15b).
            1 => 2,
            // Completes an even set.
            _ if count.is_multiple_of(2) => 1,
            // Replaces a silent voter, which then leaves an even set.
            _ if !silent.is_empty() => 1,
            _ => 2,
        };
        let room = match count {
            1 => max >= 3,
            _ if count.is_multiple_of(2) => count < max,
            _ if !silent.is_empty() => true,
            _ => count + 2 <= max,
        };
        if !room || ready.len() < wanted {
            return None;
        }
        let added = if count == 1 { 2 } else { 1 };
        Some(Change::Add(ready.into_iter().take(added).collect()))
    }

    /// Whether a member has said of itself that it only observes, and so never leads.
    fn is_said_to_observe(&self, member: &Member) -> bool {
        self.peers.get(&member.peer).is_some_and(|peer| {
            peer.instance == Some(member.instance)
                && peer.preference == LeadershipPreference::Observer
        })
    }

    /// Voters that are not heard, or not able to follow, for so long that others may take their place; and those
    /// that never lead.
    fn silent_voters(&self, now: Instant) -> Vec<Member> {
        let State::Leader(leading) = &self.state else {
            return Vec::new();
        };
        // Never shorter than twice the time within which those that stay must have been heard. They were then
        // heard an election timeout after the silent one: it was silent when they were not, and is not
        // merely the first that a leader misses that no longer hears anybody.
        let patience = self.config.heartbeat_interval * self.config.max_missed_heartbeats;
        let patience = patience.max(2 * self.config.election_timeout);
        let kept_from = self.log.kept_from();
        let is_silent = |voter: &&Member| {
            let Some(progress) = leading.progress.get(voter) else {
                return **voter != self.me;
            };
            let is_over = self.peers.get(&voter.peer).is_some_and(|peer| {
                peer.instance
                    .is_some_and(|instance| instance != voter.instance)
            });
            // One that lacks what is no longer in the log has to fetch a snapshot first; all lack it at
            // first while a leader is new.
            let is_behind =
                progress.matched.next() < kept_from && now.since(leading.since) > patience;
            is_over
                || is_behind
                || progress.is_suspect
                || self.is_said_to_observe(voter)
                || now.since(progress.heard_at) > patience
        };
        let voters = self.configuration().voters.iter();
        voters
            .filter(|voter| **voter != self.me)
            .filter(is_silent)
            .copied()
            .collect()
    }

    /// Whether a majority of `members` could commit what comes next at once.
    fn most_keep_up(&self, now: Instant, members: impl Iterator<Item = Member>) -> bool {
        let State::Leader(leading) = &self.state else {
            return false;
        };
        let (mut all, mut up) = (0, 0);
        for member in members {
            all += 1;
            let keeps_up = member == self.me
                || leading.progress.get(&member).is_some_and(|progress| {
                    progress.kept_up_since.is_some()
                        && !progress.is_suspect
                        && now.since(progress.heard_at) < self.config.election_timeout
                });
            up += usize::from(keeps_up);
        }
        up > all / 2
    }

    /// Whether somebody may be made a voter some day.
    fn has_learners(&self) -> bool {
        let mut members = self.bonded_members();
        members.any(|(member, peer)| {
            !self.configuration().is_voter(&member)
                && peer.preference != LeadershipPreference::Observer
        })
    }

    /// Learners that have kept up for long enough, those that have for longest first.
    fn ready_learners(&self, now: Instant) -> Vec<Member> {
        let State::Leader(leading) = &self.state else {
            return Vec::new();
        };
        let configuration = self.configuration();
        let mut ready = BTreeMap::new();
        for (member, progress) in &leading.progress {
            let Some(peer) = self.peers.get(&member.peer) else {
                continue;
            };
            let is_here = peer.instance == Some(member.instance);
            let may_vote = peer.preference != LeadershipPreference::Observer;
            let probation = self.probation(configuration, member);
            if !configuration.is_voter(member)
                && is_here
                && may_vote
                && !progress.is_suspect
                && progress.matched >= self.log.configured_at()
                && let Some(since) = progress.kept_up_since
                && now.since(since) >= probation
            {
                ready.insert((since, *member), *member);
            }
        }
        ready.into_values().collect()
    }

    /// How long a member must keep up before it votes: longer each time it was demoted, so that one that
    /// comes and goes does not change the voters for ever (schedule H16).
    fn probation(&self, configuration: &Configuration, member: &Member) -> Duration {
        if mutant!(self.config, ConfigurationBeforeOwnTermCommitted) {
            // With the wait, an entry of the leader's term has always been committed before.
            return Duration::ZERO;
        }
        let demotions = configuration.demotions.get(&member.peer).copied();
        let doublings = 1u32 << demotions.unwrap_or(0).min(16);
        let probation = self.config.election_timeout.saturating_mul(2 * doublings);
        probation.min(PROBATION_MAX.max(2 * self.config.election_timeout))
    }

    fn propose(&mut self, change: Change) {
        let mut configuration = Configuration::clone(self.configuration());
        let was_alone = configuration.voters.len() == 1;
        let adds = matches!(change, Change::Add(_));
        match change {
            Change::Confirm => {}
            Change::Add(members) => configuration.voters.extend(members),
            Change::Remove(member) => {
                configuration.voters.remove(&member);
                configuration.note_demotion(member.peer);
            }
        }
        self.append_own(Payload::Configuration(configuration));
        // From one to three is the one change after which the old majority and the new one may have nobody
        // in common: the sole voter, started again without the entry, would lead alone beside the two
        // others. So nobody hears of it, and nothing is committed by it, before the sole voter has it on disk.
        if was_alone && adds && !mutant!(self.config, ThreeFromOneUnpersisted) {
            self.silent_until = self.disk.latest();
        }
    }

    // ---- Leaving and handing over ----

    /// A member wants to vote no longer.
    pub(super) fn on_leave(&mut self, from: Member) {
        let is_voter = self.configuration().is_voter(&from);
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        if is_voter {
            leading.leavers.insert(from);
            return;
        }
        // It says the same of itself, but that may come later.
        if let Some(peer) = self.peers.get_mut(&from.peer) {
            peer.preference = LeadershipPreference::Observer;
        }
        self.send_to(from, Message::Released);
    }

    /// The leader makes no voter of this member any more.
    pub(super) fn on_released(&mut self, from: Member) {
        self.is_released |= self.leaving.is_some() && self.leader == Some(from);
    }

    /// Whether a voter that votes alone may be making a voter of this member just now. It needs one of the two that it
    /// makes voters of: were both gone before they hear of it, it would wait for them for ever.
    fn may_be_needed(&self, now: Instant) -> bool {
        let is_alone = self.configuration().voters.len() == 1;
        is_alone && !self.is_observer() && !self.is_released && self.hears_leader(now)
    }

    /// Hands leadership to the voter that is furthest, if there is one.
    pub(super) fn transfer(&mut self, now: Instant) {
        self.note_who_keeps_up(now);
        let until = now + self.config.election_timeout;
        let configuration = self.configuration().clone();
        let timeout = self.config.election_timeout;
        let voters = configuration.voters.iter();
        let observers: Vec<Member> = voters
            .filter(|voter| self.is_said_to_observe(voter))
            .copied()
            .collect();
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        if leading.transfer.is_some() || now < leading.no_transfer_before {
            return;
        }
        let able = leading.progress.iter().filter(|(member, progress)| {
            configuration.is_voter(member)
                && !progress.is_suspect
                && !leading.leavers.contains(member)
                && !observers.contains(member)
                && progress.kept_up_since.is_some()
                && now.since(progress.heard_at) < timeout
        });
        let furthest = able.max_by_key(|(member, progress)| (progress.matched, **member));
        if let Some((target, _)) = furthest {
            leading.transfer = Some(Transfer {
                target: *target,
                until,
                is_told: false,
            });
            self.go_on_with_transfer(now);
        }
    }

    /// Tells the target once it has the whole log; goes on leading where that takes too long.
    pub(super) fn go_on_with_transfer(&mut self, now: Instant) {
        let (last, timeout) = (self.log.last().index, self.config.election_timeout);
        let term = self.term;
        let State::Leader(leading) = &mut self.state else {
            return;
        };
        let Some(transfer) = &mut leading.transfer else {
            return;
        };
        if now >= transfer.until {
            leading.transfer = None;
            // Commands that have waited are to get through before the next one.
            leading.no_transfer_before = now + TRANSFER_PAUSE * timeout;
            return;
        }
        let target = transfer.target;
        let has_all = leading
            .progress
            .get(&target)
            .is_some_and(|it| it.matched == last);
        if has_all && !transfer.is_told {
            transfer.is_told = true;
            self.send_to(target, Message::TimeoutNow { term });
        }
    }

    /// Whether commands are taken now.
    pub(super) fn takes_commands(&self) -> bool {
        match &self.state {
            // The target must have the whole log, so the log stands still (schedule H29).
            // What follows a seal is void.
            State::Leader(leading) => leading.transfer.is_none() && !self.is_sealed(),
            _ => false,
        }
    }

    /// Removes who has asked for it, as soon as that may be: who leaves waits for it, and not for long.
    pub(super) fn let_leavers_go(&mut self, now: Instant) {
        let has_leavers = |leading: &Leading| !leading.leavers.is_empty();
        if !matches!(&self.state, State::Leader(leading) if has_leavers(leading)) {
            return;
        }
        self.note_who_keeps_up(now);
        if let Some(change) = self.change_called_for(now) {
            self.propose(change);
        }
    }

    /// Goes on with leaving for good.
    pub(super) fn go_on_leaving(&mut self, now: Instant) {
        let Some(again_at) = self.leaving else {
            return;
        };
        let is_voter = self.is_voter();
        let is_settled = self.log.configured_at() <= self.commit;
        let is_last = is_voter && self.configuration().voters.len() == 1;
        // Who is no voter any more was removed because it leaves.
        self.is_released |= is_voter;
        let is_free = !is_voter && is_settled && !self.may_be_needed(now);
        if self.incarnation.is_none() || is_free {
            self.stop(StopReason::Left);
            return;
        }
        if now < again_at {
            return;
        }
        self.leaving = Some(now + self.config.heartbeat_interval);
        // The last voter stays: with it the group would end.
        if is_last {
            return;
        }
        match (&self.state, self.leader) {
            (State::Leader(_), _) => self.transfer(now),
            (_, Some(leader)) => self.send_to(leader, Message::Leave),
            _ => {}
        }
    }
}
