//! Arguments that are one of a few words, as the command's flags have them.

use ibot::train::{OnAnomaly, OnDeviceLost, PretrainedParts};
use ibot::{Error, Result};

/// Words with what they mean.
type Choices<T> = &'static [(&'static str, T)];

pub const ON_ANOMALY: Choices<OnAnomaly> = &[
    ("warn", OnAnomaly::Warn),
    ("stop", OnAnomaly::Stop),
    ("rollback", OnAnomaly::Rollback),
];

pub const ON_DEVICE_LOST: Choices<OnDeviceLost> =
    &[("stop", OnDeviceLost::Stop), ("cpu", OnDeviceLost::Cpu)];

pub const PRETRAINED_PARTS: Choices<PretrainedParts> = &[
    ("backbone", PretrainedParts::Backbone),
    ("all", PretrainedParts::All),
];

/// What `word` of the argument `name` means.
///
/// # Errors
/// [`Error::Config`] with all words for another one.
pub fn choice<T: Copy>(name: &str, word: &str, choices: Choices<T>) -> Result<T> {
    let found = choices.iter().find(|(known, _)| *known == word);
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
        Error::config(name, word, format!("must be one of {}", words.join(", ")))
    })
}
