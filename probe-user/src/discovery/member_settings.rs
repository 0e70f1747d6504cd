//! Settings of an etcd, from its flags, environment and configuration file, with etcd's own precedence.
//!
//! As in etcd 3.4 to 3.6 (etcdmain/config.go): a configuration file replaces flags and environment entirely.
//! Without one, a flag takes precedence over its `ETCD_*` variable, and both over the default. An empty
//! variable is not set.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Larger than any configuration of etcd; bounds the bytes that a process can cause us to read.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// In characters. Longer than any host name; bounds the labels that a process can cause us to export.
const NAME_CHARS_MAX: usize = 253;

/// The settings of an etcd that the probe uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSettings {
    pub name: String,
    pub data_dir: PathBuf,
    /// `--wal-dir`; see [`MemberSettings::wal_path`].
    pub wal_dir: Option<PathBuf>,
    pub listen_metrics_urls: Vec<String>,
    pub listen_client_urls: Vec<String>,
    /// `--listen-client-http-urls` (3.5.8): if set, [`MemberSettings::listen_client_urls`] serve only gRPC.
    pub listen_client_http_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub client_tls: Tls,
    /// The certificate that the member presents to its peers, if clients are verified against the same
    /// authority.
    pub peer_pair: Option<Pair>,
    pub unsafe_no_fsync: bool,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
}

/// TLS settings of the client port, which also apply to an `https` metrics port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// `--client-cert-file` (3.5): the certificate that etcd presents to itself, if it is not the server's.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub trusted_ca_file: Option<PathBuf>,
    pub client_cert_auth: bool,
}

/// Paths of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Settings could not be read from etcd's configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot parse the configuration file")]
    Yaml(#[source] Box<serde_saphyr::Error>),
}

/// Flags and environment that one etcd was started with.
#[derive(Debug)]
pub struct LaunchConfig<'a> {
    flags: HashMap<&'a str, &'a str>,
    environment: &'a HashMap<String, String>,
}

/// Boolean flags: in `--flag value`, `value` would be an argument, and etcd takes none.
const SWITCHES: [&str; 4] = ["unsafe-no-fsync", "client-cert-auth", "auto-tls", "pre-vote"];

impl<'a> LaunchConfig<'a> {
    /// Parses the arguments; `argv[0]` is the program.
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
                // Whether an unknown flag is boolean follows from the next argument.
                None => (flag, arguments.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
            };
            flags.insert(name, value);
        }
        Self { flags, environment }
    }

    /// Returns the configuration file. If there is one, flags and environment are ignored.
    pub fn config_file(&self) -> Option<&'a Path> {
        self.get("config-file").map(Path::new)
    }

    /// Returns the settings that etcd derives from its flags and environment.
    pub fn settings(&self) -> MemberSettings {
        let text = |key| self.get(key).map(str::to_owned);
        let path = |key| self.get(key).map(PathBuf::from);
        let milliseconds = |key| self.get(key).and_then(|value| value.parse().ok());
        MemberSettings::from(RawSettings {
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
            client_transport_security: Some(RawTls {
                cert_file: path("cert-file"),
                key_file: path("key-file"),
                client_cert_file: path("client-cert-file"),
                client_key_file: path("client-key-file"),
                trusted_ca_file: path("trusted-ca-file"),
                client_cert_auth: self.switch("client-cert-auth"),
                auto_tls: self.switch("auto-tls"),
            }),
            peer_transport_security: Some(RawTls {
                cert_file: path("peer-cert-file"),
                key_file: path("peer-key-file"),
                trusted_ca_file: path("peer-trusted-ca-file"),
                ..RawTls::default()
            }),
        })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        if let Some(value) = self.flags.get(key) {
            return Some(*value).filter(|value| !value.is_empty());
        }
        self.variable(&format!("ETCD_{}", key.replace('-', "_").to_uppercase()))
    }

    /// Returns an environment variable; `None` if it is unset or empty.
    pub fn variable(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Accepts the spellings of true in Go's `strconv.ParseBool`.
    fn switch(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl MemberSettings {
    /// Returns the settings that etcd derives from its configuration file.
    ///
    /// # Errors
    ///
    /// If it is not YAML, or the value of a key has the wrong type.
    pub fn from_config_file(yaml: &str) -> Result<Self, SettingsError> {
        if yaml.trim().is_empty() {
            return Ok(Self::from(RawSettings::default()));
        }
        let given: Option<RawSettings> =
            serde_saphyr::from_str(yaml).map_err(|error| SettingsError::Yaml(Box::new(error)))?;
        Ok(Self::from(given.unwrap_or_default()))
    }

    /// Returns the WAL directory.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member/wal"))
    }
}

/// Settings as given, before defaults. Keys are the keys of the configuration file, which are the names of
/// the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawSettings {
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
    client_transport_security: Option<RawTls>,
    peer_transport_security: Option<RawTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawTls {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    trusted_ca_file: Option<PathBuf>,
    client_cert_auth: Option<bool>,
    auto_tls: Option<bool>,
}

impl From<RawSettings> for MemberSettings {
    fn from(given: RawSettings) -> Self {
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
            name: name.chars().take(NAME_CHARS_MAX).collect(),
        }
    }
}

impl RawTls {
    /// Returns the TLS settings of the client port. With `auto-tls` and without a certificate, etcd signs one
    /// itself (`transport.SelfCert`, 3.4 to 3.6).
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
