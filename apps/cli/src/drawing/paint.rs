//! Boxes and single pixels; what falls outside the image is left out.

use image::{Rgb, RgbImage};

pub(super) const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
pub(super) const INK: Rgb<u8> = Rgb([32, 32, 32]);
pub(super) const FAINT: Rgb<u8> = Rgb([224, 224, 224]);

/// Pixels around and between the parts of a drawing.
pub(super) const MARGIN: u32 = 12;
/// Height of the line with the title, with the margin above it.
pub(super) const TITLE_HEIGHT: u32 = 40;

/// A box from the left top corner `[x, y]` of size `[width, height]`.
pub(super) fn fill(
    image: &mut RgbImage,
    [x, y]: [i64; 2],
    [width, height]: [u32; 2],
    color: Rgb<u8>,
) {
    for y in y..y + i64::from(height) {
        for x in x..x + i64::from(width) {
            blend(image, [x, y], color, 1.0);
        }
    }
}

/// Mixes a color into one pixel; `share` is in 0..=1.
pub(super) fn blend(image: &mut RgbImage, [x, y]: [i64; 2], color: Rgb<u8>, share: f64) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
        return;
    };
    if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
        for (old, new) in pixel.0.iter_mut().zip(color.0) {
            let mixed = f64::from(*old) * (1.0 - share) + f64::from(new) * share;
            *old = mixed.round() as u8;
        }
    }
}

/// A drawing without the line of its title.
pub fn without_title(drawing: &RgbImage) -> RgbImage {
    // letters reach 5 pixels below their line
    let top = (TITLE_HEIGHT - 8).min(drawing.height());
    let height = drawing.height() - top;
    image::imageops::crop_imm(drawing, 0, top, drawing.width(), height).to_image()
}
