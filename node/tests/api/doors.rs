//! Who may change a node's state, by which door: loopback, a port that others reach, the Unix socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use faasnet::api::{FunctionState, ProvisionRequest};
use faasnet::client::{Client, Error};
use faasnet::config::{Config, OriginConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::stage::{LIMIT, Request, Stage, TOKEN, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_others_reach_takes_orders_only_with_the_token() {
    let stage = Stage::new().await;
    let everywhere = |name: &str| Config { http: ([0, 0, 0, 0], 0).into(), ..stage.config(name) };
    let order = stage.provision();
    let shown = |token: &str| order.clone().with("Authorization", &format!("Bearer {token}"));

    let without = start(everywhere("without")).await;
    let refused = order.to(&without).await;
    let (kind, words) = refused.problem();
    assert_eq!((refused.status, kind.as_str()), (403, "token-not-configured"));
    assert!(["FAASNET_API_TOKEN", "socket", "loopback"].iter().all(|word| words.contains(word)), "{words}");
    assert_eq!(shown(TOKEN).to(&without).await.status, 403);
    assert!(without.functions().is_empty(), "nothing was begun");
    for path in ["/api/v1/status", "/api/v1/members", "/api/v1/functions", "/metrics"] {
        assert_eq!(Request::get(path).to(&without).await.status, 200, "{path} may be read");
    }

    let with = Config { api_token: Some(TOKEN.parse().unwrap()), ..everywhere("with") };
    let with = start(with).await;
    let refused = order.to(&with).await;
    assert_eq!((refused.status, refused.problem().0.as_str()), (401, "token-missing"));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"faasnet\""));
    let refused = shown(&TOKEN.replace('0', "1")).to(&with).await;
    assert_eq!((refused.status, refused.problem().0.as_str()), (401, "token-wrong"));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"faasnet\", error=\"invalid_token\""));
    assert!(with.functions().is_empty(), "nothing was begun");
    assert_eq!(shown(TOKEN).with("Host", "vm-1.example:7401").to(&with).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_give_no_orders() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    let own = format!("127.0.0.1:{}", node.http_addr().port());
    for order in [
        stage.provision().with("Host", &format!("evil.example:{}", node.http_addr().port())),
        stage.provision().with("Host", &own).with("Origin", "http://evil.example"),
        stage.provision().with("Host", &own).with("Origin", "null"),
    ] {
        let refused = order.to(&node).await;
        assert_eq!((refused.status, refused.problem().0.as_str()), (403, "foreign-site"), "{order:?}");
    }
    assert!(node.functions().is_empty(), "nothing was begun");
    let page = stage.provision().with("Host", &own).with("Origin", &format!("http://{own}"));
    assert_eq!(page.to(&node).await.status, 200, "the node's own page");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_brings_the_token_or_takes_the_socket() {
    let stage = Stage::new().await;
    let config = Config {
        api_token: Some(TOKEN.parse().unwrap()),
        socket: Some(stage.socket()),
        ..stage.config("n1")
    };
    let node = start(config).await;
    let mode = std::fs::metadata(stage.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let request = ProvisionRequest { reference: stage.reference().parse().unwrap(), platform: None };
    let by_port = Client::new(node.http_addr().to_string().parse().unwrap());
    let by_socket = Client::new(format!("unix:{}", stage.socket().display()).parse().unwrap());
    let refused = by_port.provision(&request, |_| ()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { status: 401, .. }), "{refused:?}");
    assert!(refused.to_string().contains("--token-file"), "{refused}");
    for client in [by_socket.clone(), by_port.with_token(Some(TOKEN.parse().unwrap()))] {
        let function = client.provision(&request, |_| ()).await.unwrap();
        assert_eq!(function.state, FunctionState::Ready, "{:?}", function.error);
    }
    assert_eq!(by_socket.status().await.unwrap().node, *node.id());
    let mirrored = Request::get("/v2/").to_socket(stage.socket()).await;
    assert_eq!(mirrored.status, 200, "the mirror is behind that door, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_are_shut_when_the_node_leaves() {
    let stage = Stage::new().await;
    let config = |name| Config { socket: Some(stage.socket()), ..stage.config(name) };
    let node = start(config("n1")).await;
    let taken = faasnet::Node::start(config("n2")).await.err().expect("two nodes cannot have one socket");
    assert!(format!("{taken:#}").contains("in use by another process"), "{taken:#}");

    // An idle connection, such as clients keep, does not hold the node up.
    let _idle = TcpStream::connect(node.http_addr()).await.unwrap();
    assert!(timeout(LIMIT, node.shutdown()).await.unwrap(), "all answers are out");
    assert!(TcpStream::connect(node.http_addr()).await.is_err());
    assert!(!stage.socket().exists());
    let again = timeout(LIMIT, start(config("n3"))).await.unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_way_comes_out_before_the_node_ends() {
    let stage = Stage::new().await;
    let [asked, gate] = [0, 0].map(|permits| Arc::new(Semaphore::new(permits)));
    let (at_origin, opened) = (asked.clone(), gate.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = OriginConfig::at("slow.example", format!("http://{}", listener.local_addr().unwrap()));
    let answer = async move || {
        at_origin.add_permits(1);
        opened.acquire().await.unwrap().forget();
        StatusCode::NOT_FOUND
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let config = Config { origins: vec![origin], default_origin: None, ..stage.config("n1") };
    let node = start(config).await;

    let client = node.clone();
    let order = Request::post("/api/v1/provisions", r#"{"reference":"slow.example/app"}"#);
    let ordered = tokio::spawn(async move { order.to(&client).await });
    timeout(LIMIT, asked.acquire()).await.unwrap().unwrap().forget();
    let leaver = node.clone();
    let left = tokio::spawn(async move { leaver.shutdown().await });
    until("the node leaves", || !node.is_ready()).await;
    gate.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(timeout(LIMIT, ordered).await.unwrap().unwrap().status, 404);
    assert!(timeout(LIMIT, left).await.unwrap().unwrap(), "all answers are out");
}
