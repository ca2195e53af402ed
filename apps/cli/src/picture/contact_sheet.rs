//! Many pictures on one.

use image::imageops::{FilterType, overlay};
use image::{DynamicImage, RgbImage};

use super::font::HEIGHT;
use super::paint::{FAINT, PAPER, draw_text, draw_title, fill, shortened, text_width};

/// A picture and what is written below it.
#[derive(Debug, Clone, Copy)]
pub struct Captioned<'a> {
    /// Of any size.
    pub picture: &'a DynamicImage,
    /// One line; cut off where it is wider than the thumbnail.
    pub caption: &'a str,
}

/// Thumbnails row by row in a grid of `columns`, each with its caption and fitted into a square of `side` pixels, with a title above.
///
/// Smaller pictures are enlarged with hard edges, so that single pixels and patches stay visible.
pub fn contact_sheet(
    title: &str,
    pictures: &[Captioned<'_>],
    columns: usize,
    side: u32,
) -> RgbImage {
    const MARGIN: u32 = 8;
    const TOP: u32 = 32;
    let (columns, side) = (columns.max(1), side.max(1));
    let cell = [side + MARGIN, side + HEIGHT + 2 * MARGIN];
    let shown_columns = columns.min(pictures.len().max(1)) as u32;
    let rows = pictures.len().div_ceil(columns) as u32;
    let scale = if text_width(title, 2) < shown_columns * cell[0] {
        2
    } else {
        1
    };
    let width =
        (MARGIN + shown_columns * cell[0]).max(text_width(title, scale).min(640) + 2 * MARGIN);
    let mut sheet = RgbImage::from_pixel(width, TOP + rows * cell[1], PAPER);
    draw_title(&mut sheet, MARGIN, title);
    for (index, captioned) in pictures.iter().enumerate() {
        let x = MARGIN + (index % columns) as u32 * cell[0];
        let y = TOP + (index / columns) as u32 * cell[1];
        if captioned.picture.width().min(captioned.picture.height()) > 0 {
            let small = captioned.picture.width().max(captioned.picture.height()) < side;
            let filter = if small {
                FilterType::Nearest
            } else {
                FilterType::Triangle
            };
            let thumbnail = captioned.picture.resize(side, side, filter).to_rgb8();
            let free = [thumbnail.width(), thumbnail.height()].map(|used| (side - used) / 2);
            let (x, y) = (i64::from(x + free[0]), i64::from(y + free[1]));
            // a frame, to see where a white picture ends
            let frame = [thumbnail.width() + 2, thumbnail.height() + 2];
            fill(&mut sheet, [x - 1, y - 1], frame, FAINT);
            overlay(&mut sheet, &thumbnail, x, y);
        }
        let caption = shortened(captioned.caption, side, 1);
        let place = [x, y + side + MARGIN / 2].map(i64::from);
        draw_text(&mut sheet, place, &caption, 1);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn pictures_lie_row_by_row() {
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let pictures =
            colors.map(|color| DynamicImage::ImageRgb8(RgbImage::from_pixel(4, 2, Rgb(color))));
        let captioned = pictures.each_ref().map(|picture| Captioned {
            picture,
            caption: "name",
        });
        let sheet = contact_sheet("title", &captioned, 2, 32);
        // cells are 40 x 57 from (8, 32); the picture is half as high as wide
        for (color, [x, y]) in colors.into_iter().zip([[8, 32], [48, 32], [8, 89]]) {
            assert_eq!(*sheet.get_pixel(x + 16, y + 16), Rgb(color));
            assert_eq!(*sheet.get_pixel(x + 16, y + 4), PAPER);
        }
        assert_eq!(sheet.dimensions(), (88, 32 + 2 * 57));
    }

    #[test]
    fn odd_input_is_drawn() {
        let nothing = DynamicImage::new_rgb8(0, 0);
        let thin = DynamicImage::new_luma8(1, 1000);
        let captioned = [&nothing, &thin].map(|picture| Captioned {
            picture,
            caption: "a long name that does not fit",
        });
        contact_sheet(&"long ".repeat(50), &captioned, 0, 0);
        contact_sheet("", &[], 3, 20);
    }
}
