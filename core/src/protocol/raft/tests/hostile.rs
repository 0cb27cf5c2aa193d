//! What a member says that keeps to no rule is refused, and nobody panics over it.

use super::super::replica::testing::List;
use super::super::*;
use super::{hello, machine};
use crate::id::{Digest, Instance, PeerId};
use crate::protocol::Machine;
use crate::time::Instant;

const HOSTILE: PeerId = PeerId::from_bytes([2; 32]);

/// A member that has joined the incarnation of a hostile one, and follows it.
struct Victim {
    machine: Raft<List>,
}

impl Victim {
    fn new() -> Self {
        let mut victim = Self { machine: machine() };
        victim.handle(Input::Bonded(HOSTILE));
        victim.hear(Message::Hello(Box::new(hello())));
        assert!(victim.machine.status().incarnation.is_some());
        victim
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(Instant::ZERO, input);
        let outputs = std::iter::from_fn(|| self.machine.poll_output());
        outputs.collect()
    }

    /// Gives what it answers.
    fn hear(&mut self, message: Message) -> Vec<Message> {
        let envelope = Envelope {
            from: Instance::from_bytes([2; 16]),
            run: Run::default(),
            to: Some(self.machine.status().me.instance),
            incarnation: Some(Incarnation(Digest::of("hostile", &[]))),
            message,
        };
        let outputs = self.handle(Input::Message(HOSTILE, envelope));
        let said = outputs.into_iter().filter_map(|output| match output {
            Output::Send(_, envelope) => Some(envelope.message),
            _ => None,
        });
        said.collect()
    }

    /// Gives whether it answers.
    fn append(&mut self, previous: Position, entries: Vec<Entry>, commit: u64) -> bool {
        let append = Message::Append(Append {
            term: Term(9),
            previous,
            entries,
            commit: Index(commit),
            kept_from: Index(1),
            round: 1,
        });
        let answers = self.hear(append);
        let mut answers = answers.iter();
        answers.any(|answer| matches!(answer, Message::AppendReply(_)))
    }
}

fn position(index: u64, term: u64) -> Position {
    Position {
        term: Term(term),
        index: Index(index),
    }
}

fn blank(index: u64, term: u64) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        payload: Payload::Blank,
    }
}

#[test]
fn an_append_beyond_the_last_index_is_refused() {
    let mut victim = Victim::new();
    assert!(!victim.append(position(u64::MAX, 9), vec![blank(0, 9)], u64::MAX));
    assert_eq!(victim.machine.status().last, Position::ZERO);
}

#[test]
fn an_append_that_contradicts_what_is_committed_is_refused() {
    let mut victim = Victim::new();
    assert!(victim.append(Position::ZERO, vec![blank(1, 1), blank(2, 1)], 2));
    assert_eq!(victim.machine.status().commit, Index(2));
    assert!(!victim.append(position(1, 1), vec![blank(2, 5)], 2));
    assert_eq!(victim.machine.status().last, position(2, 1));
}
