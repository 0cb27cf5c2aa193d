//! Of a member that may only read nothing is heard but what concerns it alone.

use bytes::Bytes;

use super::super::readers;
use super::super::replica::testing::List;
use super::super::*;
use super::{hello, machine};
use crate::id::{Digest, GroupId, Instance, PeerId};
use crate::protocol::Machine;
use crate::time::{Duration, Instant};

const READER: PeerId = PeerId::from_bytes([2; 32]);
const WRITER: PeerId = PeerId::from_bytes([3; 32]);
const ELSEWHERE: Incarnation = Incarnation(Digest::from_bytes([9; 32]));

/// A member, and what it does when a peer speaks that may only read.
struct Case {
    machine: Raft<List>,
    now: Instant,
}

impl Case {
    /// A member that has founded the group alone, beside a reader.
    fn leader() -> Self {
        let mut case = Self::new(false);
        case.introduce(READER, hello());
        case.pass(Duration::from_secs(20));
        assert_eq!(case.machine.status().role, Role::Leader);
        let ping = 2;
        case.introduce(READER, Hello { ping, ..hello() });
        case
    }

    fn new(reads: bool) -> Self {
        let machine = machine();
        let mut case = Self {
            machine: if reads {
                machine.reading_only()
            } else {
                machine
            },
            now: Instant::ZERO,
        };
        case.handle(Input::BondedReader(READER));
        case
    }

    fn introduce(&mut self, peer: PeerId, hello: Hello) {
        let ours = self.machine.status().incarnation;
        self.introduce_in(peer, hello, ours);
    }

    fn introduce_in(&mut self, peer: PeerId, hello: Hello, incarnation: Option<Incarnation>) {
        let hello = Message::Hello(Box::new(hello));
        self.hear_in(peer, hello, incarnation);
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        let outputs = std::iter::from_fn(|| self.machine.poll_output()).collect();
        self.machine.check_invariants();
        outputs
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now + time;
        let mut outputs = Vec::new();
        while let Some((at, _)) = self.machine.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            outputs.extend(self.outputs());
        }
        self.now = until;
        outputs
    }

    fn hear(&mut self, peer: PeerId, message: Message) -> Vec<Output> {
        let ours = self.machine.status().incarnation;
        self.hear_in(peer, message, ours)
    }

    fn hear_in(
        &mut self,
        peer: PeerId,
        message: Message,
        incarnation: Option<Incarnation>,
    ) -> Vec<Output> {
        let envelope = Envelope {
            from: instance(peer),
            run: Run::default(),
            to: Some(self.machine.status().me.instance),
            incarnation,
            message,
        };
        self.handle(Input::Message(peer, envelope))
    }

    /// All that a member is, as far as others can see.
    fn shown(&self) -> String {
        let status = self.machine.status();
        format!("{status:?} {:?}", self.machine.state())
    }
}

fn instance(peer: PeerId) -> Instance {
    Instance::from_bytes([peer.as_bytes()[0]; 16])
}

fn member(peer: PeerId) -> Member {
    Member {
        peer,
        instance: instance(peer),
    }
}

fn position(index: u64, term: u64) -> Position {
    Position {
        term: Term(term),
        index: Index(index),
    }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        payload: Payload::Blank,
    }
}

/// One of each that is not for readers to say, as such a one would choose it.
fn not_for_readers(victim: &Status<'_>) -> Vec<Message> {
    let (term, last) = (victim.term.next(), victim.last.index);
    let candidacy = Candidacy {
        term,
        last: position(last.0 + 100, term.0),
        transfer: true,
    };
    let ours = victim.incarnation.unwrap();
    let manifest = Manifest {
        incarnation: ours,
        position: position(last.0 + 100, term.0),
        configured_at: Index(1),
        configuration: Configuration::default(),
        chunks: Vec::new(),
    };
    let remains = Remains {
        goes_on: false,
        has_gone_over: true,
        sealed: Some(seal(ours)),
        part: None,
        knows: Vec::new(),
        set_back: vec![victim.me],
    };
    let offer = Offer {
        from: ELSEWHERE,
        to: ours,
        at: position(2, 1),
        weight: Weight {
            is_established: true,
            commands: u64::MAX,
        },
    };
    vec![
        Message::PreVote(candidacy),
        Message::RequestVote(candidacy),
        Message::VoteReply {
            term,
            seen: Term(1_000),
            pre: false,
            verdict: Verdict::Granted,
        },
        Message::TimeoutNow { term: victim.term },
        Message::NotLeader {
            term: victim.term,
            leader: None,
        },
        Message::Append(Append {
            term,
            previous: victim.last,
            entries: vec![entry(last.0 + 1, term.0)],
            commit: last.next(),
            kept_from: Index(1),
            round: 1,
        }),
        Message::Forward {
            batches: Vec::new(),
        },
        Message::OpenSession {
            run: Run::default(),
        },
        Message::ReadIndexReply {
            id: 0,
            index: Index::ZERO,
        },
        Message::Fetched {
            first: last.next(),
            entries: vec![entry(last.0 + 1, term.0)],
            commit: last.next(),
        },
        Message::Gone {
            first: last,
            kept_from: Index(u64::MAX),
            commit: Index(u64::MAX),
        },
        Message::Manifest(Some(Box::new(manifest))),
        Message::Chunk {
            position: victim.last,
            number: 0,
            bytes: Some(Bytes::from_static(b"anything")),
        },
        Message::Invite {
            round: 1,
            voters: vec![victim.me, member(READER)],
        },
        Message::Promise { round: 1 },
        Message::Founding(Box::new(Charter {
            group: GroupId::from("test"),
            nonce: [1; 32],
            founder: member(READER),
            voters: vec![victim.me, member(READER)],
            expected: 0,
            parent: None,
        })),
        Message::Meeting(Meeting::Greet),
        Message::Meeting(Meeting::Ready),
        Message::Meeting(Meeting::Offer(offer)),
        Message::Meeting(Meeting::Decided {
            from: ours,
            by: ELSEWHERE,
            offer: position(2, 1),
            absorbs: true,
        }),
        Message::Reform(Box::new(Reform::Ask {
            of: ours,
            round: 1,
            floor: Position::ZERO,
            is_ordered: true,
            pledge: None,
        })),
        Message::Reform(Box::new(Reform::Answer {
            of: ours,
            round: 1,
            remains,
        })),
    ]
}

fn seal(incarnation: Incarnation) -> Seal {
    Seal {
        incarnation,
        into: ELSEWHERE,
        at: position(1_000, 1),
        commands: 1_000,
    }
}

#[test]
fn whatever_only_writers_say_changes_nothing_and_ends_the_bond() {
    let mut case = Case::leader();
    let before = case.shown();
    for message in not_for_readers(&case.machine.status()) {
        for of in [case.machine.status().incarnation, Some(ELSEWHERE), None] {
            let outputs = case.hear_in(READER, message.clone(), of);
            assert!(
                matches!(outputs[..], [Output::Overstepped(READER)]),
                "{message:?}: {outputs:?}"
            );
            assert_eq!(case.shown(), before, "{message:?}");
        }
    }
}

#[test]
fn what_only_writers_say_is_never_said_by_a_reader() {
    let mut case = Case::leader();
    for message in not_for_readers(&case.machine.status()) {
        assert!(!readers::may_say(&message), "{message:?}");
    }
    // As a reader it is asked for all that a member says without being asked, and would answer as a writer.
    case = Case::new(true);
    case.handle(Input::Bonded(WRITER));
    case.introduce_in(WRITER, hello(), Some(ELSEWHERE));
    let mut said = Vec::new();
    for message in not_for_readers(&case.machine.status()) {
        said.extend(case.hear(WRITER, message));
    }
    case.handle(Input::Read(ReadId(1)));
    case.handle(Input::Reform);
    case.handle(Input::TransferLeadership);
    said.extend(case.pass(Duration::from_secs(60)));
    let mut kinds = 0;
    for output in said {
        if let Output::Send(_, envelope) = output {
            kinds += 1;
            assert!(readers::may_say(&envelope.message), "{envelope:?}");
        }
    }
    assert!(kinds > 10, "{kinds} messages");
}

#[test]
fn a_reader_is_served_and_its_word_on_terms_does_not_count() {
    let mut case = Case::leader();
    let (term, last) = (case.machine.status().term, case.machine.status().last);
    let answers = |outputs: Vec<Output>| -> Vec<Message> {
        let sent = outputs.into_iter().map(|output| match output {
            Output::Send(READER, envelope) => envelope.message,
            other => panic!("{other:?}"),
        });
        sent.collect()
    };
    let said = case.hear(READER, Message::FetchManifest);
    assert_eq!(answers(said), [Message::Manifest(None)]);
    let (first, until) = (Index(1), last.index);
    let said = case.hear(READER, Message::Fetch { first, last: until });
    assert!(
        matches!(&answers(said)[..], [Message::Fetched { entries, .. }] if !entries.is_empty())
    );
    let said = case.hear(READER, Message::ReadIndex { id: 7 });
    let is_answer = |message: &Message| matches!(message, Message::ReadIndexReply { id: 7, .. });
    assert!(answers(said).iter().any(is_answer));
    let position = last;
    let said = case.hear(
        READER,
        Message::FetchChunk {
            position,
            number: 0,
        },
    );
    assert!(matches!(
        answers(said)[..],
        [Message::Chunk { bytes: None, .. }]
    ));
    assert_eq!(
        answers(case.hear(READER, Message::Leave)),
        [Message::Released]
    );
    // A writer with such a term would depose the leader.
    let reply = Message::AppendReply(AppendReply {
        term: Term(1_000),
        round: 1,
        outcome: AppendOutcome::Matched(Index(1_000)),
    });
    answers(case.hear(READER, reply));
    let status = case.machine.status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
}

#[test]
fn what_a_reader_says_of_the_group_sends_nobody_anywhere() {
    let mut case = Case::leader();
    let ours = case.machine.status().incarnation.unwrap();
    let before = case.shown();
    let mut lie = Hello {
        ping: 3,
        commit: Index(1_000),
        left: Some(ours),
        sealed: Some(seal(ours)),
        succeeds: Some(ours),
        ..hello()
    };
    case.introduce_in(READER, lie, Some(ELSEWHERE));
    assert_eq!(case.shown(), before);
    // Nor is it ever a voter, whatever it says that it wants.
    lie.ping = 4;
    case.introduce(READER, lie);
    for round in 0..100 {
        let status = case.machine.status();
        let reply = Message::AppendReply(AppendReply {
            term: status.term,
            round,
            outcome: AppendOutcome::Matched(status.last.index),
        });
        case.hear(READER, reply);
        case.pass(Duration::from_millis(500));
    }
    assert_eq!(case.machine.status().configuration.voters.len(), 1);

    // A candidate neither joins what a reader speaks of, nor waits for it.
    let mut case = Case::new(false);
    lie.left = None;
    case.introduce_in(READER, lie, Some(ELSEWHERE));
    assert_eq!(case.machine.status().incarnation, None);
    case.pass(Config::default().bootstrap_delay);
    let joined = case.machine.status().incarnation;
    assert!(joined.is_some_and(|joined| joined != ELSEWHERE));
    // But what a writer speaks of.
    let mut case = Case::new(false);
    case.handle(Input::Bonded(WRITER));
    case.introduce_in(WRITER, hello(), Some(ELSEWHERE));
    assert_eq!(case.machine.status().incarnation, Some(ELSEWHERE));
}

#[test]
fn a_reader_leaves_room_for_the_reads_of_others_and_asks_nobody_else_anything() {
    let mut case = Case::leader();
    // In one turn: answered once a round has confirmed them.
    let me = case.machine.status().me.instance;
    let incarnation = case.machine.status().incarnation;
    let envelope = |message| Envelope {
        from: instance(READER),
        run: Run::default(),
        to: Some(me),
        incarnation,
        message,
    };
    for id in 0..100_000 {
        let message = Message::ReadIndex { id };
        let input = Input::Message(READER, envelope(message));
        case.machine.handle(case.now, input);
    }
    let outputs = case.handle(Input::Read(ReadId(1)));
    let is_answered = |output: &Output| matches!(output, Output::ReadReady(ReadId(1), _));
    assert!(outputs.iter().any(is_answered), "{} outputs", outputs.len());
    let answers = outputs.iter().filter(|output| {
        let Output::Send(_, envelope) = output else {
            return false;
        };
        matches!(envelope.message, Message::ReadIndexReply { .. })
    });
    assert_eq!(answers.count(), 32_768);
    // All are forgotten when they are answered.
    let said = case.hear(READER, Message::ReadIndex { id: 1 });
    let is_reply = |output: &Output| match output {
        Output::Send(_, envelope) => matches!(envelope.message, Message::ReadIndexReply { .. }),
        _ => false,
    };
    assert!(said.iter().any(is_reply));

    // Whatever becomes of it, only it is asked.
    case.handle(Input::Bonded(WRITER));
    case.introduce(WRITER, hello());
    case.pass(Duration::from_secs(1));
    for life in 10..200 {
        let envelope = Envelope {
            from: Instance::from_bytes([life / 2; 16]),
            run: Run {
                boot: 0,
                id: u64::from(life),
            },
            ..envelope(Message::Hello(Box::new(hello())))
        };
        for output in case.handle(Input::Message(READER, envelope)) {
            if let Output::Send(peer, envelope) = output
                && matches!(envelope.message, Message::Hello(_))
            {
                assert_eq!(peer, READER);
            }
        }
    }
}
