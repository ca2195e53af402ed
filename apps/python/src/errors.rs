//! The library's errors as exceptions of `ibot_train`, with the same text.

use ibot::Error;
use pyo3::prelude::*;

pyo3::import_exception!(ibot_train._errors, IbotError);
pyo3::import_exception!(ibot_train._errors, SettingError);
pyo3::import_exception!(ibot_train._errors, FileError);
pyo3::import_exception!(ibot_train._errors, DeviceError);
pyo3::import_exception!(ibot_train._errors, Interrupted);

/// What does the same here as an item of the library that messages name.
const HERE: [(&str, &str); 2] = [
    ("`allow_changes`", "`override=True`"),
    ("`encoder_names`", "`ibot inspect --encoders`"),
];

/// The exception of an error.
pub fn raised(error: Error) -> PyErr {
    let text = HERE.iter().fold(error.to_string(), |text, (name, here)| {
        text.replace(name, here)
    });
    match error {
        Error::Interrupted { .. } => Interrupted::new_err(text),
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
