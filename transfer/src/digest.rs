//! The sha256 digest that names a blob or a manifest, and the hasher that finds it.
//!
//! Knows nothing of where bytes come from. Other algorithms are refused by name where they enter, so that the
//! rest of the code has one kind of digest. Pure.

use std::fmt;
use std::str::FromStr;

use membership::FunctionId;
use serde::{Deserialize, Serialize};

/// Text that names no sha256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// A digest of another kind, which OCI allows and this implementation does not serve.
    #[error("digest algorithm {0:?} is not supported: only sha256 is; re-push the image with sha256 digests")]
    Algorithm(String),
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{0:?} is no digest: it must read sha256:<64 lower-case hexadecimal digits>")]
    Malformed(String),
}

/// The sha256 digest of a blob or a manifest, written `sha256:<64 lower-case hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm: the name of a blob's file in an OCI layout.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            text
        })
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(excerpt(text));
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b);
            let named = !algorithm.is_empty() && algorithm.bytes().all(known);
            return Err(if named { DigestError::Algorithm(excerpt(algorithm)) } else { malformed() });
        }
        if hex.len() != 64 {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = (nibble(pair[0]).ok_or_else(malformed)? << 4) | nibble(pair[1]).ok_or_else(malformed)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl From<FunctionId> for Digest {
    fn from(id: FunctionId) -> Self {
        Self(*id.as_bytes())
    }
}

impl From<Digest> for FunctionId {
    fn from(digest: Digest) -> Self {
        FunctionId::from_bytes(digest.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Finds the digest of bytes that come in pieces.
#[derive(Clone)]
pub struct Sha256(ring::digest::Context);

impl Sha256 {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all the bytes taken.
    pub fn finish(self) -> Digest {
        let digest = self.0.finish();
        Digest(digest.as_ref().try_into().expect("a sha256 digest has 32 bytes"))
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Enough of hostile text to recognise it by, so that an error never carries megabytes into a log.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        let id: FunctionId = Digest::of(b"").into();
        assert_eq!(id.to_string(), EMPTY);
        assert_eq!(Digest::from(id), Digest::of(b""));
        assert_eq!(serde_json::to_string(&Digest::of(b"")).unwrap(), format!("{EMPTY:?}"));
        assert!(serde_json::from_str::<Digest>("\"sha256:1\"").is_err());
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Sha256::new();
        hasher.update(b"fa");
        hasher.update(b"as");
        assert_eq!(hasher.finish(), Digest::of(b"faas"));
    }

    #[test]
    fn other_text_is_refused_with_its_reason() {
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(sha512.parse::<Digest>(), Err(DigestError::Algorithm("sha512".into())));
        for bad in ["", ":", "sha256:", "x y:00", &EMPTY.to_uppercase(), &EMPTY[..70], &EMPTY[7..]] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError::Malformed(bad.into())), "{bad}");
        }
        let upper = EMPTY.replace('e', "E");
        assert!(upper.parse::<Digest>().is_err());
        let huge = "ä".repeat(1_000_000);
        assert!(huge.parse::<Digest>().unwrap_err().to_string().len() < 300);
    }
}
