//! The teacher's targets, and the cross-entropy that both losses have with them.

use burn::tensor::Tensor;

use crate::kernels::{
    CrossEntropyInput, IbotBackend, Logits, Pairing, TargetPotentials, TiledInput, TiledTargets,
    TrainBackend,
};

/// How a teacher's logits become targets.
#[derive(Debug, Clone)]
pub enum TargetRule<B: IbotBackend> {
    /// Softmax of what is above a center, `[K]` or none yet (DINO, arXiv 2104.14294, section 3.1).
    Centering(Option<Tensor<B, 1>>),
    /// Sinkhorn-Knopp with this many iterations: all prototypes are used equally (SwAV, arXiv 2006.09882, section 3.1).
    Sinkhorn(usize),
}

/// A teacher's targets of M rows. Both forms have the same values up to rounding.
///
/// Neither stores the probabilities: potentials of rows and prototypes give them from the logits wherever they
/// are read, which costs one exponential per entry and saves a tensor of the size of the logits.
#[derive(Debug, Clone)]
pub enum TeacherTargets<B: IbotBackend> {
    /// Logits in one tensor.
    Stored {
        /// `[M, K]`.
        logits: Tensor<B, 2>,
        /// What makes targets of them.
        potentials: TargetPotentials<B>,
    },
    /// Logits that do not fit one tensor or the memory: recomputed for each pass, one tile of prototypes at a time.
    /// Takes a third more matrix products in a step with many prototypes.
    Tiled(TiledTargets<B>),
}

impl<B: IbotBackend> TeacherTargets<B> {
    /// Targets of `logits`, stored or in tiles of `tile_columns` columns; at least one row.
    pub fn new(
        logits: Logits<B>,
        rule: TargetRule<B>,
        temperature: f64,
        tile_columns: Option<usize>,
    ) -> Self {
        if let Some(columns) = tile_columns {
            return Self::Tiled(tiled_targets(logits, rule, temperature, columns));
        }
        let logits = logits.stored(); // the product of bottleneck features and prototypes
        let potentials = match rule {
            TargetRule::Centering(center) => {
                B::centered_potentials(logits.clone(), center, temperature)
            }
            TargetRule::Sinkhorn(iterations) => {
                B::sinkhorn_potentials(logits.clone(), temperature, iterations)
            }
        };
        Self::Stored { logits, potentials }
    }

    /// Number M of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Stored { logits, .. } => logits.dims()[0],
            Self::Tiled(targets) => targets.teacher.rows(),
        }
    }

    /// The mean of all rows' logits, `[K]`, which a [`Center`](super::Center) follows.
    pub fn mean_logits(&self) -> Tensor<B, 1> {
        match self {
            Self::Stored { logits, .. } => B::column_sums(logits.clone()) / self.rows() as f64,
            Self::Tiled(targets) => targets.teacher.mean(),
        }
    }
}

impl<B: TrainBackend> TeacherTargets<B> {
    /// The targets on the autodiff backend, as constants: no gradient flows into the teacher.
    pub fn from_inner(inner: TeacherTargets<B::InnerBackend>) -> Self {
        match inner {
            TeacherTargets::Stored { logits, potentials } => Self::Stored {
                logits: Tensor::from_inner(logits),
                potentials: TargetPotentials::from_inner(potentials),
            },
            TeacherTargets::Tiled(targets) => Self::Tiled(TiledTargets::from_inner(targets)),
        }
    }
}

/// Targets of `logits` in tiles of `columns` columns; at least one row.
pub(crate) fn tiled_targets<B: IbotBackend>(
    logits: Logits<B>,
    rule: TargetRule<B>,
    temperature: f64,
    columns: usize,
) -> TiledTargets<B> {
    match rule {
        TargetRule::Centering(center) => {
            TiledTargets::centered(logits, columns, center, temperature)
        }
        TargetRule::Sinkhorn(iterations) => {
            TiledTargets::sinkhorn(logits, columns, temperature, iterations)
        }
    }
}

/// `sum_i w_i * -sum_k q_ik log softmax(s_i / temperature)_k` over the student's rows i, each with the targets q of the
/// teacher's rows that it is paired with.
///
/// # Shapes
/// `student` `[M, K]`, `row_weights` `[M]` -> `[1]`.
pub(super) fn cross_entropy<B: IbotBackend>(
    student: Logits<B>,
    targets: TeacherTargets<B>,
    pairing: Pairing,
    row_weights: Tensor<B, 1>,
    student_temperature: f64,
) -> Tensor<B, 1> {
    let output = match targets {
        TeacherTargets::Stored { logits, potentials } => B::cross_entropy(&CrossEntropyInput {
            // not kept anywhere else, so that the backward pass can overwrite them with their gradient
            student_logits: student.stored(),
            teacher_logits: logits,
            potentials,
            pairing,
            row_weights,
            student_temperature,
        }),
        TeacherTargets::Tiled(targets) => B::tiled_cross_entropy(&TiledInput {
            student,
            targets,
            pairing,
            row_weights,
            student_temperature,
        }),
    };
    output.loss
}
