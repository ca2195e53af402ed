//! How a parameter is trained, derived from its name.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::files::ParamPath;
use crate::train::optim::config::OptimizerConfig;

/// Factor of a parameter's learning rate, as a function of its name.
///
/// Source: `get_vit_lr_decay_rate` in DINOv2's param_groups.py: the tokens and the patch embedding are layer 0, block i
/// is layer i + 1, norms and heads are above all blocks.
pub(super) struct LayerDecay {
    blocks: usize,
    decay: f64,
    patch_embed: f64,
}

impl LayerDecay {
    pub(super) fn new<B: Backend, M: Module<B>>(module: &M, config: &OptimizerConfig) -> Self {
        struct Blocks {
            path: ParamPath,
            count: usize,
        }
        impl<B: Backend> ModuleVisitor<B> for Blocks {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.path.enter(name, container_type);
            }

            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.path.exit();
            }

            fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<B, D>>) {
                let block = block_of(&self.path.name());
                self.count = self.count.max(block.map_or(0, |block| block + 1));
            }
        }
        let mut blocks = Blocks {
            path: ParamPath::default(),
            count: 0,
        };
        // without decay all factors are 1, and the visit can be saved
        if config.layer_decay < 1.0 {
            module.visit(&mut blocks);
        }
        Self {
            blocks: blocks.count,
            decay: config.layer_decay,
            patch_embed: config.patch_embed_lr_mult,
        }
    }

    pub(super) fn factor(&self, name: &str) -> f64 {
        let above = self.blocks + 1;
        // before the first block, so they get the smallest rate, as layer 0 of DINOv2
        let is_first = [
            "_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "patch_embed.proj.bias",
        ]
        .iter()
        .any(|ending| name.ends_with(ending));
        let layer = match block_of(name) {
            Some(block) => block + 1,
            None if is_first => 0,
            None => above, // heads and the last norm: full rate
        };
        // 0 too where blocks were not counted
        let below = above.saturating_sub(layer);
        // a factor of its own, as in DINOv2: 0.2 there
        let patch_embed = if name.contains("patch_embed.") {
            self.patch_embed
        } else {
            1.0
        };
        self.decay.powi(below as i32) * patch_embed
    }
}

/// Number of the block that a parameter belongs to.
fn block_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("blocks.")?;
    rest.split('.').next()?.parse().ok()
}

/// Whether a parameter belongs to the last layer of a head.
pub(super) fn is_prototype(name: &str) -> bool {
    name.ends_with("prototypes.weight") || name.ends_with("prototype_length")
}

/// Whether a parameter of a student comes before its heads: one of the backbone, or the mask token.
pub(super) fn is_before_heads(name: &str) -> bool {
    name.starts_with("network.backbone.") || name == "mask_token"
}

/// Whether a parameter decays: matrices and kernels do, the others by `decay_tokens` and `decay_all`.
pub(super) fn decays<const D: usize>(name: &str, config: &OptimizerConfig) -> bool {
    // all of two or more axes in the official code, where the length of a prototype is `[K, 1]`
    let is_token = ["token", "pos_embed", "prototype_length"]
        .iter()
        .any(|ending| name.ends_with(ending));
    let decays = if is_token {
        config.decay_tokens
    } else {
        D >= 2
    };
    decays || config.decay_all
}
