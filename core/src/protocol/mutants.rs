//! Deliberate bugs, and the one place where a rule asks whether it is broken.

/// Whether whoever has this configuration breaks the rule of this [`Mutant`]. Never, and at no cost, in a normal build.
macro_rules! mutant {
    ($config:expr, $rule:ident) => {{
        #[cfg(smalti_mutants)]
        let breaks = $config.mutant == Some($crate::protocol::Mutant::$rule);
        #[cfg(not(smalti_mutants))]
        let breaks = {
            let _ = &$config;
            false
        };
        breaks
    }};
}
pub(crate) use mutant;

/// A deliberate bug, for the campaign and for tests to find: it shows that they would notice the loss of the
/// rule that the bug breaks. Compiled under `--cfg smalti_mutants` alone.
#[cfg(smalti_mutants)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Mutant {
    VoteNotPersisted,
    AckBeforeFsync,
    CommitOldTermByCount,
    NoBlankOnElection,
    VoteForShorterLog,
    ForgetVoteAtRestart,
    StaleLeaderServesReads,
    ReadIndexWithoutConfirmation,
    ReadBeforeOwnTermCommitted,
    ConfigurationBeforeOwnTermCommitted,
    TwoConfigurationsAtOnce,
    ConfigurationInForceOnCommit,
    SnapshotOverNewerLog,
    TruncateBelowCommit,
    AppliedTwice,
    GapAccepted,
    SessionImplicit,
    FetchedAcknowledged,
    UncommittedServed,
    IncarnationIgnored,
    IncarnationWithoutFreshBytes,
    InstanceIgnored,
    LearnerCounted,
    PromotedLearnerRefusesVote,
    ThreeDemotedToTwo,
    AbstainWhenBehind,
    FailedSyncRetried,
    RunsByNumberAlone,
    VoteForSetBack,
    SuspicionEndsWithTerm,
    NoPreviousTermCheck,
    StaleVotesCounted,
    SessionsLostInSnapshot,
    CompactBeyondDurableSnapshot,
    DefaultHashedOrder,
    ThreeFromOneUnpersisted,
    ThreeFromOneCounted,
    AppliedWhileFrozen,
    ReadWhileFrozen,
    BothSeal,
    SealedBehindThawed,
    SealedByAbsence,
    ChangeOverBeforeCommit,
    ReformWithoutProof,
    PledgeBroken,
    WordOfOthers,
    ReformFromAnyLog,
    ReadBeforeApplied,
    WriteTakenForDurable,
    UnknownRejected,
    TimedOutUndecided,
    OutcomeBeforeEffect,
    TornStateTold,
    QueryWithinTurn,
    LifeToldBeforeDurable,
    StoreKeptByWhoLeft,
    ProofOfEitherEnd,
    ProofOfAnyLink,
    ReaderHeard,
}

#[cfg(smalti_mutants)]
impl Mutant {
    /// All of them, with the rule that each breaks.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (
            Self::VoteNotPersisted,
            "a vote is durable before it is sent",
        ),
        (
            Self::AckBeforeFsync,
            "entries are durable before they are acknowledged",
        ),
        (
            Self::CommitOldTermByCount,
            "only entries of the leader's own term are committed by counting",
        ),
        (
            Self::NoBlankOnElection,
            "a new leader appends an entry of its own term",
        ),
        (
            Self::VoteForShorterLog,
            "a vote goes only to a log at least as good as the voter's",
        ),
        (Self::ForgetVoteAtRestart, "a vote outlives a restart"),
        (
            Self::StaleLeaderServesReads,
            "a strong read needs a majority that still follows the leader",
        ),
        (
            Self::ReadIndexWithoutConfirmation,
            "a read is confirmed by a round sent after it came",
        ),
        (
            Self::ReadBeforeOwnTermCommitted,
            "a new leader answers no read before an entry of its term has committed",
        ),
        (
            Self::ConfigurationBeforeOwnTermCommitted,
            "voters change only once an entry of the leader's term has committed",
        ),
        (
            Self::TwoConfigurationsAtOnce,
            "voters change only once the change before has committed",
        ),
        (
            Self::ConfigurationInForceOnCommit,
            "a change of voters is in force when it is appended",
        ),
        (
            Self::SnapshotOverNewerLog,
            "a snapshot at or below the commit index is ignored",
        ),
        (
            Self::TruncateBelowCommit,
            "nothing committed is ever cut from the log",
        ),
        (
            Self::AppliedTwice,
            "a command applied before is not applied again",
        ),
        (
            Self::GapAccepted,
            "a command is applied only after the one before it in its session",
        ),
        (
            Self::SessionImplicit,
            "a session is opened by its own entry alone",
        ),
        (
            Self::FetchedAcknowledged,
            "fetched entries do not count before the leader has checked them",
        ),
        (
            Self::UncommittedServed,
            "only committed entries are served to others",
        ),
        (
            Self::IncarnationIgnored,
            "messages of another incarnation are not processed",
        ),
        (
            Self::IncarnationWithoutFreshBytes,
            "each founding has fresh random bytes",
        ),
        (
            Self::InstanceIgnored,
            "votes and acknowledgements belong to one life of a peer",
        ),
        (Self::LearnerCounted, "only voters count"),
        (
            Self::PromotedLearnerRefusesVote,
            "the candidate's configuration says who votes",
        ),
        (
            Self::ThreeDemotedToTwo,
            "a demotion leaves three voters or more",
        ),
        (
            Self::AbstainWhenBehind,
            "a voter behind the leader's log still grants its vote",
        ),
        (
            Self::FailedSyncRetried,
            "after a failed sync nothing is promised until a restart",
        ),
        (
            Self::NoPreviousTermCheck,
            "entries follow an entry of the same index and term",
        ),
        (
            Self::StaleVotesCounted,
            "votes of another term do not count",
        ),
        (
            Self::SessionsLostInSnapshot,
            "a snapshot holds the sessions",
        ),
        (
            Self::ThreeFromOneUnpersisted,
            "a sole voter has the two others on disk before they hear of it",
        ),
        (
            Self::ThreeFromOneCounted,
            "... and before what they have acknowledged counts",
        ),
        (
            Self::AppliedWhileFrozen,
            "no command is applied while the incarnation is frozen",
        ),
        (
            Self::ReadWhileFrozen,
            "no strong read is answered while the incarnation is frozen",
        ),
        (
            Self::BothSeal,
            "of two incarnations that meet one is taken in and the other stays",
        ),
        (
            Self::SealedBehindThawed,
            "a seal is void unless the incarnation is frozen where it lies",
        ),
        (
            Self::SealedByAbsence,
            "a seal that nobody can commit any more counts only where nothing can have been committed in its place",
        ),
        (
            Self::ChangeOverBeforeCommit,
            "a member changes over only once the seal is committed",
        ),
        (
            Self::ReformWithoutProof,
            "a group is reformed by itself only where it is proved that nobody can go on",
        ),
        (
            Self::PledgeBroken,
            "who takes part in a reform does nothing more for the incarnation before",
        ),
        (
            Self::WordOfOthers,
            "who goes over without its state has given its word with those by whose word it was founded",
        ),
        (
            Self::ReformFromAnyLog,
            "a group is reformed from the best log that is left",
        ),
        (
            Self::RunsByNumberAlone,
            "a run that comes after one that was heard of says that its store has had that one",
        ),
        (
            Self::VoteForSetBack,
            "who is known to have been set back is not voted for",
        ),
        (
            Self::SuspicionEndsWithTerm,
            "what a leader has found to be set back it does not count in later terms either",
        ),
        (
            Self::DefaultHashedOrder,
            "the same seed is the same run: no order comes from a default-hashed map",
        ),
        (
            Self::CompactBeyondDurableSnapshot,
            "the log is dropped only up to a durable snapshot",
        ),
        (
            Self::ReadBeforeApplied,
            "a strong read is answered once the state has come to its index",
        ),
        (
            Self::WriteTakenForDurable,
            "a write is durable once the store says so",
        ),
        (
            Self::UnknownRejected,
            "a command that may have been applied is not said to be rejected",
        ),
        (
            Self::TimedOutUndecided,
            "a command has timed out once the group has decided so",
        ),
        (
            Self::OutcomeBeforeEffect,
            "an outcome is told after the state that has its effect is published",
        ),
        (
            Self::TornStateTold,
            "nothing that a torn state has led to is told",
        ),
        (
            Self::QueryWithinTurn,
            "a query is answered by the state that all before it have come to",
        ),
        (
            Self::LifeToldBeforeDurable,
            "that a member belongs to another life of the group is told once it is durable",
        ),
        (
            Self::StoreKeptByWhoLeft,
            "who has left a group comes back as another member, with nothing of what it had",
        ),
        (
            Self::ProofOfEitherEnd,
            "a proof of a group's key is that of the other end of the link",
        ),
        (
            Self::ProofOfAnyLink,
            "a proof of a group's key is bound to one connection",
        ),
        (
            Self::ReaderHeard,
            "of a member that has not proved that it may write only what concerns it alone is heard",
        ),
    ];
}

/// `peers` in the order of a default-hashed set, where that rule is broken.
#[cfg(smalti_mutants)]
#[allow(clippy::disallowed_types)]
pub(crate) fn in_any_order(
    config: &crate::protocol::raft::Config,
    peers: Vec<crate::PeerId>,
) -> Vec<crate::PeerId> {
    if !mutant!(config, DefaultHashedOrder) {
        return peers;
    }
    let set: std::collections::HashSet<_> = peers.into_iter().collect();
    set.into_iter().collect()
}

/// Asserts that each test fails where its rule is broken; `breaking` makes what it is run with.
#[cfg(all(test, smalti_mutants))]
pub(crate) fn assert_noticed<C>(noticed_by: &[(Mutant, fn(C))], breaking: impl Fn(Mutant) -> C) {
    for (mutant, test) in noticed_by {
        let config = breaking(*mutant);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(config)));
        assert!(result.is_err(), "{mutant:?} is not noticed");
    }
}
