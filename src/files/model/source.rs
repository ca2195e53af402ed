//! Which model: a file, or a name on the Hugging Face hub.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result, printable};
use crate::files::model::card::read_card;
use crate::files::model::described::{Described, LocalModel};
use crate::files::model::description::described_folder;
#[cfg(feature = "hub")]
use crate::files::model::hub::fetch;
use crate::path_text::in_words;

/// What a name on the hub begins with.
const HUB: &str = "hf:";

/// Where the weights of a model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// In a file, or in a folder with a `config.json`.
    File(PathBuf),
    /// On the hub, under a name such as `timm/vit_small_patch16_224.augreg_in21k`.
    Hub(String),
}

impl ModelSource {
    /// The file itself, the weights in a folder with a `config.json`, or the hub's file after it was downloaded into the cache
    /// that all programs share; what is in the cache is not downloaded again. A file of this program says which backbone it has.
    ///
    /// # Errors
    /// [`crate::Error::Weights`] for a name that the hub cannot have, without network, where the program was built without
    /// the feature `hub`, for a description of a model that is not supported, and as [`read_card`]; [`crate::Error::Io`] for a path
    /// that is not there.
    pub fn resolve(&self) -> Result<LocalModel> {
        match self {
            Self::File(file) => {
                std::fs::metadata(file).map_err(|error| Error::io(file)(in_words(error)))?;
                match described_folder(file)? {
                    Some(model) => Ok(model),
                    None => Ok(LocalModel {
                        file: file.clone(),
                        described: read_card(file)?.map(Described::of_card).unwrap_or_default(),
                    }),
                }
            }
            Self::Hub(name) => fetch(name),
        }
    }

    /// As it was given, safe to print.
    pub fn display(&self) -> impl fmt::Display {
        match self {
            Self::File(file) => printable(file),
            Self::Hub(name) => format!("{HUB}{}", printable(name)),
        }
    }
}

#[cfg(not(feature = "hub"))]
fn fetch(name: &str) -> Result<LocalModel> {
    let reason = "this program was built without support for the hub; build it with the feature hub, or download the \
                  model's file and give its path";
    Err(Error::Weights {
        path: format!("{HUB}{name}").into(),
        reason: reason.into(),
    })
}

/// `hf:OWNER/NAME` or a path; a file whose name begins so is `./hf:...`.
impl From<OsString> for ModelSource {
    fn from(given: OsString) -> Self {
        match given.to_str().and_then(|text| text.strip_prefix(HUB)) {
            Some(name) => Self::Hub(name.to_owned()),
            None => Self::File(given.into()),
        }
    }
}
