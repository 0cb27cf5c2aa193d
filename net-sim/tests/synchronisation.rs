//! Synchronisation that is asked for.

use smalti_core::PeerId;
use smalti_core::discovery::{Error, PeerAddr, RequestError, SyncFailure};
use smalti_sim::Simulation;

#[test]
fn a_synchronisation_with_a_peer_that_is_not_there_fails_and_says_why() {
    let nobody = PeerId::from_bytes([7; 32]);
    Simulation::new(1)
        .host("node", move |network| async move {
            let peer = PeerAddr::new(nobody, [([192, 168, 200, 200], 1).into()]);
            let error = network.discovery().sync_with(peer).await.err();
            let Some(Error::Refused(RequestError::SyncFailed { peer, failure })) = error else {
                return Err(format!("it ended with {error:?}").into());
            };
            assert_eq!(peer, nobody);
            assert!(
                matches!(&failure, SyncFailure::Link(cause) if cause.contains("192.168.200.200")),
                "{failure:?}"
            );
            Ok(())
        })
        .run()
        .expect("the error names the address that was tried");
}
