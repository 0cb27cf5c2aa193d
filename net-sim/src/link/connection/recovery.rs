//! What has been sent and not acknowledged: acknowledgements, losses, round trips and timers, after RFC 9002.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use smalti_core::runtime::ConnectionError;
use smalti_core::time::Instant;

use super::super::packet::Frame;
use super::super::{IDLE_TIMEOUT, KEEP_ALIVE_INTERVAL};
use super::{Connection, Notice, Sent};

/// Packets by which a later acknowledgement outruns one that is then taken for lost (RFC 9002, section 6.1.1), until it
/// is seen that the path brings them further out of order.
pub(super) const REORDERING_PACKETS: u64 = 3;
/// The most that this grows to.
const REORDERING_PACKETS_MAX: u64 = 1_024;
/// Packets taken for lost whose late acknowledgements are still understood.
const LOST_KEPT: usize = 1_024;
/// The round-trip time assumed before any was measured.
const RTT_INITIAL: Duration = Duration::from_millis(100);
/// The finest that timers are; what is added to a probe timeout.
const GRANULARITY: Duration = Duration::from_millis(5);
/// Doublings of the probe timeout, at most.
const BACKOFF_MAX: u32 = 6;

impl Connection {
    pub(in crate::link) fn rtt(&self) -> Duration {
        self.rtt.map_or(RTT_INITIAL, |(smoothed, _)| smoothed)
    }

    pub(in crate::link) fn set_first_rtt(&mut self, sample: Duration) {
        self.measure(sample);
    }

    pub(super) fn receive_ack(&mut self, now: Instant, ranges: &[(u64, u64)]) {
        let Some((_, largest)) = ranges.first().copied() else {
            return;
        };
        if largest >= self.next_number {
            return;
        }
        let mut newly = Vec::new();
        for (first, last) in ranges {
            if first <= last {
                newly.extend(self.sent.range(*first..=*last).map(|(number, _)| *number));
                self.arrived_late(largest, *first..=*last);
            }
        }
        if newly.is_empty() {
            return;
        }
        self.probes = 0;
        for number in newly {
            let Some(packet) = self.sent.remove(&number) else {
                continue;
            };
            self.in_flight -= packet.len;
            if number == largest {
                self.measure(now.since(packet.at));
            }
            self.acknowledge_contents(packet.contents);
        }
        let largest = self
            .largest_acknowledged
            .map_or(largest, |known| known.max(largest));
        self.largest_acknowledged = Some(largest);
        let late = self.lateness();
        let lost: Vec<u64> = self
            .sent
            .range(..largest)
            .filter(|(number, packet)| {
                largest - **number >= self.reordering || now.since(packet.at) >= late
            })
            .map(|(number, _)| *number)
            .collect();
        lost.into_iter().for_each(|number| self.lose(number));
    }

    /// Takes note of acknowledgements of packets that were taken for lost: they were only out of order, and from now on
    /// such are waited for. Section 6.1.1 advises this; without it, a path whose latency varies would have almost
    /// everything sent twice.
    fn arrived_late(&mut self, largest: u64, numbers: RangeInclusive<u64>) {
        let late: Vec<u64> = self
            .lost
            .range(numbers)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.reordering = (largest - number + 1).clamp(self.reordering, REORDERING_PACKETS_MAX);
            if let Some(contents) = self.lost.remove(&number) {
                self.acknowledge_contents(contents);
            }
        }
    }

    fn acknowledge_contents(&mut self, contents: Vec<Sent>) {
        for sent in contents {
            if let Sent::Stream(id, range, fin) = sent {
                self.acknowledge_stream(id, range, fin);
            }
        }
    }

    pub(super) fn acknowledge_stream(&mut self, id: u64, range: Range<u64>, fin: bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.acknowledge(range, fin);
            self.notices.push_back(Notice::Writable(id));
            self.remove_if_done(id);
        }
    }

    pub(super) fn lose(&mut self, number: u64) {
        if let Some(packet) = self.sent.remove(&number) {
            self.in_flight -= packet.len;
            self.lost.insert(number, packet.contents.clone());
            if self.lost.len() > LOST_KEPT {
                self.lost.pop_first();
            }
            self.send_again(packet.contents);
        }
    }

    /// Queues what a packet carried, as far as it still matters.
    pub(super) fn send_again(&mut self, contents: Vec<Sent>) {
        for sent in contents {
            match sent {
                Sent::Stream(id, range, fin) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.send.lose(range, fin);
                    }
                }
                Sent::MaxData => self.control.push_back(Frame::MaxData(self.max_data)),
                Sent::MaxStreamData(id) => {
                    if let Some(stream) = self.streams.get(&id) {
                        let max = stream.recv.max;
                        self.control.push_back(Frame::MaxStreamData { id, max });
                    }
                }
                Sent::MaxStreams => self.control.push_back(Frame::MaxStreams(self.max_streams)),
                Sent::Reset(id, code, len) => {
                    self.control.push_back(Frame::Reset { id, code, len });
                }
                Sent::Stop(id, code) => self.control.push_back(Frame::Stop { id, code }),
            }
        }
    }

    /// RFC 9002, section 5.3.
    pub(super) fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                let deviation = smoothed.abs_diff(sample);
                ((smoothed * 7 + sample) / 8, (variation * 3 + deviation) / 4)
            }
        });
    }

    /// After how long a packet is taken for lost where a later one was acknowledged: section 6.1.2, with room for
    /// round trips that vary.
    fn lateness(&self) -> Duration {
        let (smoothed, variation) = self.rtt.unwrap_or((RTT_INITIAL, RTT_INITIAL / 2));
        (smoothed / 8 * 9).max(smoothed + variation * 4)
    }

    pub(super) fn probe_timeout(&self) -> Duration {
        let (smoothed, variation) = self.rtt.unwrap_or((RTT_INITIAL, RTT_INITIAL / 2));
        (smoothed + variation * 4 + GRANULARITY) * (1 << self.probes.min(BACKOFF_MAX))
    }

    pub(in crate::link) fn draining_time(&self) -> Duration {
        let (smoothed, variation) = self.rtt.unwrap_or((RTT_INITIAL, RTT_INITIAL / 2));
        (smoothed + variation * 4 + GRANULARITY) * 3
    }

    pub(in crate::link) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.closed.is_some() {
            return None;
        }
        let idle = (self.last_heard + IDLE_TIMEOUT, "idle");
        let keep_alive = (self.last_said + KEEP_ALIVE_INTERVAL, "keep alive");
        let mut next = if idle.0 <= keep_alive.0 {
            idle
        } else {
            keep_alive
        };
        if let Some((_, packet)) = self.sent.last_key_value() {
            let probe = packet.at + self.probe_timeout();
            if probe < next.0 {
                next = (probe, "probe");
            }
        }
        Some(next)
    }

    pub(in crate::link) fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        if now >= self.last_heard + IDLE_TIMEOUT {
            self.close(ConnectionError::TimedOut);
            return;
        }
        if now >= self.last_said + KEEP_ALIVE_INTERVAL {
            self.ping = true;
        }
        if let Some((_, packet)) = self.sent.last_key_value()
            && now >= packet.at + self.probe_timeout()
        {
            self.probes += 1;
            // What has waited longest goes out again. It is not given up for lost: it may yet be acknowledged,
            // and show that the path is slower than was thought.
            let oldest = self
                .sent
                .values()
                .take(2)
                .flat_map(|packet| packet.contents.clone());
            let oldest: Vec<Sent> = oldest.collect();
            self.send_again(oldest);
            self.ping = true;
        }
    }
}
