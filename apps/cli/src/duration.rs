//! Times as people read them.

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

/// Seconds in words, to two or three digits: `0.37 s`, `9 h 40 min`.
pub fn in_words(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        ..10 => format!("{seconds:.2} s"),
        10..120 => format!("{whole} s"),
        120..3_600 => format!("{} min", whole / 60),
        3_600..172_800 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, on_a_clock, words) in [
            (0.366, "0:00", "0.37 s"),
            (67.0, "1:07", "67 s"),
            (754.4, "12:34", "12 min"),
            (30_065.0, "8:21:05", "8 h 21 min"),
            (721_311.0, "8 d 8 h", "8 d 8 h"),
        ] {
            assert_eq!(
                (clock(seconds).as_str(), in_words(seconds).as_str()),
                (on_a_clock, words)
            );
        }
    }
}
