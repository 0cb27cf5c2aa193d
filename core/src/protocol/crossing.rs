//! Which of several connections, or links, to one peer is used.

use crate::id::Instance;
use crate::id::PeerId;
use crate::runtime::Side;

/// What decides between two connections, or two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) instance: Instance,
    /// This node's end of it.
    pub(crate) side: Side,
}

/// What becomes of the connection in use when another one of the same peer and protocol is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The new one is used. The old one takes no new streams and closes when its own have ended.
    RetireOld,
    /// The old one stays in use. The new one takes no new streams and closes when its own have ended.
    RetireNew,
    /// The old one belongs to a former run of the peer: it is closed at once.
    CloseOld,
}

/// Decides which connection is used; both ends decide alike, in whatever order they see them.
///
/// - Another instance: the peer has restarted, and the old connection leads nowhere.
/// - The same dialer twice: it would not have dialled again if it still had the first.
/// - Crossing dials: the one dialled by the smaller peer id stays.
pub(crate) fn decide(us: PeerId, peer: PeerId, old: Candidate, new: Candidate) -> Verdict {
    if old.instance != new.instance {
        return Verdict::CloseOld;
    }
    if old.side == new.side {
        return Verdict::RetireOld;
    }
    let dialled_by_us_stays = us < peer;
    if (new.side == Side::Dialer) == dialled_by_us_stays {
        Verdict::RetireOld
    } else {
        Verdict::RetireNew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: PeerId = PeerId::from_bytes([1; 32]);
    const GREAT: PeerId = PeerId::from_bytes([2; 32]);
    const RUN: Instance = Instance::from_bytes([1; 16]);
    const NEXT_RUN: Instance = Instance::from_bytes([2; 16]);

    const fn candidate(instance: Instance, side: Side) -> Candidate {
        Candidate { instance, side }
    }

    #[test]
    fn of_crossing_dials_both_ends_keep_the_one_of_the_smaller_id() {
        let dialled = candidate(RUN, Side::Dialer);
        let accepted = candidate(RUN, Side::Acceptor);
        assert_eq!(decide(SMALL, GREAT, dialled, accepted), Verdict::RetireNew);
        assert_eq!(decide(SMALL, GREAT, accepted, dialled), Verdict::RetireOld);
        assert_eq!(decide(GREAT, SMALL, dialled, accepted), Verdict::RetireOld);
        assert_eq!(decide(GREAT, SMALL, accepted, dialled), Verdict::RetireNew);
    }

    #[test]
    fn a_second_dial_of_the_same_end_replaces_the_first() {
        for side in [Side::Dialer, Side::Acceptor] {
            let both = candidate(RUN, side);
            assert_eq!(decide(SMALL, GREAT, both, both), Verdict::RetireOld);
            assert_eq!(decide(GREAT, SMALL, both, both), Verdict::RetireOld);
        }
    }

    #[test]
    fn a_restarted_peer_replaces_its_former_run_at_once() {
        for old in [Side::Dialer, Side::Acceptor] {
            for new in [Side::Dialer, Side::Acceptor] {
                let verdict = decide(SMALL, GREAT, candidate(RUN, old), candidate(NEXT_RUN, new));
                assert_eq!(verdict, Verdict::CloseOld);
            }
        }
    }
}
