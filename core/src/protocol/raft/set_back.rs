//! Members whose store was set back to what it was earlier: they have forgotten what they promised, and do not know it
//! (schedule H26).

use std::collections::BTreeSet;

use super::core::Core;
use super::types::Member;

impl Core {
    /// Forgets the runs of those that vote no longer and are not there: nothing rests on what they have promised.
    pub(super) fn forget_former_voters(&mut self) {
        if self.log.configured_at() > self.commit {
            return;
        }
        let voters = &self.log.configuration().voters;
        self.set_back.retain(|member, _| voters.contains(member));
        let peers = &self.peers;
        self.runs.retain(|member, _| {
            let peer = peers.get(&member.peer);
            voters.contains(member)
                || peer.is_some_and(|peer| peer.instance == Some(member.instance))
        });
    }

    /// The store of `member` was set back.
    pub(super) fn note_set_back(&mut self, member: Member) {
        // Nothing rests on what others have promised.
        if !self.configuration().is_voter(&member) {
            return;
        }
        let committed = self.log.configuration_as_of(self.commit);
        let demotions = committed.demotions_of(&member.peer);
        self.set_back.insert(member, demotions);
    }

    /// Whether a voter is known to have been set back, and has not been demoted since.
    pub(super) fn is_set_back(&self, member: &Member) -> bool {
        let committed = self.log.configuration_as_of(self.commit);
        let is_demoted = |before: &u32| committed.demotions_of(&member.peer) != *before;
        self.set_back
            .get(member)
            .is_some_and(|before| !is_demoted(before))
    }

    /// All those.
    pub(super) fn all_set_back(&self) -> BTreeSet<Member> {
        let all = self.set_back.keys().copied();
        all.filter(|member| self.is_set_back(member)).collect()
    }
}
