//! What transformers writes of a vision transformer and of its images, as numbers of this program, and back.
//!
//! Source: transformers 5.24, configuration_vit.py, configuration_dinov2.py, configuration_dinov2_with_registers.py,
//! image_processing_vit.py, image_processing_bit.py.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};

use crate::backbone::{LAYER_NORM_EPS, Normalization, VitConfig, encoder_names, vit_from_name};
use crate::data::{EvalFit, ValueRange, augment::Interpolation};
use crate::error::printable;
use crate::files::model::card::Preprocessing;
use crate::precision::Precision;

/// What an image's levels are divided by there: 255.
const RESCALE: f64 = 1.0 / 255.0;
/// Largest epsilon of a layer norm that is as good as the one here, 1e-6.
const MAX_EPS: f64 = 1e-5;
/// Pillow's numbers of filters.
const FILTERS: [(usize, Interpolation); 2] =
    [(2, Interpolation::Bilinear), (3, Interpolation::Bicubic)];

/// Which of its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Vit,
    Dinov2,
    Registers,
}

/// `model_type`, and the class that `AutoModel` makes of it.
pub(super) const FAMILIES: [(Family, &str, &str); 3] = [
    (Family::Vit, "vit", "ViTModel"),
    (Family::Dinov2, "dinov2", "Dinov2Model"),
    (
        Family::Registers,
        "dinov2_with_registers",
        "Dinov2WithRegistersModel",
    ),
];

/// The part of `config.json` that is of interest here; defaults are those of its classes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TransformersConfig {
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default = "width")]
    hidden_size: usize,
    #[serde(default = "twelve")]
    num_hidden_layers: usize,
    #[serde(default = "twelve")]
    num_attention_heads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    intermediate_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mlp_ratio: Option<Number>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    #[serde(default = "input")]
    image_size: usize,
    patch_size: Option<usize>,
    num_channels: Option<usize>,
    qkv_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layerscale_value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_register_tokens: Option<usize>,
    #[serde(default, skip_serializing)]
    use_swiglu_ffn: bool,
    /// Type of the weights, as PyTorch calls it.
    dtype: Option<String>,
}

/// The ratio whose product with `width`, rounded down, is `hidden`.
fn ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    if ((ratio * width as f64) as usize) < hidden {
        ratio.next_up()
    } else {
        ratio
    }
}

fn width() -> usize {
    768
}

fn twelve() -> usize {
    12
}

fn input() -> usize {
    224
}

impl TransformersConfig {
    pub fn model_type(&self) -> String {
        printable(&self.model_type)
    }

    fn family(&self) -> Result<Family, String> {
        let found = FAMILIES
            .iter()
            .find(|(_, name, _)| *name == self.model_type);
        found.map(|(family, ..)| *family).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|(_, name, _)| *name).collect();
            let known = known.join(", ");
            format!(
                "has model_type {}, which is not supported; those of transformers that are: {known}",
                self.model_type()
            )
        })
    }

    /// The shape, or why there is none.
    pub fn architecture(&self) -> Result<VitConfig, String> {
        let family = self.family()?;
        if self.use_swiglu_ffn {
            let reason = "has SwiGLU layers (use_swiglu_ffn), which are not supported; use a size with plain MLPs: small, \
                          base or large";
            return Err(reason.into());
        }
        let activation = self.hidden_act.as_deref().unwrap_or("gelu");
        if activation != "gelu" {
            let activation = printable(activation);
            return Err(format!(
                "has hidden_act {activation}; only gelu is supported"
            ));
        }
        let channels = self.num_channels.unwrap_or(3);
        if channels != 3 {
            return Err(format!("has num_channels {channels}; only 3 are supported"));
        }
        let eps = self.layer_norm_eps.unwrap_or(1e-6);
        if !(0.0..=MAX_EPS).contains(&eps) {
            return Err(format!(
                "has layer_norm_eps {eps}; supported is 1e-6, and up to {MAX_EPS:e}"
            ));
        }
        let is_vit = family == Family::Vit;
        let mlp_ratio = match (is_vit, self.intermediate_size) {
            (true, hidden) => ratio(hidden.unwrap_or(3072), self.hidden_size),
            (false, _) => (self.mlp_ratio.as_ref())
                .and_then(Number::as_f64)
                .unwrap_or(4.0),
        };
        let reg_tokens = match family {
            Family::Registers => self.num_register_tokens.unwrap_or(4),
            _ => 0,
        };
        let vit = VitConfig {
            img_size: self.image_size,
            patch_size: self.patch_size.unwrap_or(if is_vit { 16 } else { 14 }),
            embed_dim: self.hidden_size,
            depth: self.num_hidden_layers,
            num_heads: self.num_attention_heads,
            mlp_ratio,
            qkv_bias: self.qkv_bias.unwrap_or(true),
            reg_tokens,
            no_embed_class: reg_tokens > 0,
            init_values: (!is_vit).then(|| self.layerscale_value.unwrap_or(1.0)),
            ..VitConfig::default()
        };
        vit.validate()
            .map_err(|error| format!("does not fit: {error}"))?;
        Ok(vit)
    }

    /// The description of a shape that is one of this family.
    pub fn of(family: Family, vit: &VitConfig, dtype: Precision) -> Self {
        let (_, model_type, class) = FAMILIES[family as usize];
        let is_vit = family == Family::Vit;
        Self {
            model_type: model_type.into(),
            architectures: vec![class.into()],
            hidden_size: vit.embed_dim,
            num_hidden_layers: vit.depth,
            num_attention_heads: vit.num_heads,
            intermediate_size: is_vit.then(|| vit.mlp_width()),
            mlp_ratio: (!is_vit).then(|| whole(vit.mlp_ratio)).flatten(),
            hidden_act: Some("gelu".into()),
            layer_norm_eps: Some(LAYER_NORM_EPS),
            image_size: vit.img_size,
            patch_size: Some(vit.patch_size),
            num_channels: Some(3),
            qkv_bias: Some(vit.qkv_bias),
            layerscale_value: vit.init_values.filter(|_| !is_vit),
            num_register_tokens: (family == Family::Registers).then_some(vit.reg_tokens),
            use_swiglu_ffn: false,
            dtype: Some(torch_name(dtype).into()),
        }
    }

    /// The timm name of a shape.
    pub fn encoder(architecture: &VitConfig) -> Option<String> {
        let fits = |name: &String| {
            let known = vit_from_name(name, architecture.img_size);
            known.is_ok_and(|known| known.computes_as(architecture))
        };
        encoder_names().into_iter().find(fits)
    }
}

/// A size in `preprocessor_config.json`; a lone number in old files.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Side(usize),
    Shorter { shortest_edge: usize },
    Both { height: usize, width: usize },
}

/// The part of `preprocessor_config.json` that is of interest here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PreprocessorConfig {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<usize>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

impl PreprocessorConfig {
    /// How images of this model are prepared, or why that cannot be done here.
    pub fn preprocessing(&self, model: &TransformersConfig) -> Result<Preprocessing, String> {
        let is_vit = model.family()? == Family::Vit;
        if self.do_resize == Some(false) {
            return Err("has do_resize false, but images here are resized to one size".into());
        }
        let factor = self.rescale_factor.unwrap_or(RESCALE);
        if self.do_rescale == Some(false) || (factor / RESCALE - 1.0).abs() > 1e-3 {
            return Err(
                "does not scale levels by 1/255 (do_rescale, rescale_factor), as is done here"
                    .into(),
            );
        }
        let normalization = match (self.do_normalize, self.image_mean, self.image_std) {
            (Some(false), ..) => Normalization {
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            (_, Some(mean), Some(std)) => Normalization { mean, std },
            _ if is_vit => Normalization::HALF,
            _ => Normalization::IMAGENET,
        };
        if !normalization.is_of_levels() {
            return Err("has image_mean or image_std that are none of levels from 0 to 1".into());
        }
        let resample = self.resample.unwrap_or(if is_vit { 2 } else { 3 });
        let filter = FILTERS.iter().find(|(number, _)| *number == resample);
        let (_, interpolation) = filter.ok_or_else(|| {
            format!("has resample {resample}; supported are 2 (bilinear) and 3 (bicubic)")
        })?;
        let (image_size, fit) = self.size(is_vit, model.image_size)?;
        Ok(Preprocessing {
            image_size,
            fit,
            range: ValueRange::Auto,
            interpolation: *interpolation,
            mean: normalization.mean,
            std: normalization.std,
        })
    }

    /// Side of the input, and what of an image it shows; `native` is the side that the positions are for.
    fn size(&self, is_vit: bool, native: usize) -> Result<(usize, EvalFit), String> {
        let is_cropped = self.do_center_crop.unwrap_or(self.crop_size.is_some());
        let crop = self
            .crop_size
            .filter(|_| is_cropped)
            .map(|size| match size {
                Size::Side(side)
                | Size::Shorter {
                    shortest_edge: side,
                } => Ok(side),
                Size::Both { height, width } if height == width => Ok(height),
                Size::Both { height, width } => Err(format!(
                    "has crop_size {height} x {width}; inputs here are square"
                )),
            });
        let crop = crop.transpose()?;
        Ok(match (self.size, crop) {
            (None, None) if is_vit => (native, EvalFit::Stretch),
            (None, None) => (native, EvalFit::Margin),
            (Some(Size::Side(side)), None) => (side, EvalFit::Stretch),
            (Some(Size::Both { height, width }), None) if height == width => {
                (height, EvalFit::Stretch)
            }
            (
                Some(
                    Size::Side(side)
                    | Size::Shorter {
                        shortest_edge: side,
                    },
                ),
                Some(crop),
            ) if side >= crop => (crop, EvalFit::Shorter(side)),
            (size, crop) => {
                return Err(format!(
                    "has size {size:?} and crop {crop:?}; supported are a shortest_edge with a smaller crop_size, and a square \
                     size without a crop"
                ));
            }
        })
    }
}

/// PyTorch's name of a type.
fn torch_name(dtype: Precision) -> &'static str {
    match dtype {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::Bf16 => "bfloat16",
    }
}

/// A whole number without a point: transformers has a type for it.
fn whole(number: f64) -> Option<Number> {
    let is_whole = number.fract() == 0.0;
    let whole = is_whole.then(|| Number::from(number as u64));
    whole.or_else(|| Number::from_f64(number))
}

/// `preprocessor_config.json` of a model's preprocessing.
pub(super) fn preprocessor_json(preprocessing: &Preprocessing) -> Value {
    let side = preprocessing.image_size;
    let square = json!({"height": side, "width": side});
    let filter = FILTERS
        .iter()
        .find(|(_, filter)| *filter == preprocessing.interpolation);
    let mut json = json!({
        "do_convert_rgb": true,
        "do_resize": true,
        "resample": filter.map(|(number, _)| *number),
        "do_rescale": true,
        "rescale_factor": RESCALE,
        "do_normalize": true,
        "image_mean": numbers(preprocessing.mean),
        "image_std": numbers(preprocessing.std),
    });
    match preprocessing.fit.shorter_side(side) {
        Some(shorter) => {
            json["image_processor_type"] = "BitImageProcessor".into();
            json["size"] = json!({"shortest_edge": shorter});
            json["do_center_crop"] = true.into();
            json["crop_size"] = square;
        }
        None => {
            json["image_processor_type"] = "ViTImageProcessor".into();
            json["size"] = square;
        }
    }
    json
}

/// As short as f32 is printed: 0.485, not 0.48500001430511475.
pub(super) fn numbers(values: [f32; 3]) -> [f64; 3] {
    values.map(|value| value.to_string().parse().unwrap_or(f64::from(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_hidden_width_is_kept() {
        for width in 1..200 {
            for hidden in 1..800 {
                let vit = VitConfig {
                    embed_dim: width,
                    mlp_ratio: ratio(hidden, width),
                    ..VitConfig::default()
                };
                assert_eq!(vit.mlp_width(), hidden, "{width}");
            }
        }
    }
}
