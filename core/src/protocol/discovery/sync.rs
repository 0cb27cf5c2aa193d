//! Exchange of catalogs: Meyer, "Range-Based Set Reconciliation", 2022.
//!
//! Two nodes compare sums of ranges of their catalogs. Where the sums agree nothing more is said; where they
//! do not, the range is split in sixteen, down to lists of a few versions; then each sends exactly what the
//! other lacks. What is exchanged is in proportion to what differs, times the logarithm of what there is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::catalog::Record;
use super::context::Context;
use super::entry::VerifiedEntry;
use super::io::{Output, RequestId, SessionId, SyncFailure};
use super::messages::{
    Aged, EntryId, LIST_MAX, ListItem, MESSAGE_BYTES_AIM, Question, SyncMessage,
};
use super::overlay::broadcast::record_len;
use super::peer_addr::PeerAddr;
use super::range::{Fingerprint, PARTS, Range};
use super::records::PEERS_MAX;
use crate::id::PeerId;
use crate::time::{Duration, Instant};

/// Ranges with no more entries than this are listed, not split.
const LISTED_MAX: u32 = 8;
/// The most sessions that this node has opened.
pub(super) const OUTGOING_MAX: usize = 16;
/// The most of them that nobody asked for.
const BACKGROUND_MAX: usize = 4;
/// The most sessions that others have opened.
pub(super) const INCOMING_MAX: usize = 64;
/// The most of them that one peer has opened: as many as it may open, and not so many that nobody else can.
const INCOMING_OF_PEER_MAX: usize = OUTGOING_MAX;
/// A session in which the peer said nothing for this long has failed.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// The most messages of the peer in one session.
const MESSAGES_MAX: u32 = 8_192;

pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    next_id: u64,
    deadline: Instant,
}

struct Session {
    peer: PeerAddr,
    request: Option<RequestId>,
    deadline: Instant,
    messages: u32,
    /// The peer's turn so far.
    turn: Turn,
    /// Whether the last turn of this node was empty, so that the peer is to close.
    finished: bool,
    tally: Tally,
}

/// What a session has brought to light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Entries that were news to this node.
    pub(super) received: u32,
    /// Entries, made long enough ago to have been broadcast to everyone, that one of the two lacked.
    pub(super) missed: u32,
}

/// A turn of the peer, and the answer that grows with it.
struct Turn {
    /// Whether anything was in it.
    is_empty: bool,
    /// The end of the last range asked about: the next begins beyond it.
    asked_to: Option<PeerId>,
    questions: Vec<Question>,
    wants: Vec<PeerId>,
    /// Peers whose entries are to be sent.
    gives: Vec<PeerId>,
}

/// The peer breaks the protocol.
struct Violation;

/// A session that has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) peer: PeerAddr,
    pub(super) request: Option<RequestId>,
    /// Why it is not complete; `None` where it is.
    pub(super) failure: Option<SyncFailure>,
    pub(super) is_outgoing: bool,
    pub(super) tally: Tally,
}

impl Sessions {
    pub(super) const fn new() -> Self {
        Self {
            sessions: BTreeMap::new(),
            next_id: 0,
            deadline: Instant::FAR_FUTURE,
        }
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn outgoing(&self) -> usize {
        let is_outgoing = |id: &&SessionId| matches!(id, SessionId::Outgoing(_));
        self.sessions.keys().filter(is_outgoing).count()
    }

    /// Opens a session with `peer`, unless there are too many.
    pub(super) fn open(
        &mut self,
        ctx: &mut Context<'_>,
        peer: PeerAddr,
        request: Option<RequestId>,
    ) -> bool {
        let max = if request.is_some() {
            OUTGOING_MAX
        } else {
            BACKGROUND_MAX
        };
        let is_open = request.is_none()
            && self.sessions.iter().any(|(id, session)| {
                matches!(id, SessionId::Outgoing(_)) && session.peer.id == peer.id
            });
        if is_open || self.outgoing() >= max {
            return false;
        }
        let id = SessionId::Outgoing(self.next_id);
        self.next_id += 1;
        self.sessions
            .insert(id, Session::new(ctx.now, peer.clone(), request));
        ctx.outputs
            .push_back(Output::SyncOpen { session: id, peer });
        let fingerprint = ctx.records.catalog().summary();
        let message = SyncMessage {
            questions: vec![Question::Whole {
                range: Range::ALL,
                fingerprint,
            }],
            ..SyncMessage::default()
        };
        ctx.outputs.push_back(Output::SyncSend {
            session: id,
            message,
        });
        self.deadline = self.deadline.min(ctx.now + SESSION_TIMEOUT);
        true
    }

    /// A peer has opened a session.
    pub(super) fn opened(&mut self, ctx: &mut Context<'_>, id: SessionId, peer: PeerId) {
        let incoming = self.sessions.len() - self.outgoing();
        let is_new = matches!(id, SessionId::Incoming(_)) && !self.sessions.contains_key(&id);
        let of_peer = self.sessions.iter().filter(|(id, session)| {
            matches!(id, SessionId::Incoming(_)) && session.peer.id == peer
        });
        if !is_new || incoming >= INCOMING_MAX || of_peer.count() >= INCOMING_OF_PEER_MAX {
            ctx.outputs.push_back(Output::SyncClose { session: id });
            return;
        }
        let peer = PeerAddr {
            id: peer,
            addresses: Vec::new(),
        };
        self.sessions.insert(id, Session::new(ctx.now, peer, None));
        self.deadline = self.deadline.min(ctx.now + SESSION_TIMEOUT);
    }

    /// Whether there is such a session, and with whom.
    pub(super) fn peer(&self, id: SessionId) -> Option<PeerId> {
        self.sessions.get(&id).map(|session| session.peer.id)
    }

    /// Counts an entry that came in the session and was news.
    pub(super) fn count(&mut self, id: SessionId, is_missed: bool) -> u32 {
        let Some(session) = self.sessions.get_mut(&id) else {
            return 0;
        };
        session.tally.received += 1;
        session.tally.missed += u32::from(is_missed);
        session.tally.received
    }

    /// Handles a message; gives the session where this ends it. Its records are not looked at: they are in
    /// the catalog by now.
    ///
    /// Entries older than `missed_age` that the peer lacks are counted as missed.
    pub(super) fn message(
        &mut self,
        ctx: &mut Context<'_>,
        id: SessionId,
        message: SyncMessage,
        missed_age: Duration,
    ) -> Option<Ended> {
        let session = self.sessions.get_mut(&id)?;
        session.deadline = ctx.now + SESSION_TIMEOUT;
        session.messages += 1;
        let more = message.more;
        if session.finished
            || session.messages > MESSAGES_MAX
            || session.turn.take(ctx, message).is_err()
        {
            return self.end(ctx, id, Some(SyncFailure::Violation));
        }
        if more {
            return None;
        }
        let turn = std::mem::take(&mut session.turn);
        if turn.is_empty {
            return self.end(ctx, id, None);
        }
        session.finished =
            turn.questions.is_empty() && turn.wants.is_empty() && turn.gives.is_empty();
        for message in turn.into_messages(ctx, missed_age, &mut session.tally) {
            ctx.outputs.push_back(Output::SyncSend {
                session: id,
                message,
            });
        }
        None
    }

    /// The session was closed by the peer, or its link was lost because of `cause`.
    pub(super) fn closed(&mut self, id: SessionId, cause: Option<Arc<str>>) -> Option<Ended> {
        let session = self.sessions.remove(&id)?;
        let failure = cause.map_or(SyncFailure::Ended, SyncFailure::Link);
        let failure = (!session.finished).then_some(failure);
        Some(session.ended(id, failure))
    }

    /// Ends all sessions.
    pub(super) fn close_all(&mut self, outputs: &mut VecDeque<Output>) -> Vec<Ended> {
        self.deadline = Instant::FAR_FUTURE;
        let sessions = std::mem::take(&mut self.sessions).into_iter();
        sessions
            .map(|(id, session)| {
                outputs.push_back(Output::SyncClose { session: id });
                session.ended(id, Some(SyncFailure::Left))
            })
            .collect()
    }

    fn end(
        &mut self,
        ctx: &mut Context<'_>,
        id: SessionId,
        failure: Option<SyncFailure>,
    ) -> Option<Ended> {
        ctx.outputs.push_back(Output::SyncClose { session: id });
        self.sessions
            .remove(&id)
            .map(|session| session.ended(id, failure))
    }

    /// Ends one session that has timed out; `None` where there is none left.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) -> Option<Ended> {
        if ctx.now < self.deadline {
            return None;
        }
        let late = self
            .sessions
            .iter()
            .find(|(_, session)| session.deadline <= ctx.now);
        if let Some((id, session)) = late.map(|(id, session)| (*id, session)) {
            // Its last word was said; that the peer did not close is no failure.
            let failure = (!session.finished).then_some(SyncFailure::TimedOut(SESSION_TIMEOUT));
            return self.end(ctx, id, failure);
        }
        let deadlines = self.sessions.values().map(|session| session.deadline);
        self.deadline = deadlines.min().unwrap_or(Instant::FAR_FUTURE);
        None
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.sessions.len() <= OUTGOING_MAX + INCOMING_MAX,
            "too many sessions"
        );
        for session in self.sessions.values() {
            assert!(
                self.deadline <= session.deadline,
                "a session never times out"
            );
        }
    }
}

impl Session {
    fn new(now: Instant, peer: PeerAddr, request: Option<RequestId>) -> Self {
        Self {
            peer,
            request,
            deadline: now + SESSION_TIMEOUT,
            messages: 0,
            turn: Turn::default(),
            finished: false,
            tally: Tally::default(),
        }
    }

    fn ended(self, id: SessionId, failure: Option<SyncFailure>) -> Ended {
        Ended {
            peer: self.peer,
            request: self.request,
            failure,
            is_outgoing: matches!(id, SessionId::Outgoing(_)),
            tally: self.tally,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            is_empty: true,
            asked_to: None,
            questions: Vec::new(),
            wants: Vec::new(),
            gives: Vec::new(),
        }
    }
}

impl Turn {
    /// Works out the answer to one message of the turn.
    fn take(&mut self, ctx: &Context<'_>, message: SyncMessage) -> Result<(), Violation> {
        let SyncMessage {
            questions,
            wants,
            records,
            more: _,
        } = message;
        self.is_empty &= questions.is_empty() && wants.is_empty() && records.is_empty();
        for question in questions {
            let range = *question.range();
            if self.asked_to.is_some_and(|end| range.first() <= end) {
                return Err(Violation);
            }
            self.asked_to = Some(range.last());
            match question {
                Question::Whole { range, fingerprint } => self.compare(ctx, range, fingerprint),
                Question::Split { range, parts } => self.compare_parts(ctx, range, &parts)?,
                Question::List { range, items } => self.compare_list(ctx, range, &items)?,
            }
        }
        // Each question and each want is about at least one entry that the peer says it has, none about one that
        // another is about; of these there are no more than a catalog holds. The turn may go on for thousands of
        // messages, and its answer is kept until its end.
        if self.questions.len().max(self.wants.len()) > PEERS_MAX + 1 {
            return Err(Violation);
        }
        // Nobody wants more than there is, so asking twice for the same is a mistake or worse.
        if self.gives.len() + wants.len() > ctx.records.catalog().len() + LIST_MAX {
            return Err(Violation);
        }
        self.gives.extend(wants);
        Ok(())
    }

    /// The peer's entries in `range` add up to `theirs`.
    fn compare(&mut self, ctx: &Context<'_>, range: Range, theirs: Fingerprint) {
        let catalog = ctx.records.catalog();
        let mine = catalog.fingerprint(&range);
        if mine == theirs {
            return;
        }
        if theirs.count == 0 {
            self.gives
                .extend(catalog.records(&range).map(|record| record.entry.id));
        } else if mine.count <= LISTED_MAX || range.part(0).is_none() {
            let items = catalog.records(&range).map(item).collect();
            self.questions.push(Question::List { range, items });
        } else {
            let parts = catalog.fingerprint_parts(&range);
            self.questions.push(Question::Split { range, parts });
        }
    }

    fn compare_parts(
        &mut self,
        ctx: &Context<'_>,
        range: Range,
        theirs: &[Fingerprint],
    ) -> Result<(), Violation> {
        if theirs.len() != PARTS {
            return Err(Violation);
        }
        for (nibble, theirs) in theirs.iter().enumerate() {
            let part = range.part(nibble as u8).ok_or(Violation)?;
            self.compare(ctx, part, *theirs);
        }
        Ok(())
    }

    /// The peer has exactly `theirs` in `range`.
    fn compare_list(
        &mut self,
        ctx: &Context<'_>,
        range: Range,
        theirs: &[ListItem],
    ) -> Result<(), Violation> {
        let in_range =
            |item: &ListItem| range.first() <= item.id.peer && item.id.peer <= range.last();
        let ascends = theirs
            .windows(2)
            .all(|pair| pair[0].id.peer < pair[1].id.peer);
        if !ascends || !theirs.iter().all(in_range) {
            return Err(Violation);
        }
        let mut theirs = theirs.iter().peekable();
        for record in ctx.records.catalog().records(&range) {
            let mine = item(record);
            while let Some(unknown) = theirs.next_if(|item| item.id.peer < mine.id.peer) {
                self.wants.push(unknown.id.peer);
            }
            match theirs.next_if(|item| item.id.peer == mine.id.peer) {
                Some(item) if item.rank() > mine.rank() => self.wants.push(item.id.peer),
                Some(item) if item.rank() == mine.rank() => {}
                Some(_) | None => self.gives.push(mine.id.peer),
            }
        }
        self.wants.extend(theirs.map(|item| item.id.peer));
        Ok(())
    }

    /// The answer, in messages that are not too long.
    fn into_messages(
        self,
        ctx: &Context<'_>,
        missed_age: Duration,
        tally: &mut Tally,
    ) -> Vec<SyncMessage> {
        let mut messages = Chunks::default();
        for question in self.questions {
            messages
                .room(question.len_max(), |m| m.questions.len())
                .questions
                .push(question);
        }
        for want in self.wants {
            messages
                .room(size_of::<PeerId>(), |m| m.wants.len())
                .wants
                .push(want);
        }
        for peer in self.gives {
            let Some(record) = ctx.records.aged_of(ctx.now, &peer) else {
                continue;
            };
            tally.missed += u32::from(is_missed(&record, missed_age));
            messages
                .room(record_len(&record), |m| m.records.len())
                .records
                .push(record);
        }
        messages.finish()
    }
}

/// Whether the entry was made so long ago that the broadcast must have brought it.
pub(super) fn is_missed(record: &Aged<VerifiedEntry>, missed_age: Duration) -> bool {
    Duration::from_millis(record.age_ms.into()) >= missed_age
}

fn item(record: &Record) -> ListItem {
    let entry = &record.entry;
    let mut digest = [0; 8];
    digest.copy_from_slice(&entry.digest().as_bytes()[..8]);
    ListItem {
        id: EntryId {
            peer: *entry.id(),
            version: entry.version(),
        },
        digest,
    }
}

/// Messages that are filled one after the other.
#[derive(Default)]
struct Chunks {
    full: Vec<SyncMessage>,
    open: SyncMessage,
    bytes: usize,
}

impl Chunks {
    /// The message that has room for `bytes` more, and for one more in the list counted by `count`.
    fn room(&mut self, bytes: usize, count: impl Fn(&SyncMessage) -> usize) -> &mut SyncMessage {
        let is_full = self.bytes + bytes > MESSAGE_BYTES_AIM || count(&self.open) >= LIST_MAX;
        if is_full && self.bytes > 0 {
            let mut full = std::mem::take(&mut self.open);
            full.more = true;
            self.full.push(full);
            self.bytes = 0;
        }
        self.bytes += bytes;
        &mut self.open
    }

    fn finish(mut self) -> Vec<SyncMessage> {
        self.full.push(self.open);
        self.full
    }
}
