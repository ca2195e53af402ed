//! Masked image modelling on patch tokens (iBOT, arXiv 2111.07832, equation 2).

use burn::tensor::{Tensor, TensorData};

use crate::kernels::{CrossEntropyInput, IbotBackend, TargetPotentials};

/// How much each masked patch counts.
#[derive(Debug, Clone)]
pub enum PatchWeighting {
    /// All masked patches count the same (stable-pretraining).
    PerPatch,
    /// All images count the same, whatever the number of their masked patches; an image without any counts as zero
    /// (lightly's `IBOTPatchLoss`, the paper's code). Holds the masked count of each image, in the order of the rows.
    PerImage(Vec<usize>),
}

impl PatchWeighting {
    fn row_weights(&self, rows: usize) -> Vec<f32> {
        match self {
            Self::PerPatch => vec![1.0 / rows as f32; rows],
            Self::PerImage(counts) => counts
                .iter()
                .flat_map(|count| {
                    let weight = 1.0 / (*count as f64 * counts.len() as f64);
                    std::iter::repeat_n(weight as f32, *count)
                })
                .collect(),
        }
    }
}

/// What [`patch_loss`] takes: masked patches only.
#[derive(Debug, Clone)]
pub struct PatchLossInput<B: IbotBackend> {
    /// Student logits, `[M, K]`.
    pub student_logits: Tensor<B, 2>,
    /// Teacher logits of the same patches, unmasked, `[M, K]`.
    pub teacher_logits: Tensor<B, 2>,
    /// Potentials of the teacher's rows.
    pub potentials: TargetPotentials<B>,
    /// How much each row counts.
    pub weighting: PatchWeighting,
    /// Student temperature.
    pub student_temperature: f64,
}

/// Cross-entropy of the student on the masked patches.
///
/// Source: `iBOTPatchLoss` in stable_pretraining/losses/dino.py.
///
/// # Shapes
/// See [`PatchLossInput`], M >= 1; -> `[1]`. Without a masked patch there are no potentials and nothing to call.
pub fn patch_loss<B: IbotBackend>(input: PatchLossInput<B>) -> Tensor<B, 1> {
    let [rows, _] = input.student_logits.dims();
    let device = input.student_logits.device();
    let weights = TensorData::new(input.weighting.row_weights(rows), [rows]);
    B::cross_entropy(CrossEntropyInput {
        student_logits: input.student_logits,
        teacher_logits: input.teacher_logits,
        potentials: input.potentials,
        row_weights: Tensor::from_data(weights, &device),
        student_temperature: input.student_temperature,
    })
}
