//! timm's vision transformer.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use crate::backbone::block::{Block, DropPath};
use crate::backbone::config::{GlobalPool, VitConfig};
use crate::backbone::layer_norm::LayerNorm;
use crate::backbone::patch_embed::PatchEmbed;
use crate::backbone::positions::resample_matrix;
use crate::backbone::{Backbone, ChosenTokens, PatchMask, Tokens};
use crate::error::Result;
use crate::init::normal_param;
use crate::kernels::{
    IbotBackend, LinearLayerInput, Prologue, RowIndices, TokenMask, TokensInput, as_dtype,
};
use crate::precision::Precision;
use crate::random::Random;

/// Standard deviation of timm's initial class and register tokens.
const TOKEN_STD: f64 = 1e-6;
/// Standard deviation of timm's initial position embedding.
const POSITION_STD: f64 = 0.02;

impl VitConfig {
    /// A transformer with timm's initialization, drawn from `random`.
    ///
    /// # Errors
    /// As [`VitConfig::validate`].
    pub fn init<B: Backend>(
        &self,
        random: &mut Random,
        device: &B::Device,
    ) -> Result<VisionTransformer<B>> {
        self.validate()?;
        Ok(VisionTransformer::new(self, random, device))
    }
}

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
        let positions = config.patches() + config.prefix_positions();
        let fc_norm = config.global_pool.norm_after_pool();
        Self {
            pos_embed: normal_param(random, [1, positions, width], POSITION_STD, device),
            cls_token: config
                .class_token
                .then(|| normal_param(random, [1, 1, width], TOKEN_STD, device)),
            reg_token: (config.reg_tokens > 0).then(|| {
                let shape = [1, config.reg_tokens, width];
                normal_param(random, shape, TOKEN_STD, device)
            }),
            patch_embed: PatchEmbed::new(config.patch_size, width, random, device),
            blocks: (0..config.depth)
                .map(|_| Block::new(config, random, device))
                .collect(),
            norm: (!fc_norm).then(|| LayerNorm::new(width, device)),
            // timm has either the one or the other norm, so state dicts match
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
    /// All tokens after the last norm, as timm's `forward_features` with `dynamic_img_size`.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]`, both multiples of the patch -> `[B, prefix + N, D]` for the N patches of the image.
    pub fn forward_features(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
    ) -> Tensor<B, 3> {
        self.run(images, mask, &mut [])
    }

    /// [`VisionTransformer::forward_features`] with drop path, drawn from one generator an image; none of it without generators.
    ///
    /// # Shapes
    /// As [`VisionTransformer::forward_features`].
    pub fn training_features(
        &self,
        images: Tensor<B, 4>,
        drop_path_rngs: &mut [Random],
    ) -> Tensor<B, 3> {
        self.run(images, None, drop_path_rngs)
    }

    /// All tokens after each of the last `count` blocks, the first of them first, each through the last norm.
    ///
    /// Source: DINO's `get_intermediate_layers`. The last one is [`VisionTransformer::forward_features`]; a `count` of 0, or beyond
    /// the depth, gives one, or all.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]` -> `count` times `[B, prefix + N, D]`.
    pub fn intermediate_layers(&self, images: Tensor<B, 4>, count: usize) -> Vec<Tensor<B, 3>> {
        let (mut tokens, [batch, length, width]) = self.embedded(images, None);
        let skipped = self.blocks.len().saturating_sub(count.max(1));
        let mut layers = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            tokens = block.forward(tokens, batch, None);
            if at >= skipped {
                // the last norm, trained for the last block, also scales the others, as in DINO
                let normed = self.normed(tokens.clone());
                layers.push(normed.reshape([batch, length, width]));
            }
        }
        layers
    }

    /// Attention in the last block to each patch: that of the class token, or the mean over all tokens without one.
    ///
    /// Source: DINO's `get_last_selfattention`, which has all tokens.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]` -> `[B, heads, N]`.
    pub fn last_selfattention(&self, images: Tensor<B, 4>) -> Tensor<B, 3> {
        let (tokens, [batch, count, _]) = self.embedded(images, None);
        let last = self.blocks.len() - 1; // a valid shape has a block
        let blocks = self.blocks[..last].iter();
        let tokens = blocks.fold(tokens, |tokens, block| block.forward(tokens, batch, None));
        let block = &self.blocks[last];
        // the fused attention kernel never stores its maps, so the last block computes them separately
        let maps = block.attn.maps(block.norm1.as_prologue(tokens), batch);
        let prefix = self.config.prefix_tokens();
        let heads = self.config.num_heads;
        let of_class = if self.config.class_token {
            maps.narrow(2, 0, 1)
        } else {
            maps.mean_dim(2)
        };
        of_class
            .narrow(3, prefix, count - prefix)
            .reshape([batch, heads, count - prefix])
    }

    /// Flat tokens before the first block, and `[B, tokens, D]`.
    fn embedded(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
    ) -> (Tensor<B, 2>, [usize; 3]) {
        let [_, _, height, width] = images.dims();
        let grid = [height, width].map(|side| side / self.config.patch_size);
        let patches = self.patch_embed.forward(images);
        let [batch, count, width] = patches.dims();
        let mask = mask.map(|mask| TokenMask {
            masked: mask.masked.reshape([batch * count]),
            token: mask.token.reshape([width]),
        });
        // flat through all blocks: each linear layer is then one large product
        let flat = B::assemble_tokens(TokensInput {
            patches: patches.reshape([batch * count, width]),
            batch,
            // before positions are added, so that the student knows where a masked patch is
            mask,
            prefix: self.prefix(),
            // in timm's DINOv2 with registers of patches alone
            positions: self.positions(grid).squeeze_dim(0),
        });
        let tokens = flat.dims()[0] / batch;
        (flat, [batch, tokens, width])
    }

    /// Class and register tokens, `[prefix, D]`.
    fn prefix(&self) -> Option<Tensor<B, 2>> {
        let tokens = [&self.cls_token, &self.reg_token].into_iter().flatten();
        let mut tokens: Vec<Tensor<B, 2>> =
            tokens.map(|token| token.val().squeeze_dim(0)).collect();
        match tokens.len() {
            0 | 1 => tokens.pop(), // `cat` would copy it
            _ => Some(Tensor::cat(tokens, 0)),
        }
    }

    fn run(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
        drop_path_rngs: &mut [Random],
    ) -> Tensor<B, 3> {
        let (flat, [batch, count, width]) = self.embedded(images, mask);
        let flat = self.through_blocks(flat, batch, drop_path_rngs, None);
        flat.reshape([batch, count, width])
    }

    /// Flat tokens through all blocks and the last norm; only `rows` of them after the last attention.
    ///
    /// # Shapes
    /// `[B T, D]` -> `[B T, D]`, or `[M, D]` for M rows.
    fn through_blocks(
        &self,
        mut flat: Tensor<B, 2>,
        batch: usize,
        drop_path_rngs: &mut [Random],
        rows: Option<&RowIndices>,
    ) -> Tensor<B, 2> {
        let (device, count) = (flat.device(), flat.dims()[0] / batch.max(1));
        let last = self.blocks.len() - 1; // a valid shape has a block
        for (at, block) in self.blocks.iter().enumerate() {
            // timm's rule: the rate grows linearly from 0 in the first block; a single block would divide by 0
            let rate = self.config.drop_path_rate * at as f64 / last.max(1) as f64;
            let drops = !drop_path_rngs.is_empty() && rate > 0.0;
            let drop_path = drops.then(|| DropPath::draw(drop_path_rngs, rate, &device));
            let rows = rows.filter(|_| at == last);
            let drop_path = drop_path.map(|drop| match rows {
                Some(rows) => drop.at_rows(rows, count),
                None => drop,
            });
            flat = block.forward_at(flat, batch, drop_path, rows);
        }
        self.normed(flat)
    }

    fn normed(&self, flat: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.norm {
            Some(norm) => norm.forward(flat),
            None => as_dtype(flat, DType::F32), // features are f32, which a norm gives
        }
    }

    /// The position embedding for a grid of patches: its own, or resampled as timm's `resample_abs_pos_embed` does.
    fn positions(&self, grid: [usize; 2]) -> Tensor<B, 3> {
        let positions = self.pos_embed.val();
        let own = [self.config.side(); 2];
        if grid == own {
            return positions;
        }
        let [_, count, width] = positions.dims();
        let prefix = count - self.config.patches();
        let [rows, columns] = [grid, own].map(|[rows, columns]| rows * columns);
        let matrix = TensorData::new(resample_matrix(own, grid), [rows, columns]);
        let matrix = Tensor::<B, 2>::from_data(matrix, &positions.device());
        let of_patches = positions
            .clone()
            .narrow(1, prefix, columns)
            .reshape([columns, width]);
        // the resampling is linear, so it is one product with a matrix, and its gradient comes with it
        let product = || {
            B::linear_layer(LinearLayerInput {
                x: matrix,
                prologue: Prologue::Nothing,
                weight: of_patches,
                bias: None,
                residual: None,
            })
        };
        let resampled = Precision::F32.autocast(product); // of weights, which stay f32
        let resampled = resampled.reshape([1, rows, width]);
        if prefix == 0 {
            return resampled;
        }
        // class and register tokens have no place in the grid: their positions are not resampled
        Tensor::cat(vec![positions.narrow(1, 0, prefix), resampled], 1)
    }

    /// One feature an image from the tokens of [`VisionTransformer::forward_features`], as timm's pooling.
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

    fn split(&self, features: Tensor<B, 3>) -> Tokens<B> {
        Tokens {
            cls: self.cls_of(features.clone()),
            patches: self.patches_of(features),
        }
    }

    fn cls_of(&self, features: Tensor<B, 3>) -> Tensor<B, 2> {
        if self.config.class_token {
            features.narrow(1, 0, 1).squeeze_dim(1)
        } else {
            features.mean_dim(1).squeeze_dim(1)
        }
    }

    /// The patch tokens among those of [`VisionTransformer::forward_features`].
    ///
    /// # Shapes
    /// `[B, prefix + N, D]` -> `[B, N, D]`.
    pub fn patches_of(&self, features: Tensor<B, 3>) -> Tensor<B, 3> {
        let prefix = self.config.prefix_tokens();
        let patches = features.dims()[1] - prefix;
        features.narrow(1, prefix, patches)
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
        self.split(self.forward_features(images, mask))
    }

    fn training_tokens(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
        drop_path_rngs: &mut [Random],
    ) -> Tokens<B> {
        self.split(self.run(images, mask, drop_path_rngs))
    }

    /// After its attention, the last block runs for class tokens and chosen patches only. With 30 % of the patches this saves
    /// about half of that block.
    fn chosen_tokens(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
        drop_path_rngs: &mut [Random],
        patches: &RowIndices,
    ) -> ChosenTokens<B> {
        if !self.config.class_token {
            // its feature is the mean of all tokens
            let tokens = self.training_tokens(images, mask, drop_path_rngs);
            return tokens.chosen(patches);
        }
        let (flat, [batch, count, _]) = self.embedded(images, mask);
        let prefix = self.config.prefix_tokens();
        let of_image = (count - prefix).max(1) as i32;
        let class_tokens = (0..batch).map(|image| (image * count) as i32);
        let patches = patches.indices().iter().map(|place| {
            let (image, patch) = (place / of_image, place % of_image);
            image * count as i32 + prefix as i32 + patch
        });
        let rows: Vec<i32> = class_tokens.chain(patches).collect();
        let chosen = rows.len() - batch;
        let rows = RowIndices::new(rows, batch * count);
        let tokens = self.through_blocks(flat, batch, drop_path_rngs, Some(&rows));
        ChosenTokens {
            cls: B::slice_rows(tokens.clone(), 0..batch),
            patches: (chosen > 0).then(|| B::slice_rows(tokens, batch..batch + chosen)),
        }
    }

    fn embed(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.pool(self.forward_features(images, None))
    }
}
