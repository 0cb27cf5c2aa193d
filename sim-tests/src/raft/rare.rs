//! States that matter and are seldom reached.

pub(super) const TAIL_AT_ELECTION: &str = "a leader was elected with entries not committed";
pub(super) const TRUNCATED: &str = "entries that conflicted were cut off";
pub(super) const RESTORED: &str = "a snapshot was installed";
pub(super) const SOURCE_LOST: &str = "a node crashed while another fetched a snapshot from it";
pub(super) const SERVED_BY_FOLLOWER: &str = "a follower served entries to another";
pub(super) const PROMOTED: &str = "a member began to vote";
pub(super) const DEMOTED: &str = "a member ceased to vote";
pub(super) const REPLACED: &str = "a voter was replaced by a later life of its peer";
pub(super) const TRANSFERRED: &str = "leadership was handed over";
pub(super) const VOTE_REMEMBERED: &str = "a second vote was refused after a restart";
pub(super) const CRASHED_UNSYNCED: &str = "a node crashed with writes not durable";
pub(super) const WRITES_LOST: &str = "a crash lost writes";
pub(super) const CRASHED_IN_STEP: &str = "a node crashed between two outputs of a step";
pub(super) const SYNC_FAILED: &str = "a sync failed";
pub(super) const DISK_FULL: &str = "a disk was full";
pub(super) const PRE_VOTE_REFUSED: &str = "a pre-vote was refused";
pub(super) const STEPPED_DOWN: &str = "a leader stepped down within its term";
pub(super) const TWO_LEADERS: &str = "a leader was elected while an older one still led";
pub(super) const READ_AFTER_LEADING: &str = "a read of a leader was answered once it led no longer";
pub(super) const READ_FAILED: &str = "a read was not answered in time";
pub(super) const SESSION_LOST: &str = "a call ended unknown while its node went on";
pub(super) const OUTPUT_LOST: &str = "a command was applied, but its output was gone";
pub(super) const GAVE_UP: &str = "a command was given up and never applied";
pub(super) const GAVE_UP_TOO_LATE: &str = "a command was given up and applied all the same";
pub(super) const DUPLICATE: &str = "a command was in the log twice";
pub(super) const RESENT: &str = "a command was in the log, refused there, and applied later";
pub(super) const CAUGHT_IN_CHANGE: &str =
    "a change of voters was under way when those that it needed were lost";
pub(super) const UNCLEAR: &str =
    "voters were known to some of an incarnation, and no majority of them lived";
pub(super) const TOO_FEW_TO_FOUND: &str = "nothing was founded, and too few were left to";
pub(super) const LEFT_FOUNDING: &str = "a founding was left";
pub(super) const LEFT_GROUP: &str = "a member left the group for good";
pub(super) const FOUNDED_AGAIN: &str = "there was more than one incarnation";
pub(super) const FROZEN: &str = "an incarnation offered itself to another";
pub(super) const THAWED: &str = "an incarnation took its offer back, or the other yielded";
pub(super) const YIELDED: &str = "an incarnation yielded to one that had offered itself";
pub(super) const SUPERSEDED: &str = "a member gave up an incarnation for another";
pub(super) const SUPERSEDED_WITH_DATA: &str =
    "a member gave up an incarnation in which commands had been applied";
pub(super) const SUPERSEDED_EARLY: &str =
    "a member gave up an incarnation of which it had not applied everything";
pub(super) const SUPERSEDED_ON_PROOF: &str =
    "a member gave up an incarnation whose seal it could not see committed any more";
pub(super) const CALL_SUPERSEDED: &str = "a call ended with its incarnation";
pub(super) const REFUSED_WHILE_FROZEN: &str =
    "a command was refused by an incarnation that was frozen";
pub(super) const SEALED_TOO_LATE: &str =
    "an incarnation was to be sealed under an offer that it had taken back";
pub(super) const MERGED: &str = "two incarnations that could both go on became one";
pub(super) const STALLED: &str = "a group stood still, and it was not proved that it had to";
pub(super) const REFORMED: &str = "a group was reformed, by proof";
pub(super) const REFORMED_BY_ORDER: &str = "a group was reformed without proof";
pub(super) const REFORMED_UNKNOWING: &str =
    "a group was reformed by proof while voters that nobody who took part knew of could go on";
pub(super) const FOLLOWED: &str =
    "a member followed into an incarnation that was reformed from its own";
pub(super) const FOLLOWED_LATE: &str =
    "a member followed that had not taken part in the reform, with what it had";
pub(super) const REFORM_LOST: &str = "something acknowledged was lost with a reform";
pub(super) const FORK_MET: &str =
    "an incarnation that was reformed and the one before it became one";
pub(super) const SET_BACK: &str = "a store was set back behind what its member had had";
pub(super) const SET_BACK_SPARED: &str =
    "a store was not set back, since not all others would have noticed";
pub(super) const SET_BACK_VOTE: &str =
    "a store was set back from before a later term than its last";
pub(super) const SET_BACK_COUNTED: &str =
    "a member whose store had been set back began to vote again";
pub(super) const EXTINCT: &str = "an incarnation lost too many voters for good";
pub(super) const MINORITY_BROKEN: &str = "some nodes stayed broken to the end";

/// All of them.
pub(super) const ALL: &[&str] = &[
    TAIL_AT_ELECTION,
    TRUNCATED,
    RESTORED,
    SOURCE_LOST,
    SERVED_BY_FOLLOWER,
    PROMOTED,
    DEMOTED,
    REPLACED,
    TRANSFERRED,
    VOTE_REMEMBERED,
    CRASHED_UNSYNCED,
    WRITES_LOST,
    CRASHED_IN_STEP,
    SYNC_FAILED,
    DISK_FULL,
    PRE_VOTE_REFUSED,
    STEPPED_DOWN,
    TWO_LEADERS,
    READ_AFTER_LEADING,
    READ_FAILED,
    SESSION_LOST,
    OUTPUT_LOST,
    GAVE_UP,
    GAVE_UP_TOO_LATE,
    DUPLICATE,
    RESENT,
    CAUGHT_IN_CHANGE,
    UNCLEAR,
    LEFT_FOUNDING,
    LEFT_GROUP,
    FOUNDED_AGAIN,
    FROZEN,
    THAWED,
    YIELDED,
    SUPERSEDED,
    SUPERSEDED_WITH_DATA,
    SUPERSEDED_EARLY,
    CALL_SUPERSEDED,
    REFUSED_WHILE_FROZEN,
    SEALED_TOO_LATE,
    MERGED,
    STALLED,
    REFORMED,
    REFORMED_BY_ORDER,
    FOLLOWED,
    FOLLOWED_LATE,
    REFORM_LOST,
    FORK_MET,
    MINORITY_BROKEN,
];

/// Those of stores that are set back.
pub(super) const OF_SET_BACK: &[&str] = &[
    TAIL_AT_ELECTION,
    TRUNCATED,
    RESTORED,
    DEMOTED,
    TRANSFERRED,
    TWO_LEADERS,
    SET_BACK,
    SET_BACK_VOTE,
    SET_BACK_COUNTED,
];

/// Those of groups that were founded apart.
pub(super) const OF_MEETINGS: &[&str] = &[
    FROZEN,
    THAWED,
    YIELDED,
    SUPERSEDED,
    SUPERSEDED_WITH_DATA,
    SUPERSEDED_EARLY,
    CALL_SUPERSEDED,
    REFUSED_WHILE_FROZEN,
    SEALED_TOO_LATE,
    SUPERSEDED_ON_PROOF,
    MERGED,
];

/// Those that excuse a run from showing that a group goes on, and how many runs of a million may have each.
pub(super) const EXCUSES: &[(&str, u32)] = &[
    (CAUGHT_IN_CHANGE, 5_000),
    (UNCLEAR, 10_000),
    (TOO_FEW_TO_FOUND, 10_000),
    (EXTINCT, 10_000),
    (REFORMED_UNKNOWING, 10_000),
];

/// The same where majorities crash more often.
pub(super) const EXCUSES_OF_MEETINGS: &[(&str, u32)] = &[
    (CAUGHT_IN_CHANGE, 5_000),
    (UNCLEAR, 10_000),
    (TOO_FEW_TO_FOUND, 10_000),
    (EXTINCT, 30_000),
    (REFORMED_UNKNOWING, 10_000),
];
