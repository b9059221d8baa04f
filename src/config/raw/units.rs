//! Parses durations and sizes, which always have a unit, and checks their bounds.

use std::time::Duration;

/// Bytes in a kibibyte.
pub(in crate::config) const KIB: usize = 1024;
/// Bytes in a mebibyte.
pub(in crate::config) const MIB: usize = 1024 * KIB;

const UNITS: [(&str, usize); 7] =
    [("B", 1), ("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("KiB", KIB), ("MiB", MIB), ("GiB", 1024 * MIB)];

/// The smallest and largest allowed value, both inclusive.
#[derive(Clone, Copy)]
pub(in crate::config) struct Bounds<T> {
    pub(super) least: T,
    pub(super) most: T,
    /// Why the bounds are what they are, as the end of the error message: ` (Electric is silent for up to 21 s)`. May
    /// be empty.
    pub(super) reason: &'static str,
}

impl<T: Copy> Bounds<T> {
    pub(in crate::config) const fn new(least: T, most: T) -> Self {
        Self { least, most, reason: "" }
    }

    /// Returns the same bounds with a `reason` that ends their error messages.
    pub(in crate::config) const fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }
}

/// Parses `25s`, `500ms` or `1m30s`. A number without a unit is rejected, even 0.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    humantime::parse_duration(text).ok().filter(|_| unit)
}

/// Parses `512B`, `8KiB` or `1MB`: a whole number and a case-sensitive unit.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// Formats the value in the largest unit that divides it, as a user would write it.
pub(super) fn show_duration(duration: Duration) -> String {
    const MILLIS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    if duration.is_zero() { "0s".to_owned() } else { show(duration.as_millis(), &MILLIS) }
}

/// Formats the value in the largest unit that divides it, as a user would write it.
pub(super) fn show_size(size: usize) -> String {
    if size == 0 {
        "0B".to_owned()
    } else {
        show(size as u128, &[("MiB", MIB as u128), ("KiB", KIB as u128), ("B", 1)])
    }
}

fn show(amount: u128, units: &[(&str, u128)]) -> String {
    let fitting = units.iter().find(|(_, unit)| amount.is_multiple_of(*unit));
    fitting.map_or_else(|| amount.to_string(), |(name, unit)| format!("{}{name}", amount / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [("500ms", 500), ("25s", 25_000), ("1m30s", 90_000), ("1m 30s", 90_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "25", "0", "s", "-1s", "1.5s5", "25 parsecs", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("8KiB", 8192), ("8 KiB", 8192), ("1MB", 1_000_000)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in
            ["", "8", "KiB", "8kib", "8K", "-8KiB", "1.5MiB", "8KiB8", "99999999999999999999B", "18014398509481984KiB"]
        {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_shown_as_a_user_writes_them() {
        for text in ["0s", "100ms", "59s", "5m", "1h", "365d"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
        for (bytes, text) in [(0, "0B"), (100, "100B"), (8192, "8KiB"), (1024 * 1024, "1MiB")] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
