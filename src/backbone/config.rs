//! Shape of a vision transformer, with the argument names of timm's `VisionTransformer`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the tokens of an image become one feature in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// The class token.
    #[default]
    Token,
    /// Mean of the patch tokens; the last norm then follows the pooling (`fc_norm`).
    Avg,
    /// Maximum of the patch tokens, then `fc_norm`.
    Max,
    /// Mean of the two above, then `fc_norm`.
    AvgMax,
    /// No pooling: the class token, or the mean of all tokens without one.
    #[serde(rename = "")]
    None,
}

impl GlobalPool {
    /// Whether the last norm follows the pooling, as in timm.
    pub(crate) fn norm_after_pool(self) -> bool {
        matches!(self, Self::Avg | Self::Max | Self::AvgMax)
    }
}

/// Arguments of timm's `VisionTransformer`; defaults are those of ViT-S/16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square input, in pixels. Default 224. Source: timm.
    pub img_size: usize,
    /// Side of a square patch, in pixels. Default 16. Source: timm.
    pub patch_size: usize,
    /// Width D of the tokens. Default 384. Source: ViT-S.
    pub embed_dim: usize,
    /// Number of blocks. Default 12. Source: timm.
    pub depth: usize,
    /// Attention heads per block; `embed_dim` is a multiple of it. Default 6. Source: ViT-S.
    pub num_heads: usize,
    /// Hidden width of the MLP, as a multiple of `embed_dim`. Default 4.0. Source: timm.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias. Default true. Source: timm.
    pub qkv_bias: bool,
    /// Whether there is a class token. Default true. Source: timm.
    pub class_token: bool,
    /// Number of register tokens (arXiv 2309.16588). Default 0. Source: timm.
    pub reg_tokens: usize,
    /// Standard deviation of the blocks' initial weights; narrow models learn sooner from a larger one. Default 0.02.
    /// Source: timm.
    pub init_std: f64,
    /// Initial LayerScale; no LayerScale if not set. Default none. Source: timm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_values: Option<f64>,
    /// Probability to drop a residual branch of the last block in training; it grows linearly from 0 over the blocks.
    /// Default 0.0. Not a key of its own: it is the method's `drop_path_rate`.
    #[serde(skip)]
    pub drop_path_rate: f64,
    /// Whether training keeps only the inputs of the residual branches and runs them again. Default false. Not a key of
    /// its own: it is the method's `grad_checkpointing`.
    #[serde(skip)]
    pub grad_checkpointing: bool,
    /// Whether positions are added to patches only, not to class and register tokens. Default false. Source: timm.
    pub no_embed_class: bool,
    /// How tokens become one feature: "token" is the class token, "avg", "max" and "avgmax" pool the patches, "" is no
    /// pooling. Default `"token"`. Source: timm.
    pub global_pool: GlobalPool,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            img_size: 224,
            patch_size: 16,
            embed_dim: 384,
            depth: 12,
            num_heads: 6,
            mlp_ratio: 4.0,
            qkv_bias: true,
            class_token: true,
            reg_tokens: 0,
            init_std: 0.02,
            init_values: None,
            drop_path_rate: 0.0,
            grad_checkpointing: false,
            no_embed_class: false,
            global_pool: GlobalPool::Token,
        }
    }
}

impl VitConfig {
    /// Patches along one side of the input.
    pub fn side(&self) -> usize {
        self.img_size / self.patch_size
    }

    /// Number N of patches.
    pub fn patches(&self) -> usize {
        self.side() * self.side()
    }

    /// Class and register tokens before the patches.
    pub fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    /// Rows of the position embedding before those of the patches.
    pub fn prefix_positions(&self) -> usize {
        if self.no_embed_class {
            0
        } else {
            self.prefix_tokens()
        }
    }

    /// Hidden width of the MLP.
    pub fn mlp_width(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    /// Whether both compute the same with the same weights: what only training uses may differ, as may the value that LayerScale
    /// begins with.
    pub(crate) fn computes_as(&self, other: &Self) -> bool {
        let has_alike = self.init_values.is_some() == other.init_values.is_some();
        let alike = Self {
            init_std: self.init_std,
            init_values: self.init_values,
            drop_path_rate: self.drop_path_rate,
            grad_checkpointing: self.grad_checkpointing,
            ..other.clone()
        };
        has_alike && alike == *self
    }

    /// Whether these numbers make a transformer.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("image_size", self.img_size, 1, 1 << 14), // the setting's name
            ("vit.patch_size", self.patch_size, 1, 1 << 14),
            ("vit.embed_dim", self.embed_dim, 1, 1 << 16),
            ("vit.depth", self.depth, 1, 1 << 10),
            ("vit.num_heads", self.num_heads, 1, 1 << 16),
            ("vit.reg_tokens", self.reg_tokens, 0, 1 << 10),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                let remedy = format!("must be from {low} to {high}");
                return Err(Error::config(key, value, remedy));
            }
        }
        if !self.img_size.is_multiple_of(self.patch_size) {
            let remedy = format!("must be a multiple of patch_size {}", self.patch_size);
            return Err(Error::config("image_size", self.img_size, remedy));
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            let remedy = format!("must divide embed_dim {}", self.embed_dim);
            return Err(Error::config("vit.num_heads", self.num_heads, remedy));
        }
        if !(1..=1 << 18).contains(&self.mlp_width()) {
            let remedy = "must give a hidden width from 1 to 262144, such as 4";
            return Err(Error::config("vit.mlp_ratio", self.mlp_ratio, remedy));
        }
        if !(self.init_std.is_finite() && self.init_std > 0.0) {
            return Err(Error::config(
                "vit.init_std",
                self.init_std,
                "must be above 0, such as 0.02",
            ));
        }
        if self.init_values.is_some_and(|value| !value.is_finite()) {
            return Err(Error::config(
                "vit.init_values",
                "not finite",
                "must be a number such as 1e-5",
            ));
        }
        if !(0.0..1.0).contains(&self.drop_path_rate) {
            let remedy = "must be from 0 to below 1, such as 0.1";
            return Err(Error::config("drop_path_rate", self.drop_path_rate, remedy));
        }
        if self.global_pool == GlobalPool::Token && !self.class_token {
            let remedy = "needs class_token = true; use \"avg\" without a class token";
            return Err(Error::config("vit.global_pool", "token", remedy));
        }
        Ok(())
    }
}
