//! Models by their name on the Hugging Face hub.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiError};

use crate::error::{Error, Result, printable};
use crate::files::model::described::LocalModel;
use crate::files::model::description::{CONFIG, PREPROCESSOR, WEIGHTS, read_description};
use crate::files::sharded::{files_of_index, parts_of};

/// What the description is called in messages.
const SOURCE: &str = "the hub's config.json";
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
    // descriptions are downloaded first, where there are some; a model in several files is there once all of them are
    let is_whole = |file: &PathBuf| parts_of(file).is_ok();
    if let Some(file) = (WEIGHTS.into_iter()).find_map(|name| cached(name).filter(is_whole)) {
        return described(file, [CONFIG, PREPROCESSOR].map(cached));
    }
    let (file, descriptions) = download(name).map_err(|reason| {
        let cache = printable(cache.path());
        refused(format!(
            "is not in {cache} and cannot be downloaded: {reason}; check the name and the network, or give a file"
        ))
    })?;
    described(file, descriptions)
}

fn described(file: PathBuf, [config, preprocessor]: [Option<PathBuf>; 2]) -> Result<LocalModel> {
    let described = config.map(|config| read_description(&config, preprocessor.as_deref(), SOURCE));
    Ok(LocalModel {
        file,
        described: described.transpose()?.unwrap_or_default(),
    })
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

/// Downloads weights, all parts of them, and descriptions into the cache.
fn download(name: &str) -> std::result::Result<(PathBuf, [Option<PathBuf>; 2]), String> {
    let said = |error: ApiError| error.to_string();
    let api = ApiBuilder::from_env().build().map_err(said)?;
    let repository = api.model(name.to_owned());
    let question = api.model(name.to_owned());
    let held = within(PATIENCE, move || question.info())
        .ok_or_else(|| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(said)?;
    let has = |file: &str| held.siblings.iter().any(|held| held.rfilename == file);
    let Some(weights) = WEIGHTS.into_iter().find(|file| has(file)) else {
        return Err(
            "it has no model.safetensors and no pytorch_model.bin, whole or in parts".into(),
        );
    };
    let get = |file: &str| repository.download(file).map_err(said);
    let described = |file: &str| has(file).then(|| get(file)).transpose();
    let descriptions = [described(CONFIG)?, described(PREPROCESSOR)?];
    let weights = get(weights)?;
    let parts = files_of_index(&weights).map_err(|error| error.to_string())?;
    for part in parts.unwrap_or_default().into_keys() {
        get(&part)?;
    }
    Ok((weights, descriptions))
}

/// The result of `ask`, unless it takes too long; then it continues in the background, and its result is dropped.
fn within<T: Send + 'static>(
    timeout: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("hub".into());
    thread
        .spawn(move || {
            // nobody listens any more after the timeout
            let _ = sender.send(ask());
        })
        .ok()?;
    receiver.recv_timeout(timeout).ok()
}
