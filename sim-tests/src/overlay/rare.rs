//! States that matter and are seldom reached.

pub(super) const BOTH_DIALLED: &str = "both ends dialled each other at once";
pub(super) const DIALLED_AGAIN: &str = "one end dialled again while the other had the link";
pub(super) const LINK_TIMED_OUT: &str = "a link timed out";
pub(super) const LINK_RESET: &str = "a link was reset by a node that had started again";
pub(super) const LINK_OVERFLOW: &str = "a link closed because its peer did not keep up";
pub(super) const SESSION_LOST: &str = "a session was lost before its end";
pub(super) const CRASHED_IN_SESSION: &str = "a node crashed during a session";
pub(super) const CRASHED_IN_STEP: &str = "a node crashed between two outputs of a step";
pub(super) const EARLIER_CLOCK: &str = "a node started again under an earlier clock";
pub(super) const RAISED: &str = "a node raised its entry above one of an earlier run";
pub(super) const DUPLICATE_IDENTITY: &str = "a node heard of a running node with its key";
pub(super) const LEFT_PARTITIONED: &str = "a node left while cut off from others";
pub(super) const DEPARTURE_LEARNT_LATE: &str = "a departure was missed and learnt later";
pub(super) const LIVE_PEER_PURGED: &str = "a live peer was given up";
pub(super) const CRASHED_PEER_PURGED: &str = "a crashed peer was given up";
pub(super) const GIVEN_UP_AND_BACK: &str = "a peer came back after it was given up";
pub(super) const RESTARTED_AFTER_LEAVING: &str = "a node that had left started again";
pub(super) const ALONE: &str = "a node lost its last neighbour";

/// All of them.
pub(super) const ALL: &[&str] = &[
    BOTH_DIALLED,
    DIALLED_AGAIN,
    LINK_TIMED_OUT,
    LINK_RESET,
    LINK_OVERFLOW,
    SESSION_LOST,
    CRASHED_IN_SESSION,
    CRASHED_IN_STEP,
    EARLIER_CLOCK,
    RAISED,
    DUPLICATE_IDENTITY,
    LEFT_PARTITIONED,
    DEPARTURE_LEARNT_LATE,
    LIVE_PEER_PURGED,
    CRASHED_PEER_PURGED,
    GIVEN_UP_AND_BACK,
    RESTARTED_AFTER_LEAVING,
    ALONE,
];
