//! What is left of an incarnation that has no leader, and what follows from it.
//!
//! Pure: [`Survey::judge`] looks at what the members and the later lives of lost ones have answered, and decides
//! nothing by itself. [`reforming`](super::reforming) asks, and does what the finding calls for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::standing::Seal;
use super::types::{Incarnation, Member, Position};
use crate::id::PeerId;

/// Lives named in one answer, at most. A group that names more is not reformed without an operator.
pub(super) const NAMED_MAX: usize = 512;

/// What a peer knows of an incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remains {
    /// It hears a leader, or leads.
    pub goes_on: bool,
    /// It belongs to an incarnation that was reformed from this one.
    pub has_gone_over: bool,
    /// It knows that the incarnation was given up for another.
    pub sealed: Option<Seal>,
    /// What it has, where it is a member.
    pub part: Option<Part>,
    /// The members that it has a bond with.
    pub knows: Vec<Member>,
    /// Voters whose store it knows to have been set back: it does not vote for them, nor counts their votes.
    pub set_back: Vec<Member>,
}

/// What a member has of its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// Where its log ends.
    pub last: Position,
    /// The last entry that it knows to be committed.
    pub commit: Position,
    /// Its log has the entry that was asked for, or it is known to be committed there.
    pub has_floor: bool,
    /// Who votes, by the last configuration in its log.
    pub voters: Vec<Member>,
    /// All that vote by the configuration that it knows to be committed, or by one after it.
    pub named: Vec<Member>,
    /// It leads only where nobody else can, or is about to leave.
    pub is_observer: bool,
}

impl Remains {
    /// Whether it is of a size that can be handled; asked of all that comes from elsewhere.
    pub(super) fn is_sound(&self) -> bool {
        let part = self.part.as_ref();
        let named = part.map_or(0, |part| part.named.len().max(part.voters.len()));
        let listed = self.knows.len().max(self.set_back.len());
        listed <= NAMED_MAX && named <= NAMED_MAX
    }
}

/// What a peer has answered, and who it was.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) member: Member,
    /// The incarnation that it belongs to.
    pub(super) incarnation: Option<Incarnation>,
    pub(super) remains: Remains,
}

/// All that one round of questions has brought.
pub(super) struct Survey<'a> {
    pub(super) of: Incarnation,
    pub(super) me: Member,
    /// Our own part.
    pub(super) ours: &'a Remains,
    /// The entry that was asked about.
    pub(super) floor: Position,
    /// The lives that were named before the round began. An answer tells nothing of one named later: the life
    /// that has answered may be older than that.
    pub(super) known: &'a BTreeSet<Member>,
    pub(super) answers: &'a BTreeMap<PeerId, Answer>,
    /// Members that were asked and have not answered.
    pub(super) silent: &'a BTreeSet<Member>,
}

/// What a round has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It has a leader, or can elect one.
    GoesOn,
    /// A member knows of a later entry that was committed, or nobody has the one that was asked about: all are to be
    /// asked for this one.
    OtherFloor(Position),
    /// It cannot go on with those that have answered.
    Stands(Left),
}

/// Who is left of an incarnation that cannot elect a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Those that take part.
    pub(super) participants: BTreeSet<Member>,
    /// Lives that are over for certain.
    pub(super) gone: BTreeSet<Member>,
    /// Who neither takes part nor is gone for certain.
    pub(super) missing: BTreeSet<Member>,
    /// Somebody has a log, and so knows who might go on.
    pub(super) can_judge: bool,
    /// Who has the log that the others would go on from.
    pub(super) heir: Member,
}

impl Left {
    /// Whether it is certain that nobody can ever go on.
    pub(super) fn is_proved(&self) -> bool {
        self.can_judge && self.missing.is_empty()
    }
}

impl Survey<'_> {
    /// What all that follows from.
    pub(super) fn judge(&self) -> Finding {
        let parts = self.parts();
        let set_back = self.set_back();
        let goes_on = |answer: &Answer| answer.remains.goes_on;
        if self.ours.goes_on
            || self.answers.values().any(goes_on)
            || parts
                .keys()
                .any(|candidate| could_win(candidate, &parts, &set_back))
        {
            return Finding::GoesOn;
        }
        let commits = parts.values().map(|part| part.commit);
        let highest = commits.max_by_key(|commit| commit.index);
        // Who knew of the entry that was asked about may have begun another life since. Where nobody has it any more nobody
        // would be fit, and an empty log as good as any.
        let is_lost = !parts.values().any(|part| part.has_floor);
        if let Some(highest) = highest.filter(|it| it.index > self.floor.index || is_lost) {
            return Finding::OtherFloor(highest);
        }
        let participants: BTreeSet<Member> = parts.keys().copied().collect();
        let mut called: BTreeSet<Member> = self.silent.clone();
        let all = self.answers.values().map(|answer| &answer.remains);
        for remains in all.chain([self.ours]) {
            called.extend(&remains.knows);
            called.extend(remains.part.iter().flat_map(|part| &part.named));
        }
        let absent = called.difference(&participants);
        let (gone, missing) = absent.partition(|life| self.is_over(life));
        Finding::Stands(Left {
            can_judge: parts.values().any(|part| !part.voters.is_empty()),
            heir: self.heir(&parts),
            participants,
            gone,
            missing,
        })
    }

    fn parts(&self) -> BTreeMap<Member, &Part> {
        let others = self.answers.values();
        let others =
            others.filter_map(|answer| Some((answer.member, answer.remains.part.as_ref()?)));
        let ours = self.ours.part.as_ref().map(|part| (self.me, part));
        others.chain(ours).collect()
    }

    /// Those that are known to have been set back.
    fn set_back(&self) -> BTreeSet<Member> {
        let others = self.answers.values().map(|answer| &answer.remains);
        let all = others.chain([self.ours]);
        all.flat_map(|it| it.set_back.iter().copied()).collect()
    }

    /// Whether a life is over, or never belonged to the incarnation.
    fn is_over(&self, life: &Member) -> bool {
        // Whoever asks lives now: another life of the same peer that is named was before it.
        if life.peer == self.me.peer {
            return *life != self.me;
        }
        let Some(answer) = self.answers.get(&life.peer) else {
            return false;
        };
        let is_another = answer.member != *life;
        // A life belongs to one incarnation, and leaves it only to become another.
        let is_elsewhere = answer.incarnation.is_some_and(|of| of != self.of);
        self.known.contains(life) && (is_another || is_elsewhere)
    }

    /// Who is gone on from: the greatest log, as elections compare them, of those that have all that anybody is
    /// known to have committed. The greatest log of all may lack that: its last entries may be of a leader that never
    /// committed anything.
    fn heir(&self, parts: &BTreeMap<Member, &Part>) -> Member {
        let fit = parts.iter().filter(|(_, part)| part.has_floor);
        let best = fit.max_by_key(|(member, part)| {
            (part.last, !part.is_observer, std::cmp::Reverse(**member))
        });
        best.map_or(self.me, |(member, _)| *member)
    }
}

/// Whether so many of those that take part would vote for `candidate` that it would be elected.
fn could_win(
    candidate: &Member,
    parts: &BTreeMap<Member, &Part>,
    set_back: &BTreeSet<Member>,
) -> bool {
    let Some(own) = parts.get(candidate) else {
        return false;
    };
    let would_vote = |voter: &&Member| {
        let part = parts.get(voter);
        // Those who know that it was set back do not count its vote, nor vote for it. Others may; but to wait for them could
        // be to wait for ever.
        part.is_some_and(|part| part.last <= own.last) && !set_back.contains(voter)
    };
    let votes = own.voters.iter().filter(would_vote).count();
    // Only voters stand for election. A learner may be the only one that has a change of voters by which others would
    // be a majority, and they have not: nobody is ever elected, and to wait for it would be to wait for ever.
    let stands = own.voters.contains(candidate) && !set_back.contains(candidate);
    stands && votes > own.voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Digest, Instance};
    use crate::protocol::raft::types::{Index, Term};

    const OF: u8 = 7;

    fn incarnation(n: u8) -> Incarnation {
        Incarnation(Digest::from_bytes([n; 32]))
    }

    fn member(peer: u8, life: u8) -> Member {
        Member {
            peer: PeerId::from_bytes([peer; 32]),
            instance: Instance::from_bytes([life; 16]),
        }
    }

    fn at(index: u64, term: u64) -> Position {
        Position {
            term: Term(term),
            index: Index(index),
        }
    }

    fn first(peers: &[u8]) -> Vec<Member> {
        peers.iter().map(|peer| member(*peer, 1)).collect()
    }

    fn part(last: Position, commit: Position, voters: &[u8]) -> Remains {
        Remains {
            goes_on: false,
            has_gone_over: false,
            sealed: None,
            part: Some(Part {
                last,
                commit,
                has_floor: true,
                voters: first(voters),
                named: first(voters),
                is_observer: false,
            }),
            knows: Vec::new(),
            set_back: Vec::new(),
        }
    }

    fn nothing() -> Remains {
        Remains {
            part: None,
            ..part(Position::ZERO, Position::ZERO, &[])
        }
    }

    /// What 1 in its first life finds out where others answer so.
    fn judge(ours: &Remains, floor: Position, answers: &[(Member, u8, Remains)]) -> Finding {
        let answers = answers.iter().map(|(member, of, remains)| {
            let answer = Answer {
                member: *member,
                incarnation: (*of > 0).then(|| incarnation(*of)),
                remains: remains.clone(),
            };
            (member.peer, answer)
        });
        let known = first(&[1, 2, 3, 4]).into_iter().collect();
        Survey {
            of: incarnation(OF),
            me: member(1, 1),
            ours,
            floor,
            known: &known,
            answers: &answers.collect(),
            silent: &BTreeSet::new(),
        }
        .judge()
    }

    fn left(finding: Finding) -> Left {
        match finding {
            Finding::Stands(left) => left,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lives_that_are_over_are_no_longer_waited_for() {
        let ours = part(at(9, 2), at(8, 2), &[1, 2, 3]);
        let empty = part(Position::ZERO, Position::ZERO, &[]);
        let two = (member(2, 2), OF, empty.clone());
        let found = left(judge(&ours, at(8, 2), std::slice::from_ref(&two)));
        assert!(!found.is_proved());
        assert_eq!(found.missing, first(&[3]).into_iter().collect());
        for three in [
            (member(3, 2), OF, empty),
            (member(3, 2), 0, nothing()),
            (member(3, 1), OF + 1, nothing()),
        ] {
            let found = left(judge(&ours, at(8, 2), &[two.clone(), three]));
            assert!(found.is_proved(), "{found:?}");
            assert_eq!(found.gone, first(&[2, 3]).into_iter().collect());
            assert_eq!(found.heir, member(1, 1));
        }
    }

    #[test]
    fn a_candidate_of_the_same_life_may_still_accept_the_founding() {
        let ours = part(at(9, 2), at(8, 2), &[1, 2, 3]);
        let others = [(member(2, 2), 0, nothing()), (member(3, 1), 0, nothing())];
        let found = left(judge(&ours, at(8, 2), &others));
        assert_eq!(found.missing, first(&[3]).into_iter().collect());
    }

    #[test]
    fn a_life_named_by_an_answer_alone_may_be_younger_than_the_answers() {
        let ours = part(at(9, 2), at(8, 2), &[1, 2, 3]);
        let mut two = part(at(9, 2), at(8, 2), &[1, 2, 3, 5, 6]);
        let others = |two: &Remains| {
            [
                (member(2, 1), OF, two.clone()),
                (member(3, 2), 0, nothing()),
                (member(5, 2), 0, nothing()),
                (member(6, 2), 0, nothing()),
            ]
        };
        assert_eq!(judge(&ours, at(8, 2), &others(&two)), Finding::GoesOn);
        two.part.as_mut().unwrap().last = at(10, 2);
        let mut ours = ours;
        ours.part.as_mut().unwrap().voters = first(&[1, 2, 3, 5, 6]);
        let found = left(judge(&ours, at(8, 2), &others(&two)));
        assert_eq!(found.missing, first(&[5, 6]).into_iter().collect());
    }

    #[test]
    fn members_that_others_know_of_are_waited_for() {
        let ours = part(at(9, 2), at(8, 2), &[1, 2]);
        let mut two = nothing();
        two.knows = vec![member(8, 1)];
        let found = left(judge(&ours, at(8, 2), &[(member(2, 2), 0, two)]));
        assert_eq!(found.missing, [member(8, 1)].into());
    }

    #[test]
    fn who_can_elect_a_leader_is_left_alone() {
        // Schedule D1b: 4 alone knows of the voters 1 and 3, and 1 has begun another life.
        let ours = part(at(5, 1), at(4, 1), &[1, 2, 3]);
        let two = part(at(5, 1), at(4, 1), &[1, 2, 3]);
        assert_eq!(
            judge(&ours, at(4, 1), &[(member(2, 1), OF, two)]),
            Finding::GoesOn
        );
        // Schedule D4: 1 alone has the change that removes 2, and 3 is gone.
        let ours = part(at(6, 1), at(5, 1), &[1, 3]);
        let others = [
            (member(2, 1), OF, part(at(5, 1), at(5, 1), &[1, 2, 3])),
            (member(3, 2), 0, nothing()),
        ];
        let found = left(judge(&ours, at(5, 1), &others));
        assert!(found.is_proved());
        assert_eq!(found.heir, member(1, 1));
        // Were its log no longer than that of 2, 2 would be elected.
        let ours = part(at(5, 1), at(5, 1), &[1, 3]);
        assert_eq!(judge(&ours, at(5, 1), &others), Finding::GoesOn);
        let mut hears = part(at(5, 1), at(5, 1), &[1, 2, 3]);
        hears.goes_on = true;
        assert_eq!(
            judge(&nothing(), at(5, 1), &[(member(2, 1), OF, hears)]),
            Finding::GoesOn
        );
    }

    #[test]
    fn who_never_stands_for_election_is_not_waited_for() {
        // By what 5 has 1 and 2 are a majority; by what they have they need one of 3 and 4.
        let ours = part(at(5, 1), at(5, 1), &[1, 2, 3, 4]);
        let others = |voters| {
            [
                (member(2, 1), OF, ours.clone()),
                (member(3, 2), 0, nothing()),
                (member(4, 2), 0, nothing()),
                (member(5, 1), OF, part(at(6, 1), at(5, 1), voters)),
            ]
        };
        let finding = judge(&ours, at(5, 1), &others(&[1, 2, 3]));
        assert_eq!(left(finding).heir, member(5, 1));
        let as_voter = judge(&ours, at(5, 1), &others(&[1, 2, 5]));
        assert_eq!(as_voter, Finding::GoesOn);
    }

    #[test]
    fn who_was_set_back_is_neither_elected_nor_elects() {
        // 3 is gone. 1 knows that 2 was set back; 2 does not.
        let mut ours = part(at(5, 1), at(5, 1), &[1, 2, 3]);
        let gone = (member(3, 2), 0, nothing());
        let others = [(member(2, 1), OF, ours.clone()), gone];
        assert_eq!(judge(&ours, at(5, 1), &others), Finding::GoesOn);
        ours.set_back = first(&[2]);
        assert!(left(judge(&ours, at(5, 1), &others)).is_proved());
        let mut longer = ours.clone();
        longer.part.as_mut().unwrap().last = at(6, 1);
        longer.set_back.clear();
        let others = [(member(2, 1), OF, longer), others[1].clone()];
        assert_eq!(left(judge(&ours, at(5, 1), &others)).heir, member(2, 1));
    }

    #[test]
    fn the_heir_has_all_that_is_known_to_be_committed() {
        // 4 has a later entry of a leader that never committed it, in the place of one that 1 knows committed.
        let ours = part(at(5, 1), at(5, 1), &[1, 2, 3]);
        let others = |has_floor| {
            let mut four = part(at(5, 2), at(4, 1), &[1, 2, 3]);
            four.part.as_mut().unwrap().has_floor = has_floor;
            [(member(4, 1), OF, four)]
        };
        assert_eq!(
            judge(&ours, at(4, 1), &others(true)),
            Finding::OtherFloor(at(5, 1))
        );
        let heir = |has_floor| left(judge(&ours, at(5, 1), &others(has_floor))).heir;
        assert_eq!(heir(false), member(1, 1));
        assert_eq!(heir(true), member(4, 1));
    }

    #[test]
    fn an_entry_that_nobody_has_any_more_makes_nobody_fit_to_found_from_nothing() {
        // Who knew of entry 9 has begun another life since; 4 has the best log that is left, and 1 none.
        let mut empty = part(Position::ZERO, Position::ZERO, &[]);
        empty.part.as_mut().unwrap().has_floor = false;
        let mut four = part(at(5, 1), at(4, 1), &[2, 3, 4]);
        four.part.as_mut().unwrap().has_floor = false;
        let four = [(member(4, 1), OF, four)];
        assert_eq!(
            judge(&empty, at(9, 1), &four),
            Finding::OtherFloor(at(4, 1))
        );
    }

    #[test]
    fn who_has_no_log_cannot_judge() {
        let empty = part(Position::ZERO, Position::ZERO, &[]);
        let found = left(judge(&empty, Position::ZERO, &[]));
        assert!(found.missing.is_empty() && !found.is_proved());
    }

    #[test]
    fn of_equal_logs_one_that_may_lead_is_gone_on_from() {
        let mut ours = part(at(5, 1), at(5, 1), &[2, 3]);
        ours.part.as_mut().unwrap().is_observer = true;
        let four = (member(4, 1), OF, part(at(5, 1), at(5, 1), &[2, 3]));
        assert_eq!(left(judge(&ours, at(5, 1), &[four])).heir, member(4, 1));
    }
}
