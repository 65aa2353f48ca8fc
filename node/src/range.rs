//! The `Range` header (RFC 9110, section 14) as far as a blob needs it. Pure.

use std::ops::Range;

/// What a `Range` header asks for of something with a given size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Everything: the header is of another unit, or malformed, and such headers are to be ignored.
    Whole,
    /// These bytes; never empty.
    One(Range<u64>),
    /// Several ranges at once.
    Many,
    /// Bytes that are not there.
    Beyond,
}

/// Reads the header's value for something of `size` bytes.
pub(crate) fn parse(value: &str, size: u64) -> Ranges {
    let Some(ranges) = value.strip_prefix("bytes=") else { return Ranges::Whole };
    if ranges.contains(',') {
        return Ranges::Many;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Ranges::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number too large for u64 is beyond the end of everything.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return Ranges::Whole,
    };
    if range.start < range.end { Ranges::One(range) } else { Ranges::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        for (value, expected) in [
            ("bytes=0-0", Ranges::One(0..1)),
            ("bytes=0-99", Ranges::One(0..100)),
            ("bytes=90-1000", Ranges::One(90..100)),
            ("bytes=90-99999999999999999999999", Ranges::One(90..100)),
            ("bytes=10-", Ranges::One(10..100)),
            ("bytes=-10", Ranges::One(90..100)),
            ("bytes=-1000", Ranges::One(0..100)),
            ("bytes=100-", Ranges::Beyond),
            ("bytes=100-200", Ranges::Beyond),
            ("bytes=99999999999999999999999-", Ranges::Beyond),
            ("bytes=-0", Ranges::Beyond),
            ("bytes=0-1,5-6", Ranges::Many),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("items=0-1", Ranges::Whole),
            ("", Ranges::Whole),
        ] {
            assert_eq!(parse(value, 100), expected, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Ranges::Beyond);
    }
}
