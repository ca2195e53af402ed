//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::backbone::config::VitConfig;
use crate::init::timm_linear;
use crate::kernels::{AttentionInput, BranchInput, IbotBackend, Normed, attention_maps};
use crate::random::Random;

/// timm's `Attention`: one product for queries, keys and values, softmax attention, one product out.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// [D, 3 D]: queries, keys, values.
    pub qkv: Linear<B>,
    /// `[D, D]`.
    pub proj: Linear<B>,
    heads: usize,
}

impl<B: Backend> Attention<B> {
    pub(super) fn new(config: &VitConfig, random: &mut Random, device: &B::Device) -> Self {
        let (width, std) = (config.embed_dim, config.init_std);
        Self {
            qkv: timm_linear(random, [width, 3 * width], std, config.qkv_bias, device),
            proj: timm_linear(random, [width, width], std, true, device),
            heads: config.num_heads,
        }
    }
}

impl<B: IbotBackend> Attention<B> {
    /// timm's `Attention.forward` of normalized tokens. They are flat, so that each linear layer is one large product, and
    /// the branch runs once its [`Block`](super::Block) adds it to them.
    ///
    /// # Shapes
    /// `x` `[B T, D]`, T tokens an image -> `[B T, D]`.
    pub fn forward(&self, x: Normed<B>, batch: usize) -> BranchInput<B> {
        let qkv = x.linear(&self.qkv); // [B T, D] -> [B T, 3 D]
        let context = qkv.attention(batch, self.heads); // -> [B T, D]
        context.linear(&self.proj) // -> [B T, D]
    }

    /// Attention of each token to each; rows sum to 1.
    ///
    /// # Shapes
    /// `x` `[B T, D]` -> `[B, H, T, T]`.
    pub fn maps(&self, x: Normed<B>, batch: usize) -> Tensor<B, 4> {
        attention_maps(AttentionInput {
            qkv: B::linear_layer(x.linear(&self.qkv)),
            batch,
            heads: self.heads,
            queries: None,
        })
    }
}
