//! One check: what it computes on a backend.

use ibot::Result;
use ibot::burn::tensor::backend::BackendTypes;
use ibot::kernels::TrainBackend;

use super::compare::Measured;

/// One thing to run on a backend.
pub struct Check<B: TrainBackend> {
    pub name: &'static str,
    pub run: Run<B>,
    /// What runs where this backend is the one that counts as right.
    pub reference: Run<B>,
}

/// Tensors that the backend computes.
pub type Run<B> = fn(&<B as BackendTypes>::Device) -> Result<Vec<Measured>>;

impl<B: TrainBackend> Check<B> {
    pub fn new((name, run): (&'static str, Run<B>)) -> Self {
        Self {
            name,
            run,
            reference: run,
        }
    }
}
