//! Why weights do not fit a model, as far as it is known, and what to use instead.

use std::collections::BTreeMap;
use std::path::Path;

use crate::backbone::{VitConfig, encoder_names, vit_from_name};
use crate::files::header::is_no_float;
use crate::files::state_dict::{LoadReport, NamedTensor};

/// What of the file at `path` did not fit a model of this shape, and why, on one line.
pub(crate) fn misfit(path: &Path, report: &LoadReport, shape: &VitConfig) -> String {
    let quantized = (report.missing.first()).and_then(|key| is_no_float(path, key));
    let reasons = [
        quantized,
        one_of_several(path),
        average_pooled(report, shape),
    ];
    let mut text = report.to_string();
    for reason in reasons.into_iter().flatten() {
        text += "; ";
        text += &reason;
    }
    text
}

/// The names that this program knows with shapes as those of a backbone's weights under timm's names. The number of heads
/// is not to be seen in weights.
pub(crate) fn encoders_alike(tensors: &BTreeMap<String, NamedTensor>) -> Vec<String> {
    let patches = tensors.get("patch_embed.proj.weight");
    let Some(&[width, _, patch, _]) = patches.map(|tensor| tensor.shape.as_slice()) else {
        return Vec::new();
    };
    let has = |key: &str| tensors.contains_key(key);
    let is_block = |key: &&String| key.starts_with("blocks.") && key.ends_with(".norm1.weight");
    let depth = tensors.keys().filter(is_block).count();
    let fits = |name: &String| {
        vit_from_name(name, 224).is_ok_and(|vit| {
            (vit.embed_dim, vit.patch_size, vit.depth) == (width, patch, depth)
                && (vit.reg_tokens > 0) == has("reg_token")
                && vit.init_values.is_some() == has("blocks.0.ls1.gamma")
        })
    };
    encoder_names().into_iter().filter(fits).collect()
}

/// Whether the file is called as one part of a model in several, such as `model-00001-of-00002.safetensors`.
fn one_of_several(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let (before, count) = stem.rsplit_once("-of-")?;
    let (_, part) = before.rsplit_once('-')?;
    let is_number = |text: &str| text.parse::<usize>().is_ok();
    (is_number(part) && is_number(count)).then(|| {
        "its name suggests one part of a model split into several files; give its index, such as \
         model.safetensors.index.json"
            .into()
    })
}

/// timm calls the last norm `fc_norm` where it follows the mean of the patches.
fn average_pooled(report: &LoadReport, shape: &VitConfig) -> Option<String> {
    report
        .unused
        .iter()
        .find(|key| key.starts_with("fc_norm."))?;
    let other = match shape.embed_dim {
        768 => "vit_base_patch16_224.mae",
        1024 => "vit_large_patch16_224.mae",
        192 => "vit_tiny_patch16_224.augreg_in21k",
        _ => "vit_small_patch16_224.augreg_in21k",
    };
    Some(format!(
        "fc_norm belongs to a model that pools the mean of the patches, as after fine-tuning, encoders here use the class \
         token; use the weights before fine-tuning, such as timm's {other}, or for training set global_pool = \"avg\" in \
         [method.vit]"
    ))
}
