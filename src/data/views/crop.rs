//! Which part of an image a view shows, and its resize to the view's size in one step.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView as _, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::data::views::augment::Interpolation;
use crate::data::views::eval_fit::EvalFit;
use crate::error::{Error, Result};
use crate::random::Random;

/// Attempts of a random crop before it falls back to the center.
const ATTEMPTS: usize = 10;

/// A rectangle of whole pixels inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// Column of its left edge.
    pub left: u32,
    /// Row of its top edge.
    pub top: u32,
    /// Pixels per row, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

impl CropBox {
    /// A crop of an image of `width` x `height` as `torchvision.transforms.RandomResizedCrop` draws it: ten attempts
    /// at an area and an aspect ratio that fit, then the largest center crop of an allowed ratio.
    pub fn draw(
        scale: [f64; 2],
        [narrow, wide]: [f64; 2],
        random: &mut Random,
        [width, height]: [u32; 2],
    ) -> Self {
        let area = f64::from(width) * f64::from(height);
        for _ in 0..ATTEMPTS {
            let target = area * random.uniform(scale[0], scale[1]);
            let ratio = random.uniform(narrow.ln(), wide.ln()).exp();
            let crop_width = (target * ratio).sqrt().round_ties_even() as u32;
            let crop_height = (target / ratio).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                return Self {
                    top: random.below((height - crop_height + 1) as usize) as u32,
                    left: random.below((width - crop_width + 1) as usize) as u32,
                    width: crop_width,
                    height: crop_height,
                };
            }
        }
        let shape = f64::from(width) / f64::from(height);
        let (crop_width, crop_height) = if shape < narrow {
            (width, (f64::from(width) / narrow).round_ties_even() as u32)
        } else if shape > wide {
            ((f64::from(height) * wide).round_ties_even() as u32, height)
        } else {
            (width, height)
        };
        let (crop_width, crop_height) = (crop_width.clamp(1, width), crop_height.clamp(1, height));
        Self {
            left: (width - crop_width) / 2,
            top: (height - crop_height) / 2,
            width: crop_width,
            height: crop_height,
        }
    }
}

/// Resizes parts of images to S x S; keeps its buffers.
pub struct SquareResizer {
    resizer: Resizer,
    options: ResizeOptions,
    resized: TypedImage<'static, U8x3>,
}

impl SquareResizer {
    /// For views of `side` pixels per side.
    pub fn new(side: usize, interpolation: Interpolation) -> Self {
        let side = side as u32;
        let filter = match interpolation {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        };
        Self {
            resizer: Resizer::new(),
            options: ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)),
            resized: TypedImage::new(side, side),
        }
    }

    /// The part `area` of `image`; nothing outside of it is looked at, as if it were cut out first.
    ///
    /// # Shapes
    /// S x S pixels, row-major.
    ///
    /// # Errors
    /// `area` is not inside the image.
    pub fn crop(&mut self, image: &RgbImage, area: &CropBox) -> Result<&[U8x3]> {
        let view = borrow(image)?;
        let view = TypedCroppedImage::new(view, area.left, area.top, area.width, area.height)
            .map_err(failed)?;
        self.resizer
            .resize_typed(&view, &mut self.resized, &self.options)
            .map_err(failed)?;
        Ok(self.resized.pixels())
    }

    /// The evaluation view: the part of `image` that `fit` shows.
    ///
    /// # Shapes
    /// S x S pixels, row-major.
    ///
    /// # Errors
    /// The image has no pixel.
    pub fn center(&mut self, image: &RgbImage, fit: EvalFit) -> Result<&[U8x3]> {
        if image.is_empty() {
            return Err(failed("it has no pixels")); // the resizer would leave the last one's
        }
        let size = [image.width(), image.height()];
        let [[left, top], [width, height]] = fit.area(size, self.resized.width() as usize);
        // Pixels around the box contribute at its edges, as they do when the whole image is resized.
        let options = self.options.crop(left, top, width, height);
        self.resizer
            .resize_typed(&borrow(image)?, &mut self.resized, &options)
            .map_err(failed)?;
        Ok(self.resized.pixels())
    }
}

/// `image` at another size, by the filter of bicubic views.
///
/// # Errors
/// A side is zero.
pub(in crate::data) fn resized(image: &RgbImage, [width, height]: [u32; 2]) -> Result<RgbImage> {
    let filter = ResizeAlg::Convolution(FilterType::CatmullRom);
    let options = ResizeOptions::new().resize_alg(filter);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let mut small = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels).map_err(failed)?;
    Resizer::new()
        .resize_typed(&borrow(image)?, &mut small, &options)
        .map_err(failed)?;
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| failed("its size is zero"))
}

fn borrow(image: &RgbImage) -> Result<TypedImageRef<'_, U8x3>> {
    TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw()).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Loader(format!("an image could not be resized: {error}"))
}
