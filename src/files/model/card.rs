//! The metadata of a model file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backbone::{Normalization, VitConfig};
use crate::data::views::augment::Interpolation;
use crate::data::{AugmentConfig, EvalFit, ValueRange};
use crate::error::{Error, Result};
use crate::files::header::read_metadata;

/// Key of the card in the metadata of a file.
pub(super) const CARD: &str = "ibot";

/// Encoder of a shape that has no timm name.
pub(crate) const CUSTOM: &str = "custom";

/// Number of this description; a reader refuses a newer one.
pub const CARD_FORMAT: u32 = 1;

/// How an image becomes the backbone's input: the part that `fit` says is resized to the input's size, values are scaled to
/// 0..1 and normalized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Which part of the image is its input; a file without this key has the default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fit: EvalFit,
    /// Which values of images with more than 8 bits become black and white; a file without this key does not know.
    #[serde(default, skip_serializing_if = "ValueRange::is_auto")]
    pub range: ValueRange,
    /// Filter of the resizing.
    pub interpolation: Interpolation,
    /// Subtracted from red, green and blue.
    pub mean: [f32; 3],
    /// What red, green and blue are then divided by.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// That of a training run, whose range of values is not known.
    pub fn from_augment(augment: &AugmentConfig) -> Self {
        Self {
            image_size: augment.image_size,
            fit: augment.eval_fit,
            range: ValueRange::Auto,
            interpolation: augment.interpolation,
            mean: augment.mean,
            std: augment.std,
        }
    }

    /// Mean and deviation.
    pub fn normalization(&self) -> Normalization {
        Normalization {
            mean: self.mean,
            std: self.std,
        }
    }

    /// The same for another input size, in pixels.
    pub fn at(&self, image_size: usize) -> Self {
        Self {
            image_size,
            fit: self.fit.at(self.image_size, image_size),
            ..self.clone()
        }
    }

    /// As settings of the evaluation view.
    pub fn augment(&self) -> AugmentConfig {
        AugmentConfig {
            image_size: self.image_size,
            eval_fit: self.fit,
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            ..AugmentConfig::default()
        }
    }
}

fn is_default(fit: &EvalFit) -> bool {
    *fit == EvalFit::default()
}

/// The images that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCard {
    /// How many there were.
    // the name in files of before
    #[serde(alias = "pictures")]
    pub images: usize,
    /// [`crate::data::ImageFolder::fingerprint`].
    pub fingerprint: String,
}

/// Description of a model, in the metadata of its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// [`CARD_FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Version of the program that wrote it.
    pub ibot: String,
    /// timm name of the backbone; `custom` for one of its own shape.
    pub encoder: String,
    /// `teacher`, `student` or `classifier`.
    pub network: String,
    /// Shape of the backbone.
    pub architecture: VitConfig,
    /// Its preprocessing.
    pub preprocessing: Preprocessing,
    /// Number of weights.
    pub parameters: usize,
    /// Steps of training.
    pub step: usize,
    /// What it was trained on; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataCard>,
    /// License of the weights, as the run's settings name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(alias = "licence")]
    pub license: Option<String>,
    /// Names of the classes that its `head` tells apart, in the head's order; none for a backbone alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// Features of the built-in images on the device that wrote the file, `[8, D]`.
    pub fingerprint: Vec<f32>,
}

/// The metadata of a model file; none for a file of another program.
///
/// # Errors
/// [`Error::Weights`] if its metadata is damaged, or of a newer program.
pub fn read_card(path: &Path) -> Result<Option<ModelCard>> {
    let refused = |reason: String| Error::Weights {
        path: path.to_path_buf(),
        reason,
    };
    // other kinds of files have no metadata; reading their weights shows whether they can be used
    let metadata = read_metadata(path).unwrap_or_default();
    let Some(text) = metadata.get(CARD) else {
        return Ok(None);
    };
    let card: ModelCard = serde_json::from_str(text)
        .map_err(|error| refused(format!("its metadata is damaged: {error}")))?;
    if card.format > CARD_FORMAT {
        let reason = format!(
            "its metadata has format {}, this program reads up to {CARD_FORMAT}",
            card.format
        );
        return Err(refused(reason));
    }
    // numbers that make no transformer would be divided by
    let (side, patch) = (card.preprocessing.image_size, card.architecture.patch_size);
    card.architecture
        .validate()
        .map_err(|error| refused(format!("its metadata is damaged: {error}")))?;
    if side == 0 || !side.is_multiple_of(patch) {
        let reason =
            format!("its metadata is damaged: image_size = {side} is no multiple of {patch}");
        return Err(refused(reason));
    }
    Ok(Some(card))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_before_count_their_images_as_pictures() {
        let read = |key: &str| {
            let text = format!(r#"{{"{key}":3,"fingerprint":"f"}}"#);
            serde_json::from_str::<DataCard>(&text).ok()
        };
        let expected = DataCard {
            images: 3,
            fingerprint: "f".into(),
        };
        assert_eq!(read("images"), Some(expected));
        assert_eq!(read("pictures"), read("images"));
        assert_eq!(read("photos"), None);
    }
}
