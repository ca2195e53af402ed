//! Files in a run folder that must not be lost.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, counted, if_there, printable};
use crate::files::checkpoint::Store;

pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const EVALUATIONS: &str = "evaluations.jsonl";

/// Model files of training and of fine-tuning.
const MODELS: [&str; 4] = [
    "teacher.safetensors",
    "student.safetensors",
    "best.safetensors",
    "last.safetensors",
];

/// The files of earlier runs in a folder, in words; empty if there are none.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn work_in(folder: &Path) -> Result<String> {
    let mut work = Vec::new();
    let checkpoints = Store::of_run(folder).steps()?.len();
    if checkpoints > 0 {
        work.push(counted(checkpoints, "checkpoint"));
    }
    for name in [METRICS, EVALUATIONS] {
        match count_lines(&folder.join(name))? {
            0 => {}
            lines => work.push(format!("{} of {name}", counted(lines, "line"))),
        }
    }
    let models = MODELS.iter().filter(|name| folder.join(name).exists());
    work.extend(models.map(ToString::to_string));
    Ok(work.join(", "))
}

/// Number of lines, counting an incomplete last one; 0 without a file.
fn count_lines(path: &Path) -> Result<usize> {
    let Some(file) = if_there(path, File::open(path))? else {
        return Ok(0);
    };
    let mut lines = BufReader::new(file).split(b'\n');
    lines
        .try_fold(0, |count, line| line.map(|_| count + 1))
        .map_err(Error::io(path))
}

/// Refuses a broken link: its target, such as a disk that is not mounted, may hold the only copy.
///
/// # Errors
/// [`Error::Checkpoint`] that names both ends.
pub(super) fn refuse_dangling(path: &Path) -> Result<()> {
    let Some(end) = fs::read_link(path).ok().filter(|_| !path.exists()) else {
        return Ok(());
    };
    let reason = format!(
        "is a link to {}, which does not exist; mount its disk, or remove the link",
        printable(end)
    );
    Err(Error::checkpoint(path, reason))
}

/// Folders from a path upwards that do not exist, the innermost first.
pub(super) fn missing_folders(path: &Path) -> Vec<PathBuf> {
    let upwards = path.ancestors();
    let named = upwards.take_while(|folder| *folder != Path::new("") && !folder.exists());
    named.map(Path::to_path_buf).collect()
}
