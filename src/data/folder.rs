//! An image folder: which pictures it holds and which classes, found by content and in an order of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::PictureSource;
use super::decode::{decode_rgb, unusable_size};
use super::header::{Header, read_header};
use super::summary::{ScanSummary, no_picture};
use super::thumbnails::Thumbnails;
use crate::error::{Error, Result, printable};

/// How a folder is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// Pictures with more pixels are skipped; default 100 million.
    pub max_pixels: u64,
    /// Pictures whose shorter side has more pixels are reduced to so many before anything else; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
    /// Folder that keeps reduced pictures, so that each is decoded once and not in each epoch; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Most MiB that the cache may take; default 16 GiB.
    pub cache_mib: u64,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            shorter_side: None,
            cache: None,
            cache_mib: 16 << 10,
        }
    }
}

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
                let remedy = "needs folder.shorter_side: it keeps reduced pictures";
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
    /// Class is the name of the first-level folder; pictures in `dir` itself have none. Symbolic links are followed.
    /// The order is that of the path, component by component and byte by byte, on every platform.
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
            let reason = "is a file; give the folder that holds the pictures";
            return Err(Error::data(root, reason));
        }
        config.validate()?;
        let thumbnails = Thumbnails::open(config, root, stop)?;
        let mut summary = ScanSummary::default();
        let files = list_files(root, &mut summary, stop)?;
        let found: Vec<Found> = files
            .par_iter()
            .map(|path| match stop.load(Ordering::Relaxed) {
                true => Found::Other,
                false => inspect(&root.join(path), config),
            })
            .collect();
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
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
        let classes = label(&mut pictures);
        summary.pictures = pictures.len();
        summary.classes = classes.len();
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

    /// The same pictures, labeled by the class names of another folder, so that labels of both mean the same.
    ///
    /// # Errors
    /// A class of this folder is none of `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let mut label_from_own = Vec::with_capacity(self.classes.len());
        for name in &self.classes {
            let label = classes.iter().position(|class| class == name);
            label_from_own.push(label.ok_or_else(|| {
                let reason = format!("its class {name:?} is not in the other folder");
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

/// Every file below `root`, relative to it and sorted; what cannot be listed goes to the summary.
fn list_files(root: &Path, summary: &mut ScanSummary, stop: &AtomicBool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root).follow_links(true) {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
                files.push(path.to_path_buf());
            }
            Ok(entry) if entry.file_type().is_dir() => {}
            // A pipe or socket: reading it could wait for ever.
            Ok(_) => summary.not_pictures += 1,
            Err(error) => {
                let path = error.path().unwrap_or(root).to_path_buf();
                let is_loop = error.loop_ancestor().is_some();
                match error.into_io_error() {
                    Some(source) if path == root => return Err(Error::Io { path, source }),
                    Some(source) => summary.skipped.push((path, source.to_string())),
                    None if is_loop => {
                        let reason = "a link to a folder that it lies in";
                        summary.skipped.push((path, reason.to_owned()));
                    }
                    None => summary.skipped.push((path, "cannot be listed".to_owned())),
                }
            }
        }
    }
    files.sort();
    Ok(files)
}

fn inspect(path: &Path, config: &FolderConfig) -> Found {
    // A decoder that panics on a damaged file must cost that file only.
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

/// What an error says, without the path that stands beside it.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Data { reason, .. } => reason.clone(),
        Error::Io { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

/// Sets the labels; returns the class names.
fn label(pictures: &mut [Picture]) -> Vec<String> {
    let names: BTreeSet<&OsStr> = pictures.iter().filter_map(|p| class(&p.path)).collect();
    let label_from_name: BTreeMap<&OsStr, usize> = names.iter().copied().zip(0..).collect();
    let labels: Vec<Option<usize>> = pictures
        .iter()
        .map(|picture| label_from_name.get(class(&picture.path)?).copied())
        .collect();
    let classes = names.into_iter().map(printable).collect();
    for (picture, label) in pictures.iter_mut().zip(labels) {
        picture.label = label;
    }
    classes
}

/// First folder of a relative path.
fn class(path: &Path) -> Option<&OsStr> {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(folder)), Some(_)) => Some(folder),
        _ => None,
    }
}

fn kind(format: ImageFormat) -> String {
    format!("{format:?}").to_lowercase()
}
