//! What of a changed configuration a running node can take over.

use super::Config;

/// A setting that has another value in the new configuration, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It holds from now on.
    Applied(&'static str),
    /// It cannot change while the node runs, and stays as it was.
    NeedsRestart(&'static str),
}

impl Config {
    /// This configuration with what `new` changes of it and a running node can take over, and all that is changed.
    pub(crate) fn reloaded(&self, new: Self) -> (Self, Vec<Change>) {
        let mut config = self.clone();
        let mut changes = Vec::new();
        // Without `..`, so that whoever adds a setting decides here what becomes of it.
        let Self {
            id,
            listen,
            advertise,
            http,
            data,
            seeds,
            zone,
            cluster,
            secret,
            insecure_no_secret,
            origins,
            default_origin,
            platform,
            socket,
            api_token,
        } = new;
        let stays = [
            ("id", id != self.id),
            ("listen", listen != self.listen),
            ("advertise", advertise != self.advertise),
            ("http", http != self.http),
            ("data", data != self.data),
            ("seed", seeds != self.seeds),
            ("zone", zone != self.zone),
            ("cluster", cluster != self.cluster),
            ("secret", secret != self.secret),
            ("insecure-no-secret", insecure_no_secret != self.insecure_no_secret),
            ("socket", socket != self.socket),
        ];
        let changed = stays.into_iter().filter(|(_, changed)| *changed);
        changes.extend(changed.map(|(setting, _)| Change::NeedsRestart(setting)));
        let mut take = |setting, changed| {
            if changed {
                changes.push(Change::Applied(setting));
            }
        };
        take("origin", replace(&mut config.origins, origins));
        take("default-origin", replace(&mut config.default_origin, default_origin));
        take("platform", replace(&mut config.platform, platform));
        take("api-token", replace(&mut config.api_token, api_token));
        (config, changes)
    }
}

/// Whether it was different before.
fn replace<T: PartialEq>(current: &mut T, new: T) -> bool {
    let changed = *current != new;
    *current = new;
    changed
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{OriginConfig, Secret};

    #[test]
    fn what_cannot_change_stays_and_is_named() {
        use Change::{Applied, NeedsRestart};
        let check = |change: fn(&mut Config), expected: &[Change]| {
            let old = Config::new(PathBuf::from("data"));
            let mut new = old.clone();
            change(&mut new);
            let (config, changes) = old.reloaded(new.clone());
            assert_eq!(changes, expected);
            let is_taken = format!("{config:?}") == format!("{new:?}");
            assert_eq!(is_taken, !expected.iter().any(|change| matches!(change, NeedsRestart(_))));
        };
        check(|_| {}, &[]);
        check(|config| config.origins.clear(), &[Applied("origin")]);
        check(|config| config.origins[0].lazy = true, &[Applied("origin")]);
        check(|config| config.origins.push(OriginConfig::named("r.example")), &[Applied("origin")]);
        check(|config| config.default_origin = Some("quay.io".to_owned()), &[Applied("default-origin")]);
        check(|config| config.platform = "linux/s390x".parse().unwrap(), &[Applied("platform")]);
        check(|config| config.api_token = Some(Secret::generate()), &[Applied("api-token")]);
        check(|config| config.data = "other".into(), &[NeedsRestart("data")]);
        check(|config| config.zone = "elsewhere".parse().unwrap(), &[NeedsRestart("zone")]);
        check(|config| config.id = "n1".parse().ok(), &[NeedsRestart("id")]);
        check(
            |config| {
                config.seeds.push("a:1".to_owned());
                config.origins.clear();
            },
            &[NeedsRestart("seed"), Applied("origin")],
        );
    }
}
