//! Times as a clock shows them.

pub use ibot::duration::in_words;

/// Seconds as a clock shows them, `1:07` or `8:21:05`; days in words.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{rest:02}"),
        1..48 => format!("{hours}:{minutes:02}:{rest:02}"),
        _ => in_words(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, on_a_clock) in [
            (0.366, "0:00"),
            (67.0, "1:07"),
            (754.4, "12:34"),
            (30_065.0, "8:21:05"),
            (721_311.0, "8 d 8 h"),
        ] {
            assert_eq!(clock(seconds), on_a_clock);
        }
    }
}
