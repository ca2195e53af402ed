//! Ranks that are processes, on this machine. `IBOT_MPIEXEC` names another mpiexec than that on the PATH.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A scenario on so many ranks.
fn on(ranks: usize, scenario: &[&str]) -> Output {
    let mpiexec = std::env::var_os("IBOT_MPIEXEC").unwrap_or_else(|| "mpiexec".into());
    let mut command = Command::new(&mpiexec);
    command
        .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_rank")])
        .args(scenario)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{}: {error}", mpiexec.display()))
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// All ranks reach the end.
fn holds(ranks: usize, scenario: &[&str]) {
    let output = on(ranks, scenario);
    let text = text(&output);
    assert!(output.status.success(), "{scenario:?}: {text}");
    assert_eq!(text.matches("is done").count(), ranks, "{text}");
}

/// The job ends soon, and not well.
fn ends(scenario: &str) -> String {
    let began = Instant::now();
    let output = on(4, &[scenario]);
    let text = text(&output);
    assert!(!output.status.success(), "{scenario}: {text}");
    assert!(began.elapsed() < Duration::from_secs(15), "{text}");
    text
}

#[test]
fn ranks_get_what_is_sent_to_them() {
    for ranks in [1, 2, 3, 4] {
        holds(ranks, &["exchange"]);
    }
}

#[test]
fn sums_have_the_bits_of_threads() {
    for ranks in [2, 3, 4] {
        holds(ranks, &["sums"]);
    }
}

#[test]
fn large_sums_arrive() {
    holds(2, &["large", "20"]);
    holds(4, &["large", "5"]);
}

#[test]
fn who_is_done_waits_for_the_first() {
    holds(2, &["write"]);
}

#[test]
fn a_rank_that_hangs_is_named_and_ends_the_job() {
    let text = ends("hang");
    assert!(
        text.contains(" has heard nothing from rank 1 on "),
        "{text}"
    );
    assert!(
        text.contains(" for 3 s in exchange 3 (all_gather)"),
        "{text}"
    );
}

#[test]
fn a_killed_rank_ends_the_job() {
    ends("die");
}

#[test]
fn a_rank_with_another_call_is_named() {
    let text = ends("differ");
    assert!(text.contains("rank 1 on "), "{text}");
    assert!(text.contains("makes exchange 2 (all_to_all)"), "{text}");
}

#[test]
fn one_rank_can_end_all() {
    ends("fail");
}
