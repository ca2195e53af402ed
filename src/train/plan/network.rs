//! Sizes of the networks, from the settings alone: entries of each parameter, and of what a token takes.

use serde::Serialize;

use crate::error::Result;
use crate::method::{IbotConfig, PrototypeNorm};

/// Numbers of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Of a backbone.
    pub backbone: u64,
    /// Of the student's heads.
    pub student_heads: u64,
    /// Of the teacher's heads, which may be fewer.
    pub teacher_heads: u64,
    /// Of the mask token, which only the student has.
    pub mask_token: u64,
}

impl Parameters {
    /// All that the optimizer trains.
    pub fn student(&self) -> u64 {
        sum([self.backbone, self.student_heads, self.mask_token])
    }

    /// All that the teacher averages.
    pub fn teacher(&self) -> u64 {
        sum([self.backbone, self.teacher_heads])
    }
}

/// The product of sizes. Settings may ask for more than 64 bits count: then the largest number.
pub(super) fn product<const N: usize>(sizes: [u64; N]) -> u64 {
    sizes.into_iter().fold(1, u64::saturating_mul)
}

/// The sum of sizes, likewise.
pub(super) fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

/// A linear layer's weight and bias.
pub(super) fn linear(inputs: u64, outputs: u64) -> u64 {
    sum([product([inputs, outputs]), outputs])
}

/// A head's widths.
#[derive(Debug, Clone)]
pub(super) struct HeadSizes {
    /// Widths before, between and after its linear layers: D, hidden, ..., bottleneck.
    pub widths: Vec<u64>,
    /// Number K of prototypes.
    pub prototypes: u64,
    pub norm: PrototypeNorm,
}

impl HeadSizes {
    /// Inputs and outputs of each layer.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = [u64; 2]> {
        self.widths.windows(2).map(|pair| [pair[0], pair[1]])
    }

    /// Width of the features that the prototypes are compared with.
    pub fn bottleneck(&self) -> u64 {
        self.widths.last().copied().unwrap_or(0)
    }

    /// The prototypes, and their lengths where they are learned.
    pub fn prototype_parameters(&self) -> u64 {
        let lengths = match self.norm {
            PrototypeNorm::Learned => self.prototypes,
            PrototypeNorm::None | PrototypeNorm::Fixed => 0,
        };
        sum([product([self.bottleneck(), self.prototypes]), lengths])
    }

    fn parameters(&self) -> u64 {
        let layers = self.layers();
        let layers = layers.map(|[inputs, outputs]| linear(inputs, outputs));
        sum(layers.chain([self.prototype_parameters()]))
    }
}

/// The sizes of student and teacher.
#[derive(Debug, Clone)]
pub(super) struct NetworkSizes {
    /// Width D of a token.
    pub width: u64,
    /// Hidden width of the MLP.
    pub hidden: u64,
    /// Heads H of attention.
    pub attention_heads: u64,
    pub depth: u64,
    /// Values of a patch, `3 P P`.
    pub patch_entries: u64,
    /// Class and register tokens.
    pub prefix: u64,
    pub has_class_token: bool,
    pub has_layer_scale: bool,
    /// Of class tokens and of patches; the same where they share one.
    pub heads: [HeadSizes; 2],
    pub parameters: Parameters,
    qkv_bias: bool,
}

impl NetworkSizes {
    /// Those of the settings.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for an unknown encoder or numbers that make no transformer.
    pub fn of(config: &IbotConfig) -> Result<Self> {
        let vit = config.backbone()?;
        let head = |prototypes: usize| {
            let width_after = |layer| {
                if layer == config.projector_layers {
                    config.projector_bottleneck_dim as u64
                } else {
                    config.projector_hidden_dim as u64
                }
            };
            let after = (1..=config.projector_layers).map(width_after);
            HeadSizes {
                widths: std::iter::once(vit.embed_dim as u64).chain(after).collect(),
                prototypes: prototypes as u64,
                norm: config.prototype_norm,
            }
        };
        let of_patches = if config.shared_head {
            config.n_cls_prototypes
        } else {
            config.n_patch_prototypes
        };
        let mut sizes = Self {
            width: vit.embed_dim as u64,
            hidden: vit.mlp_width() as u64,
            attention_heads: vit.num_heads as u64,
            depth: vit.depth as u64,
            patch_entries: product([3, vit.patch_size as u64, vit.patch_size as u64]),
            prefix: vit.prefix_tokens() as u64,
            has_class_token: vit.class_token,
            has_layer_scale: vit.init_values.is_some(),
            heads: [head(config.n_cls_prototypes), head(of_patches)],
            parameters: Parameters {
                backbone: 0,
                student_heads: 0,
                teacher_heads: 0,
                mask_token: vit.embed_dim as u64,
            },
            qkv_bias: vit.qkv_bias,
        };
        let positions = (vit.patches() + vit.prefix_positions()) as u64;
        let tokens = sum([sizes.prefix, positions]);
        let [cls_head, patch_head] = [0, 1].map(|of| sizes.heads[of].parameters());
        let unless = |shared: bool| if shared { 0 } else { patch_head };
        sizes.parameters = Parameters {
            backbone: sum([
                product([tokens, sizes.width]),
                linear(sizes.patch_entries, sizes.width),
                product([sizes.depth, sizes.block()]),
                product([2, sizes.width]), // the last norm
            ]),
            student_heads: sum([cls_head, unless(config.shared_head)]),
            teacher_heads: sum([cls_head, unless(config.teacher_shares_head())]),
            ..sizes.parameters
        };
        Ok(sizes)
    }

    /// Weight and bias of queries, keys and values.
    pub fn qkv(&self) -> u64 {
        let outputs = product([3, self.width]);
        let bias = if self.qkv_bias { outputs } else { 0 };
        sum([product([self.width, outputs]), bias])
    }

    /// What is too small to be counted where it arises: class token and positions, norms, scales and the mask token.
    pub fn small_parameters(&self) -> u64 {
        let products = sum([
            self.qkv(),
            linear(self.width, self.width),
            linear(self.width, self.hidden),
            linear(self.hidden, self.width),
        ]);
        let counted = sum([
            linear(self.patch_entries, self.width),
            product([self.depth, products]),
        ]);
        let backbone = self.parameters.backbone.saturating_sub(counted);
        sum([backbone, self.parameters.mask_token])
    }

    /// A block's parameters.
    fn block(&self) -> u64 {
        let scales = if self.has_layer_scale { 2 } else { 0 };
        sum([
            product([4 + scales, self.width]), // two norms with scale and shift
            self.qkv(),
            linear(self.width, self.width),
            linear(self.width, self.hidden),
            linear(self.hidden, self.width),
        ])
    }

    /// The largest parameter.
    pub fn largest(&self) -> u64 {
        let of_heads = self.heads.iter().flat_map(|head| {
            let layers = head.layers().map(product);
            layers.chain([product([head.bottleneck(), head.prototypes])])
        });
        let of_blocks = [
            product([3, self.width, self.width]),
            product([self.width, self.hidden]),
        ];
        of_heads.chain(of_blocks).max().unwrap_or(0)
    }
}
