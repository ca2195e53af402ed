//! Where the loss scale of f16 meets the loss.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::{LossScale, TrainBackend};
use crate::precision::Precision;

/// The loss scale of a run before its first step; none with the range of f32, which bf16 has too.
pub(super) fn first<B: Backend>(precision: Precision, device: &B::Device) -> Option<LossScale<B>> {
    (precision == Precision::F16).then(|| LossScale::initial(device))
}

/// The loss that backward starts from.
pub(super) fn scaled<B: TrainBackend>(
    loss: Tensor<B, 1>,
    state: Option<&LossScale<B::InnerBackend>>,
) -> Tensor<B, 1> {
    match state {
        Some(state) => loss * Tensor::from_inner(state.scale.clone()),
        None => loss,
    }
}
