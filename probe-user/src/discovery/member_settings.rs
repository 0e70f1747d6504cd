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

/// Longer than any name of a host, and a bound on the labels that a process can make us carry, in characters.
const MAX_NAME: usize = 253;

/// What matters here of how etcd was set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub data_dir: PathBuf,
    /// `--wal-dir`; see [`Settings::wal_path`].
    pub wal_dir: Option<PathBuf>,
    pub listen_metrics_urls: Vec<String>,
    pub listen_client_urls: Vec<String>,
    /// `--listen-client-http-urls` (3.5.8): where they are set, [`Settings::listen_client_urls`] speak gRPC only.
    pub listen_client_http_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub client_tls: Tls,
    /// What the member shows to its peers, if clients are checked against the same authority.
    pub peer_pair: Option<Pair>,
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

/// A certificate and its key, by their paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
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
            listen_client_http_urls: text("listen-client-http-urls"),
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
                auto_tls: self.switch("auto-tls"),
            }),
            peer_transport_security: Some(GivenTls {
                cert_file: path("peer-cert-file"),
                key_file: path("peer-key-file"),
                trusted_ca_file: path("peer-trusted-ca-file"),
                ..GivenTls::default()
            }),
        })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        if let Some(value) = self.flags.get(key) {
            return Some(*value).filter(|value| !value.is_empty());
        }
        self.variable(&format!("ETCD_{}", key.replace('-', "_").to_uppercase()))
    }

    /// Returns a variable of the environment that is set.
    pub fn variable(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The spellings that Go's `strconv.ParseBool` takes for true.
    fn switch(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl Settings {
    /// Returns what etcd makes of its configuration file.
    ///
    /// # Errors
    ///
    /// When it is not YAML, or a key has a value of another type.
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
    listen_client_http_urls: Option<String>,
    advertise_client_urls: Option<String>,
    unsafe_no_fsync: Option<bool>,
    heartbeat_interval: Option<u64>,
    election_timeout: Option<u64>,
    client_transport_security: Option<GivenTls>,
    peer_transport_security: Option<GivenTls>,
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
    auto_tls: Option<bool>,
}

impl From<Given> for Settings {
    fn from(given: Given) -> Self {
        let name = given.name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let data_dir = set(given.data_dir).unwrap_or_else(|| format!("{name}.etcd").into());
        let client_tls = given.client_transport_security.unwrap_or_default().client(&data_dir);
        let peer_tls = given.peer_transport_security.unwrap_or_default();
        Self {
            wal_dir: set(given.wal_dir),
            listen_metrics_urls: urls(given.listen_metrics_urls),
            listen_client_urls: urls(given.listen_client_urls),
            listen_client_http_urls: urls(given.listen_client_http_urls),
            advertise_client_urls: urls(given.advertise_client_urls),
            peer_pair: peer_tls.pair_under(client_tls.trusted_ca_file.as_deref()),
            client_tls,
            unsafe_no_fsync: given.unsafe_no_fsync.unwrap_or(false),
            heartbeat_interval_ms: given.heartbeat_interval.unwrap_or(100),
            election_timeout_ms: given.election_timeout.unwrap_or(1000),
            data_dir,
            name: name.chars().take(MAX_NAME).collect(),
        }
    }
}

impl GivenTls {
    /// Without a certificate, and told to, etcd signs one itself (`transport.SelfCert`, 3.4 to 3.6).
    fn client(self, data_dir: &Path) -> Tls {
        let signs_itself = self.auto_tls.unwrap_or(false) && set(self.cert_file.clone()).is_none();
        let own = |file: &str| signs_itself.then(|| data_dir.join("fixtures/client").join(file));
        Tls {
            cert_file: set(self.cert_file).or_else(|| own("cert.pem")),
            key_file: set(self.key_file).or_else(|| own("key.pem")),
            client_cert_file: set(self.client_cert_file),
            client_key_file: set(self.client_key_file),
            trusted_ca_file: set(self.trusted_ca_file),
            client_cert_auth: self.client_cert_auth.unwrap_or(false),
        }
    }

    fn pair_under(self, authority: Option<&Path>) -> Option<Pair> {
        let same = set(self.trusted_ca_file).as_deref() == authority;
        let pair = Pair { certificate: set(self.cert_file)?, key: set(self.key_file)? };
        same.then_some(pair)
    }
}

fn set(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn urls(list: Option<String>) -> Vec<String> {
    let list = list.unwrap_or_default();
    list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
