//! The parameter names of Hugging Face's transformers: ViT, DINOv2, DINOv2 with registers.
//!
//! Queries, keys and values are three layers there and one here; everything else is another name for the same tensor. Both
//! the names in its files and those that modules have since transformers 5 (`q_proj`, `layers`) are read; the former are
//! written, which all versions read.
//!
//! Source: transformers 5.24, models/vit, models/dinov2 and models/dinov2_with_registers, and conversion_mapping.py.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Result, printable};
use crate::files::header::weights_error;
use crate::files::state_dict::NamedTensor;

type Tensors = BTreeMap<String, NamedTensor>;

/// A key that every one of its vision transformers has once.
const PATCH_KEY: &str = "embeddings.patch_embeddings.projection.weight";
/// timm's names of what is not in a block, and its names.
const OUTSIDE: [(&str, &str); 8] = [
    ("patch_embed.proj.weight", PATCH_KEY),
    (
        "patch_embed.proj.bias",
        "embeddings.patch_embeddings.projection.bias",
    ),
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
];
/// timm's names of a block's layers, and those of DINOv2.
const DINOV2: [(&str, &str); 10] = [
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("attn.proj", "attention.output.dense"),
    ("attn.proj", "attention.o_proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
    ("mlp.w12", "mlp.weights_in"),
    ("mlp.w3", "mlp.weights_out"),
];
/// Those of ViT; the files' name stands before the module's.
const VIT: [(&str, &str); 6] = [
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("attn.proj", "attention.o_proj"),
];
/// The three layers that are `attn.qkv` here, in that order: in files, and in modules.
const QKV: [[&str; 3]; 2] = [
    [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
];

/// How its models name the layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockNames {
    /// Those of its ViT.
    Vit,
    /// Those of its DINOv2.
    Dinov2,
}

/// The tensors of the file at `path` under timm's names where they have those of transformers, and as they are elsewhere;
/// what stands before the names (`dinov2.`, `vit.`) stays.
///
/// # Errors
/// [`crate::Error::Weights`] where one of queries, keys and values is missing or does not fit the others.
pub(super) fn from_transformers(path: &Path, tensors: Tensors) -> Result<Tensors> {
    let prefixes = tensors.keys().filter_map(|key| key.strip_suffix(PATCH_KEY));
    let mut prefixes: Vec<String> = prefixes.map(str::to_owned).collect();
    if prefixes.is_empty() {
        return Ok(tensors);
    }
    // the longest first: an empty one fits every key
    prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
    let mut named = Tensors::new();
    let mut thirds: BTreeMap<String, [Option<NamedTensor>; 3]> = BTreeMap::new();
    for (key, tensor) in tensors {
        let prefix = prefixes.iter().find(|prefix| key.starts_with(*prefix));
        let Some((prefix, name)) = prefix.and_then(|prefix| key.split_at_checked(prefix.len()))
        else {
            named.insert(key, tensor);
            continue;
        };
        match timm_name(name) {
            Some((name, Some(third))) => {
                let parts = thirds.entry(format!("{prefix}{name}")).or_default();
                parts[third] = Some(tensor);
            }
            Some((name, None)) => drop(named.insert(format!("{prefix}{name}"), tensor)),
            None => drop(named.insert(key, tensor)),
        }
    }
    for (key, parts) in thirds {
        let merged = merged(&parts).ok_or_else(|| {
            let reason = format!(
                "has no queries, keys and values of one shape for {}; use the whole file",
                printable(&key)
            );
            weights_error(path, reason)
        })?;
        named.insert(key, merged);
    }
    Ok(named)
}

/// timm's name, and which third of `attn.qkv` it is.
fn timm_name(name: &str) -> Option<(String, Option<usize>)> {
    if let Some((timm, _)) = OUTSIDE.iter().find(|(_, theirs)| *theirs == name) {
        return Some(((*timm).to_owned(), None));
    }
    let in_block =
        (name.strip_prefix("encoder.layer.")).or_else(|| name.strip_prefix("layers."))?;
    let (block, name) = in_block.split_once('.')?;
    block.parse::<usize>().ok()?;
    if let Some((timm, _)) = DINOV2.iter().find(|(_, theirs)| *theirs == name) {
        return Some((format!("blocks.{block}.{timm}"), None)); // LayerScale has no layer around it
    }
    let (layer, leaf) = name.rsplit_once('.')?;
    let third = QKV
        .iter()
        .find_map(|qkv| qkv.iter().position(|theirs| *theirs == layer));
    let timm = match third {
        Some(_) => "attn.qkv",
        None => {
            let mut layers = DINOV2.iter().chain(&VIT);
            layers.find(|(_, theirs)| *theirs == layer)?.0
        }
    };
    Some((format!("blocks.{block}.{timm}.{leaf}"), third))
}

/// Three tensors above each other; none where one is missing or of another shape.
fn merged(parts: &[Option<NamedTensor>; 3]) -> Option<NamedTensor> {
    let [Some(query), Some(key), Some(value)] = parts else {
        return None;
    };
    let mut shape = query.shape.clone();
    if [key, value].iter().any(|part| part.shape != shape) {
        return None;
    }
    *shape.first_mut()? *= 3;
    Some(NamedTensor {
        shape,
        values: [&query.values[..], &key.values, &value.values].concat(),
    })
}

/// A backbone under timm's names, with `register_tokens` and `mask_token` where it has them, under the names of
/// transformers' files; what has no name there is left out.
pub fn transformers_names(backbone: Tensors, blocks: BlockNames) -> Tensors {
    let mut named = Tensors::new();
    for (key, tensor) in backbone {
        if let Some((_, theirs)) = OUTSIDE.iter().find(|(timm, _)| *timm == key) {
            named.insert((*theirs).to_owned(), tensor);
        } else if let Some((block, name)) =
            (key.strip_prefix("blocks.")).and_then(|key| key.split_once('.'))
        {
            add_of_block(
                &mut named,
                &format!("encoder.layer.{block}."),
                name,
                tensor,
                blocks,
            );
        }
    }
    named
}

fn add_of_block(
    named: &mut Tensors,
    block: &str,
    name: &str,
    tensor: NamedTensor,
    names: BlockNames,
) {
    let layers: &[(&str, &str)] = match names {
        BlockNames::Vit => &VIT,
        BlockNames::Dinov2 => &DINOV2,
    };
    let of = |layer: &str| {
        layers
            .iter()
            .find(|(timm, _)| *timm == layer)
            .map(|(_, theirs)| *theirs)
    };
    if let Some(theirs) = of(name) {
        named.insert(format!("{block}{theirs}"), tensor);
        return;
    }
    let Some((layer, leaf)) = name.rsplit_once('.') else {
        return;
    };
    if layer == "attn.qkv" {
        let mut shape = tensor.shape;
        let third = tensor.values.len() / 3;
        if let Some(rows) = shape.first_mut() {
            *rows /= 3;
        }
        for (theirs, values) in QKV[0].iter().zip(tensor.values.chunks_exact(third.max(1))) {
            let part = NamedTensor {
                shape: shape.clone(),
                values: values.to_vec(),
            };
            named.insert(format!("{block}{theirs}.{leaf}"), part);
        }
    } else if let Some(theirs) = of(layer) {
        named.insert(format!("{block}{theirs}.{leaf}"), tensor);
    }
}
