//! When the batches of a run are sent to its device.

use std::fs;

use super::{Scratch, TINY, command, has_adapter};

const STEPS: usize = 12;

/// What the log of a run says, one letter a line: a batch is Sent, a step Begins, its losses are Read.
fn events(backend: &str) -> String {
    let scratch = Scratch::new(&format!("uploads-{backend}"));
    let (images, config) = (scratch.images(), scratch.path("each.toml"));
    fs::write(&config, format!("metrics_every = 1\n{TINY}")).unwrap();
    let output = command(&[
        "train",
        "--backend",
        backend,
        "--data",
        &images,
        "--out",
        &scratch.path("run"),
        "--config",
        &config,
        "--steps",
        &STEPS.to_string(),
    ])
    .env("IBOT_LOG", "debug")
    .output()
    .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let event = |line: &str| match line {
        line if line.ends_with(" is sent to the device") => Some('S'),
        line if line.contains(": step ") && line.ends_with(" begins") => Some('B'),
        line if line.ends_with(" are read") => Some('R'),
        _ => None,
    };
    log.lines().filter_map(event).collect()
}

/// Each step has one batch. Where the loader is fast enough, it is sent behind the launches of the step before, and before
/// the wait for that step's losses; never later than that step's own begin.
fn sends_ahead(backend: &str) {
    let events = events(backend);
    let steps: Vec<&str> = events.split_inclusive('R').collect();
    assert_eq!(steps.len(), STEPS, "{events}");
    let (mut at_hand, mut ahead) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        let (before, after) = step.split_once('B').unwrap();
        assert_eq!(at_hand + before.len(), 1, "step {number} of {events}");
        let expected: &[&str] = match number + 1 {
            STEPS => &["R"], // no step follows
            _ => &["R", "SR"],
        };
        assert!(expected.contains(&after), "step {number} of {events}");
        at_hand = after.len() - 1;
        ahead += at_hand;
    }
    assert!(ahead > 0, "{events}");
}

#[test]
fn the_next_batch_is_sent_before_a_step_is_read() {
    sends_ahead("flex");
}

#[test]
fn the_next_batch_is_sent_before_a_step_is_read_from_a_gpu() {
    if has_adapter() {
        sends_ahead("wgpu");
    }
}
