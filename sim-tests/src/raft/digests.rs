//! Inputs and entries as numbers, without their text.

use std::hash::{Hash, Hasher};

use smalti_core::protocol::raft::{
    AppendOutcome, Batch, Candidacy, Commands, Configuration, Entry, Envelope, Input, Manifest,
    Meeting, Message, Payload,
};
use smalti_sim::trace::{TraceHasher, digest};

/// The digest of an input for the trace.
pub(super) fn of_input(input: &Input) -> u64 {
    match input {
        Input::Bonded(peer) => digest(&(1u8, peer)),
        Input::Unbonded(peer) => digest(&(2u8, peer)),
        Input::Message(peer, envelope) => digest(&(3u8, peer, of_envelope(envelope))),
        Input::Persisted(write) => digest(&(4u8, write.0)),
        Input::PersistFailed(_) => digest(&5u8),
        Input::Surroundings(around) => digest(&(6u8, around.is_founded, around.incomplete)),
        Input::Execute(call, command) => digest(&(7u8, call.0, &command[..])),
        Input::ExecuteMany(first, all) => {
            let mut hasher = TraceHasher::new();
            (13u8, first.0).hash(&mut hasher);
            commands(all, &mut hasher);
            hasher.finish()
        }
        Input::GiveUp(call) => digest(&(8u8, call.0)),
        Input::Read(read) => digest(&(9u8, read.0)),
        Input::TransferLeadership => digest(&10u8),
        Input::Leave => digest(&11u8),
        Input::Reform => digest(&12u8),
        Input::BondedReader(peer) => digest(&(14u8, peer)),
    }
}

fn of_envelope(envelope: &Envelope) -> u64 {
    let mut hasher = TraceHasher::new();
    (envelope.from, envelope.run, envelope.to).hash(&mut hasher);
    envelope.incarnation.hash(&mut hasher);
    message(&envelope.message, &mut hasher);
    hasher.finish()
}

fn message(message: &Message, to: &mut TraceHasher) {
    std::mem::discriminant(message).hash(to);
    match message {
        Message::Hello(hello) => {
            (hello.ping, hello.pong, hello.recovered).hash(to);
            (hello.leader, hello.commit, hello.sealed).hash(to);
        }
        Message::PreVote(candidacy) | Message::RequestVote(candidacy) => {
            self::candidacy(candidacy, to);
        }
        Message::VoteReply {
            term,
            seen,
            pre,
            verdict,
        } => (term, seen, pre, *verdict as u8).hash(to),
        Message::Append(append) => {
            (append.term, append.previous, append.commit).hash(to);
            (append.kept_from, append.round).hash(to);
            entries(&append.entries, to);
        }
        Message::AppendReply(reply) => {
            (reply.term, reply.round).hash(to);
            match reply.outcome {
                AppendOutcome::Matched(index) => (0u8, index).hash(to),
                AppendOutcome::Conflict {
                    refused,
                    hint,
                    catching_up,
                } => (1u8, refused, hint, catching_up).hash(to),
            }
        }
        Message::TimeoutNow { term } => term.hash(to),
        Message::Forward { batches } => batches.iter().for_each(|batch| self::batch(batch, to)),
        Message::OpenSession { run } => run.hash(to),
        Message::Leave | Message::Released | Message::FetchManifest => {}
        Message::NotLeader { term, leader } => (term, leader).hash(to),
        Message::ReadIndex { id } => id.hash(to),
        Message::ReadIndexReply { id, index } => (id, index).hash(to),
        Message::Fetch { first, last } => (first, last).hash(to),
        Message::Fetched {
            first,
            entries,
            commit,
        } => {
            (first, commit).hash(to);
            self::entries(entries, to);
        }
        Message::Gone {
            first,
            kept_from,
            commit,
        } => (first, kept_from, commit).hash(to),
        Message::Manifest(manifest) => {
            if let Some(manifest) = manifest {
                self::manifest(manifest, to);
            }
        }
        Message::FetchChunk { position, number } => (position, number).hash(to),
        Message::Chunk {
            position,
            number,
            bytes,
        } => (position, number, bytes).hash(to),
        Message::Invite { round, voters } => (round, voters).hash(to),
        Message::Promise { round } => round.hash(to),
        Message::Founding(charter) => (charter.nonce, charter.founder, &charter.voters).hash(to),
        Message::Meeting(meeting) => self::meeting(meeting, to),
        Message::Reform(reform) => reform.hash(to),
    }
}

fn meeting(meeting: &Meeting, to: &mut TraceHasher) {
    std::mem::discriminant(meeting).hash(to);
    match meeting {
        Meeting::Greet | Meeting::Ready => {}
        Meeting::Offer(offer) => offer.hash(to),
        Meeting::Decided {
            from,
            by,
            offer,
            absorbs,
        } => (from, by, offer, absorbs).hash(to),
    }
}

fn candidacy(candidacy: &Candidacy, to: &mut TraceHasher) {
    (candidacy.term, candidacy.last, candidacy.transfer).hash(to);
}

fn manifest(manifest: &Manifest, to: &mut TraceHasher) {
    (manifest.incarnation, manifest.position).hash(to);
    manifest
        .chunks
        .iter()
        .for_each(|chunk| chunk.as_bytes().hash(to));
}

fn entries(entries: &[Entry], to: &mut TraceHasher) {
    for entry in entries {
        (entry.term, entry.index).hash(to);
        payload(&entry.payload, to);
    }
}

fn batch(batch: &Batch, to: &mut TraceHasher) {
    (batch.session, batch.first, batch.acked_through).hash(to);
    commands(&batch.commands, to);
}

fn commands(commands: &Commands, to: &mut TraceHasher) {
    for command in commands.iter() {
        match command {
            Some(bytes) => to.write(bytes),
            None => to.write_u8(0),
        }
    }
}

fn configuration(configuration: &Configuration, to: &mut TraceHasher) {
    configuration.voters.hash(to);
    configuration.demotions.hash(to);
}

fn payload(payload: &Payload, to: &mut TraceHasher) {
    std::mem::discriminant(payload).hash(to);
    match payload {
        Payload::Founding(charter) => {
            (charter.nonce, charter.founder, &charter.voters).hash(to);
            (charter.expected, charter.parent).hash(to);
        }
        Payload::Blank | Payload::SnapshotPoint => {}
        Payload::Frozen { to: other } => other.hash(to),
        Payload::Decided { offer } => offer.hash(to),
        Payload::Sealed { into, offer } => (into, offer).hash(to),
        Payload::Thawed { offer } => offer.hash(to),
        Payload::Configuration(configuration) => self::configuration(configuration, to),
        Payload::Open(owner) => owner.hash(to),
        Payload::Commands(batch) => self::batch(batch, to),
    }
}

/// The digest of what an entry says, and of its term.
pub(super) fn of_entry(entry: &Entry) -> u64 {
    let mut hasher = TraceHasher::new();
    entry.term.hash(&mut hasher);
    payload(&entry.payload, &mut hasher);
    hasher.finish()
}

/// The digest of what a snapshot covers, and of its parts.
pub(super) fn of_manifest(it: &Manifest) -> u64 {
    let mut hasher = TraceHasher::new();
    manifest(it, &mut hasher);
    configuration(&it.configuration, &mut hasher);
    it.configured_at.hash(&mut hasher);
    hasher.finish()
}

/// About as many bytes as a message takes on the wire.
pub(super) fn len_of(envelope: &Envelope) -> usize {
    const FIXED: usize = 80;
    let sum = |entries: &[Entry]| entries.iter().map(Entry::size).sum::<usize>();
    FIXED
        + match &envelope.message {
            Message::Append(append) => sum(&append.entries),
            Message::Fetched { entries, .. } => sum(entries),
            Message::Forward { batches } => {
                batches.iter().map(|batch| batch.commands.len_bytes()).sum()
            }
            Message::Chunk { bytes, .. } => bytes.as_ref().map_or(0, bytes::Bytes::len),
            _ => 0,
        }
}
