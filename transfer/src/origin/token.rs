//! Gets a token from who issues them for a registry, as the distribution project's token and OAuth2 specifications say.
//!
//! By GET, with a name and a password if there are any, otherwise anonymously; by POST for an identity token. Keeps
//! nothing: [`super::authorizer`] does.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{self, FIRST_PAUSE, date, read_body};
use super::http::Http;
use super::secret::{Password, Secret};
use super::{OriginError, Place, invalid};

/// Tokens have a few kilobytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// How long a token is good for if its issuer says nothing, or less. The specification says so; some issuers say less and
/// mean it no more than others.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// Who issues tokens for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    url: Url,
    service: Option<String>,
}

/// What opens a repository for a while.
#[derive(Debug)]
pub(super) struct Token {
    /// The value of `Authorization`.
    pub(super) header: HeaderValue,
    /// How long it is good for.
    pub(super) lifetime: Duration,
}

impl Issuer {
    /// The issuer that a registry names. It may be anywhere that a redirect may lead, and gets our credentials because
    /// the registry says so; but not over plain HTTP, unless the registry itself is asked over it.
    pub(super) fn new(http: &Http, realm: &str, service: Option<String>) -> Result<Self, String> {
        let url = Url::parse(realm).map_err(|error| format!("its realm {realm:?} is no URL: {error}"))?;
        let url = http.check(http.base(), url.as_str()).map_err(|reason| format!("for a token {reason}"))?;
        Ok(Self { url, service })
    }

    /// A token for `scopes`.
    pub(super) async fn token(
        &self,
        http: &Http,
        scopes: &[String],
        secret: Option<&Secret>,
        place: &Place,
    ) -> Result<Token, OriginError> {
        let response = match secret {
            Some(Secret::Identity(token)) => self.post(http, scopes, token, place).await?,
            Some(Secret::Login { username, password }) => {
                self.get(http, scopes, Some((username, password)), place).await?
            }
            _ => self.get(http, scopes, None, place).await?,
        };
        let stall = http.stall();
        let response = match response.status() {
            StatusCode::OK => response,
            _ => return Err(self.refused(response, secret.is_some(), stall, place).await),
        };
        let date = date(response.headers());
        let body = read_body(response, place, stall, MAX_ANSWER_BYTES).await?;
        let body = body.ok_or_else(|| invalid(place, self.says("sent more than a token")))?;
        read(&body, date).map_err(|reason| invalid(place, self.says(&reason)))
    }

    async fn get(
        &self,
        http: &Http,
        scopes: &[String],
        login: Option<(&String, &Password)>,
        place: &Place,
    ) -> Result<Response, OriginError> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .extend_pairs(self.service.iter().map(|service| ("service", service)))
            .extend_pairs(scopes.iter().map(|scope| ("scope", scope)))
            // Docker sends it, and Artifactory looks at it.
            .extend_pairs(login.iter().map(|(username, _)| ("account", username)));
        let shown = login.map(|(username, password)| basic(username, password)).transpose();
        let shown = shown.map_err(|reason| OriginError::Denied { place: place.clone(), reason })?;
        Ok(http.get(&Method::GET, url, &HeaderMap::new(), shown.as_ref(), place).await?.response)
    }

    async fn post(
        &self,
        http: &Http,
        scopes: &[String],
        token: &Password,
        place: &Place,
    ) -> Result<Response, OriginError> {
        let scope = scopes.join(" ");
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", "faasnet"),
            ("scope", &scope),
            ("refresh_token", token.reveal()),
        ];
        form.extend(self.service.as_deref().map(|service| ("service", service)));
        http.post(&self.url, &form, place).await
    }

    async fn refused(
        &self,
        response: Response,
        with_credentials: bool,
        stall: Duration,
        place: &Place,
    ) -> OriginError {
        if response.status().is_success() {
            return invalid(place, self.says(&format!("answered {}", response.status())));
        }
        let hint = match with_credentials {
            true => "; are the credentials right?",
            false => "; it may want credentials, and there are none for it",
        };
        match answer::refusal(response, place, stall, FIRST_PAUSE).await {
            OriginError::Denied { place, reason } => {
                OriginError::Denied { place, reason: format!("{}{hint}", self.says(&reason)) }
            }
            OriginError::NotFound { place, reason } => {
                OriginError::Denied { place, reason: self.says(&format!("issues no such token: {reason}")) }
            }
            OriginError::Unavailable { place, reason, retry_after } => {
                OriginError::Unavailable { place, reason: self.says(&reason), retry_after }
            }
            OriginError::Invalid { place, reason } => {
                OriginError::Denied { place, reason: format!("{}{hint}", self.says(&reason)) }
            }
        }
    }

    fn says(&self, reason: &str) -> String {
        format!("{}, which issues its tokens: {reason}", self.url.host_str().unwrap_or_default())
    }
}

/// `Authorization` with a name and a password.
pub(super) fn basic(username: &str, password: &Password) -> Result<HeaderValue, String> {
    let pair = format!("{username}:{}", password.reveal());
    let encoded = BASE64_STANDARD.encode(pair);
    secret_header(&format!("Basic {encoded}"))
}

/// `Authorization` with a token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret_header(&format!("Bearer {token}"))
}

fn secret_header(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "the password or token has characters that no header can have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
    issued_at: Option<String>,
}

/// Reads an issuer's answer, given at `date` by its own clock.
fn read(body: &[u8], date: Option<SystemTime>) -> Result<Token, String> {
    // The parser's own message may quote the token.
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "sent something other than a token".to_owned())?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = filled(answer.access_token).or(filled(answer.token)).ok_or("sent no token")?;
    let lifetime = lifetime(answer.expires_in, answer.issued_at.as_deref(), date);
    Ok(Token { header: bearer(&token)?, lifetime })
}

/// How long a token is good for from now on. Issuers may hand out one that they issued a while ago; how old it is, their
/// own clock says, since ours need not agree with it.
fn lifetime(expires_in: Option<i64>, issued_at: Option<&str>, date: Option<SystemTime>) -> Duration {
    let whole = Duration::from_secs(expires_in.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0));
    let issued = issued_at.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()).map(SystemTime::from);
    let age =
        issued.zip(date).and_then(|(issued, date)| date.duration_since(issued).ok()).unwrap_or_default();
    whole.max(MIN_LIFETIME).saturating_sub(age)
}

#[cfg(test)]
mod tests {
    use super::super::tls::TlsConfig;
    use super::*;

    #[test]
    fn tokens_last_as_long_as_their_issuer_says() {
        let date = httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:00 GMT").unwrap();
        let rows = [
            (Some(300), None, 300),
            (None, None, 60),
            (Some(0), None, 60),
            (Some(-5), None, 60),
            (Some(10), None, 60),
            (Some(300), Some("1994-11-06T08:48:20Z"), 200),
            (Some(300), Some("1994-11-06T09:48:20.123+01:00"), 200),
            (Some(300), Some("1994-11-06T08:55:00Z"), 300),
            (Some(300), Some("1990-01-01T00:00:00Z"), 0),
            (Some(300), Some("yesterday"), 300),
        ];
        for (expires_in, issued_at, expected) in rows {
            let found = lifetime(expires_in, issued_at, Some(date)).as_secs_f64().round();
            assert_eq!(found, f64::from(expected), "{expires_in:?} {issued_at:?}");
        }
        assert_eq!(lifetime(Some(300), Some("1994-11-06T08:48:20Z"), None).as_secs(), 300);
    }

    #[test]
    fn issuers_are_believed_as_far_as_the_registry_is() {
        let rows = [
            ("https://r.example/v2/", "https://auth.example/token", true),
            ("https://r.example/v2/", "https://r.example:8443/token", true),
            ("https://r.example/v2/", "http://auth.example/token", false),
            ("https://r.example/v2/", "http://r.example/token", false),
            ("http://r.example/v2/", "http://auth.example/token", true),
            ("http://r.example/v2/", "https://auth.example/token", true),
            ("http://r.example/v2/", "http://169.254.169.254/token", false),
            ("https://r.example/v2/", "https://localhost/token", false),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token", true),
            ("https://r.example/v2/", "/token", false),
            ("https://r.example/v2/", "auth.example/token", false),
            ("https://r.example/v2/", "file:///etc/passwd", false),
        ];
        for (base, realm, expected) in rows {
            let second = Duration::from_secs(1);
            let tls = TlsConfig::default().read().unwrap();
            let http = Http::new(base.parse().unwrap(), &tls, second, second).unwrap();
            let issuer = Issuer::new(&http, realm, None);
            assert_eq!(issuer.is_ok(), expected, "{base} {realm}: {issuer:?}");
        }
    }

    #[test]
    fn answers_are_read() {
        let rows = [
            (r#"{"token":"a"}"#, Some("Bearer a")),
            (r#"{"access_token":"b","expires_in":3600,"scope":""}"#, Some("Bearer b")),
            (r#"{"token":"a","access_token":"b"}"#, Some("Bearer b")),
            (r#"{"token":"a","access_token":""}"#, Some("Bearer a")),
            (r#"{"token":""}"#, None),
            ("{}", None),
            (r#"{"token":"hunter2\n"}"#, None),
            (r#"{"token":7,"secret":"hunter2"}"#, None),
            ("<html>hunter2</html>", None),
        ];
        for (body, expected) in rows {
            match (read(body.as_bytes(), None), expected) {
                (Ok(token), Some(expected)) => assert_eq!(token.header, expected),
                (Err(error), None) => assert!(!error.contains("hunter2"), "{error}"),
                (Ok(token), None) => panic!("{body}: {token:?}"),
                (Err(error), Some(_)) => panic!("{body}: {error}"),
            }
        }
        let token = read(br#"{"token":"hunter2"}"#, None).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"), "{token:?}");
    }
}
