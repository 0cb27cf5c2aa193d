//! Each deliberate bug, and a script that notices it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use smalti_core::protocol::Mutant;
use smalti_core::protocol::raft::Config;

use crate::script;

/// Which script notices which bug. Those without one are left to whole runs under faults.
const CAUGHT: &[(Mutant, &str)] = &[
    (
        Mutant::VoteNotPersisted,
        "election_a_vote_is_durable_before_it_is_sent",
    ),
    (
        Mutant::AckBeforeFsync,
        "replication_an_acknowledgement_is_durable",
    ),
    (
        Mutant::CommitOldTermByCount,
        "replication_commits_only_its_own_term_by_counting",
    ),
    (Mutant::NoBlankOnElection, "election"),
    (Mutant::VoteForShorterLog, "election_an_old_log_is_refused"),
    (
        Mutant::ForgetVoteAtRestart,
        "election_votes_outlive_a_restart",
    ),
    (
        Mutant::StaleLeaderServesReads,
        "h21_a_leader_cut_off_answers_no_read",
    ),
    (
        Mutant::ReadIndexWithoutConfirmation,
        "h21_an_answer_older_than_the_read_confirms_nothing",
    ),
    (
        Mutant::ReadBeforeOwnTermCommitted,
        "h21_a_fresh_leader_answers_no_read_before_it_knows_what_is_committed",
    ),
    (Mutant::ReadBeforeApplied, "reads"),
    (
        Mutant::TwoConfigurationsAtOnce,
        "membership_one_change_at_a_time",
    ),
    (
        Mutant::ConfigurationInForceOnCommit,
        "h17_a_promoted_learner_votes_before_it_knows_of_it",
    ),
    (Mutant::AppliedTwice, "session_a_duplicate_is_applied_once"),
    (
        Mutant::GapAccepted,
        "h7_a_lost_command_is_not_taken_for_a_duplicate",
    ),
    (
        Mutant::SessionImplicit,
        "h8_a_session_that_has_ended_is_not_opened_by_its_commands",
    ),
    (
        Mutant::UncommittedServed,
        "h9_only_what_is_committed_is_served",
    ),
    (
        Mutant::InstanceIgnored,
        "h10_a_vote_of_an_earlier_life_is_not_counted",
    ),
    (Mutant::LearnerCounted, "learners_are_not_counted"),
    (
        Mutant::PromotedLearnerRefusesVote,
        "h17_a_promoted_learner_votes_before_it_knows_of_it",
    ),
    (
        Mutant::ThreeFromOneUnpersisted,
        "c6_three_voters_are_durable_at_the_one_before_the_others_hear_of_it",
    ),
    (
        Mutant::ThreeFromOneCounted,
        "c6_three_voters_are_durable_at_the_one_before_they_count",
    ),
    (
        Mutant::ThreeDemotedToTwo,
        "h15_three_with_a_silent_voter_stay_three",
    ),
    (
        Mutant::AbstainWhenBehind,
        "h5_a_leader_that_dies_with_an_uncommitted_tail_is_replaced",
    ),
    (
        Mutant::FailedSyncRetried,
        "h26_a_failed_write_stops_the_member",
    ),
    (
        Mutant::RunsByNumberAlone,
        "h26_a_store_set_back_that_has_come_past_its_former_number",
    ),
    (
        Mutant::VoteForSetBack,
        "h26_who_was_set_back_is_not_elected",
    ),
    (
        Mutant::SuspicionEndsWithTerm,
        "h26_what_a_leader_has_found_out_outlives_its_term",
    ),
    (Mutant::NoPreviousTermCheck, "replication_conflict"),
    (
        Mutant::StaleVotesCounted,
        "election_a_vote_of_an_earlier_term_is_not_counted",
    ),
    (
        Mutant::SessionsLostInSnapshot,
        "session_lives_on_in_a_snapshot",
    ),
    (
        Mutant::AppliedWhileFrozen,
        "h3_a_command_behind_the_freeze_is_refused",
    ),
    (
        Mutant::ReadWhileFrozen,
        "h4_calls_and_reads_end_with_their_incarnation",
    ),
    (Mutant::BothSeal, "h3_two_foundings_become_one"),
    (
        Mutant::SealedBehindThawed,
        "b1_b5_a_seal_behind_a_thaw_is_void",
    ),
    (
        Mutant::SealedByAbsence,
        "b6_a_seal_in_whose_place_something_was_committed",
    ),
    (
        Mutant::ChangeOverBeforeCommit,
        "b6_of_two_voters_the_second_is_told",
    ),
    (
        Mutant::ReformWithoutProof,
        "h11_without_proof_the_group_stands_still",
    ),
    (Mutant::PledgeBroken, "h11_a_pledge_is_kept"),
    (
        Mutant::WordOfOthers,
        "h11_a_pledge_that_others_do_not_know_of",
    ),
    (Mutant::ReformFromAnyLog, "h11_the_best_log_is_gone_on_from"),
    (
        Mutant::ReaderHeard,
        "readers_who_poses_as_a_writer_is_shut_out",
    ),
    (
        Mutant::CompactBeyondDurableSnapshot,
        "h25_the_log_is_dropped_only_below_a_durable_snapshot",
    ),
];

/// Why a run is not what the script says; `None` where it is.
fn noticed(name: &str, mutant: Option<Mutant>) -> Option<String> {
    let config = Config {
        mutant,
        ..Config::default()
    };
    let run = catch_unwind(AssertUnwindSafe(|| script::run(name, config)));
    match run {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panics: {}", text.unwrap_or_default()))
        }
        Ok(run) if !run.violations.is_empty() => {
            Some(format!("violates: {}", run.violations.join("; ")))
        }
        Ok(run) => run.differences.into_iter().next(),
    }
}

#[test]
fn scripts_notice_deliberate_bugs() {
    for (mutant, name) in CAUGHT {
        assert_eq!(noticed(name, None), None, "{name} without a bug");
        let how = noticed(name, Some(*mutant));
        let how = how.unwrap_or_else(|| panic!("{name} does not notice {mutant:?}"));
        let lines: Vec<_> = how.lines().take(12).collect();
        println!("{mutant:?}, {name}:\n{}\n", lines.join("\n"));
    }
}
