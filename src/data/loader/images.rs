//! The images of a source for the workers: reports each unusable one once, and keeps a small set in memory.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use image::RgbImage;

use crate::data::ImageSource;
use crate::data::folder::reason;
use crate::data::storage::stored::check_server;
use crate::error::{Error, Result, printable};
use crate::lock::lock;

pub(in crate::data) struct Images {
    source: Arc<dyn ImageSource>,
    /// One place for every image; None where they are too many.
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

impl Images {
    /// Keeps decoded images in memory if all of them take at most `cache_bytes`.
    pub fn new(source: Arc<dyn ImageSource>, cache_bytes: u64) -> Self {
        let count = source.len();
        let is_small = source.decoded_bytes() <= cache_bytes;
        Self {
            cache: is_small.then(|| (0..count).map(|_| OnceLock::new()).collect()),
            unusable: RwLock::default(),
            log: Mutex::default(),
            source,
        }
    }

    pub fn source(&self) -> &dyn ImageSource {
        &*self.source
    }

    /// Bytes of image `index` while it is decoded. None where images are kept, which have a bound of their own.
    pub fn decoding_bytes(&self, index: usize) -> usize {
        match self.cache {
            Some(_) => 0,
            None => usize::try_from(self.source.image_bytes(index)).unwrap_or(usize::MAX),
        }
    }

    /// Image `index`; None if it cannot be read.
    ///
    /// # Errors
    /// The server of the images fails.
    pub fn get(&self, index: usize) -> Result<Option<Arc<RgbImage>>> {
        let place = self.cache.as_ref().map(|cache| &cache[index]);
        if let Some(image) = place.and_then(OnceLock::get) {
            return Ok(Some(image.clone()));
        }
        let unusable = self.unusable.read().unwrap_or_else(PoisonError::into_inner);
        if unusable.contains(&index) {
            return Ok(None);
        }
        drop(unusable);
        let decoded = self.source.decode(index).and_then(|image| {
            if image.is_empty() {
                return Err(Error::data(self.source.name(index), "it has no pixels"));
            }
            Ok(Arc::new(image))
        });
        match decoded {
            Ok(image) => {
                if let Some(place) = place {
                    // another worker may have stored the same image first
                    let _ = place.set(image.clone());
                }
                Ok(Some(image))
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

    /// Image `index` or, if it cannot be read, the next one that can, wrapping around at the end; and its index.
    pub fn get_or_next(&self, index: usize) -> Result<(usize, Arc<RgbImage>)> {
        let count = self.source.len();
        (index..count)
            .chain(0..index.min(count))
            .find_map(|index| {
                let image = self.get(index).transpose()?;
                Some(image.map(|image| (index, image)))
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

    /// The images that could not be read, and why, since the last call.
    pub fn take_skipped(&self) -> Vec<(PathBuf, String)> {
        let mut log = lock(&self.log);
        std::mem::take(&mut log.fresh)
    }
}

/// The error of images of which none could be decoded; `first` is one, and why.
pub(crate) fn none_usable(images: usize, first: Option<&(PathBuf, String)>) -> Error {
    let first = first.map(|(path, reason)| format!("; the first: {}: {reason}", printable(path)));
    Error::Loader(format!(
        "none of the {images} images could be decoded{}",
        first.unwrap_or_default()
    ))
}
