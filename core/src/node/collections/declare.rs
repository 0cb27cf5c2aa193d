//! Collections and streams that are declared once and used by name.

use std::future::Future;

use super::config::CollectionConfig;
use super::error::OpenError;
use super::handle::{Reader, Writer};
use crate::datum::Datum;
use crate::id::{StoreId, StreamId};
use crate::node::Network;
use crate::node::streams::{Consumer, ConsumerBuilder, Producer, ProducerBuilder};
use crate::protocol::collections::Collection;
use crate::protocol::raft::LeadershipPreference;

/// A collection under the name of a type. [`collection!`](crate::collection) makes these.
pub trait CollectionDef {
    /// What it is.
    type Collection: Collection;

    /// Its id.
    const ID: StoreId;

    /// How it is kept: the same for all who open it. Default: [`CollectionConfig::default`].
    fn config() -> CollectionConfig {
        CollectionConfig::default()
    }
}

/// A declared collection that can be read.
pub trait ReaderDef: CollectionDef {
    /// Opens the collection to read it. Its members find each other in the background.
    ///
    /// # Errors
    /// [`OpenError`], for example where this node has it open already.
    fn reader(network: &Network) -> impl Future<Output = Result<ReaderOf<Self>, OpenError>> + Send {
        let observer = LeadershipPreference::Observer;
        Reader::open(network, Self::ID, Self::config(), observer)
    }

    /// Opens the collection to read it, and waits until this node has caught up, which takes a writer.
    ///
    /// # Errors
    /// [`OpenError`], for example where the collection holds other element types.
    fn online_reader(
        network: &Network,
    ) -> impl Future<Output = Result<ReaderOf<Self>, OpenError>> + Send {
        async {
            let reader = Self::reader(network).await?;
            reader.online().await?;
            Ok(reader)
        }
    }
}

/// A declared collection that can be read and written.
pub trait WriterDef: CollectionDef {
    /// Opens the collection to read and write it. Its members find each other in the background.
    ///
    /// # Errors
    /// [`OpenError`], for example where this node has it open already.
    fn writer(network: &Network) -> impl Future<Output = Result<WriterOf<Self>, OpenError>> + Send {
        Writer::open(network, Self::ID, Self::config())
    }

    /// Opens the collection to read and write it, and waits until this node has caught up.
    ///
    /// # Errors
    /// [`OpenError`], for example where the collection holds other element types.
    fn online_writer(
        network: &Network,
    ) -> impl Future<Output = Result<WriterOf<Self>, OpenError>> + Send {
        async {
            let writer = Self::writer(network).await?;
            writer.online().await?;
            Ok(writer)
        }
    }
}

/// The reader of a declared collection.
pub type ReaderOf<D> = Reader<<D as CollectionDef>::Collection>;

/// The writer of a declared collection.
pub type WriterOf<D> = Writer<<D as CollectionDef>::Collection>;

/// A stream under the name of a type. [`stream!`](crate::stream) makes these.
pub trait StreamDef {
    /// What travels in it.
    type Datum: Datum;

    /// Its id.
    const ID: StreamId;
}

/// A declared stream that can be produced.
pub trait StreamProducer: StreamDef {
    /// Prepares to produce it.
    fn producer(network: &Network) -> ProducerBuilder<Self::Datum> {
        network.streams().producer().with_stream_id(Self::ID)
    }
}

/// A declared stream that can be consumed.
pub trait StreamConsumer: StreamDef {
    /// Prepares to consume it.
    fn consumer(network: &Network) -> ConsumerBuilder<Self::Datum> {
        network.streams().consumer().with_stream_id(Self::ID)
    }
}

/// The producer of a declared stream.
pub type ProducerOf<D> = Producer<<D as StreamDef>::Datum>;

/// The consumer of a declared stream.
pub type ConsumerOf<D> = Consumer<<D as StreamDef>::Datum>;

/// Declares a collection: a type that stands for it, with its element types and its id, so that all who open it agree.
///
/// With `reader` or `writer` in front of the name it can be opened in that role alone.
///
/// ```
/// use smalti_core::collections::{self, OpenError};
/// use smalti_core::declare::{ReaderDef, ReaderOf, WriterDef, WriterOf};
/// use smalti_core::{Network, collection};
///
/// collection! {
///     /// What things cost, in cents.
///     pub Prices = collections::Map<String, u64>, "shop.prices";
/// }
/// collection!(pub reader Visitors = collections::Set<String>, "shop.visitors");
/// collection!(writer Log = collections::Vec<String>, "shop.log");
///
/// async fn open(network: &Network) -> Result<(WriterOf<Prices>, ReaderOf<Visitors>), OpenError> {
///     let prices = Prices::online_writer(network).await?;
///     let visitors = Visitors::reader(network).await?;
///     let _log = Log::writer(network).await?;
///     Ok((prices, visitors))
/// }
/// ```
#[macro_export]
macro_rules! collection {
    ($(#[$meta:meta])* $visibility:vis reader $name:ident = $collection:ty, $id:expr $(;)?) => {
        $crate::collection!(@define [$(#[$meta])* $visibility] $name = $collection, $id);
        impl $crate::declare::ReaderDef for $name {}
    };
    ($(#[$meta:meta])* $visibility:vis writer $name:ident = $collection:ty, $id:expr $(;)?) => {
        $crate::collection!(@define [$(#[$meta])* $visibility] $name = $collection, $id);
        impl $crate::declare::WriterDef for $name {}
    };
    ($(#[$meta:meta])* $visibility:vis $name:ident = $collection:ty, $id:expr $(;)?) => {
        $crate::collection!(@define [$(#[$meta])* $visibility] $name = $collection, $id);
        impl $crate::declare::ReaderDef for $name {}
        impl $crate::declare::WriterDef for $name {}
    };
    (@define [$(#[$meta:meta])* $visibility:vis] $name:ident = $collection:ty, $id:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $visibility struct $name;

        impl $crate::declare::CollectionDef for $name {
            type Collection = $collection;
            const ID: $crate::StoreId = $crate::unique_id!($id);
        }
    };
}

/// Declares a stream: a type that stands for it, with what travels in it and its id, so that producers and consumers
/// agree.
///
/// With `producer` or `consumer` in front of the name it can be used in that role alone.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use smalti_core::declare::{ConsumerOf, ProducerOf, StreamConsumer, StreamProducer};
/// use smalti_core::streams::ConsumerError;
/// use smalti_core::{Network, stream};
///
/// #[derive(Serialize, Deserialize)]
/// pub struct Order {
///     price: u64,
/// }
///
/// stream! {
///     /// All orders of the shop.
///     pub Orders = Order, "shop.orders";
/// }
/// stream!(pub consumer Visits = String, "shop.visits");
/// stream!(producer Sales = u64, "shop.sales");
///
/// fn consume(network: &Network) -> Result<ConsumerOf<Orders>, ConsumerError> {
///     let _visits = Visits::consumer(network).build()?;
///     Orders::consumer(network).build()
/// }
///
/// fn produce(network: &Network) -> Option<(ProducerOf<Orders>, ProducerOf<Sales>)> {
///     let orders = Orders::producer(network).build().ok()?;
///     let sales = Sales::producer(network).build().ok()?;
///     Some((orders, sales))
/// }
/// ```
#[macro_export]
macro_rules! stream {
    ($(#[$meta:meta])* $visibility:vis producer $name:ident = $datum:ty, $id:expr $(;)?) => {
        $crate::stream!(@define [$(#[$meta])* $visibility] $name = $datum, $id);
        impl $crate::declare::StreamProducer for $name {}
    };
    ($(#[$meta:meta])* $visibility:vis consumer $name:ident = $datum:ty, $id:expr $(;)?) => {
        $crate::stream!(@define [$(#[$meta])* $visibility] $name = $datum, $id);
        impl $crate::declare::StreamConsumer for $name {}
    };
    ($(#[$meta:meta])* $visibility:vis $name:ident = $datum:ty, $id:expr $(;)?) => {
        $crate::stream!(@define [$(#[$meta])* $visibility] $name = $datum, $id);
        impl $crate::declare::StreamProducer for $name {}
        impl $crate::declare::StreamConsumer for $name {}
    };
    (@define [$(#[$meta:meta])* $visibility:vis] $name:ident = $datum:ty, $id:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $visibility struct $name;

        impl $crate::declare::StreamDef for $name {
            type Datum = $datum;
            const ID: $crate::StreamId = $crate::unique_id!($id);
        }
    };
}
