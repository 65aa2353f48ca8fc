//! What a node shows one registry with each request: nothing until the registry asks, then what it asked for.
//!
//! Keeps a token per repository until shortly before it ends, and gets each with one request however many wait for it.
//! Registries ask by a 401, which [`super::challenge`] reads; [`super::token`] gets tokens, and [`super::credentials`]
//! says what to pay with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::time::Instant;

use super::challenge::{Wanted, choose};
use super::credentials::Credentials;
use super::http::Http;
use super::secret::Secret;
use super::token::{Issuer, Token, basic, bearer};
use super::{OriginError, Place, invalid};

/// The most repositories of one registry whose tokens are kept; past it, those that nobody is using now go.
const MAX_GRANTS: usize = 1024;
/// The most scopes of one token: the repository's own, and what a registry asked for besides.
const MAX_SCOPES: usize = 4;
/// How long before its end a token is no longer used, so that it does not end on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// How long what needs no issuer is used before its file or helper is read again. Files that were replaced are noticed
/// after this long, or at once if the registry refuses the old ones.
const REREAD: Duration = Duration::from_secs(60);

/// What one registry is shown.
#[derive(Debug)]
pub(super) struct Authorizer {
    /// The registry as files of credentials name it: a host, with a port if it is not the scheme's.
    host: String,
    credentials: Option<Credentials>,
    /// What the registry asked for last.
    asked: Mutex<Option<Asked>>,
    grants: Mutex<BTreeMap<String, Arc<Grant>>>,
}

#[derive(Debug, Clone)]
enum Asked {
    Basic,
    Bearer(Issuer),
}

/// What opens one repository, and whoever waits for it.
#[derive(Debug, Default)]
struct Grant {
    /// How often it was sought. Who waited while it went up shares the outcome.
    sought: AtomicU64,
    state: tokio::sync::Mutex<Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    /// What the registry asked for besides the repository's own scope, the latest first: some issuers heed the first only.
    more_scopes: Vec<String>,
    last: Option<Result<Held, OriginError>>,
}

#[derive(Debug, Clone)]
struct Held {
    header: Option<HeaderValue>,
    until: Instant,
}

impl Authorizer {
    pub(super) fn new(host: String, credentials: Option<Credentials>) -> Self {
        Self { host, credentials, asked: Mutex::default(), grants: Mutex::default() }
    }

    /// The value of `Authorization` for a request to `repository`, if the registry wants any.
    pub(super) async fn authorization(
        &self,
        http: &Http,
        repository: &str,
        place: &Place,
    ) -> Result<Option<HeaderValue>, OriginError> {
        self.obtain(http, repository, None, place).await
    }

    /// What to show instead of `shown`, which the registry refused with these headers. `None` if there is nothing else,
    /// so that trying again is no use.
    pub(super) async fn instead(
        &self,
        http: &Http,
        repository: &str,
        headers: &HeaderMap,
        shown: Option<&HeaderValue>,
        place: &Place,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let wanted = match headers.contains_key(WWW_AUTHENTICATE) {
            true => challenge(headers),
            // Some registries, gcr.io once among them, say it on their front page only.
            false => {
                let front = http.base().join("/v2/").map_err(|error| invalid(place, error.to_string()))?;
                let reply = http.get(&Method::GET, front, &HeaderMap::new(), None, place).await?;
                challenge(reply.response.headers()).filter(|_| reply.is_home)
            }
        };
        let (asked, scope) = match wanted {
            Some(Wanted::Basic) => (Asked::Basic, None),
            Some(Wanted::Bearer { realm, service, scope }) => {
                let issuer = Issuer::new(http, &realm, service).map_err(|reason| invalid(place, reason))?;
                (Asked::Bearer(issuer), scope)
            }
            None => return Ok(None),
        };
        *self.asked.lock() = Some(asked);
        if let Some(scope) = scope.filter(|scope| *scope != scope_of(repository)) {
            self.grant(repository).state.lock().await.want(scope);
        }
        let other = self.obtain(http, repository, shown, place).await?;
        Ok(other.filter(|other| Some(other) != shown))
    }

    /// Whether `shown` is a name and a password, whose end some registries tell by a 403.
    pub(super) fn is_basic(shown: Option<&HeaderValue>) -> bool {
        shown.is_some_and(|value| value.as_bytes().starts_with(b"Basic "))
    }

    /// Whether there is any hope of being known to the registry.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// What is held and was not `refused`, or something new.
    async fn obtain(
        &self,
        http: &Http,
        repository: &str,
        refused: Option<&HeaderValue>,
        place: &Place,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let Some(asked) = self.asked.lock().clone() else { return Ok(None) };
        let grant = self.grant(repository);
        let before = grant.sought.load(Ordering::Acquire);
        let mut state = grant.state.lock().await;
        let is_news = grant.sought.load(Ordering::Acquire) != before;
        match &state.last {
            Some(Ok(held))
                if held.until > Instant::now() && (refused.is_none() || held.header.as_ref() != refused) =>
            {
                return Ok(held.header.clone());
            }
            Some(Err(error)) if is_news => return Err(error.clone().at(place)),
            _ => {}
        }
        let found = self.seek(http, &asked, repository, &state.more_scopes, place).await;
        grant.sought.fetch_add(1, Ordering::Release);
        state.last = Some(found.clone());
        found.map(|held| held.header)
    }

    async fn seek(
        &self,
        http: &Http,
        asked: &Asked,
        repository: &str,
        more_scopes: &[String],
        place: &Place,
    ) -> Result<Held, OriginError> {
        let denied = |reason| OriginError::Denied { place: place.clone(), reason };
        let secret = match &self.credentials {
            Some(credentials) => credentials.read(&self.host, repository).await.map_err(denied)?,
            None => None,
        };
        let shown = match (&secret, asked) {
            (Some(Secret::Registry(token)), _) => Some(bearer(token.reveal())),
            (Some(Secret::Login { username, password }), Asked::Basic) => Some(basic(username, password)),
            (_, Asked::Basic) => None,
            (_, Asked::Bearer(issuer)) => {
                let scopes: Vec<String> = more_scopes.iter().cloned().chain([scope_of(repository)]).collect();
                let Token { header, lifetime } = issuer.token(http, &scopes, secret.as_ref(), place).await?;
                let until = Instant::now() + lifetime.saturating_sub(MARGIN);
                return Ok(Held { header: Some(header), until });
            }
        };
        let header = shown.transpose().map_err(denied)?;
        Ok(Held { header, until: Instant::now() + REREAD })
    }

    fn grant(&self, repository: &str) -> Arc<Grant> {
        let mut grants = self.grants.lock();
        if grants.len() >= MAX_GRANTS && !grants.contains_key(repository) {
            grants.retain(|_, grant| Arc::strong_count(grant) > 1);
        }
        grants.entry(repository.to_owned()).or_default().clone()
    }
}

impl Granted {
    fn want(&mut self, scope: String) {
        if !self.more_scopes.contains(&scope) {
            self.more_scopes.insert(0, scope);
            self.more_scopes.truncate(MAX_SCOPES - 1);
            self.last = None;
        }
    }
}

fn challenge(headers: &HeaderMap) -> Option<Wanted> {
    choose(headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
}

fn scope_of(repository: &str) -> String {
    format!("repository:{repository}:pull")
}
