//! What becomes of each packet.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Fault, LinkFaults};
use crate::NodeIndex;
use crate::rng::{Streams, below, chance, exponential};
use crate::time::{SimTime, nanos};

/// When the copies of a packet arrive: none where it is lost, two where it is duplicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Arrival of the first copy.
    pub first: Option<SimTime>,
    /// Arrival of the second copy.
    pub second: Option<SimTime>,
    /// Where a byte is to change, as a number to be taken modulo the length, and by what it is to be
    /// changed (never zero).
    pub corrupt: Option<(u64, u8)>,
}

/// How a message fares that is sent again until it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmission {
    /// When the copy that arrives leaves the sender: if the sender is gone by then, none does.
    pub leaves: SimTime,
    /// When it arrives.
    pub arrives: SimTime,
}

/// Transmissions of a reliable message before it is taken to arrive, whatever the loss.
const TRANSMISSIONS_MAX: u32 = 16;
/// The shortest time before a reliable message is sent again.
const RETRANSMIT_MIN: Duration = Duration::from_millis(20);

/// The network between the nodes: who reaches whom, and how packets fare.
///
/// Each class of fault draws from a random stream of its own.
#[derive(Clone, Debug)]
pub struct FaultLayer {
    default: LinkFaults,
    paths: BTreeMap<(NodeIndex, NodeIndex), LinkFaults>,
    cuts: CutMatrix,
    /// Until when each path with a bandwidth is taken up by packets sent before.
    busy_until: BTreeMap<(NodeIndex, NodeIndex), SimTime>,
    loss: ChaCha8Rng,
    latency: ChaCha8Rng,
    duplicate: ChaCha8Rng,
    reorder: ChaCha8Rng,
    corrupt: ChaCha8Rng,
}

impl FaultLayer {
    /// A network that treats all packets as `links` says.
    #[must_use]
    pub fn new(streams: &Streams, links: LinkFaults) -> Self {
        Self {
            default: links,
            paths: BTreeMap::new(),
            cuts: CutMatrix::default(),
            busy_until: BTreeMap::new(),
            loss: streams.stream("net/loss"),
            latency: streams.stream("net/latency"),
            duplicate: streams.stream("net/duplicate"),
            reorder: streams.stream("net/reorder"),
            corrupt: streams.stream("net/corrupt"),
        }
    }

    /// Makes the changes to the network that `fault` stands for; faults of nodes change nothing here.
    pub fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut(from, to) => self.cuts.cut(from, to),
            Fault::Partition(left, right) => {
                self.cuts.cut(left, right);
                self.cuts.cut(right, left);
            }
            Fault::Mend(from, to) => self.cuts.mend(from, to),
            Fault::Repair(left, right) => {
                self.cuts.mend(left, right);
                self.cuts.mend(right, left);
            }
            Fault::EndCut(from, to) => self.cuts.end_cut(from, to),
            Fault::EndPartition(left, right) => {
                self.cuts.end_cut(left, right);
                self.cuts.end_cut(right, left);
            }
            Fault::RepairAll => self.cuts.clear(),
            Fault::Links(links) => self.default = *links,
            Fault::Path(from, to, links) => {
                self.paths.insert((*from, *to), *links);
            }
            Fault::Crash(_)
            | Fault::CrashAfter(..)
            | Fault::Restart(_)
            | Fault::Pause(_)
            | Fault::Resume(_)
            | Fault::Drift(..)
            | Fault::Jump(..)
            | Fault::FailSync(_)
            | Fault::FailWrite(_)
            | Fault::SlowDisk(..)
            | Fault::FillDisk(_)
            | Fault::FreeDisk(_) => {}
        }
    }

    /// Whether packets from `from` do not arrive at `to`.
    #[must_use]
    pub fn is_cut(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.cuts.contains(from, to)
    }

    /// How packets from `from` to `to` are treated.
    #[must_use]
    pub fn links(&self, from: NodeIndex, to: NodeIndex) -> LinkFaults {
        if self.paths.is_empty() {
            return self.default;
        }
        self.paths.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// What becomes of a packet of `len` bytes sent now. A node's packets to itself arrive at once.
    pub fn packet(&mut self, now: SimTime, from: NodeIndex, to: NodeIndex, len: usize) -> Copies {
        if from == to {
            return Copies {
                first: Some(now),
                ..Copies::default()
            };
        }
        let links = self.links(from, to);
        let leaves = self.through(now, from, to, len, &links);
        // Drawn for lost packets as well, so that mending the loss moves no latency.
        let first = leaves + self.draw_latency(&links);
        let held_back = self.draw_reorder(&links);
        let second = chance(&mut self.duplicate, links.duplicate_ppm)
            .then(|| leaves + draw_latency(&mut self.duplicate, &links));
        let corrupt = chance(&mut self.corrupt, links.corrupt_ppm).then(|| {
            let draw = self.corrupt.next_u64();
            (draw >> 8, (draw as u8).max(1))
        });
        let lost = chance(&mut self.loss, links.loss_ppm) || self.is_cut(from, to);
        if lost {
            return Copies::default();
        }
        Copies {
            first: Some(first + held_back),
            second,
            corrupt,
        }
    }

    /// How a message of `len` bytes fares that is sent now, and again until it arrives: loss shows as delay.
    /// Cuts are not looked at.
    pub fn reliable(
        &mut self,
        now: SimTime,
        from: NodeIndex,
        to: NodeIndex,
        len: usize,
    ) -> Transmission {
        if from == to {
            return Transmission {
                leaves: now,
                arrives: now,
            };
        }
        let links = self.links(from, to);
        let mut leaves = self.through(now, from, to, len, &links);
        let mut timeout = RETRANSMIT_MIN.max(links.latency.mean * 3);
        for _ in 1..TRANSMISSIONS_MAX {
            if !chance(&mut self.loss, links.loss_ppm) {
                break;
            }
            leaves = leaves + timeout;
            timeout *= 2;
        }
        let held_back = self.draw_reorder(&links);
        Transmission {
            leaves,
            arrives: leaves + self.draw_latency(&links) + held_back,
        }
    }

    /// A latency of the path from `from` to `to`.
    pub fn latency(&mut self, from: NodeIndex, to: NodeIndex) -> Duration {
        let links = self.links(from, to);
        self.draw_latency(&links)
    }

    fn draw_latency(&mut self, links: &LinkFaults) -> Duration {
        draw_latency(&mut self.latency, links)
    }

    fn draw_reorder(&mut self, links: &LinkFaults) -> Duration {
        if chance(&mut self.reorder, links.reorder_ppm) {
            let delay = below(
                &mut self.reorder,
                nanos(links.reorder_delay).saturating_add(1),
            );
            return Duration::from_nanos(delay);
        }
        Duration::ZERO
    }

    /// When `len` bytes sent now are through the bottleneck.
    fn through(
        &mut self,
        now: SimTime,
        from: NodeIndex,
        to: NodeIndex,
        len: usize,
        links: &LinkFaults,
    ) -> SimTime {
        let Some(bandwidth) = links.bandwidth else {
            return now;
        };
        let busy_until = self.busy_until.entry((from, to)).or_default();
        let takes = (len as u64).saturating_mul(1_000_000_000) / bandwidth.max(1);
        *busy_until = (*busy_until).max(now) + Duration::from_nanos(takes);
        *busy_until
    }
}

fn draw_latency(rng: &mut ChaCha8Rng, links: &LinkFaults) -> Duration {
    let (min, mean, max) = (
        nanos(links.latency.min),
        nanos(links.latency.mean),
        nanos(links.latency.max),
    );
    if mean <= min {
        return links.latency.min;
    }
    // The mean of the draw is 1.5 half-lives.
    let latency = min.saturating_add(exponential(rng, (mean - min) / 3 * 2));
    Duration::from_nanos(latency.min(max.max(min)))
}

/// How often each directed path is cut: one row of counts for each sender.
///
/// Faults of several classes cut the same path at the same time; it is whole again once all of them
/// are over.
#[derive(Clone, Debug, Default)]
struct CutMatrix {
    rows: BTreeMap<NodeIndex, Vec<u16>>,
}

impl CutMatrix {
    fn cut(&mut self, from: &[NodeIndex], to: &[NodeIndex]) {
        let len = to.iter().map(|node| node.0 as usize + 1).max().unwrap_or(0);
        for sender in from {
            let row = self.rows.entry(*sender).or_default();
            row.resize(row.len().max(len), 0);
            for node in to {
                let count = &mut row[node.0 as usize];
                *count = count.saturating_add(1);
            }
        }
    }

    /// Takes one cut of each path back.
    fn end_cut(&mut self, from: &[NodeIndex], to: &[NodeIndex]) {
        self.lower(from, to, |count| count.saturating_sub(1));
    }

    /// Takes all cuts of each path back.
    fn mend(&mut self, from: &[NodeIndex], to: &[NodeIndex]) {
        self.lower(from, to, |_| 0);
    }

    fn lower(&mut self, from: &[NodeIndex], to: &[NodeIndex], lowered: impl Fn(u16) -> u16) {
        for sender in from {
            let Some(row) = self.rows.get_mut(sender) else {
                continue;
            };
            for node in to {
                if let Some(count) = row.get_mut(node.0 as usize) {
                    *count = lowered(*count);
                }
            }
            if row.iter().all(|count| *count == 0) {
                self.rows.remove(sender);
            }
        }
    }

    fn clear(&mut self) {
        self.rows.clear();
    }

    fn contains(&self, from: NodeIndex, to: NodeIndex) -> bool {
        if self.rows.is_empty() || from == to {
            return false;
        }
        let count = self.rows.get(&from).and_then(|row| row.get(to.0 as usize));
        count.is_some_and(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeIndex = NodeIndex(0);
    const B: NodeIndex = NodeIndex(1);
    const FAR: NodeIndex = NodeIndex(700);

    fn layer(links: LinkFaults) -> FaultLayer {
        FaultLayer::new(&Streams::new(1), links)
    }

    fn arrivals(layer: &mut FaultLayer, count: usize) -> Vec<Copies> {
        (0..count)
            .map(|_| layer.packet(SimTime::ZERO, A, B, 100))
            .collect()
    }

    #[test]
    fn latencies_keep_their_bounds_and_their_mean() {
        let latency = Latency {
            min: Duration::from_millis(2),
            mean: Duration::from_millis(5),
            max: Duration::from_millis(30),
        };
        let mut layer = layer(LinkFaults {
            latency,
            ..LinkFaults::default()
        });
        let mut sum = Duration::ZERO;
        for copies in arrivals(&mut layer, 10_000) {
            let taken = copies.first.unwrap().since(SimTime::ZERO);
            assert!(taken >= latency.min && taken <= latency.max);
            sum += taken;
        }
        let mean = sum / 10_000;
        assert!(mean > Duration::from_micros(4_800) && mean < Duration::from_micros(5_200));
    }

    #[test]
    fn taking_the_loss_away_moves_no_latency() {
        let lossy = LinkFaults {
            loss_ppm: 300_000,
            ..LinkFaults::default()
        };
        let with = arrivals(&mut layer(lossy), 1_000);
        let without = arrivals(&mut layer(LinkFaults::default()), 1_000);
        let lost = with.iter().filter(|copies| copies.first.is_none()).count();
        assert!((200..400).contains(&lost), "{lost}");
        for (with, without) in with.iter().zip(&without) {
            assert!(with.first.is_none() || with.first == without.first);
        }
    }

    #[test]
    fn each_class_of_fault_does_what_it_says() {
        let base = LinkFaults::constant(Duration::from_millis(1));
        let on_time = Some(SimTime::from(Duration::from_millis(1)));
        let all = |links| arrivals(&mut layer(links), 200);
        assert!(
            all(base)
                .iter()
                .all(|copies| copies.first == on_time && copies.corrupt.is_none())
        );
        let twice = all(LinkFaults {
            duplicate_ppm: 1_000_000,
            ..base
        });
        assert!(twice.iter().all(|copies| copies.second == on_time));
        let corrupt = all(LinkFaults {
            corrupt_ppm: 1_000_000,
            ..base
        });
        assert!(
            corrupt
                .iter()
                .all(|copies| copies.corrupt.is_some_and(|(_, by)| by != 0))
        );
        let held_back = all(LinkFaults {
            reorder_ppm: 500_000,
            reorder_delay: Duration::from_millis(9),
            ..base
        });
        let late = held_back
            .iter()
            .filter(|copies| copies.first > on_time)
            .count();
        assert!((60..140).contains(&late), "{late}");
    }

    #[test]
    fn a_narrow_path_makes_packets_wait_for_each_other() {
        let links = LinkFaults {
            bandwidth: Some(100_000),
            ..LinkFaults::constant(Duration::from_millis(1))
        };
        let copies = arrivals(&mut layer(links), 3);
        let taken: Vec<u64> = copies
            .iter()
            .map(|copies| copies.first.unwrap().as_nanos() / 1_000_000)
            .collect();
        assert_eq!(taken, [2, 3, 4]);
    }

    #[test]
    fn cuts_are_one_way_and_are_mended_one_by_one() {
        let mut layer = layer(LinkFaults::default());
        layer.apply(&Fault::Cut(vec![A], vec![B, FAR]));
        assert!(layer.is_cut(A, B) && layer.is_cut(A, FAR) && !layer.is_cut(B, A));
        assert_eq!(layer.packet(SimTime::ZERO, A, B, 1), Copies::default());
        assert!(layer.packet(SimTime::ZERO, B, A, 1).first.is_some());
        layer.apply(&Fault::Mend(vec![A], vec![FAR]));
        assert!(layer.is_cut(A, B) && !layer.is_cut(A, FAR));
        layer.apply(&Fault::Partition(vec![A], vec![B]));
        assert!(layer.is_cut(B, A));
        layer.apply(&Fault::RepairAll);
        assert!(!layer.is_cut(A, B) && !layer.is_cut(B, A));
    }

    #[test]
    fn a_fault_that_ends_leaves_the_cuts_of_others() {
        let (left, right) = (vec![A, FAR], vec![B]);
        let mut layer = layer(LinkFaults::default());
        layer.apply(&Fault::Partition(left.clone(), right.clone()));
        layer.apply(&Fault::Partition(vec![A], vec![B]));
        layer.apply(&Fault::Cut(vec![B], vec![A]));
        layer.apply(&Fault::EndPartition(vec![A], vec![B]));
        assert!(layer.is_cut(A, B) && layer.is_cut(B, A) && layer.is_cut(FAR, B));
        layer.apply(&Fault::EndPartition(left, right));
        assert!(!layer.is_cut(A, B) && layer.is_cut(B, A) && !layer.is_cut(FAR, B));
        layer.apply(&Fault::EndCut(vec![B], vec![A]));
        assert!(!layer.is_cut(B, A));
        // An end too many is none of a cut to come.
        layer.apply(&Fault::EndCut(vec![B], vec![A]));
        layer.apply(&Fault::Cut(vec![B], vec![A]));
        assert!(layer.is_cut(B, A));
    }

    #[test]
    fn a_repair_mends_what_was_cut_however_often() {
        let mut layer = layer(LinkFaults::default());
        for _ in 0..3 {
            layer.apply(&Fault::Partition(vec![A], vec![B, FAR]));
        }
        layer.apply(&Fault::Mend(vec![A], vec![B]));
        assert!(!layer.is_cut(A, B) && layer.is_cut(B, A));
        layer.apply(&Fault::Repair(vec![A], vec![B]));
        assert!(!layer.is_cut(B, A) && layer.is_cut(A, FAR));
    }

    #[test]
    fn loss_delays_a_reliable_message_and_never_drops_it() {
        let links = LinkFaults {
            loss_ppm: 500_000,
            ..LinkFaults::constant(Duration::from_millis(1))
        };
        let mut layer = layer(links);
        let taken: Vec<Transmission> = (0..1_000)
            .map(|_| layer.reliable(SimTime::ZERO, A, B, 1))
            .collect();
        let prompt = taken
            .iter()
            .filter(|sent| sent.leaves == SimTime::ZERO)
            .count();
        assert!((400..600).contains(&prompt), "{prompt}");
        assert!(
            taken
                .iter()
                .all(|sent| sent.arrives.since(sent.leaves).as_millis() == 1)
        );
    }

    use super::super::Latency;
}
