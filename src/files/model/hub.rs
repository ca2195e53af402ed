//! Models by their name on the Hugging Face hub.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiError};
use serde::Deserialize;

use crate::backbone::Normalization;
use crate::error::{Error, Result, printable};
use crate::files::model::described::{Described, LocalModel};

/// Files of weights in a repository, the first one that there is.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// timm's description of the model.
const DESCRIPTION: &str = "config.json";
/// How long the hub may take to say what a repository holds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The weights of a repository in the cache, downloaded where they are not there.
///
/// # Errors
/// [`Error::Weights`] for a name that is none, and where the hub does not answer or has no such weights.
pub(super) fn fetch(name: &str) -> Result<LocalModel> {
    let refused = |reason: String| Error::Weights {
        path: format!("hf:{name}").into(),
        reason,
    };
    if !is_repository(name) {
        let reason = "is not a name on the hub: must be hf:OWNER/NAME, such as \
                      hf:timm/vit_small_patch16_224.augreg_in21k";
        return Err(refused(reason.into()));
    }
    if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
        let reason = "there is no home folder for the cache: set HF_HOME to a folder";
        return Err(refused(reason.into()));
    }
    let cache = Cache::from_env();
    let cached = |file: &str| cache.model(name.to_owned()).get(file);
    // the description is downloaded first, where there is one
    if let Some(file) = WEIGHTS.into_iter().find_map(cached) {
        return described(file, cached(DESCRIPTION));
    }
    let (file, description) = download(name).map_err(|reason| {
        let cache = printable(cache.path());
        refused(format!(
            "is not in {cache} and cannot be downloaded: {reason}; check the name and the network, or give a file"
        ))
    })?;
    described(file, description)
}

/// Whether the hub can have a repository of this name: two words of letters, digits, `-`, `_` and `.`.
fn is_repository(name: &str) -> bool {
    let is_word = |word: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !word.is_empty() && !word.starts_with('.') && word.chars().all(fits)
    };
    name.split_once('/')
        .is_some_and(|(owner, name)| is_word(owner) && is_word(name))
}

/// Downloads weights and description into the cache.
fn download(name: &str) -> std::result::Result<(PathBuf, Option<PathBuf>), String> {
    let said = |error: ApiError| error.to_string();
    let api = ApiBuilder::from_env().build().map_err(said)?;
    let repository = api.model(name.to_owned());
    let question = api.model(name.to_owned());
    let held = within(PATIENCE, move || question.info())
        .ok_or_else(|| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(said)?;
    let has = |file: &str| held.siblings.iter().any(|held| held.rfilename == file);
    let Some(weights) = WEIGHTS.into_iter().find(|file| has(file)) else {
        return Err(format!("it has no {}", WEIGHTS.join(" and no ")));
    };
    let get = |file: &str| repository.download(file).map_err(said);
    let description = has(DESCRIPTION).then(|| get(DESCRIPTION)).transpose()?;
    Ok((get(weights)?, description))
}

/// The result of `ask`, unless it takes too long; then it continues in the background, and its result is dropped.
fn within<T: Send + 'static>(
    patience: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("hub".into());
    thread
        .spawn(move || {
            // nobody listens any more after the patience has ended
            let _ = sender.send(ask());
        })
        .ok()?;
    receiver.recv_timeout(patience).ok()
}

fn described(file: PathBuf, description: Option<PathBuf>) -> Result<LocalModel> {
    let description = description
        .map(|path| Description::read(&path))
        .transpose()?;
    let description = description.unwrap_or_default();
    // an old description has its settings on the outside
    let settings = description.pretrained_cfg.unwrap_or(description.outside);
    Ok(LocalModel {
        file,
        described: Described {
            encoder: description.architecture,
            normalization: settings
                .mean
                .zip(settings.std)
                .map(|(mean, std)| Normalization { mean, std }),
        },
    })
}

/// The part of timm's `config.json` that is of interest here.
#[derive(Debug, Default, Deserialize)]
struct Description {
    architecture: Option<String>,
    pretrained_cfg: Option<Settings>,
    #[serde(flatten)]
    outside: Settings,
}

#[derive(Debug, Default, Deserialize)]
struct Settings {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

impl Description {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Weights {
            path: path.to_path_buf(),
            reason: format!("is not the description of a timm model: {error}"),
        })
    }
}
