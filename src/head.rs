//! Projection head: an MLP to a unit sphere, then one logit a prototype.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::init::torch_linear;
use crate::kernels::IbotBackend;
use crate::random::Random;

/// Square of the smallest norm that the L2 normalization divides by (PyTorch's 1e-12).
const MIN_SQUARED_NORM: f64 = 1e-24;

/// Widths of a [`Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadConfig {
    /// Width D of the tokens.
    pub width: usize,
    /// Width of the two hidden layers.
    pub hidden_dim: usize,
    /// Width of the unit sphere.
    pub bottleneck_dim: usize,
    /// Number K of prototypes.
    pub prototypes: usize,
}

/// Linear-GELU-Linear-GELU-Linear-L2 norm-prototypes.
///
/// Source: `_ibot_head` in stable_pretraining/methods/ibot.py.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// `[D, hidden]`.
    pub hidden1: Linear<B>,
    /// `[hidden, hidden]`.
    pub hidden2: Linear<B>,
    /// `[hidden, bottleneck]`.
    pub bottleneck: Linear<B>,
    /// `[bottleneck, K]`, without bias.
    pub prototypes: Linear<B>,
}

impl HeadConfig {
    /// A head with PyTorch's default initialization.
    pub fn init<B: Backend>(self, random: &mut Random, device: &B::Device) -> Head<B> {
        let Self {
            width,
            hidden_dim: hidden,
            bottleneck_dim: bottleneck,
            prototypes,
        } = self;
        Head {
            hidden1: torch_linear(random, [width, hidden], true, device),
            hidden2: torch_linear(random, [hidden, hidden], true, device),
            bottleneck: torch_linear(random, [hidden, bottleneck], true, device),
            prototypes: torch_linear(random, [bottleneck, prototypes], false, device),
        }
    }
}

impl<B: IbotBackend> Head<B> {
    /// # Shapes
    /// `tokens` `[M, D]` -> logits `[M, K]`.
    pub fn forward(&self, tokens: Tensor<B, 2>) -> Tensor<B, 2> {
        let hidden = B::exact_gelu(self.hidden1.forward(tokens));
        let hidden = B::exact_gelu(self.hidden2.forward(hidden));
        let bottleneck = l2_normalize(self.bottleneck.forward(hidden), MIN_SQUARED_NORM);
        self.prototypes.forward(bottleneck)
    }
}

/// Each row divided by its norm; the gradient of a zero row is finite.
///
/// # Shapes
/// `[M, D]` -> `[M, D]`.
pub(crate) fn l2_normalize<B: Backend>(rows: Tensor<B, 2>, min_squared_norm: f64) -> Tensor<B, 2> {
    let squared_norm = (rows.clone() * rows.clone()).sum_dim(1);
    rows / squared_norm.clamp_min(min_squared_norm).sqrt()
}
