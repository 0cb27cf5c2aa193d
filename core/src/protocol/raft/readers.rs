//! What is heard of members that may only read.
//!
//! In a group with a [write verifier](crate::protocol::groups::WriteVerifier) some members have not proved that they may
//! write. They may be anybody who knows the group's key, so nothing of the group may rest on what they say: they get all that
//! a member gets, and of what they say only that is heard which concerns them alone. Nor does an honest one say anything
//! else, so that whoever does is shut out.

use super::config::LeadershipPreference;
use super::core::Core;
use super::hello::Peer;
use super::messages::{Hello, Message};
use super::types::{Index, Member};

/// Whether a member that may only read says such a thing.
pub(super) const fn may_say(message: &Message) -> bool {
    match message {
        // Who it is.
        Message::Hello(_) => true,
        // How far it has come, by which it is sent what comes next: only those of voters count for anything else.
        Message::AppendReply(_) => true,
        // It wants to read, or lacks something.
        Message::ReadIndex { .. }
        | Message::Fetch { .. }
        | Message::FetchManifest
        | Message::FetchChunk { .. } => true,
        // It was a voter, and no longer wants to be one.
        Message::Leave => true,
        // Commands.
        Message::Forward { .. } | Message::OpenSession { .. } => false,
        // Who leads.
        Message::PreVote(_)
        | Message::RequestVote(_)
        | Message::VoteReply { .. }
        | Message::TimeoutNow { .. }
        | Message::NotLeader { .. }
        | Message::Released => false,
        // What the log is, and the state.
        Message::Append(_)
        | Message::ReadIndexReply { .. }
        | Message::Fetched { .. }
        | Message::Gone { .. }
        | Message::Manifest(_)
        | Message::Chunk { .. } => false,
        // Which incarnations there are, and what becomes of them.
        Message::Invite { .. }
        | Message::Promise { .. }
        | Message::Founding(_)
        | Message::Meeting(_)
        | Message::Reform(_) => false,
    }
}

/// What is heard of a message of a member that may only read; `None` where it is not for it to say.
pub(super) fn heard(message: Message) -> Option<Message> {
    match message {
        Message::Hello(hello) => Some(Message::Hello(Box::new(of_itself(&hello)))),
        message => may_say(&message).then_some(message),
    }
}

/// What a hello says of its sender alone. That it never votes is so whatever it says; and what it says of the group could send
/// members to an incarnation that does not exist, or keep them from one that does.
const fn of_itself(hello: &Hello) -> Hello {
    Hello {
        preference: LeadershipPreference::Observer,
        ping: hello.ping,
        pong: hello.pong,
        awaits_answer: hello.awaits_answer,
        runs: hello.runs,
        recovered: hello.recovered,
        leader: None,
        commit: Index::ZERO,
        left: None,
        sealed: None,
        succeeds: None,
    }
}

impl Core {
    /// The members of our incarnation that there is a bond with and that may write: all others that anything rests on.
    pub(super) fn bonded_writers(&self) -> impl Iterator<Item = (Member, &Peer)> {
        self.bonded_members().filter(|(_, peer)| peer.may_write)
    }

    /// Whether anything may rest on what a bonded peer has promised in this life. Of one that may only read nothing does, unless it
    /// was a voter before: nothing is to be found out about it, and nobody else to be asked for its sake, which it could have
    /// done without end.
    pub(super) fn may_have_promised(&self, member: &Member) -> bool {
        let peer = self.peers.get(&member.peer);
        peer.is_some_and(|peer| peer.may_write) || self.configuration().is_voter(member)
    }
}
