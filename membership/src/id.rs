//! The names of things: nodes, zones and functions.
//!
//! All are validated where they enter, so that the rest of the code never meets a name that cannot stand in a
//! certificate, a gossip key or a path.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a DNS label, which is what a certificate can bind a node to.
    #[error("{0:?} is no valid name: use 1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'")]
    NotALabel(String),
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("{0:?} is no sha256 digest: it must read sha256:<64 lower-case hexadecimal digits>")]
    NotADigest(String),
}

fn check_label(name: &str) -> Result<(), IdError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if valid { Ok(()) } else { Err(IdError::NotALabel(name.to_owned())) }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(name: &str) -> Result<Self, IdError> {
                check_label(name)?;
                Ok(Self(name.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(name: String) -> Result<Self, IdError> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// One node's name, unique in its cluster and kept across restarts. A DNS label, since certificates carry it.
    NodeId
}

label! {
    /// Where a node stands: traffic between zones is dear, so that each image crosses into a zone once.
    Zone
}

impl Default for Zone {
    fn default() -> Self {
        Self("default".into())
    }
}

/// A function: a container image at one version, named by the sha256 digest of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionId([u8; 32]);

impl FunctionId {
    /// The function whose manifest has this sha256 digest.
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The sha256 digest of the manifest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for FunctionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = || IdError::NotADigest(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(refuse)?;
        if hex.len() != 64 || hex.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse());
        }
        blake3::Hash::from_hex(hex).map(|bytes| Self(*bytes.as_bytes())).map_err(|_| refuse())
    }
}

impl TryFrom<String> for FunctionId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<FunctionId> for String {
    fn from(id: FunctionId) -> String {
        id.to_string()
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "vm-17", "0", &"x".repeat(63)] {
            assert!(good.parse::<NodeId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(bad.parse::<NodeId>(), Err(IdError::NotALabel(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_function_is_named_by_a_sha256_digest() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<FunctionId>().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha512:00", &"0f".repeat(32), &text.to_uppercase(), &text[..70]] {
            assert!(bad.parse::<FunctionId>().is_err(), "{bad}");
        }
    }
}
