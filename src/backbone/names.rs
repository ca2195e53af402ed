//! timm's model names.

use super::VitConfig;
use crate::error::{Error, Result};

/// Name of a size, its width, depth and heads.
type Size = (&'static str, usize, usize, usize);

const TINY: Size = ("tiny", 192, 12, 3);
const SMALL: Size = ("small", 384, 12, 6);
const BASE: Size = ("base", 768, 12, 12);
const LARGE: Size = ("large", 1024, 24, 16);

/// LayerScale of the DINOv2 models in timm.
const DINOV2_LAYER_SCALE: f64 = 1e-5;

fn sized((_, embed_dim, depth, num_heads): Size, patch_size: usize) -> VitConfig {
    VitConfig {
        patch_size,
        embed_dim,
        depth,
        num_heads,
        ..VitConfig::default()
    }
}

/// Each known name with its configuration, at timm's own input size.
fn registry() -> Vec<(String, VitConfig)> {
    let plain = [
        (16, &[TINY, SMALL, BASE, LARGE][..]),
        (32, &[SMALL, BASE]),
        (8, &[SMALL, BASE]),
    ];
    let mut known: Vec<_> = plain
        .into_iter()
        .flat_map(|(patch, sizes)| sizes.iter().map(move |size| (patch, *size)))
        .map(|(patch, size)| {
            (
                format!("vit_{}_patch{patch}_224", size.0),
                sized(size, patch),
            )
        })
        .collect();
    known.extend(
        [TINY, SMALL, BASE].map(|size| (format!("deit_{}_patch16_224", size.0), sized(size, 16))),
    );
    for size in [SMALL, BASE, LARGE] {
        let dinov2 = VitConfig {
            img_size: 518,
            init_values: Some(DINOV2_LAYER_SCALE),
            ..sized(size, 14)
        };
        let registers = VitConfig {
            reg_tokens: 4,
            no_embed_class: true,
            ..dinov2.clone()
        };
        known.push((format!("vit_{}_patch14_dinov2", size.0), dinov2));
        known.push((format!("vit_{}_patch14_reg4_dinov2", size.0), registers));
    }
    known
}

/// The names that [`vit_from_name`] knows.
pub fn encoder_names() -> Vec<String> {
    registry().into_iter().map(|(name, _)| name).collect()
}

/// The configuration of a timm model at an input of `image_size`; a pretrained tag (`.augreg_in21k`) is ignored.
///
/// # Errors
/// [`Error::Config`] for an unknown name, with the nearest known ones.
pub fn vit_from_name(name: &str, image_size: usize) -> Result<VitConfig> {
    let base = name.split('.').next().unwrap_or(name);
    let known = registry();
    if let Some((_, config)) = known.iter().find(|(known, _)| known == base) {
        return Ok(VitConfig {
            img_size: image_size,
            ..config.clone()
        });
    }
    let mut nearest: Vec<_> = known
        .iter()
        .map(|(known, _)| (strsim::normalized_damerau_levenshtein(known, base), known))
        .collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    let nearest: Vec<_> = nearest
        .iter()
        .take(3)
        .map(|(_, name)| name.as_str())
        .collect();
    let remedy = format!(
        "is not a known encoder; nearest: {} (or describe one in a [vit] table)",
        nearest.join(", ")
    );
    Err(Error::config("encoder_name", name, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_timm_shapes() {
        let config = vit_from_name("vit_base_patch14_reg4_dinov2.lvd142m", 224).unwrap();
        assert_eq!(
            (config.embed_dim, config.patches(), config.reg_tokens),
            (768, 256, 4)
        );
        assert!(config.no_embed_class && config.init_values == Some(1e-5));
        for name in encoder_names() {
            let side = if name.contains("14") { 518 } else { 224 };
            vit_from_name(&name, side).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn an_unknown_name_lists_the_nearest() {
        let message = vit_from_name("vit_smal_patch16_224", 224)
            .unwrap_err()
            .to_string();
        assert!(message.contains("vit_small_patch16_224"), "{message}");
    }
}
