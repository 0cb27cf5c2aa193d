//! How fast the simulator is: `cargo run --release -p smalti-sim --example speed --features full`.

use std::time::Duration;

use smalti_core::Network;
use smalti_core::protocol::Machine;
use smalti_core::time::Instant;
use smalti_sim::bare::{Context, Environment, LinkEvent, LinkId, LinkInput, Links, World};
use smalti_sim::time::SimTime;
use smalti_sim::trace::digest;
use smalti_sim::{NodeIndex, Simulation};

/// Sends back what it hears, and has a deadline that each message moves away.
struct Echo {
    peer: NodeIndex,
    output: Option<Do>,
    deadline: Instant,
}

enum Do {
    Connect(NodeIndex),
    Send(LinkId, u64),
}

impl Machine for Echo {
    type Input = LinkInput<u64>;
    type Output = Do;

    fn handle(&mut self, now: Instant, input: LinkInput<u64>) {
        self.deadline = now + Duration::from_secs(1);
        self.output = match input {
            LinkInput::Opened(link, _) => Some(Do::Send(link, 0)),
            LinkInput::Message(link, _, number) => Some(Do::Send(link, number + 1)),
            LinkInput::Failed(..) => Some(Do::Connect(self.peer)),
            LinkInput::Incoming(..) | LinkInput::Finished(..) | LinkInput::Closed(..) => None,
        };
    }

    fn handle_timeout(&mut self, _: Instant) {
        self.deadline = Instant::FAR_FUTURE;
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.deadline, "silence"))
    }

    fn poll_output(&mut self) -> Option<Do> {
        self.output.take()
    }

    fn check_invariants(&self) {}
}

struct Net {
    links: Links<u64>,
    nodes: u32,
}

impl Environment<Echo> for Net {
    type Event = LinkEvent<u64>;

    fn start(
        &mut self,
        node: NodeIndex,
        _: u32,
        _: &mut Context<LinkInput<u64>, Self::Event>,
    ) -> Echo {
        let peer = NodeIndex((node.0 + 1) % self.nodes);
        Echo {
            peer,
            output: Some(Do::Connect(peer)),
            deadline: Instant::FAR_FUTURE,
        }
    }

    fn output(
        &mut self,
        node: NodeIndex,
        output: Do,
        context: &mut Context<LinkInput<u64>, Self::Event>,
    ) {
        match output {
            Do::Connect(to) => {
                self.links.connect(node, to, context);
            }
            Do::Send(link, number) => self.links.send(link, node, number, 8, context),
        }
    }

    fn event(&mut self, event: Self::Event, context: &mut Context<LinkInput<u64>, Self::Event>) {
        if let Some((node, input)) = self.links.handle(event, context) {
            context.deliver(node, input);
        }
    }

    fn digest(input: &LinkInput<u64>) -> u64 {
        digest(input)
    }
}

fn main() {
    bare();
    cluster("", |simulation| simulation);
    #[cfg(feature = "full")]
    cluster(" over quic", Simulation::over_quic);
}

/// Nodes that find each other and then have nothing to do but to stay in touch.
fn cluster(over: &str, configure: fn(Simulation) -> Simulation) {
    for hosts in [2, 4, 8, 16] {
        let simulation = (0..hosts).fold(Simulation::new(1), |simulation, number| {
            simulation.host(
                &format!("host-{number}"),
                move |network: Network| async move {
                    let mut catalog = network.discovery().catalog_watch();
                    catalog
                        .wait_for(|catalog| catalog.peers_count() == hosts - 1)
                        .await?;
                    Ok(())
                },
            )
        });
        let simulation = configure(simulation)
            .duration(Duration::from_secs(120))
            .script(|control| async move { control.sleep(Duration::from_secs(100)).await });
        let begin = real_time();
        let report = simulation.run().expect("nothing goes wrong");
        let taken = (real_time() - begin).as_nanos().max(1);
        println!(
            "{hosts} hosts{over}: {} simulated seconds for each real one, {} events, hash {:016x}",
            u128::from(report.time.as_nanos()) / taken,
            report.events,
            report.trace_hash
        );
    }
}

/// Trivial machines on links.
fn bare() {
    for nodes in [3, 5, 100, 1_000] {
        let mut world = World::new(
            1,
            Net {
                links: Links::default(),
                nodes,
            },
        );
        for _ in 0..nodes {
            world.add_node();
        }
        let begin = real_time();
        let mut until = SimTime::ZERO;
        while world.trace().events() < 10_000_000 {
            until = until + Duration::from_secs(1);
            world.run_until(until);
        }
        let taken = (real_time() - begin).as_nanos();
        let per_second = u128::from(world.trace().events()) * 1_000_000_000 / taken;
        println!(
            "{nodes} nodes: {per_second} events/s, {} simulated seconds for each real one, hash {:016x}",
            u128::from(until.as_nanos()) / taken,
            world.trace().hash()
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures the simulator from outside"
)]
fn real_time() -> std::time::Instant {
    std::time::Instant::now()
}
