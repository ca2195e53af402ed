//! Generated images for the loader, if the user gives none.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

use ibot::error::{Error, Result};
use ibot::random::{Random, Stream};
use ibot::unfinished::unique_digits;

/// As the images of ImageNet are on average.
const SIZE: [u32; 2] = [500, 375];
const COUNT: usize = 64;
const QUALITY: u8 = 90;

/// A folder of JPEGs, removed when it is dropped.
pub(super) struct Jpegs(PathBuf);

impl Jpegs {
    /// Smooth shapes with some grain, in the system's folder of temporary files: about 70 kB each.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write() -> Result<Self> {
        let folder = std::env::temp_dir();
        let digits = unique_digits().map_err(Error::io(&folder))?;
        let folder = folder.join(format!("ibot-bench-{digits}"));
        std::fs::create_dir(&folder).map_err(Error::io(&folder))?;
        let jpegs = Self(folder);
        for number in 0..COUNT {
            let path = jpegs.0.join(format!("{number:02}.jpg"));
            std::fs::write(&path, jpeg(number)?).map_err(Error::io(&path))?;
        }
        Ok(jpegs)
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Jpegs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn jpeg(number: usize) -> Result<Vec<u8>> {
    let mut random = Random::new(0, 0, number as u64, Stream::View(0));
    let waves: Vec<[f64; 4]> = (0..9)
        .map(|_| {
            [
                random.uniform(-0.08, 0.08),
                random.uniform(-0.08, 0.08),
                random.uniform(0.0, 6.3),
                random.uniform(10.0, 40.0),
            ]
        })
        .collect();
    let image = RgbImage::from_fn(SIZE[0], SIZE[1], |x, y| {
        let grain = random.uniform(-12.0, 12.0);
        let color = |of: usize| {
            let waves = waves[3 * of..3 * of + 3].iter();
            let sum: f64 = waves
                .map(|[a, b, phase, height]| {
                    height * (f64::from(x) * a + f64::from(y) * b + phase).sin()
                })
                .sum();
            (128.0 + sum + grain).clamp(0.0, 255.0) as u8
        };
        Rgb([color(0), color(1), color(2)])
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode_image(&image)
        .map_err(|error| Error::Training(format!("an image could not be encoded: {error}")))?;
    Ok(bytes)
}
