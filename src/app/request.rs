//! Requests to a handle: which images, and which of their features.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::{DynamicImage, RgbImage, RgbaImage};

use crate::app::job::Progress;
use crate::data::decode::{decode_rgb_in, rgb_of};
use crate::data::header::read_header;
use crate::data::{ValueRange, patiently};
use crate::error::{Error, Result};

/// What errors call an image without a path.
const IN_MEMORY: &str = "an image in memory";

/// An image, read or not. Transparency is composed on white. Values of more than 8 bits and floats are scaled to 8 bits by the
/// range of values of the model or of its options ([`crate::files::model::ModelOptions::range`]); without one, each image by its
/// own values ([`ValueRange::Auto`]).
#[derive(Debug, Clone, PartialEq)]
pub enum ImageInput {
    /// A file, read when it is needed, and turned as its EXIF data say.
    File(PathBuf),
    /// Pixels, taken as they are: `image::open` does not turn an image as its file's EXIF data say, so a photograph may lie on
    /// its side (`DynamicImage::apply_orientation` turns it).
    Image(DynamicImage),
}

impl ImageInput {
    /// Raw pixels, four bytes each, row by row from the top.
    ///
    /// # Errors
    /// [`Error::Config`] if the number of bytes is not `4 * width * height`, or there is no pixel.
    pub fn rgba(bytes: Vec<u8>, width: u32, height: u32) -> Result<Self> {
        let wanted = (u64::from(width) * u64::from(height)).saturating_mul(4);
        let given = bytes.len();
        if wanted == 0 || wanted != given as u64 {
            let value = format!("{given} bytes");
            let remedy = format!(
                "must be {wanted} bytes, 4 for each of {width} x {height} pixels; at least one pixel"
            );
            return Err(Error::config("rgba", value, remedy));
        }
        let image = RgbaImage::from_raw(width, height, bytes);
        let image = image.ok_or_else(|| Error::config("rgba", given, "too many bytes"))?;
        Ok(Self::Image(image.into()))
    }

    /// What errors call it.
    pub(super) fn name(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Image(_) => IN_MEMORY.into(),
        }
    }

    /// Bytes of the image once it is decoded; 0 of a file that tells nothing, or that will be refused.
    pub(super) fn decoded_bytes(&self, max_pixels: u64) -> u64 {
        let pixels = match self {
            Self::File(path) => match read_header(path, max_pixels) {
                Ok(Some(header)) => header.pixels(),
                Ok(None) | Err(_) => 0,
            },
            Self::Image(image) => u64::from(image.width()) * u64::from(image.height()),
        };
        3 * pixels
    }

    /// The image as the model gets it, before resizing; `range` is that of images with more than 8 bits.
    ///
    /// # Errors
    /// A file that cannot be read, or has more than `max_pixels` pixels; no pixel at all; floats that are NaN or infinite, or that
    /// `range` does not tell how to read.
    pub(super) fn into_rgb(self, max_pixels: u64, range: ValueRange) -> Result<RgbImage> {
        match self {
            Self::File(path) => patiently(|| decode_rgb_in(&path, max_pixels, range)),
            Self::Image(image) if image.width() == 0 || image.height() == 0 => {
                Err(Error::data(IN_MEMORY, "it has no pixel"))
            }
            Self::Image(image) => {
                rgb_of(image, range).map_err(|reason| Error::data(IN_MEMORY, reason))
            }
        }
    }
}

impl From<PathBuf> for ImageInput {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for ImageInput {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

impl From<DynamicImage> for ImageInput {
    fn from(image: DynamicImage) -> Self {
        Self::Image(image)
    }
}

impl From<RgbImage> for ImageInput {
    fn from(image: RgbImage) -> Self {
        Self::Image(image.into())
    }
}

impl From<RgbaImage> for ImageInput {
    fn from(image: RgbaImage) -> Self {
        Self::Image(image.into())
    }
}

/// Images to embed, and which results to compute.
#[derive(Default)]
pub struct EmbedRequest {
    pub(super) images: Vec<ImageInput>,
    pub(super) patches: bool,
    pub(super) attention: bool,
    pub(super) budget: Option<Duration>,
    pub(super) on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl EmbedRequest {
    /// The class token's feature of each image.
    pub fn new(images: impl IntoIterator<Item = impl Into<ImageInput>>) -> Self {
        Self {
            images: images.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Also returns the features of the patches.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// Also returns the attention of the last block.
    #[must_use]
    pub fn with_attention(mut self) -> Self {
        self.attention = true;
        self
    }

    /// Time limit, counted from [`crate::app::EmbedderHandle::embed`] on, with the time that other jobs and the loading of the
    /// model take; the job then ends as [`Error::OutOfTime`], after the current batch at the latest. Default: none.
    #[must_use]
    pub fn within(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Called on the handle's thread after each batch and when the job is over, for example to repaint a window. It must
    /// return soon.
    #[must_use]
    pub fn on_progress(mut self, call: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }
}

impl fmt::Debug for EmbedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.images.len();
        let (patches, attention) = (self.patches, self.attention);
        write!(
            f,
            "EmbedRequest({count} images, patches: {patches}, attention: {attention}, budget: {:?})",
            self.budget
        )
    }
}

impl<P: Into<ImageInput>> From<P> for EmbedRequest {
    fn from(image: P) -> Self {
        Self::new([image])
    }
}

/// The results for one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageFeatures {
    /// Feature of the class token (or the model's pooled feature), `[D]`.
    pub cls: Vec<f32>,
    /// Features of the patches, row by row, `[N, D]`; empty if not requested.
    pub patches: Vec<f32>,
    /// Attention of the class token to each patch in the last block, `[H, N]`; empty if not requested.
    pub attention: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use image::Rgba;

    use super::*;

    #[test]
    fn raw_pixels_must_be_as_many_as_they_say() {
        for (bytes, width, height) in [(11, 1, 3), (0, 0, 5), (0, 0, 0), (4, u32::MAX, u32::MAX)] {
            let error = ImageInput::rgba(vec![0; bytes], width, height).unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{error}");
        }
        let image = ImageInput::rgba(vec![10, 20, 30, 255, 0, 0, 0, 0], 1, 2).unwrap();
        let rgb = image.into_rgb(100, ValueRange::Auto).unwrap();
        assert_eq!(rgb.as_raw(), &[10, 20, 30, 255, 255, 255]);
    }

    #[test]
    fn images_of_any_kind_become_rgb() {
        let gray = DynamicImage::ImageLuma8(image::GrayImage::from_pixel(1, 1, image::Luma([9])));
        let half = RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 128]));
        let of = |image: ImageInput| image.into_rgb(100, ValueRange::Auto).unwrap().into_raw();
        assert_eq!(of(gray.into()), [9, 9, 9]);
        assert_eq!(of(half.into()), [127, 127, 127]);
        assert!(
            ImageInput::from(Path::new("absent.png"))
                .into_rgb(100, ValueRange::Auto)
                .is_err()
        );
    }
}
