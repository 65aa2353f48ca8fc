//! What the command line and the environment say of a node, and how the configuration file is laid below: for each
//! setting the first that says something counts, of flag, environment, file and default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::assemble::assemble;
use super::file::{self, File};
use super::log::LogSettings;
use super::problem::{Problem, Problems, Source};
use super::schema::{Layer, Said, Schema, key};
use super::settings::Settings;
use super::show::{Parts, Shown};
use super::surroundings::Surroundings;
use super::{Config, files};

/// What flags and environment variables say, before the file is read. As arguments of a command it stands for all the
/// flags of a node.
#[derive(Debug, Clone, Default)]
pub struct Given {
    file: Option<(PathBuf, Source)>,
    settings: Layer,
}

/// How a node is to run, and where each setting comes from.
#[derive(Debug)]
pub struct Resolved {
    /// How the node is to run.
    pub config: Config,
    /// What it logs.
    pub log: LogSettings,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// Every setting of the node, and of its origins those that somebody set.
    pub settings: Vec<Shown>,
}

/// The environment's name for the configuration file.
const FILE_VARIABLE: &str = "FAASNET_CONFIG";

#[derive(Debug, Args)]
struct FileFlag {
    /// The configuration file, in TOML, with a key for each flag. A flag wins over its environment variable, which wins
    /// over the file [default: /etc/faasnet/faasnet.toml if there is one]
    #[arg(long, env = FILE_VARIABLE, value_name = "PATH")]
    config: Option<PathBuf>,
}

impl Given {
    /// The configuration file that would be read.
    pub fn file(&self, surroundings: &Surroundings) -> Option<PathBuf> {
        self.named_file(surroundings).map(|(path, _)| path)
    }

    fn named_file(&self, surroundings: &Surroundings) -> Option<(PathBuf, Source)> {
        let default = surroundings.file.clone().map(|path| (path, Source::Default));
        self.file.clone().or(default)
    }

    /// Reads the file and puts everything together. Finds all problems there are, not only the first.
    pub fn resolve(&self, surroundings: &Surroundings) -> Result<Resolved, Problems> {
        let mut problems = Vec::new();
        let schema = Schema::node();
        let path = self.named_file(surroundings);
        let file = path.as_ref().map(|(path, source)| read(path, source, &schema, &mut problems));
        let File { settings: mut said, origins } = file.unwrap_or_default();
        said.extend(self.settings.clone());
        let matches = schema.read(&said);
        let sound = "settings that were read have their types";
        let settings = Settings::from_arg_matches(&matches).expect(sound);
        let log = LogSettings::from_arg_matches(&matches).expect(sound);
        let config = assemble(settings, &said, &origins, surroundings, &mut problems);
        match config {
            Some(config) if problems.is_empty() => {
                let parts = Parts {
                    file: path.as_ref().map(|(path, source)| (path.as_path(), source)),
                    said: &said,
                    tables: &origins,
                    surroundings,
                    config: &config,
                };
                let settings = parts.rows(&schema);
                Ok(Resolved { config, log, file: path.map(|(path, _)| path), settings })
            }
            _ => {
                problems.sort();
                problems.dedup();
                Err(Problems { problems })
            }
        }
    }
}

fn read(path: &Path, source: &Source, schema: &Schema, problems: &mut Vec<Problem>) -> File {
    match files::read(path) {
        Ok(text) => file::parse(path, &text, schema, problems),
        Err(message) => {
            problems.push(Problem { source: source.clone(), message });
            File::default()
        }
    }
}

/// What the command line or the environment says of one argument.
fn said(matches: &ArgMatches, id: &str, key: &str, variable: Option<&str>) -> Option<Said> {
    // Arguments that the command does not have are none that anybody gave.
    let given = matches.try_contains_id(id).unwrap_or(false);
    let source = match given.then(|| matches.value_source(id))?? {
        ValueSource::CommandLine => Source::Flag { flag: format!("--{key}") },
        ValueSource::EnvVariable => Source::Environment { variable: variable?.to_owned() },
        _ => return None,
    };
    let values = match matches.try_get_one::<bool>(id) {
        // There are many ways to say yes.
        Ok(Some(truth)) => vec![truth.to_string().into()],
        _ => matches.get_raw(id)?.map(OsString::from).collect(),
    };
    Some(Said { values, source })
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        Settings::augment_args(FileFlag::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let schema = Schema::node();
        let setting = |arg: &clap::Arg| {
            let said = said(matches, arg.get_id().as_str(), key(arg), schema.variable(key(arg)))?;
            Some((key(arg).to_owned(), said))
        };
        let file = said(matches, "config", "config", Some(FILE_VARIABLE));
        let file = file.and_then(|said| Some((PathBuf::from(said.values.first()?), said.source)));
        Ok(Self { file, settings: schema.args().filter_map(setting).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use membership::Zone;
    use transfer::manifest::Platform;

    use super::*;
    use crate::config::{CredentialsConfig, OriginConfig, PUBLIC_REGISTRIES, Secret, Value};

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        given: Given,
    }

    fn at_home() -> Surroundings {
        Surroundings { home: Some("/home/ada".into()), ..Surroundings::default() }
    }

    fn given(flags: &[&str]) -> Given {
        Only::try_parse_from([&["node"], flags].concat()).unwrap().given
    }

    /// What the file says, under these flags.
    fn resolve(flags: &[&str], file: &str) -> Result<Resolved, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, file).unwrap();
        let surroundings = Surroundings { file: Some(path), ..at_home() };
        let place = format!("{}/", dir.path().display());
        given(flags).resolve(&surroundings).map_err(|problems| problems.to_string().replace(&place, ""))
    }

    #[test]
    fn a_node_that_is_told_nothing_has_defaults() {
        let Resolved { config, log, file, .. } = given(&[]).resolve(&at_home()).unwrap();
        assert_eq!(config.http.to_string(), "127.0.0.1:7401");
        assert_eq!(config.cluster, "faasnet");
        assert_eq!(config.zone, Zone::default());
        assert_eq!(config.platform, Platform::host());
        assert_eq!(config.data, Path::new("/home/ada/.local/share/faasnet"));
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::new(config.data.clone())));
        assert_eq!(config.origins.len(), PUBLIC_REGISTRIES.len());
        assert_eq!(log.log, "warn".parse().unwrap());
        assert_eq!(file, None);
        let error = given(&[]).resolve(&Surroundings::default()).unwrap_err().to_string();
        assert!(error.contains("--data"), "{error}");
    }

    #[test]
    fn each_flag_reaches_the_configuration() {
        let flags = "--id vm-1 --listen 0.0.0.0:7 --advertise 10.0.0.1:7 --http 0.0.0.0:8 --data /d --seed a:1,b:2 \
                     --seed c:3 --zone z --cluster blue --insecure-no-secret --origin quay.io \
                     --origin r.example=https://mirror.example --default-origin quay.io --platform linux/arm64 \
                     --socket /tmp/s --tag-ttl 1m --lazy";
        let Resolved { config, .. } = resolve(&flags.split_whitespace().collect::<Vec<_>>(), "").unwrap();
        assert_eq!(config.id.unwrap().as_str(), "vm-1");
        assert_eq!(config.listen.unwrap().to_string(), "0.0.0.0:7");
        assert_eq!(config.advertise.unwrap().to_string(), "10.0.0.1:7");
        assert_eq!(config.http.to_string(), "0.0.0.0:8");
        assert_eq!(config.data, Path::new("/d"));
        assert_eq!(config.seeds, ["a:1", "b:2", "c:3"]);
        assert_eq!((config.zone.as_str(), config.cluster.as_str()), ("z", "blue"));
        assert!(config.insecure_no_secret);
        assert_eq!(config.default_origin.as_deref(), Some("quay.io"));
        assert_eq!(config.platform.to_string(), "linux/arm64");
        assert_eq!(config.socket.as_deref(), Some(Path::new("/tmp/s")));
        let lazily =
            |origin| OriginConfig { lazy: true, tag_ttl: std::time::Duration::from_secs(60), ..origin };
        let mirror = OriginConfig::at("r.example", "https://mirror.example");
        assert_eq!(config.origins, [lazily(OriginConfig::named("quay.io")), lazily(mirror)]);
    }

    #[test]
    fn a_flag_counts_before_the_file_and_the_file_before_the_default() {
        let rows = [
            ("zone", &[][..], "", "default", "default"),
            ("zone", &[], "\nzone = \"b\"", "b", "f.toml:2"),
            ("zone", &["--zone", "a"], "zone = \"b\"", "a", "flag --zone"),
            ("lazy", &["--lazy=false"], "lazy = true", "false", "flag --lazy"),
            ("lazy", &["--lazy"], "", "true", "flag --lazy"),
            ("seed", &["--seed", "a:1,b:2"], "seed = [\"c:3\"]", "a:1, b:2", "flag --seed"),
            ("log", &[], "log = \"info\"", "info", "f.toml:1"),
            ("listen", &[], "", "127.0.0.1:7400", "default"),
            ("listen", &["--insecure-no-secret"], "", "0.0.0.0:7400", "default"),
            ("data", &[], "", "/home/ada/.local/share/faasnet", "default"),
        ];
        for (setting, flags, file, value, source) in rows {
            let resolved = resolve(flags, file).unwrap();
            let shown = resolved.settings.iter().find(|shown| shown.setting == setting).unwrap();
            let found = (shown.value.to_string(), shown.source.to_string());
            assert_eq!(found, (value.to_owned(), source.to_owned()), "{flags:?} {file}");
        }
    }

    #[test]
    fn origins_of_flags_add_to_those_of_the_file_and_say_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["docker.json", "password"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let path = |name: &str| dir.path().join(name);
        let file = format!(
            "docker-config = {:?}\nlazy = true\n[origin.\"a.example\"]\nurl = \"http://10.0.0.1\"\n\
             max-rate = \"40MB/s\"\nlazy = false\n[origin.\"b.example\"]\nusername = \"u\"\n\
             password-file = {:?}\ntag-ttl = \"0\"\n",
            path("docker.json"),
            path("password"),
        );
        let flags = ["--origin", "a.example=https://10.0.0.2", "--origin", "c.example"];
        let resolved = resolve(&flags, &file).unwrap();
        let [a, b, c] = &resolved.config.origins[..] else { panic!("three origins") };
        assert_eq!((&*a.name, &*b.name, &*c.name), ("a.example", "b.example", "c.example"));
        assert_eq!(a.location.as_deref(), Some("https://10.0.0.2"));
        assert_eq!(a.max_rate.map(u64::from), Some(40_000_000));
        assert_eq!((a.lazy, b.lazy, c.lazy), (false, true, true));
        assert!(b.tag_ttl.is_zero());
        assert_eq!(c.tag_ttl, OriginConfig::TAG_TTL);
        let docker = Some(CredentialsConfig::DockerConfig(path("docker.json")));
        assert_eq!((&a.credentials, &c.credentials), (&docker, &docker));
        let basic = CredentialsConfig::Basic { username: "u".to_owned(), password_file: path("password") };
        assert_eq!(b.credentials, Some(basic));
        let shown = resolved.settings.iter().find(|shown| shown.setting == "origin.\"a.example\"").unwrap();
        assert_eq!(shown.value, Value::Text("https://10.0.0.2".to_owned()));
        let sources = ["a", "b", "c"].map(|name| {
            let setting = format!("origin.\"{name}.example\"");
            let shown = resolved.settings.iter().find(|shown| shown.setting == setting);
            shown.unwrap().source.to_string()
        });
        assert_eq!(sources, ["flag --origin", "f.toml:7", "flag --origin"]);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        let rows = [
            (&["--id", "origin"][..], "", "--id: a node cannot be called `origin`"),
            (&[], "listen = \"0.0.0.0:1\"", "f.toml:1:1: listen: refusing to listen on 0.0.0.0:1 without"),
            (&[], "seed = [\"10.0.0.1:7400\"]", "f.toml:1:1: seed: the seed 10.0.0.1:7400 cannot be reached"),
            (&["--default-origin", "x"], "", "--default-origin: x is none of the origins"),
            (&[], "default-origin = \"x\"\n[origin.\"y\"]", "f.toml:1:1: default-origin: x is none of the"),
            (&["--origin", "a,a"], "", "--origin: a is named twice"),
            (&["--origin", "a=/absent/a"], "", "--origin: there is nothing at /absent/a, where a is to be"),
            (&["--secret-file", "/absent/s"], "", "--secret-file: cannot read /absent/s: No such file"),
            (&[], "secret-file = \"s\"", "f.toml:1:1: secret-file: cannot read s: No such file"),
            (
                &[],
                "api-token-file = \"/dev/null\"",
                "f.toml:1:1: api-token-file: the secret in /dev/null is refused",
            ),
            (
                &[],
                "docker-config = \"/dev/null\"",
                "f.toml:1:1: docker-config: /dev/null holds no JSON object",
            ),
            (&[], "socket = \"/absent/s\"", "f.toml:1:1: socket: there is no directory /absent"),
            (&["--config", "/absent/f.toml"], "", "--config: cannot read /absent/f.toml: No such file"),
            (
                &[],
                "[origin.\"index.docker.io\"]",
                "f.toml:1:9: origin: in references, index.docker.io is called",
            ),
            (&[], "[origin.\"a b\"]", "f.toml:1:9: origin: "),
            (&[], "[origin.a]\nusername = \"u\"", "f.toml:2:1: username: it needs a password"),
            (&[], "[origin.a]\nclient-key-file = \"k\"", "f.toml:2:1: client-key-file: cannot read k"),
            (
                &[],
                "[origin.a]\nclient-key-file = \"k\"",
                "f.toml:2:1: client-key-file: it needs its certificate",
            ),
            (
                &[],
                "[origin.a]\ninsecure = true\nca-file = \"c\"",
                "f.toml:2:1: insecure: it contradicts ca-file",
            ),
            (
                &[],
                "[origin.a]\nurl = \"http://x\"\ninsecure = true",
                "f.toml:3:1: insecure: it is of no use with",
            ),
            (
                &[],
                "[origin.a]\npath = \"/\"\nurl = \"http://x\"",
                "f.toml:3:1: url: it is of no use beside path",
            ),
            (&[], "[origin.a]\npath = \"x\"", "f.toml:2:1: path: there is nothing at x"),
            (
                &[],
                "[origin.a]\ndocker-config = \"/dev/null\"\npull-secret-file = \"/dev/null\"",
                "f.toml:3:1: pull-secret-file: it contradicts docker-config: give one kind",
            ),
        ];
        for (flags, file, expected) in rows {
            let error = resolve(flags, file).unwrap_err();
            let found = error.lines().any(|line| line.starts_with(expected));
            assert!(found, "{flags:?} {file}\nis not told that {expected}\nbut {error}");
        }
    }

    #[test]
    fn a_secret_and_doing_without_contradict_each_other() {
        let secret = Secret::generate().expose().to_owned();
        let surroundings = Surroundings { secret: Some(secret.clone()), ..at_home() };
        let error = given(&["--insecure-no-secret"]).resolve(&surroundings).unwrap_err().to_string();
        assert!(error.contains("--insecure-no-secret: "), "{error}");
        assert!(error.contains("contradict") && !error.contains(&secret), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let (secret, token) = (Secret::generate(), Secret::generate());
        let surroundings = Surroundings {
            secret: Some(secret.expose().to_owned()),
            api_token: Some(token.expose().to_owned()),
            ..at_home()
        };
        let resolved = given(&[]).resolve(&surroundings).unwrap();
        assert_eq!((&resolved.config.secret, &resolved.config.api_token), (&Some(secret), &Some(token)));
        let json = serde_json::to_string(&resolved.settings).unwrap();
        for secret in [&surroundings.secret, &surroundings.api_token] {
            assert!(!json.contains(secret.as_deref().unwrap()), "{json}");
        }
        let row = r#"{"setting":"api-token","value":"(hidden)","from":"environment","variable":"FAASNET_API_TOKEN"}"#;
        assert!(json.contains(row), "{json}");
    }
}
