//! Teacher targets without storing them: one formula for centering and Sinkhorn-Knopp.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

/// Targets `q_ij = exp((t_ij - prototype_shift_j - row_shift_i) / temperature - prototype_log_j - row_log_i)` of the
/// teacher logits `t`.
///
/// This is `exp(t_ij / temperature + a_j + b_i)` with each potential split in two. A shift is in units of the logits
/// and is taken off before the division: with logits of 1e4 and a temperature of 0.01 the quotient is 1e6, where f32
/// steps are 0.06, and a single potential would put that error into each target.
#[derive(Debug, Clone)]
pub struct TargetPotentials<B: Backend> {
    /// Shift of each prototype, in units of the logits, `[K]`.
    pub prototype_shift: Tensor<B, 1>,
    /// Log-normalizer of each prototype, `[K]`.
    pub prototype_log: Tensor<B, 1>,
    /// Shift of each row, in units of the logits, `[M]`.
    pub row_shift: Tensor<B, 1>,
    /// Log-normalizer of each row, `[M]`.
    pub row_log: Tensor<B, 1>,
    /// Temperature that divides the shifted logits.
    pub temperature: f64,
}

impl<B: AutodiffBackend> TargetPotentials<B> {
    /// The potentials on the autodiff backend, as constants.
    pub fn from_inner(inner: TargetPotentials<B::InnerBackend>) -> Self {
        Self {
            prototype_shift: Tensor::from_inner(inner.prototype_shift),
            prototype_log: Tensor::from_inner(inner.prototype_log),
            row_shift: Tensor::from_inner(inner.row_shift),
            row_log: Tensor::from_inner(inner.row_log),
            temperature: inner.temperature,
        }
    }
}

impl<B: Backend> TargetPotentials<B> {
    /// The targets themselves; for tests and the reference loss.
    ///
    /// # Shapes
    /// `teacher_logits` `[M, K]` -> `[M, K]`, each row sums to 1.
    pub fn targets(&self, teacher_logits: Tensor<B, 2>) -> Tensor<B, 2> {
        let shifted = teacher_logits
            - self.prototype_shift.clone().unsqueeze_dim(0)
            - self.row_shift.clone().unsqueeze_dim(1);
        (shifted / self.temperature
            - self.prototype_log.clone().unsqueeze_dim(0)
            - self.row_log.clone().unsqueeze_dim(1))
        .exp()
    }

    /// The potentials of rows `start..end`.
    pub fn rows(&self, start: usize, end: usize) -> Self {
        Self {
            row_shift: self.row_shift.clone().narrow(0, start, end - start),
            row_log: self.row_log.clone().narrow(0, start, end - start),
            ..self.clone()
        }
    }
}

/// Shift and log-normalizer along dimension `DIM`: `log sum exp((x - shift) / temperature - other)`.
fn normalize<B: Backend, const DIM: usize>(
    logits: Tensor<B, 2>,
    other_log: Tensor<B, 2>,
    temperature: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let shift = logits.clone().max_dim(DIM);
    let log = ((logits - shift.clone()) / temperature - other_log)
        .exp()
        .sum_dim(DIM)
        .log();
    (shift, log)
}

/// Sinkhorn-Knopp: in turn each prototype (column) and each row is normalized to a sum of one.
///
/// Source: `sinkhorn_knopp` in stable_pretraining/losses/utils.py, in the log domain. The factors 1/K and 1/M there
/// cancel in the last row normalization.
pub(super) fn sinkhorn<B: Backend>(
    teacher_logits: Tensor<B, 2>,
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<B> {
    let [rows, prototypes] = teacher_logits.dims();
    let device = teacher_logits.device();
    let mut row_shift = Tensor::zeros([rows, 1], &device);
    let mut row_log = Tensor::zeros([rows, 1], &device);
    let mut prototype_shift = Tensor::zeros([1, prototypes], &device);
    let mut prototype_log = Tensor::zeros([1, prototypes], &device);
    for _ in 0..iterations {
        let by_row = teacher_logits.clone() - row_shift;
        (prototype_shift, prototype_log) = normalize::<B, 0>(by_row, row_log, temperature);
        let by_prototype = teacher_logits.clone() - prototype_shift.clone();
        (row_shift, row_log) = normalize::<B, 1>(by_prototype, prototype_log.clone(), temperature);
    }
    TargetPotentials {
        prototype_shift: prototype_shift.reshape([prototypes]),
        prototype_log: prototype_log.reshape([prototypes]),
        row_shift: row_shift.reshape([rows]),
        row_log: row_log.reshape([rows]),
        temperature,
    }
}

/// Softmax of `(t - center) / temperature` (DINO, arXiv 2104.14294, section 3.1).
pub(super) fn centered<B: Backend>(
    teacher_logits: Tensor<B, 2>,
    center: Option<Tensor<B, 1>>,
    temperature: f64,
) -> TargetPotentials<B> {
    let [rows, prototypes] = teacher_logits.dims();
    let device = teacher_logits.device();
    let center = center.unwrap_or_else(|| Tensor::zeros([prototypes], &device));
    let no_log = Tensor::zeros([1, prototypes], &device);
    let (row_shift, row_log) = normalize::<B, 1>(
        teacher_logits - center.clone().unsqueeze_dim(0),
        no_log,
        temperature,
    );
    TargetPotentials {
        prototype_shift: center,
        prototype_log: Tensor::zeros([prototypes], &device),
        row_shift: row_shift.reshape([rows]),
        row_log: row_log.reshape([rows]),
        temperature,
    }
}
