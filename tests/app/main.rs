//! Models and runs as an application uses them: on threads of their own, and on the application's own GPU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::too_many_lines, reason = "a test may be a list of cases")]

mod callbacks;
mod device;
mod embedding;
mod inputs;
mod ranks;
mod run_images;
mod short_epochs;
#[path = "../tiny_model/mod.rs"]
mod tiny_model;
mod training;

use std::time::{Duration, Instant};

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
