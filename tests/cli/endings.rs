//! How a run ends when it does not run to its end.

use std::fs;

use crate::{Scratch, ibot, metrics, refused, stdout};

#[test]
fn a_finished_run_is_not_overwritten() {
    let scratch = Scratch::new("overwrite");
    let train = scratch.train(&["--steps", "1"]);
    let run = scratch.0.join("run");
    assert!(ibot(&train).status.success());
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    assert!(stdout(&ibot(&train)).contains("the run is complete"));
    refused(
        &scratch.train(&["--steps", "2"]),
        &["steps: 1 -> 2", "--out"],
    );
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
    fs::remove_file(run.join("run.json")).unwrap();
    refused(
        &train,
        &["holds a run that cannot be gone on with", "--out"],
    );
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let scratch = Scratch::new("diverge");
    let train = scratch.train(&["--steps", "50", "--learning-rate", "1e38"]);
    let run = scratch.0.join("run");
    refused(&train, &["step ", "is ", "the state after step", "run"]);
    let written = ibot::weights::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert!(!written.is_empty());
    assert!(metrics(&run).iter().all(|line| line["loss"].is_number()));
}
