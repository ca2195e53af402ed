//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;

use super::VitConfig;
use crate::init::timm_linear;
use crate::random::Random;

/// timm's `Attention`: one product for queries, keys and values, softmax attention, one product out.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// [D, 3 D]: queries, keys, values.
    pub qkv: Linear<B>,
    /// [D, D].
    pub proj: Linear<B>,
    heads: usize,
}

impl<B: Backend> Attention<B> {
    pub(super) fn new(config: &VitConfig, random: &mut Random, device: &B::Device) -> Self {
        let width = config.embed_dim;
        Self {
            qkv: timm_linear(random, [width, 3 * width], config.qkv_bias, device),
            proj: timm_linear(random, [width, width], true, device),
            heads: config.num_heads,
        }
    }

    /// Tokens are flat, so that each linear layer is one large product.
    ///
    /// # Shapes
    /// `tokens` [B T, D], T tokens an image -> [B T, D].
    pub fn forward(&self, tokens: Tensor<B, 2>, batch: usize) -> Tensor<B, 2> {
        let [rows, width] = tokens.dims();
        let (count, head_width) = (rows / batch, width / self.heads);
        // [B T, 3 D] -> 3 x [B, H, T, D / H]
        let qkv = self
            .qkv
            .forward(tokens)
            .reshape([batch, count, 3, self.heads, head_width])
            .permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|part| {
            qkv.clone()
                .slice([part..part + 1])
                .squeeze_dim::<4>(0)
        });
        let scale = (head_width as f64).sqrt().recip();
        let attention = softmax((q * scale).matmul(k.swap_dims(2, 3)), 3);
        // [B, H, T, D / H] -> [B T, D]
        let mixed = attention.matmul(v).swap_dims(1, 2).reshape([rows, width]);
        self.proj.forward(mixed)
    }
}
