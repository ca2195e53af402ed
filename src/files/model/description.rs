//! `config.json` and `preprocessor_config.json` beside weights: of timm, and of transformers.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::header::weights_error;
use crate::files::model::described::{Described, LocalModel};
use crate::files::model::timm_config::TimmConfig;
use crate::files::model::transformers_config::{PreprocessorConfig, TransformersConfig};

/// timm's or transformers' description of a model.
pub(super) const CONFIG: &str = "config.json";
/// transformers' description of how images are prepared.
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
/// Files of weights beside them, the first one that there is.
pub(super) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Whether a folder holds a model as timm and transformers write it: `config.json`, and weights beside it.
#[must_use]
pub fn holds_model(folder: &Path) -> bool {
    files_in(folder).is_some()
}

/// The `config.json` of such a folder, and its weights.
fn files_in(folder: &Path) -> Option<[PathBuf; 2]> {
    let there = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    Some([there(CONFIG)?, WEIGHTS.into_iter().find_map(there)?])
}

/// The weights in a folder with a `config.json`, and what that says; none for any other folder.
///
/// # Errors
/// As [`read_description`].
pub(super) fn described_folder(folder: &Path) -> Result<Option<LocalModel>> {
    let Some([config, file]) = files_in(folder) else {
        return Ok(None);
    };
    let preprocessor = Some(folder.join(PREPROCESSOR)).filter(|path| path.is_file());
    let described = read_description(&config, preprocessor.as_deref(), CONFIG)?;
    Ok(Some(LocalModel { file, described }))
}

/// What these two files say; `config_source` is what to call the first one.
///
/// # Errors
/// [`Error::Weights`] where they are no descriptions, or of a model that is not supported; [`Error::Io`].
pub(super) fn read_description(
    config: &Path,
    preprocessor: Option<&Path>,
    config_source: &str,
) -> Result<Described> {
    let json: Value = read_json(config)?;
    // timm's has its own settings, also where transformers wraps it
    let is_transformers = json.get("model_type").is_some() && json.get("pretrained_cfg").is_none();
    let refused = |reason: String| weights_error(config, reason);
    if !is_transformers {
        let timm: TimmConfig = typed(config, json)?;
        return timm.described(config_source).map_err(refused);
    }
    let model: TransformersConfig = typed(config, json)?;
    let architecture = model.architecture().map_err(refused)?;
    let (given, source) = match preprocessor {
        Some(path) => (read_json(path)?, format!("from {PREPROCESSOR}")),
        None => {
            let source = format!("transformers' default for {}", model.model_type());
            (PreprocessorConfig::default(), source)
        }
    };
    let preprocessing = given.preprocessing(&model);
    let preprocessing =
        preprocessing.map_err(|reason| weights_error(preprocessor.unwrap_or(config), reason))?;
    Ok(Described {
        encoder: TransformersConfig::encoder(&architecture),
        architecture: Some(architecture),
        normalization: Some(preprocessing.normalization()),
        preprocessing: Some(preprocessing),
        refused: None,
        source,
    })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| misread(path, &error))
}

fn typed<T: DeserializeOwned>(path: &Path, json: Value) -> Result<T> {
    serde_json::from_value(json).map_err(|error| misread(path, &error))
}

fn misread(path: &Path, error: &serde_json::Error) -> Error {
    weights_error(
        path,
        format!("is not the description of a timm or transformers model: {error}"),
    )
}
