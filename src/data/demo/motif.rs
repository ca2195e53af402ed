//! The demo's images: one motif in a random pose, size, tint, light and noise.
//!
//! Every pixel is the same on every machine: only `+ - * /`, `floor`, remainder, `abs` and `sqrt` (exact in IEEE 754)
//! touch it, no `sin`, `cos` or `ln`. That is why an orientation is a unit vector rather than an angle.
//!
//! How hard the set is was chosen by training a small model on it in PyTorch: any orientation and wider ranges of size
//! were too hard in first tries of under a minute; tilts of up to 27 degrees leave k-NN room to rise within minutes.

use image::{Rgb, RgbImage};

use crate::random::{Random, Stream};

/// Pixels per side.
pub(super) const SIDE: u32 = 40;
/// Sub-samples per side of a pixel, against jagged edges.
const SAMPLES: u32 = 3;
/// Points per side of the lattice behind `blobs`.
const LATTICE: usize = 12;
/// Seed of the whole set; with the version in the marker file it names the images for good.
const SEED: u64 = 0x0069_424f_5421;

/// What an image shows, and so its class; color, size and pose say nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motif {
    Blobs,
    Bricks,
    Checks,
    Cross,
    Disc,
    Dots,
    Grid,
    Rays,
    Rings,
    Stripes,
    Triangle,
    Zigzag,
}

/// Every class with the name of its folder, in alphabetical order.
pub(super) const CLASSES: [(&str, Motif); 12] = [
    ("blobs", Motif::Blobs),
    ("bricks", Motif::Bricks),
    ("checks", Motif::Checks),
    ("cross", Motif::Cross),
    ("disc", Motif::Disc),
    ("dots", Motif::Dots),
    ("grid", Motif::Grid),
    ("rays", Motif::Rays),
    ("rings", Motif::Rings),
    ("stripes", Motif::Stripes),
    ("triangle", Motif::Triangle),
    ("zigzag", Motif::Zigzag),
];

/// Which half of the set an image belongs to; the two never share random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Test,
}

/// Image number `number` of class number `class` (see [`CLASSES`]).
pub(super) fn image(motif: Motif, class: usize, split: Split, number: usize) -> RgbImage {
    let index = ((class as u64) << 32) | number as u64;
    let mut random = Random::new(SEED, split as u64, index, Stream::Demo);
    let form = Form::random(motif, &mut random);
    let light = Light::random(&mut random);
    let gray = light.metered(&form);
    RgbImage::from_fn(SIDE, SIDE, |column, row| {
        let noise = light.noise * bell(&mut random);
        light.color(gray[(row * SIDE + column) as usize] + noise)
    })
}

/// Center of a pixel, with the image spanning [-1, 1] both ways.
fn position(column: u32, row: u32) -> [f64; 2] {
    [column, row].map(|at| (2.0 * f64::from(at) + 1.0) / f64::from(SIDE) - 1.0)
}

/// Nearly normal noise with deviation 1: a sum of four uniform numbers.
fn bell(random: &mut Random) -> f64 {
    let sum: f64 = (0..4).map(|_| random.unit()).sum();
    (sum - 2.0) * 3f64.sqrt()
}

/// A random direction as a unit vector, by rejection from the disc.
fn direction(random: &mut Random) -> [f64; 2] {
    loop {
        let [x, y] = [random.uniform(-1.0, 1.0), random.uniform(-1.0, 1.0)];
        let length = (x * x + y * y).sqrt();
        if (0.1..=1.0).contains(&length) {
            return [x / length, y / length];
        }
    }
}

/// A unit vector within 27 degrees of the first axis.
fn tilt(random: &mut Random) -> [f64; 2] {
    let slope = random.uniform(-0.5, 0.5);
    let length = (1.0 + slope * slope).sqrt();
    [1.0 / length, slope / length]
}

/// The fractional part, in [0, 1) for negative numbers too.
fn fraction(x: f64) -> f64 {
    x - x.floor()
}

/// The geometry of one image.
struct Form {
    motif: Motif,
    /// Unit vector of the motif's first axis.
    axis: [f64; 2],
    /// Middle of the motif in the image.
    center: [f64; 2],
    /// Shift of a texture in periods.
    phase: [f64; 2],
    /// Periods per unit of length; half the image is one unit.
    frequency: f64,
    /// Size of a shape in units of length.
    radius: f64,
    /// In [0, 1): width of a line, a stripe or a dot within what its class allows.
    weight: f64,
    /// In [0, 1): a second, class-specific choice.
    variant: f64,
    /// Heights on a lattice, for `blobs` alone.
    heights: Vec<f64>,
}

impl Form {
    fn random(motif: Motif, random: &mut Random) -> Self {
        Self {
            motif,
            axis: tilt(random),
            center: [random.uniform(-0.2, 0.2), random.uniform(-0.2, 0.2)],
            phase: [random.unit(), random.unit()],
            frequency: random.uniform(1.28, 1.92),
            radius: random.uniform(0.52, 0.78),
            weight: random.unit(),
            variant: random.unit(),
            heights: (0..LATTICE * LATTICE).map(|_| random.unit()).collect(),
        }
    }

    /// How much of a pixel the motif covers, in `[0, 1]`.
    fn cover(&self, column: u32, row: u32) -> f64 {
        let [x, y] = position(column, row);
        let pixel = 2.0 / f64::from(SIDE);
        let shift = |sub: u32| pixel * ((f64::from(sub) + 0.5) / f64::from(SAMPLES) - 0.5);
        let inside = (0..SAMPLES * SAMPLES)
            .filter(|sub| self.inside([x + shift(sub % SAMPLES), y + shift(sub / SAMPLES)]))
            .count();
        inside as f64 / f64::from(SAMPLES * SAMPLES)
    }

    /// Whether a point of the image lies on the motif.
    fn inside(&self, point: [f64; 2]) -> bool {
        let [x, y] = [point[0] - self.center[0], point[1] - self.center[1]];
        let [cos, sin] = self.axis;
        let local = [cos * x + sin * y, cos * y - sin * x];
        match self.motif {
            Motif::Cross | Motif::Disc | Motif::Triangle => self.shape(local),
            Motif::Rays | Motif::Rings => self.round(local),
            _ => self.texture([
                local[0] * self.frequency + self.phase[0],
                local[1] * self.frequency + self.phase[1],
            ]),
        }
    }

    /// The classes that show one thing; `local` is in units of length.
    fn shape(&self, local: [f64; 2]) -> bool {
        let [x, y] = local.map(|at| at / self.radius);
        match self.motif {
            Motif::Disc => x * x + y * y < 0.8,
            Motif::Triangle => y > -0.6 && y < 1.1 - 1.7 * x.abs(),
            // A cross: two bars of one width.
            _ => x.abs().max(y.abs()) < 1.0 && x.abs().min(y.abs()) < 0.22 + 0.14 * self.weight,
        }
    }

    /// The classes that turn around a point; `local` is in units of length.
    fn round(&self, local: [f64; 2]) -> bool {
        let [x, y] = local;
        if self.motif == Motif::Rings {
            let radius = (x * x + y * y).sqrt() * self.frequency;
            return fraction(radius + self.phase[0]) < 0.4 + 0.2 * self.weight;
        }
        // 2k equal sectors: every line of k through the center flips the color. The unit vector turns by half a
        // circle over k; sine and cosine of that are constants for k = 4, 5, 6.
        let turns = [
            [
                std::f64::consts::FRAC_1_SQRT_2,
                std::f64::consts::FRAC_1_SQRT_2,
            ],
            [0.809_016_994_374_947_5, 0.587_785_252_292_473_1],
            [0.866_025_403_784_438_6, 0.5],
        ];
        let choice = ((self.variant * 3.0) as usize).min(2);
        let [cos, sin] = turns[choice];
        let mut line = [1.0, 0.0];
        let mut odd = false;
        for _ in 0..choice + 4 {
            odd ^= line[0] * x + line[1] * y > 0.0;
            line = [cos * line[0] - sin * line[1], sin * line[0] + cos * line[1]];
        }
        odd
    }

    /// The classes that repeat over the plane; `local` is in periods.
    fn texture(&self, local: [f64; 2]) -> bool {
        let [u, v] = local;
        let odd = |x: f64| x.floor().rem_euclid(2.0) >= 1.0;
        match self.motif {
            Motif::Blobs => self.height(1.3 * u, 1.3 * v) > 0.5,
            Motif::Bricks => {
                let shift = if odd(1.3 * v) { 0.5 } else { 0.0 };
                let mortar = 0.18 + 0.12 * self.weight;
                fraction(1.3 * v) < mortar || fraction(0.65 * u + shift) < 0.5 * mortar
            }
            Motif::Checks => odd(1.4 * u) != odd(1.4 * v),
            Motif::Dots => {
                let x = fraction(if odd(v) { u + 0.5 } else { u }) - 0.5;
                let y = fraction(v) - 0.5;
                (x * x + y * y).sqrt() < 0.25 + 0.12 * self.weight
            }
            Motif::Grid => u_or_v(u, v, 0.2 + 0.14 * self.weight),
            Motif::Zigzag => {
                let wave = (2.0 * fraction(0.8 * u) - 1.0).abs() * (0.7 + 0.4 * self.variant);
                fraction(1.1 * v + wave) < 0.4 + 0.2 * self.weight
            }
            // Stripes.
            _ => fraction(u) < 0.4 + 0.2 * self.weight,
        }
    }

    /// Smooth random terrain in `[0, 1]` over a lattice that repeats.
    fn height(&self, u: f64, v: f64) -> f64 {
        let at = |x: f64, y: f64| {
            let [x, y] = [x, y].map(|at| at.rem_euclid(LATTICE as f64) as usize % LATTICE);
            self.heights[y * LATTICE + x]
        };
        let [a, b] = [u, v].map(fraction).map(|t| t * t * (3.0 - 2.0 * t));
        let [x, y] = [u.floor(), v.floor()];
        let upper = at(x, y) * (1.0 - a) + at(x + 1.0, y) * a;
        let lower = at(x, y + 1.0) * (1.0 - a) + at(x + 1.0, y + 1.0) * a;
        upper * (1.0 - b) + lower * b
    }
}

/// Lines of the given width along both axes.
fn u_or_v(u: f64, v: f64, width: f64) -> bool {
    fraction(u) < width || fraction(v) < width
}

/// Colors and light of one image, drawn without a look at its class.
struct Light {
    /// Figure brighter than ground (1) or darker (-1).
    polarity: f64,
    /// Change of brightness per unit of length, in units of the step from ground to figure.
    slope: [f64; 2],
    /// Mean of the gray values.
    exposure: f64,
    /// Deviation of the gray values before noise.
    contrast: f64,
    /// What red, green and blue have more than gray.
    tint: [f64; 3],
    /// Deviation of the gray pixel noise.
    noise: f64,
}

impl Light {
    fn random(random: &mut Random) -> Self {
        let steepness = random.uniform(0.0, 0.4);
        Self {
            polarity: if random.chance(0.5) { 1.0 } else { -1.0 },
            slope: direction(random).map(|along| along * steepness),
            exposure: random.uniform(0.47, 0.53),
            contrast: random.uniform(0.12, 0.24),
            tint: [(); 3].map(|()| random.uniform(-0.04, 0.04)),
            noise: random.uniform(0.02, 0.08),
        }
    }

    /// Gray values with the mean and deviation of this light, the way a camera meters a scene.
    ///
    /// Without metering and with stronger tints, brightness and color tell an image's two views from the rest of the
    /// batch, and training settles on that: 300 steps in PyTorch took k-NN from 0.29 to 0.32, or 0.45 to 0.52 metered.
    fn metered(&self, form: &Form) -> Vec<f64> {
        let places = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (column, row)));
        let raw: Vec<f64> = places
            .map(|(column, row)| {
                let [x, y] = position(column, row);
                self.polarity * form.cover(column, row) + self.slope[0] * x + self.slope[1] * y
            })
            .collect();
        let count = raw.len() as f64;
        let mean = raw.iter().sum::<f64>() / count;
        let variance = raw
            .iter()
            .map(|gray| (gray - mean) * (gray - mean))
            .sum::<f64>()
            / count;
        // A lattice of `blobs` may leave the whole image one color.
        let scale = self.contrast / variance.sqrt().max(0.05);
        raw.into_iter()
            .map(|gray| self.exposure + scale * (gray - mean))
            .collect()
    }

    /// The pixel of a gray value.
    fn color(&self, gray: f64) -> Rgb<u8> {
        Rgb(self
            .tint
            .map(|tint| ((gray + tint).clamp(0.0, 1.0) * 255.0 + 0.5) as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean red, green and blue of an image.
    fn mean_color(image: &RgbImage) -> [f64; 3] {
        let count = f64::from(image.width() * image.height());
        [0, 1, 2].map(|channel| {
            image
                .pixels()
                .map(|pixel| f64::from(pixel.0[channel]))
                .sum::<f64>()
                / count
        })
    }

    fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    #[test]
    fn equal_numbers_give_equal_images() {
        for (class, (_, motif)) in CLASSES.into_iter().enumerate() {
            let draw = |split, number| image(motif, class, split, number);
            assert_eq!(draw(Split::Train, 3), draw(Split::Train, 3));
            assert_ne!(draw(Split::Train, 3), draw(Split::Train, 4));
            assert_ne!(draw(Split::Train, 3), draw(Split::Test, 3));
        }
    }

    #[test]
    fn mean_color_does_not_tell_the_class() {
        let colors = |split, count| {
            let draw = move |class: usize| {
                let (_, motif) = CLASSES[class];
                (0..count).map(move |n| mean_color(&image(motif, class, split, n)))
            };
            (0..CLASSES.len())
                .map(|class| draw(class).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        let means: Vec<[f64; 3]> = colors(Split::Train, 100)
            .iter()
            .map(|of_class| {
                [0, 1, 2].map(|at| of_class.iter().map(|color| color[at]).sum::<f64>() / 100.0)
            })
            .collect();
        let mut right = 0;
        for (class, of_class) in colors(Split::Test, 40).iter().enumerate() {
            for color in of_class {
                let nearest = (0..means.len()).min_by(|a, b| {
                    distance(means[*a], *color).total_cmp(&distance(means[*b], *color))
                });
                right += usize::from(nearest == Some(class));
            }
        }
        let accuracy = right as f64 / (40 * CLASSES.len()) as f64;
        assert!(
            accuracy < 2.0 / CLASSES.len() as f64,
            "mean color alone: {accuracy:.3}"
        );
    }
}
