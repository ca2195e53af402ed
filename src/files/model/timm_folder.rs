//! A folder that timm and transformers open as it is: `model.safetensors`, and timm's `config.json` beside it.
//!
//! Source: timm 1.0.31, models/_hub.py (`load_model_config_from_path`, `load_state_dict_from_path`); transformers 5.24 wraps
//! timm's models where its `config.json` has no `model_type` (models/timm_wrapper).

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::backbone::{split_tag, vit_from_name};
use crate::data::views::augment::Interpolation;
use crate::error::{Error, Result};
use crate::files::model::card::ModelCard;
use crate::files::model::description::{CONFIG, WEIGHTS};
use crate::files::model::timm_config::SHAPE;
use crate::files::model::transformers_config::numbers;
use crate::unfinished::write_whole;

/// timm's function whose arguments make any shape.
const ANY_SHAPE: &str = "vit_base_patch16_224";

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

/// The name of a timm model of this shape, and the arguments of `timm.create_model` that its name does not imply.
pub fn timm_model(card: &ModelCard) -> (String, Map<String, Value>) {
    let vit = &card.architecture;
    let name = split_tag(&card.encoder).0;
    let is_known = vit_from_name(name, vit.img_size).is_ok_and(|known| known.computes_as(vit));
    let mut arguments = match serde_json::to_value(vit) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    };
    arguments.retain(|key, value| {
        let is_told = !is_known || key == "img_size";
        is_told && !value.is_null() && SHAPE.contains(&key.as_str())
    });
    let name = if is_known { name } else { ANY_SHAPE };
    (name.to_owned(), arguments)
}

/// The description of a model file.
fn timm_config(card: &ModelCard) -> Value {
    let preprocessing = &card.preprocessing;
    let side = preprocessing.image_size;
    let (crop_pct, crop_mode) = match preprocessing.fit.shorter_side(side) {
        Some(shorter) => (crop_pct(side, shorter), "center"),
        None => (1.0, "squash"),
    };
    let interpolation = match preprocessing.interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    let (architecture, mut model_args) = timm_model(card);
    // a classifier that was fine-tuned at another size: positions stay, and each forward pass resamples them to the image's
    let is_resampled = side != card.architecture.img_size;
    if is_resampled {
        model_args.insert("img_size".into(), json!(card.architecture.img_size));
        model_args.insert("dynamic_img_size".into(), json!(true));
    }
    let classes = card.classes.as_deref().unwrap_or_default();
    let mut config = json!({
        "architecture": architecture,
        "num_classes": classes.len(),
        "num_features": card.architecture.embed_dim,
        "global_pool": card.architecture.global_pool,
        "model_args": model_args,
        "pretrained_cfg": {
            "num_classes": classes.len(),
            "input_size": [3, side, side],
            "fixed_input_size": !is_resampled,
            "pool_size": null,
            "interpolation": interpolation,
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": numbers(preprocessing.mean),
            "std": numbers(preprocessing.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    });
    if !classes.is_empty() {
        config["label_names"] = json!(classes);
    }
    if let Some(license) = &card.license {
        config["pretrained_cfg"]["license"] = json!(license);
    }
    config
}

/// The share from which timm computes this shorter side: it rounds `side / crop_pct` down, which may be one less than what was
/// divided by.
fn crop_pct(side: usize, shorter: usize) -> f64 {
    let share = side as f64 / shorter.max(1) as f64;
    if ((side as f64 / share) as usize) < shorter {
        share.next_down()
    } else {
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timm_computes_the_shorter_side_that_was_meant() {
        for side in 1..600 {
            for shorter in side..2 * side {
                let share = crop_pct(side, shorter);
                assert_eq!((side as f64 / share) as usize, shorter, "{side} {shorter}");
            }
        }
    }
}
