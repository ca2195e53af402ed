//! Text in Roboto, which this program brings along: no font of the system is read. Letters that it lacks become boxes.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _, point};
use image::{Rgb, RgbImage};

use super::paint::{INK, MARGIN, blend};

/// The letters of captions and numbers, and the heavier ones of titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Regular,
    Medium,
}

/// The files.
pub(super) const REGULAR: &[u8] = include_bytes!("../../fonts/Roboto-Regular.ttf");
pub(super) const MEDIUM: &[u8] = include_bytes!("../../fonts/Roboto-Medium.ttf");

static FONTS: LazyLock<[Option<FontRef<'static>>; 2]> =
    LazyLock::new(|| [REGULAR, MEDIUM].map(|bytes| FontRef::try_from_slice(bytes).ok()));

/// A weight at a size: the em square, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub weight: Weight,
    pub size: f32,
}

/// Of captions and legends.
pub(super) const CAPTION: Text = Text {
    weight: Weight::Regular,
    size: 13.0,
};
/// Of titles.
pub(super) const TITLE: Text = Text {
    weight: Weight::Medium,
    size: 16.0,
};

impl Text {
    fn font(self) -> Option<&'static FontRef<'static>> {
        FONTS[self.weight as usize].as_ref()
    }

    /// The letters from x = 0, and the width of all.
    fn layout(self, text: &str) -> (Vec<Glyph>, f32) {
        let Some(font) = self.font() else {
            return (Vec::new(), 0.0);
        };
        let em = font.units_per_em().unwrap_or(2048.0);
        let font = font.as_scaled(PxScale::from(self.size * font.height_unscaled() / em));
        let (mut x, mut glyphs) = (0.0, Vec::<Glyph>::new());
        for letter in text.chars() {
            let id = font.glyph_id(letter);
            if let Some(last) = glyphs.last() {
                x += font.kern(last.id, id);
            }
            glyphs.push(id.with_scale_and_position(font.scale(), point(x, 0.0)));
            x += font.h_advance(id);
        }
        (glyphs, x)
    }

    /// Width of a line, in pixels.
    pub(super) fn width(self, text: &str) -> u32 {
        self.layout(text).1.ceil() as u32
    }

    /// Draws a line whose letters stand on y = `baseline`, from `x` on; what falls outside the image is left out.
    pub(super) fn draw(
        self,
        image: &mut RgbImage,
        [x, baseline]: [i64; 2],
        text: &str,
        color: Rgb<u8>,
    ) {
        let Some(font) = self.font() else {
            return;
        };
        for glyph in self.layout(text).0 {
            let Some(outline) = font.outline_glyph(glyph) else {
                continue; // a space
            };
            let corner = outline.px_bounds().min;
            outline.draw(|column, row, share| {
                let place = [
                    x + corner.x as i64 + i64::from(column),
                    baseline + corner.y as i64 + i64::from(row),
                ];
                blend(image, place, color, f64::from(share).min(1.0));
            });
        }
    }

    /// The text, or its start and end around an ellipsis where it is wider than `width` pixels: the end of a file's name is
    /// what tells it from its neighbors. Empty if not even the ellipsis fits.
    pub(super) fn shortened(self, text: &str, width: u32) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let letters: Vec<char> = text.chars().collect();
        // `kept` letters, two of three from the end
        let cut = |kept: usize| {
            let tail = (2 * kept).div_ceil(3);
            let head = letters[..kept - tail].iter();
            let tail = letters[letters.len() - tail..].iter();
            head.chain(&['…']).chain(tail).collect::<String>()
        };
        let fits = |kept: &usize| self.width(&cut(*kept)) <= width;
        let kept = (0..letters.len()).rev().find(fits);
        kept.map_or_else(String::new, cut)
    }
}

/// The title in the left top corner, cut in the middle where it is too long.
pub(super) fn draw_title(image: &mut RgbImage, title: &str) {
    let title = TITLE.shortened(title, image.width().saturating_sub(2 * MARGIN));
    TITLE.draw(image, [i64::from(MARGIN), 26], &title, INK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::paint::PAPER;

    #[test]
    fn both_files_are_fonts() {
        assert!(FONTS.iter().all(Option::is_some));
        assert!(CAPTION.width("mm") > CAPTION.width("ii"));
        assert!(TITLE.width("mm") > CAPTION.width("mm"));
    }

    #[test]
    fn letters_stand_on_the_baseline() {
        let mut image = RgbImage::from_pixel(40, 30, PAPER);
        TITLE.draw(&mut image, [4, 20], "HI", INK);
        let dark = |y: u32| {
            let row = (0..40).map(|x| image.get_pixel(x, y).0[0]);
            row.filter(|level| *level < 128).count()
        };
        // capitals are 0.71 of the em square high
        assert!(dark(7) == 0 && dark(10) > 4 && dark(19) > 4 && dark(21) == 0);
    }

    #[test]
    fn text_outside_the_image_is_left_out() {
        let mut image = RgbImage::from_pixel(8, 8, PAPER);
        TITLE.draw(&mut image, [-4, 6], "M\u{e9}\u{65e5}", INK);
        assert!(image.pixels().any(|pixel| pixel.0[0] < 128));
    }

    #[test]
    fn long_names_keep_their_ends() {
        let name = "Animals-Nature-0001-with-a-long-name-IMG_0815.jpg";
        assert_eq!(CAPTION.shortened(name, 1000), name);
        let short = CAPTION.shortened(name, 140);
        assert!(CAPTION.width(&short) <= 140, "{short}");
        assert!(
            short.starts_with("Anim") && short.ends_with("IMG_0815.jpg"),
            "{short}"
        );
        assert_eq!(CAPTION.shortened(name, CAPTION.width("…")), "…");
        assert_eq!(CAPTION.shortened(name, 2), "");
    }
}
