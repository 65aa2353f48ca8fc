//! Archives and registries of real tools.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use transfer::digest::Digest;
use transfer::manifest::{Manifest, OCI_MANIFEST};
use transfer::origin::{Credentials, Listing, Origin, RegistryConfig, RegistryOrigin, open_local};
use transfer::reference::Selector;

use crate::fixture::*;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A layout with an image that tools accept: two real layers and a configuration that names them.
fn layout(at: &Path) {
    let layers = [("a", pattern(1_500_000)), ("b", pattern(700))].map(|(name, bytes)| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
        builder.into_inner().unwrap()
    });
    let diff_ids: Vec<String> =
        layers.iter().map(|layer| format!("{:?}", Digest::of(layer).to_string())).collect();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let text = manifest(config.as_bytes(), &[&layers[0], &layers[1]]);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}]}}"#,
        Digest::of(text.as_bytes()),
        text.len()
    );
    write_layout(at, &[&layers[0], &layers[1], config.as_bytes(), text.as_bytes()], &index);
}

/// Reads the image `x:v1` to its last byte. Returns how many blobs it has.
async fn check(origin: &dyn Origin) -> usize {
    let selector = Selector::Tag("v1".into());
    let document = origin.manifest("library/x", &selector).await.unwrap();
    assert_eq!(origin.head("library/x", &selector).await.unwrap(), document.digest);
    let manifest = Manifest::parse(&document).unwrap();
    for blob in manifest.blobs() {
        assert_eq!(origin.blob_size("library/x", &blob.digest).await.unwrap(), blob.size);
        let middle = blob.size / 3;
        let mut bytes = collect(origin.blob("library/x", &blob.digest, 0..middle).await).await.unwrap();
        bytes.extend(collect(origin.blob("library/x", &blob.digest, middle..blob.size).await).await.unwrap());
        assert_eq!(Digest::of(&bytes), blob.digest);
    }
    manifest.blobs().count()
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn archives_of_skopeo_are_read() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    layout(&directory.path().join("layout"));
    let from = format!("oci:{}:v1", at("layout"));
    for to in ["oci-archive:{}:v1", "docker-archive:{}:x:v1", "docker-archive:{}"] {
        run("skopeo", &["copy", &from, &to.replace("{}", &at("image.tar"))]);
        assert_eq!(check(&open_local(Path::new(&at("image.tar"))).await.unwrap()).await, 3, "{to}");
        run("gzip", &["-f", &at("image.tar")]);
        assert_eq!(check(&open_local(Path::new(&at("image.tar.gz"))).await.unwrap()).await, 3, "{to}");
    }
}

#[tokio::test]
#[ignore = "needs umoci"]
async fn layouts_of_umoci_are_read() {
    let directory = TempDir::new().unwrap();
    let image = directory.path().join("layout").display().to_string();
    run("umoci", &["init", "--layout", &image]);
    run("umoci", &["new", "--image", &format!("{image}:v1")]);
    assert_eq!(check(&open_local(Path::new(&image)).await.unwrap()).await, 1);
}

/// Debian's registry on a free port.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// `more` is appended to its configuration.
    fn start(directory: &Path, more: &str) -> Self {
        let config = directory.join("config.yml");
        let storage = directory.join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            let rest = line.split_once("listening on ")?.1.to_owned();
            Some(rest.split([' ', '"', ',']).next()?.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.unwrap() }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
#[ignore = "needs docker-registry and skopeo"]
async fn a_real_registry_is_read() {
    let directory = TempDir::new().unwrap();
    layout(&directory.path().join("layout"));
    let registry = Registry::start(directory.path(), "");
    let from = format!("oci:{}:v1", directory.path().join("layout").display());
    let to = format!("docker://{}/library/x:v1", registry.address);
    run("skopeo", &["copy", "--dest-tls-verify=false", &from, &to]);
    let origin = RegistryOrigin::new(&registry.address, config()).unwrap();
    assert_eq!(check(&origin).await, 3);
    let absent = origin.manifest("library/x", &Selector::Tag("absent".into())).await.unwrap_err().to_string();
    assert!(absent.contains("not found: MANIFEST_UNKNOWN"), "{absent}");
    let absent = origin.blob("library/x", &Digest::of(b"absent"), 0..1).await.err().unwrap().to_string();
    assert!(absent.contains("not found: BLOB_UNKNOWN"), "{absent}");
    let tags = origin.list("library/x", &Listing::Tags, "n=10").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&tags.body).trim(), r#"{"name":"library/x","tags":["v1"]}"#);
}

#[tokio::test]
#[ignore = "needs docker-registry, htpasswd and skopeo"]
async fn a_real_registry_wants_a_password() {
    let directory = TempDir::new().unwrap();
    layout(&directory.path().join("layout"));
    let users = directory.path().join("users");
    run("htpasswd", &["-Bbc", &users.display().to_string(), "me", "hunter2"]);
    let more = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
    let registry = Registry::start(directory.path(), &more);
    let from = format!("oci:{}:v1", directory.path().join("layout").display());
    let to = format!("docker://{}/library/x:v1", registry.address);
    run("skopeo", &["copy", "--dest-tls-verify=false", "--dest-creds", "me:hunter2", &from, &to]);

    let password = directory.path().join("password");
    let keyed = directory.path().join("config.json");
    let auths = format!(r#"{{"auths":{{"{}":{{"username":"me","password":"hunter2"}}}}}}"#, registry.address);
    std::fs::write(&keyed, auths).unwrap();
    std::fs::write(&password, "hunter2\n").unwrap();
    let basic = Credentials::Basic { username: "me".into(), password_file: password.clone() };
    for credentials in [basic.clone(), Credentials::DockerConfig(keyed)] {
        let config = RegistryConfig { credentials: Some(credentials), ..config() };
        let origin = RegistryOrigin::new(&registry.address, config).unwrap();
        assert_eq!(check(&origin).await, 3);
    }
    std::fs::write(&password, "wrong").unwrap();
    for credentials in [None, Some(basic)] {
        let config = RegistryConfig { credentials, ..config() };
        let origin = RegistryOrigin::new(&registry.address, config).unwrap();
        assert_eq!(kind(&origin.manifest("library/x", &tag()).await), "denied");
    }
}
