//! One file an operation: what it takes and gives, with shapes, and its reference body in tensor operations.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod branch;
pub(crate) mod cross_entropy;
pub(crate) mod ema;
pub(crate) mod gelu;
pub(crate) mod grad_scale;
pub(crate) mod l2_norm;
pub(crate) mod layer_norm;
pub(crate) mod levels;
pub(crate) mod linear;
pub(crate) mod loss_scale;
pub(crate) mod patchify;
pub(crate) mod product;
pub(crate) mod rounding;
pub(crate) mod target_potentials;
pub(crate) mod tiled;
pub(crate) mod tokens;
