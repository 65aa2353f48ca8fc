//! The words of a scenario file: sizes, rates, times, shares, moments, and who is meant. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::lab::netns::Rate;

/// Text that means nothing where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoWord {
    text: String,
    wanted: &'static str,
}

impl std::error::Error for NoWord {}

impl fmt::Display for NoWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no {}", self.text, self.wanted)
    }
}

fn no(text: &str, wanted: &'static str) -> NoWord {
    NoWord { text: text.to_owned(), wanted }
}

/// Splits `1.5 MiB` into its number, which is not negative, and its unit.
fn amount(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// Bytes: `64 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let read = || {
            let (number, unit) = amount(text)?;
            let factor: u64 = match unit {
                "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                _ => return None,
            };
            let bytes = number * factor as f64;
            (bytes >= 1.0).then_some(Self(bytes as u64))
        };
        read().ok_or_else(|| no(text, "size; write it like `64 MiB`"))
    }
}

/// A rate of a link: `100 Mbit/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Speed(pub Rate);

impl FromStr for Speed {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let read = || {
            let (number, unit) = amount(text)?;
            let factor = match unit {
                "kbit/s" => 1e3,
                "Mbit/s" => 1e6,
                "Gbit/s" => 1e9,
                _ => return None,
            };
            let bits = number * factor;
            (bits >= 8.0).then(|| Self(Rate::bits(bits as u64)))
        };
        read().ok_or_else(|| no(text, "rate; write it like `100 Mbit/s`"))
    }
}

/// A length of time: `200 ms`, `3 s`, `2 min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let read = || {
            let (number, unit) = amount(text)?;
            let factor = match unit {
                "ms" => 1e-3,
                "s" => 1.0,
                "min" => 60.0,
                _ => return None,
            };
            Duration::try_from_secs_f64(number * factor).ok().map(Self)
        };
        read().ok_or_else(|| no(text, "time; write it like `200 ms`, `3 s` or `2 min`"))
    }
}

/// A share from nothing to all, as parts of one: `2.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let share = amount(text).filter(|(number, unit)| *unit == "%" && *number <= 100.0);
        share.map(|(number, _)| Self(number / 100.0)).ok_or_else(|| no(text, "share; write it like `2.5%`"))
    }
}

/// A moment of a run: `3 s` from its first event, `50%` of the bytes that all live nodes that were asked are to hold, or `50% + 3 s`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Moment {
    /// How far the nodes have to be.
    pub progress: Option<f64>,
    /// How long after that, or after the first event.
    pub delay: Duration,
}

impl FromStr for Moment {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let read = |text: &str| -> Result<Self, NoWord> {
            if let Some((progress, delay)) = text.split_once('+') {
                let (Share(progress), Span(delay)) = (progress.parse()?, delay.parse()?);
                return Ok(Self { progress: Some(progress), delay });
            }
            if let Ok(Share(progress)) = text.parse() {
                return Ok(Self { progress: Some(progress), delay: Duration::ZERO });
            }
            let Span(delay) = text.parse()?;
            Ok(Self { progress: None, delay })
        };
        read(text).map_err(|_| no(text, "moment; write it like `3 s`, `50%` or `50% + 3 s`"))
    }
}

/// One or several of the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Who {
    /// Every node that runs.
    All,
    /// The first node that runs and was not asked for the image yet.
    Next,
    /// Any node that runs.
    Random,
    /// The root of the function tree.
    Root,
    /// Any node that has a parent and a child.
    Inner,
    /// Any node without a child, but not the root.
    Leaf,
    /// Every node that was killed.
    Dead,
    /// Every node that is frozen.
    Frozen,
    /// The registry, where links and cuts are meant.
    Origin,
    /// `n3` to `n5`, counted from 1, both included.
    Numbers(usize, usize),
    /// Every node of a zone.
    Zone(String),
}

impl FromStr for Who {
    type Err = NoWord;
    fn from_str(text: &str) -> Result<Self, NoWord> {
        let number = |name: &str| name.strip_prefix('n')?.parse::<usize>().ok().filter(|number| *number > 0);
        let who = match text {
            "all" => Self::All,
            "next" => Self::Next,
            "random" => Self::Random,
            "root" => Self::Root,
            "inner" => Self::Inner,
            "leaf" => Self::Leaf,
            "dead" => Self::Dead,
            "frozen" => Self::Frozen,
            "origin" => Self::Origin,
            _ => match (text.split_once(".."), number(text), text.strip_prefix("zone ")) {
                (Some((first, last)), ..) => match (number(first), number(last)) {
                    (Some(first), Some(last)) if first <= last => Self::Numbers(first, last),
                    _ => return Err(no(text, "range of nodes; write it like `n2..n5`")),
                },
                (_, Some(number), _) => Self::Numbers(number, number),
                (_, _, Some(zone)) => Self::Zone(zone.trim().to_owned()),
                _ => {
                    let wanted = "node; there are `n3`, `n2..n5`, `all`, `next`, `random`, `root`, `inner`, `leaf`, `dead`, `frozen`, `origin` \
                                  and `zone NAME`";
                    return Err(no(text, wanted));
                }
            },
        };
        Ok(who)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Next => f.write_str("next"),
            Self::Random => f.write_str("random"),
            Self::Root => f.write_str("root"),
            Self::Inner => f.write_str("inner"),
            Self::Leaf => f.write_str("leaf"),
            Self::Dead => f.write_str("dead"),
            Self::Frozen => f.write_str("frozen"),
            Self::Origin => f.write_str("origin"),
            Self::Numbers(first, last) if first == last => write!(f, "n{first}"),
            Self::Numbers(first, last) => write!(f, "n{first}..n{last}"),
            Self::Zone(zone) => write!(f, "zone {zone}"),
        }
    }
}

/// Text becomes a word where a file is read.
macro_rules! from_text {
    ($($word:ty),*) => {$(
        impl TryFrom<String> for $word {
            type Error = NoWord;
            fn try_from(text: String) -> Result<Self, NoWord> {
                text.parse()
            }
        }
    )*};
}
from_text!(Size, Speed, Span, Share, Moment, Who);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_say() {
        assert_eq!("1.5 MiB".parse(), Ok(Size(3 << 19)));
        assert_eq!("100Mbit/s".parse(), Ok(Speed(Rate::mbit(100))));
        assert_eq!("0.5 Gbit/s".parse(), Ok(Speed(Rate::mbit(500))));
        assert_eq!("200 ms".parse(), Ok(Span(Duration::from_millis(200))));
        assert_eq!("2.5%".parse(), Ok(Share(0.025)));
        let moment = |progress, seconds| Ok(Moment { progress, delay: Duration::from_secs(seconds) });
        assert_eq!("3 s".parse(), moment(None, 3));
        assert_eq!("50%".parse(), moment(Some(0.5), 0));
        assert_eq!("50% + 3 s".parse(), moment(Some(0.5), 3));
        assert_eq!("n2..n5".parse(), Ok(Who::Numbers(2, 5)));
        for who in ["all", "n3", "n2..n5", "zone east", "inner", "origin"] {
            assert_eq!(who.parse::<Who>().unwrap().to_string(), who);
        }
    }

    #[test]
    fn what_means_nothing_says_what_would() {
        let complaint = |outcome: Result<(), NoWord>| outcome.unwrap_err().to_string();
        for size in ["", "64", "64 MB", "-1 MiB", "0 B", "1e9 B", "MiB"] {
            assert!(complaint(size.parse::<Size>().map(drop)).contains("`64 MiB`"), "{size}");
        }
        for rate in ["100", "100 MB/s", "0 Mbit/s"] {
            assert!(complaint(rate.parse::<Speed>().map(drop)).contains("`100 Mbit/s`"), "{rate}");
        }
        for moment in ["", "3", "50 %%", "3 s + 50%", "101%"] {
            assert!(complaint(moment.parse::<Moment>().map(drop)).contains("`50% + 3 s`"), "{moment}");
        }
        for who in ["n0", "n5..n2", "n", "", "everybody"] {
            assert!(complaint(who.parse::<Who>().map(drop)).contains("n2..n5"), "{who}");
        }
    }
}
