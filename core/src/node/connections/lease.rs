//! Connections that live as long as they are used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::LinkError;
use crate::id::Instance;
use crate::node::tasks::Tasks;
use crate::protocol::crossing::Candidate;
use crate::runtime::Connection;
use crate::time::Duration;
use crate::wire::CloseCode;

/// How long an unused connection is kept, in case that it is needed again.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that another has replaced is kept after its last use: the peer may have begun a
/// stream on it before it knew.
const RETIRED_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection whose peer is admitted.
pub(crate) struct Admitted {
    connection: Arc<dyn Connection>,
    instance: Instance,
    /// How many links and the like use it.
    uses: watch::Sender<usize>,
    /// Another connection takes its place: it ends with its last use.
    retired: AtomicBool,
    /// How often peers have broken a protocol, over all connections of the node.
    violations: Arc<AtomicU64>,
}

impl Admitted {
    pub(super) fn new(
        connection: Arc<dyn Connection>,
        instance: Instance,
        violations: Arc<AtomicU64>,
    ) -> Arc<Self> {
        let uses = watch::Sender::new(0);
        Arc::new(Self {
            connection,
            instance,
            uses,
            retired: AtomicBool::new(false),
            violations,
        })
    }

    pub(super) fn connection(&self) -> &Arc<dyn Connection> {
        &self.connection
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            instance: self.instance,
            side: self.connection.side(),
        }
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        self.uses.send_modify(|uses| *uses += 1);
        Lease(self.clone())
    }

    pub(super) fn is_used(&self) -> bool {
        *self.uses.borrow() > 0
    }

    /// Lets it end with its last use.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        // Wakes `unused`, which then no longer waits for another use.
        self.uses.send_modify(|_| ());
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Completes when nobody has used the connection for [`IDLE_TIMEOUT`], or for [`RETIRED_TIMEOUT`] where
    /// another has replaced it. Gives the code to close it with.
    pub(super) async fn unused(&self, tasks: &Tasks) -> CloseCode {
        let mut uses = self.uses.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = uses.wait_for(|uses| *uses == 0).await;
            let (limit, code) = if self.is_retired() {
                (RETIRED_TIMEOUT, CloseCode::REPLACED)
            } else {
                (IDLE_TIMEOUT, CloseCode::IDLE)
            };
            if tasks
                .timeout(limit, "unused connection", uses.changed())
                .await
                .is_none()
            {
                return code;
            }
        }
    }
}

/// Keeps a connection open.
pub(crate) struct Lease(Arc<Admitted>);

impl Lease {
    pub(crate) fn connection(&self) -> &Arc<dyn Connection> {
        &self.0.connection
    }

    /// The peer's run, by its hello.
    pub(crate) fn instance(&self) -> Instance {
        self.0.instance
    }

    /// Closes the connection of a peer that has broken the protocol, and counts it.
    pub(crate) fn report_violation(&self, error: &LinkError) {
        let connection = self.connection();
        self.0.violations.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            peer = %connection.peer().short(),
            protocol = %connection.protocol(),
            %error,
            "closing the connection of a peer that breaks the protocol"
        );
        connection.close(error.close_code(), &error.to_string());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.uses.send_modify(|uses| *uses -= 1);
    }
}
