// The standard normal distribution, entry by entry.

/// 1 / sqrt(2 pi): the density at zero.
const PEAK = 0.398942280;

/// exp(-x x / 2), without an infinity on the way: at 20 it is less than any f32.
fn decay_of(x: Chunk) -> Chunk {
    let near = clamp(x, Chunk(-20.0), Chunk(20.0));
    return exp(-0.5 * near * near);
}

/// Probability of less than x, where `decay` is decay_of(x).
///
/// Abramowitz and Stegun, formula 7.1.26: with rounding within 3e-7. The negative tail is small by itself, not a
/// difference to one.
fn probability_below(x: Chunk, decay: Chunk) -> Chunk {
    let t = 1.0 / (1.0 + 0.231641888 * abs(x));
    var polynomial = 1.061405429 * t - 1.453152027;
    polynomial = polynomial * t + 1.421413741;
    polynomial = polynomial * t - 0.284496736;
    polynomial = polynomial * t + 0.254829592;
    let tail = 0.5 * polynomial * t * decay;
    return select(1.0 - tail, tail, x < Chunk(0.0));
}
