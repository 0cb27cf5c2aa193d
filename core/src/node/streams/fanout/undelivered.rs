//! Datums that were sent and that no subscription has taken, for who asks for them.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

#[derive(Default)]
pub(super) struct Undelivered {
    /// Datums that nobody has taken yet, with the number of lanes that each is in.
    waiting: BTreeMap<u64, usize>,
    /// Encodings of those that nobody will take any more.
    queue: VecDeque<Bytes>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Undelivered {
    pub(super) fn len(&self) -> u64 {
        self.queue.len() as u64
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A datum is sent, by so many lanes.
    pub(super) fn sent(&mut self, sequence: u64, lanes: usize, encoded: &[u8]) {
        if lanes == 0 {
            self.push(Bytes::copy_from_slice(encoded));
        } else {
            self.waiting.insert(sequence, lanes);
        }
    }

    /// A subscription has taken it.
    pub(super) fn delivered(&mut self, sequence: u64) {
        self.waiting.remove(&sequence);
    }

    /// Nobody will take it from one of its lanes, nor has.
    pub(super) fn dropped(&mut self, sequence: u64, encoded: Bytes) {
        let Some(lanes) = self.waiting.get_mut(&sequence) else {
            return;
        };
        *lanes -= 1;
        if *lanes == 0 {
            self.waiting.remove(&sequence);
            self.push(encoded);
        }
    }

    fn push(&mut self, encoded: Bytes) {
        self.bytes += encoded.len();
        self.queue.push_back(encoded);
        self.wake();
    }

    /// Wakes who takes them, where there is anything new for it.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next one; `None` where there are none and `is_over` says that there will be none.
    pub(super) fn poll_take(&mut self, cx: &Context<'_>, is_over: bool) -> Poll<Option<Bytes>> {
        if let Some(encoded) = self.queue.pop_front() {
            self.bytes -= encoded.len();
            return Poll::Ready(Some(encoded));
        }
        if is_over {
            return Poll::Ready(None);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
