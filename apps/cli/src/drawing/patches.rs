//! Patches of images: in colors, and matched with those of another image.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};
use plotters::prelude::{
    BitMapBackend, Circle, Color as _, IntoDrawingArea as _, PathElement, RGBColor,
};

use super::attention_map::shown_size;
use super::font::draw_title;
use super::paint::{MARGIN, PAPER, TITLE_HEIGHT, blend};

/// Share of the color in a covered pixel.
const COVER: f64 = 0.65;
/// Colors of the lines, far from each other and from most images.
const LINES: [RGBColor; 6] = [
    RGBColor(230, 25, 75),
    RGBColor(60, 180, 75),
    RGBColor(255, 225, 25),
    RGBColor(0, 130, 200),
    RGBColor(245, 130, 48),
    RGBColor(145, 30, 180),
];
/// Lines are drawn so many times larger and then shrunk, so that their edges are smooth.
const SCALE: u32 = 3;
/// Width of the lines between the least and the most similar patches that are shown, in pixels.
const WIDTHS: [f32; 2] = [1.0, 4.5];

/// The image, and beside it the same under the colors of its patches.
///
/// # Shapes
/// `colors` is `[rows, columns]` = `grid`, row by row.
pub fn patch_colors(
    image: &RgbImage,
    colors: &[[u8; 3]],
    [rows, columns]: [usize; 2],
    title: &str,
) -> RgbImage {
    let (mut sheet, width, height) = side_by_side(image, image, title);
    let left = i64::from(width + 2 * MARGIN);
    for y in 0..height {
        for x in 0..width {
            let row = y as usize * rows / height as usize;
            let column = x as usize * columns / width as usize;
            if let Some(color) = colors.get(row * columns + column) {
                let place = [left + i64::from(x), i64::from(TITLE_HEIGHT + y)];
                blend(&mut sheet, place, Rgb(*color), COVER);
            }
        }
    }
    sheet
}

/// A patch of the left and one of the right image that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Their numbers in the grid.
    pub patches: [usize; 2],
    /// The more similar, the thicker their line.
    pub similarity: f32,
}

/// Two images with lines between patches that belong together, the thickest between the most similar ones.
///
/// # Shapes
/// `grid` is `[rows, columns]` of both.
pub fn correspondence(
    left: &RgbImage,
    right: &RgbImage,
    pairs: &[Pair],
    grid: [usize; 2],
    title: &str,
) -> RgbImage {
    let (sheet, width, height) = side_by_side(left, right, title);
    let center = |patch: usize, offset: u32| {
        let [rows, columns] = grid.map(|count| count.max(1));
        let (row, column) = (patch / columns, patch % columns);
        let x = (column as f64 + 0.5) * f64::from(width) / columns as f64 + f64::from(offset);
        let y = (row as f64 + 0.5) * f64::from(height) / rows as f64 + f64::from(TITLE_HEIGHT);
        [x, y]
            .map(|place| (place * f64::from(SCALE)).round() as i32)
            .into()
    };
    let similarities = || pairs.iter().map(|pair| pair.similarity);
    let least = similarities().fold(f32::INFINITY, f32::min);
    let most = similarities().fold(f32::NEG_INFINITY, f32::max);
    let (size, scale) = ((sheet.width(), sheet.height()), SCALE);
    let mut large = resize(&sheet, size.0 * scale, size.1 * scale, FilterType::Nearest);
    let area = BitMapBackend::with_buffer(&mut large, (size.0 * scale, size.1 * scale));
    let area = area.into_drawing_area();
    // the thickest on top
    for (number, pair) in pairs.iter().enumerate().rev() {
        let color = LINES[number % LINES.len()];
        let [from, to] = pair.patches;
        let ends: [(i32, i32); 2] = [center(from, MARGIN), center(to, width + 2 * MARGIN)];
        // 0 / 0: equal pairs are thick
        let share = ((pair.similarity - least) / (most - least)).min(1.0);
        let width = (WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * share) * scale as f32;
        let style = color.mix(0.85).stroke_width(width.round() as u32);
        // drawing into memory does not fail
        let _ = area.draw(&PathElement::new(ends, style));
        for end in ends {
            let _ = area.draw(&Circle::new(
                end,
                (width * 0.5) as u32 + 3 * scale,
                color.filled(),
            ));
        }
    }
    drop(area);
    resize(&large, size.0, size.1, FilterType::Triangle)
}

fn side_by_side(left: &RgbImage, right: &RgbImage, title: &str) -> (RgbImage, u32, u32) {
    let (width, height) = shown_size(left);
    let size = [2 * width + 3 * MARGIN, height + TITLE_HEIGHT + MARGIN];
    let mut sheet = RgbImage::from_pixel(size[0], size[1], PAPER);
    draw_title(&mut sheet, title);
    for (image, x) in [(left, MARGIN), (right, width + 2 * MARGIN)] {
        if image.width().min(image.height()) > 0 {
            let shown = resize(image, width, height, FilterType::Triangle);
            overlay(&mut sheet, &shown, i64::from(x), i64::from(TITLE_HEIGHT));
        }
    }
    (sheet, width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_lie_on_their_patches() {
        let white = RgbImage::from_pixel(256, 256, Rgb([255, 255, 255]));
        let colors = [[0, 0, 0], [255, 255, 255], [255, 255, 255], [0, 0, 0]];
        let sheet = patch_colors(&white, &colors, [2, 2], "title");
        let left = 256 + 2 * MARGIN;
        let at = |x: u32, y: u32| sheet.get_pixel(left + x, TITLE_HEIGHT + y).0[0];
        assert!(at(10, 10) < 100 && at(250, 250) < 100);
        assert!(at(250, 10) == 255 && at(10, 250) == 255);
        assert_eq!(sheet.get_pixel(MARGIN + 10, TITLE_HEIGHT + 10).0[0], 255);
    }

    #[test]
    fn lines_join_their_patches_and_the_most_similar_are_thickest() {
        let white = RgbImage::from_pixel(256, 256, Rgb([255, 255, 255]));
        let pairs = [(0, 3, 0.9), (2, 0, 0.5)].map(|(from, to, similarity)| Pair {
            patches: [from, to],
            similarity,
        });
        let sheet = correspondence(&white, &white, &pairs, [2, 2], "title");
        let near = |x: u32, y: u32, line: usize| {
            let (pixel, RGBColor(red, green, blue)) = (sheet.get_pixel(x, y).0, LINES[line]);
            let levels = [red, green, blue];
            (0..3).all(|c| pixel[c].abs_diff(levels[c]) < 60)
        };
        let right = 256 + 2 * MARGIN;
        let ends = [
            [MARGIN + 64, TITLE_HEIGHT + 64],
            [right + 192, TITLE_HEIGHT + 192],
        ];
        assert!(ends.iter().all(|[x, y]| near(*x, *y, 0)));
        assert!(near(MARGIN + 64, TITLE_HEIGHT + 192, 1) && near(right + 64, TITLE_HEIGHT + 64, 1));
        // across both lines, in a column left of where they cross
        let thickness = |line| (0..sheet.height()).filter(|y| near(150, *y, line)).count();
        assert!(thickness(0) > thickness(1) && thickness(1) > 0);
    }

    #[test]
    fn odd_input_is_drawn() {
        let empty = RgbImage::new(0, 0);
        let pair = Pair {
            patches: [9, 1_000_000],
            similarity: f32::NAN,
        };
        correspondence(&empty, &empty, &[pair], [0, 2], &"long ".repeat(50));
        patch_colors(&empty, &[], [0, 0], "");
    }
}
