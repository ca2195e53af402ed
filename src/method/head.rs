//! Projection head: an MLP to a unit sphere, then one logit for each prototype.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use crate::init::{constant_param, torch_linear};
use crate::kernels::{IbotBackend, L2NormInput, LinearLayerInput, Logits, Prologue};
use crate::random::Random;

/// Square of the smallest norm that the L2 normalization divides by (PyTorch's 1e-12).
const MIN_SQUARED_NORM: f64 = 1e-24;

/// How a head treats the length of its prototypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrototypeNorm {
    /// Nothing (stable-pretraining).
    #[default]
    None,
    /// Each prototype has length 1 (DINO's `norm_last_layer`).
    Fixed,
    /// Each prototype has a learned length, 1 at the start (weight normalization, arXiv 1602.07868).
    Learned,
}

/// Widths of a [`Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadConfig {
    /// Width D of the tokens. No default: the backbone's.
    pub width: usize,
    /// Linear layers before the L2 normalization, at least 1. No default: the method's `projector_layers`, 3.
    pub layers: usize,
    /// Width between them. No default: the method's `projector_hidden_dim`, 2048.
    pub hidden_dim: usize,
    /// Width of the L2-normalized features. No default: the method's `projector_bottleneck_dim`, 256.
    pub bottleneck_dim: usize,
    /// Number K of prototypes. No default: the method's `n_cls_prototypes` (65536) or `n_patch_prototypes` (8192).
    pub prototypes: usize,
    /// What is done with the length of the prototypes. No default: the method's `prototype_norm`, none.
    pub prototype_norm: PrototypeNorm,
}

/// Linear layers with GELU between them, L2 norm, prototypes.
///
/// Source: `_ibot_head` in stable_pretraining/methods/ibot.py, which has three layers; `DINOHead` in DINO's
/// vision_transformer.py for the norm of the prototypes.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// `[D, hidden]`, `[hidden, hidden]` and so on, the last one to the bottleneck.
    pub layers: Vec<Linear<B>>,
    /// `[bottleneck, K]`, without bias.
    pub prototypes: Linear<B>,
    /// Lengths of the prototypes where they are learned, `[K]`.
    pub prototype_length: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    prototype_norm: PrototypeNorm,
}

impl HeadConfig {
    /// A head with PyTorch's default initialization.
    pub fn init<B: Backend>(self, random: &mut Random, device: &B::Device) -> Head<B> {
        let width_before = |layer| {
            if layer == 0 {
                self.width
            } else {
                self.hidden_dim
            }
        };
        let width_after = |layer| {
            if layer + 1 == self.layers {
                self.bottleneck_dim
            } else {
                self.hidden_dim
            }
        };
        let widths = (0..self.layers).map(|layer| [width_before(layer), width_after(layer)]);
        let learned = self.prototype_norm == PrototypeNorm::Learned;
        Head {
            layers: widths
                .map(|widths| torch_linear(random, widths, true, device))
                .collect(),
            prototypes: torch_linear(
                random,
                [self.bottleneck_dim, self.prototypes],
                false,
                device,
            ),
            prototype_length: learned.then(|| constant_param([self.prototypes], 1.0, device)),
            prototype_norm: self.prototype_norm,
        }
    }
}

impl<B: IbotBackend> Head<B> {
    /// Logits of tokens.
    ///
    /// # Shapes
    /// `tokens` `[M, D]` -> logits `[M, K]`.
    pub fn forward(&self, tokens: Tensor<B, 2>) -> Tensor<B, 2> {
        self.logits(tokens).stored()
    }

    /// The same logits, as the two matrices whose product they are.
    ///
    /// # Shapes
    /// `tokens` `[M, D]` -> logits `[M, K]`.
    pub fn logits(&self, tokens: Tensor<B, 2>) -> Logits<B> {
        Logits {
            bottleneck: self.bottleneck(tokens),
            prototypes: self.normalized_prototypes(),
        }
    }

    /// Number K of prototypes.
    pub fn prototypes(&self) -> usize {
        self.prototypes.weight.dims()[1]
    }

    /// Features of length 1, before the prototypes.
    ///
    /// # Shapes
    /// `tokens` `[M, D]` -> `[M, bottleneck]`.
    pub fn bottleneck(&self, tokens: Tensor<B, 2>) -> Tensor<B, 2> {
        let (mut rows, mut prologue) = (tokens, Prologue::Nothing);
        let of_layer = |x, prologue, layer| LinearLayerInput {
            prologue,
            ..LinearLayerInput::new(x, layer)
        };
        let [before @ .., last] = &self.layers[..] else {
            return rows; // a valid head has a layer
        };
        for layer in before {
            (rows, prologue) = B::linear_layer_gelu(of_layer(rows, prologue, layer)).rows();
        }
        B::l2_normalize_rows(L2NormInput {
            x: B::linear_layer(of_layer(rows, prologue, last)),
            min_squared_norm: MIN_SQUARED_NORM,
        })
    }

    /// The prototypes that rows are multiplied with, `[bottleneck, K]`.
    pub fn normalized_prototypes(&self) -> Tensor<B, 2> {
        let directions = self.prototypes.weight.val();
        if self.prototype_norm == PrototypeNorm::None {
            return directions;
        }
        let squared = (directions.clone() * directions.clone()).sum_dim(0); // [1, K]
        // clamped before the root, whose gradient at 0 is infinite
        let length = squared.clamp_min(MIN_SQUARED_NORM).sqrt();
        match &self.prototype_length {
            Some(learned) => directions * (learned.val().unsqueeze_dim(0) / length),
            None => directions / length,
        }
    }
}
