//! What a scan of a folder found, in words.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use crate::error::printable;

/// What was left out is named in a summary up to this number, and counted beyond.
const LISTED: usize = 20;
/// The same in the error for a folder without a usable picture.
const LISTED_IN_ERROR: usize = 5;

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanSummary {
    /// Usable pictures, as far as their headers say.
    pub pictures: usize,
    /// How many of them are of each kind (`png`, `jpeg`, ...).
    pub kinds: BTreeMap<String, usize>,
    /// Folders of the first level with a usable picture somewhere below.
    pub classes: usize,
    /// Usable pictures that lie in no such folder.
    pub unlabeled: usize,
    /// Files whose content is that of no picture.
    pub not_pictures: usize,
    /// Pictures and folders left out, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A line for each of the first `most` that were left out, and one for the rest.
fn listed(skipped: &[(PathBuf, String)], most: usize) -> String {
    let mut lines = String::new();
    for (path, reason) in skipped.iter().take(most) {
        lines += &format!("\n  {}: {reason}", printable(path));
    }
    if skipped.len() > most {
        lines += &format!("\n  ... and {} more", skipped.len() - most);
    }
    lines
}

impl Display for ScanSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} pictures", self.pictures)?;
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        if !kinds.is_empty() {
            write!(f, " ({})", kinds.join(", "))?;
        }
        write!(f, " in {} classes", self.classes)?;
        if self.unlabeled > 0 {
            write!(f, ", {} of them in none", self.unlabeled)?;
        }
        write!(
            f,
            "; {} other files, {} skipped",
            self.not_pictures,
            self.skipped.len()
        )?;
        f.write_str(&listed(&self.skipped, LISTED))
    }
}

/// Why a folder without a usable picture is refused.
pub(super) fn no_picture(summary: &ScanSummary) -> String {
    let mut reason = format!(
        "no usable picture (PNG, JPEG, WebP, BMP, GIF, TIFF): {} files are none, {} were skipped",
        summary.not_pictures,
        summary.skipped.len()
    );
    reason += &listed(&summary.skipped, LISTED_IN_ERROR);
    reason
}
