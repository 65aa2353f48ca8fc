//! What a node's configuration depends on besides flags, variables of settings, and its file.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The environment's name for the cluster's secret itself. It is no flag: a process's arguments can be read by everybody.
pub(super) const SECRET_VARIABLE: &str = "FAASNET_CLUSTER_SECRET";

/// The environment's name for the API's token itself.
pub(super) const API_TOKEN_VARIABLE: &str = "FAASNET_API_TOKEN";

/// The configuration file that is read if it exists and no other is named.
const DEFAULT_FILE: &str = "/etc/faasnet/faasnet.toml";

/// The machine and the user that a process finds itself with.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The configuration file to read if none is named.
    pub file: Option<PathBuf>,
    /// The cluster's secret, from the environment.
    pub secret: Option<String>,
    /// The API's token, from the environment.
    pub api_token: Option<String>,
    /// Whether the process acts as root.
    pub is_root: bool,
    /// `$XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn look() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let file = PathBuf::from(DEFAULT_FILE);
        Self {
            file: file.exists().then_some(file),
            secret: std::env::var(SECRET_VARIABLE).ok(),
            api_token: std::env::var(API_TOKEN_VARIABLE).ok(),
            // A process's own files belong to the user that it acts as.
            is_root: std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0),
            data_home: path("XDG_DATA_HOME"),
            home: path("HOME"),
        }
    }

    /// Where data is kept by default: as the XDG base directory specification has it, which ignores relative paths.
    pub(super) fn data(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/lib/faasnet".into());
        }
        let is_usable = |path: &&PathBuf| path.is_absolute();
        let below_home = || self.home.as_ref().filter(is_usable).map(|home| home.join(".local/share"));
        let base = self.data_home.as_ref().filter(is_usable).cloned().or_else(below_home)?;
        Some(base.join("faasnet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_a_place_by_default() {
        let check = |is_root, data_home: &str, home: &str, expected: Option<&str>| {
            let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            let surroundings = Surroundings {
                is_root,
                data_home: path(data_home),
                home: path(home),
                ..Surroundings::default()
            };
            assert_eq!(surroundings.data(), expected.map(PathBuf::from));
        };
        check(true, "/x", "/root", Some("/var/lib/faasnet"));
        check(false, "/x", "/home/ada", Some("/x/faasnet"));
        check(false, "x", "/home/ada", Some("/home/ada/.local/share/faasnet"));
        check(false, "", "/home/ada", Some("/home/ada/.local/share/faasnet"));
        check(false, "", "", None);
    }
}
