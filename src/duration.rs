//! Times as people read them.

/// Seconds in words, to two or three digits: `37 ms`, `1.25 s`, `75 s`, `3 min 20 s`, `9 h 40 min`.
#[must_use]
pub fn in_words(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1e3),
        ..10 => format!("{seconds:.2} s"),
        10..120 => format!("{whole} s"),
        120..600 => format!("{} min {} s", whole / 60, whole % 60),
        600..3_600 => format!("{} min", whole / 60),
        3_600..172_800 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        for (seconds, said) in [
            (0.0042, "4 ms"),
            (0.366, "366 ms"),
            (0.9996, "1.00 s"),
            (1.257, "1.26 s"),
            (9.7, "10 s"),
            (75.0, "75 s"),
            (200.4, "3 min 20 s"),
            (754.4, "12 min"),
            (30_065.0, "8 h 21 min"),
            (721_311.0, "8 d 8 h"),
        ] {
            assert_eq!(in_words(seconds), said);
        }
    }
}
