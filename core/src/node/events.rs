//! Events of streams and groups, each to all who listen.

use tokio::sync::broadcast;

use crate::node::discovery::EventsLagged;

/// Events kept for who does not take them in time.
pub(crate) const BACKLOG: usize = 100;

/// What happens to a producer, a consumer or a group, in order.
#[derive(Debug)]
pub struct Events<E>(broadcast::Receiver<E>);

impl<E: Clone> Events<E> {
    pub(crate) fn new(sender: &broadcast::Sender<E>) -> Self {
        Self(sender.subscribe())
    }

    /// The next event, or `None` once what it is of has ended and its handles are dropped.
    /// Cancellation safe.
    ///
    /// # Errors
    /// [`EventsLagged`] in the place of events that were dropped, because more than 100 were not taken; the
    /// next call goes on with the oldest kept.
    pub async fn recv(&mut self) -> Result<Option<E>, EventsLagged> {
        match self.0.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(count)) => Err(EventsLagged(count)),
        }
    }
}
