//! The pictures of a source for the workers: reports each unusable one once, and keeps a small set in memory.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use image::RgbImage;

use crate::data::PictureSource;
use crate::data::folder::reason;
use crate::data::stored::check_server;
use crate::error::{Error, Result, printable};
use crate::lock::lock;

pub(super) struct Pictures {
    source: Arc<dyn PictureSource>,
    /// One place for every picture; None where they are too many.
    cache: Option<Vec<OnceLock<Arc<RgbImage>>>>,
    /// Those that could not be read: few of many.
    unusable: RwLock<HashSet<usize>>,
    log: Mutex<SkipLog>,
}

#[derive(Default)]
struct SkipLog {
    names: HashSet<PathBuf>,
    /// The first failure, for the error if none is left; `fresh` may have been taken by then.
    first: Option<(PathBuf, String)>,
    fresh: Vec<(PathBuf, String)>,
}

impl Pictures {
    /// Keeps decoded pictures in memory if all of them take at most `cache_bytes`.
    pub fn new(source: Arc<dyn PictureSource>, cache_bytes: u64) -> Self {
        let count = source.len();
        let is_small = source.decoded_bytes() <= cache_bytes;
        Self {
            cache: is_small.then(|| (0..count).map(|_| OnceLock::new()).collect()),
            unusable: RwLock::default(),
            log: Mutex::default(),
            source,
        }
    }

    pub fn source(&self) -> &dyn PictureSource {
        &*self.source
    }

    /// Bytes of picture `index` while it is decoded. None where pictures are kept, which have a bound of their own.
    pub fn decoding_bytes(&self, index: usize) -> usize {
        match self.cache {
            Some(_) => 0,
            None => usize::try_from(self.source.picture_bytes(index)).unwrap_or(usize::MAX),
        }
    }

    /// Picture `index`; None if it cannot be read.
    ///
    /// # Errors
    /// The server of the pictures fails.
    pub fn get(&self, index: usize) -> Result<Option<Arc<RgbImage>>> {
        let place = self.cache.as_ref().map(|cache| &cache[index]);
        if let Some(picture) = place.and_then(OnceLock::get) {
            return Ok(Some(picture.clone()));
        }
        let unusable = self.unusable.read().unwrap_or_else(PoisonError::into_inner);
        if unusable.contains(&index) {
            return Ok(None);
        }
        drop(unusable);
        let decoded = self.source.decode(index).and_then(|picture| {
            if picture.is_empty() {
                return Err(Error::data(self.source.name(index), "it has no pixels"));
            }
            Ok(Arc::new(picture))
        });
        match decoded {
            Ok(picture) => {
                if let Some(place) = place {
                    // another worker may have stored the same picture first
                    let _ = place.set(picture.clone());
                }
                Ok(Some(picture))
            }
            Err(error) => {
                let name = self.source.name(index);
                check_server(&name)?;
                let unusable = self.unusable.write();
                if unusable
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(index)
                {
                    let mut log = lock(&self.log);
                    let skipped = (name, reason(&error));
                    // once for all tiles of a file
                    if log.names.insert(skipped.0.clone()) {
                        log.first.get_or_insert_with(|| skipped.clone());
                        log.fresh.push(skipped);
                    }
                }
                Ok(None)
            }
        }
    }

    /// Picture `index` or, if it cannot be read, the next one that can, wrapping around at the end; and its index.
    pub fn get_or_next(&self, index: usize) -> Result<(usize, Arc<RgbImage>)> {
        let count = self.source.len();
        (index..count)
            .chain(0..index.min(count))
            .find_map(|index| {
                let picture = self.get(index).transpose()?;
                Some(picture.map(|picture| (index, picture)))
            })
            .unwrap_or_else(|| Err(self.none_usable()))
    }

    pub fn none_usable(&self) -> Error {
        let log = lock(&self.log);
        none_usable(self.source.len(), log.first.as_ref())
    }

    /// How many files could not be read so far.
    pub fn skipped(&self) -> usize {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .names
            .len()
    }

    /// The pictures that could not be read, and why, since the last call.
    pub fn take_skipped(&self) -> Vec<(PathBuf, String)> {
        let mut log = lock(&self.log);
        std::mem::take(&mut log.fresh)
    }
}

/// The error of pictures of which none could be decoded; `first` is one, and why.
pub(crate) fn none_usable(pictures: usize, first: Option<&(PathBuf, String)>) -> Error {
    let first = first.map(|(path, reason)| format!("; the first: {}: {reason}", printable(path)));
    Error::Loader(format!(
        "none of the {pictures} images could be decoded{}",
        first.unwrap_or_default()
    ))
}
