//! Contact sheets of images, written to files.

use std::path::{Path, PathBuf};

use ibot::data::ValueRange;
use ibot::data::decode::decode_rgb_in;
use ibot::data::drawing::write_drawing;
use ibot::error::{counted, printable};
use ibot::{Error, Result};
use image::DynamicImage;
use image::imageops::FilterType;

use super::drawing::{Captioned, contact_sheet};
use super::model::ModelArgs;

/// Side of a thumbnail, and thumbnails in a row.
const THUMBNAIL: (u32, usize) = (128, 6);

/// Writes a contact sheet of images, each with its caption. A note counts those that can no longer be read and are left out. Only
/// one of them at a time is in memory at its full size.
///
/// # Errors
/// [`Error::Data`] where none of them can be read, [`Error::Io`].
pub fn save_sheet(
    model: &ModelArgs,
    file: &Path,
    title: &str,
    captions: &[(PathBuf, String)],
) -> Result<()> {
    let (side, columns) = THUMBNAIL;
    let (mut images, mut unreadable) = (Vec::new(), Vec::new());
    for (path, caption) in captions {
        match decode_rgb_in(path, model.pixels.max_pixels, ValueRange::Auto) {
            Ok(image) => {
                let image = DynamicImage::from(image);
                let is_large = image.width().max(image.height()) > side;
                let image = if is_large {
                    image.resize(side, side, FilterType::Triangle)
                } else {
                    image
                };
                images.push((image, caption.as_str()));
            }
            Err(error) => unreadable.push(error),
        }
    }
    let missing = unreadable.len();
    if let Some(first) = unreadable.into_iter().next().filter(|_| images.is_empty()) {
        let reason = format!(
            "cannot be drawn, as none of its {} can be read: {first}",
            counted(missing, "image")
        );
        return Err(Error::data(file, reason));
    }
    if missing > 0 {
        let (all, file) = (counted(captions.len(), "image"), printable(file));
        model.note(&format!(
            "{missing} of {all} cannot be read and are missing from {file}"
        ));
    }
    let captioned: Vec<Captioned<'_>> = images
        .iter()
        .map(|(image, caption)| Captioned { image, caption })
        .collect();
    write_drawing(file, &contact_sheet(title, &captioned, columns, side))
}
