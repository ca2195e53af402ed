//! timm's vision transformer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Backbone, Block, GlobalPool, LayerNorm, PatchEmbed, PatchMask, Tokens, VitConfig};
use crate::init::normal_param;
use crate::kernels::IbotBackend;
use crate::random::Random;

/// Deviation of timm's class and register tokens at the start.
const TOKEN_DEVIATION: f64 = 1e-6;
/// Deviation of timm's position embedding at the start.
const POSITION_DEVIATION: f64 = 0.02;

/// timm's `VisionTransformer` without a classifier; fields carry timm's parameter names.
///
/// Source: timm/models/vision_transformer.py.
#[derive(Module, Debug)]
pub struct VisionTransformer<B: Backend> {
    /// `[1, 1, D]`.
    pub cls_token: Option<Param<Tensor<B, 3>>>,
    /// `[1, registers, D]`.
    pub reg_token: Option<Param<Tensor<B, 3>>>,
    /// `[1, N, D]`, or with rows for class and register tokens first.
    pub pos_embed: Param<Tensor<B, 3>>,
    /// Patches to tokens.
    pub patch_embed: PatchEmbed<B>,
    /// Transformer blocks.
    pub blocks: Vec<Block<B>>,
    /// Norm before the pooling.
    pub norm: Option<LayerNorm<B>>,
    /// Norm after the pooling, where pooling is an average or maximum.
    pub fc_norm: Option<LayerNorm<B>>,
    #[module(skip)]
    config: VitConfig,
}

impl<B: Backend> VisionTransformer<B> {
    pub(super) fn new(config: &VitConfig, random: &mut Random, device: &B::Device) -> Self {
        let width = config.embed_dim;
        let positions = if config.no_embed_class {
            config.patches()
        } else {
            config.patches() + config.prefix_tokens()
        };
        let fc_norm = config.global_pool.norm_after_pool();
        Self {
            pos_embed: normal_param(random, [1, positions, width], POSITION_DEVIATION, device),
            cls_token: config
                .class_token
                .then(|| normal_param(random, [1, 1, width], TOKEN_DEVIATION, device)),
            reg_token: (config.reg_tokens > 0).then(|| {
                let shape = [1, config.reg_tokens, width];
                normal_param(random, shape, TOKEN_DEVIATION, device)
            }),
            patch_embed: PatchEmbed::new(config.patch_size, width, random, device),
            blocks: (0..config.depth)
                .map(|_| Block::new(config, random, device))
                .collect(),
            norm: (!fc_norm).then(|| LayerNorm::new(width, device)),
            fc_norm: fc_norm.then(|| LayerNorm::new(width, device)),
            config: config.clone(),
        }
    }

    /// Its shape.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }
}

impl<B: IbotBackend> VisionTransformer<B> {
    /// All tokens after the last norm, as timm's `forward_features`.
    ///
    /// # Shapes
    /// `images` `[B, 3, S, S]` -> `[B, prefix + N, D]`.
    pub fn features(&self, images: Tensor<B, 4>, mask: Option<PatchMask<B>>) -> Tensor<B, 3> {
        let patches = self.patch_embed.forward(images);
        let patches = match mask {
            Some(mask) => mask.apply(patches),
            None => patches,
        };
        let tokens = self.with_prefix_and_positions(patches);
        let [batch, count, width] = tokens.dims();
        let flat = tokens.reshape([batch * count, width]);
        let flat = self
            .blocks
            .iter()
            .fold(flat, |tokens, block| block.forward(tokens, batch));
        let flat = match &self.norm {
            Some(norm) => norm.forward(flat),
            None => flat,
        };
        flat.reshape([batch, count, width])
    }

    fn with_prefix_and_positions(&self, patches: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, _, width] = patches.dims();
        let mut parts: Vec<Tensor<B, 3>> = [&self.cls_token, &self.reg_token]
            .into_iter()
            .flatten()
            .map(|token| {
                let token = token.val();
                let count = token.dims()[1];
                token.expand([batch, count, width])
            })
            .collect();
        let positions = self.pos_embed.val();
        if self.config.no_embed_class {
            parts.push(patches + positions);
            Tensor::cat(parts, 1)
        } else {
            parts.push(patches);
            Tensor::cat(parts, 1) + positions
        }
    }

    /// One feature an image from the tokens of [`VisionTransformer::features`], as timm's pooling.
    ///
    /// # Shapes
    /// `features` `[B, prefix + N, D]` -> `[B, D]`.
    pub fn pool(&self, features: Tensor<B, 3>) -> Tensor<B, 2> {
        let patches = || self.patches_of(features.clone());
        let pooled = match self.config.global_pool {
            GlobalPool::Avg => patches().mean_dim(1).squeeze_dim(1),
            GlobalPool::Max => patches().max_dim(1).squeeze_dim(1),
            GlobalPool::AvgMax => {
                let sum = patches().max_dim(1) + patches().mean_dim(1);
                (sum * 0.5).squeeze_dim(1)
            }
            GlobalPool::Token | GlobalPool::None => self.cls_of(features.clone()),
        };
        match &self.fc_norm {
            Some(norm) => norm.forward(pooled),
            None => pooled,
        }
    }

    fn cls_of(&self, features: Tensor<B, 3>) -> Tensor<B, 2> {
        if self.config.class_token {
            features.narrow(1, 0, 1).squeeze_dim(1)
        } else {
            features.mean_dim(1).squeeze_dim(1)
        }
    }

    fn patches_of(&self, features: Tensor<B, 3>) -> Tensor<B, 3> {
        features.narrow(1, self.config.prefix_tokens(), self.config.patches())
    }
}

impl<B: IbotBackend> Backbone<B> for VisionTransformer<B> {
    fn width(&self) -> usize {
        self.config.embed_dim
    }

    fn patches(&self) -> usize {
        self.config.patches()
    }

    fn tokens(&self, images: Tensor<B, 4>, mask: Option<PatchMask<B>>) -> Tokens<B> {
        let features = self.features(images, mask);
        Tokens {
            cls: self.cls_of(features.clone()),
            patches: self.patches_of(features),
        }
    }

    fn embed(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.pool(self.features(images, None))
    }
}
