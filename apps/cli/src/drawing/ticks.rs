//! Ranges of axes, and numbers beside them.

/// Values that a chart can show; beyond them plotters runs out of digits.
const LIMIT: f64 = 1e15;

pub(super) fn is_shown(value: f64) -> bool {
    value.abs() < LIMIT // false for NaN
}

/// Smallest and largest value that can be shown; 0 and 1 without any.
pub(super) fn span(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let shown = values.filter(|value| is_shown(*value));
    let ends = |[low, high]: [f64; 2], value: f64| [low.min(value), high.max(value)];
    let [low, high] = shown.fold([f64::INFINITY, f64::NEG_INFINITY], ends);
    if low > high { [0.0, 1.0] } else { [low, high] }
}

/// The range with a share of it free at both ends; one of no length with some room around it.
pub(super) fn padded([low, high]: [f64; 2], share: f64) -> [f64; 2] {
    let free = match (high - low) * share {
        0.0 if low == 0.0 => 1.0,
        0.0 => low.abs() * 0.2,
        free => free,
    };
    [low - free, high + free]
}

/// Powers of ten; where there are few, their multiples by 2 and 5 too.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let [first, last] = [low.log10().floor(), high.log10().ceil()].map(|power| power as i32);
    let factors: &[f64] = if last - first > 3 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let stride = ((last - first) / 8 + 1) as usize;
    let powers = (first..=last).step_by(stride);
    let ticks =
        powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    ticks
        .filter(|tick| (low / 1.2..=high * 1.2).contains(tick))
        .collect()
}

/// A round number, as short as possible: `0.05`, `2k`, `1e-6`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".to_owned();
    }
    let [scaled, unit] = match size {
        1e3..1e6 => [value / 1e3, 0.0],
        _ => [value, 1.0],
    };
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}")
            .replace(".00e", "e")
            .replace("0e", "e");
    }
    let text = format!("{scaled:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if unit == 0.0 {
        format!("{text}k")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short_round_numbers() {
        let text = |ticks: &[f64]| ticks.iter().map(|tick| number(*tick)).collect::<Vec<_>>();
        assert_eq!(text(&log_ticks(0.02, 90.0)), ["0.1", "1", "10", "100"]);
        assert_eq!(
            text(&log_ticks(1e-5, 2e-4)),
            ["1e-5", "2e-5", "5e-5", "1e-4", "2e-4"]
        );
        assert_eq!(
            text(&[0.0, -0.05, 0.998, 1500.0, 2e6, 3e-17]),
            ["0", "-0.05", "0.998", "1.5k", "2e6", "0"]
        );
    }
}
