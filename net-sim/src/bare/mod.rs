//! The bare event loop: machines, with no executor and no sockets between them.
//!
//! A [`World`] holds any number of nodes, each with one [`Machine`], and an [`Environment`] that says what
//! becomes of the machines' outputs: a message sent becomes a message received some time later, a thing to
//! persist becomes a reply of the disk, and so on. All that is to happen waits in one queue, ordered by
//! time and, within one nanosecond, by when it was put there. So a run is a function of its seed.
//!
//! [`Links`] and [`Datagrams`] are the networks that environments are made with.
//!
//! ```
//! use smalti_core::protocol::Machine;
//! use smalti_core::time::{Duration, Instant};
//! use smalti_sim::NodeIndex;
//! use smalti_sim::bare::{Context, Datagrams, Environment, World};
//! use smalti_sim::time::SimTime;
//!
//! /// Passes on what it hears, one smaller each time.
//! struct Relay { next: NodeIndex, output: Option<(NodeIndex, u64)>, heard: u64 }
//!
//! impl Machine for Relay {
//!     type Input = u64;
//!     type Output = (NodeIndex, u64);
//!     fn handle(&mut self, _: Instant, number: u64) {
//!         self.heard += 1;
//!         self.output = number.checked_sub(1).map(|less| (self.next, less));
//!     }
//!     fn handle_timeout(&mut self, _: Instant) {}
//!     fn poll_timeout(&self) -> Option<(Instant, &'static str)> { None }
//!     fn poll_output(&mut self) -> Option<Self::Output> { self.output.take() }
//!     fn check_invariants(&self) {}
//! }
//!
//! #[derive(Default)]
//! struct Ring { datagrams: Datagrams }
//!
//! impl Environment<Relay> for Ring {
//!     type Event = ();
//!     fn start(&mut self, node: NodeIndex, _: u32, _: &mut Context<u64, ()>) -> Relay {
//!         Relay { next: NodeIndex((node.0 + 1) % 3), output: None, heard: 0 }
//!     }
//!     fn output(&mut self, node: NodeIndex, output: (NodeIndex, u64), context: &mut Context<u64, ()>) {
//!         self.datagrams.send(node, output.0, output.1, 8, context);
//!     }
//!     fn event(&mut self, (): (), _: &mut Context<u64, ()>) {}
//!     fn digest(input: &u64) -> u64 { *input }
//! }
//!
//! let mut world = World::new(7, Ring::default());
//! let first = world.add_node();
//! world.add_node();
//! world.add_node();
//! world.input(first, 30);
//! world.run_until(SimTime::from(Duration::from_secs(10)));
//! assert_eq!(world.machine(first).unwrap().heard, 11);
//! ```

mod context;
mod effort;
mod links;
mod queue;
#[cfg(test)]
mod tests;
mod world;

use smalti_core::protocol::Machine;

pub use context::{Context, Datagrams};
pub use links::{LinkClosed, LinkConfig, LinkEvent, LinkId, LinkInput, Links};
pub use world::World;

use crate::NodeIndex;
use crate::faults::Fault;

/// What surrounds the machines: it makes them, and turns what they want done into what happens next.
pub trait Environment<M: Machine> {
    /// What the environment schedules for itself, for example a packet on its way.
    type Event;

    /// Makes the machine of `node`, which starts for the `life`-th time (from 0). What outlives a crash,
    /// such as the contents of its disk, is for the environment to keep and to hand over here.
    fn start(
        &mut self,
        node: NodeIndex,
        life: u32,
        context: &mut Context<M::Input, Self::Event>,
    ) -> M;

    /// Carries out what the machine of `node` wants done.
    fn output(
        &mut self,
        node: NodeIndex,
        output: M::Output,
        context: &mut Context<M::Input, Self::Event>,
    );

    /// An event that the environment has scheduled is due.
    fn event(&mut self, event: Self::Event, context: &mut Context<M::Input, Self::Event>);

    /// A fault has just struck; the world has applied it to its nodes and to the fault layer.
    fn fault(&mut self, fault: &Fault, context: &mut Context<M::Input, Self::Event>) {
        let _ = (fault, context);
    }

    /// The machine of `node` has handled something, and its outputs have been carried out. The place for
    /// invariants that span nodes: panics where one does not hold.
    fn stepped(
        &mut self,
        node: NodeIndex,
        machine: &M,
        context: &mut Context<M::Input, Self::Event>,
    ) {
        let _ = (node, machine, context);
    }

    /// The digest of `input` for the trace; [`trace::digest`](crate::trace::digest) makes one of anything
    /// that is `Hash`.
    fn digest(input: &M::Input) -> u64;

    /// `input` as text, for a recorded trace.
    fn describe(input: &M::Input) -> String {
        let _ = input;
        String::new()
    }
}
