//! What a run was started with, so that it resumes with the same.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{ImageFolder, ImageSource as _};
use crate::error::{Error, Result, counted, if_there, printable};
use crate::files::model::DataCard;
use crate::train::config::RunConfig;
use crate::train::run::image_counts::{ImageCounts, OTHER_NAMES, ValidationImages};
use crate::train::run::options::{RunOptions, StartWeights};
use crate::train::settings_diff::{Flat, differing, flatten};
use crate::unfinished::write_whole;

const NAME: &str = "run.json";

/// Settings that may differ when a run is resumed, because they change no weight (`health_every` only decides when `on_anomaly`
/// looks).
const FREE: [&str; 7] = [
    "workers",
    "health_every",
    "metrics_every",
    "license",
    "folder.cache",
    "folder.cache_mib",
    "folder.index",
];

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
    /// The weights that it started from.
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

/// What [`SettingChange`] calls the backend.
const BACKEND: &str = "backend";

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    key: String,
    before: String,
    now: String,
}

impl SettingChange {
    /// Whether it is that of the backend.
    pub fn is_backend(&self) -> bool {
        self.key == BACKEND
    }
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.before, self.now)
    }
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

    /// The settings that differ from those of the run `before` and change its results.
    ///
    /// # Errors
    /// As [`RunRecord::config`].
    pub fn setting_changes(&self, before: &Self, folder: &Path) -> Result<Vec<SettingChange>> {
        // both with all defaults, so that a key which only one file spells out is not a change
        let entries = |record: &Self| -> Result<Flat> {
            let config = record.config(folder)?.to_toml()?;
            let table = toml::from_str(&config)
                .map_err(|error| Error::checkpoint(folder.join(NAME), error.to_string()))?;
            let mut entries = flatten(&table);
            entries.retain(|key, _| !FREE.contains(&key.as_str()));
            Ok(entries)
        };
        let changes = differing(&entries(before)?, &entries(self)?).into_iter();
        let backends = [&before.backend, &self.backend].map(String::clone);
        let backend = (backends[0] != backends[1]).then(|| (BACKEND.to_owned(), backends));
        let weights = before.pretrained.as_ref().zip(self.pretrained.as_ref());
        let weights = weights.filter(|(before, now)| !now.is_same(before));
        let weights = weights.map(|(before, now)| {
            let both = [before, now].map(ToString::to_string);
            ("pretrained".to_owned(), both)
        });
        let changes = changes.chain(backend).chain(weights);
        let changes = changes.map(|(key, [before, now])| SettingChange { key, before, now });
        Ok(changes.collect())
    }

    /// Which images differ from those of the run `before`.
    pub fn image_changes(&self, before: &Self) -> Vec<SettingChange> {
        let has_other_val = self.has_other_validation(before);
        // images that are held out are of `data` too
        let has_other_held_out = has_other_val && self.val.is_none() && before.val.is_none();
        let has_other_data = has_other_held_out || before.fingerprint != self.fingerprint;
        let train = has_other_data.then(|| {
            let [before, now] = match (&before.found, &self.found) {
                (Some(before), Some(now)) => now.in_words(before),
                _ => [before, self].map(|record| counted(record.images, "image")),
            };
            SettingChange {
                key: format!("names of the images in {}", self.first_data()),
                before,
                now,
            }
        });
        let val = has_other_val.then(|| {
            let [before, mut now] = [before, self].map(Self::described_validation);
            if before == now {
                now += OTHER_NAMES;
            }
            let key = "images to validate on".to_owned();
            SettingChange { key, before, now }
        });
        train.into_iter().chain(val).collect()
    }

    /// Whether it validates on other images than the run `before`, as far as the records say.
    fn has_other_validation(&self, before: &Self) -> bool {
        match (&self.validation, &before.validation) {
            (Some(now), Some(before)) => now.fingerprint != before.fingerprint,
            _ => self.val.is_some() != before.val.is_some(),
        }
    }

    fn described_validation(&self) -> String {
        match (&self.validation, &self.val) {
            (Some(ValidationImages { images: 0, .. }), _) | (None, None) => "none".to_owned(),
            (Some(of), Some(val)) => format!("{} images in {}", of.images, printable(val)),
            (Some(of), None) => format!("{} held out", of.images),
            (None, Some(val)) => printable(val),
        }
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

    #[test]
    fn changes_are_named_and_speed_is_none() {
        let record = |config: &str| RunRecord {
            ibot: "0".into(),
            backend: "flex".into(),
            device: "a CPU".into(),
            data: vec!["photos".into()],
            val: None,
            images: 10,
            found: None,
            examples: 10,
            fingerprint: "a".into(),
            validation: Some(ValidationImages::default()),
            pretrained: None,
            options: RunOptions::default(),
            config: config.into(),
            ranks: 1,
            has_checkpoint: true,
            failure: None,
        };
        let folder = Path::new("run");
        let before = record("workers = 1\n[method]\nn_cls_prototypes = 8\n");
        let mut now =
            record("workers = 4\n[method]\nn_cls_prototypes = 8\npatch_loss_weight = 1.0\n");
        assert_eq!(now.setting_changes(&before, folder).unwrap(), []);
        assert_eq!(now.image_changes(&before), []);
        now.config = "steps = 9\n[folder]\nshorter_side = 448\ncache = \"x\"\n[method]\nn_cls_prototypes = 9\n".into();
        now.backend = "wgpu".into();
        (now.images, now.fingerprint) = (11, "b".into());
        let mut changes = now.setting_changes(&before, folder).unwrap();
        now.validation = Some(ValidationImages {
            images: 4,
            fingerprint: "v".into(),
        });
        changes.extend(now.image_changes(&before));
        let said: Vec<String> = changes.iter().map(SettingChange::to_string).collect();
        assert_eq!(
            said,
            [
                "folder.shorter_side: absent -> 448",
                "method.n_cls_prototypes: 8 -> 9",
                "steps: absent -> 9",
                "backend: flex -> wgpu",
                "names of the images in photos: 10 images -> 11 images",
                "images to validate on: none -> 4 held out",
            ]
        );
    }
}
