//! Masked image modelling on patch tokens (iBOT, arXiv 2111.07832, equation 2).

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::kernels::{
    CrossEntropyInput, IbotBackend, Pairing, StreamedInput, StreamedLogits, StreamedTargets,
    TargetPotentials,
};

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
    /// Weight of each row, `[M]`.
    fn row_weights<B: Backend>(&self, rows: usize, device: &B::Device) -> Tensor<B, 1> {
        let weights: Vec<f32> = match self {
            Self::PerPatch => vec![1.0 / rows as f32; rows],
            Self::PerImage(counts) => counts
                .iter()
                .flat_map(|count| {
                    let weight = 1.0 / (*count as f64 * counts.len() as f64);
                    std::iter::repeat_n(weight as f32, *count)
                })
                .collect(),
        };
        Tensor::from_data(TensorData::new(weights, [rows]), device)
    }
}

/// What [`patch_loss`] takes: masked patches only, in one or more parts of their rows (one, unless a single tensor is
/// too large for the device: [`IbotBackend::max_logit_rows`]).
#[derive(Debug, Clone)]
pub struct PatchLossInput<B: IbotBackend> {
    /// Student logits, `[M_p, K]` each.
    pub student_logits: Vec<Tensor<B, 2>>,
    /// Teacher logits of the same patches, unmasked, `[M_p, K]` each.
    pub teacher_logits: Vec<Tensor<B, 2>>,
    /// Potentials of all M rows of the teacher.
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
    let [rows, _] = input.potentials.of_rows.dims();
    let device = input.potentials.of_rows.device();
    let weights: Tensor<B, 1> = input.weighting.row_weights(rows, &device);
    let mut start = 0;
    let parts = input.student_logits.into_iter().zip(input.teacher_logits);
    let losses = parts.map(|(student_logits, teacher_logits)| {
        let [rows, _] = student_logits.dims();
        let end = start + rows;
        let loss = B::cross_entropy(&CrossEntropyInput {
            student_logits,
            teacher_logits,
            potentials: input.potentials.rows(start, end),
            pairing: Pairing::SameRow,
            row_weights: weights.clone().narrow(0, start, rows),
            student_temperature: input.student_temperature,
        });
        start = end;
        loss.loss
    });
    losses
        .reduce(|sum, part| sum + part)
        .unwrap_or_else(|| Tensor::zeros([1], &device))
}

/// What [`streamed_patch_loss`] takes.
#[derive(Debug, Clone)]
pub struct StreamedPatchLossInput<B: IbotBackend> {
    /// Student logits of the masked patches.
    pub student: StreamedLogits<B>,
    /// Targets of the same patches.
    pub targets: StreamedTargets<B>,
    /// How much each row counts.
    pub weighting: PatchWeighting,
    /// Student temperature.
    pub student_temperature: f64,
}

/// [`patch_loss`] of logits that are never stored.
///
/// # Shapes
/// See [`StreamedPatchLossInput`], M >= 1; -> `[1]`.
pub fn streamed_patch_loss<B: IbotBackend>(input: StreamedPatchLossInput<B>) -> Tensor<B, 1> {
    let (rows, device) = (input.student.rows(), input.student.unit.device());
    let loss = B::streamed_cross_entropy(&StreamedInput {
        student: input.student,
        targets: input.targets,
        pairing: Pairing::SameRow,
        row_weights: input.weighting.row_weights(rows, &device),
        student_temperature: input.student_temperature,
    });
    loss.loss
}
