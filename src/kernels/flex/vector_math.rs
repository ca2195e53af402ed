//! Arithmetic that the compiler does on several entries at once: functions without branches or calls, and sums in lanes.

use pulp::{Arch, Simd, WithSimd};

/// Running values of a reduction: four registers of AVX-512, eight of AVX2, as an addition waits four cycles for the one
/// before it. One number for all processors and threads, so that the order of a sum depends on neither.
const LANES: usize = 64;

/// What the processor at hand has beside vectors. Bits differ between processors with and without fused multiply-add.
#[derive(Debug, Clone, Copy)]
pub(super) struct Math {
    /// Whether a multiplication and an addition are one instruction. Without it `mul_add` is a call of a slow function.
    fused: bool,
}

struct Work<W>(W);

impl<R, W: FnOnce(Math) -> R> WithSimd for Work<W> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> R {
        let fused = !S::IS_SCALAR && cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        (self.0)(Math { fused })
    }
}

/// Runs `work` with the widest vectors that this processor has, as is found out when it runs; what it calls in its loops
/// must be inlined.
#[inline(always)]
pub(super) fn vectorized<R>(work: impl FnOnce(Math) -> R) -> R {
    Arch::new().dispatch(Work(work))
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn nearest_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let to_even = 0x7fff + ((bits >> 16) & 1);
    let nearest = f32::from_bits(bits.wrapping_add(to_even) & 0xffff_0000);
    if x.is_nan() { x } else { nearest }
}

/// Folds `value` of the entries of equally long rows, in lanes that are joined by halves.
///
/// Rows are cut before the inner loop: it has no bounds to check, and so becomes vectors. It has indices, not iterators, which are a
/// call for each entry where a program is built without LTO.
#[inline(always)]
fn fold<const K: usize, const N: usize>(
    rows: [&[f32]; K],
    first: f32,
    value: impl Fn([f32; K]) -> [f32; N],
    join: impl Fn(f32, f32) -> f32,
) -> [f32; N] {
    let count = rows[0].len();
    let mut lanes = [[first; LANES]; N];
    for start in (0..count).step_by(LANES) {
        let here = LANES.min(count - start);
        let mut parts = rows;
        for part in &mut parts {
            *part = &part[start..start + here];
        }
        for lane in 0..here {
            let mut entries = [0.0; K];
            for row in 0..K {
                entries[row] = parts[row][lane];
            }
            let found = value(entries);
            for at in 0..N {
                lanes[at][lane] = join(lanes[at][lane], found[at]);
            }
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lanes in &mut lanes {
            for lane in 0..half {
                lanes[lane] = join(lanes[lane], lanes[lane + half]);
            }
        }
        half /= 2;
    }
    lanes.map(|lanes| lanes[0])
}

/// Largest `value` of the entries of equally long rows.
#[inline(always)]
pub(super) fn largest<const K: usize>(rows: [&[f32]; K], value: impl Fn([f32; K]) -> f32) -> f32 {
    // not `f32::max`, whose care for NaN costs; a NaN comes out of the sums
    let larger = |max, found| if found > max { found } else { max };
    let [max] = fold(rows, f32::NEG_INFINITY, |entries| [value(entries)], larger);
    max
}

/// Sums of each `value` of the entries of equally long rows.
#[inline(always)]
pub(super) fn sums<const K: usize, const N: usize>(
    rows: [&[f32]; K],
    value: impl Fn([f32; K]) -> [f32; N],
) -> [f32; N] {
    fold(rows, 0.0, value, |sum, found| sum + found)
}

/// Below this the exponential is zero for all that softmax and GELU care about, and its exponent would overflow.
const EXP_MIN: f32 = -87.3;
/// Above this the exponential is not finite.
const EXP_MAX: f32 = 88.3;
/// Adding and subtracting it rounds to a whole number: 1.5 * 2^23. Before it is subtracted, the last bits are that number.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few digits, so that its multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1 / sqrt(2 pi): density of the standard normal at zero.
const NORMAL_PEAK: f32 = 0.398_942_3;

impl Math {
    /// `x * factor + term`, rounded once where the processor can.
    #[inline(always)]
    pub(super) fn multiply_add(self, x: f32, factor: f32, term: f32) -> f32 {
        if self.fused {
            x.mul_add(factor, term)
        } else {
            x * factor + term
        }
    }

    /// `e^x`, within 3e-7 of its value for x from -87 to 88 (Cephes' `expf`); clamped outside.
    #[inline(always)]
    pub(super) fn exp(self, x: f32) -> f32 {
        let x = x.clamp(EXP_MIN, EXP_MAX);
        let rounded = self.multiply_add(x, std::f32::consts::LOG2_E, ROUND);
        let whole = rounded - ROUND;
        let rest = self.multiply_add(whole, -LN_2_HIGH, x);
        let rest = self.multiply_add(whole, -LN_2_LOW, rest);
        let mut polynomial = 1.987_569_1e-4;
        for coefficient in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            5e-1,
        ] {
            polynomial = self.multiply_add(polynomial, rest, coefficient);
        }
        let fraction = self.multiply_add(polynomial * rest, rest, rest) + 1.0;
        // all bits of ROUND's own leave at the top
        let power_of_two = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
        fraction * power_of_two
    }

    /// Cumulative distribution and density of the standard normal at x.
    ///
    /// Abramowitz and Stegun, formula 7.1.26: with rounding within 3e-7. The negative tail is small by
    /// itself, not a difference to one.
    #[inline(always)]
    pub(super) fn normal(self, x: f32) -> (f32, f32) {
        let decay = self.exp(-0.5 * x * x);
        let scale = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / self.multiply_add(scale, x.abs(), 1.0);
        let mut polynomial = 1.061_405_4;
        for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            polynomial = self.multiply_add(polynomial, t, coefficient);
        }
        let tail = 0.5 * polynomial * t * decay;
        let below = if x < 0.0 { tail } else { 1.0 - tail };
        (below, decay * NORMAL_PEAK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processors with and without fused multiply-add.
    const BOTH: [Math; 2] = [Math { fused: true }, Math { fused: false }];

    #[test]
    fn reductions_over_lanes_and_rest() {
        for count in [0, 1, 15, 16, 17, 50, 63, 64, 65, 200] {
            let values: Vec<f32> = (0..count).map(|at| (at * 7 % 11) as f32 - 3.0).collect();
            let found = vectorized(|_| sums([&values], |[x]| [x, x * x]));
            let squares = values.iter().map(|x| x * x);
            assert_eq!(found, [values.iter().sum::<f32>(), squares.sum()]);
            let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(vectorized(|_| largest([&values], |[x]| x)), max);
        }
    }

    #[test]
    fn exp_is_within_rounding() {
        for math in BOTH {
            for step in -87_000..=88_000 {
                let x = step as f32 * 1e-3;
                let exact = f64::from(x).exp();
                let found = f64::from(math.exp(x));
                assert!((found / exact - 1.0).abs() < 3e-7, "{x}, {math:?}");
            }
            assert_eq!(math.exp(0.0), 1.0);
            assert!(math.exp(-1e30) < 1e-37 && math.exp(1e30).is_finite());
            assert!(math.exp(f32::NAN).is_nan());
        }
    }

    #[test]
    fn normal_is_within_its_bound() {
        for (math, step) in BOTH
            .iter()
            .flat_map(|math| (-9_000..=9_000).map(move |step| (math, step)))
        {
            let x = step as f32 * 1e-3;
            let wide = f64::from(x);
            let below = 0.5 * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2));
            let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let found = math.normal(x);
            assert!((f64::from(found.0) - below).abs() < 3e-7, "{x}: {found:?}");
            assert!(
                (f64::from(found.1) - density).abs() < 1e-7,
                "{x}: {found:?}"
            );
        }
    }
}
