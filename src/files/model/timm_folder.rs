//! A folder that timm and transformers open as it is: `model.safetensors`, and timm's `config.json` beside it.
//!
//! Source: timm 1.0.31, models/_hub.py (`load_model_config_from_path`, `load_state_dict_from_path`); transformers 5.24 wraps
//! timm's models where its `config.json` has no `model_type` (models/timm_wrapper).

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::model::card::ModelCard;
use crate::files::model::description::{CONFIG, WEIGHTS};
use crate::files::model::timm_config::timm_config;
use crate::unfinished::write_whole;

/// Makes the folder of the model file `weights` one that `timm.create_model("local-dir:FOLDER", pretrained=True)` and
/// transformers' `AutoModel.from_pretrained(FOLDER)` open: writes `config.json`, and `model.safetensors`, which is another
/// name of the same file, or a copy where the file system has no hard links (FAT).
///
/// The weights keep their own name too: `teacher.safetensors` says what it is, and is what other programs may know. timm and
/// transformers ask for `model.safetensors`, which no setting of theirs changes.
///
/// # Errors
/// [`Error::Io`].
pub fn write_timm_folder(weights: &Path, card: &ModelCard) -> Result<()> {
    let model = weights.with_file_name(WEIGHTS[0]);
    let temporary = weights.with_file_name(format!("{}.tmp", WEIGHTS[0]));
    let _ = fs::remove_file(&temporary); // of a process that was killed
    if fs::hard_link(weights, &temporary).is_err() {
        fs::copy(weights, &temporary).map_err(Error::io(&model))?;
    }
    fs::rename(&temporary, &model).map_err(Error::io(&model))?;
    let _ = fs::remove_file(&temporary); // renaming one name of a file to another of it does nothing
    let config = weights.with_file_name(CONFIG);
    let text = serde_json::to_string_pretty(&timm_config(card));
    let text = text.map_err(|error| Error::io(&config)(std::io::Error::other(error)))?;
    write_whole(&config, (text + "\n").as_bytes())
}
