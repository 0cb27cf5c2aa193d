//! How fast histories are checked: `cargo run --release -p smalti-sim --example linearizability`.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use smalti_sim::history::{ClientId, History};
use smalti_sim::linearizability::{
    Checker, Keyed, KeyedOp, Register, RegisterOp, RegisterOutput, Verdict,
};
use smalti_sim::rng::Streams;
use smalti_sim::time::SimTime;

type Registers = History<KeyedOp<u32, RegisterOp<u64>>, RegisterOutput<u64>>;

/// A history of so many clients, each of which calls one operation after the other on registers that exist.
#[derive(Clone, Copy)]
struct Workload {
    operations: u64,
    clients: u32,
    keys: u32,
    /// How many of a hundred operations do not return. Half of them take effect.
    unknown_percent: u32,
    /// Whether the last read gives a value that was overwritten.
    is_stale: bool,
}

/// An operation that a client calls.
struct Call {
    client: ClientId,
    op: KeyedOp<u32, RegisterOp<u64>>,
    called: u64,
    /// Nothing where its outcome is unknown.
    returned: Option<u64>,
    /// When it takes effect, if it does.
    effect: u64,
}

struct Client {
    id: ClientId,
    free_at: u64,
}

impl Workload {
    fn record(self) -> Registers {
        let mut rng = Streams::new(1).stream("linearizability");
        let mut clients: Vec<_> = (0..self.clients)
            .map(|id| Client {
                id: ClientId(id),
                free_at: 0,
            })
            .collect();
        let mut calls = Vec::new();
        for number in 0..self.operations {
            let client = clients.iter_mut().min_by_key(|client| client.free_at);
            let client = client.expect("there are clients");
            let called = client.free_at + rng.random_range(1..20);
            let returned = called + rng.random_range(1..100);
            let effect = rng.random_range(called..=returned);
            client.free_at = returned;
            let op = self.draw(number, &mut rng);
            let is_unknown = rng.random_range(0..100) < self.unknown_percent;
            calls.push(Call {
                client: client.id,
                op,
                called,
                returned: (!is_unknown).then_some(returned),
                effect,
            });
            if is_unknown {
                // Nobody waits for it any longer: its client begins anew under another name.
                client.id = ClientId(client.id.0 + self.clients);
            }
        }
        calls.sort_by_key(|call| call.effect);
        self.run(calls, &mut rng)
    }

    fn draw(self, number: u64, rng: &mut ChaCha8Rng) -> KeyedOp<u32, RegisterOp<u64>> {
        let op = match rng.random_range(0..10) {
            0..5 => RegisterOp::Read,
            5..9 => RegisterOp::Write(number + 1),
            // What was written of late, so that some swaps succeed.
            _ => RegisterOp::CompareAndSwap(
                number.saturating_sub(rng.random_range(0..9)),
                number + 1,
            ),
        };
        let key = rng.random_range(0..self.keys);
        KeyedOp { key, op }
    }

    /// Carries out `calls`, which are in the order of their effects.
    fn run(self, calls: Vec<Call>, rng: &mut ChaCha8Rng) -> Registers {
        let mut history = History::new();
        let mut values = vec![vec![0]; self.keys as usize];
        let mut lie = self.is_stale;
        let late = self.operations as usize * 9 / 10;
        for (place, call) in calls.into_iter().enumerate() {
            let values = &mut values[call.op.key as usize];
            let op = call.op.op.clone();
            let id = history.call(call.client, call.op, SimTime::from_nanos(call.called));
            if call.returned.is_none() && rng.random_range(0..2) == 0 {
                history.unknown(id);
                continue;
            }
            let value = *values.last().expect("a register has a value");
            let output = match op {
                RegisterOp::Read if lie && place > late && values.len() > 20 => {
                    lie = false;
                    RegisterOutput::Value(values[values.len() - 20])
                }
                RegisterOp::Read => RegisterOutput::Value(value),
                RegisterOp::Write(new) => {
                    values.push(new);
                    RegisterOutput::Done
                }
                RegisterOp::CompareAndSwap(expected, new) => {
                    if expected == value {
                        values.push(new);
                    }
                    RegisterOutput::Swapped(expected == value)
                }
            };
            match call.returned {
                Some(returned) => history.returned(id, output, SimTime::from_nanos(returned)),
                None => history.unknown(id),
            }
        }
        history
    }
}

fn main() {
    let many = Workload {
        operations: 10_000,
        clients: 10,
        keys: 100,
        unknown_percent: 5,
        is_stale: false,
    };
    let one = Workload {
        clients: 5,
        keys: 1,
        ..many
    };
    for workload in [
        many,
        one,
        Workload {
            unknown_percent: 20,
            ..one
        },
        Workload { clients: 10, ..one },
        Workload {
            is_stale: true,
            ..many
        },
        Workload {
            is_stale: true,
            ..one
        },
        Workload {
            is_stale: true,
            unknown_percent: 20,
            ..one
        },
        Workload {
            is_stale: true,
            clients: 10,
            ..one
        },
    ] {
        let history = workload.record();
        let checker = Checker::new(Keyed::new(Register::new(0)));
        let begin = real_time();
        let verdict = checker.check(&history);
        let taken = real_time() - begin;
        let text = match &verdict {
            Verdict::Linearizable => "linearizable".to_owned(),
            Verdict::NotLinearizable(example) => format!(
                "not linearizable, {} operations conflict{}",
                example.conflict.len(),
                if example.is_smallest {
                    ""
                } else {
                    ", or fewer"
                }
            ),
            Verdict::Undecided { .. } => "undecided".to_owned(),
        };
        let Workload {
            operations,
            clients,
            keys,
            unknown_percent,
            ..
        } = workload;
        println!(
            "{operations} operations, {clients} clients, {keys} keys, {unknown_percent} % unknown: {text} in {} ms",
            taken.as_millis()
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures the checker from outside"
)]
fn real_time() -> std::time::Instant {
    std::time::Instant::now()
}
