//! Rows of length 1 (`torch.nn.functional.normalize`), forward and backward.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::rounding::as_stored;

/// What [`crate::kernels::IbotBackend::l2_normalize_rows`] takes.
#[derive(Debug, Clone)]
pub struct L2NormInput<B: Backend> {
    /// `[R, D]`.
    pub x: Tensor<B, 2>,
    /// Square of the smallest norm that a row is divided by; PyTorch's `eps`, 1e-12, squared.
    pub min_squared_norm: f64,
}

impl<B: Backend> L2NormInput<B> {
    fn squared_norm(&self) -> Tensor<B, 2> {
        (self.x.clone() * self.x.clone()).sum_dim(1)
    }
}

/// Each row divided by its norm; the gradient of a zero row is finite.
pub fn forward<B: Backend>(input: L2NormInput<B>) -> Tensor<B, 2> {
    // clamped before the root, whose gradient at 0 is infinite
    let norm = input.squared_norm().clamp_min(input.min_squared_norm);
    input.x / norm.sqrt()
}

/// Gradient of [`forward`].
pub fn backward<B: IbotBackend>(input: L2NormInput<B>, d_y: Tensor<B, 2>) -> Tensor<B, 2> {
    let squared_norm = input.squared_norm();
    // the norm that a short row is divided by does not depend on it
    let is_short = squared_norm.clone().lower_elem(input.min_squared_norm);
    let scale = squared_norm
        .clamp_min(input.min_squared_norm)
        .sqrt()
        .recip();
    let unit = input.x * scale.clone();
    let along = (unit.clone() * d_y.clone())
        .sum_dim(1)
        .mask_fill(is_short, 0.0);
    as_stored((d_y - unit * along) * scale)
}
