//! Formats numbers for people.

/// Returns a time with three digits and a unit.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// Returns a share as a whole percentage.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Returns a number of bytes with a unit, powers of 1024.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 10.0);
    format!("{value:.digits$} {}", units[unit])
}

/// Returns a part as a share of a whole, 0 to 1; 0 if the whole is 0.
pub fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0 µs"),
            (0.000_012_3, "12.3 µs"),
            (0.001, "1 ms"),
            (0.010, "10 ms"),
            (0.002_346, "2.35 ms"),
            (0.123_4, "123 ms"),
            (1.5, "1.5 s"),
            (100.0, "100 s"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(time(seconds), expected);
        }
    }

    #[test]
    fn bytes_have_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (300 << 20, "300 MiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (count, expected) in cases {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        let cases = [(1.0, 4.0, 0.25), (1.0, 0.0, 0.0), (5.0, 4.0, 1.0), (-1.0, 4.0, 0.0)];
        for (part, whole, expected) in cases {
            assert!((share(part, whole) - expected).abs() < 1e-9, "{part} of {whole}");
        }
    }
}
