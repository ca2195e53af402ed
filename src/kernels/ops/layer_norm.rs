//! Layer norm over the width (arXiv 1607.06450), forward and backward.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What [`crate::kernels::IbotBackend::layer_norm_rows`] takes.
#[derive(Debug, Clone)]
pub struct LayerNormInput<B: Backend> {
    /// Rows to normalize, `[R, D]`.
    pub x: Tensor<B, 2>,
    /// Scale, `[D]`.
    pub weight: Tensor<B, 1>,
    /// Shift, `[D]`.
    pub bias: Tensor<B, 1>,
    /// Added to the variance.
    pub eps: f64,
}

/// Gradients of [`LayerNormInput`].
#[derive(Debug, Clone)]
pub struct LayerNormGradients<B: Backend> {
    /// `[R, D]`.
    pub d_x: Tensor<B, 2>,
    /// `[D]`.
    pub d_weight: Tensor<B, 1>,
    /// `[D]`.
    pub d_bias: Tensor<B, 1>,
}

/// Rows of mean zero and variance one, and the inverse deviation that made them so, `[R, 1]`.
fn normalized<B: Backend>(x: Tensor<B, 2>, eps: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let centered = x.clone() - x.mean_dim(1);
    let variance = (centered.clone() * centered.clone()).mean_dim(1);
    let inverse_deviation = (variance + eps).sqrt().recip();
    (centered * inverse_deviation.clone(), inverse_deviation)
}

/// The rows, normalized, scaled and shifted.
pub fn forward<B: Backend>(input: LayerNormInput<B>) -> Tensor<B, 2> {
    let (unit, _) = normalized(input.x, input.eps);
    unit * input.weight.unsqueeze_dim(0) + input.bias.unsqueeze_dim(0)
}

/// Gradients of [`forward`].
pub fn backward<B: Backend>(input: LayerNormInput<B>, d_y: Tensor<B, 2>) -> LayerNormGradients<B> {
    let width = input.weight.dims()[0];
    let (unit, inverse_deviation) = normalized(input.x, input.eps);
    let d_unit = d_y.clone() * input.weight.unsqueeze_dim(0);
    let along_unit = unit.clone() * (d_unit.clone() * unit.clone()).mean_dim(1);
    let d_x = (d_unit.clone() - d_unit.mean_dim(1) - along_unit) * inverse_deviation;
    LayerNormGradients {
        d_x,
        d_weight: (d_y.clone() * unit).sum_dim(0).reshape([width]),
        d_bias: d_y.sum_dim(0).reshape([width]),
    }
}
