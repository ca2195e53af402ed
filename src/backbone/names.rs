//! timm's model names, and the tags of their weights.

use crate::backbone::config::VitConfig;
use crate::backbone::normalization::Normalization;
use crate::error::{Error, Result, printable};

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

/// The pretrained tags of each name in timm 1.0.31; the first is what timm takes for the name alone.
///
/// Source: `default_cfgs` of timm/models/vision_transformer.py and deit.py, by tests/fixtures/timm_tags.py.
const TAGS: [(&str, &[&str]); 17] = [
    (
        "vit_tiny_patch16_224",
        &["augreg_in21k_ft_in1k", "augreg_in21k"],
    ),
    (
        "vit_small_patch16_224",
        &[
            "augreg_in21k_ft_in1k",
            "augreg_in1k",
            "augreg_in21k",
            "dino",
        ],
    ),
    (
        "vit_base_patch16_224",
        &[
            "augreg2_in21k_ft_in1k",
            "augreg_in21k_ft_in1k",
            "orig_in21k_ft_in1k",
            "augreg_in1k",
            "orig_in21k",
            "augreg_in21k",
            "sam_in1k",
            "bamboo",
            "dino",
            "mae",
        ],
    ),
    (
        "vit_large_patch16_224",
        &["augreg_in21k_ft_in1k", "orig_in21k", "augreg_in21k", "mae"],
    ),
    (
        "vit_small_patch32_224",
        &["augreg_in21k_ft_in1k", "augreg_in21k"],
    ),
    (
        "vit_base_patch32_224",
        &[
            "augreg_in21k_ft_in1k",
            "augreg_in1k",
            "orig_in21k",
            "augreg_in21k",
            "sam_in1k",
        ],
    ),
    ("vit_small_patch8_224", &["dino"]),
    (
        "vit_base_patch8_224",
        &[
            "augreg2_in21k_ft_in1k",
            "augreg_in21k_ft_in1k",
            "augreg_in21k",
            "dino",
        ],
    ),
    ("deit_tiny_patch16_224", &["fb_in1k"]),
    ("deit_small_patch16_224", &["fb_in1k"]),
    ("deit_base_patch16_224", &["fb_in1k"]),
    ("vit_small_patch14_dinov2", &["lvd142m"]),
    ("vit_base_patch14_dinov2", &["lvd142m"]),
    ("vit_large_patch14_dinov2", &["lvd142m"]),
    ("vit_small_patch14_reg4_dinov2", &["lvd142m"]),
    ("vit_base_patch14_reg4_dinov2", &["lvd142m"]),
    ("vit_large_patch14_reg4_dinov2", &["lvd142m"]),
];

/// `mean` and `std` of a tag's `pretrained_cfg` in timm; tests/method/timm_tags.rs compares all of them.
fn normalization_of_tag(tag: &str) -> Normalization {
    match tag {
        "dino" | "mae" | "fb_in1k" | "lvd142m" => Normalization::IMAGENET,
        "bamboo" => Normalization::CLIP,
        _ => Normalization::HALF,
    }
}

/// The names that [`vit_from_name`] knows.
pub fn encoder_names() -> Vec<String> {
    registry().into_iter().map(|(name, _)| name).collect()
}

/// timm's pretrained tags of a name, the default first; none for a name that [`vit_from_name`] does not know.
pub fn encoder_tags(name: &str) -> &'static [&'static str] {
    let found = TAGS.iter().find(|(known, _)| *known == name);
    found.map_or(&[], |(_, tags)| tags)
}

/// The normalization that timm's weights of this name were trained with: that of the tag, or of the name's default.
/// ImageNet's for a name that is not known.
pub fn timm_normalization(name: &str) -> Normalization {
    let (base, tag) = split_tag(name);
    let tag = tag.or_else(|| encoder_tags(base).first().copied());
    tag.map_or(Normalization::IMAGENET, normalization_of_tag)
}

/// Name and pretrained tag: `vit_small_patch16_224` and `dino` of `vit_small_patch16_224.dino`.
pub fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.split_once('.') {
        Some((base, tag)) => (base, Some(tag)),
        None => (name, None),
    }
}

/// The configuration of a timm model at an input of `image_size`; a pretrained tag (`.augreg_in21k`) changes nothing in it.
///
/// # Errors
/// [`Error::Config`] for a name or a tag that is not known, with the nearest known ones.
pub fn vit_from_name(name: &str, image_size: usize) -> Result<VitConfig> {
    let (base, tag) = split_tag(name);
    let known = registry();
    let Some((_, config)) = known.iter().find(|(known, _)| known == base) else {
        let names: Vec<&str> = known.iter().map(|(known, _)| known.as_str()).collect();
        let nearest = nearest(base, &names);
        let remedy =
            format!("is not a known encoder; nearest: {nearest}; `encoder_names` lists all");
        return Err(Error::config("encoder_name", printable(name), remedy));
    };
    let tags = encoder_tags(base);
    if let Some(tag) = tag.filter(|tag| !tags.contains(tag)) {
        let nearest = nearest(tag, tags);
        let remedy = format!(
            "timm has no {base} weights with this tag; nearest tags: {nearest}; or omit the tag and give `normalization`"
        );
        return Err(Error::config("encoder_name", printable(name), remedy));
    }
    Ok(VitConfig {
        img_size: image_size,
        ..config.clone()
    })
}

/// The three of `known` that `name` is most like.
fn nearest(name: &str, known: &[&str]) -> String {
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(known, name);
    let mut nearest: Vec<(f64, &str)> = known
        .iter()
        .map(|known| (likeness(known), *known))
        .collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    let nearest: Vec<&str> = nearest.into_iter().take(3).map(|(_, name)| name).collect();
    nearest.join(", ")
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

    #[test]
    fn a_tag_is_known_or_refused() {
        let wrong = vit_from_name("vit_small_patch16_224.augreg_in21", 224);
        let message = wrong.unwrap_err().to_string();
        for part in ["nearest tags: augreg_in21k", "`normalization`"] {
            assert!(message.contains(part), "{message}");
        }
        for name in encoder_names() {
            let tags = encoder_tags(&name);
            assert!(!tags.is_empty(), "{name}");
            for tag in tags {
                vit_from_name(&format!("{name}.{tag}"), 224 * 37).unwrap();
            }
        }
    }
}
