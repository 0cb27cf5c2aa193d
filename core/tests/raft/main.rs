//! Protocol runs of the consensus machine, as text: commands, and what they must lead to.
//!
//! One file of `scripts/` is one test. It has blocks of commands, a line of four dashes, and the expected
//! trace up to a blank line. A test fails where the trace is another, or where safety does not hold whatever the
//! file expects. `SMALTI_REWRITE=1 cargo test -p smalti-core --test raft` writes the present traces into the files:
//! to be done only by whoever understands what has changed them.

mod cluster;
mod image;
mod names;
mod safety;
mod script;
mod show;

macro_rules! scripts {
    ($($name:ident)*) => {
        mod scripts {
            $(
                #[test]
                fn $name() {
                    crate::script::check(stringify!($name));
                }
            )*
        }
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
    };
}

scripts! {
    a1_expect_acknowledges_nothing_before_so_many_have_accepted
    a_i_a_founding_of_two_is_left_when_one_has_begun_another_life
    a_i_an_even_founding_does_not_block_for_ever
    a_ii_a_member_of_an_acknowledging_founding_stays_in_it
    a_ii_leaving_a_founding_takes_a_fresh_instance
    a_iii_a_founding_of_an_earlier_life_of_the_founder_is_not_accepted
    a_v_the_founder_leads_term_1_only_in_the_run_that_founded
    founding
    founding_expect
    founding_left_on_proof
    founding_passed_on
    h12_a_promise_is_given_to_one_at_a_time_and_binds_to_nothing
    h13_any_waits_for_candidates_it_has_not_met
    h14_an_advertised_incarnation_forbids_another
}

#[test]
fn every_script_is_a_test() {
    let mut found = script::names();
    found.sort_unstable();
    let mut listed = SCRIPTS.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
