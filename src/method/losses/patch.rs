//! Masked image modeling on patch tokens (iBOT, arXiv 2111.07832, equation 2).

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::kernels::{IbotBackend, Logits, Pairing};
use crate::method::losses::teacher_targets::{TeacherTargets, cross_entropy};

/// Weights of the masked patches.
#[derive(Debug, Clone)]
pub enum PatchWeighting {
    /// All masked patches count the same (stable-pretraining).
    PerPatch {
        /// Masked patches that the mean is over: M, or all of a batch of which these are a part.
        patches: usize,
    },
    /// All images count the same, whatever the number of their masked patches; an image without any counts as zero
    /// (lightly's `IBOTPatchLoss`, the paper's code).
    PerImage {
        /// The masked count of each image, in the order of the rows.
        counts: Vec<usize>,
        /// Images that the mean is over: these, or all of a batch of which these are a part.
        images: usize,
    },
}

impl PatchWeighting {
    /// Weight of each row, `[M]`.
    fn row_weights<B: Backend>(&self, rows: usize, device: &B::Device) -> Tensor<B, 1> {
        let weights: Vec<f32> = match self {
            Self::PerPatch { patches } => vec![1.0 / *patches as f32; rows],
            // image by image, as the rows come: an image without masked patches has no row and adds nothing
            Self::PerImage { counts, images } => counts
                .iter()
                .flat_map(|count| {
                    let weight = 1.0 / (*count as f64 * *images as f64);
                    std::iter::repeat_n(weight as f32, *count)
                })
                .collect(),
        };
        Tensor::from_data(TensorData::new(weights, [rows]), device)
    }
}

/// What [`patch_loss`] takes: masked patches only.
#[derive(Debug, Clone)]
pub struct PatchLossInput<B: IbotBackend> {
    /// Student logits, `[M, K]`.
    pub student: Logits<B>,
    /// Targets of the same patches, which the teacher sees, `[M, K]`.
    pub targets: TeacherTargets<B>,
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
/// See [`PatchLossInput`], M >= 1 -> `[1]`. Not to be called for a batch without a masked patch.
pub fn patch_loss<B: IbotBackend>(input: PatchLossInput<B>) -> Tensor<B, 1> {
    let (rows, device) = (input.student.rows(), input.student.bottleneck.device());
    cross_entropy(
        input.student,
        input.targets,
        Pairing::SameRow,
        input.weighting.row_weights(rows, &device),
        input.student_temperature,
    )
}
