//! Teacher targets without storing them: one formula for centering and Sinkhorn-Knopp.

use std::ops::Range;

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

/// Normalizers of rows, as in [`TargetPotentials`], or of a part of each row.
#[derive(Debug, Clone)]
pub struct RowPotentials<B: Backend> {
    /// In units of the logits, `[M]`.
    pub shift: Tensor<B, 1>,
    /// Logarithm of what is left, `[M]`.
    pub log: Tensor<B, 1>,
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

    /// The potentials on the inner backend.
    pub fn inner(self) -> TargetPotentials<B::InnerBackend> {
        TargetPotentials {
            prototype_shift: self.prototype_shift.inner(),
            prototype_log: self.prototype_log.inner(),
            row_shift: self.row_shift.inner(),
            row_log: self.row_log.inner(),
            temperature: self.temperature,
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

    /// The potentials of prototypes `columns`.
    pub fn columns(&self, columns: &Range<usize>) -> Self {
        let part = |vector: &Tensor<B, 1>| vector.clone().narrow(0, columns.start, columns.len());
        Self {
            prototype_shift: part(&self.prototype_shift),
            prototype_log: part(&self.prototype_log),
            ..self.clone()
        }
    }

    /// Panics where the vectors do not fit logits of this shape.
    pub(super) fn check(&self, [rows, prototypes]: [usize; 2]) {
        for (name, vector, expected) in [
            ("prototype_shift", &self.prototype_shift, prototypes),
            ("prototype_log", &self.prototype_log, prototypes),
            ("row_shift", &self.row_shift, rows),
            ("row_log", &self.row_log, rows),
        ] {
            assert_eq!(vector.dims(), [expected], "length of {name}");
        }
    }

    /// Potentials that change nothing: `q = exp(t / temperature)`; all there is to say about no rows.
    pub(super) fn neutral(
        [rows, prototypes]: [usize; 2],
        temperature: f64,
        device: &B::Device,
    ) -> Self {
        Self {
            prototype_shift: Tensor::zeros([prototypes], device),
            prototype_log: Tensor::zeros([prototypes], device),
            row_shift: Tensor::zeros([rows], device),
            row_log: Tensor::zeros([rows], device),
            temperature,
        }
    }
}

/// Rows of all parts, and their common number of prototypes. At least one part.
pub(super) fn shape_of_parts<B: Backend>(parts: &[Tensor<B, 2>]) -> [usize; 2] {
    assert!(!parts.is_empty(), "potentials of no logits");
    let prototypes = parts[0].dims()[1];
    let rows = parts.iter().map(|part| {
        assert_eq!(part.dims()[1], prototypes, "all parts have all prototypes");
        part.dims()[0]
    });
    [rows.sum(), prototypes]
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

/// The same for each prototype, over the rows of all parts.
fn normalize_prototypes<B: Backend>(
    parts: &[Tensor<B, 2>],
    row_logs: &[Tensor<B, 2>],
    temperature: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let max = |part: &Tensor<B, 2>| part.clone().max_dim(0);
    let others = parts.iter().skip(1).map(max);
    let shift = others.fold(max(&parts[0]), Tensor::max_pair);
    let sums = parts.iter().zip(row_logs).map(|(part, row_log)| {
        let exponents = (part.clone() - shift.clone()) / temperature - row_log.clone();
        exponents.exp().sum_dim(0)
    });
    let sum = sums.fold(shift.zeros_like(), |sum, part| sum + part);
    (shift, sum.log())
}

/// Sinkhorn-Knopp: in turn each prototype (column) and each row is normalized to a sum of one.
///
/// Source: `sinkhorn_knopp` in stable_pretraining/losses/utils.py, in the log domain. The factors 1/K and 1/M there
/// cancel in the last row normalization.
pub fn sinkhorn<B: Backend>(
    parts: &[Tensor<B, 2>],
    temperature: f64,
    iterations: usize,
) -> TargetPotentials<B> {
    let [rows, prototypes] = shape_of_parts(parts);
    let device = parts[0].device();
    let neutral = TargetPotentials::neutral([rows, prototypes], temperature, &device);
    let parts: Vec<Tensor<B, 2>> = parts.iter().filter(|p| p.dims()[0] > 0).cloned().collect();
    if parts.is_empty() {
        return neutral;
    }
    let zeros = |part: &Tensor<B, 2>| Tensor::<B, 2>::zeros([part.dims()[0], 1], &device);
    let mut row_shifts: Vec<_> = parts.iter().map(zeros).collect();
    let mut row_logs: Vec<_> = parts.iter().map(zeros).collect();
    let mut prototype_shift = neutral.prototype_shift.unsqueeze_dim(0);
    let mut prototype_log = neutral.prototype_log.unsqueeze_dim(0);
    for _ in 0..iterations {
        let by_row = parts.iter().zip(&row_shifts);
        let by_row: Vec<_> = by_row.map(|(t, shift)| t.clone() - shift.clone()).collect();
        (prototype_shift, prototype_log) = normalize_prototypes(&by_row, &row_logs, temperature);
        let normalized = parts.iter().map(|part| {
            let by_prototype = part.clone() - prototype_shift.clone();
            normalize_rows(by_prototype, prototype_log.clone(), temperature)
        });
        (row_shifts, row_logs) = normalized.unzip();
    }
    TargetPotentials {
        prototype_shift: prototype_shift.reshape([prototypes]),
        prototype_log: prototype_log.reshape([prototypes]),
        row_shift: Tensor::cat(row_shifts, 0).reshape([rows]),
        row_log: Tensor::cat(row_logs, 0).reshape([rows]),
        temperature,
    }
}

/// See [`super::IbotBackend::sinkhorn_iteration`].
pub fn sinkhorn_iteration<B: Backend>(
    part: Tensor<B, 2>,
    rows: RowPotentials<B>,
    temperature: f64,
) -> TargetPotentials<B> {
    let [count, prototypes] = part.dims();
    let by_row = part.clone() - rows.shift.unsqueeze_dim(1);
    let row_log = rows.log.unsqueeze_dim(1);
    let (shift, log) = normalize_prototypes(&[by_row], &[row_log], temperature);
    let (row_shift, row_log) = normalize_rows(part - shift.clone(), log.clone(), temperature);
    TargetPotentials {
        prototype_shift: shift.reshape([prototypes]),
        prototype_log: log.reshape([prototypes]),
        row_shift: row_shift.reshape([count]),
        row_log: row_log.reshape([count]),
        temperature,
    }
}

/// Softmax of `(t - center) / temperature` (DINO, arXiv 2104.14294, section 3.1).
pub fn centered<B: Backend>(
    parts: &[Tensor<B, 2>],
    center: Option<Tensor<B, 1>>,
    temperature: f64,
) -> TargetPotentials<B> {
    let [rows, prototypes] = shape_of_parts(parts);
    let neutral = TargetPotentials::neutral([rows, prototypes], temperature, &parts[0].device());
    let center = center.unwrap_or_else(|| neutral.prototype_shift.clone());
    let neutral = TargetPotentials {
        prototype_shift: center.clone(),
        ..neutral
    };
    let normalized = parts.iter().filter(|part| part.dims()[0] > 0).map(|part| {
        let by_prototype = part.clone() - center.clone().unsqueeze_dim(0);
        normalize_rows(
            by_prototype,
            neutral.prototype_log.clone().unsqueeze_dim(0),
            temperature,
        )
    });
    let (shifts, logs): (Vec<_>, Vec<_>) = normalized.unzip();
    if shifts.is_empty() {
        return neutral;
    }
    TargetPotentials {
        row_shift: Tensor::cat(shifts, 0).reshape([rows]),
        row_log: Tensor::cat(logs, 0).reshape([rows]),
        ..neutral
    }
}
