//! How much a run takes, and when it is too much.

use crate::NodeIndex;
use crate::time::SimTime;

/// Steps within one nanosecond, at most. Machines that exchange more messages without any time passing, or
/// whose deadline stays in the past, would go on forever.
const AT_ONCE_MAX: u64 = 1_000_000;
/// Steps within one second, at most, where nothing else is asked for.
const PER_SECOND_MAX: u64 = 10_000_000;

/// Counts what is handled, by the second of the run, and stops a run that runs away.
pub(super) struct Effort {
    limit: u64,
    /// The moment of the last step.
    now: SimTime,
    at_once: u64,
    /// The second of the run that is being counted, and what was handled in it.
    second: u64,
    steps: u64,
    /// The same for each node.
    by_node: Vec<u64>,
    most: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            limit: PER_SECOND_MAX,
            now: SimTime::ZERO,
            at_once: 0,
            second: 0,
            steps: 0,
            by_node: Vec::new(),
            most: 0,
        }
    }
}

impl Effort {
    pub(super) const fn limit(&mut self, steps: u64) {
        self.limit = steps;
    }

    /// Steps of the busiest second so far.
    pub(super) const fn most(&self) -> u64 {
        self.most
    }

    /// Something is handled, by a node or by the environment; `what` tells of it if it is one too many.
    ///
    /// # Panics
    /// Where the run has run away: that is a defect of the machines, found.
    pub(super) fn count(
        &mut self,
        now: SimTime,
        node: Option<NodeIndex>,
        what: impl FnOnce() -> String,
    ) {
        if now > self.now {
            self.now = now;
            self.at_once = 0;
            let second = now.as_nanos() / 1_000_000_000;
            if second != self.second {
                self.second = second;
                self.steps = 0;
                self.by_node.fill(0);
            }
        }
        self.at_once += 1;
        self.steps += 1;
        self.most = self.most.max(self.steps);
        if let Some(NodeIndex(index)) = node {
            let index = index as usize;
            if index >= self.by_node.len() {
                self.by_node.resize(index + 1, 0);
            }
            self.by_node[index] += 1;
        }
        assert!(
            self.at_once < AT_ONCE_MAX,
            "at {now} the machines go on and on without any time passing: {}",
            self.tell(&what())
        );
        assert!(
            self.steps <= self.limit,
            "at {now} the machines run away, with more than {} steps in a second: {}",
            self.limit,
            self.tell(&what())
        );
    }

    /// Who was busiest, and with what the run ended.
    fn tell(&self, what: &str) -> String {
        let numbered = (0..).map(NodeIndex).zip(&self.by_node);
        match numbered.max_by_key(|(_, steps)| **steps) {
            Some((node, steps)) => format!("{node} took {steps} of them, and the last was {what}"),
            None => format!("the last was {what}"),
        }
    }
}
