//! Docker's `config.json` and its kin (containers' `auth.json`, Kubernetes pull secrets): whose credentials are for which
//! registry and repository. Pure.
//!
//! Keys are matched as docker and containers/image do it: the longest prefix of `host/repository` first, then hosts taken
//! out of URLs such as `https://host/v1/`; Docker Hub goes by all its names. Parsers' own messages quote what they read, so
//! errors here say only where the fault is.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::secret::{Password, Secret};

/// What Docker Hub is called in these files, and in helpers' stores.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The user name by which helpers tell an identity token from a password.
const IDENTITY_USER: &str = "<token>";

/// The file, as far as it says whose credentials to use.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

/// A pull secret, as `kubectl get secret NAME -o json` prints it.
#[derive(Deserialize)]
struct KubernetesSecret {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default, rename = "stringData")]
    string_data: BTreeMap<String, String>,
}

/// Where the credentials for a registry are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the file itself.
    Secret(Secret),
    /// `docker-credential-<name>` has them under this URL.
    Helper {
        /// The rest of the helper's name.
        name: String,
        /// What to ask it for.
        server: String,
    },
    /// Nowhere: the registry is asked anonymously.
    Nothing,
}

impl DockerConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        json(bytes)
    }

    /// Reads a pull secret: the object, or the configuration that it holds.
    pub(super) fn parse_pull_secret(bytes: &[u8]) -> Result<Self, String> {
        const KEY: &str = ".dockerconfigjson";
        let secret: KubernetesSecret = json(bytes)?;
        if let Some(text) = secret.string_data.get(KEY) {
            return Self::parse(text.as_bytes());
        }
        if let Some(text) = secret.data.get(KEY) {
            let inner = BASE64_STANDARD.decode(text.trim()).map_err(|_| format!("{KEY} is not in base64"))?;
            return Self::parse(&inner);
        }
        if !secret.data.is_empty() || !secret.string_data.is_empty() {
            return Err(format!(
                "this is a secret without {KEY}: use one of type kubernetes.io/dockerconfigjson"
            ));
        }
        Self::parse(bytes)
    }

    /// What to show to `host` (with a port, if it is not the scheme's) when asking for `repository`.
    pub(super) fn find(&self, host: &str, repository: &str) -> Result<Found, String> {
        if let Some(helper) = self.cred_helpers.iter().find(|(key, _)| same_registry(key, host)) {
            return helper_for(helper.1, host);
        }
        for key in prefixes(host, repository) {
            if let Some(secret) = self.auths.get(&key).map(|entry| entry.secret(&key)).transpose()?.flatten()
            {
                return Ok(Found::Secret(secret));
            }
        }
        for (key, entry) in self.auths.iter().filter(|(key, _)| same_registry(key, host)) {
            if let Some(secret) = entry.secret(key)? {
                return Ok(Found::Secret(secret));
            }
        }
        match &self.creds_store {
            Some(store) if !store.is_empty() => helper_for(store, host),
            _ => Ok(Found::Nothing),
        }
    }
}

impl Entry {
    /// `None` for an entry that only says that a helper knows more.
    fn secret(&self, key: &str) -> Result<Option<Secret>, String> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registry_token) {
            return Ok(Some(Secret::Registry(Password::new(token))));
        }
        if let Some(token) = filled(&self.identity_token) {
            return Ok(Some(Secret::Identity(Password::new(token))));
        }
        let login = |username: String, password: String| {
            Ok(Some(Secret::Login { username, password: Password::new(password) }))
        };
        match (filled(&self.auth), filled(&self.username), filled(&self.password)) {
            (Some(auth), ..) => {
                let decoded =
                    BASE64_STANDARD.decode(auth.trim()).ok().and_then(|raw| String::from_utf8(raw).ok());
                let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
                let (username, password) =
                    pair.ok_or_else(|| format!("the auth of {key} is not NAME:PASSWORD in base64"))?;
                login(username.to_owned(), password.trim_matches('\0').to_owned())
            }
            (None, Some(username), Some(password)) => login(username, password),
            _ => Ok(None),
        }
    }
}

/// What a helper prints: a name and a password, or an identity token.
pub(super) fn parse_helper(bytes: &[u8]) -> Result<Secret, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Printed {
        username: String,
        secret: String,
    }
    let Printed { username, secret } = json(bytes)?;
    let password = Password::new(secret);
    Ok(match username.as_str() {
        IDENTITY_USER => Secret::Identity(password),
        _ => Secret::Login { username, password },
    })
}

fn helper_for(name: &str, host: &str) -> Result<Found, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is no name of a credential helper: it may have letters, digits, '.', '_' and '-'"
        ));
    }
    let server = if is_hub(host) { HUB_KEY.to_owned() } else { host.to_owned() };
    Ok(Found::Helper { name: name.to_owned(), server })
}

/// `host/a/b`, `host/a`, `host`.
fn prefixes(host: &str, repository: &str) -> Vec<String> {
    let host = if is_hub(host) { "docker.io" } else { host };
    let whole = format!("{host}/{repository}");
    let mut ends: Vec<usize> = whole.match_indices('/').map(|(at, _)| at).collect();
    ends.push(whole.len());
    ends.into_iter().rev().map(|end| whole[..end].to_owned()).collect()
}

/// Whether a key with or without a scheme and a path means this registry as a whole.
fn same_registry(key: &str, host: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let of_key = match bare {
        Some(bare) => bare.split('/').next().unwrap_or_default(),
        // A path without a scheme names a repository.
        None => key,
    };
    of_key.eq_ignore_ascii_case(host) || (is_hub(of_key) && is_hub(host))
}

fn is_hub(host: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host)
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let fault = match error.classify() {
            serde_json::error::Category::Data => "JSON of another shape than expected",
            _ => "no valid JSON",
        };
        format!("{fault}, line {} column {}", error.line(), error.column())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, password: &str) -> Found {
        Found::Secret(Secret::Login { username: username.into(), password: Password::new(password) })
    }

    fn find(config: &str, host: &str, repository: &str) -> Result<Found, String> {
        DockerConfig::parse(config.as_bytes())?.find(host, repository)
    }

    fn helper(name: &str, server: &str) -> Found {
        Found::Helper { name: name.into(), server: server.into() }
    }

    /// `NAME:PASSWORD` as these files write it.
    fn auth(pair: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode(pair))
    }

    #[test]
    fn entries_are_found_by_host_and_repository() {
        let (a, b, c) = (auth("a:1"), auth("b:2"), auth("c:3"));
        let auths = |entries: &[(&str, &str)]| {
            let entries: Vec<_> = entries.iter().map(|(key, value)| format!(r#""{key}":{value}"#)).collect();
            format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
        };
        let quay = auths(&[("quay.io", &a), ("quay.io/team", &b), ("quay.io/team/app", &c)]);
        let url = auths(&[("https://r.example:5000/v1/", &a)]);
        let hub = auths(&[("https://index.docker.io/v1/", &a)]);
        let rows = [
            (&quay, "quay.io", "team/app", login("c", "3")),
            (&quay, "quay.io", "team/app/sub", login("c", "3")),
            (&quay, "quay.io", "team/apple", login("b", "2")),
            (&quay, "quay.io", "teamwork/x", login("a", "1")),
            (&quay, "evil.io", "quay.io/team", Found::Nothing),
            (&quay, "quay.io:8443", "team/app", Found::Nothing),
            (&url, "r.example:5000", "x", login("a", "1")),
            (&url, "r.example", "x", Found::Nothing),
            (&hub, "registry-1.docker.io", "library/x", login("a", "1")),
            (&auths(&[("docker.io", &a)]), "registry-1.docker.io", "library/x", login("a", "1")),
            (&auths(&[("docker.io/team", &a)]), "registry-1.docker.io", "team/x", login("a", "1")),
            (&auths(&[("docker.io/team", &a)]), "registry-1.docker.io", "other/x", Found::Nothing),
            (&auths(&[("R.example", &a)]), "r.example", "x", login("a", "1")),
            (&"{}".to_owned(), "quay.io", "x", Found::Nothing),
        ];
        for (config, host, repository, expected) in rows {
            assert_eq!(find(config, host, repository), Ok(expected), "{config} {host}/{repository}");
        }
    }

    #[test]
    fn entries_come_in_several_forms() {
        let identity = r#"{"auth":"PHRva2VuPjo=","identitytoken":"id"}"#;
        let rows = [
            (r#"{"username":"u","password":"p"}"#.to_owned(), login("u", "p")),
            (auth("u:p:with:colons"), login("u", "p:with:colons")),
            (auth("u:p\0\0"), login("u", "p")),
            (identity.to_owned(), Found::Secret(Secret::Identity(Password::new("id")))),
            (r#"{"registrytoken":"t"}"#.to_owned(), Found::Secret(Secret::Registry(Password::new("t")))),
            ("{}".to_owned(), Found::Nothing),
            (r#"{"username":"u"}"#.to_owned(), Found::Nothing),
            (r#"{"auth":"","email":"x"}"#.to_owned(), Found::Nothing),
        ];
        for (entry, expected) in rows {
            let config = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
            assert_eq!(find(&config, "r.example", "x"), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn helpers_are_asked_by_the_names_they_know() {
        let config = r#"{"auths":{"r.example":{}},"credsStore":"store","credHelpers":{"1.dkr.ecr.aws":"ecr-login","docker.io":"hub"}}"#;
        let rows = [
            ("1.dkr.ecr.aws", helper("ecr-login", "1.dkr.ecr.aws")),
            ("registry-1.docker.io", helper("hub", HUB_KEY)),
            ("r.example", helper("store", "r.example")),
        ];
        for (host, expected) in rows {
            assert_eq!(find(config, host, "x"), Ok(expected), "{host}");
        }
        for name in ["../x", "a b", "", "a/b"] {
            let config = format!(r#"{{"credHelpers":{{"r.example":"{name}"}}}}"#);
            assert!(find(&config, "r.example", "x").is_err(), "{name}");
        }
        let printed = |text: &str| parse_helper(text.as_bytes());
        let login = Secret::Login { username: "u".into(), password: Password::new("p") };
        assert_eq!(printed(r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#), Ok(login));
        let identity = Secret::Identity(Password::new("p"));
        assert_eq!(printed(r#"{"Username":"<token>","Secret":"p"}"#), Ok(identity));
        assert!(printed("credentials not found").is_err());
    }

    #[test]
    fn pull_secrets_are_read_in_all_their_forms() {
        let config = format!(r#"{{"auths":{{"r.example":{}}}}}"#, auth("u:p"));
        let encoded = BASE64_STANDARD.encode(&config);
        let quoted = serde_json::to_string(&config).unwrap();
        let rows = [
            config.clone(),
            format!(r#"{{"kind":"Secret","data":{{".dockerconfigjson":"{encoded}"}}}}"#),
            format!(r#"{{"kind":"Secret","stringData":{{".dockerconfigjson":{quoted}}}}}"#),
        ];
        for text in rows {
            let found = DockerConfig::parse_pull_secret(text.as_bytes()).unwrap().find("r.example", "x");
            assert_eq!(found, Ok(login("u", "p")), "{text}");
        }
    }

    #[test]
    fn broken_files_are_told_without_their_content() {
        let rows = [
            r#"{"auths":{"r.example":{"auth":"hunter2"}}}"#,
            r#"{"auths":{"r.example":"hunter2"}}"#,
            r#"{"auths":{"r.example":{"password":hunter2}}}"#,
            r#"{"data":{".dockerconfigjson":"hunter2!"}}"#,
            r#"{"data":{"password":"aHVudGVyMg=="}}"#,
            r#"{"stringData":{".dockerconfigjson":"hunter2"}}"#,
            "hunter2",
            "",
        ];
        for text in rows {
            let config = DockerConfig::parse_pull_secret(text.as_bytes());
            let error = config.and_then(|config| config.find("r.example", "x")).unwrap_err();
            assert!(!error.contains("hunter2") && !error.is_empty(), "{text}: {error}");
        }
    }
}
