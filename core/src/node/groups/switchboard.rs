//! Runs the machine of all bonds, and tells each group what is its own.
//!
//! The machine is behind one lock that is held for a step at a time: whoever has something for it, be it a frame of a
//! link or what a group says, lets the machine take it and carries out what follows, so that nothing changes tasks on
//! its way but where it enters the node, or where a transport is full. Groups are told under the lock too, which keeps
//! what they hear in the order in which it happened; see [`Inbox`] for what that asks of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;

use super::links::{self, Groups, Outlet};
use super::peers;
use crate::id::{GroupId, PeerId};
use crate::node::connections::{Connections, Listener};
use crate::node::discovery::{CatalogWatch, Discovery};
use crate::node::link::Link;
use crate::node::tasks::Tasks;
use crate::protocol::Machine;
use crate::protocol::bonds::{
    self, BondInfo, Bonds, Event, GROUPS_EXPORTER_LABEL, Input, LinkId, Output, Refusal, Stats,
};
use crate::protocol::discovery::Catalog;
use crate::protocol::groups::{GroupKey, WriteAccess};
use crate::runtime::Side;
use crate::time::Instant;
use crate::wire::CloseCode;

/// What a group is told of its bonds.
///
/// In the order in which it happened, from the return of [`Switchboard::join`] to that of [`Switchboard::leave`] at
/// the latest. Called under the switchboard's lock: it must neither wait nor call the switchboard, nor take a lock
/// that anybody holds who calls the switchboard. To put what it is told into a queue and to wake a task is what it is
/// for. A queue that is full may drop messages, as links do, but nothing else.
pub(super) trait Inbox: Send + Sync + 'static {
    /// There is a bond with `peer`, which may write or not.
    fn bonded(&self, peer: PeerId, may_write: bool);
    /// There is none any more.
    fn unbonded(&self, peer: PeerId);
    /// `peer`, which is bonded, and may write or not, says something.
    fn message(&self, peer: PeerId, may_write: bool, payload: Bytes);
    /// No bond with `peer` comes about, for now at least.
    fn refused(&self, peer: PeerId, why: Refusal);
}

/// What a group says to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// To whom.
    pub(super) peer: PeerId,
    /// What, of [`PAYLOAD_LEN_MAX`](bonds::PAYLOAD_LEN_MAX) bytes at most.
    pub(super) payload: Bytes,
    /// It may wait a little for others to share a frame with.
    pub(super) can_wait: bool,
}

/// All bonds of a node. A clone is the same.
#[derive(Clone)]
pub(crate) struct Switchboard(Arc<Shared>);

struct Shared {
    /// Links and what they have to send, until they have closed.
    tasks: Tasks,
    /// Everything else, which ends first.
    receiving: Tasks,
    connections: Connections,
    state: Mutex<State>,
    /// Told when something is due earlier than the timer knows.
    earlier: Notify,
}

struct State {
    bonds: Bonds,
    inboxes: BTreeMap<GroupId, Arc<dyn Inbox>>,
    outlets: BTreeMap<LinkId, Outlet>,
    links_opened: u64,
    /// When the timer wakes.
    wakes_at: Instant,
}

impl Switchboard {
    /// Starts to take links that peers open. The configuration must be valid.
    pub(crate) fn start(
        tasks: &Tasks,
        connections: &Connections,
        discovery: &Discovery,
        listener: Listener<Groups>,
        config: bonds::Config,
    ) -> Self {
        let rng = ChaCha8Rng::from_seed(tasks.runtime().seed("bonds"));
        let switchboard = Self(Arc::new(Shared {
            tasks: tasks.child(),
            receiving: tasks.child(),
            connections: connections.clone(),
            state: Mutex::new(State {
                bonds: Bonds::new(discovery.local_id(), config, rng),
                inboxes: BTreeMap::new(),
                outlets: BTreeMap::new(),
                links_opened: 0,
                wakes_at: Instant::FAR_FUTURE,
            }),
            earlier: Notify::new(),
        }));
        let receiving = &switchboard.0.receiving;
        receiving.spawn("accept bond links", switchboard.clone().accept(listener));
        let catalog = discovery.catalog_watch();
        receiving.spawn("watch members", switchboard.clone().watch(catalog));
        receiving.spawn("bonds", switchboard.clone().keep_time());
        switchboard
    }

    /// This node is in `group` from now on, which it was not before.
    pub(super) fn join(
        &self,
        group: GroupId,
        key: GroupKey,
        access: WriteAccess,
        inbox: Arc<dyn Inbox>,
    ) {
        let mut turn = self.turn();
        turn.state.inboxes.insert(group, inbox);
        turn.handle(Input::Joined { group, key, access });
    }

    /// This node is in `group` no longer. Its inbox is told of the end of its bonds, and of nothing from then on.
    pub(super) fn leave(&self, group: GroupId) {
        let mut turn = self.turn();
        turn.handle(Input::Left(group));
        let inbox = turn.state.inboxes.remove(&group);
        drop(turn);
        // It may be the last of its group, with whatever hangs on that.
        drop(inbox);
    }

    /// Takes all of `messages`, which `group` says. What is said to peers without a bond is lost.
    pub(super) fn send(&self, group: GroupId, messages: &mut Vec<Outgoing>) {
        if messages.is_empty() {
            return;
        }
        let mut turn = self.turn();
        for message in messages.drain(..) {
            let Outgoing {
                peer,
                payload,
                can_wait,
            } = message;
            turn.handle(Input::Send {
                group,
                peer,
                payload,
                can_wait,
            });
        }
    }

    /// What `peer` has said is not of the protocol of `group`: it loses its link.
    pub(super) fn garbled(&self, group: GroupId, peer: PeerId) {
        self.turn().handle(Input::Garbled { group, peer });
    }

    /// `peer`, which may only read, has said in `group` what only writers say: it loses its link.
    pub(super) fn overstepped(&self, group: GroupId, peer: PeerId) {
        self.turn().handle(Input::Overstepped { group, peer });
    }

    /// Where this node stands in `group` with each peer that it has, or wants, a bond with.
    pub(super) fn topology(&self, group: GroupId) -> Vec<BondInfo> {
        self.lock().bonds.topology(group).collect()
    }

    /// What has happened since the start.
    pub(crate) fn stats(&self) -> Stats {
        self.lock().bonds.stats()
    }

    /// Departs from all groups and closes all links; completes when they have sent what was given to them, or had
    /// their time.
    pub(crate) async fn close(&self) {
        self.0.receiving.cancel();
        self.turn().handle(Input::Close);
        self.0.tasks.ended().await;
    }

    /// A frame has come.
    pub(super) fn frame(&self, link: LinkId, frame: Bytes) {
        self.turn().handle(Input::Frame { link, frame });
    }

    /// The transport has taken a frame.
    pub(super) fn sent(&self, link: LinkId) {
        self.turn().handle(Input::Sent(link));
    }

    /// The peer has ended a link, or it is lost.
    pub(super) fn link_closed(&self, link: LinkId, code: Option<CloseCode>) {
        let mut turn = self.turn();
        turn.handle(Input::LinkClosed { link, code });
        turn.state.outlets.remove(&link);
    }

    async fn accept(self, mut listener: Listener<Groups>) {
        while let Some(link) = listener.accept().await {
            self.take_link(link, Side::Acceptor);
        }
    }

    /// Opens a link in the background.
    fn dial(&self, peer: PeerId) {
        let switchboard = self.clone();
        self.0.receiving.spawn("open bond link", async move {
            let Shared {
                tasks, connections, ..
            } = &*switchboard.0;
            match links::open(tasks, connections, peer).await {
                Some(link) => switchboard.take_link(link, Side::Dialer),
                None => switchboard.turn().handle(Input::DialFailed(peer)),
            }
        });
    }

    /// Takes a link into use.
    fn take_link(&self, link: Link<Groups>, side: Side) {
        let peer = link.peer();
        let lease = link.lease();
        let instance = lease.instance();
        let connection = lease.connection();
        let exporter = connection.export_keying_material(GROUPS_EXPORTER_LABEL, b"");
        let mut turn = self.turn();
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a link with a member is lost at once");
                if side == Side::Dialer {
                    turn.handle(Input::DialFailed(peer));
                }
                return;
            }
        };
        turn.state.links_opened += 1;
        let id = LinkId(turn.state.links_opened);
        let (outlet, ends) = links::split(link);
        turn.state.outlets.insert(id, outlet);
        turn.handle(Input::LinkOpened {
            link: id,
            peer,
            instance,
            side,
            exporter,
        });
        drop(turn);
        ends.start(id, self, &self.0.tasks);
    }

    /// Tells the machine what changes in the catalog.
    async fn watch(self, mut watch: CatalogWatch) {
        let mut known = Catalog::default();
        let mut catalog = watch.current();
        loop {
            for (peer, groups) in peers::changes(&known, &catalog) {
                self.turn().handle(Input::Peer { peer, groups });
            }
            known = catalog;
            catalog = match watch.changed().await {
                Ok(catalog) => catalog,
                // Discovery ends after the bonds.
                Err(_) => return,
            };
        }
    }

    /// Lets happen what is due.
    async fn keep_time(self) {
        let runtime = self.0.tasks.runtime();
        loop {
            let deadline = {
                let mut state = self.lock();
                let due_at = state.bonds.poll_timeout();
                state.wakes_at = due_at.map_or(Instant::FAR_FUTURE, |(at, _)| at);
                due_at
            };
            let sleep = async {
                match deadline {
                    Some((at, reason)) => runtime.sleep_until(at, reason).await,
                    None => std::future::pending().await,
                }
            };
            crate::select! {
                () = self.0.earlier.notified() => (),
                () = sleep => self.turn().handle_timeout(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Turn<'_> {
        let state = self.lock();
        // Under the lock, so that the machine's time never goes back.
        let now = self.0.tasks.runtime().now();
        Turn {
            switchboard: self,
            state,
            now,
            taken: Vec::new(),
        }
    }
}

/// Steps of the machine at one moment.
struct Turn<'a> {
    switchboard: &'a Switchboard,
    state: MutexGuard<'a, State>,
    now: Instant,
    /// The links whose transports have taken a frame at once, one for each.
    taken: Vec<LinkId>,
}

impl Turn<'_> {
    fn handle(&mut self, input: Input) {
        self.state.bonds.handle(self.now, input);
        self.drain();
    }

    fn handle_timeout(&mut self) {
        self.state.bonds.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            if let Some(output) = self.state.bonds.poll_output() {
                self.carry_out(output);
            } else if let Some(link) = self.taken.pop() {
                self.state.bonds.handle(self.now, Input::Sent(link));
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Dial(peer) => self.switchboard.dial(peer),
            Output::Send { link, frame } => {
                if let Some(outlet) = self.state.outlets.get(&link) {
                    let taken = outlet.send(frame);
                    self.taken.extend(std::iter::repeat_n(link, taken));
                }
            }
            Output::Close {
                link,
                code,
                at_once,
            } => match self.state.outlets.remove(&link) {
                Some(outlet) if at_once => outlet.abort(code),
                Some(outlet) => outlet.finish(code),
                None => {}
            },
            Output::Message {
                group,
                peer,
                may_write,
                payload,
            } => {
                if let Some(inbox) = self.state.inboxes.get(&group) {
                    inbox.message(peer, may_write, payload);
                }
            }
            Output::Event(event) => self.tell(&event),
        }
    }

    fn tell(&self, event: &Event) {
        match *event {
            Event::Bonded {
                group,
                peer,
                may_write,
            } => {
                tracing::debug!(group = %group.short(), peer = %peer.short(), may_write, "bonded");
                if let Some(inbox) = self.state.inboxes.get(&group) {
                    inbox.bonded(peer, may_write);
                }
            }
            Event::Unbonded { group, peer, why } => {
                tracing::debug!(group = %group.short(), peer = %peer.short(), %why, "no longer bonded");
                if let Some(inbox) = self.state.inboxes.get(&group) {
                    inbox.unbonded(peer);
                }
            }
            Event::Refused { group, peer, why } => {
                tracing::debug!(group = %group.short(), peer = %peer.short(), %why, "no bond");
                if let Some(inbox) = self.state.inboxes.get(&group) {
                    inbox.refused(peer, why);
                }
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let due_at = self.state.bonds.poll_timeout();
        if let Some((at, _)) = due_at
            && at < self.state.wakes_at
        {
            self.state.wakes_at = at;
            self.switchboard.0.earlier.notify_one();
        }
    }
}
