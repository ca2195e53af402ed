//! Errors of the reader of Parquet tables: whose fault they are.

use std::io::ErrorKind;
use std::path::Path;

use parquet::errors::{ParquetError, Result as ParquetResult};

use crate::error::{Error, Result, printable};

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

/// The error of a disk or server, which says nothing of what is in the file; that of a file that ends too early is no such error.
fn of_the_disk(error: ParquetError) -> std::result::Result<std::io::Error, ParquetError> {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(cause) if cause.kind() != ErrorKind::UnexpectedEof => Ok(*cause),
            Ok(cause) => Err(ParquetError::External(cause)),
            Err(cause) => Err(ParquetError::External(cause)),
        },
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_no_damaged_table() {
        let of = |kind: ErrorKind| {
            let failed = std::io::Error::new(kind, "of the disk");
            unbroken(Path::new("a.parquet"), || Err::<(), _>(failed.into()))
        };
        assert!(matches!(of(ErrorKind::TimedOut), Err(Error::Io { .. })));
        assert!(matches!(
            of(ErrorKind::UnexpectedEof),
            Err(Error::Data { .. })
        ));
        let panic = unbroken(Path::new("a.parquet"), || -> ParquetResult<()> {
            panic!("in it")
        });
        assert!(panic.is_err_and(|error| error.to_string().contains("damaged")));
    }
}
