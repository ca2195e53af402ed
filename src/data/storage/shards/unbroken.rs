//! Errors of the reader of Parquet tables: whose fault they are.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use parquet::errors::{ParquetError, Result as ParquetResult};

use crate::data::storage::shards::window::Window;
use crate::error::{Error, Result, printable};

/// A part of a table; its errors are [`OfTheDisk`], as those of a codec that finds damage are `io::Error`s too.
pub(super) struct OfTable(pub Window);

/// An error of the disk or server, which says nothing of what is in a table.
#[derive(Debug)]
struct OfTheDisk(io::Error);

impl fmt::Display for OfTheDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for OfTheDisk {}

impl Read for OfTable {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into);
        read.map_err(|error| io::Error::new(error.kind(), OfTheDisk(error)))
    }
}

/// Runs `read`; an error or a panic of the reader is that of a damaged file.
pub(super) fn unbroken<T>(path: &Path, read: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    let failed = |reason: String| Error::data(path, format!("cannot be read as Parquet: {reason}"));
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    match read {
        Ok(read) => read.map_err(|error| match of_the_disk(error) {
            Ok(of_the_disk) => Error::io(path)(of_the_disk),
            Err(error) => failed(printable(error.to_string())),
        }),
        Err(_) => Err(failed("it is damaged".to_owned())),
    }
}

/// The error of a disk or server, if it is one.
fn of_the_disk(error: ParquetError) -> std::result::Result<io::Error, ParquetError> {
    let ParquetError::External(cause) = error else {
        return Err(error);
    };
    let cause = cause.downcast::<io::Error>();
    let cause = *cause.map_err(ParquetError::External)?;
    let is_marked = matches!(cause.get_ref(), Some(of) if of.is::<OfTheDisk>());
    if is_marked {
        Ok(cause)
    } else {
        Err(ParquetError::External(Box::new(cause)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_disk_that_fails_is_no_damaged_table() {
        let of = |error: io::Error| unbroken(Path::new("a.parquet"), || Err::<(), _>(error.into()));
        let failed = || io::Error::new(ErrorKind::TimedOut, "no answer");
        let disk = of(io::Error::new(ErrorKind::TimedOut, OfTheDisk(failed())));
        assert!(matches!(disk, Err(Error::Io { .. })));
        // codecs make such errors of damaged pages
        assert!(matches!(of(failed()), Err(Error::Data { .. })));
        let panic = unbroken(Path::new("a.parquet"), || -> ParquetResult<()> {
            panic!("in it")
        });
        assert!(panic.is_err_and(|error| error.to_string().contains("damaged")));
    }
}
