//! A certificate authority of the lab's own, for servers that have names. Made by `openssl`, kept in files, good for two days.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::process::run;

/// New keys on a curve that everybody knows, not encrypted.
const NEW_KEY: [&str; 7] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];

/// An authority, and the directory with its files.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

/// Where a server finds its certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM, not encrypted.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, with its files in `directory`.
    ///
    /// # Errors
    /// When `openssl` is not installed or fails.
    pub fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let authority = Self { directory: directory.to_owned() };
        let mut request = request("lab authority", &authority.key(), &authority.file());
        run(&mut request).context("cannot make an authority")?;
        Ok(authority)
    }

    /// A PEM file with the authority's own certificate, for whoever is to trust it.
    pub fn file(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// A certificate for a server of these names, which may be addresses.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn issue(&self, names: &[&str]) -> Result<Certificate> {
        let stem = names.first().context("a certificate needs a name")?;
        let place = |extension: &str| self.directory.join(format!("{stem}.{extension}"));
        let issued = Certificate { certificate: place("pem"), key: place("key") };
        let kind = |name: &str| if name.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
        let names: Vec<String> = names.iter().map(|name| format!("{}:{name}", kind(name))).collect();
        let mut request = request(stem, &issued.key, &issued.certificate);
        request.arg("-CA").arg(self.file()).arg("-CAkey").arg(self.key());
        request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        request.args(["-addext", &format!("subjectAltName={}", names.join(","))]);
        run(&mut request).with_context(|| format!("cannot make a certificate for {stem}"))?;
        Ok(issued)
    }

    fn key(&self) -> PathBuf {
        self.directory.join("authority.key")
    }
}

/// A certificate signed by itself, unless more is said.
fn request(subject: &str, key: &Path, certificate: &Path) -> Command {
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-subj", &format!("/CN={subject}")]).args(NEW_KEY);
    request.arg("-keyout").arg(key).arg("-out").arg(certificate);
    request
}
