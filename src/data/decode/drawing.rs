//! A mark in the PNG files that this program draws: a contact sheet or an attention map that was written into a folder of
//! images must not count as one of them in the next scan.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use image::RgbImage;
use png::{BitDepth, ColorType, EncodingError};

use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// Keyword and text of PNG's own chunk for what wrote a file.
const SOFTWARE: (&str, &str) = ("Software", "ibot");
/// Where that chunk begins: behind the signature and IHDR.
const AT: usize = 33;
/// Bytes of a file that [`is_drawing`] looks at: length, name and content of the chunk too.
pub(super) const HEAD_BYTES: u64 = 33 + 8 + 13;

/// Writes a PNG with the mark, whole or not at all; replaces a drawing of that name.
///
/// # Errors
/// Those of [`check_drawing`]; [`Error::Io`].
pub fn write_drawing(path: &Path, image: &RgbImage) -> Result<()> {
    check_drawing(path)?;
    let unfinished = Unfinished::write(path, |file| {
        encode(file, image).map_err(|error| match error {
            EncodingError::IoError(source) => source,
            other => io::Error::other(other),
        })
    });
    unfinished?.finish()
}

fn encode(file: impl Write, image: &RgbImage) -> std::result::Result<(), EncodingError> {
    let (width, height) = image.dimensions();
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.add_text_chunk(SOFTWARE.0.to_owned(), SOFTWARE.1.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()
}

/// Refuses a path where something else than a drawing is: a photograph may be the only one of its kind.
///
/// # Errors
/// [`Error::Data`]; [`Error::Io`] where the file there cannot be read.
pub fn check_drawing(path: &Path) -> Result<()> {
    if path.exists() && !is_drawn(path)? {
        let reason = "exists and is no drawing of ibot: choose another place";
        return Err(Error::data(path, reason));
    }
    Ok(())
}

/// Whether a file is a drawing of this program.
///
/// # Errors
/// [`Error::Io`].
pub fn is_drawn(path: &Path) -> Result<bool> {
    // a pipe would wait for its writer
    if !path.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .map_err(Error::io(path))?;
    Ok(is_drawing(&head))
}

/// Whether a PNG file that begins with `head` is such a drawing.
pub(super) fn is_drawing(head: &[u8]) -> bool {
    let (keyword, text) = SOFTWARE;
    let content = [keyword.as_bytes(), b"\0", text.as_bytes()].concat();
    let chunk = [&(content.len() as u32).to_be_bytes()[..], b"tEXt", &content].concat();
    head.get(AT..)
        .is_some_and(|chunks| chunks.starts_with(&chunk))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_is_known_again_and_another_png_is_none() {
        let folder = std::env::temp_dir().join(format!("ibot-drawing-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8 * 30, y as u8 * 40, 9]));
        let [drawing, photo] = ["drawing.png", "photo.png"].map(|name| folder.join(name));
        write_drawing(&drawing, &image).unwrap();
        image.save(&photo).unwrap();
        let head = |path| std::fs::read(path).unwrap()[..HEAD_BYTES as usize].to_vec();
        assert!(is_drawing(&head(&drawing)) && !is_drawing(&head(&photo)));
        assert!(!is_drawing(&head(&drawing)[..50]));
        // nothing else is replaced
        let before = std::fs::read(&photo).unwrap();
        let refused = write_drawing(&photo, &image).unwrap_err().to_string();
        assert!(
            refused.contains("photo.png: exists and is no drawing"),
            "{refused}"
        );
        assert!(std::fs::read(&photo).unwrap() == before);
        write_drawing(&drawing, &image).unwrap();
        assert_eq!(image::open(&drawing).unwrap().into_rgb8(), image);
        // one that cannot be drawn leaves the one before
        let empty = RgbImage::new(0, 5);
        assert!(write_drawing(&drawing, &empty).is_err());
        assert_eq!(image::open(&drawing).unwrap().into_rgb8(), image);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
