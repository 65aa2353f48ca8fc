//! The API token that a command shows to the node that it asks to change something.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use faasnet::client::Client;
use faasnet::config::Secret;

use super::AskArgs;

/// The environment's name for the token itself, which is no flag: a process's arguments can be read by everybody.
const TOKEN_VARIABLE: &str = "FAASNET_API_TOKEN";

/// Which node to ask to change something, and by what right.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// A file with the node's API token, where the node asks for one. The token itself may stand in FAASNET_API_TOKEN
    /// instead; the file wins. None is needed over a Unix socket
    #[arg(long, env = "FAASNET_API_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
}

impl ChangeArgs {
    pub(super) fn client(self) -> anyhow::Result<Client> {
        let variable = std::env::var(TOKEN_VARIABLE).ok();
        let token = read_token(self.token_file.as_deref(), variable.as_deref())?;
        Ok(self.ask.client().with_token(token))
    }
}

/// The token in the file, or else the one in the environment, where an empty one counts as none.
fn read_token(file: Option<&Path>, variable: Option<&str>) -> anyhow::Result<Option<Secret>> {
    let (text, place) = match (file, variable.map(str::trim)) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the token in {} cannot be read", file.display()))?;
            (text, file.display().to_string())
        }
        (None, None | Some("")) => return Ok(None),
        (None, Some(text)) => (text.to_owned(), TOKEN_VARIABLE.to_owned()),
    };
    let token: Secret =
        text.parse().map_err(|error| anyhow!("the token in {place} is no API token: {error}"))?;
    let is_sendable = token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(is_sendable, "the token in {place} is no API token: it has characters that HTTP does not carry");
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_token_comes_from_the_file_or_else_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        let other = TOKEN.replace('0', "f");
        let read = |file, variable| {
            read_token(file, variable).map(|token| token.map(|token| token.expose().to_owned()))
        };
        let token = || Some(TOKEN.to_owned());
        assert_eq!(read(None, None).unwrap(), None);
        assert_eq!(read(None, Some(" ")).unwrap(), None);
        assert_eq!(read(None, Some(TOKEN)).unwrap(), token());
        assert_eq!(read(Some(&file), None).unwrap(), token());
        assert_eq!(read(Some(&file), Some(&other)).unwrap(), token());

        std::fs::write(&file, "hunter2").unwrap();
        let spaced = format!("{TOKEN} {TOKEN}");
        for (file, variable, words) in [
            (Some(file.as_path()), None, "is no API token"),
            (Some(dir.path()), None, "cannot be read"),
            (None, Some("hunter2"), "FAASNET_API_TOKEN is no API token"),
            (None, Some(spaced.as_str()), "HTTP does not carry"),
        ] {
            let error = read(file, variable).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
