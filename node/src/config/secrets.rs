//! Where a secret is kept: in a file that a setting names, or in an environment variable. Never in the configuration file.

use std::path::Path;

use super::files;
use super::problem::Source;
use super::schema::{Layer, Said};
use super::surroundings::{API_TOKEN_VARIABLE, SECRET_VARIABLE, Surroundings};
use crate::trust::Secret;

/// A kind of secret that a node may have.
#[derive(Debug)]
pub(super) struct Kind {
    /// What it is called where it is shown that there is one.
    pub(super) name: &'static str,
    /// The setting that names its file.
    pub(super) key: &'static str,
    variable: &'static str,
    in_environment: fn(&Surroundings) -> Option<&str>,
}

/// What makes the node a member.
pub(super) const CLUSTER_SECRET: Kind = Kind {
    name: "cluster-secret",
    key: "secret-file",
    variable: SECRET_VARIABLE,
    in_environment: |surroundings| surroundings.secret.as_deref(),
};

/// What the users of its API must show.
pub(super) const API_TOKEN: Kind = Kind {
    name: "api-token",
    key: "api-token-file",
    variable: API_TOKEN_VARIABLE,
    in_environment: |surroundings| surroundings.api_token.as_deref(),
};

/// Where the secret is that counts.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Who says so.
    pub(super) source: Source,
    file: Option<&'a Path>,
    text: &'a str,
}

impl Kind {
    /// Where the secret is, if anywhere, by the order that holds for all settings: what a flag or a variable names, then
    /// a variable that holds it, then what the configuration file names. An empty variable says nothing.
    pub(super) fn place<'a>(&self, said: &'a Layer, surroundings: &'a Surroundings) -> Option<Place<'a>> {
        let text = (self.in_environment)(surroundings).map(str::trim).filter(|text| !text.is_empty());
        match (said.get(self.key), text) {
            (None | Some(Said { source: Source::File { .. }, .. }), Some(text)) => {
                let source = Source::Environment { variable: self.variable.to_owned() };
                Some(Place { source, file: None, text })
            }
            (Some(said), _) => {
                let file = said.values.first().map(Path::new);
                Some(Place { source: said.source.clone(), file, text: "" })
            }
            (None, None) => None,
        }
    }
}

impl Place<'_> {
    /// The secret, or why it cannot be used; never with the secret in it.
    pub(super) fn read(&self) -> Result<Secret, String> {
        let Some(file) = self.file else {
            return self.text.parse().map_err(|error| format!("the secret is refused: {error}"));
        };
        let text = files::read(file)?;
        text.parse().map_err(|error| format!("the secret in {} is refused: {error}", file.display()))
    }

    /// Whether it stands in the environment.
    pub(super) fn is_in_environment(&self) -> bool {
        self.file.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_a_file_or_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (one, other) = (Secret::generate(), Secret::generate());
        std::fs::write(path("good"), format!("{}\n", one.expose())).unwrap();
        std::fs::write(path("weak"), "1234\n").unwrap();
        std::fs::write(path("empty"), "\n").unwrap();
        let flag = || Source::Flag { flag: "--secret-file".to_owned() };
        let toml = || Source::File { file: "f.toml".into(), line: 1, column: 1 };
        let found = |file: Option<(&str, Source)>, variable: Option<&str>| {
            let said = file.map(|(name, source)| Said { values: vec![path(name).into()], source });
            let said = said.map(|said| ("secret-file".to_owned(), said)).into_iter().collect();
            let surroundings =
                Surroundings { secret: variable.map(str::to_owned), ..Surroundings::default() };
            let place = CLUSTER_SECRET.place(&said, &surroundings)?;
            Some(place.read().map(|secret| secret.expose().to_owned()))
        };
        let (one, other) = (one.expose(), other.expose());
        for (file, variable, expected) in [
            (None, None, None),
            (None, Some(" "), None),
            (None, Some(other), Some(other)),
            (Some(("good", flag())), Some(other), Some(one)),
            (Some(("good", toml())), Some(other), Some(other)),
            (Some(("good", toml())), Some(""), Some(one)),
            (Some(("good", toml())), None, Some(one)),
        ] {
            assert_eq!(found(file, variable), expected.map(|secret| Ok(secret.to_owned())));
        }
        for (file, variable, reason) in [
            (None, Some("1234"), "the secret is refused"),
            (Some("weak"), None, "/weak is refused"),
            (Some("empty"), None, "/empty is refused"),
            (Some("absent"), None, "cannot read"),
        ] {
            let error = found(file.map(|file| (file, flag())), variable).unwrap().unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("1234"), "a log must not repeat a secret: {error}");
        }
    }
}
