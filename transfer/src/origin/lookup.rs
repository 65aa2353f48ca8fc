//! Turns names into addresses for requests to a registry, and refuses those that it may not send us to.
//!
//! Which those are is [`super::reach`]'s to say. Behind an HTTP proxy names are the proxy's to resolve: what a redirect
//! names is then judged only if it is an address.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::reach::Reach;

/// How near one registry is.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// What is known of it: nothing before its name was resolved for the first time.
    reach: Mutex<Option<Reach>>,
}

impl Home {
    pub(super) fn of_host(host: &str) -> Self {
        Self { reach: Mutex::new(Reach::of_host(host)) }
    }

    /// Far away until it proves to be near.
    pub(super) fn reach(&self) -> Reach {
        self.reach.lock().unwrap_or(Reach::Public)
    }
}

/// Resolves the registry's own name, and learns from it how near the registry is.
pub(super) struct HomeLookup(pub(super) Arc<Home>);

impl Resolve for HomeLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let home = self.0.clone();
        Box::pin(async move {
            let found = look_up(&name).await?;
            // One that is near and far counts as far.
            let farthest = found.iter().map(|address| Reach::of(address.ip())).min();
            *home.reach.lock() = farthest;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Resolves the names that a registry sends us to.
pub(super) struct AbroadLookup(pub(super) Arc<Home>);

impl Resolve for AbroadLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let home = self.0.reach();
        Box::pin(async move {
            let mut found = look_up(&name).await?;
            // Only a proxy can be called that here: URLs that name this machine were refused before.
            if Reach::of_host(name.as_str()).is_none() {
                found.retain(|address| home.may_resolve_to(address.ip()));
            }
            if found.is_empty() {
                return Err(Refused(name.as_str().to_owned()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A name stands for addresses that a registry may not send us to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} has only addresses on this machine or its link, where a registry that is farther away may not send us"
)]
pub(super) struct Refused(String);

async fn look_up(name: &Name) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look_up_abroad(home: Reach, name: &str) -> Result<usize, String> {
        let home = Arc::new(Home { reach: Mutex::new(Some(home)) });
        let found = AbroadLookup(home).resolve(name.parse().unwrap()).await;
        found.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn names_of_this_machine_are_for_registries_on_it() {
        // The resolver takes an address for a name that has one, which needs no server.
        for (home, is_found) in [(Reach::Public, true), (Reach::Loopback, true)] {
            assert_eq!(look_up_abroad(home, "localhost").await.is_ok(), is_found, "a proxy at {home:?}");
        }
        let home = Arc::new(Home::default());
        assert_eq!(home.reach(), Reach::Public);
        assert!(HomeLookup(home.clone()).resolve("localhost".parse().unwrap()).await.is_ok());
        assert_eq!(home.reach(), Reach::Loopback);
    }
}
