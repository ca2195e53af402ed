//! Images that a result is not about, and why: noted while a command works, and part of its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ibot::data::LeftOut;
use ibot::error::counted;
use ibot::path_text::path_text;
use serde::Serialize;

/// All of them so far; clones share it.
#[derive(Debug, Clone, Default)]
pub struct LeftOutLog(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    skipped: BTreeMap<PathBuf, String>,
    changed: BTreeSet<PathBuf>,
    gone: BTreeSet<PathBuf>,
}

/// A result with the images that it is not about.
#[derive(Debug, Serialize)]
pub struct Answer<'a, T> {
    #[serde(flatten)]
    result: &'a T,
    /// Files that are not used, each with the reason.
    skipped: Vec<LeftOut>,
    /// Images with stored features that are not those of the file that is there now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<String>,
    /// Images with stored features that are no longer there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<String>,
}

impl LeftOutLog {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds files that cannot be used.
    pub fn skip<'a>(&self, skipped: impl IntoIterator<Item = &'a (PathBuf, String)>) {
        let skipped = skipped.into_iter().cloned();
        self.known().skipped.extend(skipped);
    }

    /// Adds images that stored features are not of, as they changed or are gone.
    pub fn stale(&self, changed: Vec<PathBuf>, gone: Vec<PathBuf>) {
        let mut known = self.known();
        known.changed.extend(changed);
        known.gone.extend(gone);
    }

    /// Whether images with stored features are gone.
    pub fn are_some_gone(&self) -> bool {
        !self.known().gone.is_empty()
    }

    /// A result with all of them.
    pub fn answer<'a, T>(&self, result: &'a T) -> Answer<'a, T> {
        let known = self.known();
        let texts = |paths: &BTreeSet<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path_text(path)).collect()
        };
        let skipped = known.skipped.iter().map(|(path, reason)| LeftOut {
            path: path_text(path),
            reason: reason.clone(),
        });
        Answer {
            result,
            skipped: skipped.collect(),
            changed: texts(&known.changed),
            gone: texts(&known.gone),
        }
    }

    /// How many there are, in words; none where nothing is left out.
    pub fn count(&self) -> Option<String> {
        let known = self.known();
        let count = known.skipped.len() + known.changed.len() + known.gone.len();
        (count > 0).then(|| counted(count, "file"))
    }
}
