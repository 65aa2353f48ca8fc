//! Files that a configuration names: whether they can be read, and hold what they are meant to.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

/// The largest file that is read. Bundles of all the web's certificate authorities, the largest there are, have a quarter
/// of it; and a wrong path, such as `/dev/zero`, must not fill the memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a file is meant to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Certificates,
    PrivateKey,
    /// A JSON object.
    Json,
    /// Anything but nothing.
    Text,
}

/// Says what is wrong with a file.
pub(super) fn check(path: &Path, content: Content) -> Result<(), String> {
    let text = read(path)?;
    let holds = |mark: &str| text.contains("-----BEGIN ") && text.contains(mark);
    let (good, wanted) = match content {
        Content::Certificates => (holds("CERTIFICATE-----"), "no certificate in PEM form"),
        Content::PrivateKey => (holds("PRIVATE KEY-----"), "no private key in PEM form"),
        Content::Json => (serde_json::from_str::<Map<String, Value>>(&text).is_ok(), "no JSON object"),
        Content::Text => (!text.trim().is_empty(), "nothing"),
    };
    if good { Ok(()) } else { Err(format!("{} holds {wanted}", path.display())) }
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(_) if text.len() as u64 > MAX_FILE_BYTES => Err(format!(
            "{} is larger than {MAX_FILE_BYTES} bytes, so it is hardly what is meant",
            path.display()
        )),
        Ok(_) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_what_they_are_meant_to() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            (Content::Certificates, "-----BEGIN CERTIFICATE-----\n", None),
            (Content::Certificates, "-----BEGIN RSA PRIVATE KEY-----\n", Some("no certificate in PEM form")),
            (Content::PrivateKey, "-----BEGIN EC PRIVATE KEY-----\n", None),
            (Content::PrivateKey, "-----BEGIN CERTIFICATE-----\n", Some("no private key in PEM form")),
            (Content::Json, r#"{"auths": {}}"#, None),
            (Content::Json, "[]", Some("no JSON object")),
            (Content::Text, "hunter2\n", None),
            (Content::Text, "\n", Some("nothing")),
        ];
        for (content, text, expected) in rows {
            let path = dir.path().join("file");
            std::fs::write(&path, text).unwrap();
            let expected = expected.map(|wanted| format!("{} holds {wanted}", path.display()));
            assert_eq!(check(&path, content).err(), expected, "{text}");
        }
        let error = read(&dir.path().join("absent")).unwrap_err();
        assert!(error.contains("No such file"), "{error}");
        assert!(read(Path::new("/dev/zero")).unwrap_err().contains("larger"));
    }
}
