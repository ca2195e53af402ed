//! Values of a grid as colors over the picture they belong to.

use image::imageops::{FilterType, grayscale, resize};
use image::{Rgb, RgbImage};

use ibot::eval::viridis;

use super::axis::number;
use super::font::HEIGHT;
use super::paint::{INK, PAPER, blend, draw_text, draw_title, fill, text_width};

const MARGIN: u32 = 8;
/// Space above the picture, for the title.
const TOP: u32 = 32;
/// Width of the legend bar.
const BAR: u32 = 16;
/// Scale of its numbers.
const LETTER: u32 = 2;
/// Share of the picture in a covered pixel.
const BACKGROUND: f64 = 0.4;

/// Values in cells over the picture in gray, with a legend bar from the smallest value to the largest and a title.
///
/// Pictures of less than 256 pixels a side are enlarged. A value that is missing or not finite leaves its cell gray.
///
/// # Shapes
/// `values` is `[rows, columns]` = `grid`, row by row, the first at the top left; the picture may have any size.
pub fn heat_map(picture: &RgbImage, values: &[f32], grid: [usize; 2], title: &str) -> RgbImage {
    let (width, height) = shown_size(picture);
    let [low, high] = extremes(values);
    let labels = legend_labels(low, high);
    let label_width = labels.iter().map(|(_, label)| text_width(label, LETTER));
    let mut canvas = RgbImage::from_pixel(
        width + BAR + label_width.max().unwrap_or(0) + 5 * MARGIN,
        height + TOP + 2 * MARGIN,
        PAPER,
    );
    draw_title(&mut canvas, MARGIN, title);

    let shown = resize(&grayscale(picture), width, height, FilterType::Triangle);
    // 0 / 0 is dark too
    let color = |value: f32| viridis(((f64::from(value) - low) / (high - low)).max(0.0));
    for (x, y, gray) in shown.enumerate_pixels() {
        let place = [x + MARGIN, y + TOP].map(i64::from);
        blend(&mut canvas, place, Rgb([gray.0[0]; 3]), 1.0);
        let row = y as usize * grid[0] / height as usize;
        let column = x as usize * grid[1] / width as usize;
        let value = values.get(row * grid[1] + column);
        if let Some(&value) = value.filter(|value| value.is_finite()) {
            blend(&mut canvas, place, color(value), 1.0 - BACKGROUND);
        }
    }
    draw_legend(&mut canvas, i64::from(width + 3 * MARGIN), height, &labels);
    canvas
}

/// Smallest and largest finite value; zeros where there is none.
fn extremes(values: &[f32]) -> [f64; 2] {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    [finite().reduce(f32::min), finite().reduce(f32::max)]
        .map(|value| f64::from(value.unwrap_or(0.0)))
}

/// Five numbers, to three digits of the range, and how high they stand.
fn legend_labels(low: f64, high: f64) -> [(f64, String); 5] {
    let range = high - low;
    let step = if range > 0.0 { range } else { low.abs() } / 100.0;
    [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| (share, number(low + range * share, step)))
}

/// A bar from `left` as high as the picture, with labels at its right.
fn draw_legend(canvas: &mut RgbImage, left: i64, height: u32, labels: &[(f64, String)]) {
    let top = i64::from(TOP);
    let last = f64::from(height.max(2) - 1);
    for y in 0..height {
        let color = viridis(1.0 - f64::from(y) / last);
        fill(canvas, [left, top + i64::from(y)], [BAR, 1], color);
    }
    for (share, label) in labels {
        let y = top + ((1.0 - share) * last).round() as i64;
        let x = left + i64::from(BAR);
        fill(canvas, [x, y], [4, 1], INK);
        // the numbers at the ends stay beside the bar
        let half = i64::from(HEIGHT * LETTER / 2);
        let first = top + half - 4;
        let y = y.clamp(first, first.max(top + i64::from(height) - half));
        draw_text(canvas, [x + 7, y - half], label, LETTER);
    }
}

/// The picture's size times the smallest whole number that makes the longer side 256 or more.
pub(super) fn shown_size(picture: &RgbImage) -> (u32, u32) {
    let (width, height) = (picture.width().max(1), picture.height().max(1));
    let factor = 256u32.div_ceil(width.max(height));
    (width * factor, height * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viridis_ends_where_matplotlibs_does() {
        assert_eq!(viridis(-1.0), Rgb([68, 1, 84]));
        assert_eq!(viridis(0.5), Rgb([33, 145, 140]));
        assert_eq!(viridis(2.0), Rgb([253, 231, 37]));
        assert_eq!(viridis(0.0625), Rgb([70, 23, 104]));
    }

    #[test]
    fn cells_have_the_colors_of_their_values() {
        let black = RgbImage::new(256, 256);
        let map = heat_map(&black, &[0.0, 1.0, 2.0, f32::NAN], [2, 2], "t");
        let shade = |value| Rgb(viridis(value).0.map(|c| (f64::from(c) * 0.6).round() as u8));
        // the middles of the cells
        let at = |x: u32, y: u32| *map.get_pixel(8 + x, 32 + y);
        assert_eq!(at(64, 64), shade(0.0));
        assert_eq!(at(192, 64), shade(0.5));
        assert_eq!(at(64, 192), shade(1.0));
        assert_eq!(at(192, 192), Rgb([0; 3]));
    }

    #[test]
    fn odd_input_is_drawn() {
        for (width, height) in [(0, 0), (1, 3), (300, 20)] {
            for values in [&[][..], &[f32::NAN], &[1.0; 6], &[f32::MIN, f32::MAX]] {
                let picture = RgbImage::new(width, height);
                heat_map(&picture, values, [2, 3], &"long ".repeat(50));
                heat_map(&picture, values, [0, 0], "");
            }
        }
    }
}
