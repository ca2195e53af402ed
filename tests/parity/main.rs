//! Recorded cases of the reference packages, on every backend: `cargo test --release --test parity -- --nocapture`.
//!
//! Cases lie in tests/fixtures/parity (written by parity.py, timm_models.py and transformers_models.py beside it) and, where it is set, in the folder that
//! the environment variable `IBOT_PARITY_DIR` names. A case's `kind` picks the check; an unknown kind fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod backbone;
mod case;
#[path = "../gpu/mod.rs"]
mod gpu;
mod losses;
mod method;
mod model;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use case::{Case, Comparison};
use ibot::kernels::{Gpu, TrainBackend};

/// Cases of the project and of the folder in `IBOT_PARITY_DIR`, sorted by path.
fn case_files() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let given = std::env::var_os("IBOT_PARITY_DIR").map(PathBuf::from);
    let mut files = Vec::new();
    for folder in [Some(own), given].into_iter().flatten() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let paths = entries.map(|entry| entry.unwrap().path());
        let before = files.len();
        files.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors")));
        assert!(files.len() > before, "no case in {}", folder.display());
    }
    files.sort();
    files
}

fn check<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    match case.kind() {
        "backbone" => backbone::check::<B>(case, device),
        "patch_loss" => losses::patch::<B>(case, device),
        "cls_loss" => losses::cls::<B>(case, device),
        "centered_patch_loss" => losses::centered_patch::<B>(case, device),
        "multi_crop_cls_loss" => losses::multi_crop_cls::<B>(case, device),
        "koleo" => losses::koleo::<B>(case, device),
        "method" => method::check::<B>(case, device),
        "model" => model::check::<B>(case, device),
        kind => Err(format!("unknown kind {kind:?}")),
    }
}

/// Runs every case and reports every failing one, not the first.
fn run<B: TrainBackend>(backend: &str, device: &B::Device) {
    let mut failures = Vec::new();
    for file in case_files() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let checked = || Case::read(&file).and_then(|case| check::<B>(&case, device));
        let outcome = catch_unwind(AssertUnwindSafe(checked))
            .unwrap_or_else(|_| Err("panicked, see above".into()));
        match outcome {
            Ok(comparison) => {
                println!("{backend:8} {name:24} {comparison}");
                failures.extend(comparison.failures().map(|line| format!("{name}: {line}")));
            }
            Err(message) => failures.push(format!("{name}: {message}")),
        }
    }
    assert!(failures.is_empty(), "{backend}:\n{}", failures.join("\n"));
}

#[test]
fn ndarray() {
    run::<Autodiff<NdArray<f32>>>("ndarray", &Default::default());
}

#[test]
fn flex() {
    run::<Autodiff<Flex>>("flex", &Default::default());
}

#[test]
fn wgpu() {
    if let Some((device, guard)) = gpu::device() {
        run::<Autodiff<Gpu>>("wgpu", &device);
        guard.check_sync::<Gpu>(&device).unwrap();
    }
}
