//! What an etcd was told: its flags, environment and configuration file, with etcd's own precedence.
//!
//! As etcd 3.4 to 3.6 do it (etcdmain/config.go): a configuration file replaces flags and environment altogether;
//! without one a flag wins over its `ETCD_*` variable, and both over the default. An empty variable is not set.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Larger than any configuration of etcd, and a bound on what a process can make us read.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What matters here of how etcd was set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub data_dir: PathBuf,
    /// `--wal-dir`; see [`Settings::wal_path`].
    pub wal_dir: Option<PathBuf>,
    pub listen_metrics_urls: Vec<String>,
    pub listen_client_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub client_tls: Tls,
    pub unsafe_no_fsync: bool,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
}

/// TLS of the client port, which is that of an `https` metrics port too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// `--client-cert-file` (3.5): what etcd presents to itself, if not the server's pair.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub trusted_ca_file: Option<PathBuf>,
    pub client_cert_auth: bool,
}

/// Why settings could not be told from what etcd was given.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot parse the configuration file")]
    Yaml(#[source] Box<serde_saphyr::Error>),
}

/// Where the values of one etcd come from.
#[derive(Debug)]
pub struct Source<'a> {
    flags: HashMap<&'a str, &'a str>,
    environment: &'a HashMap<String, String>,
}

/// Flags that take no value of their own: `--flag value` would make `value` an argument, and etcd has none.
const SWITCHES: [&str; 4] = ["unsafe-no-fsync", "client-cert-auth", "auto-tls", "pre-vote"];

impl<'a> Source<'a> {
    /// Takes the arguments apart; `argv[0]` is the program.
    pub fn new(argv: &'a [String], environment: &'a HashMap<String, String>) -> Self {
        let mut flags = HashMap::new();
        let mut arguments = argv.iter().skip(1).map(String::as_str).peekable();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                break;
            };
            if flag.is_empty() {
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value),
                None if SWITCHES.contains(&flag) => (flag, "true"),
                // Of the flags that we do not know we cannot tell whether they are switches: what follows does.
                None => (flag, arguments.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
            };
            flags.insert(name, value);
        }
        Self { flags, environment }
    }

    /// Returns the configuration file; if there is one, it is all that counts.
    pub fn config_file(&self) -> Option<&'a Path> {
        self.get("config-file").map(Path::new)
    }

    /// Returns what etcd makes of its flags and environment.
    pub fn settings(&self) -> Settings {
        let text = |key| self.get(key).map(str::to_owned);
        let path = |key| self.get(key).map(PathBuf::from);
        let milliseconds = |key| self.get(key).and_then(|value| value.parse().ok());
        Settings::from(Given {
            name: text("name"),
            data_dir: path("data-dir"),
            wal_dir: path("wal-dir"),
            listen_metrics_urls: text("listen-metrics-urls"),
            listen_client_urls: text("listen-client-urls"),
            advertise_client_urls: text("advertise-client-urls"),
            unsafe_no_fsync: self.switch("unsafe-no-fsync"),
            heartbeat_interval: milliseconds("heartbeat-interval"),
            election_timeout: milliseconds("election-timeout"),
            client_transport_security: Some(GivenTls {
                cert_file: path("cert-file"),
                key_file: path("key-file"),
                client_cert_file: path("client-cert-file"),
                client_key_file: path("client-key-file"),
                trusted_ca_file: path("trusted-ca-file"),
                client_cert_auth: self.switch("client-cert-auth"),
            }),
        })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        if let Some(value) = self.flags.get(key) {
            return Some(*value).filter(|value| !value.is_empty());
        }
        let variable = format!("ETCD_{}", key.replace('-', "_").to_uppercase());
        self.environment.get(&variable).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The spellings that Go's `strconv.ParseBool` takes for true.
    fn switch(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl Settings {
    /// Returns what etcd makes of its configuration file.
    pub fn from_config_file(yaml: &str) -> Result<Self, SettingsError> {
        if yaml.trim().is_empty() {
            return Ok(Self::from(Given::default()));
        }
        let given: Option<Given> =
            serde_saphyr::from_str(yaml).map_err(|error| SettingsError::Yaml(Box::new(error)))?;
        Ok(Self::from(given.unwrap_or_default()))
    }

    /// Returns the directory of the WAL.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member/wal"))
    }
}

/// What was given; keys are those of the configuration file, which are the flags'.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Given {
    name: Option<String>,
    data_dir: Option<PathBuf>,
    wal_dir: Option<PathBuf>,
    listen_metrics_urls: Option<String>,
    listen_client_urls: Option<String>,
    advertise_client_urls: Option<String>,
    unsafe_no_fsync: Option<bool>,
    heartbeat_interval: Option<u64>,
    election_timeout: Option<u64>,
    client_transport_security: Option<GivenTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct GivenTls {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    trusted_ca_file: Option<PathBuf>,
    client_cert_auth: Option<bool>,
}

impl From<Given> for Settings {
    fn from(given: Given) -> Self {
        let name = given.name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let set = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let tls = given.client_transport_security.unwrap_or_default();
        Self {
            data_dir: set(given.data_dir).unwrap_or_else(|| format!("{name}.etcd").into()),
            wal_dir: set(given.wal_dir),
            listen_metrics_urls: urls(given.listen_metrics_urls),
            listen_client_urls: urls(given.listen_client_urls),
            advertise_client_urls: urls(given.advertise_client_urls),
            client_tls: Tls {
                cert_file: set(tls.cert_file),
                key_file: set(tls.key_file),
                client_cert_file: set(tls.client_cert_file),
                client_key_file: set(tls.client_key_file),
                trusted_ca_file: set(tls.trusted_ca_file),
                client_cert_auth: tls.client_cert_auth.unwrap_or(false),
            },
            unsafe_no_fsync: given.unsafe_no_fsync.unwrap_or(false),
            heartbeat_interval_ms: given.heartbeat_interval.unwrap_or(100),
            election_timeout_ms: given.election_timeout.unwrap_or(1000),
            name,
        }
    }
}

fn urls(list: Option<String>) -> Vec<String> {
    let list = list.unwrap_or_default();
    list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn argv(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn flags_win_over_the_environment_and_both_over_defaults() {
        let cases: [(&str, &[(&str, &str)], &str, &str, &str); 9] = [
            ("etcd", &[], "default", "default.etcd", "nothing given"),
            ("etcd --name=a", &[], "a", "a.etcd", "the data directory follows the name"),
            ("etcd -name a -data-dir /d", &[], "a", "/d", "one dash, values apart"),
            ("etcd --name a", &[("ETCD_NAME", "b")], "a", "a.etcd", "a flag wins"),
            ("etcd", &[("ETCD_NAME", "b"), ("ETCD_DATA_DIR", "/e")], "b", "/e", "variables count"),
            ("etcd", &[("ETCD_NAME", "")], "default", "default.etcd", "an empty variable is not set"),
            ("etcd --pre-vote --name a", &[], "a", "a.etcd", "a switch takes no value"),
            ("etcd --debug-of-tomorrow --name a", &[], "a", "a.etcd", "nor does one we do not know"),
            ("etcd --quota-of-tomorrow 5 --name a --name b", &[], "b", "b.etcd", "the last one wins"),
        ];
        for (line, variables, name, data_dir, why) in cases {
            let (argv, environment) = (argv(line), environment(variables));
            let settings = Source::new(&argv, &environment).settings();
            assert_eq!(
                (&*settings.name, settings.data_dir.to_str().unwrap()),
                (name, data_dir),
                "{line}: {why}"
            );
        }
    }

    #[test]
    fn every_key_is_read_from_flags() {
        let argv = argv(
            "etcd --wal-dir=/w --listen-metrics-urls http://127.0.0.1:2381 \
             --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379 \
             --advertise-client-urls=https://10.0.0.1:2379 --cert-file=/c --key-file=/k --trusted-ca-file=/a \
             --client-cert-auth --unsafe-no-fsync=true --heartbeat-interval 250 --election-timeout=2500",
        );
        let settings = Source::new(&argv, &HashMap::new()).settings();
        let expected = Settings {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: Some("/w".into()),
            listen_metrics_urls: vec!["http://127.0.0.1:2381".into()],
            listen_client_urls: vec!["https://127.0.0.1:2379".into(), "https://10.0.0.1:2379".into()],
            advertise_client_urls: vec!["https://10.0.0.1:2379".into()],
            client_tls: Tls {
                cert_file: Some("/c".into()),
                key_file: Some("/k".into()),
                client_cert_file: None,
                client_key_file: None,
                trusted_ca_file: Some("/a".into()),
                client_cert_auth: true,
            },
            unsafe_no_fsync: true,
            heartbeat_interval_ms: 250,
            election_timeout_ms: 2500,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_configuration_file_is_found_by_flag_or_variable() {
        let cases: [(&str, &[(&str, &str)], Option<&str>, &str); 4] = [
            ("etcd --config-file /f --name a", &[], Some("/f"), "by flag"),
            ("etcd --name a", &[("ETCD_CONFIG_FILE", "/g")], Some("/g"), "by variable"),
            ("etcd --config-file=/f", &[("ETCD_CONFIG_FILE", "/g")], Some("/f"), "the flag wins"),
            ("etcd --config-file=", &[], None, "an empty one is none"),
        ];
        for (line, variables, expected, why) in cases {
            let (argv, environment) = (argv(line), environment(variables));
            let source = Source::new(&argv, &environment);
            assert_eq!(source.config_file(), expected.map(Path::new), "{line}: {why}");
        }
    }

    #[test]
    fn a_configuration_file_has_the_same_keys() {
        let yaml = "name: 'b'\ndata-dir: /d\nwal-dir: ''\nlisten-client-urls: https://1.2.3.4:2379, http://[::1]:1\n\
             heartbeat-interval: 50\nelection-timeout: 500\nunsafe-no-fsync: true\nquota-backend-bytes: 0\n\
             client-transport-security:\n  cert-file: c.pem\n  key-file: k.pem\n  client-cert-auth: true\n  \
             trusted-ca-file: ca.pem\n  auto-tls: false\npeer-transport-security:\n  cert-file: p.pem\n";
        let settings = Settings::from_config_file(yaml).unwrap();
        assert_eq!(settings.name, "b");
        assert_eq!(settings.wal_path(), Path::new("/d/member/wal"), "an empty wal-dir is none");
        assert_eq!(settings.listen_client_urls, ["https://1.2.3.4:2379", "http://[::1]:1"]);
        assert_eq!((settings.heartbeat_interval_ms, settings.election_timeout_ms), (50, 500));
        assert!(settings.unsafe_no_fsync && settings.client_tls.client_cert_auth);
        assert_eq!(settings.client_tls.trusted_ca_file, Some("ca.pem".into()));
        assert_eq!(settings.client_tls.cert_file, Some("c.pem".into()), "the peers' certificate is another");
    }

    #[test]
    fn an_odd_configuration_file_is_an_error_or_all_defaults() {
        for (yaml, why) in [("", "empty"), ("# nothing\n", "only a comment"), ("name: ''\n", "an empty name")]
        {
            assert_eq!(Settings::from_config_file(yaml).unwrap().name, "default", "{why}");
        }
        for (yaml, why) in [("name: [", "no YAML"), ("heartbeat-interval: soon", "not a number")] {
            let error = Settings::from_config_file(yaml).expect_err(why);
            assert_eq!(error.to_string(), "cannot parse the configuration file");
        }
    }
}
