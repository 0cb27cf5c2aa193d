//! Drives discovery machines without a network: nobody can be dialled, and sessions run at once.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smalti_core::id::{Digest, Instance, NetworkId, PeerId, SecretKey};
use smalti_core::protocol::Machine;
use smalti_core::protocol::discovery::{
    Aged, Catalog, Command, Config, Discovery, Identity, Input, Message, Output, PeerAddr,
    RequestError, RequestId, SessionId, SyncMessage, VerifiedEntry,
};
use smalti_core::time::{Duration, Instant, WallTime};

use super::pool::{PURGE_AFTER, WALL};

/// The network of all nodes.
pub(super) const NETWORK: &str = "fuzz";
/// A node that was outbid under its own name has moved above that after this time.
pub(super) const RAISE_TIME_MAX: Duration = Duration::from_secs(60);

/// Who all gossip comes from.
const NEIGHBOUR: PeerId = PeerId::from_bytes([1; 32]);

/// Outputs that may follow from one input, the answers that the driver gives included.
const OUTPUTS_MAX: usize = 4_096;
/// Messages of one session.
const MESSAGES_MAX: usize = 256;
/// Calls of `handle_timeout` while time moves on once.
const TIMEOUTS_MAX: usize = 4_096;

/// The key of the peer or node called `name`.
pub(super) fn key(name: &str) -> SecretKey {
    SecretKey::from(name)
}

/// A machine that starts when its wall clock reads `wall`.
pub(super) fn discovery(name: &str, network: &str, wall: WallTime, run: &str) -> Discovery {
    let seed = *Digest::of("fuzz", &[name.as_bytes(), run.as_bytes()]).as_bytes();
    let mut rng = ChaCha8Rng::from_seed(seed);
    let identity = Identity {
        network: NetworkId::from(network),
        secret_key: key(name),
        instance: Instance::from_rng(&mut rng),
        addresses: vec![([10, 0, 0, 1], 4433).into()],
        wall,
    };
    let config = Config::builder()
        .with_purge_after(PURGE_AFTER)
        // Signing takes most of the time, so the nodes repeat themselves seldom.
        .with_announce_interval(PURGE_AFTER / 2)
        .with_announce_jitter(0.0)
        .with_tags(run)
        .no_auto_bootstrap()
        .build()
        .expect("the configuration makes sense");
    Discovery::new(Instant::ZERO, identity, config, rng)
}

/// The one session that the driver carries. Others, which machines open of themselves, are closed at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    None,
    /// The machine is asked to open one with this peer.
    Expected(PeerId),
    Open(SessionId),
}

/// What one end of a session says to the other.
enum Said {
    Message(SyncMessage),
    Close,
}

/// Synchronises two nodes, the messages going over the wire, and gives what they said.
///
/// # Panics
/// Where the session does not come to a good end.
pub(super) fn synchronise(
    now: Instant,
    dialer: &mut Node,
    acceptor: &mut Node,
) -> Vec<SyncMessage> {
    let mut messages = Vec::new();
    let peer = PeerAddr::new(acceptor.id, [([10, 0, 0, 1], 4433).into()]);
    dialer.session = Session::Expected(acceptor.id);
    let session = SessionId::Incoming(acceptor.sessions_accepted);
    acceptor.sessions_accepted += 1;
    acceptor.session = Session::Open(session);
    let (request, command) = (RequestId(0), Command::SyncWith(peer));
    dialer.handle(now, Input::Request { request, command });
    let peer = dialer.id;
    acceptor.handle(now, Input::SyncOpened { session, peer });
    while dialer.done.is_none() {
        assert!(messages.len() < MESSAGES_MAX, "a session without an end");
        let said = dialer.carry(now, acceptor, &mut messages);
        let answered = acceptor.carry(now, dialer, &mut messages);
        assert!(said || answered, "both ends of a session wait");
    }
    dialer.carry(now, acceptor, &mut messages);
    acceptor.carry(now, dialer, &mut messages);
    assert_eq!(dialer.done.take(), Some(Ok(())));
    messages
}

/// A machine under test and what the driver keeps for it.
pub(super) struct Node {
    pub(super) id: PeerId,
    machine: Discovery,
    session: Session,
    /// What the machine has said in that session.
    said: VecDeque<Said>,
    done: Option<Result<(), RequestError>>,
    sessions_accepted: u64,
    /// The greatest entry heard under its own name.
    outbid: Option<VerifiedEntry>,
}

impl Node {
    pub(super) fn new(number: usize) -> Self {
        let name = format!("node {number}");
        let machine = discovery(&name, NETWORK, WALL, "under test");
        let own = machine.catalog().local().expect("a node knows itself");
        let mut node = Self {
            id: *own.id(),
            machine,
            session: Session::None,
            said: VecDeque::new(),
            done: None,
            sessions_accepted: 0,
            outbid: None,
        };
        node.drain(Instant::ZERO);
        node
    }

    pub(super) const fn catalog(&self) -> &Catalog {
        self.machine.catalog()
    }

    pub(super) fn own(&self) -> &VerifiedEntry {
        self.catalog().local().expect("a node knows itself")
    }

    pub(super) fn gossip(&mut self, now: Instant, records: Vec<Aged<VerifiedEntry>>) {
        let from = NEIGHBOUR;
        let message = Message::Gossip { records };
        self.handle(now, Input::Message { from, message });
    }

    pub(super) fn request(&mut self, now: Instant, command: Command) -> Result<(), RequestError> {
        let request = RequestId(0);
        self.handle(now, Input::Request { request, command });
        self.done.take().expect("such a request is done at once")
    }

    pub(super) fn hear_of_oneself(&mut self, now: Instant, entry: &VerifiedEntry) {
        let before = self.own().clone();
        let record = Aged {
            entry: entry.clone(),
            age_ms: 0,
        };
        self.gossip(now, vec![record]);
        assert!(self.own().precedence(&before).is_ge(), "a node went back");
        let outbid = self.outbid.get_or_insert_with(|| entry.clone());
        if entry.precedence(outbid).is_gt() {
            *outbid = entry.clone();
        }
    }

    pub(super) fn check_own_is_above(&self) {
        if let Some(outbid) = &self.outbid {
            let is_above = self.own().precedence(outbid).is_gt();
            assert!(is_above, "{:?} is not above {outbid:?}", self.own());
        }
    }

    pub(super) fn check(&self) {
        self.machine.check_invariants();
        assert!(self.catalog().get_signed(&self.id).is_some());
    }

    /// Lets time pass until `until`, waking the machine whenever it asks for it.
    pub(super) fn advance(&mut self, until: Instant) {
        for _ in 0..TIMEOUTS_MAX {
            let due = self.machine.poll_timeout().filter(|(at, _)| *at <= until);
            let Some((at, reason)) = due else {
                return;
            };
            self.machine.handle_timeout(at);
            self.drain(at);
            let next = self.machine.poll_timeout();
            let is_served = next.is_none_or(|(next, _)| next > at);
            assert!(is_served, "a timeout stays due: {reason}");
        }
        panic!("the machine never rests");
    }

    /// Carries what this end of the session has said to the other; whether that was anything.
    fn carry(&mut self, now: Instant, to: &mut Self, messages: &mut Vec<SyncMessage>) -> bool {
        let mut any = false;
        while let Some(said) = self.said.pop_front() {
            any = true;
            let Session::Open(session) = to.session else {
                continue;
            };
            match said {
                Said::Message(message) => {
                    let wire = message.encode();
                    let decoded = SyncMessage::decode(&wire, to.catalog());
                    let decoded = decoded.expect("what a machine says can be decoded");
                    assert_eq!(decoded, message);
                    messages.push(message);
                    let message = decoded;
                    to.handle(now, Input::SyncMessage { session, message });
                }
                Said::Close => {
                    to.session = Session::None;
                    to.handle(
                        now,
                        Input::SyncClosed {
                            session,
                            cause: None,
                        },
                    );
                }
            }
        }
        any
    }

    fn handle(&mut self, now: Instant, input: Input) {
        self.machine.handle(now, input);
        self.drain(now);
    }

    /// Carries out what the machine wants done.
    fn drain(&mut self, now: Instant) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.machine.poll_output() else {
                return;
            };
            match output {
                Output::Probe(peer) => {
                    let (peer, sample) = (peer.id, None);
                    self.machine.handle(now, Input::Rtt { peer, sample });
                }
                Output::SyncOpen { session, peer } => {
                    if self.session == Session::Expected(peer.id) {
                        self.session = Session::Open(session);
                    } else {
                        self.machine.handle(
                            now,
                            Input::SyncClosed {
                                session,
                                cause: None,
                            },
                        );
                    }
                }
                Output::SyncSend { session, message } if self.session == Session::Open(session) => {
                    self.said.push_back(Said::Message(message));
                }
                Output::SyncClose { session } if self.session == Session::Open(session) => {
                    self.said.push_back(Said::Close);
                    self.session = Session::None;
                }
                Output::Done { result, .. } => self.done = Some(result),
                // A dial is never answered: the machine gives it up in its own time.
                Output::Connect(_)
                | Output::Disconnect(_)
                | Output::Send(..)
                | Output::SyncSend { .. }
                | Output::SyncClose { .. }
                | Output::Event(_)
                | Output::CatalogChanged { .. }
                | Output::Left => {}
            }
        }
        panic!("the machine never stops asking for things");
    }
}
