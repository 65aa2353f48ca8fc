//! Which origin a registry's name stands for. The list is what this node may read from: there is no way to any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use transfer::origin::pause::Pause;
use transfer::origin::{Origin, RegistryConfig, RegistryOrigin, open_local};

use crate::config::OriginConfig;
use crate::error::Error;
use crate::metrics::OriginReading;

/// The origins of one node, by the name that references use.
pub(crate) struct Origins {
    by_name: BTreeMap<String, (OriginConfig, Arc<dyn Origin>)>,
    pauses: BTreeMap<String, Arc<Pause>>,
}

impl Origins {
    /// Opens them. Archives are unpacked; nobody is connected to.
    pub(crate) async fn open(configs: &[OriginConfig]) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        let pauses = configs.iter().map(|config| (config.name.clone(), Arc::default())).collect();
        for config in configs {
            let origin: Arc<dyn Origin> = match config.path() {
                Some(path) => {
                    let using = || format!("cannot use {} as origin {}", path.display(), config.name);
                    Arc::new(open_local(path).await.with_context(using)?)
                }
                None => {
                    let url = config.location.as_deref().unwrap_or(&config.name);
                    Arc::new(RegistryOrigin::new(url, RegistryConfig::default())?)
                }
            };
            by_name.insert(config.name.clone(), (config.clone(), origin));
        }
        Ok(Self { by_name, pauses })
    }

    /// How long each origin is to be left alone, by name.
    pub(crate) fn pauses(&self) -> Vec<(String, Arc<Pause>)> {
        self.pauses.iter().map(|(name, pause)| (name.clone(), pause.clone())).collect()
    }

    /// The origin for references to `registry`.
    pub(crate) fn get(&self, registry: &str) -> Result<Arc<dyn Origin>, Error> {
        self.find(registry).map(|(_, origin)| origin.clone())
    }

    /// How that origin is to be treated.
    pub(crate) fn config(&self, registry: &str) -> Result<OriginConfig, Error> {
        self.find(registry).map(|(config, _)| config.clone())
    }

    fn find(&self, registry: &str) -> Result<&(OriginConfig, Arc<dyn Origin>), Error> {
        self.by_name.get(registry).ok_or_else(|| Error::NotAllowed {
            registry: registry.to_owned(),
            allowed: self.by_name.keys().cloned().collect(),
        })
    }

    /// What a scrape reads of each.
    pub(crate) fn readings(&self) -> Vec<OriginReading> {
        let names = self.by_name.keys();
        names.map(|name| OriginReading { origin: name.clone(), requests: Vec::new(), pause: None }).collect()
    }
}
