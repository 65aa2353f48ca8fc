//! The `Range` header (RFC 9110, section 14) as far as a blob needs it. Pure.

use std::ops::Range;

/// Most ranges in one request. Lazy readers ask for some dozens of files at a time; each part costs a header, and a list
/// of thousands would cost more headers than bytes.
const MAX_PARTS: usize = 256;

/// What a `Range` header asks for of something with a given size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Everything: the header is of another unit, or malformed, and such headers are to be ignored.
    Whole,
    /// Everything from there on: the rest of a whole.
    From(u64),
    /// These bytes; never empty.
    One(Range<u64>),
    /// Several, in the order asked for; none touches the next, and all together are no more than there is.
    Several(Vec<Range<u64>>),
    /// More of them than can be meant well.
    TooMany,
    /// Bytes that are not there.
    Beyond,
}

/// Reads the header's value for something of `size` bytes.
pub(crate) fn parse(value: &str, size: u64) -> Ranges {
    let Some(list) = value.strip_prefix("bytes=") else { return Ranges::Whole };
    if let Some(first) = list.trim().strip_suffix('-').and_then(number) {
        return if first < size { Ranges::From(first) } else { Ranges::Beyond };
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for part in list.split(',') {
        let Some(range) = one(part.trim(), size) else { return Ranges::Whole };
        match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end && last.start <= range.end => {
                *last = last.start.min(range.start)..last.end.max(range.end);
            }
            _ => ranges.push(range),
        }
        if ranges.len() > MAX_PARTS {
            return Ranges::TooMany;
        }
    }
    let total = ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
    match (ranges.pop(), ranges.is_empty()) {
        (None, _) => Ranges::Beyond,
        (Some(only), true) => Ranges::One(only),
        (Some(_), false) if total > size => Ranges::TooMany,
        (Some(last), false) => {
            ranges.push(last);
            Ranges::Several(ranges)
        }
    }
}

/// One range, cut to what is there, so empty if nothing of it is. `None` if it is none.
fn one(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => {
            Some(first..last.saturating_add(1).min(size).max(first))
        }
        (Some(first), None) if last.is_empty() => Some(first..size.max(first)),
        (None, Some(suffix)) if first.is_empty() => Some(size.saturating_sub(suffix)..size),
        _ => None,
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number too large for u64 is beyond the end of everything.
    digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        let several = |ranges: &[Range<u64>]| Ranges::Several(ranges.to_vec());
        for (value, expected) in [
            ("bytes=0-0", Ranges::One(0..1)),
            ("bytes=0-99", Ranges::One(0..100)),
            ("bytes=90-1000", Ranges::One(90..100)),
            ("bytes=90-99999999999999999999999", Ranges::One(90..100)),
            ("bytes=10-", Ranges::From(10)),
            ("bytes=0-", Ranges::From(0)),
            ("bytes=-10", Ranges::One(90..100)),
            ("bytes=-1000", Ranges::One(0..100)),
            ("bytes=100-", Ranges::Beyond),
            ("bytes=100-200", Ranges::Beyond),
            ("bytes=99999999999999999999999-", Ranges::Beyond),
            ("bytes=-0", Ranges::Beyond),
            ("bytes=0-1,5-6", several(&[0..2, 5..7])),
            ("bytes=5-6, 0-1 ,-1", several(&[5..7, 0..2, 99..100])),
            ("bytes=0-1,90-", several(&[0..2, 90..100])),
            ("bytes=0-1,200-300", Ranges::One(0..2)),
            ("bytes=200-300,400-", Ranges::Beyond),
            ("bytes=0-4,5-9", Ranges::One(0..10)),
            ("bytes=5-9,0-5", Ranges::One(0..10)),
            ("bytes=0-1,3-4,3-4", several(&[0..2, 3..5])),
            ("bytes=0-60,70-99,0-60", Ranges::TooMany),
            ("bytes=0-1,5", Ranges::Whole),
            ("bytes=0-1,", Ranges::Whole),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=--1", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("items=0-1", Ranges::Whole),
            ("", Ranges::Whole),
        ] {
            assert_eq!(parse(value, 100), expected, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Ranges::Beyond);
        assert_eq!(parse("bytes=0-0,-1", 0), Ranges::Beyond);
    }

    #[test]
    fn a_list_has_a_limit() {
        let list = |parts: u64| {
            let parts: Vec<String> = (0..parts).map(|part| format!("{0}-{0}", 2 * part)).collect();
            parse(&format!("bytes={}", parts.join(",")), 10_000)
        };
        assert!(matches!(list(256), Ranges::Several(ranges) if ranges.len() == 256));
        assert_eq!(list(257), Ranges::TooMany);
    }
}
