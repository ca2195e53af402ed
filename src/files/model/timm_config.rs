//! What timm's `config.json` says of a vision transformer and of its images, as numbers of this program; `timm_folder` writes one.
//!
//! Source: timm 1.0.31, models/_hub.py (`_parse_model_cfg`), models/vision_transformer.py (arguments of `VisionTransformer`),
//! data/config.py (`resolve_data_config`), data/transforms_factory.py (`transforms_imagenet_eval`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::backbone::{Normalization, VitConfig, vit_from_name};
use crate::data::{EvalFit, ValueRange, augment::Interpolation};
use crate::error::printable;
use crate::files::model::card::Preprocessing;
use crate::files::model::described::Described;

/// What timm takes where nothing is said.
const INPUT_SIZE: [usize; 3] = [3, 224, 224];
const CROP_PCT: f64 = 0.875;

/// Arguments of `timm.create_model` that say a shape: keys of [`VitConfig`].
pub(super) const SHAPE: [&str; 12] = [
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
/// Arguments that change nothing in what a trained backbone computes for an image of its size.
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

/// How images are prepared.
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
        let is_told = self.pretrained_cfg.is_some() || self.outside.input_size.is_some();
        if self.architecture.is_none() && !is_told {
            return Ok(Described::default()); // of something else
        }
        let settings = self.pretrained_cfg.unwrap_or(self.outside);
        let arguments = self.model_args.unwrap_or_default();
        let normalization = settings.normalization()?;
        let [_, height, _] = settings.input_size.unwrap_or(INPUT_SIZE);
        let (preprocessing, refused) = match settings.preprocessing(normalization, &arguments) {
            Ok(preprocessing) => (Some(preprocessing), None),
            Err(reason) => (None, Some(reason)),
        };
        let side = preprocessing.as_ref().map_or(height, |of| of.image_size);
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
            normalization: Some(normalization),
            preprocessing,
            refused,
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
            "img_size" | "fc_norm" => {}
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
    let norm_after_pool = shape.global_pool.norm_after_pool();
    if let Some(other) = arguments.get("fc_norm")
        && !(other.is_null() || *other == norm_after_pool)
    {
        return Err(format!(
            "has model_args.fc_norm = {}, which is not supported with its global_pool",
            printable(other.to_string())
        ));
    }
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
    fn normalization(&self) -> Result<Normalization, String> {
        let normalization = Normalization {
            mean: self.mean.unwrap_or(Normalization::IMAGENET.mean),
            std: self.std.unwrap_or(Normalization::IMAGENET.std),
        };
        if normalization.is_of_levels() {
            Ok(normalization)
        } else {
            Err("has mean or std that are none of levels from 0 to 1".into())
        }
    }

    /// Side of the input, in pixels.
    fn side(&self, arguments: &Map<String, Value>) -> Result<usize, String> {
        let [channels, height, width] = self.input_size.unwrap_or(INPUT_SIZE);
        let is = |key: &str, value: bool| arguments.get(key) == Some(&Value::Bool(value));
        let is_fixed = self.fixed_input_size == Some(true)
            && !is("dynamic_img_size", true)
            && !is("strict_img_size", false);
        let own = arguments.get("img_size").filter(|_| is_fixed);
        let [height, width] = match own.map(one_side) {
            None | Some(Value::Null) => [height, width],
            Some(side) => {
                let wrong = || format!("has model_args.img_size = {side}; inputs here are square");
                [side.as_u64().ok_or_else(wrong)? as usize; 2]
            }
        };
        if channels != 3 || height != width {
            return Err(format!(
                "has input_size {channels} x {height} x {width}; inputs here are square, of 3 channels"
            ));
        }
        Ok(height)
    }

    /// How images are prepared, or why that cannot be done here.
    fn preprocessing(
        &self,
        Normalization { mean, std }: Normalization,
        arguments: &Map<String, Value>,
    ) -> Result<Preprocessing, String> {
        let image_size = self.side(arguments)?;
        let interpolation = match self.interpolation.as_deref() {
            None | Some("" | "bicubic") => Interpolation::Bicubic,
            Some("bilinear") => Interpolation::Bilinear,
            Some(other) => return Err(unlike("interpolation", other, "bilinear and bicubic")),
        };
        Ok(Preprocessing {
            image_size,
            fit: self.fit(image_size)?,
            range: ValueRange::Auto,
            interpolation,
            mean,
            std,
        })
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
        "has {key} {value}; supported: {supported}. With the model's name as `encoder`, images are resized and cropped as for a file \
         without a description"
    )
}

#[cfg(test)]
mod tests;
