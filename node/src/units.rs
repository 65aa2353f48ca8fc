//! Sizes, rates and durations, as people write and read them. Pure.

use std::str::FromStr;
use std::time::Duration;

const PREFIXES: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// A size in bytes: `0 B`, `999 B`, `1.5 KiB`, `34.1 MiB`. One decimal below 100 of a unit, none above.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for prefix in PREFIXES {
        // What would be rounded to 1024 of a unit is one of the next.
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = prefix;
    }
    let decimals = if value < 99.95 { 1 } else { 0 };
    format!("{value:.decimals$} {unit}")
}

/// A rate: `40.0 MiB/s`. A transfer that took no measurable time has none: `-`.
pub fn rate(moved: u64, took: Duration) -> String {
    if took.is_zero() {
        return "-".into();
    }
    format!("{}/s", bytes((moved as f64 / took.as_secs_f64()) as u64))
}

/// A duration: `7 ms`, `1.24 s`, `12.3 s`, `2 min 03 s`, `1 h 02 min`.
pub fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = millis as f64 / 1000.0;
    let whole = (millis + 500) / 1000;
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..9_995 => format!("{seconds:.2} s"),
        9_995..59_950 => format!("{seconds:.1} s"),
        59_950..3_599_500 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no size: it must be a number of bytes above 0, with an optional KiB, MiB, GiB, KB, MB or GB"
)]
pub struct SizeError(String);

/// A size above 0, in bytes: `1048576`, `1MiB`, `1.5 GiB`, `40MB`. A rate reads the same, with `/s` behind it if one
/// likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let refuse = || SizeError(text.chars().take(40).collect());
        let amount = text.trim();
        let amount = amount.strip_suffix("/s").unwrap_or(amount);
        let split = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
        let (number, unit) = amount.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(refuse()),
        };
        let number: f64 = number.parse().map_err(|_| refuse())?;
        let bytes = number * factor as f64;
        // Above 2^53, a float no longer counts single bytes.
        if (1.0..=(1_u64 << 53) as f64).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(refuse()) }
    }
}

/// Text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: it must be a number with ms, s, m, h or d behind it, such as 10s, or 0")]
pub struct DurationError(String);

/// A duration: `10s`, `500ms`, `1.5h`, `0`. At most 2^53 ms.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(text.chars().take(40).collect());
    let amount = text.trim();
    let split = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
    let (number, unit) = amount.split_at(split);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let millis = match unit.trim_start() {
        "ms" => number,
        "s" => number * 1_000.0,
        "m" | "min" => number * 60_000.0,
        "h" => number * 3_600_000.0,
        "d" => number * 86_400_000.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(refuse()),
    };
    if millis <= (1_u64 << 53) as f64 { Ok(Duration::from_millis(millis as u64)) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let rows = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_348, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_064, "1.0 MiB"),
            (35_756_441, "34.1 MiB"),
            (758_000_000, "723 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (size, expected) in rows {
            assert_eq!(bytes(size), expected, "{size}");
        }
        assert_eq!(rate(80 << 20, Duration::from_secs(2)), "40.0 MiB/s");
        assert_eq!(rate(1, Duration::ZERO), "-");
    }

    #[test]
    fn durations_read_well() {
        let rows = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.00 s"),
            (1_239, "1.24 s"),
            (9_994, "9.99 s"),
            (9_995, "10.0 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 00 s"),
            (123_400, "2 min 03 s"),
            (3_599_499, "59 min 59 s"),
            (3_599_500, "1 h 00 min"),
            (3_720_000, "1 h 02 min"),
        ];
        for (millis, expected) in rows {
            assert_eq!(duration(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let rows = [
            ("1", 1),
            ("512B", 512),
            ("40MiB", 40 << 20),
            ("40mib/s", 40 << 20),
            ("40M", 40 << 20),
            ("1.5 GiB", 3 << 29),
            ("40MB/s", 40_000_000),
            (" 2 kb ", 2_000),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse(), Ok(Size(expected)), "{text}");
        }
        for text in ["", "0", "-1", "MiB", "1 XiB", "1e3", "nan", "inf", "1.2.3", "40MiB/h", "9999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
    #[test]
    fn durations_are_read_with_their_units() {
        let rows = [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("2 min", 120_000),
            ("1.5h", 5_400_000),
            ("7d", 604_800_000),
            ("0", 0),
            (" 0s ", 0),
        ];
        for (text, millis) in rows {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1 s 2", "1e3s", "nan", "inf", "1.2.3s", "10S", "9999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
