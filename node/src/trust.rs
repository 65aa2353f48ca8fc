//! Who belongs to the cluster: certificates derived from the cluster secret.
//!
//! The secret and the cluster's name determine the key of the cluster's authority (blake3 `derive_key`, Ed25519), so
//! every node can issue itself a short-lived certificate at start, and nothing is handed out. Whoever has the secret
//! is a full member. A certificate binds its key to a node id, as the DNS name `<id>.node.faasnet`; all carry
//! `member.faasnet` as well, by which a seed is reached whose id is not known yet.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use membership::NodeId;
use membership::link::Protocol;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};

/// How long a certificate is valid. Nodes renew theirs every [`RENEWAL`]; the rest is for clocks and for machines that
/// were asleep.
const VALIDITY: Duration = Duration::days(7);

/// How long before now a certificate becomes valid, for peers whose clocks are behind.
const BACKDATING: Duration = Duration::hours(1);

/// How often a running node issues itself a new certificate.
pub const RENEWAL: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Shortest secret, in characters: 32 hexadecimal digits are 128 bits.
const MIN_SECRET_CHARS: usize = 32;

/// Fewest different characters in a secret. Random ones of [`MIN_SECRET_CHARS`] have more; repeated words have fewer.
const MIN_DIFFERENT_CHARS: usize = 8;

/// The bytes before an Ed25519 seed in its PKCS #8 form (RFC 8410).
const ED25519_PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

const NODE_SUFFIX: &str = ".node.faasnet";
const ANY_MEMBER: &str = "member.faasnet";

/// What makes a machine a member of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A secret was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It can be guessed.
    #[error(
        "it is too weak: it needs at least {MIN_SECRET_CHARS} characters, {MIN_DIFFERENT_CHARS} of them different; make one with `faasnet secret`"
    )]
    Weak,
}

impl Secret {
    /// A new one, with 256 random bits.
    pub fn generate() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The secret as text, to hand to other machines.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        let different: std::collections::BTreeSet<char> = text.chars().collect();
        let strong = text.chars().count() >= MIN_SECRET_CHARS && different.len() >= MIN_DIFFERENT_CHARS;
        if strong { Ok(Self(text.to_owned())) } else { Err(SecretError::Weak) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a node of one cluster proves itself and checks others with.
pub struct Trust {
    node: NodeId,
    authority_key: KeyPair,
    authority: CertificateParams,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    endpoint_seed: [u8; 32],
}

/// TLS for one QUIC endpoint, with a fresh certificate.
pub struct TlsConfigs {
    /// For connections that others open, of any protocol.
    pub server: rustls::ServerConfig,
    /// For connections that this node opens, by protocol.
    pub clients: Vec<(Protocol, rustls::ClientConfig)>,
}

impl Trust {
    /// The trust that `secret` gives `node` in the cluster of that name. Without a secret anybody on the same loopback
    /// is a member.
    pub fn new(node: NodeId, cluster: &str, secret: Option<&Secret>) -> anyhow::Result<Self> {
        let material = format!("{}\n{cluster}", secret.map_or("no secret", Secret::expose));
        let seed = blake3::derive_key("faasnet 2026 cluster authority v1", material.as_bytes());
        let authority_key = ed25519_from_seed(&seed)?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.distinguished_name = named("FaaSNet cluster authority");
        let certificate = authority.self_signed(&authority_key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        let endpoint = format!("{material}\n{node}");
        Ok(Self {
            node,
            authority_key,
            authority,
            roots: Arc::new(roots),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            endpoint_seed: blake3::derive_key("faasnet 2026 endpoint v1", endpoint.as_bytes()),
        })
    }

    /// Bytes that stay the same over restarts of this node and that only members can know. With them a restarted node
    /// can tell its peers that their old connections are dead (QUIC's stateless reset).
    pub fn endpoint_seed(&self) -> &[u8; 32] {
        &self.endpoint_seed
    }

    /// TLS with a new certificate for this node.
    pub fn issue(&self) -> anyhow::Result<TlsConfigs> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut leaf = CertificateParams::new(vec![server_name(Some(&self.node)), ANY_MEMBER.to_owned()])?;
        let now = OffsetDateTime::now_utc();
        leaf.not_before = now - BACKDATING;
        leaf.not_after = now + VALIDITY;
        leaf.distinguished_name = named(self.node.as_str());
        let issuer = Issuer::from_params(&self.authority, &self.authority_key);
        let chain = vec![leaf.signed_by(&key, &issuer)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .context("cannot verify peers")?;
        let mut server = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = Protocol::ALL.iter().map(|protocol| protocol.alpn().to_vec()).collect();
        let clients = Protocol::ALL.map(|protocol| {
            let mut client = rustls::ClientConfig::builder_with_provider(self.provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(self.roots.clone())
                .with_client_auth_cert(chain.clone(), key.clone_key())?;
            client.alpn_protocols = vec![protocol.alpn().to_vec()];
            anyhow::Ok((protocol, client))
        });
        Ok(TlsConfigs { server, clients: clients.into_iter().collect::<Result<_, _>>()? })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ed25519_from_seed(seed: &[u8; 32]) -> anyhow::Result<KeyPair> {
    let pkcs8 = [ED25519_PKCS8_PREFIX.as_slice(), seed].concat();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ED25519)?)
}

/// The name that a peer's certificate must be valid for.
pub fn server_name(node: Option<&NodeId>) -> String {
    node.map_or_else(|| ANY_MEMBER.to_owned(), |node| format!("{node}{NODE_SUFFIX}"))
}

/// The node that a certificate, which was verified before, is bound to.
pub fn node_of(certificate: &CertificateDer<'_>) -> anyhow::Result<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| anyhow!("the certificate does not parse: {error}"))?;
    let mut names = parsed.valid_dns_names().filter_map(|name| name.strip_suffix(NODE_SUFFIX));
    let name = names.next().context("the certificate names no node")?;
    Ok(name.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_can_be_guessed_are_refused() {
        for weak in ["", "secret", "changeme-changeme", &"ab".repeat(40), &"x".repeat(64)] {
            assert_eq!(weak.parse::<Secret>(), Err(SecretError::Weak), "{weak}");
        }
        let secret = Secret::generate();
        assert_eq!(format!("{}\n", secret.expose()).parse(), Ok(secret.clone()));
        assert_ne!(Secret::generate(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_certificate_is_bound_to_its_node() {
        let node: NodeId = "vm-17".parse().unwrap();
        let trust = Trust::new(node.clone(), "c", Some(&Secret::generate())).unwrap();
        let mut leaf = CertificateParams::new(vec![server_name(Some(&node)), ANY_MEMBER.to_owned()]).unwrap();
        leaf.distinguished_name = named("vm-17");
        let issuer = Issuer::from_params(&trust.authority, &trust.authority_key);
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(node_of(leaf.signed_by(&key, &issuer).unwrap().der()).unwrap(), node);
        assert!(node_of(&CertificateDer::from(vec![1, 2, 3])).is_err());
        trust.issue().unwrap();
    }

    #[test]
    fn the_same_secret_and_cluster_give_the_same_authority() {
        let node: NodeId = "a".parse().unwrap();
        let secret = Secret::generate();
        let key = |cluster: &str, secret: Option<&Secret>| {
            Trust::new(node.clone(), cluster, secret).unwrap().authority_key.serialize_der()
        };
        assert_eq!(key("c", Some(&secret)), key("c", Some(&secret)));
        assert_ne!(key("c", Some(&secret)), key("d", Some(&secret)));
        assert_ne!(key("c", Some(&secret)), key("c", Some(&Secret::generate())));
        assert_ne!(key("c", Some(&secret)), key("c", None));
    }
}
