//! The files of a run's two backbones.

use std::path::Path;

use crate::error::Result;
use crate::files::model::{ModelCard, write_model, write_timm_folder};
use crate::train::run::best::BEST;
use crate::train::trainer::Tensors;

/// What the card of the teacher calls it.
const TEACHER: &str = "teacher";

/// Writes student and teacher, and the best teacher, or else this one, for timm and transformers.
///
/// # Errors
/// [`crate::Error::Io`].
pub(super) fn write_backbones(
    folder: &Path,
    backbones: &[Tensors; 2],
    cards: &[ModelCard; 2],
) -> Result<()> {
    let mut pairs = cards.iter().zip(backbones);
    pairs.try_for_each(|(card, tensors)| {
        let path = folder.join(format!("{}.safetensors", card.network));
        write_model(&path, card, tensors)?;
        let best = folder.join(BEST);
        match (card.network == TEACHER, best.exists()) {
            (true, true) => write_timm_folder(&best, card),
            (true, false) => write_timm_folder(&path, card),
            (false, _) => Ok(()),
        }
    })
}
