//! Files: weights, complete methods, models with metadata, checkpoints.
//!
//! - [`weights`]: reads weight files, recognized by content
//! - `state_dict`, `param_path`: a module's weights by name, and what timm calls them
//! - `safetensors`, `header`: the format that this program writes
//! - `sharded`: a model in several files
//! - `torch`: what `torch.save` wrote
//! - `other_files`, `finite`, `misfit`: files that cannot be used, and what to do
//! - `foreign`: backbones, heads and complete methods of other programs
//! - `positions`: position embeddings for another image size
//! - `onnx`: a backbone for programs that run ONNX
//! - [`model`]: backbones with metadata about their use
//! - [`checkpoint`]: everything that a run needs to resume

pub mod checkpoint;
mod finite;
mod foreign;
mod header;
mod misfit;
pub mod model;
mod onnx;
mod other_files;
mod param_path;
mod positions;
mod safetensors;
mod sharded;
mod state_dict;
mod torch;
pub mod weights;

pub use foreign::{
    BackboneWeights, BlockNames, HeadSizes, Heads, MethodWeights, NetworkWeights, PatchHead,
    PrototypeLength, Role, backbone_of, heads_of, ibot_names, network_prefix, networks_of,
    stable_pretraining_names, transformers_names,
};
pub use onnx::write_onnx;
pub use positions::resample_positions;
pub use torch::read_pytorch;

pub use header::{passed_over, read_metadata};
pub use param_path::ParamPath;
pub use safetensors::{read_safetensors, write_safetensors, write_safetensors_with};
pub(crate) use safetensors::{safetensors_header, write_values};
pub use state_dict::{LoadReport, NamedTensor, load_state_dict, state_dict};
pub(crate) use state_dict::{Pick, named_tensors};
pub(crate) use weights::with_positions;
pub use weights::{
    load_backbone, load_pretrained, read_backbone, read_weights, save, tensor_names,
};
