//! The sessions of a group: which command of whom has been applied, and what came of it.
//!
//! A retried command is recognised by its place in its session (Ongaro 2014, section 6.3). The table is a
//! function of the log alone: every member holds the same one, and none forgets by its own clock.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry::{Owner, SEQUENCE_MAX, SessionId};
use super::outputs::{Ending, Outputs, OutputsBuilder};
use super::types::{Index, Sequence};
use crate::wire;

/// Counted for each output beside its bytes, so that empty ones are bounded as well.
const OUTPUT_OVERHEAD: u64 = 32;

/// While the outputs of all sessions have more bytes than this, each session that goes on keeps its share of so
/// many bytes at most. Together they keep a few times as much at the worst, where many are filled one after the
/// other and then not used.
const OUTPUTS_BYTES_MAX: u64 = 64 << 20;

/// The sessions. A clone costs nothing, whatever their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    all: im::OrdMap<SessionId, Arc<Session>>,
    /// The bytes of the outputs of all of them.
    outputs_bytes: u64,
}

impl Sessions {
    /// Opens a session for `owner` under `id`, the index of the entry that asks for it, and gives its id;
    /// the one that this run of the owner has already, if there is one.
    ///
    /// Sessions of other runs of the peer end: nobody waits for them any more. `None` where the entry comes
    /// from a run that a later one has followed. Above `sessions_max` the session unused for longest ends.
    pub(super) fn open(
        &mut self,
        id: SessionId,
        owner: Owner,
        sessions_max: u32,
    ) -> Option<SessionId> {
        let of_peer = |owned: &Owner| owned.member.peer == owner.member.peer;
        let former: Vec<(SessionId, Owner)> = self
            .all
            .iter()
            .map(|(id, session)| (*id, session.owner))
            .filter(|(_, owned)| of_peer(owned))
            .collect();
        if let Some((id, _)) = former.iter().find(|(_, owned)| *owned == owner) {
            return Some(*id);
        }
        let follows =
            |owned: &Owner| owned.member == owner.member && owned.run.boot > owner.run.boot;
        if former.iter().any(|(_, owned)| follows(owned)) {
            return None;
        }
        for (id, _) in former {
            self.remove(id);
        }
        self.insert(id, Session::new(owner, id));
        while self.all.len() > sessions_max as usize {
            let unused = self
                .all
                .iter()
                .min_by_key(|(id, session)| (session.used, **id));
            let Some(unused) = unused.map(|(id, _)| *id) else {
                break;
            };
            self.remove(unused);
        }
        Some(id)
    }

    /// The number that a run of `owner` must have to be given a session, where a later one than it has one.
    pub(super) fn boot_after(&self, owner: Owner) -> Option<u64> {
        let of_member = self.all.values().map(|session| session.owner);
        let of_member = of_member.filter(|owned| owned.member == owner.member);
        let latest = of_member.map(|owned| owned.run.boot).max()?;
        (latest > owner.run.boot).then(|| latest.saturating_add(1))
    }

    /// Puts a session in the table.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        self.outputs_bytes += session.outputs_bytes;
        self.all.insert(id, Arc::new(session));
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.all.remove(&id) {
            self.outputs_bytes -= session.outputs_bytes;
        }
    }

    /// The session, if it has not ended.
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id).map(|session| &**session)
    }

    /// The session, to be changed. The first change after a clone of the table copies the session. Where its
    /// outputs change, [`account`](Self::account) is told.
    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.all.get_mut(&id).map(Arc::make_mut)
    }

    /// The bytes of outputs that a session which goes on may keep now; `bytes_max` at most.
    pub(super) fn bytes_for_one(&self, bytes_max: u32) -> u64 {
        let bytes_max = u64::from(bytes_max);
        if self.outputs_bytes <= OUTPUTS_BYTES_MAX {
            return bytes_max;
        }
        bytes_max.min(OUTPUTS_BYTES_MAX / self.all.len().max(1) as u64)
    }

    /// The outputs of a session had so many bytes, and have so many now.
    pub(super) const fn account(&mut self, before: u64, after: u64) {
        self.outputs_bytes = self.outputs_bytes - before + after;
    }

    /// The session of this run of a member.
    pub(super) fn of(&self, owner: Owner) -> Option<(SessionId, &Session)> {
        self.all
            .iter()
            .find(|(_, session)| session.owner == owner)
            .map(|(id, session)| (*id, &**session))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The table as bytes: equal tables give equal bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let sessions = self.all.iter();
        let sessions: Vec<(SessionId, Encoded)> = sessions
            .map(|(id, session)| (*id, Encoded::from(&**session)))
            .collect();
        wire::encode(&sessions).expect("numbers and byte strings can always be encoded")
    }

    /// The table that `bytes` hold, as it was after entry `through`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn decode(bytes: &[u8], through: Index) -> Result<Self, SessionsError> {
        let sessions: Vec<(SessionId, Encoded)> = wire::decode(bytes)?;
        let mut table = Self::default();
        let mut previous = None;
        for (id, session) in sessions {
            if previous >= Some(id) {
                return Err(SessionsError::Unordered(id.0));
            }
            session.check(id, through)?;
            previous = Some(id);
            table.insert(id, session.into());
        }
        Ok(table)
    }
}

/// Bytes that are no table of sessions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionsError {
    /// They are none at all.
    #[error(transparent)]
    Malformed(#[from] wire::DecodeError),
    /// A session does not lie above the one before it.
    #[error("session {0} is out of order")]
    Unordered(Index),
    /// A session cannot have come about.
    #[error("session {id} {how}")]
    Impossible {
        /// The session.
        id: Index,
        /// What is wrong with it.
        how: &'static str,
    },
}

/// What is known of one run of a member.
#[derive(Clone, Debug)]
pub(super) struct Session {
    owner: Owner,
    /// The last command that was applied or given up.
    last: Sequence,
    /// The entry of its last batch, or the one that opened it.
    used: Index,
    /// What came of the latest commands, the last one at the end.
    outputs: VecDeque<Kept>,
    outputs_bytes: u64,
    /// The last command that was refused of which that is kept no longer: of those up to it that are not kept
    /// nobody can say whether they were applied.
    refusal_lost: Sequence,
}

/// What came of commands that were applied together; of one at least.
#[derive(Clone, Debug)]
struct Kept {
    /// The first of them.
    first: Sequence,
    outputs: Outputs,
}

impl Kept {
    /// What they count for.
    fn size(&self) -> u64 {
        self.outputs.len() as u64 * OUTPUT_OVERHEAD + self.outputs.len_bytes() as u64
    }
}

/// A session as it is encoded: command by command, however the outputs lie in memory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Encoded {
    owner: Owner,
    last: Sequence,
    used: Index,
    refusal_lost: Sequence,
    outputs: Vec<Stored>,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// The entry it was in.
    index: Index,
    /// `None`: it was given up, or refused.
    output: Option<Bytes>,
    is_refused: bool,
}

impl From<&Session> for Encoded {
    fn from(session: &Session) -> Self {
        Self {
            owner: session.owner,
            last: session.last,
            used: session.used,
            refusal_lost: session.refusal_lost,
            outputs: session.stored().collect(),
        }
    }
}

impl From<Encoded> for Session {
    fn from(encoded: Encoded) -> Self {
        let mut session = Self {
            owner: encoded.owner,
            last: Sequence(encoded.last.0 - encoded.outputs.len() as u64),
            used: encoded.used,
            outputs: VecDeque::new(),
            outputs_bytes: 0,
            refusal_lost: encoded.refusal_lost,
        };
        let of_one_entry = |one: &Stored, next: &Stored| one.index == next.index;
        for together in encoded.outputs.chunk_by(of_one_entry) {
            session.push(Stored::together(together), u64::MAX);
        }
        session
    }
}

impl Stored {
    /// Those of one entry, of which there is one at least.
    fn together(all: &[Self]) -> Outputs {
        let mut outputs = OutputsBuilder::with_capacity(all.len());
        for stored in all {
            match &stored.output {
                Some(output) => outputs.push(output),
                None if stored.is_refused => outputs.push_refused(),
                None => outputs.push_given_up(),
            }
        }
        outputs.finish(all[0].index)
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        // Equal sessions may have come by their outputs in other pieces.
        let all = |it: &Self| (it.owner, it.last, it.used, it.refusal_lost);
        all(self) == all(other) && self.stored().eq(other.stored())
    }
}

impl Eq for Session {}

/// How a command of a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was applied, once.
    Applied {
        /// In this entry.
        index: Index,
        /// What the state machine gave.
        output: Bytes,
    },
    /// It was given up before it was applied.
    GivenUp,
    /// It was not applied, since the incarnation was frozen.
    Refused,
    /// It was applied or given up, and what came of it is no longer kept.
    Lost,
    /// It may also have been refused.
    Unknown,
}

impl Outcome {
    /// What came of a command in entry `index`.
    pub(super) fn of(index: Index, ending: Ending<Bytes>) -> Self {
        match ending {
            Ending::Applied(output) => Self::Applied { index, output },
            Ending::GivenUp => Self::GivenUp,
            Ending::Refused => Self::Refused,
        }
    }
}

impl Session {
    /// A session that nothing has been applied in.
    pub(super) fn new(owner: Owner, id: SessionId) -> Self {
        Self {
            owner,
            last: Sequence::ZERO,
            used: id.0,
            outputs: VecDeque::new(),
            outputs_bytes: 0,
            refusal_lost: Sequence::ZERO,
        }
    }

    /// Whose it is.
    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// The last command that was applied or given up.
    pub(super) const fn last(&self) -> Sequence {
        self.last
    }

    /// The bytes of its outputs.
    pub(super) const fn outputs_bytes(&self) -> u64 {
        self.outputs_bytes
    }

    /// Takes note of a batch in entry `index`: the owner has all outputs up to `acked_through`.
    pub(super) fn touch(&mut self, index: Index, acked_through: Sequence) {
        self.used = index;
        let first = self
            .outputs
            .front()
            .map_or(Sequence::ZERO, |kept| kept.first);
        let after = acked_through.0.saturating_add(1);
        self.drop_oldest(after.saturating_sub(first.0));
    }

    /// Takes note of what came of the commands after [`last`](Self::last). Drops the oldest outputs above `bytes_max`.
    pub(super) fn push(&mut self, outputs: Outputs, bytes_max: u64) {
        if outputs.is_empty() {
            return;
        }
        let kept = Kept {
            first: self.last.next(),
            outputs,
        };
        self.last.0 += kept.outputs.len() as u64;
        self.outputs_bytes += kept.size();
        self.outputs.push_back(kept);
        while self.outputs_bytes > bytes_max {
            if let Some(Kept { first, outputs }) = self.outputs.front()
                && outputs.get(0) == Some(Ending::Refused)
            {
                self.refusal_lost = *first;
            }
            self.drop_oldest(1);
        }
    }

    /// Goes on as if all commands before `first` had ended.
    pub(super) fn skip_to(&mut self, first: Sequence) {
        self.last = first.previous();
        self.outputs.clear();
        self.outputs_bytes = 0;
    }

    /// How a command ended that is not above [`last`](Self::last).
    pub(super) fn outcome(&self, sequence: Sequence) -> Outcome {
        let after = self.outputs.partition_point(|kept| kept.first <= sequence);
        let kept = after.checked_sub(1).and_then(|at| self.outputs.get(at));
        let ending = kept.and_then(|Kept { first, outputs }| {
            let ending = outputs.get(usize::try_from(sequence.0 - first.0).ok()?)?;
            Some(Outcome::of(outputs.index(), ending))
        });
        // To say of one that was refused that it was applied would be to acknowledge what never was.
        let unkept = if (Sequence(1)..=self.refusal_lost).contains(&sequence) {
            Outcome::Unknown
        } else {
            Outcome::Lost
        };
        ending.unwrap_or(unkept)
    }

    /// What came of each command, in their order.
    fn stored(&self) -> impl Iterator<Item = Stored> {
        self.outputs.iter().flat_map(|Kept { outputs, .. }| {
            let places = 0..outputs.len();
            let endings = places.filter_map(|place| outputs.get(place));
            endings.map(|ending| Stored {
                index: outputs.index(),
                is_refused: ending == Ending::Refused,
                output: ending.output(),
            })
        })
    }

    /// Forgets what came of the first `count` commands, or of all.
    fn drop_oldest(&mut self, mut count: u64) {
        while count > 0
            && let Some(kept) = self.outputs.front_mut()
        {
            let before = kept.size();
            let dropped = count.min(kept.outputs.len() as u64);
            kept.outputs.drop_first(dropped as usize);
            kept.first.0 += dropped;
            count -= dropped;
            self.outputs_bytes -= before - kept.size();
            if kept.outputs.is_empty() {
                self.outputs.pop_front();
            }
        }
    }
}

impl Encoded {
    /// Whether a session opened by entry `id` may look like this after entry `through`.
    fn check(&self, id: SessionId, through: Index) -> Result<(), SessionsError> {
        let impossible = |how| Err(SessionsError::Impossible { id: id.0, how });
        if self.last > SEQUENCE_MAX {
            return impossible("has more commands than can ever be sent");
        }
        if self.outputs.len() as u64 > self.last.0 {
            return impossible("has more outputs than commands");
        }
        if self.refusal_lost > self.last {
            return impossible("has refused a command that it has not seen");
        }
        if self.used < id.0 || self.used > through {
            return impossible("was last used before it was opened, or after the snapshot");
        }
        let mut previous = id.0;
        for stored in &self.outputs {
            if stored.index < previous || stored.index > self.used {
                return impossible("has outputs out of order");
            }
            if stored.is_refused && stored.output.is_some() {
                return impossible("has an output of a command that was refused");
            }
            previous = stored.index;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Instance, PeerId};
    use crate::protocol::raft::{Member, Run};

    const ID: SessionId = SessionId(Index(3));

    fn owner(peer: u8, instance: u8, boot: u64) -> Owner {
        Owner {
            member: Member {
                peer: PeerId::from_bytes([peer; 32]),
                instance: Instance::from_bytes([instance; 16]),
            },
            run: Run { boot, id: 0 },
        }
    }

    fn outputs(index: u64, all: &[Option<&[u8]>]) -> Outputs {
        let mut outputs = OutputsBuilder::default();
        for output in all {
            match output {
                Some(output) => outputs.push(output),
                None => outputs.push_given_up(),
            }
        }
        outputs.finish(Index(index))
    }

    fn id(index: u64) -> SessionId {
        SessionId(Index(index))
    }

    fn ids(sessions: &Sessions) -> Vec<u64> {
        sessions.all.keys().map(|id| id.0.0).collect()
    }

    #[test]
    fn a_run_has_one_session_and_ends_those_of_other_runs_of_its_peer() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.open(id(2), owner(1, 1, 1), 9), Some(id(2)));
        assert_eq!(sessions.open(id(3), owner(2, 1, 1), 9), Some(id(3)));
        assert_eq!(
            sessions.open(id(4), owner(1, 1, 1), 9),
            Some(id(2)),
            "sent twice"
        );
        assert_eq!(ids(&sessions), [2, 3]);
        assert_eq!(
            sessions.open(id(5), owner(1, 1, 2), 9),
            Some(id(5)),
            "started again"
        );
        assert_eq!(ids(&sessions), [3, 5]);
        assert_eq!(
            sessions.open(id(6), owner(1, 1, 1), 9),
            None,
            "late, of a run that is over"
        );
        assert_eq!(ids(&sessions), [3, 5]);
        assert_eq!(
            sessions.open(id(7), owner(1, 2, 0), 9),
            Some(id(7)),
            "another instance"
        );
        assert_eq!(ids(&sessions), [3, 7]);
    }

    #[test]
    fn above_the_limit_the_session_unused_for_longest_ends() {
        let mut sessions = Sessions::default();
        for index in 2..5 {
            sessions.open(id(index), owner(index as u8, 0, 0), 3);
        }
        let first = sessions.get_mut(id(2)).unwrap();
        first.touch(Index(5), Sequence::ZERO);
        assert_eq!(sessions.open(id(6), owner(6, 0, 0), 3), Some(id(6)));
        assert_eq!(ids(&sessions), [2, 4, 6]);
        assert_eq!(sessions.open(id(7), owner(7, 0, 0), 1), Some(id(7)));
        assert_eq!(ids(&sessions), [7]);
    }

    #[test]
    fn a_clone_of_the_table_is_not_moved_by_what_follows() {
        let mut sessions = Sessions::default();
        sessions.open(ID, owner(1, 1, 0), 9);
        push(&mut sessions, ID, 4);
        let frozen = sessions.clone();
        let before = frozen.encode();
        push(&mut sessions, ID, 5);
        sessions.open(id(6), owner(2, 1, 0), 9);
        assert_eq!(frozen.encode(), before);
        assert_ne!(sessions, frozen);
    }

    #[test]
    fn an_output_larger_than_the_bound_is_not_kept() {
        let mut session = Session::new(owner(1, 1, 0), ID);
        session.push(outputs(4, &[Some(&[0; 10])]), 100);
        session.push(outputs(5, &[Some(&[0; 100])]), 100);
        assert_eq!(session.outcome(Sequence(1)), Outcome::Lost);
        assert_eq!(session.outcome(Sequence(2)), Outcome::Lost);
        assert_eq!(session.last(), Sequence(2));
        session.push(outputs(6, &[None]), 100);
        assert_eq!(session.outcome(Sequence(3)), Outcome::GivenUp);
    }

    #[test]
    fn of_what_may_have_been_refused_nobody_says_that_it_was_applied() {
        let mut refused = OutputsBuilder::default();
        refused.push_refused();
        let refused = refused.finish(Index(5));
        let mut session = Session::new(owner(1, 1, 0), ID);
        session.push(outputs(4, &[Some(&[])]), 64);
        session.push(refused.clone(), 64);
        assert_eq!(session.outcome(Sequence(2)), Outcome::Refused);
        session.push(outputs(6, &[Some(&[]), Some(&[])]), 64);
        let read = Session::from(Encoded::from(&session));
        assert_eq!(read, session);
        for session in [&session, &read] {
            assert_eq!(session.outcome(Sequence(1)), Outcome::Unknown);
            assert_eq!(session.outcome(Sequence(2)), Outcome::Unknown);
        }
        session.push(outputs(7, &[Some(&[]), Some(&[])]), 64);
        assert_eq!(session.outcome(Sequence(3)), Outcome::Lost);
        // What the owner has heard of needs no memory.
        let mut session = Session::new(owner(1, 1, 0), ID);
        session.push(refused, 64);
        session.touch(Index(6), Sequence(1));
        assert_eq!(session.outcome(Sequence(1)), Outcome::Lost);
    }

    #[test]
    fn together_the_outputs_of_all_sessions_are_bounded() {
        let mut sessions = Sessions::default();
        let large = Step::Push(vec![Some(vec![0; 1 << 20])]);
        for peer in 0..100_u8 {
            let opened = id(2 + u64::from(peer));
            sessions.open(opened, owner(peer, 0, 0), 100);
            let bytes_max = sessions.bytes_for_one(2 << 20);
            run(
                &mut sessions,
                opened,
                std::slice::from_ref(&large),
                bytes_max,
            );
        }
        let all: u64 = sessions.all.values().map(|it| it.outputs_bytes).sum();
        assert_eq!(all, sessions.outputs_bytes);
        assert!(all < OUTPUTS_BYTES_MAX + (2 << 20), "{all}");
        assert_eq!(
            sessions.get(id(101)).unwrap().outcome(Sequence(1)),
            Outcome::Lost
        );
        let share = sessions.bytes_for_one(2 << 20);
        assert_eq!(share, OUTPUTS_BYTES_MAX / 100);
        // What is dropped makes room again.
        for index in 2..52 {
            run(&mut sessions, id(index), &[Step::Ack(1)], 0);
        }
        assert_eq!(sessions.bytes_for_one(2 << 20), 2 << 20);
    }

    /// What an entry does to a session.
    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<Option<Vec<u8>>>),
        Ack(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let output = prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..40));
        let step = prop_oneof![
            4 => prop::collection::vec(output, 1..4).prop_map(Step::Push),
            1 => (0..60u64).prop_map(Step::Ack),
        ];
        prop::collection::vec(step, 0..60)
    }

    fn run(sessions: &mut Sessions, id: SessionId, steps: &[Step], bytes_max: u64) {
        let session = sessions.get_mut(id).unwrap();
        let before = session.outputs_bytes();
        for (step, index) in steps.iter().zip(session.used.0 + 1..) {
            match step {
                Step::Push(all) => {
                    let all: Vec<_> = all.iter().map(Option::as_deref).collect();
                    session.touch(Index(index), Sequence::ZERO);
                    session.push(outputs(index, &all), bytes_max);
                }
                Step::Ack(through) => session.touch(Index(index), Sequence(*through)),
            }
        }
        let after = session.outputs_bytes();
        sessions.account(before, after);
    }

    fn push(sessions: &mut Sessions, id: SessionId, index: u64) {
        run(sessions, id, &[Step::Push(vec![None])], 1_000);
        assert_eq!(sessions.get(id).unwrap().used, Index(index));
    }

    /// A table with a session for each list of steps.
    fn table(all: &[Vec<Step>], bytes_max: u64) -> Sessions {
        let mut sessions = Sessions::default();
        for (peer, steps) in all.iter().enumerate() {
            let opened = id(2 + peer as u64);
            sessions.open(opened, owner(peer as u8, 0, 7), 100);
            run(&mut sessions, opened, steps, bytes_max);
        }
        sessions
    }

    const THROUGH: Index = Index(1_000);

    proptest! {
        #[test]
        fn the_latest_outputs_are_kept_until_acknowledged(steps in steps(), bytes_max in 0..500u64) {
            let mut sessions = Sessions::default();
            sessions.open(ID, owner(1, 1, 0), 9);
            run(&mut sessions, ID, &steps, bytes_max);
            let session = sessions.get(ID).unwrap();
            // What was pushed, and up to where it was dropped.
            let mut pushed: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
            let mut dropped = 0;
            for (step, index) in steps.iter().zip(4..) {
                match step {
                    Step::Push(all) => {
                        pushed.extend(all.iter().map(|output| (index, output.clone())));
                    }
                    Step::Ack(through) => dropped = dropped.max((*through as usize).min(pushed.len())),
                }
                let size = |kept: &[(u64, Option<Vec<u8>>)]| -> usize {
                    kept.iter().map(|(_, output)| 32 + output.as_ref().map_or(0, Vec::len)).sum()
                };
                while size(&pushed[dropped..]) > bytes_max as usize {
                    dropped += 1;
                }
            }
            prop_assert_eq!(session.last(), Sequence(pushed.len() as u64));
            for (at, (index, output)) in pushed.into_iter().enumerate() {
                let expected = match output {
                    _ if at < dropped => Outcome::Lost,
                    None => Outcome::GivenUp,
                    Some(output) => Outcome::Applied {
                        index: Index(index),
                        output: Bytes::from(output),
                    },
                };
                prop_assert_eq!(session.outcome(Sequence(at as u64 + 1)), expected);
            }
            prop_assert_eq!(session.outcome(Sequence::ZERO), Outcome::Lost);
        }

        #[test]
        fn equal_tables_are_equal_bytes(
            all in prop::collection::vec(steps(), 0..6),
            bytes_max in 0..500u64,
            more in steps(),
        ) {
            let mut sessions = table(&all, bytes_max);
            let bytes = sessions.encode();
            let mut decoded = Sessions::decode(&bytes, THROUGH).unwrap();
            prop_assert_eq!(&decoded, &sessions);
            prop_assert_eq!(decoded.encode(), bytes.clone());
            // The one that was decoded goes on like the one that never was.
            for sessions in [&mut sessions, &mut decoded] {
                if sessions.get(id(2)).is_some() {
                    run(sessions, id(2), &more, bytes_max);
                }
                sessions.open(id(500), owner(200, 0, 0), 100);
            }
            prop_assert_eq!(&decoded, &sessions);
            prop_assert_eq!(decoded.encode(), sessions.encode());
            prop_assert_ne!(decoded.encode(), bytes);
        }

        #[test]
        fn hostile_bytes_do_not_panic(
            all in prop::collection::vec(steps(), 1..4),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
            random in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = table(&all, 500).encode();
            let mut flipped = bytes.clone();
            for (at, value) in flips {
                let at = at.index(flipped.len());
                flipped[at] = value;
            }
            for hostile in [&flipped[..], &bytes[..cut.index(bytes.len())], &random] {
                if let Ok(mut sessions) = Sessions::decode(hostile, THROUGH) {
                    for id in ids(&sessions) {
                        let session = sessions.get_mut(SessionId(Index(id))).unwrap();
                        session.outcome(session.last());
                        session.outcome(Sequence(u64::MAX));
                        session.push(outputs(THROUGH.0, &[Some(&[]), None]), 100);
                        session.touch(THROUGH, Sequence(u64::MAX));
                    }
                }
            }
        }
    }

    #[test]
    fn tables_that_cannot_have_come_about_are_refused() {
        let stored = |index| Stored {
            index: Index(index),
            output: None,
            is_refused: false,
        };
        let session = |last, used, outputs: &[u64]| Encoded {
            owner: owner(1, 1, 0),
            last: Sequence(last),
            used: Index(used),
            refusal_lost: Sequence::ZERO,
            outputs: outputs.iter().copied().map(stored).collect(),
        };
        let refused = Encoded {
            refusal_lost: Sequence(1),
            ..session(0, 9, &[])
        };
        let decode = |sessions: Vec<(SessionId, Encoded)>| {
            Sessions::decode(&wire::encode(&sessions).unwrap(), Index(9))
        };
        assert!(decode(vec![(id(3), session(2, 9, &[4, 4]))]).is_ok());
        for (what, sessions) in [
            (
                "more outputs than commands",
                vec![(id(3), session(1, 9, &[4, 4]))],
            ),
            (
                "a refusal of a command that never came",
                vec![(id(3), refused)],
            ),
            (
                "an output before the session",
                vec![(id(3), session(2, 9, &[2, 4]))],
            ),
            (
                "an output after its last use",
                vec![(id(3), session(2, 5, &[4, 6]))],
            ),
            (
                "outputs out of order",
                vec![(id(3), session(2, 9, &[5, 4]))],
            ),
            (
                "commands beyond the last sequence number",
                vec![(id(3), session(u64::MAX, 9, &[]))],
            ),
            (
                "used after the snapshot",
                vec![(id(3), session(2, 10, &[4]))],
            ),
            (
                "used before it was opened",
                vec![(id(3), session(0, 2, &[]))],
            ),
            (
                "twice the same",
                vec![(id(3), session(0, 3, &[])), (id(3), session(0, 3, &[]))],
            ),
            (
                "descending",
                vec![(id(4), session(0, 4, &[])), (id(3), session(0, 3, &[]))],
            ),
        ] {
            assert!(decode(sessions).is_err(), "{what}");
        }
        let mut bytes = Sessions::default().encode();
        assert!(Sessions::decode(&bytes, Index(9)).is_ok());
        bytes.push(0);
        assert!(Sessions::decode(&bytes, Index(9)).is_err(), "more follows");
    }
}
