//! Weights by name, in timm's layout: into memory, out of files of any kind, into a backbone.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;

use crate::backbone::VisionTransformer;
use crate::error::{Error, Result};
use crate::files::foreign::{Role, backbone_of};
use crate::files::header::{float_names, weights_error};
use crate::files::misfit::{encoders_alike, misfit};
use crate::files::other_files::refuse_other_files;
use crate::files::positions::resample_positions;
use crate::files::safetensors::{read_safetensors, write_safetensors};
use crate::files::sharded::{Part, parts_of};
use crate::files::state_dict::{NamedTensor, load_state_dict, state_dict};
use crate::files::torch::{self, read_pytorch};

/// All float tensors of a file: safetensors or `torch.save`, recognized by its first bytes, or of all files that an index
/// (`model.safetensors.index.json`) names.
///
/// # Errors
/// As [`read_safetensors`] and [`read_pytorch`]; [`Error::Weights`] for a folder, an image, a web page and other files that
/// are known to hold no weights, with what to do.
pub fn read_weights(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    refuse_other_files(path)?;
    let Some(parts) = parts_of(path)? else {
        return if is_archive(path)? {
            read_pytorch(path)
        } else {
            read_safetensors(path)
        };
    };
    let mut tensors = BTreeMap::new();
    for Part { file, names } in parts {
        refuse_index(&file)?;
        let found = read_weights(&file)?.into_iter();
        tensors.extend(found.filter(|(name, _)| names.contains(name)));
    }
    Ok(tensors)
}

/// The names of what [`read_weights`] gives, without reading the values.
///
/// # Errors
/// As [`read_weights`].
pub fn tensor_names(path: &Path) -> Result<Vec<String>> {
    refuse_other_files(path)?;
    let Some(parts) = parts_of(path)? else {
        return if is_archive(path)? {
            torch::tensor_names(path)
        } else {
            float_names(path)
        };
    };
    let mut all = Vec::new();
    for Part { file, names } in parts {
        refuse_index(&file)?;
        let found = tensor_names(&file)?.into_iter();
        all.extend(found.filter(|name| names.contains(name)));
    }
    Ok(all)
}

/// An index names files of weights, no other index.
fn refuse_index(path: &Path) -> Result<()> {
    match parts_of(path)? {
        Some(_) => Err(weights_error(
            path,
            "is the index of a model, not a part of one",
        )),
        None => Ok(()),
    }
}

/// Whether the file is an archive, as torch writes.
fn is_archive(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
    read.map_err(Error::io(path))?;
    // the header of safetensors is JSON behind its length, whose first byte may be any
    Ok(start.starts_with(b"PK") && start.get(8) != Some(&b'{'))
}

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
    let config = model.config().clone();
    let tensors = with_positions(path, tensors, config.prefix_positions(), [config.side(); 2])?;
    let alike = encoders_alike(&tensors);
    let (model, mut report) = load_state_dict(model, tensors);
    report.ignore_classifier();
    if report.is_clean() {
        return Ok(model);
    }
    let mut reason = format!("does not fit the model: {}", misfit(path, &report, &config));
    if !report.misshapen.is_empty() && !alike.is_empty() {
        reason += &format!("; its shapes suggest {}", alike.join(" or "));
    }
    Err(Error::Weights {
        path: path.to_path_buf(),
        reason,
    })
}

/// Writes the weights of `module` under timm's names and shapes; a half-written file never takes the final name.
///
/// # Errors
/// [`Error::Io`] or [`Error::Weights`] where the file cannot be written.
pub fn save<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<()> {
    write_safetensors(path, &state_dict(module))
}
