//! The transport suite over QUIC on loopback, on both kinds of tokio runtime.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use smalti::QuicRuntime;
use smalti_sim_tests::transport_suite::{Case, World};

fn world() -> World {
    World {
        runtime: Arc::new(|| Arc::new(QuicRuntime::new())),
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        // The discard service, which no machine has had for long.
        nobody: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
    }
}

fn run(mut builder: tokio::runtime::Builder, case: Case) {
    let runtime = builder.enable_all().build().expect("tokio starts");
    runtime.block_on(case(world()));
}

mod current_thread {
    fn run(case: super::Case) {
        super::run(tokio::runtime::Builder::new_current_thread(), case);
    }

    smalti_sim_tests::transport_suite!(run);
}

mod multi_thread {
    fn run(case: super::Case) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2);
        super::run(builder, case);
    }

    smalti_sim_tests::transport_suite!(run);
}
