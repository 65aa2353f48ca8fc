//! Registries that send a node elsewhere.

use std::net::UdpSocket;

use tempfile::TempDir;
use transfer::origin::{Credentials, RegistryConfig, RegistryOrigin};

use crate::fixture::*;

/// A configuration with a password that is shown to who asks for it.
fn with_password(directory: &TempDir) -> RegistryConfig {
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "hunter2").unwrap();
    let credentials = Some(Credentials::Basic { username: "me".into(), password_file });
    RegistryConfig { credentials, ..config() }
}

fn shown(server: &Server) -> Vec<bool> {
    server.seen().iter().map(|seen| !seen.authorization().is_empty()).collect()
}

#[tokio::test]
async fn who_a_registry_sends_us_to_sees_no_credentials_and_neither_does_who_comes_after() {
    let directory = TempDir::new().unwrap();
    let blob = pattern(10);
    // There and back again: the way home is through the store, which is told by the path.
    let store = Server::start(|_, seen| {
        let home = seen.uri.query().unwrap().to_owned();
        status(307, &[("location", &format!("http://{home}/back?signature=x"))])
    });
    let store = store.await;
    let there = format!("http://{}/blob", store.address);
    let server = Server::start(move |_, seen| match (seen.uri.path(), seen.authorization()) {
        ("/back", _) => partial(&blob, seen),
        (_, "") => status(401, &[("www-authenticate", "Basic")]),
        _ => {
            let home = seen.headers["host"].to_str().unwrap();
            status(307, &[("location", &format!("{there}?{home}"))])
        }
    });
    let server = server.await;
    assert_eq!(read(&server.origin_with(with_password(&directory)), 2..5).await.unwrap(), pattern(10)[2..5]);
    assert_eq!((shown(&store), shown(&server)), (vec![false], vec![false, true, false]));
    assert_eq!(store.ranges(), ["bytes=2-4"]);
    assert!(store.seen()[0].headers.get("referer").is_none(), "URLs carry signatures");
}

#[tokio::test]
async fn another_port_is_another_host_and_another_path_is_not() {
    let directory = TempDir::new().unwrap();
    let blob = pattern(10);
    let served = blob.clone();
    let server = Server::start(move |_, seen| match (seen.uri.path(), seen.authorization()) {
        (_, "") => status(401, &[("www-authenticate", "Basic")]),
        ("/moved", _) => partial(&served, seen),
        _ => status(301, &[("location", "/moved")]),
    });
    let server = server.await;
    assert_eq!(read(&server.origin_with(with_password(&directory)), 0..10).await.unwrap(), blob);
    assert_eq!(shown(&server), [false, true, true]);
}

#[tokio::test]
async fn a_store_that_asks_for_credentials_gets_none() {
    let directory = TempDir::new().unwrap();
    let store = Server::start(|_, _| status(401, &[("www-authenticate", "Basic")])).await;
    let there = store.url();
    let server = Server::start(move |_, _| status(302, &[("location", &there)])).await;
    let result = read(&server.origin_with(with_password(&directory)), 0..10).await;
    assert_eq!((kind(&result), shown(&store), shown(&server)), ("denied", vec![false], vec![false]));
}

#[tokio::test]
async fn redirects_are_bounded_and_tell_no_secrets() {
    for code in [301, 302, 303, 307, 308] {
        let server =
            Server::start(move |_, _| status(code, &[("location", "/again?signature=secret")])).await;
        let result = read(&server.origin(), 0..10).await;
        assert_eq!((kind(&result), server.seen().len()), ("invalid", 6), "{code}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains("more than 5 redirects") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_invalid() {
    for location in ["ftp://x/y", "http://", "data:text/plain,x", "http://[::1"] {
        let server = Server::start(move |_, _| status(307, &[("location", location)])).await;
        let result = read(&server.origin(), 0..10).await;
        assert_eq!((kind(&result), server.seen().len()), ("invalid", 1), "{location}");
    }
    let server = Server::start(|_, _| status(307, &[])).await;
    assert_eq!(kind(&read(&server.origin(), 0..10).await), "invalid");
}

#[tokio::test]
#[ignore = "needs an address besides loopback"]
async fn a_registry_elsewhere_sends_us_neither_to_this_machine_nor_to_its_link() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").unwrap();
    let own = socket.local_addr().unwrap().ip();
    assert!(!own.is_loopback());
    let store = Server::start(|_, seen| partial(&pattern(10), seen)).await;
    let port = store.address.rsplit(':').next().unwrap().to_owned();
    let near =
        ["http://127.0.0.1:PORT/", "http://localhost:PORT/", "http://169.254.169.254/", "http://[::1]:PORT/"];
    for location in near.map(|near| near.replace("PORT", &port)) {
        let there = location.clone();
        let server =
            Server::start_on(&format!("{own}:0"), move |_, _| status(307, &[("location", &there)])).await;
        let origin = RegistryOrigin::new(&server.address, config()).unwrap();
        let result = read(&origin, 0..10).await;
        assert_eq!((kind(&result), store.seen().len()), ("invalid", 0), "{location}");
        assert!(result.unwrap_err().to_string().contains("nearer to this node"), "{location}");
    }
}
