//! A member's machine and its driver, which remembers what it has handed over since it last took outputs.

use std::ops::Deref;
use std::time::Duration;

use smalti_core::id::{Instance, PeerId};
use smalti_core::protocol::Machine;
use smalti_core::protocol::raft::{
    AppendOutcome, Envelope, Incarnation, Index, Input, Member, Message, Output, Raft, ReadId, Run,
    Term, Verdict,
};
use smalti_core::time::Instant;

use super::registers::Registers;

/// A machine and its driver.
pub(super) struct Driven {
    raft: Raft<Registers>,
    /// How long inputs are collected before outputs are taken; zero: after each input.
    collects: Duration,
    /// When outputs are taken of what was handed over.
    until: Option<Instant>,
    heard: Vec<Heard>,
    /// Whether the machine was told of a time since outputs were last taken.
    is_timed: bool,
    is_drained: bool,
}

/// What a machine was handed, as far as its promises rest on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heard {
    /// A bond was made or has ended.
    Bond(PeerId),
    Message(Letter),
    Read(ReadId),
    Other,
}

/// Who said what to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    pub(super) from: Member,
    pub(super) run: Run,
    pub(super) to: Option<Instance>,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) said: Said,
}

/// The gist of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    Hello,
    /// Something between candidates for a founding, or between two incarnations.
    Founding,
    /// Something of a snapshot.
    Snapshot,
    /// A vote was granted.
    Vote {
        term: Term,
        pre: bool,
    },
    Followed {
        term: Term,
        round: u64,
        matched: Option<Index>,
    },
    ReadIndex(u64),
    Other,
}

impl Driven {
    pub(super) const fn new(raft: Raft<Registers>, collects: Duration) -> Self {
        Self {
            raft,
            collects,
            until: None,
            heard: Vec::new(),
            is_timed: false,
            is_drained: true,
        }
    }

    /// Whether something was handed over of which the outputs have not been taken.
    pub(super) const fn is_collecting(&self) -> bool {
        self.until.is_some()
    }

    /// What was handed over, in order, before the outputs that were taken last.
    pub(super) fn heard(&self) -> &[Heard] {
        &self.heard
    }

    /// The one thing that was handed over, where there was no other and no time had come.
    pub(super) fn heard_alone(&self) -> Option<&Heard> {
        match &self.heard[..] {
            [heard] if !self.is_timed => Some(heard),
            _ => None,
        }
    }

    fn begin(&mut self) {
        if std::mem::take(&mut self.is_drained) {
            self.heard.clear();
            self.is_timed = false;
        }
    }
}

impl Deref for Driven {
    type Target = Raft<Registers>;

    fn deref(&self) -> &Raft<Registers> {
        &self.raft
    }
}

fn gist(input: &Input) -> Heard {
    match input {
        Input::Bonded(peer) | Input::BondedReader(peer) | Input::Unbonded(peer) => {
            Heard::Bond(*peer)
        }
        Input::Message(peer, envelope) => Heard::Message(letter(*peer, envelope)),
        Input::Read(read) => Heard::Read(*read),
        _ => Heard::Other,
    }
}

fn letter(peer: PeerId, envelope: &Envelope) -> Letter {
    let said = match &envelope.message {
        Message::Hello(_) => Said::Hello,
        Message::Invite { .. }
        | Message::Promise { .. }
        | Message::Founding(_)
        | Message::Meeting(_)
        | Message::Reform(_) => Said::Founding,
        // Whoever goes over to an incarnation that was reformed from its own fetches its snapshot first.
        Message::FetchManifest
        | Message::Manifest(_)
        | Message::FetchChunk { .. }
        | Message::Chunk { .. } => Said::Snapshot,
        Message::VoteReply {
            term,
            pre,
            verdict: Verdict::Granted,
            ..
        } => Said::Vote {
            term: *term,
            pre: *pre,
        },
        Message::AppendReply(reply) => Said::Followed {
            term: reply.term,
            round: reply.round,
            matched: match reply.outcome {
                AppendOutcome::Matched(index) => Some(index),
                AppendOutcome::Conflict { .. } => None,
            },
        },
        Message::ReadIndex { id } => Said::ReadIndex(*id),
        _ => Said::Other,
    };
    Letter {
        from: Member {
            peer,
            instance: envelope.from,
        },
        run: envelope.run,
        to: envelope.to,
        incarnation: envelope.incarnation,
        said,
    }
}

impl Machine for Driven {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        self.begin();
        self.heard.push(gist(&input));
        self.raft.handle(now, input);
        if !self.collects.is_zero() && self.until.is_none() {
            self.until = Some(now + self.collects);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.begin();
        self.until = None;
        if self.raft.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.is_timed = true;
            self.raft.handle_timeout(now);
        }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.until {
            Some(until) => Some((until, "outputs")),
            None => self.raft.poll_timeout(),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        if self.until.is_some() {
            return None;
        }
        let output = self.raft.poll_output();
        self.is_drained |= output.is_none();
        output
    }

    fn check_invariants(&self) {
        self.raft.check_invariants();
    }
}

#[cfg(test)]
mod tests {
    use smalti_core::id::GroupId;
    use smalti_core::protocol::raft::{Config, Identity, LeadershipPreference};
    use smalti_core::unique_id;
    use smalti_sim::NodeIndex;
    use smalti_sim::rng::Streams;

    use super::super::peers::peer;
    use super::*;

    const GROUP: GroupId = unique_id!("raft scenarios: a driver");

    fn driven(collects: Duration) -> Driven {
        let identity = Identity {
            group: GROUP,
            peer: peer(NodeIndex(0)),
            preference: LeadershipPreference::Normal,
        };
        let registers = Registers::new(true, 64);
        let rng = Streams::new(1).stream("raft");
        let config = Config::default();
        let raft = Raft::new(Instant::ZERO, identity, config, None, registers, rng).unwrap();
        let mut driven = Driven::new(raft, collects);
        while driven.poll_output().is_some() {}
        driven
    }

    #[test]
    fn outputs_are_taken_once_inputs_were_collected_for_so_long() {
        let collects = Duration::from_millis(3);
        let mut driven = driven(collects);
        let others = [1, 2].map(|node| peer(NodeIndex(node)));
        for other in others {
            driven.handle(Instant::ZERO, Input::Bonded(other));
            assert!(driven.is_collecting() && driven.poll_output().is_none());
        }
        let due = driven.poll_timeout().map(|(at, _)| at);
        assert_eq!(due, Some(Instant::ZERO + collects));
        driven.handle_timeout(Instant::ZERO + collects);
        let mut sent = Vec::new();
        while let Some(output) = driven.poll_output() {
            if let Output::Send(to, _) = output {
                sent.push(to);
            }
        }
        sent.sort_unstable();
        let mut expected = others.to_vec();
        expected.sort_unstable();
        assert_eq!(sent, expected, "each is told who it is");
        assert_eq!(driven.heard().len(), 2);
        assert!(!driven.is_collecting() && driven.heard_alone().is_none());
    }

    #[test]
    fn what_was_heard_is_that_since_outputs_were_last_taken() {
        let mut driven = driven(Duration::ZERO);
        driven.handle(Instant::ZERO, Input::Bonded(peer(NodeIndex(1))));
        while driven.poll_output().is_some() {}
        driven.handle(Instant::ZERO, Input::Read(ReadId(7)));
        while driven.poll_output().is_some() {}
        assert!(matches!(driven.heard_alone(), Some(Heard::Read(ReadId(7)))));
    }
}
