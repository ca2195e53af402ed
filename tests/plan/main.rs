//! The plan of a run against what the run takes: parameters and states to the byte, the peak of a step to a fifth.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod choices;
mod counting;
#[path = "../gpu/mod.rs"]
mod gpu;
mod peaks;
