//! What this node says of itself.

use std::net::SocketAddr;

use super::config::Config;
use super::entry::{
    Content, EntryError, EntryVersion, PROTOCOL_VERSION, PeerEntry, Status, VerifiedEntry,
};
use super::io::{Identity, LocalChange};
use super::peer_addr::{ADDRESSES_MAX, PeerAddr};
use crate::id::{Instance, NetworkId, PeerId, SecretKey};
use crate::time::{Duration, Instant, WallTime};

/// How long after moving above a foreign entry of its own key a node may do so again, at first.
const RAISE_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The same at most: two live nodes with one key make no more than two entries in this time.
const RAISE_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// After so many ever newer entries of one other instance, that instance is taken to be running.
const DUPLICATE_AFTER: u32 = 3;
/// Least time between two reports of a duplicate.
const DUPLICATE_REPORT_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Own {
    key: SecretKey,
    network: NetworkId,
    id: PeerId,
    instance: Instance,
    content: Content,
    entry: VerifiedEntry,
    /// The greatest foreign version heard under this key.
    floor: EntryVersion,
    raise_at: Instant,
    raise_allowed_at: Instant,
    raise_backoff: Duration,
    /// The other instance heard of last, its version, and how often that went up.
    other: Option<(Instance, EntryVersion, u32)>,
    report_allowed_at: Instant,
}

/// What follows from hearing an entry under this node's own key.
pub(super) enum Heard {
    /// It is this node's present entry.
    Present,
    /// It is an earlier one: who sent it should learn of the present one.
    Earlier,
    /// It outranks this node's. The node will move above it; `duplicate` tells that its author is
    /// running.
    Above { duplicate: bool },
}

impl Own {
    pub(super) fn new(identity: Identity, config: &Config) -> Self {
        let Identity {
            network,
            secret_key: key,
            instance,
            mut addresses,
            wall,
        } = identity;
        let id = key.peer_id();
        addresses.truncate(ADDRESSES_MAX);
        let tags = config.tags.iter().copied().collect();
        let content = Content {
            addresses,
            tags,
            ..Content::default()
        };
        let version = EntryVersion {
            started_at: wall,
            sequence: 0,
        };
        let entry = PeerEntry {
            protocol: PROTOCOL_VERSION,
            network,
            id,
            instance,
            version,
            updated_at: wall,
            status: Status::Alive,
            content: content.clone(),
        };
        let entry = VerifiedEntry::sign_own(entry, &key)
            .expect("a validated configuration has few enough tags for an entry");
        Self {
            key,
            network,
            id,
            instance,
            content,
            entry,
            floor: EntryVersion::default(),
            raise_at: Instant::FAR_FUTURE,
            raise_allowed_at: Instant::ZERO,
            raise_backoff: RAISE_BACKOFF_MIN,
            other: None,
            report_allowed_at: Instant::ZERO,
        }
    }

    pub(super) const fn id(&self) -> PeerId {
        self.id
    }

    pub(super) const fn entry(&self) -> &VerifiedEntry {
        &self.entry
    }

    pub(super) fn address(&self) -> PeerAddr {
        PeerAddr {
            id: self.id,
            addresses: self.content.addresses.clone(),
        }
    }

    /// When the node is to move above what it has heard.
    pub(super) const fn raise_at(&self) -> Instant {
        self.raise_at
    }

    /// Says the same again, under a version above all that was heard.
    pub(super) fn renew(&mut self, wall: WallTime) -> &VerifiedEntry {
        let renewed = self.make(wall, Status::Alive, self.content.clone());
        self.entry = renewed.expect("the content was within bounds before");
        self.raise_at = Instant::FAR_FUTURE;
        &self.entry
    }

    /// Says that the node has left.
    pub(super) fn depart(&mut self, wall: WallTime) -> &VerifiedEntry {
        let departed = self.make(wall, Status::Departed, Content::default());
        self.entry = departed.expect("an empty content is within bounds");
        &self.entry
    }

    /// Applies `change`; whether there was anything to change.
    pub(super) fn change(
        &mut self,
        wall: WallTime,
        change: LocalChange,
    ) -> Result<bool, EntryError> {
        let mut content = self.content.clone();
        apply(&mut content, change);
        if content == self.content {
            return Ok(false);
        }
        self.entry = self.make(wall, Status::Alive, content.clone())?;
        self.content = content;
        self.raise_at = Instant::FAR_FUTURE;
        Ok(true)
    }

    fn make(
        &self,
        wall: WallTime,
        status: Status,
        content: Content,
    ) -> Result<VerifiedEntry, EntryError> {
        let entry = PeerEntry {
            protocol: PROTOCOL_VERSION,
            network: self.network,
            id: self.id,
            instance: self.instance,
            version: self.entry.version.max(self.floor).next(),
            updated_at: wall,
            status,
            content,
        };
        VerifiedEntry::sign_own(entry, &self.key)
    }

    /// Dates this node's entry anew from `wall`, because the clock that it was dated by was ahead: as it is,
    /// everyone would refuse it until their clocks get there.
    pub(super) fn date_back(&mut self, wall: WallTime) {
        let version = EntryVersion {
            started_at: wall,
            sequence: 0,
        };
        let entry = PeerEntry {
            version,
            updated_at: wall,
            ..(**self.entry.entry()).clone()
        };
        self.entry = VerifiedEntry::sign_own(entry, &self.key)
            .expect("an entry of the same content has been signed before");
        self.floor = EntryVersion::default();
        self.raise_at = Instant::FAR_FUTURE;
    }

    /// Takes note of an entry under this node's key that came from elsewhere.
    pub(super) fn hear(&mut self, now: Instant, heard: &VerifiedEntry) -> Heard {
        match heard.precedence(&self.entry) {
            std::cmp::Ordering::Equal => return Heard::Present,
            std::cmp::Ordering::Less => return Heard::Earlier,
            std::cmp::Ordering::Greater => {}
        }
        self.floor = self.floor.max(heard.version);
        if self.raise_at == Instant::FAR_FUTURE {
            if now.since(self.raise_allowed_at) > RAISE_BACKOFF_MAX {
                self.raise_backoff = RAISE_BACKOFF_MIN;
            }
            self.raise_at = now.max(self.raise_allowed_at);
            self.raise_allowed_at = self.raise_at + self.raise_backoff;
            self.raise_backoff = (self.raise_backoff * 2).min(RAISE_BACKOFF_MAX);
        }
        Heard::Above {
            duplicate: self.is_duplicate(now, heard),
        }
    }

    fn is_duplicate(&mut self, now: Instant, heard: &VerifiedEntry) -> bool {
        if heard.is_departed() || heard.instance == self.instance {
            return false;
        }
        let times = match self.other {
            Some((instance, version, times)) if instance == heard.instance => {
                times + u32::from(heard.version > version)
            }
            _ => 1,
        };
        self.other = Some((heard.instance, heard.version, times));
        if times < DUPLICATE_AFTER || now < self.report_allowed_at {
            return false;
        }
        self.report_allowed_at = now + DUPLICATE_REPORT_INTERVAL;
        true
    }
}

fn apply(content: &mut Content, change: LocalChange) {
    match change {
        LocalChange::SetAddresses(addresses) => content.addresses = distinct(addresses),
        LocalChange::AddTags(tags) => content.tags.extend(tags),
        LocalChange::RemoveTags(tags) => content.tags.retain(|tag| !tags.contains(tag)),
        LocalChange::SetStream(stream, info) => {
            content.streams.insert(stream, info);
        }
        LocalChange::RemoveStream(stream) => {
            content.streams.remove(&stream);
        }
        LocalChange::SetGroup(group, info) => {
            content.groups.insert(group, info);
        }
        LocalChange::RemoveGroup(group) => {
            content.groups.remove(&group);
        }
        LocalChange::AddTicket(ticket) => {
            if !content.tickets.contains(&ticket) {
                content.tickets.push(ticket);
            }
        }
        LocalChange::RemoveTicket(ticket) => content.tickets.retain(|other| *other != ticket),
        LocalChange::RemoveTicketsOf(class) => content.tickets.retain(|other| other.class != class),
        LocalChange::ReplaceTicket(ticket) => {
            content.tickets.retain(|other| other.class != ticket.class);
            content.tickets.push(ticket);
        }
        LocalChange::SetExtension(number, data) => {
            content.extensions.insert(number, data);
        }
        LocalChange::RemoveExtension(number) => {
            content.extensions.remove(&number);
        }
    }
}

/// The addresses without repetitions, in their order, which is that of preference.
fn distinct(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut kept = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}
