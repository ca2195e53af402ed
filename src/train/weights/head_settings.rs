//! The settings that the heads of a checkpoint need.

use crate::files::{Heads, PatchHead, PrototypeLength};
use crate::method::{IbotConfig, PrototypeNorm};

/// Lines of TOML for the `[method]` table, one for each setting that these heads need and `config` does not have.
///
/// # Errors
/// Why no settings fit them.
pub(super) fn other_settings(
    student: &Heads,
    teacher: &Heads,
    config: &IbotConfig,
) -> Result<Vec<String>, &'static str> {
    let cls = student.sizes(false);
    let cls =
        cls.ok_or("has a head without layers; load the backbone only: omit `pretrained_parts`")?;
    let own = student.sizes(true);
    let mut lines = Vec::new();
    let mut needs = |key: &str, needed: String, here: String| {
        if needed != here {
            lines.push(format!("{key} = {needed}    # is {here}"));
        }
    };
    let patches = own.filter(|_| student.patch_head == PatchHead::Own);
    for (key, needed, here) in [
        (
            "projector_layers",
            Some(cls.layers),
            config.projector_layers,
        ),
        (
            "projector_hidden_dim",
            cls.hidden_dim,
            config.projector_hidden_dim,
        ),
        (
            "projector_bottleneck_dim",
            Some(cls.bottleneck_dim),
            config.projector_bottleneck_dim,
        ),
        (
            "n_cls_prototypes",
            Some(cls.prototypes),
            config.n_cls_prototypes,
        ),
        (
            "n_patch_prototypes",
            patches.map(|p| p.prototypes),
            config.n_patch_prototypes,
        ),
    ] {
        needs(key, needed.unwrap_or(here).to_string(), here.to_string());
    }
    let norm = needed_norm(student, teacher, config.prototype_norm)?;
    needs("prototype_norm", name(norm), name(config.prototype_norm));
    let shares = |heads: &Heads, here: bool| match heads.patch_head {
        PatchHead::Own => false,
        PatchHead::Shared => true,
        PatchHead::Absent => here,
    };
    let needed = shares(student, config.shared_head);
    needs(
        "shared_head",
        needed.to_string(),
        config.shared_head.to_string(),
    );
    let needed = shares(teacher, config.teacher_shares_head());
    let here = config.teacher_shares_head();
    needs("shared_head_teacher", needed.to_string(), here.to_string());
    Ok(lines)
}

/// As TOML.
fn name(norm: PrototypeNorm) -> String {
    let name = match norm {
        PrototypeNorm::None => "none",
        PrototypeNorm::Fixed => "fixed",
        PrototypeNorm::Learned => "learned",
    };
    format!("\"{name}\"")
}

fn needed_norm(
    student: &Heads,
    teacher: &Heads,
    here: PrototypeNorm,
) -> Result<PrototypeNorm, &'static str> {
    let lengths = [student.prototype_length, teacher.prototype_length];
    let free = |length: &PrototypeLength| *length == PrototypeLength::Free;
    if lengths.iter().all(free) {
        Ok(PrototypeNorm::None)
    } else if lengths.iter().any(free) {
        Err(
            "has prototypes with weight norm in one network alone; load the backbone only: omit `pretrained_parts`",
        )
    } else if lengths.contains(&PrototypeLength::Learned) || here == PrototypeNorm::Learned {
        Ok(PrototypeNorm::Learned)
    } else {
        Ok(PrototypeNorm::Fixed)
    }
}
