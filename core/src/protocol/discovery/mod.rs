//! Discovery: who else is in the network, and what they offer.
//!
//! Each node signs an entry that says what it is and offers, announces it to all others over a
//! self-repairing overlay, and keeps the others' entries in its [`Catalog`].

mod bounded;
mod catalog;
mod clock;
mod config;
mod context;
mod entry;
mod io;
mod machine;
mod messages;
mod overlay;
mod own;
mod peer_addr;
mod range;
mod records;
mod rtt;
mod sync;

pub use catalog::{Catalog, PeerInfo};
pub use config::{BOOTSTRAP_MAX, Config, ConfigBuilder, ConfigError, Many, One, OneOrMany};
pub use entry::{
    ENTRY_BYTES_MAX, EXTENSIONS_MAX, EntryError, EntryVersion, GROUPS_MAX, GroupInfo,
    PROTOCOL_VERSION, PeerEntry, STREAMS_MAX, SignedPeerEntry, Status, StreamInfo, TAGS_MAX,
    TICKETS_MAX, Ticket, VerifiedEntry,
};
pub use io::{
    Command, Event, Identity, Input, LocalChange, Output, Refusal, RequestError, RequestId,
    SessionId, SyncFailure,
};
pub use machine::Discovery;
pub use messages::{
    Aged, EntryId, LIST_MAX, MESSAGE_BYTES_AIM, MESSAGE_BYTES_MAX, Message, MessageError, Priority,
    SHUFFLE_MAX, SyncMessage, WALK_MAX,
};
pub use peer_addr::{ADDRESSES_MAX, ParsePeerAddrError, PeerAddr};
pub use range::{Fingerprint, Range};

#[cfg(test)]
mod tests;
