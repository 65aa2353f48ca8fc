//! Who may change this node's state through the API.
//!
//! | the request comes | it must |
//! |---|---|
//! | over the Unix socket | nothing more: the file's mode let it in |
//! | to a port on loopback | not come from a web page of another site; show the token if one is configured |
//! | to a port beyond loopback | show the token; without one configured, nobody may |
//!
//! Reading needs nothing anywhere.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::{Kind, Refusal};
use crate::node::Node;
use crate::trust::Secret;

/// By which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// A port that only this machine reaches. Its users are trusted, the web pages that they look at are not.
    Loopback,
    /// A port that others may reach.
    Network,
    /// The Unix socket.
    Socket,
}

impl Door {
    /// The door that a port at this address is.
    pub(crate) fn at(bound: SocketAddr) -> Self {
        if bound.ip().to_canonical().is_loopback() { Self::Loopback } else { Self::Network }
    }
}

/// Lets pass who may change something. A request that no door has let in is taken to come from far away.
pub(super) async fn admit(
    State(node): State<Node>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let door = request.extensions().get().copied().unwrap_or(Door::Network);
    check(door, node.config().api_token.as_ref(), request.headers())?;
    Ok(next.run(request).await)
}

fn check(door: Door, token: Option<&Secret>, headers: &HeaderMap) -> Result<(), Refusal> {
    match (door, token) {
        (Door::Socket, _) => Ok(()),
        (Door::Loopback, token) => {
            check_site(headers)?;
            token.map_or(Ok(()), |token| check_token(token, headers))
        }
        (Door::Network, Some(token)) => check_token(token, headers),
        (Door::Network, None) => Err(Refusal::new(
            Kind::TokenNotConfigured,
            "this node has no API token, so nobody can change anything through a port that other machines reach. Set \
             FAASNET_API_TOKEN to a secret (`faasnet secret` makes one) and restart the node; or ask it on its own \
             machine, over its Unix socket or with --http on a loopback address",
        )),
    }
}

/// Compares hashes, which takes as long whatever is right about a guess.
fn check_token(token: &Secret, headers: &HeaderMap) -> Result<(), Refusal> {
    let how = "show the node's API token, as `Authorization: Bearer TOKEN` or with --token-file";
    let Some(shown) = headers.get(header::AUTHORIZATION) else {
        return Err(Refusal::new(Kind::TokenMissing, format!("this changes the node's state: {how}")));
    };
    let right =
        bearer(shown).is_some_and(|shown| blake3::hash(shown) == blake3::hash(token.expose().as_bytes()));
    if right { Ok(()) } else { Err(Refusal::new(Kind::TokenWrong, format!("that is not it: {how}"))) }
}

/// The token in `Bearer TOKEN` (RFC 6750). Schemes are read in any case.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// A browser can be made to send requests here: by a page of another site, which `Origin` gives away, or by a name of
/// that site's that was pointed at this machine (DNS rebinding), which `Host` gives away.
fn check_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let foreign = |header: &str, value: &HeaderValue| {
        Refusal::new(
            Kind::ForeignSite,
            format!(
                "a request to loopback with `{header}: {}` may have been made up by a web page; ask for this machine by \
                 localhost or by its address",
                String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect::<String>()
            ),
        )
    };
    let hosts = headers.get_all(header::HOST);
    if let Some(host) = hosts.iter().find(|host| !names_an_address(host)) {
        return Err(foreign("Host", host));
    }
    let own = |origin: &HeaderValue| {
        let authority = origin.as_bytes().strip_prefix(b"http://");
        authority.is_some_and(|authority| hosts.iter().any(|host| host.as_bytes() == authority))
    };
    headers
        .get_all(header::ORIGIN)
        .iter()
        .find(|origin| !own(origin))
        .map_or(Ok(()), |origin| Err(foreign("Origin", origin)))
}

/// Whether a host is `localhost` or an IP address, with any port: names that nobody else can point here.
fn names_an_address(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use axum::response::IntoResponse;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    /// The status and challenge of a request with these headers; 200 if it may pass.
    fn ask(door: Door, token: Option<&str>, headers: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let token = token.map(|token| token.parse().unwrap());
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let response = match check(door, token.as_ref(), &headers.collect()) {
            Ok(()) => return (200, None),
            Err(refusal) => refusal.into_response(),
        };
        let challenge = response.headers().get(header::WWW_AUTHENTICATE);
        (response.status().as_u16(), challenge.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn doors_are_told_by_where_they_are() {
        let rows = [
            ("127.0.0.1:1", Door::Loopback),
            ("127.9.9.9:1", Door::Loopback),
            ("[::1]:1", Door::Loopback),
            ("[::ffff:127.0.0.1]:1", Door::Loopback),
            ("0.0.0.0:1", Door::Network),
            ("[::]:1", Door::Network),
            ("10.0.0.1:1", Door::Network),
        ];
        for (bound, door) in rows {
            assert_eq!(Door::at(bound.parse().unwrap()), door, "{bound}");
        }
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one_and_where_others_reach() {
        let bearer = |token: &str| format!("Bearer {token}");
        let (right, wrong) = (bearer(TOKEN), bearer(&TOKEN.replace('0', "1")));
        let missing = "Bearer realm=\"faasnet\"";
        let invalid = "Bearer realm=\"faasnet\", error=\"invalid_token\"";
        let rows = [
            (Door::Socket, None, None, 200, None),
            (Door::Socket, Some(TOKEN), None, 200, None),
            (Door::Socket, Some(TOKEN), Some(wrong.as_str()), 200, None),
            (Door::Loopback, None, None, 200, None),
            (Door::Loopback, None, Some(wrong.as_str()), 200, None),
            (Door::Loopback, Some(TOKEN), None, 401, Some(missing)),
            (Door::Loopback, Some(TOKEN), Some(wrong.as_str()), 401, Some(invalid)),
            (Door::Loopback, Some(TOKEN), Some(right.as_str()), 200, None),
            (Door::Network, None, None, 403, None),
            (Door::Network, None, Some(right.as_str()), 403, None),
            (Door::Network, Some(TOKEN), None, 401, Some(missing)),
            (Door::Network, Some(TOKEN), Some("Basic dXNlcjpwdw=="), 401, Some(invalid)),
            (Door::Network, Some(TOKEN), Some("Bearer"), 401, Some(invalid)),
            (Door::Network, Some(TOKEN), Some("bearer 0123456789abcdef0123456789abcdef"), 200, None),
        ];
        for (door, token, shown, status, challenge) in rows {
            let shown: Option<&str> = shown;
            let challenge: Option<&str> = challenge;
            let headers: Vec<_> = shown.iter().map(|shown| (header::AUTHORIZATION, *shown)).collect();
            let expected = (status, challenge.map(str::to_owned));
            assert_eq!(ask(door, token, &headers), expected, "{door:?} {token:?} {shown:?}");
        }
    }

    #[test]
    fn web_pages_of_others_change_nothing_on_loopback() {
        let rows: [(&[(HeaderName, &str)], u16); 14] = [
            (&[], 200),
            (&[(header::HOST, "127.0.0.1:7401")], 200),
            (&[(header::HOST, "localhost:7401")], 200),
            (&[(header::HOST, "LOCALHOST")], 200),
            (&[(header::HOST, "[::1]:7401")], 200),
            (&[(header::HOST, "evil.example:7401")], 403),
            (&[(header::HOST, "localhost.evil.example")], 403),
            (&[(header::HOST, "127.0.0.1.evil.example")], 403),
            (&[(header::HOST, "")], 403),
            (&[(header::HOST, "127.0.0.1"), (header::HOST, "evil.example")], 403),
            (&[(header::HOST, "127.0.0.1:7401"), (header::ORIGIN, "http://127.0.0.1:7401")], 200),
            (&[(header::HOST, "127.0.0.1:7401"), (header::ORIGIN, "http://127.0.0.1:8080")], 403),
            (&[(header::HOST, "127.0.0.1:7401"), (header::ORIGIN, "null")], 403),
            (&[(header::HOST, "127.0.0.1:7401"), (header::ORIGIN, "https://evil.example")], 403),
        ];
        for (headers, status) in rows {
            assert_eq!(ask(Door::Loopback, None, headers).0, status, "{headers:?}");
            assert_eq!(ask(Door::Socket, None, headers).0, 200, "{headers:?}");
        }
        let page = [
            (header::HOST, "evil.example"),
            (header::AUTHORIZATION, "Bearer 0123456789abcdef0123456789abcdef"),
        ];
        assert_eq!(ask(Door::Loopback, Some(TOKEN), &page).0, 403, "whatever it shows");
    }
}
