//! Links between members of groups: how one is opened, its two tasks, and how it ends.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::switchboard::Switchboard;
use crate::id::PeerId;
use crate::node::connections::{Connections, Lease, LinkError};
use crate::node::framed::{FrameReadError, FrameReader, write_chunks};
use crate::node::link::{Link, Protocol, closed_for_long};
use crate::node::tasks::Tasks;
use crate::protocol::bonds::{FRAME_LEN_MAX, Frame, GROUPS_ALPN, LinkId};
use crate::runtime::{Alpn, ConnectionError, SendStream, StreamError};
use crate::time::Duration;
use crate::wire::CloseCode;

/// How long opening a link may take, the dial and a stream that the peer has no room for together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames of bonds, which the machine makes and reads itself.
pub(crate) struct Groups;

impl Protocol for Groups {
    const ALPN: Alpn = GROUPS_ALPN;
    const MESSAGE_LEN_MAX: usize = FRAME_LEN_MAX;
    type Message = ();
}

/// A link to `peer`, or `None` where it cannot be had. It never takes longer than [`OPEN_TIMEOUT`].
pub(super) async fn open(
    tasks: &Tasks,
    connections: &Connections,
    peer: PeerId,
) -> Option<Link<Groups>> {
    let link = connections.open::<Groups>(peer);
    match tasks.timeout(OPEN_TIMEOUT, "open bond link", link).await {
        Some(Ok(link)) => Some(link),
        Some(Err(error)) => {
            tracing::debug!(peer = %peer.short(), %error, "no link with a member");
            None
        }
        None => {
            tracing::debug!(peer = %peer.short(), "a member takes no link");
            None
        }
    }
}

/// The switchboard's hold of a link that is up.
///
/// Dropping it ends the link alone: what is queued is sent, for as long as links may take that are closed, and nothing
/// is read any more.
pub(super) struct Outlet {
    /// Frames for the transport. The machine bounds them: it has two at most under way, and what it has queued itself
    /// when it says farewell.
    queue: mpsc::UnboundedSender<Frame>,
    lease: Arc<Lease>,
    codes: Arc<Codes>,
    _closing: DropGuard,
}

/// Why each end wants no more of a link, as far as it says so.
#[derive(Default)]
struct Codes {
    own: OnceLock<CloseCode>,
    peer: OnceLock<CloseCode>,
}

impl Outlet {
    pub(super) fn send(&self, frame: Frame) {
        // Fails only where the peer wants no more: the reader hears of that, or the machine misses its answers.
        let _ = self.queue.send(frame);
    }

    /// Ends the link once what was given to it is sent. The peer is shown `code`.
    pub(super) fn finish(self, code: CloseCode) {
        // Set here alone, and this takes the outlet.
        let _ = self.codes.own.set(code);
    }

    /// Closes the connection; what was not sent is lost.
    pub(super) fn abort(self, code: CloseCode) {
        let connection = self.lease.connection();
        tracing::debug!(peer = %connection.peer().short(), %code, "closing the connection of a member");
        connection.close(code, "");
    }
}

/// What the tasks of one link are made of.
pub(super) struct Ends {
    lease: Arc<Lease>,
    codes: Arc<Codes>,
    closing: CancellationToken,
    queue: mpsc::UnboundedReceiver<Frame>,
    send: Box<dyn SendStream>,
    frames: FrameReader,
}

/// Both sides of a link that is taken into use.
pub(super) fn split(link: Link<Groups>) -> (Outlet, Ends) {
    let (lease, send, frames) = link.into_parts();
    let (sender, queue) = mpsc::unbounded_channel();
    let (codes, closing) = (Arc::new(Codes::default()), CancellationToken::new());
    let outlet = Outlet {
        queue: sender,
        lease: lease.clone(),
        codes: codes.clone(),
        _closing: closing.clone().drop_guard(),
    };
    let ends = Ends {
        lease,
        codes,
        closing,
        queue,
        send,
        frames,
    };
    (outlet, ends)
}

impl Ends {
    /// Starts the tasks of the link: one reads, the other writes.
    pub(super) fn start(self, id: LinkId, switchboard: &Switchboard, tasks: &Tasks) {
        let reader = Reader {
            id,
            switchboard: switchboard.clone(),
            lease: self.lease.clone(),
            codes: self.codes.clone(),
            frames: self.frames,
        };
        let writer = Writer {
            id,
            switchboard: switchboard.clone(),
            _lease: self.lease,
            codes: self.codes,
            queue: self.queue,
            send: self.send,
        };
        let closed = closed_for_long(tasks.clone(), self.closing.clone());
        tasks.spawn("read bond link", reader.run(self.closing));
        tasks.spawn("write bond link", async move {
            crate::select! {
                () = closed => (),
                () = writer.run() => (),
            }
        });
    }
}

struct Reader {
    id: LinkId,
    switchboard: Switchboard,
    lease: Arc<Lease>,
    codes: Arc<Codes>,
    frames: FrameReader,
}

impl Reader {
    /// Takes what comes to the machine until either end has closed the link, and tells the machine of the peer's end.
    async fn run(mut self, closing: CancellationToken) {
        // Made once: each frame looks at it.
        let mut closed = pin!(closing.cancelled());
        loop {
            let frame = crate::select! {
                () = closed.as_mut() => {
                    let code = self.codes.own.get().copied();
                    self.frames.stop(code.unwrap_or(CloseCode::NONE));
                    return;
                },
                frame = self.frames.next() => frame,
            };
            match frame {
                Ok(Some(frame)) => self.switchboard.frame(self.id, frame),
                Ok(None) => return self.ended(None),
                Err(error) => return self.lost(error),
            }
        }
    }

    fn lost(&self, error: FrameReadError) {
        match error {
            FrameReadError::Stream(error) => {
                tracing::debug!(peer = %self.lease.connection().peer().short(), %error, "lost the link with a member");
                self.ended(code_of(&error));
            }
            FrameReadError::Frame(error) => self.violated(&error.into()),
            FrameReadError::Truncated => self.violated(&LinkError::Truncated),
        }
    }

    fn violated(&self, error: &LinkError) {
        self.lease.report_violation(error);
        self.ended(None);
    }

    fn ended(&self, code: Option<CloseCode>) {
        let code = code.or_else(|| self.codes.peer.get().copied());
        self.switchboard.link_closed(self.id, code);
    }
}

struct Writer {
    id: LinkId,
    switchboard: Switchboard,
    /// Keeps the connection until all is sent.
    _lease: Arc<Lease>,
    codes: Arc<Codes>,
    queue: mpsc::UnboundedReceiver<Frame>,
    send: Box<dyn SendStream>,
}

impl Writer {
    /// Writes frames until this end has closed the link and all is sent, or the peer wants no more.
    ///
    /// That a link is lost is for the reader to find out: it first takes all that has arrived.
    async fn run(mut self) {
        if let Err(StreamError::Stopped(code)) = self.write().await {
            // The first code stays, and there is one.
            let _ = self.codes.peer.set(code);
        }
    }

    async fn write(&mut self) -> Result<(), StreamError> {
        loop {
            let send = &mut self.send;
            let frame = crate::select! {
                frame = self.queue.recv() => frame,
                stopped = poll_fn(|cx| send.poll_stopped(cx)) => {
                    return Err(StreamError::Stopped(stopped?.unwrap_or(CloseCode::NONE)));
                },
            };
            let Some(frame) = frame else {
                break;
            };
            let mut chunks: Vec<Bytes> = frame.into_chunks();
            write_chunks(&mut self.send, &mut chunks).await?;
            self.switchboard.sent(self.id);
        }
        self.send.finish();
        poll_fn(|cx| self.send.poll_stopped(cx)).await.map(drop)
    }
}

/// The code that the peer has ended a stream with, where it has given one.
fn code_of(error: &StreamError) -> Option<CloseCode> {
    let code = match error {
        StreamError::Stopped(code)
        | StreamError::Reset(code)
        | StreamError::Connection(ConnectionError::ClosedByPeer { code, .. }) => *code,
        StreamError::Closed | StreamError::Connection(_) => return None,
    };
    (code != CloseCode::NONE).then_some(code)
}
