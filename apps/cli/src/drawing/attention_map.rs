//! Attention as colors over the image it belongs to.

use ibot::eval::viridis;
use image::imageops::{FilterType, overlay, resize};
use image::{ImageBuffer, Luma, RgbImage};
use plotters::coord::ranged1d::Ranged as _;
use plotters::coord::types::RangedCoordf64;

use super::font::{CAPTION, draw_title};
use super::paint::{INK, MARGIN, PAPER, TITLE_HEIGHT, blend, fill};
use super::ticks::number;

/// Least and most of the longer side of an image, in pixels.
const SIDES: [u32; 2] = [256, 512];
/// Width of the legend bar.
const BAR: u32 = 16;
/// Width of its numbers, the same in all maps so that they line up on a page.
const LABELS: u32 = 56;
/// Share of the color where a value is highest; it falls to [`LEAST`], so that the image stays visible where nothing is.
const MOST: f64 = 0.8;
const LEAST: f64 = 0.05;
/// Gray behind the legend's colors, where the map has the image.
const MIDDLE: u8 = 128;

type Values = ImageBuffer<Luma<f32>, Vec<f32>>;

/// Attention over the image, smoothly interpolated: the higher, the less transparent its color. The legend shows it as
/// multiples of uniform attention, 1 / patches, from the least to the most. A value that is missing or not finite shows the
/// image alone.
///
/// Images of less than 256 pixels a side are enlarged, and those of more than 512 shrunk.
///
/// # Shapes
/// `attention` is `[rows, columns]` = `grid`, row by row, the first at the top left; the image may have any size.
pub fn attention_map(
    image: &RgbImage,
    attention: &[f32],
    grid: [usize; 2],
    title: &str,
) -> RgbImage {
    let (width, height) = shown_size(image);
    let size = [
        width + BAR + LABELS + 3 * MARGIN,
        height + TITLE_HEIGHT + MARGIN,
    ];
    let mut canvas = RgbImage::from_pixel(size[0], size[1], PAPER);
    draw_title(&mut canvas, title);
    if image.width().min(image.height()) > 0 {
        let shown = resize(image, width, height, FilterType::CatmullRom);
        overlay(
            &mut canvas,
            &shown,
            i64::from(MARGIN),
            i64::from(TITLE_HEIGHT),
        );
    }
    let [low, high] = extremes(attention);
    // equal attention everywhere is 0, and a missing value stays NaN
    let range = (high - low).max(f32::MIN_POSITIVE);
    let share = |value: &f32| (value - low) / range;
    let shares: Vec<f32> = attention.iter().map(share).collect();
    let [smooth, known] = interpolated(&shares, grid, [width, height]);
    for (x, y, share) in smooth.enumerate_pixels() {
        let share = f64::from(share.0[0]);
        let cover = f64::from(known.get_pixel(x, y).0[0]) * alpha(share);
        let place = [x + MARGIN, y + TITLE_HEIGHT].map(i64::from);
        blend(&mut canvas, place, viridis(share), cover);
    }
    let [low, high] = [low, high].map(|value| f64::from(value) * attention.len() as f64);
    let ticks = RangedCoordf64::from(low..high).key_points(6).into_iter();
    let label = |tick: f64| ((tick - low) / (high - low), format!("{} ×", number(tick)));
    let labels: Vec<(f64, String)> = ticks.map(label).collect();
    draw_legend(&mut canvas, i64::from(width + 2 * MARGIN), height, &labels);
    canvas
}

fn alpha(share: f64) -> f64 {
    LEAST + (MOST - LEAST) * share
}

/// Values at each pixel, and how far each pixel lies in cells that have one; both within 0..=1, to which `resize` clips.
fn interpolated(
    values: &[f32],
    [rows, columns]: [usize; 2],
    [width, height]: [u32; 2],
) -> [Values; 2] {
    let at = |x: u32, y: u32| {
        let value = values.get(y as usize * columns + x as usize);
        value.copied().filter(|value| value.is_finite())
    };
    let size = [columns, rows].map(|count| count.max(1) as u32);
    let cells = Values::from_fn(size[0], size[1], |x, y| Luma([at(x, y).unwrap_or(0.0)]));
    let known = Values::from_fn(size[0], size[1], |x, y| {
        Luma([at(x, y).map_or(0.0, |_| 1.0)])
    });
    [
        resize(&cells, width, height, FilterType::CatmullRom),
        resize(&known, width, height, FilterType::Triangle),
    ]
}

/// Smallest and largest finite value; zeros where there is none.
fn extremes(values: &[f32]) -> [f32; 2] {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    [finite().reduce(f32::min), finite().reduce(f32::max)].map(Option::unwrap_or_default)
}

/// A bar from `left` as high as the image, with labels at its right.
fn draw_legend(canvas: &mut RgbImage, left: i64, height: u32, labels: &[(f64, String)]) {
    let top = i64::from(TITLE_HEIGHT);
    let last = f64::from(height.max(2) - 1);
    for y in 0..height {
        let share = 1.0 - f64::from(y) / last;
        let place = [left, top + i64::from(y)];
        fill(canvas, place, [BAR, 1], image::Rgb([MIDDLE; 3]));
        for x in 0..i64::from(BAR) {
            blend(canvas, [left + x, place[1]], viridis(share), alpha(share));
        }
    }
    for (share, label) in labels {
        let y = top + ((1.0 - share) * last).round() as i64;
        let x = left + i64::from(BAR);
        fill(canvas, [x, y], [4, 1], INK);
        // the numbers at the ends stay beside the bar
        let first = top + 10;
        let baseline = (y + 5).clamp(first, first.max(top + i64::from(height)));
        CAPTION.draw(canvas, [x + 8, baseline], label, INK);
    }
}

/// The image's size; of small ones, times the smallest whole number that makes the longer side [`SIDES`] or more, and of large
/// ones, shrunk so that it has the most.
pub(super) fn shown_size(image: &RgbImage) -> (u32, u32) {
    let (width, height) = (image.width().max(1), image.height().max(1));
    let longer = width.max(height);
    let factor = SIDES[0].div_ceil(longer);
    let shrunk = |side: u32| (side * SIDES[1] / longer).max(1);
    if longer > SIDES[1] {
        (shrunk(width), shrunk(height))
    } else {
        (width * factor, height * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// In the middle of a cell of a 2 x 2 map of 256 pixels.
    fn at(map: &RgbImage, [x, y]: [u32; 2]) -> Rgb<u8> {
        *map.get_pixel(MARGIN + x, TITLE_HEIGHT + y)
    }

    fn over_black(share: f64) -> Rgb<u8> {
        Rgb(viridis(share)
            .0
            .map(|level| (f64::from(level) * alpha(share)).round() as u8))
    }

    fn assert_alike(a: Rgb<u8>, b: Rgb<u8>) {
        let differences = (0..3).map(|c| a.0[c].abs_diff(b.0[c]));
        assert!(differences.max() < Some(8), "{a:?} {b:?}");
    }

    #[test]
    fn patches_have_the_colors_of_their_values_and_blend_into_each_other() {
        let black = RgbImage::new(256, 256);
        let map = attention_map(&black, &[0.0, 0.1, 0.2, 0.3], [2, 2], "t");
        assert_alike(at(&map, [64, 64]), over_black(0.0));
        assert_alike(at(&map, [192, 64]), over_black(1.0 / 3.0));
        assert_alike(at(&map, [64, 192]), over_black(2.0 / 3.0));
        assert_alike(at(&map, [192, 192]), over_black(1.0));
        assert_alike(at(&map, [128, 128]), over_black(0.5));
    }

    #[test]
    fn a_value_that_is_missing_leaves_the_image() {
        let red = RgbImage::from_pixel(256, 256, Rgb([200, 0, 0]));
        let map = attention_map(&red, &[0.0, 1.0, f32::NAN], [2, 2], "t");
        assert_eq!(at(&map, [255, 255]), Rgb([200, 0, 0]));
        assert_eq!(at(&map, [0, 255]), Rgb([200, 0, 0]));
    }

    #[test]
    fn the_scale_is_that_of_the_map() {
        let black = RgbImage::new(256, 256);
        let map = attention_map(&black, &[0.2, 0.3, 0.25, 0.25], [2, 2], "t");
        assert_alike(at(&map, [192, 64]), over_black(1.0));
        assert_alike(at(&map, [64, 64]), over_black(0.0));
        let flat = attention_map(&black, &[0.25; 4], [2, 2], "t");
        assert_alike(at(&flat, [128, 128]), over_black(0.0));
    }

    #[test]
    fn odd_input_is_drawn() {
        for (width, height) in [(0, 0), (1, 3), (300, 20)] {
            for values in [&[][..], &[f32::NAN], &[1.0; 6], &[f32::MIN, f32::MAX]] {
                let image = RgbImage::new(width, height);
                attention_map(&image, values, [2, 3], &"long ".repeat(50));
                attention_map(&image, values, [0, 0], "");
            }
        }
    }
}
