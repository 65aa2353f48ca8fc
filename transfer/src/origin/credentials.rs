//! Where a node's credentials for a registry come from: files, and the credential helpers that they name.
//!
//! Everything is read anew whenever it is needed, so that files can be replaced while a node runs. Which entry of a file
//! counts is [`super::docker_config`]'s to say; what is done with the secrets, [`super::authorizer`]'s. Errors name the
//! file or the helper, and never say what is in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::docker_config::{DockerConfig, Found, parse_helper};
use super::secret::{Password, Secret};

/// The largest file that is read; Kubernetes bounds its secrets to this as well.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most that a helper may print: tokens have a few kilobytes.
const MAX_HELPER_BYTES: u64 = 64 << 10;
/// How long a helper may take: those of clouds ask their metadata service and then their token service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The file that Kubernetes makes of a pull secret that it mounts as a directory.
const MOUNTED_FILE: &str = ".dockerconfigjson";

/// Where to look for credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name, and a file that holds the password or the token, with or without a line's end.
    Basic {
        /// The user's name.
        username: String,
        /// The file.
        password_file: PathBuf,
    },
    /// Docker's `config.json`, or `auth.json` of containers, with the helpers that it names.
    DockerConfig(PathBuf),
    /// A Kubernetes pull secret in JSON: the object, the `.dockerconfigjson` that it holds, or the directory that it is
    /// mounted as.
    PullSecret(PathBuf),
}

impl Credentials {
    /// What to show to `host` when asking for `repository`: nothing if a file has no entry for it.
    pub(super) async fn read(&self, host: &str, repository: &str) -> Result<Option<Secret>, String> {
        let (path, config) = match self {
            Self::Basic { username, password_file } => {
                return read_login(username, password_file).await.map(Some);
            }
            Self::DockerConfig(path) => (path.clone(), DockerConfig::parse(&read_file(path).await?)),
            Self::PullSecret(path) => {
                let is_mount = tokio::fs::metadata(path).await.is_ok_and(|metadata| metadata.is_dir());
                let file = if is_mount { path.join(MOUNTED_FILE) } else { path.clone() };
                let config = DockerConfig::parse_pull_secret(&read_file(&file).await?);
                (file, config)
            }
        };
        let found = config.and_then(|config| config.find(host, repository));
        match found.map_err(|reason| about(&path, &reason))? {
            Found::Secret(secret) => Ok(Some(secret)),
            Found::Helper { name, server } => ask_helper(&format!("docker-credential-{name}"), &server).await,
            Found::Nothing => Ok(None),
        }
    }

    /// What a mirror of the registry may be shown: nothing but what a file has under the mirror's own name.
    pub(super) fn for_mirrors(&self) -> Option<Self> {
        match self {
            Self::Basic { .. } => None,
            keyed => Some(keyed.clone()),
        }
    }
}

async fn read_login(username: &str, path: &Path) -> Result<Secret, String> {
    let bytes = read_file(path).await?;
    let text = String::from_utf8(bytes).map_err(|_| about(path, "the password is no UTF-8 text"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(about(path, "the file is empty")),
        _ if password.chars().any(char::is_control) => {
            Err(about(path, "there is more than one line in it, or a control character"))
        }
        _ => Ok(Secret::Login { username: username.to_owned(), password: Password::new(password) }),
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = async { read_bounded(File::open(path).await?, MAX_FILE_BYTES).await };
    match read.await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(about(path, &format!("the file has more than {MAX_FILE_BYTES} bytes"))),
        Err(error) => Err(about(path, &error.to_string())),
    }
}

/// Runs `<program> get`. `None` if it knows nothing of the server.
async fn ask_helper(program: &str, server: &str) -> Result<Option<Secret>, String> {
    let exchange = async {
        let mut child = Command::new(program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A helper that ends without reading has its reasons, which its exit tells.
            let _ = input.write_all(server.as_bytes()).await;
        }
        let output = child.stdout.take().ok_or_else(|| std::io::Error::other("it has no output"))?;
        let printed = read_bounded(output, MAX_HELPER_BYTES).await?;
        // Of one that prints without end nothing more is wanted: it is killed when it is dropped.
        let status = if printed.is_some() { Some(child.wait().await?) } else { None };
        std::io::Result::Ok((status, printed))
    };
    let (status, printed) = match tokio::time::timeout(HELPER_TIMEOUT, exchange).await {
        Ok(Ok((Some(status), Some(printed)))) => (status, printed),
        Ok(Ok(_)) => return Err(format!("{program} printed more than {MAX_HELPER_BYTES} bytes")),
        Ok(Err(error)) => {
            return Err(format!("{program} cannot be run: {error}; is it on this node's PATH?"));
        }
        Err(_) => return Err(format!("{program} did not answer within {HELPER_TIMEOUT:?}")),
    };
    if status.success() {
        return parse_helper(&printed).map(Some).map_err(|reason| format!("{program} printed {reason}"));
    }
    // Said on standard output, in these words, by all helpers that are made with docker's library.
    if String::from_utf8_lossy(&printed).contains("credentials not found") {
        return Ok(None);
    }
    Err(format!(
        "{program} failed with {status}: run `echo {server} | {program} get` on this node to see why"
    ))
}

/// All bytes, or `None` if there are more than `limit`.
async fn read_bounded(source: impl AsyncRead + Unpin, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn about(path: &Path, reason: &str) -> String {
    format!("the credentials in {} cannot be used: {reason}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_password_is_a_line() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("password");
        let source = Credentials::Basic { username: "me".into(), password_file: path.clone() };
        let long = "x".repeat(MAX_FILE_BYTES as usize + 1);
        let rows: [(&[u8], Option<&str>); 8] = [
            (b"hunter2\n", Some("hunter2")),
            (b"hunter2\r\n", Some("hunter2")),
            (b" hunter2 ", Some(" hunter2 ")),
            (b"hunter2\nhunter2\n", None),
            (b"\n", None),
            (b"", None),
            (b"\xff", None),
            (long.as_bytes(), None),
        ];
        for (content, expected) in rows {
            std::fs::write(&path, content).unwrap();
            let secret = |text| Some(Secret::Login { username: "me".into(), password: Password::new(text) });
            match (source.read("r.example", "x").await, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, secret(expected)),
                (Err(error), None) => {
                    assert!(
                        error.contains("/password cannot be used") && !error.contains("hunter2"),
                        "{error}"
                    );
                }
                (found, _) => panic!("{:?}: {found:?}", String::from_utf8_lossy(content)),
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(source.read("r.example", "x").await.unwrap_err().contains("No such file"));
    }

    #[tokio::test]
    async fn a_mounted_pull_secret_is_a_directory() {
        let directory = TempDir::new().unwrap();
        let source = Credentials::PullSecret(directory.path().to_owned());
        assert!(source.read("r.example", "x").await.unwrap_err().contains(MOUNTED_FILE));
        let config = r#"{"auths":{"r.example":{"username":"u","password":"p"}}}"#;
        std::fs::write(directory.path().join(MOUNTED_FILE), config).unwrap();
        let expected = Secret::Login { username: "u".into(), password: Password::new("p") };
        assert_eq!(source.read("r.example", "x").await, Ok(Some(expected)));
        assert_eq!(source.read("other.example", "x").await, Ok(None));
    }

    #[tokio::test]
    async fn helpers_are_run_within_limits() {
        let directory = TempDir::new().unwrap();
        let run = async |script: &str| {
            let program = directory.path().join("helper").display().to_string();
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            ask_helper(&program, "r.example").await
        };
        let login = Secret::Login { username: "r.example".into(), password: Password::new("hunter2") };
        let echo = r#"test "$1" = get && echo "{\"Username\":\"$(cat)\",\"Secret\":\"hunter2\"}""#;
        assert_eq!(run(echo).await, Ok(Some(login)));
        assert_eq!(run("echo 'credentials not found in native keychain'; exit 1").await, Ok(None));
        let rows = [
            ("echo hunter2; exit 1", "failed with exit status: 1"),
            ("echo hunter2", "printed no valid JSON"),
            ("yes hunter2", "printed more than 65536 bytes"),
        ];
        for (script, expected) in rows {
            let error = run(script).await.unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{script}: {error}");
        }
        // With nothing else to wait for, a paused clock jumps to the limit.
        tokio::time::pause();
        let error = run("exec sleep 600").await.unwrap_err();
        assert!(error.contains("did not answer within 30s"), "{error}");
        let error = ask_helper("docker-credential-absent", "x").await.unwrap_err();
        assert!(error.contains("docker-credential-absent cannot be run"), "{error}");
    }

    #[test]
    fn a_mirror_is_not_shown_the_origins_password() {
        let basic = Credentials::Basic { username: "me".into(), password_file: "/p".into() };
        let keyed = Credentials::DockerConfig("/c".into());
        assert_eq!((basic.for_mirrors(), keyed.for_mirrors()), (None, Some(keyed)));
    }
}
