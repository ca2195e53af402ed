//! A backbone as a folder that transformers' `AutoModel` and `AutoImageProcessor` load.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use burn_flex::Flex;
use serde::Serialize;

use crate::backbone::{GlobalPool, VitConfig};
use crate::error::{Error, Result};
use crate::files::foreign::{BlockNames, transformers_names};
use crate::files::model::card::{CUSTOM, ModelCard, Preprocessing};
use crate::files::model::description::{CONFIG, PREPROCESSOR, WEIGHTS};
use crate::files::model::file::write_model_as;
use crate::files::model::transformers_config::{Family, TransformersConfig, preprocessor_json};
use crate::files::safetensors::write_safetensors_with;
use crate::files::state_dict::{NamedTensor, state_dict};
use crate::files::weights::load_backbone;
use crate::precision::Precision;
use crate::random::Random;
use crate::unfinished::Unfinished;

type Tensors = BTreeMap<String, NamedTensor>;

/// A backbone that is to be written for transformers.
#[derive(Debug, Clone)]
pub struct TransformersModel<'a> {
    /// Where it was read from, for errors.
    pub source: &'a Path,
    /// Shape of the backbone.
    pub architecture: &'a VitConfig,
    /// How an image becomes its input; positions are resampled to its size.
    pub preprocessing: &'a Preprocessing,
    /// Its metadata.
    pub card: Option<&'a ModelCard>,
    /// Weights under timm's names.
    pub tensors: Tensors,
    /// Mask token `[1, 1, D]`, where there is one; zeros are written where the model has one there.
    pub mask_token: Option<NamedTensor>,
    /// Type of the entries, to which they are rounded.
    pub dtype: Precision,
}

impl TransformersModel<'_> {
    /// Writes `model.safetensors`, `config.json` and `preprocessor_config.json` into `folder`, which is made where it is not
    /// there. Each file is whole or not there.
    ///
    /// A model without registers and LayerScale becomes a ViT, one with LayerScale a DINOv2, and one with registers a DINOv2
    /// with registers. What these have and the model does not is written so that they compute the same: LayerScale of
    /// ones, and a class token's position of zeros.
    ///
    /// # Errors
    /// [`Error::Weights`], which names the source, for a shape that transformers does not have, or where the weights do not fit it;
    /// [`Error::Io`].
    pub fn write(self, folder: &Path) -> Result<()> {
        let architecture = VitConfig {
            img_size: self.preprocessing.image_size,
            ..self.architecture.clone()
        };
        check_form(&architecture).map_err(|reason| refused(self.source, reason))?;
        let fresh = architecture.init::<Flex>(&mut Random::blank(), &Default::default())?;
        let mut tensors = state_dict(&load_backbone(fresh, self.source, self.tensors)?);
        let family = family_of(&architecture);
        let architecture = as_family(family, architecture, &mut tensors)
            .ok_or_else(|| refused(self.source, "has no position of each token"))?;
        if family != Family::Vit {
            let width = architecture.embed_dim;
            let values = self
                .mask_token
                .map_or_else(|| vec![0.0; width], |token| token.values);
            let token = NamedTensor {
                shape: vec![1, width],
                values,
            };
            tensors.insert("mask_token".into(), token);
        }
        let blocks = match family {
            Family::Vit => BlockNames::Vit,
            Family::Dinov2 | Family::Registers => BlockNames::Dinov2,
        };
        let tensors = transformers_names(tensors, blocks);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let weights = folder.join(WEIGHTS[0]);
        // a fingerprint is that of the card's own input size
        let native = |card: &&ModelCard| card.preprocessing == *self.preprocessing;
        match self.card.filter(native) {
            Some(card) => {
                let card = card_of(card, &architecture);
                write_model_as(&weights, &card, &tensors, self.dtype)?;
            }
            None => {
                // by the second of them the next export knows its own file
                let metadata = [("format", "pt"), ("software", "ibot")];
                let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
                let metadata = metadata.into();
                write_safetensors_with(&weights, &tensors, &metadata, self.dtype)?;
            }
        }
        let config = TransformersConfig::of(family, &architecture, self.dtype);
        write_json(&folder.join(CONFIG), &config)?;
        write_json(
            &folder.join(PREPROCESSOR),
            &preprocessor_json(self.preprocessing),
        )
    }
}

fn refused(source: &Path, reason: &str) -> Error {
    Error::Weights {
        path: source.to_path_buf(),
        reason: reason.into(),
    }
}

/// Whether transformers has models of this form, or why not.
fn check_form(architecture: &VitConfig) -> std::result::Result<(), &'static str> {
    if !architecture.class_token {
        return Err(
            "cannot be written for transformers: the model has no class token; use `format` timm or onnx",
        );
    }
    match architecture.global_pool {
        GlobalPool::Token | GlobalPool::None => Ok(()),
        _ => Err(
            "cannot be written for transformers: the model pools patches before its last norm (fc_norm); use `format` timm \
             or onnx",
        ),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    Unfinished::write(path, |file| writeln!(file, "{text}"))?.finish()
}

fn family_of(architecture: &VitConfig) -> Family {
    match (architecture.reg_tokens, architecture.init_values) {
        (0, None) => Family::Vit,
        (0, Some(_)) => Family::Dinov2,
        _ => Family::Registers,
    }
}

/// The same function in the form of this family, whose tensors `tensors` become; none where some are missing.
fn as_family(
    family: Family,
    mut architecture: VitConfig,
    tensors: &mut Tensors,
) -> Option<VitConfig> {
    let width = architecture.embed_dim;
    if family != Family::Vit && architecture.init_values.is_none() {
        for block in 0..architecture.depth {
            for scale in ["ls1", "ls2"] {
                let ones = NamedTensor {
                    shape: vec![width],
                    values: vec![1.0; width],
                };
                tensors.insert(format!("blocks.{block}.{scale}.gamma"), ones);
            }
        }
        architecture.init_values = Some(1.0);
    }
    let positions = tensors.get_mut("pos_embed")?;
    if architecture.no_embed_class {
        // the class token's own, which is none
        positions.values.splice(..0, vec![0.0; width]);
    }
    let mut of_registers = Vec::new();
    if !architecture.no_embed_class && architecture.reg_tokens > 0 {
        let rows = width..width * architecture.prefix_tokens();
        positions.values.get(rows.clone())?;
        of_registers = positions.values.drain(rows).collect();
    }
    positions.shape = vec![1, positions.values.len() / width, width];
    if let Some(mut registers) = tensors.remove("reg_token") {
        for (token, position) in registers.values.iter_mut().zip(of_registers) {
            *token += position;
        }
        tensors.insert("register_tokens".into(), registers);
    }
    Some(architecture)
}

/// The card of the file in the folder: that of the form in which it is read back.
fn card_of(card: &ModelCard, written: &VitConfig) -> ModelCard {
    let architecture = VitConfig {
        no_embed_class: written.reg_tokens > 0,
        global_pool: GlobalPool::Token,
        ..written.clone()
    };
    let is_same = VitConfig {
        img_size: card.architecture.img_size,
        ..architecture.clone()
    } == card.architecture;
    ModelCard {
        encoder: if is_same {
            card.encoder.clone()
        } else {
            CUSTOM.into()
        },
        architecture,
        classes: None,
        ..card.clone()
    }
}
