//! Multi-head self-attention.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{LayerNorm, VitConfig};
use crate::init::timm_linear;
use crate::kernels::{
    AttentionInput, BranchInput, IbotBackend, LinearInput, Middle, attention_maps,
};
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
        let (width, deviation) = (config.embed_dim, config.init_std);
        Self {
            qkv: timm_linear(
                random,
                [width, 3 * width],
                deviation,
                config.qkv_bias,
                device,
            ),
            proj: timm_linear(random, [width, width], deviation, true, device),
            heads: config.num_heads,
        }
    }
}

impl<B: IbotBackend> Attention<B> {
    fn normalized_qkv(&self, tokens: Tensor<B, 2>, norm: &LayerNorm<B>) -> LinearInput<B> {
        LinearInput {
            before: norm.before(),
            ..LinearInput::of(tokens, &self.qkv)
        }
    }

    /// Attention of each token to each, `[B, H, T, T]`; rows sum to 1.
    pub fn maps(&self, tokens: Tensor<B, 2>, norm: &LayerNorm<B>, batch: usize) -> Tensor<B, 4> {
        attention_maps(AttentionInput {
            qkv: B::linear_layer(self.normalized_qkv(tokens, norm)),
            batch,
            heads: self.heads,
        })
    }

    /// The branch of a block. Tokens are flat, so that each linear layer is one large product.
    ///
    /// # Shapes
    /// `tokens` `[B T, D]`, T tokens an image.
    pub fn branch(
        &self,
        tokens: Tensor<B, 2>,
        norm: &LayerNorm<B>,
        batch: usize,
    ) -> BranchInput<B> {
        let middle = Middle::Attention {
            batch,
            heads: self.heads,
        };
        BranchInput::of(self.normalized_qkv(tokens, norm), middle, &self.proj)
    }
}
