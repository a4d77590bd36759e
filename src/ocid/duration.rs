//! Durations as crio.conf writes them: Go's form, such as `10s` or `1h30m` (time.ParseDuration).

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Parses a duration; none of Go's negative ones makes sense in a configuration.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (value, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = after.split_at(unit.unwrap_or(after.len()));
        let nanoseconds = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        let value: f64 = value.parse().ok()?;
        let part = Duration::try_from_secs_f64(value * nanoseconds / 1e9).ok()?;
        total = total.checked_add(part)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// For `#[serde(with)]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || {
        de::Error::custom(format!(
            "`{text}` is not a duration such as `10s` or `1m30s`"
        ))
    };
    parse(&text).ok_or_else(wrong)
}

/// For `#[serde(with)]`; reads back as the same.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let text = match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds, 0) => format!("{seconds}s"),
        (seconds, nanoseconds) => format!("{seconds}s{nanoseconds}ns"),
    };
    serializer.serialize_str(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_s_durations() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(parse("0"), ms(0));
        assert_eq!(parse("0s"), ms(0));
        assert_eq!(parse("10s"), ms(10_000));
        assert_eq!(parse("1h30m"), ms(5_400_000));
        assert_eq!(parse("1.5s250ms"), ms(1_750));
        assert_eq!(parse("2µs"), Some(Duration::from_micros(2)));
        for bad in [
            "", "10", "s", "-1s", "1 s", "1d", "1.2.3s", "10s5", "1e400h", "é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
