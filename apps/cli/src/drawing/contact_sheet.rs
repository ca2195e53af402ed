//! Many images on one.

use image::imageops::{FilterType, overlay};
use image::{DynamicImage, RgbImage};

use super::font::{CAPTION, TITLE, draw_title};
use super::paint::{FAINT, INK, MARGIN, PAPER, TITLE_HEIGHT, fill};

/// Height of a line below a thumbnail.
const CAPTION_HEIGHT: u32 = 18;

/// An image and what is written below it.
#[derive(Debug, Clone, Copy)]
pub struct Captioned<'a> {
    /// Of any size.
    pub image: &'a DynamicImage,
    /// One line; cut in the middle where it is wider than the thumbnail.
    pub caption: &'a str,
}

/// Thumbnails row by row in a grid of `columns`, each with its caption and fitted into a square of `side` pixels, with a title above.
///
/// Smaller images are enlarged with hard edges, so that single pixels and patches stay visible.
pub fn contact_sheet(title: &str, images: &[Captioned<'_>], columns: usize, side: u32) -> RgbImage {
    let (columns, side) = (columns.max(1), side.max(1));
    let cell = [side + MARGIN, side + CAPTION_HEIGHT + MARGIN];
    let shown_columns = columns.min(images.len().max(1)) as u32;
    let rows = images.len().div_ceil(columns) as u32;
    let width = (MARGIN + shown_columns * cell[0]).max(TITLE.width(title).min(640) + 2 * MARGIN);
    let mut sheet = RgbImage::from_pixel(width, TITLE_HEIGHT + rows * cell[1], PAPER);
    draw_title(&mut sheet, title);
    for (index, captioned) in images.iter().enumerate() {
        let x = MARGIN + (index % columns) as u32 * cell[0];
        let y = TITLE_HEIGHT + (index / columns) as u32 * cell[1];
        if captioned.image.width().min(captioned.image.height()) > 0 {
            let small = captioned.image.width().max(captioned.image.height()) < side;
            let filter = if small {
                FilterType::Nearest
            } else {
                FilterType::Triangle
            };
            let thumbnail = captioned.image.resize(side, side, filter).to_rgb8();
            let free = [thumbnail.width(), thumbnail.height()].map(|used| (side - used) / 2);
            let (x, y) = (i64::from(x + free[0]), i64::from(y + free[1]));
            // a frame, to see where a white image ends
            let frame = [thumbnail.width() + 2, thumbnail.height() + 2];
            fill(&mut sheet, [x - 1, y - 1], frame, FAINT);
            overlay(&mut sheet, &thumbnail, x, y);
        }
        let caption = CAPTION.shortened(captioned.caption, side);
        let free = (side - CAPTION.width(&caption).min(side)) / 2;
        let place = [x + free, y + side + CAPTION_HEIGHT - 4].map(i64::from);
        CAPTION.draw(&mut sheet, place, &caption, INK);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn images_lie_row_by_row() {
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let images =
            colors.map(|color| DynamicImage::ImageRgb8(RgbImage::from_pixel(4, 2, Rgb(color))));
        let captioned = images.each_ref().map(|image| Captioned {
            image,
            caption: "name",
        });
        let sheet = contact_sheet("title", &captioned, 2, 32);
        // cells are 44 x 62 from (12, 40); the image is half as high as wide
        for (color, [x, y]) in colors.into_iter().zip([[12, 40], [56, 40], [12, 102]]) {
            assert_eq!(*sheet.get_pixel(x + 16, y + 16), Rgb(color));
            assert_eq!(*sheet.get_pixel(x + 16, y + 4), PAPER);
        }
        assert_eq!(sheet.dimensions(), (12 + 2 * 44, 40 + 2 * 62));
    }

    #[test]
    fn odd_input_is_drawn() {
        let nothing = DynamicImage::new_rgb8(0, 0);
        let thin = DynamicImage::new_luma8(1, 1000);
        let captioned = [&nothing, &thin].map(|image| Captioned {
            image,
            caption: "a long name that does not fit",
        });
        contact_sheet(&"long ".repeat(50), &captioned, 0, 0);
        contact_sheet("", &[], 3, 20);
    }
}
