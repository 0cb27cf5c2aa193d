//! What a member may say that keeps to no rule: numbers at the edges, entries of all kinds, answers that
//! nobody honest would give.

use bytes::Bytes;
use smalti_core::id::{Digest, GroupId, Instance};
use smalti_core::protocol::raft::{
    Append, AppendOutcome, AppendReply, Batch, Candidacy, Charter, Commands, CommandsBuilder,
    Configuration, Entry, Envelope, Hello, Incarnation, Index, LeadershipPreference, Manifest,
    Meeting, Member, Message, Offer, Owner, Part, Payload, Pledge, Position, Reform, Remains, Run,
    Runs, Seal, Sequence, SessionId, Status, Term, Verdict, Weight,
};
use smalti_core::wire::{decode, encode};

use super::group::{Group, Parcel, peer};
use crate::script::Script;

/// Entries of one message.
const ENTRIES_MAX: usize = 6;
/// Bytes that a script decodes at once.
const DECODED_MAX: usize = 96;

/// Whom something is said to, and what there is to know of it.
struct Liar<'a, 's, 'i> {
    group: &'a Group,
    from: usize,
    status: Status<'a>,
    script: &'s mut Script<'i>,
}

/// A message from `from` to `to`, whatever it says; `None` where one of them has never been up.
pub(super) fn message(
    group: &Group,
    from: usize,
    to: usize,
    script: &mut Script<'_>,
) -> Option<Parcel> {
    let mut liar = Liar::new(group, from, to, script)?;
    let message = liar.message();
    Some(liar.parcel(to, message))
}

/// An answer to a message, of whoever was to get it.
pub(super) fn answer(group: &Group, asked: &Parcel, script: &mut Script<'_>) -> Option<Parcel> {
    let mut liar = Liar::new(group, asked.to, asked.from, script)?;
    let message = liar.answer(&asked.envelope.message)?;
    Some(liar.parcel(asked.from, message))
}

/// What the script's bytes decode to: a whole envelope, or a message in an envelope of `from`.
pub(super) fn decoded(
    group: &Group,
    from: usize,
    to: usize,
    script: &mut Script<'_>,
) -> Option<Parcel> {
    let is_whole = script.below(2) == 0;
    let len = script.below(DECODED_MAX);
    let bytes = script.take(len);
    if is_whole {
        let envelope = decode(bytes).ok()?;
        return Some(Parcel { from, to, envelope });
    }
    let message = decode(bytes).ok()?;
    Some(Liar::new(group, from, to, script)?.parcel(to, message))
}

/// The message with some of its bytes changed, where that is one.
pub(super) fn mutated(parcel: &Parcel, script: &mut Script<'_>) -> Option<Parcel> {
    let mut bytes = encode(&parcel.envelope).expect("it was made of what can be encoded");
    for _ in 0..=script.below(3) {
        // Names and the like come first and make up most of it: what is said comes last.
        let back = 1 + usize::from(script.byte());
        let at = bytes.len().saturating_sub(back);
        bytes[at] ^= script.byte();
    }
    let envelope: Envelope = decode(&bytes).ok()?;
    Some(Parcel {
        envelope,
        from: parcel.from,
        to: parcel.to,
    })
}

impl<'a, 's, 'i> Liar<'a, 's, 'i> {
    fn new(group: &'a Group, from: usize, to: usize, script: &'s mut Script<'i>) -> Option<Self> {
        let status = group.nodes[to].machine.as_ref()?.status();
        Some(Self {
            group,
            from,
            status,
            script,
        })
    }

    fn chance(&mut self, of: usize) -> bool {
        self.script.below(of) == 0
    }

    /// An envelope that its addressee takes, most of the time.
    fn parcel(&mut self, to: usize, message: Message) -> Parcel {
        let unknown = (Instance::from_bytes([0; 16]), Run::default(), None);
        let (mut from, mut run, theirs) = self.group.nodes[self.from].header.unwrap_or(unknown);
        let mut incarnation = self.status.incarnation;
        match self.script.below(16) {
            0 => from = Instance::from_bytes([self.script.byte(); 16]),
            1 => run.boot = self.number(run.boot),
            4 => run.id = self.number(run.id),
            2 => incarnation = theirs,
            3 => incarnation = Some(self.incarnation()),
            _ => {}
        }
        let envelope = Envelope {
            from,
            run,
            to: Some(self.status.me.instance),
            incarnation,
            message,
        };
        Parcel {
            from: self.from,
            to,
            envelope,
        }
    }

    fn number(&mut self, near: u64) -> u64 {
        match self.script.below(12) {
            0 => 0,
            1 => 1,
            2 => near.saturating_sub(1),
            3 | 4 => near.saturating_add(1),
            5 => u64::from(self.script.byte()),
            6 => near.saturating_add(2_000),
            7 => u64::MAX,
            8 => u64::MAX - 1,
            _ => near,
        }
    }

    fn index(&mut self) -> Index {
        let near = match self.script.below(4) {
            0 => self.status.commit,
            1 => self.status.kept_from,
            _ => self.status.last.index,
        };
        Index(self.number(near.0))
    }

    fn term(&mut self) -> Term {
        Term(self.number(self.status.term.0))
    }

    fn position(&mut self) -> Position {
        if self.chance(2) {
            return self.status.last;
        }
        let index = self.index();
        let kept = self.group.nodes[self.from].machine.as_ref();
        let entry = kept.and_then(|machine| machine.entry(index));
        match entry {
            Some(entry) if self.chance(2) => entry.position(),
            _ => Position {
                term: self.term(),
                index,
            },
        }
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation(Digest::of("hostile", &[&[self.script.below(2) as u8]]))
    }

    fn member(&mut self) -> Member {
        if self.chance(4) {
            return self.status.me;
        }
        let node = self.script.below(self.group.nodes.len());
        let header = self.group.nodes[node].header;
        let instance = match header {
            Some((instance, ..)) if !self.chance(4) => instance,
            _ => Instance::from_bytes([self.script.byte(); 16]),
        };
        Member {
            peer: peer(node),
            instance,
        }
    }

    fn members(&mut self) -> Vec<Member> {
        let count = self.script.below(10);
        (0..count).map(|_| self.member()).collect()
    }

    fn configuration(&mut self) -> Configuration {
        let voters = self.members().into_iter().collect();
        let mut configuration = Configuration {
            voters,
            ..Configuration::default()
        };
        if self.chance(2) {
            let demotions = self.number(3) as u32;
            let peer = self.member().peer;
            configuration.demotions.insert(peer, demotions);
        }
        configuration
    }

    fn charter(&mut self) -> Charter {
        let founder = Member {
            peer: peer(self.from),
            ..self.member()
        };
        let mut voters = self.members();
        if !self.chance(4) {
            voters.extend([founder, self.status.me]);
        }
        Charter {
            group: GroupId::from("fuzz"),
            nonce: [self.script.byte(); 32],
            founder,
            voters,
            expected: self.number(2) as u32,
            parent: None,
        }
    }

    fn commands(&mut self) -> Commands {
        if self.chance(3) {
            let len = self.script.below(8);
            let bytes = Bytes::copy_from_slice(self.script.take(len));
            let count = self.number(2) as u32;
            let encoded = encode(&(count, bytes)).expect("a number and bytes can be encoded");
            return decode(&encoded).expect("it is what commands are made of");
        }
        let mut commands = CommandsBuilder::default();
        for _ in 0..self.script.below(4) {
            match self.script.below(3) {
                0 => commands.push_given_up(),
                _ => commands.push(&[self.script.byte(), 0, 0, 0]),
            }
        }
        commands.take()
    }

    fn batch(&mut self) -> Batch {
        let session = SessionId(Index(self.number(2)));
        Batch {
            session,
            first: Sequence(self.number(1)),
            acked_through: Sequence(self.number(0)),
            commands: self.commands(),
        }
    }

    fn payload(&mut self, index: Index) -> Payload {
        if index == Index(1) && !self.chance(4) {
            let founding = self.group.nodes.iter().find_map(|node| {
                let entry = node.machine.as_ref()?.entry(index)?;
                Some(entry.payload.clone())
            });
            if let Some(founding) = founding {
                return founding;
            }
        }
        match self.script.below(12) {
            0 => Payload::Founding(Box::new(self.charter())),
            1 => Payload::Configuration(self.configuration()),
            2 => Payload::Open(Owner {
                member: self.member(),
                run: Run {
                    boot: self.number(1),
                    id: self.number(0),
                },
            }),
            3..=5 => Payload::Commands(self.batch()),
            6 => Payload::SnapshotPoint,
            7 => Payload::Frozen {
                to: self.incarnation(),
            },
            8 => Payload::Decided {
                offer: self.offer(),
            },
            9 => Payload::Sealed {
                into: self.incarnation(),
                offer: self.position(),
            },
            10 => Payload::Thawed {
                offer: self.position(),
            },
            _ => Payload::Blank,
        }
    }

    fn entries(&mut self, first: Index) -> Vec<Entry> {
        let mut next = first;
        let mut entries = Vec::new();
        for _ in 0..self.script.below(ENTRIES_MAX) {
            let index = if self.chance(16) { self.index() } else { next };
            let term = if self.chance(4) {
                self.term()
            } else {
                self.status.term
            };
            let payload = self.payload(index);
            entries.push(Entry {
                term,
                index,
                payload,
            });
            next = index.next();
        }
        entries
    }

    fn hello(&mut self) -> Hello {
        Hello {
            preference: match self.script.below(4) {
                0 => LeadershipPreference::Observer,
                1 => LeadershipPreference::Reluctant {
                    factor: self.number(3) as u32,
                },
                _ => LeadershipPreference::Normal,
            },
            ping: self.number(2),
            pong: self.number(2),
            awaits_answer: self.chance(2),
            runs: Runs::NONE.then(self.number(4)),
            recovered: self.index(),
            leader: self.chance(2).then(|| self.member().peer),
            left: match self.script.below(4) {
                0 => self.status.incarnation,
                1 => Some(self.incarnation()),
                _ => None,
            },
            sealed: self.chance(16).then(|| self.seal()),
            commit: self.index(),
            succeeds: self.chance(8).then(|| self.known_incarnation()),
        }
    }

    fn known_incarnation(&mut self) -> Incarnation {
        let ours = self.status.incarnation.filter(|_| self.chance(2));
        ours.unwrap_or_else(|| self.incarnation())
    }

    fn offer(&mut self) -> Offer {
        Offer {
            from: self.known_incarnation(),
            to: self.known_incarnation(),
            at: self.position(),
            weight: Weight {
                is_established: self.chance(2),
                commands: self.number(3),
            },
        }
    }

    fn seal(&mut self) -> Seal {
        Seal {
            incarnation: self.known_incarnation(),
            into: self.known_incarnation(),
            at: self.position(),
            commands: self.number(3),
        }
    }

    fn reform(&mut self) -> Reform {
        let of = self.known_incarnation();
        let round = self.number(1);
        if self.chance(2) {
            return Reform::Answer {
                of,
                round,
                remains: self.remains(),
            };
        }
        Reform::Ask {
            of,
            round,
            floor: self.position(),
            is_ordered: self.chance(4),
            pledge: self.chance(4).then(|| Pledge {
                participants: self.members().into_iter().collect(),
                gone: self.members().into_iter().collect(),
            }),
        }
    }

    fn remains(&mut self) -> Remains {
        Remains {
            goes_on: self.chance(8),
            has_gone_over: self.chance(8),
            sealed: self.chance(16).then(|| self.seal()),
            part: self.chance(2).then(|| Part {
                last: self.position(),
                commit: self.position(),
                has_floor: self.chance(2),
                voters: self.members(),
                named: self.members(),
                is_observer: self.chance(4),
            }),
            knows: self.members(),
            set_back: self.members(),
        }
    }

    fn meeting(&mut self) -> Meeting {
        match self.script.below(4) {
            0 => Meeting::Greet,
            1 => Meeting::Ready,
            2 => Meeting::Offer(self.offer()),
            _ => Meeting::Decided {
                from: self.known_incarnation(),
                by: self.known_incarnation(),
                offer: self.position(),
                absorbs: self.chance(2),
            },
        }
    }

    fn candidacy(&mut self) -> Candidacy {
        Candidacy {
            term: self.term(),
            last: self.position(),
            transfer: self.chance(2),
        }
    }

    fn append(&mut self) -> Append {
        let previous = self.position();
        Append {
            term: self.term(),
            previous,
            entries: self.entries(previous.index.next()),
            commit: self.index(),
            kept_from: self.index(),
            round: self.number(1),
        }
    }

    fn append_reply(&mut self) -> AppendReply {
        AppendReply {
            term: self.term(),
            round: self.number(1),
            outcome: if self.chance(2) {
                AppendOutcome::Matched(self.index())
            } else {
                AppendOutcome::Conflict {
                    refused: self.index(),
                    hint: self.position(),
                    catching_up: self.chance(2),
                }
            },
        }
    }

    fn vote(&mut self, term: Term, pre: bool) -> Message {
        Message::VoteReply {
            term,
            seen: if self.chance(4) {
                self.term()
            } else {
                Term::ZERO
            },
            pre,
            verdict: match self.script.below(4) {
                0 => Verdict::Refused,
                1 => Verdict::Abstained,
                _ => Verdict::Granted,
            },
        }
    }

    /// The chunks of the snapshot that is made up for a position. Sessions and state follow from it alone, so
    /// that its chunks can be told when they are asked for.
    fn chunks(&self, position: Position) -> Vec<Bytes> {
        let edge = if position.term.0.is_multiple_of(2) {
            u64::MAX
        } else {
            3
        };
        let session = (
            SessionId(Index(1)),
            Owner {
                member: self.status.me,
                run: self.group.nodes[self.from]
                    .header
                    .map_or(Run::default(), |header| header.1),
            },
            Sequence(edge),
            position.index,
            Vec::<(Index, Option<Bytes>)>::new(),
        );
        let sessions = encode(&vec![session]).expect("numbers can be encoded");
        let mut first = encode(&(edge, 1_u32)).expect("numbers can be encoded");
        first.extend_from_slice(&sessions);
        let state = encode(&(Vec::<u32>::new(), [1_u8; 32])).expect("numbers can be encoded");
        vec![first.into(), state.into()]
    }

    fn manifest(&mut self) -> Manifest {
        let position = self.position();
        let chunks = self.chunks(position);
        let mut digests: Vec<_> = chunks
            .iter()
            .map(|chunk| Digest::of("smalti snapshot chunk", &[chunk]))
            .collect();
        if self.chance(8) {
            digests.rotate_left(1);
        }
        Manifest {
            incarnation: self
                .status
                .incarnation
                .unwrap_or_else(|| self.incarnation()),
            position,
            configuration: self.configuration(),
            configured_at: if self.chance(2) {
                Index(1)
            } else {
                self.index()
            },
            chunks: digests,
        }
    }

    fn chunk(&mut self, position: Position, number: u32) -> Message {
        let chunks = self.chunks(position);
        Message::Chunk {
            position,
            number,
            bytes: chunks
                .get(number as usize)
                .filter(|_| !self.chance(8))
                .cloned(),
        }
    }

    fn fetched(&mut self, first: Index) -> Message {
        if self.chance(4) {
            return Message::Gone {
                first,
                kept_from: self.index(),
                commit: self.index(),
            };
        }
        Message::Fetched {
            first,
            entries: self.entries(first),
            commit: if self.chance(2) {
                Index(u64::MAX)
            } else {
                self.index()
            },
        }
    }

    fn answer(&mut self, asked: &Message) -> Option<Message> {
        let answer = match asked {
            Message::PreVote(candidacy) => self.vote(candidacy.term, true),
            Message::RequestVote(candidacy) => self.vote(candidacy.term, false),
            Message::Append(append) => {
                let end = append
                    .previous
                    .index
                    .0
                    .saturating_add(append.entries.len() as u64);
                Message::AppendReply(AppendReply {
                    term: append.term,
                    round: self.number(append.round),
                    outcome: match self.script.below(4) {
                        0 => self.append_reply().outcome,
                        _ => AppendOutcome::Matched(Index(end)),
                    },
                })
            }
            Message::Forward { .. } | Message::OpenSession { .. } => Message::NotLeader {
                term: self.term(),
                leader: self.chance(2).then(|| self.member()),
            },
            Message::ReadIndex { id } => Message::ReadIndexReply {
                id: self.number(*id),
                index: self.index(),
            },
            Message::Fetch { first, .. } => self.fetched(*first),
            Message::FetchManifest => {
                let manifest = self.manifest();
                Message::Manifest((!self.chance(8)).then(|| Box::new(manifest)))
            }
            Message::FetchChunk { position, number } => self.chunk(*position, *number),
            Message::Invite { round, .. } => Message::Promise { round: *round },
            Message::Leave => Message::Released,
            Message::Promise { .. } => Message::Founding(Box::new(self.charter())),
            Message::Hello(hello) => Message::Hello(Box::new(Hello {
                pong: hello.ping,
                ..self.hello()
            })),
            Message::VoteReply { .. }
            | Message::AppendReply(_)
            | Message::TimeoutNow { .. }
            | Message::NotLeader { .. }
            | Message::ReadIndexReply { .. }
            | Message::Released
            | Message::Fetched { .. }
            | Message::Gone { .. }
            | Message::Manifest(_)
            | Message::Chunk { .. }
            | Message::Founding(_)
            | Message::Meeting(_) => return None,
            Message::Reform(reform) => match &**reform {
                Reform::Ask { of, round, .. } => Message::Reform(Box::new(Reform::Answer {
                    of: *of,
                    round: *round,
                    remains: self.remains(),
                })),
                Reform::Answer { .. } => return None,
            },
        };
        Some(answer)
    }

    fn message(&mut self) -> Message {
        match self.script.below(27) {
            0 => Message::Hello(Box::new(self.hello())),
            1 => Message::PreVote(self.candidacy()),
            2 => Message::RequestVote(self.candidacy()),
            3 => {
                let term = self.term();
                let pre = self.chance(2);
                self.vote(term, pre)
            }
            4..=8 => Message::Append(self.append()),
            9 => Message::AppendReply(self.append_reply()),
            10 => Message::TimeoutNow { term: self.term() },
            11 => Message::Forward {
                batches: (0..self.script.below(4)).map(|_| self.batch()).collect(),
            },
            12 => Message::OpenSession {
                run: Run {
                    boot: self.number(2),
                    id: self.number(1),
                },
            },
            13 => Message::ReadIndex { id: self.number(1) },
            14 => Message::ReadIndexReply {
                id: self.number(1),
                index: self.index(),
            },
            15 => Message::Leave,
            16 => Message::Fetch {
                first: self.index(),
                last: self.index(),
            },
            17 => {
                let first = self.index();
                self.fetched(first)
            }
            18 => Message::FetchManifest,
            19 => Message::Manifest(Some(Box::new(self.manifest()))),
            20 => Message::FetchChunk {
                position: self.position(),
                number: self.number(1) as u32,
            },
            21 => Message::Invite {
                round: self.number(1),
                voters: self.members(),
            },
            22 => Message::Founding(Box::new(self.charter())),
            23 => Message::Meeting(self.meeting()),
            24 => Message::Reform(Box::new(self.reform())),
            25 => Message::Released,
            _ => Message::NotLeader {
                term: self.term(),
                leader: Some(self.member()),
            },
        }
    }
}
