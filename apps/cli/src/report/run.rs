//! A run and what came of it, as its folder says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ibot::data::LeftOut;
use ibot::error::printable;
use ibot::path_text::path_text;
use ibot::train::RunRecord;
use ibot::{Error, Result};

use crate::curves::RunLog;
use crate::output::warn;
use crate::screen::warning;
use crate::verdict::Verdict;

/// A run and what came of it.
#[derive(Debug)]
pub struct Run {
    pub(super) folder: PathBuf,
    pub(super) record: Option<RunRecord>,
    pub(super) log: RunLog,
    pub(super) verdict: Verdict,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a folder that is none of a run, [`Error::Io`] and [`Error::Data`] for damaged files.
    pub fn read(folder: &Path, name: String) -> Result<Self> {
        if !folder.join("metrics.jsonl").exists() {
            let missing = if folder.is_dir() {
                "is not a run folder, or no step was made: metrics.jsonl is missing"
            } else {
                "does not exist; give the folder of a run, --out of `ibot train`"
            };
            return Err(Error::checkpoint(folder, missing));
        }
        let record = RunRecord::read(folder)?;
        let log = RunLog::read(folder, name)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            verdict: Verdict::new(folder, record.as_ref(), &log),
            record,
            log,
        })
    }

    /// Runs named by their folders, as short as they differ, and those that are left out: of several, one that cannot be read is said.
    ///
    /// # Errors
    /// None can be read.
    pub(super) fn read_all(folders: &[PathBuf]) -> Result<(Vec<Self>, Vec<LeftOut>)> {
        let last = |folder: &PathBuf| folder.file_name().map(printable);
        let short: BTreeSet<Option<String>> = folders.iter().map(last).collect();
        let is_short = short.len() == folders.len();
        let name = |folder| match last(folder) {
            Some(name) if is_short => name,
            _ => printable(folder),
        };
        let (mut runs, mut skipped, mut first) = (Vec::new(), Vec::new(), None);
        for folder in folders {
            match Self::read(folder, name(folder)) {
                Ok(run) => runs.push(run),
                Err(error) if folders.len() > 1 => {
                    warn(warning(format_args!("WARNING left out: {error}")));
                    skipped.push(LeftOut {
                        path: path_text(folder),
                        reason: error.without_path(),
                    });
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first {
            Some(error) if runs.is_empty() => Err(error),
            _ => Ok((runs, skipped)),
        }
    }
}
