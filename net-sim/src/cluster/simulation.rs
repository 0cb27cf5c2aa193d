//! A simulation, as users set it up and run it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smalti_core::discovery::PeerAddr;
use smalti_core::id::{NetworkId, PeerId, SecretKey};
use smalti_core::network::Error as NetworkError;
use smalti_core::runtime::Runtime;
use smalti_core::{Network, NetworkBuilder};

use super::control::Control;
use super::error::{Cause, SimulationError};
use super::report::Report;
use super::running::Running;
use super::state::address_of;
use crate::NodeIndex;
use crate::faults::{FaultPlan, FaultSchedule};
use crate::rng::Streams;
use crate::time::SimTime;
use crate::trace::Trace;

/// What an application returns. Any error converts by `?`.
pub type AppResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The port on which the nodes of hosts listen.
pub const PORT: u16 = 4_400;

/// How long a run may last by default, in simulated time.
const DURATION_DEFAULT: Duration = Duration::from_secs(300);

pub(super) type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;
pub(super) type App = Rc<dyn Fn(Arc<dyn Runtime>) -> LocalFuture<AppResult>>;
pub(super) type Script = Rc<dyn Fn(Control) -> LocalFuture<()>>;

pub(super) struct Host {
    pub(super) name: Arc<str>,
    pub(super) awaited: bool,
    pub(super) app: App,
}

/// Hosts in a network, and what goes wrong. See the [module](crate::cluster).
///
/// A run is a function of the seed, the hosts and the faults. It ends when all hosts' applications have
/// returned `Ok` and the script has ended, or at the first failure.
pub struct Simulation {
    pub(super) seed: u64,
    pub(super) network: NetworkId,
    pub(super) hosts: Vec<Host>,
    pub(super) plan: FaultPlan,
    pub(super) faults_until: Option<Duration>,
    pub(super) schedule: Option<FaultSchedule>,
    pub(super) script: Option<Script>,
    pub(super) duration: Duration,
    pub(super) recorded: std::ops::Range<u64>,
    #[cfg(feature = "full")]
    pub(super) over_quic: bool,
    #[cfg(feature = "full")]
    pub(super) real_stores: bool,
}

impl Simulation {
    /// A simulation without hosts and without faults. Packets take 5 ms at least and 10 ms on average.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            network: NetworkId::from("simulation"),
            hosts: Vec::new(),
            plan: FaultPlan::default(),
            faults_until: None,
            schedule: None,
            script: None,
            duration: DURATION_DEFAULT,
            recorded: 0..0,
            #[cfg(feature = "full")]
            over_quic: false,
            #[cfg(feature = "full")]
            real_stores: false,
        }
    }

    /// Lets the nodes speak QUIC with each other as in production, with TLS and all, over the simulated
    /// network. It is several times slower; what it shows beyond is what only the real transport does.
    #[cfg(feature = "full")]
    #[must_use]
    pub const fn over_quic(mut self) -> Self {
        self.over_quic = true;
        self
    }

    /// Lets nodes with a data directory keep it in the store of production, on files of the simulated disk, which tear
    /// and lose sectors of what was not synced. As [`over_quic`](Self::over_quic) does, at a smaller price.
    #[cfg(feature = "full")]
    #[must_use]
    pub const fn with_real_stores(mut self) -> Self {
        self.real_stores = true;
        self
    }

    /// The network that the hosts' nodes are in. Default: one named `simulation`.
    #[must_use]
    pub fn network(mut self, network: impl Into<NetworkId>) -> Self {
        self.network = network.into();
        self
    }

    /// Adds a host that runs `app`, from its beginning at each start of the host. The run waits for it to
    /// return `Ok`. The node lives on after it, so that the others still find it, unless the application has
    /// shut it down.
    ///
    /// The node has a key of its own, derived from seed and name, and bootstraps from the first host.
    #[must_use]
    pub fn host<F>(self, name: &str, app: impl Fn(Network) -> F + 'static) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        self.host_with(name, |builder| builder, app)
    }

    /// As [`host`](Self::host), with a node configured by `configure`, which is given a builder that has key,
    /// address and bootstrap peer already.
    #[must_use]
    pub fn host_with<F>(
        self,
        name: &str,
        configure: impl Fn(NetworkBuilder) -> NetworkBuilder + 'static,
        app: impl Fn(Network) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        let app = give_node(app);
        self.add_network_host(name, true, configure, app)
    }

    /// Adds a host whose application need not return: the run does not wait for it.
    #[must_use]
    pub fn service<F>(self, name: &str, app: impl Fn(Network) -> F + 'static) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        self.service_with(name, |builder| builder, app)
    }

    /// As [`service`](Self::service), with a node configured by `configure`.
    #[must_use]
    pub fn service_with<F>(
        self,
        name: &str,
        configure: impl Fn(NetworkBuilder) -> NetworkBuilder + 'static,
        app: impl Fn(Network) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        let app = give_node(app);
        self.add_network_host(name, false, configure, app)
    }

    /// As [`service_with`](Self::service_with), of an application that is told why its node could not be started, such as
    /// for a disk that failed meanwhile. Elsewhere that fails the run.
    #[must_use]
    pub fn service_that_starts<F>(
        self,
        name: &str,
        configure: impl Fn(NetworkBuilder) -> NetworkBuilder + 'static,
        app: impl Fn(Result<Network, NetworkError>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        self.add_network_host(name, false, configure, app)
    }

    /// Adds a host without a node: `app` is given the bare runtime, to test what is built on it.
    #[must_use]
    pub fn host_on_runtime<F>(
        mut self,
        name: &str,
        app: impl Fn(Arc<dyn Runtime>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        let app: App = Rc::new(move |runtime| Box::pin(app(runtime)));
        self.hosts.push(Host {
            name: name.into(),
            awaited: true,
            app,
        });
        self
    }

    /// Draws the run's faults from `plan`, by the seed.
    #[must_use]
    pub fn faults(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// Until when faults of the plan come and go; by then all is well again, but for the network's
    /// loss and latency. Default: half of the run's [`duration`](Self::duration).
    #[must_use]
    pub fn faults_until(mut self, until: Duration) -> Self {
        self.faults_until = Some(until);
        self
    }

    /// Lets exactly these faults strike, and none of the plan.
    #[must_use]
    pub fn fault_schedule(mut self, schedule: FaultSchedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// How long the run may last, in simulated time. Default: 300 s.
    #[must_use]
    pub const fn duration(mut self, limit: Duration) -> Self {
        self.duration = limit;
        self
    }

    /// Runs `script` beside the hosts, on none of them; the run waits for it to end. It waits by
    /// [`Control::sleep`] and [`Control::wait_until`] alone: it has no executor of its own.
    #[must_use]
    pub fn script<F>(mut self, script: impl Fn(Control) -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.script = Some(Rc::new(move |control| Box::pin(script(control))));
        self
    }

    /// Keeps the events numbered within `events` as text, in [`Report::trace`].
    #[must_use]
    pub const fn record_lines(mut self, events: std::ops::Range<u64>) -> Self {
        self.recorded = events;
        self
    }

    /// The key of the host's node.
    #[must_use]
    pub fn secret_key(&self, name: &str) -> SecretKey {
        SecretKey::from_bytes(Streams::new(self.seed).seed(&format!("key of {name}")))
    }

    /// The id of the host's node.
    #[must_use]
    pub fn peer_id(&self, name: &str) -> PeerId {
        self.secret_key(name).peer_id()
    }

    /// Where the host's node listens; `None` for a name that no host has.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let place = self.hosts.iter().position(|host| &*host.name == name)?;
        Some(socket_address(u32::try_from(place).ok()?))
    }

    /// Runs the simulation, from its beginning, on this thread. It brings its own executors, so it is called
    /// from plain code, such as a `#[test]`, and never from within a task.
    ///
    /// # Errors
    /// [`SimulationError`], with the report of what happened until then.
    pub fn run(&self) -> Result<Report, SimulationError> {
        Running::start(self)?.run()
    }

    /// Runs the simulation twice and compares the traces.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Cause::NotReplayable`] where the traces differ.
    pub fn run_twice(&self) -> Result<Report, SimulationError> {
        let (first, second) = (self.run()?, self.run()?);
        match first.trace.first_divergence(&second.trace) {
            None => Ok(first),
            Some(first_divergence) => {
                let cause = Cause::NotReplayable { first_divergence };
                Err(SimulationError {
                    cause,
                    report: Box::new(second),
                })
            }
        }
    }

    fn add_network_host<F>(
        mut self,
        name: &str,
        awaited: bool,
        configure: impl Fn(NetworkBuilder) -> NetworkBuilder + 'static,
        app: impl Fn(Result<Network, NetworkError>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = AppResult> + 'static,
    {
        let key = self.secret_key(name);
        let place = u32::try_from(self.hosts.len()).expect("there are fewer hosts than addresses");
        let first = self.hosts.first();
        let bootstrap =
            first.map(|first| PeerAddr::new(self.peer_id(&first.name), [socket_address(0)]));
        let network = self.network;
        let app = Rc::new(app);
        let configure = Rc::new(configure);
        let app: App = Rc::new(move |runtime| {
            let builder = NetworkBuilder::new(network)
                .with_secret_key(key.clone())
                .with_addresses([socket_address(place)])
                .with_bootstrap(bootstrap.clone());
            let (builder, app) = (configure(builder), app.clone());
            Box::pin(async move {
                let network = builder.build_on(runtime.clone()).await;
                if let Ok(kept) = network.clone() {
                    let keep = async move {
                        std::future::pending::<()>().await;
                        drop(kept);
                    };
                    runtime.spawn("keep the node", Box::pin(keep));
                }
                app(network).await
            })
        });
        self.hosts.push(Host {
            name: name.into(),
            awaited,
            app,
        });
        self
    }

    pub(super) fn failed_to_set_up(&self, why: String) -> SimulationError {
        let report = Report {
            seed: self.seed,
            trace_hash: 0,
            events: 0,
            time: SimTime::ZERO,
            faults: Vec::new(),
            trace: Trace::new(),
        };
        SimulationError {
            cause: Cause::Setup(why),
            report: Box::new(report),
        }
    }
}

/// What is given a node, for a host whose start must not fail.
fn give_node<F>(
    app: impl Fn(Network) -> F + 'static,
) -> impl Fn(Result<Network, NetworkError>) -> LocalFuture<AppResult> + 'static
where
    F: Future<Output = AppResult> + 'static,
{
    move |network| match network {
        Ok(network) => Box::pin(app(network)),
        Err(error) => Box::pin(std::future::ready(Err(error.into()))),
    }
}

fn socket_address(place: u32) -> SocketAddr {
    SocketAddr::new(address_of(NodeIndex(place)), PORT)
}
