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
//! For applications: [`network`], [`discovery`], [`streams`], [`groups`], [`collections`], [`declare`],
//! [`primitives`].

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
pub use node::collections::declare::{
    CollectionDef, ConsumerOf, ProducerOf, ReaderDef, ReaderDef as CollectionReader, ReaderOf,
    StreamConsumer, StreamDef, StreamProducer, WriterDef, WriterDef as CollectionWriter, WriterOf,
};
pub use node::groups::Consistency::{self, Strong, Weak};
pub use node::groups::Group;
pub use node::streams::{Consumer, Producer};
pub use node::{Network, NetworkBuilder};
pub use protocol::groups::GroupKey;
pub use protocol::streams::Criteria;

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
        PeerAddr, PeerEntry, PeerInfo, RequestError, SignedPeerEntry, StreamInfo, SyncFailure,
        Ticket, VerifiedEntry,
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
    pub use crate::protocol::streams::criteria::{Field, Value};
    pub use crate::protocol::streams::producer::Event as ProducerEvent;
    pub use crate::protocol::streams::segment::DATUM_LEN_MAX;
    pub use crate::protocol::streams::{Backoff, BackoffError, Criteria, CriteriaError, Refusal};
}

/// Groups of nodes that agree on one history of commands.
pub mod groups {
    pub use crate::node::groups::{
        Bond, Bonds, CommandError, Committed, Condition, Consistency, Executed, Group,
        GroupBuilder, GroupEvent, GroupStatus, Groups, IndexRange, JoinError, NoOp, Passage,
        Pending, PendingMany, Queried, QueryError, Reformed, Serialized, Snapshot, StateMachine,
        Stopped, Storage, Superseded, When,
    };
    pub use crate::node::streams::Events;
    pub use crate::protocol::bonds::{BondState, Config as BondsConfig, Refusal};
    pub use crate::protocol::groups::{GroupKey, WriteKey, WriteKeyMismatch, WriteVerifier};
    pub use crate::protocol::raft::{
        ApplyContext, Config as ConsensusConfig, ConfigError, FoundingRule, Incarnation, Index,
        LeadershipPreference, Position as Cursor, RestoreError, Role, Term, Version,
    };
}

/// Collections that all nodes have in common: what one writes, all read.
///
/// ```
/// use smalti_core::collections::{Map, OpenError, WriteError};
/// use smalti_core::{Network, StoreId, unique_id};
///
/// const PRICES: StoreId = unique_id!("prices");
/// type Prices = Map<String, u64>;
///
/// async fn on_one_node(network: &Network) -> Result<(), Box<dyn std::error::Error>> {
///     let prices = Prices::online_writer(network, PRICES).await?;
///     let written = prices.insert("bread".to_owned(), 310).await?;
///     assert_eq!(written.output, None, "there was no price before");
///     Ok(())
/// }
///
/// async fn on_another(network: &Network) -> Result<(), OpenError> {
///     let prices = Prices::online_reader(network, PRICES).await?;
///     if let Some(price) = prices.get("bread") {
///         println!("bread costs {price}");
///     }
///     Ok(())
/// }
/// ```
pub mod collections {
    pub use crate::node::collections::{
        CellReader, CellWriter, Changed, Changes, CollectionConfig, Lagged, MapReader, MapWriter,
        OnceReader, OnceWriter, OpenError, PriorityQueueReader, PriorityQueueWriter, Reader,
        SetReader, SetWriter, SyncConfig, Updated, VecReader, VecWriter, View, When, WriteError,
        Writer, Written,
    };
    pub use crate::node::groups::{Condition, Executed};
    pub use crate::protocol::collections::{
        Batch, Cell, Collection, Fingerprint, Inserted, Key, Map, MapChange, Once, OutOfBounds,
        PriorityQueue, QueueChange, Results, SchemaConflict, Set, SetChange, Ticket, Value, Vec,
        VecChange,
    };
    pub use crate::protocol::raft::Version;
}

/// Collections and streams that are declared once and used by name.
pub mod declare {
    pub use crate::node::collections::declare::*;
    pub use crate::{collection, stream};
}

/// What the other modules are built of.
pub mod primitives {
    pub use crate::id::*;
    pub use crate::time::{Duration, Instant, WallTime};
}
