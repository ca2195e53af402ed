//! Which normalization a model's images get, and why it is that one.

use std::fmt;
use std::path::Path;

use crate::backbone::{Normalization, encoder_tags, split_tag, timm_normalization};
use crate::error::{Result, printable};
use crate::files::foreign::network_prefix;
use crate::files::model::card::read_card;
use crate::files::model::described::Described;
use crate::files::weights::tensor_names;

/// A normalization, and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalized {
    /// The numbers.
    pub values: Normalization,
    /// Why they are these, in words.
    pub why: String,
}

impl fmt::Display for Normalized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "normalization {}: {}", self.values, self.why)
    }
}

impl Normalized {
    /// The normalization of pretrained weights in the file at `path`: by the file itself, by metadata from other
    /// sources, or by the name of the encoder. None if nothing gives it.
    ///
    /// # Errors
    /// As [`read_card`] and [`tensor_names`].
    pub fn of_file(
        path: &Path,
        described: &Described,
        encoder: Option<&str>,
    ) -> Result<Option<Self>> {
        let names = tensor_names(path)?;
        if let Some(card) = read_card(path)? {
            return Ok(Some(Self::of_card(card.preprocessing.normalization())));
        }
        if let Some(values) = described.normalization {
            return Ok(Some(Self::described(values, described)));
        }
        let network = network_prefix(names.iter().map(String::as_str));
        Ok(encoder.map(|encoder| Self::of_name(encoder, network)))
    }

    pub(super) fn of_card(values: Normalization) -> Self {
        Self {
            values,
            why: "from the file".into(),
        }
    }

    pub(super) fn described(values: Normalization, described: &Described) -> Self {
        Self {
            values,
            why: described.source.clone(),
        }
    }

    /// Of weights that say nothing themselves, by timm's name; `network` is what the keys begin with where the file holds
    /// networks in training.
    ///
    /// timm's weights of one name were trained with several normalizations, which its tags tell apart. Checkpoints with a
    /// student or teacher are of DINO, iBOT, DINOv2 or stable-pretraining, which train with ImageNet's: where the name has no
    /// tag, that is taken for them, and timm's default for all others.
    pub(super) fn of_name(encoder: &str, network: Option<&str>) -> Self {
        let (base, tag) = split_tag(encoder);
        if let Some(network) = network.filter(|_| tag.is_none()) {
            let network = printable(network);
            let why =
                format!("the file holds networks in training ({network}*), as of DINO or iBOT");
            return Self {
                values: Normalization::IMAGENET,
                why,
            };
        }
        let values = timm_normalization(encoder);
        let others = encoder_tags(base)
            .iter()
            .copied()
            .filter(|other| timm_normalization(&format!("{base}.{other}")) != values);
        let others: Vec<String> = others.map(|other| format!(".{other}")).collect();
        let others = others.join(", ");
        let mut why = format!("timm's for {encoder}");
        if tag.is_none() && !others.is_empty() {
            why += &format!("; for other weights add their tag ({others}) or `normalization`");
        }
        Self { values, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moving_average_of_one_network_is_no_teacher() {
        let network = |key| network_prefix([key, "norm.weight"]);
        assert_eq!(network("state_dict_ema.patch_embed.proj.weight"), None);
        assert_eq!(network("patch_embed.proj.weight"), None);
        let found = network("state_dict.backbone.teacher.patch_embed.proj.weight");
        assert_eq!(found, Some("state_dict.backbone.teacher."));
    }

    #[test]
    fn names_tags_and_networks_decide() {
        let of = |name, network| {
            let found = Normalized::of_name(name, network);
            (found.values, found.why)
        };
        let (values, why) = of("vit_small_patch16_224", None);
        assert_eq!(values, Normalization::HALF);
        assert!(why.contains("add their tag (.dino) or `norm"), "{why}");
        let (values, why) = of("vit_base_patch16_224.bamboo", None);
        assert_eq!(values, Normalization::CLIP);
        assert_eq!(why, "timm's for vit_base_patch16_224.bamboo");
        let (values, why) = of("vit_small_patch16_224", Some("teacher.backbone."));
        assert_eq!(values, Normalization::IMAGENET);
        assert!(why.contains("(teacher.backbone.*)"), "{why}");
        // the tag decides, whatever the file looks like
        let tagged = of("vit_small_patch16_224.augreg_in21k", Some("teacher."));
        assert_eq!(tagged.0, Normalization::HALF);
        let (values, why) = of("vit_small_patch14_dinov2", None);
        assert_eq!(values, Normalization::IMAGENET);
        assert_eq!(why, "timm's for vit_small_patch14_dinov2");
    }
}
