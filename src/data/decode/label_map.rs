//! Segmentation masks: the class of each pixel of an image.

use std::io::BufReader;
use std::path::Path;

use image::RgbaImage;
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use crate::data::storage::limits::{memory_limit, unusable_size};
use crate::data::storage::opened::Opened;
use crate::data::views::eval_fit::EvalFit;
use crate::error::{Error, Result, printable};

/// Pixels of this class are of none, and are not counted.
pub const IGNORE_INDEX: u8 = 255;

/// Classes that [`LabelMap::of_alpha`] tells apart.
pub const ALPHA_CLASSES: [&str; 2] = ["background", "foreground"];

/// The class of each pixel of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Width and height.
    pub size: [u32; 2],
    /// 0 to 254, or [`IGNORE_INDEX`]; row by row, `[H, W]`.
    pub classes: Vec<u8>,
}

impl LabelMap {
    /// A mask from a PNG file: the gray levels or the palette's indices themselves, of any number of bits, are the classes, as
    /// Pascal VOC and ADE20K have them; colors of the palette, and an orientation in EXIF data, are not looked at.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] where it is no PNG file, is damaged, has more than `max_pixels` pixels, holds colors, or
    /// a level above 255.
    pub fn read(path: &Path, max_pixels: u64) -> Result<Self> {
        let opened = Opened::open(path)?;
        opened.length(path, max_pixels)?;
        let file = BufReader::new(opened.file);
        let refused = |reason: String| Error::data(path, reason);
        let damaged = |error: png::DecodingError| {
            refused(format!(
                "is no intact PNG file: {}",
                printable(error.to_string())
            ))
        };
        let bytes = usize::try_from(memory_limit(max_pixels)).unwrap_or(usize::MAX);
        let mut decoder = Decoder::new_with_limits(file, Limits { bytes });
        // samples as they are: a palette's indices, and two gray levels as 0 and 1
        decoder.set_transformations(Transformations::IDENTITY);
        let mut reader = decoder.read_info().map_err(damaged)?;
        let info = reader.info();
        let size = [info.width, info.height];
        let (color, depth) = (info.color_type, info.bit_depth);
        if let Some(reason) = unusable_size(info.width, info.height, max_pixels) {
            return Err(refused(reason));
        }
        if !matches!(color, ColorType::Grayscale | ColorType::Indexed) {
            let reason = format!(
                "is {color:?}, but a mask has a class and no color per pixel; save it as gray or with a palette"
            );
            return Err(refused(reason));
        }
        let row_bytes = reader.output_line_size(info.width).unwrap_or_default();
        let mut samples = vec![0; row_bytes.saturating_mul(size[1] as usize)];
        reader.next_frame(&mut samples).map_err(damaged)?;
        let rows = samples.chunks_exact(row_bytes.max(1));
        let rows = rows.map(|row| unpacked(row, depth, size[0] as usize));
        let rows: Option<Vec<Vec<u8>>> = rows.collect();
        let Some(rows) = rows else {
            let reason = "has 16-bit levels above 255; give each class a number from 0 to 254, and 255 to pixels to ignore";
            return Err(refused(reason.to_owned()));
        };
        let classes = rows.concat();
        Ok(Self { size, classes })
    }

    /// Foreground (1) where an image is at least half opaque, background (0) elsewhere.
    pub fn of_alpha(image: &RgbaImage) -> Self {
        Self {
            size: [image.width(), image.height()],
            classes: image
                .pixels()
                .map(|pixel| u8::from(pixel.0[3] >= 128))
                .collect(),
        }
    }

    /// The part that the evaluation view of an image of this size shows, at that view's size: the class of the pixel in which
    /// the center of each pixel of the view lies.
    ///
    /// # Shapes
    /// `[S, S]`, row by row, S = `side`.
    pub fn seen(&self, fit: EvalFit, side: usize) -> Vec<u8> {
        let width = self.size[0] as usize;
        let places = fit.nearest(self.size, side);
        let class =
            |[column, row]: [u32; 2]| self.classes.get(row as usize * width + column as usize);
        places
            .map(|place| class(place).copied().unwrap_or(IGNORE_INDEX))
            .collect()
    }
}

/// The samples of a row; none where one is above 255.
fn unpacked(row: &[u8], depth: BitDepth, width: usize) -> Option<Vec<u8>> {
    let bits = depth as usize;
    match depth {
        BitDepth::Eight => Some(row.to_vec()),
        BitDepth::Sixteen => {
            let levels = row.as_chunks::<2>().0.iter();
            levels
                .map(|level| u8::try_from(u16::from_be_bytes(*level)).ok())
                .collect()
        }
        BitDepth::One | BitDepth::Two | BitDepth::Four => {
            let sample = |at: usize| {
                let shift = 8 - bits - at * bits % 8;
                (row[at * bits / 8] >> shift) & ((1 << bits) - 1)
            };
            Some((0..width).map(sample).collect())
        }
    }
}
