//! Whom a node believes to be a registry, and how it proves itself to one: certificate authorities and client
//! certificates, from PEM files.
//!
//! Reads the files once, when an origin is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How connections to a registry are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// A PEM file with the authorities that may vouch for the registry itself, instead of the web's. For its mirrors and
    /// for the object stores that it sends us to, both count.
    pub ca_file: Option<PathBuf>,
    /// PEM files with this node's certificate chain, its own first, and with its key. Only the registry itself sees it.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Believe any certificate: the registry's, its mirrors', and that of whomever it names.
    pub insecure: bool,
}

/// What the files came to.
pub(super) struct Tls {
    /// For connections to the registry itself.
    pub(super) home: ClientConfig,
    /// For connections to everybody else.
    pub(super) abroad: ClientConfig,
}

impl TlsConfig {
    /// Reads the files. The error names the file.
    pub(super) fn read(&self) -> Result<Tls, String> {
        let own = self.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let mut roots = RootCertStore::empty();
        for certificate in own {
            roots.add(certificate).map_err(|error| {
                let file = self.ca_file.as_deref().unwrap_or(Path::new("")).display();
                format!("{file}: this is no certificate authority: {error}")
            })?;
        }
        let web = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        let mut all = roots.clone();
        all.extend(web.clone());
        let roots = if self.ca_file.is_some() { roots } else { all.clone() };
        Ok(Tls { home: self.client(roots, true)?, abroad: self.client(all, false)? })
    }

    fn client(&self, roots: RootCertStore, shows_certificate: bool) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring supports the default TLS versions");
        let builder = match self.insecure {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
            false => builder.with_root_certificates(roots),
        };
        match &self.client_certificate {
            Some((chain, key)) if shows_certificate => builder
                .with_client_auth_cert(certificates(chain)?, private_key(key)?)
                .map_err(|error| format!("{} with {}: {error}", chain.display(), key.display())),
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| format!("{}: {error}", path.display()))?;
    match found.is_empty() {
        true => Err(format!("{}: there is no certificate in PEM form in it", path.display())),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| format!("{}: there is no private key in PEM form in it: {error}", path.display()))
}

/// Takes everybody's word.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
