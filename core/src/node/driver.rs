//! The loop that runs one machine: the same for every protocol.

use tokio::sync::mpsc;

use super::tasks::Tasks;
use crate::protocol::Machine;
use crate::time::Instant;

/// Events taken before timers are looked at again, so that a flood of events cannot starve timers.
const EVENTS_PER_TURN_MAX: usize = 64;

/// What surrounds a machine: turns what happens into its inputs, and carries out what it wants.
pub(crate) trait Host: Send {
    /// The machine.
    type Machine: Machine;
    /// What can happen around it.
    type Event;

    /// The machine's input for `event`, if it is one for the machine.
    fn input(&mut self, event: Self::Event) -> Option<<Self::Machine as Machine>::Input>;

    /// An input that is due before anything else at `now`, for example that the wall clock has jumped.
    fn input_at(&mut self, _now: Instant) -> Option<<Self::Machine as Machine>::Input> {
        None
    }

    /// Carries out what the machine wants. Does not wait.
    fn carry_out(&mut self, output: <Self::Machine as Machine>::Output);

    /// An input that carrying out an output has led to, due before anything else can happen. Asked for after
    /// each drain, until there is none.
    fn follow_up(&mut self) -> Option<<Self::Machine as Machine>::Input> {
        None
    }

    /// Called after every turn, for what needs to be done once for many outputs. `Break` ends the loop.
    fn end_turn(&mut self, machine: &Self::Machine) -> std::ops::ControlFlow<()>;
}

/// Runs `machine` until its host ends it, or nobody is left who could send an event.
pub(crate) async fn drive<H: Host>(
    tasks: &Tasks,
    mut machine: H::Machine,
    mut host: H,
    mut events: mpsc::Receiver<H::Event>,
) {
    let mut batch = Vec::with_capacity(EVENTS_PER_TURN_MAX);
    loop {
        drain(&mut machine, &mut host, tasks.runtime().now());
        if host.end_turn(&machine).is_break() {
            return;
        }
        let deadline = machine.poll_timeout();
        crate::select! {
            reason = sleep(tasks, deadline) => {
                tracing::trace!(reason, "timer");
                let now = tasks.runtime().now();
                handle_due(&mut machine, &mut host, now);
                machine.handle_timeout(now);
            },
            taken = events.recv_many(&mut batch, EVENTS_PER_TURN_MAX) => {
                if taken == 0 {
                    return;
                }
                let now = tasks.runtime().now();
                handle_due(&mut machine, &mut host, now);
                for event in batch.drain(..) {
                    if let Some(input) = host.input(event) {
                        machine.handle(now, input);
                        drain(&mut machine, &mut host, now);
                    }
                }
            },
        }
    }
}

fn handle_due<H: Host>(machine: &mut H::Machine, host: &mut H, now: Instant) {
    if let Some(input) = host.input_at(now) {
        machine.handle(now, input);
        drain(machine, host, now);
    }
}

fn drain<H: Host>(machine: &mut H::Machine, host: &mut H, now: Instant) {
    loop {
        while let Some(output) = machine.poll_output() {
            host.carry_out(output);
        }
        let Some(input) = host.follow_up() else {
            return;
        };
        machine.handle(now, input);
    }
}

async fn sleep(tasks: &Tasks, deadline: Option<(Instant, &'static str)>) -> &'static str {
    match deadline {
        Some((deadline, reason)) => {
            tasks.runtime().sleep_until(deadline, reason).await;
            reason
        }
        None => std::future::pending().await,
    }
}
