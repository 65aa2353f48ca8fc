//! The least of HTTP that the lab needs to ask a server and to put something there: one request, one connection.
//!
//! Speaks HTTP/1.0, so that an answer is not chunked and ends with its connection. For small bodies, which are held in
//! memory; images go by `skopeo`. It opens no connection: [`super::netns::Host::http`] does, on its host.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};

/// What is asked of a server.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl HttpRequest {
    /// A request without headers of its own and without a body. The path may have a query.
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With this body, whose length is announced.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        Self { body, ..self }.header("Content-Length", length)
    }

    /// Sends the request over a connection and reads the answer to its end.
    pub(super) fn exchange(&self, server: SocketAddr, stream: &mut (impl Read + Write)) -> Result<HttpReply> {
        let mut head = format!("{} {} HTTP/1.0\r\nHost: {server}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        HttpReply::parse(&answer)
    }
}

/// What a server answers.
#[derive(Debug)]
pub struct HttpReply {
    /// The status, such as 200.
    pub status: u16,
    /// All that follows the headers.
    pub body: Vec<u8>,
    head: String,
}

impl HttpReply {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.into_iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(answer: &[u8]) -> Result<Self> {
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .context("the answer has no end of headers")?;
        let head = std::str::from_utf8(&answer[..end]).context("the headers are no text")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status in {head:?}"))?;
        Ok(Self { status, body: answer[end + 4..].to_vec(), head: head.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn answers() {
        let reply =
            HttpReply::parse(b"HTTP/1.0 404 Not Found\r\nA: b\r\nContent-Type:text\r\n\r\nbody").unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (404, "body"));
        let named = ["a", "CONTENT-type", "b"].map(|name| reply.header(name));
        assert_eq!(named, [Some("b"), Some("text"), None]);
        for bad in [b"".as_slice(), b"HTTP/1.0 200 OK\r\n", b"hello\r\n\r\n", b"\xff \xff\r\n\r\n"] {
            assert!(HttpReply::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn requests_announce_their_bodies() {
        let server = SocketAddr::from(([10, 77, 0, 1], 5000));
        let request = HttpRequest::new("PUT", "/v2/?a=b").header("Content-Type", "text").body("what");
        let mut wire = Cursor::new(Vec::new());
        // Nothing answers here, which is what it says.
        assert!(request.exchange(server, &mut wire).is_err());
        let sent = String::from_utf8(wire.into_inner()).unwrap();
        let expected = "PUT /v2/?a=b HTTP/1.0\r\nHost: 10.77.0.1:5000\r\nContent-Type: text\r\nContent-Length: 4\r\n\r\nwhat";
        assert_eq!(sent, expected);
    }
}
