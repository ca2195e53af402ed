//! Why an image could not be read: whether it may be read later, and that for several threads, as errors cannot be cloned.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// Kinds of I/O errors that say something of the file itself: it is gone, is another thing now, may not be read, or ends too early.
const OF_THE_FILE: [ErrorKind; 9] = [
    ErrorKind::NotFound,
    ErrorKind::PermissionDenied,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::InvalidFilename,
    ErrorKind::InvalidInput,
    ErrorKind::InvalidData,
    ErrorKind::UnexpectedEof,
    ErrorKind::Unsupported,
];

/// Whether the same image may be read later: a disk, a share or a server failed, or the process had no file left to open. Damaged
/// images, and files that are gone, stay so.
pub(in crate::data) fn may_pass(error: &Error) -> bool {
    kind(error).is_some_and(|kind| !OF_THE_FILE.contains(&kind))
}

/// Reads that may fail for one image: with the pauses between them, two thirds of a second.
pub(in crate::data) const TRIES: usize = 8;
/// Pauses between such reads, the first and the longest. A share that is away refuses thousands of images a second.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// The pause after so many reads that failed. None after the first: one file on a bad sector costs no time.
pub(in crate::data) fn pause_after(failed: usize) -> Option<Duration> {
    let doublings = failed.checked_sub(2)?;
    Some((PAUSES[0] * (1 << doublings.min(10))).min(PAUSES[1]))
}

/// Reads again, for two thirds of a second, what fails in a way that may pass.
pub(crate) fn patiently<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    for failed in 1..TRIES {
        match read() {
            Err(error) if may_pass(&error) => {
                std::thread::sleep(pause_after(failed).unwrap_or_default());
            }
            done => return done,
        }
    }
    read()
}

fn kind(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

/// An error that several threads get.
#[derive(Debug, Clone)]
pub(in crate::data) struct Failure {
    reason: String,
    /// Of an I/O error.
    kind: Option<ErrorKind>,
}

impl Failure {
    pub fn of(error: &Error) -> Self {
        Self {
            reason: error.without_path(),
            kind: kind(error),
        }
    }

    /// The same error, about `path`.
    pub fn error(&self, path: &Path) -> Error {
        let reason = self.reason.clone();
        match self.kind {
            Some(kind) => Error::io(path)(std::io::Error::new(kind, reason)),
            None => Error::data(path, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_stays_and_what_is_wrong_with_a_disk_passes() {
        let of = |source: io::Error| may_pass(&Error::io("a.png")(source));
        for kind in OF_THE_FILE {
            assert!(!of(kind.into()), "{kind:?}");
        }
        assert!(!may_pass(&Error::data("a.png", "truncated")));
        for kind in [
            ErrorKind::TimedOut,
            ErrorKind::StaleNetworkFileHandle,
            ErrorKind::Other,
        ] {
            assert!(of(kind.into()), "{kind:?}");
        }
        #[cfg(unix)]
        for number in [libc::EIO, libc::ESTALE, libc::EMFILE, libc::ENFILE] {
            assert!(of(io::Error::from_raw_os_error(number)), "{number}");
        }
    }

    #[test]
    fn what_may_pass_is_read_again_and_damage_is_not() {
        let reads = Cell::new(0);
        let failing = |kind: ErrorKind, times: usize| {
            reads.set(0);
            let found = patiently(|| {
                reads.set(reads.get() + 1);
                let is_over = reads.get() > times;
                is_over
                    .then_some(())
                    .ok_or_else(|| Error::io("a.png")(kind.into()))
            });
            (found.is_ok(), reads.get())
        };
        assert_eq!(failing(ErrorKind::TimedOut, 0), (true, 1));
        assert_eq!(failing(ErrorKind::TimedOut, 2), (true, 3));
        assert_eq!(failing(ErrorKind::TimedOut, 100), (false, TRIES));
        assert_eq!(failing(ErrorKind::NotFound, 100), (false, 1));
    }

    #[test]
    fn a_failure_is_the_same_error_again() {
        let errors = [
            Error::io("a.png")(io::Error::from_raw_os_error(5)),
            Error::io("a.png")(ErrorKind::NotFound.into()),
            Error::data("a.png", "truncated"),
        ];
        for error in errors {
            let again = Failure::of(&error).error(Path::new("a.png"));
            assert_eq!(again.to_string(), error.to_string());
            assert_eq!(may_pass(&again), may_pass(&error));
        }
    }
}
