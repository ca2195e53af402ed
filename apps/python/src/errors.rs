//! The library's errors as exceptions of `ibot_train`, with the same text.

use ibot::Error;
use pyo3::prelude::*;

pyo3::import_exception!(ibot_train._errors, IbotError);
pyo3::import_exception!(ibot_train._errors, SettingError);
pyo3::import_exception!(ibot_train._errors, FileError);
pyo3::import_exception!(ibot_train._errors, DeviceError);

/// The exception of an error.
pub fn raised(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Config { .. } => SettingError::new_err(text),
        Error::Io { .. }
        | Error::Data { .. }
        | Error::Weights { .. }
        | Error::Checkpoint { .. }
        | Error::OtherFormat { .. } => FileError::new_err(text),
        Error::Device(_) => DeviceError::new_err(text),
        _ => IbotError::new_err(text),
    }
}
