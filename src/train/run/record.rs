//! What a run was started with, so that it resumes with the same.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{ImageFolder, ImageSource as _};
use crate::error::{Error, Result, if_there, printable};
use crate::files::model::DataCard;
use crate::train::config::RunConfig;
use crate::train::run::image_counts::{ImageCounts, ValidationImages};
use crate::train::run::options::{RunOptions, StartWeights};
use crate::unfinished::write_whole;

/// Its name in the run folder.
pub(super) const NAME: &str = "run.json";

/// What a run was started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of the program that wrote it.
    pub ibot: String,
    /// Name of the backend.
    pub backend: String,
    /// The device that last computed it, in words.
    #[serde(default)]
    pub device: String,
    /// What it trains on: [`RunRequest::data`](crate::train::RunRequest::data).
    #[serde(flatten, with = "data_in_json")]
    pub data: Vec<PathBuf>,
    /// Labeled folder for k-NN evaluation.
    #[serde(with = "val_in_json")]
    pub val: Option<PathBuf>,
    /// Usable images in the image folder.
    // the name in runs of before
    #[serde(alias = "pictures")]
    pub images: usize,
    /// With those held out, by class; not in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<ImageCounts>,
    /// Examples that they are: tiles, where images are cut into these; 0 in records of the first versions.
    #[serde(default)]
    pub examples: usize,
    /// [`crate::data::ImageFolder::fingerprint`].
    pub fingerprint: String,
    /// The images to validate on, if any, those held out too; not in records of the first versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationImages>,
    /// The weights that it started from; not in records of the first versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<StartWeights>,
    /// How it is watched and kept.
    #[serde(default)]
    pub options: RunOptions,
    /// All settings, as TOML.
    pub config: String,
    /// Ranks that trained it last; another number is no other run.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: usize,
    /// Whether a checkpoint was written: distinguishes a run that was killed early from one whose checkpoints were
    /// removed. Records of the first versions lack it, and count as having had one.
    #[serde(default = "yes")]
    pub has_checkpoint: bool,
    /// Why it ended, where a loss or a gradient was not finite; a run that goes on forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The first source is `data` and the others are `more_data`, as in the files of all versions. Paths are text: serde itself refuses those
/// that are not Unicode.
mod data_in_json {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::path_text::{path_of_text, path_text};

    #[derive(Serialize, Deserialize)]
    struct InJson {
        data: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more_data: Vec<String>,
    }

    pub fn serialize<S: Serializer>(data: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        let mut texts = data.iter().map(|path| path_text(path));
        let in_json = InJson {
            data: texts.next().unwrap_or_default(),
            more_data: texts.collect(),
        };
        in_json.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let InJson { data, more_data } = InJson::deserialize(from)?;
        let texts = [data].into_iter().chain(more_data);
        Ok(texts.map(|text| path_of_text(&text)).collect())
    }
}

/// A path as text, likewise.
mod val_in_json {
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::path_text::{path_of_text, path_text};

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(val: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        val.as_deref().map(path_text).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.as_deref().map(path_of_text))
    }
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(ranks: &usize) -> bool {
    *ranks == 1
}

fn yes() -> bool {
    true
}

/// In what a run may differ from the one that it resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedChanges {
    /// In nothing that changes its results.
    Nothing,
    /// In the backend alone.
    Backend,
    /// In settings and images; where its checkpoints are gone, it starts over.
    All,
}

impl RunRecord {
    /// The record of the run in `folder`; none if there is no run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is damaged, [`Error::Io`] if it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        let Some(bytes) = if_there(&path, std::fs::read(&path))? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&bytes);
        record.map(Some).map_err(|error| {
            let reason = format!(
                "is not a run record that this version can read: {error}; restore it from a copy, or start a new run in another folder with `out`"
            );
            Error::checkpoint(&path, reason)
        })
    }

    /// Notes the images that it trains on, and those that it validates on.
    pub(super) fn note_images(&mut self, train: &ImageFolder, val: Option<&ImageFolder>) {
        let of_val = |val: &ImageFolder| ValidationImages {
            images: val.len(),
            fingerprint: val.fingerprint(),
        };
        (self.images, self.fingerprint) = (train.len(), train.fingerprint());
        let held_out = val.filter(|_| self.val.is_none());
        self.found = Some(ImageCounts::of(train, held_out));
        self.validation = Some(val.map(of_val).unwrap_or_default());
    }

    /// The images that it trains on, as model files describe them.
    pub(super) fn data_card(&self) -> DataCard {
        DataCard {
            images: self.images,
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// The fingerprint of the images that evaluations are made on: those to validate on, or else those to train on.
    pub(super) fn evaluated(&self) -> String {
        let val = self.validation.as_ref().filter(|val| val.images > 0);
        val.map_or(&self.fingerprint, |val| &val.fingerprint)
            .clone()
    }

    /// What names its images in a line of text: the first of [`RunRecord::data`].
    pub fn first_data(&self) -> String {
        self.data.first().map(printable).unwrap_or_default()
    }

    /// Writes the record into `folder`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(NAME);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::io(&path)(std::io::Error::other(error)))?;
        write_whole(&path, text.as_bytes())
    }

    /// The settings.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if this version does not know them; `folder` is where the record is.
    pub fn config(&self, folder: &Path) -> Result<RunConfig> {
        RunConfig::default()
            .merged_with_toml(&self.config)
            .map_err(|message| {
                let reason = format!("this version cannot read its settings: {message}");
                Error::checkpoint(folder.join(NAME), reason)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_all_versions() {
        let text = r#"{"ibot":"0","backend":"flex","data":"a","more_data":["b"],"val":null,"pictures":1,"fingerprint":"f","config":""}"#;
        let mut record: RunRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.data, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(record.options, RunOptions::default());
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["data"], serde_json::json!("a"));
        assert_eq!(written["more_data"], serde_json::json!(["b"]));
        record.data.pop();
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["data"], serde_json::json!("a"));
        assert_eq!(written.get("more_data"), None);
    }
}
