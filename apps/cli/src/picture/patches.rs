//! Patches of pictures: in colors, and matched with those of another picture.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};

use super::heat_map::shown_size;
use super::paint::{PAPER, blend, draw_title};

const MARGIN: u32 = 8;
/// Space above the pictures, for the title.
const TOP: u32 = 32;
/// Share of the color in a covered pixel.
const COVER: f64 = 0.65;
/// Colors of the lines, far from each other and from most pictures.
const LINES: [Rgb<u8>; 6] = [
    Rgb([230, 25, 75]),
    Rgb([60, 180, 75]),
    Rgb([255, 225, 25]),
    Rgb([0, 130, 200]),
    Rgb([245, 130, 48]),
    Rgb([145, 30, 180]),
];

/// The picture, and beside it the same under the colors of its patches.
///
/// # Shapes
/// `colors` is `[rows, columns]` = `grid`, row by row.
pub fn patch_colors(
    picture: &RgbImage,
    colors: &[[u8; 3]],
    [rows, columns]: [usize; 2],
    title: &str,
) -> RgbImage {
    let (mut sheet, width, height) = side_by_side(picture, picture, title);
    let left = i64::from(width + 2 * MARGIN);
    for y in 0..height {
        for x in 0..width {
            let row = y as usize * rows / height as usize;
            let column = x as usize * columns / width as usize;
            if let Some(color) = colors.get(row * columns + column) {
                let place = [left + i64::from(x), i64::from(TOP + y)];
                blend(&mut sheet, place, Rgb(*color), COVER);
            }
        }
    }
    sheet
}

/// Two pictures with lines between patches that belong together.
///
/// # Shapes
/// `pairs` holds a patch of the left and one of the right picture, each a number in its `grid` of `[rows, columns]`.
pub fn correspondence(
    left: &RgbImage,
    right: &RgbImage,
    pairs: &[[usize; 2]],
    grid: [usize; 2],
    title: &str,
) -> RgbImage {
    let (mut sheet, width, height) = side_by_side(left, right, title);
    let center = |patch: usize, offset: u32| {
        let [rows, columns] = grid.map(|count| count.max(1));
        let (row, column) = (patch / columns, patch % columns);
        let x = (column as f64 + 0.5) * f64::from(width) / columns as f64;
        let y = (row as f64 + 0.5) * f64::from(height) / rows as f64;
        [x + f64::from(offset), y + f64::from(TOP)]
    };
    for (number, [from, to]) in pairs.iter().enumerate() {
        let color = LINES[number % LINES.len()];
        let ends = [center(*from, MARGIN), center(*to, width + 2 * MARGIN)];
        draw_line(&mut sheet, ends, color);
        ends.iter()
            .for_each(|end| draw_dot(&mut sheet, *end, color));
    }
    sheet
}

fn side_by_side(left: &RgbImage, right: &RgbImage, title: &str) -> (RgbImage, u32, u32) {
    let (width, height) = shown_size(left);
    let size = [2 * width + 3 * MARGIN, height + TOP + MARGIN];
    let mut sheet = RgbImage::from_pixel(size[0], size[1], PAPER);
    draw_title(&mut sheet, MARGIN, title);
    for (picture, x) in [(left, MARGIN), (right, width + 2 * MARGIN)] {
        if picture.width().min(picture.height()) > 0 {
            let shown = resize(picture, width, height, FilterType::Triangle);
            overlay(&mut sheet, &shown, i64::from(x), i64::from(TOP));
        }
    }
    (sheet, width, height)
}

fn draw_line(sheet: &mut RgbImage, [from, to]: [[f64; 2]; 2], color: Rgb<u8>) {
    let steps = (to[0] - from[0])
        .abs()
        .max((to[1] - from[1]).abs())
        .ceil()
        .max(1.0);
    for step in 0..=steps as usize {
        let share = step as f64 / steps;
        let place =
            [0, 1].map(|axis| (from[axis] + (to[axis] - from[axis]) * share).round() as i64);
        blend(sheet, place, color, 0.8);
        blend(sheet, [place[0], place[1] + 1], color, 0.4);
    }
}

fn draw_dot(sheet: &mut RgbImage, center: [f64; 2], color: Rgb<u8>) {
    let [x, y] = center.map(|place| place.round() as i64);
    for dy in -3..=3_i64 {
        for dx in -3..=3_i64 {
            if dx * dx + dy * dy <= 10 {
                blend(sheet, [x + dx, y + dy], color, 1.0);
            }
        }
    }
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
        let at = |x: u32, y: u32| sheet.get_pixel(left + x, TOP + y).0[0];
        assert!(at(10, 10) < 100 && at(250, 250) < 100);
        assert!(at(250, 10) == 255 && at(10, 250) == 255);
        assert_eq!(sheet.get_pixel(MARGIN + 10, TOP + 10).0[0], 255);
    }

    #[test]
    fn lines_join_their_patches() {
        let white = RgbImage::from_pixel(256, 256, Rgb([255, 255, 255]));
        let sheet = correspondence(&white, &white, &[[0, 3]], [2, 2], "title");
        let ends = [[MARGIN + 64, TOP + 64], [256 + 2 * MARGIN + 192, TOP + 192]];
        for [x, y] in ends {
            assert_eq!(*sheet.get_pixel(x, y), LINES[0]);
        }
        let colored = sheet.pixels().filter(|pixel| **pixel == LINES[0]).count();
        assert!(
            (60..90).contains(&colored),
            "two dots of 37 pixels at most: {colored}"
        );
    }
}
