//! A model as an ONNX file with metadata.

use std::collections::BTreeMap;
use std::path::Path;

use burn_flex::Flex;

use crate::backbone::VitConfig;
use crate::error::{Error, Result};
use crate::files::model::card::{CARD, ModelCard, Preprocessing};
use crate::files::onnx::write_onnx;
use crate::files::state_dict::NamedTensor;
use crate::files::weights::load_backbone;
use crate::random::{Random, Stream};

/// Key of the preprocessing in the file's properties, as JSON.
const PREPROCESSING: &str = "preprocessing";

/// A backbone that is to be written as ONNX.
#[derive(Debug, Clone)]
pub struct OnnxModel<'a> {
    /// Shape of the backbone.
    pub architecture: &'a VitConfig,
    /// How a picture becomes its input; positions are resampled to its size.
    pub preprocessing: &'a Preprocessing,
    /// Its metadata.
    pub card: Option<&'a ModelCard>,
    /// Weights under timm's names.
    pub tensors: BTreeMap<String, NamedTensor>,
}

impl OnnxModel<'_> {
    /// Writes the file, see [`write_onnx`]; preprocessing and card are among its properties.
    ///
    /// # Errors
    /// [`Error::Weights`] where weights do not fit the shape, and above 2 GB; [`Error::Io`].
    pub fn write(self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| Error::io(path)(std::io::Error::other(error)))
        };
        let preprocessing = json(serde_json::to_string(self.preprocessing))?;
        let mut metadata = vec![(PREPROCESSING, preprocessing)];
        if let Some(card) = self.card {
            metadata.push((CARD, json(serde_json::to_string(card))?));
        }
        let architecture = VitConfig {
            img_size: self.preprocessing.image_size,
            ..self.architecture.clone()
        };
        let mut random = Random::new(0, 0, 0, Stream::Init);
        let fresh = architecture.init::<Flex>(&mut random, &Default::default())?;
        let model = load_backbone(fresh, path, self.tensors)?;
        write_onnx(path, &model, &metadata)
    }
}
