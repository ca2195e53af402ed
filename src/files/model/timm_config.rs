//! What timm's `config.json` says of a vision transformer and of its pictures, as numbers of this program, and back.
//!
//! Source: timm 1.0.31, models/_hub.py (`_parse_model_cfg`), models/vision_transformer.py (arguments of `VisionTransformer`),
//! data/config.py (`resolve_data_config`), data/transforms_factory.py (`transforms_imagenet_eval`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::backbone::{Normalization, VitConfig, split_tag, vit_from_name};
use crate::data::{EvalFit, ValueRange, augment::Interpolation};
use crate::error::printable;
use crate::files::model::card::{ModelCard, Preprocessing};
use crate::files::model::described::Described;
use crate::files::model::transformers_config::numbers;

/// timm's function whose arguments make any shape.
const ANY_SHAPE: &str = "vit_base_patch16_224";
/// What `resolve_data_config` takes where nothing is said.
const CROP_PCT: f64 = 0.875;

/// Arguments of `timm.create_model` that say a shape: keys of [`VitConfig`].
const SHAPE: [&str; 12] = [
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "class_token",
    "reg_tokens",
    "no_embed_class",
    "init_values",
    "global_pool",
];
/// Arguments that change nothing in what a trained backbone computes for a picture of its size.
const WITHOUT_EFFECT: [&str; 12] = [
    "num_classes",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "dynamic_img_size",
    "dynamic_img_pad",
    "strict_img_size",
];

/// Arguments that are not supported with another value than timm's default. All others have none, or false.
fn only() -> [(&'static str, Value); 4] {
    [
        ("in_chans", json!(3)),
        ("proj_bias", json!(true)),
        ("pos_embed", json!("learn")),
        ("final_norm", json!(true)),
    ]
}

/// The part of `config.json` that is of interest here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TimmConfig {
    architecture: Option<String>,
    model_args: Option<Map<String, Value>>,
    pretrained_cfg: Option<PretrainedCfg>,
    /// An old description has its settings on the outside.
    #[serde(flatten)]
    outside: PretrainedCfg,
}

/// How pictures are prepared.
#[derive(Debug, Default, Deserialize)]
struct PretrainedCfg {
    input_size: Option<[usize; 3]>,
    fixed_input_size: Option<bool>,
    interpolation: Option<String>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

impl TimmConfig {
    /// Name, shape and preprocessing, or why they cannot be had here; `source` is what to call the file. A name that is not known
    /// has no shape: the user may know better.
    pub fn described(self, source: &str) -> Result<Described, String> {
        let settings = self.pretrained_cfg.unwrap_or(self.outside);
        let arguments = self.model_args.unwrap_or_default();
        let preprocessing = settings.preprocessing(&arguments)?;
        let normalization = (settings.mean.zip(settings.std))
            .map(|(mean, std)| Normalization { mean, std })
            .or_else(|| Some(preprocessing.as_ref()?.normalization()));
        let side = preprocessing.as_ref().map_or(224, |of| of.image_size);
        let named = self.architecture.as_deref();
        let known = named.and_then(|name| vit_from_name(name, side).ok());
        let architecture = known
            .as_ref()
            .map(|known| with_arguments(known, &arguments));
        let architecture = architecture.transpose()?;
        let is_named = known
            .zip(architecture.as_ref())
            .is_none_or(|(known, own)| known.computes_as(own));
        Ok(Described {
            encoder: self.architecture.filter(|_| is_named),
            architecture,
            normalization,
            preprocessing,
            source: format!("from {source}"),
        })
    }
}

/// A shape with arguments of `timm.create_model`, or why it is not supported. Its input size stays.
fn with_arguments(known: &VitConfig, arguments: &Map<String, Value>) -> Result<VitConfig, String> {
    let failed = |error: serde_json::Error| format!("has model_args that do not fit: {error}");
    let mut shape = serde_json::to_value(known).map_err(failed)?;
    for (key, value) in arguments {
        let default = only().into_iter().find(|(only, _)| only == key);
        let is_default = match default {
            Some((_, default)) => *value == default || value.is_null(),
            None => matches!(value, Value::Null | Value::Bool(false)),
        };
        match key.as_str() {
            "img_size" => {}
            of_shape if SHAPE.contains(&of_shape) => shape[of_shape] = one_side(value).clone(),
            _ if is_default || WITHOUT_EFFECT.contains(&key.as_str()) => {}
            _ => {
                let (key, value) = (printable(key), printable(value.to_string()));
                return Err(format!(
                    "has model_args.{key} = {value}, which is not supported"
                ));
            }
        }
    }
    let shape: VitConfig = serde_json::from_value(shape).map_err(failed)?;
    shape
        .validate()
        .map_err(|error| format!("has model_args that do not fit: {error}"))?;
    Ok(shape)
}

/// One number for two equal sides.
fn one_side(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([height, width]) if height == width => height,
        _ => value,
    }
}

impl PretrainedCfg {
    /// How pictures are prepared, or why that cannot be done here; none without an input size.
    fn preprocessing(
        &self,
        arguments: &Map<String, Value>,
    ) -> Result<Option<Preprocessing>, String> {
        let Some([channels, height, width]) = self.input_size else {
            return Ok(None);
        };
        if channels != 3 || height != width {
            return Err(format!(
                "has input_size {channels} x {height} x {width}; inputs here are square, of 3 channels"
            ));
        }
        let own = arguments
            .get("img_size")
            .map(one_side)
            .and_then(Value::as_u64);
        let own = own.filter(|_| self.fixed_input_size == Some(true));
        let image_size = own.map_or(height, |side| side as usize);
        let interpolation = match self.interpolation.as_deref() {
            None | Some("" | "bicubic") => Interpolation::Bicubic,
            Some("bilinear") => Interpolation::Bilinear,
            Some(other) => return Err(unlike("interpolation", other, "bilinear and bicubic")),
        };
        let mean = self.mean.unwrap_or(Normalization::IMAGENET.mean);
        let std = self.std.unwrap_or(Normalization::IMAGENET.std);
        if !(Normalization { mean, std }).is_of_levels() {
            return Err("has mean or std that are none of levels from 0 to 1".into());
        }
        Ok(Some(Preprocessing {
            image_size,
            fit: self.fit(image_size)?,
            range: ValueRange::Auto,
            interpolation,
            mean,
            std,
        }))
    }

    fn fit(&self, side: usize) -> Result<EvalFit, String> {
        let crop_pct = self.crop_pct.filter(|pct| *pct != 0.0).unwrap_or(CROP_PCT);
        if !(0.01..=1.0).contains(&crop_pct) {
            return Err(unlike("crop_pct", crop_pct, "0.01 to 1"));
        }
        match self.crop_mode.as_deref() {
            None | Some("" | "center") => Ok(EvalFit::Shorter((side as f64 / crop_pct) as usize)),
            Some("squash") if crop_pct == 1.0 => Ok(EvalFit::Stretch),
            Some(other) => {
                let supported = "center, and squash with a crop_pct of 1";
                Err(unlike("crop_mode", other, supported))
            }
        }
    }
}

fn unlike(key: &str, value: impl ToString, supported: &str) -> String {
    let value = printable(value.to_string());
    format!(
        "has {key} {value}; supported: {supported}. Its file of weights alone, with `encoder`, is read as by this program's own \
         evaluation"
    )
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
pub(super) fn timm_config(card: &ModelCard) -> Value {
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
    let (architecture, model_args) = timm_model(card);
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
            "fixed_input_size": true,
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
    match ((side as f64 / share) as usize) < shorter {
        true => share.next_down(),
        false => share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(config: Value) -> Result<Described, String> {
        let config: TimmConfig = serde_json::from_value(config).unwrap();
        config.described("config.json")
    }

    fn published() -> Value {
        json!({
            "architecture": "vit_small_patch16_224",
            "num_classes": 1000,
            "global_pool": "token",
            "pretrained_cfg": {
                "tag": "augreg_in21k_ft_in1k",
                "input_size": [3, 224, 224],
                "fixed_input_size": true,
                "interpolation": "bicubic",
                "crop_pct": 0.9,
                "crop_mode": "center",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
            },
        })
    }

    #[test]
    fn pictures_are_prepared_as_it_says() {
        let found = described(published()).unwrap();
        assert_eq!(found.encoder.as_deref(), Some("vit_small_patch16_224"));
        let preprocessing = found.preprocessing.unwrap();
        // floor(224 / 0.9)
        assert_eq!(preprocessing.fit, EvalFit::Shorter(248));
        assert_eq!(preprocessing.normalization(), Normalization::HALF);
        assert_eq!(found.normalization, Some(Normalization::HALF));
        let mut changed = published();
        let settings = &mut changed["pretrained_cfg"];
        settings["input_size"] = json!([3, 384, 384]);
        settings["crop_pct"] = json!(1.0);
        settings["crop_mode"] = json!("squash");
        settings["interpolation"] = json!("bilinear");
        let preprocessing = described(changed.clone()).unwrap().preprocessing.unwrap();
        assert_eq!(preprocessing.image_size, 384);
        assert_eq!(preprocessing.fit, EvalFit::Stretch);
        assert_eq!(preprocessing.interpolation, Interpolation::Bilinear);
        // an old description has no table of its own, and timm's defaults for what it does not say
        let old = json!({"architecture": "vit_small_patch16_224", "input_size": [3, 224, 224]});
        let preprocessing = described(old).unwrap().preprocessing.unwrap();
        assert_eq!(preprocessing.fit, EvalFit::Shorter(256));
        assert_eq!(preprocessing.normalization(), Normalization::IMAGENET);
    }

    #[test]
    fn arguments_change_the_shape() {
        let mut config = published();
        config["model_args"] = json!({
            "img_size": [96, 96], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "reg_tokens": 3,
            "no_embed_class": true, "init_values": 1e-5, "global_pool": "avg", "drop_path_rate": 0.1, "qk_norm": false,
            "norm_layer": null, "in_chans": 3, "num_classes": 10,
        });
        let found = described(config.clone()).unwrap();
        assert_eq!(found.encoder, None);
        let vit = found.architecture.unwrap();
        assert_eq!((vit.embed_dim, vit.depth, vit.reg_tokens), (32, 2, 3));
        assert_eq!(vit.global_pool, crate::backbone::GlobalPool::Avg);
        // timm sets the pictures' size to that of the arguments
        assert_eq!(found.preprocessing.unwrap().image_size, 96);
        // of a known shape the name stays
        config["model_args"] = json!({"img_size": 96, "drop_path_rate": 0.1});
        let found = described(config).unwrap();
        assert_eq!(found.encoder.as_deref(), Some("vit_small_patch16_224"));
        assert_eq!(found.preprocessing.unwrap().image_size, 96);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |key: &str, value: Value, parts: &[&str]| {
            let mut config = published();
            match key {
                "model_args" => config[key] = value,
                _ => config["pretrained_cfg"][key] = value,
            }
            let message = described(config).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{part} is not in {message}");
            }
        };
        let argument = |key: &str, value: Value| json!({ key: value });
        for (key, value) in [
            ("qk_norm", json!(true)),
            ("act_layer", json!("silu")),
            ("proj_bias", json!(false)),
            ("pos_embed", json!("none")),
            ("in_chans", json!(1)),
        ] {
            let shown = value.to_string();
            refused("model_args", argument(key, value), &[key, &shown]);
        }
        refused(
            "model_args",
            argument("global_pool", json!("map")),
            &["model_args", "map"],
        );
        refused(
            "model_args",
            argument("num_heads", json!(5)),
            &["num_heads", "384"],
        );
        refused("input_size", json!([1, 224, 224]), &["1 x 224 x 224"]);
        refused("input_size", json!([3, 224, 192]), &["3 x 224 x 192"]);
        refused("interpolation", json!("lanczos"), &["lanczos", "bicubic"]);
        refused(
            "crop_mode",
            json!("border"),
            &["border", "center", "encoder"],
        );
        refused("crop_mode", json!("squash"), &["squash", "crop_pct of 1"]);
        refused("crop_pct", json!(1.2), &["crop_pct 1.2"]);
        refused("std", json!([0.0, 1.0, 1.0]), &["std"]);
    }

    #[test]
    fn a_name_that_is_not_known_has_no_shape() {
        let mut config = published();
        config["architecture"] = json!("vit_pwee_patch16_reg1_gap_256");
        let found = described(config).unwrap();
        assert_eq!(
            found.encoder.as_deref(),
            Some("vit_pwee_patch16_reg1_gap_256")
        );
        assert_eq!(found.architecture, None);
    }

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
