//! HTTP/1.1 by hand, so that a test sees the very bytes and can hang up when it likes.

use faasnet::Node;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// The value of a header; empty if there is none.
    pub(super) fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// An answer whose body is still to be read.
pub(super) struct Open {
    status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<TcpStream>,
}

impl Open {
    /// Exactly so many bytes of the body.
    pub(super) async fn read_some(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.body.read_exact(&mut bytes).await.unwrap();
        bytes
    }
}

/// Asks, and reads everything.
pub(super) async fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> Response {
    finish(open(node, path, headers).await).await
}

/// Asks for the headers alone.
pub(super) async fn head(node: &Node, path: &str) -> Response {
    head_with(node, path, &[]).await
}

/// Asks for the headers alone, under conditions.
pub(super) async fn head_with(node: &Node, path: &str, headers: &[(&str, &str)]) -> Response {
    finish(request(node, "HEAD", path, headers).await).await
}

/// Asks by any method, without a body.
pub(super) async fn ask(node: &Node, method: &str, path: &str) -> Response {
    finish(request(node, method, path, &[("Content-Length", "0")]).await).await
}

/// Asks, and reads no further than the headers.
pub(super) async fn open(node: &Node, path: &str, headers: &[(&str, &str)]) -> Open {
    request(node, "GET", path, headers).await
}

async fn request(node: &Node, method: &str, path: &str, headers: &[(&str, &str)]) -> Open {
    let mut connection = TcpStream::connect(node.http_addr()).await.unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    connection.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    let mut body = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        body.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Open { status, headers, body }
}

async fn finish(mut open: Open) -> Response {
    let mut body = Vec::new();
    open.body.read_to_end(&mut body).await.unwrap();
    Response { status: open.status, headers: open.headers, body }
}
