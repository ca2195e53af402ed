//! A model file, with metadata from other sources.

use std::path::PathBuf;

use crate::backbone::{Normalization, VitConfig};
use crate::error::Result;
use crate::files::model::card::{CUSTOM, ModelCard, Preprocessing, read_card};

/// A model file, with metadata from other sources.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalModel {
    /// The file.
    pub file: PathBuf,
    /// Metadata from the hub, or from the files beside it.
    pub described: Described,
}

impl LocalModel {
    /// Side in pixels of the square input that its images are prepared for, by the file itself or by metadata from other sources.
    /// None if nothing says it.
    ///
    /// # Errors
    /// As [`read_card`].
    pub fn image_size(&self) -> Result<Option<usize>> {
        let own = read_card(&self.file)?.map(|card| card.preprocessing);
        let known = own.or_else(|| self.described.preprocessing.clone());
        Ok(known.map(|preprocessing| preprocessing.image_size))
    }
}

/// Metadata from other sources; the file's own takes precedence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    /// timm name of the backbone.
    pub encoder: Option<String>,
    /// Its shape, where the source has it in numbers.
    pub architecture: Option<VitConfig>,
    /// What it was trained with.
    pub normalization: Option<Normalization>,
    /// How its images are prepared, where the source says all of it.
    pub preprocessing: Option<Preprocessing>,
    /// Why they cannot be prepared here as the source says.
    pub refused: Option<String>,
    /// Where the normalization is from, in words.
    pub source: String,
}

impl Described {
    /// The backbone of a file of this program; the rest is read with its weights.
    pub(super) fn of_card(card: ModelCard) -> Self {
        let is_custom = card.encoder == CUSTOM;
        Self {
            encoder: (!is_custom).then_some(card.encoder),
            architecture: is_custom.then_some(card.architecture),
            ..Self::default()
        }
    }
}
