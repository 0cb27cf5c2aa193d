//! Links between members of groups: how one is opened, its two tasks, and how it ends.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::switchboard::Switchboard;
use crate::id::PeerId;
use crate::node::connections::{Connections, Lease, LinkError};
use crate::node::framed::{FrameReadError, FrameReader};
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
    pipe: Arc<Pipe>,
    lease: Arc<Lease>,
    codes: Arc<Codes>,
    _closing: DropGuard,
}

/// The sending half of a link. Whoever has a frame for it writes it at once, as far as the transport takes it, so that
/// it goes out without another task having to run first; the link's writer does the rest.
struct Pipe(Mutex<PipeState>);

struct PipeState {
    send: Box<dyn SendStream>,
    /// Frames that the transport has not taken, as chunks; of the first a part may be gone. The machine bounds them: it
    /// has two at most under way, and what it has queued itself when it says farewell.
    frames: VecDeque<Vec<Bytes>>,
    /// Wakes the writer.
    waker: Waker,
    /// No more frames come.
    has_ended: bool,
    /// The transport takes no more.
    failed: Option<StreamError>,
}

impl Pipe {
    fn new(send: Box<dyn SendStream>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(PipeState {
            send,
            frames: VecDeque::new(),
            waker: Waker::noop().clone(),
            has_ended: false,
            failed: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeState {
    /// Writes as much as the transport takes now. Gives how many frames it has taken to their end.
    fn write(&mut self) -> usize {
        let mut taken = 0;
        // Where the transport takes no more for now, it is the writer that goes on.
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        while self.failed.is_none()
            && let Some(frame) = self.frames.front_mut()
        {
            let written = frame.iter().take_while(|chunk| chunk.is_empty()).count();
            let left = &mut frame[written..];
            if left.is_empty() {
                self.frames.pop_front();
                taken += 1;
                continue;
            }
            match self.send.poll_write(&mut cx, left) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    waker.wake_by_ref();
                }
                Poll::Pending => break,
            }
        }
        taken
    }
}

/// Why each end wants no more of a link, as far as it says so.
#[derive(Default)]
struct Codes {
    own: OnceLock<CloseCode>,
    peer: OnceLock<CloseCode>,
}

impl Outlet {
    /// Sends a frame after those before it. Gives how many frames the transport has taken meanwhile; where the peer wants
    /// no more it takes none: the reader hears of that, or the machine misses its answers.
    pub(super) fn send(&self, frame: Frame) -> usize {
        let mut pipe = self.pipe.lock();
        pipe.frames.push_back(frame.into_chunks());
        // Others wait for the transport: it will say when it goes on.
        if pipe.frames.len() > 1 {
            return 0;
        }
        pipe.write()
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

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.has_ended = true;
        pipe.waker.wake_by_ref();
    }
}

/// What the tasks of one link are made of.
pub(super) struct Ends {
    lease: Arc<Lease>,
    codes: Arc<Codes>,
    closing: CancellationToken,
    pipe: Arc<Pipe>,
    frames: FrameReader,
}

/// Both sides of a link that is taken into use.
pub(super) fn split(link: Link<Groups>) -> (Outlet, Ends) {
    let (lease, send, frames) = link.into_parts();
    let pipe = Pipe::new(send);
    let (codes, closing) = (Arc::new(Codes::default()), CancellationToken::new());
    let outlet = Outlet {
        pipe: pipe.clone(),
        lease: lease.clone(),
        codes: codes.clone(),
        _closing: closing.clone().drop_guard(),
    };
    let ends = Ends {
        lease,
        codes,
        closing,
        pipe,
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
            pipe: self.pipe,
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
    pipe: Arc<Pipe>,
}

impl Writer {
    /// Writes what the transport has not taken at once, until this end has closed the link and all is sent, or the peer
    /// wants no more.
    ///
    /// That a link is lost is for the reader to find out: it first takes all that has arrived.
    async fn run(self) {
        if let Err(StreamError::Stopped(code)) = poll_fn(|cx| self.poll(cx)).await {
            // The first code stays, and there is one.
            let _ = self.codes.peer.set(code);
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            let taken = {
                let mut pipe = self.pipe.lock();
                pipe.waker.clone_from(cx.waker());
                pipe.write()
            };
            // Not under the lock of the link, which comes after that of the switchboard.
            for _ in 0..taken {
                self.switchboard.sent(self.id);
            }
            if taken == 0 {
                return self.poll_end(cx);
            }
        }
    }

    /// Ready where nothing is to be written any more.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut pipe = self.pipe.lock();
        let pipe = &mut *pipe;
        if let Some(error) = &pipe.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let is_done = pipe.has_ended && pipe.frames.is_empty();
        if is_done {
            pipe.send.finish();
        }
        let mut cx = Context::from_waker(cx.waker());
        match std::task::ready!(pipe.send.poll_stopped(&mut cx)) {
            Ok(_) if is_done => Poll::Ready(Ok(())),
            Ok(code) => Poll::Ready(Err(StreamError::Stopped(code.unwrap_or(CloseCode::NONE)))),
            Err(error) => Poll::Ready(Err(error)),
        }
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
