//! Cross-entropy between teacher targets and the student's softmax.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;

use super::TargetPotentials;

/// What [`super::IbotBackend::cross_entropy`] takes.
#[derive(Debug, Clone)]
pub struct CrossEntropyInput<B: Backend> {
    /// Student logits, `[M, K]`.
    pub student_logits: Tensor<B, 2>,
    /// Teacher logits, `[M, K]`; no gradient flows into them.
    pub teacher_logits: Tensor<B, 2>,
    /// Potentials that make the targets of the teacher logits.
    pub potentials: TargetPotentials<B>,
    /// Weight of each row in the sum, `[M]`: 1/M for a plain mean.
    pub row_weights: Tensor<B, 1>,
    /// Student temperature.
    pub student_temperature: f64,
}

/// `sum_i w_i * -sum_j q_ij log softmax(s_i / temperature)_j`.
pub(super) fn reference<B: Backend>(input: CrossEntropyInput<B>) -> Tensor<B, 1> {
    let targets = input.potentials.targets(input.teacher_logits);
    let log_probs = log_softmax(input.student_logits / input.student_temperature, 1);
    // [M, K] -> [M, 1]; no full `sum`: on wgpu it adds with atomics, in any order
    let rows = (targets * log_probs).sum_dim(1);
    -(rows * input.row_weights.unsqueeze_dim(1))
        .sum_dim(0)
        .reshape([1])
}
