//! Members say to each other who they are, and take note of it.

use super::config::LeadershipPreference;
use super::core::{Core, State};
use super::messages::{Envelope, Hello, Message};
use super::types::{Incarnation, Index, Member, Run};
use crate::id::{Instance, PeerId};
use crate::protocol::mutant;
use crate::time::Instant;

/// What is known of a bonded peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its present life; `None` before its first hello.
    pub(super) instance: Option<Instance>,
    pub(super) run: Run,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) preference: LeadershipPreference,
    /// Whether it may write. What one says that may not counts for nothing but itself.
    pub(super) may_write: bool,
    pub(super) commit: Index,
    /// The founding that it has left last.
    pub(super) left: Option<Incarnation>,
    /// The incarnation that its own was reformed from, where that is the one we said we belong to.
    pub(super) succeeds: Option<Incarnation>,
    /// The greatest number under which it has said who it is.
    pub(super) ping: u64,
    /// The greatest number of ours that it has heard in its present life.
    pub(super) pong: u64,
    /// The greatest number of ours that it had heard when it last said who it is.
    answered: u64,
    /// When it is told who we are, again, unless it has heard it by then.
    pub(super) hello_at: Instant,
    /// Our number when its store was opened for the last time: an answer to it or to a later one was
    /// given by this store or a later one.
    booted_at_ping: u64,
    /// Our number when it first seemed that its store was set back while there was no bond with it.
    doubted_at_ping: Option<u64>,
}

impl Peer {
    pub(super) fn new(now: Instant, may_write: bool) -> Self {
        Self {
            instance: None,
            run: Run::default(),
            incarnation: None,
            preference: LeadershipPreference::Normal,
            may_write,
            commit: Index::ZERO,
            left: None,
            succeeds: None,
            ping: 0,
            pong: 0,
            answered: 0,
            hello_at: now,
            booted_at_ping: 0,
            doubted_at_ping: None,
        }
    }

    /// Whether it is known to have heard what we are under this number of ours.
    const fn has_heard(&self, ping: u64) -> bool {
        self.instance.is_some() && self.pong >= ping
    }
}

impl Core {
    /// The member has become something else: all are told.
    pub(super) fn introduce_anew(&mut self, now: Instant) {
        self.ping += 1;
        for peer in self.peers.values_mut() {
            peer.hello_at = now;
        }
    }

    /// Tells those who we are that have not heard it.
    pub(super) fn introduce(&mut self, now: Instant) {
        let ping = self.ping;
        let retry = self.config.heartbeat_interval;
        let due: Vec<PeerId> = {
            let due = self
                .peers
                .iter_mut()
                .filter(|(_, peer)| peer.hello_at <= now);
            due.map(|(id, peer)| {
                peer.hello_at = if peer.has_heard(ping) {
                    Instant::FAR_FUTURE
                } else {
                    now + retry
                };
                *id
            })
            .collect()
        };
        #[cfg(smalti_mutants)]
        let due = crate::protocol::mutants::in_any_order(&self.config, due);
        for peer in due {
            self.say_hello(peer);
        }
    }

    fn say_hello(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let hello = Hello {
            preference: if self.leaving.is_some() {
                LeadershipPreference::Observer
            } else {
                self.preference
            },
            ping: self.ping,
            pong: peer.ping,
            awaits_answer: !peer.has_heard(self.ping),
            runs: self.runs_of_store,
            recovered: self.recovered,
            leader: self.leader.map(|leader| leader.peer),
            commit: self.commit,
            left: self.left,
            sealed: peer.incarnation.and_then(|of| self.seals.get(&of)),
            succeeds: (peer.incarnation).filter(|of| self.standing.descends_from(of)),
        };
        let envelope = Envelope {
            from: self.me.instance,
            run: self.run,
            to: peer.instance,
            incarnation: self.incarnation,
            message: Message::Hello(Box::new(hello)),
        };
        // The incarnation is a promise: this instance takes part in no other founding.
        self.disk.send_durably(id, envelope, &mut self.outputs);
    }

    /// Takes note of who the peer says it is. `false` where that is old news.
    pub(super) fn on_hello(
        &mut self,
        now: Instant,
        id: PeerId,
        envelope: &Envelope,
        hello: &Hello,
    ) -> bool {
        self.forget_former_voters();
        let sender = Member {
            peer: id,
            instance: envelope.from,
        };
        if self.reforming.is_gone(&sender) {
            return false;
        }
        let promises = self.may_have_promised(&sender);
        let our_ping = self.ping;
        let is_for_us = envelope.to == Some(self.me.instance);
        let takes_us_for_another = envelope.to.is_some() && !is_for_us;
        let me_leads = matches!(self.state, State::Leader(_));
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let pong = if is_for_us { hello.pong } else { 0 };
        let is_same_life = peer.instance == Some(envelope.from);
        if is_same_life && envelope.run.is_set_back_from(peer.run) {
            // A message from before the restart, unless it answers what was asked after it: then the store
            // was set back.
            if pong < peer.booted_at_ping {
                if promises && our_ping < peer.booted_at_ping {
                    self.introduce_anew(now);
                }
            } else if me_leads {
                if let State::Leader(leading) = &mut self.state {
                    leading.suspect(sender);
                }
                self.note_set_back(sender);
            }
            return false;
        }
        if takes_us_for_another {
            peer.hello_at = now;
        }
        if is_same_life && envelope.run == peer.run && hello.ping < peer.ping {
            peer.pong = peer.pong.max(pong);
            return false;
        }
        let is_new_boot = !is_same_life || envelope.run != peer.run;
        let is_new = is_new_boot || hello.ping > peer.ping;
        let old_life = peer.instance.filter(|_| !is_same_life);
        if is_new_boot {
            peer.pong = 0;
        }
        let member = sender;
        let mut is_set_back = false;
        // By its number a run may follow another that its store never had: it was set back, and opened again and again since.
        let lacks = |before: &Run| {
            if mutant!(self.config, RunsByNumberAlone) {
                envelope.run.is_set_back_from(*before)
            } else {
                hello.runs.lack(envelope.run.boot, *before)
            }
        };
        if self.runs.get(&member).is_some_and(lacks) {
            // It may be from before its last start, and late. Only what answers a question asked from now on was
            // surely said by its store as it is.
            match peer.doubted_at_ping {
                None => {
                    peer.doubted_at_ping = Some(our_ping + 1);
                    self.introduce_anew(now);
                    return false;
                }
                Some(asked) if pong < asked => return false,
                Some(_) => is_set_back = true,
            }
        }
        self.runs.insert(member, envelope.run);
        peer.instance = Some(envelope.from);
        peer.run = envelope.run;
        let goes_on = is_same_life && peer.incarnation == envelope.incarnation;
        let is_elsewhere = peer.incarnation != envelope.incarnation;
        peer.commit = if goes_on {
            peer.commit.max(hello.commit)
        } else {
            hello.commit
        };
        peer.incarnation = envelope.incarnation;
        peer.preference = hello.preference;
        peer.left = hello.left;
        peer.succeeds = hello.succeeds;
        peer.ping = hello.ping;
        peer.pong = peer.pong.max(pong);
        // It says the same once more: then our answer was lost. Without this nobody would ever answer a member that has
        // become another one, but has heard all that we have to say before.
        let repeats = !is_new && hello.awaits_answer && hello.pong == peer.answered;
        peer.answered = hello.pong;
        // Or it may have heard us over a bond before this one, and forgotten.
        let has_forgotten = pong < our_ping;
        let is_silent = peer.hello_at == Instant::FAR_FUTURE;
        if is_new || (is_silent && (repeats || has_forgotten)) {
            peer.hello_at = now;
        }
        let is_behind = envelope
            .incarnation
            .is_some_and(|of| self.seals.get(&of).is_some() || self.standing.descends_from(&of));
        let is_booted = is_new_boot && is_same_life;
        if is_new_boot {
            // Only what answers a question asked from now on was surely said by the store opened last: what it has said
            // in an earlier run, over an earlier bond, may still be on its way.
            peer.booted_at_ping = our_ping + 1;
        }
        // One whose incarnation has ended is to hear so, and may have heard our number without that.
        if promises && (is_booted || (is_behind && is_elsewhere)) {
            self.introduce_anew(now);
        }
        let last = self.log.last().index;
        if let State::Leader(leading) = &mut self.state {
            if let Some(instance) = old_life {
                let before = Member { peer: id, instance };
                if promises {
                    leading.lost(before, last);
                } else {
                    leading.progress.remove(&before);
                }
            }
            let is_ours = envelope.incarnation == self.incarnation
                || (envelope.incarnation.is_some() && mutant!(self.config, IncarnationIgnored));
            if is_ours {
                let runs = (envelope.run, &hello.runs);
                let recovered = (hello.recovered, self.commit);
                let is_certain = leading.joined(now, member, last, is_new_boot, runs, recovered);
                is_set_back |= is_certain && !mutant!(self.config, SuspicionEndsWithTerm);
            }
        }
        if is_set_back {
            // Beyond the term of whoever has found it out: what it has forgotten it has forgotten for all.
            self.note_set_back(member);
        }
        true
    }
}
