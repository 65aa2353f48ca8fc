//! What a registry asks for when it answers 401: `WWW-Authenticate`, as RFC 9110 section 11 writes it. Pure.
//!
//! Several challenges may come in one header line or in several, in any case and order, and a scheme that is not
//! understood is passed over.

use std::collections::BTreeMap;

/// The most challenges that are read; registries send one or two.
const MAX_CHALLENGES: usize = 16;

/// The kind of credentials that a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A name and a password with each request.
    Basic,
    /// A token that somebody else issues.
    Bearer {
        /// The URL to ask for one.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
        /// What the token has to be good for, if the registry says it.
        scope: Option<String>,
    },
}

/// What to answer to these values of `WWW-Authenticate`: a token if one will do, else a password, else nothing.
pub(super) fn choose<'a>(values: impl Iterator<Item = &'a str>) -> Option<Wanted> {
    let challenges: Vec<Challenge> = values.flat_map(parse).take(MAX_CHALLENGES).collect();
    let bearer = challenges.iter().filter(|challenge| challenge.scheme == "bearer").find_map(|challenge| {
        let parameter = |name| challenge.parameters.get(name).filter(|value| !value.is_empty()).cloned();
        Some(Wanted::Bearer {
            realm: parameter("realm")?,
            service: parameter("service"),
            scope: parameter("scope"),
        })
    });
    let basic = || challenges.iter().any(|challenge| challenge.scheme == "basic");
    bearer.or_else(|| basic().then_some(Wanted::Basic))
}

#[derive(Debug, Default)]
struct Challenge {
    scheme: String,
    parameters: BTreeMap<String, String>,
}

/// The challenges in one value. A word followed by `=` is a parameter of the challenge before it; any other word begins
/// a challenge.
fn parse(value: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = value;
    while found.len() <= MAX_CHALLENGES {
        rest = rest.trim_start_matches(|c: char| !is_token(c));
        let (word, after) = split_token(rest);
        if word.is_empty() {
            break;
        }
        let word = word.to_ascii_lowercase();
        match after.trim_start().strip_prefix('=') {
            Some(after) => {
                let (value, after) = value_of(after.trim_start());
                if let Some(challenge) = found.last_mut() {
                    challenge.parameters.entry(word).or_insert(value);
                }
                rest = after;
            }
            None => {
                found.push(Challenge { scheme: word, ..Challenge::default() });
                rest = after;
            }
        }
    }
    found
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = split_token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    // Never closed: nothing that could be trusted to be whole.
    (String::new(), "")
}

fn split_token(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !is_token(c)).unwrap_or(text.len()))
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Wanted> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Wanted::Bearer { realm: realm.into(), service: some(service), scope: some(scope) })
    }

    #[test]
    fn what_registries_send_is_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#;
        let rows: &[(&[&str], Option<Wanted>)] = &[
            (
                &[hub],
                bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/x:pull"),
            ),
            (&[r#"bearer SERVICE=s , Realm = "r""#], bearer("r", "s", "")),
            (&[r#"BEARER scope="a:b:pull,push",realm="r""#], bearer("r", "", "a:b:pull,push")),
            (
                &[r#"Bearer realm="a\"b\\c",service="x, Basic realm=y""#],
                bearer(r#"a"b\c"#, "x, Basic realm=y", ""),
            ),
            (&[r#"Basic realm="b", Bearer realm="r",service=s"#], bearer("r", "s", "")),
            (&[r#"Bearer realm="r",service=s, Basic realm="b""#], bearer("r", "s", "")),
            (&[r#"Basic realm="b""#, r#"Bearer realm="r""#], bearer("r", "", "")),
            (&["Negotiate YII==, Digest realm=\"d\", nonce=\"n\"", "Basic"], Some(Wanted::Basic)),
            (&[r#"Bearer realm="r",error="invalid_token""#], bearer("r", "", "")),
            (&[r#"Bearer realm="r",realm="evil""#], bearer("r", "", "")),
            (&["basic"], Some(Wanted::Basic)),
            (&["Bearer", "Basic realm=x"], Some(Wanted::Basic)),
            (&["Bearer service=x"], None),
            (&[r#"Bearer realm="never closed"#], None),
            (&[r#"Bearer realm="""#], None),
            (&["realm=x"], None),
            (&["Negotiate"], None),
            (&["", ",,, =,"], None),
            (&[], None),
        ];
        for (values, expected) in rows {
            assert_eq!(&choose(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn many_challenges_are_not_all_read() {
        let many = "x, ".repeat(10_000);
        assert_eq!(choose([many.as_str()].into_iter()), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[ -~\\u{80}-\\u{ff}]{0,80}") {
            let _ = choose([text.as_str()].into_iter());
        }
    }
}
