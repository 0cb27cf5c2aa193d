//! What happens to bonds, and what they want done.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::messages::Frame;
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::groups::{GroupKey, WriteAccess};
use crate::runtime::Side;
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

/// Names a link of this node. Chosen by the driver, never twice the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// All that can happen to bonds.
pub enum Input {
    /// The catalog names the peer in these groups and no others. None: it is not in the catalog, or in no group.
    /// Given whenever the content of its entry changes: a peer that was refused for a wrong proof is tried again then.
    Peer {
        /// The peer.
        peer: PeerId,
        /// The groups that its entry names.
        groups: BTreeSet<GroupId>,
    },
    /// This node is in the group from now on. Means nothing where it was already.
    Joined {
        /// The group.
        group: GroupId,
        /// Its key.
        key: GroupKey,
        /// Who may write to it, and whether this node may.
        access: WriteAccess,
    },
    /// This node is in the group no longer.
    Left(GroupId),
    /// There is a link with the peer.
    LinkOpened {
        /// Its name.
        link: LinkId,
        /// Who is at the other end.
        peer: PeerId,
        /// The peer's run.
        instance: Instance,
        /// Who has opened the link. [`Side::Dialer`] also answers an [`Output::Dial`] of the peer.
        side: Side,
        /// Keying material of its connection under [`GROUPS_EXPORTER_LABEL`](super::GROUPS_EXPORTER_LABEL).
        exporter: [u8; 32],
    },
    /// The link that [`Output::Dial`] asked for cannot be had.
    DialFailed(PeerId),
    /// The link has ended, other than by [`Output::Close`], after which nothing is heard of it.
    LinkClosed {
        /// Which.
        link: LinkId,
        /// The peer's code, where it has closed it with one.
        code: Option<CloseCode>,
    },
    /// A frame came, without the length in front.
    Frame {
        /// Over which link.
        link: LinkId,
        /// Its bytes.
        frame: Bytes,
    },
    /// The transport has taken the oldest frame that was given to it and not reported yet.
    Sent(LinkId),
    /// A group says something to a member. Lost where there is no bond, where the link is lost, or where more is
    /// said than it carries.
    Send {
        /// The group.
        group: GroupId,
        /// The member.
        peer: PeerId,
        /// What is said, of [`PAYLOAD_LEN_MAX`](super::PAYLOAD_LEN_MAX) bytes at most.
        payload: Bytes,
        /// It may wait a little for others to share a frame with, as signs of life of an idle group may.
        can_wait: bool,
    },
    /// What a bonded member has said is not of the group's protocol. It loses its link, with all its bonds.
    Garbled {
        /// The group.
        group: GroupId,
        /// The member.
        peer: PeerId,
    },
    /// A bonded member that has not proved that it may write has said what only writers say. It loses its link, with all
    /// its bonds: none that keeps to the protocol does.
    Overstepped {
        /// The group.
        group: GroupId,
        /// The member.
        peer: PeerId,
    },
    /// The node shuts down: departs from all groups and closes all links, for good.
    Close,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor keying material.
        match self {
            Self::Peer { peer, groups } => write!(f, "Peer({peer:?}, {groups:?})"),
            Self::Joined { group, .. } => write!(f, "Joined({group:?})"),
            Self::Left(group) => write!(f, "Left({group:?})"),
            Self::LinkOpened {
                link,
                peer,
                instance,
                side,
                ..
            } => {
                write!(f, "LinkOpened({link:?}, {peer:?}, {instance:?}, {side:?})")
            }
            Self::DialFailed(peer) => write!(f, "DialFailed({peer:?})"),
            Self::LinkClosed { link, code } => write!(f, "LinkClosed({link:?}, {code:?})"),
            Self::Frame { link, frame } => write!(f, "Frame({link:?}, {} bytes)", frame.len()),
            Self::Sent(link) => write!(f, "Sent({link:?})"),
            Self::Send {
                group,
                peer,
                payload,
                ..
            } => {
                write!(f, "Send({group:?}, {peer:?}, {} bytes)", payload.len())
            }
            Self::Garbled { group, peer } => write!(f, "Garbled({group:?}, {peer:?})"),
            Self::Overstepped { group, peer } => write!(f, "Overstepped({group:?}, {peer:?})"),
            Self::Close => f.write_str("Close"),
        }
    }
}

/// What bonds want done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a link to the peer. Answered by [`Input::LinkOpened`] or [`Input::DialFailed`].
    Dial(PeerId),
    /// Give a frame to the transport, after those before it. Answered by [`Input::Sent`].
    Send {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// Close the link.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        code: CloseCode,
        /// The connection is closed with the code, and what was not sent is lost. Otherwise the link alone ends, once
        /// what it was given is sent, as far as that takes a few seconds at most.
        at_once: bool,
    },
    /// A bonded member says something.
    Message {
        /// In which group.
        group: GroupId,
        /// Who.
        peer: PeerId,
        /// Whether it may write, as [`Event::Bonded`] says.
        may_write: bool,
        /// What.
        payload: Bytes,
    },
    /// Tell whoever is interested.
    Event(Event),
}

/// What becomes of bonds. For each group and peer, `Bonded` and `Unbonded` take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Both have proved the group's key; messages can be sent.
    Bonded {
        /// The group.
        group: GroupId,
        /// The member.
        peer: PeerId,
        /// It has proved that it may write, or nobody in the group has to.
        may_write: bool,
    },
    /// There is no bond any more.
    Unbonded {
        /// The group.
        group: GroupId,
        /// The member.
        peer: PeerId,
        /// Why.
        why: Loss,
    },
    /// No bond comes about, for now at least. Not repeated while the reason stays the same.
    Refused {
        /// The group.
        group: GroupId,
        /// The peer.
        peer: PeerId,
        /// Why.
        why: Refusal,
    },
}

/// Why a bond does not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer says that it is not in the group. It is asked again, later and later.
    #[error("the peer is not in the group")]
    NotMember,
    /// The peer says that this node's proof is wrong. It is not asked again before its entry changes.
    #[error("the peer takes this node's proof of the group's key for wrong")]
    Distrusted,
    /// The peer's proof is wrong. It is not asked again before its entry changes.
    #[error("the peer does not prove the group's key")]
    NotProved,
    /// The peer says that this node's proof that it may write is wrong. It is not asked again before its entry changes.
    #[error("the peer takes this node's proof of the group's write key for wrong")]
    WriteDistrusted,
    /// The peer says that it may write, and its proof is wrong. It is not asked again before its entry changes.
    #[error("the peer does not prove the group's write key, though it says that it may write")]
    WriteNotProved,
    /// The peer does not answer. It is asked again, later and later.
    #[error("the peer does not answer")]
    NoAnswer,
    /// The peer has refused with a code that this version does not know. It is asked again, later and later.
    #[error("the peer refuses: {0}")]
    Other(CloseCode),
}

impl Refusal {
    /// What the peer's code means.
    pub(super) const fn of(code: CloseCode) -> Self {
        match code {
            CloseCode::GROUP_NOT_MEMBER => Self::NotMember,
            CloseCode::GROUP_NOT_PROVED => Self::Distrusted,
            CloseCode::GROUP_WRITE_NOT_PROVED => Self::WriteDistrusted,
            other => Self::Other(other),
        }
    }

    /// Whether asking again may help.
    pub(super) const fn is_final(self) -> bool {
        match self {
            Self::Distrusted | Self::NotProved | Self::WriteDistrusted | Self::WriteNotProved => {
                true
            }
            Self::NotMember | Self::NoAnswer | Self::Other(_) => false,
        }
    }
}

/// Why a bond is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The peer has left the group, and said so.
    #[error("the peer has left the group")]
    Departed,
    /// This node has left the group, or shuts down.
    #[error("this node has left the group")]
    Left,
    /// The peer takes the bond back, or offered it anew with a wrong proof.
    #[error("the bond was refused: {0}")]
    Refused(Refusal),
    /// The link has ended, with the peer's code where it gave one.
    #[error("the link has ended{}", .0.map(|code| format!(": {code}")).unwrap_or_default())]
    Closed(Option<CloseCode>),
    /// Nothing was heard of the peer for too long.
    #[error("the peer was silent for too long")]
    Silent,
    /// The peer has taken nothing for too long.
    #[error("the peer took nothing for too long")]
    Stalled,
    /// Another link of the same peer takes the place of the bond's.
    #[error("another link has taken the place of the bond's")]
    Replaced,
    /// The peer has broken the protocol.
    #[error("the peer has broken the protocol: {0}")]
    Violation(CloseCode),
}

/// Where this node stands with one peer in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BondInfo {
    /// The peer.
    pub peer: PeerId,
    /// The state of their bond.
    pub state: BondState,
    /// The bond is up, and the peer has proved that it may write, or nobody in the group has to.
    pub may_write: bool,
    /// The smoothed round-trip time of their link, once it was measured.
    pub rtt: Option<Duration>,
    /// About how many bytes this node has said in the group that their link has not taken yet; 32 MiB at most.
    pub waiting: usize,
}

/// The state of a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondState {
    /// There is no link. `None`: it is being dialled.
    Unlinked {
        /// When it is dialled.
        until: Option<Instant>,
    },
    /// This node's proof is on its way, or the peer's.
    Proving,
    /// It is up.
    Bonded {
        /// Since when.
        since: Instant,
    },
    /// It was refused, or the peer has left (`None`).
    Apart(Option<Refusal>),
}

/// What has happened since the start, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Links that were closed because the peer has broken the protocol.
    pub violations: u64,
    /// Offers with a wrong proof, of either kind.
    pub wrong_proofs: u64,
    /// Offers in groups that this node is not in.
    pub not_member: u64,
    /// Messages of this node that were dropped, for want of a bond or of room.
    pub dropped: u64,
    /// Messages of peers that were dropped because the bond had ended.
    pub stray: u64,
}
