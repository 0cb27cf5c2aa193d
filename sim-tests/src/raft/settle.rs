//! Afterwards: what must come right again, and how soon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use smalti_core::protocol::raft::{
    CallId, Configuration, FoundingRule, Incarnation, Index, LeadershipPreference, Member, Payload,
};
use smalti_sim::NodeIndex;
use smalti_sim::faults::{Fault, FaultEvent};
use smalti_sim::rng::{below, chance};
use smalti_sim::time::SimTime;

use super::clients::End;
use super::cluster::{Group, Scheduled};
use super::driven::Driven;
use super::peers;
use super::plan::quiet;
use super::rare;

/// Election timeouts within which a write must be acknowledged, and then all members agree.
const TIMEOUTS: u32 = 10;
/// Election timeouts that incarnations which have met in vain may wait before they offer again, and then for the
/// answer.
const MEETING_TIMEOUTS: u32 = 2 * (2 + 2) * 8;
/// How often the group is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ends all that goes wrong, but for a minority that stays broken where `breaks_minority`.
pub(super) fn heal(
    world: &mut Group,
    breaks_minority: bool,
    rng: &mut ChaCha8Rng,
) -> BTreeSet<NodeIndex> {
    world.apply(Fault::RepairAll);
    world.apply(Fault::Links(quiet()));
    let paths = world.recorded_faults().iter();
    let paths = paths.filter_map(|event| match &event.fault {
        Fault::Path(from, to, _) => Some((*from, *to)),
        _ => None,
    });
    for (from, to) in paths.collect::<BTreeSet<_>>() {
        world.apply(Fault::Path(from, to, quiet()));
    }
    let nodes = world.context().nodes_count();
    for node in (0..nodes).map(NodeIndex) {
        world.apply(Fault::Resume(node));
        world.apply(Fault::SlowDisk(node, 1));
        world.apply(Fault::FreeDisk(node));
        let watch = &world.environment().watches[node.0 as usize];
        let has_left = watch.left;
        let is_failing = world.environment().disks[node.0 as usize].is_failing();
        if (watch.stopped || is_failing) && !has_left {
            world.apply(Fault::Crash(node));
        }
        if !has_left && !world.environment().is_leaving(node) {
            world.apply(Fault::Restart(node));
        }
    }
    let broken = if breaks_minority {
        minority(world, rng)
    } else {
        BTreeSet::new()
    };
    for node in &broken {
        let others = (0..nodes).map(NodeIndex);
        let others = others.filter(|other| !broken.contains(other)).collect();
        world.apply(match below(rng, 4) {
            0 => Fault::Crash(*node),
            1 => Fault::Cut(vec![*node], others),
            2 => Fault::Cut(others, vec![*node]),
            _ => Fault::Partition(vec![*node], others),
        });
    }
    if !broken.is_empty() {
        let (environment, _) = world.environment_mut();
        environment.coverage.reach(rare::MINORITY_BROKEN);
    }
    broken
}

/// Some nodes without which every incarnation that can go on still can.
fn minority(world: &Group, rng: &mut ChaCha8Rng) -> BTreeSet<NodeIndex> {
    let nodes = world.context().nodes_count();
    let viable = |broken: &BTreeSet<NodeIndex>| {
        let lives = lives(world, broken).into_iter();
        let viable = lives.filter(|life| life.outlook == Outlook::GoesOn);
        viable.map(|life| life.incarnation).collect::<Vec<_>>()
    };
    let mut broken = BTreeSet::new();
    let before = viable(&broken);
    // Where nothing has been founded, all are needed.
    if before.is_empty() {
        return broken;
    }
    for node in (0..nodes).map(NodeIndex) {
        if chance(rng, 500_000) {
            broken.insert(node);
            if viable(&broken) != before {
                broken.remove(&node);
            }
        }
    }
    broken
}

/// What an incarnation can still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// A majority lives of all sets of voters that a live member goes by.
    GoesOn,
    /// A majority lives of none of them.
    Extinct,
    /// Of some.
    Unclear,
}

/// An incarnation and who lives of it.
struct Living {
    incarnation: Incarnation,
    members: Vec<NodeIndex>,
    outlook: Outlook,
}

/// The incarnations that have live members, where the `broken` nodes do not count.
fn lives(world: &Group, broken: &BTreeSet<NodeIndex>) -> Vec<Living> {
    let environment = world.environment();
    let all = environment.live(world.context());
    let live = all.iter().filter(|node| !broken.contains(node));
    let live: Vec<NodeIndex> = live.copied().collect();
    let machines = || {
        let live = live.iter();
        live.filter_map(|node| Some((*node, world.machine(*node)?.status())))
    };
    // A voter that has not joined yet may still do so; or join another one that it hears of first.
    let alive: BTreeMap<Member, Option<Incarnation>> = machines()
        .map(|(_, status)| (status.me, status.incarnation))
        .collect();
    let mut members = BTreeMap::<Incarnation, Vec<NodeIndex>>::new();
    for (node, status) in machines() {
        if let Some(incarnation) = status.incarnation {
            members.entry(incarnation).or_default().push(node);
        }
    }
    let is_only_one = members.len() == 1;
    let lives = members.into_iter().map(|(incarnation, members)| {
        // Nothing is acknowledged before as many as expected have accepted. The leader that saw them accept may be
        // gone with that knowledge, where nothing in the log shows it yet.
        let needed: &[usize] = match environment.config().founding {
            FoundingRule::Expect(expected) => match founded_as(world, &incarnation) {
                Founded::No => &[expected as usize],
                Founded::Unshown => &[0, expected as usize],
                Founded::Yes => &[0],
            },
            FoundingRule::Any => &[0],
        };
        let has_majority = |configuration: &Configuration, all_join: bool, needed: usize| {
            let alive = configuration.voters.iter().filter(|voter| {
                let of = alive.get(voter);
                of.is_some_and(|of| of.map_or(all_join, |of| of == incarnation))
            });
            // A broken member may be made a voter before its leader misses it: also one whose earlier life
            // still is a voter.
            let is_other = |node: &&NodeIndex| {
                let me = world.machine(**node).map(|machine| machine.status().me);
                let mut voters = configuration.voters.iter();
                !voters.any(|voter| match me {
                    Some(me) => *voter == me,
                    None => peers::node(&voter.peer) == **node,
                })
            };
            let voters = configuration.voters.len() + broken.iter().filter(is_other).count();
            let alive = alive.count();
            alive > voters / 2 && alive >= needed
        };
        let may_have = |configuration: &Configuration| -> Vec<bool> {
            let ways = needed
                .iter()
                .flat_map(|needed| [(is_only_one, *needed), (true, *needed)]);
            ways.map(|(all_join, needed)| has_majority(configuration, all_join, needed))
                .collect()
        };
        // What only a broken member goes by may still be on its way to others.
        let statuses = all
            .iter()
            .filter_map(|node| Some(world.machine(*node)?.status()));
        let mut configurations: Vec<&Configuration> = statuses
            .filter(|status| status.incarnation == Some(incarnation))
            .map(|status| status.configuration)
            .filter(|configuration| !configuration.voters.is_empty())
            .collect();
        let committed = environment.ledger.find(&incarnation);
        configurations.extend(committed.and_then(|life| life.configuration()));
        let outlooks: Vec<bool> = configurations.iter().copied().flat_map(may_have).collect();
        // So may the word of a broken voter that it leaves, after which the others need it no longer.
        let may_be_left = || {
            configurations.iter().any(|configuration| {
                let voters = configuration.voters.iter();
                let stay = voters.filter(|it| !environment.is_leaving(peers::node(&it.peer)));
                let stay: Vec<&Member> = stay.collect();
                let is_alive = |voter: &&&Member| alive.get(**voter) == Some(&Some(incarnation));
                stay.iter().filter(is_alive).count() > stay.len() / 2
            })
        };
        let outlook = if !outlooks.is_empty() && outlooks.iter().all(|has| *has) {
            Outlook::GoesOn
        } else if outlooks.is_empty() || outlooks.iter().any(|has| *has) || may_be_left() {
            Outlook::Unclear
        } else {
            Outlook::Extinct
        };
        Living {
            incarnation,
            members,
            outlook,
        }
    });
    lives.collect()
}

/// Whether a founding was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Founded {
    /// Nothing was ever committed after it.
    No,
    /// Something was, from which a later leader cannot tell.
    Unshown,
    /// Every leader knows it.
    Yes,
}

fn founded_as(world: &Group, incarnation: &Incarnation) -> Founded {
    match world.environment().ledger.find(incarnation) {
        Some(seen) if seen.shows_founded || seen.parentage.is_some() => Founded::Yes,
        Some(seen) if seen.last() > Index(1) => Founded::Unshown,
        _ => Founded::No,
    }
}

/// Whether anything was ever committed after the founding of an incarnation.
fn has_committed(world: &Group, incarnation: &Incarnation) -> bool {
    founded_as(world, incarnation) != Founded::No
}

/// Waits until every incarnation that can go on has gone on and its members agree; which those are.
pub(super) fn settled(
    world: &mut Group,
    broken: &BTreeSet<NodeIndex>,
    preferences: &[LeadershipPreference],
    rng: &mut ChaCha8Rng,
    measured: &mut Vec<String>,
) -> Result<BTreeSet<Incarnation>, String> {
    let limit = limit(world, preferences);
    let mut went_on = BTreeSet::new();
    let healed = world.now();
    let mut living = lives(world, broken);
    if living.is_empty() {
        living = founded(world, broken, limit)?;
    }
    living = reformed(world, broken, living, limit)?;
    living = merged(world, broken, living, limit)?;
    let alone = living.len() == 1;
    for life in living {
        match life.outlook {
            Outlook::GoesOn => {
                let taken = match goes_on(world, &life, limit, rng) {
                    Ok(taken) => taken,
                    Err(_) if is_caught_in_a_change(world, &life, broken, healed) => {
                        let (environment, _) = world.environment_mut();
                        environment.coverage.reach(rare::CAUGHT_IN_CHANGE);
                        continue;
                    }
                    Err(cause) => return Err(cause),
                };
                measured.push(format!("a write took {taken:?} after the last fault"));
                // A founding in which nothing was acknowledged may have been left for another.
                let next = if has_committed(world, &life.incarnation) {
                    vec![life]
                } else {
                    lives(world, broken)
                };
                let goes_on = |life: &&Living| life.outlook == Outlook::GoesOn;
                for life in next.iter().filter(goes_on) {
                    match converges(world, life, broken, alone, limit) {
                        Ok(()) => {
                            went_on.insert(life.incarnation);
                        }
                        // A voter may leave just when others have fallen silent.
                        Err(_) if is_caught_in_a_change(world, life, broken, healed) => {
                            let (environment, _) = world.environment_mut();
                            environment.coverage.reach(rare::CAUGHT_IN_CHANGE);
                        }
                        // Those that were not of it may have founded another before they heard of it: then
                        // the two have to meet. Or it was reformed meanwhile, as somebody had asked before.
                        Err(_) if alone && has_another(world, life, broken) => {
                            let living = lives(world, broken);
                            let living = merged(world, broken, living, limit)?;
                            let alone = living.len() == 1;
                            for life in living.iter().filter(goes_on) {
                                converges(world, life, broken, alone, limit)?;
                                went_on.insert(life.incarnation);
                            }
                        }
                        Err(cause) => return Err(cause),
                    }
                }
            }
            Outlook::Extinct => {
                let (environment, _) = world.environment_mut();
                environment.coverage.reach(rare::EXTINCT);
                stays_extinct(world, &life, limit, rng)?;
            }
            Outlook::Unclear => {
                let (environment, _) = world.environment_mut();
                environment.coverage.reach(rare::UNCLEAR);
                measured.push("an incarnation may go on or not".to_owned());
            }
        }
    }
    measured.push(format!(
        "settled {:?} after the last fault",
        world.now().since(healed)
    ));
    Ok(went_on)
}

/// Whether members live of an incarnation other than this one.
fn has_another(world: &Group, life: &Living, broken: &BTreeSet<NodeIndex>) -> bool {
    let is_other = |other: &Living| other.incarnation != life.incarnation;
    lives(world, broken).iter().any(is_other)
}

/// Whether a leader has taken the vote from somebody that faults kept silent just before they ended, and
/// those that stay broken are needed for the rest. A change is in force when it is appended, so nobody can
/// go on then, though a majority of the voters before lives.
fn is_caught_in_a_change(
    world: &Group,
    life: &Living,
    broken: &BTreeSet<NodeIndex>,
    healed: SimTime,
) -> bool {
    let config = world.environment().config();
    let patience = config.heartbeat_interval * config.max_missed_heartbeats;
    let patience = patience.max(config.election_timeout * 2) * 2;
    let is_late = |event: &&FaultEvent| {
        !matches!(event.fault, Fault::Links(_) | Fault::Drift(..))
            && event.at < healed
            && event.at + patience >= healed
    };
    let now = lives(world, broken);
    let now = now.iter().find(|it| it.incarnation == life.incarnation);
    now.is_some_and(|it| it.outlook != Outlook::GoesOn)
        && world.recorded_faults().iter().any(|event| is_late(&event))
}

/// Election timeouts within which a group that cannot go on is reformed: until it is certain that nobody leads, then
/// some rounds of questions, and the way of the snapshot.
const REFORM_TIMEOUTS: u32 = 30;

/// What has lost its voters is reformed: by itself where that can be proved, else when an operator says so.
fn reformed(
    world: &mut Group,
    broken: &BTreeSet<NodeIndex>,
    mut living: Vec<Living>,
    limit: Duration,
) -> Result<Vec<Living>, String> {
    let stands = |life: &&Living| life.outlook != Outlook::GoesOn;
    if !living.iter().any(|life| stands(&life)) {
        return Ok(living);
    }
    let config = world.environment().config();
    let timeout = config.election_timeout + config.election_timeout_jitter;
    let limit = limit + timeout * REFORM_TIMEOUTS;
    let by = world.now() + limit;
    while living.iter().any(|life| stands(&life)) && world.now() < by {
        world.run_until(world.now() + LOOK_EVERY);
        living = lives(world, broken);
    }
    if let Some(life) = living.iter().find(|life| is_proved(world, life, broken)) {
        return Err(format!(
            "{limit:?} after the last fault nobody has gone on from {}, of which too many voters are gone for certain; {}",
            life.incarnation,
            describe(world)
        ));
    }
    for life in living.iter().filter(stands) {
        let is_told = |node: &NodeIndex| {
            let machine = world.machine(*node);
            machine.is_some_and(|machine| machine.status().stalled.is_some())
        };
        // A founding that fewer have accepted than it expects may be led, and acknowledge nothing.
        let is_founded = has_committed(world, &life.incarnation);
        let is_extinct = life.outlook == Outlook::Extinct && is_founded;
        if is_extinct && !life.members.iter().any(is_told) {
            return Err(format!(
                "{limit:?} after the last fault {} cannot go on, and nobody says so; {}",
                life.incarnation,
                describe(world)
            ));
        }
    }
    let ordered: Vec<NodeIndex> = living
        .iter()
        .filter(stands)
        .flat_map(|life| life.members.iter().copied())
        .collect();
    let by = world.now() + limit;
    for node in ordered {
        let (_, ctx) = world.environment_mut();
        ctx.schedule(ctx.now(), Scheduled::Order(node));
    }
    while living.iter().any(|life| stands(&life)) && world.now() < by {
        world.run_until(world.now() + LOOK_EVERY);
        living = lives(world, broken);
    }
    Ok(living)
}

/// Whether all that live of an incarnation can know for certain that nobody can ever lead it again.
fn is_proved(world: &Group, life: &Living, broken: &BTreeSet<NodeIndex>) -> bool {
    if life.outlook != Outlook::Extinct || !has_committed(world, &life.incarnation) {
        return false;
    }
    let environment = world.environment();
    let live = environment.live(world.context());
    let answers = |node: &NodeIndex| live.contains(node) && !broken.contains(node);
    let members = life.members.iter().filter_map(|node| world.machine(*node));
    let members: Vec<&Driven> = members.collect();
    let mut named = members.iter().flat_map(|machine| named(machine));
    let has_log = |machine: &&Driven| machine.status().last.index > Index(1);
    // Somebody who is broken may know of others.
    members.iter().any(has_log)
        && broken.is_empty()
        && named.all(|voter| answers(&peers::node(&voter.peer)))
}

/// All that vote by the configuration that a member knows to be committed, or by one after it. After a restart it does not
/// know any more that who has left since votes no longer.
fn named(machine: &Driven) -> BTreeSet<Member> {
    let status = machine.status();
    let mut committed = BTreeSet::new();
    let mut named = status.configuration.voters.clone();
    for index in status.kept_from.0..=status.last.index.0 {
        let voters = match machine.entry(Index(index)).map(|entry| &entry.payload) {
            Some(Payload::Founding(charter)) => charter.voters.iter().copied().collect(),
            Some(Payload::Configuration(configuration)) => configuration.voters.clone(),
            _ => continue,
        };
        if Index(index) <= status.commit {
            committed = voters;
        } else {
            named.extend(voters);
        }
    }
    named.extend(committed);
    named
}

/// Incarnations that could all go on meet, and one of them stays.
fn merged(
    world: &mut Group,
    broken: &BTreeSet<NodeIndex>,
    mut living: Vec<Living>,
    limit: Duration,
) -> Result<Vec<Living>, String> {
    let going_on = |living: &[Living]| {
        let goes_on = living.iter().filter(|it| it.outlook == Outlook::GoesOn);
        goes_on.count()
    };
    let count = going_on(&living);
    if count < 2 {
        return Ok(living);
    }
    let limit =
        (limit + world.environment().config().election_timeout * MEETING_TIMEOUTS) * count as u32;
    let by = world.now() + limit;
    while going_on(&living) > 1 {
        if world.now() >= by {
            let states = describe(world);
            return Err(format!(
                "{limit:?} after the last fault there still is more than one incarnation; {states}"
            ));
        }
        world.run_until(world.now() + LOOK_EVERY);
        living = lives(world, broken);
    }
    let (environment, _) = world.environment_mut();
    environment.coverage.reach(rare::MERGED);
    Ok(living)
}

/// How long a write, and then agreement, may take.
fn limit(world: &Group, preferences: &[LeadershipPreference]) -> Duration {
    let config = world.environment().config();
    let factors = preferences.iter().map(|preference| match preference {
        LeadershipPreference::Reluctant { factor } => *factor,
        LeadershipPreference::Normal | LeadershipPreference::Observer => 1,
    });
    let factor = factors.max().unwrap_or(1);
    let timeout = config.election_timeout + config.election_timeout_jitter;
    timeout * factor * TIMEOUTS
}

/// Nobody belongs to an incarnation: one is founded, unless too few are left for it.
fn founded(
    world: &mut Group,
    broken: &BTreeSet<NodeIndex>,
    limit: Duration,
) -> Result<Vec<Living>, String> {
    let limit = limit + world.environment().config().bootstrap_delay * 4;
    let by = world.now() + limit;
    loop {
        let lives = lives(world, broken);
        if !lives.is_empty() {
            return Ok(lives);
        }
        if world.now() >= by {
            let environment = world.environment();
            let live = environment.live(world.context()).into_iter();
            let may_found = |node: &NodeIndex| {
                let preference = environment.setup.preferences[node.0 as usize];
                !environment.is_leaving(*node) && preference != LeadershipPreference::Observer
            };
            let expected = match environment.config().founding {
                FoundingRule::Any => 1,
                FoundingRule::Expect(expected) => expected as usize,
            };
            if live.filter(may_found).count() < expected {
                let (environment, _) = world.environment_mut();
                environment.coverage.reach(rare::TOO_FEW_TO_FOUND);
                return Ok(Vec::new());
            }
            return Err(format!(
                "nothing was founded {limit:?} after the last fault"
            ));
        }
        world.run_until(world.now() + LOOK_EVERY);
    }
}

/// Lets a member write something.
fn write(world: &mut Group, life: &Living, rng: &mut ChaCha8Rng) -> CallId {
    let environment = world.environment();
    let stays = |node: &NodeIndex| !environment.is_leaving(*node);
    let stay: Vec<NodeIndex> = life.members.iter().copied().filter(stays).collect();
    let members = if stay.is_empty() {
        &life.members
    } else {
        &stay
    };
    let node = members[below(rng, members.len() as u64) as usize];
    let (environment, ctx) = world.environment_mut();
    environment.clients.write(node, 0, ctx)
}

/// Expects that a write is acknowledged in time. Gives how long it took.
fn goes_on(
    world: &mut Group,
    life: &Living,
    limit: Duration,
    rng: &mut ChaCha8Rng,
) -> Result<Duration, String> {
    let begun = world.now();
    // Members may still have to hear of a founding, or to leave it.
    let bootstrap = world.environment().config().bootstrap_delay;
    let limit = if has_committed(world, &life.incarnation) {
        limit
    } else {
        limit * 2 + bootstrap * 4
    };
    let by = begun + limit;
    let mut call = write(world, life, rng);
    loop {
        match world.environment().clients.calls[call.0 as usize].end {
            End::Applied { .. } | End::OutputLost(_) => return Ok(world.now().since(begun)),
            End::Open if world.now() < by => {}
            // A session may have ended, with all that was open in it; or the group was frozen for a while, because
            // it has met another founding.
            End::Unknown | End::Never if world.now() < by => call = write(world, life, rng),
            end => {
                let states = describe(world);
                return Err(format!(
                    "{limit:?} after the last fault a write of {} is {end:?}, though a majority lives; {states}",
                    world.environment().clients.calls[call.0 as usize].node,
                ));
            }
        }
        world.run_until(world.now() + LOOK_EVERY);
    }
}

/// Expects that nothing new is acknowledged in an incarnation that has lost its majority.
fn stays_extinct(
    world: &mut Group,
    life: &Living,
    limit: Duration,
    rng: &mut ChaCha8Rng,
) -> Result<(), String> {
    let call = write(world, life, rng);
    world.run_until(world.now() + limit / 2);
    match world.environment().clients.calls[call.0 as usize].end {
        End::Applied {
            incarnation, index, ..
        } if incarnation == life.incarnation => Err(format!(
            "a write is acknowledged at {index} of {incarnation}, of which no majority lives"
        )),
        _ => Ok(()),
    }
}

/// Expects that all members have the same state in time, and no call is open.
fn converges(
    world: &mut Group,
    life: &Living,
    broken: &BTreeSet<NodeIndex>,
    alone: bool,
    limit: Duration,
) -> Result<(), String> {
    let by = world.now() + limit;
    loop {
        let Some(cause) = differs(world, life, broken, alone) else {
            return Ok(());
        };
        if world.now() >= by {
            let states = describe(world);
            return Err(format!(
                "{limit:?} after a write was acknowledged: {cause}; {states}"
            ));
        }
        world.run_until(world.now() + LOOK_EVERY);
    }
}

/// Why members of an incarnation do not agree; `None` where they do.
fn differs(
    world: &Group,
    life: &Living,
    broken: &BTreeSet<NodeIndex>,
    alone: bool,
) -> Option<String> {
    let environment = world.environment();
    let mut first: Option<(NodeIndex, Index, u64)> = None;
    for node in environment.live(world.context()) {
        if broken.contains(&node) || environment.is_leaving(node) {
            continue;
        }
        let machine = world.machine(node)?;
        let status = machine.status();
        if status.incarnation != Some(life.incarnation) {
            if alone {
                return Some(format!("{node} is of {:?}", status.incarnation));
            }
            continue;
        }
        if environment.clients.has_open(node) {
            return Some(format!("{node} has calls or reads open"));
        }
        let acked = environment.ledger.find(&life.incarnation);
        let acked = acked.map_or(Index::ZERO, |life| life.acked);
        if status.applied < acked {
            return Some(format!(
                "{node} has applied {}, and {acked} was acknowledged",
                status.applied
            ));
        }
        let seen = (node, status.applied, machine.state().digest());
        let (other, applied, digest) = *first.get_or_insert(seen);
        if (applied, digest) != (seen.1, seen.2) {
            return Some(format!(
                "{node} has applied {}, {other} {applied}",
                status.applied
            ));
        }
    }
    None
}

/// Where every member stands.
fn describe(world: &Group) -> String {
    let machines = world.machines().map(|(node, machine)| {
        let status = machine.status();
        let voters = status.configuration.voters.iter();
        let voters: Vec<String> = voters
            .map(|voter| peers::node(&voter.peer).to_string())
            .collect();
        format!(
            "{node} {:?} term {} last {} commit {} of {} voters {}",
            status.role,
            status.term,
            status.last,
            status.commit,
            status
                .incarnation
                .map_or("none".to_owned(), |of| of.to_string()),
            voters.join(",")
        )
    });
    let since = world.now().since(SimTime::ZERO);
    format!("at {since:?}: {}", machines.collect::<Vec<_>>().join("; "))
}
