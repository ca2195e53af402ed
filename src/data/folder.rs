//! An image folder: its pictures and classes, found by content and in a fixed order.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization as _;

use crate::data::PictureSource;
use crate::data::decode::decode_rgb;
use crate::data::folder_config::FolderConfig;
use crate::data::header::{Header, read_header};
use crate::data::layout::{Parts, labels, list_files};
use crate::data::limits::unusable_size;
use crate::data::summary::{ScanSummary, no_picture};
use crate::data::thumbnails::Thumbnails;
use crate::error::{Error, Result, printable};

impl FolderConfig {
    /// # Errors
    /// A value out of its range; the error names the key, the value and the range.
    pub fn validate(&self) -> Result<()> {
        if let Some(side) = self
            .shorter_side
            .filter(|side| !(1..=1 << 16).contains(side))
        {
            return Err(Error::config(
                "folder.shorter_side",
                side,
                "give 1 to 65536 pixels",
            ));
        }
        if self.cache_mib > 1 << 40 {
            let remedy = "give a whole number up to 2^40";
            return Err(Error::config("folder.cache_mib", self.cache_mib, remedy));
        }
        match (&self.cache, self.shorter_side) {
            (Some(cache), None) => {
                let remedy = "needs folder.shorter_side, the size of the cached images";
                Err(Error::config("folder.cache", cache.display(), remedy))
            }
            _ => Ok(()),
        }
    }
}

/// The usable pictures of a folder, sorted by path.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    root: PathBuf,
    pictures: Vec<Picture>,
    classes: Vec<String>,
    summary: ScanSummary,
    max_pixels: u64,
    thumbnails: Option<Arc<Thumbnails>>,
}

#[derive(Debug, Clone)]
struct Picture {
    /// Relative to the root.
    path: PathBuf,
    label: Option<usize>,
    /// Width and height, or the other way round.
    size: [u32; 2],
}

impl Picture {
    fn is_reduced_by(&self, thumbnails: &Thumbnails) -> bool {
        thumbnails.size(self.size) != self.size
    }
}

/// What one file of the folder is.
enum Found {
    Picture(Header),
    Other,
    Skipped(String),
}

impl ImageFolder {
    /// Finds every picture below `dir`, at any depth, by its content; reads headers only.
    ///
    /// Class is the name of the first-level folder; pictures in `dir` itself have none. Where those folders are the parts of
    /// a data set ([`Parts`]: `train`, `val`, `test`), it is that of the second level. Folders that start with a dot and
    /// those of tools (`@eaDir`, `#recycle`, `__MACOSX`, `lost+found`, ...) are left out and named. Symbolic links are
    /// followed. The order is that of the path, component by component and byte by byte, on every platform.
    ///
    /// # Errors
    /// `dir` is missing or no folder, or no picture in it is usable; the message says what there is instead. A setting out
    /// of its range, or a cache that cannot be made.
    pub fn scan(dir: impl AsRef<Path>, config: &FolderConfig) -> Result<Self> {
        Self::scan_until(dir, config, &AtomicBool::new(false))
    }

    /// [`ImageFolder::scan`], which ends soon after `stop` is raised.
    ///
    /// # Errors
    /// Those of [`ImageFolder::scan`], and [`Error::Stopped`].
    pub fn scan_until(
        dir: impl AsRef<Path>,
        config: &FolderConfig,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let root = dir.as_ref();
        let metadata = fs::metadata(root).map_err(Error::io(root))?;
        if !metadata.is_dir() {
            let reason = "is a file; give the folder that holds the images";
            return Err(Error::data(root, reason));
        }
        config.validate()?;
        let thumbnails = Thumbnails::open(config, root, stop)?;
        let mut summary = ScanSummary {
            parts: Parts::find(root).map_or_else(Vec::new, |parts| parts.names),
            ..ScanSummary::default()
        };
        let files = list_files(root, &mut summary, stop)?;
        let found = inspect_all(root, &files, config, stop)?;
        let mut pictures = Vec::new();
        for (path, found) in files.into_iter().zip(found) {
            match found {
                Found::Picture(header) => {
                    *summary.kinds.entry(kind(header.format)).or_default() += 1;
                    pictures.push(Picture {
                        path,
                        label: None,
                        size: [header.width, header.height],
                    });
                }
                Found::Other => summary.not_pictures += 1,
                Found::Skipped(reason) => summary.skipped.push((root.join(path), reason)),
            }
        }
        summary.skipped.sort();
        let paths = pictures
            .iter()
            .map(|picture: &Picture| picture.path.as_path());
        let (labels, classes) = labels(paths, !summary.parts.is_empty());
        for (picture, label) in pictures.iter_mut().zip(labels) {
            picture.label = label;
        }
        summary.pictures = pictures.len();
        summary.classes.clone_from(&classes);
        summary.unlabeled = pictures.iter().filter(|p| p.label.is_none()).count();
        if pictures.is_empty() {
            return Err(Error::data(root, no_picture(&summary)));
        }
        log::debug!("{} is scanned", printable(root));
        Ok(Self {
            root: root.to_path_buf(),
            pictures,
            classes,
            summary,
            max_pixels: config.max_pixels,
            thumbnails: thumbnails.map(Arc::new),
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What was found.
    pub fn summary(&self) -> &ScanSummary {
        &self.summary
    }

    /// Class names, sorted by their bytes; a label is an index into them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// At most `count` of its pictures, from all over it.
    pub fn sample(&self, count: usize) -> Self {
        let (all, count) = (self.pictures.len(), count.min(self.pictures.len()));
        let places: Vec<usize> = (0..count).map(|at| at * all / count).collect();
        self.part(&places)
    }

    /// The pictures at these places, with the classes of the whole.
    pub fn part(&self, places: &[usize]) -> Self {
        Self {
            root: self.root.clone(),
            pictures: places.iter().map(|at| self.pictures[*at].clone()).collect(),
            classes: self.classes.clone(),
            summary: self.summary.clone(),
            max_pixels: self.max_pixels,
            thumbnails: self.thumbnails.clone(),
        }
    }

    /// Hash of the pictures' names, in order: whether a folder holds the same files as before; their content is not read.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for picture in &self.pictures {
            for part in &picture.path {
                hasher.update(part.as_encoded_bytes()).update(b"\0");
            }
            hasher.update(b"\0");
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Label of every picture, in order.
    pub fn labels(&self) -> Vec<Option<usize>> {
        self.pictures.iter().map(|picture| picture.label).collect()
    }

    /// The same pictures, reduced and kept as those of another folder, whose cache they share with its bound.
    pub fn with_cache_of(self, other: &Self) -> Self {
        Self {
            thumbnails: other.thumbnails.clone(),
            ..self
        }
    }

    /// The same pictures, labeled by the class names of another folder, so that both use the same labels. Names are
    /// the same where Unicode's composed forms are: macOS may write `ä` as two characters, others write one.
    ///
    /// # Errors
    /// A class of this folder is none of `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let mut label_from_own = Vec::with_capacity(self.classes.len());
        for name in &self.classes {
            let label = classes.iter().position(|class| class.nfc().eq(name.nfc()));
            label_from_own.push(label.ok_or_else(|| {
                let reason = format!("its class {name:?} is missing from the other folder");
                Error::data(&self.root, reason)
            })?);
        }
        for picture in &mut self.pictures {
            picture.label = picture.label.map(|own| label_from_own[own]);
        }
        self.classes = classes.to_vec();
        Ok(self)
    }
}

impl PictureSource for ImageFolder {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn name(&self, index: usize) -> PathBuf {
        self.root.join(&self.pictures[index].path)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.pictures[index].label
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        let path = self.name(index);
        let decode = || decode_rgb(&path, self.max_pixels);
        match &self.thumbnails {
            Some(thumbnails) if self.pictures[index].is_reduced_by(thumbnails) => {
                thumbnails.get(&path, decode)
            }
            _ => decode(),
        }
    }
    fn decoded_bytes(&self) -> u64 {
        let bytes = |picture: &Picture| {
            let thumbnails = self.thumbnails.as_deref();
            let [width, height] = thumbnails.map_or(picture.size, |t| t.size(picture.size));
            3 * u64::from(width) * u64::from(height)
        };
        self.pictures.iter().map(bytes).sum()
    }
}

/// What each file is, on all cores.
fn inspect_all(
    root: &Path,
    files: &[PathBuf],
    config: &FolderConfig,
    stop: &AtomicBool,
) -> Result<Vec<Found>> {
    let found = files
        .par_iter()
        .map(|path| match stop.load(Ordering::Relaxed) {
            true => Found::Other,
            false => inspect(&root.join(path), config),
        });
    let found = found.collect();
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped),
        false => Ok(found),
    }
}

fn inspect(path: &Path, config: &FolderConfig) -> Found {
    // a decoder that panics on a damaged file must lose that file only
    let header = catch_unwind(|| read_header(path, config.max_pixels))
        .unwrap_or_else(|_| Err(Error::data(path, "the decoder failed on it")));
    match header {
        Ok(None) => Found::Other,
        Ok(Some(header)) => match unusable_size(header.width, header.height, config.max_pixels) {
            Some(reason) => Found::Skipped(reason),
            None => Found::Picture(header),
        },
        Err(error) => Found::Skipped(reason(&error)),
    }
}

/// The text of an error without its path, which is printed separately.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Data { reason, .. } => reason.clone(),
        Error::Io { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

fn kind(format: ImageFormat) -> String {
    format!("{format:?}").to_lowercase()
}
