//! The backbone in a checkpoint: found under whatever prefix, in timm's names.
//!
//! Known: timm, iBOT, DINO, DINOv2, transformers, stable-pretraining and Lightning. A backbone is where `patch_embed.proj.weight` is;
//! which network it belongs to is read off the words before it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result, printable};
use crate::files::finite::check_finite;
use crate::files::foreign::transformers::from_transformers;
use crate::files::header::is_no_float;
use crate::files::state_dict::NamedTensor;

/// A key that every vision transformer has once, whatever program wrote it.
const PATCH_KEY: &str = "patch_embed.proj.weight";
/// Keys of classifiers, of transformers' pooler and of MAE's decoder, which a backbone has no use for.
const DROPPED: [&str; 6] = [
    "head.",
    "head_dist.",
    "fc.",
    "pre_logits.",
    "pooler.",
    "decoder_",
];
/// Words for one of two networks, of which one is the moving average of the other.
const NETWORK_WORDS: [&str; 5] = ["student", "teacher", "online", "target", "momentum"];
/// The mask token in iBOT, and in DINOv2 and stable-pretraining.
const MASK_KEYS: [&str; 2] = ["masked_embed", "mask_token"];

/// Which of two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that is trained by gradient.
    Student,
    /// Its moving average, which most papers evaluate.
    Teacher,
}

/// A backbone from a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneWeights {
    /// Where it was: what its keys began with, such as `teacher.backbone.`; empty for a plain state dict.
    pub prefix: String,
    /// Its tensors under timm's names; what is none of a vision transformer's stays for the loader to report.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// The mask token, `[1, 1, D]`, where the checkpoint has one; a teacher without one gets its student's.
    pub mask_token: Option<NamedTensor>,
    /// Keys beside it that a backbone has no use for: classifiers, and MAE's decoder.
    pub dropped: Vec<String>,
}

/// The backbone of one network among the tensors of the checkpoint at `path`, under timm's names.
///
/// - The prefix that stands before `patch_embed.proj.weight` is taken off: `module.`, `state_dict.backbone.teacher.` or
///   any other. Where there are several, the words `student` or `online`, `teacher`, `ema`, `momentum` or `target` in
///   them decide; a backbone without such a word fits both roles.
/// - DINOv2's chunked blocks become plain ones, `register_tokens` become `reg_token`. As timm does then, the class
///   token's position is added to the class token and leaves `pos_embed`: the model needs `no_embed_class`.
/// - Names of Hugging Face's transformers become timm's, see `transformers.rs` beside this file.
/// - `gamma_1` and `gamma_2` of BEiT and iBOT become `ls1.gamma` and `ls2.gamma`.
///
/// Source: timm/models/vision_transformer.py `checkpoint_filter_fn` and `_convert_dinov2`.
///
/// # Errors
/// [`Error::Weights`] where there is none, several that might be meant, or one that is no plain vision transformer.
pub fn backbone_of(
    path: &Path,
    tensors: BTreeMap<String, NamedTensor>,
    role: Role,
) -> Result<BackboneWeights> {
    let tensors = from_transformers(path, tensors)?;
    let prefix = backbone_prefix(path, &tensors, role)?.to_string();
    let is_taken = |key: &str| {
        let name = key.strip_prefix(&prefix);
        name.is_some_and(|name| !is_dropped(name) && !MASK_KEYS.contains(&name))
    };
    check_finite(path, tensors.iter().filter(|(key, _)| is_taken(key)))?;
    let mask_token = mask_token(&tensors, &prefix);
    let mut backbone = BTreeMap::new();
    let mut dropped = Vec::new();
    for (key, tensor) in tensors {
        let Some(name) = key.strip_prefix(&prefix) else {
            continue;
        };
        if is_dropped(name) {
            dropped.push(key);
        } else if !MASK_KEYS.contains(&name) {
            let name = timm_name(name);
            if backbone.contains_key(&name) {
                let reason = format!(
                    "has two tensors for {}, one of them {}; remove one",
                    printable(name),
                    printable(key)
                );
                return Err(refused(path, reason));
            }
            backbone.insert(name, tensor);
        }
    }
    check_family(path, &backbone)?;
    if let Some(registers) = backbone.remove("register_tokens") {
        backbone.insert("reg_token".into(), registers);
        free_class_token_of_position(path, &mut backbone)?;
    }
    Ok(BackboneWeights {
        prefix,
        tensors: backbone,
        mask_token,
        dropped,
    })
}

fn is_dropped(name: &str) -> bool {
    DROPPED.iter().any(|start| name.starts_with(start))
}

/// What the keys of a student or teacher begin with, such as `teacher.backbone.`, among these of a checkpoint; none where
/// the file holds no method of two networks: timm's training too keeps a moving average, its `state_dict_ema`.
pub fn network_prefix<'a>(keys: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut prefixes = (keys.into_iter()).filter_map(|key| key.strip_suffix(PATCH_KEY));
    let is_of_two = |word| NETWORK_WORDS.contains(&word);
    prefixes.find(|prefix| prefix.split(['.', '_']).any(is_of_two))
}

pub(in crate::files) fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Weights {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

/// What the keys of the backbone of this role begin with.
pub(super) fn backbone_prefix<'a>(
    path: &Path,
    tensors: &'a BTreeMap<String, NamedTensor>,
    role: Role,
) -> Result<&'a str> {
    let found: Vec<&str> = prefixes(tensors).collect();
    let of = |wanted: Option<Role>| {
        let fits = |prefix: &&str| role_of(prefix) == wanted;
        found.iter().copied().filter(fits).collect::<Vec<&str>>()
    };
    let mut choices = of(Some(role));
    if choices.is_empty() {
        choices = of(None);
    }
    let listed = |prefixes: &[&str]| printable(prefixes.join(" and "));
    match choices.as_slice() {
        [one] => Ok(one),
        [] if found.is_empty() => Err(refused(path, no_backbone(path, tensors))),
        [] => {
            let [wanted, other] = match role {
                Role::Student => ["student", "teacher"],
                Role::Teacher => ["teacher", "student"],
            };
            let found = listed(&found);
            let reason = format!("has no {wanted}, only {found}; use the {other}");
            Err(refused(path, reason))
        }
        several => {
            let several = listed(several);
            let reason = format!("has several backbones, {several}; keep only one in the file");
            Err(refused(path, reason))
        }
    }
}

/// What the keys of each backbone begin with.
fn prefixes(tensors: &BTreeMap<String, NamedTensor>) -> impl Iterator<Item = &str> {
    let found = tensors.keys().filter_map(|key| key.strip_suffix(PATCH_KEY));
    found.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Whether there is a backbone of this role, or one that fits both.
pub(super) fn role_in(tensors: &BTreeMap<String, NamedTensor>, role: Role) -> bool {
    prefixes(tensors).any(|prefix| role_of(prefix).is_none_or(|found| found == role))
}

fn role_of(prefix: &str) -> Option<Role> {
    prefix.split(['.', '_']).find_map(|word| match word {
        "student" | "online" => Some(Role::Student),
        "teacher" | "ema" | "momentum" | "target" => Some(Role::Teacher),
        _ => None,
    })
}

fn no_backbone(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> String {
    if let Some(reason) = is_no_float(path, PATCH_KEY) {
        return reason;
    }
    if tensors.is_empty() {
        return "has no float tensors and no vision transformer".into();
    }
    let some: Vec<String> = tensors.keys().take(3).map(printable).collect();
    let some = some.join(", ");
    format!("has no vision transformer (no key {PATCH_KEY}); its keys are {some}, ...")
}

/// The mask token beside the backbone, around it, or beside any other network's of the same width.
fn mask_token(tensors: &BTreeMap<String, NamedTensor>, prefix: &str) -> Option<NamedTensor> {
    let width = *tensors
        .get(&format!("{prefix}{PATCH_KEY}"))?
        .shape
        .first()?;
    let fits = |key: &str| {
        let token = tensors.get(key)?;
        let ends = token.shape.last() == Some(&width) && token.values.len() == width;
        ends.then(|| NamedTensor {
            shape: vec![1, 1, width],
            values: token.values.clone(),
        })
    };
    let ends = prefix.match_indices('.').map(|(at, _)| at + 1);
    let mut around: Vec<&str> = ends.map(|end| &prefix[..end]).collect();
    around.reverse();
    around.push("");
    let others = tensors.keys().filter_map(|key| key.strip_suffix(PATCH_KEY));
    (around.into_iter().chain(others))
        .flat_map(|start| MASK_KEYS.map(|key| format!("{start}{key}")))
        .find_map(|key| fits(&key))
}

/// timm's name of what DINOv2, BEiT and iBOT call differently.
fn timm_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let is_number = |part: &str| part.parse::<usize>().is_ok();
    match parts.as_slice() {
        // the inner number counts over all chunks
        ["blocks", chunk, block, rest @ ..] if is_number(chunk) && is_number(block) => {
            timm_name(&format!("blocks.{block}.{}", rest.join(".")))
        }
        ["blocks", block, "gamma_1"] => format!("blocks.{block}.ls1.gamma"),
        ["blocks", block, "gamma_2"] => format!("blocks.{block}.ls2.gamma"),
        _ => name.to_string(),
    }
}

fn check_family(path: &Path, backbone: &BTreeMap<String, NamedTensor>) -> Result<()> {
    if let Some(token) = backbone.get("dist_token") {
        let size = match token.values.len() {
            192 => "tiny",
            384 => "small",
            _ => "base",
        };
        let reason = format!(
            "is a distilled DeiT, whose second class token (dist_token) is not supported; use the one without \
             distillation, timm's deit_{size}_patch16_224.fb_in1k"
        );
        return Err(refused(path, reason));
    }
    if let Some(key) = backbone.keys().find(|key| key.contains(".mlp.w12.")) {
        let reason = format!(
            "has SwiGLU layers ({}), which are not supported; use a size with plain MLPs: small, base or large",
            printable(key)
        );
        return Err(refused(path, reason));
    }
    if !backbone.contains_key("blocks.0.norm1.weight") {
        let reason = "has patches but no blocks.0.norm1.weight; only plain vision transformers are supported, not Swin";
        return Err(refused(path, reason));
    }
    Ok(())
}

/// As timm's `_convert_dinov2` for models with registers: their class token has no position of its own any more.
fn free_class_token_of_position(
    path: &Path,
    backbone: &mut BTreeMap<String, NamedTensor>,
) -> Result<()> {
    let mismatch = || {
        let reason =
            "has register_tokens but no matching cls_token and pos_embed; use DINOv2's own file";
        refused(path, reason)
    };
    let mut positions = backbone.remove("pos_embed").ok_or_else(mismatch)?;
    let cls = backbone.get_mut("cls_token").ok_or_else(mismatch)?;
    let width = cls.values.len();
    let [1, count, columns] = positions.shape[..] else {
        return Err(mismatch());
    };
    if columns != width || count == 0 || positions.values.len() != count * width {
        return Err(mismatch());
    }
    for (token, position) in cls.values.iter_mut().zip(&positions.values) {
        *token += position;
    }
    positions.values.drain(..width);
    positions.shape = vec![1, count - 1, width];
    backbone.insert("pos_embed".into(), positions);
    Ok(())
}
