//! What the parts of the machine share: who the member is, what it has promised, whom it knows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::catch_up::LogView;
use super::config::{Config, LeadershipPreference, StorageClass};
use super::configuration::Configuration;
use super::disk::Disk;
use super::election::Ballot;
use super::entry::{Entry, Payload};
use super::founding::Candidacy;
use super::hello::Peer;
use super::io::{Event, Output, StopReason, Surroundings, WriteId};
use super::leading::Leading;
use super::log::Log;
use super::machine::Identity;
use super::meeting::Meetings;
use super::messages::{Envelope, Message};
use super::readers;
use super::reforming::Reforming;
use super::standing::{Seal, Standing};
use super::status::Role;
use super::store::{HardState, Recovered};
use super::superseding::Seals;
use super::types::{Incarnation, Index, Member, Position, Run, Runs, Term};
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::mutant;
use crate::time::{Duration, Instant};

/// A voter that only observes by now leaves standing for election to the others, unless none of them can win.
const OBSERVER_FACTOR: u32 = 3;

/// What a member does.
pub(super) enum State {
    /// It belongs to no incarnation yet.
    Candidate(Candidacy),
    /// It follows, or waits for a leader.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate(Ballot),
    /// It stands for election.
    Standing(Ballot),
    /// It leads.
    Leader(Box<Leading>),
    /// It does nothing any more.
    Stopped,
}

/// The state that elections, replication, membership, reads and founding share.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) group: GroupId,
    pub(super) preference: LeadershipPreference,
    /// Whether the member may write; if not, it neither votes nor founds, whatever its log says of it.
    pub(super) may_write: bool,
    pub(super) rng: ChaCha8Rng,
    pub(super) me: Member,
    pub(super) run: Run,
    /// The runs of its store, the present one among them.
    pub(super) runs_of_store: Runs,
    pub(super) recovered: Index,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) term: Term,
    pub(super) vote: Option<Member>,
    pub(super) log: Log,
    pub(super) commit: Index,
    pub(super) state: State,
    pub(super) leader: Option<Member>,
    /// When the leader was last heard.
    pub(super) leader_heard_at: Option<Instant>,
    /// When the member stands for election, or asks again.
    pub(super) election_at: Instant,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    /// Numbers what the member says of itself.
    pub(super) ping: u64,
    pub(super) surroundings: Surroundings,
    pub(super) disk: Disk,
    /// The latest run that was heard of each voter, beyond the bond.
    pub(super) runs: BTreeMap<Member, Run>,
    /// Voters whose store was set back: they have forgotten votes and acknowledgements, so that none of theirs
    /// counts until they are demoted. Each with how often its peer had been by then.
    pub(super) set_back: BTreeMap<Member, u32>,
    /// A leader says nothing and commits nothing before this write is durable: a founding of its own, or a change
    /// that makes three voters of one.
    pub(super) silent_until: WriteId,
    /// The founding that this run has left last: it can never be completed.
    pub(super) left: Option<Incarnation>,
    /// What is applied of the meetings of its incarnation.
    pub(super) standing: Standing,
    /// How far the log is applied, and how many commands of clients.
    pub(super) applied: Index,
    pub(super) commands_applied: u64,
    /// How meetings with others have gone.
    pub(super) meetings: Meetings,
    /// The incarnations that are known to have ended.
    pub(super) seals: Seals,
    /// What it does while it knows of no leader.
    pub(super) reforming: Reforming,
    /// What was given up since the last turn.
    pub(super) given_up: Option<Seal>,
    /// It leaves for good; when it asks for that again.
    pub(super) leaving: Option<Instant>,
    /// The leader has said that it makes no voter of it any more.
    pub(super) is_released: bool,
    /// Indexes found for reads of this node.
    pub(super) read_indexes: Vec<(u64, Index)>,
    /// It was a voter when that was last looked at.
    was_voter: bool,
    checked_commit: std::cell::Cell<(Option<Incarnation>, Index)>,
    pub(super) outputs: VecDeque<Output>,
}

impl Core {
    pub(super) fn new(
        now: Instant,
        identity: Identity,
        config: Config,
        recovered: Option<&Recovered>,
        mut rng: ChaCha8Rng,
    ) -> Self {
        let is_durable = config.storage == StorageClass::Durable;
        let hard_state = recovered.map(|recovered| recovered.hard_state);
        // In memory nothing is remembered, so nothing may be taken for remembered: each start is
        // another member.
        let instance =
            hard_state.map_or_else(|| Instance::from_rng(&mut rng), |hard| hard.instance);
        let mut log = Log::default();
        let mut commit = Index::ZERO;
        if let Some(recovered) = recovered {
            if let Some(snapshot) = &recovered.snapshot {
                let manifest = &snapshot.manifest;
                commit = manifest.position.index;
                log = Log::after(
                    manifest.position,
                    manifest.configured_at,
                    manifest.configuration.clone(),
                );
            }
            // Entries that the snapshot covers are of no more use.
            let above = |entry: &&Entry| entry.index > commit;
            for entry in recovered.entries.iter().filter(above) {
                log.append(entry.clone());
            }
        }
        let last = log.last().index;
        let mut core = Self {
            group: identity.group,
            preference: identity.preference,
            may_write: true,
            me: Member {
                peer: identity.peer,
                instance,
            },
            run: Run {
                boot: hard_state.map_or(0, |hard| hard.boot) + u64::from(is_durable),
                id: 0,
            },
            runs_of_store: hard_state.map_or(Runs::NONE, |hard| hard.runs),
            recovered: last,
            incarnation: hard_state.and_then(|hard| hard.incarnation),
            term: hard_state.map_or(Term::ZERO, |hard| hard.term),
            vote: hard_state.and_then(|hard| hard.vote),
            log,
            commit,
            state: State::Follower,
            leader: None,
            leader_heard_at: None,
            election_at: Instant::FAR_FUTURE,
            peers: BTreeMap::new(),
            ping: 1,
            surroundings: Surroundings::default(),
            disk: Disk::new(is_durable, last),
            runs: BTreeMap::new(),
            set_back: BTreeMap::new(),
            silent_until: WriteId(0),
            left: None,
            standing: Standing::default(),
            applied: Index::ZERO,
            commands_applied: 0,
            meetings: Meetings::default(),
            seals: hard_state.map_or_else(Seals::default, |hard| Seals::recovered(&hard.seals)),
            reforming: Reforming::new(now),
            given_up: None,
            leaving: None,
            is_released: false,
            read_indexes: Vec::new(),
            was_voter: false,
            checked_commit: std::cell::Cell::default(),
            outputs: VecDeque::new(),
            config,
            rng,
        };
        if mutant!(core.config, ForgetVoteAtRestart) {
            core.vote = None;
        }
        if core.incarnation.is_none() {
            core.state = State::Candidate(Candidacy::new(now));
        } else {
            core.await_leader(now);
        }
        core.run.id = core.random();
        core.runs_of_store = core.runs_of_store.then(core.run.id);
        core.persist_hard_state();
        core
    }

    pub(super) fn role(&self) -> Role {
        match self.state {
            State::Candidate(_) => Role::Candidate,
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Standing(_) => Role::Standing,
            State::Leader(_) => Role::Leader,
            State::Stopped => Role::Stopped,
        }
    }

    pub(super) const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    pub(super) const fn is_observer(&self) -> bool {
        matches!(self.preference, LeadershipPreference::Observer)
    }

    /// The voters in force. Those of the last entry, committed or not: a majority of the ones before
    /// could be found without any of those that have the new entry.
    pub(super) fn configuration(&self) -> &Arc<Configuration> {
        if mutant!(self.config, ConfigurationInForceOnCommit) {
            return self.log.configuration_as_of(self.commit);
        }
        self.log.configuration()
    }

    pub(super) fn is_voter(&self) -> bool {
        self.configuration().is_voter(&self.me)
    }

    /// Whether the leader has committed an entry of its own term: only then does it know how far the log
    /// is committed (Ongaro and Ousterhout 2014, section 8).
    pub(super) fn has_committed_in_term(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.term)
    }

    pub(super) fn persist_hard_state(&mut self) {
        let hard_state = HardState {
            instance: self.me.instance,
            boot: self.run.boot,
            runs: self.runs_of_store,
            incarnation: self.incarnation,
            term: self.term,
            vote: self.vote,
            seals: self.seals.own(),
        };
        self.disk.hard_state(hard_state);
    }

    /// Adds an entry of ours to the log, which we lead.
    pub(super) fn append_own(&mut self, payload: Payload) -> Index {
        let entry = Entry {
            term: self.term,
            index: self.log.last().index.next(),
            payload,
        };
        let index = entry.index;
        if let State::Leader(leading) = &mut self.state {
            leading.backlog.appended(index, entry.size());
        }
        self.disk.append(&entry);
        self.log.append(entry);
        index
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn stop(&mut self, reason: StopReason) {
        self.state = State::Stopped;
        self.leader = None;
        self.outputs.push_back(Output::Stopped(reason));
    }

    /// What is said to `peer`, in its present life; `None` where that is not known, and where it is not for this member to
    /// say.
    pub(super) fn envelope(&self, peer: PeerId, message: Message) -> Option<Envelope> {
        if !self.may_write && !readers::may_say(&message) {
            return None;
        }
        let to = self.peers.get(&peer)?.instance?;
        Some(Envelope {
            from: self.me.instance,
            run: self.run,
            to: Some(to),
            incarnation: self.incarnation,
            message,
        })
    }

    /// Sends at once. For what promises nothing, and for appends of a leader.
    pub(super) fn send(&mut self, peer: PeerId, message: Message) {
        if let Some(envelope) = self.envelope(peer, message) {
            self.outputs.push_back(Output::Send(peer, envelope));
        }
    }

    /// Sends once all that has been written so far is durable. For what promises something: a vote, an
    /// acknowledgement, a founding, the incarnation that the member belongs to.
    pub(super) fn send_durably(&mut self, peer: PeerId, message: Message) {
        if let Some(envelope) = self.envelope(peer, message) {
            self.disk.send_durably(peer, envelope, &mut self.outputs);
        }
    }

    /// Sends to one life of a peer, at once; not at all where it has begun another.
    pub(super) fn send_to(&mut self, member: Member, message: Message) {
        if self.is_bonded(&member) {
            self.send(member.peer, message);
        }
    }

    /// Whether this life of the peer is the one that there is a bond with.
    pub(super) fn is_bonded(&self, member: &Member) -> bool {
        let peer = self.peers.get(&member.peer);
        peer.is_some_and(|peer| peer.instance == Some(member.instance))
    }

    /// A number that no earlier run has had, but by chance.
    pub(super) fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A time from `base` to `base` and `jitter` later.
    pub(super) fn jittered(&mut self, base: Duration, jitter: Duration) -> Duration {
        let nanos = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(self.rng.next_u64()) * u128::from(nanos)) >> 64;
        // The product of two 64-bit numbers, without its lower half, fits.
        base + Duration::from_nanos(part as u64)
    }

    /// A new wait for a sign of a leader begins.
    pub(super) fn await_leader(&mut self, now: Instant) {
        let (base, jitter) = (
            self.config.election_timeout,
            self.config.election_timeout_jitter,
        );
        let factor = match self.preference {
            LeadershipPreference::Reluctant { factor } => factor.max(1),
            LeadershipPreference::Observer => OBSERVER_FACTOR,
            LeadershipPreference::Normal => 1,
        };
        self.election_at = now + self.jittered(base, jitter).saturating_mul(factor);
    }

    /// Follows in `term`, which is at least the present one: `leader`, or nobody yet.
    pub(super) fn follow(&mut self, now: Instant, term: Term, leader: Option<Member>) {
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.persist_hard_state();
        }
        if leader.is_some() || matches!(self.state, State::Leader(_)) {
            self.reforming.begin_anew(now);
        }
        if !matches!(self.state, State::Follower) {
            self.state = State::Follower;
            self.await_leader(now);
        }
        self.set_leader(leader);
    }

    pub(super) fn set_leader(&mut self, leader: Option<Member>) {
        if self.leader != leader {
            self.leader = leader;
            // Another leader has not been told yet that this member leaves.
            if let Some(again_at) = &mut self.leaving {
                *again_at = Instant::ZERO;
            }
            self.event(Event::Leader(self.term, leader));
        }
    }

    /// The leader, where it can be sent to, or is the member itself.
    pub(super) fn reachable_leader(&self) -> Option<Member> {
        self.leader
            .filter(|leader| *leader == self.me || self.is_bonded(leader))
    }

    /// Tells whether the member votes, where that has changed.
    pub(super) fn note_voting(&mut self) {
        let is_voter = self.is_voter();
        if is_voter != self.was_voter {
            self.was_voter = is_voter;
            self.event(Event::Voting(is_voter));
        }
    }

    /// Leaves the group for good.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.leaving.is_none() {
            self.leaving = Some(now);
            // Nobody is to promote it again.
            self.introduce_anew(now);
        }
    }

    pub(super) fn is_heartbeat_due(&self, now: Instant) -> bool {
        matches!(&self.state, State::Leader(leading) if leading.heartbeat_at <= now)
    }

    /// All that is due at some time, and why.
    pub(super) fn timeouts(&self) -> impl Iterator<Item = (Instant, &'static str)> {
        let hello = self.peers.values().map(|peer| peer.hello_at).min();
        let (heartbeat, transfer, held) = match &self.state {
            State::Leader(leading) => (
                Some(leading.heartbeat_at),
                leading.transfer.map(|transfer| transfer.until),
                leading.held.map(|(_, until)| until),
            ),
            _ => (None, None, None),
        };
        let waits = matches!(
            self.state,
            State::Follower | State::PreCandidate(_) | State::Standing(_)
        );
        let election = waits.then_some(self.election_at);
        let leaving = self.leaving.filter(|_| self.incarnation.is_some());
        let all = [
            (hello.filter(|at| *at < Instant::FAR_FUTURE), "hello"),
            (heartbeat, "heartbeat"),
            (transfer, "transfer"),
            (held, "learners"),
            (election, "election"),
            (leaving, "leaving"),
            (self.change_over_at(), "change-over"),
            (self.founding_due_at(), "founding"),
            (self.reforming_due_at(), "reforming"),
        ];
        all.into_iter().filter_map(|(at, why)| Some((at?, why)))
    }

    /// Panics where an invariant does not hold. Looks at all of the log where `fully`.
    pub(super) fn check(&self, fully: bool) {
        self.log.check(fully);
        assert!(
            self.commit <= self.last().index,
            "committed up to {}, and the log ends at {}",
            self.commit,
            self.last()
        );
        assert!(
            self.last().term <= self.term,
            "the log ends at {} in term {}",
            self.last(),
            self.term
        );
        let (incarnation, commit) = self.checked_commit.get();
        assert!(
            incarnation != self.incarnation || commit <= self.commit,
            "the commit index has fallen from {commit} to {}",
            self.commit
        );
        self.checked_commit.set((self.incarnation, self.commit));
        if let State::Leader(leading) = &self.state {
            assert_eq!(leading.term, self.term, "a leader leads its own term");
            assert_eq!(self.leader, Some(self.me), "a leader follows itself");
        }
    }

    /// Whether a message is of the sender's present life and for ours.
    pub(super) fn is_current(&mut self, now: Instant, id: PeerId, envelope: &Envelope) -> bool {
        let me = self.me.instance;
        let ignores = mutant!(self.config, InstanceIgnored);
        let sender = Member {
            peer: id,
            instance: envelope.from,
        };
        // Its life is over: what it has said is late.
        if self.reforming.is_gone(&sender) {
            return false;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        // Votes and acknowledgements are promises of one life. Another has forgotten what this one knew,
        // and knows nothing of what this one promised.
        let is_known = peer.instance == Some(envelope.from) && peer.run == envelope.run;
        let is_for_us = envelope.to == Some(me);
        if !(is_known && is_for_us) && peer.hello_at == Instant::FAR_FUTURE {
            // One of us takes the other for somebody that it no longer is.
            peer.hello_at = now;
        }
        (is_known && is_for_us) || ignores
    }

    // ---- Bonds and who is who ----

    pub(super) fn bonded(&mut self, now: Instant, peer: PeerId, may_write: bool) {
        if peer == self.me.peer {
            return;
        }
        if let Some(known) = self.peers.remove(&peer) {
            self.forget(&known, peer);
        }
        self.peers.insert(peer, Peer::new(now, may_write));
    }

    pub(super) fn unbonded(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.remove(&peer) {
            self.forget(&known, peer);
        }
    }

    fn forget(&mut self, known: &Peer, peer: PeerId) {
        if let (State::Leader(leading), Some(instance)) = (&mut self.state, known.instance) {
            leading.lost(Member { peer, instance }, self.log.last().index);
        }
    }

    /// The members of our incarnation that there is a bond with.
    pub(super) fn bonded_members(&self) -> impl Iterator<Item = (Member, &Peer)> {
        let ours = self.incarnation;
        self.peers.iter().filter_map(move |(id, peer)| {
            let instance = peer.instance?;
            (ours.is_some() && peer.incarnation == ours).then_some((
                Member {
                    peer: *id,
                    instance,
                },
                peer,
            ))
        })
    }

    /// Where the log ends, as elections compare it.
    pub(super) fn last(&self) -> Position {
        self.log.last()
    }
}

impl LogView for Core {
    fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.entry(index)
    }

    fn kept_from(&self) -> Index {
        self.log.kept_from()
    }

    fn last_index(&self) -> Index {
        self.last().index
    }

    fn commit(&self) -> Index {
        self.commit
    }
}
