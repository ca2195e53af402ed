//! Segmentation masks in colors.

use image::{Rgb, RgbImage};

use super::paint::FAINT;

/// A mask with a color for each class; those above 254, which are ignored, are light gray.
///
/// # Shapes
/// `classes` is `[side, side]`, row by row.
pub fn class_colors(classes: &[u8], side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        let class = classes.get((y * side + x) as usize);
        class.map_or(FAINT, |class| color(*class))
    })
}

/// Pascal VOC's color of a class: its bits, three at a time, are the highest bits of red, green and blue. 0 is black.
fn color(class: u8) -> Rgb<u8> {
    if class == ibot::data::IGNORE_INDEX {
        return FAINT;
    }
    let channel = |channel: u8| {
        let bit = |at: u8| ((class >> (3 * at + channel)) & 1) << (7 - at);
        (0..3).filter(|at| 3 * at + channel < 8).map(bit).sum()
    };
    Rgb([0, 1, 2].map(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_pascal_vocs() {
        for (class, expected) in [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
        ] {
            assert_eq!(color(class), Rgb(expected), "{class}");
        }
        assert_eq!(color(255), FAINT);
        let all: std::collections::BTreeSet<[u8; 3]> =
            (0..255).map(|class| color(class).0).collect();
        assert_eq!(all.len(), 255);
        assert_eq!(
            *class_colors(&[0, 1, 255], 2).get_pixel(1, 0),
            Rgb([128, 0, 0])
        );
    }
}
