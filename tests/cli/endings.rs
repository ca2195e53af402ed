//! How a run ends when it does not run to its end.

use std::fs;
use std::process::Command;

use crate::{Scratch, command, ibot, metrics, refused};

#[test]
fn a_finished_run_is_not_overwritten() {
    let scratch = Scratch::new("overwrite");
    let train = scratch.train(&["--steps", "1"]);
    let run = scratch.0.join("run");
    assert!(ibot(&train).status.success());
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    refused(&train, &["holds a run already", "--out"]);
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

/// Ctrl-C finishes the step, writes the backbones and exits with 130.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_the_state() {
    let scratch = Scratch::new("interrupt");
    let train = scratch.train(&["--steps", "1000000"]);
    let run = scratch.0.join("run");
    let mut child = command(&train)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = run.join("metrics.jsonl");
    let started = std::time::Instant::now();
    while fs::metadata(&log).map_or(0, |file| file.len()) < 1000 {
        assert!(started.elapsed().as_secs() < 60, "no step in a minute");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(run.join("teacher.safetensors").exists() && run.join("student.safetensors").exists());
    assert!(!metrics(&run).is_empty());
}
