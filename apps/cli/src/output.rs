//! Printing: results to stdout, progress lines to stdout or stderr. Nothing here panics.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use ibot::{Error, Result};
use serde::Serialize;

use super::screen::is_quiet;

/// Prints a progress line, unless --quiet. A closed pipe (`ibot train | head`) must not end a run, so errors are dropped.
pub fn say(line: impl Display) {
    if !is_quiet() {
        let _ = writeln!(stdout(), "{line}");
    }
}

/// Prints a line on stderr; errors are dropped, because there is no other place to report them.
pub fn warn(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Prints a result as it is.
///
/// # Errors
/// As [`answer`].
pub fn answer_bytes(bytes: &[u8]) -> Result<()> {
    let mut to = stdout();
    written(to.write_all(bytes).and_then(|()| to.flush()))
}

/// Prints a line of the result.
///
/// # Errors
/// [`Error::Io`] if it cannot be written, as on a full disk; a closed pipe (`| head`) is not an error.
pub fn answer(line: impl Display) -> Result<()> {
    written(write_line(&mut stdout(), line))
}

/// Prints a result: as JSON, or its text.
///
/// # Errors
/// As [`answer`].
pub fn answer_json(
    is_json: bool,
    result: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<()> {
    if !is_json {
        return answer(text().trim_end());
    }
    let json = serde_json::to_string_pretty(result).map_err(|error| {
        Error::Training(format!("the result cannot be written as JSON: {error}"))
    })?;
    answer(json)
}

fn write_line(to: &mut impl Write, line: impl Display) -> std::io::Result<()> {
    writeln!(to, "{line}")?;
    to.flush()
}

/// A full disk is an error, a closed pipe is not.
pub fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("standard output")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_one() {
        assert!(written(Ok(())).is_ok());
        assert!(written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        let full = written(Err(ErrorKind::StorageFull.into())).unwrap_err();
        assert!(full.to_string().starts_with("standard output: "), "{full}");
    }
}
