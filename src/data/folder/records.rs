//! The images of a folder: an index of one folder, or a list of what several sources hold.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use image::ImageFormat;
use image::metadata::Orientation;
use rayon::prelude::*;

use crate::data::decode::depth::Depth;
use crate::data::decode::header::{Header, header_in};
use crate::data::folder::config::FolderConfig;
use crate::data::folder::index::digest::NameDigest;
use crate::data::folder::index::found::{FileKind, kind};
use crate::data::folder::index::kept::LEAST;
use crate::data::folder::index::table::Table;
use crate::data::folder::index::walk::pool;
use crate::data::folder::layout::{Listed, labels};
use crate::data::folder::sources::{Listing, holds_images};
use crate::data::folder::summary::ScanSummary;
use crate::data::storage::names::is_shard;
use crate::data::storage::shards::keep_index;
use crate::data::storage::shards::members::CachedKind;
use crate::data::storage::stamp::Stamp;
use crate::data::storage::stored::check_server;
use crate::error::{Error, Result, printable};
use crate::path_text::is_remote;

/// An image of a list.
#[derive(Debug)]
pub(super) struct ListedImage {
    pub file: Listed,
    pub label: Option<usize>,
    pub seen: Seen,
}

/// What was seen of an image when its folder was scanned.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Seen {
    pub header: Header,
    pub stamp: Stamp,
}

impl Seen {
    /// Whether a file, which starts with these bytes and now has this stamp, is another image: of another kind, size or depth.
    /// One of the same is as good as the one before, as after a copy of the whole set.
    pub fn is_replaced_by(&self, bytes: &[u8], format: ImageFormat, now: Stamp) -> bool {
        if now.is_that_of(self.stamp) {
            return false;
        }
        let header = header_in(
            Cursor::new(bytes),
            format,
            Path::new(""),
            bytes.len() as u64,
        );
        // turned the other way about, it is the same image; on its side it has another size
        let orientation = self.header.orientation;
        header.is_ok_and(|header| {
            Header {
                orientation,
                ..header
            } != self.header
        })
    }
}

/// Images, by their place in the order of all.
#[derive(Debug)]
pub(super) enum Records {
    Index(Box<Table>),
    /// And what their paths are relative to.
    List(Vec<ListedImage>, Vec<PathBuf>),
}

impl Records {
    pub fn len(&self) -> usize {
        match self {
            Self::Index(table) => table.len(),
            Self::List(images, _) => images.len(),
        }
    }

    pub fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::Index(table) => table.path(index),
            Self::List(images, roots) => {
                let Listed { root, path, .. } = &images[index].file;
                roots[*root].join(path)
            }
        }
    }

    /// The path from its folder or list, or the whole one where a list has that.
    pub fn relative_path(&self, index: usize, root: &Path) -> PathBuf {
        match self {
            Self::Index(table) => {
                let path = table.path(index);
                path.strip_prefix(root)
                    .map(Path::to_path_buf)
                    .unwrap_or(path)
            }
            Self::List(images, _) => images[index].file.path.clone(),
        }
    }

    pub fn label(&self, index: usize) -> Option<usize> {
        match self {
            Self::Index(table) => table.label(index),
            Self::List(images, _) => images[index].label,
        }
    }

    /// None of an index that is no more what it was when it was opened.
    pub fn seen(&self, index: usize) -> Option<Seen> {
        match self {
            Self::Index(table) => table.image(index).map(|image| Seen {
                header: image.header,
                stamp: image.stamp,
            }),
            Self::List(images, _) => images.get(index).map(|image| image.seen),
        }
    }

    /// Width and height of the upright image, as far as its header tells.
    pub fn size(&self, index: usize) -> [u32; 2] {
        let seen = self.seen(index);
        seen.map_or([0; 2], |seen| [seen.header.width, seen.header.height])
    }

    /// Whether the header tells the orientation: of a PNG file EXIF data may lie behind the pixels, where a scan does not look.
    pub fn is_upright(&self, index: usize) -> bool {
        let seen = self.seen(index);
        let may_turn = |header: Header| {
            header.format == ImageFormat::Png && header.orientation == Orientation::NoTransforms
        };
        seen.is_some_and(|seen| !may_turn(seen.header))
    }

    pub fn depth(&self, index: usize) -> Depth {
        self.seen(index)
            .map_or(Depth::Bits8, |seen| seen.header.depth)
    }

    /// How many images have more than 8 bits, and some of these that divide all of them evenly, `most` at most.
    pub fn deep(&self, most: usize) -> (usize, Vec<PathBuf>) {
        let is_deep = |index: &usize| self.depth(*index) != Depth::Bits8;
        let all = match self {
            Self::Index(table) => table.facts().deep,
            Self::List(..) => (0..self.len()).filter(is_deep).count(),
        };
        if all == 0 {
            return (0, Vec::new());
        }
        let count = all.min(most);
        let mut wanted = (0..count).map(|at| at * all / count).peekable();
        let deep = (0..self.len()).filter(is_deep).enumerate();
        let some = deep.filter(|(number, _)| wanted.next_if_eq(number).is_some());
        (all, some.map(|(_, index)| self.path(index)).collect())
    }

    /// Hash of the names of the images at these places; of all of an index without looking at them.
    pub fn fingerprint(&self, places: Option<&[usize]>) -> String {
        if let (Self::Index(table), None) = (self, places) {
            return table.facts().fingerprint.clone();
        }
        let mut digest = NameDigest::default();
        let mut add = |index: usize| match self {
            Self::Index(table) => table.add_name(index, &mut digest),
            Self::List(images, _) => {
                digest.add(std::iter::empty(), &images[index].file.path);
            }
        };
        match places {
            Some(places) => places.iter().copied().for_each(&mut add),
            None => (0..self.len()).for_each(&mut add),
        }
        digest.finish()
    }
}

/// Keeps what was found in shards for the next start, where that takes long to find out; one that cannot be kept costs that start.
fn keep_indexes(roots: &[PathBuf], files: &[Listed], found: &[FileKind], max_pixels: u64) {
    let is_in_shard: Vec<bool> = roots.iter().map(|root| is_shard(root)).collect();
    let mut of_roots: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        if is_in_shard[file.root] {
            of_roots.entry(file.root).or_default().push(at);
        }
    }
    for (root, places) in of_roots {
        let root = &roots[root];
        let is_slow = files.len() >= LEAST || is_remote(root);
        let was_known = |at: usize| {
            files[at]
                .known
                .is_some_and(|known| known != CachedKind::Unread)
        };
        let is_new = |at: &usize| !was_known(*at) && !matches!(found[*at], FileKind::Skipped(_));
        if !is_slow || !places.iter().any(is_new) {
            continue;
        }
        let members = places.iter().map(|at| {
            let file = &files[*at];
            (&*file.path, file.class.as_ref(), found[*at].known())
        });
        if let Err(error) = keep_index(root, members, max_pixels) {
            log::warn!("no index of {} is kept: {error}", printable(root));
        }
    }
}

/// What a file is that was named as an image: sets of images are left out with what to do.
fn no_image(path: &Path) -> FileKind {
    let remedy = match (is_shard(path), holds_images(path)) {
        (true, _) => "an archive or table of images, not an image: name it in a list (.txt)",
        (_, true) => "a list or index, not an image: give it to the command itself",
        _ => return FileKind::Other,
    };
    FileKind::Skipped(remedy.to_owned())
}

/// What each file of a list is; what is no image goes to the summary.
///
/// # Errors
/// [`Error::Stopped`] soon after `stop` is raised; the server of the files fails.
pub(super) fn inspected(
    listing: Listing,
    config: &FolderConfig,
    summary: &mut ScanSummary,
    stop: &AtomicBool,
) -> Result<Records> {
    let Listing { roots, files, .. } = listing;
    let inspect = |file: &Listed| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        if let Some(found) = file.known.and_then(FileKind::of_known) {
            return Ok(found);
        }
        let path = roots[file.root].join(&file.path);
        let found = match FileKind::read(&path, config.max_pixels) {
            FileKind::Other if file.class_depth.is_none() => no_image(&path),
            found => found,
        };
        if let FileKind::Skipped(_) = &found {
            check_server(&path)?;
        }
        Ok(found)
    };
    let found = pool()?.install(|| files.par_iter().map(inspect).collect::<Result<Vec<_>>>())?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    if config.index {
        keep_indexes(&roots, &files, &found, config.max_pixels);
    }
    let mut images = Vec::with_capacity(found.len());
    for (file, found) in files.into_iter().zip(found) {
        match found {
            FileKind::Image(header, stamp) => {
                if let Some(unused) = header.unused {
                    *summary.unused.entry(unused).or_default() += 1;
                }
                *summary.kinds.entry(kind(header.format)).or_default() += 1;
                images.push(ListedImage {
                    file,
                    label: None,
                    seen: Seen { header, stamp },
                });
            }
            FileKind::Other => summary.not_images += 1,
            FileKind::Skipped(reason) => {
                let path = roots[file.root].join(&file.path);
                summary.skipped.push((path, reason));
            }
        }
    }
    images.shrink_to_fit();
    summary.skipped.sort();
    let (labels, classes) = labels(images.iter().map(|image| &image.file));
    for (image, label) in images.iter_mut().zip(labels) {
        image.label = label;
    }
    summary.images = images.len();
    summary.classes = classes;
    summary.unlabeled = images.iter().filter(|p| p.label.is_none()).count();
    Ok(Records::List(images, roots))
}
