//! One view of an image: which random changes, and their result.

use std::ops::Range;

use fast_image_resize::pixels::U8x3;
use image::RgbImage;

use crate::data::views::augment::{AugmentConfig, ViewKind};
use crate::data::views::crop::{CropBox, SquareResizer};
use crate::data::views::photometric::Planes;
use crate::data::views::pixels::Pixels;
use crate::error::Result;
use crate::random::{Random, Stream};

/// All random choices of one view.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The part of the image that it shows.
    pub area: CropBox,
    /// Whether it is mirrored left to right.
    pub flip: bool,
    /// Color jitter, if any.
    pub jitter: Option<Jitter>,
    /// Whether it is gray.
    pub gray: bool,
    /// Standard deviation of its blur in pixels, if any.
    pub blur: Option<f64>,
    /// Whether its bright values are inverted.
    pub solarize: bool,
}

/// The four changes of color jitter and their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Jitter {
    /// First to last.
    pub order: [Change; 4],
    /// Factor; 1 changes nothing.
    pub brightness: f64,
    /// Factor; 1 changes nothing.
    pub contrast: f64,
    /// Factor; 1 changes nothing.
    pub saturation: f64,
    /// Shift in turns of the color circle; 0 changes nothing.
    pub hue: f64,
}

/// One change of color jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// All values times a factor.
    Brightness,
    /// Distance from the mean gray times a factor.
    Contrast,
    /// Distance from each pixel's gray times a factor.
    Saturation,
    /// A turn of the color circle.
    Hue,
}

impl View {
    /// View number `view` of sample `index` in `epoch`, for an image of `[width, height]` pixels.
    pub fn new(
        config: &AugmentConfig,
        seed: u64,
        epoch: u64,
        index: usize,
        view: usize,
        size: [u32; 2],
    ) -> Self {
        let stream = Stream::View(view as u32);
        let mut random = Random::new(seed, epoch, index as u64, stream);
        Self::draw(config, config.kind(view), &mut random, size)
    }

    /// Draws a view of this kind of an image of `[width, height]` pixels.
    ///
    /// Every number is drawn whether or not it is needed, so that one setting does not move the draws of another.
    fn draw(
        config: &AugmentConfig,
        kind: ViewKind,
        random: &mut Random,
        [width, height]: [u32; 2],
    ) -> Self {
        let flip = random.chance(config.flip);
        let is_jittered = random.chance(config.color_jitter.probability);
        let jitter = Jitter::draw(config, random);
        let gray = random.chance(config.gray);
        let is_blurred = random.chance(config.blur.probability.of(kind));
        let sigma = random.uniform(config.blur.sigma[0], config.blur.sigma[1]);
        let solarize = random.chance(config.solarize.probability.of(kind));
        let (_, scale) = config.size_and_scale(kind);
        Self {
            area: CropBox::draw(scale, config.ratio, random, [width, height]),
            flip,
            jitter: is_jittered.then_some(jitter),
            gray,
            blur: is_blurred.then_some(sigma),
            solarize,
        }
    }
}

impl Jitter {
    fn draw(config: &AugmentConfig, random: &mut Random) -> Self {
        let config = &config.color_jitter;
        let mut order = [
            Change::Brightness,
            Change::Contrast,
            Change::Saturation,
            Change::Hue,
        ];
        random.shuffle(&mut order);
        let mut factor = |spread: f64| random.uniform((1.0 - spread).max(0.0), 1.0 + spread);
        Self {
            order,
            brightness: factor(config.brightness),
            contrast: factor(config.contrast),
            saturation: factor(config.saturation),
            hue: random.uniform(-config.hue, config.hue),
        }
    }
}

/// Makes views of images; keeps its buffers, so one for every thread.
pub struct Augmenter {
    config: AugmentConfig,
    resizer: SquareResizer,
    planes: Planes,
}

impl Augmenter {
    /// For global views as `config` says, which is taken as valid.
    pub fn new(config: &AugmentConfig) -> Self {
        Self::of_kind(config, ViewKind::First)
    }

    /// For views of this kind.
    pub fn of_kind(config: &AugmentConfig, kind: ViewKind) -> Self {
        let (side, _) = config.size_and_scale(kind);
        Self {
            config: config.clone(),
            resizer: SquareResizer::new(side, config.interpolation),
            planes: Planes::new(side),
        }
    }

    /// `view` of `image`.
    ///
    /// # Shapes
    /// `[3, S, S]` planes in 0..=255, not yet normalized.
    ///
    /// # Errors
    /// The view's crop is not inside the image.
    pub fn render(&mut self, image: &RgbImage, view: &View) -> Result<&Planes> {
        let pixels = self.resizer.crop(image, &view.area)?;
        let planes = &mut self.planes;
        planes.load(pixels, view.flip);
        if let Some(jitter) = &view.jitter {
            for change in jitter.order {
                match change {
                    Change::Brightness => planes.brightness(jitter.brightness as f32),
                    Change::Contrast => planes.contrast(jitter.contrast as f32),
                    Change::Saturation => planes.saturation(jitter.saturation as f32),
                    Change::Hue => planes.hue(jitter.hue as f32),
                }
            }
        }
        if view.gray {
            planes.gray();
        }
        if let Some(sigma) = view.blur {
            planes.blur(sigma);
        }
        if view.solarize {
            planes.solarize(self.config.solarize.threshold as f32);
        }
        Ok(planes)
    }

    /// The evaluation view of `image`, see [`crate::data::EvalFit`].
    ///
    /// # Shapes
    /// `[3, S, S]` planes in 0..=255, not yet normalized.
    ///
    /// # Errors
    /// The image has no pixel.
    pub fn eval_view(&mut self, image: &RgbImage) -> Result<&Planes> {
        let pixels: &[U8x3] = self.resizer.center(image, self.config.eval_fit)?;
        self.planes.load(pixels, false);
        Ok(&self.planes)
    }

    /// Writes what was last rendered to `out`, normalized by the settings' mean and std.
    ///
    /// # Shapes
    /// `[3, S, S]`
    pub fn write(&self, out: &mut [f32]) {
        self.planes
            .normalize(self.config.mean, self.config.std, out);
    }

    /// Writes what was last rendered to `out`, rounded to whole levels; exact for an evaluation view.
    ///
    /// # Shapes
    /// `[3, S, S]`
    pub fn write_levels(&self, out: &mut [u8]) {
        for (value, out) in self.planes.values().iter().zip(out) {
            *out = (value + 0.5) as u8; // 255 for all above it
        }
    }

    /// Writes what was last rendered to its place in a batch.
    pub(in crate::data) fn write_to(&self, pixels: &mut Pixels, place: Range<usize>) {
        match pixels {
            Pixels::Levels { levels, .. } => self.write_levels(&mut levels[place]),
            Pixels::Values(values) => self.write(&mut values[place]),
        }
    }
}
