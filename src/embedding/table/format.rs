//! The formats of a table, by the ending of its name.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::unfinished::check_writable;

/// How a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// `.npy`, with `.paths.csv` beside it.
    Npy,
    /// `.csv`.
    Csv,
    /// `.parquet`.
    Parquet,
    /// `.safetensors`.
    Safetensors,
}

impl TableFormat {
    /// All of them, by their endings.
    pub const KNOWN: [(&'static str, Self); 4] = [
        ("npy", Self::Npy),
        ("csv", Self::Csv),
        ("parquet", Self::Parquet),
        ("safetensors", Self::Safetensors),
    ];

    /// The format by a file's extension, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::Data`] where it is no known one, with the known ones.
    pub fn from_path(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default();
        let known = Self::KNOWN
            .iter()
            .find(|(known, _)| ending.eq_ignore_ascii_case(known));
        known.map(|(_, format)| *format).ok_or_else(|| {
            let endings = Self::KNOWN.map(|(known, _)| format!(".{known}"));
            let reason = format!("the file name must end in one of {}", endings.join(", "));
            Error::data(path, reason)
        })
    }
}

/// A table's file, and that beside a `.npy`.
pub(super) fn files_of(path: &Path, beside: impl Fn(&Path) -> PathBuf) -> Vec<PathBuf> {
    let is_array = matches!(TableFormat::from_path(path), Ok(TableFormat::Npy));
    let beside = is_array.then(|| beside(path));
    std::iter::once(path.to_path_buf()).chain(beside).collect()
}

/// Refuses files that cannot be written, and to replace one that is beside no table, such as a list of somebody's images.
pub(super) fn check_files(files: &[PathBuf]) -> Result<()> {
    files.iter().try_for_each(|file| check_writable(file))?;
    if let [table, beside] = files
        && beside.exists()
        && !table.exists()
    {
        let reason = format!(
            "exists without {}, to which it would belong: choose another place, or remove it if `ibot embed` left it in a crash",
            printable(table)
        );
        return Err(Error::data(beside, reason));
    }
    Ok(())
}
