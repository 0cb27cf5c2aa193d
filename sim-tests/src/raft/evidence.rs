//! What a member has heard: whatever it claims must follow from it.
//!
//! A member that leads has been sent the votes of a majority, for that term and in this life; what a leader
//! commits was acknowledged to it by a majority; a read is answered once a majority has answered something
//! that was sent after the read came; and what was meant for another life, or said by one that is not the
//! present one, or in another incarnation, changes nothing. What goes wrong otherwise takes much luck; that
//! the evidence is missing can be seen at once.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::id::{Instance, PeerId};
use smalti_core::protocol::raft::{
    Configuration, Incarnation, Index, Member, Message, Payload, ReadId, Role, Run, Status, Term,
};
use smalti_sim::NodeIndex;

use super::driven::{Driven, Heard, Letter, Said};
use super::peers::{self, NODES_MAX};
use super::watch::{Watch, Watched};

/// What one life of a node has heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Who each peer has last said it is, since the bond with it was made.
    known: [Option<Instance>; NODES_MAX],
    /// Of which run of each peer it has last heard.
    runs: [Option<Run>; NODES_MAX],
    /// Who has granted a vote for a term, or (`true`) has said that it would.
    votes: BTreeSet<(Term, bool, Member)>,
    /// Of a leader: how far each member has acknowledged, and the latest round that it has answered.
    followed: BTreeMap<Member, (Index, u64)>,
    /// In which life and term it last sent appends, the latest round of them, and the one before the present
    /// step.
    leading: Option<(Instance, Term)>,
    round: u64,
    round_before: u64,
    /// Reads that came while it led, each with the latest round before it.
    asked: BTreeMap<(Member, u64), u64>,
    /// Those that were answered in this step.
    told: Vec<(Member, u64)>,
    /// Answers to messages that were sent in this step.
    answers: u32,
}

impl Evidence {
    /// The member sends a message.
    pub(super) fn sends(&mut self, from: Instance, to: Member, message: &Message) {
        match message {
            Message::Append(append) => {
                let leading = Some((from, append.term));
                if leading != self.leading {
                    self.leading = leading;
                    (self.round, self.round_before) = (0, 0);
                }
                self.round = self.round.max(append.round);
            }
            Message::ReadIndexReply { id, .. } => self.told.push((to, *id)),
            Message::VoteReply { .. }
            | Message::AppendReply(_)
            | Message::NotLeader { .. }
            | Message::Fetched { .. }
            | Message::Gone { .. }
            | Message::Promise { .. } => self.answers += 1,
            _ => {}
        }
    }

    /// Of which run of `node` it has last heard.
    pub(super) const fn run_of(&self, node: NodeIndex) -> Option<Run> {
        self.runs[node.0 as usize]
    }

    /// The member answers a read of its own node.
    pub(super) fn reads(&mut self, me: Member, read: ReadId) {
        self.told.push((me, read.0));
    }

    fn hears(&mut self, heard: &Heard, watch: &Seen<'_>, status: &Status<'_>) {
        match heard {
            Heard::Bond(peer) => self.known[place(peer)] = None,
            Heard::Message(letter) => {
                if matches!(letter.said, Said::Hello) {
                    self.runs[place(&letter.from.peer)] = Some(letter.run);
                    self.known[place(&letter.from.peer)] = Some(letter.from.instance);
                } else if !self.is_void(letter, watch, status) {
                    self.takes(letter, status);
                }
            }
            Heard::Read(read) if watch.led => {
                let since = self.since(status);
                self.asked.insert((status.me, read.0), since);
            }
            Heard::Read(_) | Heard::Other => {}
        }
    }

    /// Whether a message means nothing to the member: it is for another life, of another one than the peer
    /// says it is in, or of another incarnation.
    fn is_void(&self, letter: &Letter, watch: &Seen<'_>, status: &Status<'_>) -> bool {
        let mine = [watch.me, Some(status.me)];
        let is_for_us = mine
            .iter()
            .flatten()
            .any(|me| letter.to == Some(me.instance));
        let is_present = self.known[place(&letter.from.peer)] == Some(letter.from.instance);
        let is_ours = letter.incarnation.is_some()
            && [watch.incarnation, status.incarnation].contains(&letter.incarnation);
        let is_for_any = matches!(letter.said, Said::Founding | Said::Snapshot);
        !is_for_us || !is_present || !(is_ours || is_for_any)
    }

    /// The latest round of the term that the member leads, before this step.
    fn since(&self, status: &Status<'_>) -> u64 {
        if self.leading == Some((status.me.instance, status.term)) {
            self.round_before
        } else {
            0
        }
    }

    fn takes(&mut self, letter: &Letter, status: &Status<'_>) {
        let leads = status.role == Role::Leader;
        match letter.said {
            Said::Vote { term, pre } => {
                self.votes.insert((term, pre, letter.from));
            }
            Said::Followed {
                term,
                round,
                matched,
            } if leads && term == status.term => {
                let followed = self.followed.entry(letter.from).or_default();
                followed.0 = followed.0.max(matched.unwrap_or_default());
                followed.1 = followed.1.max(round);
            }
            Said::ReadIndex(id) if leads => {
                let since = self.since(status);
                self.asked.entry((letter.from, id)).or_insert(since);
            }
            _ => {}
        }
    }
}

/// What a member was before a step.
struct Seen<'a> {
    me: Option<Member>,
    incarnation: Option<Incarnation>,
    /// It led the term that it leads now.
    led: bool,
    configuration: &'a Configuration,
}

fn place(peer: &PeerId) -> usize {
    peers::node(peer).0 as usize
}

/// Whether a majority of either set of voters are such that `is`.
fn most(configurations: [&Configuration; 2], is: impl Fn(&Member) -> bool) -> bool {
    configurations.into_iter().any(|configuration| {
        let voters = configuration.voters.iter();
        let count = voters.filter(|voter| is(voter)).count();
        !configuration.voters.is_empty() && count >= configuration.majority()
    })
}

impl Watched<'_> {
    /// Compares what a step has made of the member with what it has heard.
    pub(super) fn evidence(&mut self, machine: &Driven) {
        let watch = &mut self.watches[self.node.0 as usize];
        let mut evidence = std::mem::take(&mut watch.evidence);
        let watch = &self.watches[self.node.0 as usize];
        let status = machine.status();
        let seen = Seen {
            me: watch.me,
            incarnation: watch.incarnation,
            led: watch.leads() && status.role == Role::Leader && watch.term == status.term,
            configuration: &watch.configuration,
        };
        if !seen.led {
            evidence.followed.clear();
            evidence.asked.clear();
        }
        if status.term > watch.term {
            evidence.votes.retain(|(term, ..)| *term >= status.term);
        }
        if let Some(Heard::Message(letter)) = machine.heard_alone()
            && !matches!(letter.said, Said::Hello)
            && !watch.is_reborn
            && evidence.is_void(letter, &seen, &status)
        {
            self.nothing_changes(letter, watch, &status, evidence.answers);
        }
        for heard in machine.heard() {
            evidence.hears(heard, &seen, &status);
        }
        self.is_elected(machine, watch, &evidence);
        if status.role == Role::Leader {
            self.is_followed(&status, watch, &seen, &evidence);
        }
        evidence.told.clear();
        evidence.answers = 0;
        evidence.round_before = evidence.round;
        self.watches[self.node.0 as usize].evidence = evidence;
    }

    /// A message that means nothing has come alone.
    fn nothing_changes(&self, letter: &Letter, watch: &Watch, status: &Status<'_>, answers: u32) {
        // Time changes what candidates and leaders do, whatever comes; and who leaves may be done with it.
        let was_nobodys = watch.role == Role::Candidate || watch.incarnation.is_none();
        if was_nobodys
            || watch.leads()
            || self.leaving.contains(&peers::peer(self.node))
            || status.role == Role::Stopped
        {
            return;
        }
        let before = (
            watch.role,
            watch.term,
            watch.leader,
            watch.last,
            watch.commit,
        );
        let after = (
            status.role,
            status.term,
            status.leader,
            status.last,
            status.commit,
        );
        assert!(
            before == after && answers == 0,
            "{} goes by {letter:?}, which is for another life of it, of an earlier one of the peer, or of another incarnation: from {before:?} to {after:?}, with {answers} answers",
            self.node
        );
    }

    /// Who stands or leads has the votes for it.
    fn is_elected(&self, machine: &Driven, watch: &Watch, evidence: &Evidence) {
        let status = machine.status();
        let is_news = (watch.role, watch.term) != (status.role, status.term);
        if !is_news || !matches!(status.role, Role::Standing | Role::Leader) {
            return;
        }
        let founded = machine.entry(Index(1)).is_some_and(|entry| {
            matches!(&entry.payload, Payload::Founding(charter) if charter.founder == status.me)
        });
        if founded && status.term == Term(1) {
            return;
        }
        // It goes on alone from what is left of the one before.
        let life = status.incarnation.and_then(|of| self.ledger.find(&of));
        let parentage = life.and_then(|life| life.parentage.as_ref());
        if parentage.is_some_and(|it| it.founder == self.node) && watch.is_reborn {
            return;
        }
        let configurations = [status.configuration, &watch.configuration];
        let has = |pre: bool| {
            most(configurations, |voter| {
                *voter == status.me || evidence.votes.contains(&(status.term, pre, *voter))
            })
        };
        let is_handed_over = watch
            .handed_over
            .is_some_and(|term| term.next() == status.term);
        assert!(
            has(true)
                || is_handed_over
                || (watch.role, watch.term) == (Role::Standing, status.term),
            "{} stands for term {}, and no majority has told it that it would vote for it: {:?}",
            self.node,
            status.term,
            evidence.votes
        );
        assert!(
            status.role != Role::Leader || has(false),
            "{} leads term {}, and no majority has told it that it votes for it: {:?}",
            self.node,
            status.term,
            evidence.votes
        );
    }

    /// What a leader commits was acknowledged, and what it reads was confirmed.
    fn is_followed(
        &self,
        status: &Status<'_>,
        watch: &Watch,
        seen: &Seen<'_>,
        evidence: &Evidence,
    ) {
        let configurations = [status.configuration, seen.configuration];
        let is_so = |is: &dyn Fn(Index, u64) -> bool| {
            most(configurations, |voter| {
                let followed = evidence.followed.get(voter);
                *voter == status.me || followed.is_some_and(|(matched, round)| is(*matched, *round))
            })
        };
        if seen.led && status.commit > watch.commit {
            assert!(
                is_so(&|matched, _| matched >= status.commit),
                "{} commits {}, and no majority has told it that it has it: {:?}",
                self.node,
                status.commit,
                evidence.followed
            );
        }
        for read in &evidence.told {
            let Some(since) = evidence.asked.get(read) else {
                continue;
            };
            assert!(
                is_so(&|_, round| round > *since),
                "{} answers the read {read:?}, which came after round {since}, and no majority has answered a later one: {:?}",
                self.node,
                evidence.followed
            );
        }
    }
}
