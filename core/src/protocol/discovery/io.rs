//! What happens to the discovery machine, and what it wants done.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{EntryError, GroupInfo, PeerEntry, StreamInfo, Ticket, VerifiedEntry};
use super::messages::{Message, SyncMessage};
use super::peer_addr::PeerAddr;
use crate::id::{GroupId, Instance, NetworkId, PeerId, SecretKey, StreamId, Tag, UniqueId};
use crate::time::{Duration, WallTime};

/// Who the node is, given to the machine at its start.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The network it is in.
    pub network: NetworkId,
    /// The key that it signs with.
    pub secret_key: SecretKey,
    /// This run of it.
    pub instance: Instance,
    /// Where it may be reached; what exceeds [`ADDRESSES_MAX`](super::ADDRESSES_MAX) is left out.
    pub addresses: Vec<SocketAddr>,
    /// What the wall clock reads at the start.
    pub wall: WallTime,
}

/// Names a request, so that its [`Output::Done`] can be told from others. Chosen by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a synchronisation session: one bidirectional stream to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionId {
    /// Opened by this node; the machine numbers it in [`Output::SyncOpen`].
    Outgoing(u64),
    /// Opened by the peer; the driver numbers it in [`Input::SyncOpened`], never twice the same.
    Incoming(u64),
}

/// All that can happen to discovery.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link with this peer is up, whoever dialled. Where one was up already, it has taken its place.
    Connected(PeerId),
    /// The dial that [`Output::Connect`] asked for has failed.
    ConnectFailed(PeerId),
    /// The link went down, other than by [`Output::Disconnect`], after which nothing more is reported of
    /// that link.
    Disconnected(PeerId),
    /// A message came over the link with `from`. Links are reliable and ordered while they are up.
    Message {
        /// Who sent it.
        from: PeerId,
        /// What it says; its entries are verified.
        message: Message,
    },
    /// A peer has opened a session; it speaks first.
    SyncOpened {
        /// A number that no session had before.
        session: SessionId,
        /// Who opened it.
        peer: PeerId,
    },
    /// A message came in a session.
    SyncMessage {
        /// Which one.
        session: SessionId,
        /// What it says; its entries are verified.
        message: SyncMessage,
    },
    /// A session has ended, or could not be opened, other than by [`Output::SyncClose`].
    SyncClosed {
        /// Which one.
        session: SessionId,
        /// What went wrong with its link, in words; `None` where the peer has ended it in good order.
        cause: Option<Arc<str>>,
    },
    /// The wall clock reads this. Given now and then, so that a clock that was set is noticed.
    Wall(WallTime),
    /// A probe has come back with a sample, or has failed.
    Rtt {
        /// Who was probed.
        peer: PeerId,
        /// The round-trip time; `None` where the probe failed.
        sample: Option<Duration>,
    },
    /// Somebody on this node wants something; answered by one [`Output::Done`].
    Request {
        /// Names the request in the answer.
        request: RequestId,
        /// What is wanted.
        command: Command,
    },
}

/// What can be asked of discovery.
#[derive(Clone, Debug)]
pub enum Command {
    /// Changes what this node says of itself, and announces it. Refused where the entry would exceed its
    /// bounds; nothing has changed then.
    Local(LocalChange),
    /// Joins the network through these peers too. Done at once; the dialling goes on.
    Dial(Vec<PeerAddr>),
    /// Exchanges catalogs with a peer. Done when both have what the other had.
    SyncWith(PeerAddr),
    /// Takes in an entry that came another way, and passes it on. Refused like one that came by gossip.
    Feed(VerifiedEntry),
    /// Puts in an entry that nobody signed. It stays on this node, and yields to what the peer says itself.
    Insert(PeerEntry),
    /// Forgets a peer, until it announces itself again.
    Remove(PeerId),
    /// Forgets all entries that nobody signed.
    ClearUnsigned,
    /// Leaves the network: tells it so, and ends with [`Output::Left`].
    Leave,
}

/// A change of what this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalChange {
    /// The node can be reached here, and nowhere else.
    SetAddresses(Vec<SocketAddr>),
    /// It has these tags besides others.
    AddTags(Vec<Tag>),
    /// It has these tags no longer.
    RemoveTags(Vec<Tag>),
    /// It produces this stream.
    SetStream(StreamId, StreamInfo),
    /// It produces this stream no longer.
    RemoveStream(StreamId),
    /// It is in this group.
    SetGroup(GroupId, GroupInfo),
    /// It is in this group no longer.
    RemoveGroup(GroupId),
    /// It carries this ticket besides others.
    AddTicket(Ticket),
    /// It carries this ticket no longer.
    RemoveTicket(Ticket),
    /// It carries no tickets of this class.
    RemoveTicketsOf(UniqueId),
    /// It carries this ticket and no other of its class.
    ReplaceTicket(Ticket),
    /// It says this under this number.
    SetExtension(u16, Bytes),
    /// It says nothing under this number.
    RemoveExtension(u16),
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// What this node would say of itself, or was to take in, is out of bounds.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry that was fed is refused.
    #[error("the entry is refused: {0}")]
    Refused(#[from] Refusal),
    /// The peer could not be reached, or left off. What had come by then is kept.
    #[error("synchronisation with {peer} ended before it was complete: {failure}")]
    SyncFailed {
        /// With whom.
        peer: PeerId,
        /// Why.
        failure: SyncFailure,
    },
    /// Too many synchronisations are under way.
    #[error("{0} synchronisations are under way; wait for one to end")]
    SyncBusy(usize),
    /// The peer is this node.
    #[error("the peer is this node itself")]
    Oneself,
    /// So many entries were inserted that no more fit.
    #[error("{0} unsigned entries are in the catalog; remove some")]
    UnsignedFull(usize),
    /// The node has left the network.
    #[error("this node has left the network")]
    Left,
}

/// Why a synchronisation ended before it was complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncFailure {
    /// Its link could not be opened, or was lost; this is what the link said.
    #[error("{0}")]
    Link(Arc<str>),
    /// The peer ended it early.
    #[error("the peer ended it early")]
    Ended,
    /// The peer said nothing for too long.
    #[error("the peer said nothing for {0:?}")]
    TimedOut(Duration),
    /// The peer said what the protocol does not allow.
    #[error("the peer breaks the protocol")]
    Violation,
    /// This node has left the network.
    #[error("this node has left the network")]
    Left,
}

/// Why an entry is not taken into the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It belongs to another network.
    #[error("it belongs to another network")]
    OtherNetwork,
    /// It is dated in the future, beyond what clocks may differ.
    #[error("it is dated further in the future than max_time_drift allows; check the clocks")]
    FromTheFuture,
    /// It is older than `purge_after`, or was purged or removed before.
    #[error("it is too old, or was removed")]
    Stale,
    /// The catalog has an entry of greater precedence.
    #[error("a newer entry of the peer is known")]
    Outranked,
    /// The catalog is full.
    #[error("the catalog is full")]
    Full,
}

/// All that discovery wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a link with this peer. Answered by [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect(PeerAddr),
    /// Close the link with this peer, or stop dialling it, once what was sent before is on its way.
    Disconnect(PeerId),
    /// Send this over the link.
    Send(PeerId, Message),
    /// Open a session with this peer.
    SyncOpen {
        /// How it is called from now on.
        session: SessionId,
        /// With whom.
        peer: PeerAddr,
    },
    /// Send this in the session.
    SyncSend {
        /// Which one.
        session: SessionId,
        /// What.
        message: SyncMessage,
    },
    /// End the session, once what was sent before is on its way.
    SyncClose {
        /// Which one.
        session: SessionId,
    },
    /// Measure the round-trip time to this peer. Answered by [`Input::Rtt`].
    Probe(PeerAddr),
    /// Tell whoever wants to know.
    Event(Event),
    /// The catalog is another one: take [`Discovery::catalog`](super::Discovery::catalog). Given once in a
    /// drain.
    CatalogChanged {
        /// Whether anything but the dates of entries is different.
        content: bool,
    },
    /// A request has been carried out, or not.
    Done {
        /// Which one.
        request: RequestId,
        /// Whether it was.
        result: Result<(), RequestError>,
    },
    /// The node has left; this is the last output.
    Left,
}

/// What becomes known of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer is there that was not.
    PeerDiscovered(Arc<PeerEntry>),
    /// A peer says something else of itself.
    PeerUpdated(Arc<PeerEntry>),
    /// A peer has left, or has not been heard of for `purge_after`.
    PeerDeparted(PeerId),
    /// More peers than the catalog has are refused because they are dated further in the future than
    /// `max_time_drift`: probably this node's clock is behind. Given at most once a minute.
    ClockBehind {
        /// How many peers are refused.
        peers: usize,
        /// By how much this node's clock is behind theirs; the least of them.
        at_least: Duration,
    },
    /// Another node, which is running, has this node's key. Stop one of the two. Given at most once a
    /// minute.
    DuplicateIdentity {
        /// The other's instance.
        instance: Instance,
        /// Where the other is.
        addresses: Vec<SocketAddr>,
    },
}
