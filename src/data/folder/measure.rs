//! The range of values of a folder's images with more than 8 bits, measured on some of them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::data::decode::count_values;
use crate::data::decode::value_counts::{Measured, ValueCounts};
use crate::data::decode::value_range::ValueRange;
use crate::data::folder::config::FolderConfig;
use crate::data::folder::summary::ScanSummary;
use crate::data::storage::stored::check_server;
use crate::error::{Error, Result};

/// Most images that are looked at: from all over the folder, so that a scan of many stays short.
pub(super) const SAMPLE: usize = 64;

/// Why a range is the one that the settings give.
pub(super) const AS_GIVEN: &str = "of the settings or the model";

/// The range of `count` images with more than 8 bits: as `config` says, or as some of them ask for, up to 64. It goes
/// to the summary in words. It depends on the files alone, not on how many cores there are. [`ValueRange::Auto`] where none of
/// them can be decoded.
///
/// # Errors
/// [`Error::Data`] for `root` where no one range fits them; one whose disk or server fails; [`Error::Stopped`] soon after `stop` is
/// raised.
pub(super) fn range_of(
    root: &Path,
    count: usize,
    some: &[PathBuf],
    config: &FolderConfig,
    summary: &mut ScanSummary,
    stop: &AtomicBool,
) -> Result<ValueRange> {
    if count == 0 {
        return Ok(config.range);
    }
    let (range, why) = match config.range {
        ValueRange::Auto => match measure(root, some, config.max_pixels, stop)? {
            Some(measured) => (measured.range, measured.why),
            None => return Ok(ValueRange::Auto),
        },
        given => (given, AS_GIVEN.to_owned()),
    };
    summary.range = Some((count, range, why));
    Ok(range)
}

fn measure(
    root: &Path,
    some: &[PathBuf],
    max_pixels: u64,
    stop: &AtomicBool,
) -> Result<Option<Measured>> {
    let counts = some
        .par_iter()
        .try_fold(ValueCounts::default, |mut counts, path| {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            match count_values(path, max_pixels, &mut counts) {
                Err(error) if is_of_the_disk(&error) => Err(error),
                // one that cannot be decoded is named when it is needed
                Err(_) => check_server(path).map(|()| counts),
                Ok(()) => Ok(counts),
            }
        })
        .try_reduce(ValueCounts::default, |a, b| Ok(a.merge(&b)))?;
    counts
        .measured()
        .map_err(|reason| Error::data(root, reason))
}

/// Whether a disk or server failed, so that the file may be read at the next start, or by another rank: without it the range could be
/// another one.
fn is_of_the_disk(error: &Error) -> bool {
    let of_the_file = [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::UnexpectedEof,
        ErrorKind::InvalidData,
        ErrorKind::Unsupported,
    ];
    matches!(error, Error::Io { source, .. } if !of_the_file.contains(&source.kind()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_no_file_that_is_gone() {
        let measured = |name: &str| {
            let (some, never) = ([PathBuf::from(name)], AtomicBool::new(false));
            measure(Path::new("set"), &some, 1 << 20, &never)
        };
        assert!(measured("there is no such file.png").unwrap().is_none());
        // no system opens it, for a reason that has nothing to do with what is there
        assert!(measured("a\0b.png").is_err());
    }
}
