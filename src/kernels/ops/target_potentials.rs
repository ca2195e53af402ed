//! Teacher targets without storing them: one formula for centering and Sinkhorn-Knopp.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

/// Targets `q_ij = exp((t_ij - prototype_shift_j - row_shift_i) / temperature - prototype_log_j - row_lse_i)` of the
/// teacher logits `t`.
///
/// This is `exp(t_ij / temperature + a_j + b_i)` with each potential split in two. A shift is in units of the logits
/// and is taken off before the division: with logits of 1e4 and a temperature of 0.01 the quotient is 1e6, where f32
/// steps are 0.06, and a single potential would put that error into each target.
#[derive(Debug, Clone)]
pub struct TargetPotentials<B: Backend> {
    /// Shift and log-normalizer of each prototype, side by side, `[K, 2]`.
    pub of_prototypes: Tensor<B, 2>,
    /// Shift and log-normalizer of each row, side by side, `[M, 2]`.
    pub of_rows: Tensor<B, 2>,
    /// Temperature that divides the shifted logits.
    pub temperature: f64,
}

/// The half of [`TargetPotentials`] that gives the other half.
#[derive(Debug, Clone)]
pub enum Known<B: Backend> {
    /// [`TargetPotentials::of_rows`], `[M, 2]`: those of the prototypes follow, `[K, 2]`.
    Rows(Tensor<B, 2>),
    /// [`TargetPotentials::of_prototypes`], `[K, 2]`: those of the rows follow, `[M, 2]`.
    Prototypes(Tensor<B, 2>),
}

/// The two columns of pairs: shifts and logs.
///
/// # Shapes
/// `[N, 2]` -> `[N, 1]` each.
pub(in crate::kernels) fn shifts_and_logs<B: Backend>(pairs: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    [pairs.clone().narrow(1, 0, 1), pairs.narrow(1, 1, 1)]
}

/// `[N, 1]` each -> `[N, 2]`.
pub(in crate::kernels) fn pairs_of<B: Backend>(
    shifts: Tensor<B, 2>,
    logs: Tensor<B, 2>,
) -> Tensor<B, 2> {
    Tensor::cat(vec![shifts, logs], 1)
}

impl<B: AutodiffBackend> TargetPotentials<B> {
    /// The potentials on the autodiff backend, as constants.
    pub fn from_inner(inner: TargetPotentials<B::InnerBackend>) -> Self {
        Self {
            of_prototypes: Tensor::from_inner(inner.of_prototypes),
            of_rows: Tensor::from_inner(inner.of_rows),
            temperature: inner.temperature,
        }
    }

    /// The potentials on the inner backend.
    pub fn inner(self) -> TargetPotentials<B::InnerBackend> {
        TargetPotentials {
            of_prototypes: self.of_prototypes.inner(),
            of_rows: self.of_rows.inner(),
            temperature: self.temperature,
        }
    }
}

impl<B: Backend> TargetPotentials<B> {
    /// The targets themselves, which a training step never stores; for the reference loss, the health metrics and tests.
    ///
    /// # Shapes
    /// `teacher_logits` `[M, K]` -> `[M, K]`, each row sums to 1.
    pub fn targets(&self, teacher_logits: Tensor<B, 2>) -> Tensor<B, 2> {
        let of_prototypes = shifts_and_logs(self.of_prototypes.clone());
        let [prototype_shift, prototype_log] = of_prototypes.map(Tensor::transpose);
        let [row_shift, row_lse] = shifts_and_logs(self.of_rows.clone());
        let shifted = teacher_logits - prototype_shift - row_shift;
        (shifted / self.temperature - prototype_log - row_lse).exp()
    }

    /// The potentials of prototypes `columns`.
    pub fn columns(&self, columns: &Range<usize>) -> Self {
        let of_prototypes = self.of_prototypes.clone();
        Self {
            of_prototypes: of_prototypes.narrow(0, columns.start, columns.len()),
            ..self.clone()
        }
    }

    /// Panics where the pairs do not fit logits of this shape.
    pub(in crate::kernels) fn check(&self, [rows, prototypes]: [usize; 2]) {
        assert_eq!(self.of_prototypes.dims(), [prototypes, 2], "of_prototypes");
        assert_eq!(self.of_rows.dims(), [rows, 2], "of_rows");
    }

    /// Potentials that change nothing: `q = exp(t / temperature)`; all there is to say about no rows.
    pub(in crate::kernels) fn neutral(
        [rows, prototypes]: [usize; 2],
        temperature: f64,
        device: &B::Device,
    ) -> Self {
        Self {
            of_prototypes: Tensor::zeros([prototypes, 2], device),
            of_rows: Tensor::zeros([rows, 2], device),
            temperature,
        }
    }

    /// Shifts of the prototypes by `center`, `[K]`, or by nothing; rows as in [`Self::neutral`].
    pub(in crate::kernels) fn of_center(
        shape: [usize; 2],
        center: Option<Tensor<B, 1>>,
        temperature: f64,
        device: &B::Device,
    ) -> Self {
        let Some(center) = center else {
            return Self::neutral(shape, temperature, device);
        };
        let shifts = center.unsqueeze_dim(1);
        let logs = shifts.zeros_like();
        let centered = Self {
            of_prototypes: pairs_of(shifts, logs),
            of_rows: Tensor::zeros([shape[0], 2], device),
            temperature,
        };
        centered.check(shape);
        centered
    }
}

/// Shift and log-normalizer of each row: `log sum_j exp((x_j - shift) / temperature - prototype_log_j)`.
fn normalize_rows<B: Backend>(
    logits: Tensor<B, 2>,
    prototype_log: Tensor<B, 2>,
    temperature: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let shift = logits.clone().max_dim(1);
    let exponents = (logits - shift.clone()) / temperature - prototype_log;
    (shift, exponents.exp().sum_dim(1).log())
}

/// The same for each prototype, over the rows.
fn normalize_prototypes<B: Backend>(
    logits: Tensor<B, 2>,
    row_lse: Tensor<B, 2>,
    temperature: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let shift = logits.clone().max_dim(0);
    let exponents = (logits - shift.clone()) / temperature - row_lse;
    (shift, exponents.exp().sum_dim(0).log())
}

/// How far the logs of the rows may drift: `exp` of f32 ends at 88, and rows differ by some of that.
const MAX_DRIFT: f64 = 24.0;

/// The offset ln(K / M) that each iteration of Sinkhorn-Knopp without the factors 1/K and 1/M adds to the logs of all rows. It
/// cancels in the targets, but a long sum would leave the range of `exp`, so it is subtracted before that. The default of 3 iterations
/// seldom gets so far.
#[derive(Debug)]
pub struct Drift {
    of_iteration: f64,
    so_far: f64,
}

impl Drift {
    /// Of M rows in all and K prototypes.
    pub fn new(rows: usize, prototypes: usize) -> Self {
        Self {
            of_iteration: (prototypes as f64 / rows.max(1) as f64).ln(),
            so_far: 0.0,
        }
    }

    /// What is to be taken from the logs of the rows before another iteration; none while they are small.
    pub fn after_iteration(&mut self) -> Option<f32> {
        self.so_far += self.of_iteration;
        if self.so_far.abs() <= MAX_DRIFT {
            return None;
        }
        Some(std::mem::take(&mut self.so_far) as f32)
    }
}

/// Rows' potentials with this much less in their logs.
///
/// # Shapes
/// `of_rows` `[M, 2]` -> `[M, 2]`.
pub fn taken_back<B: Backend>(of_rows: Tensor<B, 2>, drift: Option<f32>) -> Tensor<B, 2> {
    match drift {
        None => of_rows,
        Some(drift) => {
            let drift = Tensor::from_floats([[0.0, drift]], &of_rows.device());
            of_rows - drift
        }
    }
}

/// Sinkhorn-Knopp: in turn each prototype (column) and each row is normalized to a sum of one.
///
/// Source: `sinkhorn_knopp` in stable_pretraining/losses/utils.py, in the log domain. The factors 1/K and 1/M there
/// cancel in the last row normalization ([`Drift`]).
pub fn sinkhorn<B: Backend>(
    logits: Tensor<B, 2>,
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<B> {
    let start = TargetPotentials::neutral(logits.dims(), temperature, &logits.device());
    if logits.dims()[0] == 0 {
        return start;
    }
    let [rows, prototypes] = logits.dims();
    let mut drift = Drift::new(rows, prototypes);
    (0..iterations).fold(start, |found, iteration| {
        let drift = (iteration > 0).then(|| drift.after_iteration()).flatten();
        let known = Known::Rows(taken_back(found.of_rows, drift));
        let of_prototypes = potentials_under(logits.clone(), known, temperature);
        let known = Known::Prototypes(of_prototypes.clone());
        TargetPotentials {
            of_rows: potentials_under(logits.clone(), known, temperature),
            of_prototypes,
            temperature,
        }
    })
}

/// See [`crate::kernels::IbotBackend::potentials_under`].
pub fn potentials_under<B: Backend>(
    logits: Tensor<B, 2>,
    known: Known<B>,
    temperature: f64,
) -> Tensor<B, 2> {
    match known {
        Known::Rows(of_rows) => {
            let [row_shift, row_lse] = shifts_and_logs(of_rows);
            let (shift, log) = normalize_prototypes(logits - row_shift, row_lse, temperature);
            pairs_of(shift.transpose(), log.transpose())
        }
        Known::Prototypes(of_prototypes) => {
            let [shift, log] = shifts_and_logs(of_prototypes).map(Tensor::transpose);
            let (row_shift, row_lse) = normalize_rows(logits - shift, log, temperature);
            pairs_of(row_shift, row_lse)
        }
    }
}

/// Softmax of `(t - center) / temperature` (DINO, arXiv 2104.14294, section 3.1).
pub fn centered<B: Backend>(
    logits: Tensor<B, 2>,
    center: Option<Tensor<B, 1>>,
    temperature: f64,
) -> TargetPotentials<B> {
    let device = logits.device();
    let start = TargetPotentials::of_center(logits.dims(), center, temperature, &device);
    if logits.dims()[0] == 0 {
        return start;
    }
    let [center, zeros] = shifts_and_logs(start.of_prototypes.clone()).map(Tensor::transpose);
    let (shift, log) = normalize_rows(logits - center, zeros, temperature);
    TargetPotentials {
        of_rows: pairs_of(shift, log),
        ..start
    }
}
