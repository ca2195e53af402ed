//! A model as an ONNX file with metadata.

use std::collections::BTreeMap;
use std::path::Path;

use burn_flex::Flex;
use serde_json::{Value, json};

use crate::backbone::VitConfig;
use crate::error::{Error, Result};
use crate::files::model::card::{CARD, ModelCard, Preprocessing};
use crate::files::model::classifier::take_classifier;
use crate::files::model::transformers_config::numbers;
use crate::files::onnx::write_onnx;
use crate::files::state_dict::NamedTensor;
use crate::files::weights::load_backbone;
use crate::random::{Random, Stream};

/// Key of the preprocessing in the file's properties, as JSON.
const PREPROCESSING: &str = "preprocessing";
/// Key of the same in steps that a program can follow, as JSON.
const INPUT: &str = "input";
/// Key of the classes' names, a JSON list in the order of the logits.
const CLASSES: &str = "classes";

/// A backbone, or a classifier, that is to be written as ONNX.
#[derive(Debug, Clone)]
pub struct OnnxModel<'a> {
    /// Where it was read from, for errors.
    pub source: &'a Path,
    /// Shape of the backbone.
    pub architecture: &'a VitConfig,
    /// How an image becomes its input; positions are resampled to its size.
    pub preprocessing: &'a Preprocessing,
    /// Its metadata.
    pub card: Option<&'a ModelCard>,
    /// Weights under timm's names; those of a head are used where the card names classes.
    pub tensors: BTreeMap<String, NamedTensor>,
}

impl OnnxModel<'_> {
    /// Writes the file, see [`write_onnx`]; preprocessing, card and names of classes are among its properties. The card is
    /// without its fingerprint, which ONNX files are not compared by.
    ///
    /// # Errors
    /// [`Error::Weights`] where weights do not fit the shape or the classes, which names the source, and above 2 GB; [`Error::Io`].
    pub fn write(mut self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| {
            value.map_err(|error| Error::io(path)(std::io::Error::other(error)))
        };
        let preprocessing = json(serde_json::to_string(self.preprocessing))?;
        let input = steps(self.preprocessing).to_string();
        let mut metadata = vec![(PREPROCESSING, preprocessing), (INPUT, input)];
        if let Some(card) = self.card {
            let card = ModelCard {
                fingerprint: Vec::new(),
                ..card.clone()
            };
            metadata.push((CARD, json(serde_json::to_string(&card))?));
        }
        let classes = self.card.and_then(|card| card.classes.as_ref());
        let mut head = None;
        if let Some(classes) = classes {
            metadata.push((CLASSES, json(serde_json::to_string(classes))?));
            let classifier = take_classifier(self.source, &mut self.tensors, self.card)?;
            head = Some(classifier.tensors());
        }
        let architecture = VitConfig {
            img_size: self.preprocessing.image_size,
            ..self.architecture.clone()
        };
        let mut random = Random::new(0, 0, 0, Stream::Init);
        let fresh = architecture.init::<Flex>(&mut random, &Default::default())?;
        let model = load_backbone(fresh, self.source, self.tensors)?;
        write_onnx(path, &model, head, &metadata)
    }
}

/// How an image becomes the input `images`, in the order of the steps.
fn steps(preprocessing: &Preprocessing) -> Value {
    let side = preprocessing.image_size;
    let mut steps = json!({
        "color": "RGB",
        "interpolation": preprocessing.interpolation,
        "scale": "divide by 255",
        "mean": numbers(preprocessing.mean),
        "std": numbers(preprocessing.std),
        "layout": "batch, channel, row, column",
    });
    match preprocessing.fit.shorter_side(side) {
        Some(shorter) => {
            steps["resize_shorter_side"] = shorter.into();
            steps["center_crop"] = side.into();
        }
        None => steps["resize_to"] = json!([side, side]),
    }
    if let Some(most) = preprocessing.fit.whole_squares() {
        // in place of the two steps above
        steps["small_squares"] = json!({"largest_side": most, "resize_to": [side, side]});
    }
    if !preprocessing.range.is_auto() {
        // before `scale`
        steps["more_than_8_bits"] = json!({"range": preprocessing.range, "levels": [0, 255]});
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{AugmentConfig, EvalFit, ValueRange};

    #[test]
    fn the_steps_are_those_of_evaluation() {
        let of_run = Preprocessing::from_augment(&AugmentConfig {
            image_size: 32,
            ..AugmentConfig::default()
        });
        let found = steps(&of_run);
        assert_eq!(found["resize_shorter_side"], 36);
        let whole = json!({"largest_side": 96, "resize_to": [32, 32]});
        assert_eq!(found["small_squares"], whole);
        assert_eq!(found["more_than_8_bits"], Value::Null);

        let found = steps(&Preprocessing {
            fit: EvalFit::Stretch,
            range: ValueRange::Between([0.0, 4095.0]),
            ..of_run
        });
        assert_eq!(found["resize_to"], json!([32, 32]));
        assert_eq!(found["small_squares"], Value::Null);
        let levels = json!({"range": [0.0, 4095.0], "levels": [0, 255]});
        assert_eq!(found["more_than_8_bits"], levels);
    }
}
