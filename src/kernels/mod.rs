//! The operations that deserve kernels of their own, as one backend-extension trait, [`IbotBackend`] in `backend`.
//!
//! - `ops`: one file an operation: its input and output, and the reference body in plain tensor operations, which runs on
//!   any backend, is differentiable through burn's autodiff, and is what every faster body is tested against
//! - `autodiff`: one node and a backward body each for the losses, GELU, layer norm, linear layers and attention
//! - `flex`: bodies for burn's CPU backend, row by row on all cores
//! - [`wgsl`]: shaders of this crate for wgpu, a software device among them
//! - `choice`: kernels or reference bodies, as `IBOT_KERNELS` says; `dispatch`: which backend a device has
//!
//! `docs/adding-an-operation.md` lists the places that a new one takes.

mod autodiff;
mod backend;
mod backends;
mod choice;
mod dispatch;
mod flex;
mod ops;
pub mod wgsl;
mod wrap;

pub use autodiff::GradientWatch;
pub use backend::IbotBackend;
pub use backends::{Gpu, TrainBackend};
pub use choice::KernelChoice;
pub use dispatch::OnBackend;
pub use ops::adamw::{AdamWInput, AdamWState, AdamWTensor};
pub use ops::attention::{AttentionInput, AttentionOutput, attention_maps};
pub use ops::branch::{BranchInput, BranchKind, Hidden, residual_branch};
pub use ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput, Pairing};
pub use ops::grad_scale::{GradScale, GradScaleInput};
pub use ops::l2_norm::L2NormInput;
pub use ops::layer_norm::{LayerNormGradients, LayerNormInput};
pub(crate) use ops::levels::on_host as normalized_on_host;
pub use ops::levels::{LevelScale, LevelsInput};
pub use ops::linear::{
    Activated, LinearBackwardInput, LinearGradients, LinearInput, LinearLayerGradients,
    LinearLayerInput, Normed, Prologue,
};
pub use ops::loss_scale::{INITIAL_LOSS_SCALE, LossScale, MIN_LOSS_SCALE, Unscaled};
pub use ops::product::{Layout, RowIndices};
pub(crate) use ops::rounding::as_dtype;
pub use ops::target_potentials::{Drift, Known, TargetPotentials, taken_back};
pub use ops::tiled::{Logits, TiledInput, TiledTargets, tile_columns};
pub use ops::tokens::{TokenMask, TokensGradients, TokensInput};
pub(crate) use wrap::{flat, shaped, wrap};

pub use burn_autodiff::Autodiff;
pub use burn_flex::Flex;
pub use burn_ndarray::NdArray;

/// The bodies in tensor operations under names of their own: what the GPU's kernels are compared with, on one backend.
pub mod reference {
    pub use super::ops::adamw::{reference as adamw, sum_of_squares};
    pub use super::ops::attention::{backward as attention_backward, forward as attention};
    pub use super::ops::cross_entropy::{
        reference as cross_entropy, reference_backward as cross_entropy_backward,
    };
    pub use super::ops::ema::reference as ema;
    pub use super::ops::gelu::{backward as gelu_backward, forward as gelu};
    pub use super::ops::l2_norm::{backward as l2_norm_backward, forward as l2_norm};
    pub use super::ops::layer_norm::{backward as layer_norm_backward, forward as layer_norm};
    pub use super::ops::linear::{linear, linear_backward};
    pub use super::ops::rounding::rounded;
    pub use super::ops::target_potentials::{
        centered as centered_potentials, potentials_under, sinkhorn as sinkhorn_potentials,
    };
}
