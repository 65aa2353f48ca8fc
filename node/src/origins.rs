//! Which origin a registry's name stands for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use transfer::origin::{Origin, OriginError, RegistryConfig, RegistryOrigin, open_local};

use crate::config::OriginSpec;

/// Registries that are kept open without having been configured; past that the table starts afresh.
const MAX_DISCOVERED: usize = 256;

/// The origins of one node, by the name that references use.
pub(crate) struct Origins {
    configured: BTreeMap<String, Arc<dyn Origin>>,
    discovered: Mutex<BTreeMap<String, Arc<dyn Origin>>>,
}

impl Origins {
    /// Opens the configured ones. Archives are unpacked; nobody is connected to.
    pub(crate) async fn open(specs: &[OriginSpec]) -> anyhow::Result<Self> {
        let mut configured: BTreeMap<String, Arc<dyn Origin>> = BTreeMap::new();
        for spec in specs {
            let origin: Arc<dyn Origin> = if spec.is_url() {
                Arc::new(RegistryOrigin::new(&spec.location, RegistryConfig::default())?)
            } else {
                let local = open_local(Path::new(&spec.location)).await;
                Arc::new(
                    local.with_context(|| format!("cannot use {} as origin {}", spec.location, spec.name))?,
                )
            };
            configured.insert(spec.name.clone(), origin);
        }
        Ok(Self { configured, discovered: Mutex::default() })
    }

    /// The origin for references to `registry`: as configured, or by its name alone.
    pub(crate) fn get(&self, registry: &str) -> Result<Arc<dyn Origin>, OriginError> {
        if let Some(origin) = self.configured.get(registry) {
            return Ok(origin.clone());
        }
        let mut discovered = self.discovered.lock();
        if let Some(origin) = discovered.get(registry) {
            return Ok(origin.clone());
        }
        if discovered.len() >= MAX_DISCOVERED {
            discovered.clear();
        }
        let origin: Arc<dyn Origin> = Arc::new(RegistryOrigin::new(registry, RegistryConfig::default())?);
        discovered.insert(registry.to_owned(), origin.clone());
        Ok(origin)
    }
}
