//! The summary of a folder scan.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use crate::data::decode::depth::Unused;
use crate::data::decode::value_range::ValueRange;
use crate::error::{counted, printable};

/// Maximum number of skipped files that a summary lists; more are counted.
const LISTED: usize = 20;
/// Number of files left out for the same reason that share a line.
const GROUP: usize = 4;
/// How many of them are named.
const NAMED: usize = 2;
/// Maximum number of classes that are listed.
const LISTED_CLASSES: usize = 10;
/// Maximum number of skipped files in the error for a folder without a usable image.
const LISTED_IN_ERROR: usize = 5;

/// Result of a folder scan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScanSummary {
    /// Usable images, judged by their headers.
    pub images: usize,
    /// How many of them are of each kind (`png`, `jpeg`, ...).
    pub kinds: BTreeMap<String, usize>,
    /// Names of the classes: folders with a usable image somewhere below.
    pub classes: Vec<String>,
    /// Names of the parts that the data set comes in, [`crate::data::Parts`]; empty where it is in one.
    pub parts: Vec<String>,
    /// Folders that were left out because of their name, hidden ones and those of tools, and how many there are of each.
    pub of_tools: BTreeMap<String, usize>,
    /// Usable images without a class.
    pub unlabeled: usize,
    /// How many have more than 8 bits, which of their values become black and white, and why; none where there are none.
    pub range: Option<(usize, ValueRange, String)>,
    /// How many usable images have parts that are not used.
    pub unused: BTreeMap<Unused, usize>,
    /// Files that are not images.
    pub not_images: usize,
    /// Images and folders left out, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A line for each of the first `most` that were left out, and one for the rest. Several that were left out for the same
/// reason share a line.
fn listed(skipped: &[(PathBuf, String)], most: usize) -> String {
    let mut paths_from_reason: BTreeMap<&str, Vec<&PathBuf>> = BTreeMap::new();
    for (path, reason) in skipped {
        paths_from_reason.entry(reason).or_default().push(path);
    }
    let is_group = |reason: &str| paths_from_reason[reason].len() >= GROUP;
    let mut lines = String::new();
    for (reason, paths) in paths_from_reason
        .iter()
        .filter(|(reason, _)| is_group(reason))
    {
        let names = paths.iter().take(NAMED).map(printable);
        let names: Vec<String> = names.collect();
        let images = counted(paths.len(), "file");
        let names = names.join(", ");
        lines += &format!("\n  {images}: {reason}; such as {names}");
    }
    let single = skipped.iter().filter(|(_, reason)| !is_group(reason));
    let count = single.clone().count();
    for (path, reason) in single.take(most) {
        lines += &format!("\n  {}: {reason}", printable(path));
    }
    if count > most {
        lines += &format!("\n  ... and {} more", count - most);
    }
    lines
}

impl ScanSummary {
    /// ` in 2 classes (cat, dog), 3 unlabeled`, or `, no labels`.
    fn in_classes(&self) -> String {
        let count = self.classes.len();
        if count == 0 {
            return ", no labels".to_owned();
        }
        let mut named = self.classes[..count.min(LISTED_CLASSES)].join(", ");
        if count > LISTED_CLASSES {
            named += &format!(" and {} more", count - LISTED_CLASSES);
        }
        let classes = if count == 1 { "class" } else { "classes" };
        let none = match self.unlabeled {
            0 => String::new(),
            unlabeled => format!(", {unlabeled} unlabeled"),
        };
        format!(" in {count} {classes} ({named}){none}")
    }

    /// The folders that were left out because of their names; nothing where there are none.
    fn left_out(&self) -> String {
        if self.of_tools.is_empty() {
            return String::new();
        }
        let named = self.of_tools.iter().map(|(name, count)| match count {
            1 => name.clone(),
            count => format!("{name} x {count}"),
        });
        let named: Vec<String> = named.take(LISTED).collect();
        format!("; hidden and tool folders left out: {}", named.join(", "))
    }
}

impl Display for ScanSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&counted(self.images, "image"))?;
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        if !kinds.is_empty() {
            write!(f, " ({})", kinds.join(", "))?;
        }
        f.write_str(&self.in_classes())?;
        if !self.parts.is_empty() {
            write!(f, " (split into {})", self.parts.join(", "))?;
        }
        write!(
            f,
            "; {}, {} skipped",
            counted(self.not_images, "other file"),
            self.skipped.len()
        )?;
        f.write_str(&self.left_out())?;
        if let Some((count, range, why)) = &self.range {
            let of = match range {
                ValueRange::Between([low, high]) => format!("values {low} to {high}"),
                _ => "all their values".to_owned(),
            };
            let images = counted(*count, "image");
            write!(
                f,
                "\n  {images} with more than 8 bits: {of} become black to white ({why})"
            )?;
        }
        for (unused, count) in &self.unused {
            write!(f, "\n  {} with {unused}", counted(*count, "image"))?;
        }
        f.write_str(&listed(&self.skipped, LISTED))
    }
}

/// Why a folder without a usable image is refused.
pub(super) fn no_image(summary: &ScanSummary) -> String {
    let mut reason = format!(
        "no supported images found (PNG, JPEG, WebP, BMP, GIF, TIFF): {}, {} skipped",
        counted(summary.not_images, "other file"),
        summary.skipped.len()
    );
    reason += &summary.left_out();
    reason += &listed(&summary.skipped, LISTED_IN_ERROR);
    reason
}
