//! One transformer block.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::backbone::attention::Attention;
use crate::backbone::config::VitConfig;
use crate::backbone::layer_norm::LayerNorm;
use crate::init::{constant_param, timm_linear};
use crate::kernels::{BranchInput, IbotBackend, Normed, RowIndices, residual_branch};
use crate::random::Random;

/// timm's `Mlp` with exact GELU.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// `[D, hidden]`.
    pub fc1: Linear<B>,
    /// `[hidden, D]`.
    pub fc2: Linear<B>,
}

impl<B: IbotBackend> Mlp<B> {
    /// timm's `Mlp.forward` of normalized tokens; runs once its [`Block`] adds it to them.
    ///
    /// # Shapes
    /// `x` `[B T, D]` -> `[B T, D]`.
    pub fn forward(&self, x: Normed<B>) -> BranchInput<B> {
        let hidden = x.linear(&self.fc1).gelu(); // [B T, D] -> [B T, hidden]
        hidden.linear(&self.fc2) // -> [B T, D]
    }
}

/// timm's `LayerScale`: one factor a channel on a residual branch (arXiv 2103.17239).
#[derive(Module, Debug)]
pub struct LayerScale<B: Backend> {
    /// `[D]`.
    pub gamma: Param<Tensor<B, 1>>,
}

/// timm's pre-norm `Block`.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// Norm before attention.
    pub norm1: LayerNorm<B>,
    /// Attention.
    pub attn: Attention<B>,
    /// Scale of the attention branch.
    pub ls1: Option<LayerScale<B>>,
    /// Norm before the MLP.
    pub norm2: LayerNorm<B>,
    /// MLP.
    pub mlp: Mlp<B>,
    /// Scale of the MLP branch.
    pub ls2: Option<LayerScale<B>>,
    checkpointed: bool,
}

impl<B: Backend> Block<B> {
    pub(super) fn new(config: &VitConfig, random: &mut Random, device: &B::Device) -> Self {
        let (width, hidden) = (config.embed_dim, config.mlp_width());
        let layer_scale = || {
            config.init_values.map(|value| LayerScale {
                gamma: constant_param([width], value as f32, device),
            })
        };
        Self {
            norm1: LayerNorm::new(width, device),
            attn: Attention::new(config, random, device),
            ls1: layer_scale(),
            norm2: LayerNorm::new(width, device),
            mlp: Mlp {
                fc1: timm_linear(random, [width, hidden], config.init_std, true, device),
                fc2: timm_linear(random, [hidden, width], config.init_std, true, device),
            },
            ls2: layer_scale(),
            checkpointed: config.grad_checkpointing,
        }
    }
}

impl<B: IbotBackend> Block<B> {
    /// timm's `Block.forward`.
    ///
    /// # Shapes
    /// `x` `[B T, D]`, `drop_path` `[B, 1, 1]` for each branch -> `[B T, D]`.
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        batch: usize,
        drop_path: Option<DropPath<B>>,
    ) -> Tensor<B, 2> {
        self.forward_at(x, batch, drop_path, None)
    }

    /// [`Block::forward`] for some of the tokens: attention sees all of them, the rest of the block runs for `rows` only.
    ///
    /// # Shapes
    /// `x` `[B T, D]`; `rows` M of B T, and `drop_path` `[M, 1, 1]` for each branch -> `[M, D]`.
    pub fn forward_at(
        &self,
        x: Tensor<B, 2>,
        batch: usize,
        drop_path: Option<DropPath<B>>,
        rows: Option<&RowIndices>,
    ) -> Tensor<B, 2> {
        let (drop_path1, drop_path2) = drop_path.map(|drop| (drop.attention, drop.mlp)).unzip();
        // x = x + drop_path1(ls1(attn(norm1(x))))
        let branch = self.attn.forward(self.norm1.as_prologue(x), batch);
        let branch = branch.layer_scale(gamma(self.ls1.as_ref()));
        let x = self.plus_input(branch.drop_path(drop_path1).at_rows(rows));
        // x = x + drop_path2(ls2(mlp(norm2(x))))
        let branch = self.mlp.forward(self.norm2.as_prologue(x));
        let branch = branch.layer_scale(gamma(self.ls2.as_ref()));
        self.plus_input(branch.drop_path(drop_path2))
    }

    /// The tokens that went into a branch plus what comes out of it: one operation, because its last product adds them,
    /// or because its backward pass runs it again.
    fn plus_input(&self, branch: BranchInput<B>) -> Tensor<B, 2> {
        if self.checkpointed {
            B::checkpointed_branch(branch)
        } else {
            residual_branch(branch)
        }
    }
}

fn gamma<B: Backend>(scale: Option<&LayerScale<B>>) -> Option<Tensor<B, 1>> {
    scale.map(|scale| scale.gamma.val())
}

/// Stochastic depth (arXiv 1603.09382): what each image's residual branches are multiplied by in one block, 0 or the
/// inverse of the probability to stay.
#[derive(Debug, Clone)]
pub struct DropPath<B: Backend> {
    /// `[B, 1, 1]`.
    pub attention: Tensor<B, 3>,
    /// `[B, 1, 1]`.
    pub mlp: Tensor<B, 3>,
}

impl<B: Backend> DropPath<B> {
    /// Drops each branch of each image with probability `rate`, below 1, and scales the others by `1 / (1 - rate)`, as timm's `DropPath` with
    /// `scale_by_keep`; `drop_path_rngs` holds one generator an image.
    pub fn draw(drop_path_rngs: &mut [Random], rate: f64, device: &B::Device) -> Self {
        let batch = drop_path_rngs.len();
        let mut branch = || {
            let factor = |random: &mut Random| {
                if random.chance(rate) {
                    0.0
                } else {
                    (1.0 / (1.0 - rate)) as f32
                }
            };
            let factors: Vec<f32> = drop_path_rngs.iter_mut().map(factor).collect();
            Tensor::from_data(TensorData::new(factors, [batch, 1, 1]), device)
        };
        Self {
            attention: branch(),
            mlp: branch(),
        }
    }

    /// One factor per row, for `rows` of a batch with `tokens` tokens per image.
    ///
    /// # Shapes
    /// `[B, 1, 1]` -> `[M, 1, 1]`.
    pub fn at_rows(self, rows: &RowIndices, tokens: usize) -> Self {
        let images = rows.indices().iter().map(|place| *place / tokens as i32);
        let images: Vec<i32> = images.collect();
        let count = images.len();
        let images = TensorData::new(images, [count]);
        let images = Tensor::<B, 1, Int>::from_data(images, &self.mlp.device());
        Self {
            attention: self.attention.select(0, images.clone()),
            mlp: self.mlp.select(0, images),
        }
    }
}
