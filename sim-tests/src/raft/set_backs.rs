//! Stores that are set back: a node starts with a copy of its store that was made in an earlier one of its lives, as an
//! operator's backup or a snapshot of its machine may be.
//!
//! What a member has promised since that copy it has forgotten, and nothing in it tells it so. The others find out by the
//! run that they have heard of, which the store has had no more. So the group stays safe where all others have heard of the
//! last run, which began after the copy was made, and remember it until the member was demoted: a scenario may ask no more.

use std::collections::BTreeSet;
use std::time::Duration;

use smalti_core::protocol::raft::{Member, Run};
use smalti_sim::NodeIndex;
use smalti_sim::faults::{Fault, FaultEvent};
use smalti_sim::rng::{Streams, below, between};
use smalti_sim::time::SimTime;

use super::cluster::{Cluster, Ctx, Scheduled};
use super::image::Image;
use super::peers;
use super::rare;

/// The fewest voters of a group in which one may forget: of two, each is needed.
const VOTERS_MIN: usize = 3;

/// Whose store is set back, and when.
#[derive(Clone, Debug)]
pub(super) struct SetBacks {
    node: NodeIndex,
    /// From here on no other node forgets anything.
    from: SimTime,
    times: Vec<Times>,
}

/// How a store is set back once.
#[derive(Clone, Copy, Debug)]
struct Times {
    copied: SimTime,
    /// The node starts another time, and the others hear of it.
    restarted: SimTime,
    set_back: SimTime,
    down: Duration,
}

impl SetBacks {
    /// Draws for a group of so many `members`, in whose election timeouts the times are, in a time of trouble.
    pub(super) fn draw(
        streams: &Streams,
        members: u32,
        unit: Duration,
        (begin, end): (SimTime, SimTime),
    ) -> Self {
        let rng = &mut streams.stream("plan/set back");
        let node = NodeIndex(below(rng, u64::from(members)) as u32);
        let from = begin + between(rng, Duration::ZERO, end.since(begin) / 3);
        let mut times = Vec::new();
        let mut at = from;
        loop {
            let down = between(rng, Duration::ZERO, unit * 3);
            let copied = at + between(rng, Duration::ZERO, unit * 4);
            let restarted = copied + between(rng, Duration::ZERO, unit * 8);
            let set_back = restarted + down + between(rng, unit / 4, unit * 8);
            at = set_back + down + between(rng, unit, unit * 16);
            if at >= end {
                return Self { node, from, times };
            }
            times.push(Times {
                copied,
                restarted,
                set_back,
                down,
            });
        }
    }

    /// Whether a fault of the rest of the plan may strike: what others know they are not to forget.
    pub(super) fn allow(&self, event: &FaultEvent) -> bool {
        match &event.fault {
            Fault::Crash(node) | Fault::CrashAfter(node, _) => {
                *node == self.node || event.at < self.from
            }
            _ => true,
        }
    }

    /// The starts of the node.
    pub(super) fn faults(&self) -> Vec<FaultEvent> {
        let starts = self.times.iter().flat_map(|times| {
            let down = |at: SimTime| {
                let (crash, restart) = (Fault::Crash(self.node), Fault::Restart(self.node));
                [(at, crash), (at + times.down, restart)]
            };
            down(times.restarted)
                .into_iter()
                .chain(down(times.set_back))
        });
        starts.map(|(at, fault)| FaultEvent { at, fault }).collect()
    }

    /// Schedules the rest.
    pub(super) fn begin(&self, ctx: &mut Ctx) {
        for times in &self.times {
            ctx.schedule(times.copied, Scheduled::CopyStore(self.node));
            // It lies there while the node is down.
            let at = times.set_back + times.down / 2;
            ctx.schedule(at, Scheduled::SetBack(self.node));
        }
    }
}

/// A copy of a node's store, and of which life of the node it is.
pub(super) struct Copied {
    image: Image,
    life: u32,
}

/// What was done to the stores of a run.
#[derive(Default)]
pub(super) struct Stores {
    copied: Option<Copied>,
    /// The last run of each node of which others may have heard.
    runs: [Option<Run>; peers::NODES_MAX],
    /// Those who have forgotten.
    set_back: BTreeSet<Member>,
}

impl Stores {
    /// A member of this run says something.
    pub(super) fn says(&mut self, node: NodeIndex, run: Run) {
        self.runs[node.0 as usize] = Some(run);
    }

    /// Whether the member has forgotten what it once promised.
    pub(super) fn has_forgotten(&self, member: &Member) -> bool {
        self.set_back.contains(member)
    }
}

impl Cluster {
    pub(super) fn copy_store(&mut self, node: NodeIndex, ctx: &Ctx) {
        if ctx.is_up(node) {
            let image = self.disks[node.0 as usize].image.clone();
            let life = ctx.life(node);
            self.stores.copied = Some(Copied { image, life });
        }
    }

    /// Sets the store of `node`, which is down, back to the copy, where the others will notice.
    pub(super) fn set_back(&mut self, node: NodeIndex, ctx: &Ctx) {
        let Some(copied) = self.stores.copied.take() else {
            return;
        };
        let (Some(then), Some(now)) = (
            copied.image.hard_state,
            self.disks[node.0 as usize].image.hard_state,
        ) else {
            return;
        };
        let is_same = (then.instance, then.incarnation) == (now.instance, now.incarnation);
        let life = then.incarnation.and_then(|of| self.ledger.find(&of));
        let voters = life
            .and_then(|life| life.configuration())
            .map_or(0, |it| it.voters.len());
        let may_forget = copied.image.voters() >= VOTERS_MIN && voters >= VOTERS_MIN;
        if ctx.is_up(node) || copied.life >= ctx.life(node) || !is_same || !may_forget {
            return;
        }
        if !self.all_know_a_run_since(then.boot, node, ctx) {
            self.coverage.reach(rare::SET_BACK_SPARED);
            return;
        }
        let member = Member {
            peer: peers::peer(node),
            instance: now.instance,
        };
        if copied.image.last() < self.disks[node.0 as usize].image.last() {
            self.coverage.reach(rare::SET_BACK);
        }
        if then.term < now.term {
            self.coverage.reach(rare::SET_BACK_VOTE);
        }
        self.disks[node.0 as usize].image = copied.image;
        self.stores.set_back.insert(member);
    }

    /// Whether all others are there and have heard of the last run of `node`, and that began after the one that was its
    /// number `boot`: what is of that one itself may be from before a promise or after it, and nobody can tell.
    fn all_know_a_run_since(&self, boot: u64, node: NodeIndex, ctx: &Ctx) -> bool {
        let run = self.stores.runs[node.0 as usize].filter(|run| run.boot > boot);
        let mut others = (0..self.setup.nodes)
            .map(NodeIndex)
            .filter(|it| *it != node);
        run.is_some()
            && others.all(|other| {
                let watch = &self.watches[other.0 as usize];
                ctx.is_up(other) && !watch.stopped && watch.evidence.run_of(node) == run
            })
    }
}
