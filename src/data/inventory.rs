//! What a folder of images holds, in numbers: classes, formats, sizes, damaged files and duplicates.
//!
//! - `examined`: every image, looked at once; `look`: what it looks like in few numbers; `near`: which look alike
//! - this file: that of one folder. [`crate::data::Survey`] is of a folder to train on, and one to evaluate on

mod examined;
mod look;
mod near;
pub(in crate::data) mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use crate::data::ImageSource as _;
use crate::data::folder::ImageFolder;
use crate::path_text::path_text;

use examined::Seen;
pub use examined::equal_files;

/// Bounds of shorter sides that images are counted between.
const SIDES: [u32; 7] = [0, 32, 64, 128, 224, 448, 1024];
/// An image with a shorter side below this is tiny.
const TINY: u32 = 32;
/// An image whose longer side is more than so many times the shorter one is narrow.
const NARROW: u32 = 4;

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inventory {
    /// Usable images, judged by their headers.
    pub images: usize,
    /// How many of them are of each format.
    pub formats: BTreeMap<String, usize>,
    /// Names of the parts that the data set comes in; empty where it is in one.
    pub parts: Vec<String>,
    /// Classes and their images, sorted by name.
    pub classes: Vec<ClassCount>,
    /// Images without a class.
    pub unlabeled: usize,
    /// Shorter sides in pixels: smallest, median (of an even number, the lower of the middle two) and largest.
    pub shorter_side: [u32; 3],
    /// Longer sides in pixels, the same.
    pub longer_side: [u32; 3],
    /// How many images there are by their shorter side; sizes without an image are left out.
    pub sizes: Vec<SizeCount>,
    /// Images with more than 8 bits.
    pub more_than_8_bits: usize,
    /// Which of their values become black and white, as `folder.range`; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Files that are no images.
    pub other_files: usize,
    /// Images and folders that are left out by their headers.
    pub skipped: Vec<LeftOut>,
    /// Images that cannot be decoded; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Vec<LeftOut>>,
    /// Images that are usable, but of an unusual shape.
    pub odd: Odd,
    /// Groups of files with the same bytes.
    pub duplicates: Vec<Vec<String>>,
    /// How many of these groups are in several classes.
    pub duplicates_across_classes: usize,
    /// Groups of images that look alike, each by its first one; of files with the same bytes only the first counts. Absent where they
    /// were not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<Vec<Vec<String>>>,
    /// How many of these groups are in several classes.
    pub near_duplicates_across_classes: usize,
}

/// A class and its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Number of its images.
    pub images: usize,
}

/// Images by their shorter side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeCount {
    /// Least shorter side in pixels.
    pub from: u32,
    /// The shorter side is below this; absent for the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<u32>,
    /// Number of images.
    pub images: usize,
}

/// Images of an unusual shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Odd {
    /// The longer side is more than 4 times the shorter one.
    pub narrow: Vec<String>,
    /// The shorter side is below 32 pixels.
    pub tiny: Vec<String>,
    /// Nearly one color: no two levels further apart than 4 of 255 at 16 x 16 pixels. Absent where no image was decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<Vec<String>>,
}

/// A file that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Where it is.
    pub path: String,
    /// Why, and what to do.
    pub reason: String,
}

impl LeftOut {
    fn new((path, reason): &(PathBuf, String)) -> Self {
        Self {
            path: path_text(path),
            reason: reason.clone(),
        }
    }
}

/// Images by their numbers.
pub(super) struct Found<'a> {
    /// What decoding showed of each; none where no image was decoded.
    pub seen: Option<&'a [Seen]>,
    /// Groups of equal files.
    pub equal: &'a [Vec<usize>],
    /// Groups of images that look alike; none where they were not looked for.
    pub near: Option<&'a [Vec<usize>]>,
}

impl Inventory {
    pub(super) fn new(folder: &ImageFolder, found: &Found<'_>) -> Self {
        let summary = folder.summary();
        let labels = folder.labels();
        let mut of_class = vec![0; folder.classes().len()];
        for label in labels.iter().flatten() {
            of_class[*label] += 1;
        }
        let classes = folder.classes().iter().zip(of_class);
        let classes = classes.map(|(name, images)| ClassCount {
            name: name.clone(),
            images,
        });
        let sizes: Vec<[u32; 2]> = (0..folder.len()).map(|at| folder.size(at)).collect();
        let names = |of: &[usize]| -> Vec<String> {
            of.iter().map(|at| path_text(&folder.name(*at))).collect()
        };
        let groups =
            |of: &[Vec<usize>]| -> Vec<Vec<String>> { of.iter().map(|g| names(g)).collect() };
        let across = |of: &[Vec<usize>]| {
            let labels = |group: &Vec<usize>| -> BTreeSet<Option<usize>> {
                group.iter().map(|at| labels[*at]).collect()
            };
            of.iter().filter(|group| labels(group).len() > 1).count()
        };
        let damaged = found.seen.map(|seen| {
            let damaged = seen.iter().enumerate().filter_map(|(at, seen)| match seen {
                Seen::Damaged(reason) => Some(LeftOut::new(&(folder.name(at), reason.clone()))),
                _ => None,
            });
            damaged.collect()
        });
        Self {
            images: folder.len(),
            formats: summary.kinds.clone(),
            parts: summary.parts.clone(),
            classes: classes.collect(),
            unlabeled: labels.iter().filter(|label| label.is_none()).count(),
            shorter_side: min_median_max(sizes.iter().map(|[w, h]| *w.min(h))),
            longer_side: min_median_max(sizes.iter().map(|[w, h]| *w.max(h))),
            odd: Odd::of(&sizes, found.seen, names),
            sizes: by_size(&sizes),
            more_than_8_bits: summary.range.as_ref().map_or(0, |(count, ..)| *count),
            range: summary
                .range
                .as_ref()
                .map(|(_, range, _)| range.to_string()),
            other_files: summary.not_images,
            skipped: summary.skipped.iter().map(LeftOut::new).collect(),
            damaged,
            duplicates: groups(found.equal),
            duplicates_across_classes: across(found.equal),
            near_duplicates: found.near.map(groups),
            near_duplicates_across_classes: found.near.map_or(0, across),
        }
    }
}

impl Odd {
    fn of(
        sizes: &[[u32; 2]],
        seen: Option<&[Seen]>,
        names: impl Fn(&[usize]) -> Vec<String>,
    ) -> Self {
        let which = |is: &dyn Fn(u32, u32) -> bool| {
            let places = (0..sizes.len()).filter(|at| {
                let [width, height] = sizes[*at];
                is(width.min(height), width.max(height))
            });
            names(&places.collect::<Vec<_>>())
        };
        let uniform = seen.map(|seen| {
            let places = (0..seen.len()).filter(|at| matches!(seen[*at], Seen::Uniform));
            names(&places.collect::<Vec<_>>())
        });
        Self {
            narrow: which(&|shorter, longer| longer > shorter.saturating_mul(NARROW)),
            tiny: which(&|shorter, _| shorter < TINY),
            uniform,
        }
    }
}

/// Smallest, lower median and largest.
fn min_median_max(values: impl Iterator<Item = u32>) -> [u32; 3] {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    let at = |place: usize| values.get(place).copied().unwrap_or(0);
    [
        at(0),
        at(values.len().saturating_sub(1) / 2),
        at(values.len().saturating_sub(1)),
    ]
}

/// How many images there are between each two of the bounds.
fn by_size(sizes: &[[u32; 2]]) -> Vec<SizeCount> {
    let count = |place: usize| {
        let (from, below) = (SIDES[place], SIDES.get(place + 1).copied());
        let is_of = |[width, height]: &&[u32; 2]| {
            let shorter = *width.min(height);
            shorter >= from && below.is_none_or(|below| shorter < below)
        };
        SizeCount {
            from,
            below,
            images: sizes.iter().filter(is_of).count(),
        }
    };
    let counts = (0..SIDES.len()).map(count);
    counts.filter(|count| count.images > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_size_that_is_there() {
        assert_eq!(min_median_max([794, 221].into_iter()), [221, 221, 794]);
        assert_eq!(min_median_max([3, 1, 2].into_iter()), [1, 2, 3]);
        assert_eq!(min_median_max(std::iter::empty()), [0, 0, 0]);
    }
}
