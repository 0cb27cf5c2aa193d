//! How fast nodes in one process find each other over loopback, and what a node costs.
//!
//! `cargo bench -p smalti --bench discovery [-- NODES...]` starts networks of 8, 16, 32 and 64 nodes (or of
//! the sizes given), all of which know one bootstrap peer, and waits until every catalog has all of them.

#[path = "common/process.rs"]
mod process;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use smalti::QuicRuntime;
use smalti_core::discovery::Config;
use smalti_core::{Network, NetworkBuilder};

use self::process::resident;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![8, 16, 32, 64]
    } else {
        sizes
    };
    println!("nodes  converged  process CPU  memory per node");
    for nodes in sizes {
        // A process of its own for each size: memory that an allocator keeps is not counted twice.
        if std::env::var_os("SMALTI_BENCH_CHILD").is_none() {
            let program = std::env::current_exe().expect("this program is a file");
            let status = std::process::Command::new(program)
                .arg(nodes.to_string())
                .env("SMALTI_BENCH_CHILD", "1")
                .status()
                .expect("this program can be started");
            assert!(status.success(), "the run with {nodes} nodes failed");
        } else {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(run(nodes));
        }
    }
}

async fn run(count: usize) {
    let memory_before = resident();
    let cpu_before = cpu_seconds();
    let started = Instant::now();
    let first = node(None).await;
    let mut nodes = vec![first];
    for _ in 1..count {
        nodes.push(node(Some(&nodes[0])).await);
    }
    let built = started.elapsed();
    for node in &nodes {
        let mut catalog = node.discovery().catalog_watch();
        let all = catalog.wait_for(|catalog| catalog.peers_count() == count - 1);
        all.await.expect("the node runs");
    }
    let converged = started.elapsed();
    let cpu = cpu_seconds() - cpu_before;
    let memory = (resident() - memory_before) / count as f64;
    println!(
        "{count:>5} {:>7.0} ms {:>9.2} s {:>12.2} MiB   (built in {:.0} ms)",
        converged.as_secs_f64() * 1e3,
        cpu,
        memory / 1_024.0,
        built.as_secs_f64() * 1e3,
    );
}

async fn node(bootstrap: Option<&Network>) -> Network {
    let mut discovery = Config::builder();
    if let Some(bootstrap) = bootstrap {
        discovery = discovery.with_bootstrap(bootstrap.local().addr());
    }
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    NetworkBuilder::new("bench")
        .with_addresses([loopback])
        .with_discovery(discovery)
        .build_on(Arc::new(QuicRuntime::new()))
        .await
        .expect("loopback can be listened on")
}

/// CPU time of this process: user and system, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|t| t.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}
