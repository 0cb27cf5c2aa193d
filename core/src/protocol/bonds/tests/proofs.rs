//! Proofs that a machine has made itself, where they prove nothing.

use super::super::*;
use super::hostile::{Case, EXPORTER, LOCAL, NOT_PROVED, PEER, refuse};
use super::world::group;
use crate::id::{Instance, PeerId};
use crate::runtime::Side;

/// What a machine says when it wants a bond with a peer in group 1.
fn offer_to(case: &mut Case, peer: PeerId) -> Vec<Item> {
    let groups = [group(1)].into();
    case.input(Input::Peer { peer, groups });
    let said = case.said();
    assert!(matches!(said[..], [Item::Offer { reply: false, .. }]));
    said
}

/// The machine is linked with a peer, and hears what proves nothing there.
fn is_refused(mut case: Case, offer: &[Item]) {
    case.say(offer);
    assert_eq!(case.said(), [refuse(1, NOT_PROVED)]);
    assert_eq!(case.bonds.stats().wrong_proofs, 1);
}

fn own_proof_is_refused(config: Config) {
    let mut case = Case::of(LOCAL, config);
    case.open(1, PEER, 1, EXPORTER);
    let offer = offer_to(&mut case, PEER);
    is_refused(case, &offer);
}

fn proof_of_another_connection_is_refused(config: Config) {
    let mut peer = Case::of(PEER, config.clone());
    peer.input(Input::LinkOpened {
        link: LinkId(1),
        peer: LOCAL,
        instance: Instance::from_bytes([1; 16]),
        side: Side::Dialer,
        exporter: [8; 32],
    });
    let offer = offer_to(&mut peer, LOCAL);
    let mut case = Case::of(LOCAL, config);
    case.open(1, PEER, 1, EXPORTER);
    is_refused(case, &offer);
}

#[test]
fn this_node_s_own_proof_is_worth_nothing_to_the_peer() {
    own_proof_is_refused(Config::default());
}

#[test]
fn what_was_proved_on_one_connection_is_not_on_the_next() {
    proof_of_another_connection_is_refused(Config::default());
}

#[cfg(smalti_mutants)]
#[test]
fn deliberate_bugs_are_noticed() {
    use crate::protocol::{Mutant, assert_noticed};
    let noticed_by: [(Mutant, fn(Config)); 2] = [
        (Mutant::ProofOfEitherEnd, own_proof_is_refused),
        (
            Mutant::ProofOfAnyLink,
            proof_of_another_connection_is_refused,
        ),
    ];
    assert_noticed(&noticed_by, |mutant| Config {
        mutant: Some(mutant),
        ..Config::default()
    });
}
