//! The discovery machine: it owns the parts, and carries to each what concerns it.

use std::cell::Cell;
use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;

use super::catalog::Catalog;
use super::clock::ClockWatch;
use super::config::Config;
use super::context::Context;
use super::entry::VerifiedEntry;
use super::io::{
    Command, Event, Identity, Input, LocalChange, Output, Refusal, RequestError, RequestId,
    SessionId,
};
use super::messages::{Aged, Message, SyncMessage};
use super::overlay::broadcast::Broadcast;
use super::overlay::views::{Change, Views};
use super::own::{Heard, Own};
use super::records::{Merged, Records, UNSIGNED_MAX};
use super::rtt::Prober;
use super::sync::{Ended, OUTGOING_MAX, Sessions, is_missed};
use crate::id::PeerId;
use crate::protocol::Machine;
use crate::time::{Duration, Instant, WallTime};

/// Changes of this node's entry that come faster than this are announced together.
const ANNOUNCE_GAP: Duration = Duration::from_millis(50);
/// So much news in one session is left to the neighbours' own synchronisation instead of being announced
/// to them entry by entry: they probably have it.
const NEWS_MAX: u32 = 128;
/// So many entries that one of two nodes had missed show that no broadcast goes between them.
const MISSED_MIN: u32 = 3;
/// How long a broadcast may take to reach everyone, repairs of the tree included.
const BROADCAST_MAX: Duration = Duration::from_secs(3);
/// The most peers that catalogs are to be compared with as soon as a session is free.
const OWED_MAX: usize = 16;
/// Time after which a comparison that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Full scans of the invariants run once in so many calls.
const FULL_CHECK_EVERY: u32 = 1_024;

/// What the parts need besides themselves, borrowed from fields of the machine other than theirs.
macro_rules! context {
    ($machine:ident, $now:expr) => {
        Context {
            now: $now,
            rng: &mut $machine.rng,
            records: &$machine.records,
            outputs: &mut $machine.outputs,
        }
    };
}

/// Finds the peers of a node and tells them of it.
///
/// Driven like every [`Machine`]; see [`Input`] and [`Output`]. Its state is bounded by the number of peers
/// in the network, and the work for one input by what the input touches.
pub struct Discovery {
    config: Config,
    rng: ChaCha8Rng,
    own: Own,
    records: Records,
    views: Views,
    broadcast: Broadcast,
    sessions: Sessions,
    prober: Prober,
    clock: ClockWatch,
    /// When this node's entry is renewed, whether it has changed or not.
    announce_at: Instant,
    /// When a change of it is broadcast.
    publish_at: Instant,
    publish_allowed_at: Instant,
    publish_urgently: bool,
    /// When catalogs are compared with somebody chosen at random.
    compare_at: Instant,
    /// Peers that catalogs are to be compared with as soon as a session is free.
    owed: VecDeque<PeerId>,
    outputs: VecDeque<Output>,
    changed: Changed,
    has_left: bool,
    checks: Cell<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Nothing,
    Dates,
    Content,
}

/// The way by which an entry came.
#[derive(Clone, Copy)]
enum Via<'a> {
    Neighbour(&'a PeerId),
    Session(SessionId, PeerId),
    Hand,
}

impl Discovery {
    /// A node that starts at `now`. It joins through its bootstrap peers at once.
    ///
    /// `config` is expected to be [valid](Config::validate); with one that is not, the node may be
    /// useless to itself, but no other is harmed.
    #[must_use]
    pub fn new(now: Instant, identity: Identity, mut config: Config, rng: ChaCha8Rng) -> Self {
        config.tags.truncate(super::TAGS_MAX);
        let (network, wall) = (identity.network, identity.wall);
        let own = Own::new(identity, &config);
        let mut machine = Self {
            records: Records::new(now, network, own.id(), wall, &config),
            views: Views::new(now, own.address(), config.bootstrap.clone()),
            broadcast: Broadcast::new(),
            sessions: Sessions::new(),
            prober: Prober::new(config.rtt_probe_interval),
            clock: ClockWatch::new(),
            announce_at: now,
            publish_at: Instant::FAR_FUTURE,
            publish_allowed_at: now,
            publish_urgently: true,
            compare_at: now,
            owed: VecDeque::new(),
            outputs: VecDeque::new(),
            changed: Changed::Content,
            has_left: false,
            checks: Cell::new(0),
            config,
            rng,
            own,
        };
        machine.records.put_own(now, machine.own.entry().clone());
        machine.schedule_announcement(now);
        machine.schedule_comparison(now);
        machine.settle(now);
        machine
    }

    /// What is known now. Cloning it takes constant time.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        self.records.catalog()
    }

    /// What this node says of itself now.
    #[must_use]
    pub const fn local(&self) -> &VerifiedEntry {
        self.own.entry()
    }

    /// The wall clock at `now`, as far as the machine has been told.
    #[must_use]
    pub fn wall(&self, now: Instant) -> WallTime {
        self.records.wall(now)
    }

    /// The neighbours in the overlay, at most five.
    #[must_use]
    pub fn neighbours(&self) -> &[PeerId] {
        self.views.active()
    }

    fn schedule_announcement(&mut self, now: Instant) {
        let (mean, jitter) = (self.config.announce_interval, self.config.announce_jitter);
        self.announce_at = now + context!(self, now).jittered(mean, jitter);
    }

    fn schedule_comparison(&mut self, now: Instant) {
        let mean = self.config.announce_interval;
        self.compare_at = now + context!(self, now).jittered(mean, 0.5);
    }

    /// Puts this node's entry, which has just been made anew, into the catalog, and sees to it that it is
    /// broadcast.
    fn own_renewed(&mut self, now: Instant, urgent: bool) {
        self.records.put_own(now, self.own.entry().clone());
        self.views.set_local(self.own.address());
        self.publish_at = now.max(self.publish_allowed_at);
        self.publish_urgently |= urgent;
        self.publish_due(now);
    }

    fn publish_due(&mut self, now: Instant) {
        if self.publish_at > now {
            return;
        }
        self.publish_at = Instant::FAR_FUTURE;
        self.publish_allowed_at = now + ANNOUNCE_GAP;
        if let Some(record) = self.records.aged_of(now, &self.own.id()) {
            let urgent = std::mem::take(&mut self.publish_urgently);
            self.broadcast.push(now, &record, urgent, None);
        }
    }

    fn announce(&mut self, now: Instant) {
        self.own.renew(self.records.wall(now));
        self.change(Changed::Dates);
        self.own_renewed(now, false);
        self.schedule_announcement(now);
    }

    fn change(&mut self, changed: Changed) {
        self.changed = self.changed.max(changed);
    }

    /// Takes in an entry that came `via`, and does all that follows from it.
    fn receive(
        &mut self,
        now: Instant,
        record: &Aged<VerifiedEntry>,
        via: Via<'_>,
    ) -> Result<(), Refusal> {
        let peer = *record.entry.id();
        if peer == self.own.id() {
            self.receive_own(now, &record.entry, via);
            return Ok(());
        }
        let mut urgent = true;
        let accepted = self
            .records
            .accept(now, record.entry.clone(), record.age_ms);
        if accepted == Err(Refusal::FromTheFuture) {
            self.refused_by_date(now, record);
        }
        match accepted? {
            Merged::Known => {
                if let Via::Neighbour(from) = via {
                    self.broadcast.duplicate(from);
                }
                return Ok(());
            }
            Merged::Outranked => {
                if let Via::Neighbour(from) = via
                    && let Some(newer) = self.records.aged_of(now, &peer)
                {
                    self.broadcast.push_to(from, newer);
                }
                return Err(Refusal::Outranked);
            }
            Merged::New => self.discovered(now, &record.entry),
            Merged::Replaced(before) => urgent = self.replaced(now, &before, &record.entry),
        }
        match via {
            Via::Neighbour(from) => self.broadcast.push(now, record, urgent, Some(from)),
            Via::Hand => self.broadcast.push(now, record, urgent, None),
            Via::Session(session, from) => {
                let missed = is_missed(record, self.missed_age());
                if self.sessions.count(session, missed) <= NEWS_MAX {
                    self.broadcast.announce(now, &record.entry, Some(&from));
                }
            }
        }
        Ok(())
    }

    /// An entry is dated in the future: it may be this node's clock that is wrong.
    fn refused_by_date(&mut self, now: Instant, record: &Aged<VerifiedEntry>) {
        let wall = self.records.wall(now);
        let (made, age) = (record.entry.updated_at(), record.age_ms);
        let ahead = (made + Duration::from_millis(age.into())).since(wall);
        let (peer, known) = (*record.entry.id(), self.catalog().peers_count());
        if let Some(behind) = self.clock.refused(now, peer, ahead, known) {
            let event = Event::ClockBehind {
                peers: behind.peers,
                at_least: behind.at_least,
            };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// A peer is known that was not; its first word may be its last.
    fn discovered(&mut self, now: Instant, entry: &VerifiedEntry) {
        if entry.is_departed() {
            self.change(Changed::Dates);
            return;
        }
        let peer = *entry.id();
        self.change(Changed::Content);
        self.outputs
            .push_back(Output::Event(Event::PeerDiscovered(entry.entry().clone())));
        self.prober.add(now, peer, &mut self.rng);
        self.views.discovered(now);
    }

    /// A peer's entry has taken the place of an earlier one; whether it says anything else.
    fn replaced(&mut self, now: Instant, before: &VerifiedEntry, entry: &VerifiedEntry) -> bool {
        match (before.is_departed(), entry.is_departed()) {
            (false, false) if entry.says_the_same_as(before) => {
                self.change(Changed::Dates);
                return false;
            }
            (false, false) => {
                self.change(Changed::Content);
                self.outputs
                    .push_back(Output::Event(Event::PeerUpdated(entry.entry().clone())));
            }
            (false, true) => {
                let peer = *entry.id();
                self.departed(peer);
                self.views.departed(&mut context!(self, now), &peer);
            }
            (true, _) => self.discovered(now, entry),
        }
        true
    }

    fn departed(&mut self, peer: PeerId) {
        self.change(Changed::Content);
        self.prober.remove(&peer);
        self.outputs
            .push_back(Output::Event(Event::PeerDeparted(peer)));
    }

    fn receive_own(&mut self, now: Instant, heard: &VerifiedEntry, via: Via<'_>) {
        // A run that began in the future is not one to move above: everyone would refuse the result.
        if heard.started_at() > self.records.horizon(now) {
            return;
        }
        match (self.own.hear(now, heard), via) {
            (Heard::Present, Via::Neighbour(from)) => self.broadcast.duplicate(from),
            (Heard::Earlier, Via::Neighbour(from)) => {
                if let Some(newer) = self.records.aged_of(now, &self.own.id()) {
                    self.broadcast.push_to(from, newer);
                }
            }
            (Heard::Present | Heard::Earlier, Via::Session(..) | Via::Hand) => {}
            (Heard::Above { duplicate }, _) => {
                if duplicate {
                    self.outputs
                        .push_back(Output::Event(Event::DuplicateIdentity {
                            instance: *heard.instance(),
                            addresses: heard.addresses().to_vec(),
                        }));
                }
                if self.own.raise_at() <= now {
                    self.announce(now);
                }
            }
        }
    }

    /// The age from which on an entry must have been broadcast to everyone.
    fn missed_age(&self) -> Duration {
        (self.config.announce_interval / 3).max(BROADCAST_MAX)
    }

    fn message(&mut self, now: Instant, from: PeerId, message: Message) {
        match message {
            Message::Gossip { records } => {
                for record in &records {
                    // What is refused is not passed on; nothing else is to be done about it.
                    let _refused = self.receive(now, record, Via::Neighbour(&from));
                }
            }
            Message::IHave { entries } => {
                let records = &self.records;
                self.broadcast
                    .announced(now, &from, &entries, |id| records.is_news(id));
            }
            Message::Graft { peers } => {
                self.broadcast.graft(&from);
                for peer in peers {
                    if let Some(record) = self.records.aged_of(now, &peer) {
                        self.broadcast.push_to(&from, record);
                    }
                }
            }
            Message::Prune => self.broadcast.prune(&from),
            Message::Neighbor { priority, sender } => {
                self.views
                    .neighbor(&mut context!(self, now), from, priority, sender);
            }
            Message::NeighborReply { accepted, summary } => {
                let mut ctx = context!(self, now);
                let is_up = self.views.neighbor_reply(&mut ctx, from, accepted);
                if is_up && summary != ctx.records.catalog().summary() {
                    self.compare_with(now, from);
                }
            }
            Message::Disconnect => self.views.disconnect(&mut context!(self, now), &from),
            Message::ForwardJoin { peer, ttl } => {
                self.views
                    .forward_join(&mut context!(self, now), &from, peer, ttl);
            }
            Message::Shuffle { path, ttl, peers } => {
                self.views
                    .shuffle(&mut context!(self, now), &from, path, ttl, peers);
            }
            Message::ShuffleReply { path, peers } => {
                self.views
                    .shuffle_reply(&mut context!(self, now), path, peers);
            }
        }
    }

    /// Compares catalogs with a peer that is linked or in the catalog, now or as soon as may be.
    fn compare_with(&mut self, now: Instant, peer: PeerId) {
        if !self.owed.contains(&peer) && self.owed.len() < OWED_MAX {
            self.owed.push_back(peer);
        }
        self.compare_owed(now);
    }

    fn compare_owed(&mut self, now: Instant) {
        while let Some(peer) = self.owed.front() {
            let known = self
                .records
                .address_of(peer)
                .or_else(|| self.views.address_of(peer));
            if let Some(address) = known
                && !self.sessions.open(&mut context!(self, now), address, None)
            {
                return;
            }
            self.owed.pop_front();
        }
    }

    /// Opens a session with anyone: broadcasts that were lost on a whole part of the network are noticed
    /// by it.
    fn compare_at_random(&mut self, now: Instant) {
        self.schedule_comparison(now);
        if !self.owed.is_empty() {
            self.compare_owed(now);
            return;
        }
        let local = self.own.id();
        let mut ctx = context!(self, now);
        let peer = ctx.random_peer(|peer| *peer != local);
        if let Some(address) = peer.or_else(|| self.views.random_passive(&mut ctx)) {
            self.sessions.open(&mut ctx, address, None);
        }
    }

    fn sync_message(&mut self, now: Instant, session: SessionId, message: SyncMessage) {
        let Some(peer) = self.sessions.peer(session) else {
            return;
        };
        for record in &message.records {
            let _refused = self.receive(now, record, Via::Session(session, peer));
        }
        let missed_age = self.missed_age();
        let mut ctx = context!(self, now);
        if let Some(ended) = self
            .sessions
            .message(&mut ctx, session, message, missed_age)
        {
            self.sync_ended(now, ended);
        }
    }

    fn sync_ended(&mut self, now: Instant, ended: Ended) {
        let peer = ended.peer.id;
        if let Some(request) = ended.request {
            let result = match ended.failure.clone() {
                None => Ok(()),
                Some(failure) => Err(RequestError::SyncFailed { peer, failure }),
            };
            self.outputs.push_back(Output::Done { request, result });
        }
        if ended.tally.received > NEWS_MAX {
            for neighbour in self.views.active().to_vec() {
                if neighbour != peer {
                    self.compare_with(now, neighbour);
                }
            }
        }
        if ended.is_outgoing && ended.tally.missed >= MISSED_MIN && !self.views.is_active(&peer) {
            self.views.bridge(&mut context!(self, now), ended.peer);
        }
        if ended.failure.is_some() && ended.is_outgoing && self.views.is_active(&peer) {
            // A neighbour that had no time yet: again in a while, and before anybody else.
            self.owed.push_back(peer);
            self.owed.truncate(OWED_MAX);
            let soon = now + context!(self, now).jittered(RETRY_INTERVAL, 0.5);
            self.compare_at = self.compare_at.min(soon);
        } else {
            self.compare_owed(now);
        }
    }

    fn set_wall(&mut self, now: Instant, wall: WallTime) {
        self.records.set_wall(now, wall);
        self.clock.clear();
        if self.records.is_from_the_future(now, self.own.entry()) {
            self.own.date_back(wall);
            self.change(Changed::Dates);
            self.own_renewed(now, true);
            self.schedule_announcement(now);
        }
    }

    fn request(&mut self, now: Instant, request: RequestId, command: Command) {
        let result = match command {
            Command::Local(change) => self.change_local(now, change),
            Command::Dial(peers) => {
                peers
                    .into_iter()
                    .for_each(|peer| self.views.dial(now, peer));
                Ok(())
            }
            Command::SyncWith(peer) if peer.id == self.own.id() => Err(RequestError::Oneself),
            Command::SyncWith(peer) => {
                let mut ctx = context!(self, now);
                if self.sessions.open(&mut ctx, peer, Some(request)) {
                    return;
                }
                Err(RequestError::SyncBusy(OUTGOING_MAX))
            }
            Command::Feed(entry) => {
                let record = Aged { entry, age_ms: 0 };
                self.receive(now, &record, Via::Hand)
                    .map_err(RequestError::from)
            }
            Command::Insert(entry) => self.insert(entry),
            Command::Remove(peer) if peer == self.own.id() => Err(RequestError::Oneself),
            Command::Remove(peer) => {
                self.remove(now, peer);
                Ok(())
            }
            Command::ClearUnsigned => {
                let unsigned = self.catalog().unsigned_ids();
                unsigned.iter().for_each(|peer| self.remove_unsigned(peer));
                Ok(())
            }
            Command::Leave => {
                self.leave(now, request);
                return;
            }
        };
        self.outputs.push_back(Output::Done { request, result });
    }

    fn change_local(&mut self, now: Instant, change: LocalChange) -> Result<(), RequestError> {
        if self.own.change(self.records.wall(now), change)? {
            self.change(Changed::Content);
            self.own_renewed(now, true);
            self.schedule_announcement(now);
        }
        Ok(())
    }

    fn insert(&mut self, entry: super::PeerEntry) -> Result<(), RequestError> {
        let peer = *entry.id();
        entry.check()?;
        if peer == self.own.id() {
            return Err(RequestError::Oneself);
        }
        let is_known = self.catalog().get(&peer).is_some();
        if !is_known && self.catalog().unsigned_count() >= UNSIGNED_MAX {
            return Err(RequestError::UnsignedFull(UNSIGNED_MAX));
        }
        let is_signed = self.catalog().get_signed(&peer).is_some();
        let entry = std::sync::Arc::new(entry);
        self.records.insert_unsigned(entry.clone());
        self.change(Changed::Content);
        match (is_signed, is_known) {
            (true, _) => {}
            (false, true) => self
                .outputs
                .push_back(Output::Event(Event::PeerUpdated(entry))),
            (false, false) => self
                .outputs
                .push_back(Output::Event(Event::PeerDiscovered(entry))),
        }
        Ok(())
    }

    fn remove(&mut self, now: Instant, peer: PeerId) {
        self.remove_unsigned(&peer);
        if self
            .records
            .bury(now, &peer)
            .is_some_and(|entry| !entry.is_departed())
        {
            self.departed(peer);
        }
    }

    fn remove_unsigned(&mut self, peer: &PeerId) {
        let was_shown = self.catalog().get(peer).is_some();
        if self.records.remove_unsigned(peer).is_some() {
            self.change(Changed::Content);
            if was_shown && self.catalog().get(peer).is_none() {
                self.outputs
                    .push_back(Output::Event(Event::PeerDeparted(*peer)));
            }
        }
    }

    /// Tells every neighbour that this node leaves, and ends.
    fn leave(&mut self, now: Instant, request: RequestId) {
        self.own.depart(self.records.wall(now));
        self.records.put_own(now, self.own.entry().clone());
        if let Some(record) = self.records.aged_of(now, &self.own.id()) {
            self.broadcast.push_to_all(&record);
        }
        self.broadcast.flush(now, &mut self.outputs);
        for ended in self.sessions.close_all(&mut self.outputs) {
            if let Some(request) = ended.request {
                let result = Err(RequestError::Left);
                self.outputs.push_back(Output::Done { request, result });
            }
        }
        self.views.close_all(&mut context!(self, now));
        while let Some(change) = self.views.poll_change() {
            if let Change::Down(peer) = change {
                self.broadcast.neighbour_down(&peer);
            }
        }
        self.has_left = true;
        self.outputs.push_back(Output::Done {
            request,
            result: Ok(()),
        });
        self.outputs.push_back(Output::Left);
    }

    /// Carries out what the parts have prepared while one input was handled.
    fn settle(&mut self, now: Instant) {
        while let Some(change) = self.views.poll_change() {
            match change {
                Change::Up(peer) => {
                    self.broadcast.neighbour_up(peer);
                    // The first neighbour is most likely the first to hear of this node.
                    if self.views.active().len() == 1
                        && let Some(own) = self.records.aged_of(now, &self.own.id())
                    {
                        self.broadcast.push_to(&peer, own);
                    }
                }
                Change::Down(peer) => self.broadcast.neighbour_down(&peer),
            }
        }
        self.broadcast.flush(now, &mut self.outputs);
        match std::mem::replace(&mut self.changed, Changed::Nothing) {
            Changed::Nothing => {}
            Changed::Dates => self
                .outputs
                .push_back(Output::CatalogChanged { content: false }),
            Changed::Content => self
                .outputs
                .push_back(Output::CatalogChanged { content: true }),
        }
    }

    fn purge(&mut self, now: Instant) {
        while let Some(purged) = self.records.purge(now) {
            if !purged.is_departed() {
                self.departed(*purged.id());
            }
        }
    }

    fn probe(&mut self, now: Instant) {
        while let Some(peer) = self.prober.poll(now) {
            match self.records.address_of(&peer) {
                Some(address) => self.outputs.push_back(Output::Probe(address)),
                None => {
                    self.prober.sample(now, &peer, None);
                }
            }
        }
    }
}

impl Machine for Discovery {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        if self.has_left {
            if let Input::Request { request, .. } = input {
                let result = Err(RequestError::Left);
                self.outputs.push_back(Output::Done { request, result });
            }
            return;
        }
        match input {
            Input::Message { from, message } => self.message(now, from, message),
            Input::Connected(peer) => self.views.connected(&mut context!(self, now), peer),
            Input::ConnectFailed(peer) => {
                self.views.connect_failed(&mut context!(self, now), &peer);
            }
            Input::Disconnected(peer) => self.views.disconnected(&mut context!(self, now), &peer),
            Input::SyncOpened { session, peer } => {
                self.sessions
                    .opened(&mut context!(self, now), session, peer);
            }
            Input::SyncMessage { session, message } => self.sync_message(now, session, message),
            Input::SyncClosed { session, cause } => {
                if let Some(ended) = self.sessions.closed(session, cause) {
                    self.sync_ended(now, ended);
                }
            }
            Input::Wall(wall) => self.set_wall(now, wall),
            Input::Rtt { peer, sample } => {
                if let Some(smoothed) = self.prober.sample(now, &peer, sample) {
                    let content = self.records.set_rtt(peer, smoothed);
                    self.change(if content {
                        Changed::Content
                    } else {
                        Changed::Dates
                    });
                }
            }
            Input::Request { request, command } => self.request(now, request, command),
        }
        if !self.has_left {
            self.settle(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.has_left {
            return;
        }
        // Before the purge: after a long sleep of the machine this node itself is not stale.
        if self.announce_at <= now || self.own.raise_at() <= now {
            self.announce(now);
        }
        self.publish_due(now);
        if self.records.next_purge() <= now {
            self.purge(now);
        }
        self.views.handle_timeout(&mut context!(self, now));
        self.broadcast.handle_timeout(now);
        while let Some(ended) = self.sessions.handle_timeout(&mut context!(self, now)) {
            self.sync_ended(now, ended);
        }
        if self.compare_at <= now {
            self.compare_at_random(now);
        }
        if self.prober.deadline() <= now {
            self.probe(now);
        }
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.has_left {
            return None;
        }
        let next = (self.announce_at, "announce")
            .min((self.own.raise_at(), "raise"))
            .min((self.publish_at, "publish"))
            .min((self.records.next_purge(), "purge"))
            .min((self.compare_at, "compare"))
            .min((self.sessions.deadline(), "session"))
            .min((self.prober.deadline(), "probe"))
            .min(self.broadcast.deadline())
            .min(self.views.deadline());
        Some(next)
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {
        self.views.check_invariants();
        self.broadcast.check_invariants();
        self.sessions.check_invariants();
        self.prober.check_invariants();
        assert!(
            self.broadcast
                .neighbours()
                .all(|(peer, _)| self.views.is_active(peer))
                && self.broadcast.neighbours().count() == self.views.active().len(),
            "broadcasts go to others than the neighbours"
        );
        let local = self
            .catalog()
            .record(&self.own.id())
            .map(|record| &record.entry);
        assert_eq!(
            local,
            Some(self.own.entry()),
            "this node's entry is not in the catalog"
        );
        let checks = self.checks.get();
        self.checks.set((checks + 1) % FULL_CHECK_EVERY);
        if checks == 0 {
            self.records.check_invariants();
        }
    }
}
