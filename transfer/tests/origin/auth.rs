//! Registries that want to know who asks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Method, Response};
use futures_util::future::join_all;
use tempfile::TempDir;
use transfer::digest::Digest;
use transfer::manifest::OCI_MANIFEST;
use transfer::origin::{Credentials, Origin, OriginError, RegistryConfig, RegistryOrigin};

use crate::fixture::*;

/// What must never be seen in an error or a log.
const PASSWORD: &str = "hunter2";
const IDENTITY: &str = "identity-hunter2";

/// Who issues `token-1`, `token-2`, ... to anybody.
async fn issuer() -> Server {
    Server::start(|nth, _| token(nth + 1, "")).await
}

fn token(number: usize, more: &str) -> Response<Body> {
    let body = format!(r#"{{"token":"token-{number}","expires_in":300{more}}}"#);
    with_body(200, &[("content-type", "application/json")], body)
}

fn challenge(issuer: &Server) -> String {
    format!(r#"Bearer realm="{}/token?x=y",service="the registry""#, issuer.url())
}

/// A registry that serves a manifest to whom `knows` knows, and sends this challenge to everybody else.
async fn registry(challenge: String, knows: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Server {
    Server::start(move |_, seen| match knows(seen) {
        true => with_body(200, &[("content-type", OCI_MANIFEST)], manifest(b"config", &[])),
        false => status(401, &[("www-authenticate", &challenge)]),
    })
    .await
}

fn with(credentials: Option<Credentials>) -> RegistryConfig {
    RegistryConfig { credentials, ..config() }
}

fn write(directory: &TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn basic(path: &Path) -> Option<Credentials> {
    Some(Credentials::Basic { username: "me".into(), password_file: path.to_owned() })
}

fn encoded(pair: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

#[tokio::test]
async fn a_token_is_had_without_credentials_and_kept() {
    let issuer = issuer().await;
    let server = registry(challenge(&issuer), |seen| seen.authorization() == "Bearer token-1").await;
    let origin = server.origin();
    for _ in 0..3 {
        origin.manifest("a/b", &tag()).await.unwrap();
    }
    let asked = "GET /token?x=y&service=the+registry&scope=repository%3Aa%2Fb%3Apull";
    assert_eq!((issuer.asked(), server.seen().len()), (vec![asked.to_owned()], 4));
    assert_eq!(issuer.seen()[0].authorization(), "");
    assert_eq!(server.seen()[0].authorization(), "", "nothing is shown before it is asked for");
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own() {
    let issuer = issuer().await;
    let server = registry(challenge(&issuer), |seen| seen.authorization().starts_with("Bearer")).await;
    let origin = server.origin();
    for repository in ["a", "b", "a", "b"] {
        origin.manifest(repository, &tag()).await.unwrap();
    }
    let shown: Vec<_> = server.seen().iter().map(|seen| seen.authorization().to_owned()).collect();
    assert_eq!(shown, ["", "Bearer token-1", "Bearer token-2", "Bearer token-1", "Bearer token-2"]);
}

#[tokio::test]
async fn credentials_buy_a_token() {
    let directory = TempDir::new().unwrap();
    let password = write(&directory, "password", PASSWORD);
    let issuer = issuer().await;
    let server = registry(challenge(&issuer), |seen| seen.authorization() == "Bearer token-1").await;
    server.origin_with(with(basic(&password))).manifest("a/b", &tag()).await.unwrap();
    let asked = "GET /token?x=y&service=the+registry&scope=repository%3Aa%2Fb%3Apull&account=me";
    assert_eq!(issuer.asked(), [asked]);
    assert_eq!(issuer.seen()[0].authorization(), encoded("me:hunter2"));
    assert!(server.seen().iter().all(|seen| !seen.authorization().starts_with("Basic")));
}

#[tokio::test]
async fn an_identity_token_is_posted_and_a_registry_token_is_shown() {
    let directory = TempDir::new().unwrap();
    let issuer = issuer().await;
    let server = registry(challenge(&issuer), |seen| seen.authorization().starts_with("Bearer ")).await;
    let config = |entry: &str| {
        let text = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address);
        with(Some(Credentials::DockerConfig(write(&directory, "config.json", &text))))
    };
    let identity = format!(r#"{{"identitytoken":"{IDENTITY}"}}"#);
    server.origin_with(config(&identity)).manifest("a/b", &tag()).await.unwrap();
    let seen = &issuer.seen()[0];
    assert_eq!(
        (seen.method.clone(), seen.uri.to_string(), seen.authorization()),
        (Method::POST, "/token?x=y".into(), "")
    );
    let form = "grant_type=refresh_token&client_id=faasnet&scope=repository%3Aa%2Fb%3Apull&refresh_token=identity-hunter2&service=the+registry";
    assert_eq!(seen.body, form);
    server.origin_with(config(r#"{"registrytoken":"mine"}"#)).manifest("a/b", &tag()).await.unwrap();
    assert_eq!(server.seen().last().unwrap().authorization(), "Bearer mine");
    assert_eq!(issuer.seen().len(), 1);
}

#[tokio::test]
async fn a_password_is_shown_if_that_is_asked_for() {
    let directory = TempDir::new().unwrap();
    let password = write(&directory, "password", PASSWORD);
    let expected = encoded("me:hunter2");
    let server = registry("Basic realm=x".into(), move |seen| seen.authorization() == expected).await;
    let origin = server.origin_with(with(basic(&password)));
    for _ in 0..2 {
        origin.manifest("a/b", &tag()).await.unwrap();
    }
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_challenge_that_stands_on_the_front_page_only_is_found_there() {
    let issuer = issuer().await;
    let challenge = challenge(&issuer);
    let server = Server::start(move |_, seen| match (seen.uri.path(), seen.authorization()) {
        ("/v2/", _) => status(401, &[("www-authenticate", &challenge)]),
        (_, "Bearer token-1") => with_body(200, &[], manifest(b"config", &[])),
        _ => status(401, &[]),
    });
    let server = server.await;
    assert_eq!(kind(&server.origin().manifest("a/b", &tag()).await), "fine");
    assert_eq!(server.asked(), ["GET /v2/a/b/manifests/v1", "GET /v2/", "GET /v2/a/b/manifests/v1"]);
}

#[tokio::test]
async fn what_the_registry_wants_besides_is_asked_for_first() {
    let issuer = issuer().await;
    let challenge = challenge(&issuer) + r#",scope="repository:other:pull""#;
    let server = registry(challenge, |seen| seen.authorization().starts_with("Bearer")).await;
    server.origin().manifest("a", &tag()).await.unwrap();
    let scopes = "scope=repository%3Aother%3Apull&scope=repository%3Aa%3Apull";
    assert!(issuer.asked()[0].ends_with(scopes), "{:?}", issuer.asked());
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let issuer = issuer().await;
    let good = Arc::new(Mutex::new("Bearer token-1"));
    let checked = good.clone();
    let server =
        registry(challenge(&issuer), move |seen| seen.authorization() == *checked.lock().unwrap()).await;
    let origin = server.origin();
    let ask = async || {
        let before = (server.seen().len(), issuer.seen().len());
        let result = origin.manifest("a/b", &tag()).await;
        (kind(&result), server.seen().len() - before.0, issuer.seen().len() - before.1)
    };
    assert_eq!(ask().await, ("fine", 2, 1));
    assert_eq!(ask().await, ("fine", 1, 0));
    *good.lock().unwrap() = "Bearer token-2";
    assert_eq!(ask().await, ("fine", 2, 1));
    *good.lock().unwrap() = "Bearer nothing";
    for _ in 0..2 {
        assert_eq!(ask().await, ("denied", 2, 1), "one more try each time, and no more");
    }
}

#[tokio::test]
async fn a_pull_goes_on_with_a_new_token_where_the_old_one_ended() {
    let issuer = issuer().await;
    let blob = pattern(200 << 10);
    let (served, challenge) = (blob.clone(), challenge(&issuer));
    let server = Server::start(move |nth, seen| match (nth, seen.authorization()) {
        (1, "Bearer token-1") => partial_broken(&served, seen, 100 << 10, End::Cut),
        (_, "Bearer token-2") => partial(&served, seen),
        _ => status(401, &[("www-authenticate", &challenge)]),
    });
    let server = server.await;
    assert_eq!(read(&server.origin(), 0..blob.len()).await.unwrap(), blob);
    assert_eq!(
        server.ranges(),
        ["bytes=0-204799", "bytes=0-204799", "bytes=102400-204799", "bytes=102400-204799"]
    );
}

#[tokio::test]
async fn a_token_is_not_used_to_its_very_end() {
    // By the issuer's clock, which ours need not agree with, these have a few seconds left.
    let dated = |nth, issued: &str| {
        let mut response = token(nth + 1, &format!(r#","issued_at":"{issued}""#));
        response.headers_mut().insert("date", "Sun, 06 Nov 1994 08:50:00 GMT".parse().unwrap());
        response
    };
    for (issued, expected) in [("1994-11-06T08:45:05Z", 3), ("1994-11-06T08:49:00Z", 1)] {
        let issuer = Server::start(move |nth, _| dated(nth, issued)).await;
        let server = registry(challenge(&issuer), |seen| seen.authorization().starts_with("Bearer")).await;
        let origin = server.origin();
        for _ in 0..3 {
            origin.manifest("a/b", &tag()).await.unwrap();
        }
        assert_eq!(issuer.seen().len(), expected, "{issued}");
    }
}

#[tokio::test]
async fn all_who_wait_for_a_token_share_it() {
    for (code, expected) in [(200, "fine"), (403, "denied"), (503, "unavailable")] {
        let issuer = Server::start(move |nth, _| match code {
            200 => token(nth + 1, ""),
            code => status(code, &[]),
        });
        let issuer = issuer.await;
        let server = registry(challenge(&issuer), |seen| seen.authorization().starts_with("Bearer")).await;
        let mut config = config();
        config.retry.tries = 1;
        let origin = server.origin_with(config);
        let selector = tag();
        let results = join_all((0..50).map(|_| origin.manifest("a/b", &selector))).await;
        assert!(results.iter().all(|result| kind(result) == expected), "{code}");
        assert!((1..=3).contains(&issuer.seen().len()), "{code}: {} token requests", issuer.seen().len());
    }
}

#[tokio::test]
async fn a_password_that_was_replaced_is_noticed() {
    // ECR answers an old password with 403.
    for refusal in [401, 403] {
        let directory = TempDir::new().unwrap();
        let password = write(&directory, "password", "old");
        let good = Arc::new(Mutex::new(encoded("me:old")));
        let checked = good.clone();
        let server = Server::start(move |_, seen| match seen.authorization() {
            "" => status(401, &[("www-authenticate", "Basic realm=x")]),
            shown if shown == *checked.lock().unwrap() => with_body(200, &[], manifest(b"config", &[])),
            _ => status(refusal, &[("www-authenticate", "Basic realm=x")]),
        });
        let server = server.await;
        let origin = server.origin_with(with(basic(&password)));
        assert_eq!(kind(&origin.manifest("a", &tag()).await), "fine");
        *good.lock().unwrap() = encoded("me:new");
        assert_eq!((kind(&origin.manifest("a", &tag()).await), server.seen().len()), ("denied", 3));
        write(&directory, "password", "new");
        assert_eq!((kind(&origin.manifest("a", &tag()).await), server.seen().len()), ("fine", 5));
    }
}

/// Asks in every way that can fail, with secrets of all kinds, and returns what is told of it.
async fn failures() -> Vec<OriginError> {
    let directory = TempDir::new().unwrap();
    let answers: Vec<(u16, String)> = [200, 204, 302, 400, 401, 403, 404, 429, 500, 503]
        .map(|code| {
            (code, format!(r#"{{"secret":"{PASSWORD}","error":"bad_token","details":"{PASSWORD}"}}"#))
        })
        .into();
    let mut errors = Vec::new();
    for (code, body) in answers {
        let issuer = Server::start(move |_, _| with_body(code, &[("location", "/x")], body.clone())).await;
        let server = registry(challenge(&issuer), |_| false).await;
        let auths = |entry: &str| format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address);
        let login = auths(&format!(r#"{{"username":"me","password":"{PASSWORD}"}}"#));
        let identity = auths(&format!(r#"{{"identitytoken":"{IDENTITY}"}}"#));
        let shown = auths(&format!(r#"{{"registrytoken":"{PASSWORD}"}}"#));
        let broken = auths(&format!(r#"{{"auth":"{PASSWORD}"}}"#));
        for (at, text) in [login, identity, shown, broken, PASSWORD.to_owned()].iter().enumerate() {
            let path = write(&directory, &format!("config-{at}.json"), text);
            for credentials in [Credentials::DockerConfig(path.clone()), Credentials::PullSecret(path)] {
                let mut config = with(Some(credentials));
                config.retry.tries = 1;
                errors.push(server.origin_with(config).manifest("a/b", &tag()).await.unwrap_err());
            }
        }
    }
    errors
}

#[tokio::test]
async fn secrets_are_in_no_error_and_in_no_log() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    tracing::error!("what is logged is seen");
    let errors = failures().await;
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let told =
        format!("{errors:#?} {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    let encoded = encoded(&format!("me:{PASSWORD}")).split_off("Basic ".len());
    for secret in [PASSWORD, IDENTITY, &encoded] {
        assert!(!told.contains(secret), "{told}");
        assert!(!log.contains(secret), "{log}");
    }
    assert_eq!(errors.len(), 100);
    assert!(log.contains("what is logged is seen"), "{log}");
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_told_by_their_file() {
    let directory = TempDir::new().unwrap();
    let broken = write(&directory, "broken.json", "{");
    let absent = directory.path().join("absent.json");
    let helper = write(&directory, "helper.json", r#"{"credsStore":"that-is-not-there"}"#);
    let rows = [
        (
            Credentials::DockerConfig(broken.clone()),
            "broken.json cannot be used: no valid JSON, line 1 column 1",
        ),
        (Credentials::PullSecret(broken), "broken.json cannot be used"),
        (Credentials::DockerConfig(absent.clone()), "absent.json cannot be used: No such file"),
        (basic(&absent).unwrap(), "absent.json cannot be used: No such file"),
        (Credentials::DockerConfig(helper), "docker-credential-that-is-not-there cannot be run"),
    ];
    for (credentials, expected) in rows {
        let server = registry("Basic".into(), |_| false).await;
        let result = server.origin_with(with(Some(credentials))).manifest("a/b", &tag()).await;
        assert_eq!(kind(&result), "denied");
        let text = result.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn who_is_denied_is_told_what_may_help() {
    let issuer = Server::start(|_, _| status(401, &[])).await;
    let directory = TempDir::new().unwrap();
    let password = write(&directory, "password", PASSWORD);
    let none = registry("Basic".into(), |_| false).await;
    let bearer = registry(challenge(&issuer), |_| false).await;
    let rows = [
        (&none, None, "none are configured"),
        (&bearer, None, "issues its tokens: 401 Unauthorized; it may want credentials"),
        (&bearer, basic(&password), "are the credentials right?"),
    ];
    for (server, credentials, expected) in rows {
        let text =
            server.origin_with(with(credentials)).manifest("a/b", &tag()).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_busy_is_asked_again() {
    let issuer = Server::start(|nth, _| match nth {
        0 => status(503, &[]),
        1 => status(429, &[("retry-after", "0")]),
        _ => token(1, ""),
    });
    let issuer = issuer.await;
    let server = registry(challenge(&issuer), |seen| seen.authorization() == "Bearer token-1").await;
    assert_eq!(kind(&server.origin().manifest("a/b", &tag()).await), "fine");
    assert_eq!(issuer.seen().len(), 3);
}

#[tokio::test]
async fn a_realm_that_cannot_be_used_is_told() {
    for realm in ["nonsense", "ftp://x/y", "/token"] {
        let server = registry(format!(r#"Bearer realm="{realm}""#), |_| false).await;
        let result = RegistryOrigin::new(&server.address, config()).unwrap().head("a/b", &tag()).await;
        assert_eq!((kind(&result), server.seen().len()), ("invalid", 1), "{realm}: {result:?}");
    }
    let blob = Digest::of(b"");
    let server = registry("Bearer".into(), |_| false).await;
    assert_eq!(kind(&server.origin().blob("a/b", &blob, 0..1).await), "denied");
}
