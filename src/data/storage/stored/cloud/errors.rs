//! What went wrong at a server, in words.

use std::io::{Error, ErrorKind};

/// An error with what to do about it.
pub fn in_words(error: object_store::Error) -> Error {
    use object_store::Error as Of;
    match error {
        Of::NotFound { .. } => Error::new(ErrorKind::NotFound, "no such object"),
        Of::Precondition { .. } => changed(),
        Of::NotSupported { .. } => {
            let reason = "the server gives no parts of its files (HTTP ranges)";
            Error::new(ErrorKind::Unsupported, reason)
        }
        Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => refused(),
        error => {
            // several lines of XML in some answers
            let words = error.to_string();
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            // that a list is refused has no kind of its own
            let is_refused =
                ["401 Unauthorized", "403 Forbidden"].map(|status| words.contains(status));
            if is_refused.contains(&true) {
                refused()
            } else {
                Error::other(words)
            }
        }
    }
}

fn refused() -> Error {
    let reason = "the server refuses: set the credentials in the environment (docs/data.md), or for a public bucket AWS_SKIP_SIGNATURE=true, with GOOGLE or AZURE in place of AWS for theirs";
    Error::new(ErrorKind::PermissionDenied, reason)
}

/// Why an object that is another one now is not read.
pub fn changed() -> Error {
    let reason = "has changed since it was listed; start again";
    Error::new(ErrorKind::InvalidData, reason)
}
