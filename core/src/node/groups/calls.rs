//! Calls that wait for their outcomes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::protocol::raft::{CallId, CallOutcome, Ending, Outputs, Version};
use crate::time::{Duration, Instant};

/// How the calls of one request have ended, by what the group has decided, as far as it has in time.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Vec<Known>);

/// How some of them have ended.
#[derive(Debug)]
struct Known {
    /// The place of the first of them.
    place: usize,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    One(CallOutcome),
    Applied(Version, Outputs),
}

/// How one call has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended<'a> {
    /// It was applied, here, with this output.
    Applied(Version, &'a [u8]),
    /// As it says, or the same.
    As(CallOutcome),
}

impl Known {
    fn end(&self) -> usize {
        self.place
            + match &self.outcome {
                Outcome::One(_) => 1,
                Outcome::Applied(_, outputs) => outputs.len(),
            }
    }
}

impl Outcomes {
    /// All of `count` calls have ended like this.
    pub(super) fn all(count: usize, outcome: &CallOutcome) -> Self {
        let known = |place| Known {
            place,
            outcome: Outcome::One(outcome.clone()),
        };
        Self((0..count).map(known).collect())
    }

    /// Tells how each of `count` calls has ended, in their order; `None` where it has not.
    pub(super) fn tell(mut self, count: usize, mut tell: impl FnMut(Option<Ended<'_>>)) {
        self.0.sort_by_key(|known| known.place);
        let mut told = 0;
        for known in self.0 {
            (told..known.place).for_each(|_| tell(None));
            told = known.end();
            match known.outcome {
                Outcome::One(outcome) => tell(Some(Ended::As(outcome))),
                Outcome::Applied(version, outputs) => {
                    let outputs = outputs.iter().map(Ending::output);
                    outputs.for_each(|output| tell(output.map(|it| Ended::Applied(version, it))));
                }
            }
        }
        (told..count).for_each(|_| tell(None));
    }
}

/// The calls of one group on one node, numbered in the order in which they came.
#[derive(Debug)]
pub(super) struct Calls {
    next: u64,
    /// By the number of the first call. Ended requests in between keep their place until those before have ended.
    requests: VecDeque<Request>,
    timeout: Duration,
    /// What calls take from it they give back when they are answered.
    budget: Arc<Semaphore>,
    /// How many of `requests`, from the front, have been given up.
    given_up: usize,
}

/// Calls that were made together, and are answered together.
#[derive(Debug)]
struct Request {
    first: u64,
    outcomes: Outcomes,
    /// What they have taken from the budget.
    cost: usize,
    /// How many there are.
    count: usize,
    /// How many of them have not ended.
    open: usize,
    deadline: Instant,
    /// `None`: it was answered.
    reply: Option<oneshot::Sender<Outcomes>>,
}

impl Request {
    fn answer(&mut self, budget: &Semaphore) {
        if let Some(reply) = self.reply.take() {
            budget.add_permits(self.cost);
            // Nobody listens where the caller has gone.
            let _ = reply.send(std::mem::take(&mut self.outcomes));
        }
    }

    /// The calls that have not ended.
    fn open_calls(&self) -> Vec<CallId> {
        let mut is_open = vec![true; self.count];
        for known in &self.outcomes.0 {
            is_open[known.place..known.end()].fill(false);
        }
        let calls = (self.first..).map(CallId).zip(is_open);
        calls
            .filter_map(|(call, is_open)| is_open.then_some(call))
            .collect()
    }
}

impl Calls {
    /// Calls are given up after `timeout`, and answered without an outcome after as long again.
    pub(super) const fn new(timeout: Duration, budget: Arc<Semaphore>) -> Self {
        Self {
            next: 0,
            requests: VecDeque::new(),
            timeout,
            budget,
            given_up: 0,
        }
    }

    /// Takes a request for `count` calls that have taken `cost` from the budget, and gives the number of the first: the
    /// others follow it.
    pub(super) fn open(
        &mut self,
        now: Instant,
        count: usize,
        cost: usize,
        reply: oneshot::Sender<Outcomes>,
    ) -> CallId {
        let first = self.next;
        self.next += count as u64;
        self.requests.push_back(Request {
            first,
            outcomes: Outcomes::default(),
            cost,
            count,
            open: count,
            deadline: now + self.timeout,
            reply: Some(reply),
        });
        CallId(first)
    }

    /// A call has ended. Means nothing where it was answered without an outcome before.
    pub(super) fn ended(&mut self, call: CallId, outcome: CallOutcome) {
        self.note(call, Outcome::One(outcome));
    }

    /// Calls of one request have ended, from this one on: they were applied. Means nothing where they were answered
    /// without an outcome before.
    pub(super) fn applied(&mut self, first: CallId, version: Version, outputs: Outputs) {
        self.note(first, Outcome::Applied(version, outputs));
    }

    fn note(&mut self, call: CallId, outcome: Outcome) {
        let after = self
            .requests
            .partition_point(|request| request.first <= call.0);
        let request = after
            .checked_sub(1)
            .and_then(|at| self.requests.get_mut(at));
        let Some(request) = request.filter(|request| request.reply.is_some()) else {
            return;
        };
        let place = (call.0 - request.first) as usize;
        let known = Known { place, outcome };
        let ended = known.end() - place;
        debug_assert!(ended <= request.open, "a call ends once");
        request.open = request.open.saturating_sub(ended);
        request.outcomes.0.push(known);
        if request.open == 0 {
            request.answer(&self.budget);
        }
        self.forget_answered();
    }

    /// When [`due`](Self::due) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        // All wait equally long, so the oldest is due first; the second wait begins where the first has ended.
        let overdue = self.requests.front().filter(|_| self.given_up > 0);
        let overdue = overdue.map(|request| request.deadline + self.timeout);
        let waiting = self.requests.get(self.given_up);
        let waiting = waiting.map(|request| request.deadline);
        [overdue, waiting].into_iter().flatten().min()
    }

    /// Ends what has waited for too long. Gives the calls that are to be given up now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<CallId> {
        while self.given_up > 0
            && let Some(request) = self.requests.front_mut()
            && request.deadline + self.timeout <= now
        {
            request.answer(&self.budget);
            self.forget_answered();
        }
        let mut calls = Vec::new();
        while let Some(request) = self.requests.get(self.given_up)
            && request.deadline <= now
        {
            self.given_up += 1;
            if request.reply.is_some() {
                calls.extend(request.open_calls());
            }
        }
        calls
    }

    /// Answers all: nothing more will be decided.
    pub(super) fn end_all(&mut self) {
        for mut request in std::mem::take(&mut self.requests) {
            request.answer(&self.budget);
        }
        self.given_up = 0;
    }

    fn forget_answered(&mut self) {
        while self
            .requests
            .front()
            .is_some_and(|request| request.reply.is_none())
        {
            self.requests.pop_front();
            self.given_up = self.given_up.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        Calls::new(SECOND, Arc::new(Semaphore::new(0)))
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn open(
        calls: &mut Calls,
        at: u64,
        count: usize,
    ) -> (Vec<CallId>, oneshot::Receiver<Outcomes>) {
        let (reply, answer) = oneshot::channel();
        let now = Instant::ZERO + SECOND * at as u32;
        let first = calls.open(now, count, count, reply).0;
        ((first..first + count as u64).map(CallId).collect(), answer)
    }

    /// What is answered, for each call; nothing where there is no answer yet.
    fn told(answer: &mut oneshot::Receiver<Outcomes>, count: usize) -> Vec<Option<Ended<'static>>> {
        let mut told = Vec::new();
        if let Ok(outcomes) = answer.try_recv() {
            outcomes.tell(count, |ended| {
                told.push(ended.map(|ended| match ended {
                    Ended::As(outcome) => Ended::As(outcome),
                    Ended::Applied(version, output) => {
                        Ended::Applied(version, output.to_vec().leak())
                    }
                }));
            });
        }
        told
    }

    fn unknown() -> Option<Ended<'static>> {
        Some(Ended::As(CallOutcome::Unknown))
    }

    fn given_up() -> Option<Ended<'static>> {
        Some(Ended::As(CallOutcome::GivenUp))
    }

    fn at(seconds: u32) -> Instant {
        Instant::ZERO + SECOND * seconds
    }

    #[test]
    fn a_request_is_answered_once_all_of_its_calls_have_ended() {
        let mut calls = calls();
        let (first, mut one) = open(&mut calls, 0, 1);
        let (second, mut three) = open(&mut calls, 0, 3);
        for call in second.iter().rev() {
            assert_eq!(told(&mut three, 3), []);
            calls.ended(*call, CallOutcome::Unknown);
        }
        assert_eq!(told(&mut three, 3), [unknown(), unknown(), unknown()]);
        calls.ended(first[0], CallOutcome::GivenUp);
        calls.ended(first[0], CallOutcome::Unknown);
        assert_eq!(told(&mut one, 1), [given_up()]);
        assert_eq!(calls.poll_timeout(), None);
        assert_eq!(calls.budget.available_permits(), 4);
    }

    #[test]
    fn a_call_is_given_up_and_then_answered_without_an_outcome() {
        let mut calls = calls();
        let (numbers, mut answer) = open(&mut calls, 0, 2);
        let (later, mut other) = open(&mut calls, 1, 1);
        calls.ended(numbers[0], CallOutcome::Unknown);
        assert_eq!(calls.poll_timeout(), Some(at(1)));
        assert_eq!(calls.due(at(1)), [numbers[1]]);
        assert_eq!(calls.poll_timeout(), Some(at(2)));
        assert_eq!(calls.due(at(2)), later);
        assert_eq!(told(&mut answer, 2), [unknown(), None]);
        calls.ended(numbers[1], CallOutcome::GivenUp);
        calls.ended(later[0], CallOutcome::GivenUp);
        assert_eq!(told(&mut other, 1), [given_up()]);
        assert_eq!(calls.poll_timeout(), None);
    }

    #[test]
    fn an_ended_request_keeps_its_place_until_those_before_it_have_ended() {
        let mut calls = calls();
        let (first, mut one) = open(&mut calls, 0, 1);
        let (second, mut two) = open(&mut calls, 0, 1);
        calls.ended(second[0], CallOutcome::Unknown);
        assert_eq!(told(&mut two, 1), [unknown()]);
        assert_eq!(calls.due(at(1)), first);
        calls.ended(first[0], CallOutcome::GivenUp);
        assert_eq!(told(&mut one, 1), [given_up()]);
        assert_eq!(calls.poll_timeout(), None);
        let (third, _) = open(&mut calls, 2, 1);
        assert_eq!(calls.due(at(3)), third);
    }

    #[test]
    fn all_are_answered_at_the_end() {
        let mut calls = calls();
        let (_, mut answer) = open(&mut calls, 0, 1);
        calls.end_all();
        assert_eq!(told(&mut answer, 1), [None]);
        assert_eq!(calls.poll_timeout(), None);
    }
}
