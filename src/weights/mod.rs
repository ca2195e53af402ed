//! Weights by name, in timm's layout: in memory, and as files.
//!
//! - `state_dict`, `path`: a module's weights, and what timm calls them
//! - `file`: safetensors
//! - `pytorch`, `pickle`, `torch_objects`: what `torch.save` wrote
//! - `checkpoint_keys`, `checkpoint_heads`, `checkpoint_networks`: backbones, heads and whole methods of other programs
//! - `checkpoint_names`: a method under their names
//! - `positions`: position embeddings for another image size
//! - `onnx`: a backbone for programs that run ONNX

mod checkpoint_heads;
mod checkpoint_keys;
mod checkpoint_names;
mod checkpoint_networks;
mod file;
mod onnx;
mod path;
mod pickle;
mod positions;
mod pytorch;
mod state_dict;
mod torch_objects;

pub use checkpoint_heads::{HeadSizes, Heads, PatchHead, PrototypeLength, heads_of};
pub use checkpoint_keys::{BackboneWeights, Role, backbone_of};
pub use checkpoint_names::{ibot_names, stable_pretraining_names};
pub use checkpoint_networks::{MethodWeights, NetworkWeights, networks_of};
pub use onnx::write_onnx;
pub use positions::resample_positions;
pub use pytorch::read_pytorch;

pub use file::{read_metadata, read_safetensors, write_safetensors, write_safetensors_with};
pub(crate) use file::{safetensors_header, write_tensors, write_values};
pub use path::ParamPath;
pub use state_dict::{LoadReport, NamedTensor, load_state_dict, state_dict};
pub(crate) use state_dict::{Pick, named_tensors};

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;

use crate::backbone::VisionTransformer;
use crate::error::{Error, Result};

/// All tensors of a file: safetensors, or what `torch.save` wrote, told by its first bytes.
///
/// # Errors
/// As [`read_safetensors`] and [`read_pytorch`].
pub fn read_weights(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    let mut start = [0; 9];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    // the header of safetensors is JSON behind its length, whose first byte may be any
    let is_pytorch = start.starts_with(b"PK") || start[0] == PICKLE;
    match read {
        Ok(()) if is_pytorch && start[8] != b'{' => read_pytorch(path),
        _ => read_safetensors(path), // which says what is wrong with a shorter file
    }
}

/// First byte of a pickle: of torch.save before 1.6, which [`read_pytorch`] refuses with a remedy.
const PICKLE: u8 = 0x80;

/// The backbone of a file of weights under timm's names: timm's, of iBOT, DINO or DINOv2, or within a training checkpoint,
/// whose teacher is taken; with positions for `grid`.
///
/// # Errors
/// As [`read_weights`] and [`backbone_of`].
pub fn read_backbone(
    path: &Path,
    prefix_positions: usize,
    grid: [usize; 2],
) -> Result<BTreeMap<String, NamedTensor>> {
    let tensors = backbone_of(path, read_weights(path)?, Role::Teacher)?.tensors;
    with_positions(path, tensors, prefix_positions, grid)
}

/// The backbone of the file at `path` with positions for `grid`.
///
/// # Errors
/// As [`resample_positions`].
pub(crate) fn with_positions(
    path: &Path,
    mut tensors: BTreeMap<String, NamedTensor>,
    prefix_positions: usize,
    grid: [usize; 2],
) -> Result<BTreeMap<String, NamedTensor>> {
    if let Some(positions) = tensors.remove(POSITIONS) {
        let fits = positions.shape.get(1) == Some(&(prefix_positions + grid[0] * grid[1]));
        let fitted = if fits {
            positions
        } else {
            resample_positions(path, positions, prefix_positions, grid)?
        };
        tensors.insert(POSITIONS.into(), fitted);
    }
    Ok(tensors)
}

const POSITIONS: &str = "pos_embed";

/// A transformer with the weights of a file, see [`read_backbone`].
///
/// # Errors
/// As [`read_weights`], [`backbone_of`] and [`load_backbone`].
pub fn load_pretrained<B: Backend>(
    model: VisionTransformer<B>,
    path: &Path,
) -> Result<VisionTransformer<B>> {
    let backbone = backbone_of(path, read_weights(path)?, Role::Teacher)?;
    load_backbone(model, path, backbone.tensors)
}

/// A transformer with weights under timm's names, whose positions are resampled where they have to be; `path` is for
/// errors.
///
/// # Errors
/// [`Error::Weights`] that lists every missing, misshapen and unused key; only a classifier's keys may be unused.
pub fn load_backbone<B: Backend>(
    model: VisionTransformer<B>,
    path: &Path,
    tensors: BTreeMap<String, NamedTensor>,
) -> Result<VisionTransformer<B>> {
    let config = model.config();
    let tensors = with_positions(path, tensors, config.prefix_positions(), [config.side(); 2])?;
    let (model, mut report) = load_state_dict(model, tensors);
    report.ignore_classifier();
    if report.is_clean() {
        Ok(model)
    } else {
        Err(Error::Weights {
            path: path.to_path_buf(),
            reason: format!("does not fit the model: {report}"),
        })
    }
}

/// Writes the weights of `module` under timm's names and shapes; a half-written file never takes the final name.
///
/// # Errors
/// [`Error::Io`] or [`Error::Weights`] where the file cannot be written.
pub fn save<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<()> {
    write_safetensors(path, &state_dict(module))
}
