//! The labeled images: those to train on, and those that are held out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::data::{
    AugmentConfig, FolderConfig, ImageFolder, ImageSource as _, check_source, eval_batches,
};
use crate::error::{Error, Result, counted, printable};
use crate::eval::stratified_split;
use crate::finetune::observer::FinetuneObserver;

/// Which images the accuracy of each epoch is measured on.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOut {
    /// Those of another folder, whose classes are among those of the first.
    Folder(PathBuf),
    /// This share of each class, at least one image.
    Share(f64),
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "val {}", printable(path)),
            Self::Share(share) => write!(f, "held out {share}"),
        }
    }
}

/// Images in two parts, labeled by the same classes.
pub(super) struct LabeledImages {
    pub train: Arc<ImageFolder>,
    pub held_out: Arc<ImageFolder>,
}

impl HeldOut {
    /// Checks what needs no scan of the images in `data`.
    ///
    /// # Errors
    /// [`Error::Config`] for a share that is none, [`Error::Io`] for a folder that is not there.
    pub(super) fn check(&self, data: &Path) -> Result<()> {
        check_source(data)?;
        match self {
            Self::Folder(folder) => check_source(folder),
            Self::Share(share) if *share > 0.0 && *share < 1.0 => Ok(()),
            Self::Share(share) => {
                let remedy = "must be above 0 and below 1, such as 0.2";
                Err(Error::config("held_out", share, remedy))
            }
        }
    }
}

impl LabeledImages {
    /// Scans the folders, for one process of `ranks`, and takes the held-out images out of those to train on where they are a
    /// fraction of them.
    ///
    /// # Errors
    /// [`Error::Data`] where there are fewer than two classes, a class with too few images, or a held-out class that is
    /// not trained on; [`Error::Loader`] where no held-out image can be decoded; [`Error::Stopped`] soon after `stop` is
    /// raised.
    pub fn scan(
        data: &Path,
        held_out: &HeldOut,
        config: &FolderConfig,
        seed: u64,
        ranks: usize,
        stop: &AtomicBool,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<Self> {
        let folder = scan(data, config, stop, observer)?.with_cache_shared_by(ranks);
        if folder.classes().len() < 2 {
            let reason = "has fewer than two classes; put the images of each class in a subfolder";
            return Err(Error::data(data, reason));
        }
        let labels = folder.labels();
        let (train, held_out) = match held_out {
            HeldOut::Folder(path) => {
                let alike = FolderConfig {
                    cache: None, // shares that of the others, so that one size limit holds for both
                    range: folder.range(),
                    ..config.clone()
                };
                let other = scan(path, &alike, stop, observer)?;
                let other = other.with_cache_of(&folder);
                let other = other.with_classes(folder.classes())?;
                let places = labeled(&other.labels(), 0..other.labels().len());
                if places.is_empty() {
                    let reason =
                        "has no labeled image; put the images of each class in a subfolder";
                    return Err(Error::data(path, reason));
                }
                let train = labeled(&labels, 0..labels.len());
                (folder.part(&train), other.part(&places))
            }
            HeldOut::Share(share) => {
                refuse_single_images(data, &folder)?;
                let split = stratified_split(&labels, *share, seed);
                let train = labeled(&labels, split.kept);
                let held_out = labeled(&labels, split.held_out);
                (folder.part(&train), folder.part(&held_out))
            }
        };
        let (train, held_out) = (Arc::new(train), Arc::new(held_out));
        check_usable(&held_out, stop)?;
        Ok(Self { train, held_out })
    }

    /// Share of the held-out images in their most frequent class.
    pub fn most_frequent_class(&self) -> f64 {
        let counts = counts(&self.held_out);
        let most = counts.into_iter().max().unwrap_or_default();
        most as f64 / self.held_out.len().max(1) as f64
    }
}

/// Whether any of the images to test on can be decoded, which would else be known after a whole epoch.
fn check_usable(held_out: &Arc<ImageFolder>, stop: &AtomicBool) -> Result<()> {
    let mut single = eval_batches(held_out.clone(), &AugmentConfig::default(), 1, 1)?;
    let first = single.next_until(stop).transpose();
    first.map(drop).map_err(|error| match error {
        Error::Loader(reason) => Error::Loader(format!("images to test on: {reason}")),
        other => other,
    })
}

/// Number of images of each class.
fn counts(folder: &ImageFolder) -> Vec<usize> {
    let mut counts = vec![0_usize; folder.classes().len()];
    for label in folder.labels().into_iter().flatten() {
        counts[label] += 1;
    }
    counts
}

fn scan(
    path: &Path,
    config: &FolderConfig,
    stop: &AtomicBool,
    observer: &mut dyn FinetuneObserver,
) -> Result<ImageFolder> {
    let folder = ImageFolder::scan_until(path, config, stop)?;
    let summary = folder.summary();
    observer.note(&format!("data {}: {summary}", printable(path)));
    if summary.unlabeled > 0 && !folder.classes().is_empty() {
        let count = summary.unlabeled;
        observer.note(&format!("{} left out", counted(count, "unlabeled image")));
    }
    Ok(folder)
}

/// The indices of images that have a class.
fn labeled(labels: &[Option<usize>], places: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let places = places.into_iter();
    places.filter(|place| labels[*place].is_some()).collect()
}

/// A class of one image cannot be in both parts.
fn refuse_single_images(path: &Path, folder: &ImageFolder) -> Result<()> {
    let counts = counts(folder);
    let single = counts.iter().zip(folder.classes());
    let single: Vec<&str> = single
        .filter(|(count, _)| **count == 1)
        .map(|(_, class)| class.as_str())
        .collect();
    match single.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let reason = format!(
                "has only one image of class {}{more}, but training and testing need one each; add images, or give a \
                 test set with `val`",
                printable(first)
            );
            Err(Error::data(path, reason))
        }
    }
}
