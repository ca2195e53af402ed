//! Text, boxes and single pixels; what falls outside the picture is left out.

use image::{Rgb, RgbImage};

use super::font::{WIDTH, glyph};

pub(super) const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
pub(super) const INK: Rgb<u8> = Rgb([32, 32, 32]);
pub(super) const FAINT: Rgb<u8> = Rgb([224, 224, 224]);

/// Width of a line of text, in pixels.
pub(super) fn text_width(text: &str, scale: u32) -> u32 {
    text.chars().count() as u32 * WIDTH * scale
}

/// Letters from the left top corner `[x, y]`.
pub(super) fn draw_text(image: &mut RgbImage, [x, y]: [i64; 2], text: &str, scale: u32) {
    let pixel = i64::from(scale);
    for (index, letter) in (0..).zip(text.chars()) {
        let left = x + index * i64::from(WIDTH) * pixel;
        for (row, columns) in (0..).zip(glyph(letter)) {
            for (column, _) in (0..).zip(columns).filter(|(_, has_ink)| *has_ink) {
                let corner = [left + column * pixel, y + row * pixel];
                fill(image, corner, [scale, scale], INK);
            }
        }
    }
}

/// A title in the left top corner, `margin` pixels from the edges: in large letters where it fits, else in small ones, as much
/// of it as fits.
pub(super) fn draw_title(image: &mut RgbImage, margin: u32, title: &str) {
    let width = image.width().saturating_sub(2 * margin);
    let scale = if text_width(title, 2) > width { 1 } else { 2 };
    let title = shortened(title, width, scale);
    draw_text(image, [margin; 2].map(i64::from), &title, scale);
}

/// The text, or as much of its start as fits `width` pixels, then two dots.
pub(super) fn shortened(text: &str, width: u32, scale: u32) -> String {
    if text_width(text, scale) <= width {
        return text.to_string();
    }
    let letters = (width / (WIDTH * scale)) as usize;
    let kept = text.chars().take(letters.saturating_sub(2));
    kept.chain("..".chars()).take(letters).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_runs_to_the_right() {
        let mut image = RgbImage::from_pixel(24, 18, PAPER);
        draw_text(&mut image, [0, 0], "I|", 2);
        let row = |y: u32| -> String {
            let ink = |x| {
                if *image.get_pixel(x, y) == INK {
                    '#'
                } else {
                    '.'
                }
            };
            (0..24).map(ink).collect()
        };
        assert_eq!(row(0), "..######........##......");
        assert_eq!(row(1), row(0));
        assert_eq!(row(17), "................##......");
        assert_eq!(text_width("I|", 2), 24);
    }

    #[test]
    fn text_outside_the_picture_is_left_out() {
        let mut image = RgbImage::from_pixel(8, 8, PAPER);
        draw_text(&mut image, [-4, -4], "M\u{e9}", 3);
        assert!(image.pixels().any(|pixel| *pixel == INK));
    }

    #[test]
    fn long_text_ends_in_dots() {
        assert_eq!(shortened("abcdef", 36, 1), "abcdef");
        assert_eq!(shortened("abcdef", 35, 1), "abc..");
        assert_eq!(shortened("abcdef", 35, 2), "..");
        assert_eq!(shortened("abcdef", 6, 1), ".");
    }
}
