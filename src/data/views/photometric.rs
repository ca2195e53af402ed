//! Changes of color and sharpness on a view, as planes of `f32` in 0..=255.
//!
//! Formulas of `torchvision.transforms.v2.functional` for float tensors, in its order of clamping. Differs from
//! torchvision on 8-bit images: nothing is rounded between the operations, so a value differs by up to about one
//! level for each. The loops are free of branches and calls, so that they compile to vector instructions.

use fast_image_resize::pixels::U8x3;
use image::{Rgb, RgbImage};

use crate::kernels::LevelScale;

/// Rec. 601 luma, as torchvision rounds it.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];
const WHITE: f32 = 255.0;
/// Running sums of a reduction; enough to fill vector registers and to keep each sum small.
const LANES: usize = 16;

/// One view.
pub struct Planes {
    side: usize,
    /// `[3, S, S]`
    values: Vec<f32>,
    /// `[S, S]`, for what an operation computes on the way.
    spare: Vec<f32>,
    /// One row and its reflected borders.
    row: Vec<f32>,
}

impl Planes {
    /// Black, of `side` x `side` pixels.
    pub fn new(side: usize) -> Self {
        Self {
            side,
            values: vec![0.0; 3 * side * side],
            spare: vec![0.0; side * side],
            row: Vec::new(),
        }
    }

    /// The values.
    ///
    /// # Shapes
    /// `[3, S, S]`, in 0..=255.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values as an image of `S x S` pixels, rounded.
    pub fn image(&self) -> RgbImage {
        let (side, plane) = (self.side, self.side * self.side);
        RgbImage::from_fn(side as u32, side as u32, |x, y| {
            let at = y as usize * side + x as usize;
            let value = |channel: usize| self.values[channel * plane + at];
            Rgb([0, 1, 2].map(|channel| value(channel).round().clamp(0.0, 255.0) as u8))
        })
    }

    /// Takes over `pixels`, mirrored left to right if `flip`.
    ///
    /// # Shapes
    /// S x S pixels, row-major; further ones are ignored, missing ones leave their place as it was.
    pub fn load(&mut self, pixels: &[U8x3], flip: bool) {
        let side = self.side;
        let [red, green, blue] = self.planes_mut();
        let rows = red
            .chunks_exact_mut(side)
            .zip(green.chunks_exact_mut(side))
            .zip(blue.chunks_exact_mut(side))
            .zip(pixels.chunks_exact(side));
        for (((red, green), blue), pixels) in rows {
            let columns = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
            for (((red, green), blue), pixel) in columns.zip(pixels) {
                [*red, *green, *blue] = pixel.0.map(f32::from);
            }
            if flip {
                red.reverse();
                green.reverse();
                blue.reverse();
            }
        }
    }

    /// Multiplies by `factor`.
    pub fn brightness(&mut self, factor: f32) {
        for value in &mut self.values {
            *value = clamp(*value * factor);
        }
    }

    /// Moves away from the mean gray by `factor`.
    pub fn contrast(&mut self, factor: f32) {
        self.luma();
        let offset = (1.0 - factor) * mean(&self.spare);
        for value in &mut self.values {
            *value = clamp(*value * factor + offset);
        }
    }

    /// Moves away from each pixel's gray by `factor`.
    pub fn saturation(&mut self, factor: f32) {
        self.luma();
        for plane in self.values.chunks_exact_mut(self.spare.len()) {
            for (value, gray) in plane.iter_mut().zip(&self.spare) {
                *value = clamp(*value * factor + (1.0 - factor) * gray);
            }
        }
    }

    /// Turns every color by `shift` of the color circle, from -0.5 to 0.5.
    pub fn hue(&mut self, shift: f32) {
        let shift = 6.0 * shift;
        let [red, green, blue] = self.planes_mut();
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            let (r, g, b) = (*red, *green, *blue);
            let high = larger(r, larger(g, b));
            let chroma = high - smaller(r, smaller(g, b));
            // Gray has no hue: every numerator is 0, whatever it is divided by.
            let scale = 1.0 / if chroma > 0.0 { chroma } else { 1.0 };
            let (from, to, sector) = if high == r {
                (g, b, 0.0)
            } else if high == g {
                (b, r, 2.0)
            } else {
                (r, g, 4.0)
            };
            // In sixths of the circle; the second term is in -1..=1 and the shift in -3..=3.
            let hue = wrap(wrap(sector + (from - to) * scale) + shift);
            // Foley et al.: HSV to RGB without cases, k = n + hue for n = 5, 3, 1.
            let channel = |n: f32| {
                let k = wrap(n + hue);
                let part = larger(0.0, smaller(smaller(k, 4.0 - k), 1.0));
                high - chroma * part
            };
            (*red, *green, *blue) = (channel(5.0), channel(3.0), channel(1.0));
        }
    }

    /// Replaces each pixel by its gray.
    pub fn gray(&mut self) {
        self.luma();
        for plane in self.values.chunks_exact_mut(self.spare.len()) {
            plane.copy_from_slice(&self.spare);
        }
    }

    /// Convolves with a Gaussian of standard deviation `sigma` pixels, cut at 3 `sigma`; borders are reflected.
    pub fn blur(&mut self, sigma: f64) {
        let half = half_kernel(sigma);
        let side = self.side;
        let radius = half.len() - 1;
        self.row.resize(side + 2 * radius, 0.0);
        for plane in self.values.chunks_exact_mut(side * side) {
            // Rows: plane -> spare.
            let rows = plane
                .chunks_exact(side)
                .zip(self.spare.chunks_exact_mut(side));
            for (from, to) in rows {
                self.row[radius..radius + side].copy_from_slice(from);
                for distance in 1..=radius {
                    self.row[radius - distance] = from[reflect(-(distance as isize), side)];
                    self.row[radius + side - 1 + distance] =
                        from[reflect((side - 1 + distance) as isize, side)];
                }
                let row = |offset: usize| &self.row[offset..offset + side];
                weigh(to, &half, row(radius), |distance| {
                    [row(radius - distance), row(radius + distance)]
                });
            }
            // Columns: spare -> plane.
            for (y, to) in plane.chunks_exact_mut(side).enumerate() {
                let row = |y: isize| {
                    let start = side * reflect(y, side);
                    &self.spare[start..start + side]
                };
                let y = y as isize;
                weigh(to, &half, row(y), |distance| {
                    [row(y - distance as isize), row(y + distance as isize)]
                });
            }
        }
    }

    /// Inverts the values from `threshold` on.
    pub fn solarize(&mut self, threshold: f32) {
        for value in &mut self.values {
            *value = if *value >= threshold {
                WHITE - *value
            } else {
                *value
            };
        }
    }

    /// Writes (value / 255 - mean) / std to `out`.
    ///
    /// # Shapes
    /// `[3, S, S]`
    pub fn normalize(&self, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
        let area = self.spare.len();
        let planes = self
            .values
            .chunks_exact(area)
            .zip(out.chunks_exact_mut(area));
        let LevelScale { scale, offset } = LevelScale::new(mean, std);
        for ((plane, out), (scale, offset)) in planes.zip(scale.into_iter().zip(offset)) {
            for (value, out) in plane.iter().zip(out) {
                *out = value * scale + offset;
            }
        }
    }

    /// Puts the gray of every pixel into `spare`.
    fn luma(&mut self) {
        let (red, rest) = self.values.split_at(self.spare.len());
        let (green, blue) = rest.split_at(self.spare.len());
        for (((gray, red), green), blue) in self.spare.iter_mut().zip(red).zip(green).zip(blue) {
            *gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue;
        }
    }

    fn planes_mut(&mut self) -> [&mut [f32]; 3] {
        let (red, rest) = self.values.split_at_mut(self.spare.len());
        let (green, blue) = rest.split_at_mut(self.spare.len());
        [red, green, blue]
    }
}

/// Not `f32::clamp`, `max` and `min`: their care for NaN costs three instructions for one.
fn clamp(value: f32) -> f32 {
    larger(0.0, smaller(value, WHITE))
}

fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// `hue`, from -6 to below 12, into 0..6; no `floor`, which is a call on processors without SSE 4.1.
fn wrap(hue: f32) -> f32 {
    let hue = hue + if hue < 0.0 { 6.0 } else { 0.0 };
    hue - if hue >= 6.0 { 6.0 } else { 0.0 }
}

fn mean(values: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    (sums.iter().sum::<f32>() + rest) / values.len() as f32
}

/// Weights of a Gaussian at distance 0, 1, ... up to 3 `sigma`; with the mirrored ones they sum to 1.
fn half_kernel(sigma: f64) -> Vec<f32> {
    let radius = (3.0 * sigma).ceil().max(1.0) as usize;
    let weights: Vec<f64> = (0..=radius)
        .map(|distance| (-0.5 * (distance as f64 / sigma).powi(2)).exp())
        .collect();
    let sum = 2.0 * weights.iter().sum::<f64>() - weights[0];
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Index into 0..`size` of place `at` of a sequence that runs on mirrored at both ends, the end not repeated.
fn reflect(at: isize, size: usize) -> usize {
    if size < 2 {
        return 0;
    }
    let period = 2 * (size as isize - 1);
    let at = at.rem_euclid(period);
    at.min(period - at) as usize
}

/// `out` = half\[0\] * center + the sum over distances d of half\[d\] * (both neighbors at d).
fn weigh<'a>(
    out: &mut [f32],
    half: &[f32],
    center: &[f32],
    neighbors: impl Fn(usize) -> [&'a [f32]; 2],
) {
    for (out, center) in out.iter_mut().zip(center) {
        *out = half[0] * center;
    }
    for (distance, &weight) in half.iter().enumerate().skip(1) {
        let [before, after] = neighbors(distance);
        for ((out, before), after) in out.iter_mut().zip(before).zip(after) {
            *out += weight * (before + after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planes of 5 x 5 pixels of one color each, drawn from a few.
    fn planes(colors: &[[u8; 3]]) -> Planes {
        let mut planes = Planes::new(5);
        let pixels: Vec<U8x3> = (0..25)
            .map(|i| U8x3::new(colors[i % colors.len()]))
            .collect();
        planes.load(&pixels, false);
        planes
    }

    fn pixel(planes: &Planes, at: usize) -> [f32; 3] {
        [0, 25, 50].map(|plane| planes.values[plane + at])
    }

    fn assert_near(actual: [f32; 3], expected: [f32; 3]) {
        let is_near = actual
            .iter()
            .zip(expected)
            .all(|(a, e)| (a - e).abs() < 0.01);
        assert!(is_near, "{actual:?} instead of {expected:?}");
    }

    #[test]
    fn a_third_of_a_turn_swaps_channels() {
        let colors = [
            [200, 50, 10],
            [10, 200, 50],
            [90, 90, 90],
            [7, 9, 250],
            [0, 0, 0],
        ];
        let mut planes = planes(&colors);
        planes.hue(1.0 / 3.0);
        for (at, [r, g, b]) in colors.into_iter().enumerate() {
            assert_near(pixel(&planes, at), [b, r, g].map(f32::from));
        }
        planes.hue(-1.0 / 3.0);
        for (at, color) in colors.into_iter().enumerate() {
            assert_near(pixel(&planes, at), color.map(f32::from));
        }
    }

    #[test]
    fn blends_have_their_fixed_points() {
        let mut planes = planes(&[[200, 50, 10]]);
        planes.saturation(0.0);
        let gray = 0.2989 * 200.0 + 0.587 * 50.0 + 0.114 * 10.0;
        assert_near(pixel(&planes, 3), [gray; 3]);
        planes.contrast(3.0);
        // Luma weights sum to 0.9999, so the mean of a gray plane is that much darker.
        assert!((pixel(&planes, 3)[0] - gray).abs() < 0.05);
        planes.brightness(10.0);
        assert_near(pixel(&planes, 3), [255.0; 3]);
        planes.solarize(128.0);
        assert_near(pixel(&planes, 3), [0.0; 3]);
    }

    #[test]
    fn blur_of_a_point_is_the_kernel() {
        let mut planes = Planes::new(9);
        planes.values[4 * 9 + 4] = 100.0;
        planes.blur(1.0);
        let half = half_kernel(1.0);
        for (dy, dx) in [(0, 0), (1, 0), (0, 2), (3, 3)] {
            let expected = 100.0 * half[dy] * half[dx];
            let actual = planes.values[(4 + dy) * 9 + 4 - dx];
            assert!((actual - expected).abs() < 1e-4, "{actual} {expected}");
        }
        // A kernel wider than the image keeps a constant, even on a single pixel.
        for side in [1, 2, 3] {
            let mut planes = Planes::new(side);
            planes.values.fill(77.0);
            planes.blur(5.0);
            assert!(
                planes
                    .values
                    .iter()
                    .all(|value| (value - 77.0).abs() < 1e-3)
            );
        }
    }

    #[test]
    fn flip_mirrors_rows() {
        let pixels: Vec<U8x3> = (0..9).map(|i| U8x3::new([i, 0, 0])).collect();
        let mut planes = Planes::new(3);
        planes.load(&pixels, true);
        assert_eq!(
            planes.values[..9],
            [2.0, 1.0, 0.0, 5.0, 4.0, 3.0, 8.0, 7.0, 6.0]
        );
    }
}
