//! Starting a node over QUIC.

use std::future::Future;
use std::sync::Arc;

use smalti_core::network::Error;
use smalti_core::{Network, NetworkBuilder, NetworkId};

use crate::QuicRuntime;

/// Starts nodes over QUIC, on the tokio runtime of the caller.
///
/// It is implemented for [`Network`] alone, which core defines without any network of its own.
pub trait NetworkExt: sealed::Sealed {
    /// Starts a node of the network `id` with all defaults: a new identity, on all interfaces, at a free port.
    /// It needs neither peers nor a way to the outside, and waits for nobody.
    ///
    /// # Errors
    /// [`Error::Bind`] where no socket can be opened.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose time and I/O drivers are enabled.
    fn new(id: impl Into<NetworkId> + Send) -> impl Future<Output = Result<Network, Error>> + Send;

    /// Configures a node of the network `id`, which [`build`](NetworkBuilderExt::build) starts.
    fn builder(id: impl Into<NetworkId>) -> NetworkBuilder;
}

/// Starts a configured node over QUIC.
pub trait NetworkBuilderExt: sealed::Sealed {
    /// Starts the node on the tokio runtime of the caller. It is done when the node listens, and waits for
    /// nobody.
    ///
    /// # Errors
    /// [`Error`] where the configuration makes no sense or no socket can be opened.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose time and I/O drivers are enabled.
    fn build(self) -> impl Future<Output = Result<Network, Error>> + Send;
}

mod sealed {
    /// Keeps the traits to core's two types.
    pub trait Sealed {}

    impl Sealed for super::Network {}
    impl Sealed for super::NetworkBuilder {}
}

impl NetworkExt for Network {
    async fn new(id: impl Into<NetworkId> + Send) -> Result<Network, Error> {
        NetworkBuilder::new(id).build().await
    }

    fn builder(id: impl Into<NetworkId>) -> NetworkBuilder {
        NetworkBuilder::new(id)
    }
}

impl NetworkBuilderExt for NetworkBuilder {
    async fn build(self) -> Result<Network, Error> {
        self.build_on(Arc::new(QuicRuntime::new())).await
    }
}
