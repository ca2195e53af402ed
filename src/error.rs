//! One error type for the whole crate: each variant names the file, key or value and the remedy.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Any error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", printable(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("{key} = {}: {remedy}", printable(value))]
    Config {
        /// The setting's name, as written in the TOML file.
        key: String,
        /// Its value, as given.
        value: String,
        /// What is allowed.
        remedy: String,
    },
    /// An image or an image folder cannot be used.
    #[error("{}: {reason}", printable(path))]
    Data {
        /// The image or folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A weight file does not fit the model.
    #[error("{}: {reason}", printable(path))]
    Weights {
        /// The weight file.
        path: PathBuf,
        /// Which keys are missing, unused or of the wrong shape.
        reason: String,
    },
    /// A checkpoint or run folder cannot be used.
    #[error("{}: {reason}", printable(path))]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// An intact file of another version of the program.
    #[error(
        "{}: has format {format}, this program reads {known}: use the version of ibot that wrote it",
        printable(path)
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The one that this program reads.
        known: u32,
    },
    /// The compute device is missing or failed.
    #[error("{0}")]
    Device(String),
    /// The caller stopped the work.
    #[error("stopped")]
    Stopped,
    /// The time limit of a job is over.
    #[error("time limit of {budget:?} reached: {done} of {total} images are done")]
    OutOfTime {
        /// Images that are done.
        done: usize,
        /// Images of the job.
        total: usize,
        /// The time limit.
        budget: Duration,
    },
    /// Embedding failed.
    #[error("{0}")]
    Embedding(String),
    /// Training failed for a reason that no other variant names.
    #[error("{0}")]
    Training(String),
    /// Ranks could not exchange data, or differ, or another one failed.
    #[error("{0}")]
    Ranks(String),
    /// A loss, a gradient or a logit is not a finite number: training diverged, the machine is fine.
    #[error("{what}: {remedy}")]
    NotFinite {
        /// What is not finite, and its value if it is a single one.
        what: String,
        /// What may help.
        remedy: String,
    },
    /// The loader failed: no image can be decoded, or a worker thread panicked.
    #[error("{0}")]
    Loader(String),
    /// The device cannot hold the tensors that the settings need.
    #[error("{0}")]
    Unsupported(String),
    /// The user stopped the run; its state is saved.
    #[error("{}", interrupted(*step, run))]
    Interrupted {
        /// The last finished step.
        step: usize,
        /// The run folder.
        run: PathBuf,
    },
}

fn interrupted(step: usize, run: &Path) -> String {
    match step {
        0 => "stopped before the first step".to_owned(),
        _ => format!("stopped at step {step}, saved in {}", printable(run)),
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: an I/O error together with the path it belongs to.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// Its text without the path, which is then printed separately.
    pub fn without_path(&self) -> String {
        match self {
            Self::Data { reason, .. } => reason.clone(),
            Self::Io { source, .. } => source.to_string(),
            error => error.to_string(),
        }
    }

    /// A setting that cannot work: its key, its value and what is allowed.
    pub fn config(key: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> Self {
        Self::Config {
            key: key.into(),
            value: value.to_string(),
            remedy: remedy.into(),
        }
    }

    /// The error of a setting with the table of the TOML file before its key, such as `method.mask_ratio`; other errors stay.
    pub(crate) fn in_table(self, table: &str) -> Self {
        match self {
            Self::Config { key, value, remedy } => {
                Self::config(format!("{table}.{key}"), value, remedy)
            }
            other => other,
        }
    }

    /// A number that is not finite.
    pub fn not_finite(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::NotFinite {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A checkpoint or run folder that cannot be used.
    pub fn checkpoint(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An image or folder that cannot be used.
    pub fn data(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Data {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }
}

/// What was found at `path`; none where nothing is there.
///
/// # Errors
/// [`Error::Io`] of any other failure.
pub(crate) fn if_there<T>(path: &Path, found: std::io::Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Checks a setting; the error names it, its value and what is allowed.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn require(
    is_met: bool,
    key: impl Into<String>,
    value: impl ToString,
    remedy: impl Into<String>,
) -> Result<()> {
    if is_met {
        Ok(())
    } else {
        Err(Error::config(key, value, remedy))
    }
}

/// Checks that each of these settings (name, value, bound) is from 1 to its bound.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn require_counts<const N: usize>(counts: [(&str, usize, usize); N]) -> Result<()> {
    counts.into_iter().try_for_each(|(key, value, bound)| {
        let is_met = (1..=bound).contains(&value);
        require(is_met, key, value, format!("must be from 1 to {bound}"))
    })
}

/// A number with its noun: `1 step`, `2 steps`.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A name from outside as one line that is safe to print: control characters (`\n`), characters that
/// reorder text, and bytes that are not UTF-8 (`\xff`) are escaped.
pub fn printable(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}
