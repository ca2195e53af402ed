//! Why an image could not be read: whether it may be read later, and that for several threads, as errors cannot be cloned.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::Error;

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
