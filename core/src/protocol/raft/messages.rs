//! What members say to each other.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::LeadershipPreference;
use super::entry::{Batch, Entry};
use super::remains::Remains;
use super::standing::{Offer, Seal};
use super::store::Manifest;
use super::types::{Charter, Incarnation, Index, Member, Position, Run, Runs, Term};
use crate::id::{Digest, Instance, PeerId};

/// A message and between whom it goes: a peer's messages may still be on their way when it, or the
/// addressee, has begun another life, and the group as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The life of the sender. The peer itself is known from the bond.
    pub from: Instance,
    /// The run of the sender. What an earlier one has sent is dropped.
    pub run: Run,
    /// The life of the addressee that the message is meant for. `None` only in a [`Message::Hello`] of a
    /// sender that has heard nothing of the addressee yet.
    pub to: Option<Instance>,
    /// The incarnation that the sender belongs to; `None` for a candidate.
    pub incarnation: Option<Incarnation>,
    /// What it says.
    pub message: Message,
}

/// What is said. Unless noted, a message of another incarnation or for another instance is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who the sender is. Sent when a bond is made, when something in it has changed, and again until
    /// the addressee is known to have heard it. Processed whatever its incarnation.
    Hello(Box<Hello>),
    /// Whether the addressee would vote for the sender, who changes nothing yet (Ongaro 2014, section
    /// 9.6).
    PreVote(Candidacy),
    /// Asks for a vote.
    RequestVote(Candidacy),
    /// The answer to either.
    VoteReply {
        /// The term of the candidacy, as asked.
        term: Term,
        /// The term that the voter has seen.
        seen: Term,
        /// Whether it answers a `PreVote`.
        pre: bool,
        /// The answer.
        verdict: Verdict,
    },
    /// Entries, or a sign of life.
    Append(Append),
    /// The answer.
    AppendReply(AppendReply),
    /// The addressee is to stand for election at once (Ongaro 2014, section 3.10).
    TimeoutNow {
        /// The leader's term; void in any other.
        term: Term,
    },
    /// Commands of the sender's session, for the leader.
    Forward {
        /// Batches in the order of their sequence.
        batches: Vec<Batch>,
    },
    /// The leader is to open a session for this run of the sender.
    OpenSession {
        /// For which run of the sender: the one that it is in, as it is called among its sessions.
        run: Run,
    },
    /// What came for a leader came to somebody else, or to a leader that is handing over.
    NotLeader {
        /// The term that the sender has seen.
        term: Term,
        /// The leader it knows of.
        leader: Option<Member>,
    },
    /// Asks the leader for an index that a read sent now must have seen.
    ReadIndex {
        /// Given back in the reply.
        id: u64,
    },
    /// The index.
    ReadIndexReply {
        /// As asked.
        id: u64,
        /// All that was acknowledged before the request lies at or below.
        index: Index,
    },
    /// The sender leaves for good: it is to vote no longer, and to be made no voter.
    Leave,
    /// Asks for committed entries.
    Fetch {
        /// The first.
        first: Index,
        /// The last.
        last: Index,
    },
    /// Committed entries, in order; fewer than asked for where they are too large or not committed.
    Fetched {
        /// The first that was asked for.
        first: Index,
        /// What the source has of them, from the first on.
        entries: Vec<Entry>,
        /// How far the source knows the log to be committed.
        commit: Index,
    },
    /// The entries asked for are no longer there, or not yet.
    Gone {
        /// The first that was asked for.
        first: Index,
        /// The lowest index that the source still has; above its last where it has no log.
        kept_from: Index,
        /// How far the source knows the log to be committed.
        commit: Index,
    },
    /// Asks for the manifest of the latest snapshot.
    FetchManifest,
    /// The manifest. `None`: there is no snapshot.
    Manifest(Option<Box<Manifest>>),
    /// Asks for one chunk of a snapshot.
    FetchChunk {
        /// Where the snapshot lies.
        position: Position,
        /// Which chunk.
        number: u32,
    },
    /// The chunk. `None`: that snapshot is no longer there.
    Chunk {
        /// As asked.
        position: Position,
        /// As asked.
        number: u32,
        /// Its bytes.
        bytes: Option<Bytes>,
    },
    /// Whether the addressee would take part in a founding by the sender. Between candidates.
    Invite {
        /// Names the attempt.
        round: u64,
        /// Who is asked.
        voters: Vec<Member>,
    },
    /// It would, and accepts no other invitation for an election timeout. Nothing rests on it.
    Promise {
        /// The attempt.
        round: u64,
    },
    /// A founding that lists the addressee as a voter; from its founder or passed on by another member.
    /// Its sender's incarnation is the one it founds.
    Founding(Box<Charter>),
    /// Between two incarnations of the group. Processed whatever its incarnation.
    Meeting(Meeting),
    /// Of an incarnation that has no leader. Processed whatever its incarnation.
    Reform(Box<Reform>),
    /// The addressee, which leaves, is no voter and is made none any more: it need not wait.
    Released,
}

/// What is said of an incarnation that has no leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reform {
    /// Asks what is left of it.
    Ask {
        /// The incarnation.
        of: Incarnation,
        /// Given back in the answer.
        round: u64,
        /// Whether the addressee has this entry, which is known to be committed.
        floor: Position,
        /// An operator wants the group to go on from what is left, without proof.
        is_ordered: bool,
        /// What the addressee is to give its word on, if it is one of those that take part.
        pledge: Option<Pledge>,
    },
    /// The answer.
    Answer {
        /// The incarnation that was asked about.
        of: Incarnation,
        /// As asked.
        round: u64,
        /// What the sender knows of it.
        remains: Remains,
    },
}

/// That it is proved that an incarnation cannot go on: those that take part give their word to do nothing more for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pledge {
    /// Who takes part.
    pub participants: BTreeSet<Member>,
    /// The lives that are over. What they have said and is still on its way is not listened to any more.
    pub gone: BTreeSet<Member>,
}

impl Pledge {
    /// The digest of those that take part: the word that they give together.
    pub(super) fn word(&self) -> Digest {
        let parts = self.participants.iter();
        let parts = parts.flat_map(|it| [&it.peer.as_bytes()[..], &it.instance.as_bytes()[..]]);
        Digest::of("smalti reform word", &parts.collect::<Vec<_>>())
    }
}

/// What members of two incarnations say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Meeting {
    /// The sender leads its incarnation, and could offer it to that of the addressee.
    Greet,
    /// The sender leads its incarnation or hears its leader, which could decide on an offer.
    Ready,
    /// An offer that is committed where it was made. Also passed on to the leader that is to decide on it.
    Offer(Offer),
    /// What was decided on an offer, and is committed. Also passed on to the leader that made it.
    Decided {
        /// Whose offer it was.
        from: Incarnation,
        /// Who has decided.
        by: Incarnation,
        /// Which offer.
        offer: Position,
        /// It is taken in; else the one that has decided is sealed into it.
        absorbs: bool,
    },
}

impl Message {
    /// The highest term that it speaks of.
    pub(super) fn term(&self) -> Option<Term> {
        let of_last = |entries: &[Entry]| entries.last().map_or(Term::ZERO, |entry| entry.term);
        match self {
            Self::PreVote(candidacy) | Self::RequestVote(candidacy) => {
                Some(candidacy.term.max(candidacy.last.term))
            }
            Self::VoteReply { term, seen, .. } => Some(*term.max(seen)),
            Self::Append(append) => Some(append.term),
            Self::AppendReply(reply) => Some(reply.term),
            Self::TimeoutNow { term } | Self::NotLeader { term, .. } => Some(*term),
            Self::Fetched { entries, .. } => Some(of_last(entries)),
            Self::Manifest(Some(manifest)) => Some(manifest.position.term),
            Self::Reform(reform) => match &**reform {
                Reform::Ask { floor, .. } => Some(floor.term),
                Reform::Answer { remains, .. } => {
                    let part = remains.part.as_ref();
                    part.map(|part| part.last.term.max(part.commit.term))
                }
            },
            _ => None,
        }
    }
}

/// Who a member is and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// How eagerly it leads.
    pub preference: LeadershipPreference,
    /// Numbers what the sender says of itself: greater whenever it has become something else.
    pub ping: u64,
    /// The greatest such number that the sender has heard from this life of the addressee. So an answer
    /// is told apart from what was said before the question.
    pub pong: u64,
    /// The addressee has not said yet that it has heard this.
    pub awaits_answer: bool,
    /// The runs of the sender's store.
    pub runs: Runs,
    /// How far the log went when the sender's store was opened.
    pub recovered: Index,
    /// The leader it follows, if any.
    pub leader: Option<PeerId>,
    /// How far it knows the log of its incarnation to be committed.
    pub commit: Index,
    /// The founding that it has left last: it can never be completed.
    pub left: Option<Incarnation>,
    /// The incarnation that the addressee said it belongs to has been sealed, as the sender knows.
    pub sealed: Option<Seal>,
    /// The incarnation that the addressee said it belongs to, where the sender's was reformed from it.
    pub succeeds: Option<Incarnation>,
}

/// A candidacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidacy {
    /// The term that the candidate would lead.
    pub term: Term,
    /// Where its log ends.
    pub last: Position,
    /// The leader itself asked for it: a live leader is no reason to refuse.
    pub transfer: bool,
}

/// What a voter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It votes for the candidate.
    Granted,
    /// It does not.
    Refused,
    /// It observes and is no voter, as far as it knows: no vote, and no change of who counts.
    Abstained,
}

/// Entries after one that the follower must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first.
    pub previous: Position,
    /// What follows it; nothing in a sign of life.
    pub entries: Vec<Entry>,
    /// How far the leader knows the log to be committed.
    pub commit: Index,
    /// The lowest index of which the leader still has the entry.
    pub kept_from: Index,
    /// The leader's latest round: its echo shows that the follower still followed when the round began.
    pub round: u64,
}

/// What a follower made of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendReply {
    /// The follower's term.
    pub term: Term,
    /// The round of the append.
    pub round: u64,
    /// Whether the logs agree.
    pub outcome: AppendOutcome,
}

/// Whether the logs agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// They do up to here, durably.
    Matched(Index),
    /// They do not at the append's previous entry.
    Conflict {
        /// The previous index of the append that was refused.
        refused: Index,
        /// The highest position at which they may agree.
        hint: Position,
        /// The follower is fetching what it lacks from others: there is no use in sending more.
        catching_up: bool,
    },
}
