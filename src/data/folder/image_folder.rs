//! An image folder: its images and classes, found by content and in a fixed order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use image::RgbImage;
use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization as _;

use crate::data::ImageSource;
use crate::data::decode::decode_rgb_as_seen;
use crate::data::decode::depth::Depth;
use crate::data::decode::value_range::ValueRange;
use crate::data::folder::config::FolderConfig;
use crate::data::folder::index::kept::{IndexWork, Keep, index_of, is_named_index, root_of};
use crate::data::folder::index::table::Table;
use crate::data::folder::measure::{AS_GIVEN, SAMPLE, range_of};
use crate::data::folder::order::Shuffle;
use crate::data::folder::records::{Records, inspected};
use crate::data::folder::sources::{check_source, holds_images, list};
use crate::data::folder::summary::{ScanSummary, no_image};
use crate::data::folder::thumbnails::Thumbnails;
use crate::error::{Error, Result, printable};

/// The usable images of a folder, sorted by path.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// The folder, or what else the images come from.
    root: PathBuf,
    /// Sources that are image folders, which hold nothing else.
    folders: Vec<PathBuf>,
    records: Arc<Records>,
    /// Those of the records that are its images; all where there are none.
    places: Option<Arc<[usize]>>,
    /// Own label for each label of the records, where classes are those of another folder.
    relabeled: Option<Arc<[usize]>>,
    classes: Vec<String>,
    summary: ScanSummary,
    max_pixels: u64,
    shuffle: Shuffle,
    range: ValueRange,
    thumbnails: Option<Arc<Thumbnails>>,
}

impl ImageFolder {
    /// Finds every image below `dir`, at any depth, by its content; reads headers only.
    ///
    /// Class is the name of the first-level folder; images in `dir` itself have none. Where those folders are the parts of
    /// a data set ([`Parts`](crate::data::Parts): `train`, `val`, `test`), it is that of the second level. Folders that start with a dot and
    /// those of tools (`@eaDir`, `#recycle`, `__MACOSX`, `lost+found`, ...) are left out and named. Symbolic links are
    /// followed. The order is that of the path, component by component and byte by byte, on every platform.
    ///
    /// # Errors
    /// `dir` is missing, or neither a folder nor a file of a set (tar archive, list, index), or no image in it is usable; the message says what there is instead. A setting out
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
        check_source(root)?;
        if root.is_file() && !holds_images(root) {
            let reason = "is a file; give the folder that holds the images";
            return Err(Error::data(root, reason));
        }
        Self::scan_all(&[root.to_path_buf()], config, stop)
    }

    /// The images of several sources: folders, as [`ImageFolder::scan`] reads them, tar archives, also as a pattern such as
    /// `shards/{0000..0999}.tar`, image files, and text files (`.txt`)
    /// that list all of these, a path from the list's own folder in each line. Sources keep their order; a file that is
    /// named twice counts once. Only images of folders have classes, and folders of one name are one class. One folder may be
    /// given by its index (`.ibidx`, [`ImageFolder::scan_with_index`]).
    ///
    /// # Errors
    /// Those of [`ImageFolder::scan_until`], for any of them.
    pub fn scan_all(sources: &[PathBuf], config: &FolderConfig, stop: &AtomicBool) -> Result<Self> {
        config.validate()?;
        let mut root = sources.first().cloned().unwrap_or_default();
        let mut keep = if config.index { Keep::Cached } else { Keep::No };
        if let [file] = sources
            && is_named_index(file)
        {
            (root, keep) = (root_of(file)?, Keep::File(file));
        }
        if sources.len() == 1
            && root.is_dir()
            && let Some((table, _)) = index_of(&root, config.max_pixels, keep, stop)?
        {
            return Self::of_index(root, table, config, stop);
        }
        let mut summary = ScanSummary::default();
        let listing = list(sources, config, &mut summary, stop)?;
        let thumbnails = Thumbnails::open(config, &listing.folders, stop)?;
        let folders = listing.folders.clone();
        let records = inspected(listing, config, &mut summary, stop)?;
        Self::of_records(root, folders, records, summary, thumbnails, config, stop)
    }

    /// [`ImageFolder::scan_until`] by an index in `file`, which is made where it is missing or damaged. Each file of the folder is asked whether it
    /// changed, and only those that did are opened. Also tells how much work that was.
    ///
    /// # Errors
    /// Those of [`ImageFolder::scan_until`]; a `file` that cannot be written, or is there and no index; a folder with archives or tables of
    /// images, which have an index each.
    pub fn scan_with_index(
        dir: impl AsRef<Path>,
        file: Option<&Path>,
        config: &FolderConfig,
        stop: &AtomicBool,
    ) -> Result<(Self, IndexWork)> {
        config.validate()?;
        let root = dir.as_ref();
        if root.is_file() {
            let reason = "is a file; an index is of a folder of images";
            return Err(Error::data(root, reason));
        }
        let keep = Keep::Asked(file);
        match index_of(root, config.max_pixels, keep, stop)? {
            Some((table, work)) => {
                let folder = Self::of_index(root.to_path_buf(), table, config, stop)?;
                Ok((folder, work))
            }
            None => {
                let reason = "holds archives or tables of images; give it to a command as it is, which keeps an index of each by itself";
                Err(Error::data(root, reason))
            }
        }
    }

    fn of_index(
        root: PathBuf,
        table: Table,
        config: &FolderConfig,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let folders = vec![root.clone()];
        let thumbnails = Thumbnails::open(config, &folders, stop)?;
        let summary = table.summary();
        let records = Records::Index(Box::new(table));
        Self::of_records(root, folders, records, summary, thumbnails, config, stop)
    }

    fn of_records(
        root: PathBuf,
        folders: Vec<PathBuf>,
        records: Records,
        mut summary: ScanSummary,
        thumbnails: Option<Thumbnails>,
        config: &FolderConfig,
        stop: &AtomicBool,
    ) -> Result<Self> {
        if records.len() == 0 {
            return Err(Error::data(root, no_image(&summary)));
        }
        let (deep, some) = records.deep(SAMPLE);
        let range = range_of(&root, deep, &some, config, &mut summary, stop)?;
        log::debug!("{} is scanned", printable(&root));
        Ok(Self {
            root,
            folders,
            range,
            records: Arc::new(records),
            places: None,
            relabeled: None,
            classes: summary.classes.clone(),
            summary,
            max_pixels: config.max_pixels,
            shuffle: config.shuffle,
            thumbnails: thumbnails.map(Arc::new),
        })
    }

    /// The record of image `index`.
    fn place(&self, index: usize) -> usize {
        self.places.as_ref().map_or(index, |places| places[index])
    }

    /// The folder, or the first of several sources.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of an image from its folder or list, or the whole one where a list has that.
    pub(in crate::data) fn relative_path(&self, index: usize) -> PathBuf {
        self.records.relative_path(self.place(index), &self.root)
    }

    /// What was found.
    pub fn summary(&self) -> &ScanSummary {
        &self.summary
    }

    /// Which values of its images with more than 8 bits become black and white: as given, or as measured;
    /// [`ValueRange::Auto`] where there is no such image.
    pub fn range(&self) -> ValueRange {
        self.range
    }

    /// Which values of image `index` become black and white; [`ValueRange::Full`] of one with 8 bits.
    pub fn range_of(&self, index: usize) -> ValueRange {
        match self.records.depth(self.place(index)) {
            Depth::Bits8 => ValueRange::Full,
            Depth::Bits16 | Depth::Float => self.range.or(ValueRange::Full),
        }
    }

    /// Pixels of image `index` when it is decoded: width and height. The other way round where a PNG file has its orientation behind
    /// its pixels.
    pub fn size(&self, index: usize) -> [u32; 2] {
        let size = self.records.size(self.place(index));
        let thumbnails = self.thumbnails.as_deref();
        thumbnails.map_or(size, |thumbnails| thumbnails.size(size))
    }

    /// [`ImageFolder::size`] where that is what decoding gives; None where only decoding tells.
    pub(in crate::data) fn upright_size(&self, index: usize) -> Option<[u32; 2]> {
        let is_upright = self.records.is_upright(self.place(index));
        is_upright.then(|| self.size(index))
    }

    /// Class names, sorted by their bytes; a label is an index into them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// At most `count` of its images, from all over it.
    pub fn sample(&self, count: usize) -> Self {
        let (all, count) = (self.len(), count.min(self.len()));
        let places: Vec<usize> = (0..count).map(|at| at * all / count).collect();
        self.part(&places)
    }

    /// The images at these places, with the classes of the whole.
    pub fn part(&self, places: &[usize]) -> Self {
        let places = places.iter().map(|index| self.place(*index));
        Self {
            places: Some(places.collect()),
            ..self.clone()
        }
    }

    /// Hash of the images' names, in order: whether a folder holds the same files as before; their content is not read.
    pub fn fingerprint(&self) -> String {
        self.records.fingerprint(self.places.as_deref())
    }

    /// Label of every image, in order.
    pub fn labels(&self) -> Vec<Option<usize>> {
        (0..self.len()).map(|index| self.label(index)).collect()
    }

    /// The same images, reduced and kept as those of another folder, whose cache they share with its bound.
    pub fn with_cache_of(self, other: &Self) -> Self {
        Self {
            thumbnails: other.thumbnails.clone(),
            ..self
        }
    }

    /// The same images, whose cache `ranks` processes fill at once: each takes its part of what is free of its bound.
    #[must_use]
    pub fn with_cache_shared_by(mut self, ranks: usize) -> Self {
        let shared = self.thumbnails.map(|all| Arc::new(all.shared_by(ranks)));
        self.thumbnails = shared;
        self
    }

    /// The same images with this range of values, unless it is [`ValueRange::Auto`].
    #[must_use]
    pub fn with_range(mut self, range: ValueRange) -> Self {
        if !range.is_auto() && range != self.range {
            self.range = range;
            if let Some((_, of, why)) = &mut self.summary.range {
                (*of, *why) = (range, AS_GIVEN.to_owned());
            }
        }
        self
    }

    /// The same images, reduced, kept and mixed as `config` says; what else it says is not looked at.
    ///
    /// # Errors
    /// A cache that cannot be made or lies among the images; [`Error::Stopped`].
    pub fn reduced(self, config: &FolderConfig, stop: &AtomicBool) -> Result<Self> {
        config.validate()?;
        let thumbnails = Thumbnails::open(config, &self.folders, stop)?;
        Ok(Self {
            thumbnails: thumbnails.map(Arc::new),
            shuffle: config.shuffle,
            ..self
        })
    }

    /// The same images, labeled by the class names of another folder, so that both use the same labels.
    ///
    /// # Errors
    /// A class of this folder is none of `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        let mut label_from_own = Vec::with_capacity(self.classes.len());
        for name in &self.classes {
            label_from_own.push(class_named(classes, name).ok_or_else(|| {
                let reason = format!("its class {name:?} is missing from the other folder");
                Error::data(&self.root, reason)
            })?);
        }
        let relabeled = match &self.relabeled {
            Some(before) => before.iter().map(|own| label_from_own[*own]).collect(),
            None => label_from_own,
        };
        self.relabeled = Some(relabeled.into());
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// The place of a class name among others. Names are the same where Unicode's composed forms are: macOS may write `ä` as two
/// characters, others write one.
pub(crate) fn class_named(classes: &[String], name: &str) -> Option<usize> {
    classes.iter().position(|class| class.nfc().eq(name.nfc()))
}

impl ImageSource for ImageFolder {
    fn len(&self) -> usize {
        match &self.places {
            Some(places) => places.len(),
            None => self.records.len(),
        }
    }

    fn name(&self, index: usize) -> PathBuf {
        self.records.path(self.place(index))
    }

    fn label(&self, index: usize) -> Option<usize> {
        let own = self.records.label(self.place(index))?;
        match &self.relabeled {
            Some(relabeled) => relabeled.get(own).copied(),
            None => Some(own),
        }
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        let (path, range) = (self.name(index), self.range_of(index));
        let seen = self.records.seen(self.place(index));
        let seen = seen.ok_or_else(|| Error::data(&path, "its entry in the index is damaged"))?;
        let decode = || {
            decode_rgb_as_seen(&path, self.max_pixels, range, |bytes, format, now| {
                seen.is_replaced_by(bytes, format, now)
            })
        };
        let size = [seen.header.width, seen.header.height];
        match &self.thumbnails {
            Some(thumbnails) if thumbnails.size(size) != size => {
                thumbnails.get(&path, range, decode)
            }
            _ => decode(),
        }
    }

    fn shuffle(&self) -> Shuffle {
        self.shuffle
    }

    fn image_bytes(&self, index: usize) -> u64 {
        // before it is reduced: that one is in memory too, unless a cache has the other
        let [width, height] = self.records.size(self.place(index)).map(u64::from);
        3 * width * height
    }

    fn decoded_bytes(&self) -> u64 {
        let bytes = |index| {
            let [width, height] = self.size(index).map(u64::from);
            3 * width * height
        };
        (0..self.len()).into_par_iter().map(bytes).sum()
    }
}

/// The text of an error without its path, which is printed separately.
pub(in crate::data) fn reason(error: &Error) -> String {
    error.without_path()
}
