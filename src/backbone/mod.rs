//! The backbone: what iBOT needs of one, and timm's vision transformer with timm's parameter names.

mod attention;
mod block;
mod config;
mod layer_norm;
mod names;
mod normalization;
mod patch_embed;
mod positions;
mod vit;

pub use attention::Attention;
pub use block::{Block, LayerScale, Mlp};
pub use config::{GlobalPool, VitConfig};
pub(crate) use layer_norm::EPS as LAYER_NORM_EPS;
pub use layer_norm::LayerNorm;
pub use names::{encoder_names, encoder_tags, split_tag, timm_normalization, vit_from_name};
pub use normalization::Normalization;
pub use patch_embed::PatchEmbed;
pub(crate) use positions::resample_matrix;
pub use vit::VisionTransformer;

use burn::module::{AutodiffModule, Module, ModuleDisplay};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::kernels::{IbotBackend, RowIndices};
use crate::random::Random;

/// Which patches the student does not see, and what it sees in their place.
#[derive(Debug, Clone)]
pub struct PatchMask<B: Backend> {
    /// 1 where a patch is masked, else 0, `[B, N, 1]`.
    pub masked: Tensor<B, 3>,
    /// The learned mask token, `[1, 1, D]`.
    pub token: Tensor<B, 3>,
}

impl<B: Backend> PatchMask<B> {
    /// Patch embeddings with the masked ones replaced by the token.
    ///
    /// # Shapes
    /// `patches` `[B, N, D]` -> `[B, N, D]`.
    pub fn apply(self, patches: Tensor<B, 3>) -> Tensor<B, 3> {
        let visible = self.masked.clone().neg().add_scalar(1.0);
        patches * visible + self.token * self.masked
    }
}

/// What a backbone makes of a batch of images.
#[derive(Debug, Clone)]
pub struct Tokens<B: Backend> {
    /// One feature per image: the class token, or the mean of all tokens without one, `[B, D]`.
    pub cls: Tensor<B, 2>,
    /// One feature a patch, `[B, N, D]`.
    pub patches: Tensor<B, 3>,
}

/// Class tokens and the patch tokens that the losses use.
#[derive(Debug, Clone)]
pub struct ChosenTokens<B: Backend> {
    /// As in [`Tokens`], `[B, D]`.
    pub cls: Tensor<B, 2>,
    /// Tokens of the chosen patches, `[M, D]`; `None` if no patch is chosen.
    pub patches: Option<Tensor<B, 2>>,
}

impl<B: IbotBackend> Tokens<B> {
    /// Class tokens, and the patch tokens at `indices` in the flat `[B N]` patches.
    pub fn chosen(self, indices: &RowIndices) -> ChosenTokens<B> {
        let [images, patches, width] = self.patches.dims();
        let flat = self.patches.reshape([images * patches, width]);
        ChosenTokens {
            cls: self.cls,
            patches: (!indices.is_empty()).then(|| B::gather_rows(flat, indices)),
        }
    }
}

/// A backbone that iBOT can train: any module that embeds patches, accepts a mask token and returns tokens.
pub trait Backbone<B: Backend>: Module<B> + ModuleDisplay {
    /// Width D of the tokens.
    fn width(&self) -> usize;

    /// Number N of patches of an image.
    fn patches(&self) -> usize;

    /// Tokens of the images; where a mask is given, masked patches are replaced by its token before positions are
    /// added ([`PatchMask::apply`]).
    ///
    /// # Shapes
    /// `images` `[B, 3, S, S]` -> [`Tokens`]. Local crops are smaller than S.
    fn tokens(&self, images: Tensor<B, 4>, mask: Option<PatchMask<B>>) -> Tokens<B>;

    /// [`Backbone::tokens`] with what only training does, such as drop path, drawn from one generator an image: a batch
    /// in parts draws what it draws in one piece. By default nothing.
    fn training_tokens(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
        drop_path_rngs: &mut [Random],
    ) -> Tokens<B> {
        let _ = drop_path_rngs;
        self.tokens(images, mask)
    }

    /// Only the tokens that the losses use: all class tokens and some patches. By default they are selected from all tokens;
    /// a backbone that skips the rest is faster. Without generators it runs as [`Backbone::tokens`], for the teacher.
    ///
    /// # Shapes
    /// `patches` M places in the flat `[B N]` patches -> [`ChosenTokens`].
    fn chosen_tokens(
        &self,
        images: Tensor<B, 4>,
        mask: Option<PatchMask<B>>,
        drop_path_rngs: &mut [Random],
        patches: &RowIndices,
    ) -> ChosenTokens<B>
    where
        B: IbotBackend,
    {
        let tokens = if drop_path_rngs.is_empty() {
            self.tokens(images, mask)
        } else {
            self.training_tokens(images, mask, drop_path_rngs)
        };
        tokens.chosen(patches)
    }

    /// The feature that evaluation uses, by default the class token.
    ///
    /// # Shapes
    /// `images` `[B, 3, S, S]` -> `[B, D]`.
    fn embed(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.tokens(images, None).cls
    }
}

/// A backbone on an autodiff backend, whose inner module is a backbone too: the teacher's.
pub trait TrainBackbone<B: AutodiffBackend>:
    Backbone<B> + AutodiffModule<B, InnerModule: Backbone<B::InnerBackend>>
{
}

impl<B, M> TrainBackbone<B> for M
where
    B: AutodiffBackend,
    M: Backbone<B> + AutodiffModule<B, InnerModule: Backbone<B::InnerBackend>>,
{
}
