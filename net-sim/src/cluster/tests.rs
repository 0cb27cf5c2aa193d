//! Hosts, faults and failures, with applications on the bare runtime and on nodes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use smalti_core::Network;
use smalti_core::id::SecretKey;
use smalti_core::runtime::{
    Alpn, Clock, Connection, ConnectionError, DialError, Endpoint, EndpointConfig, Runtime,
};
use smalti_core::time::Instant;
use smalti_core::wire::CloseCode;

use super::state::address_of;
use super::*;
use crate::NodeIndex;
use crate::faults::{FaultPlan, LinkFaults};
use crate::rng::Streams;

const ECHO: Alpn = Alpn::new("/test/echo/1");

fn key(host: u32) -> SecretKey {
    SecretKey::from(format!("host {host}").as_str())
}

fn address(host: u32) -> SocketAddr {
    SocketAddr::new(address_of(NodeIndex(host)), PORT)
}

async fn bind(runtime: &dyn Runtime, host: u32) -> Arc<dyn Endpoint> {
    let config = EndpointConfig {
        secret_key: key(host),
        addresses: vec![address(host)],
        protocols: vec![ECHO],
    };
    runtime.bind(config).await.expect("the port is free")
}

async fn dial(endpoint: &dyn Endpoint, host: u32) -> Result<Arc<dyn Connection>, DialError> {
    endpoint
        .dial(key(host).peer_id(), vec![address(host)], ECHO)
        .await
}

async fn sleep(runtime: &dyn Clock, duration: Duration) {
    runtime.sleep_until(runtime.now() + duration, "test").await;
}

/// Answers all streams of all connections with what they say.
async fn echo(runtime: Arc<dyn Runtime>, host: u32) -> AppResult {
    let endpoint = bind(&*runtime, host).await;
    while let Some(connection) = endpoint.accept().await {
        let spawner = runtime.clone();
        runtime.spawn(
            "echo",
            Box::pin(async move {
                while let Ok((mut send, mut recv)) = connection.accept().await {
                    spawner.spawn(
                        "echo stream",
                        Box::pin(async move {
                            let mut chunks = Vec::new();
                            while let Ok(Some(_)) =
                                poll_fn(|cx| recv.poll_read(cx, &mut chunks, 1_000)).await
                            {
                                while chunks.iter().any(|chunk| !chunk.is_empty()) {
                                    let written = poll_fn(|cx| send.poll_write(cx, &mut chunks));
                                    if written.await.is_err() {
                                        return;
                                    }
                                }
                                chunks.clear();
                            }
                            send.finish();
                        }),
                    );
                }
            }),
        );
    }
    Ok(())
}

/// Sends `len` bytes on a stream and gives how many come back.
async fn ask(
    connection: &dyn Connection,
    len: usize,
) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let (mut send, mut recv) = connection.open().await?;
    let mut chunks = [Bytes::from(vec![7; len])];
    let (mut got, mut back) = (0, Vec::new());
    while !chunks[0].is_empty() {
        poll_fn(|cx| send.poll_write(cx, &mut chunks)).await?;
    }
    send.finish();
    while let Some(len) = poll_fn(|cx| recv.poll_read(cx, &mut back, 10_000)).await? {
        got += len;
    }
    Ok(got)
}

/// Asks host 0 `rounds` times, dialling again whenever the connection is lost.
async fn insist(runtime: Arc<dyn Runtime>, host: u32, rounds: usize) -> AppResult {
    let endpoint = bind(&*runtime, host).await;
    let mut done = 0;
    while done < rounds {
        let Ok(connection) = dial(&*endpoint, 0).await else {
            sleep(&*runtime, Duration::from_millis(100)).await;
            continue;
        };
        while done < rounds {
            match ask(&*connection, 5_000).await {
                Ok(5_000) => done += 1,
                Ok(len) => return Err(format!("{len} bytes came back").into()),
                Err(_) => break,
            }
            sleep(&*runtime, Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

pub(super) fn echo_and_insist(seed: u64, rounds: usize) -> Simulation {
    Simulation::new(seed)
        .host_on_runtime("server", |runtime| serve(&runtime, 0))
        .host_on_runtime("b", move |runtime| insist(runtime, 1, rounds))
        .host_on_runtime("c", move |runtime| insist(runtime, 2, rounds))
}

pub(super) fn swarm(seed: u64) -> Simulation {
    let plan = FaultPlan::swarm(&mut Streams::new(seed).stream("plan"));
    echo_and_insist(seed, 30)
        .faults(plan)
        .faults_until(Duration::from_secs(20))
}

/// Runs what `build` makes over each transport there is.
fn run_over_each(build: impl Fn() -> Simulation) {
    build().run().unwrap();
    #[cfg(feature = "full")]
    build().over_quic().run().unwrap();
}

#[test]
fn what_is_asked_is_answered() {
    let report = echo_and_insist(1, 10).run().unwrap();
    assert!(
        report.time < crate::time::SimTime::from(Duration::from_secs(4)),
        "{}",
        report.time
    );
    assert!(report.events > 100);
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let (first, second) = (swarm(5).run().unwrap(), swarm(5).run().unwrap());
    assert_eq!(first.trace.first_divergence(&second.trace), None);
    assert_eq!(first.faults, second.faults);
    assert_ne!(first.trace_hash, swarm(6).run().unwrap().trace_hash);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "runs of two seeds side by side are what is tested"
)]
fn a_run_beside_it_changes_nothing() {
    let alone = swarm(5).run().unwrap().trace_hash;
    let beside = std::thread::spawn(|| swarm(6).run().unwrap().trace_hash);
    let together = std::thread::spawn(|| swarm(5).run().unwrap().trace_hash);
    assert_eq!(together.join().unwrap(), alone);
    assert_ne!(beside.join().unwrap(), alone);
}

#[test]
fn another_process_gives_the_same_trace() {
    const CHILD: &str = "SMALTI_SIM_TEST_CHILD";
    let hash = swarm(5).run().unwrap().trace_hash;
    if std::env::var_os(CHILD).is_some() {
        println!("trace hash {hash:016x}");
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cluster::tests::another_process_gives_the_same_trace",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        output.contains(&format!("trace hash {hash:016x}")),
        "{output}"
    );
}

#[test]
fn whatever_goes_wrong_all_get_their_answers_once_it_is_over() {
    for seed in 100..130 {
        if let Err(error) = swarm(seed).run() {
            panic!("{error}");
        }
    }
}

#[test]
fn recorded_faults_replay_without_the_plan() {
    let mut reports = (8..20).map(|seed| swarm(seed).run().unwrap());
    let first = reports
        .find(|report| report.faults.len() > 10)
        .expect("some seeds have faults");
    let schedule = first.fault_schedule();
    let again = echo_and_insist(first.seed, 30)
        .fault_schedule(schedule)
        .run()
        .unwrap();
    assert_eq!(first.faults, again.faults);
    assert_eq!(first.trace_hash, again.trace_hash);
}

#[test]
fn both_ends_see_each_other_and_a_close_carries_its_code() {
    let exported = Arc::new(Mutex::new(Vec::new()));
    let noted = exported.clone();
    run_over_each(move || {
        let (ours, theirs) = (noted.clone(), noted.clone());
        Simulation::new(1)
            .host_on_runtime("a", move |runtime| {
                let exported = ours.clone();
                async move {
                    let endpoint = bind(&*runtime, 0).await;
                    let connection = endpoint.accept().await.ok_or("closed")?;
                    assert_eq!(connection.peer(), key(1).peer_id());
                    assert_eq!(connection.protocol(), ECHO);
                    assert_eq!(connection.remote_address(), address(1));
                    assert_eq!(&connection.read_datagram().await?[..], b"hello");
                    exported
                        .lock()
                        .unwrap()
                        .push(connection.export_keying_material(b"l", b"c")?);
                    connection.close(CloseCode::TOO_MANY, "enough");
                    endpoint.close(CloseCode::SUCCESS).await;
                    Ok(())
                }
            })
            .host_on_runtime("b", move |runtime| {
                let exported = theirs.clone();
                async move {
                    let endpoint = bind(&*runtime, 1).await;
                    let connection = dial(&*endpoint, 0).await?;
                    exported
                        .lock()
                        .unwrap()
                        .push(connection.export_keying_material(b"l", b"c")?);
                    // A datagram that overtakes the end of the handshake is lost.
                    while connection
                        .send_datagram(Bytes::from_static(b"hello"))
                        .is_ok()
                    {
                        sleep(&*runtime, Duration::from_millis(50)).await;
                    }
                    let (code, reason) = (CloseCode::TOO_MANY, "enough".into());
                    let error = ConnectionError::ClosedByPeer { code, reason };
                    assert_eq!(connection.closed().await, error);
                    assert_eq!(connection.open().await.err(), Some(error));
                    Ok(())
                }
            })
    });
    let exported = exported.lock().unwrap();
    for ends in exported.chunks(2) {
        assert_eq!(ends[0], ends[1]);
    }
}

#[test]
fn dials_fail_with_the_error_of_the_contract() {
    run_over_each(move || {
        Simulation::new(1)
            .host_on_runtime("a", |runtime| serve(&runtime, 0))
            .host_on_runtime("b", |runtime| async move {
                let endpoint = bind(&*runtime, 1).await;
                let (peer, wrong) = (key(0).peer_id(), key(9).peer_id());
                let dial = |peer, addresses, protocol| endpoint.dial(peer, addresses, protocol);
                let other = Alpn::new("/test/other/1");
                assert!(matches!(
                    dial(peer, vec![address(0)], other).await.err(),
                    Some(DialError::WrongAlpn { .. })
                ));
                assert!(matches!(
                    dial(wrong, vec![address(0)], ECHO).await.err(),
                    Some(DialError::WrongPeer { .. })
                ));
                assert!(matches!(
                    dial(peer, vec![address(7)], ECHO).await.err(),
                    Some(DialError::Unreachable { .. })
                ));
                assert!(matches!(
                    dial(peer, vec![], ECHO).await.err(),
                    Some(DialError::NoAddress { .. })
                ));
                endpoint.close(CloseCode::SUCCESS).await;
                assert!(matches!(
                    dial(peer, vec![address(0)], ECHO).await.err(),
                    Some(DialError::EndpointClosed)
                ));
                assert!(endpoint.accept().await.is_none());
                Ok(())
            })
    });
}

fn serve(runtime: &Arc<dyn Runtime>, host: u32) -> std::future::Ready<AppResult> {
    let echo = echo(runtime.clone(), host);
    runtime.spawn(
        "echo",
        Box::pin(async move { echo.await.expect("it never fails") }),
    );
    std::future::ready(Ok(()))
}

/// Tries, when it is dropped, to tell the world.
struct LastWords(Arc<dyn Runtime>, Arc<dyn Connection>, Arc<AtomicU64>);

impl Drop for LastWords {
    fn drop(&mut self) {
        let told = self.2.clone();
        told.fetch_add(1, Ordering::SeqCst);
        self.1.close(CloseCode::SUCCESS, "farewell");
        let task = async move {
            told.fetch_add(1_000, Ordering::SeqCst);
        };
        self.0.spawn("last words", Box::pin(task));
    }
}

#[test]
fn a_crashed_host_says_nothing_more_and_its_next_life_resets_its_connections() {
    let told = Arc::new(AtomicU64::new(0));
    let noted = told.clone();
    run_over_each(move || {
        let (words, lives) = (noted.clone(), Arc::new(AtomicU64::new(0)));
        Simulation::new(3)
            .host_on_runtime("a", move |runtime| {
                let (words, lives) = (words.clone(), lives.clone());
                async move {
                    let endpoint = bind(&*runtime, 0).await;
                    if lives.fetch_add(1, Ordering::SeqCst) > 0 {
                        runtime.spawn(
                            "hold",
                            Box::pin(async move {
                                endpoint.accept().await;
                            }),
                        );
                        return Ok(());
                    }
                    assert_eq!(runtime.now().as_nanos() / 1_000_000_000, 0);
                    let connection = endpoint.accept().await.ok_or("closed")?;
                    let _words = LastWords(runtime.clone(), connection, words);
                    std::future::pending().await
                }
            })
            .host_on_runtime("b", |runtime| async move {
                let endpoint = bind(&*runtime, 1).await;
                let connection = dial(&*endpoint, 0).await?;
                assert_eq!(connection.closed().await, ConnectionError::Reset);
                // The restart came after 3 s; b had to say something to learn of it.
                assert!(runtime.now() > Instant::from_nanos(3_000_000_000));
                Ok(())
            })
            .script(|control| async move {
                control.sleep(Duration::from_secs(2)).await;
                control.crash("a");
                control.sleep(Duration::from_secs(1)).await;
                assert!(!control.is_up("a"));
                control.restart("a");
            })
    });
    // The destructor ran in each run, its task did not.
    assert!((1..=2).contains(&told.load(Ordering::SeqCst)));
}

#[test]
fn a_partition_closes_connections_after_the_idle_timeout_and_one_way_suffices() {
    for one_way in [false, true] {
        run_over_each(move || {
            Simulation::new(4)
                .host_on_runtime("a", |runtime| serve(&runtime, 0))
                .host_on_runtime("b", |runtime| async move {
                    let endpoint = bind(&*runtime, 1).await;
                    let connection = dial(&*endpoint, 0).await?;
                    assert_eq!(ask(&*connection, 10).await?, 10);
                    assert_eq!(connection.closed().await, ConnectionError::TimedOut);
                    assert!(runtime.now() > Instant::from_nanos(11_000_000_000));
                    Ok(())
                })
                .script(move |control| async move {
                    control.sleep(Duration::from_secs(4)).await;
                    if one_way {
                        control.partition_oneway("a", "b");
                    } else {
                        control.partition("a", "b");
                    }
                })
        });
    }
}

#[test]
fn a_paused_host_stands_still_and_goes_on() {
    let beats = Arc::new(Mutex::new(Vec::new()));
    let noted = beats.clone();
    Simulation::new(1)
        .host_on_runtime("a", move |runtime| {
            let noted = noted.clone();
            async move {
                for _ in 0..30 {
                    sleep(&*runtime, Duration::from_millis(100)).await;
                    noted
                        .lock()
                        .unwrap()
                        .push(runtime.now().as_nanos() / 1_000_000);
                }
                Ok(())
            }
        })
        .script(|control| async move {
            control.sleep(Duration::from_millis(1_050)).await;
            control.pause("a");
            control.sleep(Duration::from_secs(5)).await;
            control.resume("a");
        })
        .run()
        .unwrap();
    let beats = beats.lock().unwrap();
    assert_eq!(
        beats[..10],
        [100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000]
    );
    assert!((6_050..6_060).contains(&beats[10]), "{}", beats[10]);
    assert_eq!(beats.len(), 30);
}

#[test]
fn clocks_drift_and_jump_each_by_itself() {
    Simulation::new(1)
        .host_on_runtime("fast", |runtime| async move {
            let wall = runtime.wall();
            sleep(&*runtime, Duration::from_secs(11)).await;
            assert!(runtime.now() >= Instant::from_nanos(11_000_000_000));
            let passed = runtime.wall().since(wall);
            assert!((110..112).contains(&passed.as_secs()), "{passed:?}");
            Ok(())
        })
        .host_on_runtime("right", |runtime| async move {
            // By now the fast one is through.
            sleep(&*runtime, Duration::from_millis(10_500)).await;
            Ok(())
        })
        .script(|control| async move {
            control.drift("fast", 100_000);
            control.sleep(Duration::from_secs(5)).await;
            control.jump("fast", 99_000_000);
            control.sleep(Duration::from_millis(5_400)).await;
            assert!(control.has_finished("fast") && !control.has_finished("right"));
        })
        .run()
        .unwrap();
}

#[test]
fn an_application_that_fails_is_named() {
    let error = Simulation::new(9)
        .host_on_runtime("a", |_| async { Ok(()) })
        .host_on_runtime("b", |_| async { Err("out of ideas".into()) })
        .run()
        .unwrap_err();
    assert!(
        matches!(&error.cause, Cause::App { host, .. } if host == "b"),
        "{error}"
    );
    assert!(error.to_string().contains("seed 9"), "{error}");
}

#[test]
fn applications_that_do_not_end_are_named() {
    let error = Simulation::new(1)
        .host_on_runtime("a", |_| async { Ok(()) })
        .host_on_runtime("b", |_| std::future::pending())
        .duration(Duration::from_secs(3))
        .run()
        .unwrap_err();
    assert!(
        matches!(&error.cause, Cause::Timeout { running, .. } if running == &["b"]),
        "{error}"
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "what an application may do is what is tested"
)]
fn a_panic_in_a_task_of_the_application_fails_its_run_and_no_other() {
    let run = |seed: u64| {
        Simulation::new(seed)
            .host_on_runtime("a", |_| async { Ok(()) })
            .host_on_runtime("b", move |runtime| async move {
                tokio::spawn(async move {
                    if seed == 1 {
                        panic!("seed {seed} is unlucky");
                    }
                });
                sleep(&*runtime, Duration::from_secs(30)).await;
                Ok(())
            })
            .run()
    };
    let beside = std::thread::spawn(move || (2..20).all(|seed| run(seed).is_ok()));
    let error = run(1).unwrap_err();
    match &error.cause {
        Cause::Panic {
            host,
            message,
            location,
        } => {
            assert_eq!(host.as_deref(), Some("b"));
            assert_eq!(message, "seed 1 is unlucky");
            assert!(location.contains("tests.rs"), "{location}");
        }
        cause => panic!("{cause}"),
    }
    assert!(beside.join().unwrap());
    assert!(run(2).is_ok());
}

#[test]
fn a_panic_of_the_script_fails_the_run() {
    let error = Simulation::new(1)
        .script(|control| async move { control.crash("nobody") })
        .run()
        .unwrap_err();
    assert!(
        matches!(&error.cause, Cause::Panic { host: None, .. }),
        "{error}"
    );
}

#[test]
fn two_hosts_of_one_name_are_refused() {
    let twice = Simulation::new(1)
        .host_on_runtime("a", |_| async { Ok(()) })
        .host_on_runtime("a", |_| async { Ok(()) });
    assert!(matches!(twice.run().unwrap_err().cause, Cause::Setup(_)));
}

#[test]
fn what_the_seed_does_not_decide_is_found_by_running_twice() {
    let calls = Arc::new(AtomicU64::new(0));
    let simulation = Simulation::new(1).host_on_runtime("a", move |runtime| {
        let wait = Duration::from_millis(calls.fetch_add(1, Ordering::SeqCst) * 10);
        async move {
            sleep(&*runtime, wait).await;
            Ok(())
        }
    });
    assert!(matches!(
        simulation.run_twice().unwrap_err().cause,
        Cause::NotReplayable { .. }
    ));
    assert!(echo_and_insist(1, 3).run_twice().is_ok());
}

#[test]
fn seeds_differ_by_label_count_host_and_life() {
    let seeds = Arc::new(Mutex::new(Vec::new()));
    let noted = seeds.clone();
    let app = move |runtime: Arc<dyn Runtime>| {
        let mut noted = noted.lock().unwrap();
        noted.push(runtime.seed("x"));
        noted.push(runtime.seed("x"));
        noted.push(runtime.seed("y"));
        async { Ok(()) }
    };
    Simulation::new(1)
        .host_on_runtime("a", app.clone())
        .host_on_runtime("b", app)
        .script(|control| async move {
            control.sleep(Duration::from_millis(10)).await;
            control.crash("a");
            control.restart("a");
            control.sleep(Duration::from_millis(10)).await;
        })
        .run()
        .unwrap();
    let mut seeds = seeds.lock().unwrap().clone();
    assert_eq!(seeds.len(), 9);
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 9);
}

#[test]
fn a_slow_path_is_slow() {
    Simulation::new(1)
        .host_on_runtime("a", |runtime| serve(&runtime, 0))
        .host_on_runtime("b", |runtime| async move {
            let endpoint = bind(&*runtime, 1).await;
            let connection = dial(&*endpoint, 0).await?;
            for _ in 0..20 {
                ask(&*connection, 1).await?;
            }
            assert!(
                (390..430).contains(&connection.rtt().as_millis()),
                "{:?}",
                connection.rtt()
            );
            Ok(())
        })
        .script(|control| async move {
            control.links(LinkFaults::constant(Duration::from_millis(1)));
            control.path("a", "b", LinkFaults::constant(Duration::from_millis(100)));
            control.path("b", "a", LinkFaults::constant(Duration::from_millis(300)));
        })
        .run()
        .unwrap();
}

// ---------------------------------------------------------------------- whole nodes

async fn sees(network: Network, others: usize) -> AppResult {
    let mut catalog = network.discovery().catalog_watch();
    catalog
        .wait_for(|catalog| catalog.peers_count() == others)
        .await?;
    Ok(())
}

pub(super) fn nodes(seed: u64, count: usize) -> Simulation {
    (0..count).fold(Simulation::new(seed), |simulation, number| {
        simulation.host(&format!("node-{number}"), move |network| {
            sees(network, count - 1)
        })
    })
}

#[test]
fn nodes_find_each_other_the_same_way_each_time() {
    let report = nodes(1, 4).run_twice().unwrap();
    assert!(
        report.time < crate::time::SimTime::from(Duration::from_secs(5)),
        "{}",
        report.time
    );
}

#[test]
fn nodes_find_each_other_again_after_whatever_went_wrong() {
    for seed in 0..12 {
        let plan = FaultPlan::swarm(&mut Streams::new(seed).stream("plan"));
        let simulation = (0..4)
            .fold(Simulation::new(seed), |simulation, number| {
                simulation.service(&format!("node-{number}"), |network| sees(network, 3))
            })
            .faults(FaultPlan { spared: 1, ..plan })
            .faults_until(Duration::from_secs(30))
            .script(|control| async move {
                control.sleep(Duration::from_secs(31)).await;
                for number in 0..4 {
                    let name = format!("node-{number}");
                    control.wait_until(|| control.has_finished(&name)).await;
                }
            });
        if let Err(error) = simulation.run() {
            panic!("{error}");
        }
    }
}
