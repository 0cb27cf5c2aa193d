//! Messages on their way: delivered, held, lost, and come twice.

use smalti_core::protocol::raft::{Envelope, Input, Member};

use super::{Cluster, Detail, Outcome, STEPS_MAX};
use crate::names::peer;
use crate::show::{KINDS, kind};
use crate::words::{number, value};

/// A message on its way.
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) envelope: Envelope,
}

/// Which messages are meant; what is not said may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    from: Option<u8>,
    to: Option<u8>,
    kind: Option<String>,
}

impl Pattern {
    pub(super) fn fits(&self, sent: &Sent) -> bool {
        self.from.is_none_or(|from| from == sent.from)
            && self.to.is_none_or(|to| to == sent.to)
            && self
                .kind
                .as_ref()
                .is_none_or(|it| it == kind(&sent.envelope.message))
    }
}

impl Cluster {
    /// What the words say of messages: `n1->n2 append`, `n1` for all from or to it, `n1 n2` for both ways.
    pub(super) fn patterns(words: &[&str]) -> Result<Vec<Pattern>, String> {
        let mut kinds = Vec::new();
        let mut pairs = Vec::new();
        let mut nodes = Vec::new();
        for word in words {
            if let Some((from, to)) = word.split_once("->") {
                let end = |end: &str| match end {
                    "*" => Ok(None),
                    end => number(end).map(Some),
                };
                pairs.push((end(from)?, end(to)?));
            } else if KINDS.contains(word) {
                kinds.push(Some((*word).to_owned()));
            } else {
                nodes.push(number(word)?);
            }
        }
        match nodes[..] {
            [] => {}
            [node] => pairs.extend([(Some(node), None), (None, Some(node))]),
            _ => {
                for one in &nodes {
                    let others = nodes.iter().filter(|other| *other != one);
                    pairs.extend(others.map(|other| (Some(*one), Some(*other))));
                }
            }
        }
        if pairs.is_empty() {
            pairs.push((None, None));
        }
        if kinds.is_empty() {
            kinds.push(None);
        }
        let patterns = pairs.iter().flat_map(|(from, to)| {
            kinds.iter().map(|kind| Pattern {
                from: *from,
                to: *to,
                kind: kind.clone(),
            })
        });
        Ok(patterns.collect())
    }

    pub(super) fn add_rule(&mut self, words: &[&str], holds: bool) -> Outcome {
        let patterns = Self::patterns(words)?;
        if holds {
            self.held.extend(patterns);
        } else {
            self.cut.extend(patterns);
        }
        Ok(())
    }

    /// Delivers, drops or duplicates what is on its way now and fits: all of it, the first `count`, or the
    /// `last`.
    pub(super) fn deliver_some(&mut self, name: &str, words: &[&str]) -> Outcome {
        let count = value(words, "count")?.unwrap_or(usize::MAX);
        let takes_last = words.contains(&"last");
        let words: Vec<&str> = words
            .iter()
            .copied()
            .filter(|it| !it.contains('='))
            .collect();
        let words: Vec<&str> = words.into_iter().filter(|it| *it != "last").collect();
        let patterns = Self::patterns(&words)?;
        let fits = |sent: &&Sent| patterns.iter().any(|it| it.fits(sent));
        let fitting = self.wire.iter().filter(fits).map(|sent| sent.number);
        let mut numbers: Vec<u64> = fitting.take(count).collect();
        if takes_last {
            numbers.drain(..numbers.len().saturating_sub(1));
        }
        if numbers.is_empty() {
            return Err("nothing of the kind is on its way".to_owned());
        }
        for number in numbers {
            let Some(at) = self.wire.iter().position(|sent| sent.number == number) else {
                continue;
            };
            match name {
                "deliver" => {
                    let sent = self.wire.remove(at);
                    self.deliver(sent, true);
                }
                "drop" => {
                    let sent = self.wire.remove(at);
                    self.show_lost(&sent);
                }
                _ => {
                    let sent = &self.wire[at];
                    self.sent += 1;
                    let copy = Sent {
                        number: self.sent,
                        envelope: sent.envelope.clone(),
                        ..*sent
                    };
                    self.wire.push(copy);
                }
            }
        }
        Ok(())
    }

    fn describe(&mut self, sent: &Sent, arrow: &str) -> String {
        let sender = Member {
            peer: peer(sent.from),
            instance: sent.envelope.from,
        };
        let from = self.names.member(&sender);
        let to = sent.envelope.to.map_or_else(
            || format!("n{}", sent.to),
            |instance| {
                self.names.member(&Member {
                    peer: peer(sent.to),
                    instance,
                })
            },
        );
        let message = self.names.message(&sent.envelope.message);
        format!("{from} {arrow} {to} {message}")
    }

    fn is_shown(&self, sent: &Sent) -> bool {
        self.shows_hello || kind(&sent.envelope.message) != "hello"
    }

    fn show_lost(&mut self, sent: &Sent) {
        if self.is_shown(sent) {
            let line = self.describe(sent, "-x");
            self.line(Detail::All, &line);
        }
    }

    fn deliver(&mut self, sent: Sent, is_deliberate: bool) {
        let is_cut = !is_deliberate && self.cut.iter().any(|it| it.fits(&sent));
        if is_cut || !self.is_up(sent.to) {
            self.show_lost(&sent);
            return;
        }
        if self.is_shown(&sent) {
            let line = self.describe(&sent, "->");
            self.line(Detail::All, &line);
        }
        let input = Input::Message(peer(sent.from), sent.envelope);
        self.input(sent.to, [input]).expect("it is up");
    }

    pub(super) fn show_flight(&mut self, words: &[&str]) -> Outcome {
        let patterns = Self::patterns(words)?;
        let wire = std::mem::take(&mut self.wire);
        for sent in &wire {
            if self.is_shown(sent) && patterns.iter().any(|it| it.fits(sent)) {
                let line = self.describe(sent, "..");
                self.line(Detail::All, &line);
            }
        }
        self.wire = wire;
        Ok(())
    }

    /// Delivers all that is not held, and what comes of it, in no time.
    pub(super) fn settle(&mut self) -> Outcome {
        for _ in 0..STEPS_MAX {
            let is_held = |sent: &Sent| self.held.iter().any(|it| it.fits(sent));
            let Some(at) = self.wire.iter().position(|sent| !is_held(sent)) else {
                return Ok(());
            };
            let sent = self.wire.remove(at);
            self.deliver(sent, false);
        }
        Err("messages go round in circles".to_owned())
    }
}
