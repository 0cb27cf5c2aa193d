//! The real transport, over the simulated network.

use super::super::tests::{echo_and_insist, nodes, swarm};

#[test]
fn what_is_asked_is_answered_over_quic() {
    let over_quic = echo_and_insist(1, 10).over_quic().run().unwrap();
    assert_ne!(
        over_quic.trace_hash,
        echo_and_insist(1, 10).run().unwrap().trace_hash
    );
}

#[test]
fn one_seed_gives_one_trace_over_quic() {
    for seed in 1..6 {
        swarm(seed).over_quic().run_twice().unwrap();
    }
    let hash = |seed| swarm(seed).over_quic().run().unwrap().trace_hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "runs of two seeds side by side are what is tested"
)]
fn a_run_over_quic_beside_it_changes_nothing() {
    let hash = |seed| swarm(seed).over_quic().run().unwrap().trace_hash;
    let alone = hash(5);
    let beside = std::thread::spawn(move || hash(6));
    let together = std::thread::spawn(move || hash(5));
    assert_eq!(together.join().unwrap(), alone);
    assert_ne!(beside.join().unwrap(), alone);
}

#[test]
fn another_process_gives_the_same_trace_over_quic() {
    const CHILD: &str = "SMALTI_SIM_TEST_CHILD";
    let hash = swarm(5).over_quic().run().unwrap().trace_hash;
    if std::env::var_os(CHILD).is_some() {
        println!("trace hash {hash:016x}");
        return;
    }
    let name = "cluster::full::tests::another_process_gives_the_same_trace_over_quic";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
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
fn whatever_goes_wrong_all_get_their_answers_over_quic_once_it_is_over() {
    for seed in 200..215 {
        if let Err(error) = swarm(seed).over_quic().run() {
            panic!("{error}");
        }
    }
}

#[test]
fn nodes_find_each_other_over_quic_the_same_way_each_time() {
    nodes(1, 4).over_quic().run_twice().unwrap();
}
