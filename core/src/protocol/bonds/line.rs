//! What goes out over one link and when, and whether the peer lives.

use std::collections::VecDeque;

use super::io::{LinkId, Loss, Output};
use super::link::Closing;
use super::outbox::{Outbox, Said};
use super::peer::Shared;
use crate::id::GroupId;
use crate::protocol::rtt::Estimate;
use crate::time::{Duration, Instant};

/// Frames that the transport may hold and has not taken yet: one that it writes, and one to go on with.
pub(super) const FRAMES_UNDER_WAY_MAX: usize = 2;

/// Pings whose answers are waited for.
const PINGS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Line {
    link: LinkId,
    outbox: Outbox,
    /// Something waits that is to go out as soon as the transport takes it.
    hurry: bool,
    /// When all else that waits is to go out.
    gather_until: Instant,
    /// When the frames were given to the transport that it has not taken yet.
    under_way: VecDeque<Instant>,
    heard_at: Instant,
    next_ping_at: Instant,
    next_ping: u64,
    /// Pings that were sent and not answered.
    pings: VecDeque<(u64, Instant)>,
    rtt: Option<Estimate>,
}

impl Line {
    pub(super) fn new(now: Instant, link: LinkId, shared: &mut Shared) -> Self {
        let first = shared.random_up_to(shared.config.heartbeat_interval);
        Self {
            link,
            outbox: Outbox::default(),
            hurry: false,
            gather_until: Instant::FAR_FUTURE,
            under_way: VecDeque::new(),
            heard_at: now,
            next_ping_at: now + first,
            next_ping: 0,
            pings: VecDeque::new(),
            rtt: None,
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(Estimate::smoothed)
    }

    /// How much waits that was said in a group.
    pub(super) fn waiting(&self, group: GroupId) -> usize {
        self.outbox.waiting(group)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.next_ping_at.min(self.gather_until)
    }

    /// Queues what is to go out at once. Gives how many messages were dropped for it.
    pub(super) fn say(&mut self, group: GroupId, said: Said) -> u64 {
        self.hurry = true;
        self.outbox.push(group, said)
    }

    /// Queues what is to go out by `until`. Gives how many messages were dropped for it.
    pub(super) fn say_by(&mut self, until: Instant, group: GroupId, said: Said) -> u64 {
        self.gather_until = self.gather_until.min(until);
        self.outbox.push(group, said)
    }

    /// Forgets the messages of `group` that wait. Gives how many there were.
    pub(super) fn drop_messages(&mut self, group: GroupId) -> u64 {
        self.outbox.drop_messages(group)
    }

    /// Gives the transport what is due, as far as it takes it.
    pub(super) fn flush(&mut self, now: Instant, shared: &mut Shared) {
        while self.hurry && self.under_way.len() < FRAMES_UNDER_WAY_MAX {
            self.send_frame(now, shared);
        }
    }

    /// Gives the transport all that waits.
    pub(super) fn flush_all(&mut self, now: Instant, shared: &mut Shared) {
        self.hurry = true;
        while self.hurry {
            self.send_frame(now, shared);
        }
    }

    /// Gives the transport one frame, of whatever waits.
    fn send_frame(&mut self, now: Instant, shared: &mut Shared) {
        if let Some((frame, ping)) = self.outbox.next_frame() {
            if let Some(number) = ping {
                if self.pings.len() == PINGS_MAX {
                    self.pings.pop_front();
                }
                self.pings.push_back((number, now));
            }
            self.under_way.push_back(now);
            let link = self.link;
            shared.outputs.push_back(Output::Send { link, frame });
        }
        if self.outbox.is_empty() {
            self.hurry = false;
            self.gather_until = Instant::FAR_FUTURE;
        }
    }

    /// The transport has taken a frame.
    pub(super) fn sent(&mut self) {
        self.under_way.pop_front();
    }

    /// Notes that the peer lives.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) const fn take_ping(&mut self, number: u64) {
        self.outbox.pong(number);
        self.hurry = true;
    }

    pub(super) fn take_pong(&mut self, now: Instant, number: u64) {
        while let Some((asked, sent_at)) = self.pings.front().copied() {
            if asked > number {
                return;
            }
            self.pings.pop_front();
            if asked == number {
                let sample = now.since(sent_at);
                match &mut self.rtt {
                    Some(estimate) => estimate.update(sample),
                    none => *none = Some(Estimate::new(sample)),
                }
            }
        }
    }

    /// Whether it is time to look at the link as a whole.
    pub(super) fn is_beat_due(&self, now: Instant) -> bool {
        self.next_ping_at <= now
    }

    /// Does what has become due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        shared: &mut Shared,
    ) -> Result<(), Closing> {
        if self.gather_until <= now {
            self.hurry = true;
            self.gather_until = Instant::FAR_FUTURE;
        }
        if self.is_beat_due(now) {
            self.beat(now, shared)?;
        }
        Ok(())
    }

    fn beat(&mut self, now: Instant, shared: &mut Shared) -> Result<(), Closing> {
        let silence = shared.config.silence();
        if now.since(self.next_ping_at) > shared.config.heartbeat_interval {
            // This node itself did not run: it cannot tell for how long others were silent.
            self.heard_at = now;
            self.under_way.iter_mut().for_each(|at| *at = now);
        }
        if now.since(self.heard_at) >= silence {
            return Err(Closing::timed_out(Loss::Silent));
        }
        let oldest = self.under_way.front();
        if oldest.is_some_and(|at| now.since(*at) >= silence) {
            return Err(Closing::timed_out(Loss::Stalled));
        }
        self.next_ping += 1;
        self.outbox.ping(self.next_ping);
        self.hurry = true;
        let jitter = shared.random_up_to(shared.config.heartbeat_jitter);
        self.next_ping_at = now + shared.config.heartbeat_interval + jitter;
        Ok(())
    }

    pub(super) fn check_invariants(&self) {
        self.outbox.check_invariants();
        let is_gathering = !self.hurry && self.gather_until < Instant::FAR_FUTURE;
        assert!(
            self.outbox.is_empty() || is_gathering || self.under_way.len() >= FRAMES_UNDER_WAY_MAX,
            "something waits though the transport takes it"
        );
    }
}
