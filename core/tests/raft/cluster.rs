//! Members under the control of a script: nothing is delivered, made durable or timed but by its commands.

mod wires;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smalti_core::id::{Digest, GroupId};
use smalti_core::protocol::Machine;
use smalti_core::protocol::raft::{
    CallId, Config, Event, FoundingRule, Identity, Index, Input, LeadershipPreference, Output,
    Raft, ReadId, Role, StorageClass, StorageError, StoreImage, Surroundings, Write, WriteId,
};
use smalti_core::time::Instant;

use self::wires::{Pattern, Sent};
use crate::list::{List, list};
use crate::names::{self, Names, peer};
use crate::safety::Safety;
use crate::show::text;
use crate::words::{number, time, value};

/// Deliveries and timers of one command, at most: what needs more goes round in circles.
const STEPS_MAX: usize = 200_000;

#[derive(Default)]
struct Node {
    raft: Option<Raft<List>>,
    starts: u64,
    preference: LeadershipPreference,
    /// It does not prove to the others that it may write.
    proves_nothing: bool,
    image: StoreImage,
    backup: StoreImage,
    /// Writes that are not durable yet.
    writing: VecDeque<(WriteId, Write)>,
    /// It is not told that its writes are durable before the script says so.
    is_stalled: bool,
}

/// How much of what happens is in the trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    Nothing,
    /// What a user would see.
    Events,
    /// Messages and writes as well.
    All,
}

/// Some members, their wires and their disks.
pub(crate) struct Cluster {
    now: Instant,
    config: Config,
    nodes: BTreeMap<u8, Node>,
    wire: Vec<Sent>,
    /// With whom the member at work is to end its bond.
    overstepped: BTreeSet<u8>,
    sent: u64,
    /// Messages that wait until they are released.
    held: Vec<Pattern>,
    /// Messages that are lost.
    cut: Vec<Pattern>,
    names: Names,
    safety: Safety,
    calls: BTreeMap<CallId, Bytes>,
    reads: BTreeMap<ReadId, (String, usize)>,
    trace: String,
    detail: Detail,
    shows_hello: bool,
}

type Outcome = Result<(), String>;

impl Cluster {
    /// No members yet; they will be configured by `config` and what the script changes of it.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            now: Instant::ZERO,
            config,
            nodes: BTreeMap::new(),
            wire: Vec::new(),
            overstepped: BTreeSet::new(),
            sent: 0,
            held: Vec::new(),
            cut: Vec::new(),
            names: Names::default(),
            safety: Safety::default(),
            calls: BTreeMap::new(),
            reads: BTreeMap::new(),
            trace: String::new(),
            detail: Detail::All,
            shows_hello: false,
        }
    }

    /// What has happened since this was last asked.
    pub(crate) fn take_trace(&mut self) -> String {
        if self.trace.is_empty() {
            self.trace.push_str("ok\n");
        }
        std::mem::take(&mut self.trace)
    }

    /// What must hold of every run, and did not.
    pub(crate) fn violations(&self) -> &[String] {
        self.safety.violations()
    }

    /// Carries out one command of a script.
    pub(crate) fn command(&mut self, line: &str) -> Outcome {
        self.carry_out_command(line)?;
        for (id, node) in &self.nodes {
            if let Some(raft) = &node.raft {
                self.safety.look_for_acknowledged(*id, raft);
            }
        }
        Ok(())
    }

    fn carry_out_command(&mut self, line: &str) -> Outcome {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let name = words.remove(0);
        self.detail = match name {
            "run" | "start" | "restart" | "bond" | "unbond" | "many" => Detail::Events,
            _ => Detail::All,
        };
        words.retain(|word| match *word {
            "quiet" => {
                self.detail = Detail::Nothing;
                false
            }
            "full" => {
                self.detail = Detail::All;
                false
            }
            _ => true,
        });
        match name {
            "config" => self.configure(&words),
            "start" | "restart" => self.start(&words),
            "crash" => self.crash(&words),
            "backup" | "restore" => self.keep_image(name, &words),
            "bond" | "unbond" => self.bond(name, &words),
            "deliver" | "drop" | "duplicate" => self.deliver_some(name, &words),
            "flight" => self.show_flight(&words),
            "hold" => self.add_rule(&words, true),
            "cut" => self.add_rule(&words, false),
            "release" => {
                self.held.clear();
                Ok(())
            }
            "heal" => {
                self.cut.clear();
                Ok(())
            }
            "hello" => {
                self.shows_hello = words.first() == Some(&"shown");
                Ok(())
            }
            "stall" | "unstall" | "persist" | "failwrite" => self.disk(name, &words),
            "settle" => self.settle(),
            "run" => self.run(&words),
            "advance" => self.advance(&words),
            "execute" | "giveup" | "read" => self.calls(name, &words),
            "many" => self.many(&words),
            "transfer" | "leave" | "reform" => {
                let input = match name {
                    "transfer" => Input::TransferLeadership,
                    "reform" => Input::Reform,
                    _ => Input::Leave,
                };
                self.each(&words, |cluster, node| cluster.input(node, [input.clone()]))
            }
            "surroundings" => self.surroundings(&words),
            "status" | "log" | "state" | "voters" | "disk" => self.show(name, &words),
            _ => Err(format!("no command is called {name}")),
        }
    }

    fn each(&mut self, words: &[&str], mut act: impl FnMut(&mut Self, u8) -> Outcome) -> Outcome {
        if words.is_empty() {
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                if self.is_up(node) {
                    act(self, node)?;
                }
            }
        }
        for word in words {
            act(self, number(word)?)?;
        }
        Ok(())
    }

    fn line(&mut self, detail: Detail, line: &str) {
        if self.detail >= detail {
            self.trace.push_str(line);
            self.trace.push('\n');
        }
    }

    // ---- Members ----

    fn configure(&mut self, words: &[&str]) -> Outcome {
        let config = &mut self.config;
        for word in words {
            let (key, value) = word.split_once('=').ok_or("key=value is expected")?;
            let count = || value.parse::<u64>().map_err(|error| error.to_string());
            match key {
                "heartbeat" => config.heartbeat_interval = time(value)?,
                "heartbeat_jitter" => config.heartbeat_jitter = time(value)?,
                "max_missed_heartbeats" => config.max_missed_heartbeats = count()? as u32,
                "election_timeout" => config.election_timeout = time(value)?,
                "election_timeout_jitter" => config.election_timeout_jitter = time(value)?,
                "bootstrap_delay" => config.bootstrap_delay = time(value)?,
                "forward_timeout" => config.forward_timeout = time(value)?,
                "fetch_batch_size" => config.fetch_batch_size = count()? as u32,
                "fetch_timeout" => config.fetch_timeout = time(value)?,
                "snapshot_request_timeout" => config.snapshot_request_timeout = time(value)?,
                "snapshot_ttl" => config.snapshot_ttl = time(value)?,
                "query_timeout" => config.query_timeout = time(value)?,
                "max_voters" => config.max_voters = count()? as u32,
                "expect" => config.founding = FoundingRule::Expect(count()? as u32),
                "snapshot_interval" => config.snapshot_interval = count()?,
                "log_window" => config.log_window = count()?,
                "sessions_max" => config.sessions_max = count()? as u32,
                "session_bytes_max" => config.session_bytes_max = count()? as u32,
                "reform_after" => config.reform_after = Some(time(value)?),
                "storage" if value == "durable" => config.storage = StorageClass::Durable,
                _ => return Err(format!("{word} is no such value")),
            }
        }
        self.config.validate().map_err(|error| error.to_string())
    }

    /// Starts members with what is durable, and bonds them with all that are up, unless they are to be
    /// `apart`. A `reader` may not write, and knows it; who is `posing` behaves as if it might.
    fn start(&mut self, words: &[&str]) -> Outcome {
        let [apart, observes, reads, poses] =
            ["apart", "observer", "reader", "posing"].map(|it| words.contains(&it));
        for word in words
            .iter()
            .filter(|word| !["apart", "observer", "reader", "posing"].contains(word))
        {
            let id = number(word)?;
            if self.is_up(id) {
                return Err(format!("n{id} is up"));
            }
            let others: Vec<u8> = self.nodes.keys().copied().collect();
            let node = self.nodes.entry(id).or_default();
            node.starts += 1;
            if observes {
                node.preference = LeadershipPreference::Observer;
            }
            node.proves_nothing = reads || poses;
            let identity = Identity {
                group: GroupId::named("scripts"),
                peer: peer(id),
                preference: node.preference,
            };
            let seed = u64::from(id) * 1_000 + node.starts;
            let raft = Raft::new(
                self.now,
                identity,
                self.config.clone(),
                node.image.recovered(),
                List::default(),
                ChaCha8Rng::seed_from_u64(seed),
            )
            .map_err(|error| error.to_string())?;
            node.raft = Some(if reads { raft.reading_only() } else { raft });
            self.safety.started(id);
            self.drain(id);
            for other in others {
                if !apart && self.is_up(other) {
                    self.input(id, [self.bonded_with(other)])?;
                    self.input(other, [self.bonded_with(id)])?;
                }
            }
        }
        Ok(())
    }

    /// Stops members without a word. What was not written is lost; `written=1`: but for the first write.
    fn crash(&mut self, words: &[&str]) -> Outcome {
        let written = value(words, "written")?.unwrap_or(0);
        for word in words.iter().filter(|word| !word.contains('=')) {
            let id = number(word)?;
            let node = self.nodes.get_mut(&id).ok_or("it was never started")?;
            node.raft = None;
            for (_, write) in node.writing.drain(..).take(written) {
                node.image
                    .carry_out(write)
                    .expect("writes go on from each other");
            }
            let held = &self.held;
            self.wire
                .retain(|sent| sent.to != id || held.iter().any(|it| it.fits(sent)));
            let others: Vec<u8> = self.nodes.keys().copied().collect();
            for other in others {
                if self.is_up(other) {
                    self.input(other, [Input::Unbonded(peer(id))])?;
                }
            }
        }
        Ok(())
    }

    /// Copies what is durable, or sets it back to the copy.
    fn keep_image(&mut self, name: &str, words: &[&str]) -> Outcome {
        for word in words {
            let node = self.nodes.get_mut(&number(word)?);
            let node = node.ok_or("it was never started")?;
            if name == "backup" {
                node.backup = node.image.clone();
            } else {
                node.image = node.backup.clone();
            }
        }
        Ok(())
    }

    fn bond(&mut self, name: &str, words: &[&str]) -> Outcome {
        let nodes: Vec<u8> = words
            .iter()
            .map(|word| number(word))
            .collect::<Result<_, _>>()?;
        for (i, one) in nodes.iter().enumerate() {
            for other in &nodes[i + 1..] {
                for (node, with) in [(*one, *other), (*other, *one)] {
                    if !self.is_up(node) {
                        continue;
                    }
                    let input = match name {
                        "bond" => self.bonded_with(with),
                        _ => Input::Unbonded(peer(with)),
                    };
                    self.input(node, [input])?;
                }
            }
        }
        Ok(())
    }

    fn bonded_with(&self, node: u8) -> Input {
        let reads = self.nodes.get(&node).is_some_and(|it| it.proves_nothing);
        if reads {
            Input::BondedReader(peer(node))
        } else {
            Input::Bonded(peer(node))
        }
    }

    /// A member has ended its bond with another.
    fn shut_out(&mut self, id: u8, other: u8) -> Outcome {
        let is_between = |from: u8, to: u8| [(id, other), (other, id)].contains(&(from, to));
        self.wire.retain(|sent| !is_between(sent.from, sent.to));
        self.input(id, [Input::Unbonded(peer(other))])?;
        if self.is_up(other) {
            self.input(other, [Input::Unbonded(peer(id))])?;
        }
        Ok(())
    }

    fn is_up(&self, node: u8) -> bool {
        self.nodes.get(&node).is_some_and(|it| it.raft.is_some())
    }

    /// Hands over inputs of one turn, and carries out what comes of them.
    fn input(&mut self, node: u8, inputs: impl IntoIterator<Item = Input>) -> Outcome {
        let now = self.now;
        let raft = self.nodes.get_mut(&node).and_then(|it| it.raft.as_mut());
        let raft = raft.ok_or_else(|| format!("n{node} is not up"))?;
        for input in inputs {
            raft.handle(now, input);
        }
        self.drain(node);
        Ok(())
    }

    fn drain(&mut self, id: u8) {
        let Some(mut raft) = self.nodes.get_mut(&id).and_then(|node| node.raft.take()) else {
            return;
        };
        self.names.born(raft.status().me);
        while let Some(output) = raft.poll_output() {
            self.names.born(raft.status().me);
            self.carry_out(id, &raft, output);
        }
        raft.check_invariants();
        self.safety.look_at(id, &raft);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.raft = Some(raft);
        if !node.is_stalled {
            let all = node.writing.len();
            self.persist(id, all);
        }
        while let Some(other) = self.overstepped.pop_first() {
            self.shut_out(id, other).expect("it is up");
        }
    }

    fn carry_out(&mut self, id: u8, raft: &Raft<List>, output: Output) {
        let me = self.names.member(&raft.status().me);
        match output {
            Output::Send(to, envelope) => {
                self.sent += 1;
                self.wire.push(Sent {
                    number: self.sent,
                    from: id,
                    to: names::node(&to),
                    envelope,
                });
            }
            Output::Persist(number, write) => {
                let line = format!("  {me} writes {}", self.names.write(&write));
                self.line(Detail::All, &line);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.writing.push_back((number, *write));
                }
            }
            Output::Event(event) => {
                let reads = self.nodes.get(&id).is_some_and(|it| it.proves_nothing);
                self.safety.event(id, reads, &event);
                let is_frequent = matches!(event, Event::Committed(_));
                let line = format!("  {me} {}", self.names.event(&event));
                self.line(
                    if is_frequent {
                        Detail::All
                    } else {
                        Detail::Events
                    },
                    &line,
                );
            }
            Output::Completed(..) | Output::Applied(..) => {
                for (call, outcome) in output.completions() {
                    let command = self.calls.get(&call).cloned().unwrap_or_default();
                    self.safety.ended(raft, &command, &outcome);
                    let outcome = self.names.outcome(&outcome);
                    let line = format!("  {me} call {} {outcome}", text(&command));
                    self.line(Detail::Events, &line);
                }
            }
            Output::ReadReady(id_of_read, version) => {
                let read = self.reads.get(&id_of_read).cloned();
                let (name, acknowledged) = read.unwrap_or_default();
                self.safety.read_ends(id, raft, acknowledged);
                let state = list(raft);
                let line = format!("  {me} read {name} at {}: {state}", version.index);
                self.line(Detail::Events, &line);
            }
            Output::ReadFailed(id_of_read, error) => {
                let read = self.reads.get(&id_of_read).cloned();
                let (name, _) = read.unwrap_or_default();
                self.line(
                    Detail::Events,
                    &format!("  {me} read {name} fails: {error}"),
                );
            }
            Output::Overstepped(peer) => {
                let other = names::node(&peer);
                self.line(Detail::Events, &format!("  {me} shuts n{other} out"));
                self.overstepped.insert(other);
            }
            Output::Stopped(reason) => {
                self.line(Detail::Events, &format!("  {me} stops: {reason:?}"));
            }
        }
    }

    // ---- Disks ----

    /// The first `count` writes of a node become durable.
    fn persist(&mut self, id: u8, count: usize) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let mut last = None;
        for (number, write) in node.writing.drain(..count.min(node.writing.len())) {
            node.image
                .carry_out(write)
                .expect("writes go on from each other");
            last = Some(number);
        }
        if let Some(number) = last {
            self.input(id, [Input::Persisted(number)])
                .expect("who writes is up");
        }
    }

    fn disk(&mut self, name: &str, words: &[&str]) -> Outcome {
        let count = value(words, "count")?.unwrap_or(usize::MAX);
        for word in words.iter().filter(|word| !word.contains('=')) {
            let id = number(word)?;
            let node = self.nodes.get_mut(&id).ok_or("it was never started")?;
            match name {
                "stall" => node.is_stalled = true,
                "unstall" => {
                    node.is_stalled = false;
                    self.persist(id, usize::MAX);
                }
                "persist" => self.persist(id, count),
                _ => {
                    node.writing.clear();
                    let error = StorageError::Full { doing: "writing" };
                    self.input(id, [Input::PersistFailed(error)])?;
                }
            }
        }
        Ok(())
    }

    // ---- Time ----

    /// Lets time pass for all, with all deliveries.
    fn run(&mut self, words: &[&str]) -> Outcome {
        let until = self.now + time(words.first().ok_or("how long?")?)?;
        let all: Vec<u8> = self.nodes.keys().copied().collect();
        self.pass(until, &all, true)
    }

    /// Lets time pass, without deliveries, and only the timers of the members that are named run out.
    fn advance(&mut self, words: &[&str]) -> Outcome {
        let until = self.now + time(words.first().ok_or("how long?")?)?;
        let named: Vec<u8> = words[1..]
            .iter()
            .map(|word| number(word))
            .collect::<Result<_, _>>()?;
        self.pass(until, &named, false)
    }

    fn pass(&mut self, until: Instant, nodes: &[u8], delivers: bool) -> Outcome {
        for _ in 0..STEPS_MAX {
            if delivers {
                self.settle()?;
            }
            let due = nodes.iter().filter_map(|id| {
                let (at, _) = self.nodes.get(id)?.raft.as_ref()?.poll_timeout()?;
                (at <= until).then_some((at, *id))
            });
            let Some((at, id)) = due.min() else {
                self.now = until;
                return Ok(());
            };
            self.now = self.now.max(at);
            let now = self.now;
            if let Some(raft) = self.nodes.get_mut(&id).and_then(|it| it.raft.as_mut()) {
                raft.handle_timeout(now);
            }
            self.drain(id);
        }
        Err("timers run out again and again".to_owned())
    }

    // ---- Calls ----

    fn calls(&mut self, name: &str, words: &[&str]) -> Outcome {
        let (node, rest) = words.split_first().ok_or("who?")?;
        let node = number(node)?;
        let mut inputs = Vec::new();
        for word in rest {
            inputs.push(match name {
                "execute" => self.execute(word),
                "giveup" => {
                    let call = self.calls.iter().find(|(_, command)| **command == word);
                    Input::GiveUp(*call.ok_or("no such call")?.0)
                }
                _ => {
                    let id = ReadId(self.reads.len() as u64 + 1);
                    let begins = self.safety.read_begins();
                    self.reads.insert(id, ((*word).to_owned(), begins));
                    Input::Read(id)
                }
            });
        }
        self.input(node, inputs)
    }

    /// A command: its name, or after `name*len` so many bytes.
    fn execute(&mut self, word: &str) -> Input {
        let command = match word.split_once('*') {
            Some((name, len)) => {
                let len = len.parse().unwrap_or(0);
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(len, b'.');
                Bytes::from(bytes)
            }
            None => Bytes::copy_from_slice(word.as_bytes()),
        };
        let call = CallId(self.calls.len() as u64 + 1);
        self.calls.insert(call, command.clone());
        Input::Execute(call, command)
    }

    /// Commands `x1`, `x2` and so on, each in a turn of its own, all delivered.
    fn many(&mut self, words: &[&str]) -> Outcome {
        let [node, prefix, count] = words else {
            return Err("who, what, how many?".to_owned());
        };
        let count: u64 = count.parse().map_err(|_| "how many?".to_owned())?;
        let node = number(node)?;
        self.detail = Detail::Nothing;
        for i in 1..=count {
            let input = self.execute(&format!("{prefix}{i}"));
            self.input(node, [input])?;
            self.settle()?;
        }
        Ok(())
    }

    fn surroundings(&mut self, words: &[&str]) -> Outcome {
        let (node, rest) = words.split_first().ok_or("who?")?;
        let surroundings = Surroundings {
            is_founded: rest.contains(&"founded"),
            incomplete: rest.contains(&"incomplete"),
        };
        self.input(number(node)?, [Input::Surroundings(surroundings)])
    }

    // ---- What can be seen ----

    fn show(&mut self, what: &str, words: &[&str]) -> Outcome {
        self.each(words, |cluster, id| {
            let node = cluster.nodes.get(&id).ok_or("it was never started")?;
            if what == "disk" {
                let found = node.image.recovered();
                let snapshot = found.as_ref().and_then(|it| it.snapshot.as_ref());
                let covered = snapshot.map_or(Index::ZERO, |it| it.manifest.position.index);
                let last = found.as_ref().and_then(|it| it.entries.last());
                let last = last.map_or(covered, |entry| entry.index);
                let mut line = format!("n{id} log up to {last}");
                if let Some(manifest) = snapshot.map(|it| &it.manifest) {
                    let digests: Vec<_> = manifest.chunks.iter().map(Digest::short).collect();
                    let at = names::position(manifest.position);
                    write!(line, ", snapshot {at} {}", digests.join(" ")).expect("a string");
                }
                cluster.line(Detail::All, &line);
                return Ok(());
            }
            let Some(raft) = &node.raft else {
                cluster.line(Detail::All, &format!("n{id} is down"));
                return Ok(());
            };
            let status = raft.status();
            let line = match what {
                "status" => cluster.names.status(&status),
                "state" => format!("n{id} {}", list(raft)),
                "voters" => {
                    let voters = cluster.names.members(&status.configuration.voters);
                    let leads = if status.role == Role::Leader {
                        " (leads)"
                    } else {
                        ""
                    };
                    format!("n{id}{leads}: {voters}")
                }
                _ => {
                    let kept = status.kept_from.0..=status.last.index.0;
                    let entries: Vec<_> = kept
                        .filter_map(|index| raft.entry(Index(index)))
                        .map(|entry| cluster.names.entry(entry))
                        .collect();
                    format!("n{id} {}", entries.join(", "))
                }
            };
            cluster.line(Detail::All, &line);
            Ok(())
        })
    }
}
