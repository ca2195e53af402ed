//! Values as colors.

use image::Rgb;

/// Every eighth of matplotlib's `viridis`, dark blue to yellow; linear between them.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 45, 123],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [40, 174, 128],
    [94, 201, 98],
    [173, 220, 48],
    [253, 231, 37],
];

/// The color of a value in 0..=1 in `viridis`, whose brightness grows evenly with the value.
pub fn viridis(value: f64) -> Rgb<u8> {
    let place = value.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let low = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - low as f64;
    Rgb(std::array::from_fn(|channel| {
        let [from, to] = [low, low + 1].map(|index| f64::from(VIRIDIS[index][channel]));
        (from + (to - from) * share).round() as u8
    }))
}
