//! The records of an index, to look up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::data::decode::depth::Unused;
use crate::data::folder::index::digest::NameDigest;
use crate::data::folder::index::name::name_of;
use crate::data::folder::index::record::{Folder, ImageRecord, NONE, RECORD};
use crate::data::folder::summary::ScanSummary;
use crate::data::storage::stamp::Stamp;
use crate::path_text::path_of_text;

/// What of a folder is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::data) struct LeftOut {
    /// Number of the folder.
    pub folder: u32,
    /// Name in it, as [`crate::path_text::path_text`]; empty for the folder itself.
    pub name: String,
    pub reason: String,
    /// None where it cannot be asked.
    pub stamp: Option<Stamp>,
}

/// What is known of all images together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::data) struct Facts {
    /// The folder, absolute, as [`crate::path_text::path_text`]; empty for an index in memory.
    pub root: String,
    /// Images with more pixels were left out.
    pub max_pixels: u64,
    /// [`crate::data::ImageFolder::fingerprint`].
    pub fingerprint: String,
    pub parts: Vec<String>,
    pub classes: Vec<String>,
    pub unlabeled: usize,
    /// Images with more than 8 bits.
    pub deep: usize,
    pub kinds: BTreeMap<String, usize>,
    pub unused: BTreeMap<Unused, usize>,
    /// Number of a folder, and the name of one in it that was left out by its name.
    pub tools: Vec<(u32, String)>,
    pub left_out: Vec<LeftOut>,
}

/// Lengths of the parts of an index, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::data) struct Lengths {
    /// Number of images, of [`RECORD`] bytes each.
    pub images: usize,
    /// Number of folders.
    pub folders: usize,
    /// Bytes.
    pub names: usize,
    /// Bytes.
    pub folder_names: usize,
}

impl Lengths {
    /// Bytes of all parts; none where no computer has so many.
    pub fn bytes(&self) -> Option<usize> {
        let records = self.images.checked_add(self.folders)?;
        let records = records.checked_mul(RECORD)?;
        records
            .checked_add(self.names)?
            .checked_add(self.folder_names)
    }
}

/// Records and names, one after the other.
#[derive(Debug)]
pub(in crate::data) enum Bytes {
    Owned(Vec<u8>),
    /// From this byte on.
    Mapped(Mmap, usize),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(map, start) => &map[*start..],
        }
    }
}

/// An index: its bytes were made by [`super::build`] or passed [`super::check`], so that every number in them is in range.
#[derive(Debug)]
pub(in crate::data) struct Table {
    bytes: Bytes,
    lengths: Lengths,
    facts: Facts,
    /// The folder as it is called now, which is not in a file.
    root: Option<PathBuf>,
}

impl Table {
    pub fn new(bytes: Bytes, lengths: Lengths, facts: Facts) -> Self {
        Self {
            bytes,
            lengths,
            facts,
            root: None,
        }
    }

    /// The same images, whose paths begin with `root`.
    #[must_use]
    pub fn with_root(mut self, root: &Path) -> Self {
        self.root = Some(root.to_path_buf());
        self
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn len(&self) -> usize {
        self.lengths.images
    }

    pub fn folders(&self) -> usize {
        self.lengths.folders
    }

    /// Part number `number` of records, of folders, of names or of folders' names.
    pub fn part(&self, number: usize) -> &[u8] {
        let Lengths {
            images,
            folders,
            names,
            folder_names,
        } = self.lengths;
        let lengths = [images * RECORD, folders * RECORD, names, folder_names];
        let start: usize = lengths[..number].iter().sum();
        &self.bytes.all()[start..start + lengths[number]]
    }

    /// What is known of image `index`.
    pub fn image(&self, index: usize) -> Option<ImageRecord> {
        ImageRecord::of_bytes(record(self.part(0), index)?)
    }

    pub fn folder(&self, number: u32) -> Option<Folder> {
        record(self.part(1), number as usize).map(Folder::of_bytes)
    }

    /// Name of image `index` in its folder.
    pub fn name(&self, index: usize) -> &[u8] {
        let end = |at: usize| self.image(at).map_or(0, |image| image.name_end);
        between(self.part(2), index, end)
    }

    pub fn folder_name(&self, number: u32) -> &[u8] {
        let end = |at: usize| self.folder(at as u32).map_or(0, |folder| folder.name_end);
        between(self.part(3), number as usize, end)
    }

    /// The folder of that number and those that it is in, up to the root.
    pub fn chain(&self, number: u32) -> Vec<u32> {
        let parent = |number: &u32| {
            let parent = self.folder(*number)?.parent;
            (parent < *number).then_some(parent)
        };
        std::iter::successors(Some(number), parent).collect()
    }

    pub fn folder_path(&self, number: u32) -> PathBuf {
        let name = || {
            let root = self.chain(number).last().map_or(NONE, |root| *root);
            Path::new(name_of(self.folder_name(root)))
        };
        self.folder_path_from(self.root.as_deref().unwrap_or_else(name), number)
    }

    /// The path of a folder, if that of the one which it is in at last is `root`.
    pub fn folder_path_from(&self, root: &Path, number: u32) -> PathBuf {
        let chain = self.chain(number);
        let inner = chain.iter().rev().skip(1);
        let mut path = root.to_path_buf();
        path.extend(inner.map(|number| name_of(self.folder_name(*number))));
        path
    }

    pub fn path(&self, index: usize) -> PathBuf {
        let folder = self.image(index).map_or(NONE, |image| image.folder);
        let mut path = self.folder_path(folder);
        path.push(name_of(self.name(index)));
        path
    }

    /// Adds the relative path of image `index` to a hash of names.
    pub fn add_name(&self, index: usize, digest: &mut NameDigest) {
        let folder = self.image(index).map_or(NONE, |image| image.folder);
        let chain = self.chain(folder);
        let inner = chain.iter().rev().skip(1);
        let inner = inner.map(|number| self.folder_name(*number));
        digest.add(inner, Path::new(name_of(self.name(index))));
    }

    /// Class of image `index`.
    pub fn label(&self, index: usize) -> Option<usize> {
        let label = self.folder(self.image(index)?.folder)?.label;
        (label != NONE).then_some(label as usize)
    }

    /// Where a file or folder is that was left out.
    pub fn left_out_path(&self, left_out: &LeftOut) -> PathBuf {
        let folder = self.folder_path(left_out.folder);
        match left_out.name.as_str() {
            "" => folder,
            name => folder.join(path_of_text(name)),
        }
    }

    /// All of it in words.
    pub fn summary(&self) -> ScanSummary {
        let facts = &self.facts;
        let mut of_tools = BTreeMap::new();
        for (_, name) in &facts.tools {
            *of_tools.entry(name.clone()).or_default() += 1;
        }
        let skipped = facts.left_out.iter();
        let skipped = skipped.map(|one| (self.left_out_path(one), one.reason.clone()));
        let mut skipped: Vec<_> = skipped.collect();
        skipped.sort();
        let folders = (0..self.folders() as u32).filter_map(|number| self.folder(number));
        ScanSummary {
            images: self.len(),
            kinds: facts.kinds.clone(),
            classes: facts.classes.clone(),
            parts: facts.parts.clone(),
            of_tools,
            unlabeled: facts.unlabeled,
            range: None,
            unused: facts.unused.clone(),
            not_images: folders.map(|folder| folder.others as usize).sum(),
            skipped,
        }
    }
}

fn record(records: &[u8], index: usize) -> Option<&[u8; RECORD]> {
    records.get(index.checked_mul(RECORD)?..)?.first_chunk()
}

/// The name of entry `index` among those of all, whose ends are known.
fn between(names: &[u8], index: usize, end: impl Fn(usize) -> u64) -> &[u8] {
    let start = index.checked_sub(1).map_or(0, &end);
    let range: Range<usize> = start as usize..end(index) as usize;
    names.get(range).unwrap_or_default()
}
