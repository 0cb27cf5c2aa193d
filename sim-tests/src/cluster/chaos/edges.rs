//! Whether conditions complete on their edges.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use smalti_core::streams::{Subscribed, When};

/// Watches both sides of one condition: they complete in turn, and only when true.
pub(super) struct Edges {
    subscribed: Subscribed,
    unsubscribed: Subscribed,
    /// Which completed last.
    last: Option<bool>,
    seen: u64,
}

impl Edges {
    pub(super) fn new(when: &When) -> Self {
        Self {
            subscribed: when.subscribed(),
            unsubscribed: when.unsubscribed(),
            last: None,
            seen: 0,
        }
    }

    /// How often either has completed.
    pub(super) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Ready with what is wrong. Both are polled each time, so that they see the same states.
    pub(super) fn poll_wrong(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let completed = [
            Pin::new(&mut self.subscribed).poll(cx).is_ready(),
            Pin::new(&mut self.unsubscribed).poll(cx).is_ready(),
        ];
        let now = match completed {
            [false, false] => return self.agree(),
            [true, true] => return Poll::Ready("a condition and its contrary complete".into()),
            [true, false] => true,
            [false, true] => false,
        };
        if self.last == Some(now) {
            return Poll::Ready(format!("a condition ({now}) has completed twice in a row"));
        }
        self.last = Some(now);
        self.seen += 1;
        self.agree()
    }

    /// What completed last is what is true.
    fn agree(&self) -> Poll<String> {
        let (is, is_not) = (
            self.subscribed.is_condition_met(),
            self.unsubscribed.is_condition_met(),
        );
        if is == is_not || self.last != Some(is) {
            let last = self.last;
            return Poll::Ready(format!("{last:?} has completed last, now it is {is}"));
        }
        Poll::Pending
    }
}
