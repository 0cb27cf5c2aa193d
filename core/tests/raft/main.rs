//! Protocol runs of the consensus machine, as text: commands, and what they must lead to.
//!
//! One file of `scripts/` is one test. It has blocks of commands, a line of four dashes, and the expected
//! trace up to a blank line. A test fails where the trace is another, or where safety does not hold whatever the
//! file expects. `SMALTI_REWRITE=1 cargo test -p smalti-core --test raft` writes the present traces into the files:
//! to be done only by whoever understands what has changed them.

mod cluster;
mod list;
#[cfg(smalti_mutants)]
mod mutants;
mod names;
mod safety;
mod script;
mod show;
mod words;

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
    h3_two_foundings_become_one
    h3_the_lighter_one_yields
    h3_of_equal_ones_the_greater_digest_stays
    h3_a_newcomer_that_founded_alone_does_not_displace_a_group
    h3_a_command_behind_the_freeze_is_refused
    b1_b5_a_seal_behind_a_thaw_is_void
    b2_what_lies_before_the_freeze_counts
    h4_calls_and_reads_end_with_their_incarnation
    b6_of_two_voters_one_forgets
    b6_of_two_voters_the_second_is_told
    b6_a_seal_in_whose_place_something_was_committed
    h3_a_new_leader_goes_on_with_the_offer
    h3_an_offer_that_is_not_answered_is_taken_back
    b6_a_crash_before_the_change_over_is_durable
    b8_a_seal_that_all_who_had_it_forget
    h12_a_founding_that_lost_its_other_voters_is_gone_on_from
    h14_a_late_node_is_no_proof_and_founds_nothing
    h14_an_answer_that_is_lost_is_asked_for_again
    h14_who_has_nothing_goes_where_others_have_something
    h3_three_foundings_become_one
    a1_expect_acknowledges_nothing_before_so_many_have_accepted
    a1_expect_remembers_who_has_accepted
    observer_with_the_longest_log_leads_until_another_has_it
    leave_does_not_hand_over_to_an_observer
    founding_expect_fewer_than_a_majority_is_left
    a1_expect_a_voter_that_lags_stays_in_what_goes_on
    a_bond_that_comes_and_goes_loses_nothing
    a_command_of_a_node_that_crashed_is_applied_once_or_not_at_all
    a_command_waits_for_a_leader
    a_i_a_founding_of_two_is_left_when_one_has_begun_another_life
    a_i_an_even_founding_does_not_block_for_ever
    a_ii_a_member_of_an_acknowledging_founding_stays_in_it
    a_ii_leaving_a_founding_takes_a_fresh_instance
    a_iii_a_founding_of_an_earlier_life_of_the_founder_is_not_accepted
    a_v_the_founder_leads_term_1_only_in_the_run_that_founded
    c6_one_becomes_three_in_one_entry
    c6_three_voters_are_durable_at_the_one_before_the_others_hear_of_it
    c6_three_voters_are_durable_at_the_one_before_they_count
    c8_a_silent_voter_of_three_is_replaced_by_one_learner
    catch_up_with_a_snapshot
    catch_up_with_entries_of_several
    d4_a_change_on_one_member_alone
    election
    election_a_live_leader_is_kept
    election_a_vote_is_durable_before_it_is_sent
    election_a_vote_of_an_earlier_term_is_not_counted
    election_a_vote_request_is_refused_while_the_leader_lives
    election_an_old_log_is_refused
    election_split_vote
    election_votes_outlive_a_restart
    founding
    founding_expect
    founding_left_on_proof
    founding_passed_on
    h10_a_vote_of_an_earlier_life_is_not_counted
    h10_an_acknowledgement_of_an_earlier_life_is_not_counted
    h11_a_group_whose_majority_is_gone_reforms
    h11_without_proof_the_group_stands_still
    h11_an_operators_order_is_void_while_the_group_goes_on
    h11_reform_after
    h11_an_observer_has_all_that_is_left
    h11_the_best_log_is_gone_on_from
    h11_what_is_known_to_be_committed_is_gone_on_with
    h11_a_founder_that_crashes_half_way
    h11_a_founder_forgets_what_is_not_durable
    h11_a_fork_meets_its_parent
    h11_a_fork_may_stay_where_its_parent_yields
    d1c_voters_unknown_to_all_that_are_left
    h11_a_pledge_is_kept
    h11_a_pledge_that_came_to_nothing
    h11_a_pledge_that_others_do_not_know_of
    h11_who_never_stands_is_not_waited_for
    d1a_who_does_not_know_the_present_voters_waits
    d1b_who_alone_knows_of_a_change_leaves_the_others_alone
    d2_two_that_are_left_and_do_not_reach_each_other
    d4_a_change_on_one_member_alone_is_reformed_on_proof
    h12_a_promise_is_given_to_one_at_a_time_and_binds_to_nothing
    h13_any_waits_for_candidates_it_has_not_met
    h14_an_advertised_incarnation_forbids_another
    h15_five_become_three_when_two_are_silent
    h15_three_with_a_silent_voter_stay_three
    h15b_a_group_of_one_waits_for_learners_that_keep_up
    h16_who_was_demoted_waits_longer
    h17_a_promoted_learner_votes_before_it_knows_of_it
    h18_the_last_voter_stays
    h19_the_log_above_a_snapshot_in_transfer_is_kept
    h1_messages_of_an_earlier_incarnation_mean_nothing
    h20_a_voter_that_catches_up_votes_and_acknowledges
    h21_a_fresh_leader_answers_no_read_before_it_knows_what_is_committed
    h21_a_leader_cut_off_answers_no_read
    h21_an_answer_older_than_the_read_confirms_nothing
    h22_a_call_is_not_completed_by_another_command_at_its_index
    h23_a_command_given_up_does_not_block_the_next
    h25_the_log_is_dropped_only_below_a_durable_snapshot
    h26_a_command_of_a_set_back_run_is_not_taken_for_a_duplicate
    h26_a_member_that_was_set_back_is_served
    h26_a_failed_write_stops_the_member
    h26_a_late_message_of_an_earlier_run_proves_nothing
    h26_a_late_message_of_an_earlier_run_on_a_bond_with_a_later_one
    h26_a_member_that_was_set_back_votes_again_once_demoted
    h26_a_store_set_back_to_an_earlier_boot
    h26_a_store_set_back_that_has_come_past_its_former_number
    h26_a_store_that_was_set_back_is_not_counted
    h26_who_was_set_back_is_not_elected
    h26_what_a_later_leader_had_it_drop_is_not_forgotten
    h26_what_a_leader_has_found_out_outlives_its_term
    h27_all_take_the_same_snapshot
    h27_a_snapshot_from_behind_the_seal_has_it
    h28_the_leader_counts_itself_once_its_own_write_is_durable
    h29_a_late_order_to_stand_is_ignored
    h5_a_leader_that_dies_with_an_uncommitted_tail_is_replaced
    h5_followers_behind_a_dead_leader_elect_one_of_them
    h6_two_sets_of_voters_without_a_common_member_never_both_commit
    h7_a_lost_command_is_not_taken_for_a_duplicate
    h8_a_session_that_has_ended_is_not_opened_by_its_commands
    h9_only_what_is_committed_is_served
    learners_are_not_counted
    leave
    leave_does_not_wait_for_the_next_heartbeat
    leave_of_a_voter_that_is_needed
    leave_of_two_while_they_become_voters
    leave_of_a_learner_of_a_lone_voter
    membership_a_removed_voter_is_not_the_only_one_to_know
    membership_an_even_set_is_completed_by_one
    membership_changes_wait_until_the_founding_is_confirmed
    membership_one_change_at_a_time
    membership_three_to_five
    observer
    observer_that_was_a_voter_is_replaced
    reads
    reads_are_asked_again_of_the_next_leader
    readers_who_reads_decides_nothing
    readers_who_reads_is_not_waited_for
    readers_who_reads_founds_nothing_and_is_not_believed
    readers_follow_a_writer_that_begins_anew
    readers_go_on_with_those_that_reform
    readers_who_was_a_voter_leads_no_longer
    readers_who_poses_as_a_writer_is_shut_out
    replication_an_acknowledgement_is_durable
    replication_an_append_that_contradicts_the_base_is_not_taken
    replication_commits_only_its_own_term_by_counting
    replication_conflict
    replication_flow_control
    replication_lost_append
    replication_reordered_appends
    session_a_duplicate_is_applied_once
    session_lives_on_in_a_snapshot
    session_what_was_refused_is_not_said_to_have_been_applied
    transfer
    transfer_is_given_up_after_an_election_timeout
}

#[test]
fn every_script_is_a_test() {
    let mut found = script::names();
    found.sort_unstable();
    let mut listed = SCRIPTS.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn every_script_is_in_the_book() {
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/src/consensus-rules.md"
    );
    let page = std::fs::read_to_string(page).expect("the page is there");
    for name in SCRIPTS {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in it");
    }
}
