//! The range of an axis and its ticks.

/// Maps values to places on an axis.
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    /// Values and their labels.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// That shows all `values` that are finite (and above 0 for a logarithmic axis), with `margin` of their range free
    /// at both ends.
    pub fn fit(values: impl Iterator<Item = f64>, is_log: bool, margin: f64) -> Self {
        let scaled = values.filter_map(|value| scale(value, is_log));
        let (mut low, mut high) = scaled
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let mut free = (high - low) * margin;
        if low == high {
            free = if low == 0.0 || is_log {
                0.5
            } else {
                low.abs() * 0.1
            };
        }
        (low, high) = (low - free, high + free);
        let ticks = if is_log {
            log_ticks(low, high)
        } else {
            linear_ticks(low, high)
        };
        Self {
            low,
            high,
            is_log,
            ticks,
        }
    }

    /// 0 at the low end, 1 at the high; `None` for values that have no place.
    pub fn place(&self, value: f64) -> Option<f64> {
        scale(value, self.is_log).map(|value| (value - self.low) / (self.high - self.low))
    }
}

fn scale(value: f64, is_log: bool) -> Option<f64> {
    let scaled = if is_log { value.log10() } else { value };
    scaled.is_finite().then_some(scaled)
}

/// Multiples of 1, 2 or 5 times a power of ten: three to eight of them.
fn linear_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / 7.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil();
    let values = (0..8).map(|i| (first + f64::from(i)) * step);
    values
        .take_while(|&value| value <= high + step * 1e-9)
        .map(|value| (value, number(value, step)))
        .collect()
}

/// Powers of ten; where there are few, their multiples by 2 and 5 too; over less than a factor of ten, linear ticks.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    if high - low < 1.0 {
        return linear_ticks(10f64.powf(low), 10f64.powf(high));
    }
    let stride = ((high - low) / 8.0).ceil();
    let factors: &[f64] = if high - low < 3.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let first = (low / stride).floor();
    let powers = (0..10).map(|i| (first + f64::from(i)) * stride);
    powers
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powf(power)))
        .filter(|value| (low..=high).contains(&value.log10()))
        .map(|value| (value, number(value, value)))
        .collect()
}

/// A number to the precision of `step`; very large or small ones with a power of ten.
pub(super) fn number(value: f64, step: f64) -> String {
    let digit = |value: f64| (value.abs().log10() + 1e-9).floor() as i32;
    if value == 0.0 || value.abs() < step.abs() * 1e-6 {
        return "0".to_string();
    }
    let (first, last) = (digit(value), digit(step));
    if first >= 5 || last <= -5 {
        let decimals = (first - last).clamp(0, 9) as usize;
        return format!("{value:.decimals$e}");
    }
    format!("{value:.*}", (-last).max(0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, is_log: bool) -> Vec<String> {
        let axis = Axis::fit([low, high].into_iter(), is_log, 0.0);
        axis.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(0.0, 100.0, false),
            ["0", "20", "40", "60", "80", "100"]
        );
        assert_eq!(
            labels(-0.11, 0.2, false),
            ["-0.10", "-0.05", "0", "0.05", "0.10", "0.15", "0.20"]
        );
        assert_eq!(labels(0.0, 3e6, false)[1], "5e5");
        assert_eq!(labels(1e-6, 3e-6, false)[0], "1.0e-6");
        assert_eq!(labels(0.01, 100.0, true), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(labels(0.9, 11.0, true), ["1", "2", "5", "10"]);
        assert_eq!(labels(2.0, 3.0, true)[0], "2.0");
        assert_eq!(labels(1e-30, 1e30, true).len(), 7);
    }

    #[test]
    fn places_run_from_0_to_1() {
        let linear = Axis::fit([2.0, 4.0, f64::NAN].into_iter(), false, 0.0);
        assert_eq!(linear.place(3.0), Some(0.5));
        assert_eq!(linear.place(f64::INFINITY), None);
        let log = Axis::fit([1.0, 100.0, -5.0].into_iter(), true, 0.0);
        assert_eq!(log.place(10.0), Some(0.5));
        assert_eq!((log.place(0.0), log.place(-1.0)), (None, None));
    }

    #[test]
    fn odd_ranges_have_ticks() {
        for values in [
            vec![],
            vec![0.0],
            vec![5.0, 5.0],
            vec![-1e300],
            vec![1e-300, 1e300],
        ] {
            for is_log in [false, true] {
                let axis = Axis::fit(values.iter().copied(), is_log, 0.05);
                assert!((1..=20).contains(&axis.ticks.len()), "{values:?} {is_log}");
                for value in &values {
                    let place = axis.place(*value).unwrap_or(0.5);
                    assert!((0.0..=1.0).contains(&place), "{values:?} {is_log}: {place}");
                }
            }
        }
    }
}
