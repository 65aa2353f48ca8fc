//! How long what is known of a name may be believed: the rules, and the bounded table of what was heard lately.
//!
//! Times are a node's own, since its start: nothing here depends on what the clocks of machines show. Age counts from when
//! the origin was asked, so whoever gets an answer at second hand believes it no longer than whoever asked. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use transfer::digest::Digest;
use transfer::wire::Fresh;

use crate::error::Error;

/// How long a refusal stands: no such tag, no such digest, or nothing known while the origin is down. Long enough that a
/// burst of a thousand clients for a misspelt name is one request; short enough that nobody who has just pushed an image
/// notices. It stands once at the member that asked the origin and once more at those who asked that member.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(2);

/// How long it stands that the origin denies this node something. Longer, since here each node asks for itself, with
/// credentials of its own: a thousand nodes make a hundred requests a second, no more.
pub(super) const DENIED_FOR: Duration = Duration::from_secs(10);

/// How long the last known version is served, once the origin turned out to be down, until it is asked again. Each time
/// somebody waits for an origin that may not answer at all; an origin that is back is noticed that late.
pub(super) const STALE_FOR: Duration = Duration::from_secs(10);

/// Names of which is known what was heard lately. A node has some hundred names in use; a client that makes up names
/// displaces the oldest, at a kilobyte each.
const MAX_NAMES: usize = 4_096;

/// What was heard of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// It stands for this digest.
    Current(Digest),
    /// It stood for this digest when it was last known; the origin could not be asked.
    Stale(Digest),
    /// It cannot be had.
    Refused(Error),
}

/// An answer, and when it was got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) heard: Heard,
    /// When the origin was asked, or later; since the node's start.
    pub(super) asked: Duration,
    /// When the answer was there.
    pub(super) answered: Duration,
}

impl Answer {
    /// Whether it answers a question that was put at `put`. What was asked of the origin since then always does, so that
    /// all who wait for one answer share it, however long it takes.
    pub(super) fn serves(&self, fresh: Fresh, put: Duration) -> bool {
        let limit = match fresh {
            Fresh::Held => return true,
            // That the origin is down is no answer to somebody who wants it asked.
            Fresh::Now => return self.asked >= put && !matches!(self.heard, Heard::Stale(_)),
            Fresh::Within { ms } => Duration::from_millis(ms),
        };
        self.asked >= put || put < self.ends(limit)
    }

    /// How old it was when the question was put.
    pub(super) fn age(&self, put: Duration) -> Duration {
        let since = if let Heard::Current(_) = self.heard { self.asked } else { self.answered };
        put.saturating_sub(since)
    }

    fn ends(&self, tag_ttl: Duration) -> Duration {
        match &self.heard {
            Heard::Current(_) => self.asked + tag_ttl,
            Heard::Stale(_) => self.answered + STALE_FOR,
            Heard::Refused(Error::Denied(_)) => self.answered + DENIED_FOR,
            Heard::Refused(_) => self.answered + REFUSED_FOR,
        }
    }
}

/// What was heard lately, by name. Holds at most [`MAX_NAMES`].
#[derive(Debug, Default)]
pub(super) struct Lately(BTreeMap<String, Answer>);

impl Lately {
    pub(super) fn get(&self, name: &str) -> Option<&Answer> {
        self.0.get(name)
    }

    /// Notes an answer, unless one is known for which the origin was asked later.
    pub(super) fn note(&mut self, name: String, answer: Answer) {
        match self.0.get(&name) {
            Some(known) if known.asked > answer.asked => return,
            Some(_) => {}
            None if self.0.len() >= MAX_NAMES => self.drop_oldest(),
            None => {}
        }
        self.0.insert(name, answer);
    }

    fn drop_oldest(&mut self) {
        let oldest = self.0.iter().min_by_key(|(_, answer)| answer.answered).map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: u64 = 10_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn digest() -> Digest {
        Digest::of(b"x")
    }

    #[test]
    fn answers_serve_for_their_time() {
        let current = || Heard::Current(digest());
        let stale = || Heard::Stale(digest());
        let absent = || Heard::Refused(Error::NotFound("no such tag".into()));
        let down = || Heard::Refused(Error::Unavailable("down".into()));
        let denied = || Heard::Refused(Error::Denied("no".into()));
        let within = |ms| Fresh::Within { ms };
        // What was heard, asked from when to when, and when the next question is put: does it serve?
        let rows = [
            (current(), 100, 200, within(TTL), 10_099, true),
            (current(), 100, 200, within(TTL), 10_100, false),
            (current(), 100, 200, within(0), 100, true),
            (current(), 100, 200, within(0), 101, false),
            // It took longer than the TTL: those who asked before it began share it all the same.
            (current(), 100, 50_100, within(TTL), 90, true),
            (current(), 100, 50_100, within(TTL), 50_100, false),
            (current(), 100, 200, Fresh::Now, 100, true),
            (current(), 100, 200, Fresh::Now, 101, false),
            (current(), 100, 200, Fresh::Held, 1_000_000, true),
            (stale(), 100, 5_000, within(TTL), 14_999, true),
            (stale(), 100, 5_000, within(0), 14_999, true),
            (stale(), 100, 5_000, within(TTL), 15_000, false),
            (stale(), 100, 5_000, Fresh::Now, 50, false),
            (absent(), 100, 5_000, within(TTL), 6_999, true),
            (absent(), 100, 5_000, within(0), 6_999, true),
            (absent(), 100, 5_000, within(TTL), 7_000, false),
            (absent(), 100, 5_000, Fresh::Now, 101, false),
            (absent(), 100, 5_000, Fresh::Now, 100, true),
            (down(), 100, 5_000, within(TTL), 6_999, true),
            (down(), 100, 5_000, within(TTL), 7_000, false),
            (denied(), 100, 5_000, within(TTL), 14_999, true),
            (denied(), 100, 5_000, within(TTL), 15_000, false),
        ];
        for (heard, asked, answered, fresh, put, expected) in rows {
            let answer = Answer { heard, asked: ms(asked), answered: ms(answered) };
            assert_eq!(answer.serves(fresh, ms(put)), expected, "{answer:?} for {fresh:?} at {put} ms");
        }
    }

    /// Two nodes, one behind the other: whatever the times of question and answer, the second never believes an answer
    /// longer than the TTL after the origin gave it.
    #[test]
    fn an_answer_at_second_hand_lives_no_longer() {
        for (asked, put, passed_on) in [(0, 0, 30), (0, 4_000, 4_500), (1_000, 10_999, 15_000)] {
            let first =
                Answer { heard: Heard::Current(digest()), asked: ms(asked), answered: ms(asked + 500) };
            let age = first.age(ms(put));
            // The second node's clock began 77 s earlier, and it put its question 20 ms before the first received it.
            let on_its_clock = |time: u64| ms(time + 77_000);
            let second = Answer {
                heard: Heard::Current(digest()),
                asked: on_its_clock(put - put.min(20)).saturating_sub(age),
                answered: on_its_clock(passed_on),
            };
            let fresh = Fresh::Within { ms: TTL };
            assert!(!second.serves(fresh, on_its_clock(asked + TTL)), "{asked} {put} {passed_on}");
            let worth_it = asked + TTL - 100;
            assert!(second.serves(fresh, on_its_clock(worth_it)), "{asked} {put} {passed_on}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut lately = Lately::default();
        let answer = |at: usize| Answer {
            heard: Heard::Stale(digest()),
            asked: ms(at as u64),
            answered: ms(at as u64),
        };
        for number in 0..MAX_NAMES + 10 {
            lately.note(format!("name-{number}"), answer(number));
        }
        assert_eq!(lately.0.len(), MAX_NAMES);
        assert!(lately.get("name-9").is_none() && lately.get("name-10").is_some());
        // An answer that comes late is not taken for news.
        lately.note("name-10".into(), answer(99));
        lately.note("name-10".into(), answer(98));
        assert_eq!(lately.get("name-10"), Some(&answer(99)));
    }
}
