//! Registries with certificates of all kinds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use transfer::origin::{Origin, RegistryConfig, RegistryOrigin, TlsConfig};

use crate::fixture::*;

/// An authority with its files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory: TempDir::new().unwrap() };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for `name` and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

struct TlsListener(TcpListener, TlsAcceptor);

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A registry on loopback that calls itself `name`, and asks for certificates of `clients`.
async fn registry(authority: &Authority, name: &str, clients: Option<&Authority>) -> Server {
    let (certificate, key) = authority.issue(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider).build().unwrap(),
        ),
        None => builder.with_no_client_auth(),
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = builder.with_single_cert(chain, key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = TlsListener(listener, TlsAcceptor::from(Arc::new(tls)));
    Server::start_with(listener, |_, _| with_body(200, &[], manifest(b"config", &[])))
}

async fn ask(server: &Server, tls: TlsConfig) -> &'static str {
    let mut config = RegistryConfig { tls, ..config() };
    config.retry.tries = 1;
    let origin = RegistryOrigin::new(&format!("https://{}", server.address), config).unwrap();
    kind(&origin.manifest("a/b", &tag()).await)
}

#[tokio::test]
async fn a_registry_is_believed_by_its_authority_alone() {
    let (ours, other) = (Authority::new(), Authority::new());
    let right = registry(&ours, "127.0.0.1", None).await;
    let misnamed = registry(&ours, "registry.example", None).await;
    let believing =
        |authority: &Authority| TlsConfig { ca_file: Some(authority.file()), ..TlsConfig::default() };
    let anybody = || TlsConfig { insecure: true, ..TlsConfig::default() };
    assert_eq!(ask(&right, believing(&ours)).await, "fine");
    assert_eq!(ask(&right, believing(&other)).await, "unavailable");
    assert_eq!(ask(&right, TlsConfig::default()).await, "unavailable");
    assert_eq!(ask(&right, anybody()).await, "fine");
    assert_eq!(ask(&misnamed, believing(&ours)).await, "unavailable");
    assert_eq!(ask(&misnamed, anybody()).await, "fine");
}

#[tokio::test]
async fn a_node_shows_its_certificate_to_the_registry_and_to_nobody_else() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let server = registry(&ours, "127.0.0.1", Some(&clients)).await;
    let (certificate, key) = clients.issue("node");
    let chain = clients.write("node.pem", &certificate.pem());
    let key = clients.write("node.key", &key.serialize_pem());
    let without = TlsConfig { ca_file: Some(ours.file()), ..TlsConfig::default() };
    let with = TlsConfig { client_certificate: Some((chain, key)), ..without.clone() };
    assert_eq!(ask(&server, with.clone()).await, "fine");
    assert_eq!(ask(&server, without).await, "unavailable");

    let there = format!("https://{}/elsewhere", server.address);
    let plain = Server::start(move |_, _| status(307, &[("location", &there)])).await;
    let mut config = RegistryConfig { tls: with.clone(), ..config() };
    config.retry.tries = 1;
    assert_eq!(kind(&plain.origin_with(config.clone()).manifest("a/b", &tag()).await), "unavailable");
    config.mirrors = vec![format!("https://{}", server.address)];
    let mirrored = Server::start(|_, _| status(404, &[])).await;
    assert_eq!(kind(&mirrored.origin_with(config).manifest("a/b", &tag()).await), "not found");
}

#[tokio::test]
async fn no_redirect_leads_from_https_to_http() {
    let ours = Authority::new();
    let plain = Server::start(|_, _| with_body(200, &[], manifest(b"config", &[]))).await;
    let there = plain.url();
    let (certificate, key) = ours.issue("127.0.0.1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = TlsListener(listener, TlsAcceptor::from(Arc::new(tls)));
    let server = Server::start_with(listener, move |_, _| status(307, &[("location", &there)]));
    let tls = TlsConfig { ca_file: Some(ours.file()), ..TlsConfig::default() };
    assert_eq!((ask(&server, tls).await, plain.seen().len()), ("invalid", 0));
}

#[tokio::test]
async fn files_that_are_no_certificates_are_told_at_once() {
    let ours = Authority::new();
    let (certificate, key) = ours.issue("node");
    let chain = ours.write("node.pem", &certificate.pem());
    let right_key = ours.write("node.key", &key.serialize_pem());
    let other_key = ours.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let text = ours.write("text.pem", "no certificate");
    let absent = ours.directory.path().join("absent.pem");
    let ca = |path: &PathBuf| TlsConfig { ca_file: Some(path.clone()), ..TlsConfig::default() };
    let client = |chain: &PathBuf, key: &PathBuf| TlsConfig {
        client_certificate: Some((chain.clone(), key.clone())),
        ..TlsConfig::default()
    };
    let rows = [
        (ca(&absent), Some("absent.pem: ")),
        (ca(&text), Some("text.pem: there is no certificate in PEM form in it")),
        (ca(&right_key), Some("node.key: there is no certificate in PEM form in it")),
        (client(&absent, &right_key), Some("absent.pem: ")),
        (client(&chain, &absent), Some("absent.pem: there is no private key")),
        (client(&chain, &text), Some("text.pem: there is no private key")),
        (client(&chain, &other_key), Some("other.key: ")),
        (client(&chain, &right_key), None),
        (ca(&ours.file()), None),
    ];
    for (tls, expected) in rows {
        let told = format!("{tls:?}");
        let opened = RegistryOrigin::new("r.example", RegistryConfig { tls, ..config() });
        match (opened, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let text = error.to_string();
                assert!(text.contains("registry at r.example") && text.contains(expected), "{told}: {text}");
            }
            (opened, _) => panic!("{told}: {opened:?}"),
        }
    }
}
