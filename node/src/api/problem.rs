//! The answers that are no success: each kind of problem, with its status and its name for programs (RFC 9457).

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Problem;
use crate::error::Error;

/// What stands before the name of each [`Kind`].
const TYPE_PREFIX: &str = "urn:faasnet:problem:";

/// The scheme that tokens are shown by, and where they are good (RFC 6750).
const CHALLENGE: &str = "Bearer realm=\"faasnet\"";

/// The same, for those who have shown one.
const CHALLENGE_AGAIN: &str = "Bearer realm=\"faasnet\", error=\"invalid_token\"";

/// Problems that programs may want to tell apart. For all others the status says it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such image.
    NotFound,
    /// The origin refuses it to this node.
    Denied,
    /// This node may not read from that registry.
    OriginNotAllowed,
    /// An origin is down, or the cluster cannot say.
    Unavailable,
    /// This node has only just started, or leaves.
    NotReady,
    /// The image is none, or none that can be provisioned.
    Invalid,
    /// The provisioning began and came to nothing.
    ProvisionFailed,
    /// Whoever changes something must show a token, and shows none.
    TokenMissing,
    /// It is another token.
    TokenWrong,
    /// Nobody can show a token, because there is none.
    TokenNotConfigured,
    /// The request comes from a web page of another site.
    ForeignSite,
}

impl Kind {
    /// The status, the name and the title.
    const fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such image"),
            Self::Denied => (StatusCode::FORBIDDEN, "denied", "The origin denies access"),
            Self::OriginNotAllowed => {
                (StatusCode::FORBIDDEN, "origin-not-allowed", "The registry is not among the node's origins")
            }
            Self::Unavailable => {
                (StatusCode::BAD_GATEWAY, "unavailable", "It cannot be had now, and perhaps later")
            }
            Self::NotReady => {
                (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "The node is starting or leaving")
            }
            Self::Invalid => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The image is of no use to this node")
            }
            Self::ProvisionFailed => {
                (StatusCode::BAD_GATEWAY, "provision-failed", "The image could not be provisioned")
            }
            Self::TokenMissing => (StatusCode::UNAUTHORIZED, "token-missing", "A token is needed"),
            Self::TokenWrong => (StatusCode::UNAUTHORIZED, "token-wrong", "The token is wrong"),
            Self::TokenNotConfigured => {
                (StatusCode::FORBIDDEN, "token-not-configured", "The node has no token that could be shown")
            }
            Self::ForeignSite => {
                (StatusCode::FORBIDDEN, "foreign-site", "The request comes from another site's page")
            }
        }
    }
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    problem: Problem,
    /// How to do better, where HTTP has a header for it.
    challenge: Option<&'static str>,
}

impl Refusal {
    /// One that programs can tell from others of its status.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, name, title) = kind.words();
        let challenge = match kind {
            Kind::TokenMissing => Some(CHALLENGE),
            Kind::TokenWrong => Some(CHALLENGE_AGAIN),
            _ => None,
        };
        Self { challenge, ..Self::made(status, format!("{TYPE_PREFIX}{name}"), title, detail.into()) }
    }

    /// One whose status says which kind it is.
    pub(super) fn of_status(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Problem");
        Self::made(status, "about:blank".to_owned(), title, detail.into())
    }

    fn made(status: StatusCode, kind: String, title: &str, detail: String) -> Self {
        let title = title.to_owned();
        let problem = Problem { kind, title, status: status.as_u16(), detail, instance: None };
        Self { problem, challenge: None }
    }

    /// The same, with the path where more is told.
    pub(super) fn told_at(mut self, path: String) -> Self {
        self.problem.instance = Some(path);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).expect("strings and numbers are valid JSON");
        let mut response = ([(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        *response.status_mut() = StatusCode::from_u16(self.problem.status).expect("it was made of one");
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::NotFound(_) => Kind::NotFound,
            Error::Denied(_) => Kind::Denied,
            Error::NotAllowed { .. } => Kind::OriginNotAllowed,
            Error::Unavailable(_) => Kind::Unavailable,
            Error::NotReady(_) => Kind::NotReady,
            Error::Invalid(_) => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::of_status(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::of_status(rejection.status(), rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn errors_of_the_node_keep_their_words_and_have_their_statuses() {
        let not_allowed = Error::NotAllowed { registry: "a: no such tag".into(), allowed: vec![] };
        let rows = [
            (Error::NotFound("a: no such tag".into()), 404, "not-found"),
            (Error::Denied("a: no such tag".into()), 403, "denied"),
            (not_allowed, 403, "origin-not-allowed"),
            (Error::Unavailable("a: no such tag".into()), 502, "unavailable"),
            (Error::NotReady("a: no such tag"), 503, "not-ready"),
            (Error::Invalid("a: no such tag".into()), 422, "invalid"),
        ];
        for (error, status, name) in rows {
            let words = error.to_string();
            let Refusal { problem, .. } = Refusal::from(error);
            assert_eq!((problem.status, &problem.detail), (status, &words));
            assert_eq!(problem.kind, format!("urn:faasnet:problem:{name}"));
        }
    }

    #[test]
    fn a_problem_reads_as_rfc_9457_has_it() {
        let refusal = Refusal::new(Kind::ProvisionFailed, "no disk").told_at("/api/v1/functions".into());
        let read: Value = serde_json::to_value(&refusal.problem).unwrap();
        let expected = json!({
            "type": "urn:faasnet:problem:provision-failed",
            "title": "The image could not be provisioned",
            "status": 502,
            "detail": "no disk",
            "instance": "/api/v1/functions",
        });
        assert_eq!(read, expected);
        let plain = serde_json::to_value(Refusal::of_status(StatusCode::NOT_FOUND, "x").problem).unwrap();
        assert_eq!(
            plain,
            json!({ "type": "about:blank", "title": "Not Found", "status": 404, "detail": "x" })
        );
    }

    #[test]
    fn the_document_names_every_kind() {
        let document: Value = serde_json::from_str(super::super::server::OPENAPI).unwrap();
        let listed = &document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
        let listed: Vec<&str> = listed.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let kinds = [
            Kind::NotFound,
            Kind::Denied,
            Kind::OriginNotAllowed,
            Kind::Unavailable,
            Kind::NotReady,
            Kind::Invalid,
            Kind::ProvisionFailed,
            Kind::TokenMissing,
            Kind::TokenWrong,
            Kind::TokenNotConfigured,
            Kind::ForeignSite,
        ];
        let types = kinds.map(|kind| format!("{TYPE_PREFIX}{}", kind.words().1));
        assert_eq!(listed.len(), types.len() + 1, "{listed:?}");
        assert!(types.iter().all(|kind| listed.contains(&kind.as_str())), "{listed:?}");
    }
}
