//! Why a request to this node failed, in six kinds that every door (API, mirror, CLI) maps to its own codes.

use transfer::manifest::ManifestError;
use transfer::origin::OriginError;
use transfer::wire::DocumentReply;

/// Why something could not be had. The text is for people and says what, where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such image, manifest or blob.
    #[error("{0}")]
    NotFound(String),
    /// The origin refuses it to us.
    #[error("{0}")]
    Denied(String),
    /// The registry is not among the origins that this node may read from.
    #[error("{registry} is not among this node's origins, which are {}; add it with --origin {registry}", allowed.join(", "))]
    NotAllowed {
        /// The registry.
        registry: String,
        /// The names of this node's origins.
        allowed: Vec<String>,
    },
    /// It may be had later: an origin is down.
    #[error("{0}")]
    Unavailable(String),
    /// This node has only just started, or leaves.
    #[error("{0}")]
    NotReady(&'static str),
    /// The request, or what the origin served, makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<OriginError> for Error {
    fn from(error: OriginError) -> Self {
        let text = error.to_string();
        match error {
            OriginError::NotFound { .. } => Self::NotFound(text),
            OriginError::Denied { .. } => Self::Denied(text),
            OriginError::Unavailable { .. } => Self::Unavailable(text),
            OriginError::Invalid { .. } => Self::Invalid(text),
        }
    }
}

impl From<ManifestError> for Error {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::NoPlatform { .. } => Self::NotFound(error.to_string()),
            _ => Self::Invalid(error.to_string()),
        }
    }
}

impl From<Error> for DocumentReply {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(text) => Self::NotFound(text),
            Error::Invalid(text) => Self::Invalid(text),
            Error::Denied(text) => Self::Denied(text),
            Error::Unavailable(text) => Self::Unavailable(text),
            // The asker may do better.
            error @ (Error::NotAllowed { .. } | Error::NotReady(_)) => Self::Unavailable(error.to_string()),
        }
    }
}
