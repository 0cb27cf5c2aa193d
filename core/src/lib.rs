//! The heart of Smalti: protocol state machines, the traits that a runtime implements, and the handles that
//! applications use. No socket, file, operating-system clock or randomness is touched here; applications
//! depend on `smalti`, which runs this over QUIC, and test with `smalti-sim`, which simulates it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`protocol`] | the protocols as machines: state and messages, no async, no I/O |
//! | [`node`] | workers that run the machines, and the handles behind the public modules |
//! | [`runtime`] | what a node needs of the world: transport, clock, randomness, tasks, files, the durable store |
//! | [`wire`] | codec, frames, limits, close codes, the hello of every connection |
//! | [`id`](mod@id) | digests, identifiers, keys |
//! | [`time`] | the monotonic and the wall clock's readings |
//! | [`datum`], [`schema`] | what travels in streams, and fingerprints of its type |
//!
//! For applications: [`network`], [`discovery`], [`streams`], [`groups`], [`primitives`].

pub mod datum;
pub mod id;
pub mod node;
pub mod protocol;
pub mod runtime;
pub mod schema;
#[doc(hidden)]
pub mod select;
pub mod time;
pub mod wire;

pub use bytes::Bytes;
pub use datum::{Datum, Raw};
pub use id::{Digest, GroupId, NetworkId, PeerId, SecretKey, StoreId, StreamId, Tag, UniqueId};
pub use node::groups::Consistency::{self, Strong, Weak};
pub use node::groups::Group;
pub use node::streams::{Consumer, Producer};
pub use node::{Network, NetworkBuilder};
pub use protocol::groups::GroupKey;

/// The node: entry point, identity, links.
pub mod network {
    pub use crate::node::{
        Error, Link, LinkError, LinkReceiver, LinkSender, Local, Network, NetworkBuilder, Protocol,
    };
    pub use crate::wire::CloseCode;
}

/// Who else is in the network, and what they offer.
pub mod discovery {
    pub use crate::node::discovery::{CatalogWatch, Discovery, Error, Events, EventsLagged};
    pub use crate::protocol::discovery::{
        Catalog, Config, ConfigBuilder, ConfigError, EntryError, EntryVersion, Event, GroupInfo,
        PeerAddr, PeerEntry, RequestError, SignedPeerEntry, StreamInfo, SyncFailure, Ticket,
        VerifiedEntry,
    };
}

/// Typed datums, from producers to the consumers that find them.
pub mod streams {
    pub use crate::datum::{Datum, DecodeError, EncodeError, Raw};
    pub use crate::node::discovery::EventsLagged;
    pub use crate::node::streams::{
        Consumer, ConsumerBuilder, ConsumerError, Events, Meta, Online, Producer, ProducerBuilder,
        ProducerError, SendError, Stats, Streams, Subscribed, Subscribers, SubscriptionState,
        SubscriptionStats, TryRecvError, TrySendError, When,
    };
    pub use crate::protocol::streams::consumer::Event as ConsumerEvent;
    pub use crate::protocol::streams::producer::Event as ProducerEvent;
    pub use crate::protocol::streams::segment::DATUM_LEN_MAX;
    pub use crate::protocol::streams::{Backoff, BackoffError, Refusal};
}

/// Groups of nodes that agree on one history of commands.
pub mod groups {
    pub use crate::node::groups::{
        Bond, Bonds, CommandError, Committed, Condition, Consistency, Executed, Group,
        GroupBuilder, GroupEvent, GroupStatus, Groups, JoinError, NoOp, Pending, PendingMany,
        Queried, QueryError, Serialized, Snapshot, StateMachine, Stopped, Storage, Superseded,
        When,
    };
    pub use crate::node::streams::Events;
    pub use crate::protocol::bonds::{BondState, Config as BondsConfig, Refusal};
    pub use crate::protocol::groups::GroupKey;
    pub use crate::protocol::raft::{
        ApplyContext, Config as ConsensusConfig, ConfigError, FoundingRule, Incarnation, Index,
        LeadershipPreference, Position as Cursor, RestoreError, Role, Term, Version,
    };
}

/// What the other modules are built of.
pub mod primitives {
    pub use crate::id::*;
    pub use crate::time::{Duration, Instant, WallTime};
}
