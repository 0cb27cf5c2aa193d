//! States that matter and are seldom reached.

use smalti_core::protocol::raft::StorageError;

pub(super) const UNKNOWN: &str = "nobody knows what became of a command";
pub(super) const DURABLE: &str = "the group was durable";
pub(super) const REAL_STORES: &str = "the group was durable, on files that crashes tear";
pub(super) const VOLATILE: &str = "the group was in memory";
pub(super) const MAJORITY_DOWN: &str = "a majority of the hosts was down at one time";
pub(super) const WRITES_LOST: &str = "a crash lost writes";
pub(super) const SLOW_DISK: &str = "disks were slow at times";
pub(super) const WRITE_FAILED: &str = "a group stopped on a host whose disk had failed a write";
pub(super) const SYNC_FAILED: &str =
    "a group stopped on a host whose disk had failed to make writes durable";
pub(super) const DISK_FULL: &str = "a group stopped on a host whose disk was full";
pub(super) const REFUSED: &str = "a host whose disk had failed was refused when it joined again";
pub(super) const STARTED_AGAIN: &str = "a host on which the group had stopped was started again";
pub(super) const SUPERSEDED: &str = "two foundings met, and one was given up";
pub(super) const SUPERSEDED_WITH_DATA: &str =
    "two lives of the group met, and one in which commands had been applied was given up";
pub(super) const STALLED: &str = "the group stood still, and it was not proved that it had to";
pub(super) const ORDERED: &str = "an operator had the group go on from what was left";
pub(super) const NOTHING_LEFT: &str =
    "nobody that was left had a log, so that it took an operator to go on";
pub(super) const REFORMED: &str = "the group was reformed, by proof";
pub(super) const REFORMED_BY_ORDER: &str = "the group was reformed without proof, by an operator";
pub(super) const REFORMED_BY_PATIENCE: &str = "the group was reformed without proof, after a time";
pub(super) const FOLLOWED_LATE: &str =
    "a host went over to a life reformed without it, and was given the state that it had";
pub(super) const LOST: &str = "something acknowledged is not part of what the group has in the end";
pub(super) const UNJUDGED: &str = "nobody has shown what a life of the group began with";

/// All of them.
pub(super) const ALL: &[&str] = &[
    UNKNOWN,
    DURABLE,
    REAL_STORES,
    VOLATILE,
    MAJORITY_DOWN,
    WRITES_LOST,
    SLOW_DISK,
    WRITE_FAILED,
    SYNC_FAILED,
    DISK_FULL,
    REFUSED,
    STARTED_AGAIN,
    SUPERSEDED,
    SUPERSEDED_WITH_DATA,
    STALLED,
    ORDERED,
    NOTHING_LEFT,
    REFORMED,
    REFORMED_BY_ORDER,
    REFORMED_BY_PATIENCE,
    FOLLOWED_LATE,
    LOST,
];

/// Those that excuse a run from a check, and how many runs of a million may have each.
pub(super) const EXCUSES: &[(&str, u32)] = &[(NOTHING_LEFT, 60_000), (UNJUDGED, 30_000)];

/// What it means that a group has stopped for this. The store of production writes when it makes durable.
pub(super) fn stopped_by(error: &StorageError) -> &'static str {
    match error {
        StorageError::Full { .. } => DISK_FULL,
        StorageError::Disk { doing, .. } if doing.starts_with("writing") => WRITE_FAILED,
        _ => SYNC_FAILED,
    }
}
