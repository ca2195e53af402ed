//! Model files, read and written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::backend::Backend;

use super::{CARD, CARD_FORMAT, ModelCard, Preprocessing};
use crate::backbone::{VisionTransformer, VitConfig, vit_from_name};
use crate::data::AugmentConfig;
use crate::error::{Error, Result};
use crate::random::Random;
use crate::weights::{
    NamedTensor, load_state_dict, read_backbone, read_metadata, write_safetensors_with,
};

/// What a file that does not describe itself is to be read as, and what to change of one that does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelOptions {
    /// timm name of the backbone, for a file without a card.
    pub encoder: Option<String>,
    /// Side of the square input in pixels; positions are resampled to it.
    pub image_size: Option<usize>,
    /// Mean and deviation of red, green and blue, for a file without a card; ImageNet's where absent.
    pub normalization: Option<[[f32; 3]; 2]>,
}

/// A model file on the host.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// What it says of itself; none for a file of another program.
    pub card: Option<ModelCard>,
    /// Shape of the backbone.
    pub architecture: VitConfig,
    /// How a picture becomes its input, `image_size` of the options included.
    pub preprocessing: Preprocessing,
    /// Weights under timm's names.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// BLAKE3 of the file.
    pub hash: String,
}

impl LoadedModel {
    /// The backbone on a device, with the weights, which leave `tensors`; `path` is the file's.
    ///
    /// # Errors
    /// [`Error::Weights`] that names what does not fit the architecture; [`Error::Config`] for an architecture that cannot
    /// be.
    pub fn backbone<B: Backend>(
        &mut self,
        path: &Path,
        device: &B::Device,
    ) -> Result<VisionTransformer<B>> {
        let fresh = self.architecture.init::<B>(&mut Random::blank(), device)?;
        let (backbone, mut report) = load_state_dict(fresh, std::mem::take(&mut self.tensors));
        report.ignore_classifier();
        if report.is_clean() {
            return Ok(backbone);
        }
        Err(Error::Weights {
            path: path.to_path_buf(),
            reason: format!("the file does not fit its architecture: {report}"),
        })
    }
}

/// Reads a model file.
///
/// # Errors
/// [`Error::Io`] and [`Error::Weights`] where it cannot be read or was written by a newer program; [`Error::Config`] where
/// it does not say what it is and the options do not either.
pub fn read_model(path: &Path, options: &ModelOptions) -> Result<LoadedModel> {
    let weights_error = |reason: String| Error::Weights {
        path: path.to_path_buf(),
        reason,
    };
    std::fs::File::open(path).map_err(Error::io(path))?;
    // another kind of file has no metadata, and says below whether it can be read
    let metadata = read_metadata(path).unwrap_or_default();
    let card = match metadata.get(CARD) {
        Some(text) => {
            let card: ModelCard = serde_json::from_str(text)
                .map_err(|error| weights_error(format!("its description is damaged: {error}")))?;
            if card.format > CARD_FORMAT {
                let reason = format!(
                    "its description has format {}, this program reads up to {CARD_FORMAT}",
                    card.format
                );
                return Err(weights_error(reason));
            }
            Some(card)
        }
        None => None,
    };
    let (architecture, mut preprocessing) = match (&card, &options.encoder) {
        (Some(card), _) => (card.architecture.clone(), card.preprocessing.clone()),
        (None, Some(encoder)) => {
            let size = options
                .image_size
                .unwrap_or(AugmentConfig::default().image_size);
            let shape = vit_from_name(encoder, size)?;
            let default = AugmentConfig::default();
            let [mean, std] = options.normalization.unwrap_or([default.mean, default.std]);
            let augment = AugmentConfig {
                image_size: shape.img_size,
                mean,
                std,
                ..default
            };
            (shape, Preprocessing::of(&augment))
        }
        (None, None) => {
            let remedy = format!(
                "is needed: {} does not say what it is, such as --encoder vit_small_patch16_224",
                path.display()
            );
            return Err(Error::config("--encoder", "absent", remedy));
        }
    };
    if let Some(size) = options.image_size {
        if size == 0 || !size.is_multiple_of(architecture.patch_size) {
            let remedy = format!(
                "must be a multiple of the patch size {}",
                architecture.patch_size
            );
            return Err(Error::config("--image-size", size, remedy));
        }
        preprocessing.image_size = size;
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(std::fs::File::open(path).map_err(Error::io(path))?)
        .map_err(Error::io(path))?;
    Ok(LoadedModel {
        card,
        preprocessing,
        tensors: read_backbone(
            path,
            architecture.prefix_positions(),
            [architecture.side(); 2],
        )?,
        architecture,
        hash: hasher.finalize().to_hex().to_string(),
    })
}

/// Writes a model file, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_model(
    path: &Path,
    card: &ModelCard,
    tensors: &BTreeMap<String, NamedTensor>,
) -> Result<()> {
    let card = serde_json::to_string(card)
        .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    let metadata = BTreeMap::from([
        (CARD.to_owned(), card),
        ("format".to_owned(), "pt".to_owned()),
    ]);
    write_safetensors_with(path, tensors, &metadata)
}
