//! What must never be seen: passwords and tokens, which no debug output, error or log shows.

use std::fmt;

/// A password or a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(String);

impl Password {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who sends it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What a node has to show for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// A name and a password.
    Login {
        /// The user's name.
        username: String,
        /// Their password.
        password: Password,
    },
    /// What an issuer of tokens takes instead of a password, as `docker login` gets it from some registries.
    Identity(Password),
    /// A token for the registry itself.
    Registry(Password),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let password = Password::new("hunter2");
        let secrets = [
            Secret::Login { username: "me".into(), password: password.clone() },
            Secret::Identity(password.clone()),
            Secret::Registry(password),
        ];
        let text = format!("{secrets:?} {secrets:#?}");
        assert!(text.contains("(hidden)") && text.contains("me") && !text.contains("hunter2"), "{text}");
    }
}
