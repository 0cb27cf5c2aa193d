//! What is drawn from the seed.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{Config, FoundingRule, LeadershipPreference, StorageClass};
use smalti_sim::NodeIndex;
use smalti_sim::faults::{Churn, Fault, FaultEvent, FaultPlan, FaultSchedule, Latency, LinkFaults};
use smalti_sim::rng::{MILLION, Streams, below, between, chance};
use smalti_sim::time::SimTime;

use super::clients::Workload;
use super::cluster::Setup;
use super::network::{BondRules, Carriage};
use super::set_backs::SetBacks;
use super::trials::{self, Beginning, Trials};
use crate::Options;

/// Members at most, with those beyond the voters.
pub(super) const MEMBERS_MAX: u32 = 9;

/// How long things go wrong once the group may have been founded.
const TROUBLE: Duration = Duration::from_secs(25);

/// Faults of disks, and of the power.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MorePlan {
    /// Syncs that fail, with the crash and the restart after.
    failures: Option<Churn>,
    slow: Option<Churn>,
    full: Option<Churn>,
    /// Crashes of several nodes, shortly one after the other.
    power: Option<Churn>,
}

/// What is drawn from the seed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) setup: Setup,
    faults: FaultPlan,
    more: MorePlan,
    trials: Trials,
    /// Before this nothing goes wrong.
    calm_until: SimTime,
    /// When each node starts.
    pub(super) starts: Vec<SimTime>,
    /// Who leaves the group, and when.
    pub(super) leaves: Option<(SimTime, NodeIndex)>,
    /// Whether some nodes stay broken to the end.
    pub(super) breaks_minority: bool,
    /// Whose store is set back, and when.
    pub(super) set_backs: Option<SetBacks>,
}

impl Plan {
    /// What `options` leave open, the seed says.
    pub(super) fn draw(streams: &Streams, options: &Options) -> Self {
        Self::draw_with(streams, options, Trials::draw)
    }

    /// The same, for two parts that begin apart and then meet.
    pub(super) fn draw_meeting(streams: &Streams, options: &Options) -> Self {
        Self::draw_with(streams, options, Trials::draw_meeting)
    }

    fn draw_with(
        streams: &Streams,
        options: &Options,
        draw_trials: fn(&Streams, u32, &mut Config) -> Trials,
    ) -> Self {
        let mut rng = streams.stream("plan");
        let rng = &mut rng;
        let drawn = [3, 3, 3, 5, 5, 7][below(rng, 6) as usize];
        let voters = options.nodes.unwrap_or(drawn);
        let extra = if chance(rng, 300_000) {
            1 + below(rng, 2) as u32
        } else {
            0
        };
        let members = (voters + extra).min(MEMBERS_MAX);
        let mut config = draw_config(rng, voters);
        let calm = match config.founding {
            FoundingRule::Any => true,
            FoundingRule::Expect(_) => chance(rng, 300_000),
        };
        let calm_until = if calm {
            SimTime::from(config.bootstrap_delay * 4 + Duration::from_millis(500))
        } else {
            SimTime::ZERO
        };
        if config.storage == StorageClass::Durable {
            // A lone founder that loses its disk loses the group.
            config.founding = match config.founding {
                FoundingRule::Any if chance(rng, 500_000) => FoundingRule::Expect(voters / 2 + 1),
                rule => rule,
            };
        }
        let trials = draw_trials(streams, members, &mut config);
        #[cfg(smalti_mutants)]
        {
            config.mutant = options.mutant;
        }
        let calm_until = match trials.beginning {
            Beginning::Together => calm_until,
            Beginning::Alone | Beginning::Apart(..) => {
                SimTime::from(config.bootstrap_delay * 4 + Duration::from_millis(500))
            }
        };
        let until = calm_until + TROUBLE;
        let preferences = (0..members).map(|member| {
            if member >= voters && chance(rng, 300_000) {
                LeadershipPreference::Observer
            } else if chance(rng, 50_000) {
                LeadershipPreference::Reluctant { factor: 3 }
            } else {
                LeadershipPreference::Normal
            }
        });
        let preferences = preferences.collect();
        let bonds = draw_bonds(rng, &config);
        let workload = draw_workload(rng, members, options.operations);
        let disk_max =
            Duration::from_micros(50) + between(rng, Duration::ZERO, Duration::from_millis(20));
        let setup = Setup {
            nodes: members,
            preferences,
            bonds,
            workload,
            disk: (Duration::from_micros(50), disk_max),
            is_canonical: chance(rng, 500_000),
            chunk_len: if chance(rng, 500_000) { 64 } else { 1 << 16 },
            collects: trials::draw_collects(streams),
            told_of_founding: (config.founding == FoundingRule::Any || chance(rng, 500_000))
                && !matches!(trials.beginning, Beginning::Apart(..)),
            until,
            config,
        };
        let faults = draw_faults(rng, &setup.config);
        let more = draw_more(rng, setup.config.storage);
        let mut later = streams.stream("plan/starts");
        let starts = (0..members).map(|member| {
            let late = if member < voters {
                below(rng, 50)
            } else {
                below(rng, 15_000)
            };
            let late = SimTime::from(Duration::from_millis(late));
            trials.start(member, late, &setup.config, &mut later)
        });
        let starts = starts.collect();
        let leaves = chance(rng, 100_000).then(|| {
            let at = calm_until + between(rng, Duration::from_secs(2), TROUBLE);
            (at, NodeIndex(below(rng, u64::from(members)) as u32))
        });
        Self {
            setup,
            faults,
            more,
            trials,
            calm_until,
            starts,
            leaves,
            breaks_minority: chance(rng, 400_000),
            set_backs: None,
        }
    }

    /// The same, with a member that forgets what it has promised, and no other that does.
    pub(super) fn with_set_backs(mut self, streams: &Streams) -> Self {
        let config = &mut self.setup.config;
        config.storage = StorageClass::Durable;
        config.reform_after = None;
        self.trials.orders.clear();
        // It ends with a crash.
        self.trials.slow_founder = None;
        self.more.failures = None;
        self.more.full = None;
        self.leaves = None;
        self.breaks_minority = false;
        let trouble = (self.calm_until, self.setup.until);
        let unit = config.election_timeout;
        self.set_backs = Some(SetBacks::draw(streams, self.setup.nodes, unit, trouble));
        self
    }

    pub(super) fn describe(&self) -> Vec<String> {
        vec![
            format!("{:?}", self.setup),
            format!("{:?}", self.faults),
            format!("{:?}", self.more),
            format!("{:?}", self.trials),
            format!(
                "calm until {}, starts at {:?}",
                self.calm_until, self.starts
            ),
            format!(
                "leaves {:?}, a minority stays broken {}",
                self.leaves, self.breaks_minority
            ),
            format!("{:?}", self.set_backs),
        ]
    }

    /// When operators have the group go on from what is left, and where.
    pub(super) fn orders(&self) -> &[(SimTime, NodeIndex)] {
        &self.trials.orders
    }

    /// What goes wrong, and when.
    pub(super) fn schedule(&self, streams: &Streams) -> FaultSchedule {
        let nodes = self.setup.nodes;
        let calm = self.calm_until.since(SimTime::ZERO);
        let mut schedule = self.faults.schedule(streams, nodes, SimTime::from(TROUBLE));
        let end = SimTime::from(TROUBLE);
        let mut each = |label: &str, churn: Option<Churn>, draw: &mut DrawFaults<'_>| {
            let Some(churn) = churn else { return };
            let mut rng = streams.stream(label);
            let mut at = SimTime::ZERO + between(&mut rng, Duration::ZERO, churn.every * 2);
            while at < end {
                let node = NodeIndex(below(&mut rng, u64::from(nodes)) as u32);
                let lasts = between(&mut rng, churn.lasts / 2, churn.lasts * 3 / 2);
                for (after, fault) in draw(&mut rng, node, lasts) {
                    let at = (at + after).min(end);
                    schedule.events.push(FaultEvent { at, fault });
                }
                at = at + lasts + between(&mut rng, churn.every / 2, churn.every * 3 / 2);
            }
        };
        each("fault/sync", self.more.failures, &mut |rng, node, lasts| {
            let down = between(rng, Duration::ZERO, lasts);
            vec![
                (Duration::ZERO, Fault::FailSync(node)),
                (lasts, Fault::Crash(node)),
                (lasts + down, Fault::Restart(node)),
            ]
        });
        each(
            "fault/slow disk",
            self.more.slow,
            &mut |rng, node, lasts| {
                let times = 2 + below(rng, 50) as u32;
                vec![
                    (Duration::ZERO, Fault::SlowDisk(node, times)),
                    (lasts, Fault::SlowDisk(node, 1)),
                ]
            },
        );
        each("fault/full disk", self.more.full, &mut |_, node, lasts| {
            vec![
                (Duration::ZERO, Fault::FillDisk(node)),
                (lasts, Fault::FreeDisk(node)),
                (lasts, Fault::Crash(node)),
                (lasts, Fault::Restart(node)),
            ]
        });
        each("fault/power", self.more.power, &mut |rng, _, lasts| {
            let mut faults = Vec::new();
            for node in (0..nodes).map(NodeIndex) {
                if chance(rng, 700_000) {
                    let begin = between(rng, Duration::ZERO, lasts / 4);
                    let down = between(rng, Duration::ZERO, lasts);
                    faults.push((begin, Fault::Crash(node)));
                    faults.push((begin + down, Fault::Restart(node)));
                }
            }
            faults
        });
        let (unit, links) = (self.setup.config.election_timeout, self.faults.links);
        each(
            "fault/slow path",
            self.trials.slow_paths,
            &mut |rng, node, lasts| trials::slow_paths(rng, node, lasts, nodes, unit, links),
        );
        each(
            "fault/rolling",
            self.trials.rolling,
            &mut |rng, node, lasts| trials::rolling(rng, node, lasts, nodes),
        );
        each(
            "fault/majorities",
            self.trials.majorities,
            &mut |rng, node, lasts| trials::majorities(rng, node, lasts, nodes),
        );
        each(
            "fault/slow founder",
            self.trials.slow_founder,
            &mut |rng, _, lasts| trials::slow_founder(rng, lasts),
        );
        schedule.events.sort_by_key(|event| event.at);
        for event in &mut schedule.events {
            // Clocks are wrong from the start.
            let is_clock = matches!(event.fault, Fault::Drift(..) | Fault::Jump(..));
            if !(is_clock && event.at == SimTime::ZERO) {
                event.at = event.at + calm;
            }
        }
        schedule
            .events
            .extend(self.trials.first_faults(links, self.setup.until));
        if let Some(set_backs) = &self.set_backs {
            schedule.events.retain(|event| set_backs.allow(event));
            schedule.events.extend(set_backs.faults());
        }
        schedule.events.sort_by_key(|event| event.at);
        if calm > Duration::ZERO {
            // Loss and delay as well begin later.
            let links = std::mem::replace(&mut schedule.links, quiet());
            let at = SimTime::from(calm);
            let place = schedule.events.partition_point(|event| event.at < at);
            let fault = Fault::Links(links);
            schedule.events.insert(place, FaultEvent { at, fault });
        }
        schedule
    }
}

/// Draws faults that belong together, most often of one node, and how long after the first each comes. They
/// last about so long.
type DrawFaults<'a> =
    dyn FnMut(&mut ChaCha8Rng, NodeIndex, Duration) -> Vec<(Duration, Fault)> + 'a;

/// A network at its best.
pub(super) fn quiet() -> LinkFaults {
    LinkFaults {
        latency: Latency {
            min: Duration::from_millis(1),
            mean: Duration::from_millis(2),
            max: Duration::from_millis(5),
        },
        ..LinkFaults::default()
    }
}

/// Has members that catch up ask anew sooner than by default. Requests are lost, and who was asked is paused: others are asked in
/// time for what is expected of them.
pub(crate) fn hasten_catching_up(config: &mut Config) {
    config.fetch_timeout = config.forward_timeout / 2;
    config.snapshot_request_timeout = config.forward_timeout / 2;
    config.snapshot_ttl = config.forward_timeout * 10;
}

fn draw_config(rng: &mut ChaCha8Rng, voters: u32) -> Config {
    let mut config = Config::default();
    if !chance(rng, 200_000) {
        // The same proportions, four to thirteen times as fast.
        let unit = between(rng, Duration::from_millis(150), Duration::from_millis(500));
        config.election_timeout = unit;
        config.election_timeout_jitter = unit / 4 + between(rng, Duration::ZERO, unit);
        config.heartbeat_interval = unit / 4;
        config.heartbeat_jitter = unit / 14;
        config.bootstrap_delay = unit * 3 / 2;
        config.forward_timeout = unit / 2 + between(rng, Duration::ZERO, unit);
        config.query_timeout = unit / 2 + between(rng, Duration::ZERO, unit);
        config.max_missed_heartbeats = 3 + below(rng, 10) as u32;
    }
    hasten_catching_up(&mut config);
    config.fetch_batch_size = 512;
    config.max_voters = voters;
    config.storage = if chance(rng, 500_000) {
        StorageClass::Durable
    } else {
        StorageClass::Volatile
    };
    config.founding = if chance(rng, 300_000) {
        FoundingRule::Any
    } else {
        let majority = voters / 2 + 1;
        let more = below(rng, u64::from(voters - majority) + 1) as u32;
        FoundingRule::Expect(majority + more)
    };
    if !chance(rng, 250_000) {
        config.snapshot_interval = 1 << (4 + below(rng, 9));
        config.log_window = below(rng, config.snapshot_interval * 2);
    }
    if chance(rng, 300_000) {
        config.sessions_max = 1 + below(rng, 8) as u32;
    }
    if chance(rng, 300_000) {
        config.session_bytes_max = 8 << below(rng, 6);
    }
    config
}

fn draw_bonds(rng: &mut ChaCha8Rng, config: &Config) -> BondRules {
    let unit = config.election_timeout;
    BondRules {
        carriage: if chance(rng, 500_000) {
            Carriage::Datagrams
        } else {
            Carriage::Streams
        },
        idle_timeout: between(rng, unit / 2, unit * 10),
        replaced_ppm: if chance(rng, 300_000) { 500_000 } else { 0 },
    }
}

fn draw_workload(rng: &mut ChaCha8Rng, members: u32, operations: Option<u64>) -> Workload {
    // So many a second of all nodes together.
    let rate = [10, 30, 100, 200][below(rng, 4) as usize];
    let some = |rng: &mut ChaCha8Rng, ppm| if chance(rng, 500_000) { ppm } else { 0 };
    Workload {
        every: Duration::from_secs(1) * members / rate,
        open_max: 1 + below(rng, 16) as usize,
        keys: 1 + below(rng, 5) as u8,
        reads_ppm: [0, 100_000, 500_000][below(rng, 3) as usize],
        give_up_ppm: some(rng, 50_000),
        transfer_ppm: some(rng, 10_000),
        operations_max: operations.unwrap_or(5_000),
        many_ppm: some(rng, 100_000),
    }
}

/// The classes that every run may have, in the times of this group.
fn draw_faults(rng: &mut ChaCha8Rng, config: &Config) -> FaultPlan {
    let mut plan = FaultPlan::swarm(rng);
    let unit = config.election_timeout;
    let churn = |rng: &mut ChaCha8Rng, of: &mut Option<Churn>| {
        if let Some(churn) = of {
            churn.every = between(rng, unit / 2, unit * 12);
            churn.lasts = between(rng, unit / 20, unit * 6);
        }
    };
    churn(rng, &mut plan.partitions);
    churn(rng, &mut plan.one_way);
    churn(rng, &mut plan.crashes);
    churn(rng, &mut plan.pauses);
    if let Some(flapping) = &mut plan.flapping {
        flapping.every = between(rng, unit / 10, unit);
        flapping.lasts = between(rng, unit / 50, unit / 2);
    }
    // No wall clock is ever looked at.
    plan.jumps = None;
    plan.offset_max = Duration::ZERO;
    // Latencies that leave room for an election, most of the time.
    if !chance(rng, 100_000) {
        let latency = &mut plan.links.latency;
        latency.min = latency.min.min(unit / 20);
        latency.mean = latency.mean.min(unit / 10).max(latency.min);
        latency.max = latency.max.min(unit * 2).max(latency.mean);
    }
    plan.links.reorder_delay = plan.links.reorder_delay.min(unit);
    plan.links.bandwidth = None;
    plan
}

fn draw_more(rng: &mut ChaCha8Rng, storage: StorageClass) -> MorePlan {
    let churn = |rng: &mut ChaCha8Rng, ppm| {
        chance(rng, ppm).then(|| Churn {
            every: between(rng, Duration::from_secs(1), Duration::from_secs(10)),
            lasts: between(rng, Duration::from_millis(50), Duration::from_secs(3)),
        })
    };
    let power = churn(rng, MILLION / 8);
    if storage == StorageClass::Volatile {
        return MorePlan {
            power,
            ..MorePlan::default()
        };
    }
    MorePlan {
        failures: churn(rng, MILLION / 4),
        slow: churn(rng, MILLION / 4),
        full: churn(rng, MILLION / 4),
        power,
    }
}
