//! Settings of the random views, with the defaults and meanings of torchvision's transforms.

use serde::{Deserialize, Serialize};

use crate::data::views::eval_fit::EvalFit;
use crate::error::{Error, Result};

/// How a crop is resized; both widen their filter where they shrink (torchvision's `antialias=True`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Catmull-Rom filter (a = -0.5), that of Pillow.
    #[default]
    Bicubic,
}

/// The random views of an image, applied in this order: crop, flip, color jitter, gray, blur, solarize, normalize.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Side S of a global view, in pixels. Default 224. Not a key of its own: it is the method's `image_size`.
    #[serde(skip)]
    pub image_size: usize,
    /// Global views G per image, which both networks see. Default 2. Source: DINO.
    pub global_views: usize,
    /// Smallest and largest fraction of the image's area that a global crop covers. Default `[0.4, 1.0]`. Source:
    /// DINO's `global_crops_scale`.
    pub scale: [f64; 2],
    /// Local views L per image, which only the student sees. Default 0. Source: the reference; DINO uses 8, the paper
    /// 10.
    pub local_views: usize,
    /// Side of a local view, in pixels; a multiple of the patch size. Default 96. Source: DINO.
    pub local_size: usize,
    /// Smallest and largest fraction of the image's area that a local crop covers. Default `[0.05, 0.4]`. Source:
    /// DINO's `local_crops_scale`.
    pub local_scale: [f64; 2],
    /// Smallest and largest ratio of a crop's width to its height; its logarithm is drawn uniformly. Default `[0.75,
    /// 1.333]`. Source: torchvision.
    pub ratio: [f64; 2],
    /// Which part of an image is evaluated. Default the center. Not a key of its own: it is the model's.
    #[serde(skip)]
    pub eval_fit: EvalFit,
    /// How crops are resized: "bicubic" or "bilinear". Default `"bicubic"`. Source: DINO.
    pub interpolation: Interpolation,
    /// Probability of a horizontal flip. Default 0.5. Source: DINO.
    pub flip: f64,
    /// Brightness, contrast, saturation and hue.
    pub color_jitter: ColorJitter,
    /// Probability of a gray view. Default 0.2. Source: DINO.
    pub gray: f64,
    /// Gaussian blur.
    pub blur: Blur,
    /// Inversion of bright values.
    pub solarize: Solarize,
    /// Whether views are rounded to whole levels of 0 to 255, as Pillow's are, and travel as bytes: a quarter of the
    /// memory and of the upload. Default false. Without color jitter, gray and blur, which leave fractions, views are whole
    /// levels and travel as bytes anyway.
    pub uint8: bool,
    /// Mean of red, green and blue in 0..1, which is subtracted. Default `[0.485, 0.456, 0.406]`. Source: ImageNet.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, which is divided by. Default `[0.229, 0.224, 0.225]`. Source:
    /// ImageNet.
    pub std: [f32; 3],
}

/// Color jitter: four changes in random order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// Brightness factor, drawn uniformly from max(0, 1 - x) to 1 + x. Default 0.4. Source: DINO.
    pub brightness: f64,
    /// Contrast factor, drawn as that of brightness. Default 0.4. Source: DINO.
    pub contrast: f64,
    /// Saturation factor, drawn as that of brightness. Default 0.2. Source: DINO.
    pub saturation: f64,
    /// Hue shift, drawn uniformly from -x to x, in turns of the color circle. Default 0.1. Source: DINO.
    pub hue: f64,
    /// Probability of the four together. Default 0.8. Source: DINO.
    pub probability: f64,
}

/// Gaussian blur.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// Probability, one for all views or one for each kind. Default 0.5. DINO and the paper: `{ first = 1.0, others =
    /// 0.1, local = 0.5 }`.
    pub probability: PerView,
    /// Standard deviation in pixels of the view, drawn uniformly. Default `[0.1, 2.0]`. Source: DINO.
    pub sigma: [f64; 2],
}

/// Inversion of the values that reach a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Solarize {
    /// Values that reach it are inverted, 0 to 255. Default 128.0. Source: Pillow, as in DINO.
    pub threshold: f64,
    /// Probability, one for all views or one for each kind. Default 0.2. DINO and the paper: `{ first = 0.0, others =
    /// 0.2, local = 0.0 }`.
    pub probability: PerView,
}

/// A probability: one number for all views, or one for each kind of them, as the paper has it for blur and solarize.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerView {
    /// The same for all.
    Same(f64),
    /// By the kind of the view.
    ByKind(ByKind),
}

/// One probability for each kind of view.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByKind {
    /// Of the first global view.
    pub first: f64,
    /// Of the other global views.
    pub others: f64,
    /// Of local views.
    pub local: f64,
}

/// What sort of view a number names: global ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    /// The first global view.
    First,
    /// Another global view.
    Other,
    /// A local view.
    Local,
}

impl PerView {
    /// Whether no view has it.
    fn is_never(self) -> bool {
        let kinds = [ViewKind::First, ViewKind::Other, ViewKind::Local];
        kinds.into_iter().all(|kind| self.of(kind) == 0.0)
    }

    /// The probability for views of this kind.
    pub fn of(self, kind: ViewKind) -> f64 {
        match (self, kind) {
            (Self::Same(probability), _) => probability,
            (Self::ByKind(each), ViewKind::First) => each.first,
            (Self::ByKind(each), ViewKind::Other) => each.others,
            (Self::ByKind(each), ViewKind::Local) => each.local,
        }
    }
}

impl From<f64> for PerView {
    fn from(probability: f64) -> Self {
        Self::Same(probability)
    }
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            global_views: 2,
            scale: [0.4, 1.0],
            local_views: 0,
            local_size: 96,
            local_scale: [0.05, 0.4],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            eval_fit: EvalFit::Margin,
            interpolation: Interpolation::Bicubic,
            flip: 0.5,
            color_jitter: ColorJitter::default(),
            gray: 0.2,
            blur: Blur::default(),
            solarize: Solarize::default(),
            uint8: false,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }
}

impl Default for ColorJitter {
    fn default() -> Self {
        Self {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            probability: 0.8,
        }
    }
}

impl Default for Blur {
    fn default() -> Self {
        Self {
            probability: PerView::Same(0.5),
            sigma: [0.1, 2.0],
        }
    }
}

impl Default for Solarize {
    fn default() -> Self {
        Self {
            threshold: 128.0,
            probability: PerView::Same(0.2),
        }
    }
}

impl AugmentConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// A value out of its range; the error names the key, the value and the range.
    pub fn validate(&self) -> Result<()> {
        whole("image_size", self.image_size, 8, 4096)?;
        whole("global_views", self.global_views, 1, 16)?;
        pair("scale", self.scale, 1e-4, 1.0)?;
        whole("local_views", self.local_views, 0, 64)?;
        if self.local_views > 0 {
            whole("local_size", self.local_size, 8, self.image_size)?;
        }
        pair("local_scale", self.local_scale, 1e-4, 1.0)?;
        pair("ratio", self.ratio, 0.01, 100.0)?;
        number("flip", self.flip, 0.0, 1.0)?;
        let jitter = &self.color_jitter;
        number("color_jitter.brightness", jitter.brightness, 0.0, 10.0)?;
        number("color_jitter.contrast", jitter.contrast, 0.0, 10.0)?;
        number("color_jitter.saturation", jitter.saturation, 0.0, 10.0)?;
        number("color_jitter.hue", jitter.hue, 0.0, 0.5)?;
        number("color_jitter.probability", jitter.probability, 0.0, 1.0)?;
        number("gray", self.gray, 0.0, 1.0)?;
        per_view("blur.probability", self.blur.probability)?;
        pair("blur.sigma", self.blur.sigma, 0.01, 100.0)?;
        number("solarize.threshold", self.solarize.threshold, 0.0, 255.0)?;
        per_view("solarize.probability", self.solarize.probability)?;
        for (mean, std) in self.mean.iter().zip(self.std) {
            number("mean", f64::from(*mean), -1.0, 2.0)?;
            number("std", f64::from(std), 1e-3, 10.0)?;
        }
        Ok(())
    }

    /// Floats in one global view: 3 * S * S.
    pub fn view_len(&self) -> usize {
        3 * self.image_size * self.image_size
    }

    /// Whether every random view consists of whole levels of 0 to 255, rounded or not: crops and flips do, and inverted
    /// levels.
    pub fn has_whole_levels(&self) -> bool {
        let is_unmixed = self.color_jitter.probability == 0.0
            && self.gray == 0.0
            && self.blur.probability.is_never();
        self.uint8 || is_unmixed
    }

    /// All views of an image, G + L.
    pub fn views(&self) -> usize {
        self.global_views + self.local_views
    }

    /// What sort of view this number names.
    pub fn kind(&self, view: usize) -> ViewKind {
        match view {
            0 => ViewKind::First,
            _ if view < self.global_views => ViewKind::Other,
            _ => ViewKind::Local,
        }
    }

    /// Side of a view of this kind, and the share of the image's area that it covers.
    pub(in crate::data) fn size_and_scale(&self, kind: ViewKind) -> (usize, [f64; 2]) {
        match kind {
            ViewKind::First | ViewKind::Other => (self.image_size, self.scale),
            ViewKind::Local => (self.local_size, self.local_scale),
        }
    }
}

fn per_view(key: &str, value: PerView) -> Result<()> {
    match value {
        PerView::Same(probability) => number(key, probability, 0.0, 1.0),
        PerView::ByKind(each) => {
            number(&format!("{key}.first"), each.first, 0.0, 1.0)?;
            number(&format!("{key}.others"), each.others, 0.0, 1.0)?;
            number(&format!("{key}.local"), each.local, 0.0, 1.0)
        }
    }
}

fn number(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    // NaN is in no range.
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let remedy = format!("give a number from {low} to {high}");
    Err(Error::config(format!("augment.{key}"), value, remedy))
}

fn pair(key: &str, value: [f64; 2], low: f64, high: f64) -> Result<()> {
    let [first, second] = value;
    if (low..=high).contains(&first) && (first..=high).contains(&second) {
        return Ok(());
    }
    let remedy = format!("give [from, to] with {low} <= from <= to <= {high}");
    let value = format!("{value:?}");
    Err(Error::config(format!("augment.{key}"), value, remedy))
}

fn whole(key: &str, value: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let remedy = format!("give a whole number from {low} to {high}");
    Err(Error::config(format!("augment.{key}"), value, remedy))
}
