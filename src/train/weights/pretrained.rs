//! Pretrained weights: a backbone, or a complete method.

use std::path::Path;

use burn_flex::Flex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::files::{
    MethodWeights, NetworkWeights, PatchHead, load_backbone, load_pretrained, networks_of,
    read_weights, state_dict, with_positions,
};
use crate::kernels::TrainBackend;
use crate::method::{IbotConfig, TargetKind, VitIbot};
use crate::random::{Random, Stream};
use crate::train::optim::to_host;
use crate::train::trainer::{MASK_TOKEN, NETWORKS, Tensors, load_tensors};
use crate::train::weights::head_settings::other_settings;
use crate::train::weights::method_weights::to_trainer;

/// Which part of a weight file a run starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PretrainedParts {
    /// One backbone, for both student and teacher.
    #[default]
    Backbone,
    /// Student and teacher with their heads, mask token and centers.
    All,
}

/// `method` with the weights of the file at `path`; with all parts, `note` gets which networks were found, and which parts
/// are newly initialized because the file lacks them.
///
/// # Errors
/// [`Error::Weights`] where the file cannot be read or does not fit; for heads with every setting that they need.
pub fn load_method<B: TrainBackend>(
    mut method: VitIbot<B>,
    path: &Path,
    parts: PretrainedParts,
    note: &mut dyn FnMut(&str),
) -> Result<VitIbot<B>> {
    if parts == PretrainedParts::Backbone {
        return method.map_backbone(|backbone| load_pretrained(backbone, path));
    }
    let mut weights = networks_of(path, read_weights(path)?)?;
    check_heads(&weights, method.config()).map_err(|reason| Error::Weights {
        path: path.to_path_buf(),
        reason,
    })?;
    let vit = method.student.network.backbone.config();
    let (prefix, grid) = (vit.prefix_positions(), [vit.side(); 2]);
    for network in [&mut weights.student, &mut weights.teacher] {
        let backbone = &mut network.backbone.tensors;
        *backbone = with_positions(path, std::mem::take(backbone), prefix, grid)?;
    }
    let found = summary(path, &weights, method.config());
    let absent = [&weights.student, &weights.teacher].map(has_no_patch_head);
    let mut tensors = to_trainer(weights, method.config().prototype_norm);
    // parts that the file lacks keep their random initialization
    let of_student = method.student.network.patch_head.as_ref();
    if let Some(head) = of_student.filter(|_| absent[0]) {
        add_patch_head(&mut tensors, NETWORKS[0], state_dict(head));
    }
    let of_teacher = method.teacher.patch_head.as_ref();
    if let Some(head) = of_teacher.filter(|_| absent[1]) {
        add_patch_head(&mut tensors, NETWORKS[1], state_dict(head));
    }
    let token = method.student.mask_token.val().inner();
    let device = token.device();
    let token = to_host::<B::InnerBackend>(token.into_primitive().tensor());
    tensors.entry(MASK_TOKEN.to_owned()).or_insert(token);
    load_tensors(&mut method, &tensors, path, &device)?;
    note(&found);
    Ok(method)
}

/// Whether the weights of the file at `path` fit a method of these settings, without making its heads.
///
/// # Errors
/// As [`load_method`].
pub fn check_pretrained(config: &IbotConfig, path: &Path, parts: PretrainedParts) -> Result<()> {
    let shape = config.backbone()?;
    let device = Default::default();
    let backbone = || shape.init::<Flex>(&mut Random::new(0, 0, 0, Stream::Init), &device);
    if parts == PretrainedParts::Backbone {
        return load_pretrained(backbone()?, path).map(drop);
    }
    let weights = networks_of(path, read_weights(path)?)?;
    check_heads(&weights, config).map_err(|reason| Error::Weights {
        path: path.to_path_buf(),
        reason,
    })?;
    for network in [weights.student, weights.teacher] {
        load_backbone(backbone()?, path, network.backbone.tensors)?;
    }
    Ok(())
}

fn check_heads(weights: &MethodWeights, config: &IbotConfig) -> std::result::Result<(), String> {
    let (Some(student), Some(teacher)) = (&weights.student.heads, &weights.teacher.heads) else {
        return Err("has no known heads; load the backbone only: omit `pretrained_parts`".into());
    };
    let other = other_settings(student, teacher, config)?;
    if other.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = other.iter().map(|line| format!("\n  {line}")).collect();
    Err(format!(
        "its heads need other settings in the [method] table of `config`:{}\nor load the backbone only: omit `pretrained_parts`",
        list.concat()
    ))
}

fn has_no_patch_head(network: &NetworkWeights) -> bool {
    let heads = network.heads.as_ref();
    heads.is_some_and(|heads| heads.patch_head == PatchHead::Absent)
}

fn add_patch_head(tensors: &mut Tensors, network: &str, head: Tensors) {
    let named = head.into_iter();
    tensors.extend(named.map(|(name, tensor)| (format!("{network}patch_head.{name}"), tensor)));
}

/// Which networks were found, and which parts the file lacks.
fn summary(path: &Path, weights: &MethodWeights, config: &IbotConfig) -> String {
    let [student, teacher] = [&weights.student, &weights.teacher];
    let [cls, patch] = &weights.centers;
    let has_none =
        |center: &Option<_>, targets| center.is_none() && targets == TargetKind::Centering;
    let parts = [
        ("mask token", student.backbone.mask_token.is_none()),
        (
            "patch head",
            has_no_patch_head(student) && !config.shared_head,
        ),
        ("center of class tokens", has_none(cls, config.cls_targets)),
        ("center of patches", has_none(patch, config.patch_targets)),
    ];
    let new = parts
        .iter()
        .filter_map(|(name, is_new)| is_new.then_some(*name));
    let new: Vec<&str> = new.collect();
    let new = match new.as_slice() {
        [] => String::new(),
        new => format!(
            "; not in the file and newly initialized: {}",
            new.join(", ")
        ),
    };
    format!(
        "pretrained {}: student {}*, teacher {}*, with heads{new}",
        printable(path),
        printable(&student.backbone.prefix),
        printable(&teacher.backbone.prefix),
    )
}
