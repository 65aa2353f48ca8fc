//! Which origin a registry's name stands for. The list is what this node may read from: there is no way to any other.
//!
//! The list can be replaced while the node runs. What an origin has asked of this node, and what was counted of it, outlives
//! that as long as its name stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::RwLock;
use transfer::origin::pause::Pause;
use transfer::origin::{
    Credentials, Origin, OriginCounts, RegistryConfig, RegistryOrigin, RequestCounts, TlsConfig, open_local,
};

use crate::config::{CredentialsConfig, OriginConfig};
use crate::error::Error;
use crate::metrics::OriginReading;

/// The origins of one node, by the name that references use.
pub(crate) struct Origins {
    table: RwLock<Arc<Table>>,
}

type Table = BTreeMap<String, Entry>;

#[derive(Clone)]
struct Entry {
    config: OriginConfig,
    origin: Arc<dyn Origin>,
    pause: Arc<Pause>,
    counts: Arc<OriginCounts>,
}

impl Origins {
    /// Opens them: reads certificates, unpacks archives. Nobody is connected to.
    pub(crate) async fn open(configs: &[OriginConfig]) -> anyhow::Result<Self> {
        let table = open_table(configs, &Table::new()).await?;
        Ok(Self { table: RwLock::new(Arc::new(table)) })
    }

    /// Replaces the list, all of it or, if one of the new ones cannot be opened, nothing. Certificates are read again;
    /// layouts and archives that stay where they are stay open. What is being read from an origin is read to its end.
    pub(crate) async fn reload(&self, configs: &[OriginConfig]) -> anyhow::Result<()> {
        let before = self.table.read().clone();
        let table = open_table(configs, &before).await?;
        *self.table.write() = Arc::new(table);
        Ok(())
    }

    /// The origin for references to `registry`.
    pub(crate) fn get(&self, registry: &str) -> Result<Arc<dyn Origin>, Error> {
        self.entry(registry).map(|entry| entry.origin)
    }

    /// How the origin for references to `registry` is to be treated.
    pub(crate) fn config(&self, registry: &str) -> Result<OriginConfig, Error> {
        self.entry(registry).map(|entry| entry.config)
    }

    /// How long each origin is to be left alone, by name. Layouts and archives never ask for it.
    pub(crate) fn pauses(&self) -> Vec<(String, Arc<Pause>)> {
        self.table.read().iter().map(|(name, entry)| (name.clone(), entry.pause.clone())).collect()
    }

    /// What a scrape reads of each.
    pub(crate) fn readings(&self) -> Vec<OriginReading> {
        let table = self.table.read();
        let readings = table.iter().map(|(name, entry)| {
            let RequestCounts { ok, not_found, denied, throttled, unavailable, invalid } =
                entry.counts.read();
            let requests = vec![
                ("ok", ok),
                ("not_found", not_found),
                ("denied", denied),
                ("throttled", throttled),
                ("unavailable", unavailable),
                ("invalid", invalid),
            ];
            OriginReading { origin: name.clone(), requests, pause: entry.pause.remaining() }
        });
        readings.collect()
    }

    fn entry(&self, registry: &str) -> Result<Entry, Error> {
        let table = self.table.read();
        table.get(registry).cloned().ok_or_else(|| Error::NotAllowed {
            registry: registry.to_owned(),
            allowed: table.keys().cloned().collect(),
        })
    }
}

async fn open_table(configs: &[OriginConfig], before: &Table) -> anyhow::Result<Table> {
    let mut table = Table::new();
    for config in configs {
        let known = before.get(&config.name);
        let (pause, counts) =
            known.map(|known| (known.pause.clone(), known.counts.clone())).unwrap_or_default();
        let using = || format!("cannot use {} as origin {}", location(config), config.name);
        let origin: Arc<dyn Origin> = match (config.path(), known) {
            (Some(_), Some(known)) if known.config.location == config.location => known.origin.clone(),
            (Some(path), _) => Arc::new(open_local(path).await.with_context(using)?),
            (None, _) => {
                let registry = registry_config(config, pause.clone(), counts.clone());
                Arc::new(RegistryOrigin::new(location(config), registry).with_context(using)?)
            }
        };
        table.insert(config.name.clone(), Entry { config: config.clone(), origin, pause, counts });
    }
    Ok(table)
}

fn location(config: &OriginConfig) -> &str {
    config.location.as_deref().unwrap_or(&config.name)
}

fn registry_config(config: &OriginConfig, pause: Arc<Pause>, counts: Arc<OriginCounts>) -> RegistryConfig {
    let credentials = config.credentials.clone().map(|credentials| match credentials {
        CredentialsConfig::Basic { username, password_file } => {
            Credentials::Basic { username, password_file }
        }
        CredentialsConfig::DockerConfig(path) => Credentials::DockerConfig(path),
        CredentialsConfig::PullSecret(path) => Credentials::PullSecret(path),
    });
    let client_certificate = config.client_certificate.clone();
    let tls = TlsConfig {
        ca_file: config.ca_file.clone(),
        client_certificate: client_certificate.map(|client| (client.certificate_file, client.key_file)),
        insecure: config.insecure,
    };
    RegistryConfig {
        mirrors: config.mirrors.clone(),
        tls,
        credentials,
        max_requests: config.max_requests,
        max_rate: config.max_rate,
        pause,
        counts,
        ..RegistryConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn names(origins: &Origins) -> Vec<String> {
        origins.pauses().into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn what_is_not_listed_is_refused() {
        let origins =
            Origins::open(&[OriginConfig::named("quay.io"), OriginConfig::named("b.example")]).await;
        let origins = origins.unwrap();
        assert!(origins.get("quay.io").is_ok());
        assert_eq!(origins.config("quay.io"), Ok(OriginConfig::named("quay.io")));
        let allowed = vec!["b.example".to_owned(), "quay.io".to_owned()];
        let refused = Error::NotAllowed { registry: "docker.io".into(), allowed };
        assert_eq!(origins.get("docker.io").err(), Some(refused.clone()));
        assert_eq!(origins.config("docker.io"), Err(refused));
    }

    #[tokio::test]
    async fn pauses_and_counts_stay_with_a_name() {
        let named = OriginConfig::named;
        let origins = Origins::open(&[named("a.example"), named("b.example")]).await.unwrap();
        origins.pauses()[0].1.ask_for(Duration::from_secs(100));
        let lazy = OriginConfig { lazy: true, ..OriginConfig::at("a.example", "https://elsewhere.example") };
        let counts = origins.entry("a.example").unwrap().counts;
        origins.reload(&[lazy, named("c.example")]).await.unwrap();
        assert_eq!(names(&origins), ["a.example", "c.example"]);
        assert!(origins.pauses()[0].1.remaining().is_some() && origins.pauses()[1].1.remaining().is_none());
        assert!(Arc::ptr_eq(&counts, &origins.entry("a.example").unwrap().counts));
        assert!(origins.config("a.example").unwrap().lazy);
        assert!(origins.get("b.example").is_err());
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_opened_changes_nothing() {
        let directory = TempDir::new().unwrap();
        let absent = directory.path().join("absent.pem");
        let origins = Origins::open(&[OriginConfig::named("a.example")]).await.unwrap();
        let ca = OriginConfig { ca_file: Some(absent.clone()), ..OriginConfig::named("b.example") };
        let mirrors = vec!["ftp://x".to_owned()];
        let rows = [
            (ca, "absent.pem"),
            (OriginConfig::at("b.example", absent.display().to_string()), "absent.pem"),
            (OriginConfig { mirrors, ..OriginConfig::named("b.example") }, "\"ftp\" is no scheme"),
            (OriginConfig::at("b.example", "https://x/A"), "\"A\" is no repository"),
        ];
        for (config, expected) in rows {
            let error = format!("{:#}", origins.reload(&[config]).await.unwrap_err());
            assert!(error.contains("b.example") && error.contains(expected), "{error}");
            assert_eq!(names(&origins), ["a.example"]);
        }
    }

    #[tokio::test]
    async fn a_layout_that_stays_is_not_opened_again() {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("index.json"), r#"{"manifests":[]}"#).unwrap();
        let config = OriginConfig::at("local.images", directory.path().display().to_string());
        let origins = Origins::open(std::slice::from_ref(&config)).await.unwrap();
        let before = origins.get("local.images").unwrap();
        let lazy = OriginConfig { lazy: true, ..config };
        origins.reload(&[lazy]).await.unwrap();
        assert!(Arc::ptr_eq(&before, &origins.get("local.images").unwrap()));
    }
}
