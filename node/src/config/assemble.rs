//! From settings to a configuration: what all of them together amount to, and what of that cannot be.

use std::collections::BTreeSet;
use std::path::Path;

use clap::FromArgMatches;

use super::file::OriginTable;
use super::files::{self, Content};
use super::origin::{OriginConfig, PUBLIC_REGISTRIES, check_name};
use super::origin_settings::{OriginDefaults, OriginSettings};
use super::problem::{Problem, Source};
use super::schema::{Layer, Schema};
use super::secrets::{API_TOKEN, CLUSTER_SECRET, Kind};
use super::settings::Settings;
use super::surroundings::Surroundings;
use super::{Config, Secret};

/// The configuration that these settings amount to; none if there is no place for data. What is wrong goes to `problems`.
pub(super) fn assemble(
    settings: Settings,
    said: &Layer,
    tables: &[OriginTable],
    surroundings: &Surroundings,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let mut findings = Findings { said, problems };
    let secret = findings.secret(&CLUSTER_SECRET, surroundings);
    let api_token = findings.secret(&API_TOKEN, surroundings);
    findings.check_paths(&settings);
    let origins = findings.origins(&settings, tables);
    let Some(data) = settings.data.or_else(|| surroundings.data()) else {
        let message = "there is no home directory to keep data in: give a directory by --data DIR";
        findings.refuse("data", message.to_owned());
        return None;
    };
    let config = Config {
        id: settings.id,
        listen: settings.listen,
        advertise: settings.advertise,
        http: settings.http,
        seeds: settings.seeds,
        zone: settings.zone,
        cluster: settings.cluster,
        // A refused one is as good as any other to find out what else is wrong.
        secret: secret.unwrap_or_else(|Refused| Some(Secret::generate())),
        insecure_no_secret: settings.insecure_no_secret,
        origins,
        default_origin: settings.default_origin,
        platform: settings.platform,
        socket: settings.socket,
        api_token: api_token.unwrap_or(None),
        ..Config::new(data)
    };
    for (key, message) in config.faults() {
        findings.refuse(key, message);
    }
    Some(config)
}

/// A setting was refused; the reason is among the findings.
#[derive(Debug, Clone, Copy)]
struct Refused;

/// Collects what is wrong, each with the place where it was said.
struct Findings<'a> {
    said: &'a Layer,
    problems: &'a mut Vec<Problem>,
}

impl Findings<'_> {
    fn refuse(&mut self, key: &str, message: String) {
        let source = self.said.get(key).map_or(Source::Default, |said| said.source.clone());
        self.refuse_at(source, key, message);
    }

    fn refuse_at(&mut self, source: Source, key: &str, message: String) {
        // Flags and variables name the setting; a place in a file does not.
        let message = match source {
            Source::File { .. } => format!("{key}: {message}"),
            _ => message,
        };
        self.problems.push(Problem { source, message });
    }

    fn secret(&mut self, kind: &Kind, surroundings: &Surroundings) -> Result<Option<Secret>, Refused> {
        let Some(place) = kind.place(self.said, surroundings) else {
            return Ok(None);
        };
        place.read().map(Some).map_err(|message| {
            self.refuse_at(place.source, kind.key, message);
            Refused
        })
    }

    fn check_paths(&mut self, settings: &Settings) {
        if let Some(path) = &settings.docker_config
            && let Err(message) = files::check(path, Content::Json)
        {
            self.refuse("docker-config", message);
        }
        let folder = settings.socket.as_deref().and_then(Path::parent);
        if let Some(folder) = folder
            && !folder.as_os_str().is_empty()
            && !folder.is_dir()
        {
            self.refuse("socket", format!("there is no directory {}", folder.display()));
        }
    }

    /// The tables of the file, and the list of flags or environment: it adds to them, and says of those that it names
    /// as well where they are.
    fn origins(&mut self, settings: &Settings, tables: &[OriginTable]) -> Vec<OriginConfig> {
        let defaults = OriginDefaults {
            docker_config: settings.docker_config.clone(),
            tag_ttl: settings.tag_ttl,
            lazy: settings.lazy,
        };
        let listed = &settings.origins;
        let mut names = BTreeSet::new();
        for origin in listed.iter().filter(|origin| !names.insert(&origin.name)) {
            self.refuse("origin", format!("{} is named twice", origin.name));
        }
        if listed.is_empty() && tables.is_empty() {
            return PUBLIC_REGISTRIES.map(|name| defaults.apply(OriginConfig::named(name))).to_vec();
        }
        let schema = Schema::origin();
        let mut origins = Vec::new();
        for table in tables {
            let location = listed.iter().find(|origin| origin.name == table.name);
            let location = location.and_then(|origin| origin.location.as_deref());
            let origin = self.origin(&schema, table, location, &defaults);
            let mut findings = Findings { said: &table.settings, problems: self.problems };
            match location {
                Some(_) => self.check_location("origin", &origin),
                None => findings.check_location("path", &origin),
            }
            origins.push(origin);
        }
        for origin in listed.iter().filter(|origin| tables.iter().all(|table| table.name != origin.name)) {
            self.check_location("origin", origin);
            origins.push(defaults.apply(origin.clone()));
        }
        origins
    }

    fn check_location(&mut self, key: &str, origin: &OriginConfig) {
        if let Some(path) = origin.path().filter(|path| !path.exists()) {
            self.refuse(
                key,
                format!("there is nothing at {}, where {} is to be", path.display(), origin.name),
            );
        }
    }

    fn origin(
        &mut self,
        schema: &Schema,
        table: &OriginTable,
        location: Option<&str>,
        defaults: &OriginDefaults,
    ) -> OriginConfig {
        if let Err(reason) = check_name(&table.name) {
            self.refuse_at(table.source.clone(), "origin", reason);
        }
        let settings = OriginSettings::from_arg_matches(&schema.read(&table.settings));
        let mut settings = settings.expect("settings that were read have their types");
        if let Some(location) = location {
            let is_url = location.contains("://");
            settings.url = is_url.then(|| location.to_owned());
            settings.path = (!is_url).then(|| location.into());
        }
        let mut findings = Findings { said: &table.settings, problems: self.problems };
        settings.into_config(&table.name, defaults, &mut |key, message| findings.refuse(key, message))
    }
}
