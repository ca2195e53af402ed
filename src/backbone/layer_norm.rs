//! Layer norm with timm's names and epsilon.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::init::constant_param;
use crate::kernels::{IbotBackend, LayerNormInput, Normed, Prologue};

/// Epsilon of timm's vision transformers.
pub(crate) const EPS: f64 = 1e-6;

/// Normalizes each row, then scales and shifts it.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// Scale, `[D]`.
    pub weight: Param<Tensor<B, 1>>,
    /// Shift, `[D]`.
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> LayerNorm<B> {
    /// Scale one, shift zero.
    pub(super) fn new(width: usize, device: &B::Device) -> Self {
        Self {
            weight: constant_param([width], 1.0, device),
            bias: constant_param([width], 0.0, device),
        }
    }
}

impl<B: IbotBackend> LayerNorm<B> {
    /// [`LayerNorm::forward`] as part of the linear layer after it, which then keeps `x` for its gradient and not the
    /// normalized rows too.
    ///
    /// # Shapes
    /// `[R, D]` -> `[R, D]`.
    pub fn as_prologue(&self, x: Tensor<B, 2>) -> Normed<B> {
        let prologue = Prologue::LayerNorm {
            weight: self.weight.val(),
            bias: self.bias.val(),
            eps: EPS,
        };
        Normed { x, prologue }
    }

    /// Normalizes each row, then scales and shifts it.
    ///
    /// # Shapes
    /// `[R, D]` -> `[R, D]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::layer_norm_rows(LayerNormInput {
            x,
            weight: self.weight.val(),
            bias: self.bias.val(),
            eps: EPS,
        })
    }
}
