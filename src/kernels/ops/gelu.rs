//! Exact GELU (arXiv 1606.08415), forward and backward.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Probability that a standard normal variable is below each entry.
fn normal_cdf<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

/// `x * cdf(x)`.
pub fn forward<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    x.clone() * normal_cdf(x)
}

/// `d_y * (cdf(x) + x * pdf(x))`; burn's own backward is that of the tanh approximation on all backends but Flex
/// (burn-backend 0.21, src/backend/ops/activation.rs), off by up to 5e-4.
pub fn backward<B: Backend>(x: Tensor<B, 2>, d_y: Tensor<B, 2>) -> Tensor<B, 2> {
    let pdf = (x.clone() * x.clone() * -0.5).exp() / (2.0 * PI).sqrt();
    d_y * (normal_cdf(x.clone()) + x * pdf)
}
