//! What the suites that run on every backend share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;
use burn::tensor::backend::{Backend, BackendTypes};

/// A check of a backend; it fails by panicking.
pub type Check<B> = fn(&<B as BackendTypes>::Device);

/// A check may run a forward from parameters that a backward pass has seen, and a backward pass that ends on another thread
/// may then free operations of it, so that gradients lack a term (why: `on_new_nodes` in src/train/optim/gradients.rs; a `Trainer`
/// does not do that, tests/threads.rs): one backend at a time.
static ONE_BACKEND: Mutex<()> = Mutex::new(());

/// Runs every check and reports all that fail, not the first; one thread touches the device. `IBOT_CHECK` names part of
/// those to run.
pub fn run_checks<B: Backend>(backend: &str, checks: &[(&str, Check<B>)], device: &B::Device) {
    let _alone = ONE_BACKEND.lock().unwrap_or_else(PoisonError::into_inner);
    let only = std::env::var("IBOT_CHECK").unwrap_or_default();
    let failed: Vec<&str> = checks
        .iter()
        .filter(|(name, _)| name.contains(&only))
        .filter(|(_, check)| catch_unwind(AssertUnwindSafe(|| check(device))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "{backend}: {failed:?}");
}

pub fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = (f64::from(*found) - expected).abs();
        assert!(distance <= tolerance, "entry {at}: {found}, not {expected}");
    }
}
