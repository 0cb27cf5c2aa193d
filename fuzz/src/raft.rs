//! A group of a few members that agree, on a network and disks that do what the script says.
//!
//! The first byte of the input chooses between two modes. In the first all members are honest: whatever is
//! lost, sent twice, put out of order or cut off, and whoever crashes, no two lead one term, what is
//! committed or applied is the same everywhere and is never lost, each command is applied once, reads see
//! what was acknowledged, and nothing is promised that is not durable. In the second any member may say
//! anything: nothing panics, no number overflows, and neither work nor outputs grow without bounds.

mod group;
mod hostile;
mod ledger;
mod registers;

use group::{Group, Setup};
use registers::Rules;
use smalti_core::protocol::raft::{
    Config, FoundingRule, Input, LeadershipPreference, StorageClass, Surroundings,
};
use smalti_core::time::Duration;

use crate::Seed;
use crate::script::Script;

/// Members of a group.
const NODES_MAX: usize = 5;
/// So many bytes at the front of an input say how the group is run.
pub const SETUP_LEN: usize = 8;
/// Acts of one script. What follows is not read.
const ACTS_MAX: usize = 256;
/// Steps of one act without faults.
const STEPS_MAX: usize = 128;
/// How far time may move in one act.
const WAITS: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(6),
    Duration::from_secs(60),
];

/// The body of the target.
///
/// # Panics
/// Where a member does, or a promise of the group is broken.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut group = Group::new(setup(&mut script));
    for _ in 0..ACTS_MAX {
        if script.is_empty() {
            break;
        }
        act(&mut group, &mut script);
    }
    if group.setup.rules.is_honest {
        group.close();
    }
}

/// How the group is run: [`SETUP_LEN`] bytes.
fn setup(script: &mut Script<'_>) -> Setup {
    let is_honest = script.below(2) == 0;
    let nodes = 1 + script.below(NODES_MAX);
    let (flags, expected) = (script.byte(), script.byte());
    let max_voters = 1 + u32::from(script.byte() % 5);
    let config = Config {
        storage: if flags & 1 == 0 {
            StorageClass::Volatile
        } else {
            StorageClass::Durable
        },
        founding: if flags & 2 == 0 {
            FoundingRule::Any
        } else {
            FoundingRule::Expect(1 + u32::from(expected) % max_voters)
        },
        max_voters,
        snapshot_interval: 1 + script.below(16) as u64,
        log_window: script.below(8) as u64,
        sessions_max: [4_096, 1, 2, 5][usize::from(flags >> 2 & 3)],
        session_bytes_max: [1 << 20, 0, 40, 80][usize::from(flags >> 4 & 3)],
        ..Config::default()
    };
    config.validate().expect("it is made of what makes sense");
    let preferences = script.byte();
    let preference = |node: usize| match preferences >> node & 1 {
        1 if node.is_multiple_of(2) => LeadershipPreference::Observer,
        1 => LeadershipPreference::Reluctant { factor: 3 },
        _ => LeadershipPreference::Normal,
    };
    Setup {
        config,
        preferences: (0..nodes).map(preference).collect(),
        rules: Rules {
            is_honest,
            is_canonical: flags & 64 == 0,
            chunk_len: if flags & 128 == 0 { 1_024 } else { 16 },
        },
    }
}

/// One act, by its number.
mod acts {
    pub(super) const RUN: u8 = 0;
    pub(super) const STEP: u8 = 1;
    pub(super) const DELIVER: u8 = 2;
    pub(super) const DROP: u8 = 3;
    pub(super) const TWICE: u8 = 4;
    pub(super) const COMPLETE: u8 = 5;
    pub(super) const FAIL: u8 = 6;
    pub(super) const CRASH: u8 = 7;
    pub(super) const START: u8 = 8;
    pub(super) const BOND: u8 = 9;
    pub(super) const UNBOND: u8 = 10;
    pub(super) const CUT: u8 = 11;
    pub(super) const WAIT: u8 = 12;
    pub(super) const FIRE: u8 = 13;
    pub(super) const EXECUTE: u8 = 14;
    pub(super) const READ: u8 = 15;
    pub(super) const GIVE_UP: u8 = 16;
    pub(super) const TRANSFER: u8 = 17;
    pub(super) const LEAVE: u8 = 18;
    pub(super) const SURROUND: u8 = 19;
    pub(super) const EXECUTE_MANY: u8 = 20;
    pub(super) const LIE: u8 = 21;
    pub(super) const MUTATE: u8 = 22;
    pub(super) const DECODE: u8 = 23;
    pub(super) const ANSWER: u8 = 24;
    pub(super) const RUN_LYING: u8 = 25;
    /// So many are taken by members of any kind; those after them are of hostile ones.
    pub(super) const HONEST: usize = 21;
    pub(super) const ALL: usize = 26;
}

fn act(group: &mut Group, script: &mut Script<'_>) {
    let is_honest = group.setup.rules.is_honest;
    let act = script.below(if is_honest { acts::HONEST } else { acts::ALL });
    let node = script.below(group.nodes.len());
    match act as u8 {
        acts::RUN => {
            for _ in 0..=script.below(STEPS_MAX) {
                group.go_on();
            }
        }
        acts::STEP => {
            group.go_on();
        }
        acts::DELIVER => {
            if let Some(parcel) = pick(group, script) {
                group.deliver(parcel);
            }
        }
        acts::DROP => drop(pick(group, script)),
        acts::TWICE => {
            if let Some(parcel) = pick(group, script) {
                group.post(parcel.clone());
                group.deliver(parcel);
            }
        }
        acts::COMPLETE => group.complete(node, 1 + script.below(4)),
        acts::FAIL => group.fail(node, script.below(4)),
        acts::CRASH => group.crash(node, script.below(4)),
        acts::START => {
            group.start(node);
            for other in 0..group.nodes.len() {
                group.unbond(other, node);
                group.bond(other, node);
                group.bond(node, other);
            }
        }
        acts::BOND => {
            let other = script.below(group.nodes.len());
            group.bond(node, other);
            if script.below(4) != 0 {
                group.bond(other, node);
            }
        }
        acts::UNBOND => {
            let other = script.below(group.nodes.len());
            group.unbond(node, other);
            if script.below(4) != 0 {
                group.unbond(other, node);
            }
        }
        acts::CUT => {
            for other in 0..group.nodes.len() {
                group.unbond(node, other);
                group.unbond(other, node);
            }
        }
        acts::WAIT => group.wait(WAITS[script.below(WAITS.len())]),
        acts::FIRE => {
            if let Some((at, _)) = group.due() {
                group.now = group.now.max(at);
            }
            group.fire(node);
        }
        acts::EXECUTE => {
            for _ in 0..=script.below(4) {
                group.execute(node);
            }
        }
        acts::EXECUTE_MANY => group.execute_many(node, 1 + script.below(16)),
        acts::READ => group.read(node),
        acts::GIVE_UP => group.give_up(node, script.below(8)),
        acts::TRANSFER => group.handle(node, Input::TransferLeadership),
        acts::LEAVE => group.handle(node, Input::Leave),
        acts::SURROUND => {
            let surroundings = Surroundings {
                is_founded: script.below(2) == 0,
                incomplete: script.below(2) == 0,
            };
            group.handle(node, Input::Surroundings(surroundings));
        }
        hostile => lie(group, hostile, node, script),
    }
}

/// One act of a hostile member.
fn lie(group: &mut Group, act: u8, node: usize, script: &mut Script<'_>) {
    match act {
        acts::LIE | acts::DECODE => {
            let from = script.below(group.nodes.len());
            let said = if act == acts::LIE {
                hostile::message(group, from, node, script)
            } else {
                hostile::decoded(group, from, node, script)
            };
            if let Some(parcel) = said {
                group.deliver(parcel);
            }
        }
        acts::MUTATE => {
            let parcel = pick(group, script);
            if let Some(parcel) = parcel.and_then(|it| hostile::mutated(&it, script)) {
                group.deliver(parcel);
            }
        }
        acts::ANSWER => {
            if let Some(asked) = pick(group, script)
                && let Some(answer) = hostile::answer(group, &asked, script)
            {
                group.deliver(answer);
            }
        }
        _ => {
            for _ in 0..=script.below(STEPS_MAX / 4) {
                let is_asked = group.wire.front().is_some_and(|parcel| parcel.to == node);
                let asked = if is_asked {
                    group.wire.pop_front()
                } else {
                    None
                };
                match asked.and_then(|asked| hostile::answer(group, &asked, script)) {
                    Some(answer) => group.deliver(answer),
                    None => {
                        group.go_on();
                    }
                }
            }
        }
    }
}

/// Takes a message from the wire.
fn pick(group: &mut Group, script: &mut Script<'_>) -> Option<group::Parcel> {
    let at = usize::from(script.byte());
    let count = group.wire.len();
    group.wire.remove(at.checked_rem(count)?)
}

/// Scripts that found groups of each kind, and bring about most of what may go wrong.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    use acts::*;

    const LONG: u8 = 127;
    let founded = [RUN, 0, LONG, RUN, 0, LONG, EXECUTE, 0, 3, EXECUTE, 1, 1];
    let calm = [
        &founded[..],
        &[
            RUN,
            0,
            LONG,
            READ,
            1,
            RUN,
            0,
            LONG,
            GIVE_UP,
            1,
            0,
            RUN,
            0,
            LONG,
            EXECUTE_MANY,
            1,
            5,
            GIVE_UP,
            1,
            3,
            RUN,
            0,
            LONG,
        ],
    ];
    let crashes = [
        &founded[..],
        &[
            STEP, 0, STEP, 0, CRASH, 0, 1, RUN, 0, LONG, RUN, 0, LONG, EXECUTE, 1, 1, RUN, 0, LONG,
        ],
        &[
            START, 0, RUN, 0, LONG, READ, 0, FAIL, 1, 1, CRASH, 1, 0, START, 1, RUN, 0, LONG,
        ],
    ];
    let network = [
        &founded[..],
        &[
            DELIVER, 0, 3, DROP, 0, 1, TWICE, 0, 2, RUN, 0, 20, CUT, 0, WAIT, 0, 3, FIRE, 1,
        ],
        &[
            RUN, 0, LONG, EXECUTE, 1, 2, RUN, 0, LONG, BOND, 0, 1, 1, BOND, 0, 2, 1, RUN, 0, LONG,
        ],
        &[
            UNBOND, 1, 2, 1, RUN, 0, LONG, COMPLETE, 0, 1, FIRE, 2, RUN, 0, LONG,
        ],
    ];
    let members = [
        &founded[..],
        &[
            TRANSFER, 0, RUN, 0, LONG, LEAVE, 1, RUN, 0, LONG, SURROUND, 2, 0, 1, RUN, 0, LONG,
        ],
        &[
            RUN, 0, LONG, RUN, 0, LONG, RUN, 0, LONG, EXECUTE, 2, 3, RUN, 0, LONG,
        ],
    ];
    let lies = [
        &founded[..],
        &[
            LIE, 0, 1, 5, 1, 9, 9, 9, 4, 9, 9, RUN, 0, 9, MUTATE, 0, 1, 1, 3, 1, ANSWER, 0, 0, 9, 9,
        ],
        &[
            DECODE, 0, 1, 1, 4, 12, 0, 0, 0, RUN_LYING, 1, 31, RUN, 0, LONG, LIE, 1, 0, 4, 0, 9, 9,
        ],
        &[
            LIE, 1, 2, 5, 1, 9, 3, 0, 1, 6, 1, 6, RUN_LYING, 0, 31, RUN_LYING, 2, 31, RUN, 0, LONG,
        ],
    ];
    let headers: [(&str, [u8; 8]); 5] = [
        ("one", [0, 0, 1, 0, 4, 7, 3, 0]),
        ("volatile", [0, 2, 0, 0, 4, 7, 3, 0]),
        ("durable", [0, 2, 1, 0, 4, 3, 1, 0]),
        ("expecting", [0, 3, 0x93, 2, 4, 2, 0, 0]),
        ("five-and-an-observer", [0, 4, 0x41, 0, 2, 4, 2, 0x18]),
    ];
    let scripts = [
        ("calm", calm.concat()),
        ("crashes", crashes.concat()),
        ("network", network.concat()),
        ("members", members.concat()),
        ("lies", lies.concat()),
    ];
    let mut seeds = Vec::new();
    for (kind, header) in headers {
        for (name, script) in &scripts {
            let mut input = header.to_vec();
            input[0] = u8::from(*name == "lies");
            input.extend_from_slice(script);
            seeds.push((format!("{kind}-{name}"), input));
        }
    }
    seeds
}
