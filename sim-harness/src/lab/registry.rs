//! Debian's `docker-registry` on a host of the lab: the origin, and the witness of what was asked of it.
//!
//! Owns its process, its storage, and the reading of its access log. What left the registry is counted twice over: by the
//! registry itself, request by request ([`AccessLog`]), and by the kernel on the wire (`Host::bytes_sent`), which
//! also sees requests that were cut off when the registry died.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::http::HttpRequest;
use super::image::Image;
use super::netns::{Host, at};
use super::process::{run, signal, wait_until};
use super::tls::Certificate;

/// The ports that registries have by habit, without and with TLS. They are the host's own, so they cannot collide.
const PORT: u16 = 5000;
const TLS_PORT: u16 = 443;

/// Who may read from a private registry: by name and password, in the form in which Docker's configuration has it, and in
/// that of the registry's own file (`htpasswd -nbB -C 4`).
pub const READER: (&str, &str) = ("reader", "open-sesame");
/// See [`READER`].
pub const READER_AUTH: &str = "cmVhZGVyOm9wZW4tc2VzYW1l";
const PASSWORDS: &str = "reader:$2y$04$rIWfRrpx5w4SCK.LeFXYiO3mBXs95RAdg5r4Jf0mRSlbYzLc7NrjO\n";

/// How long the registry may take to start or to end; it needs a tenth of a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a registry is like that is not open, plain and empty.
#[derive(Debug, Clone, Default)]
pub struct RegistryPlan {
    /// It speaks TLS, with this certificate, and on another port.
    pub certificate: Option<Certificate>,
    /// It answers nobody but [`READER`].
    pub private: bool,
    /// It has the images of another registry, see [`Registry::storage`].
    pub storage: Option<PathBuf>,
}

/// A running (or stopped) registry with its storage.
#[derive(Debug)]
pub struct Registry {
    host: Host,
    plan: RegistryPlan,
    directory: PathBuf,
    process: Option<Child>,
    /// How many marks were written into the access log, see [`Registry::access_log`].
    marks: AtomicU32,
}

impl Registry {
    /// Starts an open, plain, empty registry on a host, with its files in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// When `docker-registry` is not installed or does not come up.
    pub fn start(host: &Host, directory: &Path) -> Result<Self> {
        Self::start_as(host, directory, RegistryPlan::default())
    }

    /// Starts a registry of another kind.
    ///
    /// # Errors
    /// See [`Registry::start`].
    pub fn start_as(host: &Host, directory: &Path, plan: RegistryPlan) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let registry = Self {
            host: host.clone(),
            plan,
            directory: directory.to_owned(),
            process: None,
            marks: AtomicU32::new(0),
        };
        fs::write(registry.file("registry.yml"), registry.configuration())?;
        fs::write(registry.file("passwords"), PASSWORDS)?;
        let mut registry = registry;
        registry.restart()?;
        Ok(registry)
    }

    /// Starts it again after [`Registry::stop`], with the storage that it had, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; the error has the tail of its log.
    pub fn restart(&mut self) -> Result<()> {
        let open = |name: &str| File::options().create(true).append(true).open(self.file(name));
        let mut command = self.host.command("docker-registry");
        command.arg("serve").arg(self.file("registry.yml"));
        // The access log goes to its standard output, all else to its standard error.
        command.stdout(open("access.log")?).stderr(open("registry.log")?);
        self.process = Some(command.spawn().context("cannot start docker-registry; is it installed?")?);
        wait_until("the registry to answer", START_LIMIT, || {
            let ended =
                self.process.as_mut().and_then(|process| process.try_wait().transpose()).transpose()?;
            ensure!(ended.is_none(), "it ended with {ended:?}: {}", self.log_tail());
            let wanted = if self.plan.private { 401 } else { 200 };
            Ok(self.ask("/v2/").ok().filter(|status| *status == wanted))
        })?;
        Ok(())
    }

    /// Stops it at once; whatever it was sending is cut off. The storage stays.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            signal(process.id(), Signal::TERM)?;
            wait_until("the registry to end", START_LIMIT, || Ok(process.try_wait()?))?;
        }
        Ok(())
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it listens.
    pub fn server(&self) -> SocketAddr {
        at(&self.host, if self.plan.certificate.is_some() { TLS_PORT } else { PORT })
    }

    /// Where its images are.
    pub fn storage(&self) -> PathBuf {
        self.plan.storage.clone().unwrap_or_else(|| self.file("storage"))
    }

    /// What stands before the slash in a reference to one of its images, such as `10.77.0.1:5000`.
    pub fn name(&self) -> String {
        self.server().to_string()
    }

    /// Stores an image, byte for byte as it is, under `repository:tag` and gives the reference to it.
    ///
    /// # Errors
    /// When `skopeo` is not installed, or the registry refuses the image.
    pub fn push(&self, image: &Image, name: &str) -> Result<String> {
        let reference = format!("{}/{name}", self.name());
        let mut copy = self.host.command("skopeo");
        copy.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
        copy.arg(image.skopeo_source()).arg(format!("docker://{reference}"));
        run(&mut copy).with_context(|| format!("cannot push {reference}"))?;
        Ok(reference)
    }

    /// Stores an image or an artifact of any kind and format, small enough to be held in memory, under `repository:tag`.
    ///
    /// # Errors
    /// When the registry, which has to be an open and plain one, refuses it.
    pub fn put(&self, image: &Image, name: &str) -> Result<()> {
        let (repository, tag) = name.split_once(':').context("the name needs a tag")?;
        for blob in &image.blobs {
            let bytes = fs::read(image.blob_path(&blob.digest))?;
            self.put_blob(repository, &blob.digest, bytes)
                .with_context(|| format!("cannot put {} into {repository}", blob.digest))?;
        }
        let manifest = fs::read(image.blob_path(&image.manifest.digest))?;
        self.put_manifest(repository, tag, &image.manifest.media_type, manifest)
    }

    /// Stores a manifest or an index whose parts are there already.
    ///
    /// # Errors
    /// See [`Registry::put`].
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: Vec<u8>) -> Result<()> {
        let put = HttpRequest::new("PUT", format!("/v2/{repository}/manifests/{tag}"));
        let reply = self.host.http(self.server(), &put.header("Content-Type", media_type).body(bytes))?;
        ensure!(reply.status == 201, "{repository}:{tag} is refused: {} {}", reply.status, reply.text());
        Ok(())
    }

    fn put_blob(&self, repository: &str, digest: &str, bytes: Vec<u8>) -> Result<()> {
        let begin = HttpRequest::new("POST", format!("/v2/{repository}/blobs/uploads/")).body([]);
        let begun = self.host.http(self.server(), &begin)?;
        // A URL of this same server, with a query already.
        let place = begun.header("Location").and_then(|url| url.split_once("/v2/")).map(|(_, path)| path);
        let place = place.with_context(|| format!("no upload: {} {}", begun.status, begun.text()))?;
        let put = HttpRequest::new("PUT", format!("/v2/{place}&digest={digest}"))
            .header("Content-Type", "application/octet-stream")
            .body(bytes);
        let stored = self.host.http(self.server(), &put)?;
        ensure!(stored.status == 201, "{} {}", stored.status, stored.text());
        Ok(())
    }

    /// The status of what it answers to a GET.
    fn ask(&self, path: &str) -> Result<u16> {
        if self.plan.certificate.is_none() {
            return Ok(self.host.http_get(self.server(), path)?.status);
        }
        let mut curl = self.host.command("curl");
        // Nothing here depends on who answers.
        curl.args(["--silent", "--show-error", "--insecure", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{http_code}", &format!("https://{}{path}", self.server())]);
        run(&mut curl)?.parse().context("curl writes no status")
    }

    /// All requests that it has answered. One that is still being answered is missing; one that a client has seen the end
    /// of is not.
    ///
    /// # Errors
    /// When the log cannot be read, or has a line of another shape.
    pub fn access_log(&self) -> Result<AccessLog> {
        let path = self.file("access.log");
        let read = || fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
        if self.process.is_some() {
            // A line is written just after the client has seen the end. A request of our own comes after all of those.
            let mark = format!("/v2/?mark={}", self.marks.fetch_add(1, Ordering::Relaxed));
            self.ask(&mark)?;
            wait_until("the mark in the access log", START_LIMIT, || {
                Ok(read()?.contains(&format!("{mark} ")).then_some(()))
            })?;
        }
        AccessLog::parse(&read()?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn configuration(&self) -> String {
        // JSON is YAML. Without the limit on uploads' age, a registry starts a purge at a random moment.
        let mut configuration = serde_json::json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": self.storage()},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"addr": self.server().to_string()},
        });
        if let Some(Certificate { certificate, key }) = &self.plan.certificate {
            configuration["http"]["tls"] = serde_json::json!({"certificate": certificate, "key": key});
        }
        if self.plan.private {
            let passwords = self.file("passwords");
            configuration["auth"] = serde_json::json!({"htpasswd": {"realm": "lab", "path": passwords}});
        }
        configuration.to_string()
    }

    fn log_tail(&self) -> String {
        super::process::tail(&self.file("registry.log"), 10)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // The guard of the network is there for what fails here.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// One request that the registry has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub client: IpAddr,
    /// Such as `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Such as 206.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
}

impl Access {
    /// The digest of the blob that was read by this request, if it was one.
    pub fn blob(&self) -> Option<&str> {
        let (_, digest) = self.path.strip_prefix("/v2/")?.split_once("/blobs/")?;
        (self.method == "GET" && digest.starts_with("sha256:")).then_some(digest)
    }

    /// Whether this request asked for a manifest, or whether there is one.
    pub fn is_for_manifest(&self) -> bool {
        ["GET", "HEAD"].contains(&self.method.as_str()) && self.path.contains("/manifests/")
    }

    /// Reads a line of the Apache combined format.
    fn parse(line: &str) -> Option<Self> {
        let (client, rest) = line.split_once(" - ")?;
        let mut quoted = rest.split('"').skip(1);
        let mut request = quoted.next()?.split(' ');
        let mut outcome = quoted.next()?.split_whitespace();
        Some(Self {
            client: client.parse().ok()?,
            method: request.next()?.to_owned(),
            path: request.next()?.to_owned(),
            status: outcome.next()?.parse().ok()?,
            bytes: outcome.next()?.parse().ok()?,
        })
    }
}

/// What the registry says it has been asked.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    /// In the order in which they were answered.
    pub accesses: Vec<Access>,
}

impl AccessLog {
    fn parse(text: &str) -> Result<Self> {
        let parse = |line: &str| Access::parse(line).with_context(|| format!("no access: {line}"));
        Ok(Self { accesses: text.lines().map(parse).collect::<Result<_>>()? })
    }

    /// What came after an earlier reading of the same log.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        self.accesses.drain(..earlier.accesses.len().min(self.accesses.len()));
        self
    }

    /// Bytes sent per blob, by digest.
    pub fn bytes_by_blob(&self) -> BTreeMap<String, u64> {
        let mut bytes = BTreeMap::new();
        for access in &self.accesses {
            if let Some(digest) = access.blob() {
                *bytes.entry(digest.to_owned()).or_default() += access.bytes;
            }
        }
        bytes
    }

    /// Bytes of blobs sent in all.
    pub fn blob_bytes(&self) -> u64 {
        self.bytes_by_blob().values().sum()
    }

    /// How often a blob was asked for, whether it was there or not.
    pub fn blob_requests(&self) -> usize {
        self.accesses.iter().filter(|access| access.path.contains("/blobs/sha256:")).count()
    }

    /// How often a manifest was asked for.
    pub fn manifest_requests(&self) -> usize {
        self.accesses.iter().filter(|access| access.is_for_manifest()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"10.77.0.11 - - [23/Nov/2026:18:00:00 +0000] "GET /v2/test/image/manifests/v1 HTTP/1.1" 200 864 "" "a"
10.77.0.11 - - [23/Nov/2026:18:00:00 +0000] "HEAD /v2/test/image/blobs/sha256:aa HTTP/1.1" 200 0 "" "a"
10.77.0.11 - - [23/Nov/2026:18:00:00 +0000] "GET /v2/test/image/blobs/sha256:aa HTTP/1.1" 206 100 "" "an agent (with \"quotes\")"
10.77.0.12 - - [23/Nov/2026:18:00:00 +0000] "GET /v2/test/image/blobs/sha256:aa HTTP/1.1" 206 23 "" ""
10.77.0.12 - - [23/Nov/2026:18:00:00 +0000] "GET /v2/test/image/blobs/sha256:bb HTTP/1.1" 200 7 "" ""
"#;

    #[test]
    fn what_was_sent_is_added_up() {
        let log = AccessLog::parse(LOG).unwrap();
        let by_blob = log.bytes_by_blob();
        assert_eq!(by_blob, BTreeMap::from([("sha256:aa".to_owned(), 123), ("sha256:bb".to_owned(), 7)]));
        assert_eq!((log.blob_bytes(), log.manifest_requests()), (130, 1));
        assert_eq!(log.accesses[2].status, 206);
    }

    #[test]
    fn a_later_reading_goes_on_where_the_earlier_ended() {
        let lines: Vec<&str> = LOG.lines().collect();
        let earlier = AccessLog::parse(&lines[..3].join("\n")).unwrap();
        assert_eq!(AccessLog::parse(LOG).unwrap().since(&earlier).blob_bytes(), 30);
    }

    #[test]
    fn a_line_of_another_shape_is_an_error() {
        for bad in ["what", "10.77.0.1 - - [] \"GET\" 200 1", "host - - [] \"GET / HTTP/1.1\" 200 1"] {
            assert!(AccessLog::parse(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
