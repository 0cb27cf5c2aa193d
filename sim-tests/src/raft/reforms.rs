//! Incarnations that go on from others: what they inherit, and that those end with it.

use std::collections::{BTreeMap, BTreeSet};

use smalti_core::id::PeerId;
use smalti_core::protocol::raft::{
    Configuration, Envelope, Incarnation, Index, Member, Message, Position, Reform, Reformed, Role,
    Verdict, Version,
};
use smalti_sim::NodeIndex;

use super::disk::Disk;
use super::ledger::{Ledger, Life};
use super::peers;
use super::rare;
use super::registers::{CommandId, Registers};
use super::watch::Watch;
use crate::Coverage;

/// Where an incarnation comes from.
#[derive(Clone, Debug)]
pub(super) struct Parentage {
    pub(super) parent: Incarnation,
    /// Where the log ended that it goes on from.
    pub(super) at: Position,
    pub(super) is_proved: bool,
    /// Who founded it.
    pub(super) founder: NodeIndex,
    /// By whose word, where it is proved.
    word: BTreeSet<Member>,
    /// The one before had several voters at some time.
    pub(super) was_group: bool,
    /// The registers, and the last command of each client, that it began with; `None` until the founder was seen.
    pub(super) inherited: Option<(BTreeMap<u8, u64>, BTreeMap<u32, u32>)>,
}

impl Parentage {
    /// The founder has gone on, with this state. It may have applied more by now: its effects from `seen` on say what.
    pub(super) fn inherits(&mut self, state: &Registers, seen: usize) {
        let (mut values, mut clients) = (state.values().clone(), state.clients().clone());
        let effects = state.effects();
        let news = effects[seen.min(effects.len())..].iter().rev();
        for effect in news.filter(|effect| effect.index > self.at.index) {
            let CommandId { client, number } = effect.command.id;
            values.insert(effect.command.key, effect.before);
            clients.insert(client, number - 1);
        }
        self.inherited = Some((values, clients));
    }
}

impl Life {
    /// The registers that it began with.
    pub(super) fn first_values(&self) -> BTreeMap<u8, u64> {
        let inherited = self.parentage.as_ref();
        let inherited = inherited.and_then(|parentage| parentage.inherited.as_ref());
        inherited.map_or_else(BTreeMap::new, |(values, _)| values.clone())
    }

    /// Whether an effect at this index was already part of what it began with.
    pub(super) fn is_inherited(&self, index: Index) -> bool {
        let parentage = self.parentage.as_ref();
        parentage.is_some_and(|parentage| index <= parentage.at.index)
    }

    fn has_inherited(&self, id: CommandId) -> bool {
        let parentage = self.parentage.as_ref();
        let inherited = parentage.and_then(|parentage| parentage.inherited.as_ref());
        inherited.is_none_or(|(_, clients)| clients.get(&id.client) >= Some(&id.number))
    }
}

impl Ledger {
    /// Whether one incarnation goes on from another, over others in between.
    pub(super) fn descends(&self, from: &Incarnation, of: &Incarnation) -> bool {
        let mut at = *of;
        // Each is founded once, from one that was there before.
        while let Some(parentage) = self.find(&at).and_then(|life| life.parentage.as_ref()) {
            at = parentage.parent;
            if at == *from {
                return true;
            }
        }
        false
    }

    /// By whose word an incarnation has a child, from which `of` goes on or which it is; `None` where that was not proved.
    fn word_of_child(&self, parent: &Incarnation, of: &Incarnation) -> Option<&BTreeSet<Member>> {
        let mut at = *of;
        loop {
            let parentage = self.find(&at)?.parentage.as_ref()?;
            if parentage.parent == *parent {
                return parentage.is_proved.then_some(&parentage.word);
            }
            at = parentage.parent;
        }
    }

    /// Whether what is acknowledged at `version` is there still: its incarnation is not over, or what was made of it by
    /// proof has the command. A member that does not vote may hear late that it was committed in time.
    pub(super) fn goes_on_with(&self, version: &Version) -> bool {
        let Some(life) = self.find(&version.incarnation).filter(|it| it.is_over) else {
            return true;
        };
        let children = self.lives().iter().filter(|child| {
            let parentage = child.parentage.as_ref();
            parentage.is_some_and(|it| it.parent == version.incarnation && it.is_proved)
        });
        let here = || life.effects().filter(|(_, at, _)| *at == version.index);
        let mut children = children.peekable();
        children.peek().is_some()
            && here().next().is_some()
            && children.all(|child| here().all(|(id, ..)| child.has_inherited(id)))
    }

    /// What was acknowledged and is not there any more.
    pub(super) fn note_losses(&self, coverage: &mut Coverage) {
        for life in self.lives() {
            let Some(parentage) = &life.parentage else {
                continue;
            };
            let parent = self.find(&parentage.parent);
            let acked = parent.map_or(Index::ZERO, |parent| parent.acked);
            if acked > parentage.at.index {
                coverage.reach(rare::REFORM_LOST);
            }
        }
    }
}

/// The words that members have given on reforms: to do nothing more for the incarnation that is reformed.
#[derive(Default)]
pub(super) struct Words {
    /// Who takes part, by the round of the question.
    asked: BTreeMap<u64, BTreeSet<Member>>,
    /// Who has given its word, of which incarnation, and who took part.
    given: BTreeMap<Member, (Incarnation, BTreeSet<Member>)>,
    /// Who has asked for words last, and so given its own, of which incarnation, and who was to take part.
    asking: BTreeMap<Member, (Incarnation, BTreeSet<Member>)>,
}

impl Words {
    /// A member says something.
    pub(super) fn says(&mut self, member: Member, envelope: &Envelope, ledger: &Ledger) {
        match &envelope.message {
            Message::Reform(reform) => match &**reform {
                Reform::Ask {
                    of, round, pledge, ..
                } => {
                    if let Some(pledge) = pledge {
                        self.asked.insert(*round, pledge.participants.clone());
                        let word = (*of, pledge.participants.clone());
                        self.asking.insert(member, word);
                    }
                }
                Reform::Answer { of, round, remains } => {
                    let asked = self.asked.get(round);
                    let asked = asked.filter(|participants| participants.contains(&member));
                    if let Some(participants) = asked
                        && remains.part.is_some()
                        && !remains.goes_on
                    {
                        let word = (*of, participants.clone());
                        self.given.insert(member, word);
                    }
                }
            },
            Message::PreVote(_)
            | Message::RequestVote(_)
            | Message::VoteReply {
                verdict: Verdict::Granted,
                ..
            } => {
                let Some((of, participants)) = self.given.get(&member) else {
                    return;
                };
                // Where another turns up that has a log the word was given by mistake. Lives that were over by
                // then are none of those.
                let is_known = |other: &Member| participants.iter().any(|it| it.peer == other.peer);
                let life = ledger.find(of);
                let is_wrong = life.is_some_and(|life| !life.members.iter().all(is_known));
                assert!(
                    is_wrong || envelope.incarnation != Some(*of),
                    "{member} has given its word to do nothing more for {of}, and says {:?}",
                    envelope.message
                );
            }
            _ => {}
        }
    }

    /// A node has begun another run, in which it knows nothing of the word that it gave.
    pub(super) fn forgets(&mut self, peer: &PeerId) {
        self.given.retain(|member, _| member.peer != *peer);
        self.asking.retain(|member, _| member.peer != *peer);
    }

    /// By whose word a node founds what goes on from an incarnation: by its own alone where it has asked nobody.
    fn of_founder(&self, peer: &PeerId, of: &Incarnation, me: Option<Member>) -> BTreeSet<Member> {
        let words = self.asking.iter();
        let mut words = words.filter(|(member, (it, _))| member.peer == *peer && it == of);
        let word = words.next_back().map(|(_, (_, word))| word.clone());
        word.unwrap_or_else(|| me.into_iter().collect())
    }

    /// Whether a node has given its word with just these.
    fn has_given(&self, peer: &PeerId, of: &Incarnation, with: &BTreeSet<Member>) -> bool {
        let words = self.given.iter().chain(&self.asking);
        let mut words = words.filter(|(member, (it, _))| member.peer == *peer && it == of);
        words.any(|(_, (_, word))| word == with)
    }
}

/// A member has gone over from an incarnation to one that goes on from it.
pub(super) fn reformed(
    node: NodeIndex,
    reformed: &Reformed,
    watches: &[Watch],
    disks: &[Disk],
    words: &Words,
    ledger: &mut Ledger,
    coverage: &mut Coverage,
) {
    let parent = reformed.parent.incarnation;
    let peer = peers::peer(node);
    let place = ledger.place(reformed.incarnation);
    if ledger.life(place).parentage.is_none() {
        let before = ledger.place(parent);
        let was_group = ledger.life(before).had_several_voters();
        ledger.life(place).parentage = Some(Parentage {
            parent,
            at: reformed.at,
            is_proved: reformed.is_proved,
            founder: node,
            word: words.of_founder(&peer, &parent, watches[node.0 as usize].me),
            was_group,
            inherited: None,
        });
        if reformed.is_proved {
            coverage.reach(rare::REFORMED);
            if is_over(node, parent, watches, disks) {
                ledger.life(before).is_over = true;
            } else {
                coverage.reach(rare::REFORMED_UNKNOWING);
            }
        } else {
            coverage.reach(rare::REFORMED_BY_ORDER);
        }
        return;
    }
    coverage.reach(rare::FOLLOWED);
    if reformed.state.is_some() {
        coverage.reach(rare::FOLLOWED_LATE);
        return;
    }
    // It has given its word before the other was founded: all that it knew to be committed is there.
    let word = ledger.word_of_child(&parent, &reformed.incarnation);
    assert!(
        reformed.parent.index == Index::ZERO
            || word.is_some_and(|word| words.has_given(&peer, &parent, word)),
        "{node} goes over from {parent} to {} without its state, and has not given its word with {word:?}",
        reformed.incarnation
    );
    let commit = watches[node.0 as usize].commit;
    let (Some(child), Some(before)) = (ledger.find(&reformed.incarnation), ledger.find(&parent))
    else {
        return;
    };
    let is_direct = child
        .parentage
        .as_ref()
        .is_some_and(|it| it.parent == parent && it.is_proved);
    for (id, index, _) in before.effects().filter(|_| is_direct) {
        assert!(
            index > commit || child.has_inherited(id),
            "{node} knew {id:?} committed at {index} of {parent}, and goes over to {}, which lacks it",
            reformed.incarnation
        );
    }
}

/// Whether nobody can lead an incarnation any more that `founder` goes on from, by proof. Voters that joined while all
/// that took part were cut off are unknown to them, and no proof can exclude those: `false` then.
fn is_over(founder: NodeIndex, of: Incarnation, watches: &[Watch], disks: &[Disk]) -> bool {
    let members = || {
        let members = watches.iter().filter(|watch| watch.incarnation == Some(of));
        members.filter_map(|watch| Some((watch.me?, watch)))
    };
    let known = &watches[founder.0 as usize].configuration;
    for voter in &known.voters {
        let disk = &disks[peers::node(&voter.peer).0 as usize];
        let state = disk.image.hard_state.filter(|_| disk.is_durable());
        let is_on_disk = state
            .is_some_and(|state| state.instance == voter.instance && state.incarnation == Some(of));
        assert!(
            !is_on_disk || members().any(|(me, _)| me == *voter),
            "{founder} has proved that {of} is over, and its voter {voter} is only down"
        );
    }
    // Only who votes by its own log stands.
    let could_win = |candidate: &Watch, configuration: &Configuration| {
        let votes = members().filter(|(me, watch)| {
            configuration.voters.contains(me) && watch.last <= candidate.last
        });
        let stands = candidate
            .me
            .is_some_and(|me| configuration.voters.contains(&me));
        stands && votes.count() >= configuration.majority()
    };
    let leads = |me: &Member, watch: &Watch| {
        watch.role == Role::Leader && could_lead(*me, watch, of, watches)
    };
    let mut is_over = true;
    for (me, watch) in members() {
        if could_win(watch, &watch.configuration) || leads(&me, watch) {
            assert!(
                watch.configuration != *known,
                "{founder} has proved that {of} is over, and {me} may still lead it: {:?}",
                watch.configuration
            );
            is_over = false;
        }
    }
    is_over
}

/// Whether a leader still has a majority that lives.
fn could_lead(me: Member, leader: &Watch, of: Incarnation, watches: &[Watch]) -> bool {
    let lives = |voter: &&Member| {
        let mut all = watches.iter();
        **voter == me || all.any(|it| it.me == Some(**voter) && it.incarnation == Some(of))
    };
    let voters = leader.configuration.voters.iter();
    voters.filter(lives).count() >= leader.configuration.majority()
}
