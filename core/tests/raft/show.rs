//! Messages, entries, writes and events as short lines.

use smalti_core::protocol::raft::{
    Append, AppendOutcome, AppendReply, CallOutcome, Candidacy, Entry, Event, Index, Meeting,
    Member, Message, Offer, Payload, Phase, Reform, Reformed, Remains, Stalled, Status, Superseded,
    Verdict, Weight, Write,
};

use crate::names::{Names, position};

/// What a rule or a command calls the kind of a message.
pub(crate) const fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::PreVote(_) => "prevote",
        Message::RequestVote(_) => "vote",
        Message::VoteReply { pre: true, .. } => "prevoted",
        Message::VoteReply { .. } => "voted",
        Message::Append(_) => "append",
        Message::AppendReply(_) => "acked",
        Message::TimeoutNow { .. } => "timeoutnow",
        Message::Forward { .. } => "forward",
        Message::OpenSession { .. } => "open",
        Message::NotLeader { .. } => "notleader",
        Message::ReadIndex { .. } => "readindex",
        Message::ReadIndexReply { .. } => "readreply",
        Message::Leave => "leave",
        Message::Fetch { .. } => "fetch",
        Message::Fetched { .. } => "fetched",
        Message::Gone { .. } => "gone",
        Message::FetchManifest => "fetchmanifest",
        Message::Manifest(_) => "manifest",
        Message::FetchChunk { .. } => "fetchchunk",
        Message::Chunk { .. } => "chunk",
        Message::Invite { .. } => "invite",
        Message::Promise { .. } => "promise",
        Message::Founding(_) => "founding",
        Message::Meeting(meeting) => match meeting {
            Meeting::Greet => "greet",
            Meeting::Ready => "ready",
            Meeting::Offer(_) => "offer",
            Meeting::Decided { .. } => "decided",
        },
        Message::Reform(reform) => match **reform {
            Reform::Ask { .. } => "ask",
            Reform::Answer { .. } => "answer",
        },
        Message::Released => "released",
    }
}

/// All kinds, for whoever reads commands.
pub(crate) const KINDS: [&str; 31] = [
    "hello",
    "prevote",
    "vote",
    "prevoted",
    "voted",
    "append",
    "acked",
    "timeoutnow",
    "forward",
    "open",
    "notleader",
    "readindex",
    "readreply",
    "leave",
    "fetch",
    "fetched",
    "gone",
    "fetchmanifest",
    "manifest",
    "fetchchunk",
    "chunk",
    "invite",
    "promise",
    "founding",
    "greet",
    "ready",
    "offer",
    "decided",
    "ask",
    "answer",
    "released",
];

impl Names {
    fn optional(&self, member: Option<&Member>) -> String {
        member.map_or_else(|| "nobody".to_owned(), |member| self.member(member))
    }

    /// A message.
    pub(crate) fn message(&mut self, message: &Message) -> String {
        let kind = kind(message);
        match message {
            Message::Hello(hello) => {
                let sealed = hello.sealed.map_or_else(String::new, |seal| {
                    let incarnation = self.incarnation(Some(&seal.incarnation));
                    let into = self.incarnation(Some(&seal.into));
                    format!(" {incarnation} sealed into {into}")
                });
                format!(
                    "{kind} ping {} pong {} commit {} recovered {}{sealed}",
                    hello.ping, hello.pong, hello.commit, hello.recovered
                )
            }
            Message::PreVote(candidacy) | Message::RequestVote(candidacy) => {
                format!("{kind} {}", self::candidacy(*candidacy))
            }
            Message::VoteReply {
                term,
                seen,
                verdict,
                ..
            } => {
                let verdict = match verdict {
                    Verdict::Granted => "granted",
                    Verdict::Refused => "refused",
                    Verdict::Abstained => "abstained",
                };
                let seen = if seen == term {
                    String::new()
                } else {
                    format!(" seen t{seen}")
                };
                format!("{kind} t{term} {verdict}{seen}")
            }
            Message::Append(append) => self.append(append),
            Message::AppendReply(reply) => acked(*reply),
            Message::TimeoutNow { term } => format!("{kind} t{term}"),
            Message::Forward { batches } => {
                let batches: Vec<_> = batches
                    .iter()
                    .map(|batch| {
                        let commands = commands(batch.commands.iter());
                        format!("s{} from {} {commands}", batch.session.0, batch.first)
                    })
                    .collect();
                format!("{kind} {}", batches.join(", "))
            }
            Message::NotLeader { term, leader } => {
                format!("{kind} t{term} leader {}", self.optional(leader.as_ref()))
            }
            Message::ReadIndex { id } => format!("{kind} {id}"),
            Message::ReadIndexReply { id, index } => format!("{kind} {id} at {index}"),
            Message::Fetch { first, last } => format!("{kind} {first}..{last}"),
            Message::Fetched {
                entries, commit, ..
            } => format!("{kind} [{}] commit {commit}", self.entries(entries)),
            Message::Gone {
                first,
                kept_from,
                commit,
            } => format!("{kind} {first} kept from {kept_from} commit {commit}"),
            Message::Manifest(manifest) => match manifest {
                None => format!("{kind} none"),
                Some(manifest) => format!(
                    "{kind} {} of {} chunks",
                    position(manifest.position),
                    manifest.chunks.len()
                ),
            },
            Message::FetchChunk {
                position: at,
                number,
            } => {
                format!("{kind} {number} of {}", position(*at))
            }
            Message::Chunk {
                position: at,
                number,
                bytes,
            } => {
                let none = if bytes.is_none() { " none" } else { "" };
                format!("{kind} {number} of {}{none}", position(*at))
            }
            Message::Invite { voters, .. } => format!("{kind} {}", self.members(voters)),
            Message::Founding(charter) => format!(
                "{kind} {} by {}: {}",
                self.incarnation(Some(&charter.incarnation())),
                self.member(&charter.founder),
                self.members(&charter.voters)
            ),
            Message::Meeting(meeting) => self.meeting(kind, meeting),
            Message::Reform(reform) => self.reform(kind, reform),
            Message::OpenSession { .. }
            | Message::Leave
            | Message::Released
            | Message::FetchManifest
            | Message::Promise { .. } => kind.to_owned(),
        }
    }

    fn meeting(&mut self, kind: &str, meeting: &Meeting) -> String {
        match meeting {
            Meeting::Greet | Meeting::Ready => kind.to_owned(),
            Meeting::Offer(offer) => self.offer(offer),
            Meeting::Decided {
                from,
                by,
                offer,
                absorbs,
            } => {
                let from = self.incarnation(Some(from));
                let by = self.incarnation(Some(by));
                let what = if *absorbs { "takes in" } else { "yields to" };
                format!("{kind} {by} {what} {from} by offer {}", position(*offer))
            }
        }
    }

    fn reform(&mut self, kind: &str, reform: &Reform) -> String {
        match reform {
            Reform::Ask {
                of,
                floor,
                is_ordered,
                pledge,
                ..
            } => {
                let of = self.incarnation(Some(of));
                let floor = position(*floor);
                let ordered = if *is_ordered { ", ordered" } else { "" };
                let pledge = pledge.as_ref().map_or_else(String::new, |pledge| {
                    let (left, gone) = (&pledge.participants, &pledge.gone);
                    let (left, gone) = (self.members(left), self.members(gone));
                    format!(", pledge: left {left}, gone {gone}")
                });
                format!("{kind} of {of} floor {floor}{ordered}{pledge}")
            }
            Reform::Answer { of, remains, .. } => {
                let of = self.incarnation(Some(of));
                format!("{kind} of {of}: {}", self.remains(remains))
            }
        }
    }

    fn remains(&mut self, remains: &Remains) -> String {
        let part = remains.part.as_ref().map_or_else(
            || "no member".to_owned(),
            |part| {
                let lacks = if part.has_floor { "" } else { " lacks it" };
                let named = self.members(&part.named);
                let (last, commit) = (position(part.last), position(part.commit));
                format!("last {last} commit {commit}{lacks} names {named}")
            },
        );
        let goes_on = if remains.goes_on { ", goes on" } else { "" };
        let gone_over = if remains.has_gone_over {
            ", has gone over"
        } else {
            ""
        };
        let set_back = match &remains.set_back[..] {
            [] => String::new(),
            set_back => format!(", set back {}", self.members(set_back)),
        };
        format!(
            "{part}, knows {}{set_back}{goes_on}{gone_over}",
            self.members(&remains.knows)
        )
    }

    fn offer(&mut self, offer: &Offer) -> String {
        let (from, to) = (
            self.incarnation(Some(&offer.from)),
            self.incarnation(Some(&offer.to)),
        );
        let at = position(offer.at);
        let Weight {
            is_established,
            commands,
        } = offer.weight;
        let established = if is_established { ", established" } else { "" };
        format!("offer {at} of {from} to {to}: {commands} commands{established}")
    }

    fn append(&mut self, append: &Append) -> String {
        let entries = if append.entries.is_empty() {
            String::new()
        } else {
            format!(" [{}]", self.entries(&append.entries))
        };
        let kept_from = if append.kept_from == Index(1) {
            String::new()
        } else {
            format!(" kept from {}", append.kept_from)
        };
        format!(
            "append t{} prev {}{entries} commit {}{kept_from} round {}",
            append.term,
            position(append.previous),
            append.commit,
            append.round
        )
    }

    /// Entries: all of them where they are few.
    pub(crate) fn entries(&mut self, entries: &[Entry]) -> String {
        const FEW: usize = 8;
        match entries {
            [first, .., last] if entries.len() > FEW => format!(
                "{}..{}",
                position(first.position()),
                position(last.position())
            ),
            _ => {
                let entries: Vec<_> = entries.iter().map(|entry| self.entry(entry)).collect();
                entries.join(", ")
            }
        }
    }

    /// An entry.
    pub(crate) fn entry(&mut self, entry: &Entry) -> String {
        let payload = match &entry.payload {
            Payload::Founding(charter) => {
                let incarnation = self.incarnation(Some(&charter.incarnation()));
                format!("founding {incarnation}")
            }
            Payload::Blank => "blank".to_owned(),
            Payload::Configuration(configuration) => {
                format!("voters {}", self.members(&configuration.voters))
            }
            Payload::Open(owner) => format!("open {}", self.member(&owner.member)),
            Payload::Commands(batch) => {
                let commands = commands(batch.commands.iter());
                format!("s{} from {} {commands}", batch.session.0, batch.first)
            }
            Payload::SnapshotPoint => "snapshot point".to_owned(),
            Payload::Frozen { to } => format!("frozen for {}", self.incarnation(Some(to))),
            Payload::Decided { offer } => format!("decided on {}", self.offer(offer)),
            Payload::Sealed { into, offer } => {
                let into = self.incarnation(Some(into));
                format!("sealed into {into} by offer {}", position(*offer))
            }
            Payload::Thawed { offer } => format!("thawed of offer {}", position(*offer)),
        };
        format!("{} {payload}", position(entry.position()))
    }

    /// A write.
    pub(crate) fn write(&mut self, write: &Write) -> String {
        let mut parts = Vec::new();
        if write.reset {
            parts.push("reset".to_owned());
        }
        if let Some(hard) = &write.hard_state {
            let incarnation = self.incarnation(hard.incarnation.as_ref());
            let vote = self.optional(hard.vote.as_ref());
            parts.push(format!("{incarnation} t{} vote {vote}", hard.term));
        }
        if let Some(chunk) = &write.staged {
            parts.push(format!(
                "chunk {} of {}",
                chunk.number,
                position(chunk.position)
            ));
        }
        if let Some(manifest) = &write.snapshot {
            parts.push(format!("snapshot {}", position(manifest.position)));
        }
        if write.drop_log {
            parts.push("drop log".to_owned());
        }
        if let Some(through) = write.compact_through {
            parts.push(format!("compact through {through}"));
        }
        if !write.entries.is_empty() {
            parts.push(format!("[{}]", self.entries(&write.entries)));
        }
        parts.join(", ")
    }

    /// An event.
    pub(crate) fn event(&mut self, event: &Event) -> String {
        match event {
            Event::Joined(incarnation) => format!("joins {}", self.incarnation(Some(incarnation))),
            Event::LeftFounding(incarnation) => {
                format!("leaves founding {}", self.incarnation(Some(incarnation)))
            }
            Event::Leader(term, leader) => {
                format!("follows {} in t{term}", self.optional(leader.as_ref()))
            }
            Event::Committed(index) => format!("commits {index}"),
            Event::Restored(index) => format!("restores {index}"),
            Event::Voting(true) => "votes".to_owned(),
            Event::Voting(false) => "votes no longer".to_owned(),
            Event::Superseded(given_up) => {
                let Superseded {
                    version,
                    into,
                    commands,
                    commands_in_all,
                    state,
                } = &**given_up;
                let incarnation = self.incarnation(Some(&version.incarnation));
                let into = self.incarnation(Some(into));
                let state: Vec<_> = state.iter().map(|command| text(command)).collect();
                let state = state.join(" ");
                format!(
                    "gives up {incarnation} at {} for {into}, with {commands} of {commands_in_all} commands: {state}",
                    version.index
                )
            }
            Event::Stalled(stalled) => {
                let Stalled {
                    incarnation,
                    missing,
                } = &**stalled;
                let incarnation = self.incarnation(Some(incarnation));
                format!(
                    "stands still in {incarnation}, waits for {}",
                    self.members(missing)
                )
            }
            Event::Reformed(reformed) => {
                let Reformed {
                    parent,
                    incarnation,
                    at,
                    is_proved,
                    state,
                } = &**reformed;
                let before = self.incarnation(Some(&parent.incarnation));
                let incarnation = self.incarnation(Some(incarnation));
                let how = if *is_proved { "proved" } else { "not proved" };
                let had = state.as_ref().map_or_else(String::new, |state| {
                    let state: Vec<_> = state.iter().map(|command| text(command)).collect();
                    format!(", had {}", state.join(" "))
                });
                format!(
                    "reforms {before} at {} into {incarnation} from {}, {how}{had}",
                    parent.index,
                    position(*at)
                )
            }
            other => format!("{other:?}"),
        }
    }

    /// How a call ended.
    pub(crate) fn outcome(&mut self, outcome: &CallOutcome) -> String {
        match outcome {
            CallOutcome::Applied { version, output } => format!(
                "applied at {} of {}: {}",
                version.index,
                self.incarnation(Some(&version.incarnation)),
                text(output)
            ),
            CallOutcome::OutputLost { .. } => "applied, output lost".to_owned(),
            CallOutcome::GivenUp => "given up".to_owned(),
            CallOutcome::Rejected(rejection) => format!("rejected: {rejection}"),
            CallOutcome::Unknown => "unknown".to_owned(),
            CallOutcome::Superseded { incarnation, into } => format!(
                "superseded: {} was given up for {}",
                self.incarnation(Some(incarnation)),
                self.incarnation(Some(into))
            ),
        }
    }

    /// Where a member stands.
    pub(crate) fn status(&mut self, status: &Status<'_>) -> String {
        let incarnation = self.incarnation(status.incarnation.as_ref());
        let phase = match status.phase {
            Phase::Open => "",
            Phase::Frozen(_) => " (frozen)",
            Phase::Sealed(_) => " (sealed)",
        };
        let stalled = if status.stalled.is_some() {
            " (stalled)"
        } else {
            ""
        };
        format!(
            "{} {:?} of {incarnation}{phase}{stalled} in t{}, follows {}, last {}, commit {}, applied {}, kept from {}, voters {}",
            self.member(&status.me),
            status.role,
            status.term,
            self.optional(status.leader.as_ref()),
            position(status.last),
            status.commit,
            status.applied,
            status.kept_from,
            self.members(&status.configuration.voters)
        )
    }
}

fn candidacy(candidacy: Candidacy) -> String {
    let transfer = if candidacy.transfer { " transfer" } else { "" };
    format!(
        "t{} last {}{transfer}",
        candidacy.term,
        position(candidacy.last)
    )
}

fn acked(reply: AppendReply) -> String {
    let outcome = match reply.outcome {
        AppendOutcome::Matched(index) => format!("matched {index}"),
        AppendOutcome::Conflict {
            refused,
            hint,
            catching_up,
        } => {
            let catching_up = if catching_up { " catching up" } else { "" };
            format!("conflict at {refused} hint {}{catching_up}", position(hint))
        }
    };
    format!("acked t{} {outcome} round {}", reply.term, reply.round)
}

fn commands<'a>(commands: impl Iterator<Item = Option<&'a [u8]>>) -> String {
    const SHOWN: usize = 8;
    let texts: Vec<_> = commands
        .map(|command| command.map_or_else(|| "_".to_owned(), text))
        .collect();
    match &texts[..] {
        [first, .., last] if texts.len() > SHOWN => format!("{first} .. {last}"),
        _ => texts.join(" "),
    }
}

/// Bytes that are text.
pub(crate) fn text(bytes: &[u8]) -> String {
    const SHOWN: usize = 24;
    let text = String::from_utf8_lossy(bytes);
    if text.len() > SHOWN {
        return format!("{}+{}", &text[..4], text.len() - 4);
    }
    text.into_owned()
}
