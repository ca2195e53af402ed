//! The library's messages in the words of `ibot_train`, and its errors as exceptions with these texts.

use ibot::Error;
use pyo3::prelude::*;

pyo3::import_exception!(ibot_train._errors, IbotError);
pyo3::import_exception!(ibot_train._errors, SettingError);
pyo3::import_exception!(ibot_train._errors, FileError);
pyo3::import_exception!(ibot_train._errors, DeviceError);
pyo3::import_exception!(ibot_train._errors, Interrupted);

/// What does the same here as an item of the library that messages name. All others are keywords of the same name, of `train` or
/// `Embedder`.
const HERE: [(&str, &str); 4] = [
    ("`allow_changes`", "`override=True`"),
    ("`encoder_names`", "`ibot inspect --encoders`"),
    (
        "`Export`",
        "`ibot export --run FOLDER --out NEW.safetensors`",
    ),
    (
        "`Export::from_checkpoint`",
        "`ibot export --checkpoint FOLDER --out NEW.safetensors`",
    ),
];

/// An error, note or warning of the library with the names of this package in place of the library's.
pub fn in_python(text: &str) -> String {
    let named = |text: String, (name, here): &(&str, &str)| text.replace(name, here);
    HERE.iter().fold(text.to_owned(), named)
}

/// The exception of an error.
pub fn raised(error: Error) -> PyErr {
    let text = in_python(&error.to_string());
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
