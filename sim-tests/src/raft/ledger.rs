//! What the groups have agreed on, as first seen: all that is seen later must agree with it.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::id::PeerId;
use smalti_core::protocol::raft::{
    Configuration, Entry, Incarnation, Index, Manifest, Member, Payload, Position, Term,
};

use super::digests::{of_entry, of_manifest};
use super::meetings::Meetings;
use super::reforms::Parentage;
use super::registers::{Command, CommandId, Effect};

/// An entry that some member has reported as committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    digest: u64,
    /// The term of whoever was the first to say so: every leader of a later term has the entry.
    said_in: Term,
}

/// An entry as it was first seen in a log.
#[derive(Clone, Copy, Debug)]
struct Appended {
    term: Term,
    digest: u64,
    /// The term of the one before; `None` where nobody that was seen to have it kept that one.
    previous: Option<Term>,
}

/// One incarnation.
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// By index; `None` where nobody was seen to have the entry once it was committed.
    committed: Vec<Option<Committed>>,
    /// Who led each term, and in which life of its node.
    leaders: BTreeMap<Term, (Member, u32)>,
    /// By index, as first seen in a log.
    appended: Vec<Option<Appended>>,
    /// The same of other terms than the one first seen.
    appended_else: BTreeMap<(Index, Term), Appended>,
    /// The digest of the manifest of each snapshot.
    manifests: BTreeMap<Position, u64>,
    /// Whom a member has voted for, and in which life of its node.
    votes: BTreeMap<(Term, Member), (Member, u32)>,
    /// The digest of the state at each index at which a member was seen.
    states: BTreeMap<Index, u64>,
    effects: BTreeMap<CommandId, (Index, u64)>,
    /// Where each command was committed first.
    commands: BTreeMap<CommandId, Index>,
    /// Commands that were committed again.
    pub(super) duplicates: u64,
    /// Committed voters, and where.
    configurations: Vec<(Index, Configuration)>,
    /// A member that had committed something had several voters: the entry that says so may have been compacted in
    /// the step that committed it.
    had_several_voters: bool,
    /// Voters that were replaced by a later life of their peers.
    pub(super) replaced: u64,
    /// The highest index of which an acknowledgement was seen.
    pub(super) acked: Index,
    /// How many commands were acknowledged.
    pub(super) acks: u64,
    pub(super) meetings: Meetings,
    /// Something was committed from which every later leader knows that the founding was completed: not just what
    /// leaders append when they begin, or for sessions.
    pub(super) shows_founded: bool,
    /// Where it was reformed from another.
    pub(super) parentage: Option<Parentage>,
    /// All that were seen to have a log.
    pub(super) members: BTreeSet<Member>,
    /// It was proved that it could not go on.
    pub(super) is_over: bool,
}

impl Life {
    fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            committed: Vec::new(),
            leaders: BTreeMap::new(),
            appended: Vec::new(),
            appended_else: BTreeMap::new(),
            manifests: BTreeMap::new(),
            votes: BTreeMap::new(),
            states: BTreeMap::new(),
            effects: BTreeMap::new(),
            commands: BTreeMap::new(),
            duplicates: 0,
            configurations: Vec::new(),
            had_several_voters: false,
            replaced: 0,
            acked: Index::ZERO,
            acks: 0,
            meetings: Meetings::default(),
            shows_founded: false,
            parentage: None,
            members: BTreeSet::new(),
            is_over: false,
        }
    }

    /// The last index known to be committed.
    pub(super) fn last(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// A member leads in `term`, in this life of its node.
    pub(super) fn leads(&mut self, term: Term, leader: Member, life: u32) {
        let (first, when) = *self.leaders.entry(term).or_insert((leader, life));
        assert!(
            first == leader && when == life,
            "election safety: {first} in life {when} and {leader} in life {life} both lead {} in term {term}",
            self.incarnation
        );
    }

    /// A member has an entry in its log, after one of term `previous`. Logs that have the same index and term
    /// have the same there and before: by what is compared at each place, at all below it too.
    pub(super) fn appends(&mut self, member: Member, entry: &Entry, previous: Option<Term>) {
        let place = entry.index.0 as usize - 1;
        if self.appended.len() <= place {
            self.appended.resize(place + 1, None);
        }
        let now = Appended {
            term: entry.term,
            digest: of_entry(entry),
            previous,
        };
        let first = match &mut self.appended[place] {
            Some(first) if first.term != entry.term => {
                let at = (entry.index, entry.term);
                self.appended_else.entry(at).or_insert(now)
            }
            first => first.get_or_insert(now),
        };
        first.previous = first.previous.or(previous);
        assert!(
            first.digest == now.digest && (previous.is_none() || first.previous == previous),
            "log matching: {member} has at {} of term {} another entry than others, or after one of another term: {now:?}, others {first:?}",
            entry.index,
            entry.term
        );
    }

    /// A member has a snapshot: at one position all have the same.
    pub(super) fn snapshot(&mut self, manifest: &Manifest) {
        let digest = of_manifest(manifest);
        let first = *self.manifests.entry(manifest.position).or_insert(digest);
        assert!(
            first == digest,
            "two snapshots at {} of {} differ: {manifest:?}",
            manifest.position,
            self.incarnation
        );
    }

    /// A leader of `term` must have all that was committed in terms before; `entry` gives what it has, from
    /// `kept_from` on.
    pub(super) fn is_complete<'a>(
        &self,
        term: Term,
        leader: Member,
        kept_from: Index,
        entry: impl Fn(Index) -> Option<&'a Entry>,
    ) {
        let first = kept_from.0.max(1);
        let above = self.committed.iter().enumerate().skip(first as usize - 1);
        for (place, committed) in above {
            let Some(committed) = committed.filter(|committed| committed.said_in < term) else {
                continue;
            };
            let index = Index(place as u64 + 1);
            let held = entry(index).map(|entry| entry.term);
            assert!(
                held == Some(committed.term),
                "leader completeness: {leader} leads term {term} and has {held:?} at {index}, where {} was committed in term {}",
                committed.term,
                committed.said_in
            );
        }
    }

    /// A member votes for a candidate. Gives in which life of the member's node it did so first.
    pub(super) fn votes(&mut self, term: Term, voter: Member, candidate: Member, life: u32) {
        let (first, _) = *self.votes.entry((term, voter)).or_insert((candidate, life));
        assert!(
            first == candidate,
            "{voter} votes in term {term} for {first} and for {candidate}"
        );
    }

    /// Whether a member has voted, in an earlier life of its node, for another candidate.
    pub(super) fn has_voted_before(
        &self,
        term: Term,
        voter: Member,
        candidate: Member,
        life: u32,
    ) -> bool {
        let vote = self.votes.get(&(term, voter));
        vote.is_some_and(|(first, when)| *first != candidate && *when < life)
    }

    /// A member whose term is `term` says that `entry` is committed. Gives whether it is the first to say so.
    pub(super) fn commit(
        &mut self,
        member: Member,
        term: Term,
        entry: &Entry,
        leaving: impl Fn(&PeerId) -> bool,
    ) -> bool {
        let place = entry.index.0 as usize - 1;
        if self.committed.len() <= place {
            self.committed.resize(place + 1, None);
        }
        let digest = of_entry(entry);
        match self.committed[place] {
            Some(first) => {
                assert!(
                    first.term == entry.term && first.digest == digest,
                    "state machine safety: at {} the entry of term {} was committed, and {member} says the same of one of term {}",
                    entry.index,
                    first.term,
                    entry.term
                );
                return false;
            }
            None => {
                self.committed[place] = Some(Committed {
                    term: entry.term,
                    digest,
                    said_in: term,
                });
            }
        }
        self.shows_founded |= !matches!(
            entry.payload,
            Payload::Founding(_) | Payload::Blank | Payload::Open(_)
        );
        match &entry.payload {
            Payload::Founding(charter) => {
                assert_eq!(entry.index, Index(1), "a founding is entry 1");
                assert_eq!(charter.incarnation(), self.incarnation);
                let configuration = Configuration {
                    voters: charter.voters.iter().copied().collect(),
                    demotions: BTreeMap::new(),
                };
                self.configured(entry.index, &configuration, leaving);
            }
            Payload::Configuration(configuration) => {
                self.configured(entry.index, configuration, leaving);
            }
            Payload::Commands(batch) => {
                let commands = batch.commands.iter().flatten();
                for command in commands.filter_map(Command::decode) {
                    if let Some(before) = self.commands.insert(command.id, entry.index) {
                        let first = before.min(entry.index);
                        self.commands.insert(command.id, first);
                        self.duplicates += 1;
                    }
                }
            }
            Payload::Frozen { .. }
            | Payload::Decided { .. }
            | Payload::Sealed { .. }
            | Payload::Thawed { .. } => self.meetings.commit(entry),
            Payload::Blank | Payload::Open(_) | Payload::SnapshotPoint => {}
        }
        true
    }

    /// Voters have been committed: they are one step from those before.
    fn configured(
        &mut self,
        index: Index,
        configuration: &Configuration,
        leaving: impl Fn(&PeerId) -> bool,
    ) {
        assert!(
            !configuration.voters.is_empty(),
            "nobody votes from {index} on"
        );
        let at = self.configurations.partition_point(|(at, _)| *at < index);
        let before = at.checked_sub(1).map(|at| &self.configurations[at]);
        // Where nobody was seen to have an entry in between, that may have been a step as well.
        if let Some((from, before)) = before
            && self.has_all(*from, index)
        {
            let added = configuration.voters.difference(&before.voters).count();
            let removed: Vec<_> = before.voters.difference(&configuration.voters).collect();
            let one_to_three = before.voters.len() == 1 && added == 2 && removed.is_empty();
            assert!(
                added + removed.len() <= 1 || one_to_three,
                "at {index} {added} voters come and {} go at once",
                removed.len()
            );
            if let [gone] = removed[..] {
                assert!(
                    configuration.voters.len() >= 3 || leaving(&gone.peer),
                    "at {index} {gone} is demoted, and {} are left",
                    configuration.voters.len()
                );
                let is_replaced = configuration
                    .voters
                    .iter()
                    .any(|voter| voter.peer == gone.peer);
                self.replaced += u64::from(is_replaced);
            }
        }
        self.configurations
            .insert(at, (index, configuration.clone()));
    }

    /// Whether all entries after `from`, up to `to`, were seen.
    pub(super) fn has_all(&self, from: Index, to: Index) -> bool {
        let between = self.committed.get(from.0 as usize..to.0 as usize);
        between.is_some_and(|between| between.iter().all(Option::is_some))
    }

    /// Whether it had several voters at some time.
    pub(super) fn had_several_voters(&self) -> bool {
        let inherits = self.parentage.as_ref().is_some_and(|it| it.was_group);
        inherits || self.had_several_voters
    }

    /// A member that has committed something goes by these voters.
    pub(super) fn has_voters(&mut self, configuration: &Configuration) {
        self.had_several_voters |= configuration.voters.len() > 1;
    }

    /// Whether its founding had several voters.
    pub(super) fn was_founded_by_several(&self) -> bool {
        let first = self.configurations.first();
        first.is_some_and(|(at, of)| *at == Index(1) && of.voters.len() > 1)
    }

    /// The last voters known to be committed.
    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.configurations
            .last()
            .map(|(_, configuration)| configuration)
    }

    /// A member has applied all up to `index`, and its state has this digest.
    pub(super) fn applied(&mut self, member: Member, index: Index, digest: u64) {
        let first = *self.states.entry(index).or_insert(digest);
        assert!(
            first == digest,
            "at {index} {member} has another state than others have had there"
        );
    }

    /// A member has applied a command.
    pub(super) fn effect(&mut self, member: Member, effect: &Effect) {
        self.is_allowed(effect.index);
        let seen = (effect.index, effect.before);
        let first = *self.effects.entry(effect.command.id).or_insert(seen);
        assert!(
            first == seen,
            "{member} applies {:?} at {}, others at {}",
            effect.command.id,
            effect.index,
            first.0
        );
    }

    /// Where a command was applied, and the value before it.
    pub(super) fn effect_of(&self, id: CommandId) -> Option<(Index, u64)> {
        self.effects.get(&id).copied()
    }

    /// Commands that were applied, each with its index and the value before it.
    pub(super) fn effects(&self) -> impl Iterator<Item = (CommandId, Index, u64)> {
        let effects = self.effects.iter();
        effects.map(|(id, (index, before))| (*id, *index, *before))
    }

    /// Commands that were committed, refused there, and applied further on.
    pub(super) fn resent(&self) -> u64 {
        let later = self
            .effects
            .iter()
            .filter(|(id, (index, _))| self.commands.get(id).is_some_and(|first| first < index));
        later.count() as u64
    }
}

/// All incarnations of a run.
#[derive(Default)]
pub(super) struct Ledger {
    lives: Vec<Life>,
    by_name: BTreeMap<Incarnation, usize>,
}

impl Ledger {
    /// The place of an incarnation.
    pub(super) fn place(&mut self, incarnation: Incarnation) -> usize {
        let next = self.lives.len();
        let place = *self.by_name.entry(incarnation).or_insert(next);
        if place == next {
            self.lives.push(Life::new(incarnation));
        }
        place
    }

    pub(super) fn find(&self, incarnation: &Incarnation) -> Option<&Life> {
        Some(&self.lives[*self.by_name.get(incarnation)?])
    }

    pub(super) fn find_mut(&mut self, incarnation: &Incarnation) -> Option<&mut Life> {
        Some(&mut self.lives[*self.by_name.get(incarnation)?])
    }

    pub(super) fn life(&mut self, place: usize) -> &mut Life {
        &mut self.lives[place]
    }

    pub(super) fn lives(&self) -> &[Life] {
        &self.lives
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use smalti_core::id::{Digest, Instance};

    use super::super::peers::peer;
    use super::*;
    use smalti_sim::NodeIndex;

    fn life() -> Life {
        Life::new(Incarnation(Digest::of("test", &[])))
    }

    fn member(number: u8) -> Member {
        Member {
            peer: peer(NodeIndex(u32::from(number))),
            instance: Instance::from_bytes([number; 16]),
        }
    }

    fn entry(index: u64, term: u64, payload: Payload) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            payload,
        }
    }

    fn voters(numbers: &[u8]) -> Payload {
        Payload::Configuration(Configuration {
            voters: numbers
                .iter()
                .map(|number| member(*number))
                .collect::<BTreeSet<_>>(),
            demotions: BTreeMap::new(),
        })
    }

    fn commit(life: &mut Life, entry: &Entry) -> bool {
        life.commit(member(0), entry.term, entry, |_| false)
    }

    #[test]
    fn the_same_is_committed_everywhere() {
        let mut life = life();
        assert!(commit(&mut life, &entry(3, 2, Payload::Blank)));
        assert!(!commit(&mut life, &entry(3, 2, Payload::Blank)));
        assert_eq!(life.last(), Index(3));
    }

    #[test]
    #[should_panic(expected = "state machine safety: at 3")]
    fn other_entries_at_a_committed_place_are_found() {
        let mut life = life();
        commit(&mut life, &entry(3, 2, Payload::Blank));
        commit(&mut life, &entry(3, 2, Payload::SnapshotPoint));
    }

    #[test]
    #[should_panic(expected = "election safety")]
    fn two_leaders_of_a_term_are_found() {
        let mut life = life();
        life.leads(Term(2), member(1), 0);
        life.leads(Term(3), member(2), 0);
        life.leads(Term(2), member(2), 0);
    }

    #[test]
    #[should_panic(expected = "election safety")]
    fn a_leader_that_leads_again_after_a_restart_is_found() {
        let mut life = life();
        life.leads(Term(2), member(1), 0);
        life.leads(Term(2), member(1), 1);
    }

    #[test]
    fn logs_may_differ_until_they_have_an_entry_of_one_term() {
        let mut life = life();
        life.appends(member(1), &entry(3, 2, Payload::Blank), None);
        life.appends(
            member(2),
            &entry(3, 3, Payload::SnapshotPoint),
            Some(Term(1)),
        );
        life.appends(member(2), &entry(3, 2, Payload::Blank), Some(Term(2)));
        life.appends(
            member(3),
            &entry(3, 3, Payload::SnapshotPoint),
            Some(Term(1)),
        );
    }

    #[test]
    #[should_panic(expected = "log matching")]
    fn another_entry_of_the_same_index_and_term_is_found() {
        let mut life = life();
        life.appends(member(1), &entry(3, 2, Payload::Blank), None);
        life.appends(member(2), &entry(3, 2, Payload::SnapshotPoint), None);
    }

    #[test]
    #[should_panic(expected = "log matching")]
    fn another_entry_before_the_same_one_is_found() {
        let mut life = life();
        life.appends(member(1), &entry(3, 2, Payload::Blank), Some(Term(2)));
        life.appends(member(2), &entry(3, 2, Payload::Blank), Some(Term(1)));
    }

    #[test]
    #[should_panic(expected = "leader completeness")]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut life = life();
        let committed = entry(1, 2, Payload::Blank);
        commit(&mut life, &committed);
        life.is_complete(Term(2), member(1), Index(1), |_| None);
        life.is_complete(Term(3), member(1), Index(1), |_| Some(&committed));
        life.is_complete(Term(3), member(1), Index(2), |_| None);
        life.is_complete(Term(3), member(1), Index(1), |_| None);
    }

    #[test]
    #[should_panic(expected = "votes in term 2 for")]
    fn two_votes_in_a_term_are_found() {
        let mut life = life();
        life.votes(Term(2), member(1), member(2), 0);
        life.votes(Term(2), member(1), member(2), 1);
        assert!(life.has_voted_before(Term(2), member(1), member(3), 1));
        life.votes(Term(2), member(1), member(3), 1);
    }

    #[test]
    fn voters_change_one_by_one_and_from_one_to_three() {
        let mut life = life();
        commit(&mut life, &entry(1, 1, voters(&[1])));
        commit(&mut life, &entry(2, 1, voters(&[1, 2, 3])));
        commit(&mut life, &entry(3, 1, voters(&[1, 2, 3, 4])));
        commit(&mut life, &entry(4, 1, voters(&[1, 2, 4])));
        life.commit(member(0), Term(1), &entry(5, 1, voters(&[1, 2])), |peer| {
            *peer == member(4).peer
        });
        assert_eq!(
            life.configuration().map(|voters| voters.voters.len()),
            Some(2)
        );
    }

    #[test]
    #[should_panic(expected = "at 2 1 voters come and 1 go at once")]
    fn two_changes_of_voters_at_once_are_found() {
        let mut life = life();
        commit(&mut life, &entry(1, 1, voters(&[1, 2, 3])));
        commit(&mut life, &entry(2, 1, voters(&[1, 2, 4])));
    }

    #[test]
    #[should_panic(expected = "is demoted, and 2 are left")]
    fn a_demotion_to_two_is_found() {
        let mut life = life();
        commit(&mut life, &entry(1, 1, voters(&[1, 2, 3])));
        commit(&mut life, &entry(2, 1, voters(&[1, 2])));
    }

    #[test]
    #[should_panic(expected = "has another state")]
    fn states_that_differ_are_found() {
        let mut life = life();
        life.applied(member(1), Index(7), 5);
        life.applied(member(2), Index(8), 6);
        life.applied(member(2), Index(7), 6);
    }
}
