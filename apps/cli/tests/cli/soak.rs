//! Memory stays where it is, however long a run.

use crate::{Scratch, has_adapter, ibot, metrics};

/// Resident memory from step `from` on: its last tenth beside its first, by medians.
fn growth(backend: &str, steps: usize, from: usize) -> f64 {
    let scratch = Scratch::new(&format!("soak-{backend}-{steps}"));
    let steps = steps.to_string();
    let more = ["--steps", &steps, "--checkpoint-every", "20"];
    let mut train = scratch.train(&more);
    *train.iter_mut().find(|flag| *flag == "flex").unwrap() = backend.to_owned();
    assert!(ibot(&train).status.success());
    let lines = metrics(&scratch.0.join("run"));
    let resident: Vec<f64> = lines[from..]
        .iter()
        .map(|line| line["resident_mib"].as_f64().unwrap())
        .collect();
    let tenth = resident.len() / 10;
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    let (first, last) = (
        median(&resident[..tenth]),
        median(&resident[resident.len() - tenth..]),
    );
    println!("{backend}: {first:.1} MiB at step {from}, {last:.1} MiB after {steps}");
    last / first
}

#[test]
fn memory_stays_flat_on_flex() {
    let growth = growth("flex", 300, 100);
    assert!(growth < 1.05, "{growth}");
}

#[test]
fn memory_stays_flat_on_wgpu() {
    if has_adapter() {
        let growth = growth("wgpu", 300, 100);
        assert!(growth < 1.05, "{growth}");
    }
}

/// `cargo test --release -p ibot-cli -- --ignored --nocapture soak`
#[test]
#[ignore = "minutes"]
fn soak_of_2000_steps() {
    let growth_of = |backend| growth(backend, 2_000, 500);
    let flex = growth_of("flex");
    assert!(flex < 1.05, "{flex}");
    if has_adapter() {
        let wgpu = growth_of("wgpu");
        assert!(wgpu < 1.05, "{wgpu}");
    }
}
