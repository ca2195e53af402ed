//! Arithmetic that the compiler does on several entries at once: functions without branches or calls, and sums in lanes.

/// Running values of a reduction: enough to fill vector registers, and one number for all processors, so that all get the
/// same bits.
const LANES: usize = 16;

/// Runs `work` with the widest vectors that this processor has; what it calls in its loops must be inlined.
#[inline(always)]
pub(super) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Largest of `value(at)` for `at` below `count`.
#[inline(always)]
pub(super) fn largest(count: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, max) in lanes.iter_mut().enumerate() {
            let found = value(start + lane);
            // not `f32::max`, whose care for NaN costs; a NaN comes out of the sums
            *max = if found > *max { found } else { *max };
        }
    }
    let rest = (whole..count).map(value).fold(f32::NEG_INFINITY, f32::max);
    lanes.into_iter().fold(rest, f32::max)
}

/// Sums of `value(at)` for `at` below `count`.
#[inline(always)]
pub(super) fn sums<const N: usize>(count: usize, value: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0; LANES]; N];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let found = value(start + lane);
            for (sums, found) in lanes.iter_mut().zip(found) {
                sums[lane] += found;
            }
        }
    }
    let mut totals = lanes.map(|sums| sums.iter().sum::<f32>());
    for at in whole..count {
        for (total, found) in totals.iter_mut().zip(value(at)) {
            *total += found;
        }
    }
    totals
}

/// Below this the exponential is zero for all that softmax and GELU care about, and its exponent would overflow.
const EXP_MIN: f32 = -87.3;
/// Above this the exponential is not finite.
const EXP_MAX: f32 = 88.3;
/// Adding and subtracting it rounds to a whole number: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few digits, so that its multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x`, within 3e-7 of its value for x from -87 to 88 (Cephes' `expf`); clamped outside.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(EXP_MIN, EXP_MAX);
    let whole = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut polynomial = 1.987_569_1e-4;
    polynomial = polynomial * rest + 1.398_199_9e-3;
    polynomial = polynomial * rest + 8.333_452e-3;
    polynomial = polynomial * rest + 4.166_579_6e-2;
    polynomial = polynomial * rest + 1.666_666_5e-1;
    polynomial = polynomial * rest + 5e-1;
    let fraction = polynomial * rest * rest + rest + 1.0;
    let power_of_two = f32::from_bits(((whole as i32 + 127) << 23) as u32);
    fraction * power_of_two
}

/// Cumulative distribution and density of the standard normal at x.
///
/// Abramowitz and Stegun, formula 7.1.26: with rounding within 3e-7. The negative tail is small by
/// itself, not a difference to one.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let decay = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut polynomial = 1.061_405_4;
    polynomial = polynomial * t - 1.453_152;
    polynomial = polynomial * t + 1.421_413_7;
    polynomial = polynomial * t - 0.284_496_74;
    polynomial = polynomial * t + 0.254_829_6;
    let tail = 0.5 * polynomial * t * decay;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, decay * NORMAL_PEAK)
}

/// 1 / sqrt(2 pi): density of the standard normal at zero.
const NORMAL_PEAK: f32 = 0.398_942_3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_over_lanes_and_rest() {
        for count in [0, 1, 15, 16, 17, 50] {
            let values: Vec<f32> = (0..count).map(|at| (at * 7 % 11) as f32 - 3.0).collect();
            let found = vectorized(|| sums(count, |at| [values[at], values[at] * values[at]]));
            let squares = values.iter().map(|x| x * x);
            assert_eq!(found, [values.iter().sum::<f32>(), squares.sum()]);
            let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(vectorized(|| largest(count, |at| values[at])), max);
        }
    }

    #[test]
    fn exp_is_within_rounding() {
        for step in -87_000..=88_000 {
            let x = step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite());
    }

    #[test]
    fn normal_is_within_its_bound() {
        for step in -9_000..=9_000 {
            let x = step as f32 * 1e-3;
            let wide = f64::from(x);
            let below = 0.5 * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2));
            let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let found = normal(x);
            assert!((f64::from(found.0) - below).abs() < 3e-7, "{x}: {found:?}");
            assert!(
                (f64::from(found.1) - density).abs() < 1e-7,
                "{x}: {found:?}"
            );
        }
    }
}
