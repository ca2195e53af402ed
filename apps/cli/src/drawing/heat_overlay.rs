//! A map of values over the image that it belongs to, at the image's resolution.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb, RgbImage};

/// Share of the color where the value is `high`.
const STRONGEST: f32 = 0.75;

/// The image in color, and over it the values of a grid, interpolated: nothing at `low` and below, yellow, then red at `high`
/// and above.
///
/// # Shapes
/// `values` is `[rows, columns]` = `grid`, row by row, the first at the top left; a value that is not finite counts as `low`.
pub fn heat_overlay(
    image: &RgbImage,
    values: &[f32],
    [rows, columns]: [usize; 2],
    [low, high]: [f32; 2],
) -> RgbImage {
    let mut shown = image.clone();
    let range = (high - low).max(f32::MIN_POSITIVE);
    let level = |value: &f32| {
        if value.is_finite() {
            ((value - low) / range).clamp(0.0, 1.0)
        } else {
            0.0
        }
    };
    let levels: Vec<f32> = values.iter().map(level).collect();
    let grid = ImageBuffer::<Luma<f32>, Vec<f32>>::from_raw(columns as u32, rows as u32, levels);
    let Some(grid) = grid.filter(|grid| grid.width() * grid.height() > 0) else {
        return shown;
    };
    let (width, height) = image.dimensions();
    let levels = resize(&grid, width, height, FilterType::Triangle);
    for (pixel, level) in shown.pixels_mut().zip(levels.pixels()) {
        let level = level.0[0].clamp(0.0, 1.0);
        let color = Rgb([255.0, 255.0 * (1.0 - level), 0.0]);
        let share = STRONGEST * level;
        for (channel, own) in pixel.0.iter_mut().zip(color.0) {
            *channel = (f32::from(*channel) * (1.0 - share) + own * share).round() as u8;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_values_are_red_and_low_ones_the_image() {
        let blue = RgbImage::from_pixel(60, 30, Rgb([0, 0, 200]));
        let map = heat_overlay(&blue, &[0.0, 0.5, 9.0], [1, 3], [0.5, 1.0]);
        assert_eq!(*map.get_pixel(3, 15), Rgb([0, 0, 200]));
        assert_eq!(*map.get_pixel(57, 15), Rgb([191, 0, 50]));
        // between the middles of the cells: interpolated
        let between = map.get_pixel(40, 15).0[0];
        assert!((20..191).contains(&between), "{between}");
    }

    #[test]
    fn odd_input_is_drawn() {
        for (width, height) in [(0, 0), (1, 3), (300, 20)] {
            for values in [&[][..], &[f32::NAN; 6], &[1.0; 6], &[f32::MAX; 6]] {
                let image = RgbImage::new(width, height);
                let map = heat_overlay(&image, values, [2, 3], [1.0, 1.0]);
                assert_eq!(map.dimensions(), (width, height));
                heat_overlay(&image, values, [0, 0], [0.0, 1.0]);
            }
        }
    }
}
